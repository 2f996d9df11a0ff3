"""Who may write to an index folder, and the backup that is kept of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import StorageFailed

if TYPE_CHECKING:
    from mmsearch.storage.lock import WriterLock
    from mmsearch.storage.sqlite import Catalog

BACKUPS = "backups"
"""The setting that says how many backups are kept; nothing is said of the usual number."""


class Locked:
    """An index folder that one process at a time writes to, and any number read."""

    folder: Path
    _catalog: Catalog

    @cached_property
    def _lock(self) -> WriterLock:
        from mmsearch.storage.lock import WriterLock

        return WriterLock(self.folder)

    def writing(self, what: str, *, wait: float = 0.0) -> AbstractContextManager[None]:
        """The right to write, for as long as a `with` lasts; what writes takes it by itself.

        Args:
            what: What is being done, for those who find the index busy: "indexing".
            wait: Seconds to wait for another writer.

        Raises:
            IndexBusy: another process writes.
            StorageFailed: the folder cannot be written.
        """
        return self._lock.writing(what, wait=wait)

    def _may_write(self, what: str) -> AbstractContextManager[bool]:
        """Whether nobody else writes, so that what can as well be left undone may be kept."""
        return self._lock.may_write(what)

    def _keep_backup(self, *, changed: bool = True) -> list[str]:
        """Back the catalog up, if that is due; returns what there is to warn of.

        Args:
            changed: Whether there is something new in it.
        """
        from mmsearch.storage import backups

        if not changed and backups.newest(self.folder) is not None:
            return []
        kept = self._catalog.settings.get(BACKUPS)
        try:
            backups.roll(self.folder, backups.KEPT if kept is None else int(kept))
        except StorageFailed as error:
            return [str(error)]
        return []
