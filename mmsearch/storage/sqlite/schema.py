"""The tables of the catalog.

Core tables and no ORM, whose import would make each cold query slower.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    cast,
)
from sqlalchemy.types import TypeDecorator

from mmsearch.storage.records import MEDIA_COLUMNS
from mmsearch.types import Span


def path_bytes(name: str) -> bytes:
    """A file name as the driver takes it, byte for byte: bound as CAST(? AS TEXT)."""
    return name.encode("utf-8", "surrogateescape")


class PathText(TypeDecorator[str]):
    """A file name as text, byte for byte: names that are not UTF-8 come back as they went in.

    Python holds such names with surrogate escapes, which the driver refuses to bind as text; so
    the bytes are bound and SQLite is told that they are text.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> Any:
        """Bytes."""
        del dialect
        return None if value is None else path_bytes(value)

    def bind_expression(self, bindparam: Any) -> Any:
        """CAST(? AS TEXT)."""
        return cast(bindparam, Text)


def _span() -> list[Column[Any]]:
    """What stretch of the file a row is about; empty when it is about all of it."""
    return [Column("start", Float), Column("end", Float), Column("unit", Text)]


USER, FILE = "user", "file"

tables = MetaData()

settings = Table(
    "settings",
    tables,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""catalog_id names this catalog in its caches; revision counts changes of its vectors."""

sources = Table(
    "sources",
    tables,
    Column("id", Integer, primary_key=True),
    Column("path", PathText, nullable=False, unique=True),
    Column("device", BigInteger, nullable=False),  # st_dev: tells an empty mount point
)
"""The folders that were indexed, absolute; none lies inside another."""

folder_devices = Table(
    "folder_devices",
    tables,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PathText, nullable=False),
    Column("device", BigInteger, nullable=False),
    PrimaryKeyConstraint("source_id", "folder"),
)
"""The folders below a source that lie on another device than it, and that device."""

spaces = Table(
    "spaces",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("modalities", Text, nullable=False),  # of the encoder, with a space between
    Column("serves", Text, nullable=False),  # modalities of which it has every vector
    Column("backfills", Text, nullable=False),  # modalities that stored items are encoded for
    UniqueConstraint("name", "fingerprint"),
)
"""What vectors are filed under: an encoder's name and the hash of its weights."""

items = Table(
    "items",
    tables,
    Column("id", Integer, primary_key=True),
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PathText, nullable=False),  # below the source, "" for the source itself
    Column("name", PathText, nullable=False),
    Column("kind", Text, nullable=False),  # as `mmsearch.types.Kind` has them
    Column("size", BigInteger, nullable=False),  # bytes
    Column("mtime_ns", BigInteger, nullable=False),
    Column("sidecar_size", BigInteger),
    Column("sidecar_mtime_ns", BigInteger),
    Column("hash", LargeBinary, nullable=False),  # BLAKE2b-128 of the file
    Column("width", Integer),  # pixels, upright
    Column("height", Integer),
    Column("taken_at", Text),  # ISO 8601, local time of the camera
    Column("camera", Text),
    Column("latitude", Float),  # degrees
    Column("longitude", Float),
    Column("seconds", Float),  # of sounds, videos and animations
    Column("pages", Integer),
    Column("readings", Text, nullable=False, server_default=""),  # of "ocr speech": what was read
    # when the file, or the text beside it, last changed in any way; empty: not known
    Column("ctime_ns", BigInteger),
    UniqueConstraint("source_id", "folder", "name"),
    Index("items_by_hash", "hash"),
    sqlite_autoincrement=True,  # no id is used twice, so an old cache cannot name a new item
)

texts = Table(
    "texts",
    tables,
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("origin", Text, nullable=False),  # as `mmsearch.types.Origin` has them
    Column("text", Text, nullable=False),
    *_span(),
    PrimaryKeyConstraint("item_id", "position"),
)
"""Passages, captions, words read or heard; each has one vector of the modality text."""

vectors = Table(
    "vectors",
    tables,
    Column("id", Integer, primary_key=True),  # ascends; only hubs of a row ever change
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("modality", Text, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),  # of the text, window, frame or page
    *_span(),  # not of the modality text: the text has it
    Column("vector", LargeBinary, nullable=False),  # float16, little endian, unit length
    # how close it is to typical queries, by their modality; None: not computed
    Column("hub_text", Float),
    Column("hub_image", Float),
    UniqueConstraint("space_id", "modality", "item_id", "position"),
    Index("vectors_by_item", "item_id"),
    sqlite_autoincrement=True,  # so vectors added later have higher ids than a cache knows
)

