"""Commands that take vectors in, give everything out, and list what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import render
from mmsearch.cli.console import Index, out, progress_bar, say
from mmsearch.collection.opening import collection_for, open_collection
from mmsearch.filters import Filter, from_options
from mmsearch.types import Modality

if TYPE_CHECKING:
    from mmsearch.storage.sqlite.items import Listed

NOTHING_FOUND = 1

LINES_AT_ONCE = 1_000

Where = Annotated[
    list[str] | None,
    typer.Option(
        "-w",
        "--where",
        metavar="'KEY OP VALUE'",
        help="Only files that pass, as for `query`: 'path ~ beach', 'stars > 3'; repeatable.",
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar.")]


def import_command(
    vectors: Annotated[
        list[str],
        typer.Argument(
            metavar="VECTORS...",
            help=".npy or .parquet files, or folders: of clip-retrieval's shards, or exported.",
        ),
    ],
    *,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            metavar="FILE",
            help="What is known of each row: parquet, csv, tsv, jsonl; one a file of vectors.",
        ),
    ] = None,
    text_vectors: Annotated[
        list[str] | None,
        typer.Option("--text-vectors", metavar="FILE", help="Vectors of the captions: .npy."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="M",
            help="What made the vectors; with it the index can be asked in words.",
        ),
    ] = None,
    facet: Annotated[
        Modality, typer.Option("--facet", metavar="image|text|audio", help="What they are of.")
    ] = "image",
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Where the files are that they were made of."),
    ] = None,
    index: Index = None,
    quiet: Quiet = False,
) -> None:
    """Take in vectors that were made elsewhere, with what is known of them.

    What has the path of something that is stored takes its place, so an interrupted import can
    be run again. Nothing is encoded.
    """
    from mmsearch.indexing.bulk.shards import shards_in

    # looked at first: what cannot be taken in leaves no empty index
    shards_in(vectors, metadata or (), text_vectors or ())
    with collection_for([*vectors, *([root] if root else [])], index) as library:
        try:
            with progress_bar(" rows", quiet=quiet) as progress:
                library.import_files(
                    vectors,
                    metadata=metadata or (),
                    text_vectors=text_vectors or (),
                    model=model,
                    facet=facet,
                    root=root,
                    progress=progress,
                )
        finally:
            if library.report is not None:
                warnings = map(render.visible, library.report.warnings)
                say("\n".join([*warnings, render.report_line(library.report)]))


def export(
    dest: Annotated[str, typer.Argument(metavar="DEST", help="A file; for npy a folder.")],
    *,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="parquet|npy",
            help="One parquet file, or a folder of vectors.npy and items.jsonl. (default: parquet, "
            "unless DEST is a folder)",
            show_default=False,
        ),
    ] = None,
    where: Where = None,
    vectors: Annotated[
        bool, typer.Option("--vectors/--no-vectors", help="Also the vectors.")
    ] = True,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="M",
            help="The model whose vectors. (default: the one that answers for pictures)",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Although DEST is there already.")
    ] = False,
    index: Index = None,
    quiet: Quiet = False,
) -> None:
    """Write what an index holds, vectors and all, to files that others can read.

    `mmsearch import DEST` takes it in again.
    """
    with open_collection(index) as library, progress_bar(" items", quiet=quiet) as progress:
        found = library.export(
            dest,
            format=form,
            where=_filter(where),
            vectors=vectors,
            space=space,
            overwrite=overwrite,
            progress=progress,
        )
    say(f"exported items: {found.items}, vectors: {found.vectors}")
    out("".join(f"{file}\n" for file in found.files), raw=True)


def list_command(
    *,
    where: Where = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=0, help="At most so many.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line.")] = False,
    tsv: Annotated[
        bool, typer.Option("--tsv", help="TSV (what a pipe gets unasked): path first.")
    ] = False,
    paths: Annotated[bool, typer.Option("-f", "--paths", help="Only paths, one a line.")] = False,
    nul: Annotated[bool, typer.Option("-0", "--null", help="Only paths, each ended by NUL.")] = (
        False
    ),
    index: Index = None,
) -> None:
    """List what an index holds: path, kind, size and date, in the order it came in."""
    asked = {"json": json, "jsonl": jsonl, "tsv": tsv, "paths": paths, "paths0": nul}
    form = render.pick_format(asked, terminal=False)
    with open_collection(index) as library:
        found = library.listed(where=_filter(where), limit=limit)
        some = False
        for part in _LISTS[form](found):
            some = some or part != NO_ITEMS
            out(part, raw=form.startswith("paths"))
    if not some:
        say("nothing to list")
        raise typer.Exit(NOTHING_FOUND)


# ---------------------------------------------------------------------- parts of the above


NO_ITEMS = "[]\n"


def _filter(where: list[str] | None) -> Filter:
    return from_options(where=where or ())


def _told(item: Listed) -> dict[str, Any]:
    return {
        "id": item.id,
        "path": item.path,
        "modality": item.modality,
        "size": item.size,
        "date": item.date or None,
    }


def _parts(found: Iterator[Listed]) -> Iterator[list[Listed]]:
    """Some lines at a time: a call of the system for each would take longer than the reading."""
    while some := list(islice(found, LINES_AT_ONCE)):
        yield some


def _as_json(found: Iterator[Listed]) -> Iterator[str]:
    """One array, an item a line."""
    before = "["
    for some in _parts(found):
        yield before + ",\n ".join(_json(item) for item in some)
        before = ",\n "
    yield NO_ITEMS if before == "[" else "]\n"


def _as_jsonl(found: Iterator[Listed]) -> Iterator[str]:
    return ("".join(f"{_json(item)}\n" for item in some) for some in _parts(found))


def _json(item: Listed) -> str:
    return json_text(_told(item), ensure_ascii=False)


def _as_tsv(found: Iterator[Listed]) -> Iterator[str]:
    """Path, kind, bytes and date, tab between."""
    for some in _parts(found):
        rows = ((item.path, item.modality, str(item.size), item.date) for item in some)
        yield "".join("\t".join(map(render.visible, row)) + "\n" for row in rows)


def _as_paths(found: Iterator[Listed], end: str = "\n") -> Iterator[str]:
    return ("".join(item.path + end for item in some) for some in _parts(found))


_LISTS: dict[str, Callable[[Iterator[Listed]], Iterator[str]]] = {
    "json": _as_json,
    "jsonl": _as_jsonl,
    "paths": _as_paths,
    "paths0": lambda found: _as_paths(found, "\0"),
    "tsv": _as_tsv,
}
