"""What SQLite is not asked, or not trusted with: patterns, letters of either case, distances.

Plain functions, which the catalog lends to SQLite, and which say what its own answers must be.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fnmatch import translate
from math import asin, cos, degrees, radians, sin, sqrt

from mmsearch.filters.model import Near

EARTH = 6371.0088
"""Mean radius in kilometres (IUGG, GRS 80)."""


def matcher(pattern: str, *, below: bool = False) -> Callable[[str], object]:
    """Whether a text matches a shell pattern, wholly; case counts, and `*` takes in slashes.

    Args:
        pattern: As `fnmatch` has them; `**/` also stands for no folder at all.
        below: Whether what lies below a folder that matches does too.
    """
    parts = re.split(r"(?:(?<=/)|^)\*\*/", pattern)
    bodies = [re.sub(r"\\[Zz]$", "", translate(part)) for part in parts]
    tail = "(?:/.*)?" if below else ""
    return re.compile(f"(?s:{'(?:.*/)?'.join(bodies)}{tail})").fullmatch


def folded(text: str) -> str:
    """A text as it is compared when neither case nor the composition of accents counts."""
    return unicodedata.normalize("NFC", text.casefold())


def kilometres(latitude: float, longitude: float, near: Near) -> float:
    """The great-circle distance from a point to the middle of a circle, by the haversine.

    Source: Sinnott, "Virtues of the Haversine", Sky & Telescope 68 (1984).
    """
    here, there = radians(latitude), radians(near.latitude)
    half = sin((there - here) / 2) ** 2
    half += cos(here) * cos(there) * sin(radians(near.longitude - longitude) / 2) ** 2
    return 2 * EARTH * asin(sqrt(min(1.0, half)))


def box(near: Near) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """(latitudes, one or two stretches of longitudes) outside which no point is that near.

    Degrees, from and to. A circle that holds a pole has all longitudes; one that crosses the
    antimeridian has a stretch on either side.

    Source: Matuschek, "Finding points within a distance of a latitude/longitude" (2010).
    """
    angle = near.kilometres / EARTH * (1 + 1e-9) + 1e-9  # so that rounding loses nothing
    low, high = near.latitude - degrees(angle), near.latitude + degrees(angle)
    if low <= -90 or high >= 90:
        return (max(low, -90.0), min(high, 90.0)), [(-180.0, 180.0)]
    reach = degrees(asin(min(1.0, sin(angle) / cos(radians(near.latitude))))) + 1e-9
    west, east = near.longitude - reach, near.longitude + reach
    if west < -180:
        return (low, high), [(west + 360, 180.0), (-180.0, east)]
    if east > 180:
        return (low, high), [(west, 180.0), (-180.0, east - 360)]
    return (low, high), [(west, east)]
