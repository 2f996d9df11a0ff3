from __future__ import annotations

from functools import partial
from math import inf, log2

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG

from mmsearch.errors import MMSearchError
from mmsearch.metrics import (
    Interval,
    bootstrap_interval,
    first_rank,
    median_rank,
    ndcg,
    per_query,
    ranks_from_scores,
    recall_at_k,
    reciprocal_rank,
)

ITEMS = 20
cutoffs = st.integers(1, ITEMS + 5)
rankings = st.permutations(range(ITEMS)).flatmap(
    lambda order: st.integers(1, ITEMS).map(lambda length: order[:length])
)
positives = st.sets(st.integers(0, ITEMS - 1), min_size=1)
gains = st.dictionaries(st.integers(0, ITEMS - 1), st.integers(1, 4), min_size=1)
judged_runs = st.lists(st.tuples(rankings, gains), min_size=1, max_size=6)


# ir_measures loads its providers on the first call, and takes its time over it
unhurried = settings(deadline=None)


def oracle(measure, run):
    """What ir_measures gives for each query; scores fall by one a rank, so nothing ties."""
    qrels = [
        Qrel(str(q), str(i), g) for q, (_, wanted) in enumerate(run) for i, g in wanted.items()
    ]
    docs = [
        ScoredDoc(str(q), str(item), float(-rank))
        for q, (ranking, _) in enumerate(run)
        for rank, item in enumerate(ranking)
    ]
    found = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, docs)}
    return [found[str(q)] for q in range(len(run))]


# Arithmetic, written out


def test_recall_asks_whether_any_relevant_item_is_in_the_top_k():
    ranking = ["a", "b", "c", "d"]
    relevant = {"c", "d", "z"}
    assert [recall_at_k(ranking, relevant, k) for k in (1, 2, 3, 4, 9)] == [0, 0, 1, 1, 1]


def test_recall_counts_one_of_five_captions_as_found():
    assert recall_at_k([7, 1, 2], {7, 10, 11, 12, 13}, k=1) == 1.0


def test_reciprocal_rank_is_one_over_the_first_relevant_rank():
    assert reciprocal_rank(["a", "b", "c", "d"], {"c", "d"}) == 1 / 3


def test_nothing_relevant_found_scores_zero():
    assert first_rank(["a", "b"], {"z"}) == inf
    assert reciprocal_rank(["a", "b"], {"z"}) == 0.0
    assert recall_at_k(["a", "b"], {"z"}, k=2) == 0.0
    assert ndcg(["a", "b"], {"z"}, k=2) == 0.0


def test_an_empty_ranking_scores_zero():
    assert reciprocal_rank([], {"z"}) == 0.0
    assert ndcg([], {"z"}, k=3) == 0.0


def test_ndcg_of_a_set_gives_each_relevant_item_a_gain_of_one():
    got = 1 / log2(2) + 1 / log2(4)  # ranks 1 and 3
    best = 1 / log2(2) + 1 / log2(3)
    assert ndcg(["a", "x", "b"], {"a", "b"}, k=3) == pytest.approx(got / best)


def test_ndcg_discounts_graded_gains_by_rank():
    got = 1 / log2(2) + 3 / log2(3) + 0 / log2(4)
    best = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    graded = {"a": 3, "b": 2, "c": 1}
    assert ndcg(["c", "a", "x"], graded, k=3) == pytest.approx(got / best)


def test_ndcg_compares_with_the_best_that_k_items_could_gain():
    assert ndcg(["a", "x", "y"], {"a", "b", "c"}, k=1) == 1.0


def test_an_id_with_no_gain_is_not_relevant():
    assert reciprocal_rank(["a", "b"], {"a": 0, "b": 1}) == 1 / 2
    assert ndcg(["a", "b"], {"a": -1, "b": 1}, k=2) == pytest.approx(1 / log2(3))


