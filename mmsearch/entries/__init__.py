"""How one file is written into the catalog's tables."""

from mmsearch.entries.changing import (
    next_revision,
    put_entries,
    put_failures,
    put_rows,
)
from mmsearch.entries.entry import DETAILS, Entry, LenderGone, Place, Rows, Stat
from mmsearch.entries.rows import packed, unpacked, written

__all__ = [
    "DETAILS",
    "Entry",
    "LenderGone",
    "Place",
    "Rows",
    "Stat",
    "next_revision",
    "packed",
    "put_entries",
    "put_failures",
    "put_rows",
    "unpacked",
    "written",
]
