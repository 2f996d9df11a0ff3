"""One index folder: what the package's users hold in their hands."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mmsearch.collection.bulk import Bulk
from mmsearch.collection.held import Items
from mmsearch.collection.refreshing import Refreshing
from mmsearch.errors import InvalidOption, PathNotFound
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.indexing.scopes import Scope
    from mmsearch.types import Progress

__all__ = ["Collection", "Items", "Paths", "existing"]

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Collection(Bulk, Refreshing):
    """An index folder, open; also a context manager.

    Args:
        folder: Where it is, or is to be made.
        model: The encoder's name, or several; None and "auto" take those that the index was built
            with. Another one than those is filled at the next `add`, and answers from then on.
        how: What encoders are to run on.
        create: Make the index if there is none.
        restore: Bring a damaged catalog back from its newest backup; `create` does so as well.

    Raises:
        IndexNotFound: there is none and `create` is False.
        CatalogDamaged: the catalog is damaged, and it was not asked to restore it, or there is no
            backup of it.
        IndexUnusable: the catalog is none, or newer than this version.
        UnknownModel: no encoder has this name.
        ModelUnavailable: its weights are not on this machine.
    """

    def add(  # noqa: PLR0913 - keywords, all optional
        self,
        paths: Paths | None = None,
        *,
        captions: str | os.PathLike[str] | None = None,
        exclude: str | Sequence[str] = (),
        include_hidden: bool = False,
        max_megapixels: float = 200.0,
        video: bool | None = None,
        pdf: bool | None = None,
        ocr: bool | None = None,
        transcribe: bool | None = None,
        whisper: str | None = None,
        metadata: str | os.PathLike[str] | None = None,
        details: bool | None = None,
        backups: int | None = None,
        kind: str | None = None,
        recall: float | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Bring folders or files up to date in the index; `report` holds the result as well.

        Args:
            paths: Folders (searched to any depth) and files; left out, all that was ever indexed.
            captions: A tsv, csv or jsonl file of file names and captions.
            exclude: Shell patterns of names, or of paths from the folder given, to leave out; kept
                with the path, like the next, for when no paths are given.
            include_hidden: Also files and folders that begin with a dot.
            max_megapixels: Larger pictures are refused.
            video: Whether to take in videos. Of this and the next three, None is as last time, and
                at first not.
            pdf: Whether to take in PDFs.
            ocr: Whether to read the writing in pictures.
            transcribe: Whether to write down what is said in sounds and videos.
            whisper: The model that does: a size ("base"), a repository or a folder; remembered.
            metadata: A csv, tsv or jsonl file of file names and what else is known of them: keys
                that `where` can ask for.
            details: Whether to keep the regions of pictures and the words of texts, at most 4 KB
                each, which `rerank="fusion"` looks at; remembered, at first kept.
            backups: How many backups of the catalog to keep beside it, one an hour at most; 0 makes
                none and deletes none. Remembered, at first one.
            kind: Which kind of index answers searches: "auto" (by size, and only what was measured
                to find enough), "exact", or a factory string of FAISS's; remembered.
            recall: Of the ten nearest, the share that an index that is not exact is to find, for
                queries of every modality; remembered, at first 0.98.
            progress: Called with (files done, files in all or None).

        Raises:
            PathNotFound: one of `paths`, or `captions`, does not exist.
            InvalidOption: `max_megapixels` is not above 0, or `backups` is below; `kind` or
                `recall` is none.
            IndexBusy: another process is writing to the index.
            InvalidCaptions: the captions file cannot be parsed.
            MissingExtra: packages that an option needs are not installed.
            ModelUnavailable: there is no model to transcribe with.
            StorageFailed: the catalog cannot be written, a full disk say; earlier batches stay.
            KeyboardInterrupt: as it came; what was stored stays, and `report` says what it is.
        """
        from mmsearch.indexing.contents import ReadOptions
        from mmsearch.indexing.media_options import MediaOptions
        from mmsearch.indexing.user_metadata import MetadataFile
        from mmsearch.media.captions import CaptionFile
        from mmsearch.spaces.open_index import BACKUPS

        given = None if paths is None else existing(paths)
        if backups is not None and backups < 0:
            raise InvalidOption(f"backups are a number from 0 on, not {backups}")
        options = ReadOptions(max_megapixels=max_megapixels)
        book = None if captions is None else CaptionFile(os.fspath(captions))
        metadata_file = None if metadata is None else MetadataFile(metadata)
        with self.writing("indexing"):
            self._catalog.loader.restore_indexes()
            media = MediaOptions(video, pdf, ocr, transcribe, whisper).resolve(self._catalog)
            if backups is not None:
                self._catalog.settings.set(BACKUPS, str(backups))
            self._indexes.configure(kind, recall)
            self._encoder_pool.keep_tokens(wanted=details)
            run = self._index_run(options, media, book, metadata_file)
            run.run(self._scopes(given, exclude, include_hidden=include_hidden), progress)
            report = run.report
            self._indexes.rebuild(self._present())
            report.warnings += self._indexes.warnings(self._present())
            done = report.added, report.updated, report.renamed, report.removed, report.filled
            report.warnings += self._keep_backup(changed=any(done) or metadata is not None)
        return report

    def _scopes(
        self, given: list[str] | None, exclude: str | Sequence[str], *, include_hidden: bool
    ) -> list[Scope]:
        """Where to look: at what is given, else at all that was asked for before."""
        from mmsearch.indexing.scopes import add_scopes, known_scopes

        if given is not None:
            patterns = [exclude] if isinstance(exclude, str) else list(exclude)
            return add_scopes(self._catalog, given, patterns, include_hidden=include_hidden)
        if not self._catalog.index_roots.all():
            if not len(self._catalog):
                raise PathNotFound("nothing was indexed yet: say what, `mmsearch index FOLDER`")
            if self.report is not None and self._catalog.sources.all():
                self.report.warnings.append(
                    "an index of mmsearch 0.1.0 did not keep what was asked for: name your folders "
                    "once more, `mmsearch index FOLDER...`"
                )
        return known_scopes(self._catalog)

    def drop_space(self, model: str) -> None:
        """Delete the vectors of one of several models.

        Raises:
            InvalidOption: the index has none of this name, or no other to answer instead.
            IndexBusy: another process is writing to the index.
        """
        with self.writing("dropping vectors"):
            for space in self._encoder_pool.drop(model):
                self._indexes.drop(space)
            self._wanted = [encoder for encoder in self._wanted if encoder.name != model]
            self._indexes.clear()
            self._catalog.shrink()

    def remove(self, path: str | os.PathLike[str]) -> int:
        """Take a file, or all of a folder, out of the index; the disk is not touched.

        Returns:
            How many items went.

        Raises:
            PathNotFound: the index holds nothing there.
            IndexBusy: another process is writing to the index.
        """
        given = os.path.abspath(os.fspath(path))
        whole = os.path.realpath(given)
        parent = os.path.join(os.path.realpath(os.path.dirname(given)), os.path.basename(given))
        with self.writing("removing"):
            places = [
                (source_id, "")
                for source_id, root in self._catalog.sources.all()
                if root.startswith(whole.rstrip(os.sep) + os.sep)
            ]
            found = map(self._catalog.sources.of, dict.fromkeys((whole, parent)))
            places += [(source[0], source[2]) for source in found if source is not None]
            gone = sum(
                self._catalog.items.remove_below(source_id, below) for source_id, below in places
            )
            gone += self._catalog.items.remove_imported(os.fspath(path))
            for place in dict.fromkeys((whole, parent)):
                self._catalog.index_roots.remove(place)
            if not gone and not any(below == "" for _, below in places):
                raise PathNotFound(f"the index holds nothing at {os.fspath(path)!r}")
            self._keep_backup()
        return gone


def existing(paths: Paths) -> list[str]:
    """Paths as strings.

    Raises:
        PathNotFound: there is nothing at one of them.
    """
    several = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else paths
    given = [os.fsdecode(path) for path in several]
    for path in given:
        if not os.path.exists(path):
            where = "" if os.path.isabs(path) else f" in {os.getcwd()}"
            raise PathNotFound(f"there is no file or folder {path!r}{where}")
    return given
