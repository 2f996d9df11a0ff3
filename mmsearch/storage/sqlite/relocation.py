"""Follows folders that were moved: every item keeps its id and all it has."""

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

from mmsearch.storage.sqlite.database import Database, chunks
from mmsearch.storage.sqlite.files import at_or_below, folder_below
from mmsearch.storage.sqlite.schema import PathText, failures, index_roots, items, sources
from mmsearch.storage.sqlite.settings import next_revision

_TABLES = (items, failures)


class Relocation:
    """Follows moved folders."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def holds(self, folder: str) -> bool:
        """Whether something is stored of a folder, or of what lies below it."""
        with self._database.read() as connection:
            return any(
                connection.execute(
                    select(1).where(_below(connection, folder, table)).limit(1)
                ).all()
                for table in _TABLES
            )

    def sample(self, folder: str, at_most: int) -> list[tuple[str, int]]:
        """(path from the folder, bytes) of some items at and below it, taken evenly."""
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
        """Have all that is stored of one folder be in another, all or none.

        Where something is stored at its new place already, of the same content, what it was known
        by before stays; of other content, what was read there.

        Returns:
            How many items have moved.
        """
        with self._database.write() as connection:
            _split(connection, old)
            _move_roots(connection, old, new)
            moving = [
                (id_, root, rest)
                for id_, root in _sources(connection)
                if (rest := _rest(root, old)) is not None
            ]
            counted = select(func.count()).where(_below(connection, old, items))
            count = int(connection.execute(counted).scalar_one())
            for id_, _, _ in moving:  # out of the way: one may go where another is still
                _name_source(connection, id_, f"moving {id_}")
            dropped = 0
            for id_, root, rest in moving:
                target = _joined(new, rest)
                if os.path.basename(target) != os.path.basename(root):
                    _reword(connection, id_)
                dropped += _settle(connection, id_, target)
            next_revision(connection)
        return count - dropped


def _rest(path: str, folder: str) -> str | None:
    """The way from a folder to a path in it, "" to itself; None to what is elsewhere."""
    if path == folder:
        return ""
    inside = folder.rstrip(os.sep) + os.sep
    return path[len(inside) :] if path.startswith(inside) else None


def _sources(connection: Connection) -> list[tuple[int, str]]:
    return [tuple(row) for row in connection.execute(select(sources.c.id, sources.c.path)).all()]


def _below(connection: Connection, folder: str, table: Any) -> Any:
    """The condition that a row of items or failures lies at or below an absolute folder."""
    path = sources.c.path
    inside = folder.rstrip(os.sep) + os.sep
    deeper = path.between(inside, inside[:-1] + chr(ord(os.sep) + 1))
    whole = select(sources.c.id).where(or_(path == folder, deeper))
    found = [table.c.source_id.in_(whole)]
    for id_, root in _sources(connection):
        if rest := _rest(folder, root):
            found.append((table.c.source_id == id_) & at_or_below(table, rest))
    return or_(*found)


def _device(path: str) -> int:
    return os.stat(path).st_dev if os.path.exists(path) else 0


def _name_source(connection: Connection, source_id: int, path: str) -> None:
    named = update(sources).where(sources.c.id == source_id)
    connection.execute(named.values(path=path, device=_device(path)))


def _reword(connection: Connection, source_id: int) -> None:
    """The name of a source is a word of all that is in it."""
    statement = (
        "INSERT OR REPLACE INTO changes (what, item_id) SELECT 'words', id FROM items "
        "WHERE source_id = ? AND id <= (SELECT words_item FROM followers)"
    )
    connection.exec_driver_sql(statement, (source_id,))


def _split(connection: Connection, folder: str) -> None:
    """Make a folder that lies in a source one of its own."""
    for id_, root in _sources(connection):
        if not (below := _rest(folder, root)):
            continue
        new = insert(sources).values(path=folder, device=0).returning(sources.c.id)
        own = connection.execute(new).scalar_one()
        # in bytes: SQLite and Python count the letters of a broken name differently
        start = len(below.encode("utf-8", "surrogateescape")) + 2
        for table in _TABLES:
            tail = func.substr(cast(table.c.folder, LargeBinary), start)
            rest = case((table.c.folder == below, literal("", PathText())), else_=cast(tail, Text))
            some = update(table).where(table.c.source_id == id_, at_or_below(table, below))
            connection.execute(some.values(source_id=own, folder=rest))


def _settle(connection: Connection, source_id: int, path: str) -> int:
    """Give a source that moves its path; sources never lie in one another.

    Returns:
        How many of its items gave way to what was stored there.
    """
    others = [(id_, root) for id_, root in _sources(connection) if id_ != source_id]
    for other, root in others:
        if (rest := _rest(path, root)) is not None:
            return _absorb(connection, source_id, other, rest, moved=source_id)
    dropped = 0
    for other, root in others:
        if rest := _rest(root, path):
            dropped += _absorb(connection, other, source_id, rest, moved=source_id)
    _name_source(connection, source_id, path)
    return dropped


def _absorb(connection: Connection, giver: int, taker: int, below: str, *, moved: int) -> int:
    """Make a source part of another; returns how many items of the one that moved gave way."""
    dropped = _give_way(connection, giver, taker, below, moved=moved)
    for table in _TABLES:
        change = update(table).prefix_with("OR REPLACE") if table is failures else update(table)
        change = change.where(table.c.source_id == giver)
        connection.execute(change.values(source_id=taker, folder=folder_below(table, below)))
    connection.execute(delete(sources).where(sources.c.id == giver))
    return dropped


def _give_way(connection: Connection, giver: int, taker: int, below: str, *, moved: int) -> int:
    """Where both have an item at one place, leave one of them."""
    mine, there = items.alias("mine"), items.alias("there")
    meet = (
        (there.c.source_id == taker)
        & (there.c.folder == folder_below(mine, below))
        & (there.c.name == mine.c.name)
    )
    both = select(mine.c.id, there.c.id, mine.c.hash == there.c.hash).join_from(mine, there, meet)
    going, dropped = [], 0
    for given, taken, same in connection.execute(both.where(mine.c.source_id == giver)).all():
        old, new = (given, taken) if moved == giver else (taken, given)
        going.append(new if same else old)
        dropped += not same
    for some in chunks(going):
        connection.execute(delete(items).where(items.c.id.in_(some)))
    return dropped


def _move_roots(connection: Connection, old: str, new: str) -> None:
    rows = [dict(row) for row in connection.execute(select(index_roots)).mappings()]
    inside = [row for row in rows if _rest(row["path"], old) is not None]
    around = [row for row in rows if row["folder"] and _rest(old, row["path"])]
    still = [row for row in rows if row not in inside]
    moved = [row | {"path": _joined(new, _rest(row["path"], old) or "")} for row in inside]
    if around and not any(row["folder"] and _rest(new, row["path"]) is not None for row in rows):
        moved.append(around[0] | {"path": new})
    now = {row["path"]: row for row in [*moved, *still]}  # at one place, what was asked there
    connection.execute(delete(index_roots))
    for row in now.values():
        if not (row["folder"] and _is_inside_another(row, now.values())):
            connection.execute(insert(index_roots).values(row))


def _is_inside_another(row: dict[str, Any], others: Iterable[dict[str, Any]]) -> bool:
    """Whether a folder around a path is asked for as the path is."""
    return any(
        other["folder"]
        and _rest(row["path"], other["path"])
        and all(row[key] == other[key] for key in ("exclude", "include_hidden"))
        for other in others
    )


def _joined(folder: str, rest: str) -> str:
    return os.path.join(folder, rest) if rest else folder
