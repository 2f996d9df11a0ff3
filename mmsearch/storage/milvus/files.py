"""What a scan compares the disk with: indexed folders, the files in them, and failures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmsearch.media.file_state import Stat
from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import DUMMY, Database, Write
from mmsearch.storage.milvus.layout import (
    FAILURES,
    ITEMS,
    place_key,
    quoted,
    stored_text,
)
from mmsearch.storage.milvus.row_updates import (
    forget_folders,
    note_folders,
    put_failures,
    refresh_copies,
)
from mmsearch.storage.records import (
    IMPORTED_SOURCE,
    FailureRecord,
    IndexRoot,
    KnownFile,
    StoredFile,
    bounds,
    split_path,
)
from mmsearch.storage.store import FailureStore, FileStore, IndexRootStore, SourceStore
from mmsearch.storage.stored_text import text_of
from mmsearch.types import Failure, Kind

MAX_DUPLICATES = 20
"""Files of one content that are looked at to find one that is gone from the disk."""

_SOURCES, _DEVICES, _ROOTS = "sources", "folder devices", "roots"


def at_or_below(field: str, folder: str) -> str:
    """The expression that a field has the path of a folder, or one below it."""
    base = folder.rstrip(os.sep)
    first, end = base + os.sep, base + chr(ord(os.sep) + 1)
    equal = f"{field} == {quoted(folder)}"
    return f"({equal} or ({field} >= {quoted(first)} and {field} < {quoted(end)}))"


class Sources(SourceStore):
    """The indexed folders, none inside another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _sources(self) -> dict[int, tuple[str, int]]:
        found = self._database.json(_SOURCES, {})
        return {int(id_): (path, device) for id_, (path, device) in found.items()}

    def _put(self, write: Write, sources: Mapping[int, tuple[str, int]]) -> None:
        write.put_json(_SOURCES, {str(id_): one for id_, one in sources.items()})

    def _devices(self) -> dict[tuple[int, str], int]:
        found = self._database.json(_DEVICES, [])
        return {(source, folder): device for source, folder, device in found}

    def _put_devices(self, write: Write, devices: Mapping[tuple[int, str], int]) -> None:
        write.put_json(_DEVICES, [[*place, device] for place, device in devices.items()])

    def roots(self) -> dict[int, str]:
        """The path of every source, that of imported items included."""
        return {id_: path for id_, (path, _) in self._sources().items()}

    def known(self, path: str) -> int | None:
        """The id of the source of a path."""
        return next((id_ for id_, one in self.roots().items() if one == path), None)

    def place_of(self, source_id: int, folder: str) -> tuple[str, str, int]:
        """(path of a source, folder if that is on a device of its own, the device)."""
        path, device = self._sources()[source_id]
        own = self._devices().get((source_id, folder))
        return path, "" if own is None else folder, device if own is None else own

    def all(self) -> list[tuple[int, str]]:
        return [(id_, path) for id_, path in self.roots().items() if path != IMPORTED_SOURCE]

    def device(self, source_id: int) -> int:
        return self._sources()[source_id][1]

    def set_device(self, source_id: int, device: int) -> None:
        with self._database.write() as write:
            sources = self._sources()
            sources[source_id] = sources[source_id][0], device
            self._put(write, sources)

    def folder_devices(self, source_id: int) -> dict[str, int]:
        there = self._devices().items()
        return {folder: device for (source, folder), device in there if source == source_id}

    def set_folder_devices(self, source_id: int, devices: Mapping[str, int | None]) -> None:
        with self._database.write() as write:
            there = self._devices()
            for folder, device in devices.items():
                there.pop((source_id, folder), None)
                if device is not None:
                    there[source_id, folder] = device
            self._put_devices(write, there)

    def of(self, path: str) -> tuple[int, str, str] | None:
        for id_, root in self.all():
            if path == root:
                return id_, root, ""
            inside = root.rstrip(os.sep) + os.sep
            if path.startswith(inside):
                return id_, root, path[len(inside) :]
        return None

    def add(self, root: str, device: int = 0) -> int:
        inside = root.rstrip(os.sep) + os.sep
        with self._database.write() as write:
            if (known := self.of(root)) is not None:
                return known[0]
            new = write.next("sources")
            sources = self._sources()
            taken_in = [
                [id_, os.path.relpath(path, root)]
                for id_, (path, _) in sources.items()
                if path.startswith(inside)
            ]
            if taken_in:
                merge: dict[str, Any] = {
                    "new": new,
                    "root": root,
                    "device": device,
                    "taken_in": taken_in,
                }
                write.vectors = True
                write.intend({"merge": merge})
                merge_sources(write, **merge)
            else:
                self._put(write, {**sources, new: (root, device)})
            return new

    def imported(self) -> int:
        if (known := self.known(IMPORTED_SOURCE)) is not None:
            return known
        with self._database.write() as write:
            new = write.next("sources")
            self._put(write, {**self._sources(), new: (IMPORTED_SOURCE, 0)})
            return new

    def forget(self, write: Write, source_id: int) -> None:
        """Forget a source that holds nothing any more."""
        sources = self._sources()
        sources.pop(source_id, None)
        self._put(write, sources)
        devices = self._devices()
        self._put_devices(write, {k: v for k, v in devices.items() if k[0] != source_id})


