from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from exact_index import ExactIndex
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch.errors import StorageFailed
from mmsearch.vectors import (
    AUTO,
    EXACT,
    FaissIndex,
    IdSet,
    Segment,
    SegmentDamaged,
    ann_index,
    choose_index,
    index_choice,
    write_segment,
)
from mmsearch.vectors.ann_index import AnnIndex
from mmsearch.vectors.index import CANDIDATES_PER_ID, LiveRows
from mmsearch.vectors.index_choice import codes_in_cells, true_neighbours

DIM = 32


def clustered(number: int, seed: int = 0, gap: float = 0.0) -> np.ndarray:
    """Unit rows (number, DIM) float16 in clusters; with a gap, apart from those without."""
    dice = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((40, DIM))
    rows = centres[dice.integers(0, 40, number)] + 0.3 * dice.standard_normal((number, DIM))
    rows += gap * 4 * np.random.default_rng(8).standard_normal(DIM)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sample_queries(number: int = 40) -> dict[str, np.ndarray]:
    return {
        "image": clustered(number, 1).astype(np.float32),
        "text": clustered(number, 2, gap=0.5).astype(np.float32),
    }


def made(
    rows: np.ndarray, folder=None, kind: str = AUTO, recall: float = 0.98, queries=sample_queries
) -> Segment:
    if folder is not None:
        folder.mkdir(exist_ok=True)
    ids = np.arange(len(rows)) + 1
    starts = range(0, len(rows), 700)
    batches = [(rows[n : n + 700], ids[n : n + 700], ids[n : n + 700] * 2) for n in starts]
    dim = rows.shape[1]
    return write_segment(folder, dim, batches, {}, queries, kind=kind, recall=recall)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Make the sizes that matter small."""
    monkeypatch.setattr(index_choice, "EXACT_BYTES", 100_000)
    monkeypatch.setattr("mmsearch.vectors.index.FEW_ROWS", 10)


# ---------------------------------------------------------------------- which kind


def test_few_rows_are_all_compared():
    choice, codes = choose_index(clustered(1500), sample_queries)
    assert (choice.kind, codes) == (EXACT, None)
    assert "1,500 vectors" in choice.why


@pytest.mark.parametrize("target", [0.9, 0.98])
def test_many_rows_get_one_bit_codes_with_the_recall_measured_for_each_modality(target):
    rows = clustered(5000)
    choice, codes = choose_index(rows, sample_queries, recall=target)
    assert choice.kind == codes_in_cells(5000, DIM)
    assert codes is not None
    assert set(choice.recall) == {"image", "text"}
    for modality, some in sample_queries().items():
        truth = true_neighbours(rows, some)
        found, _ = codes.candidates_of_many(some, choice.candidates, choice.effort)
        share = np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)])
        assert share == pytest.approx(choice.recall[modality], abs=1e-4)
        assert share >= target


def test_a_higher_recall_takes_more_candidates():
    rows = clustered(5000)
    low, high = (choose_index(rows, sample_queries, recall=recall)[0] for recall in (0.5, 0.999))
    assert low.candidates < high.candidates


def test_without_sample_queries_all_rows_are_compared():
    choice, codes = choose_index(clustered(5000), dict)
    assert (choice.kind, codes) == (EXACT, None)
    assert "measure" in choice.why


def test_if_no_kind_reaches_the_recall_all_rows_are_compared(monkeypatch):
    monkeypatch.setattr(index_choice, "MOST_CANDIDATES", 12)
    choice, codes = choose_index(clustered(5000), sample_queries)
    assert (choice.kind, codes) == (EXACT, None)
    assert "RaBitQ found" in choice.why


@pytest.mark.parametrize("kind", ["HNSW16", "IVF32,PQ8x4", "RR32,RaBitQ", "IVF32,RaBitQ", "PQ16x4"])
def test_a_kind_given_by_the_user_is_used_and_measured(kind):
    choice, codes = choose_index(clustered(5000), sample_queries, kind=kind)
    assert choice.kind == kind
    assert codes is not None
    assert set(choice.recall) == {"image", "text"}


def test_all_cells_of_few_rows_are_searched():
    choice, _ = choose_index(clustered(5000), sample_queries)
    assert choice.kind.endswith(f"IVF{choice.effort},RaBitQ")


def test_at_least_the_cells_of_a_minimum_of_rows_are_searched(monkeypatch):
    monkeypatch.setattr(index_choice, "MIN_CODES", 2500)
    choice, _ = choose_index(clustered(5000), sample_queries, recall=0.1)
    assert choice.kind.endswith(f"IVF{choice.effort * 2},RaBitQ")


@pytest.mark.parametrize(("rows", "cells"), [(0, 1), (10, 1), (100_000, 64), (1_000_000, 256)])
def test_cells_are_few(rows, cells):
    assert codes_in_cells(rows, 520) == f"RR512,IVF{cells},RaBitQ"


def test_a_kind_that_needs_more_rows_gives_way_to_exact_search(capfd):
    choice, codes = choose_index(clustered(20), sample_queries, kind="IVF64,PQ8")
    assert (choice.kind, codes) == (EXACT, None)
    assert "IVF64,PQ8 cannot be made of 20 vectors" in choice.why
    assert capfd.readouterr().err == ""


def test_no_rows_are_searched_exactly():
    assert choose_index(clustered(0), sample_queries)[0].kind == EXACT


@given(number=st.integers(1, 60), k=st.integers(1, 12), seed=st.integers(0, 99))
def test_true_neighbours_are_those_of_a_sort(number, k, seed):
    rows, query = clustered(number, seed), clustered(3, seed + 1).astype(np.float32)
    found = true_neighbours(rows, query, k)
    scores = query @ rows.astype(np.float32).T
    best = -np.sort(-scores, axis=1)[:, :k]
    ordered = -np.sort(-np.take_along_axis(scores, found, axis=1), axis=1)
    assert np.allclose(ordered, best, atol=1e-6)


# ---------------------------------------------------------------------- searching a segment


def agree(found, oracle, k: int) -> float:
    """The share of the oracle's k that was found; scores of those are the oracle's."""
    expected = dict(oracle)
    assert all(score == pytest.approx(expected.get(i, score), abs=3e-6) for i, score in found)
    best = {item for item, _ in oracle[:k]}
    return len(best & {item for item, _ in found}) / max(len(best), 1)


@pytest.mark.parametrize("kind", [AUTO, "RaBitQ", "HNSW16", "IVF32,RaBitQ"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.03, 0.001])
def test_candidates_contain_what_numpy_finds_filtered_or_not(kind, share):
    rows = clustered(6000)
    index, oracle = FaissIndex(made(rows, kind=kind)), ExactIndex(DIM)
    oracle.add(list(range(1, 6001)), rows)
    dice = np.random.default_rng(3)
    allowed = None if share == 1 else IdSet.of(np.flatnonzero(dice.random(6001) < share))
    shares = []
    for query in [*sample_queries()["text"][:12], *sample_queries()["image"][:12]]:
        found = index.search(query, 10, allowed)
        expected = oracle.search(query, 6000, allowed)
        assert len(found) == min(10, len(expected))
        shares.append(agree(found, expected, 10))
    assert np.mean(shares) >= 0.95


@pytest.mark.parametrize("kind", ["IVF32,RaBitQ", "RR64,IVF32,RaBitQ"])
@pytest.mark.parametrize("share", [1, 0.4])
def test_threads_that_divide_the_cells_find_what_one_thread_finds(monkeypatch, kind, share):
    whole = AnnIndex.build(kind, clustered(5000))
    dice = np.random.default_rng(0)
    bits = None if share == 1 else np.packbits(dice.random(5000) < share, bitorder="little")
    for effort, query in itertools.product((12, 32), sample_queries()["text"][:8]):
        monkeypatch.setattr(ann_index, "ROWS_PER_THREAD", 10**9)
        one, _ = whole.candidates(query, 200, effort, bits)
        monkeypatch.setattr(ann_index, "ROWS_PER_THREAD", 512)
        monkeypatch.setattr("os.cpu_count", lambda: 3)
        several, _ = whole.candidates(query, 200, effort, bits)
        assert len(one) == len(several) == len(set(several.tolist()))
        assert len(set(one.tolist()) & set(several.tolist())) >= 198  # but for equal scores


def test_as_many_ids_are_found_as_wanted():
    rows = clustered(3000)
    index = FaissIndex(made(rows, kind="IVF32,RaBitQ"))
    query = sample_queries()["text"][0]
    assert len(index.search(query, 3000)) == 3000
    few = IdSet.of(range(1, 3000, 7))
    assert len(index.search(query, 500, few)) == len(few)


def test_a_kind_that_cannot_skip_rows_is_searched_exactly_with_a_filter():
    rows = clustered(4000)
    index, oracle = FaissIndex(made(rows, kind="RaBitQfs")), ExactIndex(DIM)
    oracle.add(list(range(1, 4001)), rows)
    half = IdSet.of(range(1, 4001, 2))
    query = sample_queries()["text"][0]
    expected = oracle.search(query, 10, half)
    assert [i for i, _ in index.search(query, 10, half)] == [i for i, _ in expected]


@pytest.fixture(scope="module")
def hard_queries():
    """Like the stored rows, across a gap that no sample query has, random, and opposite."""
    dice = np.random.default_rng(5)
    gap = 0.35 * clustered(16, 3) + 0.8 * clustered(1, 4) + 0.1 * dice.standard_normal((16, DIM))
    rows = {
        "like": clustered(16, 6),
        "gap": gap,
        "random": dice.standard_normal((16, DIM)),
        "opposite": -clustered(16, 9),
    }
    return {name: some.astype(np.float32) for name, some in rows.items()}


@pytest.fixture(scope="module")
def coded():
    """An index of 1-bit codes whose nearest cells only are searched, and one of the same rows that
    is exact; rows were deleted and added since."""
    rows = clustered(24_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_choice, "EXACT_BYTES", 100_000)
        patch.setattr(index_choice, "MIN_CODES", 4000)
        segment = made(rows[:23_000], recall=0.98)
    assert segment.choice.kind.endswith("RaBitQ")
    assert segment.ann_index is not None
    assert segment.choice.effort < segment.ann_index.cells
    exact = FaissIndex(Segment(segment.rows, segment.ids, segment.vector_ids))
    index = FaissIndex(segment)
    for each in (index, exact):
        each.add(np.arange(23_001, 24_001), rows[23_000:])
        each.delete(np.arange(0, 46_000, 14))
    return index, exact


def nearest_clusters(rows: np.ndarray) -> np.ndarray:
    centres = np.random.default_rng(7).standard_normal((40, DIM))
    return np.argmax(rows.astype(np.float32) @ centres.T, axis=1)


FILTERS = {
    "none": None,
    "half at random": lambda: np.random.default_rng(1).random(24_000) < 0.5,
    "1 % at random": lambda: np.random.default_rng(2).random(24_000) < 0.01,
    "half of the clusters": lambda: nearest_clusters(clustered(24_000)) < 20,
    "one cluster": lambda: nearest_clusters(clustered(24_000)) == 7,
}


@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("condition", FILTERS)
@pytest.mark.parametrize("name", ["like", "gap", "random", "opposite"])
def test_codes_find_the_nearest_for_every_query_and_filter(coded, hard_queries, name, condition, k):
    index, exact = coded
    mask = FILTERS[condition]
    allowed = None if mask is None else IdSet.of(np.flatnonzero(mask()) + 1)
    shares = []
    for query in hard_queries[name]:
        expected = exact.search(query, k, allowed)
        found = index.search(query, k, allowed)
        assert len(found) == len(expected)
        shares.append(agree(found, expected, k))
    assert np.mean(shares) >= 0.98


def test_an_easy_query_scores_few_rows(coded, hard_queries, monkeypatch):
    index, _ = coded
    scored = []
    read = Segment.read_rows
    monkeypatch.setattr(
        Segment, "read_rows", lambda self, rows: scored.append(len(rows)) or read(self, rows)
    )
    for query in hard_queries["like"]:
        index.search(query, 1)
    assert np.median(scored) <= index.segment.choice.candidates


def test_rows_that_pass_only_in_the_farthest_cells_are_found(coded, hard_queries):
    index, exact = coded
    for query in hard_queries["like"]:
        far = [id_ for id_, _ in exact.search(-query, 700)]
        allowed = IdSet.of(far)
        assert index.search(query, 10, allowed) == exact.search(query, 10, allowed)


def test_the_few_rows_that_pass_a_filter_are_searched_exactly(coded, hard_queries, monkeypatch):
    index, exact = coded
    monkeypatch.setattr("mmsearch.vectors.index.FEW_ROWS", 4000)
    monkeypatch.setattr(AnnIndex, "candidates", None)
    allowed = IdSet.of(range(1, 24_000, 7))
    for query in hard_queries["gap"]:
        assert index.search(query, 10, allowed) == exact.search(query, 10, allowed)


@pytest.mark.parametrize("kind", [AUTO, "RaBitQ"])
def test_a_recall_of_1_is_an_exact_search(kind):
    choice, codes = choose_index(clustered(5000), sample_queries, kind=kind, recall=1)
    assert (choice.kind, codes) == (EXACT, None)
    assert "recall of 1" in choice.why


def test_a_higher_recall_takes_wider_margins():
    rows = clustered(5000)
    low, high = (made(rows, recall=recall).margins for recall in (0.5, 0.999))
    assert 0 < low.constant < high.constant
    assert (low.by_row < high.by_row).all()


def margins_of(segment: Segment, rows: np.ndarray, query: np.ndarray) -> tuple:
    """The errors of all rows' approximate scores for a unit query, and their margins."""
    found, scores = segment.ann_index.candidates_of_many(query[None], len(rows), 10**6)
    numbers = found[0]
    wide = rows[numbers].astype(np.float32)
    distances = np.linalg.norm(wide - query, axis=1)
    margins = segment.margins.at(segment.margins.by_row[numbers], 1.0, distances)
    order = np.argsort(numbers)
    return (wide @ query - scores[0])[order], margins[order]


