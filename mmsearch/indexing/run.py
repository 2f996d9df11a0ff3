"""One run of indexing: what a scan finds goes down the pipeline, and is stored batch by batch.

A batch is one transaction, so that stopping at any moment loses at most what was not stored yet: no
more than BATCHES_ENCODED batches of pictures and the files that are decoded ahead.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mmsearch.indexing.decode import Decoded, Decoder, Job, encode
from mmsearch.indexing.decode.contents import Options
from mmsearch.indexing.pipeline import Pipeline
from mmsearch.indexing.scan import Scan, Scope
from mmsearch.indexing.stages import Timed
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import (
    DuplicateGone,
    FailureRecord,
    ItemRecord,
    ItemVectors,
    Store,
    VectorField,
)
from mmsearch.types import Failure, Kind, Progress, Report

if TYPE_CHECKING:
    from mmsearch.media.captions import CaptionFile


class Ingest:
    """One run over some scopes; `report` is true at every moment, also after an interruption.

    Args:
        store: Where things are stored.
        targets: The encoders that make the vectors, and their spaces in that store.
        options: How folders are read.
        book: Captions from a file, if any.
        query_banks: Give the hubs of vectors whose space has a bank.
        progress: Told how many files are done.
    """

    def __init__(
        self,
        store: Store,
        targets: Sequence[EncodingTarget],
        *,
        options: Options,
        book: CaptionFile | None = None,
        query_banks: QueryBanks | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.report = Timed()
        self.others: Counter[Kind] = Counter()
        """Files that were met but not asked for."""
        self._store = store
        self._lanes = targets
        self._options = options
        self._book = book
        self._query_banks = query_banks
        self._decoder = Decoder(store, targets, options)
        self._scan: Scan | None = None
        self._tell = progress or (lambda _done, _total: None)
        self._done = 0
        self._total: int | None = None
        self._moved: set[int] = set()  # items that this run gave a new path
        self._claimed: set[int] = set()  # the same, of the batch that is being stored
        self._failed: set[str] = set()

    def run(self, scopes: Sequence[Scope]) -> Report:
        """Bring the store in line with what is on disk; what was stored survives Ctrl-C."""
        began = time.monotonic()
        self._scan = scan = Scan(
            self._store,
            scopes,
            self._options,
            book=self._book,
            report=self.report,
            step=self._step,
        )
        try:
            self._decode_all(scan.jobs())
            self.others = scan.others
            gone = {item_id for item_id in scan.missing if item_id not in self._moved}
            self._store.items.remove(sorted(gone))
            self.report.removed += len(gone)
            self._warn_of_lost_sources()
        except KeyboardInterrupt:
            self.report.interrupted = True
            raise
        finally:
            self.report.seconds = time.monotonic() - began
            if self._book is not None and not self.report.interrupted:
                self._warn_of_unused_captions()
        return self.report

    def _count(self) -> None:
        self._total = self._scan.count() if self._scan is not None else None

    # ------------------------------------------------------------------ down the pipeline

    def _decode_all(self, jobs: Iterator[Job]) -> None:
        pipeline = Pipeline(self._decoder, self._encode, self.report)
        with closing(pipeline.run(self._counted(jobs))) as batches:
            for batch, vectors in batches:
                with self.report.busy("store"):
                    self._put_batch(batch, vectors)

    def _counted(self, jobs: Iterator[Job]) -> Iterator[Job]:
        """The jobs; as soon as there is one, all files are counted, to tell how far it is."""
        for number, job in enumerate(jobs):
            if number == 0:
                threading.Thread(target=self._count, daemon=True).start()
            yield job

    def _encode(self, batch: Sequence[Decoded]) -> list[dict[VectorField, ItemVectors]]:
        """The vectors of each file; none of those that cannot be used."""
        given = [(done.contents, done.texts) if done.usable else (None, None) for done in batch]
        return encode(self._lanes, given, self._query_banks)

    # ------------------------------------------------------------------ store

    def _put_batch(
        self, batch: list[Decoded], vectors: list[dict[VectorField, ItemVectors]]
    ) -> None:
        while True:
            try:
                return self._put(batch, vectors)
            except DuplicateGone as error:
                # two photos that swapped names, say, or another process that took an item out;
                # who borrowed there has its own picture decoded, so this comes to an end
                borrowed = [n for n, done in enumerate(batch) if done.like == error.item_id]
                again = [self._decoder(batch[n].job, borrow=False) for n in borrowed]
                for n, done, rows in zip(borrowed, again, self._encode(again), strict=True):
                    batch[n], vectors[n] = done, rows

    def _put(self, batch: list[Decoded], vectors: list[dict[VectorField, ItemVectors]]) -> None:
        self._claimed = set()
        good = [(done, rows) for done, rows in zip(batch, vectors, strict=True) if done.usable]
        bad = [
            self._failure_row(done, name, reason, retry=retry)
            for done in batch
            for name, reason, retry in done.failures
        ]
        entries = [self._entry(done, rows) for done, rows in good]
        if entries or bad:
            self._store.put(entries, failures=bad)
        self._moved |= self._claimed
        for entry, (done, _) in zip(entries, good, strict=True):
            self._tally(entry, done)
        for done in batch:
            self._note_failures(done)
            self._step()

    def _entry(self, done: Decoded, vectors: dict[VectorField, ItemVectors]) -> ItemRecord:
        job = done.job
        item_id = job.known.id if job.known else None
        if item_id is None and done.moved and self._is_free(done.like):
            item_id = done.like
            if item_id is not None:
                self._claimed.add(item_id)
        return ItemRecord(
            source_id=job.source_id,
            folder=job.folder,
            name=job.name,
            kind=job.file.kind,
            stat=(job.file.size, job.file.mtime_ns),
            hash=done.hash,
            id=item_id,
            sidecar=job.file.sidecar,
            sidecar_name=job.file.sidecar_name,
            media=done.contents.columns if done.contents else None,
            texts=done.texts,
            vectors=vectors,
            duplicate_of=done.like,
        )

    def _is_free(self, item_id: int | None) -> bool:
        """Whether no other file has been taken for this item's new name."""
        return item_id not in self._moved and item_id not in self._claimed

    def _tally(self, entry: ItemRecord, done: Decoded) -> None:
        if done.job.known is None:
            renamed = entry.id is not None
            self.report.renamed += renamed
            self.report.added += not renamed
        elif done.like == entry.id and entry.texts is None:
            self.report.unchanged += 1  # only its time stamp changed
        else:
            self.report.updated += 1

    # ------------------------------------------------------------------ reporting

    def _step(self, files: int = 1) -> None:
        self._done += files
        self._tell(self._done, self._total)

    def _failure_row(self, done: Decoded, name: str, reason: str, *, retry: bool) -> FailureRecord:
        job = done.job
        stat = (job.file.size, job.file.mtime_ns)
        if name != job.name and job.file.sidecar is not None:
            stat = job.file.sidecar
        return FailureRecord(job.source_id, job.folder, name, reason, stat, retry)

    def _note_failures(self, done: Decoded) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for name, reason, _ in done.failures:
            path = os.path.join(done.job.root, done.job.folder, name)
            if path not in self._failed:  # a sidecar may serve two photos
                self._failed.add(path)
                self.report.failures.append(Failure(path, reason, now))
                self.report.skipped += 1

    def _warn_of_lost_sources(self) -> None:
        for _, root in self._store.sources.all():
            if not os.path.isdir(root):
                self.report.warnings.append(
                    f"the indexed folder {root} is not there; what was found in it stays in the "
                    f"index until it is back, or until `mmsearch remove {root}`; if it was moved: "
                    f"`mmsearch relocate {root} NEW`"
                )

    def _warn_of_unused_captions(self) -> None:
        unused = self._book.unused if self._book is not None else []
        if unused:
            first = ", ".join(unused[:3]) + (", …" if len(unused) > 3 else "")
            self.report.warnings.append(
                f"the captions file names {len(unused)} files that were not found: {first}"
            )
