"""`mmsearch watch`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import render
from mmsearch.cli.console import Index, progress_bar, say
from mmsearch.collection.opening import collection_for, open_collection

if TYPE_CHECKING:
    from mmsearch.types import Report

MOST_FAILURES = 5
"""Files that are named each time; `mmsearch errors` lists all."""


def watch(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Folders and files. [default: all that was indexed before]",
            show_default=False,
        ),
    ] = None,
    *,
    index: Index = None,
    poll: Annotated[
        bool,
        typer.Option("--poll", help="Look again and again: for network drives, which tell little."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Say nothing but what is in the way.")
    ] = False,
) -> None:
    """Bring an index up to date and keep it so, until Ctrl-C.

    What changes is read as soon as nothing has changed for a second. A new PATH is indexed, one
    that was indexed before is read as it was then.
    """
    from mmsearch.collection.watch import watch as keep_watching

    with _stopped_by_signals() as stop, ExitStack() as opened, ExitStack() as bar:
        library = collection_for(paths, index) if paths else open_collection(index)
        opened.enter_context(library)
        progress = bar.enter_context(progress_bar(" files", quiet=quiet))
        update, trouble = _teller(bar.close, quiet=quiet)
        done = keep_watching(
            library,
            paths or None,
            poll=poll,
            stop=stop,
            on_update=update,
            on_trouble=trouble,
            progress=progress,
        )
    say(f"stopped watching; {_counts(done) or 'nothing had changed'}")


# ------------------------------------------------------------------ parts of the above


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """What Ctrl-C and SIGTERM set, the first time; the second Ctrl-C does not wait."""
    stop = threading.Event()

    def ask_to_stop(number: int, frame: object) -> None:
        del frame
        if stop.is_set():
            raise KeyboardInterrupt
        say(f"{signal.Signals(number).name}: stopping when the batch in hand is stored")
        stop.set()

    before = {one: signal.signal(one, ask_to_stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _teller(
    close_bar: Callable[[], None], *, quiet: bool
) -> tuple[Callable[[Report], None], Callable[[str], None]]:
    """What says, with the time, what each look found, and what is in the way; each thing once."""
    told: set[str] = set()
    first = [True]

    def line(text: str) -> None:
        close_bar()
        say(f"{time.strftime('%H:%M:%S')} {render.visible(text)}")

    def update(report: Report) -> None:
        problems = [f"{one.path}: {one.reason}" for one in report.failures if one.path not in told]
        told.update(one.path for one in report.failures)
        if len(problems) > MOST_FAILURES:
            problems[MOST_FAILURES:] = [f"and {len(problems) - MOST_FAILURES} more files failed"]
        for problem in [*dict.fromkeys(w for w in report.warnings if w not in told), *problems]:
            line(problem)
        told.update(report.warnings)
        if not quiet and (first or _counts(report)):
            line(_counts(report) or "up to date, waiting for changes")
        first.clear()

    return update, line


def _counts(report: Report) -> str:
    names = ("added", "updated", "renamed", "removed", "filled")
    return ", ".join(f"{number} {name}" for name in names if (number := getattr(report, name)))
