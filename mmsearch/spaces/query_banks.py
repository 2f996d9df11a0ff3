"""What is typical of a space: how much of a hub each vector is, what scores mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any
from zlib import crc32

from mmsearch.encoders import Encoder
from mmsearch.encoders.banks import (
    FEWEST_PICTURES,
    MOST_PICTURES,
    VERSION,
    Bank,
    pack_bank,
    shipped_bank,
    typical_texts,
    unpack_bank,
)
from mmsearch.spaces.calibration import Reference
from mmsearch.storage.sqlite import Catalog, Space
from mmsearch.types import Modality
from mmsearch.vectors.hubness import (
    WEIGHTS,
    WEIGHTS_WITHOUT,
    augmented,
    augmented_query,
    hub_weight,
    hubs,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

TEXTS_AT_ONCE = 64
ROWS_AT_ONCE = 8_192

FEWEST_QUESTIONS = 32
"""Stored vectors from which they tell what is asked; of fewer, typical queries do."""

Pair = tuple[Modality, Modality]
"""What is asked with, and the facet that is searched."""

Rows = Mapping[Modality, "Vectors"]
"""Unit rows (m, dim) of each modality."""


class QueryBanks:
    """The banks of an index's spaces: those that ship with encoders, else made for the index.

    A bank that was made for an index stays as it is, so that hubs of old and new vectors compare.

    Args:
        catalog: Where the made ones are kept.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._banks: dict[int, Bank | None] = {}
        self._rows: dict[tuple[int, Modality], NDArray[np.float32] | None] = {}

    def bank(self, space: Space) -> Bank | None:
        """The bank of a space, if it has one by now."""
        if self._banks.get(space.id) is None:
            self._banks[space.id] = shipped_bank(space.name, space.fingerprint) or self._kept(space)
        return self._banks[space.id]

    def _kept(self, space: Space) -> Bank | None:
        if space.is_given:  # there is nothing to make one with
            return None
        kept = self._catalog.bank(space)
        return None if kept is None else unpack_bank(kept, space.fingerprint)

    def augmented_rows(self, space: Space, facet: Modality) -> NDArray[np.float32] | None:
        """Typical items of a facet (m, dim + EXTRA_DIMS), as its index has its own."""
        key = space.id, facet
        if self._rows.get(key) is None:
            bank = self.bank(space)
            rows = bank.rows.get(facet) if bank else None
            self._rows[key] = None if bank is None or rows is None else _wide(rows, bank, facet)
        return self._rows[key]

    def reference(self, space: Space, asked: Modality | None, facet: Modality) -> Reference | None:
        """What the best score of a typical query is where nothing is what it asks for."""
        bank = self.bank(space) if asked else None
        numbers = bank.references.get((asked, facet)) if bank and asked else None
        if numbers is None:
            return None
        level, growth, spread = numbers.tolist()
        return Reference(level, growth, spread, with_typical=_ships(space))

    def hub_weight(self, space: Space, asked: Modality, facet: Modality) -> float:
        """What a hub counts when a facet is searched with queries of a modality."""
        bank = self.bank(space)
        if bank is None:
            return 0.0
        return hub_weight(asked, facet, shipped=_ships(space))

    def sample_queries(self, space: Space, modality: Modality, number: int) -> Vectors:
        """Unit vectors (n, dim) like those that a modality asks with: stored ones, or typical."""
        stored = self._catalog.some_vectors(space, modality, number)
        bank = self.bank(space) if len(stored) < FEWEST_QUESTIONS else None
        rows = bank.rows.get(modality) if bank else None
        return stored if rows is None else rows[:: max(1, len(rows) // number)][:number]

    # ------------------------------------------------------------------ at indexing

    def update(self, encoder_of: Callable[[Space], Encoder]) -> None:
        """Give every vector of an answering space its hubs, as far as the space has a bank."""
        for space in self._catalog.spaces():
            if not space.keeps:
                continue
            if self.bank(space) is None and space.modalities >= {"image", "text"}:
                self._make(space, encoder_of)
            for facet in sorted(space.keeps):
                self.compute_missing_hubs(space, facet)

    def hubs_of(
        self, space: Space, facet: Modality, matrix: Vectors
    ) -> dict[Modality, NDArray[np.float32]]:
        """The hubs (n,) of new vectors (n, dim), by what is asked with; none without a bank."""
        bank = self.bank(space)
        pairs = WEIGHTS if _ships(space) else WEIGHTS_WITHOUT
        found = {}
        for asked, searched in pairs:
            if bank and searched == facet and asked in bank.rows:
                found[asked] = hubs(matrix, bank.rows[asked])
        return found

    def compute_missing_hubs(self, space: Space, facet: str) -> None:
        """Give the vectors of a facet the hubs they lack, if the space has a bank."""
        bank = self.bank(space)
        for asked, searched in WEIGHTS if _ships(space) else WEIGHTS_WITHOUT:
            if bank and searched == facet and asked in bank.rows:
                self._fill(space, searched, asked, bank.rows[asked])

    def _make(self, space: Space, encoder_of: Callable[[Space], Encoder]) -> None:
        """A bank of typical sentences and the index's own pictures, once there are enough."""
        import numpy as np

        count = self._catalog.counts()["vectors"].get(space.id, {}).get("image", 0)
        if count < FEWEST_PICTURES:
            return
        texts, encoder = typical_texts(), encoder_of(space)
        said = np.concatenate(
            [
                encoder.encode("text", texts[start : start + TEXTS_AT_ONCE])
                for start in range(0, len(texts), TEXTS_AT_ONCE)
            ]
        )
        seen = self._some_pictures(space)
        rows: Rows = {"text": said[::2], "image": seen[::2]}
        others: Rows = {"text": said[1::2], "image": seen[1::2]}
        packed = pack_bank(space.fingerprint, measured(rows, others, shipped=False))
        self._catalog.set_bank(space, VERSION, packed)

    def _some_pictures(self, space: Space) -> Vectors:
        """At most MOST_PICTURES of an index's pictures: the same ones whatever order they came in.

        Those of the smallest hash are taken, so that a few are held at a time.
        """
        import numpy as np

        kept = np.zeros((0, space.dim), np.float16)
        hashes = np.zeros(0, np.uint32)
        for came in self._catalog.came(space, "image"):
            new = np.array([crc32(row.tobytes()) for row in came.rows], np.uint32)
            kept, hashes = np.concatenate([kept, came.rows]), np.concatenate([hashes, new])
            least = np.argsort(hashes, kind="stable")[:MOST_PICTURES]
            kept, hashes = kept[least], hashes[least]
        found: Vectors = kept.astype(np.float32)
        return found

    def _fill(self, space: Space, facet: Modality, asked: Modality, bank: Vectors) -> None:
        while True:
            row_ids, matrix = self._catalog.without_hub(space, facet, asked, ROWS_AT_ONCE)
            if not row_ids:
                return
            self._catalog.set_hubs(asked, row_ids, hubs(matrix, bank))


def _ships(space: Space) -> bool:
    return shipped_bank(space.name, space.fingerprint) is not None


def measured(rows: Rows, others: Rows, *, shipped: bool = True) -> Bank:
    """A bank with the hubs of its rows, and references for each pair of its modalities.

    Args:
        rows: The bank's.
        others: Like them, and but for chance no matches of them or of one another.
        shipped: Whether the bank is of the model, not of one index: then the index's pictures are
            not among its rows, and what a query scores with these may be taken off its scores.
    """
    pairs: list[Pair] = [(asked, facet) for asked in rows for facet in rows]
    weights = {pair: hub_weight(*pair, shipped=shipped) for pair in pairs}
    of_rows = {pair: hubs(rows[pair[1]], rows[pair[0]]) for pair in pairs if weights[pair]}
    bank = Bank(rows, of_rows)
    references = {
        pair: _reference(pair, weights[pair], bank, others, shipped=shipped) for pair in pairs
    }
    return Bank(rows, of_rows, references)


def _reference(
    pair: Pair, weight: float, bank: Bank, others: Rows, *, shipped: bool
) -> NDArray[np.float32]:
    import numpy as np

    asked, facet = pair
    queries, items = others[asked], others[facet]
    if asked == facet:
        queries, items = queries[::2], queries[1::2]
    of_items = {pair: hubs(items, bank.rows[asked])} if weight else {}
    wide = np.stack([augmented_query(query, asked, weight) for query in queries])
    scores = wide @ _wide(items, Bank({}, of_items), facet).T
    typical = wide @ _wide(bank.rows[facet], bank, facet).T
    found = Reference.of(scores, typical if shipped else None)
    return np.array(astuple(found)[:3], np.float32)


def _wide(rows: Vectors, bank: Bank, facet: Modality) -> Any:
    return augmented(rows, bank.hubs.get(("text", facet)), bank.hubs.get(("image", facet)))
