"""The query banks of an index's spaces: typical queries, to measure hubs and scores by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, get_args
from zlib import crc32

from mmsearch.encoders import Encoder, KeepingEncoder
from mmsearch.encoders.query_bank import (
    FEWEST_PICTURES,
    MOST_PICTURES,
    VERSION,
    QueryBank,
    pack_bank,
    shipped_bank,
    typical_texts,
    unpack_bank,
)
from mmsearch.spaces.calibration import Reference
from mmsearch.storage import Space, Store
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
    from mmsearch.vectors.index_choice import SampleQueries

TEXTS_AT_ONCE = 64
ROWS_AT_ONCE = 8_192

SAMPLE_QUERIES = 128
"""Queries of each modality that the recall of an index is measured with."""

FEWEST_SAMPLES = 32
"""With fewer stored vectors than this, sample queries come from the bank."""

Pair = tuple[Modality, Modality]
"""The modality of the queries, and the one that is searched."""

BankRows = Mapping[Modality, "Vectors"]
"""Unit rows (m, dim) by modality."""


class QueryBanks:
    """The query banks of an index's spaces, shipped with their encoders or made for the index.

    A bank made for an index is never changed, so that the hubs of old and new vectors compare.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._banks: dict[int, QueryBank | None] = {}
        self._rows: dict[tuple[int, Modality], NDArray[np.float32]] = {}

    def bank(self, space: Space) -> QueryBank | None:
        """The bank of a space, if it has one by now."""
        if self._banks.get(space.id) is None:
            bank = shipped_bank(space.name, space.fingerprint)
            if bank is None and not space.is_imported:  # without an encoder none can be made
                stored = self._store.query_banks.get(space)
                bank = None if stored is None else unpack_bank(stored, space.fingerprint)
            self._banks[space.id] = bank
        return self._banks[space.id]

    def augmented_rows(self, space: Space, modality: Modality) -> NDArray[np.float32] | None:
        """A bank's items of a modality (m, dim + EXTRA_DIMS), augmented as an index's rows are."""
        key = space.id, modality
        if key not in self._rows:
            bank = self.bank(space)
            if bank is None or modality not in bank.rows:
                return None
            self._rows[key] = _augmented(bank, modality)
        return self._rows[key]

    def reference(
        self, space: Space, query_modality: Modality | None, modality: Modality
    ) -> Reference | None:
        """The best scores that typical queries reach where nothing matches them."""
        bank = self.bank(space)
        if bank is None or query_modality is None:
            return None
        numbers = bank.references.get((query_modality, modality))
        if numbers is None:
            return None
        level, growth, spread = numbers.tolist()
        return Reference(level, growth, spread, with_bank=_has_shipped_bank(space))

    def hub_weight(self, space: Space, query_modality: Modality, modality: Modality) -> float:
        """The weight of hubs when queries of one modality search another; 0 without a bank."""
        if self.bank(space) is None:
            return 0.0
        return hub_weight(query_modality, modality, shipped=_has_shipped_bank(space))

    def sample_queries(self, space: Space, modality: Modality, number: int) -> Vectors:
        """Up to `number` unit vectors (n, dim) like queries of a modality: stored, or typical."""
        stored = self._store.vectors.sample(space, modality, number)
        bank = self.bank(space) if len(stored) < FEWEST_SAMPLES else None
        rows = bank.rows.get(modality) if bank else None
        return stored if rows is None else rows[:: max(1, len(rows) // number)][:number]

    def searches(self, space: Space, modality: Modality) -> SampleQueries:
        """Queries of each modality as an index of `modality` is given them, to measure recall with.

        By query modality, up to `SAMPLE_QUERIES` augmented vectors (n, dim + EXTRA_DIMS).
        """
        import numpy as np

        found = {}
        for query_modality in get_args(Modality):
            vectors = self.sample_queries(space, query_modality, SAMPLE_QUERIES)
            if len(vectors):
                weight = self.hub_weight(space, query_modality, modality)
                queries = [augmented_query(one, query_modality, weight) for one in vectors]
                found[query_modality] = np.stack(queries)
        return found

    # ------------------------------------------------------------------ at indexing

    def update(self, encoder_of: Callable[[Space], Encoder]) -> None:
        """Make missing banks where possible, and compute missing hubs."""
        for space in self._store.spaces.all():
            if not space.serves:
                continue
            if self.bank(space) is None and space.modalities >= {"image", "text"}:
                self._make_bank(space, encoder_of)
            for modality in sorted(space.serves):
                self.compute_missing_hubs(space, modality)

    def hubs_of(
        self, space: Space, modality: Modality, matrix: Vectors
    ) -> dict[Modality, NDArray[np.float32]]:
        """The hubs (n,) of new vectors (n, dim), by query modality; empty without a bank."""
        queries = self._queries_for(space, modality)
        return {query_modality: hubs(matrix, rows) for query_modality, rows in queries.items()}

    def compute_missing_hubs(self, space: Space, modality: Modality) -> None:
        """Store the hubs that vectors of a modality lack, if the space has a bank."""
        for query_modality, rows in self._queries_for(space, modality).items():
            while True:
                row_ids, matrix = self._store.hubs.missing(
                    space, modality, query_modality, ROWS_AT_ONCE
                )
                if not row_ids:
                    break
                self._store.hubs.set(query_modality, row_ids, hubs(matrix, rows))

    def _queries_for(self, space: Space, modality: Modality) -> BankRows:
        """By modality, the typical queries whose hubs are subtracted in searches of `modality`."""
        bank = self.bank(space)
        if bank is None:
            return {}
        pairs = WEIGHTS if _has_shipped_bank(space) else WEIGHTS_WITHOUT
        queries = [query for query, searched in pairs if searched == modality]
        return {query: bank.rows[query] for query in queries if query in bank.rows}

    def _make_bank(self, space: Space, encoder_of: Callable[[Space], Encoder]) -> None:
        """Make a bank of typical sentences and the index's own images, if it has enough."""
        count = self._store.vectors.count(space, "image")
        if count < FEWEST_PICTURES:
            return
        encoded = _encode_typical_texts(encoder_of(space))
        images = self._sample_images(space)
        rows: BankRows = {"text": encoded[::2], "image": images[::2]}
        heldout: BankRows = {"text": encoded[1::2], "image": images[1::2]}
        packed = pack_bank(space.fingerprint, calibrated_bank(rows, heldout, shipped=False))
        self._store.query_banks.set(space, VERSION, packed)

    def _sample_images(self, space: Space) -> Vectors:
        """Up to MOST_PICTURES image vectors of an index, whatever order they were added in.

        Those of the lowest hashes are taken, so that few are in memory at a time.
        """
        import numpy as np

        kept = np.zeros((0, space.dim), np.float16)
        hashes = np.zeros(0, np.uint32)
        for new in self._store.vectors.new(space, "image"):
            new_hashes = np.array([crc32(row.tobytes()) for row in new.rows], np.uint32)
            kept, hashes = np.concatenate([kept, new.rows]), np.concatenate([hashes, new_hashes])
            lowest = np.argsort(hashes, kind="stable")[:MOST_PICTURES]
            kept, hashes = kept[lowest], hashes[lowest]
        found: Vectors = kept.astype(np.float32)
        return found


def _encode_typical_texts(encoder: Encoder) -> Vectors:
    import numpy as np

    texts = typical_texts()
    if isinstance(encoder, KeepingEncoder):
        return encoder.encode_kept(VERSION, texts)
    batches = (texts[at : at + TEXTS_AT_ONCE] for at in range(0, len(texts), TEXTS_AT_ONCE))
    return np.concatenate([encoder.encode_query("text", batch) for batch in batches])


def _has_shipped_bank(space: Space) -> bool:
    return shipped_bank(space.name, space.fingerprint) is not None


def calibrated_bank(rows: BankRows, heldout: BankRows, *, shipped: bool = True) -> QueryBank:
    """A bank with the hubs of its rows, and a reference for each pair of its modalities.

    Args:
        rows: Of the bank.
        heldout: Similar rows, not of the bank, that match it and each other only by chance.
        shipped: Whether the bank belongs to the model, not to one index. Then none of the index's
            images is among its rows, so a query's scores with them may be subtracted.
    """
    pairs: list[Pair] = [(query_modality, modality) for query_modality in rows for modality in rows]
    weights = {pair: hub_weight(*pair, shipped=shipped) for pair in pairs}
    row_hubs = {pair: hubs(rows[pair[1]], rows[pair[0]]) for pair in pairs if weights[pair]}
    bank = QueryBank(rows, row_hubs)
    references = {
        pair: _reference(pair, weights[pair], bank, heldout, shipped=shipped) for pair in pairs
    }
    return QueryBank(rows, row_hubs, references)


def _reference(
    pair: Pair, weight: float, bank: QueryBank, heldout: BankRows, *, shipped: bool
) -> NDArray[np.float32]:
    """A pair's `Reference` as an array (3,)."""
    import numpy as np

    query_modality, modality = pair
    queries, items = heldout[query_modality], heldout[modality]
    if query_modality == modality:
        queries, items = queries[::2], queries[1::2]
    item_hubs = {pair: hubs(items, bank.rows[query_modality])} if weight else {}
    augmented_queries = np.stack([augmented_query(one, query_modality, weight) for one in queries])
    scores = augmented_queries @ _augmented(QueryBank({modality: items}, item_hubs), modality).T
    bank_scores = augmented_queries @ _augmented(bank, modality).T
    found = Reference.of(scores, bank_scores if shipped else None)
    return np.array(astuple(found)[:3], np.float32)


def _augmented(bank: QueryBank, modality: Modality) -> NDArray[np.float32]:
    by_text, by_image = bank.hubs.get(("text", modality)), bank.hubs.get(("image", modality))
    return augmented(bank.rows[modality], by_text, by_image)
