"""A filter as a SQLAlchemy expression over the catalog's tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
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

from mmsearch.filters import META, AnyOf, Condition, Filter, Near, Not, Period, Said
from mmsearch.filters.match import box
from mmsearch.filters.values import number_in
from mmsearch.storage.sqlite.schema import (
    PathText,
    attributes,
    items,
    sources,
    tags,
    texts,
    vectors,
)
from mmsearch.storage.sqlite.sql_functions import Expression, contains, matches

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64 = -(2**63), 2**63 - 1
EXACT = 2.0**53
"""Up to here two integers never make the same float."""

# ---------------------------------------------------------------------- filters


def compiled(filter_: Filter, *, few: bool = False) -> Expression:
    """What a row of items must hold to pass; SQLite may make it NULL, which is not passing.

    Args:
        filter_: What is asked.
        few: Whether few items are asked: then tags and metadata are looked up for each of them, and
            not for all items that there are.
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
        return _of_rows(attributes, _metadata(one), few=few)
    if one.key == "tag":
        return _of_rows(tags, [_tagged(one)], few=few)
    return _OF_KEY[one.key](one)


def _of_rows(table: Table, ways: Sequence[Expression], *, few: bool) -> Expression:
    """Whether an item has a row of a table that is as wanted, in one of some ways."""
    if few:
        # CASE keeps SQLite from going through all rows of the key, in place of those of the item
        passes = case((or_(*ways), 1), else_=0) == 1
        return select(table.c.item_id).where(table.c.item_id == items.c.id, passes).exists()
    # in one statement with OR, SQLite would look through all rows of the key
    return items.c.id.in_(union_all(*(select(table.c.item_id).where(way) for way in ways)))


# ---------------------------------------------------------------------- names


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
    return _of_names(one, _ABSOLUTE, _RELATIVE)


def _at(pattern: str) -> Expression:
    """Files that a pattern matches, and those below a folder that it matches.

    A pattern without a slash is looked for among the names of the file and of its folders; one
    with a slash is matched against the path below the source and the absolute one.
    """
    plain = pattern.removeprefix("./").rstrip("/")
    if "/" not in plain and not pattern.startswith("/"):
        below = _SLASH.concat(_RELATIVE)
        return or_(matches(items.c.name, plain), matches(below, f"*/{plain}/*"))
    if plain[:1] in ("", "/", "*"):  # what a star first matches below the source, it matches whole
        return matches(_ABSOLUTE, plain, below=True)
    relative = matches(_RELATIVE, plain, below=True)
    return or_(relative, matches(_ABSOLUTE, plain, below=True)) if plain[0] in "?[" else relative


def _of_names(one: Condition, *names: ColumnElement[str]) -> Expression:
    """A name that has several spellings, the longest of them first."""
    if one.op == "contains":
        return contains(names[0], one.value)
    if one.op == "glob":
        return or_(*(matches(name, one.value) for name in names))
    return or_(*(name.in_(one.value) for name in names))


# ---------------------------------------------------------------------- texts


def _of_camera(one: Condition) -> Expression:
    camera = items.c.camera
    return camera.is_not(None) if one.op == "exists" else _of_names(one, camera)


def _tagged(one: Condition) -> Expression:
    return true() if one.op == "exists" else _of_names(one, tags.c.tag)


def _of_modality(one: Condition) -> Expression:
    return items.c.modality.in_(one.value)


# ---------------------------------------------------------------------- numbers and dates


_COMPARE = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


def _ordered(number: ColumnElement[Any], op: str, value: Any) -> Expression:
    found: Expression = _COMPARE[op](number, value)
    return found


def _of_number(number: ColumnElement[Any]) -> Callable[[Condition], Expression]:
    def of_number(one: Condition) -> Expression:
        if one.op == "exists":
            return number.is_not(None)
        if one.op == "in":
            return number.in_(one.value)
        return _ordered(number, one.op, one.value)

    return of_number


Stretch = tuple[Any, Any]
"""From when on, and before when; None where there is no such bound."""


def stretches(one: Condition, write: Callable[[datetime], Any]) -> list[Stretch]:
    """When something must have been to fulfil a condition: within one of these.

    Args:
        one: A condition on a time.
        write: How moments are written where they are compared.
    """
    if one.op == "exists":
        return [(None, None)]
    if one.op == "in":
        return [(write(period.start), _end(period, write)) for period in one.value]
    start, end = write(one.value.start), _end(one.value, write)
    if one.op == "gt":  # nothing comes after the end of the calendar
        return [] if end is None else [(end, None)]
    return [{"gte": (start, None), "lt": (None, start), "lte": (None, end)}[one.op]]


def _end(period: Period, write: Callable[[datetime], Any]) -> Any:
    return None if period.end is None else write(period.end)


