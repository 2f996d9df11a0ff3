"""A filter as a SQLAlchemy expression over the catalog's tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import ge, gt, le, lt
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    false,
    func,
    literal,
    or_,
    select,
    true,
)

from mmsearch.catalog.lent import Expression, contains, matches
from mmsearch.errors import InvalidFilter
from mmsearch.filters import META, AnyOf, Condition, Filter, Near, Not, Period, Said
from mmsearch.filters.match import box
from mmsearch.schema import PathText, attributes, items, sources, tags, texts, vectors

DEEPEST = 40
"""Filters one in the other: Python and SQLite both have a bound."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64 = -(2**63), 2**63 - 1
_EXACT = 2.0**53  # up to here two integers never make the same float

# ---------------------------------------------------------------------- filters


def compiled(filter_: Filter, levels: int = DEEPEST) -> Expression:
    """What a row of items must hold to pass; SQLite may make it NULL, which is not passing."""
    if not levels:
        raise InvalidFilter(f"a filter is nested {DEEPEST // 2} deep at most")
    return and_(true(), *(_compiled(one, levels - 1) for one in filter_.conditions))


def _compiled(one: Condition | AnyOf | Not, levels: int) -> Expression:
    if isinstance(one, Not):
        return compiled(one.filter, levels).is_not(true())
    if isinstance(one, AnyOf):
        return or_(false(), *(compiled(part, levels) for part in one.filters))
    if one.op == "in" and not one.value:
        return false()
    if one.key.startswith(META):
        return _of_metadata(one)
    return _OF_KEY[one.key](one)


# ---------------------------------------------------------------------- names


_c = items.c
_SLASH = literal(os.sep, PathText())
_SOURCE = select(sources.c.path).where(sources.c.id == _c.source_id).scalar_subquery()
_BELOW_SOURCE = func.rtrim(_SOURCE, os.sep, type_=PathText()).concat(_SLASH)  # "/" for "/"
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


def _of_tag(one: Condition) -> Expression:
    chosen = select(tags.c.item_id)
    if one.op != "exists":
        chosen = chosen.where(_of_names(one, tags.c.tag))
    return items.c.id.in_(chosen)


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


def _of_time(
    column: ColumnElement[Any], write: Callable[[datetime], Any]
) -> Callable[[Condition], Expression]:
    def of_time(one: Condition) -> Expression:
        if one.op == "exists":
            return column.is_not(None)
        if one.op == "in":
            return or_(false(), *(within(period) for period in one.value))
        period: Period = one.value
        if one.op in ("gte", "lt"):
            return _ordered(column, one.op, write(period.start))
        if period.end is None:  # nothing comes after the end of the calendar
            return column.is_not(None) if one.op == "lte" else false()
        return _ordered(column, {"gt": "gte", "lte": "lt"}[one.op], write(period.end))

    def within(period: Period) -> Expression:
        begun = _ordered(column, "gte", write(period.start))
        if period.end is None:
            return begun
        return and_(begun, _ordered(column, "lt", write(period.end)))

    return of_time


def _nanoseconds(moment: datetime) -> int:
    since = moment.replace(tzinfo=UTC) - _EPOCH
    low, high = _INT64
    return max(low, min(since // timedelta(microseconds=1) * 1000, high))


_of_taken = _of_time(items.c.taken_at, datetime.isoformat)
_of_modified = _of_time(items.c.mtime_ns, _nanoseconds)


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


def _of_metadata(one: Condition) -> Expression:
    c = attributes.c
    chosen = select(c.item_id).where(c.key == one.key.removeprefix(META))
    if one.op == "in":
        chosen = chosen.where(_is_said(one.value))
    elif one.op in ("contains", "glob"):
        chosen = chosen.where(_of_names(one, c.text))
    elif one.op != "exists":
        said: Said = one.value
        if said.number is not None:
            chosen = chosen.where(_ordered(c.number, one.op, said.number))
        else:
            chosen = chosen.where(_ordered(c.text, one.op, said.texts[0]))
    return items.c.id.in_(chosen)


def _is_said(values: tuple[Said, ...]) -> Expression:
    """Written so, or the same number; integers that no float tells apart must be written so."""
    c = attributes.c
    words = [text for said in values for text in said.texts]
    numbers = [said.number for said in values if said.number is not None]
    small = [number for number in numbers if abs(number) < _EXACT]
    return or_(c.text.in_(words), c.number.in_(small)) if small else c.text.in_(words)


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
    "tag": _of_tag,
}
