"""The command line `mmsearch`: its commands, its exit codes, its errors in a line each."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmsearch.cli.console import out, say
from mmsearch.cli.options import option
from mmsearch.errors import IndexBusy, IndexUnusable, MMSearchError, ModelDamaged

COMMANDS = {
    "index": "indexing:index_command",
    "query": "search:query",
    "similar": "search:similar",
    "ask": "ask:ask",
    "watch": "indexing:watch",
    "serve": "serve:serve",
    "mcp": "mcp:mcp",
    "list": "contents:list_command",
    "status": "contents:status",
    "errors": "contents:errors",
    "remove": "indexing:remove",
    "relocate": "maintenance:relocate",
    "describe": "analysis:describe",
    "tag": "analysis:tag",
    "duplicates": "analysis:duplicates",
    "eval": "evaluate:evaluate",
    "tune": "tune:tune",
    "encode": "indexing:encode",
    "import": "indexing:import_command",
    "export": "contents:export",
    "copy": "maintenance:copy",
    "doctor": "maintenance:doctor",
    "backup": "maintenance:backup",
    "models": "models:models",
}
"""The module and function of each command, in the order of `--help`."""

USAGE, UNUSABLE, BUSY, INTERRUPTED = 2, 3, 5, 130

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer keeps click's to itself

_REPORTING = {"index", "import", "watch", "copy"}
"""Commands that say what they stored, also when they are interrupted."""


class _Commands(Mapping[str, Any]):
    """The commands, each imported and built when it is looked up: all take 50 ms at every start."""

    def __getitem__(self, name: str) -> Any:
        module, function = COMMANDS[name].split(":")
        command = getattr(import_module(f"mmsearch.cli.{module}"), function)
        if not isinstance(command, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(name)(command)
            command = single
        return typer.main.get_command(command)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Main(TyperGroup):
    """Turns the library's errors into one line on stderr and an exit code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = _Commands()

    def make_context(self, *of: Any, **more: Any) -> Any:
        try:
            return super().make_context(*of, **more)
        except _UsageError as error:
            if (name := getattr(error, "option_name", None)) is None:
                raise
            message = error.format_message().rstrip(".")
            say(f"mmsearch: {message}; options come after the command: mmsearch COMMAND {name}")
            raise typer.Exit(USAGE) from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            say(f"mmsearch: {_usage(error, ctx)}")
            raise typer.Exit(USAGE) from error
        except MMSearchError as error:
            say(f"mmsearch: {error}")
            raise typer.Exit(_exit_code(error)) from error
        except OSError as error:  # a name that is too long, a folder that may not be entered
            if error.filename is None:
                raise
            say(f"mmsearch: {os.fsdecode(error.filename)!r}: {error.strerror}")
            raise typer.Exit(USAGE) from error
        except KeyboardInterrupt as error:
            if ctx.invoked_subcommand not in _REPORTING:
                say("mmsearch: interrupted")
            raise typer.Exit(INTERRUPTED) from error


def _exit_code(error: MMSearchError) -> int:
    if isinstance(error, IndexBusy):
        return BUSY
    return UNUSABLE if isinstance(error, (IndexUnusable, ModelDamaged)) else USAGE


def _usage(error: Any, ctx: Any) -> str:
    """What was wrong with the command line, and what to type instead."""
    message = error.format_message().rstrip(".")
    command = ctx.invoked_subcommand or ""
    if error.ctx is not None:  # of `models pull`, both words
        command = error.ctx.command_path.removeprefix(ctx.command_path).strip()
    if "No such command" in message and not command and len(sys.argv) > 1:
        word = sys.argv[1]
        if os.path.exists(word):
            return f"{message}; to index it: mmsearch index {word}"
        return f'{message}; to search: mmsearch query "{word}"'
    return f"{message}; see mmsearch {f'{command} ' if command else ''}--help"


app = typer.Typer(
    cls=_Main,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find photos, texts and sounds, in words or by example, on your own machine.",
)


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
