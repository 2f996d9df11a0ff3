"""Copies an index to another store, table by table, a page at a time.

After each page the destination knows how far it has come (`CopyProgress`), so that the same copy
goes on where it was interrupted. It first reads again what it read before, and compares digests: if
the source has changed since, it begins anew.
"""

from __future__ import annotations

import hashlib
import marshal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmsearch.encoders import runtime_of
from mmsearch.errors import InvalidOption, StorageFailed
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.spaces.open_or_create import open_store
from mmsearch.storage.index_kind import KIND
from mmsearch.storage.place import IndexLike, index_place
from mmsearch.storage.transfer import (
    COLUMNS,
    COPYING,
    CopyProgress,
    Key,
    Page,
    TransferStore,
    check_whole,
    key_of,
)
from mmsearch.vectors.index_choice import AUTO, EXACT

if TYPE_CHECKING:
    from mmsearch.storage import Store
    from mmsearch.types import Progress

ROWS = 5_000
"""Rows a page: a few MB."""

ROWS_OF = {"token_embeddings": 500, "query_banks": 1}
"""Rows a page of tables whose rows are larger: some 10 KB, and some MB."""


@dataclass(slots=True)
class Copied:
    """What a copy did.

    Attributes:
        source: Where the index was read.
        destination: Where it is now, too.
        rows: How many rows each table has, at both ends.
        resumed: How many of them an earlier run had copied, which was interrupted.
        restarted: An earlier run was interrupted, and the source has changed since.
        seconds: How long this run took.
        warnings: What the user should know.
    """

    source: str
    destination: str
    rows: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    restarted: bool = False
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def items(self) -> int:
        """How many items the index has."""
        return self.rows["items"]

    @property
    def vectors(self) -> int:
        """How many vectors it has."""
        return self.rows["vectors"]


def copy_store(
    source: Store, destination: Store, report: Copied, progress: Progress | None = None
) -> None:
    """Copy all rows of a store to another one, which stays marked as half copied.

    Args:
        source: Its rows are read as of one moment.
        destination: It holds nothing, or a part of a copy of this source.
        report: What was done is added to it.
        progress: Called with (rows done, rows in all).

    Raises:
        InvalidOption: the destination holds something else, or is the source.
        IndexBusy: another process is writing to the destination.
        StorageFailed: a store cannot be read or written; what was copied before stays.
    """
    reader, writer = source.transfer, destination.transfer
    with reader.reading(), writer.writing():
        expected = {table: reader.count(table) for table in COLUMNS}
        begun = _begin(source, destination, report)
        count = _Counter(sum(expected.values()), progress)
        report.resumed = _same(reader, begun, count)
        if begun.done and not report.resumed:
            report.restarted = True
        if not report.resumed:
            count.restart()
            begun = CopyProgress(begun.source, begun.store_id)
            if any(writer.count(table) for table in COLUMNS):
                writer.clear()
            destination.settings.set(COPYING, begun.packed())
        _copy(reader, writer, begun, count)
        writer.finish()
        report.rows = {table: writer.count(table) for table in COLUMNS}
        if report.rows != expected:
            again = CopyProgress(begun.source, begun.store_id)
            destination.settings.set(COPYING, again.packed())
            raise StorageFailed(
                f"{report.destination} has not all of {report.source}: "
                f"{_differences(expected, report.rows)}; run the command again: it begins anew"
            )


def _begin(source: Store, destination: Store, report: Copied) -> CopyProgress:
    """How far an earlier run of this copy has come.

    Raises:
        InvalidOption: the destination holds something else.
    """
    store_id = source.state().store_id
    if destination.state().store_id == store_id:
        raise InvalidOption(f"{report.source} and {report.destination} are the same index")
    begun = CopyProgress.of(destination)
    there = {table: destination.transfer.count(table) for table in COLUMNS}
    if begun is None and any(there.values()):
        raise InvalidOption(
            f"{report.destination} holds an index already, of {there['items']:,} items: copy to "
            "one that is new or empty"
        )
    if begun is not None and begun.store_id != store_id:
        raise InvalidOption(
            f"{report.destination} holds a part of a copy of {begun.source}, not of "
            f"{report.source}: copy to one that is new or empty"
        )
    return begun or CopyProgress(report.source, store_id)


