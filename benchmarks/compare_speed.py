"""How fast two versions of the code are, A B B A: starting, loading vectors, migrating an index.

    python benchmarks/compare_speed.py A B [--only cold|load|migrate]... [--pairs N] [--sizes N,N]

A and B are folders, the older first: a clone, or what `git worktree add --detach FOLDER COMMIT`
makes. Prints medians of both, by the clock and of the processor, and the median ratio of B to A
within a pair; 1.10 is a tenth slower.

cold     whole processes: `mmsearch --help`, and `mmsearch query` on a copy each of one index. That
         is made by A of --photos small photos, unless --index names one.
load     `Collection.add_vectors` of vectors of --dim numbers with metadata into a new index, for
         each of --sizes, in milliseconds per 1,000 rows: preparing them (in a thread beside the one
         that stores: processor's time of that thread), storing them with the database's indexes,
         and all of it, words and vector index included.
migrate  opening an index that A made, in B, in ms: for the first time, which migrates it if the
         version of the schema has changed, for the second time, and the first search. There is no
         pair here: each run is given a fresh copy.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

from timing import Cost, cost, machine, median, table
from trees import Tree, in_turns, metadata, parser_of_trees, run_part, trees_of, vectors

QUERY = "a dog on a beach"
HEAD = ("", "A, ms", "B, ms", "B / A", "A, CPU ms", "B, CPU ms", "B / A")

Costs = dict[str, dict[str, list[Cost]]]
"""By what is measured and by the tree's name, in order of the pairs."""


def show(title: str, costs: Costs) -> None:
    rows = []
    for name, by_tree in costs.items():
        cells = []
        for clock in ("wall", "cpu"):
            a, b = ([getattr(each, clock) for each in by_tree[tree]] for tree in "AB")
            ratio = statistics.median(after / before for before, after in zip(a, b, strict=True))
            middles = (f"{statistics.median(each) * 1000:,.1f}" for each in (a, b))
            cells += [*middles, f"{ratio:.3f}"]
        rows.append((name, *cells))
    table(title, rows, HEAD)


# ---------------------------------------------------------------------- whole processes


def time_cold(trees: tuple[Tree, Tree], pairs: int, index: Path, work: Path) -> None:
    commands: dict[str, Callable[[Tree], tuple[str, ...]]] = {
        "mmsearch --help": lambda _: ("--help",),
        "mmsearch query": lambda tree: ("query", QUERY, "-i", f"{work / tree.name}/"),
    }
    for tree in trees:
        shutil.copytree(index, work / tree.name)
    costs: Costs = defaultdict(lambda: defaultdict(list))
    for number, tree in in_turns(trees, pairs):
        for name, arguments in commands.items():
            process = tree.command(*arguments(tree))
            if number:
                costs[name][tree.name].append(process.cost)
    show(f"Whole processes, medians of {pairs} pairs", costs)


def index_of_photos(tree: Tree, count: int, cache: Path, work: Path) -> Path:
    from photos import SMALL, crops

    photos = crops(cache / f"small-{count}", count, SMALL)
    tree.command("index", photos, "-i", f"{work / 'photos'}/", "-q")
    return work / "photos"


# ---------------------------------------------------------------------- loading


def load(folder: str, rows: str, dim: str) -> dict[str, tuple[float, float]]:
    """Seconds and seconds of the processor, by what they went to."""
    import mmsearch

    given, known = vectors(int(rows), int(dim)), metadata(int(rows))
    mmsearch.Collection(Path(folder, "first"), create=True).close()  # all is imported by now
    prepared: list[float] = []  # by the pool's thread, the only one that there is meanwhile
    stages: list[Cost] = []  # when the rows were stored, then when their words were indexed
    last = math.inf
    submit = ThreadPoolExecutor.submit

    def timed_submit(pool: ThreadPoolExecutor, work: Any, /, *given: Any, **named: Any) -> Future:
        def timed() -> Any:
            began = time.thread_time()
            try:
                return work(*given, **named)
            finally:
                prepared.append(time.thread_time() - began)

        return submit(pool, timed)

    def progress(done: int, total: int | None) -> None:
        nonlocal last
        del total
        if done < last:  # a new stage counts from the beginning
            stages.append(Cost(0, 0))
        stages[-1] = Cost(time.perf_counter() - began[0], time.process_time() - began[1])
        last = done

    with mmsearch.Collection(Path(folder, "index"), create=True) as library:
        began = time.perf_counter(), time.process_time()
        with patch.object(ThreadPoolExecutor, "submit", timed_submit):
            whole = cost(lambda: library.add_vectors(given, known, progress=progress))
    each = {"prepared": Cost(sum(prepared), sum(prepared)), "stored": stages[0], "all of it": whole}
    return {name: (spent.wall, spent.cpu) for name, spent in each.items()}


