"""Files decoded, batched and encoded while earlier batches are stored.

    scanned files ─▶ decode, in threads ─▶ batches ─▶ encode, in a thread ─▶ the caller stores them

Queues between stages are bounded, so a slow stage blocks those before it. Files are scanned, and
batches handed out, in the caller's thread.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from mmsearch.indexing.decoder import DecodedFile, Decoder
from mmsearch.indexing.encoding import FileVectors
from mmsearch.indexing.scan import ScannedFile
from mmsearch.types import Report

PICTURES_A_BATCH = 32
FIRST_PICTURES = 4
"""In the first batch, so that the encoder need not wait for it; each is twice as large as the last.
"""
TEXTS_A_BATCH = 256
SECONDS_A_BATCH = 5.0
"""After which a batch is encoded however small it is: what is slow to read is to be stored, too."""

BATCHES_ENCODED = 2
"""Batches with the encoder: one that is encoded, and the next, so that it never waits."""

FILES_AHEAD = 2 * PICTURES_A_BATCH
"""Files that are decoded, or being decoded, and in no batch yet."""


@dataclass(slots=True)
class TimedReport(Report):
    """A report that counts how long each stage was busy."""

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Count a stage busy for some more seconds."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Count a stage busy while the context lasts."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, time.perf_counter() - began)


@dataclass(slots=True)
class Batch:
    """Files on their way to being stored together.

    Attributes:
        most: Pictures that fill it.
    """

    most: int
    files: list[DecodedFile] = field(default_factory=list)
    pictures: int = 0
    texts: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, decoded: DecodedFile) -> None:
        """Add a file."""
        if not self.files:
            self.began = time.monotonic()
        self.files.append(decoded)
        self.pictures += bool(decoded.contents and decoded.contents.pictures)
        self.texts += len(decoded.texts or ())

    @property
    def due_in(self) -> float:
        """Seconds until it is to be encoded; 0 when it is full. An empty one waits for a file."""
        if not self.files:
            return SECONDS_A_BATCH
        if self.pictures >= self.most or self.texts >= TEXTS_A_BATCH:
            return 0.0
        return max(0.0, self.began + SECONDS_A_BATCH - time.monotonic())


class Pipeline:
    """Turns scanned files into batches of decoded files and their vectors.

    Files keep their order, but a slow file is overtaken by others once the queue behind it is full.

    Args:
        decode: Decodes a file; called in several threads.
        encode: Gives the vectors of each of some files; called in one thread.
        report: Counts how long each stage was busy.
    """

    def __init__(
        self,
        decode: Decoder,
        encode: Callable[[Sequence[DecodedFile]], list[FileVectors]],
        report: TimedReport,
    ) -> None:
        self._decode = decode
        self._encode = encode
        self._report = report
        self._workers = min(os.cpu_count() or 1, 8)
        self._most_ahead = FILES_AHEAD + self._workers
        self._ahead: deque[Future[DecodedFile]] = deque()
        self._batch = Batch(FIRST_PICTURES)
        self._encoding: deque[tuple[list[DecodedFile], Future[tuple[list[FileVectors], float]]]]
        self._encoding = deque()
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()

    def run(
        self, files: Iterator[ScannedFile]
    ) -> Generator[tuple[list[DecodedFile], list[FileVectors]], None, None]:
        """Batch after batch, with the vectors of each file; closing it ends its threads."""
        decoders = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        encoder = ThreadPoolExecutor(1, thread_name_prefix="encode-batches")
        more = True
        try:
            while more or self._ahead or self._batch.files or self._encoding:
                if fed := more and len(self._ahead) < self._most_ahead:
                    more = self._feed(files, decoders)
                self._collect()
                self._send(encoder, last=not more)
                if self._encoding and self._encoding[0][1].done():
                    yield self._encoded()
                elif not fed:
                    self._wait()
        except BaseException:
            self._decode.stop()
            raise
        finally:
            decoders.shutdown(cancel_futures=True)
            encoder.shutdown(cancel_futures=True)

    def _feed(self, files: Iterator[ScannedFile], decoders: ThreadPoolExecutor) -> bool:
        """Whether there was one more file."""
        with self._report.busy("scan"):
            scanned = next(files, None)
        if scanned is not None:
            self._ahead.append(self._announced(decoders.submit(self._decode, scanned)))
        return scanned is not None

    def _collect(self) -> None:
        """Move decoded files to the batch while it has room."""
        while self._ahead and self._batch.due_in > 0:
            first = self._ahead[0]
            future = first if first.done() else self._overtaking()
            if future is None:
                return
            self._ahead.remove(future)
            decoded = future.result()
            self._batch.add(decoded)
            for stage, seconds in decoded.seconds.items():
                self._report.add_seconds(stage, seconds / self._workers)

    def _overtaking(self) -> Future[DecodedFile] | None:
        """A file that is done, if the first is not and the threads have nothing left to do."""
        newest = self._ahead[-1]
        if len(self._ahead) < self._most_ahead or not (newest.running() or newest.done()):
            return None
        return next((one for one in self._ahead if one.done()), None)

    def _send(self, encoder: ThreadPoolExecutor, *, last: bool) -> None:
        """Hand the batch to the encoder if it is due and there is room."""
        batch = self._batch
        due = batch.due_in == 0 or (last and not self._ahead)
        if batch.files and due and len(self._encoding) < BATCHES_ENCODED:
            encoding = self._announced(encoder.submit(self._timed, batch.files))
            self._encoding.append((batch.files, encoding))
            self._batch = Batch(min(2 * batch.most, PICTURES_A_BATCH))

    def _timed(self, files: Sequence[DecodedFile]) -> tuple[list[FileVectors], float]:
        began = time.perf_counter()
        vectors = self._encode(files)
        return vectors, time.perf_counter() - began

    def _encoded(self) -> tuple[list[DecodedFile], list[FileVectors]]:
        files, future = self._encoding.popleft()
        vectors, seconds = future.result()
        self._report.add_seconds("encode", seconds)
        return files, vectors

    def _announced(self, future: Future[Any]) -> Future[Any]:
        """A future that wakes the caller's thread when it is done."""
        future.add_done_callback(self._done.put)
        return future

    def _wait(self) -> None:
        """Wait until something more is decoded or encoded, or the batch is due.

        `concurrent.futures.wait` holds locks that a Ctrl-C in it never releases.
        """
        due_in = self._batch.due_in
        with suppress(Empty):
            self._done.get(timeout=due_in if self._batch.files and due_in > 0 else None)
