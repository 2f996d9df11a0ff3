"""How one file is written into the catalog's tables."""

from mmsearch.storage.sqlite.records.changing import (
    next_revision,
    put_entries,
    put_failures,
    put_rows,
)
from mmsearch.storage.sqlite.records.driver_rows import packed, unpacked, written
from mmsearch.storage.sqlite.records.record import DETAILS, Entry, LenderGone, Place, Rows

__all__ = [
    "DETAILS",
    "Entry",
    "LenderGone",
    "Place",
    "Rows",
    "next_revision",
    "packed",
    "put_entries",
    "put_failures",
    "put_rows",
    "unpacked",
    "written",
]
