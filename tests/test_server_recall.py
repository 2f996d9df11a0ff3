"""How the recall of an index on a server is measured, and what the client caches of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmsearch.vectors.few_rows import FewRows
from mmsearch.vectors.hubness import EXTRA_DIMS
from mmsearch.vectors.id_set import IdSet
from mmsearch.vectors.index_choice import IndexChoice
from mmsearch.vectors.recall import GAP, RecallTest, least_effort, with_gap
from mmsearch.vectors.sample import ChanceSample

DIM, ROWS = 16, 2_000


@pytest.fixture(scope="module")
def rows() -> Any:
    found = np.random.default_rng(7).standard_normal((ROWS, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def pages(rows: Any) -> Iterator[tuple[Any, Any]]:
    ids = np.arange(ROWS)
    for start in range(0, ROWS, 300):
        yield ids[start : start + 300], rows[start : start + 300]


def each_nth(ids: Any, one_in: int) -> Any:
    return ids % one_in == 0


def test_recall_is_the_share_of_the_nearest_that_are_found(rows: Any):
    queries = {"image": rows[:40].astype(np.float32)}
    test = RecallTest.of(queries, pages(rows), each_nth)

    def search(queries: Any, one_in: int) -> list[Any] | None:
        scores = queries @ rows.astype(np.float32).T
        if one_in == 100:
            return None
        scores[:, np.arange(ROWS) % one_in != 0] = -1
        return list(np.argsort(-scores, axis=1)[:, :8])  # eight of the ten

    found = test.recall(search)
    assert found == {"image": 0.8, "image, 50 % pass": 0.8, "image, 1 % pass": 1.0}
    assert test.recall(search, enough=0.9) == {"image": 0.8}


def test_where_nothing_passes_a_filter_nothing_is_missed(rows: Any):
    queries = {"image": rows[:40].astype(np.float32)}
    test = RecallTest.of(queries, [(np.arange(1, 4), rows[:3])], each_nth)
    found = test.recall(lambda asked, share: [{1, 2, 3}] * len(asked))
    assert found == {"image": 1.0, "image, 50 % pass": 1.0, "image, 1 % pass": 1.0}


def test_the_least_effort_that_reaches_the_recall_is_chosen():
    recalls = {1: 0.5, 2: 0.98, 4: 0.99, 8: 1.0}
    choices = [IndexChoice("some", effort=effort) for effort in recalls]

    def recall(choice: IndexChoice, enough: float) -> dict[str, float]:
        return {"text": recalls[choice.effort], "image": 1.0}

    found = least_effort(choices, recall, 0.98)  # what is measured is an estimate: a little more
    assert (found.effort, found.recall) == (4, {"text": 0.99, "image": 1.0})
    assert found.why.startswith("found 0.990 for text, 1.000 for image")
    assert least_effort(choices[:2], recall, 0.98).effort == 2


def test_queries_across_the_gap_are_half_as_near_to_what_they_match(rows: Any):
    queries = np.pad(rows[:40].astype(np.float32), ((0, 0), (0, EXTRA_DIMS)))
    found = with_gap({"image": queries}, DIM)
    assert list(found) == ["image", GAP]
    cosines = (found[GAP] * queries).sum(axis=1)
    assert 0.4 < cosines.mean() < 0.7
    assert np.linalg.norm(found[GAP], axis=1) == pytest.approx(1, abs=1e-5)


def test_the_rows_of_a_set_are_fetched_once(rows: Any):
    fetched = []

    def fetch(items: IdSet) -> tuple[Any, Any]:
        fetched.append(len(items))
        return items.ids, np.ascontiguousarray(rows[items.ids])

    few = FewRows(fetch)
    some, others = IdSet.of(range(0, 100, 2)), IdSet.of([1, 3])
    for _ in range(2):
        (best,) = few.search(some, rows[10].astype(np.float32), 1)
        assert best == (10, pytest.approx(1, abs=1e-3))
        assert [id_ for id_, _ in few.search(others, rows[3].astype(np.float32), 5)] == [3, 1]
    assert fetched == [50, 2]


def test_a_sample_is_read_from_its_file_until_the_store_changes(rows: Any, tmp_path: Path):
    file = tmp_path / "cache" / "sample.npz"
    drawn = []

    def draw() -> Any:
        drawn.append(1)
        return rows[:50].astype(np.float32)

    vector = rows[0].astype(np.float32)
    moments = {
        ChanceSample.read_or_draw(file, state, draw).moments(vector) for state in ("1", "1", "2")
    }
    assert (len(drawn), len(moments)) == (2, 1)
    assert list(file.parent.iterdir()) == [file]
    (number, mean, square) = moments.pop()
    scores = rows[:50].astype(np.float32) @ vector
    assert (number, mean, square) == pytest.approx((50, scores.mean(), (scores**2).mean()))
    file.write_bytes(b"damaged")
    assert ChanceSample.read_or_draw(file, "2", draw).moments(vector)[0] == 50
