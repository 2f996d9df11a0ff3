"""One run of indexing: scan, encode and store files, backfill spaces, update derived data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsearch.encoders import multilingual_encoder
from mmsearch.indexing.backfill import Backfill
from mmsearch.indexing.disks import UNUSUAL
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.indexing.file_indexer import FileIndexer
from mmsearch.indexing.media_options import ResolvedMedia
from mmsearch.indexing.pipeline import TimedReport
from mmsearch.indexing.scopes import Scope
from mmsearch.indexing.user_metadata import MetadataFile, apply_metadata
from mmsearch.spaces.encoder_pool import languages_setting, token_setting, tokens_version
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import backups
from mmsearch.types import Progress

if TYPE_CHECKING:
    from mmsearch.indexing.ray_pipeline import RayPipeline
    from mmsearch.media.captions import CaptionFile

UNUSUAL_SHARE = 0.25
"""Of all items; a run that removes more of them, and not just a few, says so."""

INCOMPLETE = "incomplete"
"""The setting that is "yes" while some item may lack a vector."""


class IndexRun:
    """Brings an index up to date, once.

    Attributes:
        report: What was done; right at every moment, also after an interruption.
    """

    def __init__(
        self,
        index: OpenIndex,
        options: ReadOptions,
        media: ResolvedMedia,
        *,
        caption_file: CaptionFile | None = None,
        metadata: MetadataFile | None = None,
        on: str | None = None,
        update_models: bool = False,
    ) -> None:
        """Have the requested encoders serve; the caller holds the writer lock.

        Args:
            index: What to bring up to date.
            options: How files are read.
            media: Which kinds are.
            caption_file: Of captions.
            metadata: Of the user's metadata.
            on: Where files are decoded and encoded, see `RayPipeline`; None does it here.
            update_models: Whether the updated weights of a model take over from previous ones;
                what they then have to encode takes long.

        Raises:
            InvalidOption, MissingExtra: as `RayPipeline`.
        """
        self._index = index
        self._store = index.store
        index.encoders.serve_requested()
        self._outdated = index.encoders.serve_updated() if update_models else []
        self._targets = targets = index.encoders.targets()
        warnings = [*index.notices, *media.warnings, *index.encoders.warnings]
        index.notices = []
        self.report = TimedReport(warnings=warnings)
        with_captions = caption_file is not None
        self._options = media.read_options(options, targets, captions=with_captions)
        self._caption_file = caption_file
        self._metadata = metadata
        for file in (caption_file, metadata):
            self.report.warnings += file.warnings if file is not None else ()
        self._progress: Progress | None = None
        self._ray: RayPipeline | None = None
        if on is not None:
            from mmsearch.indexing.ray_pipeline import RayPipeline, Work

            work = Work(index.place, self._options, index.runtime)
            self._ray = RayPipeline(on, work, self.report)

    def run(
        self,
        scopes: Sequence[Scope],
        progress: Progress | None = None,
        *,
        soon_again: bool = False,
    ) -> None:
        """Index some scopes, then give every space the vectors it lacks.

        Args:
            scopes: Where to look.
            progress: Called with (files done, files in all or None).
            soon_again: Whether another run is likely to follow soon, so that small segments wait.
        """
        began = time.monotonic()
        self._progress = progress
        if not soon_again:
            self.report.warnings += self._outdated
        try:
            languages = self._learnt_languages()
            self._index_files(scopes, soon_again=soon_again)
            tokens = self._lacks_tokens()
            several = len(self._store.spaces.all()) > 1
            if tokens or languages or several or self._store.settings.get(INCOMPLETE):
                self._backfill(tokens=tokens, languages=languages)
            self._derive()
        except KeyboardInterrupt:
            self.report.interrupted = True
            raise
        finally:
            self.report.seconds = time.monotonic() - began
            for target in self._targets:
                self.report.warnings += target.encoder.notes
        self._finish(soon_again=soon_again)

    def _index_files(self, scopes: Sequence[Scope], *, soon_again: bool) -> None:
        indexer = FileIndexer(
            self._store,
            self._targets,
            self._index.query_banks,
            self._options,
            self.report,
            caption_file=self._caption_file,
            progress=self._progress,
            ray=self._ray,
        )
        passed_over = indexer.run(scopes, self._warn_of_removal)
        unused = self._caption_file.unused if self._caption_file is not None else []
        if unused:
            first = ", ".join(unused[:3]) + (", …" if len(unused) > 3 else "")
            self.report.warnings.append(
                f"the captions file names {len(unused)} files that were not found: {first}"
            )
        passed_over.store(self._store)
        self.report.warnings += passed_over.warnings(look_inside=not soon_again)

    def _warn_of_removal(self, number: int) -> None:
        """Say that so many items are unusually many, and back up what they are part of."""
        stored = len(self._store)
        if number < UNUSUAL or number < UNUSUAL_SHARE * stored:
            return
        warning = (
            f"the files of {number} of {stored} items are gone, which is unusually many: they were "
            "removed, with their captions, tags and metadata"
        )
        if trouble := self._index.keep_backup(now=True):
            self.report.warnings += trouble
        elif (backup := backups.newest(self._index.place.folder)) is not None:
            catalog = self._index.place.folder / backups.CATALOG
            warning += (
                f". {backup} is from before: to undo it once the files are back, rename {catalog} "
                "and run `mmsearch index`"
            )
        self.report.warnings.append(warning)

    # ------------------------------------------------------------------ backfill

    def _lacks_tokens(self) -> bool:
        """Whether some item may lack token embeddings."""
        return any(
            target.token_modalities
            and self._store.settings.get(token_setting(target.space))
            != tokens_version(target.encoder)
            for target in self._targets
        )

    def _learnt_languages(self) -> frozenset[int]:
        """The ids of the spaces whose encoder has learnt languages since their texts were encoded;
        those without texts are noted to be of its version.
        """
        learnt = set()
        for target in self._targets:
            space, encoder = target.space, multilingual_encoder(target.encoder)
            if encoder is None or "text" not in target.modalities:
                continue
            if self._store.settings.get(languages_setting(space)) == encoder.languages_version:
                continue
            if self._store.vectors.count(space, "text"):
                learnt.add(space.id)
            else:
                self._store.settings.set(languages_setting(space), encoder.languages_version)
        return frozenset(learnt)

    def _backfill(self, *, tokens: bool, languages: frozenset[int]) -> None:
        targets = self._index.encoders.targets()  # another process may have added a model meanwhile
        incomplete = [
            self._backfill_one(target, tokens=tokens, languages=target.space.id in languages)
            for target in targets
        ]
        setting = "yes" if any(incomplete) else ""
        if setting != (self._store.settings.get(INCOMPLETE) or ""):
            self._store.settings.set(INCOMPLETE, setting)
        for target in targets if tokens else ():
            if target.token_modalities:
                version = tokens_version(target.encoder)
                self._store.settings.set(token_setting(target.space), version)

    def _backfill_one(self, target: EncodingTarget, *, tokens: bool, languages: bool) -> bool:
        """Whether some item still lacks a vector."""
        before = self.report.filled
        backfill = Backfill(
            self._store,
            target,
            self._index.query_banks,
            self._options,
            self._progress,
            tokens=tokens,
            languages=languages,
        )
        try:
            backfill.run()
        finally:
            self.report.filled = before + backfill.backfilled
        if languages and (encoder := multilingual_encoder(target.encoder)) is not None:
            self._store.settings.set(languages_setting(target.space), encoder.languages_version)
        if backfill.unreadable:
            self.report.warnings.append(
                f"{backfill.unreadable} stored files could not be read again for "
                f"{target.space.name!r}: they are found by their texts alone"
            )
        if backfill.away:
            answers = ", so the old model goes on answering" if target.space.backfills else ""
            self.report.warnings.append(
                f"{backfill.away} stored files are not there just now{answers}: run `mmsearch "
                "index` when they are back, or `mmsearch remove` them"
            )
        return bool(backfill.unreadable or backfill.away)

    # ------------------------------------------------------------------ derived data

    def _derive(self) -> None:
        """Bring metadata, hubs and the word index in line with what is stored."""
        if self._metadata is not None:
            unmatched = apply_metadata(self._store, self._metadata)
            if unmatched:
                first = ", ".join(unmatched[:5])
                self.report.warnings.append(
                    f"the metadata file names {len(unmatched)} files that were not found, or "
                    f"not one alone: {first}"
                )
        encoders = {target.space.id: target.encoder for target in self._index.encoders.targets()}
        self._index.query_banks.update(lambda space: encoders[space.id])
        self._store.words.refresh()

    def _finish(self, *, soon_again: bool) -> None:
        """Rebuild outgrown vector segments, and back the store up if it has changed."""
        index, report = self._index, self.report
        index.rebuild_indexes(soon_again=soon_again)
        if not soon_again:
            report.warnings += index.vector_indexes.warnings(index.serving())
        done = report.added, report.updated, report.renamed, report.removed, report.filled
        report.warnings += index.keep_backup(changed=any(done) or self._metadata is not None)
