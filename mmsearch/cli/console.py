"""Where commands write, results to stdout and everything else to stderr; which index they open."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.errors import MMSearchError

if TYPE_CHECKING:
    from mmsearch.types import Progress

Index = Annotated[
    str | None,
    typer.Option(
        "-i",
        "--index",
        metavar="NAME|DIR",
        help="Which index: a name, or a folder if it has a path separator. "
        "[default: $MMSEARCH_INDEX, else 'default']",
        show_default=False,
    ),
]
"""The option that all commands have which open an index."""

WINDOW = 30.0
"""Seconds that a rate is told from."""

SECONDS_A_LINE = 10.0
"""Between two lines that tell how far it is, where a bar would fill a log."""


def terminal() -> bool:
    """Whether results go to a person."""
    return sys.stdout is not None and sys.stdout.isatty()


def out(text: str, *, raw: bool = False) -> None:
    """Results; file names that are not UTF-8 go out as they are when `raw`, else escaped."""
    if sys.stdout is None:  # closed by whoever started us
        return
    data = text.encode("utf-8", "surrogateescape" if raw else "backslashreplace")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError as error:  # `mmsearch query … | head`: the reader has enough
        _drop_output()
        raise typer.Exit(0) from error
    except OSError as error:
        _drop_output()
        raise MMSearchError(f"the results could not be written: {error.strerror}") from error


def _drop_output() -> None:
    """Let what is left in the buffer go nowhere, so that ending does not fail on it again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Everything that is not a result."""
    if sys.stderr is None:
        return
    encoding = sys.stderr.encoding or "utf-8"
    with suppress(OSError):
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


@contextmanager
def long_work_told() -> Iterator[None]:
    """What the library says of work that takes long, shown on stderr."""
    from tqdm import tqdm

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(record.getMessage(), file=sys.stderr)  # above a bar, if there is one

    told = logging.getLogger("mmsearch.progress")
    shown = Shown()
    told.setLevel(logging.INFO)
    told.propagate = False  # some packages give the root logger a handler of their own
    told.addHandler(shown)
    try:
        yield
    finally:
        told.removeHandler(shown)


class Pace:
    """How fast something goes, judged by the last half minute.

    Args:
        clock: Seconds from anywhere, never set back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, done: int) -> None:
        """So many are done by now."""
        now = self._clock()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # something else is being counted now
        if len(self._seen) < 2 or now - self._seen[-2][0] >= WINDOW / 60:
            self._seen.append((now, done))
        else:
            self._seen[-1] = now, done
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """How many a second; 0 before that can be told."""
        if len(self._seen) < 2:
            return 0.0
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began else 0.0

    def said(self, total: int | None) -> str:
        """The rate and, if the total is known, the time left: "68 a second, 3 min left"."""
        rate = self.rate
        if not rate:
            return ""
        words = f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.1f} a second"
        left = None if total is None or not self._seen else total - self._seen[-1][1]
        return words if left is None or left < 0 else f"{words}, {_duration(left / rate)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_bar(
    unit: str, *, quiet: bool, limiting: Callable[[], str | None] = lambda: None
) -> Iterator[Progress]:
    """Shows on stderr how far it is, how fast it goes and how long it takes yet; what tells it so.

    A bar on a terminal, else a line every SECONDS_A_LINE.

    Args:
        unit: What is counted, " files" say.
        quiet: Show nothing.
        limiting: Gives the stage that the others wait for, if that is known.
    """
    if quiet or sys.stderr is None:
        yield lambda _done, _total: None
    elif sys.stderr.isatty():
        with long_work_told(), _bar(unit, limiting) as tell:
            yield tell
    else:
        with long_work_told():
            yield _lines(unit, limiting)


@contextmanager
def _bar(unit: str, limiting: Callable[[], str | None]) -> Iterator[Progress]:
    from tqdm import tqdm

    pace = Pace(monotonic)
    shape = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}" + unit + " [{elapsed}{postfix}]"
    with tqdm(leave=False, bar_format=shape) as bar:

        def tell(done: int, total: int | None) -> None:
            pace.note(done)
            bar.bar_format = shape if total else "{n_fmt}" + unit + " [{elapsed}{postfix}]"
            bar.total = total
            bar.set_postfix_str(_state(pace, total, limiting()), refresh=False)
            bar.update(done - bar.n)

        yield tell


def _lines(unit: str, limiting: Callable[[], str | None]) -> Progress:
    pace = Pace(monotonic)
    said = monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal said
        pace.note(done)
        if monotonic() - said >= SECONDS_A_LINE:
            said = monotonic()
            of = "" if total is None else f" of {total:,}"
            say(", ".join(filter(None, [f"{done:,}{of}{unit}", _state(pace, total, limiting())])))

    return tell


def _state(pace: Pace, total: int | None, stage: str | None) -> str:
    limit = f"limited by {_STAGES.get(stage, stage)}" if stage else ""
    return ", ".join(filter(None, [pace.said(total), limit]))


_STAGES = {
    "scan": "listing",
    "read": "reading",
    "decode": "decoding",
    "encode": "encoding",
    "store": "storing",
}
