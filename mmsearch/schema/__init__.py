"""The tables of the catalog, how a connection to it is made, and how an old one is brought up."""

from mmsearch.schema.connection import APPLICATION_ID, connect, writing
from mmsearch.schema.migrations import MIGRATIONS
from mmsearch.schema.tables import (
    PathText,
    asked,
    attributes,
    banks,
    blanks,
    details,
    failures,
    items,
    sources,
    spaces,
    state,
    tables,
    tags,
    texts,
    vectors,
)

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "PathText",
    "asked",
    "attributes",
    "banks",
    "blanks",
    "connect",
    "details",
    "failures",
    "items",
    "sources",
    "spaces",
    "state",
    "tables",
    "tags",
    "texts",
    "vectors",
    "writing",
]
