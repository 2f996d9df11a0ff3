"""What a scan compares the disk with: the files of the items."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from mmsearch.storage.records import IMPORTED_SOURCE, KnownFile, StoredFile, split_path
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.records import written
from mmsearch.storage.sqlite.schema import failures as failed
from mmsearch.storage.sqlite.schema import items, sources
from mmsearch.storage.sqlite.sources import at_or_below
from mmsearch.types import Kind

MOST_TWINS = 20
"""Files of one content that are looked at for one that is gone."""


class Files:
    """Reads what is stored of files, by folder, path and content."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, source_id: int, folder: str) -> dict[str, KnownFile]:
        """The stored files that lie directly in a folder, by name."""
        rows = self._database.driver_rows(_KNOWN, (source_id, written(folder)))
        return {row[0]: KnownFile._make(row) for row in rows}

    def readings(self, item_id: int) -> frozenset[str]:
        """What has been read from an item besides its pixels and samples: "ocr", "speech"."""
        found = self._database.scalars(select(items.c.readings).where(items.c.id == item_id))
        return frozenset(found[0].split() if found else ())

    def folders(self, source_id: int, below: str) -> set[str]:
        """The folders at and below a folder of a source that hold items or failures."""
        found: set[str] = set()
        for table in (items, failed):
            where = [table.c.source_id == source_id]
            if below:
                where.append(at_or_below(table, below))
            found.update(self._database.scalars(select(table.c.folder).where(*where).distinct()))
        return found

    def duplicates_of(self, hash_: bytes, kind: Kind) -> list[tuple[int, str, int, str]]:
        """(item id, source path, source device, file path) of files of this content, a few."""
        rows = self._database.driver_rows(_TWINS, (hash_, kind, MOST_TWINS))
        return [
            (id_, root, device, os.path.join(root, folder, name))
            for id_, root, device, folder, name in rows
        ]

    def at(self, source_id: int, folder: str, name: str) -> StoredFile | None:
        """The item of a file in a source."""
        return self._one(items.c.source_id == source_id, folder, name)

    def imported(self, path: str) -> StoredFile | None:
        """The item of this path, or address, that lies in no folder we know."""
        return self._one(sources.c.path == IMPORTED_SOURCE, *split_path(path))

    def _one(self, source: Any, folder: str, name: str) -> StoredFile | None:
        c = items.c
        query = select(c.id, c.modality, c.size, c.mtime_ns, c.hash, sources.c.path)
        query = query.join(sources).where(source, c.folder == folder, c.name == name)
        for id_, kind, size, mtime_ns, hash_, root in self._database.rows(query):
            return StoredFile(id_, kind, (size, mtime_ns), hash_, root == IMPORTED_SOURCE)
        return None

    def all(self, page: int = 20_000) -> Iterator[tuple[int, str, str, str]]:
        """(id, source, folder below it, name) of every item in order of id, read page by page."""
        c = items.c
        base = select(c.id, sources.c.path, c.folder, c.name).join(sources).order_by(c.id)
        last = 0
        while rows := self._database.rows(base.where(c.id > last).limit(page)):
            yield from map(tuple, rows)
            last = rows[-1].id


_KNOWN = (
    "SELECT name, id, size, mtime_ns, sidecar_size, sidecar_mtime_ns, hash, nullif(readings, '') "
    "FROM items WHERE source_id = ? AND folder = CAST(? AS TEXT)"
)

_TWINS = (
    "SELECT items.id, sources.path, sources.device, folder, name FROM items JOIN sources "
    "ON sources.id = source_id WHERE hash = ? AND modality = ? "
    "ORDER BY items.id LIMIT ?"
)
