"""What a check works on, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mmsearch.indexing.run import INCOMPLETE
from mmsearch.storage import backups
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.sqlite.settings import next_revision

State = Literal["ok", "wrong", "repaired", "note"]
"""A note is nothing wrong, but worth knowing, or to be done."""

EXAMPLES = 5
"""How many examples a finding has at most."""

REPAIR = "mmsearch doctor --repair"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: The name of the check.
        state: How things are.
        number: How many things are so; for "ok", how many were checked.
        what: In words.
        next: What to do, if anything is left to be done.
        examples: A few of the things.
    """

    check: str
    state: State
    number: int
    what: str
    next: str = ""
    examples: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class Repairable:
    """A finding that can be repaired.

    Attributes:
        finding: What was found.
        repair: Repairs it.
        done: What that does, in words.
        next: What is left to be done after it.
    """

    finding: Finding
    repair: Callable[[], object]
    done: str
    next: str = ""

    def repaired(self) -> Finding:
        """Repair it; returns what is then to be said."""
        self.repair()
        what = f"{self.finding.what}; {self.done}"
        return replace(self.finding, state="repaired", what=what, next=self.next)


Findings = Iterator[Finding | Repairable]


def ok(check: str, number: int, what: str) -> Finding:
    """The finding that nothing is wrong."""
    return Finding(check, "ok", number, what)


def wrong(
    check: str, number: int, what: str, next_: str = REPAIR, examples: Sequence[str] = ()
) -> Finding:
    """The finding that something is wrong."""
    return Finding(check, "wrong", number, what, next_, examples[:EXAMPLES])


def note(check: str, number: int, what: str, next_: str, examples: Sequence[str] = ()) -> Finding:
    """A finding that is worth knowing."""
    return Finding(check, "note", number, what, next_, examples[:EXAMPLES])


class CheckContext:
    """An open index that is checked.

    Args:
        folder: The index folder.
        sample: How many vectors and files are checked closely.
    """

    def __init__(self, folder: Path, sample: int) -> None:
        self.folder = folder
        self.sample = sample
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


@contextmanager
def opened(folder: Path, sample: int, *, repair: bool) -> Iterator[CheckContext]:
    """The context of checks; unless they repair, they see one moment of the index."""
    context = CheckContext(folder, sample)
    with ExitStack() as stack:
        stack.callback(context.catalog.close)
        if not repair:
            stack.enter_context(context.catalog.snapshot())
        yield context
