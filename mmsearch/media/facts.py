"""When, where and how a photo was taken: by its own metadata, its sidecars and its name.

`photo_metadata` parses EXIF, IPTC and XMP. This module adds the JSON sidecars of Google Takeout and
the dates in names such as IMG-20190704-WA0003.jpg.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from mmsearch.errors import UnreadableFile
from mmsearch.media.image import open_picture
from mmsearch.media.kinds import kind_of
from mmsearch.media.open_media import open_file
from mmsearch.media.photo_metadata import (
    LARGEST_XMP,
    Facts,
    PhotoFacts,
    number,
    of_picture,
    of_properties,
    words,
    xmp_properties,
)

__all__ = ["Facts", "PhotoFacts", "of_name", "of_photo", "of_takeout", "of_xmp"]

_LARGEST_JSON = 1 << 20
"""Bytes; one of Takeout's has one or two thousand."""


def of_photo(source: str | Path | bytes | BinaryIO) -> PhotoFacts:
    """The facts in a photo's own EXIF, IPTC and XMP, without decoding its pixels.

    A PNG without EXIF before its pixels is decoded all the same: EXIF may come after them. If the
    file is damaged, facts are missing.
    """
    with suppress(UnreadableFile), open_picture(source) as opened:
        return of_picture(opened)
    return PhotoFacts()


def of_xmp(source: str | Path | bytes) -> PhotoFacts:
    """The facts in an .xmp sidecar.

    Raises:
        UnreadableFile: It cannot be read, is too large, or is not XMP.
    """
    try:
        return of_properties(xmp_properties(_bytes_of(source, LARGEST_XMP)))
    except ValueError as error:  # also of bytes that are no UTF-8
        reason = "damaged" if isinstance(error, UnicodeError) else str(error)
        raise UnreadableFile(reason) from error


