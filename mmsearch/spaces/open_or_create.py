"""Opens an index: finds or creates its store, restores a damaged catalog, chooses encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mmsearch.encoders import Encoder, Runtime
from mmsearch.encoders.registry import choose, family_of, load_encoder
from mmsearch.errors import CatalogDamaged, IndexNotFound, IndexUnusable, MissingExtra
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import Store, backups
from mmsearch.storage.lock import FolderLock
from mmsearch.storage.place import IndexPlace, index_not_found
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.transfer import check_whole

WAIT = 60.0
"""Seconds that restoring waits for another process, which may be restoring the catalog itself."""


def open_or_create(
    place: IndexPlace, models: Sequence[str], runtime: Runtime, *, create: bool, restore: bool
) -> OpenIndex:
    """The index at a place, open.

    Args:
        place: Where it lives.
        models: Encoders that the next indexing run is to use; "auto" among them is ignored.
        runtime: What encoders run on.
        create: Create the index if there is none; a damaged catalog is restored as well.
        restore: Restore a damaged catalog from its newest backup.

    Raises:
        IndexNotFound: there is no index, and `create` is False.
        CatalogDamaged: the catalog is damaged and not to be restored, or has no backup.
        IndexUnusable: it is not an index, is newer than this version, or its server fails.
        MissingExtra: the packages that talk to its server are not installed.
        UnknownModel, ModelUnavailable: an encoder cannot be loaded.
    """
    if not place.is_folder:
        return _open(place, models, runtime, create=create)
    folder = place.folder
    try:
        return _open(place, models, runtime, create=create)
    except CatalogDamaged as error:
        if not (create or restore) or backups.newest(folder) is None:
            raise CatalogDamaged(folder / backups.CATALOG, error.why, _cure(folder)) from error
        notice = _restore(folder, error.why)
    index = _open(place, models, runtime, create=create)
    index.notices.append(notice)
    return index


def _open(place: IndexPlace, models: Sequence[str], runtime: Runtime, *, create: bool) -> OpenIndex:
    try:
        store = open_store(place)
    except IndexNotFound:
        if not create:
            raise
        store = None
    notices: list[str] = []
    try:
        if store is not None:
            check_whole(store, place)
        names = [name for name in models if name != "auto"]
        encoders = [load_encoder(name, runtime, strict=len(names) == 1) for name in names]
        if store is None:  # encoders are loaded first: a wrong name leaves no empty index behind
            encoders = encoders or _default_encoders(runtime, notices)
            store = open_store(place, create=True)
        elif not encoders and not any(space.encodes_for for space in store.spaces.all()):
            encoders = _default_encoders(runtime, notices)
        index = OpenIndex(place, store, runtime)
    except BaseException:
        if store is not None:
            store.close()
        raise
    index.encoders.requested = encoders
    index.notices = notices
    return index


def open_store(
    place: IndexPlace, *, create: bool = False, initial: Mapping[str, str] | None = None
) -> Store:
    """The store of the index at a place, and its folder made.

    Args:
        place: Where the index lives.
        create: Create it if there is none.
        initial: Settings that a new index has from the start.

    Raises:
        IndexNotFound: there is no index, and `create` is False.
        CatalogDamaged, IndexUnusable, MissingExtra: as `open_or_create`.
    """
    if not place.is_folder:
        store = _opener_of(place)(place, create=create, initial=initial)
        with suppress(OSError):  # what is kept in it can be left out
            place.folder.mkdir(parents=True, exist_ok=True)
        return store
    folder, path = place.folder, place.folder / backups.CATALOG
    backups.check_there(folder)
    if not (path.is_file() and path.stat().st_size > 0):
        if not create:
            raise index_not_found(place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IndexUnusable(f"no index can be made at {folder}: {error.strerror}") from error
    return Catalog(path, initial)


SERVERS = {"postgresql": ("PostgreSQL", "postgres"), "milvus": ("Milvus", "milvus")}
"""By engine, the server's name, and that of the package and of the extra that talk to it."""


def _opener_of(place: IndexPlace) -> Callable[..., Store]:
    """The `open_store` of a server's engine, whose package is imported."""
    from importlib import import_module

    name, package = SERVERS[place.engine]
    try:
        engine = import_module(f"mmsearch.storage.{package}")
    except ImportError as error:
        raise MissingExtra(f"an index in {name}", package, error) from error
    opener: Callable[..., Store] = engine.open_store
    return opener


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
    with FolderLock(folder).writing("restoring a backup", wait=WAIT):
        if _inode(catalog) != before:
            return "the catalog was damaged and has been restored by another process"
        used = backups.restore(folder)
    return (
        f"the catalog was damaged ({why}) and has been restored from the backup of "
        f"{backups.time_of(used)}; what was indexed since is read again now"
    )


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None
