"""Looking again at some places of what was asked for; nothing new is asked for by it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mmsearch.collection.keeping import Keeping
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.indexing.decode.contents import Options
    from mmsearch.indexing.scan import Scope
    from mmsearch.indexing.update import Settled, Update
    from mmsearch.indexing.user_metadata import MetadataFile
    from mmsearch.media.captions import CaptionFile
    from mmsearch.types import Progress


class Refreshing(Keeping):
    """Keeping an index in step with a disk that changes."""

    def ask_for(self, paths: Iterable[str | os.PathLike[str]]) -> dict[str, bool]:
        """Have paths indexed from the next `refresh` on; how they were asked for before stays.

        Returns:
            The folders to watch for changes of them, by absolute path: True with all below.

        Raises:
            PathNotFound: there is nothing at one of them.
        """
        from mmsearch.indexing.rescan import scope_above
        from mmsearch.indexing.scan import known_scopes, scopes_of
        from mmsearch.storage.resolver import known_path

        folders: dict[str, bool] = {}
        for path in paths:
            known = known_scopes(self._catalog)
            place = known_path(self._catalog, os.fsdecode(path))
            if not os.path.exists(place) or scope_above(known, place) is None:
                with self.writing("noting what to index"):
                    scopes_of(self._catalog, [path])
            if os.path.isdir(place):
                folders[place] = True
            else:
                folders.setdefault(os.path.dirname(place), False)
        return folders

    def asked_folders(self) -> dict[str, bool]:
        """The folders that all that was asked for lies in; True with all that lies below."""
        folders: dict[str, bool] = {}
        for one in self._catalog.index_roots.all():
            folder = one.path if one.folder else os.path.dirname(one.path)
            folders[folder] = folders.get(folder, False) or one.folder
        return folders

    def refresh(
        self,
        paths: Iterable[str | os.PathLike[str]] | None = None,
        *,
        progress: Progress | None = None,
    ) -> Report:
        """Read again what was asked for and lies at, below or above paths; `report` holds it too.

        Args:
            paths: Absolute, of files and folders that came, changed or went; left out, all that
                was ever asked for. What no one asked for is passed over.
            progress: Called with (files done, files in all or None).

        Raises:
            PathNotFound: a folder vanished while it was read: try again.
            IndexBusy: another process is writing to the index.
            StorageFailed: the catalog cannot be written, a full disk say; earlier batches stay.
            KeyboardInterrupt: as it came; what was stored stays, and `report` says what it is.
        """
        from mmsearch.indexing.rescan import looks_at
        from mmsearch.indexing.scan import known_scopes

        self.report = Report()
        with self.writing("keeping up to date"):
            if paths is None:
                scopes = known_scopes(self._catalog)
            else:
                scopes = looks_at(self._catalog, map(os.fsdecode, paths))
            if scopes:
                self._read(scopes, progress)
        return self.report

    def _read(self, scopes: Sequence[Scope], progress: Progress | None) -> None:
        from mmsearch.indexing.decode.contents import Options
        from mmsearch.indexing.update import Reads

        run = self._update(Options(), Reads().settle(self._catalog), None, None, progress)
        run.run(scopes)
        self._indexes.rebuild(self._present(), soon_again=True)
        done = run.report
        changed = any((done.added, done.updated, done.renamed, done.removed, done.filled))
        done.warnings += self._keep_backup(changed=changed)

    def _update(
        self,
        options: Options,
        settled: Settled,
        book: CaptionFile | None,
        metadata: MetadataFile | None,
        progress: Progress | None,
    ) -> Update:
        """A run that is ready; its report is this collection's from now on."""
        from mmsearch.indexing.update import Update, options_for

        self._encoder_pool.want(self._wanted)
        self._wanted = []
        run = Update(
            self._catalog,
            self._encoder_pool.targets,
            lambda targets: options_for(options, targets, settled, captions=book is not None),
            book=book,
            metadata=metadata,
            query_banks=self._query_banks,
            progress=progress,
        )
        self.report = run.report
        run.report.warnings += [*self._advice, *settled.warnings, *self._encoder_pool.warnings]
        self._advice = []
        return run
