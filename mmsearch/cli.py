"""The command line: parse, one call to the library, render."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mmsearch import render
from mmsearch.collection import Collection, collection_for, open_collection
from mmsearch.errors import IndexUnusable, InvalidQuery, MMSearchError, ModelDamaged
from mmsearch.media.walk import EXTENSIONS
from mmsearch.types import Hit, Query

if TYPE_CHECKING:
    from mmsearch.ingest import Progress

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer keeps click's to itself

NOTHING_FOUND, USAGE, UNUSABLE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 4, 130


class _Commands(TyperGroup):
    """Turns the library's errors into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            _say(f"mmsearch: {_usage(error)}")
            raise typer.Exit(USAGE) from error
        except MMSearchError as error:
            _say(f"mmsearch: {error}")
            unusable = isinstance(error, (IndexUnusable, ModelDamaged))
            raise typer.Exit(UNUSABLE if unusable else USAGE) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find photos and texts, in words or by example, on your own machine.",
)

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
K = Annotated[int, typer.Option("-k", metavar="N", help="How many hits.")]
In = Annotated[
    str | None,
    typer.Option(
        "--in",
        metavar="image|text",
        help="Search pictures, or texts and captions. [default: pictures, if there are any]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON array.")]
Jsonl = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line.")]
Csv = Annotated[bool, typer.Option("--csv", help="CSV with a header.")]
Tsv = Annotated[bool, typer.Option("--tsv", help="TSV (what a pipe gets unasked).")]
Table = Annotated[bool, typer.Option("--table", help="A table (what a terminal gets unasked).")]
Paths = Annotated[bool, typer.Option("-f", "--paths", help="Only paths, one a line.")]
Nul = Annotated[bool, typer.Option("-0", "--null", help="Only paths, each ended by a NUL.")]


@app.command("index")
def index_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Folders and files.")],
    *,
    index: Index = None,
    model: Annotated[str, typer.Option("--model", metavar="M", help="Which encoder.")] = "auto",
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
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar.")] = False,
) -> None:
    """Index folders of photos and texts, or bring an index up to date.

    Only what is new or changed is read again. Files that were deleted leave the index; nothing
    on your disk is ever changed.
    """
    needed = [*paths, *([] if captions is None else [str(captions)])]
    with collection_for(needed, index, model=model) as library:
        try:
            with _progress(quiet=quiet) as progress:
                library.add(
                    paths,
                    captions=captions,
                    exclude=exclude or (),
                    include_hidden=include_hidden,
                    max_megapixels=max_megapixels,
                    progress=progress,
                )
        finally:
            if library.report is not None:
                _say("\n".join([*library.report.warnings, render.report_line(library.report)]))
        if not len(library):
            _say(f"nothing was found to index; what can be: {' '.join(sorted(EXTENSIONS))}")
        if library.report and library.report.skipped:
            _say("see `mmsearch errors` for the files that were skipped")
            raise typer.Exit(SOME_FAILED)


@app.command()
def query(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="What to look for, in words."),
    ] = None,
    *,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="T", help="The same, as an option.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", metavar="FILE", help="Look for what is like it.")
    ] = None,
    index: Index = None,
    k: K = 10,
    target: In = None,
    json: Json = False,
    jsonl: Jsonl = False,
    csv: Csv = False,
    tsv: Tsv = False,
    table: Table = False,
    paths: Paths = False,
    nul: Nul = False,
) -> None:
    """Find photos or texts in words, or by an example image."""
    form = _form(json=json, jsonl=jsonl, csv=csv, tsv=tsv, table=table, paths=paths, paths0=nul)
    asked = _one_part(([" ".join(words)] if words else []) + (text or []), image or [])
    with open_collection(index) as library:
        _show(library.search(asked, k=k, target=target), form, library)


@app.command()
def similar(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A photo or text, indexed or not.")],
    *,
    index: Index = None,
    k: K = 10,
    target: In = None,
    json: Json = False,
    jsonl: Jsonl = False,
    csv: Csv = False,
    tsv: Tsv = False,
    table: Table = False,
    paths: Paths = False,
    nul: Nul = False,
) -> None:
    """Find what is like a file, the file itself left out."""
    form = _form(json=json, jsonl=jsonl, csv=csv, tsv=tsv, table=table, paths=paths, paths0=nul)
    with open_collection(index) as library:
        _show(library.similar(file, k=k, target=target), form, library)


@app.command()
def status(*, index: Index = None, json: Json = False) -> None:
    """Say what an index holds."""
    with open_collection(index) as library:
        found = library.status()
    _out(render.as_pretty_json(found) if json else render.status_lines(found))


@app.command()
def errors(*, index: Index = None, json: Json = False) -> None:
    """List the files that could not be used, and why."""
    with open_collection(index) as library:
        found = library.failures
    if json:
        _out(render.failures_json(found))
    elif not found:
        _say("no file failed")
    else:
        _out(render.failures_table(found) if _terminal() else render.failures_tsv(found))


@app.command()
def remove(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files or folders.")],
    *,
    index: Index = None,
) -> None:
    """Take files or folders out of an index; nothing on your disk is deleted."""
    with open_collection(index) as library:
        gone = sum(library.remove(path) for path in paths)
    _say(f"removed {gone}")


def _version(wanted: bool) -> None:
    if wanted:
        from mmsearch import __version__

        _out(f"mmsearch {__version__}\n")
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


def _terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _form(**asked: bool) -> str:
    return render.pick_format(asked, terminal=_terminal())


def _one_part(words: list[str], images: list[str]) -> Query:
    parts = [Query.text(text) for text in words] + [Query.image(path) for path in images]
    if len(parts) != 1:
        raise InvalidQuery(
            'say what to look for: mmsearch query "a dog on a beach", or --image FILE'
            if not parts
            else f"a query has one part, a text or an image; this one has {len(parts)}"
        )
    return parts[0]


def _show(hits: list[Hit], form: str, library: Collection) -> None:
    if not hits:
        if form in {"json", "csv"}:
            _out(render.FORMATS[form](hits))
        empty = not len(library)
        _say(
            "nothing found"
            + (": the index is empty, fill it with `mmsearch index`" if empty else "")
        )
        raise typer.Exit(NOTHING_FOUND)
    _out(render.FORMATS[form](hits), raw=form.startswith("paths"))


def _out(text: str, *, raw: bool = False) -> None:
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


def _say(text: str) -> None:
    """Everything that is not a result."""
    if sys.stderr is None:
        return
    encoding = sys.stderr.encoding or "utf-8"
    with suppress(OSError):
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _usage(error: Any) -> str:
    """What was wrong with the command line, and what to type instead."""
    message = error.format_message().rstrip(".")
    asked = error.ctx.info_name if error.ctx is not None and error.ctx.parent else None
    unknown = "No such command" in message and sys.argv[1:]
    if unknown and os.path.exists(sys.argv[1]):
        return f"{message}; to index it: mmsearch index {sys.argv[1]}"
    if unknown:
        return f'{message}; to search: mmsearch query "{sys.argv[1]}"'
    return f"{message}; see mmsearch {f'{asked} ' if asked else ''}--help"


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(unit=" files", disable=True if quiet else None, leave=False) as bar:

        def tell(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


def main() -> None:
    """Run the command line."""
    # looking for garbage among what imports made, then and at the end, takes a sixth of a query
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    app()


if __name__ == "__main__":
    main()
