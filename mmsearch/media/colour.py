"""Colours as sRGB, whatever colour space the profile (ICC) in a file names."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

_UNNOTICED = 3
"""Of 255; the profile of a picture whose colours it would change by no more is sRGB, rounded."""
_LARGEST_PROFILE = 2**24
"""Bytes."""
_PROFILED = {"L": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB", "RGBX": "RGB", "CMYK": "CMYK"}
"""Mode of a picture → that of the colours its profile speaks of."""


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture with its colours in sRGB; the picture itself if they are.

    Args:
        picture: With 8-bit channels; LAB becomes RGB too.
        profile: An ICC profile. One that is damaged, or of other channels, is ignored.
    """
    if picture.mode == "LAB":
        return _apply(_transform(None, "LAB"), picture)
    mode = _PROFILED.get(picture.mode)
    if not profile or mode is None or len(profile) > _LARGEST_PROFILE:
        return picture
    transform = _transform(bytes(profile), mode)
    if transform is None:
        return picture
    if picture.mode == mode:
        return _apply(transform, picture)
    converted = _apply(transform, picture.convert(mode))
    if picture.mode in ("LA", "RGBA"):
        converted.putalpha(picture.getchannel("A"))
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes | None, mode: str) -> Any:
    """What turns colours into sRGB; None if they are, or if the profile cannot be used.

    A few profiles, of cameras and programs, are in nearly all files, so that they are compared with
    sRGB, by what they do to colours, only once.
    """
    from PIL import Image, ImageCms

    srgb = ImageCms.createProfile("sRGB")
    if profile is None:
        return ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, mode, "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    bands = len(Image.new(mode, (1, 1)).getbands())
    levels = bytes(range(0, 256, 15))
    grid = Image.frombytes(
        mode,
        (len(levels), len(levels) ** (bands - 1)),
        levels
        if bands == 1
        else bytes(value for r in levels for g in levels for b in levels for value in (r, g, b)),
    )
    before, after = grid.convert("RGB").tobytes(), _apply(transform, grid).tobytes()
    changes = max(abs(one - other) for one, other in zip(before, after, strict=True))
    return transform if changes > _UNNOTICED else None


def _apply(transform: Any, picture: Image.Image) -> Image.Image:
    converted: Image.Image = transform.apply(picture)
    return converted
