"""The catalog in SQLite."""

from mmsearch.storage.sqlite.catalog import Catalog
from mmsearch.storage.sqlite.files import KnownFile
from mmsearch.storage.sqlite.sources import IndexRoot
from mmsearch.storage.sqlite.spaces import Space
from mmsearch.storage.sqlite.state import CatalogState
from mmsearch.storage.sqlite.vectors import NewVectors

__all__ = ["Catalog", "CatalogState", "IndexRoot", "KnownFile", "NewVectors", "Space"]
