"""What the checks of an index work on: its catalog, asked in SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmsearch.indexing.run import INCOMPLETE
from mmsearch.storage import backups
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.sqlite.settings import next_revision


class CheckContext:
    """An index that is checked.

    Args:
        folder: The index folder.
        sample: How many vectors and files are read closely.
        repair: Whether to repair what can be repaired.
    """

    def __init__(self, folder: Path, sample: int, *, repair: bool) -> None:
        self.folder = folder
        self.catalog = Catalog(folder / backups.CATALOG)
        self.sample = sample
        self.repair = repair

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """The rows of a statement."""
        with self.catalog.database.read() as connection:
            return list(connection.exec_driver_sql(statement, values).all())

    def number(self, statement: str, *values: Any) -> int:
        """The one number that a statement gives."""
        return int(self.rows(statement, *values)[0][0] or 0)

    def change(self, *statements: str) -> int:
        """Run statements in one transaction; returns how many rows the last of them changed."""
        changed = 0
        with self.catalog.database.write() as connection:
            for statement in statements:
                changed = connection.exec_driver_sql(statement).rowcount
        return changed

    def delete_rows(self, table: str, rows: Sequence[int]) -> None:
        """Delete rows of a table by their row ids; vectors may be among them."""
        with self.catalog.database.write() as connection:
            connection.exec_driver_sql(
                f"DELETE FROM {table} WHERE rowid = ?",  # noqa: S608 - a table's name
                [(row,) for row in rows],
            )
            next_revision(connection)

    def mark_incomplete(self) -> None:
        """Have the next `mmsearch index` encode the vectors that items lack."""
        self.catalog.settings.set(INCOMPLETE, "yes")


@contextmanager
def opened(folder: Path, sample: int, *, repair: bool) -> Iterator[CheckContext]:
    """The context of a check; unless it repairs, it sees one moment of the index."""
    context = CheckContext(folder, sample, repair=repair)
    with ExitStack() as stack:
        stack.callback(context.catalog.close)
        if not repair:
            stack.enter_context(context.catalog.snapshot())
        yield context
