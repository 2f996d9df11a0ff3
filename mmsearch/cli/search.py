"""The commands that search, `mmsearch query` and `similar`, and the flags that both have."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from mmsearch.cli import render
from mmsearch.cli.console import NOTHING_FOUND, out, say, terminal
from mmsearch.cli.options import Device, Index, Precision, Runtime, as_path, option
from mmsearch.collection import Collection
from mmsearch.collection.opening import open_collection
from mmsearch.encoders import runtime_of
from mmsearch.errors import InvalidQuery
from mmsearch.filters import from_options
from mmsearch.search.settings import Setting, declared
from mmsearch.spaces.calibration import no_good_match
from mmsearch.storage.place import index_place
from mmsearch.types import Hit, Modality, Part, Query

# ---------------------------------------------------------------------- flags of every search


def _flag(
    panel: str,
    name: str,
    text: str,
    metavar: str = "",
    *,
    several: bool = False,
    **more: Any,
) -> Parameter:
    """A flag of `--help`'s panel; with a metavar it takes a value, and is None unless given."""
    kind: Any = more.pop("kind", str)
    kind = list[kind] | None if several else kind | None if metavar else bool
    flags = more.pop("flags", f"--{name.replace('_', '-')}")
    about = option(flags, text, metavar, rich_help_panel=panel, **more)
    default = None if metavar else False
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about]
    )


def _setting_flag(name: str, setting: Setting) -> Parameter:
    """The flag of a setting. None, if it is not given, leaves the setting at its default."""
    several = setting.format.collect is not None
    text = f"{setting.help.removesuffix('.')}; repeatable." if several else setting.help
    if setting.default_text:
        text += f" (default: {setting.default_text})"
    more: Any = {"parser": _parser(setting)} if setting.metavar else {}
    return _flag(
        "Ranking", name, text, setting.metavar, several=several, flags=setting.flag, **more
    )


def _parser(setting: Setting) -> Callable[[str], Any]:
    read = setting.format.parse
    assert read is not None

    def parse(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, KeyError) as error:
            raise typer.BadParameter(f"it takes {setting.metavar}, not {text!r}") from error

    return parse


SETTINGS = {name: one for name, one in declared().items() if one.format.parse}
"""Those that have a flag each; `where` has those of the filters."""

_filter = partial(_flag, "Filters")
_filters = partial(_flag, "Filters", several=True)
_output = partial(_flag, "Output")

FILTERS = [
    _filters(
        "path",
        "Only files that match a pattern, '*.png' or 'holidays/**', or lie in a folder that does; "
        "repeatable.",
        "GLOB",
    ),
    _filters(
        "modality", "Only files of a kind: image, text, audio, video, document; repeatable.", "M"
    ),
    _filter(
        "after", "Taken (or else modified) on this day or later: 2020, 2020-03, 2020-03-01.", "DATE"
    ),
    _filter("before", "Taken (or else modified) before this day, month or year.", "DATE"),
    _filter("camera", "Taken with a camera whose name contains this.", "TEXT"),
    _filter("near", "Taken within KM kilometres of a place.", "LAT,LON,KM"),
    _filter("min_size", "At least this many pixels wide and high.", "WxH"),
    _filters("has", "Only files that have one; repeatable.", "caption|gps|text|sound"),
    _filters("tag", "Only files that `mmsearch tag` gave this tag; repeatable.", "TAG"),
    _filters(
        "where",
        "A condition on any key, your own metadata included: 'width >= 1000', 'stars > 3'; "
        "repeatable.",
        "'KEY OP VALUE'",
        flags="-w --where",
    ),
]
MORE = [
    _output("explain", "Below the table, show what each ranking says of each hit."),
    _output(
        "preview", "Below, show the hits' thumbnails, in a terminal with Kitty, iTerm2 or sixel."
    ),
    _output("open", "Open the hit of this rank with the system's viewer.", "N", kind=int, min=1),
]
FORMS = [
    _output("json", "One JSON array."),
    _output("jsonl", "One JSON object a line."),
    _output("csv", "CSV with a header."),
    _output("tsv", "TSV, the default when piped."),
    _output("table", "A table, the default on a terminal."),
    _output("paths", "Only paths, one a line.", flags="-f --paths"),
    _output("paths0", "Only paths, each ended by a NUL.", flags="-0 --null"),
]


@dataclass(frozen=True, slots=True)
class Output:
    """The flags that say how hits are shown."""

    form: str
    explain: bool
    preview: bool
    open: int | None
    """The rank of the hit to open in a viewer."""


def with_search_flags(
    *, without: str = "", shows_hits: bool = True
) -> Callable[[Callable[..., None]], Any]:
    """Have the last parameters of a command given by flags: `settings` and `output`.

    Args:
        without: A setting that the command has no flag for.
        shows_hits: Whether the command has `output`.
    """
    chosen = {name: one for name, one in SETTINGS.items() if name != without}
    ranking = [_setting_flag(name, one) for name, one in chosen.items()]
    shared = [*ranking, *FILTERS, *([*MORE, *FORMS] if shows_hits else [])]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            one.replace(annotation=hints[name])
            for name, one in inspect.signature(command).parameters.items()
            if name not in ("settings", "output")
        ]

        @wraps(command)
        def run(**given: Any) -> None:
            # no product of one query is large enough for NumPy's other threads; after its import
            # they spin for a while, and take the cores that load the model
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            output = {"output": _output_of(given)} if shows_hits else {}
            filters = {one.name: given.pop(one.name) for one in FILTERS}
            where = from_options(
                **{name: value for name, value in filters.items() if value is not None}
            )
            settings: dict[str, Any] = {"where": where}
            for name, one in chosen.items():
                value = given.pop(name)
                if one.format.collect is not None:
                    settings[name] = one.format.collect(value or ())
                elif value is not None:
                    settings[name] = value
            command(**given, settings=settings, **output)

        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in (*own, *shared)}
        return run

    return decorate


