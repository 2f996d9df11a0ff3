"""Opens an index folder: finds or creates its catalog, restores a damaged one, chooses encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmsearch.encoders import Encoder, Runtime
from mmsearch.encoders.registry import choose, family_of, load_encoder
from mmsearch.errors import CatalogDamaged, IndexUnusable
from mmsearch.home import index_not_found
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import backups
from mmsearch.storage.lock import WriterLock
from mmsearch.storage.sqlite import Catalog

WAIT = 60.0
"""Seconds that restoring waits for another process, which may be restoring the catalog itself."""


def open_or_create(
    folder: Path, models: Sequence[str], runtime: Runtime, *, create: bool, restore: bool
) -> tuple[Catalog, OpenIndex]:
    """The catalog of an index folder, and the index around it.

    Args:
        folder: The index folder.
        models: Encoders that the next indexing run is to use; "auto" among them is ignored.
        runtime: What encoders run on.
        create: Create the index if there is none; a damaged catalog is restored as well.
        restore: Restore a damaged catalog from its newest backup.

    Raises:
        IndexNotFound: there is no index, and `create` is False.
        CatalogDamaged: the catalog is damaged and not to be restored, or has no backup.
        IndexUnusable: it is not a catalog, or newer than this version.
        UnknownModel, ModelUnavailable: an encoder cannot be loaded.
    """
    try:
        backups.check_there(folder)
        return _open(folder, models, runtime, create=create)
    except CatalogDamaged as error:
        if not (create or restore) or backups.newest(folder) is None:
            raise CatalogDamaged(folder / backups.CATALOG, error.why, _cure(folder)) from error
        notice = _restore(folder, error.why)
    catalog, index = _open(folder, models, runtime, create=create)
    index.notices.append(notice)
    return catalog, index


def _open(
    folder: Path, models: Sequence[str], runtime: Runtime, *, create: bool
) -> tuple[Catalog, OpenIndex]:
    path = folder / backups.CATALOG
    exists = path.is_file() and path.stat().st_size > 0
    if not create and not exists:
        raise index_not_found(folder)
    # encoders are loaded first, so that a wrong name leaves no empty index behind
    names = [name for name in models if name != "auto"]
    encoders = [load_encoder(name, runtime, strict=len(names) == 1) for name in names]
    notices: list[str] = []
    if not exists:
        encoders = encoders or _default_encoders(runtime, notices)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IndexUnusable(f"no index can be made at {folder}: {error.strerror}") from error
    catalog = Catalog(path)
    index = OpenIndex(folder, catalog, runtime)
    if exists and not encoders and not any(space.encodes_for for space in catalog.spaces.all()):
        encoders = _default_encoders(runtime, notices)
    index.encoders.requested = encoders
    index.notices = notices
    return catalog, index


def _default_encoders(runtime: Runtime, notices: list[str]) -> list[Encoder]:
    """The encoders of a new index for which none was named; the preferred one is the last."""
    choice = choose()
    if choice.advice:
        notices.append(choice.advice)
    best = load_encoder(choice.name, runtime, strict=False)
    companion = family_of(choice.name).companion
    if companion is None or "audio" in best.modalities:
        return [best]
    return [load_encoder(companion), best]


# ---------------------------------------------------------------------- damaged catalogs


def _cure(folder: Path) -> str:
    backup = backups.newest(folder)
    if backup is None:
        return "there is no backup of it: delete its folder and index again"
    made = backups.time_of(backup)
    return f"`mmsearch doctor --repair` restores it from the backup of {made}"


def _restore(folder: Path, why: str) -> str:
    """Restore the newest good backup; returns what the user is to be told."""
    catalog = folder / backups.CATALOG
    before = _inode(catalog)
    with WriterLock(folder).writing("restoring a backup", wait=WAIT):
        if _inode(catalog) != before:
            return "the catalog was damaged and has been restored by another process"
        used = backups.restore(folder)
    return (
        f"the catalog was damaged ({why}) and has been restored from the backup of "
        f"{backups.time_of(used)}; what was indexed since is read again now"
    )


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None
