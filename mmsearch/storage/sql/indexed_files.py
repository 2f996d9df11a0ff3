"""What a scan compares the disk with: indexed folders, the files in them, and failures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from mmsearch.media.file_state import Stat
from mmsearch.storage.records import (
    IMPORTED_SOURCE,
    FailureRecord,
    IndexRoot,
    KnownFile,
    StoredFile,
    bounds,
    split_path,
)
from mmsearch.storage.sql.database import Database, insert_into, put_rows
from mmsearch.storage.sql.schema import (
    failures,
    folder_devices,
    index_roots,
    items,
    sources,
)
from mmsearch.storage.sql.types import PATH
from mmsearch.storage.store import FailureStore, FileStore, IndexRootStore, SourceStore
from mmsearch.types import Failure, Kind

MAX_DUPLICATES = 20
"""Files of one content that are looked at to find one that is gone from the disk."""


class Files(FileStore):
    """Finds the files of the items by folder, path and content."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, source_id: int, folder: str, prefix: str = "") -> dict[str, KnownFile]:
        if prefix:
            rows = self._database.driver_rows(_KNOWN_FROM, (source_id, folder, *bounds(prefix)))
            rows = [row for row in rows if row[0].startswith(prefix)]
        else:
            rows = self._database.driver_rows(_KNOWN, (source_id, folder))
        make = tuple.__new__  # a quarter of the time of KnownFile._make: a scan needs all files
        return {row[0]: make(KnownFile, row) for row in rows}

    def set_change_times(self, rows: Sequence[tuple[int, int]]) -> None:
        if rows:
            changed = update(items).where(items.c.id == bindparam("id_"))
            changed = changed.values(ctime_ns=bindparam("ctime"))
            given = [{"id_": id_, "ctime": ctime_ns} for id_, ctime_ns in rows]
            with self._database.write() as connection:
                connection.execute(changed, given)

    def readings(self, item_id: int) -> frozenset[str]:
        found = self._database.scalars(select(items.c.readings).where(items.c.id == item_id))
        return frozenset(found[0].split() if found else ())

    def folders(self, source_id: int, below: str) -> set[str]:
        found: set[str] = set()
        for table in (items, failures):
            where = [table.c.source_id == source_id]
            if below:
                where.append(at_or_below(table.c.folder, below))
            found.update(self._database.scalars(select(table.c.folder).where(*where).distinct()))
        return found

    def duplicates_of(self, hash_: bytes, kind: Kind) -> list[tuple[int, str, str, int, str]]:
        rows = self._database.driver_rows(_DUPLICATES, (hash_, kind, MAX_DUPLICATES))
        return [
            (
                id_,
                root,
                "" if device is None else folder,
                source_device if device is None else device,
                os.path.join(root, folder, name),
            )
            for id_, root, source_device, device, folder, name in rows
        ]

    def at(self, source_id: int, folder: str, name: str) -> StoredFile | None:
        return self._one(items.c.source_id == source_id, folder, name)

    def imported(self, path: str) -> StoredFile | None:
        return self._one(sources.c.path == IMPORTED_SOURCE, *split_path(path))

    def of(self, item_id: int) -> tuple[str, str, StoredFile] | None:
        return self._find(items.c.id == item_id)

    def _one(self, source: Any, folder: str, name: str) -> StoredFile | None:
        found = self._find(source, items.c.folder == folder, items.c.name == name)
        return None if found is None else found[2]

    def _find(self, *where: Any) -> tuple[str, str, StoredFile] | None:
        c = items.c
        query = select(c.id, c.kind, c.size, c.mtime_ns, c.hash, c.ctime_ns)
        query = query.add_columns(sources.c.path, c.folder, c.name).join(sources).where(*where)
        for id_, kind, size, mtime_ns, hash_, ctime_ns, root, folder, name in self._database.rows(
            query
        ):
            imported = root == IMPORTED_SOURCE
            stored = StoredFile(id_, kind, (size, mtime_ns), hash_, imported, ctime_ns)
            return root, os.path.join(root, folder, name), stored
        return None

    def all(self, page: int = 20_000) -> Iterator[tuple[int, str, str, str]]:
        c = items.c
        base = select(c.id, sources.c.path, c.folder, c.name).join(sources).order_by(c.id)
        last = 0
        while rows := self._database.rows(base.where(c.id > last).limit(page)):
            yield from map(tuple, rows)
            last = rows[-1].id


