"""Files of captions: their captions by file name, and looked up by a photo's path."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidCaptions
from mmsearch.media.tables import FILE_COLUMNS, FileNames, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Row = tuple[int, str, list[str]]
    """(line number, file name, captions)"""

CAPTION_COLUMNS = ("caption", "text", "description", "sentence", "comment")
"""What a header, or the keys of a JSON object, may call the captions, in any case."""

_CAPTION_NUMBER = re.compile(r"(\.\w+)#\d+$")


def read_captions(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """File name, as written → its distinct captions in order, without blank ones.

    By the ending of `path`: .tsv (no quoting), .csv (double quotes), .jsonl or .ndjson (objects
    with "file" and "caption" or a list of "captions"); a .txt is either of the first two. Without
    a header, the file name comes first and the caption second. `photo.jpg#0` means `photo.jpg`.

    Raises:
        PathNotFound: There is no such file.
        InvalidCaptions: It cannot be read or parsed; the message names the line.
    """
    return _captions_in(Table.read(path, "captions", InvalidCaptions))


def _captions_in(table: Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line, written, captions in _json_rows(table) if table.is_json else _rows(table):
        name = without_number(written.strip())
        if not name:
            raise table.error(line, "the file name is missing")
        captions_of_file = found.setdefault(name, [])
        for caption in captions:
            text = " ".join(table.storable(line, caption).split())
            if text and text not in captions_of_file:
                captions_of_file.append(text)
    return found


def without_number(name: str) -> str:
    """`photo.jpg` for `photo.jpg#0`, as data sets number the captions of a photo."""
    return _CAPTION_NUMBER.sub(r"\1", name)


class CaptionFile:
    """The captions in a file, looked up by a photo's path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file at `path`; raises what `read_captions` does."""
        table = Table.read(path, "captions", InvalidCaptions)
        self._captions = _captions_in(table)
        self.warnings = table.warnings()
        """What users should know of how it was read."""
        self.path = os.path.realpath(path)
        self._names = FileNames(Path(path).parent, self._captions)
        self._used: set[str] = set()

    def find(self, absolute_path: str, relative_path: str) -> list[str] | None:
        """The captions of a photo, or None when the file does not name it.

        A name in the file is a path, as `FileNames` reads it; one without a folder names the files
        of that name in any folder.

        Args:
            absolute_path: Of the photo.
            relative_path: Of the photo, relative to the folder that is indexed.
        """
        name = self._names.by_path(absolute_path, relative_path) or self._names.by_name(
            os.path.basename(absolute_path)
        )
        if name is None:
            return None
        self._used.add(name)
        return list(self._captions[name])

    @property
    def unused(self) -> list[str]:
        """The names, as written, of which `find` has met no file."""
        return [name for name in self._captions if name not in self._used]


class GivenCaptions(CaptionFile):
    """The captions of one file, given as a list instead of in a captions file."""

    def __init__(self, file: str, captions: Sequence[str]) -> None:
        """The captions of the `file` at an absolute path."""
        self._file = file
        self._given = list(captions)
        self.warnings = []
        self.path = ""

    def find(self, absolute_path: str, relative_path: str) -> list[str] | None:  # noqa: ARG002
        """The captions, if this is the file's path."""
        return list(self._given) if absolute_path == self._file else None

    @property
    def unused(self) -> list[str]:
        """None: the file is known."""
        return []


def _rows(table: Table) -> Iterator[Row]:
    lines = table.cells()
    first, cells = next(lines, (1, []))
    header = [cell.strip().lower() for cell in cells]
    file_at = next((at for at, cell in enumerate(header) if cell in FILE_COLUMNS), None)
    caption_at = next((at for at, cell in enumerate(header) if cell in CAPTION_COLUMNS), None)
    if file_at is None:  # no header
        header, file_at, caption_at = ["file", "caption"], 0, 1
        lines = itertools.chain([(first, cells)] if cells else [], lines)
    if caption_at is None:
        raise table.error(first, f"no column is called one of {', '.join(CAPTION_COLUMNS)}")
    for number, cells in lines:
        if len(cells) <= max(file_at, caption_at):
            expected = f"a file name and a caption with a {table.separator_name} between"
            raise table.error(number, f"expected {expected}")
        row = table.in_two(cells, caption_at) if len(header) == 2 else cells
        yield number, row[file_at], [row[caption_at]]


def _json_rows(table: Table) -> Iterator[Row]:
    expected = '{"file": "a.jpg", "caption": "…"} or {"file": …, "captions": ["…"]}'
    for number, row in table.objects(expected):
        values = {key.lower(): value for key, value in row.items()}
        name = next((values[key] for key in FILE_COLUMNS if key in values), None)
        captions = values.get("captions")
        if captions is None:
            captions = next((values[key] for key in CAPTION_COLUMNS if key in values), None)
        texts = [name, *(captions if isinstance(captions, list) else [captions])]
        if not all(isinstance(text, str) for text in texts):
            raise table.error(number, f"expected {expected}")
        name, *captions = texts
        yield number, name, captions