def of_takeout(source: str | Path | bytes) -> PhotoFacts:
    """The facts in a JSON sidecar of Google Takeout; its time, in UTC, becomes local time.

    None, if the JSON is not Takeout's.

    Raises:
        UnreadableFile: It cannot be read, or is not JSON.
    """
    try:
        found = json.loads(_bytes_of(source, _LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise UnreadableFile("not JSON") from error
    if not isinstance(found, dict) or not isinstance(found.get("photoTakenTime"), dict):
        return PhotoFacts()  # other programs write a.jpg.json, too
    people = found.get("people")
    names = [_text(one, "name") for one in people] if isinstance(people, list) else []
    title = _text(found, "title")
    is_file_name = kind_of(title) is not None or (
        isinstance(source, str | Path) and Path(source).name.startswith(title)
    )
    places = (_place(found.get(key)) for key in ("geoData", "geoDataExif"))
    latitude, longitude = next(filter(None, places), (None, None))
    return PhotoFacts(
        _moment(found["photoTakenTime"].get("timestamp")),
        None,
        latitude,
        longitude,
        words(
            keywords=names,
            titles=[] if is_file_name else [title],
            descriptions=[_text(found, "description")],
        ),
    )


def _bytes_of(source: str | Path | bytes, limit: int) -> bytes:
    with open_file(source) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise UnreadableFile((error.strerror or "cannot be read").lower()) from error
    if len(data) > limit:
        raise UnreadableFile("too large")
    return data


def _text(found: Any, key: str) -> str:
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""


def _moment(timestamp: Any) -> datetime | None:
    """Local time, of seconds since 1970; negative for scans of old prints. 0 means unknown."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, str | int):
        return None
    if seconds := number(timestamp):
        with suppress(OverflowError, ValueError, OSError):
            time = datetime.fromtimestamp(seconds, UTC)
            if time < datetime.now(UTC) + timedelta(days=1) and time.year >= _FIRST_PHOTO:
                return time.astimezone().replace(tzinfo=None)
    return None


_FIRST_PHOTO = 1826


def _place(found: Any) -> tuple[float, float] | None:
    """(latitude, longitude) in degrees; Takeout writes 0, 0 if it knows none."""
    if isinstance(found, dict):
        latitude, longitude = found.get("latitude"), found.get("longitude")
        if isinstance(latitude, int | float) and isinstance(longitude, int | float):
            valid = abs(latitude) <= 90 and abs(longitude) <= 180  # false of NaN
            if valid and (latitude or longitude):
                return float(latitude), float(longitude)
    return None


# ---------------------------------------------------------------------- names

_FIRST_YEAR = 1990
_START = r"(?<![0-9A-Za-z])(?:IMG|VID|PIC|DSC|PANO)?"
"""Before a date: no letter or digit, except the prefixes of cameras."""
_END = r"(?![0-9A-Za-z])"
_CLOCK = r"""(?: (?P<hour>\d\d) (?P<minute>\d\d) (?P<second>\d\d) (?:[-_.]?\d{3})?
    | (?P<hour_>\d\d?) (?P<mark>[-_.:]) (?P<minute_>\d\d) (?P=mark) (?P<second_>\d\d)
      (?:[-_.]\d{3})? (?:\s?(?P<half>[AP]M))?
    | (?P<hour__>\d\d?) [.:] (?P<minute__>\d\d) (?:\s?(?P<half_>[AP]M))? )"""
_DAY = r"(?P<year>\d{4}) (?P<month>\d\d) (?P<day>\d\d)"
_DAY_APART = r"(?P<year>\d{4}) (?P<between>[-_.]) (?P<month>\d\d) (?P=between) (?P<day>\d\d)"
_BEFORE_CLOCK = r"(?:[-_.T]|[ _,]+(?:[^\W\d_]{1,3}[ _])?)"
"""Between a day and a time; it may be the word for "at" in any language."""
_PREFIX = r"(?:(?:IMG|VID|PIC|PXL|PANO|MVIMG|BURST|Screenshot|photo|video|signal)[-_ ]?)?"
_SEPARATED, _TOGETHER, _AT_FIRST = (
    re.compile(pattern, re.VERBOSE | re.IGNORECASE)
    for pattern in (
        # Screenshot 2020-05-06 at 10.11.12 PM, 2019-07-04 12.34.56, signal-2021-03-04-123456
        rf"{_START} {_DAY_APART} (?: {_BEFORE_CLOCK} {_CLOCK} )? {_END}",
        # PXL_20210102_123456789, IMG20190704123456, WP_20140704_12_34_56_Pro
        rf"{_START} {_DAY} [-_ T]? {_CLOCK} {_END}",
        # IMG-20190704-WA0003, 20190704: at the start of a name alone, since eight digits may be any
        # number; nor if a hash follows, as in Flickr's names
        rf"^ {_PREFIX} {_DAY} {_END} (?![-_ ][0-9a-f]{{6}})",
    )
)


def of_name(name: str) -> PhotoFacts:
    """The time in a file's name; midnight if it has only a date.

    The date must be valid, between 1990 and tomorrow, and not part of a longer number.
    """
    for pattern in (_SEPARATED, _TOGETHER, _AT_FIRST):
        for found in pattern.finditer(name):
            if time := _time_of(found.groupdict(), day_alone=pattern is not _TOGETHER):
                return PhotoFacts(time)
    return PhotoFacts()


def _time_of(parts: dict[str, str | None], *, day_alone: bool) -> datetime | None:
    """The time that a pattern found; midnight, if its clock is invalid but the day is enough."""

    def part(name: str) -> str | None:
        return next((parts[key] for key in (name, f"{name}_", f"{name}__") if parts.get(key)), None)

    with suppress(ValueError):
        day = datetime(*(int(parts[key] or "") for key in ("year", "month", "day")))  # type: ignore[arg-type]  # noqa: DTZ001
        if day.year < _FIRST_YEAR or day > datetime.now() + timedelta(days=1):  # noqa: DTZ005
            return None
        hour, minute, second = (int(part(key) or 0) for key in ("hour", "minute", "second"))
        half = (part("half") or "").upper()
        if half and 1 <= hour <= 12:
            hour = hour % 12 + 12 * (half == "PM")
        with suppress(ValueError):
            return day.replace(hour=hour, minute=minute, second=second)
        return day if day_alone else None
    return None
