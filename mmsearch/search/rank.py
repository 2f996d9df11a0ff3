"""From a query to vectors: what is searched, and what for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmsearch.encoders import Encoder
from mmsearch.errors import UnsupportedModality
from mmsearch.filters import Filter
from mmsearch.search.queries import Ask, combined, encode_parts
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.storage import Space, Store
from mmsearch.types import Modality, Part
from mmsearch.vectors import FaissIndex
from mmsearch.vectors.hubness import EXTRA_DIMS, augmented_query
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

LEADS = 10
"""Texts that lead over from one model's space to another's."""

IndexOf = Callable[[Space, Modality], FaissIndex]

Stretch = tuple[int, int]
"""(item id, position): one vector of an item, its 3rd window say."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a search draws on.

    Attributes:
        store: Where the items are.
        index_of: Gives a facet's index.
        encoder_of: Gives a space's encoder.
        query_banks: The query banks of the spaces.
        alike: Gives the cosine from which two items of a space are taken for copies of one.
        passing: Gives the items that pass a filter.
        catch_up: Has words looked up that an interrupted run has left, as far as may be.
    """

    store: Store
    index_of: IndexOf
    encoder_of: Callable[[Space], Encoder]
    query_banks: QueryBanks
    alike: Callable[[Space], float]
    passing: Callable[[Filter], IdSet]
    catch_up: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Search:
    """One ranking to be made: what is searched, and for which unit vector (dim,).

    Attributes:
        hubs: What a hub told by queries of a modality takes off a score.
        kind: What the vector is like, if it is of one modality.
        part: What was asked, if it was one thing.
    """

    facet: Modality
    space: Space
    vector: Vectors
    weight: float = 1.0
    hubs: Mapping[Modality, float] = field(default_factory=dict)
    kind: Modality | None = None
    part: Part | None = None

    @property
    def wide(self) -> NDArray[np.float32]:
        """The vector (dim + EXTRA_DIMS,) that a facet's index is asked with."""
        wide = augmented_query(self.vector, "text", 0.0)
        for modality, weight in self.hubs.items():
            wide[-EXTRA_DIMS:] += augmented_query(self.vector, modality, weight)[-EXTRA_DIMS:]
        return wide

    def plain(self) -> Search:
        """The same without hubs."""
        return replace(self, hubs={}, kind=None)


def encode_asks(asks: Sequence[Sequence[Ask]], holdings: Holdings) -> list[list[Search]]:
    """For each query, its rankings' vectors; each encoder encodes the parts of all together."""
    parts: dict[int, tuple[Space, dict[int, Part]]] = {}
    for ask in (ask for several in asks for ask in several):
        space = ask.via or ask.space
        parts.setdefault(space.id, (space, {}))[1].update({id(part): part for part in ask.parts})
    encoded: dict[tuple[int, int], Vectors] = {}
    for space_id, (space, some) in parts.items():
        vectors = encode_parts(holdings.encoder_of(space), list(some.values()))
        encoded |= {(space_id, key): row for key, row in zip(some, vectors, strict=True)}
    return [[_search(ask, encoded, holdings) for ask in several] for several in asks]


def _search(ask: Ask, encoded: Mapping[tuple[int, int], Vectors], holdings: Holdings) -> Search:
    import numpy as np

    space = ask.via or ask.space
    vectors = np.stack([encoded[space.id, id(part)] for part in ask.parts])
    if len(ask.parts) == 1:
        return search_of(ask, vectors[0], holdings)
    largest = max(abs(part.weight) for part in ask.parts)
    weights = [part.weight / largest for part in ask.parts]
    search = search_of(ask, combined(vectors, weights), holdings)
    length = float(np.linalg.norm(np.asarray(weights) @ vectors.astype(np.float64)))
    shares: dict[Modality, float] = {}
    for part, weight in zip(ask.parts, weights, strict=True):
        shares[part.modality] = shares.get(part.modality, 0.0) + weight / length
    kind = search.kind if len(shares) == 1 else None
    return replace(search, hubs=_hubs(search, shares, holdings), kind=kind, part=None)


def _hubs(
    search: Search, shares: Mapping[Modality, float], holdings: Holdings
) -> dict[Modality, float]:
    """What hubs take off, by what each modality has in the vector, which is Σ share · vector."""
    hub_weight = holdings.query_banks.hub_weight
    found = {
        modality: share * hub_weight(search.space, modality, search.facet)
        for modality, share in shares.items()
    }
    return {modality: weight for modality, weight in found.items() if weight}


def search_of(ask: Ask, vector: Vectors, holdings: Holdings) -> Search:
    """The ranking to be made for a unit vector (dim,) that was encoded in `ask.via or ask.space`.

    Raises:
        UnsupportedModality: no text leads over from the one to the other.
    """
    asked: Modality = ask.parts[0].modality
    part: Part | None = ask.parts[0]
    if ask.via is not None:
        vector = _led_over(vector, ask.via, ask.space, holdings)
        asked, part = "text", None
    search = Search(ask.facet, ask.space, vector, ask.weight, kind=asked, part=part)
    return replace(search, hubs=_hubs(search, {asked: 1.0}, holdings))


def _led_over(vector: Vectors, here: Space, there: Space, holdings: Holdings) -> Vectors:
    """The mean, in one space, of the texts that are nearest to a vector of another."""
    search = Search("text", here, vector)
    ids = [item_id for item_id, _ in holdings.index_of(here, "text").search(search.wide, LEADS)]
    near = stretches(holdings.store, search, ids)[:LEADS]
    owners, matrix, positions = holdings.store.vectors.of(there, "text", ids)
    rows = {
        key: row for row, key in enumerate(zip(owners.tolist(), positions.tolist(), strict=True))
    }
    shared = [(rows[key], max(score, 0.0) + 1e-3) for key, score, _ in near if key in rows]
    if not shared:
        raise UnsupportedModality(
            f"no text that {here.name!r} and {there.name!r} both hold leads over from the one to "
            "the other: bring the index up to date (mmsearch index)"
        )
    return combined(matrix[[row for row, _ in shared]], [score for _, score in shared])


def stretches(
    store: Store, search: Search, ids: Sequence[int]
) -> list[tuple[Stretch, float, float]]:
    """Each vector of some items with its score and its plain cosine, best first."""
    import numpy as np

    owners, matrix, positions = store.vectors.of(search.space, search.facet, ids)
    # row by row, as a product of matrices differs in the 7th decimal with how many rows there are
    cosines = (matrix.astype(np.float64) * search.vector).sum(axis=1)
    scores = cosines.copy()
    for modality, weight in search.hubs.items():
        hubs = store.hubs.of(search.space, search.facet, modality, ids)
        scores -= weight * np.nan_to_num(hubs.astype(np.float16).astype(np.float64))
    keys = zip(owners.tolist(), positions.tolist(), strict=True)
    found = [
        (key, cosine_of(score), cosine_of(plain))
        for key, score, plain in zip(
            keys, scores.round(6).tolist(), cosines.round(6).tolist(), strict=True
        )
    ]
    return sorted(found, key=lambda one: (-one[1], one[0]))


def cosine_of(product: float) -> float:
    """An inner product as a cosine: float16 rows are up to 1e-3 longer than 1; never -0.0."""
    return max(-1.0, min(product, 1.0)) + 0.0
