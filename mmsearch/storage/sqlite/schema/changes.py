"""The triggers that tell what is made of the catalog has to know: what went, what was changed.

Words, columns and indexes of vectors each know the catalog up to a row, and what came since has
higher ids. What of those they know went or was changed is filed here, so that a change costs what
it weighs and not a cache made anew, and no writer has to think of it.
"""

from __future__ import annotations

from sqlalchemy import Connection

_UPTO = "(SELECT {} FROM followed)"

_ASKED_FOR = (
    "source_id, folder, name, modality, size, mtime_ns, width, height, taken_at, camera, latitude, "
    "longitude, seconds, pages"
)
"""Columns of items that filters ask for."""

_DAY = 86_400_000_000_000  # nanoseconds

_SAYS = ("source_id", "folder", "name", "taken_at", "camera")
"""Columns of items that are words of them; and the day of `mtime_ns`, without `taken_at`."""

_REWORDED = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in _SAYS)
_REDATED = f"NEW.taken_at IS NULL AND OLD.mtime_ns / {_DAY} <> NEW.mtime_ns / {_DAY}"

_GONE = "INSERT INTO gone (space_id, facet, vector_id) VALUES (OLD.space_id, OLD.facet, OLD.id)"


def _unworded(item_id: str) -> str:
    # an item that is being deleted takes its texts with it, and must not be filed anew
    chosen = f"SELECT id FROM items WHERE id = {item_id}"  # noqa: S608 - ours alone
    return f"INSERT OR IGNORE INTO unworded {chosen} AND id <= {_UPTO.format('words')}"


def _altered(item_id: str) -> str:
    chosen = f"SELECT {item_id} WHERE {item_id} <= {_UPTO.format('columns')}"
    return f"INSERT INTO altered (item_id) {chosen}"


def _trigger(name: str, event: str, *does: str) -> str:
    return f"CREATE TRIGGER {name} AFTER {event} BEGIN {'; '.join(does)}; END"


def _changed(table: str, event: str, item_id: str) -> str:
    # the one question that a new item costs
    known = f"WHEN {item_id} <= {_UPTO.format('max(words, columns)')}"
    does = _unworded(item_id), _altered(item_id)
    return _trigger(f"{table}_{event.lower()}", f"{event} ON {table} {known}", *does)


_TRIGGERS = (
    _trigger("vectors_delete", "DELETE ON vectors", _GONE),
    _trigger(
        "items_reworded",
        f"UPDATE OF {', '.join(_SAYS)}, mtime_ns ON items WHEN {_REWORDED} OR ({_REDATED})",
        _unworded("NEW.id"),
    ),
    _trigger("items_altered", f"UPDATE OF {_ASKED_FOR} ON items", _altered("NEW.id")),
    _trigger(
        "items_delete",
        "DELETE ON items",
        "DELETE FROM words WHERE rowid = OLD.id",
        "DELETE FROM unworded WHERE item_id = OLD.id",
        _altered("OLD.id"),
    ),
    _trigger("sources_moved", "UPDATE OF path ON sources", _altered("-1")),  # all of its items
    *(
        _changed(table, event, f"{row}.item_id")
        for table in ("texts", "attributes", "tags")
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    ),
)


def create_changes(connection: Connection) -> None:
    """Make the triggers, in the place of those an older version made."""
    made = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in made.all():
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    for statement in _TRIGGERS:
        connection.exec_driver_sql(statement)
