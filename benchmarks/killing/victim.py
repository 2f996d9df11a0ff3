"""The process that is killed: it runs one operation, and counts its steps."""

from __future__ import annotations

import mmap
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# what all of them need, so that a process that is forked here imports nothing any more
import faiss  # noqa: F401
from PIL import PngImagePlugin  # noqa: F401

import mmsearch.collection.doctor
import mmsearch.indexing.index_run
import mmsearch.search
import mmsearch.search.tagging
import mmsearch.storage.sqlite.filters  # noqa: F401
from killing.operations import OPERATIONS
from killing.steps import Steps, calls, calls_made
from killing.toys import small_steps
from killing.world import Site

TOLD = 64
"""Bytes in which the last step is told."""


@dataclass(frozen=True)
class Fate:
    """What is to become of a process.

    Attributes:
        step: At which step it kills itself; 0: at none.
        call: At which call of the system.
        half: Whether half of what that call would write is written.
    """

    step: int = 0
    call: int = 0
    half: bool = False


@dataclass(frozen=True)
class Lived:
    """What is known of a process that came to its end.

    Attributes:
        steps: All of them.
        calls: How many calls of the system that write; 0 if they were not counted.
        trouble: What went wrong.
    """

    steps: list[str]
    calls: int
    trouble: str = ""


def live(root: Path, name: str, fate: Fate, told: Path, pipe: Connection) -> None:
    """Run an operation; unless killed meanwhile, say through the pipe how it went."""
    with told.open("r+b") as file:
        shared: Any = mmap.mmap(file.fileno(), TOLD)
    with small_steps(root / "home"):
        steps = Steps(root, shared, fate.step or None)
        steps.watch()
        pipe.send("begun")
        if (kill_at := calls()) is not None:
            kill_at(fate.call, int(fate.half))
        trouble = ""
        try:
            OPERATIONS[name].run(Site(root))
        except BaseException:  # it is told to who waits
            trouble = traceback.format_exc()
        made = 0
        if kill_at is not None:
            made = calls_made()
            kill_at(0, 0)
        steps.rest()
        pipe.send(Lived(steps.seen, made, trouble))
