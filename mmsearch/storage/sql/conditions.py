"""A filter as a SQLAlchemy expression over the tables of items, for SQLite and PostgreSQL.

Whatever a user typed becomes a bound parameter, never a part of the statement.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import ge, gt, le, lt
from typing import Any, Protocol

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

from mmsearch.filters import KEYS, META, AnyOf, Circle, Condition, Filter, Key, MetadataValue, Not
from mmsearch.filters.match import EXACT, bounding_box, folded, readings, time_ranges
from mmsearch.filters.values import number_in
from mmsearch.storage.records import IMPORTED_SOURCE, split_path
from mmsearch.storage.sql.schema import items, metadata, sources, tables, texts, vectors
from mmsearch.storage.sql.types import PATH

Expression = ColumnElement[bool]


class Functions(Protocol):
    """What SQLite and PostgreSQL say in different ways."""

    FOLDERS_ONCE: bool
    """Whether to compare a folder once, and not once for each item in it, is quicker."""

    LOOKS_UP_VALUES: bool
    """Whether it would look up all rows of a value though the item is known."""

    def matches(self, text: ColumnElement[str], *patterns: str, below: bool = False) -> Expression:
        """Whether a text matches one of some shell patterns, or with `below`, a folder of it."""

    def contains(self, text: ColumnElement[str], part: str) -> Expression:
        """Whether a text contains a part, whatever the case of either."""

    def kilometres(
        self, latitude: ColumnElement[float], longitude: ColumnElement[float], circle: Circle
    ) -> ColumnElement[float]:
        """How far a place is from the centre of a circle."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How conditions are to be written.

    Attributes:
        functions: Of the engine.
        few: Whether few items are tried: then folders, texts, tags and metadata are looked up for
            each of them instead of for all items.
        item_id: The id of the item that is tested, which suffices for filters that do not compare
            columns of items (see `compares_items`). With `few`, it is of no table that conditions
            look up.
    """

    functions: Functions
    few: bool = False
    item_id: ColumnElement[int] = items.c.id


def compiled(filter_: Filter, to: Dialect) -> Expression:
    """What a row of `items_and_sources` must fulfil to pass; NULL does not pass, either."""
    return and_(true(), *(_compiled(one, to) for one in filter_.conditions))


def _compiled(one: Condition | AnyOf | Not, to: Dialect) -> Expression:
    if isinstance(one, Not):
        return compiled(one.filter, to).is_not(true())
    if isinstance(one, AnyOf):
        return or_(false(), *(compiled(part, to) for part in one.filters))
    if one.op == "in" and not one.value:
        return false()
    if one.key.startswith(META):
        return _any_row(metadata, rows_of_metadata(one, to), to)
    key = KEYS[one.key]
    if key.field is None:
        return _computed(one, to)
    table = table_of(key)
    found = _compare(key, one, to)
    return found if table is items else _any_row(table, [found], to)


def _computed(one: Condition, to: Dialect) -> Expression:
    """A condition on what is no stored value."""
    match one.key:
        case "path":
            return _of_path(one, to)
        case "folder":
            return _in_folder(lambda *spellings: _of_text(spellings, one, to, path=True), to)
        case "date":
            return _of_date(one, to)
        case "near":
            return _of_near(one.value, to)
        case "has":
            return or_(*(_has(what, to) for what in dict.fromkeys(one.value)))
    raise AssertionError(f"no way to evaluate {one.key}")


def compares_items(filter_: Filter) -> bool:
    """Whether a filter compares columns of items or sources; if not, an item's id is enough."""

    def compares(one: Condition | AnyOf | Not) -> bool:
        if isinstance(one, Not):
            return compares_items(one.filter)
        if isinstance(one, AnyOf):
            return any(map(compares_items, one.filters))
        return not one.key.startswith(META) and table_of(KEYS[one.key]) is items

    return any(map(compares, filter_.conditions))


items_and_sources = items.outerjoin(sources)
"""What filters select from; SQLite leaves out sources where a filter has no use for them."""


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


def _any_row(table: Table, ways: Sequence[Expression], to: Dialect) -> Expression:
    """Whether an item has a row of a table that fulfils one of some expressions."""
    if to.few:
        passes = or_(*ways)
        if to.functions.LOOKS_UP_VALUES:
            # CASE keeps SQLite from going through all rows of the key instead of those of the item
            passes = case((passes, 1), else_=0) == 1
        return select(table.c.item_id).where(table.c.item_id == to.item_id, passes).exists()
    # joined by OR in one statement, SQLite would look through all rows of the key
    return to.item_id.in_(union_all(*(select(table.c.item_id).where(way) for way in ways)))


