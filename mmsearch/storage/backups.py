"""Copies of a catalog: a rolling backup beside it, and putting one back in its place.

SQLite's online backup copies a catalog within one reading transaction, so that the copy is of one
moment, whoever writes meanwhile. It counts once it has been checked and is on the disk.
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
from fnmatch import fnmatch
from pathlib import Path

from mmsearch.errors import CatalogDamaged, IndexUnusable, InvalidOption, StorageFailed

CATALOG = "catalog.db"
FOLDER = "backups"
PART = f"{CATALOG}.part"
SIDES = ("-wal", "-shm", "-journal")
"""The endings of files that SQLite may have beside a database."""

KEPT = 1
"""Backups that are kept by default."""

SECONDS_APART = 3600
GROWTH = 2
"""A catalog that is this many times as large as its backup is backed up before its hour is over."""

PAGES_AT_ONCE = 2048
ROOM = 1.05
"""Free bytes that a copy needs for each byte of the catalog: file systems have a use for some."""

_NAME = "catalog-%Y%m%dT%H%M%SZ.db"


def all_of(folder: Path) -> list[Path]:
    """The backups of an index, the oldest first.

    Raises:
        StorageFailed: their folder cannot be read.
    """
    try:
        names = os.listdir(folder / FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageFailed(f"{folder / FOLDER} cannot be read: {error.strerror}") from error
    return sorted(folder / FOLDER / name for name in names if fnmatch(name, "catalog-*.db"))


def newest(folder: Path) -> Path | None:
    """The newest backup of an index, if there is one."""
    return next(reversed(all_of(folder)), None)


def time_of(backup: Path) -> str:
    """When a backup was made, for people."""
    return _made(backup).strftime("%Y-%m-%d %H:%M UTC")


def catalog_size(folder: Path) -> int | None:
    """Bytes of the catalog in an index folder; None if there is none.

    Raises:
        IndexUnusable: the folder cannot be read.
    """
    try:
        return (folder / CATALOG).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise IndexUnusable(f"{folder} cannot be read: {error.strerror}") from error


def check_there(folder: Path) -> None:
    """Check that a catalog of which there is a backup has not vanished.

    Raises:
        CatalogDamaged: it is gone, or empty.
        IndexUnusable: the index folder cannot be read.
    """
    size = catalog_size(folder)
    if not size and newest(folder):
        raise CatalogDamaged(folder / CATALOG, "it is gone" if size is None else "it is empty")


# ---------------------------------------------------------------------- rolling backups


def roll(folder: Path, keep: int = KEPT, *, now: bool = False) -> Path | None:
    """Make a backup, if one is due, and then delete the oldest beyond `keep`.

    The caller holds the writer's lock.

    Args:
        folder: The index's folder.
        keep: How many backups to keep; 0 makes none and deletes none.
        now: Whether to make one even if none is due.

    Raises:
        StorageFailed: it could not be made; the backups there are stay.
    """
    kept = all_of(folder)
    if keep < 1 or not (now or _is_due(folder, kept)):
        return None
    new = folder / FOLDER / _next_name(kept)
    with _failing("the backup of the index could not be made", "the index itself is kept"):
        new.parent.mkdir(exist_ok=True)
        with _part_of(new) as part:
            copy_catalog(folder / CATALOG, part)
            part.replace(new)
        _sync(new.parent)
        for old in [*kept, new][:-keep]:
            old.unlink(missing_ok=True)
    return new


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
    """A name that sorts after all others, whatever the clock says."""
    now = datetime.now(UTC)
    if kept:
        now = max(now, _made(kept[-1]) + timedelta(seconds=1))
    return now.strftime(_NAME)


# ---------------------------------------------------------------------- restoring


def restore(folder: Path) -> Path:
    """Put the newest good backup in place of the catalog; returns which it was.

    The catalog is kept as catalog.db.damaged-TIME. The restored one has a new id, so that no cache
    made after the backup passes for its own. The caller holds the writer's lock.

    Raises:
        IndexUnusable: there is no good backup.
        StorageFailed: it could not be written; nothing has changed then.
    """
    for backup in reversed(all_of(folder)):
        if fault_of(backup) is None:
            with _failing("the backup could not be restored", "it is kept"):
                _put_in_place(folder, backup)
            return backup
    raise IndexUnusable(
        f"there is no good backup of {folder / CATALOG}: delete its folder and index again"
    )


def _put_in_place(folder: Path, backup: Path) -> None:
    catalog = folder / CATALOG
    with _part_of(catalog) as part:
        _check_room(backup, folder)
        shutil.copyfile(backup, part)
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode=DELETE")  # so that it is one file
            new_id = f"UPDATE {_settings_of(copy)} SET value = ? WHERE key = 'catalog_id'"  # noqa: S608
            copy.execute(new_id, (uuid.uuid4().hex[:12],))
        _sync(part)
        _set_aside(catalog)
        part.replace(catalog)
    _sync(folder)


def _set_aside(catalog: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    aside = catalog.with_name(f"{catalog.name}.damaged-{stamp}")
    for side in (*SIDES, ""):  # its log first, or it would be taken for that of the other catalog
        with suppress(FileNotFoundError):
            catalog.with_name(catalog.name + side).replace(aside.with_name(aside.name + side))


def fault_of(path: Path) -> str | None:
    """What is wrong with a catalog that nobody writes to; reads all of it."""
    from mmsearch.storage.sqlite.database import APPLICATION_ID, driver_of  # SQLAlchemy is slow

    try:
        with closing(driver_of(path, settled=True)) as catalog:
            if catalog.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                return "it is not an mmsearch catalog"
            said = str(catalog.execute("PRAGMA quick_check(1)").fetchone()[0])
            id_ = f"SELECT 1 FROM {_settings_of(catalog)} WHERE key = 'catalog_id'"  # noqa: S608
            if catalog.execute(id_).fetchone() is None:
                return "it has no id"
    except sqlite3.Error as error:
        return str(error)
    return None if said == "ok" else said


def _settings_of(catalog: sqlite3.Connection) -> str:
    """The table of the settings: backups of older versions call it `state`."""
    old = "SELECT 1 FROM sqlite_master WHERE name = 'state'"
    return "state" if catalog.execute(old).fetchone() else "settings"


# ---------------------------------------------------------------------- copies


def copy_catalog(source: Path, target: Path) -> None:
    """Copy a catalog as it is at this moment, whoever writes; then it is whole and on the disk.

    Raises:
        OSError, sqlite3.Error: it could not be read or written, or is damaged.
    """
    from mmsearch.storage.sqlite.database import READ_SOMETHING, driver_of

    _check_room(source, target.parent)
    with closing(driver_of(source)) as catalog, closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA journal_mode=OFF")  # it is thrown away if it does not come to its end
        copy.execute("PRAGMA synchronous=OFF")
        catalog.execute("BEGIN")
        catalog.execute(READ_SOMETHING)
        catalog.backup(copy, pages=PAGES_AT_ONCE)
    if fault := fault_of(target):
        raise sqlite3.DatabaseError(f"its copy is not whole ({fault}); see `mmsearch doctor`")
    _sync(target)


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
    with _failing("the index could not be copied", "it is as it was"):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
        part.mkdir()
        try:
            # caches first: those of a later moment than the catalog's would know too much
            _copy_caches(folder / "cache", part / "cache")
            copy_catalog(folder / CATALOG, part / CATALOG)
            size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
            with suppress(FileNotFoundError):
                target.rmdir()
            part.replace(target)
            _sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return size


def _copy_caches(cache: Path, target: Path) -> None:
    for file in cache.rglob("*"):
        if file.is_file() and file.suffix != ".part":
            copied = target / file.relative_to(cache)
            copied.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another has just taken its place
                shutil.copy2(file, copied)


@contextmanager
def _failing(what: str, kept: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        said = getattr(error, "strerror", None) or error
        raise StorageFailed(f"{what}: {said}; {kept}") from error


@contextmanager
def _part_of(file: Path) -> Iterator[Path]:
    """The name under which a catalog is written before it takes its place; then it is gone."""
    part = file.with_name(PART)
    _delete(part)  # that of a process that was killed
    try:
        yield part
    finally:
        _delete(part)


def _delete(catalog: Path) -> None:
    for side in ("", *SIDES):
        catalog.with_name(catalog.name + side).unlink(missing_ok=True)


def _check_room(source: Path, folder: Path) -> None:
    """A disk is not filled to the brim for a copy that will not fit on it."""
    needed = int(source.stat().st_size * ROOM)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free // 2**20} MiB free, {needed // 2**20 + 1} MiB are needed"
        )


def _sync(path: Path) -> None:
    """Have a file, or the list of a folder's files, on the disk for good."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
