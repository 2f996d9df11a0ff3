"""Diverse hits: maximal marginal relevance, and the collapsing of copies."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidQuery

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mmsearch.types import Vectors


def mmr(relevance: ArrayLike, vectors: Vectors, k: int, lam: float = 0.5) -> list[int]:
    """The places of k hits, chosen in turn: λ·relevance − (1 − λ)·cosine to the nearest chosen.

    Maximal marginal relevance. At λ = 1 the given order is kept; ties are in that order.

    Args:
        relevance: (n,) scores, best first; scaled to [0, 1], the worst to 0.
        vectors: (n, dim) unit rows of the same hits; a row of zeros resembles nothing.
        k: How many; all, if there are fewer hits.
        lam: λ in [0, 1]; at 0 only the first hit is chosen for its relevance.

    Raises:
        InvalidQuery: λ is outside [0, 1].

    Source: Carbonell & Goldstein, SIGIR 1998.
    """
    import numpy as np

    if not 0 <= lam <= 1:
        raise InvalidQuery(f"λ is from 0 (only differences count) to 1 (only relevance), not {lam}")
    scores = np.asarray(relevance, dtype=np.float64)
    number = min(k, len(scores))
    if lam == 1:
        return list(range(number))
    if number < 1:
        return []
    spread = float(scores.max() - scores.min())
    gain = lam * (scores - scores.min()) / (spread or 1.0)
    nearest = np.full(len(scores), -1.0)  # cosine to the nearest that was chosen
    chosen = [0]
    gain[0] = -np.inf
    while len(chosen) < number:
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
    """Ranked items in groups of copies, best first; the first of each group represents it.

    An item joins the first group whose first item has the same content, or a cosine of at least
    `threshold` to it. So no chain of small changes leads from one end of a group to the other.

    Args:
        ids: Items, best first.
        hashes: Of their contents; None equals no other.
        vectors: (n, dim) unit rows of the same items; a row of zeros resembles nothing.
        threshold: The cosine from which two items count as copies; above 1, only items of the same
            content do.
    """
    import numpy as np

    groups: list[list[int]] = []
    firsts = np.empty_like(vectors)
    place_of: dict[Hashable, int] = {}
    for item_id, hash_, vector in zip(ids, hashes, vectors, strict=True):
        places = [] if hash_ is None or hash_ not in place_of else [place_of[hash_]]
        if groups:
            similar = np.flatnonzero(firsts[: len(groups)] @ vector >= threshold)
            places += similar[:1].tolist()
        if places:
            groups[min(places)].append(item_id)
            continue
        firsts[len(groups)] = vector
        if hash_ is not None:
            place_of[hash_] = len(groups)
        groups.append([item_id])
    return groups
