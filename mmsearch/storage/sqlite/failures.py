"""Files that could not be used, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from sqlalchemy import delete, func, select

from mmsearch.media.file_state import Stat
from mmsearch.storage.records import FailureRecord
from mmsearch.storage.sqlite.database import Database, chunks
from mmsearch.storage.sqlite.records import put_failures
from mmsearch.storage.sqlite.schema import failures as failed
from mmsearch.storage.sqlite.schema import sources
from mmsearch.types import Failure


class Failures:
    """Keeps and forgets failures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __len__(self) -> int:
        return int(self._database.scalars(select(func.count()).select_from(failed))[0])

    def known(self, source_id: int, folder: str) -> dict[str, Stat | None]:
        """The failures in a folder by name: the file's stat, or None if it is worth another try."""
        c = failed.c
        where = (c.source_id == source_id, c.folder == folder)
        rows = self._database.rows(select(c.name, c.size, c.mtime_ns, c.retry).where(*where))
        return {name: None if retry else (size, mtime) for name, size, mtime, retry in rows}

    def folders(self, source_id: int) -> set[str]:
        """The folders of a source in which some file could not be used."""
        c = failed.c
        return set(
            self._database.scalars(select(c.folder).where(c.source_id == source_id).distinct())
        )

    def add(self, failures: Sequence[FailureRecord]) -> None:
        """Keep failures alone, as `put` does."""
        with self._database.write() as connection:
            put_failures(connection, failures)

    def remove(self, source_id: int, folder: str, names: Iterable[str]) -> None:
        """Drop failures, if there are any to drop."""
        if not (names := list(names)):
            return
        with self._database.write() as connection:
            for chunk in chunks(names):
                c = failed.c
                where = (c.source_id == source_id, c.folder == folder, c.name.in_(chunk))
                connection.execute(delete(failed).where(*where))

    def all(self) -> list[Failure]:
        """The files that could not be used, by path."""
        c = failed.c
        statement = select(sources.c.path, c.folder, c.name, c.reason, c.seen_at).join(sources)
        return sorted(
            (
                Failure(os.path.join(root, folder, name).rstrip(os.sep), reason, seen_at)
                for root, folder, name, reason, seen_at in self._database.rows(statement)
            ),
            key=lambda failure: failure.path,
        )
