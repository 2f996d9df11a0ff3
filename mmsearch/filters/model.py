"""What a filter is: conditions on one key each, all of which must hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Op = Literal["in", "gt", "gte", "lt", "lte", "contains", "glob", "exists", "within"]

META = "meta."
"""What the keys of the user's own metadata begin with."""


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time, the year 2020 or one minute of it."""

    start: datetime
    end: datetime | None
    """The first moment after it; None for the end of the calendar."""


@dataclass(frozen=True, slots=True)
class Near:
    """A circle on the Earth."""

    latitude: float
    longitude: float
    """Degrees."""
    kilometres: float


@dataclass(frozen=True, slots=True)
class Said:
    """A value of the user's own metadata."""

    texts: tuple[str, ...]
    """How it may be written."""
    number: float | None
    """The same, if it reads as a number."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What one key must be; the value has been read as its kind wants it.

    Attributes:
        key: One of `KEYS`, or "meta." and a key of the user's.
        op: What is asked of it.
        value: For "in" a tuple, for "within" a Near, for "exists" None, else one value.
    """

    key: str
    op: Op
    value: Any = None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of the filters must pass."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """What passes one filter does not pass."""

    filter: Filter


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items may be found: all conditions must hold; without any, every item passes."""

    conditions: tuple[Condition | AnyOf | Not, ...] = ()

    def __and__(self, other: Filter) -> Filter:
        return Filter(self.conditions + other.conditions)

    def __bool__(self) -> bool:
        return bool(self.conditions)
