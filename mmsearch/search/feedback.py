"""What was liked and what was not, made part of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsearch.errors import InvalidQuery

if TYPE_CHECKING:
    from mmsearch.types import Vectors

ALPHA, BETA, GAMMA = 1.0, 0.4, 0.1
"""Of the query, of what was liked and of what was not.

Chosen on half of Flickr8k dev (benchmarks/feedback.py): β from 0.25 to 0.5 does best there, above
1 one liked hit outweighs the words. What was not liked says least, as Salton & Buckley found too.
"""

NEGLIGIBLE = 1e-6


def rocchio(
    query: Vectors,
    liked: Vectors,
    unliked: Vectors,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    *,
    mean: Vectors | None = None,
) -> Vectors:
    """The query moved towards what was liked: α·q + β·mean(liked) − γ·mean(unliked), unit (dim,).

    Both means are brought to unit length, so that ten likes count no more than one.

    Args:
        query: (dim,) unit.
        liked: (n, dim) unit rows of the facet that is searched; n may be 0.
        unliked: (m, dim) likewise.
        alpha: What the query counts.
        beta: What the liked count.
        gamma: What the unliked count.
        mean: (dim,) the mean of all that is searched, which the rows are then taken relative to:
            where a model keeps pictures apart from words, liking one picture must not favour
            whatever is typical of pictures.

    Raises:
        InvalidQuery: they cancel each other out.

    Sources: Rocchio, in Salton (ed.), The SMART Retrieval System, 1971; Salton & Buckley, JASIS
    1990, who compare weights.
    """
    import numpy as np

    moved = alpha * np.asarray(query, dtype=np.float64)
    moved += beta * _direction(liked, mean) - gamma * _direction(unliked, mean)
    length = float(np.linalg.norm(moved))
    if length < NEGLIGIBLE:
        raise InvalidQuery("what is liked and what is not cancel each other out")
    found: Vectors = (moved / length).astype(np.float32)
    return found


def _direction(rows: Vectors, mean: Vectors | None) -> Vectors:
    """Where some rows lie from the mean of all; zeros if there are none, or nowhere."""
    import numpy as np

    if not len(rows):
        return np.zeros(rows.shape[-1], dtype=np.float32)
    centre = np.asarray(rows, dtype=np.float64).mean(axis=0)
    if mean is not None:
        centre = centre - mean
    length = float(np.linalg.norm(centre))
    found: Vectors = (centre / length if length > NEGLIGIBLE else 0 * centre).astype(np.float32)
    return found
