"""What filters compare, in the SQL of PostgreSQL: the `Functions` of its `Dialect` of conditions.

Texts are compared by code points (COLLATE "C"). Case is folded by a function in the index's schema,
as Python folds it: by PostgreSQL's own `casefold` from 18 on, else by Python's table of it.
"""

from __future__ import annotations

import json
import re
import sys

from sqlalchemy import ColumnElement, Connection, func, literal, or_

from mmsearch.filters import Circle
from mmsearch.filters.match import EARTH, folded
from mmsearch.storage.sql.conditions import Expression
from mmsearch.storage.sql.types import TEXT, stored_text
from mmsearch.storage.stored_text import LAST_PLAIN, SURROGATES

FOLDERS_ONCE = False
"""PostgreSQL compares a million paths in the time that it takes to find their folders."""

LOOKS_UP_VALUES = False
"""PostgreSQL knows that an item has few rows."""

_NOT_IN_LIKE = re.compile(r"\[|\*\*/")
"""Classes, and any number of folders."""


def matches(text: ColumnElement[str], *patterns: str, below: bool = False) -> Expression:
    """Whether a text matches one of some shell patterns, or with `below`, a folder of it does."""
    if below:  # a text that matches also does so with a slash at its end
        text, patterns = text.concat(literal("/", TEXT)), tuple(f"{one}/*" for one in patterns)
    return or_(*(_matches(text, pattern) for pattern in patterns))


def _matches(text: ColumnElement[str], pattern: str) -> Expression:
    if _NOT_IN_LIKE.search(pattern):
        found: Expression = text.op("~", is_comparison=True)(literal(regex(pattern), TEXT))
        return found
    escaped = re.sub(r"([\\%_])", r"\\\1", pattern).replace("*", "%").replace("?", "_")
    return text.like(literal(escaped, TEXT))


def contains(text: ColumnElement[str], part: str) -> Expression:
    """Whether a text contains a part, whatever the case of either."""
    found: Expression = func.strpos(func.mmsearch_folded(text), literal(folded(part), TEXT)) > 0
    return found


def kilometres(
    latitude: ColumnElement[float], longitude: ColumnElement[float], circle: Circle
) -> ColumnElement[float]:
    """How far a place is from the centre of a circle, as `match.kilometres` computes it."""
    here, there = func.radians(latitude), func.radians(literal(circle.latitude))
    across = func.sin(func.radians(literal(circle.longitude) - longitude) / 2)
    along = func.sin((there - here) / 2)
    half = along * along + func.cos(here) * func.cos(there) * across * across
    distance: ColumnElement[float] = 2 * EARTH * func.asin(func.sqrt(func.least(1.0, half)))
    return distance


# ---------------------------------------------------------------------- patterns


def regex(pattern: str) -> str:
    """A shell pattern, as `match.matcher` has it, as a regular expression of PostgreSQL's."""
    parts = re.split(r"(?:(?<=/)|^)\*\*/", pattern)
    return f"***:^(?:{'(?:.*/)?'.join(map(_regex, parts))})$"


_PIECE = re.compile(r"\[(?:(!)|(?!!))(\][^\]]*|[^\]]+)\]|(.)", re.DOTALL)
"""A class, or one character."""


def _regex(pattern: str) -> str:
    def piece(match: re.Match[str]) -> str:
        if (one := match[3]) is not None:
            return {"*": ".*", "?": "."}.get(one) or f"\\U{ord(stored_text(one)[-1]):08x}"
        return _class(match[2], inverted=bool(match[1]))

    return _PIECE.sub(piece, pattern)


def _class(body: str, *, inverted: bool) -> str:
    ranges = []
    at = 0
    while at < len(body):  # as `fnmatch` reads it
        is_range = body[at + 1 : at + 2] == "-" and at + 2 < len(body)
        low, high = body[at], body[at + 2 if is_range else at]
        ranges += _stored_ranges(ord(low), ord(high))
        at += 3 if is_range else 1
    if not ranges:
        return "." if inverted else "(?!)"
    listed = "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)
    return f"[{'^' if inverted else ''}{listed}]"


def _stored_ranges(low: int, high: int) -> list[tuple[int, int]]:
    """A range of Python's characters as ranges of those that are stored; it may be empty."""
    first, last = SURROGATES
    shift = ord(stored_text(chr(first))) - first
    pieces = [
        (low, min(high, first - 1)),
        (max(low, first) + shift, min(high, last) + shift),
        (max(low, last + 1), min(high, LAST_PLAIN)),
    ]
    return [piece for piece in pieces if piece[0] <= piece[1]]


# ---------------------------------------------------------------------- functions in the schema

_CASEFOLD = 18_00_00
"""The version of PostgreSQL that has `casefold`."""


def create_functions(connection: Connection) -> None:
    """Make the functions that filters call, in the schema of an index."""
    info = connection.connection.driver_connection.info  # type: ignore[union-attr]
    by_case = 'casefold(written COLLATE "pg_unicode_fast")'
    if info.server_version < _CASEFOLD:
        codes = (*range(SURROGATES[0]), *range(SURROGATES[1] + 1, sys.maxunicode + 1))
        table = {one: one.casefold() for one in map(chr, codes) if one.casefold() != one}
        quoted = json.dumps(table, ensure_ascii=False).replace("'", "''")
        letters = "unnest(string_to_array(written, NULL)) WITH ORDINALITY AS each(letter, place)"
        folds = f"coalesce('{quoted}'::jsonb ->> letter, letter)"
        by_case = f"(SELECT string_agg({folds}, '' ORDER BY place) FROM {letters})"  # noqa: S608
    create = (
        "CREATE OR REPLACE FUNCTION mmsearch_folded(written text) RETURNS text"
        " LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN CASE"
        ' WHEN octet_length(written) = length(written) THEN lower(written COLLATE "C")'
        f' ELSE normalize({by_case}, NFC) COLLATE "C" END'
    )
    connection.exec_driver_sql(create.replace("%", "%%"))
