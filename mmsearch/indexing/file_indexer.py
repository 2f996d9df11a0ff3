"""Brings the store in line with the files of some scopes, batch by batch.

A batch is one transaction, so that stopping at any moment loses at most what was not stored yet: no
more than BATCHES_ENCODED batches of pictures and the files that are decoded ahead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mmsearch.indexing.decoder import DecodedFile, Decoder
from mmsearch.indexing.encoding import FileVectors, encode
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.indexing.passed_over import PassedOver
from mmsearch.indexing.pipeline import Pipeline, TimedReport
from mmsearch.indexing.scan import Scan, ScannedFile
from mmsearch.indexing.scopes import Scope
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import DuplicateGone, FailureRecord, ItemRecord, Store
from mmsearch.storage.records import PathKey, metadata_key
from mmsearch.types import Failure, Progress

if TYPE_CHECKING:
    from mmsearch.indexing.ray_pipeline import RayPipeline
    from mmsearch.media.captions import CaptionFile


class FileIndexer:
    """Scans, decodes, encodes and stores files, once.

    What is done is counted in `report`, which is right at every moment; `progress` is called with
    (files done, files in all or None).
    """

    def __init__(  # noqa: PLR0913 - keywords, all optional
        self,
        store: Store,
        targets: Sequence[EncodingTarget],
        query_banks: QueryBanks,
        options: ReadOptions,
        report: TimedReport,
        *,
        caption_file: CaptionFile | None = None,
        progress: Progress | None = None,
        ray: RayPipeline | None = None,
    ) -> None:
        self._store = store
        self._targets = targets
        self._query_banks = query_banks
        self._options = options
        self._report = report
        self._caption_file = caption_file
        self._progress = progress
        self._decoder = Decoder(store, targets, options)
        self._ray = ray
        self._done = 0
        self._total: int | None = None
        self._renamed: set[int] = set()  # items that this run gave a new path
        self._failed: set[str] = set()
        self._broken_off: list[str] = []

    def run(
        self, scopes: Sequence[Scope], before_removal: Callable[[int], None] | None = None
    ) -> PassedOver:
        """Index new and changed files, then remove missing items; stored batches survive Ctrl-C.

        Args:
            scopes: Where to look.
            before_removal: Called with the number of items that are about to be removed.

        Returns:
            The files that were found but are not indexed here.
        """
        scan = Scan(
            self._store,
            scopes,
            self._options,
            caption_file=self._caption_file,
            report=self._report,
            step=self._step,
        )
        pipeline = self._ray or Pipeline(self._decoder, self._encode, self._report)
        with closing(self._decoder), closing(pipeline.run(self._counted(scan))) as batches:
            for batch, vectors in batches:
                with self._report.busy("store"):
                    self._put(batch, vectors)
        missing = scan.deleted(self._renamed)
        if missing and before_removal is not None:
            before_removal(len(missing))
        self._store.items.remove(missing)
        self._report.removed += len(missing)
        scan.finish_corpora()
        self._warn_of_missing_sources()
        self._warn_of_what_breaks_off()
        return scan.passed_over

    def _counted(self, scan: Scan) -> Iterator[ScannedFile]:
        """The scanned files; once there is one, all are counted in a thread, for the progress."""

        def count() -> None:
            self._total = scan.count()

        for number, scanned in enumerate(scan.files()):
            if number == 0:
                threading.Thread(target=count, daemon=True).start()
            yield scanned

    def _encode(self, batch: Sequence[DecodedFile]) -> list[FileVectors]:
        """The vectors of each file; unusable files have none."""
        parts = [(one.contents, one.texts) if one.usable else (None, None) for one in batch]
        return encode(self._targets, parts, self._query_banks)

    # ------------------------------------------------------------------ store

    def _put(self, batch: list[DecodedFile], vectors: list[FileVectors]) -> None:
        while True:
            try:
                return self._put_once(batch, vectors)
            except DuplicateGone as error:
                # two photos have swapped names, or another process has removed the item: files that
                # would have reused it are decoded themselves, so this terminates
                places = [n for n, one in enumerate(batch) if one.duplicate_of == error.item_id]
                again = [self._decoder(batch[n].scanned, reuse=False) for n in places]
                for n, decoded, found in zip(places, again, self._encode(again), strict=True):
                    batch[n], vectors[n] = decoded, found

    def _put_once(self, batch: Sequence[DecodedFile], vectors: Sequence[FileVectors]) -> None:
        renamed: set[int] = set()  # in this batch, which may yet fail
        records: list[tuple[ItemRecord, DecodedFile]] = []
        for decoded, found in zip(batch, vectors, strict=True):
            if not decoded.usable:
                continue
            known = decoded.scanned.known
            item_id = known.id if known else None
            if item_id is None and decoded.renamed:
                old = decoded.duplicate_of
                if old is not None and old not in self._renamed | renamed:
                    renamed.add(old)
                    item_id = old
            records.append((_record(decoded, item_id, found), decoded))
        failures = [failure for decoded in batch for failure in _failures(decoded)]
        before: dict[PathKey, bytes] = {}
        if records or failures:
            before = self._store.put([record for record, _ in records], failures)
        self._renamed |= renamed
        for record, decoded in records:
            self._count(record, decoded, before.get(record.path_key))
            if decoded.contents is not None and decoded.contents.breaks_off:
                self._broken_off.append(decoded.scanned.path)
        for decoded in batch:
            self._report_failures(decoded)
            self._step()

    def _count(self, record: ItemRecord, decoded: DecodedFile, before: bytes | None) -> None:
        """Count a stored file.

        Args:
            record: The file.
            decoded: What was read from it.
            before: The hash that another process stored for it during this run; None: none did.
        """
        if before is not None:
            self._report.unchanged += before == record.hash
            self._report.updated += before != record.hash
        elif decoded.scanned.known is None:
            renamed = record.id is not None
            self._report.renamed += renamed
            self._report.added += not renamed
        elif _is_touched(record, decoded):
            self._report.unchanged += 1  # only its time stamp changed
        else:
            self._report.updated += 1

    # ------------------------------------------------------------------ reporting

    def _step(self, files: int = 1) -> None:
        self._done += files
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _report_failures(self, decoded: DecodedFile) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for name, reason, _ in decoded.failures:
            path = decoded.scanned.beside(name)
            if path not in self._failed:  # a sidecar may belong to two photos
                self._failed.add(path)
                self._report.failures.append(Failure(path, reason, now))
                self._report.skipped += 1

    def _warn_of_what_breaks_off(self) -> None:
        if self._broken_off:
            first, more = sorted(self._broken_off)[:3], len(self._broken_off) - 3
            names = ", ".join(first) + (f" and {more} more" if more > 0 else "")
            self._report.warnings.append(
                f"truncated or damaged, and indexed as far as they can be read: {names}"
            )

    def _warn_of_missing_sources(self) -> None:
        for _, root in self._store.sources.all():
            if not os.path.isdir(root):
                self._report.warnings.append(
                    f"the indexed folder {root} is not there; what was found in it stays in the "
                    f"index until it is back, or until `mmsearch remove {root}`; if it was moved: "
                    f"`mmsearch relocate {root} NEW`"
                )


def _record(decoded: DecodedFile, item_id: int | None, vectors: FileVectors) -> ItemRecord:
    scanned, file = decoded.scanned, decoded.scanned.file
    return ItemRecord(
        source_id=scanned.source_id,
        folder=scanned.folder,
        name=scanned.name,
        kind=file.kind,
        stat=(file.size, file.mtime_ns),
        hash=decoded.hash,
        id=item_id,
        sidecar=file.sidecar,
        sidecar_name=file.sidecar_name,
        companions=file.companions,
        media=_media(decoded),
        facts=_facts(decoded),
        texts=decoded.texts,
        vectors=vectors,
        duplicate_of=decoded.duplicate_of,
        ctime_ns=file.ctime_ns,
    )


def _facts(decoded: DecodedFile) -> Mapping[str, str | float] | None:
    """The metadata of the file itself, and those that its corpus has of it."""
    own = None if decoded.photo is None else decoded.photo.facts
    if decoded.details is None:
        return own
    more = {metadata_key(key): value for key, value in decoded.details.metadata.items()}
    return {**(own or {}), **more}


def _media(decoded: DecodedFile) -> dict[str, Any] | None:
    """The columns of an item that are to change."""
    contents, photo = decoded.contents, decoded.photo
    if photo is None:
        return None if contents is None else contents.columns
    taken_at = None if photo.taken_at is None else photo.taken_at.isoformat()
    place = {"latitude": photo.latitude, "longitude": photo.longitude}
    taken = {"taken_at": taken_at, "camera": photo.camera, **place}
    return {**(contents.columns if contents else {}), **taken}


def _is_touched(record: ItemRecord, decoded: DecodedFile) -> bool:
    """Whether only the time stamps of a stored file or of its captions have changed."""
    known, file = decoded.scanned.known, decoded.scanned.file
    if known is None or decoded.duplicate_of != record.id or record.texts is not None:
        return False
    if decoded.changes_details:
        return False
    same = known[4:6] == (file.sidecar_size, file.sidecar_mtime_ns)
    return same or (file.sidecar_name is not None and not file.companions)


def _failures(decoded: DecodedFile) -> Iterator[FailureRecord]:
    scanned, file = decoded.scanned, decoded.scanned.file
    for name, reason, retry in decoded.failures:
        stat = file.size, file.mtime_ns
        if name != scanned.name and file.sidecar is not None:
            stat = file.sidecar
        place = scanned.source_id, scanned.folder, name
        yield FailureRecord(*place, reason, stat, retry, file.ctime_ns)
