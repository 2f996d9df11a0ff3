"""Hubness correction: items that are close to every query are ranked lower.

In a space of many dimensions some vectors, the hubs, are close to almost every query and rank high
where they do not belong. One number per item measures this: its mean cosine to the typical queries
nearest to it. A search then ranks by `cosine - weight · hub`, which is an inner product in a few
more dimensions, so FAISS computes it at no extra cost:

    rows = augmented(matrix, hub_text, hub_image)      # [vector, hub_text, hub_image, 0, …]
    rows @ augmented_query(vector, "text", hub_weight("text", "image"))

Source: the item's half of CSLS, 2·cos(x, y) - r(x) - r(y): Conneau et al., ICLR 2018. The query's
half is the same for all items, so it changes no order; divided by 2, the weight of r is ½. Why hubs
arise in many dimensions: Radovanović, Nanopoulos & Ivanović, JMLR 2010.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from mmsearch.vectors.exact import one_thread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Modality, Vectors

    Hubs = NDArray[np.float32]
    """(n,) float32: the mean cosine of each row to the typical queries nearest to it."""

NEAREST = 20
"""Typical queries that a hub is the mean of; 5 to 50 do as well on Flickr8k dev, 300 do worse."""

EXTRA_DIMS = 8
"""Dimensions that augmentation adds; a multiple of 8, for SIMD."""

SLOTS: Mapping[Modality, int] = {"text": 0, "image": 1}
"""The extra dimension of the hub for queries of a modality."""

WEIGHTS: Mapping[tuple[Modality, Modality], float] = {
    ("text", "image"): 0.5,
    ("image", "text"): 0.5,
    ("text", "text"): 0.25,
}
"""The weight of hubs, by query modality and searched modality, if a query bank of captions and
photos ships with the model.

Between texts, a higher weight would rank other texts above the very words of the query. The weight
is 0 between images, where the correction makes neighbours worse, and for audio, which has no bank.
Measured by `benchmarks/hubness.py`, as are these:
"""
WEIGHTS_WITHOUT: Mapping[tuple[Modality, Modality], float] = {
    ("text", "image"): 0.25,
    ("image", "text"): 0.5,
}
"""The same for a model without a bank, whose bank is made of generated sentences and the index's
own images."""

ROWS_AT_ONCE = 16_384
"""Rows compared with a bank at a time, to bound memory."""

FEW_ROWS = 256
"""Up to this many rows are compared on the calling thread, as other threads are busy encoding."""


def hub_weight(query_modality: Modality, modality: Modality, *, shipped: bool = True) -> float:
    """The weight of hubs, 0 to 0.5, when queries of one modality search vectors of another.

    `shipped` says whether the query bank ships with the model.
    """
    return (WEIGHTS if shipped else WEIGHTS_WITHOUT).get((query_modality, modality), 0.0)


def hubs(matrix: Vectors, bank: Vectors, nearest: int = NEAREST) -> Hubs:
    """The mean cosine of each row to the rows of a query bank that are nearest to it.

    Args:
        matrix: (n, dim) unit rows: vectors of items.
        bank: (m, dim) unit rows: typical queries. All are used if there are fewer than `nearest`;
            if there are none, each hub is 0.
        nearest: The number of nearest queries, 1 or more.

    Returns:
        (n,) float32 in [-1, 1].
    """
    import faiss
    import numpy as np

    found = np.zeros(len(matrix), np.float32)
    nearest = min(nearest, len(bank))
    if not nearest:
        return found
    with one_thread() if len(matrix) <= FEW_ROWS else nullcontext():
        for start in range(0, len(matrix), ROWS_AT_ONCE):
            rows = matrix[start : start + ROWS_AT_ONCE]
            cosines, _ = faiss.knn(rows, bank, nearest, metric=faiss.METRIC_INNER_PRODUCT)
            found[start : start + len(rows)] = cosines.mean(axis=1)
    return found


def augmented(
    matrix: Vectors, hub_text: Hubs | None = None, hub_image: Hubs | None = None
) -> NDArray[np.float32]:
    """Rows (n, dim + EXTRA_DIMS) for an index: each vector, then its hubs.

    Args:
        matrix: (n, dim) unit rows.
        hub_text: (n,) for text queries; None: unknown, so nothing is subtracted. A row whose hub is
            not known yet has NaN, and is given the mean of the others.
        hub_image: (n,) for image queries, likewise.
    """
    import numpy as np

    number, dim = matrix.shape
    rows = np.zeros((number, dim + EXTRA_DIMS), np.float32)
    rows[:, :dim] = matrix
    columns: tuple[tuple[Modality, Hubs | None], ...] = (("text", hub_text), ("image", hub_image))
    for modality, column in columns:
        if column is not None:
            known = ~np.isnan(column)
            mean = np.float32(column[known].mean() if known.any() else 0.0)
            rows[:, dim + SLOTS[modality]] = np.where(known, column, mean)
    return rows


def augmented_query(vector: Vectors, modality: Modality, weight: float) -> NDArray[np.float32]:
    """The vector (dim + EXTRA_DIMS,) whose inner product with a row is `cosine - weight · hub`.

    Args:
        vector: (dim,) unit length: the query.
        modality: The modality of the query; nothing is subtracted if it has no hubs.
        weight: As `hub_weight` returns it; 0 for the plain cosine.
    """
    import numpy as np

    query = np.zeros(len(vector) + EXTRA_DIMS, np.float32)
    query[: len(vector)] = vector
    if modality in SLOTS:
        query[len(vector) + SLOTS[modality]] = -weight
    return query
