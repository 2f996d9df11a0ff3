"""Processes that are killed at any step: nothing committed is lost, and another run completes it.

A few of the kills of benchmarks/kills.py, the same at every run.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

if os.name != "posix" or not BENCHMARKS.is_dir():
    pytest.skip("signals, and the benchmarks beside the tests", allow_module_level=True)

sys.path.append(str(BENCHMARKS))

content = pytest.importorskip("killing.content")
operations = pytest.importorskip("killing.operations")
toy_encoders = pytest.importorskip("killing.toy_encoders")
trial = pytest.importorskip("killing.trial")

KILLS = 2
SEED = 5


@pytest.fixture
def work(tmp_path):
    with toy_encoders.small_steps(tmp_path / "home"):
        trial.start_fork_server(tmp_path)
        yield tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "index",
        "update",
        "remove",
        "second model",
        "drop model, VACUUM",
        "migrate 3 → now",
        "add_vectors",
    ],
)
def test_a_killed_operation_loses_nothing_and_is_completed_by_another_run(work, name):
    series = trial.Series(name, work, SEED)
    kills = [kill for number in range(KILLS) for kill in series.kill(number)]
    assert len(kills) >= KILLS
    assert [(kill.step, kill.defects) for kill in kills if kill.defects] == []


def test_two_undisturbed_runs_leave_the_same(work):
    assert trial.Series("update", work).check_repeats() == []


# ------------------------------------------------------------------ the checks find defects


def content_with(**parts: Any) -> Any:
    """The content of an index of one item, which has a row and these other parts."""
    items = {("/a.png", "row"): ("image", 1)}
    items.update({("/a.png", part.replace("_", " ")): value for part, value in parts.items()})
    return content.Content(items)


def test_a_committed_item_that_is_lost_is_a_defect():
    nothing, one = content.Content(), content_with()
    assert content.half_done(one, one, nothing, one) == []
    assert content.half_done(nothing, one, nothing, one) != []


def test_an_item_without_the_vectors_of_its_transaction_is_a_defect():
    final = content_with(vectors_toy_image=[b"1"])
    assert content.half_done(final, None, content.Content(), final) == []
    assert content.half_done(content_with(), None, content.Content(), final) != []


def test_two_items_of_one_path_are_a_defect():
    twice = copy.deepcopy(content_with())
    twice.repeated.append("/a.png")
    assert content.half_done(twice, None, content_with(), content_with()) != []
    assert content.differences(twice, content_with()) != []


def test_one_bit_of_one_vector_is_a_difference(work):
    site = operations.prepared(operations.OPERATIONS["words"], work / "site")
    before = content.content_of(site.index / "catalog.db")
    operations._execute(site, "UPDATE vectors SET vector = zeroblob(32) WHERE id = 5")
    (difference,) = content.differences(content.content_of(site.index / "catalog.db"), before)
    assert "vectors toy" in difference
