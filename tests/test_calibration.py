from __future__ import annotations

from math import erf, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.spaces.calibration import (
    EXPECTED_WEIGHT,
    MAX_CONFIDENCE,
    MIN_ITEMS,
    NEAREST,
    NO_GOOD_MATCH,
    PRIOR_ITEMS,
    Background,
    Reference,
    expected,
)

plain_scores = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50).map(np.array)
REFERENCE = Reference(level=-0.15, growth=0.035, spread=0.05)


def normal(rows: int, seed: int = 0, *, center: float = 0.1, spread: float = 0.05) -> np.ndarray:
    return np.random.default_rng(seed).normal(center, spread, rows).astype(np.float32)


# ---------------------------------------------------------------------- standardised scores


def test_a_score_is_standardised_by_mean_and_standard_deviation():
    background = Background.of(np.array([0.1, 0.2, 0.6]), 3)
    mean, deviation = 0.3, sqrt((0.2**2 + 0.1**2 + 0.3**2) / 3)
    assert background.standardised(0.5) == pytest.approx((0.5 - mean) / deviation)


@given(plain_scores, st.floats(0.1, 10), st.floats(-5, 5), st.floats(-1, 1))
def test_scale_and_offset_of_a_modality_do_not_matter(scores, scale, offset, score):
    if scores.std() < 1e-3:
        return
    before = Background.of(scores, len(scores)).standardised(score)
    moved = Background.of(scale * scores + offset, len(scores)).standardised(scale * score + offset)
    assert moved == pytest.approx(before, rel=1e-3, abs=1e-3)


@given(plain_scores)
def test_standardising_keeps_the_order(scores):
    background = Background.of(scores, len(scores))
    found = [background.standardised(score) for score in np.sort(scores).tolist()]
    assert found == sorted(found)


@pytest.mark.parametrize("scores", [[], [0.4], [0.4, 0.4, 0.4]])
def test_among_equal_scores_none_stands_out(scores):
    assert Background.of(np.array(scores), len(scores)).standardised(0.4) == 0


def test_scores_of_texts_and_images_become_comparable():
    texts = Background.of(normal(1000, center=0.5, spread=0.2), 1000)
    pictures = Background.of(normal(1000, seed=1, center=0.05, spread=0.03), 1000)
    assert texts.standardised(0.9) == pytest.approx(pictures.standardised(0.11), abs=0.25)


def test_typical_items_give_three_items_a_background():
    typical = normal(2000)
    alone = Background.of(np.array([0.3, 0.31, 0.32]), 3)
    helped = Background.of(np.array([0.3, 0.31, 0.32]), 3, bank=typical)
    assert alone.standardised(0.32) < 2 < helped.standardised(0.32)


def test_typical_items_weigh_as_much_as_the_prior():
    items, typical = np.full(PRIOR_ITEMS, 1.0), np.zeros(5000)
    assert Background.of(items, PRIOR_ITEMS, bank=typical).center == pytest.approx(0.5)


def test_typical_items_hardly_change_the_background_of_a_large_index():
    scores, typical = normal(5000), normal(2000, center=0.9)
    moved = Background.of(scores, 5000, bank=typical)
    assert moved.center == pytest.approx(Background.of(scores, 5000).center, abs=0.01)


def test_words_in_few_items_stand_out_more():
    rare, common = (Background.of_words([5.0] * held, 1000) for held in (1, 400))
    assert rare.standardised(5.0) > 10 * common.standardised(5.0) > 0


def test_an_item_without_the_words_scores_below_average():
    assert Background.of_words([5.0] * 400, 1000).standardised(0.0) < 0


def test_the_background_of_words_counts_zeros_for_items_not_found():
    every = np.array([3.0, 1.0, 0, 0, 0])
    words, exact = Background.of_words([3.0, 1.0], 5), Background.of(every, 5)
    assert (words.center, words.spread) == pytest.approx((exact.center, exact.spread))


def test_words_in_no_item_have_a_background():
    assert Background.of_words([], 0).standardised(0.0) == 0


# ---------------------------------------------------------------------- what is expected


def test_expected_is_half_the_mean_score_of_the_nearest_typical_items():
    typical = np.array([0.0] * 50 + [0.1, 0.2, 0.3, 0.4, 0.5])
    assert NEAREST == 5
    assert expected(typical) == pytest.approx(EXPECTED_WEIGHT * 0.3)


def test_nothing_is_expected_without_typical_items():
    assert expected(np.array([])) == 0


def test_expected_leaves_its_scores_unchanged():
    typical = normal(50)
    before = typical.copy()
    expected(typical)
    assert (typical == before).all()


# ---------------------------------------------------------------------- confidence


