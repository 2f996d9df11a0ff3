"""The tables of a store in an SQL database.

Core tables and no ORM, whose import would make each cold query slower.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
)

from mmsearch.storage.sql.types import FLOAT16, INTEGER, PATH, TEXT
from mmsearch.types import Span


def _span() -> list[Column[Any]]:
    """What stretch of the file a row is about; empty when it is about all of it."""
    return [Column("start", Float), Column("end", Float), Column("unit", TEXT)]


USER, FILE = "user", "file"

tables = MetaData()

settings = Table(
    "settings",
    tables,
    Column("key", TEXT, primary_key=True),
    Column("value", TEXT, nullable=False),
)
"""catalog_id names this catalog in its caches; revision counts changes of its vectors."""

sources = Table(
    "sources",
    tables,
    Column("id", INTEGER, primary_key=True),
    Column("path", PATH, nullable=False, unique=True),
    Column("device", BigInteger, nullable=False),  # st_dev: tells an empty mount point
)
"""The folders that were indexed, absolute; none lies inside another."""

folder_devices = Table(
    "folder_devices",
    tables,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PATH, nullable=False),
    Column("device", BigInteger, nullable=False),
    PrimaryKeyConstraint("source_id", "folder"),
)
"""The folders below a source that lie on another device than it, and that device."""

spaces = Table(
    "spaces",
    tables,
    Column("id", INTEGER, primary_key=True),
    Column("name", TEXT, nullable=False),
    Column("fingerprint", TEXT, nullable=False),
    Column("dim", INTEGER, nullable=False),
    Column("modalities", TEXT, nullable=False),  # of the encoder, with a space between
    Column("serves", TEXT, nullable=False),  # modalities of which it has every vector
    Column("backfills", TEXT, nullable=False),  # modalities that stored items are encoded for
    UniqueConstraint("name", "fingerprint"),
)
"""What vectors are filed under: an encoder's name and the hash of its weights."""

items = Table(
    "items",
    tables,
    Column("id", INTEGER, primary_key=True),
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PATH, nullable=False),  # below the source, "" for the source itself
    Column("name", PATH, nullable=False),
    Column("kind", TEXT, nullable=False),  # as `mmsearch.types.Kind` has them
    Column("size", BigInteger, nullable=False),  # bytes
    Column("mtime_ns", BigInteger, nullable=False),
    Column("sidecar_size", BigInteger),
    Column("sidecar_mtime_ns", BigInteger),
    Column("hash", LargeBinary, nullable=False),  # BLAKE2b-128 of the file
    Column("width", INTEGER),  # pixels, upright
    Column("height", INTEGER),
    Column("taken_at", TEXT),  # ISO 8601, local time of the camera
    Column("camera", TEXT),
    Column("latitude", Float),  # degrees
    Column("longitude", Float),
    Column("seconds", Float),  # of sounds, videos and animations
    Column("pages", INTEGER),
    Column("readings", TEXT, nullable=False, server_default=""),  # of "ocr speech": what was read
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
    Column("position", INTEGER, nullable=False),
    Column("origin", TEXT, nullable=False),  # as `mmsearch.types.Origin` has them
    Column("text", TEXT, nullable=False),
    *_span(),
    PrimaryKeyConstraint("item_id", "position"),
)
"""Passages, captions, words read or heard; each has one vector of the modality text."""

