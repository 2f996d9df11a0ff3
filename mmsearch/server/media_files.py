"""Routes of an item's file: as it is, its thumbnail, its waveform."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO
from urllib.parse import quote

from anyio import to_thread
from fastapi import Query, Request
from starlette.responses import Response

from mmsearch.errors import UnreadableFile
from mmsearch.media import thumbnails
from mmsearch.media.documents.reader import is_document
from mmsearch.media.image import decoder_of
from mmsearch.media.sound_files import find_sound
from mmsearch.server import waveforms
from mmsearch.server.byte_ranges import file_response, is_fresh, not_modified
from mmsearch.server.item_thumbnails import ItemThumbnail, thumbnail_of
from mmsearch.server.requests import Index, ItemId, collection_of, strict_router
from mmsearch.storage.item_files import ItemFile, errors_with_path, open_item

if TYPE_CHECKING:
    from mmsearch.server.derived_files import DerivedFiles
    from mmsearch.storage import Store, StoredFile
    from mmsearch.types import Kind

FOREVER = "private, max-age=31536000, immutable"
REVALIDATED = "private, no-cache"
WEBP: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/webp": {}}},
    304: {"description": "The client has it"},
}
"""The answers of `webp_response`, for the OpenAPI document."""

router = strict_router(tag="items")


@router.get("/items/{item_id}/thumbnail", response_class=Response, responses=WEBP)
async def thumbnail(
    request: Request,
    item_id: ItemId,
    size: Annotated[
        thumbnails.Size, Query(description="Pixels of the longest side")
    ] = thumbnails.Size.SMALL,
    v: Annotated[str | None, Query(description="modified-size: an immutable address")] = None,
    at: Annotated[
        float | None, Query(ge=0, le=1e6, description="Seconds, of a video or animation")
    ] = None,
    page: Annotated[int, Query(ge=1, le=10**6, description="Of a document, from 1")] = 1,
    index: Index = None,
) -> Response:
    """A small picture of an item, upright and in sRGB, as WebP."""

    def of_item() -> ItemThumbnail:
        store = collection_of(request, index).index.store
        return thumbnail_of(store, item_id, size, at=at, page=page)

    found = await to_thread.run_sync(of_item)
    caching = FOREVER if v == version_of(found.stored) else REVALIDATED
    return await webp_response(request, found.key, caching, found.make, slow=found.slow)


async def webp_response(
    request: Request, key: str, caching: str, make: Callable[[], bytes], *, slow: bool = False
) -> Response:
    """The answer with a thumbnail: kept, newly made, or known to the client.

    Args:
        request: May have If-None-Match.
        key: Of the thumbnail; see `DerivedFiles.get`.
        caching: Its Cache-Control.
        make: Makes the WebP, in a thread.
        slow: Whether making it may take seconds.
    """
    headers = {"ETag": f'"{key}"', "Cache-Control": caching}
    if is_fresh(request, headers["ETag"]):
        return not_modified(headers)
    thumbnails: DerivedFiles = request.app.state.thumbnails
    made = await thumbnails.get(key, make, request.is_disconnected, slow=slow)
    return Response(made, headers=headers, media_type="image/webp")


@router.get("/items/{item_id}/waveform")
async def waveform(
    request: Request,
    item_id: ItemId,
    points: Annotated[int, Query(ge=50, le=1000, description="How many peaks")] = 200,
    index: Index = None,
) -> dict[str, Any]:
    """How loud an item's sound is over its length: peaks from 0 to 1."""
    store, item = await to_thread.run_sync(_store_and_file, request, index, item_id)
    kept: DerivedFiles = request.app.state.waveforms

    def make() -> bytes:
        with open_item(store, item_id) as opened, errors_with_path(opened.path):
            return waveforms.waveform(opened.file, item.stored.kind, kept.check_open)

    key = item.key("waveform", waveforms.VERSION)
    return waveforms.at_points(await kept.get(key, make, request.is_disconnected), points)


@router.head("/items/{item_id}/media", include_in_schema=False)
@router.get(
    "/items/{item_id}/media",
    response_class=Response,
    responses={
        200: {"content": {"*/*": {}}},
        206: {"description": "The range that was asked for", "content": {"*/*": {}}},
        304: {"description": "The client has it"},
    },
)
def media(
    request: Request,
    item_id: ItemId,
    download: Annotated[bool, Query(description="To be saved, not shown")] = False,  # noqa: FBT002
    index: Index = None,
) -> Response:
    """The file of an item as it is, or a range of it."""
    opened = open_item(collection_of(request, index).index.store, item_id)
    try:
        kind = content_type(opened.file, opened.stored.kind)
        if is_document(opened.path):  # browsers show mail and RTF as their source, HTML not at all
            kind = None
        opened.file.seek(0)
        shown = "attachment" if download or kind is None else "inline"
        headers = {
            "Content-Type": kind or "application/octet-stream",
            "Content-Disposition": f"{shown}; filename*=UTF-8''{_encoded_name(opened.path)}",
            "Cache-Control": REVALIDATED,
        }
        return file_response(request, opened.file, opened.status, headers)
    except BaseException:
        opened.file.close()
        raise


def version_of(stored: StoredFile) -> str:
    """A file's present state, in the address of its thumbnail: `modified-size`."""
    size, mtime_ns = stored.stat
    modified = datetime.fromtimestamp(mtime_ns / 1e9, UTC)
    return f"{modified.isoformat(timespec='seconds')}-{size}"


def _store_and_file(request: Request, index: str | None, item_id: int) -> tuple[Store, ItemFile]:
    """The store of an index, and the file of an item: it could be opened, and is closed again."""
    store = collection_of(request, index).index.store
    with open_item(store, item_id) as opened:
        return store, opened


def _encoded_name(path: str) -> str:
    name = os.fsencode(os.path.basename(path)).decode("utf-8", "replace")
    return quote("".join(one if one.isprintable() else "_" for one in name), safe="")


# ---------------------------------------------------------------------- content types

_PICTURES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "ICO": "image/vnd.microsoft.icon",
}
"""By decoder; browsers cannot show the others."""
_SOUNDS = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "mp4": "audio/mp4",
    "webm": "audio/webm",
    "matroska": "audio/x-matroska",
}
_VIDEOS = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
    "matroska": "video/x-matroska",
    "ogg": "video/ogg",
}
"""By container, as `find_sound` returns it."""
_HEAD = 4096


def content_type(file: BinaryIO, kind: Kind) -> str | None:
    """The Content-Type of a file, by its bytes; None: to be saved, not shown.

    Never one that a browser would run, such as HTML, SVG and other XML.
    """
    file.seek(0)
    head = file.read(_HEAD)
    try:
        if kind == "image":
            return _PICTURES.get(decoder_of(file))
        if kind in ("audio", "video"):
            container = find_sound(file)[0]
            if container == "mp4" and head[8:12] == b"qt  ":
                container = "mov"
            if container == "matroska" and b"\x42\x82\x84webm" in head:  # its DocType
                container = "webm"
            return (_SOUNDS if kind == "audio" else _VIDEOS).get(container)
    except (UnreadableFile, OSError):
        return None
    if kind == "document":
        return "application/pdf" if head.startswith(b"%PDF-") else None
    return "text/plain; charset=utf-8" if _is_plain(head) else None


def _is_plain(head: bytes) -> bool:
    """Whether a text is UTF-8, and does not begin like HTML, SVG or XML."""
    cut = len(head) == _HEAD  # perhaps inside a character
    for end in range(4 if cut else 1):
        try:
            text = head[: len(head) - end].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        return "\0" not in text and not text.lstrip().startswith("<")
    return False