def test_median_rank_lies_between_the_two_middle_ranks():
    assert median_rank([1, 10, 3, 4]) == 3.5


def test_median_rank_takes_what_was_not_found_as_last():
    assert median_rank([1.0, 2.0, inf]) == 2.0
    assert median_rank([1.0, inf, inf]) == inf


def test_per_query_keeps_the_order_of_the_queries():
    values = per_query(reciprocal_rank, [["a", "b"], ["a", "b"], ["a"]], [{"b"}, {"a"}, {"z"}])
    assert values.dtype == np.float64
    assert values.tolist() == [1 / 2, 1.0, 0.0]


# Ranks from a matrix of scores


def test_the_rank_is_that_of_the_best_positive():
    scores = [[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]]
    assert ranks_from_scores(scores, [[1, 2], [2]]).tolist() == [2, 3]


def test_of_tied_items_the_lower_index_stands_first():
    scores = np.array([[0.5, 0.5, 0.5, 0.9]])
    assert ranks_from_scores(scores, [[0]]).tolist() == [2]
    assert ranks_from_scores(scores, [[2]]).tolist() == [4]
    assert ranks_from_scores(scores, [[2, 1]]).tolist() == [3]


def test_an_item_at_minus_infinity_ranks_last():
    assert ranks_from_scores([[-inf, -2.0, -1.0]], [[0]]).tolist() == [3]


@given(st.data())
def test_ranks_from_scores_equal_those_of_the_sorted_ranking(data):
    # few levels, so that many scores tie
    rows = data.draw(
        st.lists(st.lists(st.integers(0, 3), min_size=ITEMS, max_size=ITEMS), min_size=1)
    )
    right = [data.draw(positives) for _ in rows]
    by_sorting = [
        first_rank(sorted(range(ITEMS), key=lambda item, row=row: (-row[item], item)), wanted)
        for row, wanted in zip(rows, right, strict=True)
    ]
    assert ranks_from_scores(np.array(rows, dtype=np.float32), right).tolist() == by_sorting


# Agreement with ir_measures


@unhurried
@given(judged_runs, cutoffs)
def test_recall_at_k_is_success_at_k_of_ir_measures(run, k):
    ours = per_query(partial(recall_at_k, k=k), *zip(*run, strict=True))
    assert ours == pytest.approx(oracle(Success @ k, run), abs=1e-9)


@unhurried
@given(judged_runs)
def test_reciprocal_rank_is_rr_of_ir_measures(run):
    ours = per_query(reciprocal_rank, *zip(*run, strict=True))
    assert ours == pytest.approx(oracle(RR, run), abs=1e-9)


@unhurried
@given(judged_runs, cutoffs)
def test_ndcg_is_ndcg_of_ir_measures(run, k):
    ours = per_query(partial(ndcg, k=k), *zip(*run, strict=True))
    assert ours == pytest.approx(oracle(nDCG @ k, run), abs=1e-9)


# Laws


@given(rankings, positives, cutoffs)
def test_recall_never_falls_as_k_grows(ranking, relevant, k):
    assert recall_at_k(ranking, relevant, k) <= recall_at_k(ranking, relevant, k + 1)


@given(rankings, gains, cutoffs)
def test_every_metric_lies_between_zero_and_one(ranking, relevant, k):
    assert recall_at_k(ranking, relevant, k) in (0.0, 1.0)
    assert 0 <= reciprocal_rank(ranking, relevant) <= 1
    assert 0 <= ndcg(ranking, relevant, k) <= 1 + 1e-12


@given(gains, cutoffs)
def test_items_in_order_of_gain_have_an_ndcg_of_one(relevant, k):
    best_first = sorted(relevant, key=relevant.__getitem__, reverse=True)
    assert ndcg(best_first, relevant, k) == pytest.approx(1.0)


values = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=60)


@given(values)
def test_an_interval_holds_its_mean(sample):
    interval = bootstrap_interval(sample)
    assert interval.low - 1e-12 <= interval.mean <= interval.high + 1e-12


