"""Thumbnails: small pictures of photos, videos, pages and covers, as WebP or JPEG."""

from __future__ import annotations

import io
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, BinaryIO, Literal

from mmsearch.errors import MissingExtra, PathNotFound, UnreadableFile
from mmsearch.media.image import load_image
from mmsearch.media.open_media import damage_as_unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmsearch.types import Kind


class Size(IntEnum):
    """The longest side in pixels; smaller pictures are not enlarged."""

    SMALL = 256
    LARGE = 1024


MOST_BYTES = 2**30
"""The limit of all kept thumbnails together."""
VERSION = 1
"""To be raised whenever thumbnails change, as it is part of their keys."""

_SAVING = {"webp": {"quality": 80, "method": 2}, "jpeg": {"quality": 85}}
"""How formats are saved; a higher method takes twice as long to save 4 % of the bytes."""


def thumbnail(
    file: BinaryIO,
    kind: Kind,
    size: int,
    *,
    at: float | None = None,
    page: int = 1,
    max_megapixels: float = 200.0,
    format: Literal["webp", "jpeg"] = "webp",  # noqa: A002 - what everybody calls it
) -> bytes:
    """A small picture of a file: upright, sRGB, on white, its longest side at most `size`.

    Args:
        file: At its beginning.
        kind: What it is.
        size: Pixels.
        at: Seconds into a video, by default a frame near its beginning; or into an animation, by
            default its first frame.
        page: Of a document, from 1.
        max_megapixels: Larger photos are refused.
        format: "webp", or "jpeg", which every program takes.

    Raises:
        PathNotFound: it has no picture, or no such page.
        UnreadableFile: it cannot be decoded.
    """
    # else Pillow imports all fifty formats to find one
    from PIL import JpegImagePlugin, WebPImagePlugin  # noqa: F401

    # the longer side is at least the shorter one, which stays twice this long
    at_least = size // 2
    with damage_as_unreadable():
        picture = _picture(file, kind, at_least, at, page, max_megapixels)
        picture.thumbnail((size, size))
        out = io.BytesIO()
        picture.save(out, format.upper(), **_SAVING[format])
    return out.getvalue()


def _picture(
    file: BinaryIO,
    kind: Kind,
    at_least: int,
    at: float | None,
    page: int,
    max_megapixels: float,
) -> Image:
    if kind == "video":
        from mmsearch.media import video

        return video.frame_at(file, at, at_least=at_least)
    if kind == "document":
        from mmsearch.media import pdf

        if (found := pdf.page(file, page, at_least=at_least)) is None:
            raise PathNotFound(f"there is no page {page} in it")
        return found.picture
    source: BinaryIO | bytes | None = file
    if kind == "audio":
        source = _cover(file)
    if kind == "text" or source is None:
        raise PathNotFound(f"there is no picture of it: it is of the kind {kind!r}")
    if kind == "image" and at is not None:
        from mmsearch.media import animation

        with suppress(UnreadableFile):  # the first frame may be intact
            shown = animation.frame_at(file, at, at_least=at_least, max_megapixels=max_megapixels)
            if shown is not None:
                return shown
    return load_image(source, at_least=at_least, max_megapixels=max_megapixels)[0]


def _cover(file: BinaryIO) -> bytes | None:
    from mmsearch.media.audio import cover

    try:
        return cover(file)
    except (MissingExtra, UnreadableFile):
        return None
