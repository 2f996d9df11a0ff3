"""Thumbnails of items, for `DerivedFiles` to make; used by the API and, without FastAPI, by MCP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from mmsearch.media import thumbnails
from mmsearch.storage.item_files import errors_with_path, open_item

if TYPE_CHECKING:
    from mmsearch.storage import Store, StoredFile


class ItemThumbnail(NamedTuple):
    """How to make a thumbnail of an item."""

    stored: StoredFile
    """The item."""
    key: str
    """See `DerivedFiles.get`."""
    make: Callable[[], bytes]
    """Returns the WebP; raises as `open_item` and `thumbnails.thumbnail`."""
    slow: bool
    """Whether that may take seconds, as with pages and frames."""


def thumbnail_of(
    store: Store, item_id: int, size: int, *, at: float | None = None, page: int = 1
) -> ItemThumbnail:
    """How to make a thumbnail of an item, and its key; nothing is made yet.

    Args:
        store: Holds the item.
        item_id: Of the item.
        size: Pixels of the longest side.
        at: Seconds into a video or animation.
        page: Of a document, from 1.

    Raises:
        PathNotFound: as `open_item`.
    """
    with open_item(store, item_id) as item:  # raises if it cannot be; its hash is part of the key
        stored = item.stored
    at = None if at is None or stored.kind not in ("video", "image") else round(at, 1)
    page = page if stored.kind == "document" else 1

    def make() -> bytes:
        with open_item(store, item_id) as opened, errors_with_path(opened.path):
            return thumbnails.thumbnail(opened.file, stored.kind, size, at=at, page=page)

    key = item.key("thumbnail", thumbnails.VERSION, int(size), at, page)
    slow = stored.kind in ("document", "video") or at is not None
    return ItemThumbnail(stored, key, make, slow)
