"""One import of vectors that were made elsewhere: chooses their space, stores them in batches."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, get_args

from mmsearch.encoders.previous import PreviousEncoder
from mmsearch.errors import (
    InvalidOption,
    MissingExtra,
    ModelUnavailable,
    PathNotFound,
    UnknownModel,
)
from mmsearch.filters.values import shown
from mmsearch.home import path_text
from mmsearch.indexing.bulk.rows import Filing, Losses, batch_of, modalities_in
from mmsearch.indexing.bulk.sources import Chunk
from mmsearch.indexing.bulk.vector_files import Shard
from mmsearch.indexing.index_run import INCOMPLETE
from mmsearch.indexing.projection import project_missing
from mmsearch.media.tables import storable
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.spaces.targets import KINDS_WITH, EncodingTarget
from mmsearch.storage import ItemBatch, Space
from mmsearch.storage.records import IMPORTED_FINGERPRINT
from mmsearch.types import Modality, Progress, Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import Encoder
    from mmsearch.vectors.hubness import Hubs

UNNAMED = "vectors"
"""The space of vectors whose model is not known."""

NOT_HERE = (UnknownModel, ModelUnavailable, MissingExtra)
"""Why a model cannot be loaded here."""


class ImportRun:
    """Imports vectors into an index, once.

    Args:
        index: The index.
        model: The encoder that made the vectors, if it is known.
        modality: What the vectors are made of, unless the rows name it themselves.
        root: The folder of the files that they were made of, if any.
        fingerprint: That of the encoder's weights, if the vectors name it.

    Attributes:
        report: What was done; right at every moment, also after an interruption.

    Raises:
        InvalidOption: there is no such modality, or `model` is not a name.
    """

    def __init__(
        self,
        index: OpenIndex,
        model: str | None,
        modality: Modality,
        root: str | os.PathLike[str] | None,
        fingerprint: str | None = None,
    ) -> None:
        if not isinstance(modality, str) or modality not in get_args(Modality):
            raise InvalidOption(f"a facet is one of image, text, audio, not {shown(modality)}")
        if model is not None and (not isinstance(model, str) or storable(model) != model):
            raise InvalidOption(f"a model is given by its name, not {shown(model)}")
        self.report = Report()
        self._index = index
        self._store = index.store
        self._model = model
        self._modality = modality
        self._root = root
        self._fingerprint = fingerprint
        self._encoder: Encoder | None = None
        self._losses = Losses()
        self._space: Space | None = None  # of the vectors; None until there are some

    def run(self, chunks: Iterable[Chunk], total: int | None, progress: Progress | None) -> None:
        """Store chunks of vectors, then bring up hubs, words and vector indexes.

        Args:
            chunks: The vectors, and what is known of each.
            total: How many rows there are, if known.
            progress: Called with (rows done, rows in all), then with items whose words are done.

        Raises:
            InvalidOption: a row cannot be used, or the vectors do not fit the index.
            PathNotFound: there is no folder `root`.
            IndexBusy: another process is writing to the index.
            StorageFailed: the store cannot be written; what was stored before stays.
        """
        began = time.monotonic()
        self._encoder = self._load_encoder()
        with self._index.writing("importing"):
            filing = self._filing()
            incomplete = self._expect_captions()
            try:
                self._import(chunks, filing, total, progress)
                self._derive(incomplete, progress)
            except KeyboardInterrupt:
                self.report.interrupted = True
                raise
            finally:
                self.report.seconds = time.monotonic() - began
                self.report.warnings += [
                    f"{what} ({count:,} of them)" for what, count in self._losses.items()
                ]

    def _load_encoder(self) -> Encoder | None:
        """The encoder that made the vectors, if it is known and can be loaded here.

        Raises:
            InvalidOption: it has other weights here.
        """
        if self._model is None:
            return None
        try:
            found = self._index.encoders.version_of(self._model, self._fingerprint)
        except NOT_HERE as error:
            self.report.warnings.append(
                f"{error}; without it the vectors can be searched by example, by vectors and by "
                "words as they are written"
            )
            return None
        if found is None:
            raise InvalidOption(
                f"these vectors were made with other weights of {self._model!r} than are "
                "installed: index the files themselves, or import the vectors without --model into "
                "an index of their own, -i NAME"
            )
        return found

    def _filing(self) -> Filing:
        store, folder = self._store, None
        if self._root is not None:
            root = path_text(self._root)
            place = os.path.realpath(root)
            if not os.path.isdir(place):
                raise PathNotFound(f"there is no folder {root!r}")
            store.sources.add(place, os.stat(place).st_dev)
            folder = store.sources.of(place)
        return Filing(store.sources.imported(), store.loader.next_numbers, folder)

    def _expect_captions(self) -> str:
        """Mark the store as incomplete while captions may lack vectors; returns the mark before."""
        before = self._store.settings.get(INCOMPLETE) or ""
        if self._encoder is not None and "text" in self._encoder.modalities:
            self._store.settings.set(INCOMPLETE, "yes")
        return before

    # ------------------------------------------------------------------ batch after batch

    def _import(
        self,
        chunks: Iterable[Chunk],
        filing: Filing,
        total: int | None,
        progress: Progress | None,
    ) -> None:
        """Store each chunk as soon as it has come; the next is prepared meanwhile."""
        waiting = iter(chunks)
        first = next(waiting, None)
        if first is None:
            return
        self._admit(modalities_in(first, self._modality), first)  # hubs need the space
        done = 0
        batches = self._batches(chain([first], waiting), filing)
        with (
            self._store.loader.loading(total) as put,
            ThreadPoolExecutor(1, thread_name_prefix="load") as pool,
        ):
            coming = pool.submit(next, batches, None)
            while (ready := coming.result()) is not None:
                coming = pool.submit(next, batches, None)
                chunk, batch = ready
                self._admit(batch.vectors.keys(), chunk)
                added, updated = put(batch, self._space)
                self.report.added += added
                self.report.updated += updated
                if not chunk.placed:  # of rows of one path, the later ones update the first
                    self.report.updated += len(chunk.rows) - len(batch.names)
                done += len(chunk.rows)
                if progress is not None:
                    progress(done, total)
        if progress is not None:
            progress(done, total)  # indexes have been made since

    def _batches(
        self, chunks: Iterable[Chunk], filing: Filing
    ) -> Iterator[tuple[Chunk, ItemBatch]]:
        dim = 0
        for chunk in chunks:
            if not dim and chunk.vectors is not None:
                dim = chunk.vectors.shape[1]
            yield chunk, batch_of(chunk, filing, self._modality, dim, self._hubs_of, self._losses)

    def _hubs_of(self, modality: Modality, halves: NDArray[np.float16]) -> Mapping[Modality, Hubs]:
        import numpy as np

        banks = self._index.query_banks
        if self._space is None or banks.bank(self._space) is None:
            return {}
        return banks.hubs_of(self._space, modality, halves.astype(np.float32))

    # ------------------------------------------------------------------ which space

    def _admit(self, modalities: Collection[Modality], chunk: Chunk) -> None:
        """See that there is a space which serves the modalities that rows have vectors of."""
        known = get_args(Modality)
        if strange := [one for one in modalities if one not in known]:
            raise InvalidOption(f"a vector is of one of {', '.join(known)}, not {strange[0]!r}")
        encoded = self._space.encodes_for if self._space is not None else frozenset[Modality]()
        if chunk.vectors is not None and set(modalities) - encoded:
            self._space = self._space_of(sorted(set(modalities)), chunk.vectors.shape[1])

    def _space_of(self, modalities: list[Modality], dim: int) -> Space:
        """The space, which serves the modalities, or will when it has all there is of them.

        Raises:
            InvalidOption: vectors of the index, or of the model, have another number of dimensions;
                the model makes none of a modality; another model serves it.
        """
        encoder, spaces = self._encoder, self._store.spaces
        if encoder is not None:
            _check_dim(encoder.name, encoder.dim, dim)
            for modality in modalities:
                if modality not in encoder.modalities:
                    makes = ", ".join(sorted(encoder.modalities))
                    raise InvalidOption(
                        f"{encoder.name!r} makes no vectors of {modality}; of: {makes}"
                    )
            if isinstance(encoder, PreviousEncoder):
                self._check_not_updated(encoder)
            spaces.adopt(encoder)
            self._index.encoders.serve_with([encoder])
            return spaces.add(encoder)
        name = self._model or UNNAMED
        known = next((space for space in spaces.all() if space.name == name), None)
        if known is not None:
            _check_dim(name, known.dim, dim)
            if known.fingerprint != IMPORTED_FINGERPRINT:
                return known
        serving = next((s for s in spaces.all() if set(modalities) & s.serves), None)
        if known is None and self._model is None and serving is not None:
            raise InvalidOption(
                f"the index has vectors of {serving.name!r}: say so if these are too, --model "
                f"{serving.name}; else import them into an index of their own, -i NAME"
            )
        for space in spaces.all():
            taken = sorted((set(modalities) - {"text"}) & space.serves)
            if taken and space.name != name:
                raise InvalidOption(
                    f"{space.name!r} answers for {' and '.join(taken)} in this index, and {name!r} "
                    "is not here to encode what else it holds: import into an index of its own, "
                    "-i NAME"
                )
        return spaces.add_imported(name, dim, modalities)

    def _check_not_updated(self, encoder: PreviousEncoder) -> None:
        """Check that the updated weights do not serve, and are not being backfilled."""
        updated = encoder.base.name, encoder.base.fingerprint
        spaces = self._store.spaces.all()
        if any(one.encodes_for and (one.name, one.fingerprint) == updated for one in spaces):
            raise InvalidOption(
                f"these vectors were made with previous weights of {encoder.name!r}, and the index "
                "uses the new ones: index the files themselves, or import the vectors into an "
                "index of its own, -i NAME"
            )

    # ------------------------------------------------------------------ what follows

    def _derive(self, incomplete: str, progress: Progress | None) -> None:
        """Bring hubs, words, vector indexes and the backup in line with what is stored."""
        index, space, encoder = self._index, self._space, self._encoder
        index.encoders.requested = []  # the index has this model now, not that of a new index
        if encoder is not None and space is not None:
            if not self._serve(space):
                self.report.warnings.append(
                    f"{space.name!r} answers once it has everything else: run `mmsearch index`"
                )
            if (tuned := index.encoders.tuned(encoder)) is not None:
                target = EncodingTarget(tuned, index.encoder(tuned), tuned.serves)
                project_missing(self._store, target, index.query_banks)
                space = tuned
            if index.query_banks.bank(space) is None:
                index.query_banks.update(index.encoder)
            has_texts = "text" in encoder.modalities
            if has_texts and not self._store.vectors.any_missing(space, "text", ()):
                self._store.settings.set(INCOMPLETE, incomplete)  # no caption lacks a vector
        self._store.words.refresh(progress=progress)
        index.rebuild_indexes()
        self.report.warnings += index.keep_backup()

    def _serve(self, space: Space) -> bool:
        """Let the space serve what it is backfilled for, if by now it lacks nothing."""
        now = next((one for one in self._store.spaces.all() if one.id == space.id), space)
        if not now.backfills:
            return True
        for modality in sorted(now.backfills):
            if self._store.vectors.any_missing(now, modality, KINDS_WITH[modality]):
                return False
        self._store.spaces.switch_to(now)
        return True


def _check_dim(name: str, has: int, given: int) -> None:
    if has != given:
        raise InvalidOption(
            f"these vectors have {given} dimensions, those of {name!r} {has}: say with --model "
            "what made them"
        )


def model_of(
    index: OpenIndex, shards: Iterable[Shard], model: str | None
) -> tuple[str | None, str | None]:
    """The model that made the vectors, and its fingerprint if this is an export of that model.

    Args:
        index: Where they are imported.
        shards: The vectors.
        model: What the user says; None takes what exports name, unless that has other weights
            here, which do not replace these.
    """
    origins = {shard.made_by() for shard in shards}
    origin = origins.pop() if len(origins) == 1 else None
    if origin is None or model not in (None, origin[0]):
        return model, None
    if model is not None and origin[1] == IMPORTED_FINGERPRINT:  # nothing is known of its weights
        return model, None
    if model is None:
        with suppress(*NOT_HERE):
            if index.encoders.version_of(*origin) is None:
                return None, None
    return origin
