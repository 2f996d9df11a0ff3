"""The triggers that tell what caches have to know: which vectors went, which items were altered.

A cache keeps up to which row it knows the catalog. What came since has higher ids; what went or was
altered since is filed here, so that a change costs what it weighs and not a cache made anew.
"""

from __future__ import annotations

from sqlalchemy import Connection

COLUMNS_UPTO = "columns upto"
"""The setting that says up to which item's id the columns for filters were made."""

_KNOWN = f"(SELECT CAST(value AS INTEGER) FROM state WHERE key = '{COLUMNS_UPTO}')"  # noqa: S608

_ASKED_FOR = (
    "source_id, folder, name, modality, size, mtime_ns, width, height, taken_at, camera, latitude, "
    "longitude, seconds, pages"
)
"""Columns of items that filters ask for."""


def _altered(name: str, event: str, item_id: str) -> str:
    does = f"INSERT INTO altered (item_id) VALUES ({item_id})"  # noqa: S608 - ours alone
    begin = f"CREATE TRIGGER altered_{name} AFTER {event} WHEN {item_id} <= {_KNOWN}"
    return f"{begin} BEGIN {does}; END"


_FILED = "INSERT INTO gone (space_id, facet, vector_id) VALUES (OLD.space_id, OLD.facet, OLD.id)"

_TRIGGERS = (
    f"CREATE TRIGGER vector_gone AFTER DELETE ON vectors BEGIN {_FILED}; END",
    _altered("item", f"UPDATE OF {_ASKED_FOR} ON items", "NEW.id"),
    _altered("gone_item", "DELETE ON items", "OLD.id"),
    _altered("source", "UPDATE OF path ON sources", "-1"),  # all of its items
    *(
        _altered(f"by_{what}_{table}", f"{event} ON {table}", f"{row}.item_id")
        for table in ("texts", "attributes", "tags")
        for what, event, row in (
            ("new", "INSERT", "NEW"),
            ("other", "UPDATE", "NEW"),
            ("gone", "DELETE", "OLD"),
        )
    ),
)


def create_changes(connection: Connection) -> None:
    """Make the triggers."""
    for statement in _TRIGGERS:
        connection.exec_driver_sql(statement)