def test_confidence_is_the_share_of_queries_without_a_match_that_score_less():
    background = Background.of(normal(100), 1000, reference=Reference(-0.15, 0.035, 0.05))
    level = -0.15 + 0.035 * log(1000)
    share = 0.5 * (1 + erf((0.15 - level) / 0.05 / sqrt(2)))
    assert background.confidence(0.15) == pytest.approx(share)


def test_what_the_query_shares_with_bank_items_is_subtracted():
    typical = np.full(100, 0.2)
    background = Background.of(normal(100), 1000, bank=typical, reference=REFERENCE)
    bare = Background.of(normal(100), 1000, reference=REFERENCE)
    assert background.confidence(0.3) == pytest.approx(bare.confidence(0.3 - EXPECTED_WEIGHT * 0.2))


def test_nothing_is_subtracted_for_a_reference_without_typical_items():
    plain = Reference(-0.15, 0.035, 0.05, with_bank=False)
    background = Background.of(normal(9), 9, bank=np.full(9, 0.2), reference=plain)
    assert background.expected == 0


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 10**7))
def test_a_higher_score_never_has_a_lower_confidence(one, other, items):
    background = Background(0.1, 0.05, items, REFERENCE)
    low, high = sorted((one, other))
    assert background.confidence(low) <= background.confidence(high)


@given(st.floats(-1, 1), st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_same_score_has_no_higher_confidence_among_more_items(score, one, other):
    few, many = sorted((one, other))
    sure = [Background(0.1, 0.05, n, REFERENCE).confidence(score) for n in (few, many)]
    assert sure[0] >= sure[1]


@given(st.floats(-5, 5), st.integers(0, 10**9), st.integers(1, 5), st.booleans())
def test_confidence_is_between_zero_and_the_largest(score, items, modalities, known):
    background = Background(0.1, 0.05, items, REFERENCE if known else None)
    found = background.confidence(score, modalities)
    assert found is None or 0 <= found <= MAX_CONFIDENCE


def test_confidence_is_lower_if_several_modalities_could_give_the_score():
    background = Background(0.1, 0.05, 1000, REFERENCE)
    assert background.confidence(0.2, 2) == pytest.approx(background.confidence(0.2) ** 2)


def test_fifty_photos_of_a_dog_do_not_lower_the_confidence_of_each():
    cats, dogs = normal(950), normal(50, center=0.35, spread=0.01)
    few = Background.of(np.append(cats, dogs[:1]), 951, reference=REFERENCE)
    many = Background.of(np.concatenate([cats, dogs]), 1000, reference=REFERENCE)
    assert few.confidence(0.35) - many.confidence(0.35) < 0.01
    assert many.confidence(0.35) > 0.9


def test_three_photos_are_enough_for_a_confident_match():
    background = Background.of(np.array([0.0, -0.05, 0.3]), 3, reference=REFERENCE)
    assert background.confidence(0.3) > 0.9
    assert background.confidence(-0.2) < NO_GOOD_MATCH


def test_without_a_reference_confidence_comes_from_many_items():
    scores = normal(1000)
    background = Background.of(scores, 1000)
    assert background.confidence(0.1 + 8 * 0.05) > 0.9
    assert background.confidence(0.1 + 2 * 0.05) < 0.1


def test_without_a_reference_few_items_give_no_confidence():
    assert Background.of(normal(MIN_ITEMS - 1), MIN_ITEMS - 1).confidence(0.9) is None
    assert Background.of(normal(MIN_ITEMS), MIN_ITEMS).confidence(0.9) is not None


# ---------------------------------------------------------------------- references


def best_of(queries: int, items: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0.0, 0.1, (queries, items))


def test_a_reference_knows_how_high_the_best_of_unrelated_items_gets():
    reference = Reference.of(best_of(400, 1600))
    fresh = np.random.default_rng(4).normal(0.0, 0.1, (400, 800)).max(axis=1)
    shares = reference.shares_below(fresh.tolist(), 800)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_a_reference_grows_with_the_number_of_items():
    assert Reference.of(best_of(200, 800)).growth > 0


def test_a_reference_subtracts_what_each_query_expects():
    scores, shift = best_of(300, 800), np.random.default_rng(5).normal(0, 1, (300, 1))
    typical = np.random.default_rng(6).normal(0, 0.1, (300, 200)) + 2 * shift
    told = Reference.of(scores + shift, typical)
    assert told.with_bank
    assert told.spread < 0.1 < Reference.of(scores + shift).spread


def test_half_of_the_queries_without_a_match_have_a_confidence_below_a_half():
    reference = Reference.of(best_of(400, 1600))
    tops = best_of(400, 1600).max(axis=1)
    sure = reference.shares_below(tops.tolist(), 1600)
    assert np.mean(np.array(sure) < NO_GOOD_MATCH) == pytest.approx(0.5, abs=0.15)
