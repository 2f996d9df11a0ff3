"""What a file is, told from the ending of its name."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmsearch.types import Kind

NEEDS_AV = frozenset({".m4a", ".m4b", ".aac", ".wma", ".amr"})
"""Endings of sounds that are read through PyAV (the extra `av`) alone."""

EXTENSIONS: dict[str, Kind] = {
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"), "image"),
    **dict.fromkeys((".tif", ".tiff", ".heic", ".heif", ".avif"), "image"),
    **dict.fromkeys((".txt", ".md"), "text"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"), "audio"),
    **dict.fromkeys(sorted(NEEDS_AV), "audio"),
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"), "video"),
    **dict.fromkeys((".mpg", ".mpeg", ".3gp"), "video"),
    ".pdf": "document",
}
"""The endings (lower case) that can be indexed, and what their files are."""


def kind_of(name: str) -> Kind | None:
    """What a file is, or None if it is nothing that can be indexed."""
    dot = name.rfind(".")
    return EXTENSIONS.get(name[dot:].lower()) if dot > 0 else None


def endings_of(kinds: Collection[Kind]) -> frozenset[str]:
    """The endings of files of some kinds, as far as they can be read with what is installed."""
    missing: frozenset[str] = frozenset() if find_spec("av") else NEEDS_AV
    return frozenset(end for end, kind in EXTENSIONS.items() if kind in kinds) - missing