changes = Table(
    "changes",
    tables,
    Column("seq", Integer, primary_key=True),
    Column("what", Text, nullable=False),  # WORDS, FIELDS or VECTOR
    Column("item_id", Integer, nullable=False),
    Column("vector_id", Integer),
    Column("space_id", Integer),
    Column("modality", Text),
    sqlite_autoincrement=True,
)
"""What was changed or deleted of the rows that a follower may know."""

Index(
    "changes_of_items",
    changes.c.what,
    changes.c.item_id,
    unique=True,
    sqlite_where=changes.c.vector_id.is_(None),
)
"""Of an item only the last change of a sort is kept, so the log is never longer than the items."""

WORDS, FIELDS, VECTOR = "words", "fields", "vector"
"""What changed: words by which an item is found (and so what filters test); only what filters test,
or the item was deleted; a vector was deleted."""

EVERY_ITEM = -1
"""The item of a change that concerns every item of a source."""

followers = Table(
    "followers",
    tables,
    Column("id", Integer, primary_key=True),
    Column("words_item", Integer, nullable=False),
    Column("words_change", Integer, nullable=False),
    Column("columns_item", Integer, nullable=False),
    Column("columns_change", Integer, nullable=False),
)
"""One row: up to which item the words, and the columns for filters, know the items, and up to which
change they have applied. FAISS segments hold the same of themselves in their files."""

