"""The catalog's file itself, its backups, and what was left behind beside it."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mmsearch.collection.doctor.finding import SHOWN, Finding, ok
from mmsearch.errors import CatalogDamaged, IndexUnusable, StorageFailed
from mmsearch.storage import backups
from mmsearch.storage.sqlite.database import driver_of

FILE = "catalog file"
INTEGRITY, BACKUPS, LEFTOVERS = "integrity", "backups", "leftovers"

ABANDONED = 3600
"""Seconds after which a file that is still being written is taken for left behind."""

MOST_FAULTS = 20
REPAIR = "mmsearch doctor --repair"
START_ANEW = "no good backup is there: delete the index folder and index again"


def check_whole(folder: Path, *, repair: bool) -> Finding:
    """Whether the file is all there, and a catalog that this version knows."""
    from mmsearch.storage.sqlite import Catalog

    try:
        backups.check_there(folder)
        Catalog(folder / backups.CATALOG).close()
    except CatalogDamaged as error:
        return mended(folder, error.why, FILE, repair=repair)
    size = (folder / backups.CATALOG).stat().st_size
    return ok(FILE, 1, f"{size / 2**20:.1f} MiB, all there")


def mended(folder: Path, why: str, check: str, *, repair: bool) -> Finding:
    """What is said of a catalog that cannot be used; its backup takes its place if it may."""
    if not repair:
        cure = REPAIR if backups.newest(folder) else START_ANEW
        return Finding(check, "wrong", 1, f"{backups.CATALOG}: {why}", cure)
    try:
        used = backups.restore(folder)
    except StorageFailed:
        raise
    except IndexUnusable:
        return Finding(check, "wrong", 1, f"{backups.CATALOG}: {why}", START_ANEW)
    what = f"{why}; restored from the backup of {backups.time_of(used)}"
    return Finding(check, "repaired", 1, what, "mmsearch index, to read again what came since")


def check_integrity(folder: Path, *, repair: bool) -> Finding:
    """Whether its pages and indexes agree; indexes can be made of the tables again."""
    with closing(driver_of(folder / backups.CATALOG)) as catalog:
        faults = _faults(catalog)
        if not faults:
            return ok(INTEGRITY, 1, "SQLite finds nothing wrong")
        if repair and _mend_indexes(catalog):
            what = "SQLite's indexes were made anew"
            return Finding(INTEGRITY, "repaired", len(faults), what, examples=faults[:SHOWN])
    what = f"SQLite finds {len(faults)} faults"
    cure = REPAIR if backups.newest(folder) else START_ANEW
    return Finding(INTEGRITY, "wrong", len(faults), what, cure, faults[:SHOWN])


def check_beside(folder: Path, *, repair: bool) -> Iterator[Finding]:
    """Whether its backups are good, and what else lies in its folder."""
    yield _backups(folder, repair=repair)
    yield _leftovers(folder, repair=repair)


# ---------------------------------------------------------------------- parts of the above


def _faults(catalog: sqlite3.Connection) -> list[str]:
    try:
        said = catalog.execute(f"PRAGMA integrity_check({MOST_FAULTS})").fetchall()
    except sqlite3.Error as error:
        return [str(error)]
    return [str(row[0]) for row in said if row[0] != "ok"]


def _mend_indexes(catalog: sqlite3.Connection) -> bool:
    """Whether indexes were all that was wrong: SQLite's own, and that of the words."""
    try:
        catalog.execute("REINDEX")
        catalog.execute("INSERT INTO words (words) VALUES ('rebuild')")
    except sqlite3.Error:
        return False
    return not _faults(catalog)


def _backups(folder: Path, *, repair: bool) -> Finding:
    kept = backups.all_of(folder)
    bad = {path: fault for path in kept if (fault := backups.fault_of(path)) is not None}
    examples = [f"{path.name}: {fault}" for path, fault in list(bad.items())[:SHOWN]]
    if bad and not repair:
        cure = "mmsearch doctor --repair deletes them; the next `mmsearch index` makes one"
        return Finding(BACKUPS, "wrong", len(bad), f"{len(bad)} are damaged", cure, examples)
    if bad:
        for path in bad:
            path.unlink(missing_ok=True)
        cure = "" if len(bad) < len(kept) else "the next `mmsearch index` makes one"
        what = f"{len(bad)} damaged ones were deleted"
        return Finding(BACKUPS, "repaired", len(bad), what, cure, examples)
    if not kept:
        cure = "the next `mmsearch index` that changes something makes one"
        return Finding(BACKUPS, "note", 0, "there is none", cure)
    return ok(BACKUPS, len(kept), f"{len(kept)}, the newest of {backups.time_of(kept[-1])}")


def _leftovers(folder: Path, *, repair: bool) -> Finding:
    left = [path for path in _part_files(folder) if not _is_new(path)]
    damaged = sorted(folder.glob(f"{backups.CATALOG}.damaged-*"))
    if left and not repair:
        names = [str(path.relative_to(folder)) for path in left]
        cure = "mmsearch doctor --repair deletes them"
        return Finding(
            LEFTOVERS, "wrong", len(left), f"{len(left)} half-written files", cure, names[:SHOWN]
        )
    for path in left:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if left:
        names = [str(path.relative_to(folder)) for path in left]
        what = f"{len(left)} half-written files were deleted"
        return Finding(LEFTOVERS, "repaired", len(left), what, examples=names[:SHOWN])
    if damaged:
        size = sum(path.stat().st_size for path in damaged) / 2**20
        what = f"what a restored backup took the place of, {size:.1f} MiB"
        names = [path.name for path in damaged[:SHOWN]]
        return Finding(
            LEFTOVERS, "note", len(damaged), what, "delete it when it is not missed", names
        )
    return ok(LEFTOVERS, 0, "nothing was left behind")


def _part_files(folder: Path) -> list[Path]:
    places = (folder, folder / backups.FOLDER, folder / "cache")
    return sorted(path for place in places for path in place.glob("*.part*"))


def _is_new(path: Path) -> bool:
    """Whether another process may just be writing it."""
    try:
        return time.time() - path.stat().st_mtime < ABANDONED
    except OSError:
        return True
