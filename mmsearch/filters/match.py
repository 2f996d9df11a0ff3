"""How values are compared: patterns, letters of either case, times and distances.

Every evaluator of filters uses these functions, or answers exactly as they do.
"""

from __future__ import annotations

import glob
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fnmatch import translate
from math import asin, cos, degrees, radians, sin, sqrt
from typing import Any

from mmsearch.filters.model import Circle, Condition, Period

EXACT = 2.0**53
"""Below this, different integers are different floats."""

# ---------------------------------------------------------------------- texts


def matcher(*patterns: str, below: bool = False) -> Callable[[str], object]:
    """A function that tells whether a whole text matches one of some shell patterns.

    Args:
        patterns: As `fnmatch` has them: case counts, `*` also stands for slashes; besides, `**/`
            stands for any number of folders, or none.
        below: Whether a path below a folder that matches does too.
    """
    choices = "|".join("(?:.*/)?".join(_regexes(pattern)) for pattern in patterns)
    tail = "(?:/.*)?" if below else ""
    return re.compile(f"(?s:(?:{choices}){tail})").fullmatch


def _regexes(pattern: str) -> list[str]:
    parts = re.split(r"(?:(?<=/)|^)\*\*/", pattern)
    return [re.sub(r"\\[Zz]$", "", translate(part)) for part in parts]


def readings(pattern: str) -> tuple[str, ...]:
    """The patterns that a pattern of names stands for: itself, and the name that is written so.

    "[2020] Rome" is the name of a folder as well as a pattern that "2 Rome" matches.
    """
    return (pattern, glob.escape(pattern)) if "[" in pattern else (pattern,)


def spellings(text: str) -> tuple[str, ...]:
    """A text as it is written, with its accents composed, and with them apart.

    macOS takes names apart ("e" and an accent), what people type is composed.
    """
    if text.isascii():
        return (text,)
    forms = (unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
    return tuple(dict.fromkeys((text, *forms)))


def path_spellings(path: str) -> tuple[str, ...]:
    """The spellings of a path, whose folder may be spelled in another way than its name."""
    if path.isascii():
        return (path,)
    folder, slash, name = path.rpartition("/")
    return tuple(
        dict.fromkeys(
            f"{head}{slash}{tail}" for head in spellings(folder) for tail in spellings(name)
        )
    )


def folded(text: str) -> str:
    """A text for comparing without regard to case and to how accents are composed."""
    return unicodedata.normalize("NFC", text.casefold())


# ---------------------------------------------------------------------- times

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64 = -(2**63), 2**63 - 1


def nanoseconds(moment: datetime) -> int:
    """A moment in UTC as nanoseconds since 1970, cut to what 64 bits hold."""
    since = moment.replace(tzinfo=UTC) - _EPOCH
    low, high = _INT64
    return max(low, min(since // timedelta(microseconds=1) * 1000, high))


def time_ranges(one: Condition, encode: Callable[[datetime], Any]) -> list[tuple[Any, Any]]:
    """The half-open ranges [start, end) of times that fulfil a condition; None: no such bound.

    Args:
        one: A condition on a time.
        encode: Writes a moment as the store holds it.
    """

    def end_of(period: Period) -> Any:
        return None if period.end is None else encode(period.end)

    if one.op == "exists":
        return [(None, None)]
    if one.op == "in":
        return [(encode(period.start), end_of(period)) for period in one.value]
    start, end = encode(one.value.start), end_of(one.value)
    if one.op == "gt":  # nothing comes after the end of the calendar
        return [] if end is None else [(end, None)]
    return [{"gte": (start, None), "lt": (None, start), "lte": (None, end)}[one.op]]


# ---------------------------------------------------------------------- places

EARTH = 6371.0088
"""Mean radius in kilometres (IUGG, GRS 80)."""


def kilometres(latitude: float, longitude: float, circle: Circle) -> float:
    """The great-circle distance of a point from the centre of a circle, by the haversine formula.

    Source: Sinnott, "Virtues of the Haversine", Sky & Telescope 68 (1984).
    """
    here, there = radians(latitude), radians(circle.latitude)
    half = sin((there - here) / 2) ** 2
    half += cos(here) * cos(there) * sin(radians(circle.longitude - longitude) / 2) ** 2
    return 2 * EARTH * asin(sqrt(min(1.0, half)))


def bounding_box(circle: Circle) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """The latitudes, and one or two ranges of longitudes, that hold all of a circle.

    Degrees, both ends inclusive. A circle around a pole has all longitudes; one that crosses the
    antimeridian has a range on either side.

    Source: Matuschek, "Finding points within a distance of a latitude/longitude" (2010).
    """
    angle = circle.kilometres / EARTH * (1 + 1e-9) + 1e-9  # so that rounding loses nothing
    low, high = circle.latitude - degrees(angle), circle.latitude + degrees(angle)
    if low <= -90 or high >= 90:
        return (max(low, -90.0), min(high, 90.0)), [(-180.0, 180.0)]
    reach = degrees(asin(min(1.0, sin(angle) / cos(radians(circle.latitude))))) + 1e-9
    west, east = circle.longitude - reach, circle.longitude + reach
    if west < -180:
        return (low, high), [(west + 360, 180.0), (-180.0, east)]
    if east > 180:
        return (low, high), [(west, 180.0), (-180.0, east - 360)]
    return (low, high), [(west, east)]
