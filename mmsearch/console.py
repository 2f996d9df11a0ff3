"""Where commands write, results to stdout and everything else to stderr; which index they open."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
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


@contextmanager
def progress_bar(unit: str, *, quiet: bool) -> Iterator[Progress]:
    """A bar on stderr, if a person is there to see it, and what moves it."""
    from tqdm import tqdm

    telling = nullcontext() if quiet or sys.stderr is None else long_work_told()
    with telling, tqdm(unit=unit, disable=True if quiet else None, leave=False) as bar:

        def tell(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell
