"""A filter as a SQLAlchemy expression over the catalog's tables.

Whatever a user typed becomes a bound parameter, never a part of the statement.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from operator import ge, gt, le, lt
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Table,
    and_,
    case,
    false,
    func,
    literal,
    or_,
    select,
    true,
    union_all,
)

from mmsearch.filters import (
    KEYS,
    META,
    AnyOf,
    Circle,
    Condition,
    Filter,
    Key,
    MetadataValue,
    Not,
)
from mmsearch.filters.match import EXACT, bounding_box, readings, time_ranges
from mmsearch.filters.values import number_in
from mmsearch.storage.sqlite.schema import (
    PathText,
    items,
    metadata,
    sources,
    tables,
    texts,
    vectors,
)
from mmsearch.storage.sqlite.sql_functions import Expression, contains, matches


def compiled(filter_: Filter, *, few: bool = False) -> Expression:
    """What a row of items must fulfil to pass. It may be NULL, which does not pass.

    Args:
        filter_: The filter.
        few: Whether few items are tried: then tags and metadata are looked up for each of them
            instead of for all items.
    """
    return and_(true(), *(_compiled(one, few=few) for one in filter_.conditions))


def _compiled(one: Condition | AnyOf | Not, *, few: bool) -> Expression:
    if isinstance(one, Not):
        return compiled(one.filter, few=few).is_not(true())
    if isinstance(one, AnyOf):
        return or_(false(), *(compiled(part, few=few) for part in one.filters))
    if one.op == "in" and not one.value:
        return false()
    if one.key.startswith(META):
        return _any_row(metadata, _of_metadata(one), few=few)
    key = KEYS[one.key]
    if key.field is None:
        return _EVALUATORS[one.key](one)
    table = table_of(key)
    found = _compare(key, one)
    return found if table is items else _any_row(table, [found], few=few)


def table_of(key: Key) -> Table:
    """The table that a key's values are stored in."""
    table = key.field.rpartition(".")[0] if isinstance(key.field, str) else ""
    return tables.tables[table] if table else items


def value_of(key: Key) -> ColumnElement[Any]:
    """The stored value of a key that has one."""
    if isinstance(key.field, str):
        return table_of(key).c[key.field.rpartition(".")[2]]
    assert key.field is not None
    expression: ColumnElement[Any] = key.field(items.c)
    return expression


def _any_row(table: Table, ways: Sequence[Expression], *, few: bool) -> Expression:
    """Whether an item has a row of a table that fulfils one of some expressions."""
    if few:
        # CASE keeps SQLite from going through all rows of the key instead of those of the item
        passes = case((or_(*ways), 1), else_=0) == 1
        return select(table.c.item_id).where(table.c.item_id == items.c.id, passes).exists()
    # joined by OR in one statement, SQLite would look through all rows of the key
    return items.c.id.in_(union_all(*(select(table.c.item_id).where(way) for way in ways)))


# ---------------------------------------------------------------------- stored values


def _compare(key: Key, one: Condition) -> Expression:
    value = value_of(key)
    if one.op == "exists":
        return value.is_not(None)
    if key.type.encode is not None:
        return _of_time(value, key.type.encode, one)
    if one.op in _ORDER:
        return _ordered(value, one.op, one.value)
    return _of_text([value], one, path=key.type.compared_as == "path")


_ORDER = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


def _ordered(number: ColumnElement[Any], op: str, value: Any) -> Expression:
    found: Expression = _ORDER[op](number, value)
    return found


def _of_text(
    spellings: Sequence[ColumnElement[Any]], one: Condition, *, path: bool = False
) -> Expression:
    """A text that has several spellings, the longest of them first."""
    if one.op == "contains":
        return contains(spellings[0], one.value)
    if one.op == "glob":
        patterns = readings(one.value) if path else (one.value,)
        return or_(*(matches(text, *patterns) for text in spellings))
    return or_(*(text.in_(one.value) for text in spellings))


def _of_time(column: ColumnElement[Any], encode: Callable[..., Any], one: Condition) -> Expression:
    def within(start: Any, end: Any) -> Expression:
        bounds = [("gte", start), ("lt", end)]
        compared = [_ordered(column, op, bound) for op, bound in bounds if bound is not None]
        return and_(*compared) if compared else column.is_not(None)

    return or_(false(), *(within(*range_) for range_ in time_ranges(one, encode)))


# ---------------------------------------------------------------------- paths


_c = items.c
_SLASH = literal(os.sep, PathText())
_SOURCE = select(sources.c.path).where(sources.c.id == _c.source_id).scalar_subquery()
_BELOW_SOURCE = case(  # "/" for "/"; nothing before paths that were imported
    (_SOURCE == "", literal("", PathText())),
    else_=func.rtrim(_SOURCE, os.sep, type_=PathText()).concat(_SLASH),
)
_RELATIVE = case((_c.folder == "", _c.name), else_=_c.folder.concat(_SLASH).concat(_c.name))
_ABSOLUTE = _BELOW_SOURCE.concat(_RELATIVE)
_FOLDER = case((_c.folder == "", _SOURCE), else_=_BELOW_SOURCE.concat(_c.folder))


