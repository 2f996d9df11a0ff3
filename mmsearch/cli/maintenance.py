"""The commands `mmsearch backup` and `relocate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmsearch.cli.console import Index, say
from mmsearch.cli.render import visible
from mmsearch.collection.opening import open_collection


def backup(
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="A folder that is new or empty.", dir_okay=True)
    ],
    *,
    index: Index = None,
) -> None:
    """Copy an index, in use or not, to a folder that opens as one."""
    with open_collection(index) as library:
        size = library.backup(dest)
    place = visible(str(dest.absolute()))
    say(f"copied {size / 2**20:.1f} MiB; to search it: mmsearch query -i {place} TEXT")


def relocate(
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="Where it was; or a folder in it or around it.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Where it is.")],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Although few of the stored files are in NEW.")
    ] = False,
    index: Index = None,
) -> None:
    """Follow an indexed folder that was moved; nothing is read or encoded again."""
    with open_collection(index) as library:
        moved = library.relocate(old, new, force=force)
    say(f"relocated {moved}")
