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

from mmsearch.encoders import load_encoder
from mmsearch.errors import IndexNotFound, IndexUnusable, InvalidOption, InvalidQuery, PathNotFound
from mmsearch.home import index_folder
from mmsearch.types import Failure, Hit, Item, Query, Report

if TYPE_CHECKING:
    from mmsearch.catalog import Catalog, Space
    from mmsearch.ingest import Progress
    from mmsearch.search import Target
    from mmsearch.types import Encoder, Vectors
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
        model: The encoder's name; None takes the one that the index was built with.
        create: Make the index if there is none.

    Raises:
        IndexNotFound: there is none and `create` is False.
        IndexUnusable: the catalog is damaged, newer than this version, or of another model.
        UnknownModel: no encoder has this name.
    """

    def __init__(self, folder: Path, *, model: str | None = None, create: bool = False) -> None:
        self.folder = folder
        self.report: Report | None = None
        """Of the last `add` on this object."""
        path = folder / "catalog.db"
        exists = path.is_file() and path.stat().st_size > 0
        if not create and not exists:
            raise IndexNotFound(
                f"there is no index at {folder}: make one with `mmsearch index FOLDER`"
            )
        self._encoder: Encoder | None = None
        if not exists:
            self._encoder = load_encoder(model or "auto")  # a wrong name leaves no empty index
            _make(folder)
        from mmsearch.catalog import Catalog  # SQLAlchemy takes longer to import than all of us

        self._catalog = Catalog(path)
        self._indexes: dict[str, tuple[int, FaissIndex]] = {}
        try:
            self._space = self._find_space(model)
        except Exception:
            self.close()
            raise

    def _find_space(self, model: str | None) -> Space | None:
        spaces = self._catalog.spaces()
        if not spaces:
            self._encoder = self._encoder or load_encoder(model or "auto")
            return None
        space = spaces[-1]
        if model not in (None, "auto", space.name):
            raise IndexUnusable(
                f"{self.folder} was built with the model {space.name!r}: leave --model out, or "
                f"build another index for {model!r} with -i NAME"
            )
        return space

    @property
    def encoder(self) -> Encoder:
        """The encoder of this index, loaded when first needed."""
        if self._encoder is None:
            self._encoder = load_encoder(self._space.name if self._space else "auto")
        if self._space is not None and self._encoder.fingerprint != self._space.fingerprint:
            raise IndexUnusable(
                f"{self.folder} was built with other weights of {self._space.name!r} than are "
                "installed: install that version of mmsearch again, or delete the folder and index "
                "again"
            )
        return self._encoder

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
        """What is stored: folder, model, dim, sources, items, vectors, failures, bytes."""
        space = self._space
        counts = self._catalog.counts()
        return {
            "index": str(self.folder),
            "model": space.name if space else None,
            "fingerprint": space.fingerprint if space else None,
            "dim": space.dim if space else None,
            "sources": sorted(path for _, path in self._catalog.sources()),
            "items": counts["items"],
            "vectors": counts["vectors"],
            "failures": counts["failures"]["files"],
            "bytes": sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file()),
        }

    # ------------------------------------------------------------------ putting in, taking out

    def add(
        self,
        paths: Paths,
        *,
        captions: str | os.PathLike[str] | None = None,
        exclude: str | Sequence[str] = (),
        include_hidden: bool = False,
        max_megapixels: float = 200.0,
        progress: Progress | None = None,
    ) -> Report:
        """Bring folders or files up to date in the index; `report` holds the result as well.

        Args:
            paths: Folders (searched to any depth) and files.
            captions: A tsv, csv or jsonl file of file names and captions.
            exclude: Shell patterns of names, or of paths from the folder given, to leave out.
            include_hidden: Also files and folders that begin with a dot.
            max_megapixels: Larger pictures are refused.
            progress: Called with (files done, files in all or None).

        Raises:
            PathNotFound: one of `paths`, or `captions`, does not exist.
            InvalidOption: `max_megapixels` is not above 0.
            InvalidCaptions: the captions file cannot be parsed.
            StorageFailed: the catalog cannot be written, a full disk say; earlier batches stay.
            KeyboardInterrupt: as it came; what was stored stays, and `report` says what it is.
        """
        from mmsearch.ingest import Ingest
        from mmsearch.media.captions import CaptionBook
        from mmsearch.scan import Options, scopes_of

        given = _existing(paths)
        if not max_megapixels > 0:
            raise InvalidOption(f"max_megapixels is a size above 0, not {max_megapixels}")
        book = None if captions is None else CaptionBook(os.fspath(captions))
        encoder = self.encoder
        self._space = self._catalog.add_space(encoder.name, encoder.fingerprint, encoder.dim)
        run = Ingest(
            self._catalog,
            self._space,
            encoder,
            options=Options(
                [exclude] if isinstance(exclude, str) else list(exclude),
                include_hidden,
                max_megapixels,
            ),
            book=book,
            progress=progress,
        )
        self.report = run.report
        run.run(scopes_of(self._catalog, given))
        for facet in self._catalog.facets(self._space):
            self._index(facet)
        return self.report

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
        if not gone and not any(below == "" for _, below in places):
            raise PathNotFound(f"the index holds nothing at {os.fspath(path)!r}")
        return gone

    # ------------------------------------------------------------------ searching

    def search(self, query: str | Query, *, k: int = 10, target: Target = None) -> list[Hit]:
        """The k best hits for one query, best first; fewer when the collection is smaller.

        Args:
            query: Words, or `Query.image(...)`.
            k: How many, at least 1.
            target: The facet to search in, or several, fused: "image", "text", "audio". Left out,
                pictures if the index has any.

        Raises:
            InvalidQuery: the query is empty or k is below 1.
            UnknownTarget: there is no such facet.
            PathNotFound, UnreadableFile: the example file cannot be used.
        """
        return self.search_many([query], k=k, target=target)[0]

    def search_many(
        self, queries: Sequence[str | Query], *, k: int = 10, target: Target = None
    ) -> list[list[Hit]]:
        """`search` for each query, encoded in batches; a list of hits a query."""
        from mmsearch.search import encode_queries, targets_of

        _check_k(k)
        if isinstance(queries, str):
            raise InvalidQuery("search_many takes a list of queries; for one there is search")
        queries = list(queries)
        facets = targets_of(target, self._facets())
        if self._indexes.keys() >= set(facets):
            vectors = encode_queries(self.encoder, queries)
        else:
            # read the index while the model is read: the two are half of a cold query
            reading = threading.Thread(target=self._warm, args=(facets,))
            reading.start()
            try:
                vectors = encode_queries(self.encoder, queries)
            finally:
                reading.join()
        return self.search_vectors(vectors, k=k, target=target)

    def search_vectors(
        self, queries: Vectors, *, k: int = 10, target: Target = None
    ) -> list[list[Hit]]:
        """`search` for queries that are encoded already: unit vectors (n, dim) of `encoder`."""
        _check_k(k)
        return [self._search_vector(vector, k, target) for vector in queries]

    def _search_vector(
        self, vector: Vectors, k: int, target: Target, without: int | None = None
    ) -> list[Hit]:
        from mmsearch.search import hits, rank, targets_of

        facets = targets_of(target, self._facets())
        if self._space is None or not facets:
            return []
        fused, rankings = rank(vector, self._index, facets, k, without)
        return hits(self._catalog, self._space, vector, fused, rankings)

    def similar(
        self, path: str | os.PathLike[str], *, k: int = 10, target: Target = None
    ) -> list[Hit]:
        """What is like a file, the file itself left out; it need not be in the index."""
        from mmsearch.similar import vector_of_file

        _check_k(k)
        own, vector = vector_of_file(self._catalog, self._space, self.encoder, os.fspath(path))
        return self._search_vector(vector, k, target, without=own)

    def _facets(self) -> list[str]:
        if self._space is None:  # another process may have filled the index meanwhile
            self._space = self._find_space(None)
        return self._catalog.facets(self._space) if self._space else []

    def _warm(self, facets: Sequence[str]) -> None:
        """Read indexes; what goes wrong comes up again when they are needed."""
        with suppress(Exception):
            for facet in facets:
                self._index(facet)

    def _index(self, facet: str) -> FaissIndex:
        """The facet's FAISS index: from memory, else from its cache, else from the catalog."""
        catalog_id, revision = self._catalog.stamp()
        held = self._indexes.get(facet)
        if held is None or held[0] != revision:
            assert self._space is not None
            from mmsearch.cache import cached_index

            place = self.folder / "cache"
            stamp = f"{catalog_id}-{revision}"
            held = revision, cached_index(place, stamp, self._catalog, self._space, facet)
            self._indexes[facet] = held
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