vectors = Table(
    "vectors",
    tables,
    Column("id", INTEGER, primary_key=True),  # ascends; only hubs of a row ever change
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("modality", TEXT, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", INTEGER, nullable=False),  # of the text, window, frame or page
    *_span(),  # not of the modality text: the text has it
    Column("vector", FLOAT16, nullable=False),  # float16, little endian, unit length
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
    Column("seq", INTEGER, primary_key=True),
    Column("what", TEXT, nullable=False),  # WORDS, FIELDS or VECTOR
    Column("item_id", INTEGER, nullable=False),
    Column("vector_id", INTEGER),
    Column("space_id", INTEGER),
    Column("modality", TEXT),
    sqlite_autoincrement=True,
)
"""What was changed or deleted of the rows that a follower may know."""

Index(
    "changes_of_items",
    changes.c.what,
    changes.c.item_id,
    unique=True,
    sqlite_where=changes.c.vector_id.is_(None),
    postgresql_where=changes.c.vector_id.is_(None),
)
"""Of an item only the last change of a sort is kept, so the log is never longer than the items."""

WORDS, FIELDS, VECTOR = "words", "fields", "vector"
"""What changed: words by which an item is found (and so what filters test); only what filters test,
or the item was deleted; a vector was deleted."""

EVERY_ITEM = -1
"""The item of a change that concerns every item of a source."""

absent_modalities = Table(
    "absent_modalities",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("modality", TEXT, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("space_id", "modality", "item_id"),
    Index("absent_modalities_by_item", "item_id"),
)
"""Items that have nothing of a modality, a video without sound say: they lack no vector."""

index_roots = Table(
    "index_roots",
    tables,
    Column("path", PATH, primary_key=True),  # absolute
    Column("folder", INTEGER, nullable=False),  # 1: all that is in it; 0: this one file
    Column("exclude", TEXT, nullable=False),  # a JSON list of shell patterns
    Column("include_hidden", INTEGER, nullable=False),
)
"""The paths that the user gave to `index`, and how they are walked."""

failures = Table(
    "failures",
    tables,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PATH, nullable=False),
    Column("name", PATH, nullable=False),
    Column("reason", TEXT, nullable=False),
    Column("seen_at", TEXT, nullable=False),  # ISO 8601, UTC
    Column("size", BigInteger),  # the file's stat then: it is tried again when this has changed
    Column("mtime_ns", BigInteger),
    Column("retry", INTEGER, nullable=False),  # 1: each run tries it again
    Column("ctime_ns", BigInteger),
    PrimaryKeyConstraint("source_id", "folder", "name"),
)

token_embeddings = Table(
    "token_embeddings",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("modality", TEXT, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", INTEGER, nullable=False),
    Column("embeddings", LargeBinary, nullable=False),  # int8, rows of unit length times 127
    PrimaryKeyConstraint("space_id", "modality", "item_id", "position"),
    Index("token_embeddings_by_item", "item_id"),
)
"""Small vectors of the regions of pictures and the words of texts, for reranking."""

query_banks = Table(
    "query_banks",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), primary_key=True),
    Column("version", TEXT, nullable=False),
    Column("bank", LargeBinary, nullable=False),  # as `encoders.banks.pack_bank` makes it
)
"""Typical queries and items of a space, for models that bring none: hubs are measured by them."""

metadata = Table(
    "metadata",
    tables,
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("key", TEXT, nullable=False),
    Column("text", TEXT, nullable=False),
    Column("number", Float),  # the same, where it reads as a number
    Column("origin", TEXT, nullable=False, server_default=USER),  # of the value: USER or FILE
    Column("shadowed", TEXT),  # the file's value, where the user's overrides it
    PrimaryKeyConstraint("item_id", "key"),
    # PostgreSQL refuses long texts in an index
    Index("metadata_by_value", "key", "number", "text", "item_id").ddl_if(dialect="sqlite"),
)
"""The user's metadata of an item, and its file's own; a row holds the value in effect."""

tags = Table(
    "tags",
    tables,
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("tag", TEXT, nullable=False),
    Column("score", Float, nullable=False),  # in [0, 1]
    PrimaryKeyConstraint("item_id", "tag"),
    Index("tags_by_tag", "tag", "item_id"),
)
"""What `mmsearch tag` found an item to show, and tags given by hand, whose score is 1."""


def span_of(start: float | None, end: float | None, unit: Any) -> Span | None:
    """The span of a row, if it has one."""
    return None if start is None or end is None else Span(start, end, unit)
