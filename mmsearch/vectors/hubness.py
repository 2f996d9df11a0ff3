"""Hubs told from answers: how near an item is to whatever is asked, taken off its scores.

In a space of many dimensions some vectors are near almost every query, and stand high in rankings
where they have no business. One number an item tells how much of a hub it is: its mean cosine to
the typical queries that are nearest to it. A search then ranks by `cosine - weight · hub`, which is
an inner product with a few more dimensions, so that FAISS does it at no cost:

    rows = augmented(matrix, hub_text, hub_image)      # [vector, hub_text, hub_image, 0, …]
    rows @ augmented_query(vector, "text", hub_weight("text", "image"))

Source: the item's half of CSLS, 2·cos(x, y) - r(x) - r(y): Conneau et al., ICLR 2018. The query's
half is the same for all items, so it moves none; halved, the weight of r is ½. That hubs come with
the number of dimensions: Radovanović, Nanopoulos & Ivanović, JMLR 2010.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mmsearch.vectors.threads import alone

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Modality, Vectors

    Hubs = NDArray[np.float32]
    """(n,) float32: of each row, its mean cosine to the typical queries nearest to it."""

NEAREST = 20
"""Typical queries that a hub is the mean of; 5 to 50 do as well on Flickr8k dev, 300 do worse."""

EXTRA_DIMS = 8
"""Dimensions that a row has besides its vector: so many keep it a multiple of 8, as SIMD likes."""

SLOTS: Mapping[Modality, int] = {"text": 0, "image": 1}
"""Which of the extra dimensions holds the hub for queries of a modality."""

WEIGHTS: Mapping[tuple[Modality, Modality], float] = {
    ("text", "image"): 0.5,
    ("image", "text"): 0.5,
    ("text", "text"): 0.25,
}
"""What a hub counts, by what is asked with and the facet that is searched, when the bank is one of
captions and photos that ships with the model.

Between texts more than this would put others before the very words that were asked for; between
pictures the correction makes neighbours worse, and of sounds there is no bank: those count nothing.
Measured by `benchmarks/hubness.py`, as are these:
"""
WEIGHTS_WITHOUT: Mapping[tuple[Modality, Modality], float] = {
    ("text", "image"): 0.25,
    ("image", "text"): 0.5,
}
"""The same for a model without a bank: of sentences from word lists, and the index's pictures."""

ROWS_AT_ONCE = 16_384
"""Rows compared with a bank at a time, so that memory does not grow with them."""

FEW_ROWS = 256
"""Rows up to which they are compared on the thread that asks, while others encode."""


def hub_weight(asked: Modality, facet: Modality, *, shipped: bool = True) -> float:
    """What a hub counts when `facet` is searched with queries of the modality `asked`: 0 to 0.5.

    Args:
        asked: What is asked with.
        facet: What is searched.
        shipped: Whether the bank came with the model.
    """
    return (WEIGHTS if shipped else WEIGHTS_WITHOUT).get((asked, facet), 0.0)


def hubs(matrix: Vectors, bank: Vectors, nearest: int = NEAREST) -> Hubs:
    """Of each row its mean cosine to the `nearest` rows of the bank that are nearest to it.

    Args:
        matrix: (n, dim) unit rows: a facet's vectors.
        bank: (m, dim) unit rows: typical queries. A smaller bank than `nearest` is taken whole;
            of an empty one each hub is 0.
        nearest: 1 or more.

    Returns:
        (n,) float32 in [-1, 1].
    """
    import faiss
    import numpy as np

    library: Any = faiss
    found = np.zeros(len(matrix), np.float32)
    kept = min(nearest, len(bank))
    if not kept:
        return found
    with alone() if len(matrix) <= FEW_ROWS else nullcontext():
        for start in range(0, len(matrix), ROWS_AT_ONCE):
            some = matrix[start : start + ROWS_AT_ONCE]
            cosines, _ = library.knn(some, bank, kept, metric=library.METRIC_INNER_PRODUCT)
            found[start : start + len(some)] = cosines.mean(axis=1)
    return found


def augmented(
    matrix: Vectors, hub_text: Hubs | None = None, hub_image: Hubs | None = None
) -> NDArray[np.float32]:
    """Rows (n, dim + EXTRA_DIMS) for an index: each vector, then its hubs.

    Args:
        matrix: (n, dim) unit rows.
        hub_text: Of each row, by typical texts; None: not known, so nothing is taken off. A NaN,
            of a row that has none yet, counts as the mean of the others.
        hub_image: The same by typical pictures.
    """
    import numpy as np

    rows, dim = matrix.shape
    wide = np.zeros((rows, dim + EXTRA_DIMS), np.float32)
    wide[:, :dim] = matrix
    known: tuple[tuple[Modality, Hubs | None], ...] = (("text", hub_text), ("image", hub_image))
    for modality, column in known:
        if column is not None:
            wide[:, dim + SLOTS[modality]] = _whole(column)
    return wide


def augmented_query(vector: Vectors, modality: Modality, weight: float) -> NDArray[np.float32]:
    """The vector (dim + EXTRA_DIMS,) whose inner product with a row is `cosine - weight · hub`.

    Args:
        vector: (dim,) unit length: the query.
        modality: What it was asked with; of a modality without hubs nothing is taken off.
        weight: As `hub_weight` gives it; 0 for the plain cosine.
    """
    import numpy as np

    wide = np.zeros(len(vector) + EXTRA_DIMS, np.float32)
    wide[: len(vector)] = vector
    if modality in SLOTS:
        wide[len(vector) + SLOTS[modality]] = -weight
    return wide


def _whole(column: Hubs) -> Hubs:
    import numpy as np

    missing = np.isnan(column)
    if not missing.any():
        return column
    mean = column[~missing].mean() if not missing.all() else 0.0
    return np.where(missing, np.float32(mean), column)
