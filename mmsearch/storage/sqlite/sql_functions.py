"""Texts that match a pattern or have a part, told by SQLite where it and Python agree.

GLOB compares bytes where a pattern is ASCII and stars: that is right for any name. With other
characters or `?`, it and LIKE are right for texts of printable ASCII. For the rest SQLite asks the
functions of Python that it is lent, which know letters of either case, classes in brackets, and
names that are not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, LargeBinary, case, cast, func, literal

from mmsearch.filters import Near
from mmsearch.filters.match import folded, kilometres, matcher
from mmsearch.storage.sqlite.schema import PathText

Expression = ColumnElement[bool]

_LENT = "mmsearch functions"

_UNSURE = re.compile(r"\?|\[|\*\*/|[^ -~]")
"""What SQLite's GLOB may take for other characters in names that are not UTF-8, or has not."""

_PYTHONS = re.compile(r"\[|\*\*/")
"""What GLOB has not: classes as Python has them, and any number of folders."""


def _is_plain(text: ColumnElement[str]) -> Expression:
    """Whether a text has printable ASCII alone: of that SQLite and Python think the same."""
    return text.op("NOT GLOB", is_comparison=True)("*[^ -~]*")


def _bytes(text: str) -> ColumnElement[bytes]:
    return literal(text.encode("utf-8", "surrogateescape"), LargeBinary)


def matches(text: ColumnElement[str], pattern: str, *, below: bool = False) -> Expression:
    """Whether a text matches a shell pattern; with `below`, or begins with a folder that does."""
    quick = _glob(text, pattern)
    if below:  # what it matches wholly, it matches with a slash behind too
        quick = _glob(text.concat(literal("/", PathText())), f"{pattern}/*")
    if not _UNSURE.search(pattern):
        return quick
    asked = func.mmsearch_matches(cast(text, LargeBinary), _bytes(pattern), literal(int(below)))
    exactly: Expression = asked == 1
    if _PYTHONS.search(pattern):
        return exactly
    return case((_is_plain(text), quick), else_=exactly)


def _glob(text: ColumnElement[str], pattern: str) -> Expression:
    return text.op("GLOB", is_comparison=True)(literal(pattern, PathText()))


def contains(text: ColumnElement[str], part: str) -> Expression:
    """Whether a text has a part, whatever the case of either."""
    wanted = folded(part)
    quick = text.like(literal(f"%{_escaped(wanted)}%", PathText()), escape="\\")
    exactly = func.mmsearch_contains(cast(text, LargeBinary), _bytes(wanted)) == 1
    return case((_is_plain(text), quick), else_=exactly)


def _escaped(part: str) -> str:
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def lend_functions(connection: Connection) -> None:
    """Have SQLite ask Python where it is not itself to be trusted."""
    if _LENT in connection.info:  # while a statement runs, none may be lent again
        return
    driver: Any = connection.connection.dbapi_connection
    for name, number, function in (
        ("mmsearch_matches", 3, _lent_matches),
        ("mmsearch_contains", 2, _lent_contains),
        ("mmsearch_kilometres", 4, _lent_kilometres),
    ):
        driver.create_function(name, number, function, deterministic=True)
    connection.info[_LENT] = True


def _lent_matches(text: bytes | None, pattern: bytes, below: int) -> bool | None:
    if text is None:
        return None
    return _matcher(pattern, below)(text.decode("utf-8", "surrogateescape")) is not None


@lru_cache(maxsize=256)
def _matcher(pattern: bytes, below: int) -> Callable[[str], object]:
    return matcher(pattern.decode("utf-8", "surrogateescape"), below=bool(below))


def _lent_contains(text: bytes | None, part: bytes) -> bool | None:
    if text is None:
        return None
    wanted = part.decode("utf-8", "surrogateescape")
    return wanted in folded(text.decode("utf-8", "surrogateescape"))


def _lent_kilometres(
    latitude: float | None, longitude: float | None, here: float, there: float
) -> float | None:
    if latitude is None or longitude is None:
        return None
    return kilometres(latitude, longitude, Near(here, there, 0.0))
