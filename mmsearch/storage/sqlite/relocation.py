"""Follows folders that were moved: each item keeps its id and everything stored of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    Connection,
    LargeBinary,
    Text,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from mmsearch.media.walk import device_of
from mmsearch.storage.sql.database import is_one_of
from mmsearch.storage.sql.index_settings import next_revision
from mmsearch.storage.sql.indexed_files import (
    at_or_below,
    folder_below,
    note_devices,
    path_below,
)
from mmsearch.storage.sql.schema import failures, folder_devices, index_roots, items, sources
from mmsearch.storage.sql.types import PathText, path_bytes
from mmsearch.storage.sqlite.database import Database

_TABLES = (items, failures, folder_devices)


class Relocation:
    """Follows folders that were moved."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def holds(self, folder: str) -> bool:
        """Whether anything is stored of a folder, or of what lies below it."""
        with self._database.read() as connection:
            return any(
                connection.execute(
                    select(1).where(_below(connection, folder, table)).limit(1)
                ).all()
                for table in (items, failures)
            )

    def sample(self, folder: str, at_most: int) -> list[tuple[str, int]]:
        """(path from the folder, bytes) of some items at and below it, evenly spread."""
        with self._database.read() as connection:
            where = _below(connection, folder, items)
            count = connection.execute(select(func.count()).where(where)).scalar_one()
            number = func.row_number().over(order_by=items.c.id).label("number")
            row = select(items.c.source_id, items.c.folder, items.c.name, items.c.size, number)
            every = row.where(where).subquery()
            step = max(1, count // at_most)
            chosen = select(every).where(every.c.number % step == 0).limit(at_most)
            roots = dict(_sources(connection))
            return [
                (os.path.relpath(os.path.join(roots[source], below, name), folder), size)
                for source, below, name, size, _ in connection.execute(chosen)
            ]

    def move(self, old: str, new: str) -> int:
        """Move everything that is stored of one folder to another, all or none.

        Where both folders have an item at one path, the moved one stays if their content is the
        same, so that it keeps all it has; else the one that was read at the new path stays.

        Returns:
            How many items have moved.
        """
        with self._database.write() as connection:
            _make_source(connection, old)
            _move_roots(connection, old, new)
            moving = [
                (id_, root, rest)
                for id_, root in _sources(connection)
                if (rest := path_below(root, old)) is not None
            ]
            counted = select(func.count()).where(_below(connection, old, items))
            count = int(connection.execute(counted).scalar_one())
            for id_, _, _ in moving:
                _forget_change_times(connection, id_)
            for id_, _, _ in moving:  # one may go where another still is
                _set_path(connection, id_, f"moving {id_}")
            dropped = 0
            for id_, root, rest in moving:
                target = _joined(new, rest)
                if os.path.basename(target) != os.path.basename(root):
                    _log_words(connection, id_)
                dropped += _place(connection, id_, target)
            next_revision(connection)
        return count - dropped


# ---------------------------------------------------------------------- paths


def _joined(folder: str, rest: str) -> str:
    return os.path.join(folder, rest) if rest else folder


def _below(connection: Connection, folder: str, table: Any) -> Any:
    """The condition that a row of items or failures lies at or below an absolute folder."""
    whole = select(sources.c.id).where(at_or_below(sources.c.path, folder))
    found = [table.c.source_id.in_(whole)]
    for id_, root in _sources(connection):
        if rest := path_below(folder, root):
            found.append((table.c.source_id == id_) & at_or_below(table.c.folder, rest))
    return or_(*found)


# ---------------------------------------------------------------------- sources


def _sources(connection: Connection) -> list[tuple[int, str]]:
    return [tuple(row) for row in connection.execute(select(sources.c.id, sources.c.path)).all()]


def _set_path(connection: Connection, source_id: int, path: str) -> None:
    device = device_of(path) if os.path.exists(path) else 0
    named = update(sources).where(sources.c.id == source_id)
    connection.execute(named.values(path=path, device=device))


def _forget_change_times(connection: Connection, source_id: int) -> None:
    """Copies on another disk were made at other times: the next scan takes those as they are."""
    of_source = update(items).where(items.c.source_id == source_id)
    connection.execute(of_source.values(ctime_ns=None))
    connection.execute(delete(folder_devices).where(folder_devices.c.source_id == source_id))


def _log_words(connection: Connection, source_id: int) -> None:
    """Log that words of a source's items changed: its name is one of them."""
    statement = (
        "INSERT OR REPLACE INTO changes (what, item_id) SELECT 'words', id FROM items "
        "WHERE source_id = ? AND id <= (SELECT words_item FROM followers)"
    )
    connection.exec_driver_sql(statement, (source_id,))


def _make_source(connection: Connection, folder: str) -> None:
    """Make a folder that lies in a source a source of its own."""
    for id_, root in _sources(connection):
        if not (below := path_below(folder, root)):
            continue
        new = insert(sources).values(path=folder, device=0).returning(sources.c.id)
        own = connection.execute(new).scalar_one()
        # in bytes: SQLite and Python count the characters of a broken name differently
        start = len(path_bytes(below)) + 2
        for table in _TABLES:
            tail = func.substr(cast(table.c.folder, LargeBinary), start)
            rest = case((table.c.folder == below, literal("", PathText())), else_=cast(tail, Text))
            some = update(table).where(table.c.source_id == id_, at_or_below(table.c.folder, below))
            connection.execute(some.values(source_id=own, folder=rest))


def _place(connection: Connection, source_id: int, path: str) -> int:
    """Give a source its new path, merged with those around and inside it.

    Returns:
        How many of its items were dropped for those that were stored there.
    """
    others = [(id_, root) for id_, root in _sources(connection) if id_ != source_id]
    for other, root in others:
        if (rest := path_below(path, root)) is not None:
            return _merge(connection, source_id, other, rest, moved=source_id)
    dropped = 0
    for other, root in others:
        if rest := path_below(root, path):
            dropped += _merge(connection, other, source_id, rest, moved=source_id)
    _set_path(connection, source_id, path)
    return dropped


def _merge(connection: Connection, inner: int, outer: int, below: str, *, moved: int) -> int:
    """Make a source part of another, in which it lies `below`; returns as `_drop_doubles`."""
    dropped = _drop_doubles(connection, inner, outer, below, moved=moved)
    if inner != moved:
        note_devices(connection, inner)
    for table in _TABLES:
        change = update(table) if table is items else update(table).prefix_with("OR REPLACE")
        change = change.where(table.c.source_id == inner)
        connection.execute(change.values(source_id=outer, folder=folder_below(table, below)))
    connection.execute(delete(sources).where(sources.c.id == inner))
    return dropped


def _drop_doubles(connection: Connection, inner: int, outer: int, below: str, *, moved: int) -> int:
    """Where both sources have an item at one path, delete one of them.

    Returns:
        How many items of the source that moved were deleted.
    """
    mine, there = items.alias("mine"), items.alias("there")
    meet = (
        (there.c.source_id == outer)
        & (there.c.folder == folder_below(mine, below))
        & (there.c.name == mine.c.name)
    )
    both = select(mine.c.id, there.c.id, mine.c.hash == there.c.hash).join_from(mine, there, meet)
    doubles, dropped = [], 0
    for in_inner, in_outer, same in connection.execute(both.where(mine.c.source_id == inner)).all():
        old, new = (in_inner, in_outer) if moved == inner else (in_outer, in_inner)
        doubles.append(new if same else old)
        dropped += not same
    connection.execute(delete(items).where(is_one_of(items.c.id, doubles)))
    return dropped


# ---------------------------------------------------------------------- index roots


def _move_roots(connection: Connection, old: str, new: str) -> None:
    rows = [dict(row) for row in connection.execute(select(index_roots)).mappings()]
    inside = [row for row in rows if path_below(row["path"], old) is not None]
    around = [row for row in rows if row["folder"] and path_below(old, row["path"])]
    others = [row for row in rows if row not in inside]
    moved = [row | {"path": _joined(new, path_below(row["path"], old) or "")} for row in inside]
    is_covered = any(row["folder"] and path_below(new, row["path"]) is not None for row in rows)
    if around and not is_covered:
        moved.append(around[0] | {"path": new})
    now = {row["path"]: row for row in [*moved, *others]}  # of two at one path, the one there was
    connection.execute(delete(index_roots))
    for row in now.values():
        if not (row["folder"] and _is_covered(row, now.values())):
            connection.execute(insert(index_roots).values(row))


def _is_covered(row: dict[str, Any], others: Iterable[dict[str, Any]]) -> bool:
    """Whether a folder around a path is an index root that is walked as this one is."""
    return any(
        other["folder"]
        and path_below(row["path"], other["path"])
        and all(row[key] == other[key] for key in ("exclude", "include_hidden"))
        for other in others
    )
