"""Counts what a process does to files and to the catalog, and kills it at one of these steps.

Steps of Python are observed by an audit hook and by SQLite's own trace; a preloaded shared library,
if there is a compiler for it, observes each system call that writes.
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
"""Audit events of Python, and what they are called here."""

SOURCE = Path(__file__).with_name("steps.c")


class Steps:
    """The steps of one process from now on.

    Args:
        below: Only files below this folder count.
        last_step: Shared memory for the last step, which outlives the killed process.
        kill_at: The number of the step at which the process is killed; None: at none.

    Attributes:
        seen: The steps so far.
    """

    def __init__(self, below: Path, last_step: Any, kill_at: int | None = None) -> None:
        self.seen: list[str] = []
        self._below = os.fspath(below) + os.sep
        self._last_step = last_step
        self._kill_at = kill_at
        self._lock = threading.Lock()
        self._is_counting = True

    def start(self) -> None:
        """Start to count; the hooks stay, as Python cannot remove them."""
        sys.addaudithook(self._audit)
        flush, connect = os.fsync, sqlite3.connect

        def fsync(handle: Any) -> None:
            flush(handle)
            self.step("fsync")

        def traced_connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **named)
            connection.set_trace_callback(self._statement)
            return connection

        os.fsync = fsync  # type: ignore[assignment]
        sqlite3.connect = sqlite3.dbapi2.connect = traced_connect  # type: ignore[assignment,misc]

    def stop(self) -> None:
        """Stop to count."""
        self._is_counting = False

    def step(self, name: str) -> None:
        """Count one step; the process may be killed at it."""
        if not self._is_counting:
            return
        with self._lock:
            self.seen.append(name)
            text = name.encode("utf-8", "replace")[: len(self._last_step) - 1]
            self._last_step[: len(text) + 1] = text + b"\0"
            if self._kill_at is not None and len(self.seen) >= self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if (name := FILES.get(event)) is None or not self._is_counting:
            return
        path = (
            os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
        )
        if path.startswith(self._below):
            self.step(f"{name} {_part(path[len(self._below) :])}")

    def _statement(self, sql: str) -> None:
        self.step(_shape(sql))


def _part(path: str) -> str:
    """The part of an index, or of the folders around it, that a path belongs to."""
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
    """A statement as its verb and table."""
    verb = sql.lstrip("- \n").split(None, 1)
    first = (verb[0] if verb else "?").upper().rstrip(";")
    if first in ("BEGIN", "COMMIT", "ROLLBACK", "VACUUM"):
        return first
    if first == "PRAGMA":
        return f"PRAGMA {sql.split()[1].split('=', maxsplit=1)[0].split('(', maxsplit=1)[0]}"
    found = _TABLE.search(sql)
    return f"{first} {found.group(1).lower()}" if found else first


# ---------------------------------------------------------------------- system calls


def compile_library(folder: Path) -> Path | None:
    """The library that counts system calls, if it can be compiled here."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "steps.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)
    return library if done.returncode == 0 else None


def call_killer() -> Callable[..., Any] | None:
    """Sets at which call to be killed, and whether half of what it would write is written."""
    return getattr(ctypes.CDLL(None), "kill_at_call", None)


def calls_made() -> int:
    """The number of calls since then."""
    return int(ctypes.CDLL(None).calls_made())
