from __future__ import annotations

import numpy as np
import pytest
from exact_index import ExactIndex
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.vectors import FaissIndex, hubness
from mmsearch.vectors.hubness import (
    EXTRA_DIMS,
    WEIGHTS,
    WEIGHTS_WITHOUT,
    augmented,
    augmented_query,
    hub_weight,
    hubs,
)


def unit(rows: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_a_hub_is_the_mean_cosine_to_the_nearest_of_the_bank():
    bank = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    row = np.array([[0.8, 0.6]], np.float32)  # cosines 0.8, 0.6, 0.96
    assert hubs(row, bank, nearest=2) == pytest.approx([(0.96 + 0.8) / 2])


def test_all_of_a_small_bank_is_used():
    matrix, bank = unit(3), unit(4, seed=1)
    assert hubs(matrix, bank, nearest=20) == pytest.approx((matrix @ bank.T).mean(axis=1), abs=1e-6)


def test_with_an_empty_bank_hubs_are_zero():
    assert hubs(unit(3), unit(0)).tolist() == [0, 0, 0]


def test_no_rows_have_no_hubs():
    assert hubs(unit(0), unit(4)).shape == (0,)


def test_hubs_do_not_depend_on_how_many_rows_are_compared_at_a_time(monkeypatch):
    matrix, bank = unit(50), unit(30, seed=1)
    whole = hubs(matrix, bank)
    monkeypatch.setattr(hubness, "ROWS_AT_ONCE", 7)
    assert hubs(matrix, bank) == pytest.approx(whole, abs=1e-6)


def test_hubs_change_neither_the_bank_nor_the_rows():
    matrix, bank = unit(5), unit(40, seed=1)
    before = matrix.copy(), bank.copy()
    hubs(matrix, bank)
    assert (matrix == before[0]).all()
    assert (bank == before[1]).all()


@given(
    st.sampled_from([("text", "image"), ("image", "text"), ("text", "text"), ("audio", "image")]),
    st.floats(0, 1, width=32),
    st.integers(0, 99),
)
def test_the_inner_product_is_the_cosine_less_the_weighted_hub(pair, weight, seed):
    asked, _ = pair
    matrix, query = unit(6, seed=seed), unit(1, seed=seed + 1)[0]
    by_text, by_image = np.abs(unit(2, 6, seed=seed))
    hub = {"text": by_text, "image": by_image}.get(asked, np.zeros(6))
    scores = augmented(matrix, by_text, by_image) @ augmented_query(query, asked, weight)
    assert scores == pytest.approx(matrix @ query - weight * hub, abs=1e-5)


def test_without_hubs_the_inner_product_is_the_cosine():
    matrix, query = unit(5), unit(1, seed=1)[0]
    assert augmented(matrix) @ augmented_query(query, "text", 0.5) == pytest.approx(
        matrix @ query, abs=1e-6
    )


def test_an_unknown_hub_is_the_mean_of_the_others():
    wide = augmented(unit(3), np.array([0.2, np.nan, 0.4], np.float32))
    assert wide[:, 16] == pytest.approx([0.2, 0.3, 0.4])


def test_if_no_hub_is_known_nothing_is_subtracted():
    wide = augmented(unit(2), np.full(2, np.nan, np.float32))
    assert not wide[:, 16:].any()


def test_the_length_of_augmented_rows_is_a_multiple_of_eight():
    assert augmented(unit(2, 512)).shape == (2, 512 + EXTRA_DIMS)
    assert EXTRA_DIMS % 8 == 0


def test_an_index_of_augmented_rows_ranks_a_hub_lower():
    query = unit(1)[0]
    towards = np.stack([query, query]) + 0.5 * unit(2, seed=3)
    matrix = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    near = int(np.argmax(matrix @ query))
    hub = np.where(np.arange(2) == near, 0.9, 0.0).astype(np.float32)
    rows = augmented(matrix, hub)
    index = FaissIndex.empty(16 + EXTRA_DIMS)
    index.add([0, 1], rows)
    assert index.search(augmented_query(query, "text", 0.0), 1)[0][0] == near
    assert index.search(augmented_query(query, "text", 0.5), 1)[0][0] == 1 - near


def test_faiss_and_the_oracle_agree_on_augmented_rows():
    matrix, hub = unit(60, 24), np.abs(unit(1, 60, seed=2))[0]
    faiss_index, exact = FaissIndex.empty(24 + EXTRA_DIMS), ExactIndex.empty(24 + EXTRA_DIMS)
    for index in (faiss_index, exact):
        index.add(range(60), augmented(matrix, hub))
    wide = augmented_query(unit(1, 24, seed=5)[0], "text", 0.5)
    found, oracle = faiss_index.search(wide, 10), exact.search(wide, 10)
    assert [score for _, score in found] == pytest.approx([s for _, s in oracle], abs=1e-5)


def test_hubs_count_between_texts_and_images():
    assert hub_weight("text", "image") == hub_weight("image", "text") == 0.5


def test_hubs_count_less_between_texts_than_between_texts_and_images():
    assert 0 < hub_weight("text", "text") < hub_weight("text", "image")


def test_no_hub_weighs_more_than_in_csls():
    weights = [*WEIGHTS.values(), *WEIGHTS_WITHOUT.values()]
    assert all(0 < weight <= 0.5 for weight in weights)


def test_rows_and_queries_are_augmented_in_float32():
    assert augmented(unit(2)).dtype == augmented_query(unit(1)[0], "text", 0.5).dtype == np.float32


@pytest.mark.parametrize("pair", [("image", "image"), ("audio", "image"), ("text", "audio")])
def test_hubs_do_not_count_where_no_gain_was_measured(pair):
    assert hub_weight(*pair) == 0


def test_hubs_by_generated_sentences_count_less_than_by_captions():
    assert hub_weight("text", "image", shipped=False) < hub_weight("text", "image")
