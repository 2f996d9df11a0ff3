"""The settings of a search, each declared once.

A field of `Settings` is a keyword of `Collection.search` and similar methods, a flag of
`mmsearch query` and `similar` with its help and default, a parameter of the HTTP API, and a name
that `mmsearch eval --with` takes. To add a setting, add a field and use it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, wraps
from typing import Annotated, Any, Literal, get_args, get_type_hints

from mmsearch.errors import InvalidOption, UnknownTarget
from mmsearch.filters import Filter, Where, parse_where
from mmsearch.search.fusion import DEFAULT, FUSIONS, WEIGHTS
from mmsearch.search.setting_formats import (
    AUTO,
    COUNT,
    FILTER,
    IDS,
    POSITION,
    SHARE,
    SWITCH,
    TARGET,
    WEIGHTS_OF_RANKINGS,
    ValueFormat,
    choice,
    one_or_several,
)
from mmsearch.types import Modality

Target = str | Sequence[str] | None
Combine = Literal["early", "late"]
Rerank = Literal["none", "fusion", "diverse"]
Duplicates = Literal["show", "collapse"]
Sort = Literal["relevance", "newest", "oldest"]


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of a setting. Its name, default and type are those of the field."""

    format: ValueFormat
    help: str
    flag: str = ""
    """By default "--" and its name."""
    metavar: str = ""
    """What stands for the value in `--help`; by default the syntax of the format."""
    default_text: str = ""
    """The default in words; derived from the default unless given."""
    in_eval: bool = True
    """Whether `eval --with` takes it."""
    default: Any = None
    type: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a search is done, complete and checked.

    Raises:
        InvalidQuery, InvalidOption, InvalidFilter: a setting cannot have such a value.
    """

    k: Annotated[int, Setting(COUNT, "How many hits.", "-k", "N", in_eval=False)] = 10
    offset: Annotated[int, Setting(POSITION, "Skip so many hits.", metavar="N", in_eval=False)] = 0
    sort: Annotated[
        Sort,
        Setting(
            choice(*get_args(Sort)),
            "Put the best first, or the good matches by date, the newest or the oldest first.",
            in_eval=False,
        ),
    ] = "relevance"
    target: Annotated[
        Target,
        Setting(
            TARGET,
            "What to search: image (pictures, frames, pages), text (texts, captions, words read "
            "or heard), audio; several, separated by commas, are fused.",
            flag="--in",
            metavar="image|text|audio",
            default_text="all for a query in words, otherwise what is most like the query",
        ),
    ] = None
    combine: Annotated[
        Combine,
        Setting(
            choice(*get_args(Combine)),
            "Add up the vectors of the parts (early), or rank for each part and fuse (late).",
        ),
    ] = "early"
    spans: Annotated[
        bool,
        Setting(
            SWITCH, "Make each matching stretch of a file a hit, not only its best.", in_eval=False
        ),
    ] = False
    where: Annotated[
        Where,
        Setting(
            FILTER,
            'Only items that pass: {"taken": {"$gte": "2020"}, "camera": "Canon"}; '
            "docs/commands.md lists the keys.",
        ),
    ] = None
    rerank: Annotated[
        Rerank,
        Setting(
            choice(*get_args(Rerank)),
            "Compare the best hundred in detail by a second model (fusion), or put hits first "
            "that differ from those before them (diverse).",
        ),
    ] = "none"
    diversity: Annotated[
        float,
        Setting(SHARE, "For diverse: from 0, only relevance, to 1, only difference.", metavar="D"),
    ] = 0.5
    duplicates: Annotated[
        Duplicates | None,
        Setting(
            choice(*get_args(Duplicates)),
            "Show copies, or collapse each group of them to one hit with a count.",
            default_text="show; collapse with diverse",
        ),
    ] = None
    lexical: Annotated[
        bool | None,
        Setting(
            AUTO,
            "Also look words up as they are written.",
            default_text="auto: where texts are searched",
        ),
    ] = None
    fusion: Annotated[
        str | None,
        Setting(
            choice(*FUSIONS),
            "How several rankings become one.",
            default_text=f"{DEFAULT}; rrf where parts are ranked on their own",
        ),
    ] = None
    weights: Annotated[
        Mapping[str, float] | None,
        Setting(
            WEIGHTS_OF_RANKINGS,
            "What each ranking counts in the fusion; words is the lexical one.",
            flag="--weight",
            metavar="FACET=W",
            default_text=", ".join(f"{ranking}={weight:g}" for ranking, weight in WEIGHTS.items()),
        ),
    ] = None
    hubness: Annotated[
        bool, Setting(SWITCH, "Penalise items that are close to every query (hubs).")
    ] = True
    like: Annotated[
        Sequence[int],
        Setting(IDS, "The id of a hit that was right: the query moves towards it.", in_eval=False),
    ] = ()
    unlike: Annotated[
        Sequence[int],
        Setting(IDS, "The id of a hit that was wrong: the query moves away.", in_eval=False),
    ] = ()
    min_confidence: Annotated[
        float, Setting(SHARE, "Leave out hits with less confidence, from 0 to 1.", metavar="C")
    ] = 0.0

    def __post_init__(self) -> None:
        for name, setting in declared().items():
            value = getattr(self, name)
            if value is None and name != "k":  # left out
                value = setting.default
            if value is not None or name == "k":
                object.__setattr__(self, name, setting.format.check(name, value))
        if self.spans and (self.rerank != "none" or self.duplicates == "collapse"):
            raise InvalidOption("reranking and copies are of whole files: leave spans out, or them")

    @property
    def filter(self) -> Filter:
        """The predicate that every hit satisfies."""
        return parse_where(self.where)

    def weight_of(self, ranking: str) -> float:
        """The weight of a modality's ranking, or of the lexical one, in the fusion."""
        return (self.weights or {}).get(ranking, WEIGHTS.get(ranking, 1.0))

    @property
    def by_date(self) -> bool:
        """Whether hits are sorted by date."""
        return self.sort != "relevance"

    @property
    def collapses(self) -> bool:
        """Whether copies of a hit are collapsed into it."""
        return self.duplicates == "collapse" or (
            self.duplicates is None and self.rerank == "diverse"
        )

    @property
    def may_drop(self) -> bool:
        """Whether ranked candidates may be dropped, as copies or for lack of confidence."""
        return self.collapses or self.min_confidence > 0

    @property
    def pool(self) -> int:
        """How many candidates are ranked at first: more than k if some may be dropped or reranked.

        The offset makes no difference, so that the pages of a query fit together.
        """
        return max(4 * self.k, 100) if self.may_drop or self.rerank != "none" else self.k


