"""The log of changes in SQLite.

The FAISS indexes, the columns for filters and the index of words follow it; a row that is added
costs the triggers one comparison.
"""

from __future__ import annotations

from sqlalchemy import Connection

from mmsearch.storage.sql.change_log import Changes
from mmsearch.storage.sql.schema import VECTOR

LAST_CHANGE = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'changes'"
"""The number of the last change; those that were dropped count, too."""


class SqliteChanges(Changes):
    """The log of a catalog."""

    def last_of(self, connection: Connection) -> int:
        return int(connection.exec_driver_sql(LAST_CHANGE).scalar_one())


def drop_applied(connection: Connection) -> None:
    """Drop the changes of items that every follower has applied."""
    connection.exec_driver_sql(
        f"DELETE FROM changes WHERE what <> '{VECTOR}' "  # noqa: S608 - a constant
        "AND seq <= (SELECT CASE WHEN columns_item > 0 THEN min(words_change, columns_change) "
        "ELSE words_change END FROM followers)"
    )
