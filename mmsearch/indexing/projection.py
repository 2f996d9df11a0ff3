"""Fills a tuned space with the stored vectors of its base, projected by its heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.tuned import TunedEncoder
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import KINDS_WITH, EncodingTarget
from mmsearch.storage import ItemVectors, Space, Store, VectorField
from mmsearch.types import Modality, Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

ITEMS_AT_ONCE = 4_096

ROUNDING = 2e-3
"""Float16 rounds numbers up to 1 by less than half of this."""


def project_missing(
    store: Store,
    target: EncodingTarget,
    query_banks: QueryBanks,
    progress: Progress | None = None,
) -> None:
    """Store the vectors of a tuned space that are missing or outdated, from the space of its base.

    Each page of items is one transaction. Searches do not use them until the space serves.

    Args:
        store: Where both spaces are.
        target: The tuned space; for any other, nothing is done.
        query_banks: Measure the hubs.
        progress: Called with (vectors done, vectors in all).
    """
    encoder, space = target.encoder, target.space
    if not isinstance(encoder, TunedEncoder):
        return
    key = encoder.base.name, encoder.base.fingerprint
    base = next((s for s in store.spaces.all() if (s.name, s.fingerprint) == key), None)
    if base is None:
        return
    modalities = sorted(target.modalities)
    total = sum(store.vectors.count(base, modality) for modality in modalities)
    done = 0
    for modality in modalities:
        projection = _Projection(store, base, target, encoder, modality)
        for ids in projection.pages():
            found, rows = projection.due(ids, query_banks)
            store.vectors.backfill(found)
            done += rows
            if progress is not None:
                progress(done, total)
        _mark_absent(store, base, space, modality)


@dataclass(frozen=True, slots=True)
class _Projection:
    """Projects the vectors of a modality from the space of the base to the tuned one."""

    store: Store
    base: Space
    target: EncodingTarget
    encoder: TunedEncoder
    modality: Modality

    def pages(self) -> Iterator[list[int]]:
        """The ids of the items that have such vectors, in ascending order."""
        for owners, _ in self.store.vectors.pages(self.base, self.modality):
            ids = sorted(set(owners.tolist()))
            for at in range(0, len(ids), ITEMS_AT_ONCE):
                yield ids[at : at + ITEMS_AT_ONCE]

    def due(
        self, ids: Sequence[int], query_banks: QueryBanks
    ) -> tuple[dict[tuple[int, bytes], dict[VectorField, ItemVectors]], int]:
        """The vectors due, by (item id, hash); and the number of vectors of these items."""
        import numpy as np

        store, space, modality = self.store, self.target.space, self.modality
        owners, matrix, positions = store.vectors.of(self.base, modality, ids)
        rows = self.encoder.project(modality, matrix).astype(np.float16)
        there = dict(_by_item(*store.vectors.of(space, modality, ids)))
        due = [
            (id_, at)
            for id_, at in _by_item(owners, np.arange(len(owners)))
            if not _equal(rows[at], there.get(id_))
        ]
        due_ids = [id_ for id_, _ in due]
        hubs = query_banks.hubs_of(space, modality, rows.astype(np.float32)) if due else {}
        spans = {} if modality == "text" else store.vectors.spans(self.base, modality, due_ids)
        with_tokens = modality in self.target.token_modalities
        tokens = store.token_embeddings.of(self.base, modality, due_ids) if with_tokens else {}
        hashes = store.items.hashes(due_ids)
        found = {}
        for id_, at in due:
            keys = [(id_, int(positions[row])) for row in at]
            found[id_, hashes.get(id_, b"")] = {
                (space.id, modality): ItemVectors(
                    rows[at],
                    [spans[key] for key in keys] if spans else (),
                    [tokens[key] for key in keys] if all(key in tokens for key in keys) else (),
                    {query_modality: column[at] for query_modality, column in hubs.items()},
                )
            }
        return found, len(owners)


def _by_item(
    owners: NDArray[np.int64], values: NDArray[Any], *_: object
) -> Iterator[tuple[int, NDArray[Any]]]:
    """(item id, its values) for values in order of their items."""
    import numpy as np

    if len(owners):
        starts = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        yield from zip(owners[starts].tolist(), np.split(values, starts[1:]), strict=True)


def _equal(rows: NDArray[np.float16], stored: Vectors | None) -> bool:
    """Whether vectors equal the stored ones, apart from rounding."""
    if stored is None or stored.shape != rows.shape:
        return False
    return bool(abs(stored - rows).max(initial=0.0) < ROUNDING)


def _mark_absent(store: Store, base: Space, space: Space, modality: Modality) -> None:
    """Record the items that have nothing of a modality, such as videos without sound."""
    import numpy as np

    kinds = KINDS_WITH[modality]
    unknown = {(id_, hash_) for id_, _, hash_ in store.vectors.missing(base, modality, kinds)}
    none = {(space.id, modality): ItemVectors(np.zeros((0, space.dim), np.float16))}
    lacking = store.vectors.missing(space, modality, kinds)
    absent = [(id_, hash_) for id_, _, hash_ in lacking if (id_, hash_) not in unknown]
    for at in range(0, len(absent), ITEMS_AT_ONCE):
        store.vectors.backfill(dict.fromkeys(absent[at : at + ITEMS_AT_ONCE], none))
