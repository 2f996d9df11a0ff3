"""Values in a filter, parsed: dates, sizes, numbers, places, texts.

Each parser takes the key's name, for the message of an InvalidFilter, and the value as written.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Sequence
from datetime import MAXYEAR, date, datetime, timedelta
from typing import Any

from mmsearch.errors import InvalidFilter
from mmsearch.filters.match import spellings
from mmsearch.filters.model import META, Circle, MetadataValue, Period

LONGEST = 4096
"""Characters of one value: the longest path, and shorter than the longest pattern of SQLite."""

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE | re.ASCII)
_BYTES = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE | re.ASCII)
_DATE = re.compile(
    r"\s*(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?)?)?)?\s*",
    re.ASCII,
)


def shown(value: Any) -> str:
    """A value as an error message shows it, cut short if it is long."""
    try:
        written = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "that number"
    except Exception:  # nested too deep, or whatever a type of the user's own raises
        return f"that {type(value).__name__}"
    return written if len(written) <= 80 else f"{written[:79]}…"


def number_in(text: str) -> float | None:
    """The finite number that a text reads as: "12", " -1.5e3 ", but not "1_000"."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def text(key: str, value: Any, errors: str = "strict") -> str:
    """Text that can be stored."""
    if not isinstance(value, str):
        raise InvalidFilter(f"{key}: {shown(value)} is not text")
    if "\0" in value:
        raise InvalidFilter(f"{key}: {shown(value)} holds a NUL, which no name and no text has")
    if len(value) > LONGEST:
        raise InvalidFilter(f"{key}: a value has at most {LONGEST:,} characters")
    try:
        value.encode("utf-8", errors)
    except UnicodeEncodeError as error:
        raise InvalidFilter(f"{key}: {shown(value)} holds half a character") from error
    return value


def path(key: str, value: Any) -> str:
    """A file name, or a pattern of names; it need not be UTF-8."""
    return text(key, value, "surrogateescape")


def one_of(*choices: str) -> Callable[[str, Any], str]:
    """A parser of one of some words."""

    def parse(key: str, value: Any) -> str:
        if value not in choices:
            raise InvalidFilter(f"{key}: {shown(value)} is none of {', '.join(choices)}")
        return str(value)

    return parse


def number(key: str, value: Any) -> float:
    """A finite number."""
    found = number_in(value) if isinstance(value, str) else _float(value)
    if found is None:
        raise InvalidFilter(f"{key}: {shown(value)} is not a number")
    return found


def bytes_(key: str, value: Any) -> float:
    """A size in bytes; kB, MB, GB and TB are powers of 1000, KiB, MiB … of 1024."""
    if not isinstance(value, str):
        return number(key, value)
    found = _BYTES.fullmatch(value)
    if found is None:
        raise InvalidFilter(
            f"{key}: {shown(value)} is not a size; write bytes, or 500kB, 2MB, 1GiB"
        )
    power = " kmgt".index(found[2].lower() or " ")
    return float(found[1]) * (1024.0 if found[3] else 1000.0) ** power


def period(key: str, value: Any) -> Period:
    """A year, month, day, hour, minute or second: an ISO date or the beginning of one."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            raise InvalidFilter(f"{key}: give {value.isoformat()} without its time zone")
        return _period(value, timedelta(microseconds=1))
    if isinstance(value, int) and 1 < value <= 9999:
        value = f"{value:04}"
    found = _DATE.fullmatch(str(value)) if isinstance(value, (str, date)) else None
    if found is None:
        raise InvalidFilter(
            f"{key}: {shown(value)} is not a date; write 2020, 2020-03, 2020-03-01 or "
            "2020-03-01T10:00, without a time zone"
        )
    try:
        return _period_of(found)
    except ValueError as error:  # 2020-13, 2021-02-29
        raise InvalidFilter(f"{key}: there is no {shown(value)} in the calendar") from error


def circle(key: str, value: Any) -> Circle:
    """A centre and a radius: "48.2,16.4,10" or three numbers."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or len(parts) != 3:
        raise InvalidFilter(
            f"{key}: write latitude, longitude and kilometres, as 48.2,16.37,10; not {shown(value)}"
        )
    latitude, longitude, kilometres = (number(key, part) for part in parts)
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise InvalidFilter(
            f"{key}: a latitude is from -90 to 90, a longitude from -180 to 180; not {shown(value)}"
        )
    if kilometres < 0:
        raise InvalidFilter(f"{key}: {kilometres:g} km is no distance")
    return Circle(latitude, longitude, kilometres)


def metadata_value(key: str, value: Any) -> MetadataValue:
    """A value to compare the user's own metadata with: a text, and a number where it reads so.

    True and false are stored as their source spells them: JSON has true, Python writes True,
    spreadsheets TRUE. All of these are the same value.
    """
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, (datetime, date)):
        value = value.isoformat()
    if isinstance(value, numbers.Real):
        as_float = number(key, value)  # first: an endless integer cannot be written down
        return MetadataValue((str(value),), as_float)
    found = text(key, value)
    if (word := found.lower()) in ("true", "false"):
        return MetadataValue(tuple(dict.fromkeys((found, word, word.title(), word.upper()))), None)
    number_ = number_in(found)
    return MetadataValue(
        spellings(found), _photographic(key, found) if number_ is None else number_
    )


# ---------------------------------------------------------------------- parts of the above


_PHOTOGRAPHIC = {
    "aperture": re.compile(r"\s*f\s*/?\s*(\d+\.?\d*)\s*", re.IGNORECASE | re.ASCII),
    "exposure": re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*s?\s*", re.ASCII),
    "focal_length": re.compile(r"\s*(\d+\.?\d*)\s*mm\s*", re.IGNORECASE | re.ASCII),
}
"""By key, numbers as photographers write them: f/2.8, 1/100 s, 50 mm."""


def _photographic(key: str, written: str) -> float | None:
    """Such a number, with the four digits that are stored of what photos tell."""
    pattern = _PHOTOGRAPHIC.get(key.removeprefix(META).lower())
    if pattern is None or (found := pattern.fullmatch(written)) is None:
        return None
    above, below = float(found[1]), float(found[2]) if pattern.groups == 2 else 1.0
    return float(f"{above / below:.4g}") if below and math.isfinite(above / below) else None


def _float(value: Any) -> float | None:
    """A Python number as a float; None if it is none, not finite or too large."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


_LENGTHS = (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1))


def _period_of(found: re.Match[str]) -> Period:
    year, month, *rest, fraction = found.groups()
    day, hour, minute, second = (int(part) if part else None for part in rest)
    microsecond = int((fraction or "").ljust(6, "0"))
    start = datetime(  # noqa: DTZ001 - local time
        int(year), int(month or 1), day or 1, hour or 0, minute or 0, second or 0, microsecond
    )
    if fraction:
        return _period(start, timedelta(microseconds=10 ** (6 - len(fraction))))
    if given := sum(part is not None for part in rest):
        return _period(start, _LENGTHS[given - 1])
    next_year = start.year + 1 if not month or start.month == 12 else start.year
    next_month = start.month % 12 + 1 if month else 1
    if next_year > MAXYEAR:
        return Period(start, None)
    return Period(start, datetime(next_year, next_month, 1))  # noqa: DTZ001 - local time


def _period(start: datetime, length: timedelta) -> Period:
    try:
        return Period(start, start + length)
    except OverflowError:
        return Period(start, None)
