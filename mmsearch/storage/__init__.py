"""What is stored, durably: the Store protocol, its plain data, and SQLite behind it."""

from mmsearch.storage.records import (
    CompleteItem,
    DuplicateGone,
    FailureRecord,
    IndexRoot,
    ItemBatch,
    ItemQuality,
    ItemRecord,
    ItemVectors,
    KnownFile,
    ListedItem,
    NewVectors,
    Space,
    StoredFile,
    StoreState,
    VectorField,
)
from mmsearch.storage.store import Store, VectorIndex, VectorIndexes

__all__ = [
    "CompleteItem",
    "DuplicateGone",
    "FailureRecord",
    "IndexRoot",
    "ItemBatch",
    "ItemQuality",
    "ItemRecord",
    "ItemVectors",
    "KnownFile",
    "ListedItem",
    "NewVectors",
    "Space",
    "Store",
    "StoreState",
    "StoredFile",
    "VectorField",
    "VectorIndex",
    "VectorIndexes",
]
