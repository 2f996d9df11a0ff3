"""Where the files are that the catalog knows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, delete, literal, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.sqlite.records import Stat, written
from mmsearch.storage.sqlite.schema import PathText, asked, items, sources
from mmsearch.storage.sqlite.schema import failures as failed
from mmsearch.storage.sqlite.spaces import ELSEWHERE
from mmsearch.storage.sqlite.store import Store, storage_errors
from mmsearch.types import Kind

MOST_TWINS = 20
"""Files of one content that are looked at for one that is gone."""

_NONE: frozenset[str] = frozenset()
_SOURCES = select(sources.c.id, sources.c.path).where(sources.c.path != ELSEWHERE)


@dataclass(frozen=True, slots=True)
class Known:
    """What the catalog holds of a file that may have changed since."""

    id: int
    stat: Stat
    sidecar: Stat | None
    hash: bytes
    readings: frozenset[str] = frozenset()

    @classmethod
    def of(cls, row: KnownRow) -> Known:
        """The same in words."""
        _, id_, size, mtime, side, side_mtime, hash_, readings = row
        sidecar = None if side is None or side_mtime is None else (side, side_mtime)
        return cls(id_, (size, mtime), sidecar, hash_, _split(readings))


KnownRow = tuple[str, int, int, int, int | None, int | None, bytes, str | None]
"""name, id, size, mtime_ns, the sidecar's size and mtime_ns, hash, readings: as the driver has it.

A scan compares a hundred thousand of these in a second, and so it makes no object of any of them
that is as it was.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A path that was given to be indexed, and how."""

    path: str
    folder: bool
    exclude: Sequence[str] = ()
    include_hidden: bool = False


class PlaceTables(Store):
    """Which folders were indexed, and what a scan asks of the files in them."""

    def sources(self) -> list[tuple[int, str]]:
        """(id, absolute path) of each indexed folder."""
        return [tuple(row) for row in self._rows(_SOURCES)]

    def device(self, source_id: int) -> int:
        """The device (st_dev) that a source was on when it was last read."""
        return int(self._scalars(select(sources.c.device).where(sources.c.id == source_id))[0])

    def note_device(self, source_id: int, device: int) -> None:
        """Keep the device that a source is on."""
        with self._write() as connection:
            changed = update(sources).where(sources.c.id == source_id)
            connection.execute(changed.values(device=device))

    def source_of(self, path: str) -> tuple[int, str, str] | None:
        """(source id, source path, path below it) of the source that an absolute path lies in."""
        return _source_of(path, self.sources())

    def asked(self) -> list[Asked]:
        """The paths that were given to be indexed, sorted; those of an index of 0.1.0 are lost."""
        c = asked.c
        rows = self._rows(select(c.path, c.folder, c.exclude, c.include_hidden).order_by(c.path))
        return [
            Asked(path, bool(folder), tuple(json.loads(exclude)), bool(hidden))
            for path, folder, exclude, hidden in rows
        ]

    def note_asked(self, given: Sequence[Asked]) -> None:
        """Keep paths that were given; a folder stands for what was given in it before."""
        with self._write() as connection:
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

    def forget_asked(self, path: str) -> None:
        """Ask no more for a path and what lies below it."""
        with self._write() as connection:
            connection.execute(_forget_asked(path))

    def add_source(self, root: str, device: int = 0) -> int:
        """The source that `root` is or lies in, made if need be.

        Sources inside a new one become part of it, their items kept.
        """
        inside = root.rstrip(os.sep) + os.sep
        with self._write() as connection:
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

    def known(self, source_id: int, folder: str) -> dict[str, Known]:
        """What is stored of the files that lie directly in a folder, by name."""
        rows = self.known_rows(source_id, folder)
        return {name: Known.of(row) for name, row in rows.items()}

    def known_rows(self, source_id: int, folder: str) -> dict[str, KnownRow]:
        """The same as rows."""
        found = self._driver_rows(_KNOWN, (source_id, written(folder)))
        return {row[0]: row for row in found}

    def _driver_rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """What the driver itself gives: a fifth of the time of the same through SQLAlchemy."""
        self._check_open()
        with storage_errors(), closing(self._engine.raw_connection()) as connection:
            driver: Any = connection.driver_connection
            found: list[Any] = driver.execute(statement, parameters).fetchall()
            return found

    def readings(self, item_id: int) -> frozenset[str]:
        """What has been read from an item besides its pixels and samples: "ocr", "speech"."""
        found = self._scalars(select(items.c.readings).where(items.c.id == item_id))
        return _split(found[0]) if found else _NONE

    def known_failures(self, source_id: int, folder: str) -> dict[str, Stat | None]:
        """The failures in a folder by name: the file's stat, or None if it is worth another try."""
        c = failed.c
        where = (c.source_id == source_id, c.folder == folder)
        rows = self._rows(select(c.name, c.size, c.mtime_ns, c.retry).where(*where))
        return {name: None if retry else (size, mtime) for name, size, mtime, retry in rows}

    def folders(self, source_id: int, below: str) -> set[str]:
        """The folders at and below a folder of a source that hold items or failures."""
        found: set[str] = set()
        for table in (items, failed):
            where = [table.c.source_id == source_id]
            if below:
                where.append(at_or_below(table, below))
            found.update(self._scalars(select(table.c.folder).where(*where).distinct()))
        return found

    def twins(self, hash_: bytes, modality: Kind) -> list[tuple[int, str, int, str]]:
        """(item id, source path, source device, file path) of files of this content, a few."""
        rows = self._driver_rows(_TWINS, (hash_, modality, MOST_TWINS))
        return [
            (id_, root, device, os.path.join(root, folder, name))
            for id_, root, device, folder, name in rows
        ]

    def folders_that_failed(self, source_id: int) -> set[str]:
        """The folders of a source in which some file could not be used."""
        c = failed.c
        return set(self._scalars(select(c.folder).where(c.source_id == source_id).distinct()))


_KNOWN = (
    "SELECT name, id, size, mtime_ns, sidecar_size, sidecar_mtime_ns, hash, nullif(readings, '') "
    "FROM items WHERE source_id = ? AND folder = CAST(? AS TEXT)"
)
_TWINS = (
    "SELECT items.id, sources.path, sources.device, folder, name FROM items JOIN sources "
    "ON sources.id = source_id WHERE hash = ? AND modality = ? "
    "ORDER BY items.id LIMIT ?"
)


def _split(readings: str | None) -> frozenset[str]:
    return frozenset(readings.split()) if readings else _NONE


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
