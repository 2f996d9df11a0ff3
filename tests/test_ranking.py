"""The lexical list: how scores of words are made comparable with those of vectors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.search.ranking import WORDS, RankedList, WordList
from mmsearch.spaces.calibration import Background

scores = st.lists(st.floats(0.01, 60), min_size=2, max_size=12).map(
    lambda found: sorted(found, reverse=True)
)


def word_list(found: list[float], *, items: int = 1000, **more) -> WordList:
    ranking = list(enumerate(found))
    return WordList(WORDS, ranking, background=Background.of_words(found, items), **more)


@given(scores, st.integers(1, 5), st.booleans())
def test_items_with_the_same_words_keep_their_order(found, terms, complete):
    complete_matches = frozenset(range(len(found))) if complete else frozenset()
    ranked = word_list(found, terms=terms, complete_matches=complete_matches, rarity=0.5)
    standardised = [score for _, score in ranked.standardised]
    assert standardised == sorted(standardised, reverse=True)


@given(scores, st.integers(1, 5))
def test_an_item_with_some_of_the_words_counts_half_of_its_share_of_them(found, terms):
    ranked = word_list(found, terms=terms)
    background = Background.of_words(found, 1000)
    absent = background.standardised(0.0)
    assert ranked.absent_score == absent
    for key, score in enumerate(found):
        above = min(background.standardised(score) - absent, 12.0)
        assert ranked.standard_score(key) == pytest.approx(absent + above / (2 * terms))


@given(scores, st.floats(0, 1))
def test_an_item_with_all_words_counts_by_how_rare_they_are(found, rarity):
    complete = frozenset(range(len(found)))
    ranked = word_list(found, complete_matches=complete, rarity=rarity)
    background = Background.of_words(found, 1000)
    for key, score in enumerate(found):
        bounded = min(background.standardised(score), 10.0)
        expected = background.standardised(0.0) + 10 * rarity + bounded / 10
        assert ranked.standard_score(key) == pytest.approx(expected)


def test_without_a_background_a_score_stays_as_it_is():
    ranked = WordList(WORDS, [(1, 3.5)])
    assert (ranked.standard_score(1), ranked.absent_score) == (3.5, None)
    assert RankedList("image", [(1, 3.5)]).standard_score(1) == 3.5


def test_keys_of_other_lists_are_scored_without_a_rank():
    ranked = RankedList("image", [(7, 0.9), (3, 0.5)], extra_scores=[(5, 0.1)])
    assert ranked.ranks == {7: 1, 3: 2}
    assert ranked.scores == {7: 0.9, 3: 0.5, 5: 0.1}
    assert [key for key, _ in ranked.standardised] == [7, 3, 5]
    assert not math.isnan(ranked.standard_score(5))
