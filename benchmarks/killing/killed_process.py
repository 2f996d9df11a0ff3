"""The process that is killed: it runs one operation and counts its steps."""

from __future__ import annotations

import mmap
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# what all operations need, so that a forked process need not import it
import faiss  # noqa: F401
from PIL import PngImagePlugin  # noqa: F401

import mmsearch.collection.doctor
import mmsearch.indexing.index_run
import mmsearch.search
import mmsearch.search.tagging
import mmsearch.storage.sqlite.filters  # noqa: F401
from killing.files import Site
from killing.operations import OPERATIONS
from killing.steps import Steps, call_killer, calls_made
from killing.toy_encoders import small_steps

STEP_BYTES = 64
"""The size of the shared memory that holds the last step."""


@dataclass(frozen=True)
class KillPoint:
    """Where a process is killed.

    Attributes:
        step: At which step it kills itself; 0: at none.
        call: At which system call; 0: at none.
        half: Whether half of what that call would write is written.
    """

    step: int = 0
    call: int = 0
    half: bool = False


@dataclass(frozen=True)
class Finished:
    """What is known of a process that was not killed.

    Attributes:
        steps: All of its steps.
        calls: The number of its system calls that write; 0 if they were not counted.
        error: The traceback of the operation; empty if it succeeded.
    """

    steps: list[str]
    calls: int
    error: str = ""


def run_operation(
    root: Path, name: str, kill_point: KillPoint, last_step: Path, pipe: Connection
) -> None:
    """Run an operation and, unless killed meanwhile, send a `Finished` through the pipe."""
    with last_step.open("r+b") as file:
        shared: Any = mmap.mmap(file.fileno(), STEP_BYTES)
    with small_steps(root / "home"):
        steps = Steps(root, shared, kill_point.step or None)
        steps.start()
        pipe.send("started")
        if (kill_at := call_killer()) is not None:
            kill_at(kill_point.call, int(kill_point.half))
        error = ""
        try:
            OPERATIONS[name].run(Site(root))
        except BaseException:  # it is sent to the waiting process
            error = traceback.format_exc()
        calls = 0
        if kill_at is not None:
            calls = calls_made()
            kill_at(0, 0)
        steps.stop()
        pipe.send(Finished(steps.seen, calls, error))