def test_the_margins_of_scores_cover_nearly_all_errors(hard_queries):
    rows = clustered(5000)
    segment = made(rows)
    for queries in hard_queries.values():
        for query in unit(queries):
            errors, margins = margins_of(segment, rows, query)
            assert (errors > margins).mean() <= 0.005


def test_the_margins_cover_the_errors_of_a_few_rows_unlike_all_others():
    dice, dim = np.random.default_rng(0), 128
    alike = np.repeat(unit(dice.standard_normal((16, dim))), 1000, axis=0)
    alike += 0.01 * dice.standard_normal(alike.shape).astype(np.float32)
    rows = unit(np.concatenate([alike, dice.standard_normal((60, dim))])).astype(np.float16)
    segment = made(rows, queries=lambda: {"image": rows[:40].astype(np.float32)})
    missed = []
    for query in unit(dice.standard_normal((60, dim))):
        errors, margins = margins_of(segment, rows, query)
        missed.append((errors > margins)[-60:].mean())
    assert np.mean(missed) <= 0.005


def test_rows_that_are_the_centre_of_their_cell_have_good_codes():
    dice = np.random.default_rng(0)
    rows = np.repeat(unit(dice.standard_normal((32, DIM))), 100, axis=0).astype(np.float16)
    codes = AnnIndex.build(codes_in_cells(100_000, DIM).replace("IVF64", "IVF32"), rows)
    for query in unit(dice.standard_normal((8, DIM))):
        numbers, scores = codes.candidates(query, len(rows), 32)
        assert np.abs(scores - rows[numbers].astype(np.float32) @ query).max() < 0.25


