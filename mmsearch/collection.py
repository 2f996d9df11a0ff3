"""One index folder: what the package's users hold in their hands."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mmsearch.encoders import how_for, load_encoder, runtime_of
from mmsearch.errors import IndexNotFound, IndexUnusable, InvalidQuery, PathNotFound
from mmsearch.types import Failure, Hit, Item, Modality, Query, Report

if TYPE_CHECKING:
    from mmsearch.catalog import Catalog, Space
    from mmsearch.queries import Ask, Combine
    from mmsearch.search import Search, Target
    from mmsearch.types import Encoder, Progress, Runtime, Vectors
    from mmsearch.vectors import FaissIndex

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Items:
    """Everything in a collection: `len()` of it, or one item after the other in order of id."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def __len__(self) -> int:
        return len(self._catalog)

    def __iter__(self) -> Iterator[Item]:
        return self._catalog.all_items()


class Collection:
    """An index folder, open; also a context manager.

    Args:
        folder: Where it is, or is to be made.
        model: The encoder's name, or several; None and "auto" take those that the index was built
            with. Another one than those is filled at the next `add`, and answers from then on.
        how: What encoders are to run on.
        create: Make the index if there is none.

    Raises:
        IndexNotFound: there is none and `create` is False.
        IndexUnusable: the catalog is damaged, or newer than this version.
        UnknownModel: no encoder has this name.
        ModelUnavailable: its weights are not on this machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: str | Sequence[str] | None = None,
        how: Runtime | None = None,
        create: bool = False,
    ) -> None:
        self.folder = folder
        self.report: Report | None = None
        """Of the last `add` on this object."""
        self._how = how or runtime_of()
        path = folder / "catalog.db"
        exists = path.is_file() and path.stat().st_size > 0
        if not create and not exists:
            raise IndexNotFound(
                f"there is no index at {folder}: make one with `mmsearch index FOLDER`"
            )
        names = [model] if isinstance(model, str) else list(model or [])
        self._advice: list[str] = []
        # loaded first: a wrong name leaves no empty index
        named = [name for name in names if name != "auto"]
        one = len(named) == 1  # of several, each takes what it can of `how`
        self._wanted = [
            load_encoder(name, self._how if one else how_for(name, self._how)) for name in named
        ]
        if not exists:
            self._wanted = self._wanted or self._chosen()
            _make(folder)
        from mmsearch.catalog import Catalog  # SQLAlchemy takes longer to import than all of us
        from mmsearch.roster import Roster

        self._catalog = Catalog(path)
        self._roster = Roster(self._catalog, self._how)
        self._indexes: dict[tuple[int, str], tuple[int, FaissIndex]] = {}
        if exists and not self._wanted and not self._catalog.spaces():
            self._wanted = self._chosen()

    def _chosen(self) -> list[Encoder]:
        """The encoders of a new index that was given none; `mini` hears if the other does not."""
        from mmsearch.encoders import choose

        name, advice = choose()
        if advice:
            self._advice.append(advice)
        best = load_encoder(name, how_for(name, self._how))
        hears = "audio" in best.modalities or name.partition(":")[0] not in ("clip",)
        return [best] if hears else [load_encoder("mini"), best]

    @property
    def encoder(self) -> Encoder:
        """The preferred encoder of this index, loaded when first needed."""
        spaces = self._spaces()
        if spaces:
            return self._roster.encoder_of(spaces[0])
        if not self._wanted:
            raise IndexUnusable(f"{self.folder} has no model yet: fill it with `mmsearch index`")
        return self._wanted[-1]

    def _spaces(self) -> list[Space]:
        """The spaces that can answer, the preferred one first."""
        return [space for space in self._catalog.spaces() if space.keeps]

    def __len__(self) -> int:
        return len(self._catalog)

    @property
    def items(self) -> Items:
        """Everything stored, in order of id."""
        return Items(self._catalog)

    @property
    def failures(self) -> list[Failure]:
        """Files that could not be used, from all runs, by path."""
        return self._catalog.failures()

    def status(self) -> dict[str, Any]:
        """What is stored: folder, models, sources, items, vectors, failures, bytes."""
        from mmsearch.lanes import served

        spaces = self._catalog.spaces()
        answering = served(spaces)
        first = next((space for space in spaces if space.id in answering), None)
        counts = self._catalog.counts()
        models = [
            {
                "name": space.name,
                "fingerprint": space.fingerprint,
                "dim": space.dim,
                "answers": sorted(answering.get(space.id, ())),
                "fills": sorted(space.fills),
                "vectors": counts["vectors"].get(space.id, {}),
            }
            for space in spaces
        ]
        return {
            "index": str(self.folder),
            "model": first.name if first else None,
            "fingerprint": first.fingerprint if first else None,
            "dim": first.dim if first else None,
            "models": models,
            "sources": sorted(path for _, path in self._catalog.sources()),
            "items": counts["items"],
            "vectors": _answering(models),
            "failures": counts["failures"],
            "bytes": sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file()),
        }

    # ------------------------------------------------------------------ putting in, taking out

    def add(  # noqa: PLR0913 - keywords, all optional
        self,
        paths: Paths | None = None,
        *,
        captions: str | os.PathLike[str] | None = None,
        exclude: str | Sequence[str] = (),
        include_hidden: bool = False,
        max_megapixels: float = 200.0,
        video: bool | None = None,
        pdf: bool | None = None,
        ocr: bool | None = None,
        transcribe: bool | None = None,
        whisper: str | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Bring folders or files up to date in the index; `report` holds the result as well.

        Args:
            paths: Folders (searched to any depth) and files; left out, all that was ever indexed.
            captions: A tsv, csv or jsonl file of file names and captions.
            exclude: Shell patterns of names, or of paths from the folder given, to leave out; kept
                with the path, like the next, for when no paths are given.
            include_hidden: Also files and folders that begin with a dot.
            max_megapixels: Larger pictures are refused.
            video: Whether to take in videos. Of this and the next three, None is as last time, and
                at first not.
            pdf: Whether to take in PDFs.
            ocr: Whether to read the writing in pictures.
            transcribe: Whether to write down what is said in sounds and videos.
            whisper: The model that does: a size ("base"), a repository or a folder; remembered.
            progress: Called with (files done, files in all or None).

        Raises:
            PathNotFound: one of `paths`, or `captions`, does not exist.
            InvalidOption: `max_megapixels` is not above 0.
            InvalidCaptions: the captions file cannot be parsed.
            MissingExtra: packages that an option needs are not installed.
            ModelUnavailable: there is no model to transcribe with.
            StorageFailed: the catalog cannot be written, a full disk say; earlier batches stay.
            KeyboardInterrupt: as it came; what was stored stays, and `report` says what it is.
        """
        from mmsearch.contents import Options
        from mmsearch.media.captions import CaptionBook
        from mmsearch.scan import known_scopes, scopes_of
        from mmsearch.update import Reads, Update, check_megapixels, options_for

        given = None if paths is None else existing(paths)
        patterns = [exclude] if isinstance(exclude, str) else list(exclude)
        options = Options(max_megapixels=check_megapixels(max_megapixels))
        book = None if captions is None else CaptionBook(os.fspath(captions))
        settled = Reads(video, pdf, ocr, transcribe, whisper).settle(self._catalog)
        self._roster.want(self._wanted)
        self._wanted = []
        run = Update(
            self._catalog,
            self._roster.lanes,
            lambda lanes: options_for(options, lanes, settled, captions=book is not None),
            book=book,
            progress=progress,
        )
        self.report = run.report
        self.report.warnings += [*self._advice, *settled.warnings, *self._roster.warnings]
        self._advice = []
        if given is None and not self._catalog.asked() and not len(self._catalog):
            raise PathNotFound("nothing was indexed yet: say what, `mmsearch index FOLDER`")
        if given is None:
            scopes = known_scopes(self._catalog)
            if not self._catalog.asked() and len(self._catalog):
                self.report.warnings.append(
                    "an index of mmsearch 0.1.0 did not keep what was asked for: name your folders "
                    "once more, `mmsearch index FOLDER...`"
                )
        else:
            hidden = include_hidden
            scopes = scopes_of(self._catalog, given, patterns, include_hidden=hidden)
        run.run(scopes)
        for space, facets in self._present():
            for facet in facets:
                self._index(space, facet)
        return self.report

    def drop_space(self, model: str) -> None:
        """Delete the vectors of one of several models.

        Raises:
            InvalidOption: the index has none of this name, or no other to answer instead.
        """
        for space in self._roster.drop(model):
            for file in (self.folder / "cache").glob(f"*-{space.id}-*"):
                with suppress(OSError):
                    file.unlink()
        self._wanted = [encoder for encoder in self._wanted if encoder.name != model]
        self._indexes = {}
        self._catalog.shrink()

    def remove(self, path: str | os.PathLike[str]) -> int:
        """Take a file, or all of a folder, out of the index; the disk is not touched.

        Returns:
            How many items went.

        Raises:
            PathNotFound: the index holds nothing there.
        """
        given = os.path.abspath(os.fspath(path))
        whole = os.path.realpath(given)
        parent = os.path.join(os.path.realpath(os.path.dirname(given)), os.path.basename(given))
        places = [
            (source_id, "")
            for source_id, root in self._catalog.sources()
            if root.startswith(whole.rstrip(os.sep) + os.sep)
        ]
        found = map(self._catalog.source_of, dict.fromkeys((whole, parent)))
        places += [(source[0], source[2]) for source in found if source is not None]
        gone = sum(self._catalog.remove_below(source_id, below) for source_id, below in places)
        for place in dict.fromkeys((whole, parent)):
            self._catalog.forget_asked(place)
        if not gone and not any(below == "" for _, below in places):
            raise PathNotFound(f"the index holds nothing at {os.fspath(path)!r}")
        return gone

    # ------------------------------------------------------------------ searching

    def search(
        self,
        query: str | Query,
        *,
        k: int = 10,
        target: Target = None,
        combine: Combine = "early",
        spans: bool = False,
    ) -> list[Hit]:
        """The k best hits for one query, best first; fewer when the collection is smaller.

        Args:
            query: Words, or `Query.image(...)`, or several: `Query.text("a dog") -
                Query.text("snow")`.
            k: How many, at least 1.
            target: The facet to search in, or several, fused: "image", "text", "audio". Left out,
                pictures if the index has any.
            combine: Whether the parts' vectors are added up ("early"), or each part's ranking is
                made on its own and then fused ("late").
            spans: Whether each stretch of a file that matches is a hit, not its best alone.

        Raises:
            InvalidQuery: the query is empty or k is below 1.
            UnknownTarget: there is no such facet.
            UnsupportedModality: none of the index's models takes one of the parts.
            PathNotFound, UnreadableFile: the example file cannot be used.
        """
        return self.search_many([query], k=k, target=target, combine=combine, spans=spans)[0]

    def search_many(
        self,
        queries: Sequence[str | Query],
        *,
        k: int = 10,
        target: Target = None,
        combine: Combine = "early",
        spans: bool = False,
    ) -> list[list[Hit]]:
        """`search` for each query, encoded in batches; a list of hits a query."""
        from mmsearch.queries import parts_of, plan
        from mmsearch.search import encode_asks, targets_of

        _check_k(k)
        if isinstance(queries, str):
            raise InvalidQuery("search_many takes a list of queries; for one there is search")
        pairs = self._present()
        present = {space.id: facets for space, facets in pairs}
        spaces = [space for space, _ in pairs]
        there = {facet for facets in present.values() for facet in facets}
        asks = []
        for query in queries:
            asked = [part.modality for part in parts_of(query)]
            asks.append(plan(query, targets_of(target, there, asked), combine, spaces, present))
        reading = self._warming([ask for several in asks for ask in several])
        try:
            searches = encode_asks(asks, self._roster.encoder_of, self._index, self._catalog)
        finally:
            if reading is not None:
                reading.join()
        return [self._hits(several, k, spans=spans) for several in searches]

    def search_vectors(
        self, queries: Vectors, *, k: int = 10, target: Target = None, spans: bool = False
    ) -> list[list[Hit]]:
        """`search` for queries that are encoded already: unit vectors (n, dim) of `encoder`."""
        from mmsearch.queries import checked_vectors
        from mmsearch.search import Search, targets_of

        _check_k(k)
        pairs = self._present()
        facets = targets_of(target, pairs[0][1] if pairs else (), ())
        if not pairs:
            return [[] for _ in queries]
        space, there = pairs[0]
        return [
            self._hits(
                [Search(facet, space, vector) for facet in facets if facet in there],
                k,
                spans=spans,
            )
            for vector in checked_vectors(queries, space.dim)
        ]

    def similar(
        self,
        path: str | os.PathLike[str],
        *,
        k: int = 10,
        target: Target = None,
        spans: bool = False,
    ) -> list[Hit]:
        """What is like a file, the file itself left out; it need not be in the index."""
        from mmsearch.search import search_of, targets_of
        from mmsearch.similar import Example

        _check_k(k)
        pairs = self._present()
        present = {space.id: facets for space, facets in pairs}
        spaces = [space for space, _ in pairs]
        there = {facet for facets in present.values() for facet in facets}
        example = Example(self._catalog, os.fspath(path), spaces)
        asks = example.asks(targets_of(target, there, example.facets[:1]), spaces, present)
        vectors = [example.vector(ask, self._roster.encoder_of) for ask in asks]
        searches = [
            search_of(ask, vector, self._index, self._catalog)
            for ask, vector in zip(asks, vectors, strict=True)
        ]
        return self._hits(searches, k, spans=spans, without=example.own)

    def _hits(
        self, searches: Sequence[Search], k: int, *, spans: bool, without: int | None = None
    ) -> list[Hit]:
        from mmsearch.search import best_hits

        return best_hits(self._catalog, searches, self._index, k, spans=spans, without=without)

    def _present(self) -> list[tuple[Space, list[Modality]]]:
        """The spaces that can answer, the preferred one first, and the facets they hold."""
        return [
            (space, [facet for facet in self._catalog.facets(space) if facet in space.keeps])
            for space in self._spaces()
        ]

    def _warming(self, asks: Sequence[Ask]) -> threading.Thread | None:
        """Reads indexes while the model is read: the two are half of a cold query."""
        wanted = {(ask.space.id, ask.facet): ask for ask in asks}
        if self._indexes.keys() >= wanted.keys():
            return None

        def read() -> None:
            with suppress(Exception):  # what goes wrong comes up again when they are needed
                for ask in wanted.values():
                    self._index(ask.space, ask.facet)

        reading = threading.Thread(target=read)
        reading.start()
        return reading

    def _index(self, space: Space, facet: str) -> FaissIndex:
        """A facet's FAISS index: from memory, else from its cache, else from the catalog."""
        catalog_id, revision = self._catalog.stamp()
        held = self._indexes.get((space.id, facet))
        if held is None or held[0] != revision:
            from mmsearch.cache import cached_index

            place = self.folder / "cache"
            stamp = f"{catalog_id}-{revision}"
            held = revision, cached_index(place, stamp, self._catalog, space, facet)
            self._indexes[space.id, facet] = held
        return held[1]

    # ------------------------------------------------------------------ closing

    def close(self) -> None:
        """Let go of the catalog's file; calling it twice does no harm."""
        self._catalog.close()
        self._indexes = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_k(k: int) -> None:
    try:
        enough = operator.index(k) >= 1
    except TypeError:
        enough = False
    if not enough:
        raise InvalidQuery(f"k is how many hits to give, a whole number of at least 1, not {k!r}")


def existing(paths: Paths) -> list[str]:
    """Paths as strings.

    Raises:
        PathNotFound: there is nothing at one of them.
    """
    several = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else paths
    given = [os.fsdecode(path) for path in several]
    for path in given:
        if not os.path.exists(path):
            where = "" if os.path.isabs(path) else f" in {os.getcwd()}"
            raise PathNotFound(f"there is no file or folder {path!r}{where}")
    return given


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IndexUnusable(f"no index can be made at {folder}: {error.strerror}") from error


def _answering(models: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many vectors there are of each facet, in the model that answers for it."""
    found: dict[str, int] = {}
    for model in models:
        for facet, number in model["vectors"].items():
            if facet in model["answers"]:
                found.setdefault(facet, number)
    return found
