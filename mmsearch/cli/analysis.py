"""The commands that say what files show: `mmsearch tag`, `describe`, `duplicates`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import render
from mmsearch.cli.console import NOTHING_FOUND, out, progress_bar, say, terminal
from mmsearch.cli.options import Index, Json, LLMModel, Quiet, as_path, option
from mmsearch.collection.opening import open_collection
from mmsearch.errors import InvalidOption, PathNotFound

if TYPE_CHECKING:
    from mmsearch.search.describe import Description
    from mmsearch.search.duplicates import Group


def tag(
    labels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LABEL]...",
            help="What to look for, in words. (default: the labels given before)",
            show_default=False,
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None, option("--file", "More labels, one a line.", "FILE", parser=as_path)
    ] = None,
    min_confidence: Annotated[
        float | None,
        option("--min-confidence", "How sure it must be, from 0 to 1. (default: 0.6)", "C"),
    ] = None,
    target: Annotated[
        str | None, option("--in", "Only look, or only listen. (default: both)", "image|audio")
    ] = None,
    clear: Annotated[
        bool, option("--clear", "Take labels off again; all of them if none is given.")
    ] = False,
    index: Index = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label files by what they show or sound like; `--tag` then filters by the labels.

    Labels are remembered: `mmsearch tag` alone labels the files that are new or changed since.
    """
    wanted = [*(labels or []), *([] if file is None else _read_lines(file))]
    with open_collection(index) as library, progress_bar(" vectors", quiet=quiet) as progress:
        if clear:
            say(f"took off {library.untag(wanted or None)} tags")
            return
        if wanted or min_confidence is not None or target is not None:
            counts = library.tag(
                wanted or None, min_confidence=min_confidence, target=target, progress=progress
            )
        else:
            counts = library.tag_new(progress=progress)
    if json:
        out(render.as_pretty_json(counts))
    else:
        out(render.tsv((label, str(count)) for label, count in counts.items()))
        if not counts:
            say("nothing has changed since the labels were given")


def _read_lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PathNotFound(f"there is no file {str(file)!r}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{str(file)!r} cannot be read as UTF-8 text: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


# ---------------------------------------------------------------------- describe


def describe(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A photo, text or sound, indexed or not.")
    ],
    *,
    k: Annotated[int, option("-k", "How many texts and labels. (default: 5)", "N")] = 5,
    labels: Annotated[
        str | None,
        option(
            "--labels",
            "Labels to choose from. (default: those of `mmsearch tag`, else everyday words)",
            "A,B,C",
        ),
    ] = None,
    llm: Annotated[
        str | None,
        option(
            "--llm",
            "Instead, have a language model at this address write a caption. "
            "(default, with --keep or --llm-model: $OPENAI_BASE_URL)",
            "URL",
        ),
    ] = None,
    llm_model: LLMModel = None,
    keep: Annotated[
        bool, option("--keep", "Add that caption to those of the file, which must be indexed.")
    ] = False,
    index: Index = None,
    json: Json = False,
) -> None:
    """Say what a file shows: the texts of the index that fit it best, and labels."""
    if llm is not None or llm_model is not None or keep:
        if labels is not None:
            raise InvalidOption("--labels cannot be combined with --llm, --llm-model or --keep")
        _write_caption(file, llm, llm_model, index, keep=keep, json=json)
        return
    choice = None if labels is None else labels.split(",")
    with open_collection(index) as library:
        found = library.describe(file, k=k, labels=choice)
    if json:
        named = [{"label": label, "confidence": sure} for label, sure in found.labels]
        out(render.as_pretty_json({**asdict(found), "labels": named}))
    else:
        out(_description(found))
    if not (found.own or found.texts or found.labels):
        say("nothing in the index describes it")
        raise typer.Exit(NOTHING_FOUND)


def _write_caption(
    file: str, llm: str | None, model: str | None, index: str | None, *, keep: bool, json: bool
) -> None:
    from mmsearch.cli.ask import show_reply

    with open_collection(index) as library:
        caption = library.write_caption(file, llm=llm, model=model, keep=keep)
        show_reply(caption, quiet=json)
    if json:
        out(render.as_pretty_json({"path": file, "caption": caption.text, "kept": keep}))


