"""One import of vectors that were made elsewhere, and what is derived from what is stored."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from mmsearch.encoders import Encoder
from mmsearch.encoders.models import load_encoder
from mmsearch.errors import (
    InvalidOption,
    MissingExtra,
    ModelUnavailable,
    PathNotFound,
    UnknownModel,
)
from mmsearch.indexing.bulk.batches import Filing
from mmsearch.indexing.bulk.load import Load, Spaces
from mmsearch.indexing.bulk.shards import Shard, made_by, shards_in
from mmsearch.indexing.bulk.stream import Chunk, captioned, check_lengths, in_step
from mmsearch.indexing.run import INCOMPLETE
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.types import Modality, Progress, Report

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ImportRun:
    """Imports vectors into an index, once.

    Args:
        index: The index.
        model: The encoder that made the vectors, if known.
        modality: What the vectors are made of.
        root: The folder of the files that they were made of, if any.

    Attributes:
        report: What was done; right at every moment, also after an interruption.

    Raises:
        InvalidOption: there is no such modality.
    """

    def __init__(
        self,
        index: OpenIndex,
        model: str | None,
        modality: Modality,
        root: str | os.PathLike[str] | None,
    ) -> None:
        if modality not in get_args(Modality):
            raise InvalidOption(f"a facet is one of image, text, audio, not {modality!r}")
        self._index = index
        self._model = model
        self._modality = modality
        self._root = root
        self.report = Report()

    def run(self, chunks: Iterable[Chunk], total: int | None, progress: Progress | None) -> None:
        """Store chunks of vectors, then bring up hubs, words and vector indexes.

        Args:
            chunks: The vectors, and what is known of each.
            total: How many rows there are, if known.
            progress: Called with (rows done, rows in all), then with items whose words are done.
        """
        index, began = self._index, time.monotonic()
        encoder = self._encoder()
        with index.writing("importing"):
            load = Load(
                index.store,
                index.query_banks,
                Spaces(index.store, index.encoders, self._model, encoder),
                self._filing(),
                facet=self._modality,
                report=self.report,
            )
            incomplete = self._expect_captions(encoder)
            try:
                load.run(chunks, total, progress)
                self._derive(load, encoder, incomplete, progress)
            except KeyboardInterrupt:
                self.report.interrupted = True
                raise
            finally:
                self.report.seconds = time.monotonic() - began

    def _encoder(self) -> Encoder | None:
        """The encoder that made the vectors, if it is known and can be loaded here."""
        if self._model is None:
            return None
        try:
            return load_encoder(self._model, self._index.runtime, strict=False)
        except (UnknownModel, ModelUnavailable, MissingExtra) as error:
            self.report.warnings.append(
                f"{error}; without it the vectors can be searched by example, by vectors and by "
                "words as they are written"
            )
            return None

    def _filing(self) -> Filing:
        store, folder = self._index.store, None
        if self._root is not None:
            place = os.path.realpath(os.fspath(self._root))
            if not os.path.isdir(place):
                raise PathNotFound(f"there is no folder {os.fspath(self._root)!r}")
            store.sources.add(place, os.stat(place).st_dev)
            folder = store.sources.of(place)
        return Filing(store.sources.imported(), store.loader.next_numbers, folder)

    def _expect_captions(self, encoder: Encoder | None) -> str:
        """Mark the store as incomplete while captions may lack vectors; returns the mark before."""
        settings = self._index.store.settings
        before = settings.get(INCOMPLETE) or ""
        if encoder is not None and "text" in encoder.modalities:
            settings.set(INCOMPLETE, "yes")
        return before

    def _derive(
        self, load: Load, encoder: Encoder | None, incomplete: str, progress: Progress | None
    ) -> None:
        """Bring hubs, words, vector indexes and the backup in line with what is stored."""
        index, store, space = self._index, self._index.store, load.space
        index.encoders.requested = []  # the index has this model now, not that of a new index
        if encoder is not None and space is not None:
            if not load.answer():
                self.report.warnings.append(
                    f"{space.name!r} answers once it has everything else: run `mmsearch index`"
                )
            if index.query_banks.bank(space) is None:
                index.query_banks.update(index.encoder)
            if "text" in encoder.modalities and not store.vectors.any_missing(space, "text", ()):
                store.settings.set(INCOMPLETE, incomplete)  # else the next run encodes captions
        store.words.refresh(progress=progress)
        index.vector_indexes.rebuild(index.serving())
        self.report.warnings += index.keep_backup()


def array_chunks(
    vectors: Any,
    metadata: Any,
    captions: Sequence[str | Sequence[str] | None] | None,
    text_vectors: Any,
) -> Iterator[Chunk]:
    """Arrays of vectors with what is known of each row, in chunks.

    Args:
        vectors: (n, dim) numbers, or arrays of them one after the other.
        metadata: Of each row, or None; see `Collection.add_vectors`.
        captions: Of each row, or None.
        text_vectors: (n, dim) of the captions, or None.

    Raises:
        InvalidOption: they do not have the same number of rows.
    """
    check_lengths(vectors, {"metadata": metadata, "captions": captions, "text": text_vectors})
    chunks = in_step(vectors, metadata, text_vectors)
    return chunks if captions is None else captioned(chunks, captions)


def file_shards(files: Files, metadata: Files, text_vectors: Files) -> list[Shard]:
    """The shards of vectors in files; see `Collection.import_files`."""
    return shards_in(_names(files), _names(metadata), _names(text_vectors))


def exported_model(index: OpenIndex, shards: Sequence[Shard]) -> str | None:
    """The model that an export says made its vectors, unless another has its name here."""
    exported = made_by(shards)
    if exported is None:
        return None
    name, fingerprint = exported
    try:
        here = load_encoder(name, index.runtime, strict=False).fingerprint
    except (UnknownModel, ModelUnavailable, MissingExtra):
        return name
    return name if here == fingerprint else None


def _names(files: Files) -> list[str]:
    several = [files] if isinstance(files, (str, os.PathLike)) else files
    return [os.fspath(file) for file in several]