absent_modalities = Table(
    "absent_modalities",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("modality", Text, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("space_id", "modality", "item_id"),
    Index("absent_modalities_by_item", "item_id"),
)
"""Items that have nothing of a modality, a video without sound say: they lack no vector."""

index_roots = Table(
    "index_roots",
    tables,
    Column("path", PathText, primary_key=True),  # absolute
    Column("folder", Integer, nullable=False),  # 1: all that is in it; 0: this one file
    Column("exclude", Text, nullable=False),  # a JSON list of shell patterns
    Column("include_hidden", Integer, nullable=False),
)
"""The paths that the user gave to `index`, and how they are walked."""

failures = Table(
    "failures",
    tables,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PathText, nullable=False),
    Column("name", PathText, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seen_at", Text, nullable=False),  # ISO 8601, UTC
    Column("size", BigInteger),  # the file's stat then: it is tried again when this has changed
    Column("mtime_ns", BigInteger),
    Column("retry", Integer, nullable=False),  # 1: each run tries it again
    Column("ctime_ns", BigInteger),
    PrimaryKeyConstraint("source_id", "folder", "name"),
)

token_embeddings = Table(
    "token_embeddings",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("modality", Text, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("embeddings", LargeBinary, nullable=False),  # int8, rows of unit length times 127
    PrimaryKeyConstraint("space_id", "modality", "item_id", "position"),
    Index("token_embeddings_by_item", "item_id"),
)
"""Small vectors of the regions of pictures and the words of texts, for reranking."""

query_banks = Table(
    "query_banks",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Text, nullable=False),
    Column("bank", LargeBinary, nullable=False),  # as `encoders.banks.pack_bank` makes it
)
"""Typical queries and items of a space, for models that bring none: hubs are measured by them."""

metadata = Table(
    "metadata",
    tables,
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("key", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("number", Float),  # the same, where it reads as a number
    Column("origin", Text, nullable=False, server_default=USER),  # of the value: USER or FILE
    Column("shadowed", Text),  # the file's value, where the user's overrides it
    PrimaryKeyConstraint("item_id", "key"),
    Index("metadata_by_value", "key", "number", "text", "item_id"),
)
"""The user's metadata of an item, and its file's own; a row holds the value in effect."""

tags = Table(
    "tags",
    tables,
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("tag", Text, nullable=False),
    Column("score", Float, nullable=False),  # in [0, 1]
    PrimaryKeyConstraint("item_id", "tag"),
    Index("tags_by_tag", "tag", "item_id"),
)
"""What `mmsearch tag` found an item to show, and tags given by hand, whose score is 1."""

# ---------------------------------------------------------------------- words

WEIGHTS = (1.0, 0.7, 0.4)
"""How much a word counts in an item's texts, in its names, among the facts about it."""

_WORD_TABLES = (
    # The rowid is the item's id. `mmsearch.storage.lexical` makes the tokens; they come with
    # spaces between and hold no other ASCII sign, so "ascii" only splits them.
    "CREATE VIRTUAL TABLE words USING fts5(texts, names, facts, tokenize = 'ascii')",
    # how many items hold each word; counting takes 30 ns an item, so for common words it is kept
    "CREATE VIRTUAL TABLE words_counts USING fts5vocab(words, row)",
    "CREATE TABLE common_words (word TEXT PRIMARY KEY, items INTEGER NOT NULL) WITHOUT ROWID",
)

# ---------------------------------------------------------------------- triggers

_NAMED = ("source_id", "folder", "name", "taken_at", "camera")
"""Columns of items that are words of them; and the day of `mtime_ns`, without `taken_at`."""

_TESTED = ("source_id", "folder", "name", "kind", "size", "mtime_ns", *MEDIA_COLUMNS)
"""Columns of items that filters test."""

_DAY = 86_400_000_000_000  # nanoseconds

_RENAMED = " OR ".join(
    (
        *(f"OLD.{column} IS NOT NEW.{column}" for column in _NAMED),
        f"(NEW.taken_at IS NULL AND OLD.mtime_ns / {_DAY} <> NEW.mtime_ns / {_DAY})",
    )
)


_KNOWN = "<= (SELECT max(words_item, columns_item) FROM followers)"
"""Of an item's id: some follower knows the item. All that a new item costs is this comparison."""


_LOG = "INSERT OR REPLACE INTO changes (what, item_id)"

_TRIGGERS = (
    f"""
    CREATE TRIGGER items_update AFTER UPDATE OF {", ".join(_TESTED)} ON items
    WHEN NEW.id {_KNOWN} BEGIN
        {_LOG} VALUES (CASE WHEN {_RENAMED} THEN 'words' ELSE 'fields' END, NEW.id);
    END""",
    f"""
    CREATE TRIGGER items_delete AFTER DELETE ON items BEGIN
        DELETE FROM words WHERE rowid = OLD.id;
        DELETE FROM changes WHERE what = 'words' AND item_id = OLD.id AND vector_id IS NULL;
        {_LOG} SELECT 'fields', OLD.id WHERE OLD.id {_KNOWN};
    END""",  # noqa: S608 - constants
    f"""
    CREATE TRIGGER sources_move AFTER UPDATE OF path ON sources BEGIN
        {_LOG} VALUES ('fields', {EVERY_ITEM});
    END""",
    """
    CREATE TRIGGER vectors_delete AFTER DELETE ON vectors BEGIN
        INSERT INTO changes (what, item_id, vector_id, space_id, modality)
        VALUES ('vector', OLD.item_id, OLD.id, OLD.space_id, OLD.modality);
    END""",
    *(
        f"""
    CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table}
    WHEN {row}.item_id {_KNOWN} BEGIN
        DELETE FROM changes WHERE what = 'words' AND item_id = {row}.item_id AND vector_id IS NULL;
        INSERT INTO changes (what, item_id) SELECT 'words', id FROM items WHERE id = {row}.item_id;
    END"""  # noqa: S608 - constants; an item that is being deleted is none any more; not OR REPLACE,
        # as the ON CONFLICT of an upsert holds for the statements of its triggers too
        for table in ("texts", "metadata", "tags")
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    ),
)


def create_words(connection: Connection) -> None:
    """Make the tables of the words."""
    for statement in _WORD_TABLES:
        connection.exec_driver_sql(statement)


def create_triggers(connection: Connection) -> None:
    """Make the triggers that log changes."""
    for statement in _TRIGGERS:
        connection.exec_driver_sql(statement)


def create_all(connection: Connection) -> None:
    """Make everything in an empty catalog."""
    tables.create_all(connection)
    create_words(connection)
    create_triggers(connection)
    connection.execute(
        followers.insert().values(words_item=0, words_change=0, columns_item=0, columns_change=0)
    )


def span_of(start: float | None, end: float | None, unit: Any) -> Span | None:
    """The span of a row, if it has one."""
    return None if start is None or end is None else Span(start, end, unit)
