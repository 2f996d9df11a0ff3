"""The values that a setting of a search can have, in Python and as text."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmsearch.errors import InvalidOption, InvalidQuery
from mmsearch.filters import parse_where
from mmsearch.filters.values import shown
from mmsearch.search.fusion import WEIGHTS

MAX_WEIGHT = 1000.0
"""Of a ranking: with those of the parts of a query, sums of weighted scores stay finite."""


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """The values that a setting can have."""

    check: Callable[[str, Any], Any]
    """Takes the setting's name and a value; returns the value as a search uses it."""
    parse: Callable[[str], Any] | None = None
    """Parses a text; raises ValueError or KeyError. None: the setting cannot be given as text."""
    syntax: str = ""
    """How such a text is written: "on|off"."""
    collect: Callable[[Iterable[Any]], Any] | None = None
    """Combines the values of several texts, if the setting can be given several times."""

    def value_of(self, texts: Sequence[str]) -> Any:
        """The value of one text, or of several if the setting can be given several times."""
        assert self.parse is not None
        values = [self.parse(text) for text in texts]
        return self.collect(values) if self.collect else values[-1]


def choice(*values: str) -> ValueFormat:
    """One of a few words."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in values:
            raise InvalidOption(f"{name} is one of {', '.join(values)}, not {shown(value)}")
        return value

    return ValueFormat(check, str, "|".join(values))


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"{name} is True or False, not {shown(value)}")
    return value


def _count(name: str, value: Any) -> int:
    try:
        return whole(name, value, least=1)
    except InvalidOption as error:
        raise InvalidQuery(str(error)) from error


def _position(name: str, value: Any) -> int:
    return whole(name, value, least=0)


def whole(name: str, value: Any, *, least: int, most: float = 2**63 - 1) -> int:
    """A whole number from `least` on, by default of 63 bits, as SQLite and FAISS take them.

    Raises:
        InvalidOption: the value is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not least <= number <= most:
        raise InvalidOption(f"{name} is a whole number, at least {least}, not {shown(value)}")
    return number


def one_or_several(value: Any) -> list[Any]:
    """The values of an iterable, in order; a text, or what is no iterable, is one value."""
    single = isinstance(value, (str, bytes)) or not isinstance(value, Iterable)
    return [value] if single else list(value)


def _float(value: Any) -> float:
    """A value as a number; NaN if it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _share(name: str, value: Any) -> float:
    number = _float(value)
    if not 0 <= number <= 1:
        raise InvalidOption(f"{name} is a number from 0 to 1, not {shown(value)}")
    return number


def _ids(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidOption(f"{name} is a list of ids, not {shown(value)}")
    return tuple(map(item_id, value))


def _target(_: str, value: Any) -> Any:
    return value if isinstance(value, str) else tuple(one_or_several(value))


def item_id(value: Any) -> int:
    """An item's id as SQLite can hold it.

    Raises:
        InvalidOption: the value is no whole number.
        InvalidQuery: no item can have this id.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidOption(f"an id is a whole number, not {shown(value)}") from error
    if not 0 < number < 2**63:
        raise InvalidQuery(f"no item of the index has the id {shown(number)}")
    return number


def _weights(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise InvalidOption(
            f"{name} are numbers by modality, as in {{'text': 0.5}}, not {shown(value)}"
        )
    return {ranking: _weight(ranking, weight) for ranking, weight in value.items()}


def _weight(ranking: str, value: Any) -> float:
    if ranking not in WEIGHTS:
        names = ", ".join(sorted(WEIGHTS))
        raise InvalidOption(f"there is no ranking {ranking!r} to weigh; there are: {names}")
    number = _float(value)
    if not (math.isfinite(number) and number >= 0):
        raise InvalidOption(f"a weight is a number of at least 0, not {shown(value)}")
    if number > MAX_WEIGHT:
        raise InvalidOption(
            f"a weight is at most {MAX_WEIGHT:g}, not {shown(value)}: only how weights compare "
            "makes a difference"
        )
    return number


def _read_weight(text: str) -> tuple[str, float]:
    ranking, _, number = text.replace("=", ":").partition(":")
    return ranking.strip(), float(number)


def _read_target(text: str) -> list[str] | None:
    return None if text == "any" else [name.strip() for name in text.replace("+", ",").split(",")]


SWITCH = ValueFormat(_switch, {"on": True, "off": False}.__getitem__, "on|off")
AUTO = ValueFormat(_switch, {"on": True, "off": False, "auto": None}.__getitem__, "on|off|auto")
COUNT = ValueFormat(_count, int, "a whole number")
POSITION = ValueFormat(_position, int, "a whole number from 0 on")
SHARE = ValueFormat(_share, float, "0…1")
IDS = ValueFormat(_ids, int, "ID", tuple)
WEIGHTS_OF_RANKINGS = ValueFormat(_weights, _read_weight, "image:1+text:0.5", dict)
TARGET = ValueFormat(  # checked by `targets_of`, against what there is
    _target, _read_target, "image|text|audio|any, or several: image+text"
)
FILTER = ValueFormat(lambda _, value: parse_where(value))
