"""Whether a catalog's file is all there: told from its length, at the cost of two stats.

What is wrong inside of it shows when it is read; `PRAGMA quick_check` reads all of it.
Source of the layout: https://www.sqlite.org/fileformat2.html, sections 1.3 and 4.
"""

from __future__ import annotations

import struct
from pathlib import Path

from sqlalchemy import Connection

from mmsearch.errors import CatalogDamaged

SMALLEST = 512
"""Bytes of the smallest page there is: SQLite takes a file of one byte for an empty one."""

LOG_HEADER, FRAME_HEADER = 32, 24
"""Bytes at the beginning of a write-ahead log, and before each page in it."""

LOCK_BYTE = 1 << 30
"""The page that has it holds nothing, and need not be there."""


def check_beginning(path: Path) -> None:
    """A file that is too short to be a database is no new one.

    Raises:
        CatalogDamaged: it is.
    """
    if path.is_file() and 0 < path.stat().st_size < SMALLEST and not _log_of(path):
        raise CatalogDamaged(path, "it is cut short")


def check_whole(connection: Connection, path: Path) -> None:
    """Each page that the catalog says it has is in its file, or in the log beside it.

    Args:
        connection: In a transaction, so that what the log has is not moved meanwhile.
        path: Of the catalog.

    Raises:
        CatalogDamaged: pages are missing.
    """
    pages = _pragma(connection, "page_count")
    size = _pragma(connection, "page_size")
    there = path.stat().st_size // size
    if there >= pages:
        return
    missing = set(range(there + 1, pages + 1)) - {LOCK_BYTE // size + 1}
    missing -= _logged(_log_of(path), size)
    if missing:
        why = f"it is cut short, {len(missing)} of its {pages} pages are missing"
        raise CatalogDamaged(path, why)


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _log_of(path: Path) -> Path | None:
    log = path.with_name(f"{path.name}-wal")
    return log if log.is_file() and log.stat().st_size > LOG_HEADER else None


def _logged(log: Path | None, size: int) -> set[int]:
    """The numbers of the pages that a write-ahead log holds."""
    if log is None:
        return set()
    found = set()
    with log.open("rb") as file:
        salts = file.read(LOG_HEADER)[16:24]
        # frames of an earlier use of the log have other salts and hold nothing that counts
        while len(header := file.read(FRAME_HEADER)) == FRAME_HEADER and header[8:16] == salts:
            found.add(struct.unpack(">I", header[:4])[0])
            file.seek(size, 1)
    return found
