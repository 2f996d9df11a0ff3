"""Checks of the index folder: the catalog's file, backups, leftovers and caches."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mmsearch.collection.doctor.check import REPAIR, CheckContext, Outcome, State
from mmsearch.errors import CatalogDamaged, IndexUnusable, StorageFailed
from mmsearch.spaces.index_cache import LAST_CHANGE, revision_of
from mmsearch.storage import Space, backups
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.sqlite.columns import ENDING, read_column
from mmsearch.storage.sqlite.database import driver_of
from mmsearch.types import Modality
from mmsearch.vectors import Segment, SegmentDamaged
from mmsearch.vectors.segment import UPTO, OtherFormat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNFINISHED = ".part"
"""The ending of a file or folder while it is written."""

ABANDONED = 3600
"""Seconds after which an unfinished file counts as abandoned."""

MOST_FAULTS = 20
"""How many faults SQLite lists at most."""

SEGMENT_FILES = f"cache/*-[0-9]*-{'?' * 12}-[0-9]*-??????/*"
"""The files of segments, whose folders `IndexCache` names."""

LOG = f"{backups.CATALOG}-wal"
"""SQLite's write-ahead log: what is committed, but not in the catalog's file yet."""

Content = tuple[Space, Modality] | None
"""The vectors that a cache holds; None if it holds columns."""

START_ANEW = (
    "there is no good backup: copy the whole folder again if this is a copy, else delete the index "
    "folder and index again"
)

# ---------------------------------------------------------------------- the catalog's file


def holds_index(folder: Path) -> bool:
    """Whether a folder holds an index, or a part of one: a catalog, a backup or a cache."""
    return not _is_lost(folder) or any(folder.glob(SEGMENT_FILES))


def _is_lost(folder: Path) -> bool:
    """Whether the catalog is missing or empty, and there is no backup of it."""
    return not backups.catalog_size(folder) and backups.newest(folder) is None


def check_catalog_file(folder: Path, *, repair: bool) -> Outcome:
    """Whether the file is complete, and a catalog that this version can open."""
    if _is_lost(folder):
        what = f"{backups.CATALOG} is missing or empty: there are only caches"
        return Outcome("wrong", 1, what, START_ANEW)
    try:
        backups.check_there(folder)
        _check_tables(folder / backups.CATALOG)
        Catalog(folder / backups.CATALOG).close()
    except CatalogDamaged as error:
        if repair:
            return restore(folder, error.why)
        return Outcome("wrong", 1, f"{backups.CATALOG}: {error.why}", _cure(folder))
    size = (folder / backups.CATALOG).stat().st_size
    return Outcome("ok", 1, f"{size / 2**20:.1f} MiB, complete")


def _check_tables(path: Path) -> None:
    """Check that a catalog has tables: otherwise, opening it would make a new one.

    Raises:
        CatalogDamaged: it has none.
    """
    # a file that cannot be read is reported when it is opened as a catalog
    with suppress(sqlite3.Error), closing(driver_of(path)) as catalog:
        if not catalog.execute("PRAGMA schema_version").fetchone()[0]:
            raise CatalogDamaged(path, f"it has no tables: {LOG} was lost, or not copied")


def check_integrity(folder: Path, *, repair: bool) -> Outcome:
    """Whether SQLite finds no fault in it; if only its indexes are at fault, they are rebuilt."""
    with closing(driver_of(folder / backups.CATALOG)) as catalog:
        faults = _faults(catalog)
        if not faults:
            return Outcome("ok", 1, "SQLite finds nothing wrong")
        if repair and _rebuild_indexes(catalog):
            what = "SQLite's indexes were rebuilt"
            return Outcome("repaired", len(faults), what, examples=faults)
    what = f"SQLite finds {len(faults)} faults"
    return Outcome("wrong", len(faults), what, _cure(folder), faults)


def restore(folder: Path, why: str) -> Outcome:
    """Put the newest good backup in place of a catalog that cannot be used, if there is one."""
    try:
        backup = backups.restore(folder)
    except StorageFailed:
        raise
    except IndexUnusable:
        return Outcome("wrong", 1, f"{backups.CATALOG}: {why}", START_ANEW)
    what = f"{why}; restored from the backup of {backups.time_of(backup)}"
    return Outcome("repaired", 1, what, "mmsearch index, to read newer files again")


def _cure(folder: Path) -> str:
    return REPAIR if backups.newest(folder) else START_ANEW


def _faults(catalog: sqlite3.Connection) -> list[str]:
    try:
        rows = catalog.execute(f"PRAGMA integrity_check({MOST_FAULTS})").fetchall()
    except sqlite3.Error as error:
        return [str(error)]
    return [str(row[0]) for row in rows if row[0] != "ok"]


def _rebuild_indexes(catalog: sqlite3.Connection) -> bool:
    """Whether only indexes were at fault: SQLite's own, and that of the words."""
    try:
        catalog.execute("REINDEX")
        catalog.execute("INSERT INTO words (words) VALUES ('rebuild')")
    except sqlite3.Error:
        return False
    return not _faults(catalog)


