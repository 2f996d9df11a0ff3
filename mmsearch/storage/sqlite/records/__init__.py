"""How one file is written into the catalog's tables."""

from mmsearch.storage.sqlite.records.changing import (
    next_revision,
    put_entries,
    put_failures,
    put_rows,
)
from mmsearch.storage.sqlite.records.driver_rows import packed, unpacked, written

__all__ = [
    "next_revision",
    "packed",
    "put_entries",
    "put_failures",
    "put_rows",
    "unpacked",
    "written",
]
