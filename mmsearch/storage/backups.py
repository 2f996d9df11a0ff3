"""Copies of a catalog: a rolling backup beside it, and how one takes its place again.

A copy is made by SQLite's online backup within one reading transaction, so that it is the catalog
of one moment, whoever writes meanwhile. It counts once it has been checked and is on the disk.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mmsearch.errors import CatalogDamaged, IndexUnusable, InvalidOption, StorageFailed

CATALOG = "catalog.db"
FOLDER = "backups"
PART = f"{CATALOG}.part"
SIDES = ("-wal", "-shm", "-journal")
"""What SQLite may have beside a database."""

KEPT = 1
"""Backups that are kept unless something else is asked for."""

SECONDS_APART = 3600
GROWTH = 2
"""A catalog that is this many times as large as its backup is backed up before its hour is over."""

PAGES_AT_ONCE = 2048
ROOM = 1.05
"""Free bytes that a copy needs, for each byte of the catalog: a file system has its own uses."""

_NAME = "catalog-%Y%m%dT%H%M%SZ.db"


def all_of(folder: Path) -> list[Path]:
    """The backups of an index, the oldest first."""
    return sorted((folder / FOLDER).glob("catalog-*.db"))


def newest(folder: Path) -> Path | None:
    """The last backup of an index, if there is one."""
    return next(reversed(all_of(folder)), None)


def time_of(backup: Path) -> str:
    """When a backup was made, for people."""
    return _made(backup).strftime("%Y-%m-%d %H:%M UTC")


def check_there(folder: Path) -> None:
    """A catalog of which there is a backup is there.

    Raises:
        CatalogDamaged: it is gone, or empty.
    """
    catalog = folder / CATALOG
    if not (catalog.is_file() and catalog.stat().st_size) and newest(folder):
        raise CatalogDamaged(catalog, "it is empty" if catalog.exists() else "it is gone")


def roll(folder: Path, keep: int = KEPT) -> Path | None:
    """A new backup, if one is due; the oldest beyond `keep` go, but only then.

    Who calls holds the writer's lock.

    Args:
        folder: The index's.
        keep: How many; 0 makes none and deletes none.

    Raises:
        StorageFailed: it could not be made; what there was is still there.
    """
    kept = all_of(folder)
    if keep < 1 or not _is_due(folder, kept):
        return None
    new = folder / FOLDER / _next_name(kept)
    with _told("the backup of the index could not be made", "the index itself is kept"):
        new.parent.mkdir(exist_ok=True)
        part = new.with_name(PART)
        _forget(part)  # of a process that was killed
        try:
            copy_catalog(folder / CATALOG, part)
            part.replace(new)
        finally:
            _forget(part)
        _settle(new.parent)
        for old in [*kept, new][:-keep]:
            old.unlink(missing_ok=True)
    return new


def restore(folder: Path) -> Path:
    """Put the newest good backup in the place of the catalog; returns which it was.

    What was there is kept as catalog.db.damaged-TIME. The restored catalog has a new id: caches
    that were made after the backup are none of it. Who calls holds the writer's lock.

    Raises:
        IndexUnusable: there is no good backup.
        StorageFailed: it could not be written; nothing has changed then.
    """
    for backup in reversed(all_of(folder)):
        if fault_of(backup) is None:
            with _told("the backup could not be restored", "it is kept"):
                _bring_back(folder, backup)
            return backup
    raise IndexUnusable(
        f"there is no good backup of {folder / CATALOG}: delete its folder and index again"
    )


def fault_of(path: Path) -> str | None:
    """What is wrong with a catalog that nobody writes to; reads all of it."""
    from mmsearch.storage.sqlite.schema import (  # SQLAlchemy takes long to import
        APPLICATION_ID,
        driver_of,
    )

    try:
        with closing(driver_of(path, settled=True)) as there:
            if there.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                return "it is not an mmsearch catalog"
            said = str(there.execute("PRAGMA quick_check(1)").fetchone()[0])
            known = there.execute("SELECT 1 FROM state WHERE key = 'catalog_id'").fetchone()
    except sqlite3.Error as error:
        return str(error)
    if known is None:
        return "it has no id"
    return None if said == "ok" else said


def copy_catalog(source: Path, target: Path) -> None:
    """Copy a catalog as it is at this moment, whoever writes; then it is whole and on the disk.

    Raises:
        OSError, sqlite3.Error: it could not be read or written, or is damaged.
    """
    from mmsearch.storage.sqlite.schema import driver_of

    _check_room(source, target.parent)
    with closing(driver_of(source)) as there, closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA journal_mode=OFF")  # it is thrown away if it does not come to its end
        copy.execute("PRAGMA synchronous=OFF")
        there.execute("BEGIN")
        there.execute("SELECT 1 FROM state LIMIT 1")  # the moment that is copied
        there.backup(copy, pages=PAGES_AT_ONCE)
    if fault := fault_of(target):
        raise sqlite3.DatabaseError(f"its copy is not whole ({fault}); see `mmsearch doctor`")
    _settle(target)


def copy_index(folder: Path, target: Path) -> int:
    """Copy an index, in use or not, to a new folder that opens as one; returns its bytes.

    Raises:
        InvalidOption: there is something at `target`, or it lies in the index.
        StorageFailed: it could not be copied; nothing is left of the attempt.
    """
    target = Path(os.path.realpath(target))
    if target.is_relative_to(os.path.realpath(folder)):
        raise InvalidOption(f"{target} lies in the index itself: name another folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidOption(f"{target} is there already: name a folder that is new or empty")
    with _told("the index could not be copied", "it is as it was"):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
        part.mkdir()
        try:
            # caches first: those of a later moment than the catalog's would know too much
            _copy_caches(folder / "cache", part / "cache")
            copy_catalog(folder / CATALOG, part / CATALOG)
            size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
            _take_place(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return size


# ---------------------------------------------------------------------- parts of the above


@contextmanager
def _told(what: str, kept: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        said = getattr(error, "strerror", None) or error
        raise StorageFailed(f"{what}: {said}; {kept}") from error


def _is_due(folder: Path, kept: list[Path]) -> bool:
    if not kept:
        return True
    last = kept[-1].stat()
    age = time.time() - last.st_mtime
    grown = (folder / CATALOG).stat().st_size >= GROWTH * last.st_size
    return grown or not 0 <= age < SECONDS_APART  # a clock that was set back makes it due as well


def _made(backup: Path) -> datetime:
    try:
        return datetime.strptime(backup.name, _NAME).replace(tzinfo=UTC)
    except ValueError:  # somebody renamed it
        return datetime.fromtimestamp(backup.stat().st_mtime, UTC)


def _next_name(kept: list[Path]) -> str:
    """Names rise, whatever the clock does, so that the newest is the last."""
    now = datetime.now(UTC)
    if kept:
        now = max(now, _made(kept[-1]) + timedelta(seconds=1))
    return now.strftime(_NAME)


def _check_room(source: Path, folder: Path) -> None:
    """A disk is not filled to the brim for a copy that will not fit on it."""
    needed = int(source.stat().st_size * ROOM)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free // 2**20} MiB free, {needed // 2**20 + 1} MiB are needed"
        )


def _bring_back(folder: Path, backup: Path) -> None:
    catalog, part = folder / CATALOG, folder / PART
    _forget(part)
    _check_room(backup, folder)
    try:
        shutil.copyfile(backup, part)
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode=DELETE")  # so that nothing of it stands beside it
            id_ = uuid.uuid4().hex[:12]
            copy.execute("UPDATE state SET value = ? WHERE key = 'catalog_id'", (id_,))
        _settle(part)
        _set_aside(catalog)
        part.replace(catalog)
    finally:
        _forget(part)
    _settle(folder)


def _set_aside(catalog: Path) -> None:
    """Its log goes first: with another catalog it would be taken for the log of that one."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    aside = catalog.with_name(f"{catalog.name}.damaged-{stamp}")
    for side in (*SIDES, ""):
        with suppress(FileNotFoundError):
            catalog.with_name(catalog.name + side).replace(aside.with_name(aside.name + side))


def _copy_caches(cache: Path, target: Path) -> None:
    for file in cache.rglob("*"):
        if file.is_file() and file.suffix != ".part":
            copied = target / file.relative_to(cache)
            copied.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another has just taken its place
                shutil.copy2(file, copied)


def _take_place(part: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        target.rmdir()
    part.replace(target)
    _settle(target.parent)


def _forget(part: Path) -> None:
    for side in ("", *SIDES):
        part.with_name(part.name + side).unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Have a file, or what a folder lists, on the disk for good."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
