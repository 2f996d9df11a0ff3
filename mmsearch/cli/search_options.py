"""The options that all searching commands have, in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from mmsearch.cli import render
from mmsearch.cli.console import terminal
from mmsearch.errors import InvalidOption
from mmsearch.filters import Filter, from_options

FILTERS, RANKING, OUTPUT = "Filters", "Ranking", "Output"


def _option(*names: str, panel: str, metavar: str | None = None, help: str) -> Any:  # noqa: A002
    more: Any = {"metavar": metavar} if metavar else {}
    return typer.Option(*names, rich_help_panel=panel, help=help, show_default=False, **more)


Texts = list[str] | None


@dataclass(kw_only=True)
class SearchOptions:
    """What may be said of any search, as the command line has it."""

    k: Annotated[
        int, _option("-k", panel=RANKING, metavar="N", help="How many hits. (default: 10)")
    ] = 10
    target: Annotated[
        str | None,
        _option(
            "--in",
            panel=RANKING,
            metavar="image|text|audio",
            help="What to search: pictures, texts and captions, sounds; several with a comma. "
            "(default: all, when asked in words; else what is most like the query)",
        ),
    ] = None
    spans: Annotated[
        bool,
        _option(
            "--spans", panel=RANKING, help="Each matching stretch of a file, not its best alone."
        ),
    ] = False
    rerank: Annotated[
        str,
        _option(
            "--rerank",
            panel=RANKING,
            metavar="none|fusion|diverse",
            help="Look at the best hundred again, closely (fusion), or put hits first that differ "
            "(diverse). (default: none)",
        ),
    ] = "none"
    diversity: Annotated[
        float,
        _option(
            "--diversity",
            panel=RANKING,
            metavar="D",
            help="For diverse: from 0, only relevance, to 1, only differences. (default: 0.5)",
        ),
    ] = 0.5
    duplicates: Annotated[
        str | None,
        _option(
            "--duplicates",
            panel=RANKING,
            metavar="show|collapse",
            help="Show copies, or one of each with a count. (default: show; collapse if diverse)",
        ),
    ] = None
    lexical: Annotated[
        str,
        _option(
            "--lexical",
            panel=RANKING,
            metavar="on|off|auto",
            help="Also look words up as written. (default: auto: where texts are searched)",
        ),
    ] = "auto"
    fusion: Annotated[
        str | None,
        _option(
            "--fusion",
            panel=RANKING,
            metavar="wsum|combmnz|rrf",
            help="How several rankings become one.",
        ),
    ] = None
    weight: Annotated[
        Texts,
        _option(
            "--weight",
            panel=RANKING,
            metavar="FACET=W",
            help="What a ranking counts: image=1, text=0.5, audio=1, words=0.2; repeatable.",
        ),
    ] = None
    hubness: Annotated[
        str,
        _option(
            "--hubness",
            panel=RANKING,
            metavar="on|off",
            help="Hold back what is near to every query. (default: on)",
        ),
    ] = "on"
    like: Annotated[
        list[int] | None,
        _option("--like", panel=RANKING, metavar="ID", help="A hit that was right; repeatable."),
    ] = None
    unlike: Annotated[
        list[int] | None,
        _option("--unlike", panel=RANKING, metavar="ID", help="A hit that was not; repeatable."),
    ] = None
    min_confidence: Annotated[
        float,
        _option(
            "--min-confidence",
            panel=RANKING,
            metavar="C",
            help="Leave out hits below it; from 0 to 1. (default: 0)",
        ),
    ] = 0.0
    path: Annotated[
        Texts,
        _option(
            "--path",
            panel=FILTERS,
            metavar="GLOB",
            help="Only files that match: '*.png', 'holidays/**'; or in a folder; repeatable.",
        ),
    ] = None
    modality: Annotated[
        Texts,
        _option(
            "--modality",
            panel=FILTERS,
            metavar="M",
            help="Only files of a kind: image, text, audio, video, document.",
        ),
    ] = None
    after: Annotated[
        str | None,
        _option(
            "--after",
            panel=FILTERS,
            metavar="DATE",
            help="Taken, else modified, on this day or later: 2020, 2020-03, 2020-03-01.",
        ),
    ] = None
    before: Annotated[
        str | None,
        _option("--before", panel=FILTERS, metavar="DATE", help="Before this day, month or year."),
    ] = None
    camera: Annotated[
        str | None,
        _option("--camera", panel=FILTERS, metavar="TEXT", help="In the camera's name."),
    ] = None
    near: Annotated[
        str | None,
        _option(
            "--near", panel=FILTERS, metavar="LAT,LON,KM", help="Taken at most KM from a place."
        ),
    ] = None
    min_size: Annotated[
        str | None,
        _option("--min-size", panel=FILTERS, metavar="WxH", help="At least so many pixels."),
    ] = None
    has: Annotated[
        Texts,
        _option(
            "--has",
            panel=FILTERS,
            metavar="caption|gps|text|sound",
            help="Only what has one; repeatable.",
        ),
    ] = None
    tag: Annotated[
        Texts,
        _option(
            "--tag", panel=FILTERS, metavar="TAG", help="Only what `mmsearch tag` gave this tag."
        ),
    ] = None
    where: Annotated[
        Texts,
        _option(
            "--where",
            panel=FILTERS,
            metavar="'KEY OP VALUE'",
            help="Any key, of the user's metadata too: 'width >= 1000', 'stars > 3'; repeatable.",
        ),
    ] = None
    explain: Annotated[
        bool, _option("--explain", panel=OUTPUT, help="Say what each ranking thought of each hit.")
    ] = False
    json: Annotated[bool, _option("--json", panel=OUTPUT, help="One JSON array.")] = False
    jsonl: Annotated[bool, _option("--jsonl", panel=OUTPUT, help="One JSON object a line.")] = False
    csv: Annotated[bool, _option("--csv", panel=OUTPUT, help="CSV with a header.")] = False
    tsv: Annotated[bool, _option("--tsv", panel=OUTPUT, help="TSV (what a pipe gets unasked).")] = (
        False
    )
    table: Annotated[
        bool, _option("--table", panel=OUTPUT, help="A table (what a terminal gets unasked).")
    ] = False
    paths: Annotated[
        bool, _option("-f", "--paths", panel=OUTPUT, help="Only paths, one a line.")
    ] = False
    nul: Annotated[
        bool, _option("-0", "--null", panel=OUTPUT, help="Only paths, each ended by a NUL.")
    ] = False

    @property
    def form(self) -> str:
        """The form of output that was asked for."""
        names = ("json", "jsonl", "csv", "tsv", "table", "paths")
        asked = {name: getattr(self, name) for name in names} | {"paths0": self.nul}
        return render.pick_format(asked, terminal=terminal())

    @property
    def targets(self) -> list[str] | None:
        """The facets that were named."""
        if self.target is None:
            return None
        return [facet.strip() for facet in self.target.split(",")]

    @property
    def filter(self) -> Filter:
        """What a hit must be."""
        return from_options(
            path=self.path or (),
            modality=self.modality or (),
            after=self.after,
            before=self.before,
            camera=self.camera,
            near=self.near,
            min_size=self.min_size,
            has=self.has or (),
            tag=self.tag or (),
            where=self.where or (),
        )

    def settings(self) -> dict[str, Any]:
        """What `Collection.search` takes."""
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("k", "spans", "rerank", "diversity", "duplicates", "min_confidence")
        }
        if self.fusion is not None:
            given["fusion"] = self.fusion
        return given | {
            "target": self.targets,
            "where": self.filter,
            "lexical": _choice("--lexical", self.lexical, _LEXICAL),
            "hubness": _choice("--hubness", self.hubness, _SWITCH),
            "weights": dict(map(_weight, self.weight or [])),
            "like": self.like or (),
            "unlike": self.unlike or (),
        }


_SWITCH: dict[str, bool | None] = {"on": True, "off": False}
_LEXICAL = _SWITCH | {"auto": None}


def _choice(flag: str, given: str, choices: dict[str, bool | None]) -> bool | None:
    if given not in choices:
        raise InvalidOption(f"{flag} is one of {', '.join(choices)}, not {given!r}")
    return choices[given]


def _weight(given: str) -> tuple[str, float]:
    facet, _, number = given.partition("=")
    try:
        return facet.strip(), float(number)
    except ValueError as error:
        raise InvalidOption(f"--weight is FACET=W, text=0.5 say, not {given!r}") from error


def with_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `options` is given by the flags of `SearchOptions`."""
    own = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    shared = get_type_hints(SearchOptions, include_extras=True)

    @wraps(command)
    def run(**given: Any) -> None:
        options = {one.name: given.pop(one.name) for one in fields(SearchOptions)}
        command(**given, options=SearchOptions(**options))

    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in own.parameters.items()
        if name != "options"
    ]
    parameters += [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default,
            annotation=shared[one.name],
        )
        for one in fields(SearchOptions)
    ]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
