"""What users know of their files: reads a metadata file, and stores what it says of the items."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmsearch.errors import InvalidMetadata
from mmsearch.media.tables import FILE_COLUMNS, FileNames, Table
from mmsearch.storage import Store

_EXPECTED = '{"file": "a.jpg", "rating": 5, …}'


class MetadataFile:
    """A metadata file that has been read.

    By the ending of its name: .tsv (no quoting) and .csv (double quotes) with a header, of which
    one column names the file, one of FILE_COLUMNS, else the first; .jsonl or .ndjson, objects with
    such a key; a .txt is either of the first two. Empty cells and null are left out; a list becomes
    its values with commas between.

    Attributes:
        metadata: File name, as written → its metadata; of a file that occurs twice, the later
            values.
        names: Looks up those names.
        warnings: What users should know of how it was read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file at `path`.

        Raises:
            PathNotFound: There is no such file.
            InvalidMetadata: It cannot be read or parsed; the message names the line.
        """
        table = Table.read(path, "metadata", InvalidMetadata)
        self.metadata: dict[str, dict[str, Any]] = {}
        for line, written, values in _json_rows(table) if table.is_json else _rows(table):
            name = written.strip()
            if not name:
                raise table.error(line, "the file name is missing")
            self.metadata.setdefault(name, {}).update(values)
        self.warnings = table.warnings()
        self.names = FileNames(Path(path).parent, self.metadata)


def apply_metadata(store: Store, file: MetadataFile) -> list[str]:
    """Store what a metadata file says, in place of what was stored of the same items.

    A name in the file is a path, as `FileNames` reads it. A name without a folder matches the
    item that is called so; when several items in different folders are, it matches none. A name
    that matches none otherwise matches the one item whose name differs in case alone.

    Returns:
        The names that match no item, or several that cannot be told apart.
    """
    found: dict[int, str] = {}
    bare: dict[str, list[int]] = {}
    other_case: dict[str, list[int]] = {}
    for item_id, root, folder, name in store.files.all():
        relative = os.path.join(folder, name)
        written = file.names.by_path(os.path.join(root, relative), relative)
        if written is not None:
            found[item_id] = written
        elif (written := file.names.by_name(name)) is not None:
            bare.setdefault(written, []).append(item_id)
        elif written := file.names.by_other_case(os.path.join(root, relative), relative):
            other_case.setdefault(written, []).append(item_id)
    used = set(found.values())
    for written, ids in (other_case | bare).items():
        if written not in used and len(ids) == 1:
            found[ids[0]] = written
            used.add(written)
    store.metadata.set((item_id, file.metadata[written]) for item_id, written in found.items())
    return [name for name in file.metadata if name not in used]


_Row = tuple[int, str, dict[str, Any]]
"""(line number, file name, metadata)"""


def _rows(table: Table) -> Iterator[_Row]:
    lines = table.cells()
    first, header = next(lines, (1, []))
    keys = [table.storable(first, cell.strip()) for cell in header]
    lower = [key.lower() for key in keys]
    file_at = next((lower.index(name) for name in FILE_COLUMNS if name in lower), 0)
    if len(keys) == 1:
        raise table.error(first, "expected a header: a column of file names, and others")
    if "" in keys:
        raise table.error(first, f"column {keys.index('') + 1} has no name")
    for key in keys:
        if keys.count(key) > 1:
            raise table.error(first, f"two columns are called {key!r}")
    for number, cells in lines:
        table.check_width(number, cells, len(keys))
        if len(cells) <= file_at:
            raise table.error(number, "the file name is missing")
        values = dict(zip(keys, map(str.strip, cells), strict=False))  # a line may end early
        del values[keys[file_at]]
        own = {key: table.storable(number, value) for key, value in values.items() if value}
        yield number, cells[file_at], own


def _json_rows(table: Table) -> Iterator[_Row]:
    for number, row in table.objects(_EXPECTED):
        spelled = {key.lower(): key for key in row}
        file_key = next((spelled[name] for name in FILE_COLUMNS if name in spelled), None)
        if file_key is None or not isinstance(row[file_key], str):
            raise table.error(number, f"expected {_EXPECTED}")
        metadata = {
            table.storable(number, key): _flat(value, partial(table.storable, number))
            for key, value in row.items()
            if key != file_key and value not in (None, "")
        }
        yield number, row[file_key], metadata


def _flat(value: Any, storable: Callable[[str], str]) -> Any:
    """A value without inner structure."""
    if isinstance(value, list):
        return ", ".join(str(_flat(one, storable)) for one in value)
    if isinstance(value, Mapping):
        return storable(json.dumps(value, ensure_ascii=False))
    return storable(value) if isinstance(value, str) else value
