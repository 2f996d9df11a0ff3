"""What a scan compares the disk with: the files of the items."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    select,
)

from mmsearch.media.file_state import Stat
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.items import split_path
from mmsearch.storage.sqlite.records import written
from mmsearch.storage.sqlite.schema import failures as failed
from mmsearch.storage.sqlite.schema import (
    items,
    sources,
)
from mmsearch.storage.sqlite.sources import at_or_below
from mmsearch.storage.sqlite.spaces import ELSEWHERE
from mmsearch.types import Kind

MOST_TWINS = 20
"""Files of one content that are looked at for one that is gone."""

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the catalog holds of a file that may have changed since."""

    id: int
    stat: Stat
    sidecar: Stat | None
    hash: bytes
    readings: frozenset[str] = frozenset()

    @classmethod
    def of(cls, row: KnownRow) -> KnownFile:
        """The same in words."""
        _, id_, size, mtime, side, side_mtime, hash_, readings = row
        sidecar = None if side is None or side_mtime is None else (side, side_mtime)
        return cls(id_, (size, mtime), sidecar, hash_, _split(readings))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An item as its path finds it.

    Attributes:
        imported: Whether its vectors came without a file in an indexed folder.
    """

    id: int
    kind: Kind
    stat: Stat
    hash: bytes
    imported: bool = False


KnownRow = tuple[str, int, int, int, int | None, int | None, bytes, str | None]
"""name, id, size, mtime_ns, the sidecar's size and mtime_ns, hash, readings: as the driver has it.

A scan compares a hundred thousand of these in a second, and so it makes no object of any of them
that is as it was.
"""


class Files:
    """Reads what is stored of files, by folder, path and content."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, source_id: int, folder: str) -> dict[str, KnownFile]:
        """What is stored of the files that lie directly in a folder, by name."""
        rows = self.known_rows(source_id, folder)
        return {name: KnownFile.of(row) for name, row in rows.items()}

    def known_rows(self, source_id: int, folder: str) -> dict[str, KnownRow]:
        """The same as rows."""
        found = self._database.driver_rows(_KNOWN, (source_id, written(folder)))
        return {row[0]: row for row in found}

    def readings(self, item_id: int) -> frozenset[str]:
        """What has been read from an item besides its pixels and samples: "ocr", "speech"."""
        found = self._database.scalars(select(items.c.readings).where(items.c.id == item_id))
        return _split(found[0]) if found else _NONE

    def folders(self, source_id: int, below: str) -> set[str]:
        """The folders at and below a folder of a source that hold items or failures."""
        found: set[str] = set()
        for table in (items, failed):
            where = [table.c.source_id == source_id]
            if below:
                where.append(at_or_below(table, below))
            found.update(self._database.scalars(select(table.c.folder).where(*where).distinct()))
        return found

    def duplicates_of(self, hash_: bytes, modality: Kind) -> list[tuple[int, str, int, str]]:
        """(item id, source path, source device, file path) of files of this content, a few."""
        rows = self._database.driver_rows(_TWINS, (hash_, modality, MOST_TWINS))
        return [
            (id_, root, device, os.path.join(root, folder, name))
            for id_, root, device, folder, name in rows
        ]

    def at(self, source_id: int, folder: str, name: str) -> StoredFile | None:
        """The item of a file in a source."""
        return self._one(items.c.source_id == source_id, folder, name)

    def imported(self, path: str) -> StoredFile | None:
        """The item of this path, or address, that lies in no folder we know."""
        return self._one(sources.c.path == ELSEWHERE, *split_path(path))

    def _one(self, source: Any, folder: str, name: str) -> StoredFile | None:
        c = items.c
        query = select(c.id, c.modality, c.size, c.mtime_ns, c.hash, sources.c.path)
        query = query.join(sources).where(source, c.folder == folder, c.name == name)
        for id_, kind, size, mtime_ns, hash_, root in self._database.rows(query):
            return StoredFile(id_, kind, (size, mtime_ns), hash_, root == ELSEWHERE)
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


def _split(readings: str | None) -> frozenset[str]:
    return frozenset(readings.split()) if readings else _NONE
