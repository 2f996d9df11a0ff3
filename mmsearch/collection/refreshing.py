"""Looking again at some places of what was asked for; nothing new is asked for by it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from mmsearch.collection.keeping import Keeping
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.indexing.contents import ReadOptions
    from mmsearch.indexing.media_options import ResolvedMedia
    from mmsearch.indexing.run import IndexRun
    from mmsearch.indexing.scopes import Scope
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
        from mmsearch.indexing.scopes import add_scopes, known_scopes, scope_of
        from mmsearch.storage.resolver import known_path

        folders: dict[str, bool] = {}
        for path in paths:
            known = known_scopes(self._catalog)
            place = known_path(self._catalog, os.fsdecode(path))
            if not os.path.exists(place) or scope_of(known, place) is None:
                with self.writing("noting what to index"):
                    add_scopes(self._catalog, [path])
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
        unsettled: Collection[str] = (),
        progress: Progress | None = None,
    ) -> Report:
        """Bring the index in line with what changed of all that was ever indexed.

        `report` holds what was done as well.

        Args:
            paths: Absolute, of files and folders that came, changed or went: the folders of files
                are scanned, and folders with all below; left out, everything. Paths outside of what
                was ever indexed are passed over.
            unsettled: Absolute, of files that are still being written, to be left as they were.
            progress: Called with (files done, files in all or None).

        Raises:
            PathNotFound: a folder vanished while it was read: try again.
            IndexBusy: another process is writing to the index.
            StorageFailed: the catalog cannot be written, a full disk say; earlier batches stay.
            KeyboardInterrupt: as it came; what was stored stays, and `report` says what it is.
        """
        from mmsearch.indexing.scopes import known_scopes, touched_scopes

        self.report = Report()
        with self.writing("keeping up to date"):
            if paths is None:
                scopes = known_scopes(self._catalog)
            else:
                scopes = touched_scopes(self._catalog, map(os.fsdecode, paths), unsettled)
            if scopes:
                self._read(scopes, progress)
        return self.report

    def _read(self, scopes: Sequence[Scope], progress: Progress | None) -> None:
        from mmsearch.indexing.contents import ReadOptions
        from mmsearch.indexing.media_options import MediaOptions

        media = MediaOptions().resolve(self._catalog)
        run = self._index_run(ReadOptions(), media)
        run.run(scopes, progress)
        self._indexes.rebuild(self._present(), soon_again=True)
        done = run.report
        changed = any((done.added, done.updated, done.renamed, done.removed, done.filled))
        done.warnings += self._keep_backup(changed=changed)

    def _index_run(
        self,
        options: ReadOptions,
        media: ResolvedMedia,
        caption_file: CaptionFile | None = None,
        metadata: MetadataFile | None = None,
    ) -> IndexRun:
        """A run that is ready; its report is this collection's from now on."""
        from mmsearch.indexing.run import IndexRun

        self._encoder_pool.want(self._wanted)
        self._wanted = []
        run = IndexRun(
            self._catalog,
            self._encoder_pool,
            self._query_banks,
            options,
            media,
            caption_file=caption_file,
            metadata=metadata,
        )
        self.report = run.report
        run.report.warnings[:0] = self._advice
        self._advice = []
        return run
