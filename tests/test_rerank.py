"""A closer look corrects a first ranking, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmsearch.search.rerank import rerank

scores = arrays(np.float32, 12, elements=st.floats(-1, 1, width=16))


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_a_match_is_added_as_far_as_it_is_above_the_mean_of_all() -> None:
    found = rerank(floats(0.5, 0.4, 0.3), floats(1.0, 2.0, 6.0), 0.1)
    np.testing.assert_allclose(found, [0.5 - 0.2, 0.4 - 0.1, 0.3 + 0.3], atol=1e-6)


def test_without_weight_nothing_changes() -> None:
    first = floats(0.5, 0.1, 0.3)
    np.testing.assert_array_equal(rerank(first, floats(3, 2, 1), 0.0), first)


def test_no_candidates_have_no_scores() -> None:
    assert rerank(floats(), floats(), 0.5).shape == (0,)


@given(scores, scores, st.floats(-8, 8, width=16))
def test_what_all_matches_have_in_common_counts_nothing(
    first: np.ndarray, match: np.ndarray, level: float
) -> None:
    np.testing.assert_allclose(
        rerank(first, match + np.float32(level), 0.5), rerank(first, match, 0.5), atol=1e-5
    )


@given(scores, scores)
def test_scores_stay_about_where_they_were(first: np.ndarray, match: np.ndarray) -> None:
    np.testing.assert_allclose(rerank(first, match, 0.5).mean(), first.mean(), atol=1e-5)


def test_a_candidate_without_a_match_keeps_its_score() -> None:
    found = rerank(floats(0.5, 0.4, 0.3), floats(1.0, np.nan, 3.0), 0.1)
    np.testing.assert_allclose(found, [0.4, 0.4, 0.4], atol=1e-6)


def test_without_any_match_scores_stay() -> None:
    first = floats(0.5, 0.4)
    np.testing.assert_array_equal(rerank(first, floats(np.nan, np.nan), 0.5), first)
