from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.search.fusion import DEFAULT, FUSIONS, WEIGHTS, combmnz, rrf, wsum

scored = st.lists(
    st.dictionaries(st.integers(0, 20), st.floats(-9, 9, width=32)).map(lambda d: list(d.items())),
    max_size=4,
)
rankings = st.lists(
    st.lists(st.integers(0, 20), unique=True).map(lambda ids: [(i, 0.0) for i in ids]), max_size=4
)


def test_rrf_adds_reciprocal_ranks():
    fused = rrf([[(1, 0.9), (2, 0.8)], [(3, 5.0), (4, 4.0), (1, 3.0)]])
    assert fused[0] == (1, pytest.approx(1 / (60 + 1) + 1 / (60 + 3)))
    assert [item for item, _ in fused] == [1, 3, 2, 4]


@given(rankings)
def test_rrf_does_not_care_in_which_order_rankings_come(given_rankings):
    forward, backward = rrf(given_rankings), rrf(given_rankings[::-1])
    assert dict(forward) == pytest.approx(dict(backward))


@given(rankings)
def test_rrf_keeps_every_item_once(given_rankings):
    fused = [item for item, _ in rrf(given_rankings)]
    assert sorted(fused) == sorted({item for ranking in given_rankings for item, _ in ranking})


@given(rankings, st.integers(-900, 900))
def test_rrf_ranks_by_how_weights_compare(given_rankings, power):
    weights = [float(number) for number in range(1, len(given_rankings) + 1)]
    scaled = rrf(given_rankings, [weight * 2.0**power for weight in weights])
    assert [item for item, _ in scaled] == [item for item, _ in rrf(given_rankings, weights)]


# ---------------------------------------------------------------------- wsum


def test_wsum_is_the_weighted_mean_of_the_scores():
    fused = wsum([[("a", 3.0), ("b", 1.0)], [("b", 4.0), ("a", 0.0)]], [2.0, 1.0])
    assert fused == [("a", pytest.approx((2 * 3 + 0) / 3)), ("b", pytest.approx((2 * 1 + 4) / 3))]


def test_wsum_judges_a_photo_without_a_caption_by_its_picture():
    pictures = [("bare", 3.0), ("captioned", 2.0), ("other", 0.0)]
    captions = [("captioned", 2.5), ("other", 0.0)]
    assert wsum([pictures, captions])[0] == ("bare", 3.0)


def test_wsum_puts_a_photo_first_that_both_rankings_vouch_for():
    pictures = [("bare", 3.0), ("captioned", 2.9), ("other", 0.0)]
    captions = [("captioned", 5.0), ("other", 0.0)]
    assert wsum([pictures, captions])[0][0] == "captioned"


def test_wsum_counts_what_a_ranking_leaves_out_where_that_is_known():
    pictures = [(1, 1.0), (2, 1.0), (3, 0.0)]
    words = [(2, 4.0)]
    fused = dict(wsum([pictures, words], [1.0, 0.5], absent=[None, -0.5]))
    assert fused[2] - fused[1] == pytest.approx(0.5 * (4.0 + 0.5))
    assert fused[1] == 1.0


def test_wsum_finds_what_only_words_know():
    fused = wsum([[(1, 0.5)], [(7, 30.0)]], [1.0, 0.5], absent=[None, 0.0])
    assert fused[0] == (7, 15.0)


def test_wsum_of_words_alone_ranks_by_them():
    assert wsum([[(1, 2.0), (2, 1.0)]], [0.5], absent=[0.0]) == [(1, 2.0), (2, 1.0)]


def test_wsum_pushes_away_what_is_like_a_ranking_of_negative_weight():
    wanted, unwanted = [(1, 2.0), (2, 2.0), (3, 2.0)], [(1, 1.0), (2, -5.0), (9, 3.0)]
    assert wsum([wanted, unwanted], [1.0, -1.0]) == [(2, 2.0), (3, 2.0), (1, 1.0)]


def test_wsum_keeps_the_order_of_a_single_ranking():
    assert wsum([[(3, 2.0), (1, 1.0), (2, -1.0)]]) == [(3, 2.0), (1, 1.0), (2, -1.0)]


