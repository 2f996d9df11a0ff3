"""The facade over one index, and what keeps it in order: watching the disk, checking, moving."""

from mmsearch.collection.collection import Collection, Items, Paths, existing

__all__ = ["Collection", "Items", "Paths", "existing"]
