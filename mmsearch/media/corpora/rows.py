"""What a row of a table, or the JSON of a member, says: texts, and metadata."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from datetime import date
from typing import Any

from mmsearch.errors import UnreadableFile
from mmsearch.media.corpora.corpus import Details
from mmsearch.media.tables import storable

TEXT_COLUMNS = ("text", "caption", "captions", "description", "sentence", "comment")
"""What the texts, or captions, of rows may be called, in any case; the first that there is."""


def is_an_export(path: str) -> UnreadableFile:
    """The error for a file, or folder, that `mmsearch export` or `encode` has written."""
    return UnreadableFile(
        f"an export of vectors, which is imported: `mmsearch import {shlex.quote(path)}`"
    )


def text_of(row: Mapping[str, Any]) -> bytes:
    """The text of a row."""
    captions = captions_of(row)
    if not captions:
        raise UnreadableFile("the row has no text")
    return "\n\n".join(captions).encode()


def captions_of(row: Mapping[str, Any]) -> list[str]:
    """The texts, or captions, of a row."""
    lower = {key.lower(): key for key in row}
    for column in TEXT_COLUMNS:
        if (key := lower.get(column)) is None:
            continue
        value = row[key]
        texts = value if isinstance(value, list) else [value]
        found = [storable(one) for one in texts if isinstance(one, str) and one.strip()]
        if found:
            return found
    return []


def details_of(row: Mapping[str, Any], *, captions: bool = True) -> Details:
    """What a row says: its captions, and the rest as metadata."""
    others = ((key, _flat(row[key])) for key in row if key.lower() not in TEXT_COLUMNS)
    metadata = {
        storable(key): value
        for key, value in others
        if key.strip() and value is not None and value != ""
    }
    return Details(captions_of(row) if captions else (), metadata)


def _flat(value: Any) -> str | float | None:
    """A value without inner structure; None of one that cannot be filtered by, as vectors."""
    if isinstance(value, list):
        are_texts = all(isinstance(one, str) for one in value)
        value = ", ".join(value) if are_texts else None
    elif isinstance(value, Mapping):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):  # bytes in it, say
            value = None
    elif isinstance(value, date):
        value = value.isoformat()
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int):
        value = value if abs(value) < 2**53 else str(value)
    elif isinstance(value, float):
        value = value if math.isfinite(value) else None
    elif not isinstance(value, str):
        value = None
    return storable(value) if isinstance(value, str) else value
