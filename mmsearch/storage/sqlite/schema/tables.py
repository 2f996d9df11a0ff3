"""The tables of the catalog.

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
        return None if value is None else value.encode("utf-8", "surrogateescape")

    def bind_expression(self, bindparam: Any) -> Any:
        """CAST(? AS TEXT)."""
        return cast(bindparam, Text)


def _span() -> list[Column[Any]]:
    """What stretch of the file a row is about; empty when it is about all of it."""
    return [Column("start", Float), Column("end", Float), Column("unit", Text)]


tables = MetaData()

state = Table(
    "state",
    tables,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""catalog_id: names this catalog in its caches. revision: counts changes of the vectors."""

sources = Table(
    "sources",
    tables,
    Column("id", Integer, primary_key=True),
    Column("path", PathText, nullable=False, unique=True),
    Column("device", BigInteger, nullable=False),  # st_dev: tells an empty mount point
)
"""The folders that were indexed, absolute; none lies inside another."""

spaces = Table(
    "spaces",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("modalities", Text, nullable=False),  # of the encoder, with a space between
    Column("keeps", Text, nullable=False),  # facets it answers for: it has all there is of them
    Column("fills", Text, nullable=False),  # facets it is being given, to answer for them then
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
    Column("modality", Text, nullable=False),
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
    Column("seconds", Float),  # of sounds and videos
    Column("pages", Integer),
    Column("readings", Text, nullable=False, server_default=""),  # of "ocr speech": those done
    UniqueConstraint("source_id", "folder", "name"),
    Index("items_by_hash", "hash"),
    sqlite_autoincrement=True,  # an id is never used again, so an old cache cannot name a new item
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
"""Passages, captions, words read or heard; each has one vector of the text facet."""

vectors = Table(
    "vectors",
    tables,
    Column("id", Integer, primary_key=True),  # rises; a row is never changed but in its hubs
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("facet", Text, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),  # of the text, window, frame or page
    *_span(),  # not of the text facet: the text has it
    Column("vector", LargeBinary, nullable=False),  # float16, little endian, unit length
    # how near it is to what is typical, by the modality that asks; None: not computed
    Column("hub_text", Float),
    Column("hub_image", Float),
    UniqueConstraint("space_id", "facet", "item_id", "position"),
    Index("vectors_by_item", "item_id"),
    sqlite_autoincrement=True,  # so what came after a cache was made has higher ids than it knows
)

gone = Table(
    "gone",
    tables,
    Column("seq", Integer, primary_key=True),
    Column("space_id", Integer, nullable=False),
    Column("facet", Text, nullable=False),
    Column("vector_id", Integer, nullable=False),
    sqlite_autoincrement=True,
)
"""Vectors that were deleted, filed by a trigger: caches mask them out."""

altered = Table(
    "altered",
    tables,
    Column("seq", Integer, primary_key=True),
    Column("item_id", Integer, nullable=False),
    sqlite_autoincrement=True,
)
"""Items of which something that filters ask for has changed since the columns were made."""

followed = Table(
    "followed",
    tables,
    Column("id", Integer, primary_key=True),
    Column("words", Integer, nullable=False),
    Column("columns", Integer, nullable=False),
)
"""One row: up to which item's id the words, and the columns for filters, know the items. What came
later is told by its id alone, so that triggers need not file it."""

blanks = Table(
    "blanks",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("facet", Text, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("space_id", "facet", "item_id"),
    Index("blanks_by_item", "item_id"),
)
"""Items that have nothing for a facet, a video without sound say: they lack no vector."""

asked = Table(
    "asked",
    tables,
    Column("path", PathText, primary_key=True),  # absolute
    Column("folder", Integer, nullable=False),  # 1: all that is in it; 0: this one file
    Column("exclude", Text, nullable=False),  # a JSON list of shell patterns
    Column("include_hidden", Integer, nullable=False),
)
"""The paths that were given to be indexed, and how: what `mmsearch index` alone looks at."""

failures = Table(
    "failures",
    tables,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PathText, nullable=False),
    Column("name", PathText, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seen_at", Text, nullable=False),  # ISO 8601, UTC
    Column("size", BigInteger),  # the file's stat then: it is retried when this has changed
    Column("mtime_ns", BigInteger),
    Column("retry", Integer, nullable=False),  # 1: not the bytes' fault, try again each time
    PrimaryKeyConstraint("source_id", "folder", "name"),
)

details = Table(
    "details",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("facet", Text, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("tokens", LargeBinary, nullable=False),  # int8, rows of unit length times 127
    PrimaryKeyConstraint("space_id", "facet", "item_id", "position"),
    Index("details_by_item", "item_id"),
)
"""Regions of pictures and words of texts, each a small vector: what reranking looks at."""

banks = Table(
    "banks",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Text, nullable=False),
    Column("bank", LargeBinary, nullable=False),  # as `encoders.banks.pack_bank` makes it
)
"""Typical queries and items, for models that bring none: what hubs are told by."""

attributes = Table(
    "attributes",
    tables,
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("key", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("number", Float),  # the same, where it reads as a number
    PrimaryKeyConstraint("item_id", "key"),
    Index("attributes_by_value", "key", "number", "text", "item_id"),
)
"""What a metadata file of the user's says of an item."""

tags = Table(
    "tags",
    tables,
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("tag", Text, nullable=False),
    Column("score", Float, nullable=False),  # in [0, 1]
    PrimaryKeyConstraint("item_id", "tag"),
    Index("tags_by_tag", "tag", "item_id"),
)
"""What `mmsearch tag` found an item to show."""
