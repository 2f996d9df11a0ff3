"""How one file is written into the catalog's tables."""

from mmsearch.storage.sqlite.records.changing import put_entries, put_rows
from mmsearch.storage.sqlite.records.driver_rows import packed, unpacked

__all__ = ["packed", "put_entries", "put_rows", "unpacked"]
