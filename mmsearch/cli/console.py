"""Standard output, standard error, and progress."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import typer

from mmsearch.cli.render import printable
from mmsearch.errors import MMSearchError

if TYPE_CHECKING:
    from mmsearch.types import Progress

NOTHING_FOUND = 1
"""The exit code of a command that found nothing."""

SECONDS_A_LINE = 10.0
"""Seconds between two lines of progress where no terminal shows a bar."""


# ---------------------------------------------------------------------- output


def terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def out(text: str, *, raw: bool = False) -> None:
    """Write results to stdout.

    Args:
        text: The results, safe to show unless they are `raw`.
        raw: Bytes of file names that are not UTF-8 are written as they are; not to a terminal,
            which would obey a name with an escape sequence.
    """
    if sys.stdout is None:  # closed by the caller
        return
    if raw and terminal():
        text = printable(text)
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
    """Send the rest of the buffer nowhere, so that exiting does not fail on it again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Write a line that is not a result to stderr, safe to show: it may name a file."""
    if sys.stderr is None:
        return
    encoding = sys.stderr.encoding or "utf-8"
    with suppress(OSError):
        shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        sys.stderr.write(shown + "\n")


# ---------------------------------------------------------------------- progress


def library_messages() -> AbstractContextManager[None]:
    """Show on stderr, above a bar, what the library logs about work that takes long."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    logger = logging.getLogger("mmsearch.progress")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some packages give the root logger a handler of their own
    return logging_redirect_tqdm([logger])


@contextmanager
def progress_bar(
    unit: str, *, quiet: bool, limiting: Callable[[], str | None] = lambda: None
) -> Iterator[Progress]:
    """A callback that shows progress on stderr: how far, how fast, how long still.

    A bar on a terminal, otherwise a line every SECONDS_A_LINE.

    Args:
        unit: What is counted: " files".
        quiet: Show nothing.
        limiting: Returns the stage that the others wait for, if that is known.
    """
    if quiet or sys.stderr is None:
        yield lambda _done, _total: None
        return
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    file = sys.stderr if on_terminal else io.StringIO()
    bar_shape = "{percentage:3.0f}%|{bar}| " if on_terminal else ""
    pace = "{rate_noinv_fmt}{postfix}]"
    known = f"{bar_shape}{{n_fmt}}/{{total_fmt}}{unit} [{{elapsed}}<{{remaining}}, {pace}"
    unknown = f"{{n_fmt}}{unit} [{{elapsed}}, {pace}"
    last_line = monotonic()
    # the rate adapts within seconds, since unchanged files are a thousand times faster
    about: Any = {"mininterval": 0.5, "smoothing": 0.2, "miniters": 1, "unit_scale": unit == "B"}
    with library_messages(), tqdm(unit=unit, file=file, leave=False, **about) as bar:

        def show(done: int, total: int | None) -> None:
            nonlocal last_line
            bar.total, bar.bar_format = total, known if total else unknown
            if stage := limiting():
                bar.set_postfix_str(f"limited by {_STAGES.get(stage, stage)}", refresh=False)
            bar.update(done - bar.n)
            if not on_terminal and monotonic() - last_line >= SECONDS_A_LINE:
                last_line = monotonic()
                say(str(bar))

        yield show


_STAGES = {
    "scan": "listing",
    "read": "reading",
    "decode": "decoding",
    "encode": "encoding",
    "store": "storing",
}
