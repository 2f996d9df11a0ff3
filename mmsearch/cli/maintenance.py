"""The commands that maintain an index: `mmsearch doctor`, `backup`, `copy`, `relocate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import render
from mmsearch.cli.console import out, progress_bar, say
from mmsearch.cli.options import Index, Json, Quiet, as_path, option
from mmsearch.collection.opening import open_collection
from mmsearch.storage.place import index_place

if TYPE_CHECKING:
    from mmsearch.collection.doctor import Finding

SOMETHING_WRONG = 1


def doctor(
    *,
    index: Index = None,
    repair: Annotated[
        bool, option("--repair", "Repair what can be repaired; nothing is encoded again.")
    ] = False,
    sample: Annotated[
        int,
        option(
            "--sample", "How many vectors and files to check closely. (default: 1000)", "N", min=0
        ),
    ] = 1000,
    json: Json = False,
) -> None:
    """Check an index: its catalog, its caches, its backups, the files it knows.

    Without --repair nothing is changed. The exit code is 1 if something is wrong.
    """
    from mmsearch.collection.doctor import examine

    show = None if json else _show
    found = examine(index_place(index), repair=repair, sample=sample, on_finding=show)
    if json:
        out(render.as_pretty_json([asdict(finding) for finding in found]))
    if any(finding.state == "wrong" for finding in found):
        raise typer.Exit(SOMETHING_WRONG)


def _show(finding: Finding) -> None:
    lines = [f"{finding.state:<9} {finding.check}: {finding.what}"]
    lines += [f"{'':10}  {example}" for example in finding.examples]
    if finding.next:
        lines.append(f"{'':10}→ {finding.next}")
    out("".join(f"{render.visible(line)}\n" for line in lines))


def backup(
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="A folder that is new or empty.", parser=as_path)
    ],
    *,
    index: Index = None,
) -> None:
    """Copy an index, in use or not, to a folder that opens as an index itself."""
    with open_collection(index) as library:
        size = library.backup(dest)
    place = render.visible(str(dest.absolute()))
    say(f"copied {size / 2**20:.1f} MiB; to search it: mmsearch query -i {place} TEXT")


def copy(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Name, folder or address of an index.")
    ],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="The same of a new or empty one.")
    ],
    *,
    quiet: Quiet = False,
) -> None:
    """Copy an index to another place or kind of store; nothing is encoded again.

    Interrupted, it goes on where it was when the same command is run again. It prints how many rows
    each table has, counted at both ends.
    """
    from mmsearch.collection.copy import copy as copied

    try:
        with progress_bar(" rows", quiet=quiet) as progress:
            found = copied(source, destination, progress=progress)
    except KeyboardInterrupt:
        say("mmsearch: interrupted; the same command copies the rest")
        raise
    if found.restarted:
        say(f"{found.source} has changed since the copy was begun: it was begun anew")
    elif found.resumed:
        say(f"{found.resumed} rows had been copied before")
    for warning in found.warnings:
        say(warning)
    place = render.visible(found.destination)
    say(f"copied items: {found.items}, vectors: {found.vectors}, to {place}")
    out("".join(f"{table}\t{rows}\n" for table, rows in found.rows.items()))


def relocate(
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD", help="Where the folder was; also a folder inside or around it."
        ),
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Where it is now.")],
    *,
    force: Annotated[
        bool, option("--force", "Even if few of the stored files are found in NEW.")
    ] = False,
    index: Index = None,
) -> None:
    """Follow an indexed folder that was moved; nothing is read or encoded again."""
    with open_collection(index) as library:
        moved = library.relocate(old, new, force=force)
    say(f"relocated {moved}")
