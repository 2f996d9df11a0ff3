"""The catalog: what is known of each file, its texts and its vectors, in one SQLite file.

It is the truth; everything else in an index folder can be made again from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, func, or_, select

from mmsearch.storage.sqlite.bulk import BulkTables
from mmsearch.storage.sqlite.changes import Came, ChangeTables, Stamp
from mmsearch.storage.sqlite.contents import ContentTables
from mmsearch.storage.sqlite.copies import CopyTables
from mmsearch.storage.sqlite.filtering import FilterTables
from mmsearch.storage.sqlite.hubs import HubTables
from mmsearch.storage.sqlite.listing import ListTables
from mmsearch.storage.sqlite.moving import MoveTables
from mmsearch.storage.sqlite.places import Asked, Known, PlaceTables, at_or_below
from mmsearch.storage.sqlite.records import (
    Entry,
    Place,
    Rows,
    next_revision,
    put_entries,
    put_failures,
    put_rows,
)
from mmsearch.storage.sqlite.schema import failures as failed
from mmsearch.storage.sqlite.schema import items, sources, texts, vectors
from mmsearch.storage.sqlite.spaces import Space, SpaceTable
from mmsearch.storage.sqlite.store import chunks
from mmsearch.storage.sqlite.tagging import TagTables
from mmsearch.storage.sqlite.words import WordTables
from mmsearch.types import Failure

__all__ = ["Asked", "Came", "Catalog", "Known", "Space", "Stamp"]


class Catalog(
    BulkTables,
    ListTables,
    SpaceTable,
    PlaceTables,
    ChangeTables,
    ContentTables,
    HubTables,
    FilterTables,
    WordTables,
    TagTables,
    CopyTables,
    MoveTables,
):
    """One index's SQLite file. Reads are consistent; each write is one transaction."""

    def counts(self) -> dict[str, Any]:
        """How many there are: items by kind, vectors by space id and facet, failures."""
        item_counts = select(items.c.modality, func.count()).group_by(items.c.modality)
        c = vectors.c
        vector_counts = select(c.space_id, c.facet, func.count()).group_by(c.space_id, c.facet)
        by_space: dict[int, dict[str, int]] = {}
        for space_id, facet, number in self._rows(vector_counts):
            by_space.setdefault(space_id, {})[facet] = number
        return {
            "items": dict(map(tuple, self._rows(item_counts))),
            "vectors": by_space,
            "failures": self._scalars(select(func.count()).select_from(failed))[0],
        }

    def __len__(self) -> int:
        return int(self._rows(select(func.count()).select_from(items))[0][0])

    def put(self, entries: Sequence[Entry], failures: Sequence[dict[str, Any]] = ()) -> None:
        """Store a batch, all or none; what is stored of a file forgets its earlier failure.

        Args:
            entries: Items to make or change.
            failures: source_id, folder, name, reason, size, mtime_ns and retry each.
        """
        with self._write() as connection:
            put_entries(connection, entries)
            put_failures(connection, failures)
            if any(entry.brings_vectors for entry in entries):
                next_revision(connection)

    def fill(
        self,
        rows: dict[tuple[int, bytes], dict[Place, Rows]],
        said: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """File vectors of items that are stored already, all or none.

        Args:
            rows: By (item id, hash); an item whose content has changed meanwhile is left out.
            said: By item id, the texts that were encoded; one that has others by now is left out.
        """
        if not rows:
            return
        with self._write() as connection:
            hashes = dict(
                map(tuple, connection.execute(_hashes_of([id_ for id_, _ in rows])).all())
            )
            for (item_id, hash_), places in rows.items():
                same = said is None or _texts_of(connection, item_id) == list(said[item_id])
                if same and hashes.get(item_id) == hash_:
                    for place, some in places.items():
                        put_rows(connection, item_id, place, some)
            next_revision(connection)

    def fail(self, failures: Sequence[dict[str, Any]]) -> None:
        """Keep failures alone, as `put` does."""
        with self._write() as connection:
            put_failures(connection, failures)

    def forget_failures(self, source_id: int, folder: str, names: Iterable[str]) -> None:
        """Drop failures, if there are any to drop."""
        if not (names := list(names)):
            return
        with self._write() as connection:
            for chunk in chunks(names):
                c = failed.c
                where = (c.source_id == source_id, c.folder == folder, c.name.in_(chunk))
                connection.execute(delete(failed).where(*where))

    def remove(self, ids: Sequence[int]) -> None:
        """Take items out, with their texts and vectors, all or none."""
        if not ids:
            return
        with self._write() as connection:
            for chunk in chunks(ids):
                connection.execute(delete(items).where(items.c.id.in_(chunk)))
            next_revision(connection)

    def remove_below(self, source_id: int, below: str) -> int:
        """Take out a file or all at and below a folder; returns how many items and failures."""
        with self._write() as connection:
            gone = 0
            for table in (failed, items):
                where = [table.c.source_id == source_id]
                if below:
                    folder, name = os.path.split(below)
                    file = (table.c.folder == folder) & (table.c.name == name)
                    where.append(or_(file, at_or_below(table, below)))
                gone += connection.execute(delete(table).where(*where)).rowcount
            if not below:
                connection.execute(delete(sources).where(sources.c.id == source_id))
            next_revision(connection)
        return gone

    def failures(self) -> list[Failure]:
        """The files that could not be used, by path."""
        c = failed.c
        statement = select(sources.c.path, c.folder, c.name, c.reason, c.seen_at).join(sources)
        return sorted(
            (
                Failure(os.path.join(root, folder, name).rstrip(os.sep), reason, seen_at)
                for root, folder, name, reason, seen_at in self._rows(statement)
            ),
            key=lambda failure: failure.path,
        )


# ---------------------------------------------------------------------- parts of the above


def _texts_of(connection: Connection, item_id: int) -> list[str]:
    c = texts.c
    chosen = select(c.text).where(c.item_id == item_id).order_by(c.position)
    return [row[0] for row in connection.execute(chosen)]


def _hashes_of(ids: Sequence[int]) -> Select[Any]:
    return select(items.c.id, items.c.hash).where(items.c.id.in_(ids))
