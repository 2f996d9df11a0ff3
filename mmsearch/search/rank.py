"""From a query to rankings: encode, look near the vector in each facet, fuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from mmsearch.catalog import Catalog, Space
from mmsearch.errors import UnknownTarget, UnsupportedModality
from mmsearch.fusion import rrf
from mmsearch.queries import Ask, combined, encode_parts
from mmsearch.types import Encoder, Modality, Part, Ranking, VectorIndex

if TYPE_CHECKING:
    from mmsearch.types import Vectors

DEPTH = 1_000
"""Items that each ranking goes down to before fusion: so far, the order does not depend on k."""

LEADS = 10
"""Texts that lead over from one model's space to another's."""

Target = str | Sequence[str] | None
IndexOf = Callable[[Space, str], VectorIndex]

Stretch = tuple[int, int]
"""(item id, position): one vector of an item, its 3rd window say."""


@dataclass(frozen=True, slots=True)
class Search:
    """One ranking to be made: what is searched, and for which unit vector (dim,)."""

    facet: Modality
    space: Space
    vector: Vectors
    weight: float = 1.0


def targets_of(
    target: Target, present: Iterable[Modality], asked: Iterable[Modality]
) -> list[Modality]:
    """The facets to search: those named, else pictures if there are any, else what there is.

    Who asks with sounds alone is given sounds first.

    Args:
        target: What the caller named.
        present: The facets that have vectors.
        asked: The modalities of the query's parts.

    Raises:
        UnknownTarget: there is no such facet.
    """
    known: tuple[Modality, ...] = get_args(Modality)
    if target is None:
        order: list[Modality] = ["image", "audio", "text"]
        if set(asked) == {"audio"}:
            order = ["audio", "image", "text"]
        there = set(present)
        return [facet for facet in order if facet in there][:1]
    one = isinstance(target, str) or not isinstance(target, Iterable)
    named = [target] if one else list(target)
    shown = ", ".join(known)
    if not named:
        raise UnknownTarget(f"nothing to search in is named; there is: {shown}")
    for facet in named:
        if facet not in known:
            raise UnknownTarget(f"nothing can be searched in {facet!r}; there is: {shown}")
    return [facet for facet in known if facet in named]


def encode_asks(
    asks: Sequence[Sequence[Ask]],
    encoder_of: Callable[[Space], Encoder],
    index_of: IndexOf,
    catalog: Catalog,
) -> list[list[Search]]:
    """For each query, its rankings' vectors; each encoder encodes the parts of all together."""
    parts: dict[int, tuple[Space, dict[int, Part]]] = {}
    for ask in (ask for several in asks for ask in several):
        space = ask.via or ask.space
        parts.setdefault(space.id, (space, {}))[1].update({id(part): part for part in ask.parts})
    encoded: dict[tuple[int, int], Vectors] = {}
    for space_id, (space, some) in parts.items():
        vectors = encode_parts(encoder_of(space), list(some.values()))
        encoded |= {(space_id, key): row for key, row in zip(some, vectors, strict=True)}
    return [[_search(ask, encoded, index_of, catalog) for ask in several] for several in asks]


def _search(
    ask: Ask,
    encoded: Mapping[tuple[int, int], Vectors],
    index_of: IndexOf,
    catalog: Catalog,
) -> Search:
    import numpy as np

    space = ask.via or ask.space
    vectors = np.stack([encoded[space.id, id(part)] for part in ask.parts])
    alone = len(ask.parts) == 1
    vector = vectors[0] if alone else combined(vectors, [part.weight for part in ask.parts])
    return search_of(ask, vector, index_of, catalog)


def search_of(ask: Ask, vector: Vectors, index_of: IndexOf, catalog: Catalog) -> Search:
    """The ranking to be made for a unit vector (dim,) that was encoded in `ask.via or ask.space`.

    Raises:
        UnsupportedModality: no text leads over from the one to the other.
    """
    if ask.via is not None:
        vector = _led_over(vector, ask.via, ask.space, index_of, catalog)
    return Search(ask.facet, ask.space, vector, ask.weight)


def _led_over(
    vector: Vectors, here: Space, there: Space, index_of: IndexOf, catalog: Catalog
) -> Vectors:
    """The mean, in one space, of the texts that are nearest to a vector of another."""
    ids = [item_id for item_id, _ in index_of(here, "text").search(vector, LEADS)]
    near = stretches(catalog, Search("text", here, vector), ids)[:LEADS]
    owners, matrix, positions = catalog.vectors(there, "text", ids)
    rows = {
        key: row for row, key in enumerate(zip(owners.tolist(), positions.tolist(), strict=True))
    }
    shared = [(rows[key], max(score, 0.0) + 1e-3) for key, score in near if key in rows]
    if not shared:
        raise UnsupportedModality(
            f"no text that {here.name!r} and {there.name!r} both hold leads over from the one to "
            "the other: bring the index up to date (mmsearch index)"
        )
    return combined(matrix[[row for row, _ in shared]], [score for _, score in shared])


def rank(
    searches: Sequence[Search], index_of: IndexOf, k: int, without: int | None = None
) -> tuple[Ranking, list[Ranking]]:
    """The k best items for one query, and each search's own ranking.

    Args:
        searches: What to rank by.
        index_of: Gives a facet's index.
        k: How many items.
        without: An item to leave out.
    """
    depth = k if len(searches) == 1 else max(k, DEPTH)
    rankings = []
    for search in searches:
        found = index_of(search.space, search.facet).search(search.vector, depth + 1)
        kept = [(item_id, _cosine(score)) for item_id, score in found if item_id != without]
        rankings.append(kept[:depth])
    if len(rankings) == 1:
        return rankings[0], rankings
    return rrf(rankings, [search.weight for search in searches])[:k], rankings


def stretches(catalog: Catalog, search: Search, ids: Sequence[int]) -> list[tuple[Stretch, float]]:
    """Each vector of some items with its score, best first."""
    owners, matrix, positions = catalog.vectors(search.space, search.facet, ids)
    scores = (matrix @ search.vector).round(6)
    keys = zip(owners.tolist(), positions.tolist(), strict=True)
    pairs = zip(keys, map(_cosine, scores.tolist()), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def _cosine(product: float) -> float:
    """An inner product as a cosine: float16 rows are up to 1e-3 longer than 1; never -0.0."""
    return max(-1.0, min(product, 1.0)) + 0.0
