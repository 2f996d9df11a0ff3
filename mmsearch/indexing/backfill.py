"""Encodes items that are stored already for another model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from mmsearch.encoders import multilingual_encoder
from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.indexing.encoding import encode
from mmsearch.indexing.file_contents import Contents, Reader, ReadOptions
from mmsearch.indexing.projection import project_missing
from mmsearch.media.file_state import has_content, read_file
from mmsearch.media.kinds import kind_of
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import KINDS_WITH, EncodingTarget
from mmsearch.storage import Store
from mmsearch.types import Kind, Modality, Progress

ITEMS_A_BATCH = 64
"""Items whose files, or texts, are encoded in one call."""

WITH_REGIONS: frozenset[Kind] = frozenset({"image"})
"""The kinds of files that have token embeddings of pictures; videos and documents have none."""

Missing = tuple[int, str, bytes]
"""(item id, path, hash) of an item that lacks a vector."""


class Backfill:
    """Encodes the vectors that a space lacks.

    Batches are stored as they are made, so an interrupted backfill goes on where it stopped. Texts
    come from the store; photos, sounds and so on are read again.

    With `tokens`, items that have a vector but no token embeddings are encoded as well; with
    `languages`, items that have a text in another language than English. `progress` is called with
    (items done, items in all).
    """

    def __init__(
        self,
        store: Store,
        target: EncodingTarget,
        query_banks: QueryBanks,
        options: ReadOptions,
        progress: Progress | None = None,
        *,
        tokens: bool = False,
        languages: bool = False,
    ) -> None:
        self.backfilled = 0
        """Items that have been encoded."""
        self.unreadable = 0
        """Files that could not be read; their items are found by their other vectors alone."""
        self.away = 0
        """Files that are not there just now; without them the space is not complete."""
        self._store = store
        self._target = target
        self._token_modalities = target.token_modalities if tokens else frozenset()
        self._languages = languages
        self._query_banks = query_banks
        self._options = replace(options, readings=frozenset())
        self._progress = progress
        self._done = 0
        self._total = 0

    def run(self) -> None:
        """Encode what is missing; then, if no file was away, let the space serve queries."""
        space = self._target.space
        if space.backfills:
            project_missing(self._store, self._target, self._query_banks, self._progress)
        files: dict[int, Missing] = {}
        for modality in sorted(self._target.modalities - {"text"}):
            files |= {one[0]: one for one in self._missing(modality)}
        texts = self._missing("text") if "text" in self._target.modalities else []
        self._total = len(files) + len(texts)
        self._encode_texts(texts)
        self._encode_files([files[item_id] for item_id in sorted(files)])
        for modality in sorted(space.backfills - {"text"}):
            kinds = KINDS_WITH[modality]
            self.away += self._store.vectors.missing_of_imported(space, modality, kinds)
        if space.backfills and not self.away:
            self._store.spaces.switch_to(space)

    def _missing(self, modality: Modality) -> list[Missing]:
        space, vectors = self._target.space, self._store.vectors
        found = vectors.missing(space, modality, KINDS_WITH[modality])
        if modality in self._token_modalities:
            found += vectors.missing(space, modality, WITH_REGIONS, token_embeddings=True)
        if modality == "text" and self._languages:
            found += self._in_other_languages()
        return sorted({one[0]: one for one in found}.values())

    def _in_other_languages(self) -> list[Missing]:
        encoder = multilingual_encoder(self._target.encoder)
        if encoder is None:
            return []
        paths = {
            item.id: item.path
            for item in self._store.items.all()
            if not all(encoder.is_english(part.text) for part in item.texts)
        }
        hashes = self._store.items.hashes(list(paths))
        return [(id_, path, hashes.get(id_, b"")) for id_, path in paths.items()]

    def _encode_texts(self, missing: Sequence[Missing]) -> None:
        for batch in _batches(missing):
            items = self._store.items.get([item_id for item_id, _, _ in batch])
            stored = [(item_id, hash_) for item_id, _, hash_ in batch if item_id in items]
            found = encode(
                [self._target], [(None, items[id_].texts) for id_, _ in stored], self._query_banks
            )
            texts = {item_id: [part.text for part in item.texts] for item_id, item in items.items()}
            self._store.vectors.backfill(dict(zip(stored, found, strict=True)), texts)
            self._count(len(stored), of=len(batch))

    def _encode_files(self, missing: Sequence[Missing]) -> None:
        reader = Reader([self._target], self._options)
        workers = min(os.cpu_count() or 1, 8)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            ahead: deque[Future[Contents | Away | None]] = deque()
            waiting = iter(missing)
            for batch in _batches(missing):
                contents = []
                for _ in batch:
                    while len(ahead) <= ITEMS_A_BATCH + workers and (one := next(waiting, None)):
                        ahead.append(pool.submit(_read, reader, one))
                    contents.append(ahead.popleft().result())
                self._put_batch(batch, contents)
        except BaseException:
            reader.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            reader.close()

    def _put_batch(
        self, missing: Sequence[Missing], read: Sequence[Contents | Away | None]
    ) -> None:
        self.away += sum(isinstance(contents, Away) for contents in read)
        self.unreadable += sum(contents is None for contents in read)
        usable = {
            (item_id, hash_): contents
            for (item_id, _, hash_), contents in zip(missing, read, strict=True)
            if isinstance(contents, Contents)
        }
        parts = [(contents, None) for contents in usable.values()]
        found = encode([self._target], parts, self._query_banks)
        self._store.vectors.backfill(dict(zip(usable, found, strict=True)))
        self._count(len(usable), of=len(missing))

    def _count(self, backfilled: int, *, of: int) -> None:
        self.backfilled += backfilled
        self._done += of
        if self._progress is not None:
            self._progress(self._done, self._total)


class Away:
    """A file that is not there just now, or cannot be read because a package is missing."""


def _read(reader: Reader, missing: Missing) -> Contents | Away | None:
    """What a file holds; None if it cannot be used or has changed."""
    _, path, hash_ = missing
    kind = kind_of(path)
    try:
        content, now = read_file(path)
        if kind is None or not has_content(path, now, hash_):
            return None
        return reader.read(kind, content, path)
    except (UnreadableFile, PermissionError):
        return None
    except (OSError, MissingExtra):
        return Away()


def _batches(missing: Sequence[Missing]) -> Iterator[Sequence[Missing]]:
    for start in range(0, len(missing), ITEMS_A_BATCH):
        yield missing[start : start + ITEMS_A_BATCH]
