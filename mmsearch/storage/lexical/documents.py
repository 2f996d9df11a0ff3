"""The document of an item: the words that a search by words finds it by."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

from mmsearch.storage.lexical.tokens import Document, date_words
from mmsearch.storage.records import DESCRIPTIVE_KEYS, NUMERIC_KEYS

WEIGHTS = (1.0, 0.7, 0.4)
"""How much a word counts in an item's texts, in its names, among the facts about it."""


def item_document(  # noqa: PLR0913 - what an item has
    texts: Iterable[str],
    metadata: Iterable[tuple[str, str, bool]],
    tags: Iterable[str],
    *,
    root: str,
    folder: str,
    name: str,
    camera: str | None,
    taken_at: str | None,
    mtime_ns: int,
) -> Document:
    """The document of an item.

    Args:
        texts: In order.
        metadata: (key, text, whether the user said so) in order of the key.
        tags: In order.
        root: The path of its source.
        folder: Below the source.
        name: The file's name.
        camera: Its name, if known.
        taken_at: ISO 8601, if known.
        mtime_ns: When the file was modified, in nanoseconds since 1970; 0 if that is not known.
    """
    own = [*texts]
    facts: list[str] = []
    for key, text, by_user in metadata:
        if by_user or key not in NUMERIC_KEYS:
            (own if key.lower() in DESCRIPTIVE_KEYS else facts).append(text)
    facts += tags
    names = [name, *_folders(root, folder)]
    known = [camera or "", date_words(taken_at or _day(mtime_ns)), *facts]
    return Document.of(own, names, known)


def _folders(root: str, folder: str) -> list[str]:
    """The names of the folders that a file is in, from that of its source on."""
    return [os.path.basename(root), *(name for name in folder.split(os.sep) if name)]


def _day(mtime_ns: int) -> str:
    """The day of a file's last change, in UTC, as it is shown."""
    if not mtime_ns:  # an imported item has none
        return ""
    with suppress(ValueError, OverflowError, OSError):  # of a broken clock
        return datetime.fromtimestamp(mtime_ns / 1e9, UTC).date().isoformat()
    return ""
