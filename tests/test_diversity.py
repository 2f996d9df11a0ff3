"""Diverse hits and groups of copies, against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import InvalidQuery
from mmsearch.search.diversity import collapse, mmr


def rows(count: int, dim: int = 4, seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def mmr_by_the_paper(scores, vectors, k, lam):
    spread = (max(scores) - min(scores)) or 1.0
    relevance = [(score - min(scores)) / spread for score in scores]
    chosen = [0] if k else []
    while len(chosen) < min(k, len(scores)):
        rest = [place for place in range(len(scores)) if place not in chosen]

        def marginal(place):
            alike = max(float(vectors[place] @ vectors[other]) for other in chosen)
            return lam * relevance[place] - (1 - lam) * alike

        best = max(map(marginal, rest))
        chosen.append(next(place for place in rest if marginal(place) >= best - 1e-6))
    return chosen


falling = st.lists(st.integers(-20, 20), min_size=1, max_size=12).map(
    lambda given: [one / 10 for one in sorted(given, reverse=True)]
)


@given(falling, st.integers(1, 15), st.sampled_from([0.0, 0.3, 0.5, 0.8]), st.integers(0, 99))
def test_mmr_is_carbonell_and_goldsteins_formula(scores, k, lam, seed):
    vectors = rows(len(scores), seed=seed)
    assert mmr(scores, vectors, k, lam) == mmr_by_the_paper(scores, vectors, k, lam)


@given(falling, st.integers(1, 15))
def test_at_lambda_one_the_order_is_the_one_given(scores, k):
    assert mmr(scores, rows(len(scores)), k, 1.0) == list(range(min(k, len(scores))))


@given(falling, st.integers(0, 15), st.floats(0, 1))
def test_each_hit_is_chosen_at_most_once(scores, k, lam):
    order = mmr(scores, rows(len(scores)), k, lam)
    assert len(set(order)) == len(order) == min(k, len(scores))


def test_the_scale_of_the_scores_makes_no_difference():
    scores, vectors = np.array([0.9, 0.8, 0.5, 0.1]), rows(4, seed=3)
    assert mmr(scores, vectors, 4, 0.6) == mmr(100 * scores + 7, vectors, 4, 0.6)


def test_a_copy_of_the_first_hit_comes_after_what_differs():
    one, other = np.eye(2, dtype=np.float32)
    assert mmr([1.0, 0.9, 0.5], np.stack([one, one, other]), 3, 0.5) == [0, 2, 1]


def test_of_no_hits_none_are_chosen():
    assert mmr([], np.zeros((0, 4), np.float32), 5, 0.5) == []


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_lambda_lies_between_zero_and_one(lam):
    with pytest.raises(InvalidQuery, match="from 0"):
        mmr([1.0], rows(1), 1, lam)


# ---------------------------------------------------------------------- copies


def at(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


NONE = [None] * 9


def test_items_alike_become_one_group_in_order_of_rank():
    assert collapse([7, 3, 9, 4], NONE[:4], at(0, 90, 2, 91), 0.99) == [[7, 9], [3, 4]]


def test_no_chain_of_small_changes_makes_a_group():
    # each is as like the next as the threshold says, the third not as like the first
    threshold = float(np.cos(np.radians(10.1)))
    assert collapse([1, 2, 3], NONE[:3], at(0, 10, 20), threshold) == [[1, 2], [3]]


def test_an_item_alike_to_two_groups_joins_the_first():
    threshold = float(np.cos(np.radians(10.1)))
    assert collapse([1, 2, 3], NONE[:3], at(0, 20, 10), threshold) == [[1, 3], [2]]


def test_the_same_content_is_one_group_however_the_vectors_differ():
    assert collapse([1, 2, 3], [b"x", b"y", b"x"], at(0, 90, 180), 0.99) == [[1, 3], [2]]


def test_unknown_content_is_like_no_other():
    assert collapse([1, 2], [None, None], at(0, 90), 0.99) == [[1], [2]]


def test_rows_of_zeros_are_like_no_other():
    nothing = np.zeros((2, 2), np.float32)
    assert collapse([1, 2], NONE[:2], nothing, 0.9) == [[1], [2]]


def test_above_one_only_the_content_counts():
    assert collapse([1, 2, 3], [b"x", b"y", b"x"], at(0, 0, 0), 1.5) == [[1, 3], [2]]


@given(st.integers(0, 30), st.integers(0, 99), st.sampled_from([0.3, 0.7, 0.95]))
def test_groups_hold_each_item_once_and_all_like_their_first(count, seed, threshold):
    vectors, ids = rows(count, dim=3, seed=seed), list(range(100, 100 + count))
    groups = collapse(ids, [None] * count, vectors, threshold)
    assert sorted(one for group in groups for one in group) == ids
    for group in groups:
        for one in group[1:]:
            assert float(vectors[one - 100] @ vectors[group[0] - 100]) >= threshold - 1e-6
    firsts = [group[0] - 100 for group in groups]
    assert firsts == sorted(firsts)
    assert all(
        float(vectors[a] @ vectors[b]) < threshold + 1e-6 for a in firsts for b in firsts if a < b
    )
