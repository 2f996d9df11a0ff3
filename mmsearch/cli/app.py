"""The command line `mmsearch`: its commands, its exit codes, its errors in a line each."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmsearch.cli.analysis import describe, duplicates, tag
from mmsearch.cli.console import option, out, say
from mmsearch.cli.contents import errors, export, list_command, status
from mmsearch.cli.evaluate import evaluate
from mmsearch.cli.indexing import import_command, index_command, remove, watch
from mmsearch.cli.maintenance import backup, doctor, relocate
from mmsearch.cli.models import models
from mmsearch.cli.search import query, similar
from mmsearch.errors import IndexBusy, IndexUnusable, MMSearchError, ModelDamaged

USAGE, UNUSABLE, BUSY, INTERRUPTED = 2, 3, 5, 130

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer keeps click's to itself

_REPORTING = {"index", "import", "watch"}
"""Commands that say what they stored, also when they are interrupted."""


class _Commands(TyperGroup):
    """Turns the library's errors into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            say(f"mmsearch: {_usage(error)}")
            raise typer.Exit(USAGE) from error
        except MMSearchError as error:
            say(f"mmsearch: {error}")
            raise typer.Exit(_exit_code(error)) from error
        except KeyboardInterrupt as error:
            if ctx.invoked_subcommand not in _REPORTING:
                say("mmsearch: interrupted")
            raise typer.Exit(INTERRUPTED) from error


def _exit_code(error: MMSearchError) -> int:
    if isinstance(error, IndexBusy):
        return BUSY
    return UNUSABLE if isinstance(error, (IndexUnusable, ModelDamaged)) else USAGE


def _usage(error: Any) -> str:
    """What was wrong with the command line, and what to type instead."""
    message = error.format_message().rstrip(".")
    command = error.ctx.info_name if error.ctx is not None and error.ctx.parent else None
    if "No such command" in message and not command and len(sys.argv) > 1:
        word = sys.argv[1]
        if os.path.exists(word):
            return f"{message}; to index it: mmsearch index {word}"
        return f'{message}; to search: mmsearch query "{word}"'
    return f"{message}; see mmsearch {f'{command} ' if command else ''}--help"


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find photos, texts and sounds, in words or by example, on your own machine.",
)
app.command("index")(index_command)
app.command()(query)
app.command()(similar)
app.command()(watch)
app.command("list")(list_command)
app.command()(status)
app.command()(errors)
app.command()(remove)
app.command()(relocate)
app.command()(describe)
app.command()(tag)
app.command()(duplicates)
app.command("eval")(evaluate)
app.add_typer(models, name="models")
app.command("import")(import_command)
app.command()(export)
app.command()(doctor)
app.command()(backup)


def _version(wanted: bool) -> None:
    if wanted:
        from mmsearch import __version__

        out(f"mmsearch {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, option("--version", "Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line."""
    # garbage collection of what imports made, now and at exit, takes a sixth of a query
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    app()


if __name__ == "__main__":
    main()
