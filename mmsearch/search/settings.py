"""How a search is to be done: everything that can be asked for besides the query."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

from mmsearch.errors import InvalidOption, InvalidQuery, UnknownTarget
from mmsearch.filters import Filter, parse_where
from mmsearch.search.fusion import FUSIONS, WEIGHTS
from mmsearch.search.queries import Combine
from mmsearch.types import Modality

Target = str | Sequence[str] | None
Rerank = Literal["none", "fusion", "diverse"]
Duplicates = Literal["show", "collapse"]


class SearchSettings(TypedDict, total=False):
    """What a search takes besides the query, all by keyword; `Collection.search` tells them."""

    k: int
    target: Target
    combine: Combine
    spans: bool
    where: Mapping[str, Any] | Filter | None
    fusion: str
    weights: Mapping[str, float] | None
    lexical: bool | None
    hubness: bool
    rerank: Rerank
    diversity: float
    duplicates: Duplicates | None
    min_confidence: float
    like: Sequence[int]
    unlike: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """SearchSettings, complete and checked."""

    k: int = 10
    target: Target = None
    combine: Combine = "early"
    spans: bool = False
    where: Filter = field(default_factory=Filter)
    fusion: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    lexical: bool | None = None
    hubness: bool = True
    rerank: Rerank = "none"
    diversity: float = 0.5
    duplicates: Duplicates | None = None
    min_confidence: float = 0.0
    like: tuple[int, ...] = ()
    unlike: tuple[int, ...] = ()
    depth: int = 0
    """Candidates that are ranked at least."""

    @property
    def collapses(self) -> bool:
        """Whether copies of a hit stand behind it."""
        return self.duplicates == "collapse" or (
            self.duplicates is None and self.rerank == "diverse"
        )

    @property
    def pool(self) -> int:
        """How many candidates are ranked: more than k where some of them will go."""
        some_go = self.some_go or self.rerank != "none"
        return max(4 * self.k, 100, self.depth) if some_go else self.k

    @property
    def some_go(self) -> bool:
        """Whether candidates are left out after they were ranked."""
        return self.collapses or self.min_confidence > 0


def settings_of(given: Mapping[str, Any]) -> Settings:
    """What was given, checked, and the defaults for the rest.

    Raises:
        TypeError: a name is none of a search's.
        InvalidQuery, InvalidOption, InvalidFilter: a value is none that it can have.
    """
    known = {one.name for one in fields(Settings)} - {"depth"}
    if unknown := sorted(given.keys() - known):
        raise TypeError(f"a search has no {unknown[0]!r}; it has: {', '.join(sorted(known))}")
    kept = {name: value for name, value in given.items() if value is not None or name == "k"}
    _check_k(kept.get("k", 10))
    for name, allowed in _CHOICES.items():
        if name in kept and kept[name] not in allowed:
            raise InvalidOption(f"{name} is one of {', '.join(allowed)}, not {kept[name]!r}")
    for name in ("diversity", "min_confidence"):
        kept[name] = _share(name, kept.get(name, getattr(_PLAIN, name)))
    for name in ("like", "unlike"):
        some = kept.get(name, ())
        if isinstance(some, (str, bytes)) or not isinstance(some, Iterable):
            raise InvalidOption(f"{name} is a list of ids, not {some!r}")
        kept[name] = tuple(map(_id, some))
    kept["weights"] = {name: _weight(name, weight) for name, weight in _pairs(kept)}
    for name in ("spans", "lexical", "hubness"):
        if not isinstance(kept.get(name, False), bool):
            raise InvalidOption(f"{name} is True or False, not {kept[name]!r}")
    if kept.get("spans") and (kept.get("rerank", "none"), kept.get("duplicates", "show")) != (
        "none",
        "show",
    ):
        raise InvalidOption("reranking and copies are of whole files: leave spans out, or them")
    kept["where"] = parse_where(kept.get("where"))
    return Settings(**kept)


_CHOICES: dict[str, tuple[str, ...]] = {
    "fusion": tuple(sorted(FUSIONS)),
    "rerank": get_args(Rerank),
    "duplicates": get_args(Duplicates),
}
_PLAIN = Settings()


def _check_k(k: Any) -> None:
    try:
        enough = operator.index(k) >= 1
    except TypeError:
        enough = False
    if not enough:
        raise InvalidQuery(f"k is how many hits to give, a whole number of at least 1, not {k!r}")


def _pairs(given: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    weights = given.get("weights", {})
    if not isinstance(weights, Mapping):
        raise InvalidOption(f"weights are numbers by facet, {{'text': 0.5}} say, not {weights!r}")
    return weights.items()


def _weight(name: str, weight: Any) -> float:
    if name not in WEIGHTS:
        raise InvalidOption(f"{name!r} has no weight; these have: {', '.join(sorted(WEIGHTS))}")
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InvalidOption(f"a weight is a number of at least 0, not {weight!r}")
    return number


def _id(given: Any) -> int:
    """An item's id as SQLite can hold it."""
    try:
        number = operator.index(given)
    except TypeError as error:
        raise InvalidOption(f"an id is a whole number, not {given!r}") from error
    if not 0 < number < 2**63:
        raise InvalidQuery(f"no item of the index has the id {number}")
    return number


def _share(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise InvalidOption(f"{name} is a number from 0 to 1, not {value!r}")
    return number


def targets_of(
    target: Target, present: Iterable[Modality], asked: Iterable[Modality]
) -> list[Modality]:
    """The facets to search: those named, else what the query is best compared with.

    Words are looked for in everything; who asks by example is given things of its kind, if there
    are any.

    Args:
        target: What the caller named.
        present: The facets that have vectors.
        asked: The modalities of the query's parts.

    Raises:
        UnknownTarget: there is no such facet.
    """
    known: tuple[Modality, ...] = get_args(Modality)
    if target is None:
        there, kinds = set(present), set(asked)
        order: list[Modality] = ["image", "audio", "text"]
        if kinds == {"audio"}:
            order = ["audio", "image", "text"]
        found = [facet for facet in order if facet in there]
        return found if kinds == {"text"} else found[:1]
    one = isinstance(target, str) or not isinstance(target, Iterable)
    named = [target] if one else list(target)
    shown = ", ".join(known)
    if not named:
        raise UnknownTarget(f"nothing to search in is named; there is: {shown}")
    for facet in named:
        if facet not in known:
            raise UnknownTarget(f"nothing can be searched in {facet!r}; there is: {shown}")
    return [facet for facet in known if facet in named]