@given(values)
def test_more_confidence_never_gives_a_narrower_interval(sample):
    sure, surer = (bootstrap_interval(sample, confidence=c, resamples=200) for c in (0.8, 0.99))
    assert surer.low <= sure.low
    assert sure.high <= surer.high


# The bootstrap


def test_a_seed_gives_the_same_interval_each_time():
    sample = np.random.default_rng(3).random(50)
    assert bootstrap_interval(sample, seed=1) == bootstrap_interval(sample, seed=1)
    assert bootstrap_interval(sample, seed=1) != bootstrap_interval(sample, seed=2)


def test_the_interval_of_many_coin_throws_is_that_of_the_normal_distribution():
    throws = np.repeat([0.0, 1.0], 1250)
    half_width = 1.96 * (0.5 * 0.5 / 2500) ** 0.5
    interval = bootstrap_interval(throws, resamples=4000)
    assert interval.mean == 0.5
    assert interval.high - 0.5 == pytest.approx(half_width, rel=0.1)
    assert 0.5 - interval.low == pytest.approx(half_width, rel=0.1)


def test_drawing_in_small_parts_fills_every_resample(monkeypatch):
    monkeypatch.setattr("mmsearch.metrics.DRAWS_AT_ONCE", 7)
    assert bootstrap_interval([2.0, 2.0, 2.0], resamples=11) == Interval(2.0, 2.0, 2.0)


def test_a_single_query_gives_an_interval_of_no_width():
    assert bootstrap_interval([0.25]) == Interval(0.25, 0.25, 0.25)


# What cannot be measured


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (lambda: recall_at_k(["a"], {"a"}, k=0), "cutoff must be 1 or more, not 0"),
        (lambda: ndcg(["a"], {"a"}, k=-1), "cutoff must be 1 or more, not -1"),
        (lambda: reciprocal_rank(["a"], set()), "nothing is relevant"),
        (lambda: ndcg(["a"], {"a": 0}, k=1), "nothing is relevant"),
        (lambda: ndcg(["a", "a"], {"a"}, k=2), "stands twice"),
        (lambda: reciprocal_rank(["a", "a"], {"a"}), "stands twice"),
        (lambda: median_rank([]), "no queries"),
        (lambda: per_query(reciprocal_rank, [], []), "no queries"),
        (lambda: per_query(reciprocal_rank, [["a"]], []), "1 rankings do not pair .* 0 queries"),
        (lambda: per_query(reciprocal_rank, [["a"]] * 2, [{"a"}, set()]), "query 1: nothing"),
        (lambda: ranks_from_scores(np.zeros((0, 3)), []), "no queries"),
        (lambda: ranks_from_scores([1.0, 2.0], [[0]]), r"not of shape \(2,\)"),
        (lambda: ranks_from_scores([[1.0, 2.0]], [[0], [1]]), "1 rows of scores do not pair"),
        (lambda: ranks_from_scores([[1.0, 2.0]], [[]]), "query 0 has no positive"),
        (lambda: ranks_from_scores([[1.0, 2.0]], [[2]]), "outside 0 … 1"),
        (lambda: ranks_from_scores([[1.0, 2.0]], [[-1]]), "outside 0 … 1"),
        (lambda: ranks_from_scores([[1.0, np.nan]], [[0]]), "not a number"),
        (lambda: bootstrap_interval([]), "one or more"),
        (lambda: bootstrap_interval([[1.0]]), "one or more"),
        (lambda: bootstrap_interval([1.0, inf]), "must be finite"),
        (lambda: bootstrap_interval([1.0], confidence=95), "between 0 and 1, not at 95"),
        (lambda: bootstrap_interval([1.0], resamples=0), "resamples must be 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_a_clear_error(measure, reason):
    with pytest.raises(MMSearchError, match=reason):
        measure()
