"""Kills processes while they write to an index, and looks at what is left.

    python benchmarks/kills.py [--times N] [--seed N] [--only NAME]... [--number N] [--jobs N]

Each operation that writes is run by a process that is killed (SIGKILL) at a moment, after a step of
its own (a statement of SQLite's, a file opened, renamed, deleted, flushed), or at a call of the
system, of which half may have been done. Then the index is read, looked over, and the operation run
again, by another process or by one that was there before; a quarter of those that go on are killed
as well. What is then held has to be what an undisturbed run leaves, to the bit; what was committed
has to be there at every moment; who had the index open must not notice.

A defect leaves its folder, and a line that repeats it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from killing.operations import OPERATIONS
from killing.phases import phase_of
from killing.toys import small_steps
from killing.trial import Kill, Series, nursery, workplace

SHOWN = 6
"""Differences that are told of one defect."""

ROOM = 44
"""Signs for where the kills hit."""


@dataclass
class Tally:
    """What came of the kills of one operation."""

    name: str
    kills: list[Kill] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(name: str, numbers: range, seed: int, keep: Path) -> Tally:
    """Kill one operation until there are as many kills as numbers, each of which is one chain."""
    began = time.perf_counter()
    tally = Tally(name)
    work = workplace()
    with small_steps(work / "home"):
        nursery(work)
        series = Series(name, work, seed)
        if unlike := series.check_repeats():
            tally.defects.append(f"{name}: two undisturbed runs differ: {unlike[:SHOWN]}")
        for number in numbers:
            kills = series.kill(number)
            tally.kills += kills
            if trouble := kills[-1].trouble:
                place = keep / f"{list(OPERATIONS).index(name):02}-{number}"
                shutil.copytree(series.site.root, place, dirs_exist_ok=True)
                again = f"--only '{name}' --seed {seed} --number {number}"
                tally.defects.append(
                    f"{name} {number}, {kills[-1].way} after {kills[-1].where!r}: {place}\n"
                    f"  python benchmarks/kills.py {again}\n    " + "\n    ".join(trouble[:SHOWN])
                )
            if len(tally.kills) >= len(numbers):
                break
    shutil.rmtree(work, ignore_errors=True)
    tally.seconds = time.perf_counter() - began
    return tally


def show(tallies: list[Tally]) -> None:
    print(
        f"\n{'operation':<19} {'kills':>5}  {'where they hit':<{ROOM}} {'defects':>7} {'s/kill':>6}"
    )
    for tally in tallies:
        where = Counter(phase_of(kill.where) for kill in tally.kills)
        hit = ", ".join(f"{phase} {number}" for phase, number in where.most_common())
        each = tally.seconds / max(len(tally.kills), 1)
        first = hit if len(hit) <= ROOM else hit[: ROOM - 1] + "…"
        print(
            f"{tally.name:<19} {len(tally.kills):>5}  {first:<{ROOM}} {len(tally.defects):>7} "
            f"{each:>6.2f}"
        )
    kills = [kill for tally in tallies for kill in tally.kills]
    ways = Counter(kill.way for kill in kills)
    seconds = sum(tally.seconds for tally in tallies)
    defects = sum(len(tally.defects) for tally in tallies)
    said = ", ".join(f"{number} at a {way}" for way, number in ways.most_common())
    print(f"{'all':<19} {len(kills):>5}  {said:<{ROOM}} {defects:>7} {seconds / len(kills):>6.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills processes while they write to an index.")
    parser.add_argument("--times", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(OPERATIONS), help="an operation")
    parser.add_argument("--number", type=int, help="repeat this one")
    parser.add_argument("--jobs", type=int, default=1, help="operations at once")
    given = parser.parse_args()
    names = given.only or list(OPERATIONS)
    each = -(-given.times // len(names))
    numbers = range(each) if given.number is None else range(given.number, given.number + 1)
    keep = Path.cwd() / "kills-found"
    tallies: list[Tally] = []
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        begun = [pool.submit(run, name, numbers, given.seed, keep) for name in names]
        for tally in (one.result() for one in begun):
            tallies.append(tally)
            print(f"{tally.name}: {len(tally.kills)} kills, {tally.seconds:.0f} s", file=sys.stderr)
            for defect in tally.defects:
                print(f"DEFECT {defect}", file=sys.stderr)
    show(tallies)
    return int(any(tally.defects for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