@given(scored, st.randoms())
def test_wsum_does_not_care_in_which_order_rankings_come(given_rankings, random):
    order = list(range(len(given_rankings)))
    random.shuffle(order)
    weights = [float(number) for number in range(1, len(given_rankings) + 1)]
    absent = [None if number % 2 else 0.0 for number in range(len(given_rankings))]
    forward = wsum(given_rankings, weights, absent)
    other = ([weights[i] for i in order], [absent[i] for i in order])
    assert wsum([given_rankings[i] for i in order], *other) == forward


@given(scored, st.integers(-900, 900))
def test_wsum_ranks_by_how_weights_compare(given_rankings, power):
    weights = [float(number) for number in range(1, len(given_rankings) + 1)]
    scaled = wsum(given_rankings, [weight * 2.0**power for weight in weights])
    assert scaled == wsum(given_rankings, weights)


def by_the_formula(rankings, weights, absent) -> dict[int, float]:
    """`wsum` as its docstring has it."""
    parts = list(zip(map(dict, rankings), weights, absent, strict=True))
    averaged = [(scores, w) for scores, w, floor in parts if w > 0 and floor is None]
    total = sum(w for _, w in averaged) or sum(w for w in weights if w > 0)
    largest = max([w for _, w in averaged] or map(abs, weights), default=0.0)
    fused = {}
    for key in {key for scores, w, _ in parts if w > 0 for key in scores}:
        known = [(scores[key], w) for scores, w in averaged if key in scores]
        fused[key] = sum(s * w for s, w in known) / sum(w for _, w in known) if known else 0.0
        for scores, w, floor in parts:
            if key in scores and w < 0:
                fused[key] += w * max(scores[key], 0.0) / total
            elif key in scores and w > 0 and floor is not None:
                fused[key] += w * (scores[key] - floor) / largest
    return fused


@given(st.data(), scored)
def test_wsum_is_its_formula_whatever_the_weights_and_the_scores_of_absent_keys(data, rankings):
    number = len(rankings)
    weight = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0, -0.5, -3.0])
    weights = data.draw(st.lists(weight, min_size=number, max_size=number))
    floor = st.sampled_from([None, 0.0, -0.5, -2.0])
    absent = data.draw(st.lists(floor, min_size=number, max_size=number))
    fused = dict(wsum(rankings, weights, absent))
    assert fused == pytest.approx(by_the_formula(rankings, weights, absent), abs=1e-9)


# ---------------------------------------------------------------------- combmnz


def test_combmnz_multiplies_the_sum_by_how_many_rankings_vouch():
    fused = combmnz([[("a", 3.0), ("b", 2.0)], [("b", 1.5), ("c", 4.0)]], [1.0, 2.0])
    assert dict(fused) == {"a": 1 * 3.0, "b": 2 * (2.0 + 2 * 1.5), "c": 1 * 2 * 4.0}


def test_combmnz_takes_a_score_below_zero_for_none():
    assert combmnz([[(1, 2.0), (2, 1.0)], [(1, -3.0)]]) == [(1, 2.0), (2, 1.0)]


@given(scored)
def test_combmnz_of_positive_scores_is_their_sum_times_their_number(given_rankings):
    positive = [[(key, abs(score) + 1) for key, score in ranking] for ranking in given_rankings]
    for key, score in combmnz(positive):
        held = [dict(ranking)[key] for ranking in positive if key in dict(ranking)]
        assert score == pytest.approx(len(held) * sum(held))


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", sorted(FUSIONS))
@given(given_rankings=scored)
def test_every_fusion_keeps_every_item_once_best_first(name, given_rankings):
    fused = FUSIONS[name](given_rankings)
    assert sorted(key for key, _ in fused) == sorted({k for one in given_rankings for k, _ in one})
    assert fused == sorted(fused, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_no_fusion_finds_what_is_only_unwanted(name):
    fused = FUSIONS[name]([[(1, 1.0)], [(1, 1.0), (2, 5.0)]], [1.0, -1.0])
    assert [key for key, _ in fused] == [1]


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_every_fusion_of_nothing_is_nothing(name):
    assert FUSIONS[name]([]) == FUSIONS[name]([[], []], [1.0, 0.5], [None, 0.0]) == []


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_ties_stand_in_order_of_key(name):
    fused = FUSIONS[name]([[(9, 1.0)], [(4, 1.0)]])
    assert [key for key, _ in fused] == [4, 9]


def test_the_default_is_one_of_the_fusions_and_weighs_every_facet():
    assert DEFAULT in FUSIONS
    assert WEIGHTS.keys() == {"image", "text", "audio", "words"}
