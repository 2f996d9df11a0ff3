"""A first ranking corrected by what a closer look at its best says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def rerank(
    first: NDArray[np.float32], match: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """New scores of one query's best candidates: first + weight · (match − mean match).

    The mean is the same for all candidates and moves none past another; taken off, the scores stay
    about where the first stage had them.

    Args:
        first: (n,) scores of the first stage: cosines, corrected for hubs.
        match: (n,) what the second model says of the same candidates.
        weight: What a unit of `match` counts in units of `first`; chosen with the model.
    """
    if not len(first):
        return first
    scores: NDArray[np.float32] = first + weight * (match - match.mean())
    return scores
