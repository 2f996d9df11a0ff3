"""Files decoded, batched and encoded while earlier batches are stored.

    jobs ─▶ decode, in threads ─▶ batches ─▶ encode, in a thread ─▶ to be stored by who asks

What lies between two stages is bounded, so a slow one holds up those before it and nothing piles
up. Jobs are fetched, and batches handed out, in the thread that asks for them.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from mmsearch.indexing.decode import Decoded, Decoder, Job
from mmsearch.indexing.stages import Timed
from mmsearch.storage import ItemVectors, VectorField

PICTURES_A_BATCH = 32
FIRST_PICTURES = 4
"""In the first batch, so that the encoder need not wait for it; each is twice as large as the last.
"""
TEXTS_A_BATCH = 256
SECONDS_A_BATCH = 5.0
"""After which a batch goes on, however small: what is slow to read is to be stored, too."""

BATCHES_ENCODED = 2
"""Batches with the encoder: one that is encoded, and the next, so that it never waits."""

FILES_AHEAD = 2 * PICTURES_A_BATCH
"""Files that are decoded, or being decoded, and in no batch yet."""

Vectors = list[dict[VectorField, ItemVectors]]
"""Of each file its rows; none of one that cannot be used."""


@dataclass(slots=True)
class Batch:
    """Files on their way to being stored together.

    Attributes:
        most: Pictures that fill it.
    """

    most: int
    files: list[Decoded] = field(default_factory=list)
    pictures: int = 0
    texts: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, done: Decoded) -> None:
        """One more."""
        if not self.files:
            self.began = time.monotonic()
        self.files.append(done)
        self.pictures += bool(done.contents and done.contents.pictures)
        self.texts += len(done.texts or ())

    @property
    def due_in(self) -> float:
        """Seconds until it is to go on; 0 when it is full. One that is empty waits for a file."""
        if not self.files:
            return SECONDS_A_BATCH
        if self.pictures >= self.most or self.texts >= TEXTS_A_BATCH:
            return 0.0
        return max(0.0, self.began + SECONDS_A_BATCH - time.monotonic())


class Pipeline:
    """Turns jobs into batches of files and their vectors.

    Files keep the order of the jobs, but one that takes so long that threads would have to wait for
    it is passed by others.

    Args:
        decode: Makes of a job what is to be encoded; called in several threads.
        encode: Makes the vectors of each of some files; called in one thread.
        report: Told how long each stage was busy.
    """

    def __init__(
        self,
        decode: Decoder,
        encode: Callable[[Sequence[Decoded]], Vectors],
        report: Timed,
    ) -> None:
        self._decode = decode
        self._encode = encode
        self._report = report
        self._workers = min(os.cpu_count() or 1, 8)
        self._most_ahead = FILES_AHEAD + self._workers
        self._ahead: deque[Future[Decoded]] = deque()
        self._batch = Batch(FIRST_PICTURES)
        self._encoding: deque[tuple[list[Decoded], Future[tuple[Vectors, float]]]] = deque()
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()

    def run(self, jobs: Iterator[Job]) -> Generator[tuple[list[Decoded], Vectors], None, None]:
        """What becomes of the jobs, batch after batch; closing it ends its threads."""
        decoders = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        encoder = ThreadPoolExecutor(1, thread_name_prefix="encode-batches")
        more = True
        try:
            while more or self._ahead or self._batch.files or self._encoding:
                if fed := more and len(self._ahead) < self._most_ahead:
                    more = self._feed(jobs, decoders)
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

    def _feed(self, jobs: Iterator[Job], decoders: ThreadPoolExecutor) -> bool:
        """Whether there was one more job."""
        with self._report.busy("scan"):
            job = next(jobs, None)
        if job is not None:
            self._ahead.append(self._told(decoders.submit(self._decode, job)))
        return job is not None

    def _collect(self) -> None:
        """Take what is decoded into the batch, as far as there is room."""
        while self._ahead and self._batch.due_in > 0:
            done = self._ahead[0] if self._ahead[0].done() else self._passing()
            if done is None:
                return
            self._ahead.remove(done)
            self._take(done.result())

    def _passing(self) -> Future[Decoded] | None:
        """A file that is done, if the first is not and threads have nothing left to do."""
        newest = self._ahead[-1]
        if len(self._ahead) < self._most_ahead or not (newest.running() or newest.done()):
            return None
        return next((one for one in self._ahead if one.done()), None)

    def _take(self, done: Decoded) -> None:
        self._batch.add(done)
        for stage, seconds in done.seconds.items():
            self._report.add_seconds(stage, seconds / self._workers)

    def _send(self, encoder: ThreadPoolExecutor, *, last: bool) -> None:
        """Hand the batch to the encoder if it is due and there is room."""
        batch = self._batch
        due = batch.due_in == 0 or (last and not self._ahead)
        if batch.files and due and len(self._encoding) < BATCHES_ENCODED:
            encoding = self._told(encoder.submit(self._timed, batch.files))
            self._encoding.append((batch.files, encoding))
            self._batch = Batch(min(2 * batch.most, PICTURES_A_BATCH))

    def _timed(self, files: Sequence[Decoded]) -> tuple[Vectors, float]:
        began = time.perf_counter()
        found = self._encode(files)
        return found, time.perf_counter() - began

    def _encoded(self) -> tuple[list[Decoded], Vectors]:
        files, future = self._encoding.popleft()
        found, seconds = future.result()
        self._report.add_seconds("encode", seconds)
        return files, found

    def _told(self, future: Future[Any]) -> Future[Any]:
        """The same; when it is done, who waits goes on."""
        future.add_done_callback(self._done.put)
        return future

    def _wait(self) -> None:
        """Until something more is decoded or encoded, or the batch has waited long enough.

        `concurrent.futures.wait` holds locks that a Ctrl-C in it never lets go of.
        """
        due_in = self._batch.due_in
        with suppress(Empty):
            self._done.get(timeout=due_in if self._batch.files and due_in > 0 else None)
