"""The command line: parse, one call to the library, render."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmsearch.cli import render
from mmsearch.cli.analysis import describe, duplicates, tag
from mmsearch.cli.bulk import export, import_command, list_command
from mmsearch.cli.console import Index, out, progress_bar, say, terminal
from mmsearch.cli.doctor import doctor
from mmsearch.cli.evaluate import evaluate
from mmsearch.cli.maintenance import backup, relocate
from mmsearch.cli.models import models
from mmsearch.cli.search import Device, On, Precision, query, similar
from mmsearch.cli.watch import watch
from mmsearch.collection.opening import collection_for, open_collection
from mmsearch.encoders import runtime_of
from mmsearch.errors import (
    IndexBusy,
    IndexUnusable,
    InvalidOption,
    MMSearchError,
    ModelDamaged,
)
from mmsearch.media.kinds import FORMATS

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer keeps click's to itself

USAGE, UNUSABLE, SOME_FAILED, BUSY, INTERRUPTED = 2, 3, 4, 5, 130


_REPORTING = {"index", "import", "watch"}
"""Commands that tell what they stored, also when they are interrupted."""


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


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find photos, texts and sounds, in words or by example, on your own machine.",
)

app.add_typer(models, name="models")
app.command()(query)
app.command()(similar)
app.command()(describe)
app.command()(tag)
app.command()(duplicates)
app.command("eval")(evaluate)
app.command("import")(import_command)
app.command()(export)
app.command("list")(list_command)
app.command()(watch)
app.command()(doctor)
app.command()(backup)
app.command()(relocate)

Json = Annotated[bool, typer.Option("--json", help="One JSON array.")]


@app.command("index")
def index_command(
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
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="M",
            help="Which encoder; repeatable. A new one beside that of the index is filled, then "
            "answers. [default: the index's own; see `mmsearch models`]",
            show_default=False,
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions", metavar="FILE", help="File names and captions: tsv, csv, jsonl."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="GLOB", help="Names or paths to leave out; repeatable."),
    ] = None,
    include_hidden: Annotated[
        bool, typer.Option("--include-hidden", help="Also what begins with a dot.")
    ] = False,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", metavar="N", help="Refuse larger pictures.")
    ] = 200.0,
    video: Annotated[
        bool | None,
        typer.Option("--video/--no-video", help="Take in videos.", show_default=False),
    ] = None,
    pdf: Annotated[
        bool | None, typer.Option("--pdf/--no-pdf", help="Take in PDFs.", show_default=False)
    ] = None,
    ocr: Annotated[
        bool | None,
        typer.Option("--ocr/--no-ocr", help="Read the writing in pictures.", show_default=False),
    ] = None,
    transcribe: Annotated[
        bool | None,
        typer.Option(
            "--transcribe/--no-transcribe",
            help="Write down what is said in sounds and videos.",
            show_default=False,
        ),
    ] = None,
    whisper: Annotated[
        str | None,
        typer.Option("--whisper", metavar="M", help="The model that does: a size or a folder."),
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(
            "--metadata",
            metavar="FILE",
            help="What else is known of files, for --where: csv, tsv, jsonl.",
        ),
    ] = None,
    details: Annotated[
        bool | None,
        typer.Option(
            "--details/--no-details",
            help="Keep what --rerank fusion looks at: at most 4 KB a photo or text.",
            show_default=False,
        ),
    ] = None,
    backups: Annotated[
        int | None,
        typer.Option(
            "--backups", metavar="N", help="Backups of the catalog to keep; 0 makes none.", min=0
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="K",
            help="The index that answers: auto, exact, or a factory string of FAISS's.",
        ),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            "--recall",
            metavar="R",
            help="Of the ten nearest, the share it is to find. (default: 0.98)",
            show_default=False,
        ),
    ] = None,
    drop_space: Annotated[
        str | None,
        typer.Option("--drop-space", metavar="M", help="Delete the vectors of one of its models."),
    ] = None,
    runtime: On = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar.")] = False,
) -> None:
    """Index folders of photos, texts and sounds, or bring an index up to date.

    Only what is new or changed is read again. Files that were deleted leave the index; nothing
    on your disk is ever changed. What --video, --pdf, --ocr, --transcribe and --details turn on
    or off stays so.
    """
    if drop_space is not None:
        if paths or model:
            raise InvalidOption("--drop-space stands alone: no PATH and no --model with it")
        with open_collection(index) as library:
            library.drop_space(drop_space)
        say(f"dropped the vectors of {drop_space}")
        return
    needed = [*(paths or []), *(str(file) for file in (captions, metadata) if file is not None)]
    how = runtime_of(runtime, device, precision)
    into = collection_for(needed, index, model=model or "auto", how=how, create=bool(paths))
    with into as library:
        try:
            stage = lambda: library.report.limiting if library.report else None  # noqa: E731
            with progress_bar(" files", quiet=quiet, limiting=stage) as progress:
                library.add(
                    paths or None,
                    captions=captions,
                    exclude=exclude or (),
                    include_hidden=include_hidden,
                    max_megapixels=max_megapixels,
                    video=video,
                    pdf=pdf,
                    ocr=ocr,
                    transcribe=transcribe,
                    whisper=whisper,
                    metadata=metadata,
                    details=details,
                    kind=kind,
                    recall=recall,
                    backups=backups,
                    progress=progress,
                )
        finally:
            if library.report is not None:
                warnings = map(render.visible, library.report.warnings)
                say("\n".join([*warnings, render.report_line(library.report)]))
        if not len(library):
            say(f"nothing was found to index; what can be: {' '.join(sorted(FORMATS))}")
        if library.report and library.report.skipped:
            say("see `mmsearch errors` for the files that were skipped")
            raise typer.Exit(SOME_FAILED)


@app.command()
def status(*, index: Index = None, json: Json = False) -> None:
    """Say what an index holds."""
    with open_collection(index) as library:
        found = library.status()
    out(render.as_pretty_json(found) if json else render.status_lines(found))


@app.command()
def errors(*, index: Index = None, json: Json = False) -> None:
    """List the files that could not be used, and why."""
    with open_collection(index) as library:
        found = library.failures
    if json:
        out(render.failures_json(found))
    elif not found:
        say("no file failed")
    else:
        out(render.failures_table(found) if terminal() else render.failures_tsv(found))


@app.command()
def remove(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files or folders.")],
    *,
    index: Index = None,
) -> None:
    """Take files or folders out of an index; nothing on your disk is deleted."""
    with open_collection(index) as library:
        gone = sum(library.remove(path) for path in paths)
    say(f"removed {gone}")


def _version(wanted: bool) -> None:
    if wanted:
        from mmsearch import __version__

        out(f"mmsearch {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop."),
    ] = False,
) -> None:
    del version


# ------------------------------------------------------------------ parts of the above


def _usage(error: Any) -> str:
    """What was wrong with the command line, and what to type instead."""
    message = error.format_message().rstrip(".")
    asked = error.ctx.info_name if error.ctx is not None and error.ctx.parent else None
    unknown = "No such command" in message and not asked and sys.argv[1:]
    if unknown and os.path.exists(sys.argv[1]):
        return f"{message}; to index it: mmsearch index {sys.argv[1]}"
    if unknown:
        return f'{message}; to search: mmsearch query "{sys.argv[1]}"'
    return f"{message}; see mmsearch {f'{asked} ' if asked else ''}--help"


def main() -> None:
    """Run the command line."""
    # looking for garbage among what imports made, then and at the end, takes a sixth of a query
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    app()


if __name__ == "__main__":
    main()
