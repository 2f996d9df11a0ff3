"""The child process that indexes for a server, so that queries do not wait for indexing.

It reads its task, a line of JSON, from stdin (other users of the machine see its arguments, and an
address may hold a password), and writes messages to stdout, a line of JSON each:

    {"done": 12, "total": 40, "limiting": "encode"}     progress
    {"report": {…}}                                     the task is done, or was interrupted
    {"error": "…"}                                      the task failed
    {"warning": "…"}                                    trouble with watching, which goes on

When stdin ends, it stops as Ctrl-C does, and what was stored stays. The server closes stdin to
cancel a job, and the system does if the server is killed; with signals, neither works on every
system.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypedDict

from mmsearch.collection.opening import collection_for
from mmsearch.collection.watch import watch
from mmsearch.encoders import Runtime
from mmsearch.errors import MMSearchError
from mmsearch.storage.place import place_of
from mmsearch.types import Report

NICENESS = 10
"""Of this process: queries have priority."""

PROGRESS_EVERY = 0.1
"""The least seconds between two messages of progress."""

SECONDS_TO_END = 10.0
"""Seconds after the end of stdin until the process exits; that loses at most the current batch."""

MOST_FAILURES = 100
"""Failed files in a report; the index has them all."""


class Task(TypedDict):
    """What a child is to do."""

    index: str
    """Its folder, or its address, password and all; it is created if there are paths."""
    paths: list[str] | None
    """None brings up to date all that was indexed before."""
    watch: bool
    """Whether to keep the index up to date after that, until stdin ends."""
    how: dict[str, str]
    """The fields of `Runtime`."""


Send = Callable[[dict[str, Any]], None]


def command() -> list[str]:
    """The command that starts a child: this Python, with the module path of this process.

    `-m` would import modules from the working directory too, whatever lies there.
    """
    code = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import main; main()"
    return [sys.executable, "-P", "-c", code, *map(str, sys.path)]


def main() -> None:
    """Do the task that stdin has, and exit."""
    if sys.platform != "win32":  # there the server does this (`jobs`)
        # a process group of its own, so that Ctrl-C in a terminal reaches the server alone; but in
        # the server's session, since Linux may apply niceness only within one
        os.setpgid(0, 0)
        os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that no library writes between the messages

    def send(message: dict[str, Any]) -> None:
        try:
            output.write(json.dumps(message).encode("ascii") + b"\n")
            output.flush()
        except OSError as error:  # the server is gone
            raise KeyboardInterrupt from error

    try:
        task: Task = json.loads(_line())
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
        _run(task, send)
    except KeyboardInterrupt:
        pass
    except MMSearchError as error:
        send({"error": str(error)})
    except OSError as error:  # a folder that may not be entered, a disk that is gone
        name = "" if error.filename is None else f"{os.fsdecode(error.filename)!r}: "
        send({"error": f"{name}{error.strerror or error}"})
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        send({"error": f"indexing failed ({what}); the output of the server says where"})
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process is ending already


def _run(task: Task, send: Send) -> None:
    paths = task["paths"]
    how = Runtime(**task["how"])  # type: ignore[arg-type]
    place = place_of(task["index"])
    with collection_for(paths or (), place, how=how, create=bool(paths)) as collection:
        reported = False
        sent = float("-inf")

        def progress(done: int, total: int | None) -> None:
            nonlocal sent
            if time.monotonic() - sent >= PROGRESS_EVERY or done == total:
                sent = time.monotonic()
                report = collection.report
                limiting = report.limiting if report is not None else None
                send({"done": done, "total": total, "limiting": limiting})

        def report(report: Report | None) -> None:
            nonlocal reported
            if report is not None and not reported:
                reported = True
                send({"report": _plain(report)})

        try:
            if task["watch"]:
                if paths:
                    collection.ask_for(paths)
                watch(
                    collection,
                    on_update=report,
                    on_trouble=lambda trouble: send({"warning": trouble}),
                    progress=progress,
                )
            else:
                collection.add(paths, progress=progress)
        except KeyboardInterrupt:
            report(collection.report)
            raise
        report(collection.report)  # not of what failed, which is told by its error


def _plain(report: Report) -> dict[str, Any]:
    plain = asdict(report)
    plain["failures"] = plain["failures"][:MOST_FAILURES]
    return {**plain, "limiting": report.limiting}


# ---------------------------------------------------------------------- stdin


def _line() -> bytes:
    """The first line of stdin.

    Read without a buffer: the thread that waits for the end would hold its lock for ever.
    """
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(0, 1 << 16)
        if not read:
            raise KeyboardInterrupt
        line += read
    return line


def _stop_at_end_of_input() -> None:
    while os.read(0, 1 << 16):
        pass
    _interrupt()
    time.sleep(SECONDS_TO_END)
    os._exit(1)


def _interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread, even while that waits for another thread."""
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        signal.pthread_kill(main_thread, signal.SIGINT)
