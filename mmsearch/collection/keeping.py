"""What keeps an index safe: it comes back from its backup, is copied, follows moved folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.collection.asking import Asking
from mmsearch.errors import CatalogDamaged, InvalidOption, PathNotFound

if TYPE_CHECKING:
    from mmsearch.encoders import Runtime


LOOKED_FOR = 200
"""Stored files that are looked for in a folder that is said to be their new place."""

FOUND = 0.5
"""The share of them that must be there: some may have been changed or deleted on the way."""


class Keeping(Asking):
    """Opening an index though its catalog is damaged, copying it, and what became of folders."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        model: str | Sequence[str] | None = None,
        how: Runtime | None = None,
        create: bool = False,
        restore: bool = False,
    ) -> None:
        from mmsearch.storage import backups

        folder, warnings = Path(folder), []
        try:
            backups.check_there(folder)
            super().__init__(folder, model=model, how=how, create=create)
        except CatalogDamaged as error:
            if not (create or restore) or backups.newest(folder) is None:
                raise CatalogDamaged(folder / backups.CATALOG, error.why, _cure(folder)) from error
            warnings = [_bring_back(folder, error.why)]
            super().__init__(folder, model=model, how=how, create=create)
        self._advice += warnings

    def backup(self, target: str | os.PathLike[str]) -> int:
        """Copy the index, in use or not, to a new folder that opens as one; returns its bytes.

        Nobody who writes has to wait for it: the copy is the index of one moment.

        Raises:
            InvalidOption: there is something at `target` already, or it lies in the index.
            StorageFailed: it could not be copied; nothing is left of the attempt then.
        """
        from mmsearch.storage import backups

        return backups.copy_index(self.folder, Path(os.path.abspath(os.fspath(target))))

    def relocate(
        self, old: str | os.PathLike[str], new: str | os.PathLike[str], *, force: bool = False
    ) -> int:
        """Follow an indexed folder that was moved; nothing is read or encoded again.

        Args:
            old: Where it was: a folder that was indexed, one in it, or one that such lay in, as a
                mount point may.
            new: Where it is.
            force: Although few of the stored files are found there.

        Returns:
            How many items were found a new place.

        Raises:
            PathNotFound: there is no folder `new`, or the index holds nothing at `old`.
            InvalidOption: most of the stored files are not in `new`.
            IndexBusy: another process is writing to the index.
        """
        place = os.path.realpath(os.fspath(new))
        if not os.path.isdir(place):
            raise PathNotFound(f"there is no folder {os.fspath(new)!r}")
        with self.writing("relocating"):
            known = self._known_as(old)
            if known == place:
                raise InvalidOption(f"{place} is where it was")
            if not force:
                self._check_moved(known, place)
            moved = self._catalog.relocation.move(known, place)
            self._catalog.words.refresh()
            self._keep_backup()
        return moved

    def _known_as(self, old: str | os.PathLike[str]) -> str:
        """A folder as the index has it, which is as it was given or without links."""
        given = os.path.abspath(os.fspath(old))
        for path in (given, os.path.realpath(given)):
            if self._catalog.relocation.holds(path):
                return path
        known = ", ".join(sorted(root for _, root in self._catalog.sources.all())) or "nothing"
        raise PathNotFound(f"the index holds nothing at {given!r}; it holds: {known}")

    def _check_moved(self, old: str, new: str) -> None:
        some = self._catalog.relocation.sample(old, LOOKED_FOR)
        found = sum(_has_size(os.path.join(new, path), size) for path, size in some)
        if found < FOUND * len(some):
            raise InvalidOption(
                f"only {found} of {len(some)} stored files that were looked for are in {new}, with "
                "the size they had: is it the right folder? --force takes it all the same"
            )


# ---------------------------------------------------------------------- parts of the above


def _has_size(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def _cure(folder: Path) -> str:
    from mmsearch.storage import backups

    backup = backups.newest(folder)
    if backup is None:
        return "there is no backup of it: delete its folder and index again"
    made = backups.time_of(backup)
    return f"`mmsearch doctor --repair` restores it from the backup of {made}"


def _bring_back(folder: Path, why: str) -> str:
    """Restore the newest good backup; returns what there is to say of it."""
    from mmsearch.storage import backups
    from mmsearch.storage.lock import WriterLock

    catalog = folder / backups.CATALOG
    before = _inode(catalog)
    with WriterLock(folder).writing("restoring a backup", wait=60):
        if _inode(catalog) != before:
            return "the catalog was damaged and has been restored by another process"
        used = backups.restore(folder)
    return (
        f"the catalog was damaged ({why}) and has been restored from the backup of "
        f"{backups.time_of(used)}; what was indexed since is read again now"
    )


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None
