"""What the columns of metadata mean: which names the item, which are its texts, which the rest."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import chain
from typing import Any, get_args

from mmsearch.filters.values import number_in
from mmsearch.types import Kind

Columns = dict[str, list[Any]]
"""By name, a value of each row; None where there is none."""

PATHS = (
    "path",
    "image_path",
    "file_path",
    "filepath",
    "file",
    "filename",
    "file_name",
    "image_name",
    "image",
    "url",
    "key",
    "id",
)
"""What the column may be called that names an item, in any case: the first of these there is."""

CAPTIONS = ("caption", "captions", "text", "description", "sentence", "comment")
"""What the column of an item's captions may be called; the first of these there is."""

PATH_BYTES, PLACE, TEXTS, TAGS, META = (
    "path_bytes",
    "vector_place",
    "texts",
    "tags",
    "metadata",
)
"""Columns of our own exports: names that are not UTF-8, which vector of the item it is, texts with
spans, tags with scores, metadata by key."""

Own = tuple[list[int], list[str], list[str], list[float | None]]
"""Items, keys, texts, numbers."""

_EXACT = 2**53
"""Up to here every integer is a float."""


def columns_of(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Rows as columns; what a row does not name it has not."""
    keys = dict.fromkeys(chain.from_iterable(rows))
    return {str(key): [row.get(key) for row in rows] for key in keys}


def plain(values: Any) -> list[Any]:
    """A column of any kind as a list of plain values; NaN is as if not there."""
    for name in ("to_pylist", "tolist"):  # of pyarrow; of NumPy and pandas
        if hasattr(values, name):
            values = getattr(values, name)()
            break
    return [None if value != value else value for value in values]  # noqa: PLR0124 - NaN alone


def named(columns: Columns, names: Iterable[str]) -> str | None:
    """The column that is called one of some names, in any case; the earliest of these."""
    lowered = {key.lower(): key for key in reversed(columns)}
    return next((lowered[name] for name in names if name in lowered), None)


def clean(text: str) -> str:
    """A text as the store can hold it: without halves of characters, and without NULs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def path_text(value: Any) -> str:
    """A path or an address as text; "" if there is none."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    return value if isinstance(value, str) else str(value)


def captions_of(values: Sequence[Any]) -> tuple[list[int], list[int], list[str]]:
    """(item, position, text) of each caption: a cell has one, or a list of them, or none."""
    kinds = set(map(type, values))
    if kinds == {str} and all(map(str.strip, values)):  # as nearly always
        return list(range(len(values))), [0] * len(values), cleaned(list(values))
    if kinds <= {str, type(None)}:
        found = [(item, 0, text) for item, text in enumerate(values) if text and text.strip()]
    else:
        found = [
            (item, position, text)
            for item, value in enumerate(values)
            for position, text in enumerate(_captions_in(value))
        ]
    items, positions, texts = map(list, zip(*found, strict=True)) if found else ([], [], [])
    return items, positions, cleaned(texts)


def _captions_in(value: Any) -> list[str]:
    several = value if isinstance(value, (list, tuple)) else [value]
    found = (one if isinstance(one, str) else str(one) for one in several if one is not None)
    return [text for text in found if text.strip()]


def cleaned(texts: list[str]) -> list[str]:
    """Texts as the store can hold them, as `clean` makes them."""
    joined = "".join(texts)
    try:
        joined.encode()
    except UnicodeEncodeError:
        return list(map(clean, texts))
    return list(map(clean, texts)) if "\0" in joined else texts


# ---------------------------------------------------------------------- the rest: attributes


def own_values(key: str, values: Sequence[Any]) -> Own:
    """A column as it is kept for filters: each value as text and, if it reads so, as a number."""
    if not {type(None), bytes} & set(map(type, values)):
        items = list(range(len(values)))
        return items, [clean(key)] * len(items), *_written(list(values))
    kept = [
        (item, value)
        for item, value in enumerate(values)
        if value is not None and not isinstance(value, bytes)
    ]
    items, there = map(list, zip(*kept, strict=True)) if kept else ([], [])
    return items, [clean(key)] * len(items), *_written(there)


def _written(values: list[Any]) -> tuple[list[str], list[float | None]]:
    """Values as texts and, where they read so, as numbers."""
    kinds = set(map(type, values))
    if kinds == {int} and all(-_EXACT < value < _EXACT for value in values):
        return list(map(str, values)), list(map(float, values))
    if kinds == {float} and all(map(math.isfinite, values)):
        return list(map(repr, values)), values
    texts = cleaned(values if kinds == {str} else list(map(said, values)))
    read = {text: number_in(text) for text in set(texts)}
    return texts, list(map(read.__getitem__, texts))


def own_mappings(values: Sequence[Any]) -> Own:
    """A column of mappings as it is kept for filters: what is in them, by their keys."""
    items, keys, there = [], [], []
    for item, value in enumerate(values):
        for key, own in pairs(value):
            if own is not None:
                items.append(item)
                keys.append(clean(str(key)))
                there.append(own)
    return items, keys, *_written(there)


def pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    """What is in a mapping; pyarrow gives one as a list of pairs."""
    if isinstance(value, Mapping):
        return value.items()
    return value or ()


def is_mapping(values: Sequence[Any]) -> bool:
    """Whether all that a column has are mappings."""
    there = [value for value in values if value is not None]
    return bool(there) and all(
        isinstance(value, Mapping)
        or (isinstance(value, list) and all(isinstance(o, tuple) and len(o) == 2 for o in value))
        for value in there
    )


def said(value: Any) -> str:
    """A value as text, as a metadata file's are kept."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(said(one) for one in value if one is not None)
    if isinstance(value, Mapping):
        return clean(json.dumps(value, ensure_ascii=False, default=str))
    return value.isoformat() if isinstance(value, (datetime, date)) else clean(str(value))


# ---------------------------------------------------------------------- what filters know


def _kind(value: Any) -> Any:
    return value if value in get_args(Kind) else None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    same = number == value or (isinstance(value, str) and str(number) == value.strip())
    return number if same and 0 <= number < 2**63 else None


def _signed(value: Any) -> int | None:
    number = value if type(value) is int else _whole(value)
    return number if number is not None and abs(number) < 2**63 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _moment(value: Any) -> str | None:
    if isinstance(value, str):
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            return None
        return value if "T" in value and read.tzinfo is None else _moment(read)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    return f"{value.isoformat()}T00:00:00" if isinstance(value, date) else None


def _text(value: Any) -> str | None:
    return clean(value) if isinstance(value, str) and value else None


KNOWN: dict[str, tuple[str, Any]] = {
    "modality": ("kind", _kind),
    "size": ("size", _whole),
    "mtime_ns": ("mtime_ns", _signed),
    "width": ("width", _whole),
    "height": ("height", _whole),
    "taken": ("taken_at", _moment),
    "taken_at": ("taken_at", _moment),
    "camera": ("camera", _text),
    "latitude": ("latitude", _number),
    "longitude": ("longitude", _number),
    "seconds": ("seconds", _number),
    "pages": ("pages", _whole),
}
"""By its name, what a column says of every item, and how it is read. A value that cannot be read
so is metadata like any other."""


def known_values(key: str, values: Sequence[Any]) -> tuple[str, list[Any], list[Any]]:
    """(the item's column, its values, the values that are none and stay metadata)."""
    column, read = KNOWN[key.lower()]
    found = [None if value is None else read(value) for value in values]
    rest = [
        value if kept is None and value not in (None, "") else None
        for value, kept in zip(values, found, strict=True)
    ]
    return column, found, rest
