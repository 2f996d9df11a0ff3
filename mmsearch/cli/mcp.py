"""The command `mmsearch mcp`: the indexes as tools of an assistant."""

from __future__ import annotations

import signal
import sys

from mmsearch.cli import options
from mmsearch.cli.console import say
from mmsearch.encoders import runtime_of
from mmsearch.errors import InvalidOption, MissingExtra

_HOW_TO_START = "let your assistant's program start it, as docs/server.md shows"


def mcp(
    *,
    index: options.ServedIndexes = None,
) -> None:
    """Let an assistant search indexes, by the Model Context Protocol over stdin and stdout.

    The assistant's program starts it; `mmsearch serve` offers the same tools at /mcp.
    """
    try:
        from mmsearch.server.mcp import run_stdio
    except ImportError as error:  # it is not installed, or too old
        raise MissingExtra("mmsearch mcp", "mcp") from error
    from mmsearch.cli.serve import served_places
    from mmsearch.server.indexes import ServedIndexes
    from mmsearch.server.services import Services

    indexes = ServedIndexes(served_places(index), runtime_of())
    for name in indexes.places if index else ():  # the default index need not exist yet
        if not indexes.exists(name):
            indexes.get(name)  # raises, with what to do
    if sys.stdin is None or sys.stdout is None:
        raise InvalidOption(f"stdin or stdout is closed: {_HOW_TO_START}")
    if sys.stdin.isatty():
        say(f"waiting for the Model Context Protocol on stdin: {_HOW_TO_START} (Ctrl-C ends it)")
    # Ctrl-C ends it at once: a thread that waits for input, or searches, cannot be interrupted
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run_stdio(Services.of(indexes))
