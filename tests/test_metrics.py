from __future__ import annotations

from functools import partial
from math import inf, log2

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, Qrel, Rprec, ScoredDoc, Success, nDCG

from mmsearch.errors import MMSearchError
from mmsearch.metrics import (
    Interval,
    average_precision_at_r,
    bootstrap_interval,
    bounds,
    first_rank,
    groups_of,
    median_rank,
    ndcg,
    per_query,
    r_precision,
    ranks_from_scores,
    recall_at_k,
    reciprocal_rank,
    resampled_means,
    resampled_medians,
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
    assert r_precision(["a", "b"], {"z"}) == 0.0
    assert average_precision_at_r(["a", "b"], {"z"}) == 0.0
    assert ndcg(["a", "b"], {"z"}, k=2) == 0.0


def test_an_empty_ranking_scores_zero():
    assert reciprocal_rank([], {"z"}) == 0.0
    assert r_precision([], {"z"}) == 0.0
    assert average_precision_at_r([], {"z"}) == 0.0
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


def test_r_precision_is_the_share_of_relevant_items_among_the_first_r():
    assert r_precision(["a", "x", "b", "c"], {"a", "b", "c"}) == 2 / 3


def test_average_precision_at_r_adds_the_precision_at_each_relevant_rank_up_to_r():
    ranking = ["a", "x", "b", "y", "c"]
    assert average_precision_at_r(ranking, {"a", "b", "c", "d"}) == (1 + 2 / 3) / 4


def test_average_precision_at_r_tells_orders_apart_that_have_the_same_r_precision():
    early, late = ["a", "b", "x", "y"], ["x", "y", "a", "b"]
    relevant = {"a", "b", "c", "d"}
    assert r_precision(early, relevant) == r_precision(late, relevant) == 1 / 2
    assert average_precision_at_r(early, relevant) == 1 / 2
    assert average_precision_at_r(late, relevant) == (1 / 3 + 2 / 4) / 4


def test_what_a_ranking_shorter_than_r_lacks_counts_as_not_relevant():
    assert r_precision(["a", "b"], {"a", "b", "c", "d"}) == 2 / 4
    assert average_precision_at_r(["a", "b"], {"a", "b", "c", "d"}) == 2 / 4


def test_r_counts_the_items_with_a_gain_and_the_gains_themselves_make_no_difference():
    gains = {"a": 5, "b": 0.1, "c": 0, "d": -1}
    assert r_precision(["c", "a"], gains) == 1 / 2
    assert average_precision_at_r(["c", "a"], gains) == 1 / 4


@pytest.mark.parametrize("unit", [1e308, 5e-324])
def test_ndcg_takes_gains_of_any_size(unit):
    assert ndcg(["x", "a", "b"], dict.fromkeys("abc", unit), k=3) == ndcg(["x", "a", "b"], "abc", 3)


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


@unhurried
@given(judged_runs)
def test_r_precision_is_rprec_of_ir_measures(run):
    ours = per_query(r_precision, *zip(*run, strict=True))
    assert ours == pytest.approx(oracle(Rprec, run), abs=1e-9)


@unhurried
@given(judged_runs)
def test_average_precision_at_r_is_ap_of_ir_measures_cut_off_at_r(run):
    ours = per_query(average_precision_at_r, *zip(*run, strict=True))
    theirs = [oracle(AP @ len(wanted), [(ranking, wanted)])[0] for ranking, wanted in run]
    assert ours == pytest.approx(theirs, abs=1e-9)


# Laws


@given(rankings, positives)
def test_average_precision_at_r_never_exceeds_r_precision(ranking, relevant):
    share = r_precision(ranking, relevant)
    assert 0 <= average_precision_at_r(ranking, relevant) <= share + 1e-12
    assert share <= 1


@given(rankings, positives)
def test_both_are_1_exactly_if_the_first_r_items_are_the_relevant_ones(ranking, relevant):
    ideal = set(ranking[: len(relevant)]) == relevant
    assert (r_precision(ranking, relevant) == 1) is ideal
    assert (average_precision_at_r(ranking, relevant) == 1) is ideal


@given(rankings, st.integers(0, ITEMS - 1))
def test_with_one_relevant_item_both_are_recall_at_1(ranking, item):
    recall = recall_at_k(ranking, {item}, k=1)
    assert r_precision(ranking, {item}) == average_precision_at_r(ranking, {item}) == recall


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


# Queries that stand or fall together


def test_queries_that_share_what_is_right_are_one_group():
    assert groups_of([{"a"}, {"b"}, {"a", "c"}, {"d"}, {"c"}]).tolist() == [0, 1, 0, 2, 0]


def test_a_query_with_two_right_items_joins_the_groups_of_both():
    assert groups_of([{"a"}, {"b"}, {"a", "b"}]).tolist() == [0, 0, 0]


@given(st.lists(st.sets(st.integers(0, 12), max_size=3), min_size=1, max_size=15))
def test_groups_are_the_connected_components_of_shared_items(relevant):
    group = list(range(len(relevant)))
    for _ in relevant:  # spread the lowest number until nothing changes
        for one, its in enumerate(relevant):
            for other, theirs in enumerate(relevant):
                if its & theirs:
                    group[one] = group[other] = min(group[one], group[other])
    numbers = {first: number for number, first in enumerate(sorted(set(group)))}
    assert groups_of(relevant).tolist() == [numbers[first] for first in group]


grouped = st.lists(
    st.tuples(st.floats(0, 1, allow_subnormal=False), st.integers(0, 5)), min_size=1, max_size=30
).map(lambda pairs: ([v for v, _ in pairs], groups_of([{g} for _, g in pairs])))


def resamples_by_hand(groups, resamples, seed):
    """The queries of each resample, some of them several times."""
    count = max(groups) + 1
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    return [[q for g in row for q in np.flatnonzero(groups == g)] for row in drawn]


@given(grouped)
def test_resampled_figures_are_those_of_the_queries_of_the_groups_drawn(sample):
    figures, groups = np.array(sample[0]), sample[1]
    picked = resamples_by_hand(groups, resamples=9, seed=4)
    means = resampled_means(figures, groups, resamples=9, seed=4)
    medians = resampled_medians(figures, groups, resamples=9, seed=4)
    assert means == pytest.approx([figures[queries].mean() for queries in picked])
    assert medians == pytest.approx([np.median(figures[queries]) for queries in picked])


@given(grouped, st.integers(1, 50))
def test_how_many_are_drawn_at_once_makes_no_difference(sample, at_once):
    figures, groups = sample
    with pytest.MonkeyPatch.context() as patch:
        whole = resampled_medians(figures, groups, resamples=9)
        patch.setattr("mmsearch.metrics.DRAWS_AT_ONCE", at_once)
        assert resampled_medians(figures, groups, resamples=9).tolist() == whole.tolist()


def test_several_measures_are_resampled_together():
    table = np.random.default_rng(1).random((20, 3))
    groups = groups_of([{q // 2} for q in range(20)])
    together = resampled_means(table, groups)
    assert together.shape == (1000, 3)
    assert together[:, 2] == pytest.approx(resampled_means(table[:, 2], groups))


def test_five_captions_of_a_photo_that_agree_are_worth_one():
    per_photo = np.random.default_rng(2).random(40)
    groups = np.repeat(np.arange(40), 5)
    grouped = bounds(resampled_means(np.repeat(per_photo, 5), groups))
    interval = bootstrap_interval(per_photo)
    assert grouped == pytest.approx((interval.low, interval.high))


def test_a_median_of_what_is_mostly_not_found_has_infinite_bounds():
    medians = resampled_medians([1.0, 2.0, *[inf] * 8], np.arange(10))
    assert bounds(medians)[1] == inf
    assert not np.isnan(bounds(medians)[0])


# What cannot be measured


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        (lambda: recall_at_k(["a"], {"a"}, k=0), "cutoff must be 1 or more, not 0"),
        (lambda: ndcg(["a"], {"a"}, k=-1), "cutoff must be 1 or more, not -1"),
        (lambda: reciprocal_rank(["a"], set()), "nothing is relevant"),
        (lambda: r_precision(["a"], set()), "nothing is relevant"),
        (lambda: average_precision_at_r(["a"], {"a": 0}), "nothing is relevant"),
        (lambda: r_precision(["b", "a", "a"], {"a"}), "stands twice"),
        (lambda: average_precision_at_r(["b", "a", "a"], {"a"}), "stands twice"),
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
        (lambda: resampled_means([1.0], [0, 0]), "2 groups do not fit values of shape"),
        (lambda: resampled_means([], []), "0 groups do not fit"),
        (lambda: resampled_means([inf], [0]), "must be finite"),
        (lambda: resampled_means([1.0, 2.0], [0, 2]), "without a gap"),
    ],
)
def test_what_cannot_be_measured_is_a_clear_error(measure, reason):
    with pytest.raises(MMSearchError, match=reason):
        measure()