def test_neighbours_in_cells_far_away_from_a_query_are_found(monkeypatch):
    """The query and its neighbours lie apart from clusters that all cells belong to."""
    monkeypatch.setattr("mmsearch.vectors.index.RESCORED_SHARE", 1)
    dice, dim = np.random.default_rng(1), 128
    common = 2 * unit(dice.standard_normal((1, dim)))
    queries = unit(common + unit(dice.standard_normal((100, dim))))
    near = 0.85 * np.repeat(queries, 12, axis=0) + 0.53 * unit(dice.standard_normal((1200, dim)))
    centres = unit(dice.standard_normal((90, dim)))[dice.integers(0, 90, 8000)]
    rest = common + unit(centres + 0.6 * unit(dice.standard_normal((8000, dim))))
    rows = unit(np.concatenate([rest, near])).astype(np.float16)
    sample = {"image": rows[:40].astype(np.float32)}
    segment = made(rows, kind="IVF128,RaBitQ", queries=lambda: sample)
    segment.choice = replace(segment.choice, candidates=10, effort=4)
    index = FaissIndex(segment)
    exact = FaissIndex(Segment(segment.rows, segment.ids, segment.vector_ids))
    for k in (1, 3):
        shares = [agree(index.search(query, k), exact.search(query, k), k) for query in queries]
        assert np.mean(shares) >= 0.98


