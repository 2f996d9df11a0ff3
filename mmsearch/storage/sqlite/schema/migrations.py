"""How a catalog of an older version is brought up to the tables of this one."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from mmsearch.storage.sqlite.schema.changes import create_changes
from mmsearch.storage.sqlite.schema.lexical import create_words
from mmsearch.storage.sqlite.schema.tables import (
    altered,
    asked,
    attributes,
    banks,
    blanks,
    details,
    followed,
    gone,
    tables,
    tags,
    vectors,
)


def _add_spans_and_several_spaces(connection: Connection) -> None:
    """Version 2: stretches of sounds, videos and PDFs; several models side by side."""
    for change in (
        "texts RENAME COLUMN start_line TO start",
        "texts RENAME COLUMN end_line TO 'end'",
        "texts ADD COLUMN unit TEXT",
        "vectors ADD COLUMN start FLOAT",
        "vectors ADD COLUMN 'end' FLOAT",
        "vectors ADD COLUMN unit TEXT",
        "items ADD COLUMN seconds FLOAT",
        "items ADD COLUMN pages INTEGER",
        "items ADD COLUMN readings TEXT NOT NULL DEFAULT ''",
        "spaces ADD COLUMN modalities TEXT NOT NULL DEFAULT 'image text'",
        "spaces ADD COLUMN keeps TEXT NOT NULL DEFAULT 'image text'",
        "spaces ADD COLUMN fills TEXT NOT NULL DEFAULT ''",
    ):
        connection.exec_driver_sql(f"ALTER TABLE {change}")
    connection.exec_driver_sql("UPDATE texts SET unit = 'line' WHERE start IS NOT NULL")
    tables.create_all(connection, [blanks, asked])


def _add_what_ranks(connection: Connection) -> None:
    """Version 3: hubs, details for reranking, metadata of the user's, tags, words."""
    for column in ("hub_text", "hub_image"):
        connection.exec_driver_sql(f"ALTER TABLE vectors ADD COLUMN {column} FLOAT")
    tables.create_all(connection, [details, banks, attributes, tags])
    create_words(connection)


def _follow_changes(connection: Connection) -> None:
    """Version 4: ids of vectors that are never used again; what was deleted or altered is told."""
    connection.exec_driver_sql("ALTER TABLE vectors RENAME TO vectors_before")
    connection.exec_driver_sql("DROP INDEX IF EXISTS vectors_by_item")
    tables.create_all(connection, [vectors, gone, altered])
    columns = ", ".join(f'"{column.name}"' for column in vectors.c)
    connection.exec_driver_sql(
        f"INSERT INTO vectors ({columns}) SELECT {columns} FROM vectors_before"  # noqa: S608
    )
    connection.exec_driver_sql("DROP TABLE vectors_before")
    for index in attributes.indexes | tags.indexes:  # these hold all that filters ask for now
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {index.name}")
        index.create(connection)


def _follow_by_id(connection: Connection) -> None:
    """Version 5: what is new is told by its id, and triggers file only what was changed."""
    tables.create_all(connection, [followed])
    connection.exec_driver_sql(
        "INSERT INTO followed (words, columns) VALUES ((SELECT coalesce(max(id), 0) FROM items), "
        "coalesce((SELECT CAST(value AS INTEGER) FROM state WHERE key = 'columns upto'), 0))"
    )
    create_changes(connection)


def _index_metadata_once(connection: Connection) -> None:
    """Version 6: one index of the user's metadata, by number and text, in the place of two."""
    for name in ("attributes_by_text", "attributes_by_number", "attributes_by_value"):
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
    for index in attributes.indexes:
        index.create(connection)


MIGRATIONS: list[Callable[[Connection], None]] = [
    _add_spans_and_several_spaces,
    _add_what_ranks,
    _follow_changes,
    _follow_by_id,
    _index_metadata_once,
]
"""Number i brings a catalog of version i + 1 to version i + 2; never edited once released."""
