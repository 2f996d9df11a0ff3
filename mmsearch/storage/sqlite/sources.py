"""The folders that were indexed, and the paths that were given to be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    case,
    delete,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.records import IMPORTED_SOURCE, IndexRoot
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.schema import (
    PathText,
    asked,
    items,
    sources,
)
from mmsearch.storage.sqlite.schema import failures as failed

_SOURCES = select(sources.c.id, sources.c.path).where(sources.c.path != IMPORTED_SOURCE)


class Sources:
    """The indexed folders, none inside another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[tuple[int, str]]:
        """(id, absolute path) of each indexed folder."""
        return [tuple(row) for row in self._database.rows(_SOURCES)]

    def device(self, source_id: int) -> int:
        """The device (st_dev) that a source was on when it was last read."""
        return int(
            self._database.scalars(select(sources.c.device).where(sources.c.id == source_id))[0]
        )

    def set_device(self, source_id: int, device: int) -> None:
        """Keep the device that a source is on."""
        with self._database.write() as connection:
            changed = update(sources).where(sources.c.id == source_id)
            connection.execute(changed.values(device=device))

    def of(self, path: str) -> tuple[int, str, str] | None:
        """(source id, source path, path below it) of the source that an absolute path lies in."""
        return _source_of(path, self.all())

    def add(self, root: str, device: int = 0) -> int:
        """The source that `root` is or lies in, made if need be.

        Sources inside a new one become part of it, their items kept.
        """
        inside = root.rstrip(os.sep) + os.sep
        with self._database.write() as connection:
            there = [tuple(row) for row in connection.execute(_SOURCES).all()]
            if (known := _source_of(root, there)) is not None:
                return known[0]
            new = insert(sources).values(path=root, device=device).returning(sources.c.id)
            source_id = int(connection.execute(new).scalar_one())
            for other, path in there:
                if not path.startswith(inside):
                    continue
                below = literal(os.path.relpath(path, root), PathText())
                for table in (items, failed):
                    deeper = below.concat(os.sep).concat(table.c.folder)
                    moved = case((table.c.folder == "", below), else_=deeper)
                    connection.execute(
                        update(table)
                        .where(table.c.source_id == other)
                        .values(source_id=source_id, folder=moved)
                    )
                connection.execute(delete(sources).where(sources.c.id == other))
        return source_id

    def imported(self) -> int:
        """The id of the source of items that lie in no folder we know, made if need be."""
        with self._database.write() as connection:
            connection.execute(
                insert(sources).values(path=IMPORTED_SOURCE, device=0).on_conflict_do_nothing()
            )
            found = connection.execute(
                select(sources.c.id).where(sources.c.path == IMPORTED_SOURCE)
            )
            return int(found.scalar_one())


class IndexRoots:
    """The paths that were given to be indexed, and how."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[IndexRoot]:
        """The paths that were given to be indexed, sorted; those of an index of 0.1.0 are lost."""
        c = asked.c
        rows = self._database.rows(
            select(c.path, c.folder, c.exclude, c.include_hidden).order_by(c.path)
        )
        return [
            IndexRoot(path, bool(folder), tuple(json.loads(exclude)), bool(hidden))
            for path, folder, exclude, hidden in rows
        ]

    def add(self, given: Sequence[IndexRoot]) -> None:
        """Keep paths that were given; a folder stands for what was given in it before."""
        with self._database.write() as connection:
            for one in given:
                if one.folder:
                    connection.execute(_forget_asked(one.path))
                row = {
                    "path": one.path,
                    "folder": int(one.folder),
                    "exclude": json.dumps(list(one.exclude)),
                    "include_hidden": int(one.include_hidden),
                }
                connection.execute(insert(asked).prefix_with("OR REPLACE").values(row))

    def remove(self, path: str) -> None:
        """Ask no more for a path and what lies below it."""
        with self._database.write() as connection:
            connection.execute(_forget_asked(path))


def _source_of(path: str, known: Iterable[tuple[int, str]]) -> tuple[int, str, str] | None:
    for source_id, root in known:
        if path == root:
            return source_id, root, ""
        if path.startswith(root.rstrip(os.sep) + os.sep):
            return source_id, root, os.path.relpath(path, root)
    return None


def _forget_asked(path: str) -> Any:
    inside = path.rstrip(os.sep) + os.sep
    c = asked.c
    deeper = c.path.between(inside, inside[:-1] + chr(ord(os.sep) + 1))
    return delete(asked).where(or_(c.path == path, deeper & (c.path != inside)))


def at_or_below(table: Any, folder: str) -> Any:
    """The condition that a row of items or failures lies in a folder, to any depth."""
    # a range, not LIKE: it is served by the index and no character is special in it
    below = table.c.folder.between(folder + os.sep, folder + chr(ord(os.sep) + 1))
    return or_(table.c.folder == folder, below & (table.c.folder != folder + chr(ord(os.sep) + 1)))
