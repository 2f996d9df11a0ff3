"""A filter as data: conditions on one key each, all of which must hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Op = Literal["in", "gt", "gte", "lt", "lte", "contains", "glob", "exists", "within"]

META = "meta."
"""The prefix of the keys of the user's own metadata."""


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time: the year 2020, or one minute of it."""

    start: datetime
    end: datetime | None
    """The first moment after it; None at the end of the calendar."""


@dataclass(frozen=True, slots=True)
class Circle:
    """A circle on the Earth."""

    latitude: float
    longitude: float
    """Degrees."""
    kilometres: float


@dataclass(frozen=True, slots=True)
class MetadataValue:
    """A value to compare the user's own metadata with."""

    texts: tuple[str, ...]
    """The ways to spell it."""
    number: float | None
    """The value as a number, if it reads as one."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one key.

    Attributes:
        key: One of `KEYS`, or "meta." and a key of the user's own metadata.
        op: How the key's value is compared.
        value: A tuple for "in", a Circle for "within", None for "exists", else one value; parsed
            by the key's type.
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
    """The filter must not pass."""

    filter: Filter


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items may be found: all conditions must hold; without any, every item passes."""

    conditions: tuple[Condition | AnyOf | Not, ...] = ()

    def __and__(self, other: Filter) -> Filter:
        return Filter(self.conditions + other.conditions)

    def __bool__(self) -> bool:
        return bool(self.conditions)
