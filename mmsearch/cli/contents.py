"""The commands that show what an index holds: `mmsearch list`, `status`, `errors`, `export`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import render
from mmsearch.cli.console import NOTHING_FOUND, out, progress_bar, say, terminal
from mmsearch.cli.options import Index, Json, Quiet, Where, as_path, option
from mmsearch.collection.opening import open_collection
from mmsearch.filters import from_options

if TYPE_CHECKING:
    from mmsearch.storage import ListedItem

LINES_AT_ONCE = 1_000
"""A system call a line would take longer than reading the lines."""


def list_command(
    *,
    where: Where = None,
    limit: Annotated[int | None, option("--limit", "At most this many.", "N", min=0)] = None,
    json: Json = False,
    jsonl: Annotated[bool, option("--jsonl", "One JSON object a line.")] = False,
    tsv: Annotated[bool, option("--tsv", "TSV, path first; the default.")] = False,
    paths: Annotated[bool, option("-f --paths", "Only paths, one a line.")] = False,
    nul: Annotated[bool, option("-0 --null", "Only paths, each ended by a NUL.")] = False,
    index: Index = None,
) -> None:
    """List what an index holds: path, kind, size and date, in the order it came in."""
    flags = {"json": json, "jsonl": jsonl, "tsv": tsv, "paths": paths, "paths0": nul}
    form = render.pick_format(flags, terminal=False)
    count = 0
    with open_collection(index) as library:
        found = iter(library.listed(where=from_options(where=where or ()), limit=limit))
        while some := list(islice(found, LINES_AT_ONCE)):
            out(_listed(some, form, first=not count), raw=form.startswith("paths"))
            count += len(some)
    if form == "json":
        out("]\n" if count else "[]\n")
    if not count:
        say("nothing to list")
        raise typer.Exit(NOTHING_FOUND)


def _listed(items: list[ListedItem], form: str, *, first: bool) -> str:
    """Some lines of a list, which is streamed; the end of a JSON array is still to come."""
    if form.startswith("paths"):
        return render.lines((item.path for item in items), form)
    if form == "tsv":
        return render.tsv((i.path, i.modality, str(i.size), i.date) for i in items)
    rows = [
        {
            "id": item.id,
            "path": item.path,
            "modality": item.modality,
            "size": item.size,
            "date": item.date or None,
        }
        for item in items
    ]
    if form == "jsonl":
        return render.jsonl(rows)
    return ("[" if first else ",\n ") + ",\n ".join(map(render.json_line, rows))


def status(*, index: Index = None, json: Json = False) -> None:
    """Show what an index holds, and where."""
    with open_collection(index) as library:
        found = library.status()
    words = render.for_index(render.status_text(found), index)
    out(render.as_pretty_json(found) if json else words)


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


def export(
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="A file; for npy a folder.", parser=as_path)
    ],
    *,
    form: Annotated[
        str | None,
        option(
            "--format",
            "One parquet file, or a folder of vectors.npy and items.jsonl. (default: parquet, "
            "unless DEST is a folder)",
            "parquet|npy",
        ),
    ] = None,
    where: Where = None,
    vectors: Annotated[
        bool, option("--vectors/--no-vectors", "With or without the vectors. (default: with)")
    ] = True,
    space: Annotated[
        str | None,
        option(
            "--space",
            "The model whose vectors to write. (default: the one that answers for pictures)",
            "M",
        ),
    ] = None,
    overwrite: Annotated[bool, option("--overwrite", "Replace DEST if it is there.")] = False,
    index: Index = None,
    quiet: Quiet = False,
) -> None:
    """Write what an index holds, vectors included, to files that others can read.

    `mmsearch import DEST` takes it in again.
    """
    with open_collection(index) as library, progress_bar(" items", quiet=quiet) as progress:
        found = library.export(
            dest,
            format=form,
            where=from_options(where=where or ()),
            vectors=vectors,
            space=space,
            overwrite=overwrite,
            progress=progress,
        )
    say(f"exported items: {found.items}, vectors: {found.vectors}")
    out("".join(f"{file}\n" for file in found.files), raw=True)
