"""Reads a captions file, and finds a photo's captions in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidCaptions
from mmsearch.media.names import NameBook
from mmsearch.media.tables import FILE_NAMES, Sheet, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    Row = tuple[int, str, list[str]]
    """(line number, file name, captions)"""

CAPTION_NAMES = ("caption", "text", "description", "sentence", "comment")
"""What a header, or the keys of a JSON object, may call the captions, in any case."""

_CAPTION_NUMBER = re.compile(r"(\.\w+)#\d+$")


def read_captions(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """File name, as it is written → its captions in order, each once, blank ones left out.

    By the ending of `path`: .tsv (no quoting), .csv (double quotes), .jsonl or .ndjson (objects
    with "file" and "caption" or a list of "captions"); a .txt is either of the first two. Without
    a header, the file name comes first and the caption second. `photo.jpg#0` means `photo.jpg`.

    Raises:
        PathNotFound: There is no such file.
        InvalidCaptions: It cannot be read or parsed; the message names the line.
    """
    sheet = Sheet.read(path, "captions", InvalidCaptions)
    rows = _json_rows(sheet) if sheet.form == "json" else _table_rows(sheet)
    found: dict[str, list[str]] = {}
    for line, written, captions in rows:
        name = _CAPTION_NUMBER.sub(r"\1", written.strip())
        if not name:
            raise sheet.error(line, "the file name is missing")
        own = found.setdefault(name, [])
        for caption in captions:
            plain = " ".join(caption.split())
            if plain and plain not in own:
                own.append(plain)
    return found


class CaptionBook:
    """The captions of one file, found by a photo's path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file at `path`; raises what `read_captions` does."""
        self._captions = read_captions(path)
        self.path = os.path.realpath(path)
        self._names = NameBook(Path(path).parent, self._captions)
        self._asked: set[str] = set()

    def find(self, absolute_path: str, relative_path: str) -> list[str] | None:
        """The captions of a photo, or None when the book does not name it.

        A name in the book is a path: absolute, or from the folder of the captions file, or from
        the folder that is indexed. One without a folder is the name of a file in any folder.

        Args:
            absolute_path: Of the photo.
            relative_path: Of the photo, from the folder that is indexed.
        """
        name = self._names.at(absolute_path, relative_path) or self._names.anywhere(
            os.path.basename(absolute_path)
        )
        if name is None:
            return None
        self._asked.add(name)
        return list(self._captions[name])

    @property
    def unused(self) -> list[str]:
        """The names, as they are written, that no photo was found for."""
        return [name for name in self._captions if name not in self._asked]


def _table_rows(sheet: Sheet) -> Iterator[Row]:
    file_at, caption_at, columns = 0, 1, 2
    begun = False
    for number, cells in sheet.cells():
        if not begun:
            begun = True
            header = [cell.strip().lower() for cell in cells]
            if _one_of(FILE_NAMES, header) is not None:
                file_at, caption_at = _header_columns(sheet, number, header)
                columns = len(header)
                continue
        if len(cells) <= max(file_at, caption_at):
            mark = {"\t": "tab", ",": "comma"}[sheet.separator]
            raise sheet.error(number, f"expected a file name and a caption with a {mark} between")
        if columns == 2:  # what more cells there are come of separators inside the caption
            rest = cells[1:] if file_at == 0 else cells[:-1]
            yield number, cells[0 if file_at == 0 else -1], [sheet.separator.join(rest)]
        else:
            yield number, cells[file_at], [cells[caption_at]]


def _header_columns(sheet: Sheet, number: int, header: list[str]) -> tuple[int, int]:
    file_at, caption_at = _one_of(FILE_NAMES, header), _one_of(CAPTION_NAMES, header)
    if file_at is None or caption_at is None:
        known = ", ".join(CAPTION_NAMES)
        raise sheet.error(number, f"no column is called one of {known}")
    return file_at, caption_at


def _one_of(names: tuple[str, ...], header: list[str]) -> int | None:
    return next((column for column, cell in enumerate(header) if cell in names), None)


def _json_rows(sheet: Sheet) -> Iterator[Row]:
    expected = '{"file": "a.jpg", "caption": "…"} or {"file": …, "captions": ["…"]}'
    for number, row in sheet.objects(expected):
        try:
            yield number, *_json_row(row)
        except TypeError as error:
            raise sheet.error(number, f"expected {expected}") from error


def _json_row(row: dict[str, Any]) -> tuple[str, list[str]]:
    """File name and captions of one JSON object; TypeError when it lacks them."""
    keys = {key.lower(): value for key, value in row.items()}
    name = next((keys[key] for key in FILE_NAMES if key in keys), None)
    captions = keys.get("captions")
    if captions is None:
        captions = next((keys[key] for key in CAPTION_NAMES if key in keys), None)
    texts = [name, *(captions if isinstance(captions, list) else [captions])]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not text")
    name, *captions = map(whole, texts)
    return name, captions
