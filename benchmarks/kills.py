"""Kill processes while they write to an index, and check what they leave.

    python benchmarks/kills.py [--times N] [--seed N] [--only NAME]... [--number N] [--jobs N]

Each operation that writes is run by a process that is killed (SIGKILL) at a random time, after a
step (a statement of SQLite, a file opened, renamed, deleted, flushed), or at a system call, of
which half may have been done. Then the index is read and examined, and the operation run again, by
another process or by this one; a quarter of those that continue are killed as well. In the end, the
index must be what an undisturbed run leaves, to the bit; what was committed must be there at every
moment; a process that has the index open must not notice.

Prints a table: kills of each operation, where they hit, defects, and seconds per kill. The folder
of a defect is kept, and the command that repeats it is printed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from killing.operations import OPERATIONS
from killing.phases import phase_of
from killing.toy_encoders import small_steps
from killing.trial import Kill, Series, start_fork_server

SHOWN = 6
"""Differences that are printed of one defect."""

WIDTH = 44
"""Characters of the column of phases that the kills hit."""


@dataclass
class Tally:
    """The kills of one operation, and the defects that they showed."""

    name: str
    kills: list[Kill] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(name: str, numbers: range, seed: int, keep: Path) -> Tally:
    """Kill one operation until there are as many kills as numbers; a number may give several."""
    began = time.perf_counter()
    tally = Tally(name)
    work = Path(tempfile.mkdtemp(prefix="mmsearch-kills-"))
    with small_steps(work / "home"):
        start_fork_server(work)
        series = Series(name, work, seed)
        if found := series.check_repeats():
            tally.defects.append(f"{name}: two undisturbed runs differ: {found[:SHOWN]}")
        for number in numbers:
            kills = series.kill(number)
            tally.kills += kills
            if defects := kills[-1].defects:
                folder = keep / f"{list(OPERATIONS).index(name):02}-{number}"
                shutil.copytree(series.site.root, folder, dirs_exist_ok=True)
                again = f"--only '{name}' --seed {seed} --number {number}"
                tally.defects.append(
                    f"{name} {number}, {kills[-1].way} after {kills[-1].step!r}: {folder}\n"
                    f"  python benchmarks/kills.py {again}\n    " + "\n    ".join(defects[:SHOWN])
                )
            if len(tally.kills) >= len(numbers):
                break
    shutil.rmtree(work, ignore_errors=True)
    tally.seconds = time.perf_counter() - began
    return tally


def show(tallies: list[Tally]) -> None:
    head = f"{'operation':<19} {'kills':>5}  {'where they hit':<{WIDTH}}"
    print(f"\n{head} {'defects':>7} {'s/kill':>6}")
    for tally in tallies:
        where = Counter(phase_of(kill.step) for kill in tally.kills)
        hit = ", ".join(f"{phase} {number}" for phase, number in where.most_common())
        seconds = tally.seconds / max(len(tally.kills), 1)
        shown = hit if len(hit) <= WIDTH else hit[: WIDTH - 1] + "…"
        print(
            f"{tally.name:<19} {len(tally.kills):>5}  {shown:<{WIDTH}} {len(tally.defects):>7} "
            f"{seconds:>6.2f}"
        )
    kills = [kill for tally in tallies for kill in tally.kills]
    ways = Counter(kill.way for kill in kills)
    seconds = sum(tally.seconds for tally in tallies)
    defects = sum(len(tally.defects) for tally in tallies)
    by_way = ", ".join(f"{number} at a {way}" for way, number in ways.most_common())
    print(
        f"{'all':<19} {len(kills):>5}  {by_way:<{WIDTH}} {defects:>7} {seconds / len(kills):>6.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(OPERATIONS), help="an operation")
    parser.add_argument("--number", type=int, help="repeat this one")
    parser.add_argument("--jobs", type=int, default=1, help="operations at once")
    options = parser.parse_args()
    names = options.only or list(OPERATIONS)
    each = -(-options.times // len(names))
    numbers = range(each) if options.number is None else range(options.number, options.number + 1)
    keep = Path.cwd() / "kills-found"
    tallies: list[Tally] = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, name, numbers, options.seed, keep) for name in names]
        for tally in (future.result() for future in futures):
            tallies.append(tally)
            print(f"{tally.name}: {len(tally.kills)} kills, {tally.seconds:.0f} s", file=sys.stderr)
            for defect in tally.defects:
                print(f"DEFECT {defect}", file=sys.stderr)
    show(tallies)
    return int(any(tally.defects for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