def _of_time(
    column: ColumnElement[Any], write: Callable[[datetime], Any]
) -> Callable[[Condition], Expression]:
    def of_time(one: Condition) -> Expression:
        return or_(false(), *(within(*stretch) for stretch in stretches(one, write)))

    def within(start: Any, end: Any) -> Expression:
        ends = (("gte", start), ("lt", end))
        bounds = [_ordered(column, op, at) for op, at in ends if at is not None]
        return and_(*bounds) if bounds else column.is_not(None)

    return of_time


def nanoseconds(moment: datetime) -> int:
    """Since 1970, of a moment in UTC; of one that 64 bits do not hold, as many as they do."""
    since = moment.replace(tzinfo=UTC) - _EPOCH
    low, high = _INT64
    return max(low, min(since // timedelta(microseconds=1) * 1000, high))


_of_taken = _of_time(items.c.taken_at, datetime.isoformat)
_of_modified = _of_time(items.c.mtime_ns, nanoseconds)


def _of_date(one: Condition) -> Expression:
    """When it was taken, else when it was modified."""
    there = items.c.taken_at.is_not(None)
    return case((there, _of_taken(one)), else_=_of_modified(one))


# ---------------------------------------------------------------------- what it has, where it is


_PLACED = and_(items.c.latitude.is_not(None), items.c.longitude.is_not(None))


def _of_near(one: Condition) -> Expression:
    near: Near = one.value
    (low, high), stretches = box(near)
    c = items.c
    distance = func.mmsearch_kilometres(
        c.latitude, c.longitude, literal(near.latitude), literal(near.longitude)
    )
    return and_(
        _PLACED,
        c.latitude.between(low, high),
        or_(*(c.longitude.between(west, east) for west, east in stretches)),
        _ordered(distance, "lte", near.kilometres),
    )


def _texts_of(*origins: str) -> Expression:
    chosen = select(texts.c.item_id).where(texts.c.origin.in_(origins))
    return chosen.where(texts.c.item_id == items.c.id).exists()


def _sounding() -> Expression:
    """Sounds, and videos of which sound is indexed or speech is written down."""
    c = vectors.c
    heard = select(c.id).where(c.item_id == items.c.id, c.facet == "audio").exists()
    video = and_(items.c.modality == "video", or_(heard, _texts_of("speech")))
    return or_(items.c.modality == "audio", video)


def _of_has(one: Condition) -> Expression:
    kinds = {
        "caption": lambda: _texts_of("caption", "sidecar"),
        "gps": lambda: _PLACED,
        "text": lambda: _texts_of("passage", "page", "ocr", "speech"),
        "sound": _sounding,
    }
    return or_(false(), *(kinds[what]() for what in dict.fromkeys(one.value)))


# ---------------------------------------------------------------------- the user's own metadata


def _metadata(one: Condition) -> list[Expression]:
    return [and_(attributes.c.key == one.key.removeprefix(META), way) for way in _valued(one)]


def _valued(one: Condition) -> list[Expression]:
    c = attributes.c
    if one.op == "exists":
        return [true()]
    if one.op == "in":
        return _is_said(one.value)
    if one.op in ("contains", "glob"):
        return [_of_names(one, c.text)]
    said: Said = one.value
    if said.number is not None:
        return [_ordered(c.number, one.op, said.number)]
    compared = _ordered(c.text, one.op, said.texts[0])
    # the index has what is no number in order of its texts
    return [and_(c.number.is_(None), compared), and_(c.number.is_not(None), compared)]


def _is_said(values: tuple[Said, ...]) -> list[Expression]:
    """Written so, or the same number; integers that no float tells apart must be written so."""
    c = attributes.c
    numbers = [said.number for said in values if said.number is not None]
    small = {number for number in numbers if abs(number) < EXACT}
    read = {text: number_in(text) for said in values for text in said.texts}
    words = [text for text, number in read.items() if number is None]
    large = {text: number for text, number in read.items() if number not in {None, *small}}
    ways = [
        (words, and_(c.number.is_(None), c.text.in_(words))),
        (large, and_(c.number.in_(list(large.values())), c.text.in_(list(large)))),
        (small, c.number.in_(small)),
    ]
    return [way for some, way in ways if some]


# ---------------------------------------------------------------------- tables of the above


_OF_KEY: dict[str, Callable[[Condition], Expression]] = {
    "path": _of_path,
    "name": lambda one: _of_names(one, _c.name),
    "folder": lambda one: _of_names(one, _FOLDER, _c.folder),
    "modality": _of_modality,
    "size": _of_number(_c.size),
    "modified": _of_modified,
    "taken": _of_taken,
    "date": _of_date,
    "camera": _of_camera,
    "width": _of_number(_c.width),
    "height": _of_number(_c.height),
    "megapixels": _of_number(_c.width * _c.height / literal(1e6)),
    "latitude": _of_number(_c.latitude),
    "longitude": _of_number(_c.longitude),
    "near": _of_near,
    "seconds": _of_number(_c.seconds),
    "pages": _of_number(_c.pages),
    "has": _of_has,
}