def _same(reader: TransferStore, begun: CopyProgress, count: _Counter) -> int:
    """How many rows were copied before; 0 if the source has others by now."""
    for table, (rows, digest) in begun.done.items():
        seen, found = 0, ""
        for page in reader.pages(table, None, _rows(table)):
            seen, found = seen + len(page), _digest(found, page)
            count.add(len(page))
            if seen >= rows:
                break
        if (seen, found) != (rows, digest):
            return 0
    return sum(rows for rows, _ in begun.done.values())


def _copy(
    reader: TransferStore, writer: TransferStore, begun: CopyProgress, count: _Counter
) -> None:
    """Copy what comes after a key of the last table of those that were begun."""
    done = dict(begun.done)
    last = list(done)[-1] if done else None
    for table in _from(last):
        after: Key | None = begun.after if table == last else None
        rows, digest = done.get(table, (0, ""))
        for page in reader.pages(table, after, _rows(table)):
            rows, digest = rows + len(page), _digest(digest, page)
            done[table] = rows, digest
            now = replace(begun, done=done, after=key_of(table, page[-1]))
            writer.put(table, page, now.packed())
            count.add(len(page))


def _from(table: str | None) -> Iterator[str]:
    """The tables from one on, or all."""
    names = list(COLUMNS)
    yield from names if table is None else names[names.index(table) :]


def _rows(table: str) -> int:
    return ROWS_OF.get(table, ROWS)


def _digest(before: str, page: Page) -> str:
    """The digest of all rows up to a page, given that of those before it."""
    made = hashlib.blake2b(before.encode(), digest_size=16)
    made.update(marshal.dumps(page, 2))  # from version 3 on, equal objects may be one in it
    return made.hexdigest()


def _differences(expected: dict[str, int], found: dict[str, int]) -> str:
    return ", ".join(
        f"{found[table]:,} of {rows:,} {table.replace('_', ' ')}"
        for table, rows in expected.items()
        if found[table] != rows
    )


class _Counter:
    """Counts rows, and reports them."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, rows: int) -> None:
        """Count more rows."""
        self._done += rows
        if self._progress is not None:
            self._progress(self._done, self._total)

    def restart(self) -> None:
        """Count from 0."""
        self._done = 0


# ---------------------------------------------------------------------- indexes


def copy(
    source: IndexLike,
    destination: IndexLike,
    *,
    progress: Progress | None = None,
) -> Copied:
    """Copy an index to a new place, wherever both are; nothing is encoded again.

    All that is stored is copied as it is, ids included; what is derived from it, such as the index
    of words, is then made anew. A copy that was interrupted goes on where it was; until it is done,
    the destination cannot be opened.

    Args:
        source: The name, folder or address of an index; others may read it and write to it, where
            its store has snapshots.
        destination: That of another one, which is new or empty.
        progress: Called with (rows done, rows in all), then with items whose words are done.

    Raises:
        IndexNotFound: there is no index at `source`.
        IndexUnusable: one of them cannot be opened, or was not copied to the end itself.
        InvalidOption: the destination holds something else.
        IndexBusy: another process is writing to the destination, or copying to it.
        StorageFailed: the disk is full, say; what was copied before stays.
    """
    began = time.monotonic()
    place, into = index_place(source), index_place(destination)
    report = Copied(place.address, into.address)
    with closing(open_store(place)) as from_store:
        check_whole(from_store, place)
        begun = CopyProgress(report.source, from_store.state().store_id)
        marked = {COPYING: begun.packed()}  # so that nothing ever takes it for a complete index
        with closing(open_store(into, create=True, initial=marked)) as to_store:
            copy_store(from_store, to_store, report, progress)
            index = OpenIndex(into, to_store, runtime_of())
            with index.writing("copying"):
                to_store.words.refresh(progress=progress)
                report.warnings += _check_kind(index)
                index.rebuild_indexes()
                to_store.settings.set(COPYING, "")
                report.warnings += index.keep_backup()
    report.seconds = time.monotonic() - began
    return report


def _check_kind(index: OpenIndex) -> list[str]:
    """Choose the kind of vector index anew if only the source's engine knows it; says so."""
    kind = index.store.settings.get(KIND)
    if kind in (None, AUTO, EXACT):
        return []
    try:
        index.vector_indexes.configure(kind, None)
    except InvalidOption as error:
        index.vector_indexes.configure(AUTO, None)
        return [f"{error}; the copy chooses by itself"]
    return []
