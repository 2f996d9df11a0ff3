"""One index folder: what the package's users hold in their hands."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mmsearch.collection.asking import Asking
from mmsearch.collection.held import Items
from mmsearch.errors import PathNotFound
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.types import Progress

__all__ = ["Collection", "Items", "Paths", "existing"]

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Collection(Asking):
    """An index folder, open; also a context manager.

    Args:
        folder: Where it is, or is to be made.
        model: The encoder's name, or several; None and "auto" take those that the index was built
            with. Another one than those is filled at the next `add`, and answers from then on.
        how: What encoders are to run on.
        create: Make the index if there is none.

    Raises:
        IndexNotFound: there is none and `create` is False.
        IndexUnusable: the catalog is damaged, or newer than this version.
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
            progress: Called with (files done, files in all or None).

        Raises:
            PathNotFound: one of `paths`, or `captions`, does not exist.
            InvalidOption: `max_megapixels` is not above 0.
            InvalidCaptions: the captions file cannot be parsed.
            MissingExtra: packages that an option needs are not installed.
            ModelUnavailable: there is no model to transcribe with.
            StorageFailed: the catalog cannot be written, a full disk say; earlier batches stay.
            KeyboardInterrupt: as it came; what was stored stays, and `report` says what it is.
        """
        from mmsearch.contents import Options
        from mmsearch.media.captions import CaptionBook
        from mmsearch.media.metadata import read_metadata
        from mmsearch.scan import known_scopes, scopes_of
        from mmsearch.update import Reads, Update, check_megapixels, options_for

        given = None if paths is None else existing(paths)
        patterns = [exclude] if isinstance(exclude, str) else list(exclude)
        options = Options(max_megapixels=check_megapixels(max_megapixels))
        book = None if captions is None else CaptionBook(os.fspath(captions))
        settled = Reads(video, pdf, ocr, transcribe, whisper).settle(self._catalog)
        if metadata is not None:
            read_metadata(metadata)  # what cannot be parsed is told before any work is done
        self._roster.want(self._wanted)
        self._roster.keep_details(wanted=details)
        self._wanted = []
        run = Update(
            self._catalog,
            self._roster.lanes,
            lambda lanes: options_for(options, lanes, settled, captions=book is not None),
            book=book,
            metadata=metadata,
            typical=self._typical,
            progress=progress,
        )
        self.report = run.report
        self.report.warnings += [*self._advice, *settled.warnings, *self._roster.warnings]
        self._advice = []
        if given is None and not self._catalog.asked() and not len(self._catalog):
            raise PathNotFound("nothing was indexed yet: say what, `mmsearch index FOLDER`")
        if given is None:
            scopes = known_scopes(self._catalog)
            if not self._catalog.asked() and len(self._catalog):
                self.report.warnings.append(
                    "an index of mmsearch 0.1.0 did not keep what was asked for: name your folders "
                    "once more, `mmsearch index FOLDER...`"
                )
        else:
            hidden = include_hidden
            scopes = scopes_of(self._catalog, given, patterns, include_hidden=hidden)
        run.run(scopes)
        for space, facets in self._present():
            for facet in facets:
                self._index(space, facet)
        return self.report

    def drop_space(self, model: str) -> None:
        """Delete the vectors of one of several models.

        Raises:
            InvalidOption: the index has none of this name, or no other to answer instead.
        """
        for space in self._roster.drop(model):
            for file in (self.folder / "cache").glob(f"*-{space.id}-*"):
                with suppress(OSError):
                    file.unlink()
        self._wanted = [encoder for encoder in self._wanted if encoder.name != model]
        self._indexes = {}
        self._catalog.shrink()

    def remove(self, path: str | os.PathLike[str]) -> int:
        """Take a file, or all of a folder, out of the index; the disk is not touched.

        Returns:
            How many items went.

        Raises:
            PathNotFound: the index holds nothing there.
        """
        given = os.path.abspath(os.fspath(path))
        whole = os.path.realpath(given)
        parent = os.path.join(os.path.realpath(os.path.dirname(given)), os.path.basename(given))
        places = [
            (source_id, "")
            for source_id, root in self._catalog.sources()
            if root.startswith(whole.rstrip(os.sep) + os.sep)
        ]
        found = map(self._catalog.source_of, dict.fromkeys((whole, parent)))
        places += [(source[0], source[2]) for source in found if source is not None]
        gone = sum(self._catalog.remove_below(source_id, below) for source_id, below in places)
        for place in dict.fromkeys((whole, parent)):
            self._catalog.forget_asked(place)
        if not gone and not any(below == "" for _, below in places):
            raise PathNotFound(f"the index holds nothing at {os.fspath(path)!r}")
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
