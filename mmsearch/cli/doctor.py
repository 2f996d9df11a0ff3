"""`mmsearch doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import render
from mmsearch.cli.console import Index, out
from mmsearch.home import index_folder

if TYPE_CHECKING:
    from mmsearch.collection.doctor import Finding

SOMETHING_WRONG = 1


def doctor(
    *,
    index: Index = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended; nothing is encoded again.")
    ] = False,
    sample: Annotated[
        int,
        typer.Option(
            "--sample", metavar="N", min=0, help="Vectors and files to look at closely, at most."
        ),
    ] = 1000,
    json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Look an index over: its catalog, its caches, its backups, the files it is about.

    Without --repair nothing is changed. The exit code is 1 if something is wrong.
    """
    from mmsearch.collection.doctor import examine

    tell = None if json else _tell
    found = examine(index_folder(index), repair=repair, sample=sample, on_finding=tell)
    if json:
        out(render.as_pretty_json([asdict(finding) for finding in found]))
    if any(finding.state == "wrong" for finding in found):
        raise typer.Exit(SOMETHING_WRONG)


# ------------------------------------------------------------------ parts of the above


def _tell(finding: Finding) -> None:
    lines = [f"{finding.state:<9} {finding.check}: {finding.what}"]
    lines += [f"{'':10}  {example}" for example in finding.examples]
    if finding.next:
        lines.append(f"{'':10}→ {finding.next}")
    out("".join(f"{render.visible(line)}\n" for line in lines))
