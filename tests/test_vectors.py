from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.vectors import ExactIndex, FaissIndex


def unit_rows(n: int, dim: int, seed: int) -> np.ndarray:
    """Rows as the catalog gives them: float16 to the bit, about which FAISS and NumPy agree."""
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16).astype(np.float32)


@given(
    n=st.integers(0, 120),
    k=st.integers(1, 140),
    owners=st.integers(1, 30),
    seed=st.integers(0, 10**6),
)
def test_faiss_finds_what_numpy_finds(n: int, k: int, owners: int, seed: int):
    rows = unit_rows(n, 16, seed)
    ids = np.random.default_rng(seed).integers(0, owners, n).tolist()
    query = unit_rows(1, 16, seed + 1)[0]
    faiss_index, oracle = FaissIndex.empty(16), ExactIndex(16)
    for index in (faiss_index, oracle):
        index.add(ids, rows)
    found, expected = faiss_index.search(query, k), oracle.search(query, k)
    scores = dict(oracle.search(query, n))
    assert len(found) == len(expected)
    assert len({item for item, _ in found}) == len(found)
    # float32 and float64 sums may put two items in another order that are this near
    assert np.allclose([s for _, s in found], [s for _, s in expected], atol=3e-6)
    assert np.allclose([s for _, s in found], [scores[item] for item, _ in found], atol=3e-6)


@pytest.mark.parametrize("kind", [FaissIndex, ExactIndex])
def test_equal_scores_stand_in_order_of_id(kind):
    index = kind.empty(4)
    same = np.tile(np.array([[1, 0, 0, 0]], dtype=np.float32), (300, 1))
    ids = np.random.default_rng(1).permutation(300)
    index.add(ids.tolist(), same)
    found = index.search(same[0], 5)
    assert found == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]


@pytest.mark.parametrize("kind", [FaissIndex, ExactIndex])
def test_the_best_of_several_rows_stands_for_an_id(kind):
    index = kind.empty(2)
    index.add([7, 8, 7], np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32))
    assert index.search(np.array([0, 1], dtype=np.float32), 2) == [
        (7, 1.0),
        (8, pytest.approx(0.8, abs=1e-3)),
    ]


def test_what_is_saved_is_loaded(tmp_path: Path):
    index = FaissIndex.empty(8)
    index.add(list(range(50)), unit_rows(50, 8, 3))
    index.save(tmp_path / "x.faiss")
    query = unit_rows(1, 8, 4)[0]
    assert FaissIndex.load(tmp_path / "x.faiss").search(query, 5) == index.search(query, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["x.faiss"]