def merge_sources(
    write: Write, new: int, root: str, device: int, taken_in: Sequence[tuple[int, str]]
) -> None:
    """Make a source of those inside it; may be done again until it is done.

    Args:
        write: The write.
        new: The id of the new source.
        root: Its path.
        device: Its device.
        taken_in: The id of each source that becomes a part of it, and its path below that.
    """
    database, client = write.database, write.client
    sources = Sources(database)
    known, devices = sources._sources(), sources._devices()  # noqa: SLF001 - its other half
    for other, below in taken_in:
        if other not in known:
            continue
        folders = database.collection("folders")
        noted = {
            text_of(row["folder"]): known[other][1]
            for row in client.query(folders, f"source_id == {other}", ["folder"])
        }
        items = database.collection("items")
        noted |= {folder: its for (id_, folder), its in devices.items() if id_ == other}
        for folder, its in noted.items():
            devices.pop((other, folder), None)
            devices[new, os.path.join(below, folder).rstrip(os.sep)] = its
        note_folders(database, {(new, os.path.join(below, f).rstrip(os.sep)) for f in noted})
        for table, fields in ((items, ITEMS), (database.collection("failures"), FAILURES)):
            stored = [name for name in fields if name != "dummy"]
            while rows := client.query(table, f"source_id == {other}", stored, 1000):
                moved = [_moved(row, new, below) for row in rows]
                client.upsert(table, moved)
                if table == items:
                    for row in moved:
                        row["words_due"] = write.number
                    refresh_copies(database, [row["id"] for row in rows])
                else:  # their keys are of their places
                    client.delete_among(table, "id", [row["id"] for row in rows])
        client.delete(folders, f"source_id == {other}")
        del known[other]
    database.known_folders.clear()
    sources._put(write, {**known, new: (root, device)})  # noqa: SLF001
    sources._put_devices(write, devices)  # noqa: SLF001


def _moved(row: Row, source_id: int, below: str) -> Row:
    folder = os.path.join(below, text_of(row["folder"])).rstrip(os.sep)
    place = place_key(source_id, folder, text_of(row["name"]))
    moved = {
        **row,
        "source_id": source_id,
        "folder": stored_text(folder),
        "folder_key": place_key(source_id, folder),
        "dummy": DUMMY,
    }
    return moved | ({"place": place} if "place" in row else {"id": place})


_KNOWN_FIELDS = [
    *("name", "id", "size", "mtime_ns", "sidecar_size", "sidecar_mtime_ns", "ctime_ns"),
    *("hash", "readings"),
]

