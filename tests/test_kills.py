"""Processes that are killed anywhere in what they do: nothing is lost, and they can go on.

A few of the kills of benchmarks/kills.py, each time the same.
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
toys = pytest.importorskip("killing.toys")
trial = pytest.importorskip("killing.trial")

KILLS = 2
SEED = 5


@pytest.fixture
def work(tmp_path):
    with toys.small_steps(tmp_path / "home"):
        trial.nursery(tmp_path)
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
def test_what_is_killed_loses_nothing_and_is_brought_to_its_end(work, name):
    series = trial.Series(name, work, SEED)
    kills = [kill for number in range(KILLS) for kill in series.kill(number)]
    assert len(kills) >= KILLS
    assert [(kill.where, kill.trouble) for kill in kills if kill.trouble] == []


def test_two_runs_that_nothing_disturbs_leave_the_same(work):
    assert trial.Series("update", work).check_repeats() == []


# ------------------------------------------------------------------ what is looked for is noticed


def held(**parts: Any) -> Any:
    """What an index holds that has one item, with a row and what else is given."""
    items = {("/a.png", "row"): ("image", 1)}
    items.update({("/a.png", part.replace("_", " ")): value for part, value in parts.items()})
    return content.Content(items)


def test_an_item_that_was_seen_stored_and_is_not_there_is_noticed():
    nothing, one = content.Content(), held()
    assert content.halves(one, one, nothing, one) == []
    assert content.halves(nothing, one, nothing, one) != []


def test_an_item_without_the_vectors_that_were_stored_with_it_is_noticed():
    final = held(vectors_toy_image=[b"1"])
    assert content.halves(final, None, content.Content(), final) == []
    assert content.halves(held(), None, content.Content(), final) != []


def test_what_is_doubled_is_noticed():
    twice = copy.deepcopy(held())
    twice.doubled.append("/a.png")
    assert content.halves(twice, None, held(), held()) != []
    assert content.differences(twice, held()) != []


def test_one_bit_of_one_vector_is_a_difference(work):
    site = operations.made(operations.OPERATIONS["words"], work / "site")
    before = content.content_of(site.index / "catalog.db")
    operations._run(site, "UPDATE vectors SET vector = zeroblob(32) WHERE id = 5")
    (told,) = content.differences(content.content_of(site.index / "catalog.db"), before)
    assert "vectors toy" in told
