"""The catalog: the store in one SQLite file."""

from mmsearch.storage.sqlite.catalog import Catalog

__all__ = ["Catalog"]
