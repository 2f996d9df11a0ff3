from __future__ import annotations

import numpy as np
import pytest
from exact_index import ExactIndex
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.vectors import FaissIndex, IdSet
from mmsearch.vectors.exact import ONE_THREAD, as_float32
from mmsearch.vectors.index import FEW
from mmsearch.vectors.segment import Segment


def unit_rows(n: int, dim: int, seed: int) -> np.ndarray:
    """Rows as the catalog returns them: float16 values, on which FAISS and NumPy agree."""
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
    # float32 and float64 sums may order items differently whose scores are this close
    assert np.allclose([s for _, s in found], [s for _, s in expected], atol=3e-6)
    assert np.allclose([s for _, s in found], [scores[item] for item, _ in found], atol=3e-6)


@pytest.mark.parametrize("kind", [FaissIndex, ExactIndex])
def test_equal_scores_are_ordered_by_id(kind):
    index = kind.empty(4)
    same = np.tile(np.array([[1, 0, 0, 0]], dtype=np.float32), (300, 1))
    ids = np.random.default_rng(1).permutation(300)
    index.add(ids.tolist(), same)
    found = index.search(same[0], 5)
    assert found == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]


@pytest.mark.parametrize("kind", [FaissIndex, ExactIndex])
def test_the_best_row_of_an_id_stands_for_it(kind):
    index = kind.empty(2)
    index.add([7, 8, 7], np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32))
    assert index.search(np.array([0, 1], dtype=np.float32), 2) == [
        (7, 1.0),
        (8, pytest.approx(0.8, abs=1e-3)),
    ]


