"""The commands that search: `mmsearch query` and `mmsearch similar`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from mmsearch.cli import render
from mmsearch.cli.console import Index, out, say
from mmsearch.cli.search_options import SearchOptions, with_search_options
from mmsearch.collection import Collection
from mmsearch.collection.opening import open_collection
from mmsearch.errors import InvalidQuery
from mmsearch.indexing.bulk.matrix import read_vector
from mmsearch.spaces.calibration import NO_GOOD_MATCH
from mmsearch.types import Hit, Modality, Part, Query

NOTHING_FOUND = 1

On = Annotated[
    str,
    typer.Option("--runtime", metavar="R", help="What models run on: auto, torch, onnx."),
]
Device = Annotated[str, typer.Option("--device", metavar="D", help="Where: auto, cpu, cuda, mps.")]
Precision = Annotated[
    str, typer.Option("--precision", metavar="P", help="With what: auto, fp32, bf16, int8.")
]


@with_search_options
def query(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="What to look for, in words."),
    ] = None,
    *,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="[W:]T", help="Words; repeatable. W: is their weight."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="[W:]FILE", help="A picture to be like; repeatable."),
    ] = None,
    audio: Annotated[
        list[str] | None,
        typer.Option("--audio", metavar="[W:]FILE", help="A sound to be like; repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="[W:]T", help="Words for what is not wanted; repeatable."),
    ] = None,
    vector: Annotated[
        Path | None,
        typer.Option(
            "--vector", metavar="FILE", help="A query that is encoded already: .npy, alone."
        ),
    ] = None,
    combine: Annotated[
        str,
        typer.Option(
            "--combine", metavar="early|late", help="Add the parts up, or rank for each and fuse."
        ),
    ] = "early",
    index: Index = None,
    runtime: On = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    options: SearchOptions,
) -> None:
    """Find photos, texts or sounds: in words, by example, or both at once.

    A weight stands before a part: --text "2:golden retriever" --image pool.jpg --not fruit
    """
    plain = [" ".join(words)] if words else []
    if vector is not None:
        _check_alone(plain, text, image, audio, without)
        form, settings = options.form, options.settings()
        with open_collection(index) as library:
            _show(
                library.search_vectors(read_vector(vector), **settings)[0], form, library, options
            )
        return
    asked = _query(plain, {"text": text, "image": image, "audio": audio}, without)
    form, settings = options.form, options.settings() | {"combine": combine}
    with open_collection(index, runtime=runtime, device=device, precision=precision) as library:
        _show(library.search(asked, **settings), form, library, options)


@with_search_options
def similar(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A photo, text or sound, indexed or not.")
    ],
    *,
    index: Index = None,
    options: SearchOptions,
) -> None:
    """Find what is like a file, the file itself left out."""
    form, settings = options.form, options.settings()
    with open_collection(index) as library:
        _show(library.similar(file, **settings), form, library, options)


def _query(
    plain: list[str], parts: Mapping[Modality, list[str] | None], without: list[str] | None
) -> Query:
    """The parts of a command line; words that are no option's have no weight before them."""
    query = Query(tuple(Part("text", words) for words in plain))
    for modality, given in parts.items():
        query += Query(tuple(Part.parse(modality, one) for one in given or []))
    query -= Query(tuple(Part.parse("text", one) for one in without or []))
    if not query.parts:
        raise InvalidQuery(
            'say what to look for: mmsearch query "a dog on a beach", or --image FILE'
        )
    return query


def _check_alone(*others: object) -> None:
    if any(others):
        raise InvalidQuery("--vector stands alone: no words and no files with it")


def _show(hits: list[Hit], form: str, library: Collection, options: SearchOptions) -> None:
    if not hits:
        if form in {"json", "csv"}:
            out(render.FORMATS[form](hits))
        say(f"nothing found{_why(library, options)}")
        raise typer.Exit(NOTHING_FOUND)
    sure = [hit.confidence for hit in hits if hit.confidence is not None]
    if sure and max(sure) < NO_GOOD_MATCH:
        poor = "no good match; nearest:"
        out(f"{poor}\n") if form == "table" else say(poor)
    out(render.FORMATS[form](hits), raw=form.startswith("paths"))
    if options.explain and form == "table":
        out(render.explained(hits))


def _why(library: Collection, options: SearchOptions) -> str:
    if not len(library):
        return ": the index is empty, fill it with `mmsearch index`"
    targets = options.targets
    if targets and not set(targets) & set(library.status()["vectors"]):
        return f": the index has no vectors of {' or '.join(targets)}"
    if options.filter and not any(library.listed(where=options.filter, limit=1)):
        return ": nothing passes the filters"
    if options.min_confidence:
        return f" with a confidence of {options.min_confidence:g}; lower --min-confidence"
    from mmsearch.storage.sqlite.bulk import GIVEN

    given = [model for model in library.status()["models"] if model["fingerprint"] == GIVEN]
    if given:
        name = given[0]["name"]
        return (
            f": no model here encodes words for the vectors of {name!r}, so only words as they are "
            "written are looked up; import them with the --model that made them, or ask by --vector"
        )
    return ""
