"""The query banks of an index's spaces: typical queries, to measure hubs and scores by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, get_args
from zlib import crc32

from mmsearch.encoders import Encoder, KeepingEncoder
from mmsearch.encoders.previous import previous_bank
from mmsearch.encoders.projected import ProjectedEncoder, Projections, projected
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
from mmsearch.encoders.tuned import TunedEncoder
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
        # by fingerprint, as the id of a dropped space may be given to another one later
        self._banks: dict[tuple[str, str], QueryBank | None] = {}
        self._rows: dict[tuple[str, str, Modality], NDArray[np.float32]] = {}

    def bank(self, space: Space) -> QueryBank | None:
        """The bank of a space, if it has one by now."""
        key = space.name, space.fingerprint
        if self._banks.get(key) is None:
            bank = shipped_bank(*key) or previous_bank(*key)
            if bank is None and not space.is_imported:  # without an encoder none can be made
                stored = self._store.query_banks.get(space)
                bank = None if stored is None else unpack_bank(stored, space.fingerprint)
                if bank is not None and not bank.rows:  # only the heads of a tuned model
                    bank = None
            self._banks[key] = bank
        return self._banks[key]

    def augmented_rows(self, space: Space, modality: Modality) -> NDArray[np.float32] | None:
        """A bank's items of a modality (m, dim + EXTRA_DIMS), augmented as an index's rows are."""
        key = space.name, space.fingerprint, modality
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
        return Reference(level, growth, spread, with_bank=bank.shipped)

    def hub_weight(self, space: Space, query_modality: Modality, modality: Modality) -> float:
        """The weight of hubs when queries of one modality search another; 0 without a bank."""
        bank = self.bank(space)
        if bank is None:
            return 0.0
        return hub_weight(query_modality, modality, shipped=bank.shipped)

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
        pairs = WEIGHTS if bank.shipped else WEIGHTS_WITHOUT
        queries = [query for query, searched in pairs if searched == modality]
        return {query: bank.rows[query] for query in queries if query in bank.rows}

    def _make_bank(self, space: Space, encoder_of: Callable[[Space], Encoder]) -> None:
        """Make a bank of typical sentences and the index's own images, if it has enough."""
        count = self._store.vectors.count(space, "image")
        if count < FEWEST_PICTURES:
            return
        encoder = encoder_of(space)
        encoded = _encode_typical_texts(encoder)
        images = self._sample_images(space)
        rows: BankRows = {"text": encoded[::2], "image": images[::2]}
        heldout: BankRows = {"text": encoded[1::2], "image": images[1::2]}
        bank = calibrated_bank(rows, heldout, shipped=False)
        heads = encoder.projections if isinstance(encoder, TunedEncoder) else {}
        self._store.query_banks.set(space, VERSION, pack_bank(space.fingerprint, bank, heads))

    def put_tuned(self, space: Space, encoder: TunedEncoder, bank: QueryBank | None) -> None:
        """Store the heads of a tuned model, with the bank of its base, projected.

        Args:
            space: That of the tuned model.
            encoder: The tuned model.
            bank: That of the base, if it has one.
        """
        own = QueryBank({}) if bank is None else projected_bank(bank, encoder.projections)
        packed = pack_bank(space.fingerprint, own, encoder.projections)
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

    if isinstance(encoder, ProjectedEncoder):
        return encoder.project("text", _encode_typical_texts(encoder.base))
    texts = typical_texts()
    if isinstance(encoder, KeepingEncoder):
        return encoder.encode_kept(VERSION, texts)
    batches = (texts[at : at + TEXTS_AT_ONCE] for at in range(0, len(texts), TEXTS_AT_ONCE))
    return np.concatenate([encoder.encode_query("text", batch) for batch in batches])


def calibrated_bank(rows: BankRows, heldout: BankRows, *, shipped: bool = True) -> QueryBank:
    """A bank with the hubs of its rows, and a reference for each pair of its modalities.

    Args:
        rows: Of the bank.
        heldout: Similar rows, not of the bank, that match it and each other only by chance.
        shipped: Whether the bank belongs to the model, not to one index. Then none of the index's
            images is among its rows, so a query's scores with them may be subtracted.
    """
    pairs: list[Pair] = [(query_modality, modality) for query_modality in rows for modality in rows]
    bank = _with_hubs(rows, shipped=shipped)
    return replace(bank, references={pair: _reference(pair, bank, heldout) for pair in pairs})


def projected_bank(bank: QueryBank, projections: Projections) -> QueryBank:
    """The bank of a model whose vectors are projected, with new hubs and references.

    The held-out rows that measured the references are not stored. So each reference is shifted by
    as much as it shifts if one half of the bank is compared with the other, before and after.
    """
    import numpy as np

    def halves(of: BankRows) -> tuple[BankRows, BankRows]:
        return {m: rows[::2] for m, rows in of.items()}, {m: rows[1::2] for m, rows in of.items()}

    rows = {modality: projected(projections, modality, own) for modality, own in bank.rows.items()}
    before = calibrated_bank(*halves(bank.rows), shipped=bank.shipped).references
    after = calibrated_bank(*halves(rows), shipped=bank.shipped).references
    lowest = np.array([-np.inf, 0, 0], np.float32)  # neither growth nor spread is negative
    references = {
        pair: np.maximum(old + after[pair] - before[pair], lowest)
        for pair, old in bank.references.items()
    }
    return replace(_with_hubs(rows, shipped=bank.shipped), references=references)


def _with_hubs(rows: BankRows, *, shipped: bool) -> QueryBank:
    """A bank with the hubs of its rows."""
    pairs = WEIGHTS if shipped else WEIGHTS_WITHOUT
    there = [(query, modality) for query, modality in pairs if {query, modality} <= rows.keys()]
    found = {(query, modality): hubs(rows[modality], rows[query]) for query, modality in there}
    return QueryBank(rows, found, shipped=shipped)


def _reference(pair: Pair, bank: QueryBank, heldout: BankRows) -> NDArray[np.float32]:
    """A pair's `Reference` as an array (3,)."""
    import numpy as np

    weight = hub_weight(*pair, shipped=bank.shipped)

    query_modality, modality = pair
    queries, items = heldout[query_modality], heldout[modality]
    if query_modality == modality:
        queries, items = queries[::2], queries[1::2]
    item_hubs = {pair: hubs(items, bank.rows[query_modality])} if weight else {}
    augmented_queries = np.stack([augmented_query(one, query_modality, weight) for one in queries])
    scores = augmented_queries @ _augmented(QueryBank({modality: items}, item_hubs), modality).T
    bank_scores = augmented_queries @ _augmented(bank, modality).T
    found = Reference.of(scores, bank_scores if bank.shipped else None)
    return np.array(astuple(found)[:3], np.float32)


def _augmented(bank: QueryBank, modality: Modality) -> NDArray[np.float32]:
    by_text, by_image = bank.hubs.get(("text", modality)), bank.hubs.get(("image", modality))
    return augmented(bank.rows[modality], by_text, by_image)
