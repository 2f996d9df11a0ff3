"""What an index has in PostgreSQL besides the tables of every SQL database.

All of it lies in one schema of the database; connections find it by their `search_path`.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import BigInteger, Column, Connection, ForeignKey, Index, MetaData, Table
from sqlalchemy.dialects.postgresql import ARRAY

from mmsearch.storage.postgres.functions import create_functions
from mmsearch.storage.sql import schema as shared
from mmsearch.storage.sql.types import FLOAT, TEXT

TABLES = [
    shared.settings,
    shared.sources,
    shared.folder_devices,
    shared.spaces,
    shared.items,
    shared.texts,
    shared.vectors,
    shared.changes,
    shared.absent_modalities,
    shared.index_roots,
    shared.failures,
    shared.token_embeddings,
    shared.query_banks,
    shared.metadata,
    shared.tags,
]

own_tables = MetaData()

mmsearch = Table(
    "mmsearch",
    own_tables,
    Column("version", BigInteger, nullable=False),
    Column("moment", BigInteger, nullable=False),
)
"""One row, which tells that the schema is an index: the version of its tables, and how many
transactions have written. Each begins by counting itself, and so waits for the one before: they
are short, never deadlock, and their ids ascend in the order in which they are committed."""

words_due = Table(
    "words_due",
    own_tables,
    Column("item_id", ForeignKey(shared.items.c.id, ondelete="CASCADE"), primary_key=True),
)
"""The items whose words have changed since the index of words was last brought up to date."""

words = Table(
    "words",
    own_tables,
    # no foreign key: a cascade deletes row by row, a trigger all rows of a statement at once
    Column("item_id", BigInteger, primary_key=True, autoincrement=False),
    Column("texts", TEXT, nullable=False),  # tokens, with a space between
    Column("names", TEXT, nullable=False),
    Column("facts", TEXT, nullable=False),
    Column("size", BigInteger, nullable=False),  # how many tokens all three have
    Column("tokens", ARRAY(TEXT), nullable=False),  # those of all three, each once
    Column("frequencies", ARRAY(FLOAT), nullable=False),  # how often each occurs, weighted
    Index("words_by_token", "tokens", postgresql_using="gin"),
)
"""The documents of the items, as a search by words compares them."""

DOCUMENTS, TOKENS = "", " "
"""The keys in `word_counts` of the number of documents, and of the number of tokens in them."""

word_counts = Table(
    "word_counts",
    own_tables,
    Column("token", TEXT, primary_key=True),
    Column("number", BigInteger, nullable=False),
)
"""How many documents hold each token. Triggers maintain it, as a GIN index keeps no counts."""

_FILTER_INDEXES = (
    "CREATE INDEX metadata_by_number ON metadata (key, number)",
    "CREATE INDEX items_by_time ON items (taken_at)",
)
"""What filters ask for; an index over the texts of metadata would refuse long ones."""

# ---------------------------------------------------------------------- triggers

_NAMED = ("source_id", "folder", "name", "taken_at", "camera", "mtime_ns")
"""Columns of items that are words of them."""

_LOG_VECTORS = """
    CREATE FUNCTION log_deleted_vectors() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO changes (what, item_id, vector_id, space_id, modality)
        SELECT 'vector', item_id, id, space_id, modality FROM gone ORDER BY id;
        RETURN NULL;
    END $$"""

# an item that is being deleted is there no more when what it had is
_WORDS_DUE = """
    CREATE FUNCTION words_are_due() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO words_due SELECT DISTINCT items.id FROM changed
        JOIN items ON items.id = changed.item_id ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$"""

_WORDS_OF_NEW_DUE = """
    CREATE FUNCTION words_of_new_are_due() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO words_due SELECT id FROM changed ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$"""

_WORDS_OF_RENAMED_DUE = f"""
    CREATE FUNCTION words_of_renamed_are_due() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO words_due SELECT changed.id FROM changed JOIN gone ON gone.id = changed.id
        WHERE ({", ".join(f"changed.{name}" for name in _NAMED)})
        IS DISTINCT FROM ({", ".join(f"gone.{name}" for name in _NAMED)}) ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$"""  # noqa: S608 - constants

_DELETE_WORDS = """
    CREATE FUNCTION delete_words() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM words WHERE item_id IN (SELECT id FROM gone);
        RETURN NULL;
    END $$"""


def _count_words(name: str, rows: str, sign: str) -> str:
    return f"""
    CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO word_counts AS counts {_COUNTED.format(rows=rows, sign=sign)}
        ON CONFLICT (token) DO UPDATE SET number = counts.number + excluded.number;
        RETURN NULL;
    END $$"""


_COUNTED = f"""
    SELECT token, {{sign}}count(*) FROM (
        SELECT unnest(tokens) AS token FROM {{rows}}
        UNION ALL SELECT '{DOCUMENTS}' FROM {{rows}}
    ) AS held GROUP BY token
    UNION ALL SELECT '{TOKENS}', {{sign}}coalesce(sum(size), 0) FROM {{rows}}
