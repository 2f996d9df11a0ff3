"""One kill, and all checks after it."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mmsearch
from killing.content import (
    Content,
    answer_differences,
    answers,
    answers_of,
    content_of,
    differences,
    half_done,
)
from killing.files import Site
from killing.killed_process import STEP_BYTES, Finished, KillPoint, run_operation
from killing.operations import OPERATIONS, prepared, reset
from killing.phases import phase_of
from killing.steps import compile_library
from mmsearch.collection.doctor import examine
from mmsearch.errors import MMSearchError

KILL_AGAIN = 0.25
"""The share of continuations of a killed process's work that are killed, too."""

TIMEOUT = 120
"""Seconds after which a process is taken to hang."""

MOMENT, STEP, CALL = "moment", "step", "call"
"""Ways to kill: at a random time, after a step of Python or SQLite, at a system call."""


class Reader:
    """Keeps the index open and reads it all the time, while others are killed."""

    def __init__(self, site: Site, *, is_reading: bool) -> None:
        self._site = site
        self.is_reading = is_reading
        self._library: mmsearch.Collection | None = None
        self.seen: Content | None = None
        self.defects: list[str] = []

    def read(self) -> None:
        """Read once; an index that is being made may not be openable yet."""
        if not self.is_reading:
            return
        try:
            if self._library is None:
                self._library = mmsearch.open(self._site.index)
        except MMSearchError:
            return
        try:
            self._library.search("red", k=3)
            len(self._library)
            self.seen = content_of(self._site.index / "catalog.db")
        except Exception as error:  # no error may reach a reader
            self.defects.append(f"a reader: {type(error).__name__}: {error}")

    def answers(self) -> dict[str, Any] | None:
        """Its answers to the queries; None if it has no index open."""
        return None if self._library is None else answers(self._library)

    def close(self) -> None:
        """Close the index."""
        if self._library is not None:
            self._library.close()