# ---------------------------------------------------------------------- stored values


def _compare(key: Key, one: Condition, to: Dialect) -> Expression:
    value = value_of(key)
    if one.op == "exists":
        return value.is_not(None)
    if key.type.encode is not None:
        return _of_time(value, key.type.encode, one)
    if one.op in _ORDER:
        return _ordered(value, one.op, one.value)
    return _of_text([value], one, to, path=key.type.compared_as == "path")


_ORDER = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


def _ordered(number: ColumnElement[Any], op: str, value: Any) -> Expression:
    found: Expression = _ORDER[op](number, value)
    return found


def _of_text(
    spellings: Sequence[ColumnElement[Any]], one: Condition, to: Dialect, *, path: bool = False
) -> Expression:
    """A text that has several spellings, the longest of them first."""
    if one.op == "contains":
        return to.functions.contains(spellings[0], one.value)
    if one.op == "glob":
        patterns = readings(one.value) if path else (one.value,)
        return or_(*(to.functions.matches(text, *patterns) for text in spellings))
    return or_(*(text.in_(one.value) for text in spellings))


def _of_time(column: ColumnElement[Any], encode: Callable[..., Any], one: Condition) -> Expression:
    def within(start: Any, end: Any) -> Expression:
        bounds = [("gte", start), ("lt", end)]
        compared = [_ordered(column, op, bound) for op, bound in bounds if bound is not None]
        return and_(*compared) if compared else column.is_not(None)

    return or_(false(), *(within(*range_) for range_ in time_ranges(one, encode)))


# ---------------------------------------------------------------------- paths


_c = items.c
_NOTHING, _SLASH = (literal(text, PATH) for text in ("", os.sep))


def _absolute(root: ColumnElement[str], below: ColumnElement[str]) -> ColumnElement[str]:
    """A path below a source: "/" is one; paths that were imported have nothing before them."""
    slashed = func.rtrim(root, os.sep, type_=PATH).concat(_SLASH)
    return case((root == "", _NOTHING), else_=slashed).concat(below)


def _absolute_folder(root: ColumnElement[str], folder: ColumnElement[str]) -> ColumnElement[str]:
    return case((folder == "", root), else_=_absolute(root, folder))


_RELATIVE = case(
    (_c.folder == "", _c.name),
    # the folder of a URL may end with slashes, see `split_path`
    (
        and_(sources.c.path == IMPORTED_SOURCE, func.substr(_c.folder, -1) == os.sep),
        _c.folder.concat(_c.name),
    ),
    else_=_c.folder.concat(_SLASH).concat(_c.name),
)
_ABSOLUTE = _absolute(sources.c.path, _RELATIVE)
_SPELLINGS = (_ABSOLUTE, _RELATIVE)

_FOLDERS = select(_c.source_id, _c.folder).distinct().cte("folders")


def _in_folder(
    condition: Callable[[ColumnElement[str], ColumnElement[str]], Expression],
    to: Dialect,
    name: str | None = None,
) -> Expression:
    """Whether the folder of an item fulfils a condition, which is evaluated once per folder.

    Args:
        condition: Takes the absolute path of the folder and the one below the source.
        to: As `compiled` has it.
        name: The file's name; None allows all.
    """
    if to.few or not to.functions.FOLDERS_ONCE:
        passes = condition(_absolute_folder(sources.c.path, _c.folder), _c.folder)
        return passes if name is None else passes & (_c.name == name)
    folder, item = _FOLDERS.c, items.alias().c
    root = select(sources.c.path).where(sources.c.id == folder.source_id).scalar_subquery()
    # expressions, or SQLite looks up the folder of each item instead of the items of a folder
    source_id, path = folder.source_id + 0, folder.folder.concat(_NOTHING)
    inside = (item.source_id == source_id) & (item.folder == path)
    passes = condition(_absolute_folder(root, folder.folder), folder.folder)
    found = select(item.id).where(inside, passes)
    return _c.id.in_(found if name is None else found.where(item.name == name))


def _of_path(one: Condition, to: Dialect) -> Expression:
    if one.op == "glob":
        return _at(one.value, to)
    if one.op == "in":
        names = [os.path.basename(path) for path in one.value]
        return _c.name.in_(names) & _of_text(_SPELLINGS, one, to)  # names first: they are quick
    if os.sep in folded(one.value):
        return to.functions.contains(_ABSOLUTE, one.value)
    in_folder = _in_folder(lambda absolute, _: to.functions.contains(absolute, one.value), to)
    return or_(to.functions.contains(_c.name, one.value), in_folder)