def test_an_eighth_of_the_codes_is_compared_at_least(monkeypatch):
    monkeypatch.setattr(index_choice, "MIN_CODES", 10)
    choice, codes = choose_index(clustered(50_000), sample_queries, recall=0.01)
    assert choice.effort >= codes.cells / 8 > 4


# ---------------------------------------------------------------------- the delta


@settings(max_examples=25, deadline=None)
@given(data=st.data(), kind=st.sampled_from([EXACT, "RaBitQ"]))
def test_added_and_deleted_rows_are_found_as_in_a_fresh_index(data, kind):
    rows = clustered(2600)
    segment = made(rows[:2000], kind=kind)
    index, alive = FaissIndex(segment), dict(enumerate(rows[:2000], start=1))
    next_one = 2001
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            number = data.draw(st.integers(1, 60))
            some = rows[next_one - 1 : next_one - 1 + number]
            ids = np.arange(next_one, next_one + number)
            index = index.copy()
            index.add(ids, some, ids * 2)
            alive |= dict(zip(ids.tolist(), some, strict=True))
            next_one += number
        else:
            gone = data.draw(st.lists(st.integers(1, next_one + 5), max_size=40))
            index = index.copy()
            index.delete(np.array(gone, np.int64) * 2)
            for item in gone:
                alive.pop(item, None)
    oracle = ExactIndex(DIM)
    oracle.add(list(alive), np.stack(list(alive.values())))
    assert len(index) == len(alive)
    query = sample_queries()["image"][data.draw(st.integers(0, 30))]
    found, expected = index.search(query, 10), oracle.search(query, len(alive))
    assert {i for i, _ in found} <= alive.keys()
    assert agree(found, expected, 10) >= (1.0 if kind == EXACT else 0.7)
    late = set(range(2001, next_one)) & {i for i, _ in expected[:10]}
    assert late <= {i for i, _ in found}  # the delta is always searched exactly


