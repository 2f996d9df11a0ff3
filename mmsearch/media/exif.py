"""Time, camera and place of a photo, from its EXIF; tags that cannot be read count as missing."""

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
        for tag in (_MAKE, _MODEL, ORIENTATION, _CHANGED):
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
        date = _DATE.match(_clean_text(tags.get(tag)))
        if date:
            with suppress(ValueError):  # cameras without a clock write 0000:00:00 00:00:00
                return datetime(*map(int, date.groups()))  # type: ignore[arg-type]  # noqa: DTZ001
    return None


def camera(tags: Mapping[int, Any]) -> str | None:
    """Make and model, the make not repeated."""
    return camera_name(tags.get(_MAKE), tags.get(_MODEL))


def camera_name(make: Any, model: Any) -> str | None:
    """A make and a model as one name; what is no text counts as missing."""
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
    latitude = _degrees(gps.get(2), gps.get(1), "NS", 90)
    longitude = _degrees(gps.get(4), gps.get(3), "EW", 180)
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None, None  # 0, 0 lies at sea; receivers write it before their first fix
    return latitude, longitude


def _degrees(parts: Any, reference: Any, signs: str, limit: float) -> float | None:
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
