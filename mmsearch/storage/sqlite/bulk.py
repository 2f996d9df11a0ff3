"""Many items at once: written by a few long statements, read page by page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.sqlite.batch import Batch, put_batch
from mmsearch.storage.sqlite.checkpoints import Checkpoints
from mmsearch.storage.sqlite.places import at_or_below
from mmsearch.storage.sqlite.records import next_revision
from mmsearch.storage.sqlite.schema import attributes, items, sources, spaces, tags, texts, vectors
from mmsearch.storage.sqlite.spaces import ELSEWHERE, Space, SpaceTable
from mmsearch.storage.sqlite.store import keep, storage_errors
from mmsearch.types import Kind, Modality

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder

GIVEN = "given"
"""The fingerprint of a space whose vectors came without the weights that made them."""

_FOR_LOADING = {"cache_size": -262_144, "wal_autocheckpoint": 0, "foreign_keys": 0}
"""256 MiB of pages in memory, so that indexes grow there; another connection moves the log. Nothing
that others refer to is deleted, and a batch refers to what it has itself brought."""

_RANDOM = {str(index.name): index for table in (attributes, tags) for index in table.indexes}

MANY_ROWS = 50_000
"""Rows from which making indexes anew may pay."""

_NUMBERED = "numbered items"
"""The setting that holds the next number for items that came without a name."""


Put = Callable[[Batch, Space | None], tuple[int, int]]
"""Writes a batch, with its vectors in a space; tells how many items are new, how many were there.
"""


class BulkTables(SpaceTable):
    """Loading what others made, and giving it out."""

    @contextmanager
    def loading(self, total: int | None = None) -> Iterator[Put]:
        """Gives what writes a batch, all or none, and what is committed is as safe as ever.

        While it lasts, more memory is used for writing. Where more rows are coming than there are,
        indexes of what is random are made at the end: sorting is several times as fast as putting
        each row in its place.

        Args:
            total: How many rows are coming, if that is known.
        """
        there = self._rows(select(func.max(items.c.id)))[0][0] or 0
        if total is not None and total > max(MANY_ROWS, there):
            with self._write() as connection:
                for name in _RANDOM:
                    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
        try:
            with (
                storage_errors(),
                self._for_loading() as connection,
                Checkpoints(self.path) as checkpoints,
            ):
                yield partial(_put, connection, checkpoints)
        finally:
            self.restore_indexes()

    @contextmanager
    def _for_loading(self) -> Iterator[Connection]:
        """A connection with settings that nobody else may have: it is closed after."""
        self._check_open()
        engine = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            try:
                for name, value in _FOR_LOADING.items():
                    driver.execute(f"PRAGMA {name}={value}")
                yield connection
            finally:
                connection.invalidate()

    def missing_indexes(self) -> list[str]:
        """The indexes that a killed process has left out: filters take longer without them."""
        names = "SELECT name FROM sqlite_master WHERE type = 'index'"
        with self._read() as connection:
            there = {row[0] for row in connection.exec_driver_sql(names)}
        return [name for name in _RANDOM if name not in there]

    def restore_indexes(self) -> None:
        """Make the indexes that a killed process has left out."""
        for name in self.missing_indexes():
            with self._write() as connection:
                _RANDOM[name].create(connection)

    def elsewhere(self) -> int:
        """The id of the source of items that lie in no folder we know, made if need be."""
        with self._write() as connection:
            connection.execute(
                insert(sources).values(path=ELSEWHERE, device=0).on_conflict_do_nothing()
            )
            found = connection.execute(select(sources.c.id).where(sources.c.path == ELSEWHERE))
            return int(found.scalar_one())

    def next_numbers(self, number: int) -> range:
        """As many numbers as that, none of which was given before: names of items without one."""
        with self._write() as connection:
            first = int(self.setting(_NUMBERED) or 0)
            keep(connection, _NUMBERED, str(first + number))
        return range(first, first + number)

    def given_space(self, name: str, dim: int, facets: Iterable[Modality]) -> Space:
        """The space of vectors whose encoder is not here, made if need be; it answers for facets.

        It has no modalities: nothing can be encoded for it.
        """
        key = {"name": name, "fingerprint": GIVEN}
        with self._write() as connection:
            made = insert(spaces).values(**key, dim=dim, modalities="", keeps="", fills="")
            connection.execute(made.on_conflict_do_nothing())
            c = spaces.c
            mine = and_(c.name == name, c.fingerprint == GIVEN)
            kept = connection.execute(select(c.keeps).where(mine)).scalar_one().split()
            joined = " ".join(sorted({*kept, *facets}))
            connection.execute(update(spaces).where(mine).values(keeps=joined))
        return next(s for s in self.spaces() if (s.name, s.fingerprint) == (name, GIVEN))

    def adopt(self, encoder: Encoder) -> None:
        """Let an encoder answer for vectors that came without it, under its name."""
        c = spaces.c
        known = {"fingerprint": encoder.fingerprint, "modalities": " ".join(encoder.modalities)}
        here = select(c.id).where(c.name == encoder.name, c.fingerprint == encoder.fingerprint)
        with self._write() as connection:
            if connection.execute(here).first() is None:
                mine = and_(c.name == encoder.name, c.fingerprint == GIVEN)
                connection.execute(update(spaces).where(mine).values(**known))

    # ------------------------------------------------------------------ what lies elsewhere

    def imported(self, path: str) -> tuple[int, Kind] | None:
        """(id, kind) of the item of this path, or address, that lies in no folder we know."""
        folder, name = split_path(path)
        c = items.c
        where = (sources.c.path == ELSEWHERE, c.folder == folder, c.name == name)
        found = self._rows(select(c.id, c.modality).join(sources).where(*where))
        return tuple(found[0]) if found else None

    def remove_imported(self, path: str) -> int:
        """Take out the item of this path, or those below it, that lie in no folder we know."""
        folder, name = split_path(path)
        with self._write() as connection:
            chosen = select(sources.c.id).where(sources.c.path == ELSEWHERE)
            source_id = connection.execute(chosen).scalar_one_or_none()
            if source_id is None:
                return 0
            c = items.c
            place = and_(c.folder == folder, c.name == name)
            if below := path.rstrip(os.sep):
                place = or_(place, at_or_below(items, below))
            gone = connection.execute(delete(items).where(c.source_id == source_id, place))
            if gone.rowcount:
                next_revision(connection)
            return int(gone.rowcount)

    def imported_without(self, space: Space, facet: Modality, kinds: Iterable[Kind]) -> int:
        """How many items that cannot be read again have no vector of a facet in a space."""
        c = vectors.c
        has = exists().where(c.space_id == space.id, c.facet == facet, c.item_id == items.c.id)
        due = (sources.c.path == ELSEWHERE, items.c.modality.in_(list(kinds)), ~has)
        return int(self._scalars(select(func.count(items.c.id)).join(sources).where(*due))[0])

    def lacks(self, space: Space, facet: Modality, kinds: Iterable[Kind]) -> bool:
        """Whether some item lacks a vector of a facet; for "text", some item that has texts."""
        c = vectors.c
        has = exists().where(c.space_id == space.id, c.facet == facet, c.item_id == items.c.id)
        due: ColumnElement[bool] = items.c.modality.in_(list(kinds))
        if facet == "text":
            due = exists().where(texts.c.item_id == items.c.id)
        return bool(self._rows(select(items.c.id).where(due, ~has).limit(1)))


def _put(
    connection: Connection, checkpoints: Checkpoints, batch: Batch, space: Space | None
) -> tuple[int, int]:
    with storage_errors(), connection.begin():
        done = put_batch(connection.connection.driver_connection, batch, space)
        next_revision(connection)
    checkpoints.committed()
    return done


def split_path(path: str) -> tuple[str, str]:
    """A path as (folder, name), such that `os.path.join` gives it back whatever it is.

    Unlike `os.path.split` it keeps what is no plain path: "https://a.org" is ("https://", "a.org").
    """
    head, slash, name = path.rpartition(os.sep)
    if slash and (not head or head.endswith(os.sep)):
        return head + slash, name
    return head, name
