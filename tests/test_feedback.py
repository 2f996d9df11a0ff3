"""Rocchio's formula, its sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import InvalidQuery
from mmsearch.search.feedback import rocchio

X, Y, Z = np.eye(3, dtype=np.float32)
NONE = np.zeros((0, 3), np.float32)


def test_rocchio_adds_what_is_liked_and_takes_off_what_is_not():
    moved = rocchio(X, Y[None], Z[None], alpha=1.0, beta=0.5, gamma=0.25)
    expected = np.array([1, 0.5, -0.25]) / np.sqrt(1 + 0.25 + 0.0625)
    assert moved == pytest.approx(expected, abs=1e-6)


def test_the_result_has_unit_length():
    assert np.linalg.norm(rocchio(X, np.stack([X, Y]), Z[None])) == pytest.approx(1, abs=1e-6)


def test_with_nothing_liked_or_not_the_query_stays():
    assert rocchio(X, NONE, NONE) == pytest.approx(X)


def test_ten_likes_count_no_more_than_one():
    once, often = rocchio(X, Y[None], NONE), rocchio(X, np.stack([Y] * 10), NONE)
    assert once == pytest.approx(often, abs=1e-6)


def test_several_likes_count_by_their_mean_direction():
    both = rocchio(X, np.stack([Y, Z]), NONE, beta=1.0)
    assert both == pytest.approx(np.array([1, 0.5**0.5, 0.5**0.5]) / 2**0.5, abs=1e-6)


def test_what_all_that_is_searched_has_in_common_is_not_liked():
    common = 0.6 * Z
    liked = (0.8 * Y + 0.6 * Z)[None]
    moved = rocchio(X, liked, NONE, beta=1.0, mean=common)
    assert moved == pytest.approx((X + Y) / 2**0.5, abs=1e-6)


def test_liking_the_mean_itself_says_nothing():
    assert rocchio(X, Y[None], NONE, mean=Y) == pytest.approx(X)


def test_likes_that_cancel_the_query_out_are_refused():
    with pytest.raises(InvalidQuery, match="cancel"):
        rocchio(X, -X[None], NONE, alpha=1.0, beta=1.0)


@given(st.permutations(range(4)), st.integers(0, 99))
def test_the_order_of_likes_makes_no_difference(order, seed):
    liked = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
    assert rocchio(X, liked, NONE) == pytest.approx(rocchio(X, liked[list(order)], NONE), abs=1e-5)


def test_what_is_liked_comes_nearer_and_what_is_not_goes_further():
    query = np.array([0.6, 0.8, 0], np.float32)
    moved = rocchio(query, Z[None], Y[None])
    assert moved @ Z > query @ Z
    assert moved @ Y < query @ Y
