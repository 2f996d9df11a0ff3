"""Exact search by plain NumPy: the oracle that everything else is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsearch.vectors.exact import DECIMALS, ranked
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    from mmsearch.types import Ranking, Vectors


class ExactIndex:
    """`FaissIndex` by NumPy in float64: slow, obvious."""

    def __init__(self, dim: int) -> None:
        import numpy as np

        self._ids: list[int] = []
        self._rows = np.zeros((0, dim))

    @classmethod
    def empty(cls, dim: int) -> ExactIndex:
        """An index of no vectors, for vectors of `dim` numbers."""
        return cls(dim)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        """File vectors (n, dim), as float16 keeps them, under ids (n,)."""
        import numpy as np

        self._ids += [int(i) for i in ids]
        kept = vectors.astype(np.float16).astype(np.float64)
        self._rows = np.concatenate([self._rows, kept])

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        """The k ids of the highest inner product with a vector (dim,); ties by id."""
        scores = (self._rows @ vector.astype(float)).round(DECIMALS).tolist()
        ranking = ranked(self._ids, scores)
        if allowed is not None:
            among = set(allowed.ids.tolist())
            ranking = [pair for pair in ranking if pair[0] in among]
        return ranking[:k]