_KNOWN = (
    "SELECT name, id, size, mtime_ns, sidecar_size, sidecar_mtime_ns, ctime_ns, hash, "
    "nullif(readings, '') "
    "FROM items WHERE source_id = ? AND folder = CAST(? AS TEXT)"
)

_KNOWN_FROM = f"{_KNOWN} AND name >= CAST(? AS TEXT) AND name < CAST(? AS TEXT)"

_DUPLICATES = (
    "SELECT items.id, sources.path, sources.device, folder_devices.device, "
    "items.folder, name FROM items JOIN sources ON sources.id = items.source_id "
    "LEFT JOIN folder_devices ON folder_devices.source_id = items.source_id "
    "AND folder_devices.folder = items.folder "
    "WHERE hash = ? AND kind = CAST(? AS TEXT) ORDER BY items.id LIMIT ?"
)


class Sources(SourceStore):
    """The indexed folders, none inside another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[tuple[int, str]]:
        return [tuple(row) for row in self._database.rows(_SOURCES)]

    def device(self, source_id: int) -> int:
        chosen = select(sources.c.device).where(sources.c.id == source_id)
        return int(self._database.scalars(chosen)[0])

    def set_device(self, source_id: int, device: int) -> None:
        with self._database.write() as connection:
            changed = update(sources).where(sources.c.id == source_id)
            connection.execute(changed.values(device=device))

    def folder_devices(self, source_id: int) -> dict[str, int]:
        c = folder_devices.c
        chosen = select(c.folder, c.device).where(c.source_id == source_id)
        return {folder: int(device) for folder, device in self._database.rows(chosen)}

    def set_folder_devices(self, source_id: int, devices: Mapping[str, int | None]) -> None:
        c = folder_devices.c
        with self._database.write() as connection:
            for folder, device in devices.items():
                row = {"source_id": source_id, "folder": folder, "device": device}
                if device is None:
                    gone = delete(folder_devices).where(c.source_id == source_id)
                    connection.execute(gone.where(c.folder == folder))
                else:
                    put_rows(connection, folder_devices, row)

    def of(self, path: str) -> tuple[int, str, str] | None:
        return _source_of(path, self.all())

    def add(self, root: str, device: int = 0) -> int:
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
                below = os.path.relpath(path, root)
                note_devices(connection, other)
                for table in (items, failures, folder_devices):
                    change = update(table).where(table.c.source_id == other)
                    moved = folder_below(table, below)
                    connection.execute(change.values(source_id=source_id, folder=moved))
                connection.execute(delete(sources).where(sources.c.id == other))
        return source_id

    def imported(self) -> int:
        with self._database.write() as connection:
            made = insert_into(connection, sources).values(path=IMPORTED_SOURCE, device=0)
            connection.execute(made.on_conflict_do_nothing())
            chosen = select(sources.c.id).where(sources.c.path == IMPORTED_SOURCE)
            return int(connection.execute(chosen).scalar_one())


def note_devices(connection: Connection, source_id: int) -> None:
    """Note the device of a source for each of its folders, before it becomes part of another."""
    found = select(sources.c.id, items.c.folder, sources.c.device).join(sources).distinct()
    note = insert_into(connection, folder_devices).from_select(
        ["source_id", "folder", "device"], found.where(sources.c.id == source_id)
    )
    connection.execute(note.on_conflict_do_nothing())


_SOURCES = select(sources.c.id, sources.c.path).where(sources.c.path != IMPORTED_SOURCE)


def _source_of(path: str, known: Iterable[tuple[int, str]]) -> tuple[int, str, str] | None:
    for source_id, root in known:
        if (rest := path_below(path, root)) is not None:
            return source_id, root, rest
    return None


def path_below(path: str, folder: str) -> str | None:
    """The part of a path below a folder, "" for the folder itself; None if it lies elsewhere."""
    if path == folder:
        return ""
    inside = folder.rstrip(os.sep) + os.sep
    return path[len(inside) :] if path.startswith(inside) else None


def at_or_below(column: ColumnElement[str], folder: str) -> ColumnElement[bool]:
    """Whether a column has the path of a folder, or one below it."""
    # a range, not LIKE: the index serves it, and no character is special in it
    base = folder.rstrip(os.sep)
    first, end = base + os.sep, base + chr(ord(os.sep) + 1)
    return or_(column == folder, (column >= first) & (column < end))


def folder_below(table: Any, below: str) -> Any:
    """The folder of a row of items or failures, seen from a folder that its source is `below`."""
    if not below:
        return table.c.folder
    place = literal(below, PATH)
    return case((table.c.folder == "", place), else_=place.concat(os.sep).concat(table.c.folder))


class IndexRoots(IndexRootStore):
    """The paths that the user gave to `index`, and how they are walked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[IndexRoot]:
        c = index_roots.c
        chosen = select(c.path, c.folder, c.exclude, c.include_hidden).order_by(c.path)
        return [
            IndexRoot(path, bool(folder), tuple(json.loads(exclude)), bool(hidden))
            for path, folder, exclude, hidden in self._database.rows(chosen)
        ]

    def add(self, given: Sequence[IndexRoot]) -> None:
        with self._database.write() as connection:
            for one in given:
                if one.folder:
                    connection.execute(_delete_roots(one.path))
                row = {
                    "path": one.path,
                    "folder": int(one.folder),
                    "exclude": json.dumps(list(one.exclude)),
                    "include_hidden": int(one.include_hidden),
                }
                put_rows(connection, index_roots, row)

    def remove(self, path: str) -> None:
        with self._database.write() as connection:
            connection.execute(_delete_roots(path))


