"""One collection searched by many threads at once, while others write."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slow_toy
from PIL import Image

import mmsearch
from mmsearch import Query
from mmsearch.encoders.registry import REGISTRY
from mmsearch.errors import IndexBusy

THREADS = 32
WORDS = ("a dog", "noise number 7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("threads")
    paint_noise(made / "photos", 40)
    return made


def paint_noise(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    for one in range(number):
        pixels = rng.integers(0, 256, (3, 3, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{number}-{one:03}.png")
        if one % 4 == 0:
            (folder / f"{number}-{one:03}.txt").write_text(f"noise number {one}, red as sand")


@pytest.fixture(scope="module")
def library(folder: Path):
    """Of a model that costs little: what is searched and written is what takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "slow", slow_toy.FAMILY)
        patch.setattr(slow_toy, "SECONDS", 0)
        with mmsearch.index(folder / "photos", folder / "idx", model="slow") as made:
            yield made


def searches(library: mmsearch.Collection) -> list[Callable[[], Any]]:
    """Searches of all sorts, each of another query or filter."""
    first = next(iter(library.items))
    found: list[Callable[[], Any]] = []
    for number, words in enumerate(WORDS):
        where = {"name": {"$glob": f"*-0{number}*"}}
        found += [
            lambda words=words: library.search(words, k=20),
            lambda words=words, where=where: library.search(words, where=where),
            lambda words=words: library.search_page(words, k=5, offset=10, target="image"),
            lambda words=words: library.facets(words),
            lambda where=where: library.facets(where=where),
            lambda where=where: library.search_page(None, k=3, where=where),
            lambda words=words: library.search(Query.text(words) + Query.item(first.id)),
            lambda words=words: library.search(words, sort="newest", like=[first.id]),
        ]
    return found


def run_at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What the calls return, all threads begun at the same moment."""
    barrier = threading.Barrier(THREADS)

    def work(number: int) -> list[Any]:
        barrier.wait()
        return [call() for call in calls[number::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(work, range(THREADS)))
    found: list[Any] = [None] * len(calls)
    for number, part in enumerate(parts):
        found[number::THREADS] = part
    return found


def test_many_threads_get_the_answers_that_one_gets(folder):
    with mmsearch.index(folder / "photos", folder / "mini", model="mini") as library:
        calls = searches(library)
        expected = [call() for call in calls]
        assert run_at_once(calls * 2) == expected * 2
    with mmsearch.open(folder / "mini") as cold:  # nothing is loaded yet
        assert run_at_once(searches(cold)) == expected


def test_searches_go_on_while_other_threads_add_files_and_tags(library, folder):
    calls = searches(library)
    done, before = threading.Event(), len(library)
    failed: list[BaseException] = []

    def write() -> None:
        try:
            paint_noise(folder / "photos", 11)
            library.add(folder / "photos")
            assert library.add_tag("new", [item.id for item in library.items][-5:]) == 5
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    def search(number: int) -> int:
        rounds = 0
        while not done.is_set() or rounds == 0:
            calls[number % len(calls)]()
            rounds += 1
        return rounds

    writer = threading.Thread(target=write)
    writer.start()
    with ThreadPoolExecutor(THREADS) as pool:
        rounds = list(pool.map(search, range(THREADS)))
    writer.join()
    assert not failed
    assert min(rounds) >= 1
    assert len(library) == before + 11
    with mmsearch.open(folder / "idx") as fresh:
        assert [call() for call in searches(fresh)] == [call() for call in calls]
        assert {tag.value: tag.count for tag in fresh.facets().tag} == {"new": 5}


def test_searches_go_on_while_another_process_indexes(library, folder):
    calls, before = searches(library), len(library)
    paint_noise(folder / "photos", 30)
    code = f"import sys; sys.path[:] = {[str(Path(__file__).parent), *sys.path]}; import slow_toy; "
    code += "slow_toy.register(); from mmsearch.__main__ import main; main()"
    words = [sys.executable, "-c", code, "index", "-q", "-i", f"{folder}/idx"]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            run_at_once(calls)
        assert process.returncode == 0, process.stderr and process.stderr.read()
    assert len(library) == before + 30
    with mmsearch.open(folder / "idx") as fresh:
        assert [call() for call in calls] == [call() for call in searches(fresh)]


def test_threads_that_tag_at_once_wait_for_each_other(library):
    ids = [item.id for item in library.items]
    run_at_once([lambda n=n: library.add_tag("all", ids[n::8]) for n in range(8)])
    counts = {tag.value: tag.count for tag in library.facets().tag}
    assert counts["all"] == len(ids)


def test_a_tag_does_not_wait_for_a_whole_run_of_indexing(library, monkeypatch):
    monkeypatch.setattr("mmsearch.collection.collection.TAGGING_WAIT", 0.1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with library.writing("indexing"):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        with pytest.raises(IndexBusy, match="indexing since"):
            library.add_tag("x", [1])
    finally:
        done.set()
        holder.join()


def test_as_many_snapshots_as_there_are_threads_can_be_held(library):
    barrier = threading.Barrier(2 * THREADS)

    def hold(_: int) -> int:
        with library.store.snapshot():
            barrier.wait(timeout=20)
            return len(library.store)

    with ThreadPoolExecutor(2 * THREADS) as pool:
        assert set(pool.map(hold, range(2 * THREADS))) == {len(library)}
