"""The tables of the catalog, how a connection to it is made, and how an old one is brought up."""

from mmsearch.schema.connection import APPLICATION_ID, connect, driver_of, writing
from mmsearch.schema.migrations import MIGRATIONS
from mmsearch.schema.tables import (
    PathText,
    altered,
    asked,
    attributes,
    banks,
    blanks,
    details,
    failures,
    gone,
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
    "altered",
    "asked",
    "attributes",
    "banks",
    "blanks",
    "connect",
    "details",
    "driver_of",
    "failures",
    "gone",
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
