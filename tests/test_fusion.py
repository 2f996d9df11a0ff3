from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.fusion import rrf

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
