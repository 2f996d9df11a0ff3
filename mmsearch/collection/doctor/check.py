"""The input and the results of checks."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmsearch.indexing.index_run import INCOMPLETE
from mmsearch.storage import backups
from mmsearch.storage.sql.index_settings import next_revision
from mmsearch.storage.sqlite import Catalog

State = Literal["ok", "wrong", "repaired", "note"]
"""A note is no fault, but worth knowing."""

EXAMPLES = 5
"""How many examples a finding has at most."""

REPAIR = "mmsearch doctor --repair"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: The name of the check.
        state: The result.
        number: How many cases were found; for "ok", how many things were checked.
        what: The result in words.
        next: What to do, if anything is left to be done.
        examples: A few of the cases.
    """

    check: str
    state: State
    number: int
    what: str
    next: str = ""
    examples: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check found, as in a `Finding`, and how that can be repaired.

    Attributes:
        next: What to do, unless it is repaired.
        repair: Repairs it; None if that is impossible.
        done: The effect of the repair, in words.
        then: What is left to be done after it.
    """

    state: State
    number: int
    what: str
    next: str = ""
    examples: Sequence[str] = ()
    repair: Callable[[], object] | None = None
    done: str = ""
    then: str = ""

    def finding(self, check: str, *, repair: bool) -> Finding:
        """The finding of a check, after a repair if that is wanted and possible."""
        examples = self.examples[:EXAMPLES]
        if not repair or self.repair is None:
            return Finding(check, self.state, self.number, self.what, self.next, examples)
        self.repair()
        what = f"{self.what}; {self.done}"
        return Finding(check, "repaired", self.number, what, self.then, examples)


class CheckContext:
    """An open index that is checked.

    Args:
        folder: The index folder.
        sample: How many vectors and files are checked closely.

    Attributes:
        seed: Of the sample of files: random, so that repeated runs check all of them.
    """

    def __init__(self, folder: Path, sample: int) -> None:
        self.folder = folder
        self.sample = sample
        self.seed = secrets.randbits(32)
        self.catalog = Catalog(folder / backups.CATALOG)

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """The rows of a statement."""
        with self.catalog.database.read() as connection:
            return list(connection.exec_driver_sql(statement, values).all())

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 - a table's name

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

    def paths(self, item_ids: Sequence[int]) -> list[str]:
        """The paths of a few items, for examples."""
        ids = list(dict.fromkeys(item_ids))[:EXAMPLES]
        return [item.path for item in self.catalog.items.get(ids).values()]
