"""One run of loading: which space the vectors are of, and a batch after the other stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, TypeVar, get_args

from mmsearch.encoders import Encoder
from mmsearch.errors import InvalidOption
from mmsearch.indexing.bulk.batches import Filing, batch_of, facets_of
from mmsearch.indexing.bulk.stream import Chunk, whole_items
from mmsearch.spaces.encoder_pool import EncoderPool
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import KINDS_WITH
from mmsearch.storage import ItemBatch, Space, Store
from mmsearch.storage.records import IMPORTED_FINGERPRINT
from mmsearch.types import Modality, Progress, Report

if TYPE_CHECKING:
    from mmsearch.indexing.bulk.matrix import Halves
    from mmsearch.vectors.hubness import Hubs

UNNAMED = "vectors"
"""The space of vectors of which nobody said what made them."""

Thing = TypeVar("Thing")


class Spaces:
    """Which space vectors are filed in.

    Args:
        store: Whose spaces.
        encoder_pool: The encoders of it.
        name: Of the model that made the vectors, if it was said.
        encoder: It, if it is to be had here.
    """

    def __init__(
        self, store: Store, encoder_pool: EncoderPool, name: str | None, encoder: Encoder | None
    ) -> None:
        self._store = store
        self._encoder_pool = encoder_pool
        self._name = name
        self._encoder = encoder

    def of(self, facets: Iterable[Modality], dim: int) -> Space:
        """The space, which answers for these facets, or will when it has all there is of them.

        Raises:
            InvalidOption: vectors of the index, or of the model, have another number of
                dimensions; the model makes none of a facet; another model answers for it.
        """
        wanted = sorted(set(facets))
        if self._encoder is not None:
            return self._encoders(self._encoder, wanted, dim)
        known = self._known(wanted)
        name = self._name or UNNAMED
        if known is not None and known.fingerprint != IMPORTED_FINGERPRINT:
            _check_dim(known.name, known.dim, dim)
            return known
        if known is not None:
            _check_dim(name, known.dim, dim)
        self._check_free(name, wanted)
        return self._store.spaces.add_imported(name, dim, wanted)

    def _encoders(self, encoder: Encoder, facets: list[Modality], dim: int) -> Space:
        _check_dim(encoder.name, encoder.dim, dim)
        for facet in facets:
            if facet not in encoder.modalities:
                makes = ", ".join(sorted(encoder.modalities))
                raise InvalidOption(f"{encoder.name!r} makes no vectors of {facet}; of: {makes}")
        self._store.spaces.adopt(encoder)
        self._encoder_pool.serve_with([encoder])
        return self._store.spaces.add(encoder)

    def _known(self, facets: list[Modality]) -> Space | None:
        """The space there is already."""
        spaces = self._store.spaces.all()
        mine = [space for space in spaces if space.name == (self._name or UNNAMED)]
        if mine or self._name is not None:
            return mine[0] if mine else None
        other = next((space for space in spaces if set(facets) & space.serves), None)
        if other is not None:
            raise InvalidOption(
                f"the index has vectors of {other.name!r}: say so if these are too, --model "
                f"{other.name}; else import them into an index of their own, -i NAME"
            )
        return None

    def _check_free(self, name: str, facets: list[Modality]) -> None:
        for space in self._store.spaces.all():
            taken = sorted((set(facets) - {"text"}) & space.serves)
            if taken and space.name != name:
                raise InvalidOption(
                    f"{space.name!r} answers for {' and '.join(taken)} in this index, and {name!r} "
                    "is not here to encode what else it holds: import into an index of its own, "
                    "-i NAME"
                )


def _check_dim(name: str, has: int, given: int) -> None:
    if has != given:
        raise InvalidOption(
            f"these vectors have {given} dimensions, those of {name!r} {has}: say with --model "
            "what made them"
        )


class Load:
    """One run; `report` is true at every moment, also after an interruption.

    Args:
        store: Where things are stored.
        query_banks: Give the hubs of vectors whose space has a bank.
        spaces: Tells the space.
        filing: Where items go.
        facet: Of which facet vectors are that do not say so themselves.
        report: What was done is counted there.
    """

    def __init__(
        self,
        store: Store,
        query_banks: QueryBanks,
        spaces: Spaces,
        filing: Filing,
        *,
        facet: Modality,
        report: Report,
    ) -> None:
        self._store = store
        self._query_banks = query_banks
        self._spaces = spaces
        self._filing = filing
        self._facet = facet
        self.report = report
        self.space: Space | None = None
        """Where the vectors are; None as long as there is none."""

    def run(self, chunks: Iterable[Chunk], total: int | None, progress: Progress | None) -> None:
        """Store chunks, each as soon as it has come; the next is made ready meanwhile."""
        waiting = whole_items(chunks)
        first = next(waiting, None)
        if first is None:
            return
        self._admit(facets_of(first, self._facet), first)  # hubs are told from the first row on
        done = 0
        with self._store.loader.loading(total) as put:
            for rows, batch in _ahead(self._batches(chain([first], waiting))):
                self._admit(batch.vectors.keys(), rows)
                added, updated = put(batch, self.space)
                self.report.added += added
                self.report.updated += updated
                done += rows.count
                if progress is not None:
                    progress(done, total)
        if progress is not None:
            progress(done, total)  # indexes have been made since

    def _batches(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, ItemBatch]]:
        dim: int | None = None
        for chunk in chunks:
            if dim is None and chunk.vectors is not None:
                dim = chunk.vectors.shape[1]
            yield chunk, batch_of(chunk, self._filing, self._facet, dim or 0, self._hubs)

    def _admit(self, facets: Collection[Modality], rows: Chunk) -> None:
        """See that there is a space which answers for facets that rows have vectors of."""
        known = get_args(Modality)
        if strange := [facet for facet in facets if facet not in known]:
            raise InvalidOption(f"a vector is of one of {', '.join(known)}, not {strange[0]!r}")
        there = frozenset[Modality]() if self.space is None else self.space.encodes_for
        if rows.vectors is not None and set(facets) - there:
            self.space = self._spaces.of(facets, rows.vectors.shape[1])

    def _hubs(self, facet: Modality, rows: Halves) -> Mapping[Modality, Hubs]:
        import numpy as np

        if self.space is None or self._query_banks.bank(self.space) is None:
            return {}
        return self._query_banks.hubs_of(self.space, facet, rows.astype(np.float32))

    def answer(self) -> bool:
        """Let the space answer for what it was filling, if by now it lacks nothing."""
        space = self.space
        if space is None or not space.backfills:
            return True
        now = next((one for one in self._store.spaces.all() if one.id == space.id), space)
        for facet in sorted(now.backfills):
            if self._store.vectors.any_missing(now, facet, KINDS_WITH[facet]):
                return False
        self._store.spaces.switch_to(now)
        return True


def _ahead(things: Iterator[Thing]) -> Iterator[Thing]:
    """The same things, the next of which is made while one is worked with."""
    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
        coming = pool.submit(next, things, None)
        while (thing := coming.result()) is not None:
            coming = pool.submit(next, things, None)
            yield thing
