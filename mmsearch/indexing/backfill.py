"""Gives what is stored already its vectors in another model's space."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.indexing.decode import encode, look_ahead
from mmsearch.indexing.decode.contents import Contents, Options, Reader
from mmsearch.media.file_state import has_content, read_file
from mmsearch.media.kinds import kind_of
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import KINDS_WITH, EncodingTarget
from mmsearch.storage import ItemVectors, Store, VectorField
from mmsearch.types import Kind, Modality, Progress, TextPart

FILES_A_BATCH = 64
ITEMS_A_BATCH = 64
"""Items whose texts are encoded in one call."""

KEPT_WHOLE: frozenset[Kind] = frozenset({"image"})
"""The kinds of files whose pictures have regions: of videos and documents only vectors are kept."""

Due = tuple[int, str, bytes]
"""(item id, path, hash) of an item that lacks a vector."""


class Fill:
    """One space brought to where it holds a vector of everything.

    Batches are stored as they are made: what is interrupted goes on where it stopped. Texts come
    from the store; photos, sounds and so on are read again.

    Args:
        store: What is stored.
        target: The space to fill.
        options: How files are read.
        progress: Called with (items done, items in all).
        tokens: Also those that have a vector, but no token embeddings.
        query_banks: Give the hubs of vectors whose space has a bank.
    """

    def __init__(
        self,
        store: Store,
        target: EncodingTarget,
        options: Options,
        progress: Progress | None = None,
        *,
        tokens: bool = False,
        query_banks: QueryBanks | None = None,
    ) -> None:
        self.filled = 0
        """Items that were given vectors."""
        self.holes = 0
        """Files that could not be read; they are found by their other vectors alone."""
        self.away = 0
        """Files that are not there just now; without them the space is not complete."""
        self._store = store
        self._lane = target
        self._token_modalities = target.token_modalities if tokens else frozenset()
        self._query_banks = query_banks
        self._options = replace(options, readings=frozenset())
        self._tell = progress or (lambda _done, _total: None)
        self._done = 0
        self._total = 0

    def run(self) -> None:
        """Encode what is missing; then, if nothing was away, let the space answer."""
        space = self._lane.space
        lacking: dict[int, Due] = {}
        for facet in sorted(self._lane.modalities - {"text"}):
            for due in self._lacking(facet):
                lacking[due[0]] = due
        said = self._lacking("text") if "text" in self._lane.modalities else []
        self._total = len(lacking) + len(said)
        self._fill_texts(said)
        self._fill_files([lacking[item_id] for item_id in sorted(lacking)])
        for facet in sorted(space.backfills - {"text"}):
            self.away += self._store.vectors.missing_of_imported(space, facet, KINDS_WITH[facet])
        if space.backfills and not self.away:
            self._store.spaces.switch_to(space)

    def _lacking(self, facet: Modality) -> list[Due]:
        space = self._lane.space
        found = self._store.vectors.missing(space, facet, KINDS_WITH[facet])
        if facet in self._token_modalities:
            found += self._store.vectors.missing(space, facet, KEPT_WHOLE, token_embeddings=True)
        return sorted({due[0]: due for due in found}.values())

    def _fill_texts(self, due: Sequence[Due]) -> None:
        for some in _batches(due, ITEMS_A_BATCH):
            items = self._store.items.get([item_id for item_id, _, _ in some])
            there = [one for one in some if one[0] in items]
            found = self._encode([(None, items[one[0]].texts) for one in there])
            rows = {
                (item_id, hash_): places
                for (item_id, _, hash_), places in zip(there, found, strict=True)
            }
            said = {item_id: [part.text for part in item.texts] for item_id, item in items.items()}
            self._store.vectors.backfill(rows, said)
            self.filled += len(there)
            self._step(len(some))

    def _fill_files(self, due: Sequence[Due]) -> None:
        reader = Reader([self._lane], self._options)
        workers = min(os.cpu_count() or 1, 8)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            read = look_ahead(pool, lambda one: _read(reader, one), due, FILES_A_BATCH + workers)
            for some in _batches(due, FILES_A_BATCH):
                self._put_batch(some, [next(read) for _ in some])
        except BaseException:
            reader.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _put_batch(self, due: Sequence[Due], read: Sequence[Contents | Away | None]) -> None:
        self.away += sum(isinstance(contents, Away) for contents in read)
        self.holes += sum(contents is None for contents in read)
        good = [
            (one, contents)
            for one, contents in zip(due, read, strict=True)
            if isinstance(contents, Contents)
        ]
        found = self._encode([(contents, None) for _, contents in good])
        self._store.vectors.backfill(
            {
                (item_id, hash_): rows
                for ((item_id, _, hash_), _), rows in zip(good, found, strict=True)
            }
        )
        self.filled += len(good)
        self._step(len(due))

    def _encode(
        self, files: Sequence[tuple[Contents | None, Sequence[TextPart] | None]]
    ) -> list[dict[VectorField, ItemVectors]]:
        return encode([self._lane], files, self._query_banks)

    def _step(self, number: int) -> None:
        self._done += number
        self._tell(self._done, self._total)


class Away:
    """A file that is not there just now, or cannot be read for want of a package."""


def _read(reader: Reader, due: Due) -> Contents | Away | None:
    """What the file holds; None if it cannot be used or has changed."""
    _, path, hash_ = due
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


def _batches(due: Sequence[Due], size: int) -> Iterator[Sequence[Due]]:
    for start in range(0, len(due), size):
        yield due[start : start + size]