@cache
def declared() -> dict[str, Setting]:
    """The complete declaration of each setting, by name, in order."""
    hints = get_type_hints(Settings, include_extras=True)
    settings = {}
    for field in fields(Settings):
        setting: Setting = hints[field.name].__metadata__[0]
        is_switch = field.default is False  # the flag takes no value: `--spans` turns it on
        settings[field.name] = replace(
            setting,
            flag=setting.flag or f"--{field.name.replace('_', '-')}",
            metavar="" if is_switch else setting.metavar or setting.format.syntax,
            default_text=setting.default_text or _in_words(field.default),
            default=field.default,
            type=hints[field.name].__origin__,
        )
    return settings


def _in_words(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, (int, float)):
        return f"{default:g}"
    return default if isinstance(default, str) else ""


def settings_of(given: Mapping[str, Any]) -> Settings:
    """The given settings, by name, and the defaults of the others.

    Raises:
        TypeError: a search has no such setting.
        InvalidQuery, InvalidOption, InvalidFilter: a setting cannot have such a value.
    """
    known = declared()
    if unknown := sorted(given.keys() - known.keys()):
        raise TypeError(f"a search has no {unknown[0]!r}; it has: {', '.join(sorted(known))}")
    return Settings(**given)


def takes_settings(
    _declaration: type[Settings],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that replaces a method's last parameter, `settings`, by a keyword for each one.

    `help` and `inspect.signature` show the keywords; what type checkers see is declared where it is
    used, in `collection/search_methods.py`.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(method)
        *others, _ = signature.parameters.values()
        names = {parameter.name for parameter in others}

        @wraps(method)
        def call(*args: Any, **given: Any) -> Any:
            rest = {name: given.pop(name) for name in names & given.keys()}
            return method(*args, **rest, settings=settings_of(given))

        keywords, descriptions = _keywords()
        call.__signature__ = signature.replace(parameters=[*others, *keywords])  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.getdoc(method)}\n\nSettings, by keyword:\n{descriptions}"
        return call

    return decorate


@cache  # a millisecond of every start
def _keywords() -> tuple[list[inspect.Parameter], str]:
    """The settings as parameters, and a line on each."""
    parameters, lines = [], []
    for name, setting in declared().items():
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=setting.default,
                annotation=setting.type,
            )
        )
        default = f" Default: {setting.default_text}." if setting.default_text else ""
        lines.append(f"    {name}: {setting.help}{default}")
    return parameters, "\n".join(lines)


def targets_of(
    target: Target, present: Iterable[Modality], query_modalities: Iterable[Modality]
) -> list[Modality]:
    """The modalities to search: the given ones, else those that suit the query.

    Words are compared with everything, an example with its own modality if the index has it.

    Args:
        target: One or more modalities; None leaves the choice to the search.
        present: The modalities that the index has vectors of.
        query_modalities: The modalities of the query's parts.

    Raises:
        UnknownTarget: there is no such modality.
    """
    known: tuple[Modality, ...] = get_args(Modality)
    if target is None:
        stored, modalities = set(present), set(query_modalities)
        order: list[Modality] = ["image", "audio", "text"]
        if modalities == {"audio"}:
            order = ["audio", "image", "text"]
        found = [modality for modality in order if modality in stored]
        return found if modalities == {"text"} else found[:1]
    named = one_or_several(target)
    choices = ", ".join(known)
    if not named:
        raise UnknownTarget(f"no modality to search is named; choose from: {choices}")
    for name in named:
        if name not in known:
            raise UnknownTarget(f"{name!r} cannot be searched; choose from: {choices}")
    return [modality for modality in known if modality in named]
