"""The commands `mmsearch tag`, `describe` and `duplicates`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import render
from mmsearch.cli.console import Index, out, progress_bar, say, terminal
from mmsearch.collection.opening import open_collection
from mmsearch.errors import InvalidOption, PathNotFound

if TYPE_CHECKING:
    from mmsearch.search.duplicates import Group
    from mmsearch.search.labels import Description

NOTHING_FOUND = 1

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Jsonl = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar.")]


def tag(
    labels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LABEL]...",
            help="What to look for, in words. (default: what was asked for before)",
            show_default=False,
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="More labels, one a line.")
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence",
            metavar="C",
            help="From 0 to 1: how sure it must be. (default: 0.6)",
            show_default=False,
        ),
    ] = None,
    facet: Annotated[
        str | None,
        typer.Option(
            "--in", metavar="image|audio", help="Only look, or only listen. (default: both)"
        ),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Take the labels off again; without any, all.")
    ] = False,
    index: Index = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give files labels by what they show or sound like, for `--tag` to filter by.

    Labels are remembered: `mmsearch tag` alone gives them to what has come or changed since.
    """
    wanted = [*(labels or []), *([] if file is None else _lines(file))]
    with open_collection(index) as library, progress_bar(" vectors", quiet=quiet) as progress:
        if clear:
            say(f"took off {library.untag(wanted or None)} tags")
            return
        if wanted:
            counts = library.tag(
                wanted, min_confidence=min_confidence, target=facet, progress=progress
            )
        else:
            counts = library.tag_new(progress=progress)
    if json:
        out(render.as_pretty_json(counts))
    else:
        out("".join(f"{render.visible(label)}\t{count}\n" for label, count in counts.items()))
        if not counts:
            say("nothing has changed since the labels were given")


def describe(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A photo, text or sound, indexed or not.")
    ],
    *,
    k: Annotated[int, typer.Option("-k", metavar="N", help="How many texts and labels.")] = 5,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="A,B,C",
            help="Labels to choose from. (default: those of `mmsearch tag`, else everyday words)",
            show_default=False,
        ),
    ] = None,
    index: Index = None,
    json: Json = False,
) -> None:
    """Say what a file shows: the texts of the index that fit it best, and labels."""
    choice = None if labels is None else labels.split(",")
    with open_collection(index) as library:
        found = library.describe(file, k=k, labels=choice)
    if json:
        out(render.as_pretty_json(_described(found)))
    else:
        out(_description_lines(found))
    if not (found.own or found.texts or found.labels):
        say("nothing in the index describes it")
        raise typer.Exit(NOTHING_FOUND)


def duplicates(
    *,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="T",
            help="The cosine from which files are alike. (default: measured for the model)",
            show_default=False,
        ),
    ] = None,
    same: Annotated[bool, typer.Option("--same", help="Only files of the same content.")] = False,
    index: Index = None,
    json: Json = False,
    jsonl: Jsonl = False,
    paths: Annotated[
        bool, typer.Option("-f", "--paths", help="Only the copies' paths, not those to keep.")
    ] = False,
    nul: Annotated[
        bool, typer.Option("-0", "--null", help="The same, each ended by a NUL.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """List files that are copies of one another, and which of them to keep; nothing is deleted.

    The largest picture or longest sound stands first, of equal ones the oldest.
    """
    asked = {"json": json, "jsonl": jsonl, "paths": paths, "paths0": nul}
    form = render.pick_format(asked, terminal=terminal())
    with open_collection(index) as library, progress_bar(" files", quiet=quiet) as progress:
        groups = library.duplicates(threshold=threshold, same=same, progress=progress)
    if groups or form == "json":
        out(_GROUPS[form](groups), raw=form.startswith("paths"))
    if not groups:
        say("no copies were found")
        raise typer.Exit(NOTHING_FOUND)
    copies = sum(len(group.copies) for group in groups)
    wasted = sum(group.wasted for group in groups)
    say(f"copies: {copies}, in groups: {len(groups)}, {_bytes(wasted)}; nothing was deleted")


# ------------------------------------------------------------------ parts of the above


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PathNotFound(f"there is no file {str(file)!r}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{str(file)!r} cannot be read as UTF-8 text: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _described(found: Description) -> dict[str, Any]:
    labels = [{"label": label, "confidence": sure} for label, sure in found.labels]
    return {**asdict(found), "labels": labels}


def _description_lines(found: Description) -> str:
    """What it is, how sure, the words, and whose they are, tab between."""
    rows = [("own", "", text, "") for text in found.own]
    for said in found.texts:
        sure = "" if said.confidence is None else f"{said.confidence:.2f}"
        rows.append(("text", sure or f"{said.score:.2f}", said.text, said.path))
    rows += [("label", f"{sure:.2f}", label, "") for label, sure in found.labels]
    if not terminal():
        return "".join("\t".join(map(render.visible, row)) + "\n" for row in rows)
    return "".join(
        f"{kind:<5}  {sure:>4}  {render.visible(' '.join(text.split()))}\n"
        for kind, sure, text, _ in rows
    )


def _group(group: Group) -> dict[str, Any]:
    def told(item: Any) -> dict[str, Any]:
        return {"id": item.id, "path": item.path, "modality": item.modality, **item.metadata}

    copies = [
        {**told(copy.item), "same": copy.same, "cosine": copy.cosine} for copy in group.copies
    ]
    return {"keep": told(group.keep), "copies": copies, "wasted": group.wasted}


def _groups_json(groups: list[Group]) -> str:
    return render.as_pretty_json([_group(group) for group in groups])


def _groups_jsonl(groups: list[Group]) -> str:
    import json

    return "".join(json.dumps(_group(group), ensure_ascii=False) + "\n" for group in groups)


def _groups_paths(groups: list[Group], end: str = "\n") -> str:
    return "".join(copy.item.path + end for group in groups for copy in group.copies)


def _groups_tsv(groups: list[Group]) -> str:
    """Number of the group, keep or copy, cosine, bytes and path, tab between, a file a line."""
    rows = []
    for number, group in enumerate(groups, start=1):
        rows.append((number, "keep", "", group.keep.metadata["size"], group.keep.path))
        rows += [
            (number, "same" if copy.same else "near", f"{copy.cosine:.4f}", *_file(copy.item))
            for copy in group.copies
        ]
    return "".join("\t".join(render.visible(str(cell)) for cell in row) + "\n" for row in rows)


def _file(item: Any) -> tuple[int, str]:
    return item.metadata["size"], item.path


def _groups_table(groups: list[Group]) -> str:
    """A group after the other, for people."""
    lines = []
    for group in groups:
        lines.append(f"{len(group.copies) + 1} alike, {_bytes(group.wasted)} could be freed")
        lines.append(f"  keep  {_size(group.keep)}  {render.visible(group.keep.path)}")
        for copy in group.copies:
            how = "same" if copy.same else f"{copy.cosine:.2f}"
            lines.append(f"  {how:<4}  {_size(copy.item)}  {render.visible(copy.item.path)}")
    return "\n".join(lines) + "\n"


def _size(item: Any) -> str:
    known = item.metadata
    shape = f"{known['width']}×{known['height']}" if known.get("width") else ""
    return f"{shape:>11}  {_bytes(known['size']):>9}"


def _bytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"


_GROUPS: dict[str, Any] = {
    "json": _groups_json,
    "jsonl": _groups_jsonl,
    "paths": _groups_paths,
    "paths0": lambda groups: _groups_paths(groups, "\0"),
    "table": _groups_table,
    "tsv": _groups_tsv,
}