"""  # noqa: S608 - constants

_WORD_TRIGGERS = (
    _DELETE_WORDS,
    _count_words("count_new_words", "added", ""),
    _count_words("count_deleted_words", "gone", "-"),
    (
        "CREATE TRIGGER items_delete AFTER DELETE ON items REFERENCING OLD TABLE AS gone "
        "FOR EACH STATEMENT EXECUTE FUNCTION delete_words()"
    ),
    (
        "CREATE TRIGGER words_insert AFTER INSERT ON words REFERENCING NEW TABLE AS added "
        "FOR EACH STATEMENT EXECUTE FUNCTION count_new_words()"
    ),
    (
        "CREATE TRIGGER words_delete AFTER DELETE ON words REFERENCING OLD TABLE AS gone "
        "FOR EACH STATEMENT EXECUTE FUNCTION count_deleted_words()"
    ),
)

_TRIGGERS = (
    *_WORD_TRIGGERS,
    _LOG_VECTORS,
    _WORDS_DUE,
    _WORDS_OF_NEW_DUE,
    _WORDS_OF_RENAMED_DUE,
    (
        "CREATE TRIGGER vectors_delete AFTER DELETE ON vectors REFERENCING OLD TABLE AS gone "
        "FOR EACH STATEMENT EXECUTE FUNCTION log_deleted_vectors()"
    ),
    (
        "CREATE TRIGGER items_insert AFTER INSERT ON items REFERENCING NEW TABLE AS changed "
        "FOR EACH STATEMENT EXECUTE FUNCTION words_of_new_are_due()"
    ),
    (
        "CREATE TRIGGER items_update AFTER UPDATE ON items "
        "REFERENCING OLD TABLE AS gone NEW TABLE AS changed "
        "FOR EACH STATEMENT EXECUTE FUNCTION words_of_renamed_are_due()"
    ),
    *(
        f"CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table} "
        f"REFERENCING {rows} TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION words_are_due()"
        for table in ("texts", "metadata", "tags")
        for event, rows in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    ),
)
"""A statement costs a call of a function, however many rows it changes."""


def create_all(connection: Connection) -> None:
    """Make everything in an empty schema."""
    shared.tables.create_all(connection, TABLES)
    own_tables.create_all(connection)
    create_functions(connection)
    for statement in (*_FILTER_INDEXES, *_TRIGGERS):
        connection.exec_driver_sql(statement)


def _add_word_counts(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE words DROP CONSTRAINT words_item_id_fkey")
    word_counts.create(connection)
    counted = _COUNTED.format(rows="words", sign="")
    for statement in (f"INSERT INTO word_counts {counted}", *_WORD_TRIGGERS):
        connection.exec_driver_sql(statement)


MIGRATIONS: list[Callable[[Connection], None]] = [_add_word_counts]
"""Number i brings a schema of version i + 1 to version i + 2; never edited once released."""


def newest() -> int:
    """The version of the tables as this module makes them."""
    return 1 + len(MIGRATIONS)