def test_more_rows_than_one_thread_searches_are_ranked_alike():
    rows = np.tile(unit_rows(500, 8, 0), (ONE_THREAD // 500 + 1, 1))  # so there are many ties
    query = unit_rows(1, 8, 1)[0]
    few, many = FaissIndex.empty(8), FaissIndex.empty(8)
    few.add(range(500), rows[:500])
    many.add(range(len(rows)), rows)
    best = few.search(query, 2)
    found = many.search(query, 150)
    assert [item for item, _ in found[:101]] == list(range(best[0][0], len(rows), 500))
    assert {item % 500 for item, _ in found[101:]} == {best[1][0]}


# ---------------------------------------------------------------------- filters


def filled(kind, ids, rows):
    index = kind.empty(rows.shape[1])
    index.add(ids, rows)
    return index


@given(
    n=st.integers(0, 900),
    k=st.integers(1, 60),
    owners=st.integers(1, 900),
    share=st.sampled_from([0, 0.002, 0.1, 0.9, 1]),
    seed=st.integers(0, 10**6),
)
def test_faiss_finds_what_numpy_finds_among_allowed_ids(n, k, owners, share, seed):
    rows, dice = unit_rows(n, 16, seed), np.random.default_rng(seed)
    ids = (7 + dice.integers(0, owners, n)).tolist()
    allowed = IdSet.of(
        dice.permutation(owners + 20)[: int(np.ceil(share * owners))]
    )  # some are in no row
    query = unit_rows(1, 16, seed + 1)[0]
    found = filled(FaissIndex, ids, rows).search(query, k, allowed)
    oracle = filled(ExactIndex, ids, rows)
    expected = oracle.search(query, k, allowed)
    scores = dict(oracle.search(query, n))
    assert len(found) == len(expected) == min(k, len(set(ids) & set(allowed.ids.tolist())))
    assert {item for item, _ in found} <= set(allowed.ids.tolist())
    assert np.allclose([s for _, s in found], [s for _, s in expected], atol=3e-6)
    assert np.allclose([s for _, s in found], [scores[item] for item, _ in found], atol=3e-6)


@pytest.mark.parametrize("number", [1, 3, 4, 5, 500, 999, 1000])
def test_a_filter_does_not_change_scores(number: int):
    rows = unit_rows(1000, 24, 5)
    index = filled(FaissIndex, list(range(1000)), rows)
    query = unit_rows(1, 24, 6)[0]
    allowed = IdSet.of(np.random.default_rng(number).permutation(1000)[:number])
    among = set(allowed.ids.tolist())
    every = index.search(query, 1000)
    assert index.search(query, 1000, allowed) == [pair for pair in every if pair[0] in among]


@pytest.mark.parametrize("share", [1 / FEW, 0.5])
def test_equal_scores_of_allowed_ids_are_ordered_by_id(share: float):
    same = np.tile(np.array([[1, 0]], dtype=np.float32), (5000, 1))
    ids = np.random.default_rng(1).permutation(5000)
    allowed = IdSet.of(ids[: int(share * 5000)])
    found = filled(FaissIndex, ids.tolist(), same).search(same[0], 7, allowed)
    assert [item for item, _ in found] == sorted(allowed.ids.tolist())[:7]


def test_a_filtered_search_sees_what_was_added_since_the_last():
    index = filled(FaissIndex, [1], unit_rows(1, 4, 0))
    query, allowed = unit_rows(1, 4, 1)[0], IdSet.of([1, 2, 10**6])
    assert [item for item, _ in index.search(query, 9, allowed)] == [1]
    index.add([2, 10**6, 5], unit_rows(3, 4, 2))
    assert sorted(item for item, _ in index.search(query, 9, allowed)) == [1, 2, 10**6]


few_ids = st.lists(st.integers(0, 40), max_size=20)


@given(ids=few_ids, others=few_ids, low=st.integers(0, 45), size=st.integers(-1, 45))
def test_an_id_set_is_a_set(ids: list[int], others: list[int], low: int, size: int):
    found, among = IdSet.of(ids), set(ids)
    assert found.ids.tolist() == sorted(among)
    assert len(found) == len(among)
    assert IdSet.of(np.array(ids, np.int64)).ids.tolist() == sorted(among)
    first, last = found.span
    assert all(first <= id_ <= last for id_ in ids)
    assert found.mask(low, low + size).tolist() == [
        id_ in among for id_ in range(low, low + size + 1)
    ]
    assert found.contains(np.array(others, np.int64)).tolist() == [id_ in among for id_ in others]


# ---------------------------------------------------------------------- deletions


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.02, 0.5, 1]))
def test_after_any_additions_and_deletions_faiss_finds_what_numpy_finds(seed: int, share: float):
    dice = np.random.default_rng(seed)
    rows, ids = unit_rows(400, 16, seed), dice.integers(0, 300, 400)
    vector_ids = np.cumsum(dice.integers(1, 4, 400))  # with gaps
    index = FaissIndex(Segment(rows[:250].astype(np.float16), ids[:250], vector_ids[:250]))
    stored = set(range(250))
    for start in range(250, 400, 50):
        index.add(ids[start : start + 50], rows[start : start + 50], vector_ids[start : start + 50])
        stored |= set(range(start, start + 50))
        gone = set(dice.integers(0, start + 50, 30).tolist())
        index.delete(np.append(vector_ids[list(gone)], vector_ids[-1] + 5))  # the last is unknown
        stored -= gone
        left = sorted(stored)
        allowed = None if share == 1 else IdSet.of(np.flatnonzero(dice.random(300) < share))
        query = unit_rows(1, 16, seed + start)[0]
        expected = filled(ExactIndex, ids[left].tolist(), rows[left]).search(query, 20, allowed)
        found = index.search(query, 20, allowed)
        assert len(index) == len(left)
        assert np.allclose([s for _, s in found], [s for _, s in expected], atol=3e-6)
        assert {item for item, _ in found[:10]} <= {item for item, _ in expected}


# ---------------------------------------------------------------------- a sample


def test_a_sample_is_evenly_strided():
    rows = unit_rows(1000, 8, 3)
    index = filled(FaissIndex, list(range(1000)), rows)
    assert np.array_equal(index.sample(10), rows[::100])
    assert np.array_equal(index.sample(300), rows[np.arange(300) * 1000 // 300])


def test_a_sample_of_few_rows_is_all_of_them():
    rows = unit_rows(5, 8, 3)
    index = filled(FaissIndex, list(range(5)), rows)
    assert np.array_equal(index.sample(5), rows)
    assert np.array_equal(index.sample(600), rows)
    assert FaissIndex.empty(8).sample(10).shape == (0, 8)


def test_a_sample_is_of_the_current_rows():
    index = filled(FaissIndex, [1], unit_rows(1, 4, 0))
    index.sample(2)
    index.add([2], unit_rows(1, 4, 1))
    assert len(index.sample(2)) == 2


def test_every_finite_float16_is_widened_as_by_numpy():
    finite = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = finite[np.isfinite(finite)].reshape(-1, 8)
    rows = np.random.default_rng(0).permutation(len(finite))
    wide = as_float32(finite, rows)
    assert np.array_equal(wide, finite[rows].astype(np.float32))
    assert np.array_equal(np.signbit(wide), np.signbit(finite[rows]))