_FOUND = ["id", "kind", "size", "mtime_ns", "hash", "ctime_ns", "source_id", "folder", "name"]


class Files(FileStore):
    """Finds the files of the items by folder, path and content."""

    def __init__(self, database: Database, sources: Sources) -> None:
        self._database = database
        self._sources = sources

    def known(self, source_id: int, folder: str, prefix: str = "") -> dict[str, KnownFile]:
        where = f"folder_key == {quoted(place_key(source_id, folder))}"
        if prefix:
            first, end = bounds(prefix)
            where += f" and name >= {quoted(first)} and name < {quoted(end)}"
        rows = self._database.client.query(self._database.collection("items"), where, _KNOWN_FIELDS)
        return {
            name: KnownFile(
                name,
                row["id"],
                row["size"],
                row["mtime_ns"],
                row["sidecar_size"],
                row["sidecar_mtime_ns"],
                row["ctime_ns"],
                bytes.fromhex(row["hash"]),
                row["readings"] or None,
            )
            for row in rows
            for name in (text_of(row["name"]),)
            if name.startswith(prefix)
        }

    def set_change_times(self, rows: Sequence[tuple[int, int]]) -> None:
        times = {int(id_): ctime_ns for id_, ctime_ns in rows}
        stored = [name for name in ITEMS if name != "dummy"]
        with self._database.write() as write:
            items = self._database.collection("items")
            ids = sorted(times)
            for start in range(0, len(ids), 1000):
                found = write.client.among(items, "id", ids[start : start + 1000], stored)
                changed = [{**r, "ctime_ns": times[r["id"]], "dummy": DUMMY} for r in found]
                write.client.upsert(items, changed)

    def readings(self, item_id: int) -> frozenset[str]:
        rows = self._rows(f"id == {item_id}", ["readings"], 1)
        return frozenset(rows[0]["readings"].split() if rows else ())

    def folders(self, source_id: int, below: str) -> set[str]:
        where = f"source_id == {source_id}"
        if below:
            where = f"{where} and {at_or_below('folder', below)}"
        folders = self._database.collection("folders")
        return {
            text_of(row["folder"])
            for rows in self._database.client.iterate(folders, where, ["folder"], 16_384)
            for row in rows
        }

    def duplicates_of(self, hash_: bytes, kind: Kind) -> list[tuple[int, str, str, int, str]]:
        where = f"hash == {quoted(hash_.hex())} and kind == {quoted(kind)}"
        rows = self._rows(where, ["id", "source_id", "folder", "name"], MAX_DUPLICATES)
        found = []
        for row in sorted(rows, key=lambda row: int(row["id"])):
            folder = text_of(row["folder"])
            root, own_folder, device = self._sources.place_of(row["source_id"], folder)
            path = os.path.join(root, folder, text_of(row["name"]))
            found.append((row["id"], root, own_folder, device, path))
        return found

    def at(self, source_id: int, folder: str, name: str) -> StoredFile | None:
        found = self._find(f"place == {quoted(place_key(source_id, folder, name))}")
        return None if found is None else found[2]

    def imported(self, path: str) -> StoredFile | None:
        source = self._sources.known(IMPORTED_SOURCE)
        return None if source is None else self.at(source, *split_path(path))

    def of(self, item_id: int) -> tuple[str, str, StoredFile] | None:
        return self._find(f"id == {item_id}")

    def _find(self, where: str) -> tuple[str, str, StoredFile] | None:
        for row in self._rows(where, _FOUND, 1):
            root = self._sources.roots().get(row["source_id"], "")
            stored = StoredFile(
                row["id"],
                row["kind"],
                (row["size"], row["mtime_ns"]),
                bytes.fromhex(row["hash"]),
                root == IMPORTED_SOURCE,
                row["ctime_ns"],
            )
            return root, os.path.join(root, text_of(row["folder"]), text_of(row["name"])), stored
        return None

    def _rows(self, where: str, fields: list[str], limit: int) -> list[Row]:
        items = self._database.collection("items")
        return self._database.client.query(items, where, fields, limit)

    def all(self, page: int = 20_000) -> Iterator[tuple[int, str, str, str]]:
        items, fields = self._database.collection("items"), ["id", "source_id", "folder", "name"]
        for rows in self._database.client.iterate(items, "id > 0", fields, page):
            roots = self._sources.roots()
            for row in rows:
                root = roots.get(row["source_id"], "")
                yield row["id"], root, text_of(row["folder"]), text_of(row["name"])