# ---------------------------------------------------------------------- beside the catalog


def check_backups(folder: Path) -> Outcome:
    """Whether the backups are good."""
    kept = backups.all_of(folder)
    faults = {path: fault for path in kept if (fault := backups.fault_of(path)) is not None}
    if faults:
        another = "the next `mmsearch index` makes one"
        return Outcome(
            "wrong",
            len(faults),
            f"{len(faults)} are damaged",
            f"{REPAIR} deletes them; {another}",
            [f"{path.name}: {fault}" for path, fault in faults.items()],
            repair=lambda: _delete(faults),
            done="deleted",
            then=another if len(faults) == len(kept) else "",
        )
    if kept:
        newest = backups.time_of(kept[-1])
        return Outcome("ok", len(kept), f"{len(kept)}, the newest of {newest}")
    cure = "the next `mmsearch index` that changes something makes one"
    return Outcome("note", 0, "there is none", cure)


def check_leftovers(folder: Path) -> Outcome:
    """Whether something was left behind: unfinished files, or a damaged catalog."""
    places = (folder, folder / backups.FOLDER, folder / "cache")
    unfinished = sorted(path for place in places for path in place.glob(f"*{UNFINISHED}*"))
    left = [path for path in unfinished if _is_abandoned(path)]
    damaged = sorted(folder.glob(f"{backups.CATALOG}.damaged-*"))
    if left:
        return Outcome(
            "wrong",
            len(left),
            f"{len(left)} half-written files",
            f"{REPAIR} deletes them",
            [str(path.relative_to(folder)) for path in left],
            repair=lambda: _delete(left),
            done="deleted",
        )
    if damaged:
        size = sum(path.stat().st_size for path in damaged) / 2**20
        what = f"what a restored backup replaced, {size:.1f} MiB"
        names = [path.name for path in damaged]
        return Outcome("note", len(damaged), what, "delete it unless you miss something", names)
    return Outcome("ok", 0, "nothing was left behind")


def _is_abandoned(path: Path) -> bool:
    """Whether no other process can be writing it any more."""
    with suppress(OSError):
        return time.time() - path.stat().st_mtime >= ABANDONED
    return False


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


# ---------------------------------------------------------------------- caches


def check_log(context: CheckContext) -> Outcome | None:
    """Whether caches are of a later revision than the catalog, which then lost its log.

    None if there is no such cache.
    """
    caches, _ = _caches(context)
    segments = [path for path, content in caches.items() if content]
    if not segments:
        return None
    # read after the caches were listed: a search may have built some since the snapshot began
    with closing(driver_of(context.folder / backups.CATALOG)) as catalog:
        chosen = "SELECT value FROM settings WHERE key = 'revision'"
        ((revision,),) = catalog.execute(chosen).fetchall()
    later = [path for path in segments if revision_of(path) > int(revision)]
    if not later:
        return None
    return Outcome(
        "wrong",
        len(later),
        f"the catalog is older than {len(later)} of its caches: {LOG} was lost, or not copied",
        "copy the whole folder again if this is a copy (`mmsearch backup` does, of an index in "
        f"use), else {REPAIR} deletes these caches, and mmsearch index reads newer files again",
        [path.name for path in later],
        repair=lambda: _delete(later),
        done="these were deleted",
        then="mmsearch index, to read newer files again",
    )


def check_caches(context: CheckContext) -> Outcome:
    """Whether each cache of this catalog holds what the catalog does."""
    caches, _ = _caches(context)
    faults = {
        path: fault for path, content in caches.items() if (fault := _fault(context, path, content))
    }
    if not faults:
        return Outcome("ok", len(caches), f"{len(caches)}, the same as the catalog")
    what = f"{len(faults)} are damaged, or differ from the catalog"
    examples = [f"{path.name}: {fault}" for path, fault in faults.items()]
    return _deletable("wrong", what, list(faults), examples)