def time_loading(trees: tuple[Tree, Tree], pairs: int, sizes: list[int], dim: int) -> None:
    for size in sizes:
        costs: Costs = defaultdict(lambda: defaultdict(list))
        for number, tree in in_turns(trees, pairs):
            with tempfile.TemporaryDirectory() as folder:
                found = tree.part("load", folder, size, dim)
            for name, (wall, cpu) in found.items():
                if number:
                    each = Cost(wall * 1000 / size, cpu * 1000 / size)
                    costs[f"1,000 rows {name}"][tree.name].append(each)
        show(f"{size:,} rows of {dim} with metadata, medians of {pairs} pairs", costs)
        rates = []
        for name, by_tree in costs.items():
            walls = (f"{1000 / median(by_tree[tree]).wall:,.0f}" for tree in "AB")
            rates.append((name.removeprefix("1,000 "), *walls))
        table("The same as rows/s", rates, ("", "A", "B"))


# ---------------------------------------------------------------------- migrating


def make(folder: str, rows: str, dim: str) -> None:
    import mmsearch

    with mmsearch.Collection(Path(folder), create=True) as library:
        library.add_vectors(vectors(int(rows), int(dim)), metadata(int(rows)))


def open_twice(folder: str, dim: str) -> dict[str, tuple[float, float]]:
    """Seconds and seconds of the processor, by what they went to."""
    import mmsearch

    mmsearch.Collection(Path(folder).with_name("first"), create=True).close()  # to import all
    query = vectors(1, int(dim), seed=2)
    found = {
        "opened for the first time": cost(lambda: mmsearch.open(Path(folder)).close()),
        "opened again": cost(lambda: mmsearch.open(Path(folder)).close()),
    }
    with mmsearch.open(Path(folder)) as library:
        found["first search"] = cost(lambda: library.search_vectors(query))
    return {name: (spent.wall, spent.cpu) for name, spent in found.items()}


def version(index: Path) -> int:
    """Of the schema."""
    with closing(sqlite3.connect(index / "catalog.db")) as driver:
        return int(driver.execute("PRAGMA user_version").fetchone()[0])


def time_migration(trees: tuple[Tree, Tree], runs: int, sizes: list[int], dim: int) -> None:
    a, b = trees
    for size in sizes:
        costs: dict[str, list[Cost]] = defaultdict(list)
        with tempfile.TemporaryDirectory() as work:
            index, copy = Path(work, "index"), Path(work, "copy")
            a.part("make", index, size, dim)
            for number in range(runs + 1):
                shutil.copytree(index, copy)
                found = b.part("open", copy, dim)
                for name, spent in found.items():
                    if number:
                        costs[name].append(Cost(*spent))
                versions = version(index), version(copy)
                shutil.rmtree(copy)
                shutil.rmtree(copy.with_name("first"))
        rows = [
            (name, f"{median(each).wall * 1000:,.1f}", f"{median(each).cpu * 1000:,.1f}")
            for name, each in costs.items()
        ]
        title = f"{size:,} items by A, schema {versions[0]}, in B, schema {versions[1]}"
        table(f"{title}, medians of {runs}", rows, ("", "ms", "CPU ms"))


PARTS = {"load": load, "make": make, "open": open_twice}


def main() -> None:
    if run_part(PARTS):
        return
    parser = parser_of_trees(__doc__)
    parser.add_argument("--only", action="append", choices=["cold", "load", "migrate"])
    parser.add_argument("--pairs", type=int, default=15, help="default %(default)s")
    parser.add_argument("--index", type=Path, help="of cold; A or an older version made it")
    parser.add_argument("--photos", type=int, default=1000, help="of cold, default %(default)s")
    parser.add_argument("--sizes", default="10000,100000", help="of the rest, default %(default)s")
    parser.add_argument("--dim", type=int, default=512, help="default %(default)s")
    parser.add_argument("--work", type=Path, default=Path(".cache/benchmarks"), help="for photos")
    given = parser.parse_args()
    print(machine())
    trees = trees_of(given.trees)
    only = given.only or ["cold", "load", "migrate"]
    sizes = [int(size) for size in given.sizes.split(",")]
    if "cold" in only:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            index = given.index or index_of_photos(
                trees[0], given.photos, given.work.absolute(), work
            )
            time_cold(trees, given.pairs, index, work)
    if "load" in only:
        time_loading(trees, given.pairs, sizes, given.dim)
    if "migrate" in only:
        time_migration(trees, given.pairs, sizes, given.dim)


if __name__ == "__main__":
    main()
