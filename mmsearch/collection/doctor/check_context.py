"""An index that is looked over: its catalog, open to be asked in SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmsearch.indexing.update import HOLES
from mmsearch.storage import backups
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.sqlite.records import next_revision


class Patient(Catalog):
    """A catalog, and what is to be done with it.

    Args:
        folder: The index's.
        sample: How many vectors and files are looked at closely.
        repair: Whether to mend what can be mended.
    """

    def __init__(self, folder: Path, sample: int, *, repair: bool) -> None:
        super().__init__(folder / backups.CATALOG)
        self.folder = folder
        self.sample = sample
        self.repair = repair

    def ask(self, statement: str, *values: Any) -> list[Any]:
        """The rows that a statement gives."""
        with self._read() as connection:
            return list(connection.exec_driver_sql(statement, values).all())

    def number(self, statement: str, *values: Any) -> int:
        """The one number that a statement gives."""
        return int(self.ask(statement, *values)[0][0] or 0)

    def change(self, *statements: str) -> int:
        """Run statements in one transaction; returns how many rows the last of them changed."""
        changed = 0
        with self._write() as connection:
            for statement in statements:
                changed = connection.exec_driver_sql(statement).rowcount
        return changed

    def delete_rows(self, table: str, rows: Sequence[int]) -> None:
        """Delete rows of a table by their number; vectors may be among what goes."""
        with self._write() as connection:
            connection.exec_driver_sql(
                f"DELETE FROM {table} WHERE rowid = ?",  # noqa: S608 - a table's name
                [(row,) for row in rows],
            )
            next_revision(connection)

    def mark_holes(self) -> None:
        """Have the next `mmsearch index` give items the vectors that they lack."""
        self.set_setting(HOLES, "yes")


@contextmanager
def opened(folder: Path, sample: int, *, repair: bool) -> Iterator[Patient]:
    """An index to look over; unless it is repaired, as it is at one moment, whoever writes."""
    patient = Patient(folder, sample, repair=repair)
    with ExitStack() as held:
        held.callback(patient.close)
        if not repair:
            held.enter_context(patient.snapshot())
        yield patient
