"""The EXIF tags of a photo, and the time, camera and place in them; unreadable tags are missing."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

_MAKE, _MODEL, ORIENTATION, _CHANGED = 0x010F, 0x0110, 0x0112, 0x0132
_TAKEN, _DIGITISED = 0x9003, 0x9004
APERTURE, EXPOSURE, FOCAL_LENGTH, USER_COMMENT = 0x829D, 0x829A, 0x920A, 0x9286
ISO = (0x8827, 0x8832, 0x8833)
"""PhotographicSensitivity, at most 65535; then the tags for higher values."""
LENS_SPECIFICATION, LENS = 0xA432, 0xA434
DESCRIPTION, RATING = 0x010E, 0x4746
XP_TITLE, XP_COMMENT, XP_KEYWORDS = 0x9C9B, 0x9C9C, 0x9C9E
"""Written by Windows."""
XMP = 0x02BC
"""In a TIFF; other formats store XMP outside EXIF."""
_IN_MAIN = (
    *(_MAKE, _MODEL, ORIENTATION, _CHANGED, DESCRIPTION, RATING),
    *(XP_TITLE, XP_COMMENT, XP_KEYWORDS, XMP),
)
_EXIF_PART, _GPS_PART, _INTEROP_PART = 0x8769, 0x8825, 0xA005
_COLOUR_SPACE, _UNCALIBRATED = 0xA001, 0xFFFF
_DATE = re.compile(r"\s*(\d{4})\D(\d\d?)\D(\d\d?)\D+(\d\d?)\D(\d\d?)\D(\d\d?)")


def tags_of(opened: Image.Image) -> dict[int, Any]:
    """The tags that can be read; those of a part, such as the position, are a dict.

    Broken EXIF is common and never a reason to refuse a photo: when Pillow raises, only the tag it
    was reading is lost.
    """
    tags: dict[int, Any] = {}
    with suppress(Exception):
        exif = opened.getexif()
        with suppress(Exception):
            tags.update(exif.get_ifd(_EXIF_PART))
        for tag in _IN_MAIN:
            with suppress(Exception):
                tags[tag] = exif[tag]
        with suppress(Exception):
            tags[_GPS_PART] = exif.get_ifd(_GPS_PART)
        if tags.get(_COLOUR_SPACE) == _UNCALIBRATED:
            with suppress(Exception):
                tags[_INTEROP_PART] = exif.get_ifd(_INTEROP_PART)
    return tags


def taken_at(tags: Mapping[int, Any]) -> datetime | None:
    """When the photo was taken, by the camera's clock: a local time without a zone."""
    for tag in (_TAKEN, _DIGITISED, _CHANGED):
        if found := time_of(_clean_text(tags.get(tag))):
            return found
    return None


def time_of(text: str) -> datetime | None:
    """The time of "2019:07:04 12:34:56", with any separators; None if it is not one."""
    if date := _DATE.match(text):
        with suppress(ValueError):  # cameras without a clock write 0000:00:00 00:00:00
            return datetime(*map(int, date.groups()))  # type: ignore[arg-type]  # noqa: DTZ001
    return None


def camera(tags: Mapping[int, Any]) -> str | None:
    """Make and model, the make not repeated."""
    return camera_name(tags.get(_MAKE), tags.get(_MODEL))


def camera_name(make: Any, model: Any) -> str | None:
    """Make and model as one name, the make not repeated; None if neither is text."""
    make, model = _clean_text(make), _clean_text(model)
    # "Canon" + "Canon EOS 5D", "NIKON CORPORATION" + "NIKON D90"
    repeated = make and model and make.split()[0].lower() == model.split()[0].lower()
    return (model if repeated else f"{make} {model}".strip()) or None


def is_adobe_rgb(tags: Mapping[int, Any]) -> bool:
    """Whether the colours are Adobe RGB, as cameras state it without a profile (DCF 2.0)."""
    interoperability = tags.get(_INTEROP_PART, {}).get(1)
    return tags.get(_COLOUR_SPACE) == 2 or _clean_text(interoperability) == "R03"


def position(tags: Mapping[int, Any]) -> tuple[float, float] | tuple[None, None]:
    """(latitude, longitude) in degrees, north and east positive; both or neither."""
    gps = tags.get(_GPS_PART, {})
    latitude = degrees(gps.get(2), gps.get(1), "NS", 90)
    longitude = degrees(gps.get(4), gps.get(3), "EW", 180)
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None, None  # 0, 0 lies at sea; receivers write it before their first fix
    return latitude, longitude


def degrees(parts: Any, reference: Any, signs: str, limit: float) -> float | None:
    """Degrees, minutes, seconds with N, S, E or W, in decimal degrees."""
    try:
        numbers = [float(part) for part in (parts if isinstance(parts, tuple) else (parts,))]
    except (TypeError, ValueError, ArithmeticError):
        return None
    degrees = sum(number / 60.0**power for power, number in enumerate(numbers[:3]))
    side = _clean_text(reference)[:1].upper()
    valid = side and side in signs and min(numbers, default=-1) >= 0 and degrees <= limit
    if not valid:  # also for the NaN of a denominator of zero
        return None
    return -degrees if side == signs[1] else degrees


def _clean_text(value: Any) -> str:
    """A tag's text without the NULs and blanks that pad it; "" if it is not text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())
