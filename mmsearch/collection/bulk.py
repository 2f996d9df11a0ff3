"""Vectors that were made elsewhere: taken in, and all of an index given out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.collection.asking import Asking
from mmsearch.errors import (
    InvalidOption,
    MissingExtra,
    ModelUnavailable,
    PathNotFound,
    UnknownModel,
)
from mmsearch.types import Modality, Report

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder
    from mmsearch.indexing.bulk.batches import Filing
    from mmsearch.indexing.bulk.export import Exported
    from mmsearch.indexing.bulk.load import Load
    from mmsearch.indexing.bulk.stream import Chunk
    from mmsearch.storage import ListedItem
    from mmsearch.types import Progress

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where vectors come from.

    Attributes:
        model: The encoder that made them, if it was said.
        facet: What they are of.
        root: The folder of the files they were made of.
    """

    model: str | None
    facet: Modality
    root: str | os.PathLike[str] | None


class Bulk(Asking):
    """Bring your own vectors, and take them out again."""

    def add_vectors(  # noqa: PLR0913 - keywords, all optional
        self,
        vectors: Any,
        metadata: Any = None,
        *,
        model: str | None = None,
        facet: Modality = "image",
        captions: Sequence[str | Sequence[str] | None] | None = None,
        text_vectors: Any = None,
        root: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Store vectors that were made elsewhere, with what is known of each; `report` as well.

        What has the path of something that was stored before takes its place. An interruption, or
        a row that cannot be used, keeps what came before, 20,000 rows at a time.

        Args:
            vectors: (n, dim) numbers, memory-mapped if need be, or arrays of them one after the
                other; rows are brought to unit length.
            metadata: Of each row: mappings, columns as a mapping, a table of pyarrow's or a data
                frame. `path` (or `image_path`, `file`, `url`, `key`, `id`, …) names the item,
                `caption` (or `text`, …) is its text; `modality`, `width`, `height`, `taken`,
                `camera`, `latitude`, `longitude`, `seconds`, `pages` and `size` are known to
                filters; all else is metadata to filter by. Without a path items are numbered.
            model: The encoder that made the vectors. If it is to be had here, the index can be
                asked in words; of one that is not, or was not said, by vectors, by example and by
                words as they are written.
            facet: What the vectors are of: "image", "text" or "audio".
            captions: Of each row, a text, several or none, instead of those in the metadata.
            text_vectors: (n, dim) of the captions, one a row, made by the same model.
            root: A folder: rows whose path is that of a file in it are filed as that file, which
                `add` then finds unchanged.
            progress: Called with (rows done, rows in all), then with items whose words are done.

        Raises:
            InvalidOption: a row has no direction, or another number of dimensions; there are not
                as many of the one as of the other; the vectors do not fit the index.
            PathNotFound: there is no folder `root`.
            IndexBusy: another process is writing to the index.
            StorageFailed: the catalog cannot be written; what was stored before stays.
        """
        from mmsearch.indexing.bulk.matrix import length_of
        from mmsearch.indexing.bulk.stream import captioned, check_lengths, in_step

        if text_vectors is not None and facet == "text":
            raise InvalidOption("text_vectors stand beside vectors of pictures or sounds")
        check_lengths(vectors, {"metadata": metadata, "captions": captions, "text": text_vectors})
        chunks = in_step(vectors, metadata, text_vectors)
        if captions is not None:
            chunks = captioned(chunks, captions)
        source = Source(model, facet, root)
        return self._load(chunks, length_of(vectors), source, progress)

    def import_files(
        self,
        files: Files,
        *,
        metadata: Files = (),
        text_vectors: Files = (),
        model: str | None = None,
        facet: Modality = "image",
        root: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """`add_vectors` from files, which are read a part at a time.

        Args:
            files: `.npy` files of vectors, `.parquet` files with a column of them, or folders: of
                shards as clip-retrieval writes them (`img_emb`, `text_emb`, `metadata`), or of
                what `export` wrote.
            metadata: A `.parquet`, `.csv`, `.tsv` or `.jsonl` file a file of vectors, if they are
                not beside these.
            text_vectors: A `.npy` file a file of vectors.
            model: As for `add_vectors`; left out, what an export says of itself.
            facet: What the vectors are of.
            root: Where the files are that they were made of.
            progress: Told of rows.

        Raises:
            PathNotFound: there is no such file.
            InvalidOption: a file cannot be used, or two do not have as many rows.
            MissingExtra: `.parquet` needs a package that is not installed.
        """
        from mmsearch.indexing.bulk.shards import chunks_of, made_by, shards_in

        shards = shards_in(_names(files), _names(metadata), _names(text_vectors))
        if model is None:
            model = self._model_of(made_by(shards))
        total = sum(shard.rows for shard in shards)
        source = Source(model, facet, root)
        return self._load(chunks_of(shards), total, source, progress)

    def export(
        self,
        dest: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002 - what everybody calls it
        where: Any = None,
        vectors: bool = True,
        space: str | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Exported:
        """Write all that is known of the items, and their vectors, to files others can read.

        It is of one moment, whoever writes meanwhile, and comes to be whole or not at all.
        `import_files` takes it in again.

        Args:
            dest: A file, for "parquet"; a folder, for "npy": `vectors.npy` and `items.jsonl`.
            format: Which; left out, "parquet" unless `dest` is a folder.
            where: Only items that pass, as for `search`.
            vectors: Whether the vectors are written too.
            space: The model whose vectors are written; left out, the preferred one.
            overwrite: Put the files in the place of those that are there.
            progress: Called with (items done, items in all).

        Raises:
            InvalidOption: there is no such format or model; there is a file already.
            MissingExtra: "parquet" needs a package that is not installed.
            StorageFailed: the files cannot be written.
        """
        from mmsearch.indexing.bulk.export import Export

        return Export(self._catalog, self._spaces(), space).write(
            os.fspath(dest),
            format,
            where,
            vectors=vectors,
            overwrite=overwrite,
            progress=progress,
        )

    def listed(self, *, where: Any = None, limit: int | None = None) -> Iterator[ListedItem]:
        """What is stored, in order of id, without texts or vectors: for millions of items.

        Args:
            where: Only items that pass, as for `search`.
            limit: At most so many.
        """
        from mmsearch.filters import parse_where

        wanted = parse_where(where)
        ids = self._catalog.filters.matching(wanted) if wanted else None
        return self._catalog.items.listed(ids, limit)

    # ------------------------------------------------------------------ parts of the above

    def _load(
        self,
        chunks: Iterable[Chunk],
        total: int | None,
        source: Source,
        progress: Progress | None,
    ) -> Report:
        from mmsearch.indexing.bulk.load import Load, Spaces

        if source.facet not in get_args(Modality):
            raise InvalidOption(f"a facet is one of image, text, audio, not {source.facet!r}")
        began = time.monotonic()
        self.report = report = Report()
        encoder = self._encoder_named(source.model, report)
        with self.writing("importing"):
            spaces = Spaces(self._catalog, self._encoder_pool, source.model, encoder)
            filing = self._filing(source.root)
            held = self._expect_captions(encoder)
            load = Load(
                self._catalog, self._query_banks, spaces, filing, facet=source.facet, report=report
            )
            try:
                load.run(chunks, total, progress)
                self._finish(load, encoder, held, progress)
            except KeyboardInterrupt:
                report.interrupted = True
                raise
            finally:
                report.seconds = time.monotonic() - began
        return report

    def _model_of(self, said: tuple[str, str] | None) -> str | None:
        """The model that an export says made its vectors, unless another has its name here."""
        from mmsearch.encoders.models import load_encoder

        if said is None:
            return None
        name, fingerprint = said
        try:
            here = load_encoder(name, self._how, strict=False).fingerprint
        except (UnknownModel, ModelUnavailable, MissingExtra):
            return name
        return name if here == fingerprint else None

    def _encoder_named(self, name: str | None, report: Report) -> Encoder | None:
        """The encoder that made the vectors, if it is said and to be had."""
        from mmsearch.encoders.models import load_encoder

        if name is None:
            return None
        try:
            return load_encoder(name, self._how, strict=False)
        except (UnknownModel, ModelUnavailable, MissingExtra) as error:
            report.warnings.append(
                f"{error}; without it the vectors can be searched by example, by vectors and by "
                "words as they are written"
            )
            return None

    def _filing(self, root: str | os.PathLike[str] | None) -> Filing:
        from mmsearch.indexing.bulk.batches import Filing

        folder = None
        if root is not None:
            place = os.path.realpath(os.fspath(root))
            if not os.path.isdir(place):
                raise PathNotFound(f"there is no folder {os.fspath(root)!r}")
            self._catalog.sources.add(place, os.stat(place).st_dev)
            folder = self._catalog.sources.of(place)
        return Filing(self._catalog.sources.imported(), self._catalog.loader.next_numbers, folder)

    def _expect_captions(self, encoder: Encoder | None) -> str:
        """Note that captions may lack vectors, should this be killed; returns what was noted."""
        from mmsearch.indexing.run import INCOMPLETE

        held = self._catalog.settings.get(INCOMPLETE) or ""
        if encoder is not None and "text" in encoder.modalities:
            self._catalog.settings.set(INCOMPLETE, "yes")
        return held

    def _finish(
        self, load: Load, encoder: Encoder | None, held: str, progress: Progress | None
    ) -> None:
        """Bring up what follows from what was stored: hubs, words, FAISS indexes."""
        from mmsearch.indexing.run import INCOMPLETE

        self._wanted = []  # the index has the model it was given, not that of a new one
        space = load.space
        if encoder is not None and space is not None:
            if not load.answer():
                load.report.warnings.append(
                    f"{space.name!r} answers once it has everything else: run `mmsearch index`"
                )
            if self._query_banks.bank(space) is None:
                self._query_banks.update(self._encoder_pool.encoder_of)
            if "text" in encoder.modalities and not self._catalog.vectors.any_missing(
                space, "text", ()
            ):
                self._catalog.settings.set(INCOMPLETE, held)  # else the next `add` encodes captions
        self._catalog.words.refresh(progress=progress)
        self._indexes.rebuild(self._present())
        load.report.warnings += self._keep_backup()


def _names(files: Files) -> list[str]:
    several = [files] if isinstance(files, (str, os.PathLike)) else files
    return [os.fspath(file) for file in several]