def _description(found: Description) -> str:
    """A line a text or label: its kind, how sure it is, its words, the file it is from."""
    rows = [("own", "", text, "") for text in found.own]
    for text in found.texts:
        sure = text.score if text.confidence is None else text.confidence
        rows.append(("text", f"{sure:.2f}", text.text, text.path))
    rows += [("label", f"{sure:.2f}", label, "") for label, sure in found.labels]
    if not terminal():
        return render.tsv(rows)
    return "".join(
        f"{kind:<5}  {sure:>4}  {render.visible(' '.join(words.split()))}\n"
        for kind, sure, words, _ in rows
    )


# ---------------------------------------------------------------------- duplicates


def duplicates(
    *,
    threshold: Annotated[
        float | None,
        option(
            "--threshold",
            "The cosine from which files are alike. (default: measured for the model)",
            "T",
        ),
    ] = None,
    same: Annotated[bool, option("--same", "Only files of the same content.")] = False,
    index: Index = None,
    json: Json = False,
    jsonl: Annotated[bool, option("--jsonl", "One JSON object a line.")] = False,
    paths: Annotated[
        bool, option("-f --paths", "Only the paths of the copies, not of those to keep.")
    ] = False,
    nul: Annotated[bool, option("-0 --null", "The same, each ended by a NUL.")] = False,
    quiet: Quiet = False,
) -> None:
    """List files that are copies of one another, and which of them to keep; nothing is deleted.

    The largest picture or longest sound stands first; of equal ones, the oldest.
    """
    flags = {"json": json, "jsonl": jsonl, "paths": paths, "paths0": nul}
    form = render.pick_format(flags, terminal=terminal())
    with open_collection(index) as library, progress_bar(" files", quiet=quiet) as progress:
        groups = library.duplicates(threshold=threshold, same=same, progress=progress)
    if groups or form == "json":
        out(_grouped(groups, form), raw=form.startswith("paths"))
    if not groups:
        say("no copies were found")
        raise typer.Exit(NOTHING_FOUND)
    copies = sum(len(group.copies) for group in groups)
    wasted = sum(group.wasted for group in groups)
    say(f"copies: {copies}, in groups: {len(groups)}, {_bytes(wasted)}; nothing was deleted")


def _grouped(groups: list[Group], form: str) -> str:
    if form == "json":
        return render.as_pretty_json([group.as_dict() for group in groups])
    if form == "jsonl":
        return render.jsonl(group.as_dict() for group in groups)
    if form == "tsv":
        return "".join(render.tsv(_rows(number, group)) for number, group in enumerate(groups, 1))
    if form == "table":
        return "".join(map(_group_text, groups))
    return render.lines((copy.item.path for group in groups for copy in group.copies), form)


def _rows(number: int, group: Group) -> Iterator[tuple[str, ...]]:
    """Number of the group, keep, same or near, cosine, bytes and path, a file a row."""
    yield str(number), "keep", "", str(group.keep.metadata["size"]), group.keep.path
    for copy in group.copies:
        how, size = "same" if copy.same else "near", str(copy.item.metadata["size"])
        yield str(number), how, f"{copy.cosine:.4f}", size, copy.item.path


def _group_text(group: Group) -> str:
    """A group for people, a file a line."""
    files = [("keep", group.keep)]
    files += [("same" if copy.same else f"{copy.cosine:.2f}", copy.item) for copy in group.copies]
    head = f"{len(files)} alike, {_bytes(group.wasted)} could be freed\n"
    return head + "".join(
        f"  {how:<4}  {_size(item)}  {render.visible(item.path)}\n" for how, item in files
    )


def _size(item: Any) -> str:
    known = item.metadata
    shape = f"{known['width']}×{known['height']}" if known.get("width") else ""
    return f"{shape:>11}  {_bytes(known['size']):>9}"


def _bytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"
