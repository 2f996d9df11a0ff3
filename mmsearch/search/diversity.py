"""Hits that are not all alike: those that add something first, and copies as one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidQuery

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mmsearch.types import Vectors


def mmr(relevance: ArrayLike, vectors: Vectors, k: int, lam: float = 0.5) -> list[int]:
    """The places of k hits, chosen one by one: λ·relevance − (1 − λ)·cosine to the nearest chosen.

    Maximal marginal relevance. At λ = 1 the order is the one given; ties stand in that order.

    Args:
        relevance: (n,) scores, best first; brought to [0, 1], the worst given being 0.
        vectors: (n, dim) unit rows of the same hits; a row of zeros is like no other.
        k: How many; of fewer hits, all.
        lam: λ in [0, 1]; at 0 only the first hit owes its place to its relevance.

    Raises:
        InvalidQuery: λ is outside [0, 1].

    Source: Carbonell & Goldstein, SIGIR 1998.
    """
    import numpy as np

    if not 0 <= lam <= 1:
        raise InvalidQuery(f"λ is from 0 (only differences count) to 1 (only relevance), not {lam}")
    scores = np.asarray(relevance, dtype=np.float64)
    wanted = min(k, len(scores))
    if lam == 1:
        return list(range(wanted))
    if wanted < 1:
        return []
    spread = float(scores.max() - scores.min())
    gain = lam * (scores - scores.min()) / (spread or 1.0)
    nearest = np.full(len(scores), -1.0)  # cosine to the nearest that was chosen
    chosen = [0]
    gain[0] = -np.inf
    while len(chosen) < wanted:
        np.maximum(nearest, vectors @ vectors[chosen[-1]], out=nearest)
        best = int(np.argmax(gain - (1 - lam) * nearest))
        gain[best] = -np.inf
        chosen.append(best)
    return chosen


def collapse(
    ids: Sequence[int],
    hashes: Sequence[Hashable | None],
    vectors: Vectors,
    threshold: float,
) -> list[list[int]]:
    """Ranked items in groups of copies, best first; of each group the first stands for all.

    An item joins the first group whose first item has the same content, or is as like it as
    `threshold` says. So no chain of small changes leads from one end of a group to the other.

    Args:
        ids: Items, best first.
        hashes: Of their contents; None is like no other.
        vectors: (n, dim) unit rows of the same items; a row of zeros is like no other.
        threshold: The cosine from which two items are taken for copies of one; above 1, only
            those of the same content are.
    """
    import numpy as np

    groups: list[list[int]] = []
    firsts = np.empty_like(vectors)
    place_of: dict[Hashable, int] = {}
    for item_id, hash_, vector in zip(ids, hashes, vectors, strict=True):
        places = [] if hash_ is None or hash_ not in place_of else [place_of[hash_]]
        if groups:
            alike = np.flatnonzero(firsts[: len(groups)] @ vector >= threshold)
            places += alike[:1].tolist()
        if places:
            groups[min(places)].append(item_id)
            continue
        firsts[len(groups)] = vector
        if hash_ is not None:
            place_of[hash_] = len(groups)
        groups.append([item_id])
    return groups