def _output_of(given: dict[str, Any]) -> Output:
    """The output flags, removed from the given ones."""
    forms = {one.name: given.pop(one.name) for one in FORMS}
    form = render.pick_format(forms, terminal=terminal())
    output = Output(form, **{one.name: given.pop(one.name) for one in MORE})
    if output.preview:
        from mmsearch.cli.preview import check_installed

        check_installed()
    return output


# ---------------------------------------------------------------------- the commands


@with_search_flags()
def query(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What to look for, in words.")
    ] = None,
    *,
    text: Annotated[
        list[str] | None, option("--text", "Words, with weight W; repeatable.", "[W:]T")
    ] = None,
    image: Annotated[
        list[str] | None, option("--image", "An example picture; repeatable.", "[W:]FILE")
    ] = None,
    audio: Annotated[
        list[str] | None, option("--audio", "An example sound; repeatable.", "[W:]FILE")
    ] = None,
    without: Annotated[
        list[str] | None, option("--not", "Words for what you do not want; repeatable.", "[W:]T")
    ] = None,
    vector: Annotated[
        Path | None,
        option("--vector", "A query that is already encoded: .npy, alone.", "FILE", parser=as_path),
    ] = None,
    index: Index = None,
    runtime: Runtime = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    settings: dict[str, Any],
    output: Output,
) -> None:
    """Find photos, texts or sounds: in words, by example, or both at once.

    A weight stands before a part: --text "2:golden retriever" --image pool.jpg --not fruit
    """
    plain = [" ".join(words)] if words else []
    if vector is not None:
        from mmsearch.indexing.bulk.vector_files import read_vector

        if plain or text or image or audio or without:
            raise InvalidQuery("--vector stands alone: no words and no files with it")
        with open_collection(index) as library:
            found = library.search_vectors(read_vector(vector), **settings)[0]
            _show(found, library, settings, output)
        return
    parsed = _query(plain, {"text": text, "image": image, "audio": audio}, without)
    how = runtime_of(runtime, device, precision, once=True)
    with Collection(index_place(index), how=how) as library:
        _show(library.search(parsed, **settings), library, settings, output)


@with_search_flags(without="combine")
def similar(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A photo, text or sound, indexed or not.")
    ],
    *,
    index: Index = None,
    settings: dict[str, Any],
    output: Output,
) -> None:
    """Find what is like a file, leaving out the file itself."""
    with Collection(index_place(index), how=runtime_of(once=True)) as library:
        _show(library.similar(file, **settings), library, settings, output)


def _query(
    plain: list[str], parts: Mapping[Modality, list[str] | None], without: list[str] | None
) -> Query:
    """The query of a command line; a weight is only read before a part that an option gives."""
    query = Query(tuple(Part("text", words) for words in plain))
    for modality, given in parts.items():
        query += Query(tuple(Part.parse(modality, one) for one in given or []))
    query -= Query(tuple(Part.parse("text", one) for one in without or []))
    if not query.parts:
        raise InvalidQuery(
            'say what to look for: mmsearch query "a dog on a beach", or --image FILE'
        )
    return query


def _show(
    hits: list[Hit], library: Collection, settings: Mapping[str, Any], output: Output
) -> None:
    form = output.form
    if not hits:
        if form in {"json", "csv"}:
            out(render.FORMATS[form](hits))
        say(f"nothing found{why_nothing(library, settings)}")
        raise typer.Exit(NOTHING_FOUND)
    if no_good_match(hits):
        poor = "no good match; nearest:"
        out(f"{poor}\n") if form == "table" else say(poor)
    text = render.FORMATS[form](hits)
    # a program reads CSV as it is
    safe = render.printable(text) if form == "csv" and terminal() else text
    out(safe, raw=form.startswith("paths"))
    if output.explain and form == "table":
        out(render.explained(hits))
    if output.preview:
        from mmsearch.cli.preview import show_thumbnails

        show_thumbnails(hits)
    if output.open is not None:
        from mmsearch.cli.preview import open_hit

        open_hit(hits, output.open)


def _left_out(settings: Mapping[str, Any]) -> str:
    """The setting that may have left all hits out, and what to do about it."""
    if least := settings.get("min_confidence"):
        return f" with a confidence of {least:g}; lower --min-confidence"
    if settings.get("offset"):
        return " after the last hit: lower --offset"
    if settings.get("sort", "relevance") != "relevance":
        return ": no good match to sort by date; leave --sort out to see the nearest"
    return ""


def why_nothing(library: Collection, settings: Mapping[str, Any]) -> str:
    """Why nothing was found, and what to do about it, if that is known."""
    if not len(library):
        return ": the index is empty, fill it with `mmsearch index`"
    targets = settings.get("target")
    if targets and not set(targets) & set(library.status()["vectors"]):
        return f": the index has no vectors of {' or '.join(targets)}"
    if settings["where"] and not any(library.listed(where=settings["where"], limit=1)):
        return ": nothing passes the filters"
    if reason := _left_out(settings):
        return reason
    from mmsearch.storage.records import IMPORTED_FINGERPRINT

    for model in library.status()["models"]:
        if model["fingerprint"] == IMPORTED_FINGERPRINT:
            return (
                f": no model here encodes words for the vectors of {model['name']!r}, so words are "
                "only looked up as written; import them with the --model that made them, or query "
                "by --vector"
            )
    return ""