def _at(pattern: str, to: Dialect) -> Expression:
    """The files that a pattern matches, and those below a folder that it matches.

    A pattern without a slash is compared with the names of the file and of its folders; one with a
    slash with the path below the source and the absolute one.
    """
    plain = pattern.removeprefix("./").rstrip("/")
    if plain and pattern.startswith("./"):  # rows may have been imported under such a path
        imported = sources.c.path == IMPORTED_SOURCE
        as_written = to.functions.matches(_RELATIVE, *readings(pattern.rstrip("/")), below=True)
        return or_(_at(plain, to), imported & as_written)
    patterns = readings(plain)
    if "/" not in plain and not pattern.startswith("/"):
        folders = [f"*/{one}/*" for one in patterns]
        in_folder = _in_folder(
            lambda _, below: to.functions.matches(_between_slashes(below), *folders), to
        )
        return or_(to.functions.matches(_c.name, *patterns), in_folder)
    if plain and not _SPECIAL.search(plain):
        return _at_or_below(plain, to)
    if plain[:1] in ("", "/", "*"):  # the absolute path alone: its star covers the relative one
        return to.functions.matches(_ABSOLUTE, *patterns, below=True)
    relative = to.functions.matches(_RELATIVE, *patterns, below=True)
    if plain[0] in "?[":
        return or_(relative, to.functions.matches(_ABSOLUTE, *patterns, below=True))
    return relative


def _between_slashes(folder: ColumnElement[str]) -> ColumnElement[str]:
    return case((folder == "", _SLASH), else_=_SLASH.concat(folder).concat(_SLASH))


_SPECIAL = re.compile(r"[*?\[]")


def _at_or_below(path: str, to: Dialect) -> Expression:
    """The file at a path, or the files in the folder at it, to any depth."""
    spelling = 0 if path.startswith("/") else 1
    folder, name = split_path(path)
    return or_(
        _in_folder(lambda *folders: to.functions.matches(folders[spelling], path, below=True), to),
        _in_folder(lambda *folders: folders[spelling] == folder, to, name),
    )


# ---------------------------------------------------------------------- other evaluators


def _of_date(one: Condition, to: Dialect) -> Expression:
    """When it was taken, else when it was modified."""
    taken, modified = (_compare(KEYS[name], one, to) for name in ("taken", "modified"))
    return case((_c.taken_at.is_not(None), taken), else_=modified)


_HAS_POSITION = and_(_c.latitude.is_not(None), _c.longitude.is_not(None))


def _of_near(circle: Circle, to: Dialect) -> Expression:
    (low, high), longitudes = bounding_box(circle)
    distance = to.functions.kilometres(_c.latitude, _c.longitude, circle)
    return and_(
        _HAS_POSITION,
        _c.latitude.between(low, high),
        or_(*(_c.longitude.between(west, east) for west, east in longitudes)),
        distance <= circle.kilometres,
    )


_ORIGINS = {
    "caption": ("caption", "sidecar"),
    "text": ("passage", "page", "ocr", "speech"),
    "speech": ("speech",),
}


def _has(what: str, to: Dialect) -> Expression:
    """Whether an item has a property."""
    if what == "gps":
        return _HAS_POSITION
    if what == "sound":
        # videos whose sound is indexed or whose speech is transcribed: they are few
        heard = _any_row(vectors, [vectors.c.modality == "audio"], replace(to, few=True))
        video = and_(_c.kind == "video", or_(heard, _has("speech", replace(to, few=True))))
        return or_(_c.kind == "audio", video)
    return _any_row(texts, [texts.c.origin.in_(_ORIGINS[what])], to)


# ---------------------------------------------------------------------- the user's own metadata


def rows_of_metadata(one: Condition, to: Dialect) -> list[Expression]:
    """Expressions of which a row of metadata must fulfil one to meet a condition on its key."""
    is_key = metadata.c.key == one.key.removeprefix(META)
    return [and_(is_key, way) for way in _ways_of_value(one, to)]


def _ways_of_value(one: Condition, to: Dialect) -> list[Expression]:
    c = metadata.c
    if one.op == "exists":
        return [true()]
    if one.op == "in":
        return _equal_to_any(one.value)
    if one.op in ("contains", "glob"):
        return [_of_text([c.text], one, to)]
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