class IndexRoots(IndexRootStore):
    """The paths that the user gave to `index`, and how they are walked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _roots(self) -> dict[str, IndexRoot]:
        found = self._database.json(_ROOTS, [])
        return {
            path: IndexRoot(path, folder, tuple(exclude), hidden)
            for path, folder, exclude, hidden in found
        }

    def _put(self, write: Write, roots: Mapping[str, IndexRoot]) -> None:
        listed = [
            [one.path, one.folder, list(one.exclude), one.include_hidden] for one in roots.values()
        ]
        write.put_json(_ROOTS, listed)

    def all(self) -> list[IndexRoot]:
        return [one for _, one in sorted(self._roots().items())]

    def add(self, given: Sequence[IndexRoot]) -> None:
        with self._database.write() as write:
            roots = self._roots()
            for one in given:
                if one.folder:
                    roots = _without(roots, one.path)
                roots[one.path] = one
            self._put(write, roots)

    def remove(self, path: str) -> None:
        with self._database.write() as write:
            self._put(write, _without(self._roots(), path))


def _without(roots: Mapping[str, IndexRoot], path: str) -> dict[str, IndexRoot]:
    """Roots but those at and below a path."""
    inside = path.rstrip(os.sep) + os.sep
    kept = roots.items()
    return {one: root for one, root in kept if one != path and not one.startswith(inside)}


class Failures(FailureStore):
    """Files that could not be used, and why."""

    def __init__(self, database: Database, sources: Sources) -> None:
        self._database = database
        self._sources = sources

    @property
    def _name(self) -> str:
        return self._database.collection("failures")

    def __len__(self) -> int:
        return self._database.client.count(self._name)

    def known(self, source_id: int, folder: str) -> dict[str, tuple[Stat, int | None] | None]:
        where = f"folder_key == {quoted(place_key(source_id, folder))}"
        fields = ["name", "size", "mtime_ns", "ctime_ns", "retry"]
        return {
            text_of(row["name"]): None
            if row["retry"]
            else ((row["size"], row["mtime_ns"]), row["ctime_ns"])
            for row in self._database.client.query(self._name, where, fields)
        }

    def folders(self, source_id: int) -> set[str]:
        where = f"source_id == {source_id}"
        return {
            text_of(row["folder"])
            for row in self._database.client.query(self._name, where, ["folder"])
        }

    def add(self, records: Sequence[FailureRecord]) -> None:
        with self._database.write():
            put_failures(self._database, records)

    def remove(self, source_id: int, folder: str, names: Iterable[str]) -> None:
        keys = [place_key(source_id, folder, name) for name in names]
        if keys:
            with self._database.write() as write:
                write.client.delete_among(self._name, "id", keys)
                forget_folders(self._database, {(source_id, folder)})

    def all(self) -> list[Failure]:
        roots = self._sources.roots()
        fields: list[Any] = ["id", "source_id", "folder", "name", "reason", "seen_at"]
        found = [
            Failure(
                os.path.join(
                    roots.get(row["source_id"], ""), text_of(row["folder"]), text_of(row["name"])
                ).rstrip(os.sep),
                text_of(row["reason"]),
                row["seen_at"],
            )
            for rows in self._database.client.iterate(self._name, 'id != ""', fields)
            for row in rows
        ]
        return sorted(found, key=lambda failure: failure.path)
