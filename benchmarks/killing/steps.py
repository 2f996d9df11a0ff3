"""Counts what a process does to files and to the catalog, and kills it at one of these steps.

Steps of Python are seen by an audit hook and by SQLite's own trace; a shared library that stands
before the system's, if there is a compiler to make it, sees each call that writes.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = {
    "open": "open",
    "os.rename": "rename",
    "os.remove": "unlink",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.truncate": "truncate",
    "shutil.copyfile": "copy",
}
"""Events of Python's, and what they are called here."""

SOURCE = Path(__file__).with_name("steps.c")


class Steps:
    """The steps of one process from now on.

    Args:
        below: Only files below this folder count.
        told: Where the last step is written to, as that is all that a killed process leaves.
        fatal: The number of the step at which the process is killed; None: at none.
    """

    def __init__(self, below: Path, told: Any, fatal: int | None = None) -> None:
        self.seen: list[str] = []
        self._below = os.fspath(below) + os.sep
        self._told = told
        self._fatal = fatal
        self._turn = threading.Lock()
        self._open = True

    def watch(self) -> None:
        """Begin; there is no end to it, as hooks cannot be taken away."""
        sys.addaudithook(self._audit)
        flush, connect = os.fsync, sqlite3.connect

        def fsync(handle: Any) -> None:
            flush(handle)
            self.step("fsync")

        def connected(*given: Any, **named: Any) -> sqlite3.Connection:
            made = connect(*given, **named)
            made.set_trace_callback(self._statement)
            return made

        os.fsync = fsync  # type: ignore[assignment]
        sqlite3.connect = sqlite3.dbapi2.connect = connected  # type: ignore[assignment,misc]

    def rest(self) -> None:
        """What comes now does not count."""
        self._open = False

    def step(self, what: str) -> None:
        """One step; it may be the last."""
        if not self._open:
            return
        with self._turn:
            self.seen.append(what)
            said = what.encode("utf-8", "replace")[: len(self._told) - 1]
            self._told[: len(said) + 1] = said + b"\0"
            if self._fatal is not None and len(self.seen) >= self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if (name := FILES.get(event)) is None or not self._open:
            return
        path = os.fsdecode(given[0]) if isinstance(given[0], (str, bytes, os.PathLike)) else ""
        if path.startswith(self._below):
            self.step(f"{name} {_part(path[len(self._below) :])}")

    def _statement(self, sql: str) -> None:
        self.step(_shape(sql))


def _part(path: str) -> str:
    """Which part of an index, or of what is around it, a path is of."""
    first, _, rest = path.partition(os.sep)
    if first != "index":
        return first if first in ("photos", "elsewhere") else "list"
    if not rest:
        return "index"
    for name in ("cache", "backups", "writer", "catalog"):
        if rest.startswith(name):
            return name
    return "index"


_TABLE = re.compile(r"\b(?:INTO|FROM|UPDATE|TABLE|ON|TRIGGER|INDEX)\s+\"?(\w+)", re.IGNORECASE)


def _shape(sql: str) -> str:
    """A statement in two words."""
    verb = sql.lstrip("- \n").split(None, 1)
    first = (verb[0] if verb else "?").upper().rstrip(";")
    if first in ("BEGIN", "COMMIT", "ROLLBACK", "VACUUM"):
        return first
    if first == "PRAGMA":
        return f"PRAGMA {sql.split()[1].split('=', maxsplit=1)[0].split('(', maxsplit=1)[0]}"
    found = _TABLE.search(sql)
    return f"{first} {found.group(1).lower()}" if found else first


# ---------------------------------------------------------------------- the calls of the system


def compiled(folder: Path) -> Path | None:
    """The library that counts calls of the system, if it can be made here."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "steps.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)
    return library if done.returncode == 0 else None


def calls() -> Callable[..., Any] | None:
    """Sets at which call to be killed, and whether half of what that would write is written."""
    return getattr(ctypes.CDLL(None), "kill_at_call", None)


def calls_made() -> int:
    """How many there were since."""
    return int(ctypes.CDLL(None).calls_made())
