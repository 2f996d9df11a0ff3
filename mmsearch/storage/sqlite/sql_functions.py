"""Texts that match a pattern or contain a part, compared by SQLite where it agrees with Python.

They are the `Functions` of SQLite's `Dialect` of conditions.

GLOB compares bytes where a pattern has ASCII letters and stars only: that is right for any name.
With other characters or `?`, GLOB and LIKE are right for texts of printable ASCII. For the rest,
SQLite calls functions of Python, which know the case of all letters, classes in brackets, and names
that are not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, LargeBinary, case, cast, func, literal

from mmsearch.filters import Circle, match
from mmsearch.filters.match import folded, matcher
from mmsearch.storage.sql.conditions import Expression
from mmsearch.storage.sql.types import PATH

FOLDERS_ONCE = True
"""To compare a folder once, and not once for each item in it, is quicker."""

LOOKS_UP_VALUES = True
"""SQLite prefers the index of a key and value, whatever is known of the item."""

_REGISTERED = "mmsearch functions"

_UNSURE = re.compile(r"\?|\[|\*\*/|[^ -~]")
"""What GLOB lacks, or may take for other characters in names that are not UTF-8."""

_NOT_IN_GLOB = re.compile(r"\[|\*\*/")
"""What GLOB lacks: classes as Python has them, and any number of folders."""


def _is_plain(text: ColumnElement[str]) -> Expression:
    """Whether a text is printable ASCII, which SQLite and Python compare alike."""
    return text.op("NOT GLOB", is_comparison=True)("*[^ -~]*")


def _bytes(text: str) -> ColumnElement[bytes]:
    return literal(text.encode("utf-8", "surrogateescape"), LargeBinary)


def matches(text: ColumnElement[str], *patterns: str, below: bool = False) -> Expression:
    """Whether a text matches one of some shell patterns, or with `below`, a folder of it does."""
    joined = _bytes("\0".join(patterns))  # no text and no name has a NUL
    by_python = func.mmsearch_matches(cast(text, LargeBinary), joined, literal(int(below)))
    exactly: Expression = by_python == 1
    if len(patterns) > 1 or _NOT_IN_GLOB.search(patterns[0]):
        return exactly
    quick = _glob(text, patterns[0])
    if below:  # a text that matches also does so with a slash at its end
        quick = _glob(text.concat(literal("/", PATH)), f"{patterns[0]}/*")
    if not _UNSURE.search(patterns[0]):
        return quick
    return case((_is_plain(text), quick), else_=exactly)


def _glob(text: ColumnElement[str], pattern: str) -> Expression:
    return text.op("GLOB", is_comparison=True)(literal(pattern, PATH))


def contains(text: ColumnElement[str], part: str) -> Expression:
    """Whether a text contains a part, whatever the case of either."""
    wanted = folded(part)
    escaped = re.sub(r"([\\%_])", r"\\\1", wanted)
    quick = text.like(literal(f"%{escaped}%", PATH), escape="\\")
    exactly = func.mmsearch_contains(cast(text, LargeBinary), _bytes(wanted)) == 1
    return case((_is_plain(text), quick), else_=exactly)


def kilometres(
    latitude: ColumnElement[float], longitude: ColumnElement[float], circle: Circle
) -> ColumnElement[float]:
    """How far a place is from the centre of a circle."""
    centre = literal(circle.latitude), literal(circle.longitude)
    distance: ColumnElement[float] = func.mmsearch_kilometres(latitude, longitude, *centre)
    return distance


def register_functions(connection: Connection) -> None:
    """Let statements of a connection call the functions of Python."""
    if _REGISTERED in connection.info:  # while a statement runs, none may be registered again
        return
    driver: Any = connection.connection.dbapi_connection
    for name, arguments, function in (
        ("mmsearch_matches", 3, _matches),
        ("mmsearch_contains", 2, _contains),
        ("mmsearch_kilometres", 4, _kilometres),
    ):
        driver.create_function(name, arguments, function, deterministic=True)
    connection.info[_REGISTERED] = True


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _matches(text: bytes | None, patterns: bytes, below: int) -> bool | None:
    return None if text is None else _matcher(patterns, below)(_decoded(text)) is not None


@lru_cache(maxsize=256)
def _matcher(patterns: bytes, below: int) -> Callable[[str], object]:
    return matcher(*_decoded(patterns).split("\0"), below=bool(below))


def _contains(text: bytes | None, part: bytes) -> bool | None:
    return None if text is None else _decoded(part) in folded(_decoded(text))


def _kilometres(
    latitude: float | None, longitude: float | None, here: float, there: float
) -> float | None:
    if latitude is None or longitude is None:
        return None
    return match.kilometres(latitude, longitude, Circle(here, there, 0.0))
