"""One kill, and all that is asked of what is left."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tempfile
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
    answers,
    asked_of,
    content_of,
    differences,
    halves,
    other_answers,
)
from killing.operations import OPERATIONS, as_it_was, made
from killing.phases import phase_of
from killing.steps import compiled
from killing.victim import TOLD, Fate, Lived, live
from killing.world import Site
from mmsearch.collection.doctor import examine
from mmsearch.errors import MMSearchError

AGAIN = 0.25
"""How often what goes on with the work of a killed process is killed, too."""

STUCK = 120
"""Seconds after which a process that does not come to its end is taken for one that never will."""

MOMENT, STEP, CALL = "moment", "step", "call"
"""Ways to be killed: any time, after a step of Python's or SQLite's, at a call of the system."""


class Reader:
    """Who has the index open and reads it all the time, while others are killed."""

    def __init__(self, site: Site, *, is_reading: bool) -> None:
        self._site = site
        self.is_reading = is_reading
        self._library: mmsearch.Collection | None = None
        self.seen: Content | None = None
        self.trouble: list[str] = []

    def look(self) -> None:
        """Read once; an index that is just being made may be none yet."""
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
        except Exception as error:  # whatever it is, a reader is not to see it
            self.trouble.append(f"a reader: {type(error).__name__}: {error}")

    def answers(self) -> dict[str, Any] | None:
        """What it finds; None if it has nothing open."""
        return None if self._library is None else answers(self._library)

    def close(self) -> None:
        """Let go of it."""
        if self._library is not None:
            self._library.close()


@dataclass
class Kill:
    """One kill.

    Attributes:
        where: The last step before it.
        trouble: What is wrong with what was left; nothing is expected.
        seconds: What it took, with all that was asked after it.
    """

    way: str
    where: str
    trouble: list[str] = field(default_factory=list)
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
        self.site = made(self._operation, work / f"{list(OPERATIONS).index(name):02}")
        self._told = work / "told"
        self._told.write_bytes(bytes(TOLD))
        self.before = self._content_before()
        began = time.perf_counter()
        self.lived = self._undisturbed()
        self.lasts = time.perf_counter() - began
        self.final = content_of(self._catalog)
        self.answers = asked_of(self.site)
        self._by_phase: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, step in enumerate(self.lived.steps, 1):
            self._by_phase[phase_of(step)][step].append(number)

    @property
    def _catalog(self) -> Path:
        return self.site.index / "catalog.db"

    def _content_before(self) -> Content:
        if not self._operation.readable or not self.site.template.exists():
            return Content()
        return content_of(self.site.template / "catalog.db")

    def check_repeats(self) -> list[str]:
        """In what two undisturbed runs differ, which would make all that follows worthless."""
        self._undisturbed()
        told = differences(content_of(self._catalog), self.final)
        return told + other_answers(asked_of(self.site), self.answers)

    def _undisturbed(self) -> Lived:
        as_it_was(self.site)
        lived = self._finish()
        if isinstance(lived, str):
            raise RuntimeError(f"{self.name}: {lived}")  # noqa: TRY004 - it says what went wrong
        return lived

    # ------------------------------------------------------------------ one kill

    def kill(self, number: int) -> list[Kill]:
        """Kill the operation; several times, if who goes on with it is killed as well."""
        chance = random.Random(f"{self._seed} {self.name} {number}")
        as_it_was(self.site)
        kills: list[Kill] = []
        while not kills or chance.random() < AGAIN:
            began = time.perf_counter()
            kill = self._one(chance)
            if kill is None:  # it came to its end first
                if not kills:
                    as_it_was(self.site)
                    continue
                break
            kill.seconds = time.perf_counter() - began
            kills.append(kill)
            if kill.trouble:
                break
        began = time.perf_counter()
        if not kills[-1].trouble:
            kills[-1].trouble += self._continued(chance)
        kills[-1].seconds += time.perf_counter() - began
        return kills

    def _one(self, chance: random.Random) -> Kill | None:
        way, fate, moment = self._fate(chance)
        reader = Reader(self.site, is_reading=self._operation.readable)
        reader.look()
        try:
            if self._lived(fate, moment, reader) is not None:
                return None
            where = self._told.read_bytes().partition(b"\0")[0].decode() or "begun"
            kill = Kill(way, where)
            kill.trouble = self._left(reader, chance)
        finally:
            reader.close()
        return kill

    def _fate(self, chance: random.Random) -> tuple[str, Fate, float | None]:
        ways = [MOMENT, STEP, STEP] + [CALL] * (self.lived.calls > 0)
        way = chance.choice(ways)
        if way == MOMENT:
            return way, Fate(), chance.uniform(0, self.lasts)
        if way == STEP:  # each kind is as likely, so that rare ones are met as well
            kinds = self._by_phase[chance.choice(list(self._by_phase))]
            return way, Fate(step=chance.choice(kinds[chance.choice(list(kinds))])), None
        half = chance.random() < 0.5
        return way, Fate(call=chance.randint(1, self.lived.calls), half=half), None

    def _lived(self, fate: Fate, moment: float | None, reader: Reader) -> Lived | None:
        """How a process went on that came to its end; None if it was killed."""
        process, pipe = self._begin(fate)
        began = time.perf_counter()
        told: Any = None
        with suppress(EOFError, ConnectionResetError):
            while told is None:
                left = 0.01 if moment is None else moment - (time.perf_counter() - began)
                if moment is not None and left <= 0:
                    with suppress(ProcessLookupError):  # it came to its end just now
                        os.kill(process.pid, signal.SIGKILL)
                    moment = None
                if pipe.poll(min(max(left, 0), 0.01)):
                    told = pipe.recv()
                elif reader.is_reading:
                    reader.look()
                if time.perf_counter() - began > STUCK:
                    process.kill()
                    reader.trouble.append("a process did not come to its end")
        process.join(STUCK)
        pipe.close()
        if isinstance(told, Lived) and told.trouble:
            reader.trouble.append(told.trouble)
            return None
        return told

    def _begin(self, fate: Fate) -> tuple[Any, Any]:
        context = multiprocessing.get_context("forkserver")
        pipe, other = context.Pipe(duplex=False)
        self._told.write_bytes(bytes(TOLD))
        process = context.Process(
            target=live, args=(self.site.root, self.name, fate, self._told, other)
        )
        process.start()
        other.close()
        with suppress(EOFError):
            pipe.recv()  # it has begun
        return process, pipe

    # ------------------------------------------------------------------ what is left

    def _left(self, reader: Reader, chance: random.Random) -> list[str]:
        """What is wrong right after the kill."""
        shutil.rmtree(self.site.left, ignore_errors=True)
        if self.site.index.exists():
            shutil.copytree(self.site.index, self.site.left)
        told = reader.trouble[:]
        if not self._operation.readable:
            return told
        now = Content()
        if _has_tables(self._catalog):
            now = content_of(self._catalog)
            found = reader.answers()
            fresh = asked_of(self.site) if chance.random() < 0.5 else None
            if found and fresh:
                told += [f"open before: {one}" for one in other_answers(found, fresh)]
            told += self._wrong()
        told += halves(now, reader.seen, self.before, self.final)
        return told + self._operation.look(self.site, self.before)

    def _wrong(self) -> list[str]:
        return [
            f"doctor: {one.check}: {one.what} {list(one.examples)}"
            for one in examine(self.site.index)
            if one.state == "wrong"
        ]

    def _continued(self, chance: random.Random) -> list[str]:
        """What is wrong once the work is done by another process, or by this one."""
        reader = Reader(self.site, is_reading=self._operation.readable)
        reader.look()
        told: list[str] = []
        try:
            if chance.random() < 0.5:
                self._operation.run(self.site)
            elif isinstance(failed := self._finish(), str):
                told.append(failed)
            told += differences(content_of(self._catalog), self.final)
            told += other_answers(asked_of(self.site), self.answers)
            if (found := reader.answers()) is not None:
                told += [f"open before: {one}" for one in other_answers(found, self.answers)]
            told += self._wrong() + reader.trouble + self._cleared()
        except Exception as error:  # whatever it is, it is a finding
            told.append(f"going on: {type(error).__name__}: {error}")
        finally:
            reader.close()
        return told

    def _finish(self) -> Lived | str:
        """Have another process do all that is left to be done."""
        reader = Reader(self.site, is_reading=False)
        lived = self._lived(Fate(), None, reader)
        return "; ".join(reader.trouble) or "it ended early" if lived is None else lived

    def _cleared(self) -> list[str]:
        """What is left behind for good: half-written files that are old are to be cleared away."""
        for part in self.site.index.rglob("*.part*"):
            os.utime(part, (0, 0))
        examine(self.site.index, repair=True, sample=10)
        left = [str(path) for path in self.site.index.rglob("*.part*")]
        return [f"left behind: {left}"] if left else []


def _has_tables(catalog: Path) -> bool:
    """Whether there is a catalog by now: its tables are made in one transaction."""
    if not catalog.exists():
        return False
    with closing(sqlite3.connect(catalog, timeout=20)) as driver:
        return bool(driver.execute("PRAGMA user_version").fetchone()[0])


def nursery(work: Path) -> bool:
    """Start the process that all others are forked from; whether it counts calls of the system."""
    library = compiled(work)
    here = str(Path(__file__).parent.parent)
    surroundings = {
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
    }
    if library is not None:
        surroundings["LD_PRELOAD"] = str(library)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["killing.victim"])
    with patch.dict(os.environ, surroundings):
        forkserver.ensure_running()
    return library is not None


def workplace() -> Path:
    """A folder of its own."""
    return Path(tempfile.mkdtemp(prefix="mmsearch-kills-"))