def check_stale_caches(context: CheckContext) -> Outcome | None:
    """Whether there are caches of other catalogs, or of spaces that no longer exist."""
    _, stale = _caches(context)
    what = f"{len(stale)} belong to another catalog or a deleted model"
    return _deletable("note", what, stale, [path.name for path in stale]) if stale else None


def _caches(context: CheckContext) -> tuple[dict[Path, Content], list[Path]]:
    """The caches of this catalog, and stale ones; none if the catalog lacks its id or revision."""
    settings, cache = context.catalog.settings, context.folder / "cache"
    if None in (settings.get("catalog_id"), settings.get("revision")):
        return {}, []
    catalog_id = context.catalog.state().store_id
    columns = cache.glob(f"columns-{catalog_id}-*{ENDING}")
    contents: dict[Path, Content] = dict.fromkeys(columns)
    for space in context.catalog.spaces.all():
        for modality in get_args(Modality):
            segments = cache.glob(f"{modality}-{space.id}-{catalog_id}-*")
            contents |= dict.fromkeys(filter(Path.is_dir, segments), (space, modality))
    finished = [path for path in sorted(cache.glob("*")) if path.suffix != UNFINISHED]
    current = {path: contents[path] for path in finished if path in contents}
    return current, [path for path in finished if path not in contents]


def _deletable(state: State, what: str, paths: Sequence[Path], examples: Sequence[str]) -> Outcome:
    return Outcome(
        state,
        len(paths),
        what,
        f"{REPAIR} deletes them; a search rebuilds them",
        examples,
        repair=lambda: _delete(paths),
        done="deleted, a search rebuilds them",
    )


def _fault(context: CheckContext, path: Path, content: Content) -> str | None:
    """What is wrong with a cache, if anything is."""
    if content is None:
        return None if read_column(path) is not None else "it is not complete"
    try:
        segment = Segment.open(path)
    except OtherFormat:
        return None  # a search ignores it and builds another
    except SegmentDamaged as error:
        return str(error).removeprefix(f"{path}: ")
    return _disagreement(context, segment, *content)


def _disagreement(
    context: CheckContext, segment: Segment, space: Space, modality: Modality
) -> str | None:
    """How the vectors of a segment and of the catalog differ, if they do."""
    import numpy as np

    last_vector = int(segment.about.get(UPTO, 0))
    last_deletion = int(segment.about.get(LAST_CHANGE, 0))
    state = context.catalog.state()
    if int(segment.about.get("revision", 0)) > state.revision:
        return None  # built since the snapshot began; or the log was lost, see `check_log`
    if segment.about.get("epoch") != state.epoch or last_deletion < state.forgotten:
        return None  # out of date: a search ignores it and builds another
    deleted, _ = context.catalog.changes.deleted_vectors(space, modality, last_deletion)
    in_segment = np.setdiff1d(np.asarray(segment.vector_ids), deleted)
    rows = context.rows(_VECTOR_IDS, space.id, modality, last_vector)
    in_catalog = np.fromiter((row[0] for row in rows), np.int64)
    if unknown := len(np.setdiff1d(in_segment, in_catalog)):
        return f"{unknown} of its vectors are not in the catalog, whose log has no deletion of them"
    if missing := len(np.setdiff1d(in_catalog, in_segment)):
        return f"{missing} vectors of the catalog are missing"
    return _difference(context, segment, in_segment)


_VECTOR_IDS = "SELECT id FROM vectors WHERE space_id = ? AND modality = ? AND id <= ? ORDER BY id"


def _difference(context: CheckContext, segment: Segment, ids: NDArray[np.int64]) -> str | None:
    """How many of a sample of rows differ from the catalog's, bit for bit, if any does."""
    import numpy as np

    chosen = random.Random(0)  # noqa: S311 - the same each time
    rows = np.searchsorted(segment.vector_ids, ids)
    sample = sorted(chosen.sample(range(len(rows)), min(len(rows), context.sample)))
    other = 0
    for row in rows[sample]:
        ((item, vector),) = context.rows(_VECTOR, int(segment.vector_ids[row]))
        stored = np.asarray(segment.rows[row])[: len(vector) // 2].astype("<f2").tobytes()
        other += stored != vector or int(segment.ids[row]) != item
    return f"{other} of {len(sample)} rows differ from the catalog's" if other else None


_VECTOR = "SELECT item_id, vector FROM vectors WHERE id = ?"
