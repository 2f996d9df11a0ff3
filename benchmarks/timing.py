"""Measuring and printing times: what the scripts about speed have in common."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and of the processor, which other programs disturb less."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Process:
    """A process that has ended.

    Attributes:
        code: Its exit code.
        cost: Of all of it, its start and its end included.
        peak: The most memory it had, in MiB.
    """

    code: int
    output: str
    errors: str
    cost: Cost
    peak: float


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def cost(work: Callable[[], Any], count: int = 1) -> Cost:
    """What `work` costs in this process, divided by the number of things that it does."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return Cost((time.perf_counter() - began) / count, (time.process_time() - used) / count)


def median(costs: Iterable[Cost]) -> Cost:
    pairs = [(each.wall, each.cpu) for each in costs]
    return Cost(*map(statistics.median, zip(*pairs, strict=True)))


def median_seconds(work: Callable[[], Any], rounds: int) -> float:
    """The median by the clock."""
    return statistics.median(cost(work).wall for _ in range(rounds))


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    check: bool = True,
) -> Process:
    """Run a process to its end; with `check`, an exit code other than 0 ends this one too."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=errors, env=env, cwd=cwd)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "surrogateescape"))
    if check and child.returncode:
        shown = " ".join(map(str, command))[:300]
        raise SystemExit(f"{shown}\nended with {child.returncode}:\n{texts[1][-2000:]}")
    spent = Cost(wall, usage.ru_utime + usage.ru_stime)
    return Process(child.returncode, *texts, spent, usage.ru_maxrss / 1024)


def stages(code: str, runs: int) -> dict[str, float]:
    """Median seconds of each stage of a program, run in processes of its own.

    Args:
        code: Python, in which `mark("name")` says that a stage is through.
        runs: How many processes.
    """
    taken: dict[str, list[float]] = {}
    for _ in range(runs):
        for line in run([sys.executable, "-c", f"{MARKS}\n{code}"]).output.splitlines():
            name, seconds = line.split("|")
            taken.setdefault(name, []).append(float(seconds))
    return {name: statistics.median(several) for name, several in taken.items()}


MARKS = """
import time
began = time.perf_counter()
def mark(name):
    global began
    now = time.perf_counter()
    print(f"{name}|{now - began}")
    began = time.perf_counter()
"""


def table(title: str, rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> None:
    """Print rows of cells, the first of which is a name."""
    lines = [head, *rows] if head else rows
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  " + "  ".join([line[0].ljust(widths[0]), *cells[1:]]), flush=True)
