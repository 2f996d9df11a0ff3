"""Reads a metadata file: what a user knows of their files, by file name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmsearch.errors import InvalidMetadata
from mmsearch.media.tables import FILE_NAMES, Sheet, whole

_EXPECTED = '{"file": "a.jpg", "rating": 5, …}'


def read_metadata(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """File name, as it is written → its metadata; of a file that comes twice the later value wins.

    By the ending of `path`: .tsv (no quoting) and .csv (double quotes) with a header, of which one
    column names the file: one of FILE_NAMES, else the first; .jsonl or .ndjson, objects with such a
    key; a .txt is either of the first two. Empty cells and null are left out; a list is its values
    with commas between.

    Raises:
        PathNotFound: There is no such file.
        InvalidMetadata: It cannot be read or parsed; the message names the line.
    """
    sheet = Sheet.read(path, "metadata", InvalidMetadata)
    rows = _objects(sheet) if sheet.form == "json" else _lines(sheet)
    found: dict[str, dict[str, Any]] = {}
    for line, written, metadata in rows:
        name = written.strip()
        if not name:
            raise sheet.error(line, "the file name is missing")
        found.setdefault(name, {}).update(metadata)
    return found


def _lines(sheet: Sheet) -> Iterator[tuple[int, str, dict[str, Any]]]:
    lines = sheet.cells()
    first, header = next(lines, (1, []))
    keys = [cell.strip() for cell in header]
    named = [key.lower() for key in keys]
    file_at = next((named.index(name) for name in FILE_NAMES if name in named), 0)
    _check_header(sheet, first, keys)
    for number, cells in lines:
        if len(cells) > len(keys):
            raise sheet.error(number, f"{len(cells)} cells stand below {len(keys)} columns")
        if len(cells) <= file_at:
            raise sheet.error(number, "the file name is missing")
        pairs = zip(keys, map(str.strip, cells), strict=False)  # a line may end early
        metadata = {
            key: cell for column, (key, cell) in enumerate(pairs) if cell and column != file_at
        }
        yield number, cells[file_at], metadata


def _check_header(sheet: Sheet, number: int, keys: list[str]) -> None:
    if not keys:
        return  # an empty file says nothing
    if len(keys) == 1:
        raise sheet.error(number, "expected a header: a column of file names, and others")
    if "" in keys:
        raise sheet.error(number, f"column {keys.index('') + 1} has no name")
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise sheet.error(number, f"two columns are called {twice!r}")


def _objects(sheet: Sheet) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, row in sheet.objects(_EXPECTED):
        spelled = {key.lower(): key for key in row}
        own = next((spelled[name] for name in FILE_NAMES if name in spelled), None)
        if own is None or not isinstance(row[own], str):
            raise sheet.error(number, f"expected {_EXPECTED}")
        metadata = {
            whole(key): _flat(value)
            for key, value in row.items()
            if key != own and value not in (None, "")
        }
        yield number, whole(row[own]), metadata


def _flat(value: Any) -> Any:
    """A value without inner structure."""
    if isinstance(value, list):
        return ", ".join(str(_flat(one)) for one in value)
    if isinstance(value, Mapping):
        return whole(json.dumps(value, ensure_ascii=False))
    return whole(value) if isinstance(value, str) else value