def test_changing_a_copy_does_not_change_the_original():
    index = FaissIndex(made(clustered(300)))
    query = sample_queries()["image"][0]
    before = index.search(query, 300)
    other = index.copy()
    other.add([999], query.reshape(1, -1))
    other.delete(np.arange(2, 200, 2))
    assert index.search(query, 300) == before
    assert other.search(query, 1)[0][0] == 999
    assert index.delta_size == 0
    assert other.delta_size == 1 + 99


def test_the_sample_of_a_large_segment_is_evenly_strided(tmp_path):
    rows = clustered(6000)
    index = FaissIndex(made(rows, tmp_path, kind="RaBitQ"))
    assert np.array_equal(index.sample(4096), rows[np.arange(4096) * 6000 // 4096])


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", [EXACT, "RaBitQ", "IVF32,PQ8x4"])
def test_a_written_segment_is_opened_again(tmp_path, kind):
    segment = made(clustered(2500), tmp_path, kind=kind)
    again = Segment.open(tmp_path)
    assert (again.choice, again.about) == (segment.choice, segment.about)
    for query in sample_queries()["text"][:5]:
        assert FaissIndex(again).search(query, 20) == FaissIndex(segment).search(query, 20)


def test_a_segment_without_rows_is_opened_again(tmp_path):
    made(clustered(0), tmp_path)
    assert FaissIndex(Segment.open(tmp_path)).search(sample_queries()["text"][0], 5) == []


@pytest.mark.parametrize(
    "file", ["rows.f16", "ids.i64", "vectors.i64", "coarse.faiss", "margins.f32", "about.json"]
)
@pytest.mark.parametrize("how", ["gone", "cut", "empty"])
def test_damaged_files_are_noticed(tmp_path, file, how):
    made(clustered(2500), tmp_path, kind="RaBitQ")
    path = tmp_path / file
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    with pytest.raises(SegmentDamaged):
        Segment.open(tmp_path)


def test_margins_that_are_no_numbers_are_noticed(tmp_path):
    made(clustered(2500), tmp_path, kind="RaBitQ")
    np.full(2501, np.nan, np.float32).tofile(tmp_path / "margins.f32")
    with pytest.raises(SegmentDamaged):
        Segment.open(tmp_path)


@pytest.mark.parametrize("slow", [0.0, 1e9])
def test_candidates_of_a_large_segment_are_read_from_its_file(tmp_path, monkeypatch, slow):
    monkeypatch.setattr("mmsearch.vectors.segment._SLOW", slow)  # as if on disk, or in memory
    segment = Segment.open(made(clustered(2500), tmp_path, kind="RaBitQ").folder or tmp_path)
    some = np.array([2499, *range(0, 2499, 80)])
    assert np.array_equal(segment.read_rows(some), segment.rows[some])
    assert segment.read_rows(some[:0]).shape == (0, DIM)
    assert segment._file is not None


def test_a_file_cut_short_while_open_raises_an_error(tmp_path):
    segment = Segment.open(made(clustered(2500), tmp_path, kind="RaBitQ").folder or tmp_path)
    assert segment._file is not None
    os.truncate(tmp_path / "rows.f16", 1000 * 2 * DIM)
    assert len(segment.read_rows(np.array([3, 999]))) == 2
    with pytest.raises(StorageFailed, match="delete it"):
        segment.read_rows(np.array([3, 1000]))


def test_a_filter_that_only_the_delta_passes_finds_the_delta(tmp_path):
    rows = clustered(2500)
    index = FaissIndex(Segment.open(made(rows, tmp_path, kind="RaBitQ").folder or tmp_path))
    index.add([9000], rows[:1])
    assert [id_ for id_, _ in index.search(rows[0], 5, IdSet.of([9000]))] == [9000]
    assert index.search(rows[0], 5, IdSet.of([])) == []


def test_an_open_segment_is_searched_although_its_files_were_deleted(tmp_path):
    made(clustered(2500), tmp_path / "segment", kind="RaBitQ")
    index = FaissIndex(Segment.open(tmp_path / "segment"))
    query = sample_queries()["text"][0]
    before = FaissIndex(Segment.open(tmp_path / "segment")).search(query, 10)
    shutil.rmtree(tmp_path / "segment")
    assert index.search(query, 10) == before


def test_deep_searches_score_more_candidates():
    rows = LiveRows(made(clustered(5000), kind="RaBitQ"))
    assert rows.candidates(300) >= rows.candidates(10) + 290 * CANDIDATES_PER_ID


@pytest.mark.parametrize("kept", [True, False])
def test_the_moments_of_a_large_segment_are_those_of_its_sample(tmp_path, kept):
    segment = made(clustered(5000), tmp_path, kind="RaBitQ")
    if not kept:
        (tmp_path / "moments.f32").unlink()
    index = FaissIndex(Segment.open(tmp_path))
    query = sample_queries()["text"][0]
    scores = segment.rows[np.arange(4096) * 5000 // 4096].astype(np.float64) @ query
    number, mean, square = index.moments(query)
    assert number == len(scores) == 4096
    assert mean == pytest.approx(scores.mean(), abs=1e-5)
    assert square == pytest.approx((scores**2).mean(), abs=1e-5)


def test_the_moments_of_an_exact_index_are_those_of_its_sample_with_the_delta():
    index = FaissIndex(made(clustered(700), kind=EXACT))
    index.add(range(300), clustered(300, seed=1))
    query = sample_queries()["text"][0]
    scores = index.sample(1000).astype(np.float64) @ query
    number, mean, square = index.moments(query)
    assert number == len(scores) == 1000
    assert mean == pytest.approx(scores.mean(), abs=1e-6)
    assert square == pytest.approx((scores**2).mean(), abs=1e-6)


def test_moments_do_not_depend_on_the_order_of_rows():
    rows, ids = clustered(40), np.random.default_rng(0).permutation(40)
    moments = []
    for some in (rows, rows[ids]):
        index = FaissIndex.empty(DIM)
        index.add(range(40), some)
        moments.append([index.moments(query) for query in sample_queries()["text"][:20]])
    assert moments[0] == moments[1]


def test_equal_vectors_have_scores_without_variance():
    index = FaissIndex.empty(DIM)
    index.add(range(100), np.repeat(clustered(1), 100, axis=0))
    _, mean, square = index.moments(sample_queries()["text"][0])
    assert square == mean * mean


@pytest.mark.parametrize("kind", [EXACT, "RaBitQ"])
def test_the_mean_of_an_index_is_that_of_its_sample(tmp_path, kind):
    made(clustered(5000), tmp_path, kind=kind)
    index = FaissIndex(Segment.open(tmp_path))
    assert index.mean() == pytest.approx(index.sample(4096).mean(axis=0), abs=1e-6)