@dataclass
class Kill:
    """One kill.

    Attributes:
        way: One of `MOMENT`, `STEP`, `CALL`.
        step: The last step before it.
        defects: What is wrong after it.
        seconds: The time it took, checks included.
    """

    way: str
    step: str
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Series:
    """Kills of one operation.

    Args:
        name: Of the operation.
        work: A folder for all of it.
        seed: Of all that is random.
    """

    def __init__(self, name: str, work: Path, seed: int = 0) -> None:
        self.name = name
        self._seed = seed
        self._operation = OPERATIONS[name]
        self.site = prepared(self._operation, work / f"{list(OPERATIONS).index(name):02}")
        self._last_step = work / "last-step"
        self._last_step.write_bytes(bytes(STEP_BYTES))
        self.before = self._content_before()
        began = time.perf_counter()
        self.undisturbed = self._run_undisturbed()
        self.duration = time.perf_counter() - began
        self.final = content_of(self._catalog)
        self.answers = answers_of(self.site)
        self._by_phase: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, step in enumerate(self.undisturbed.steps, 1):
            self._by_phase[phase_of(step)][step].append(number)

    @property
    def _catalog(self) -> Path:
        return self.site.index / "catalog.db"

    def _content_before(self) -> Content:
        if not self._operation.readable or not self.site.template.exists():
            return Content()
        return content_of(self.site.template / "catalog.db")

    def check_repeats(self) -> list[str]:
        """Differences of two undisturbed runs, which would make all other checks meaningless."""
        self._run_undisturbed()
        found = differences(content_of(self._catalog), self.final)
        return found + answer_differences(answers_of(self.site), self.answers)

    def _run_undisturbed(self) -> Finished:
        reset(self.site)
        finished = self._run_in_process()
        if isinstance(finished, str):
            raise RuntimeError(f"{self.name}: {finished}")  # noqa: TRY004 - it says what went wrong
        return finished

    # ------------------------------------------------------------------ one kill

    def kill(self, number: int) -> list[Kill]:
        """Kill the operation; several times, if the process that continues it is killed as well."""
        rng = random.Random(f"{self._seed} {self.name} {number}")
        reset(self.site)
        kills: list[Kill] = []
        while not kills or rng.random() < KILL_AGAIN:
            began = time.perf_counter()
            kill = self._kill_once(rng)
            if kill is None:  # it finished first
                if not kills:
                    reset(self.site)
                    continue
                break
            kill.seconds = time.perf_counter() - began
            kills.append(kill)
            if kill.defects:
                break
        began = time.perf_counter()
        if not kills[-1].defects:
            kills[-1].defects += self._complete(rng)
        kills[-1].seconds += time.perf_counter() - began
        return kills

    def _kill_once(self, rng: random.Random) -> Kill | None:
        way, kill_point, moment = self._kill_point(rng)
        reader = Reader(self.site, is_reading=self._operation.readable)
        reader.read()
        try:
            if self._run(kill_point, moment, reader) is not None:
                return None
            step = self._last_step.read_bytes().partition(b"\0")[0].decode() or "started"
            kill = Kill(way, step)
            kill.defects = self._check_after_kill(reader, rng)
        finally:
            reader.close()
        return kill

    def _kill_point(self, rng: random.Random) -> tuple[str, KillPoint, float | None]:
        """The way to kill, where, and, for `MOMENT`, after how many seconds."""
        ways = [MOMENT, STEP, STEP] + [CALL] * (self.undisturbed.calls > 0)
        way = rng.choice(ways)
        if way == MOMENT:
            return way, KillPoint(), rng.uniform(0, self.duration)
        if way == STEP:  # each kind is equally likely, so that rare ones are hit too
            kinds = self._by_phase[rng.choice(list(self._by_phase))]
            numbers = kinds[rng.choice(list(kinds))]
            return way, KillPoint(step=rng.choice(numbers)), None
        half = rng.random() < 0.5
        return way, KillPoint(call=rng.randint(1, self.undisturbed.calls), half=half), None

    def _run(self, kill_point: KillPoint, moment: float | None, reader: Reader) -> Finished | None:
        """Run the operation in a process, and read meanwhile; None if it was killed, or failed."""
        process, pipe = self._start(kill_point)
        began = time.perf_counter()
        message: Any = None
        with suppress(EOFError, ConnectionResetError):
            while message is None:
                left = 0.01 if moment is None else moment - (time.perf_counter() - began)
                if moment is not None and left <= 0:
                    with suppress(ProcessLookupError):  # it finished just now
                        os.kill(process.pid, signal.SIGKILL)
                    moment = None
                if pipe.poll(min(max(left, 0), 0.01)):
                    message = pipe.recv()
                elif reader.is_reading:
                    reader.read()
                if time.perf_counter() - began > TIMEOUT:
                    process.kill()
                    reader.defects.append("a process did not finish")
        process.join(TIMEOUT)
        pipe.close()
        if isinstance(message, Finished) and message.error:
            reader.defects.append(message.error)
            return None
        return message

    def _start(self, kill_point: KillPoint) -> tuple[Any, Any]:
        context = multiprocessing.get_context("forkserver")
        pipe, other = context.Pipe(duplex=False)
        self._last_step.write_bytes(bytes(STEP_BYTES))
        process = context.Process(
            target=run_operation,
            args=(self.site.root, self.name, kill_point, self._last_step, other),
        )
        process.start()
        other.close()
        with suppress(EOFError):
            pipe.recv()  # it has started
        return process, pipe

    # ------------------------------------------------------------------ checks

    def _check_after_kill(self, reader: Reader, rng: random.Random) -> list[str]:
        """What is wrong right after the kill."""
        shutil.rmtree(self.site.after_kill, ignore_errors=True)
        if self.site.index.exists():
            shutil.copytree(self.site.index, self.site.after_kill)
        found = reader.defects[:]
        if not self._operation.readable:
            return found
        content = Content()
        if _has_tables(self._catalog):
            content = content_of(self._catalog)
            of_reader = reader.answers()
            expected = answers_of(self.site) if rng.random() < 0.5 else None
            if of_reader and expected:
                found += _of_reader(of_reader, expected)
            found += self._doctor()
        found += half_done(content, reader.seen, self.before, self.final)
        return found + self._operation.check(self.site, self.before)

    def _doctor(self) -> list[str]:
        return [
            f"doctor: {one.check}: {one.what} {list(one.examples)}"
            for one in examine(self.site.index)
            if one.state == "wrong"
        ]

    def _complete(self, rng: random.Random) -> list[str]:
        """What is wrong once another process, or this one, has completed the work."""
        reader = Reader(self.site, is_reading=self._operation.readable)
        reader.read()
        found: list[str] = []
        try:
            if rng.random() < 0.5:
                self._operation.run(self.site)
            elif isinstance(failed := self._run_in_process(), str):
                found.append(failed)
            found += differences(content_of(self._catalog), self.final)
            found += answer_differences(answers_of(self.site), self.answers)
            if (of_reader := reader.answers()) is not None:
                found += _of_reader(of_reader, self.answers)
            found += self._doctor() + reader.defects + self._leftovers()
        except Exception as error:  # any error is a defect
            found.append(f"continuing: {type(error).__name__}: {error}")
        finally:
            reader.close()
        return found

    def _run_in_process(self) -> Finished | str:
        """Run the operation to its end in another process; what went wrong, if it failed."""
        reader = Reader(self.site, is_reading=False)
        finished = self._run(KillPoint(), None, reader)
        return "; ".join(reader.defects) or "it ended early" if finished is None else finished

    def _leftovers(self) -> list[str]:
        """Half-written files that are not removed although they are old."""
        for part in self.site.index.rglob("*.part*"):
            os.utime(part, (0, 0))
        examine(self.site.index, repair=True, sample=10)
        paths = [str(path) for path in self.site.index.rglob("*.part*")]
        return [f"left behind: {paths}"] if paths else []


def _of_reader(actual: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [f"reader: {difference}" for difference in answer_differences(actual, expected)]


def _has_tables(catalog: Path) -> bool:
    """Whether the catalog has tables, which are made in one transaction."""
    if not catalog.exists():
        return False
    with closing(sqlite3.connect(catalog, timeout=20)) as driver:
        return bool(driver.execute("PRAGMA user_version").fetchone()[0])


def start_fork_server(work: Path) -> bool:
    """Start the process that all others are forked from; whether it counts system calls."""
    library = compile_library(work)
    here = str(Path(__file__).parent.parent)
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
    }
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["killing.killed_process"])
    with patch.dict(os.environ, environment):
        forkserver.ensure_running()
    return library is not None