def _delete_roots(path: str) -> Any:
    return delete(index_roots).where(at_or_below(index_roots.c.path, path))


class Failures(FailureStore):
    """Files that could not be used, and why."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __len__(self) -> int:
        return int(self._database.scalars(select(func.count()).select_from(failures))[0])

    def known(self, source_id: int, folder: str) -> dict[str, tuple[Stat, int | None] | None]:
        c = failures.c
        chosen = select(c.name, c.size, c.mtime_ns, c.ctime_ns, c.retry)
        rows = self._database.rows(chosen.where(c.source_id == source_id, c.folder == folder))
        return {
            name: None if retry else ((size, mtime_ns), ctime_ns)
            for name, size, mtime_ns, ctime_ns, retry in rows
        }

    def folders(self, source_id: int) -> set[str]:
        c = failures.c
        chosen = select(c.folder).where(c.source_id == source_id).distinct()
        return set(self._database.scalars(chosen))

    def add(self, records: Sequence[FailureRecord]) -> None:
        with self._database.write() as connection:
            put_failures(connection, records)

    def remove(self, source_id: int, folder: str, names: Iterable[str]) -> None:
        if rows := [{"name_": name} for name in names]:
            c = failures.c
            one = (c.source_id == source_id, c.folder == folder, c.name == bindparam("name_"))
            with self._database.write() as connection:
                connection.execute(delete(failures).where(*one), rows)

    def all(self) -> list[Failure]:
        c = failures.c
        chosen = select(sources.c.path, c.folder, c.name, c.reason, c.seen_at).join(sources)
        found = (
            Failure(os.path.join(root, folder, name).rstrip(os.sep), reason, seen_at)
            for root, folder, name, reason, seen_at in self._database.rows(chosen)
        )
        return sorted(found, key=lambda failure: failure.path)


def put_failures(connection: Connection, records: Sequence[FailureRecord]) -> None:
    """Store failures, each in place of an earlier one of the same file, in a transaction."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [
        {
            "source_id": one.source_id,
            "folder": one.folder,
            "name": one.name,
            "reason": one.reason,
            "seen_at": now,
            "size": one.stat and one.stat[0],
            "mtime_ns": one.stat and one.stat[1],
            "retry": int(one.retry),
            "ctime_ns": one.ctime_ns,
        }
        for one in records
    ]
    if rows:
        put_rows(connection, failures, rows)
