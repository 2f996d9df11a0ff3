"""Relevance feedback: a query is moved by the hits that the user liked and disliked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsearch.errors import InvalidQuery

if TYPE_CHECKING:
    from mmsearch.types import Vectors

ALPHA, BETA, GAMMA = 1.0, 0.4, 0.1
"""The weights of the query, of the liked items and of the unliked ones.

Chosen on half of Flickr8k dev (benchmarks/feedback.py): β from 0.25 to 0.5 does best there, and
above 1 a single liked hit outweighs the words. Unliked items tell least, as Salton & Buckley found
too.
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
    """The query moved towards liked items: α·q + β·mean(liked) − γ·mean(unliked), unit (dim,).

    Both means are brought to unit length, so that ten likes count no more than one.

    Args:
        query: (dim,) unit.
        liked: (n, dim) unit rows of the modality that is searched; n may be 0.
        unliked: (m, dim) likewise.
        alpha: The weight of the query.
        beta: The weight of the liked items.
        gamma: The weight of the unliked items.
        mean: (dim,) the mean of all vectors searched, which is subtracted from the rows: if a model
            keeps pictures apart from words (the modality gap), liking one picture must not favour
            what all pictures have in common.

    Raises:
        InvalidQuery: the three cancel each other out.

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
    """The unit vector (dim,) from the mean of all vectors to that of the rows; else zeros."""
    import numpy as np

    if not len(rows):
        return np.zeros(rows.shape[-1], dtype=np.float32)
    centre = np.asarray(rows, dtype=np.float64).mean(axis=0)
    if mean is not None:
        centre = centre - mean
    length = float(np.linalg.norm(centre))
    found: Vectors = (centre / length if length > NEGLIGIBLE else 0 * centre).astype(np.float32)
    return found