def _of_path(one: Condition) -> Expression:
    if one.op == "glob":
        return _at(one.value)
    return _of_text([_ABSOLUTE, _RELATIVE], one)


def _at(pattern: str) -> Expression:
    """The files that a pattern matches, and those below a folder that it matches.

    A pattern without a slash is compared with the names of the file and of its folders; one with a
    slash with the path below the source and the absolute one.
    """
    plain = pattern.removeprefix("./").rstrip("/")
    patterns = readings(plain)
    if "/" not in plain and not pattern.startswith("/"):
        below = _SLASH.concat(_RELATIVE)
        folders = [f"*/{one}/*" for one in patterns]
        return or_(matches(_c.name, *patterns), matches(below, *folders))
    if plain[:1] in ("", "/", "*"):  # the absolute path alone: its star covers the relative one
        return matches(_ABSOLUTE, *patterns, below=True)
    relative = matches(_RELATIVE, *patterns, below=True)
    if plain[0] in "?[":
        return or_(relative, matches(_ABSOLUTE, *patterns, below=True))
    return relative


def _of_folder(one: Condition) -> Expression:
    return _of_text([_FOLDER, _c.folder], one, path=True)


# ---------------------------------------------------------------------- other evaluators


def _of_date(one: Condition) -> Expression:
    """When it was taken, else when it was modified."""
    taken, modified = (_compare(KEYS[name], one) for name in ("taken", "modified"))
    return case((_c.taken_at.is_not(None), taken), else_=modified)


_HAS_POSITION = and_(_c.latitude.is_not(None), _c.longitude.is_not(None))


def _of_near(one: Condition) -> Expression:
    circle: Circle = one.value
    (low, high), longitudes = bounding_box(circle)
    distance = func.mmsearch_kilometres(
        _c.latitude, _c.longitude, literal(circle.latitude), literal(circle.longitude)
    )
    return and_(
        _HAS_POSITION,
        _c.latitude.between(low, high),
        or_(*(_c.longitude.between(west, east) for west, east in longitudes)),
        _ordered(distance, "lte", circle.kilometres),
    )


def _has_texts(*origins: str) -> Expression:
    chosen = select(texts.c.item_id).where(texts.c.origin.in_(origins))
    return chosen.where(texts.c.item_id == _c.id).exists()


def _has_sound() -> Expression:
    """Sounds, and videos whose sound is indexed or whose speech is transcribed."""
    c = vectors.c
    heard = select(c.id).where(c.item_id == _c.id, c.modality == "audio").exists()
    video = and_(_c.kind == "video", or_(heard, _has_texts("speech")))
    return or_(_c.kind == "audio", video)


_PROPERTIES: dict[str, Callable[[], Expression]] = {
    "caption": lambda: _has_texts("caption", "sidecar"),
    "gps": lambda: _HAS_POSITION,
    "text": lambda: _has_texts("passage", "page", "ocr", "speech"),
    "sound": _has_sound,
}


def _of_has(one: Condition) -> Expression:
    return or_(*(_PROPERTIES[what]() for what in dict.fromkeys(one.value)))


_EVALUATORS: dict[str, Callable[[Condition], Expression]] = {
    "path": _of_path,
    "folder": _of_folder,
    "date": _of_date,
    "near": _of_near,
    "has": _of_has,
}
"""Keys that are no stored value."""


# ---------------------------------------------------------------------- the user's own metadata


def _of_metadata(one: Condition) -> list[Expression]:
    is_key = metadata.c.key == one.key.removeprefix(META)
    return [and_(is_key, way) for way in _ways_of_value(one)]


def _ways_of_value(one: Condition) -> list[Expression]:
    c = metadata.c
    if one.op == "exists":
        return [true()]
    if one.op == "in":
        return _equal_to_any(one.value)
    if one.op in ("contains", "glob"):
        return [_of_text([c.text], one)]
    value: MetadataValue = one.value
    if value.number is not None:
        return [_ordered(c.number, one.op, value.number)]
    compared = _ordered(c.text, one.op, value.texts[0])
    # the index has what is no number in order of its texts
    return [and_(c.number.is_(None), compared), and_(c.number.is_not(None), compared)]


def _equal_to_any(values: tuple[MetadataValue, ...]) -> list[Expression]:
    """Written so, or the same number; integers that no float tells apart must be written so."""
    c = metadata.c
    numbers = [value.number for value in values if value.number is not None]
    small = {number for number in numbers if abs(number) < EXACT}
    read = {text: number_in(text) for value in values for text in value.texts}
    words = [text for text, number in read.items() if number is None]
    large = {text: number for text, number in read.items() if number not in {None, *small}}
    ways = [
        (words, and_(c.number.is_(None), c.text.in_(words))),
        (large, and_(c.number.in_(list(large.values())), c.text.in_(list(large)))),
        (small, c.number.in_(small)),
    ]
    return [way for some, way in ways if some]