def _existing(paths: Paths) -> list[str]:
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


def open_collection(index: str | os.PathLike[str] | None = None) -> Collection:
    """An existing index, by name or folder; see `mmsearch.home.index_folder`.

    Raises:
        IndexNotFound: there is none.
    """
    return Collection(index_folder(index))


def collection_for(
    needed: Sequence[str | os.PathLike[str]],
    into: str | os.PathLike[str] | None = None,
    *,
    model: str = "auto",
) -> Collection:
    """The index that files are to go into, made if need be; nothing is indexed yet.

    Raises:
        PathNotFound: one of the `needed` paths does not exist; then no index is made.
    """
    _existing(needed)
    return Collection(index_folder(into), model=model, create=True)


def index_paths(
    paths: Paths,
    into: str | os.PathLike[str] | None = None,
    *,
    model: str = "auto",
    **options: Any,
) -> Collection:
    """Build an index of folders and files, or bring it up to date; returns it open.

    Args:
        paths: Folders (searched to any depth) and files.
        into: The index, by name or folder.
        model: The encoder's name.
        options: As `Collection.add` takes them.
    """
    given = _existing(paths)
    collection = collection_for(given, into, model=model)
    try:
        collection.add(given, **options)
    except BaseException:
        collection.close()
        raise
    return collection
