"""Reads a captions file, and finds a photo's captions in it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidCaptions, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    Row = tuple[int, str, list[str]]
    """(line number, file name, captions)"""

FILE_NAMES = ("file", "filename", "file_name", "image", "image_name", "path", "name")
CAPTION_NAMES = ("caption", "text", "description", "sentence", "comment")
"""What a header, or the keys of a JSON object, may call the two columns, in any case."""

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
    path = Path(path)
    found: dict[str, list[str]] = {}
    for line, written, captions in _rows(path, _text_of(path)):
        name = _CAPTION_NUMBER.sub(r"\1", written.strip())
        if not name:
            raise InvalidCaptions(f"{path}, line {line}: the file name is missing")
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
        folder = Path(path).parent
        self._absolute: dict[str, str] = {}
        self._named: dict[str, str] = {}
        for name in self._captions:
            self._named.setdefault(_normal(name), name)
            # both, since a photo's path may come with its links resolved or not
            for place in (os.path.abspath(folder), os.path.realpath(folder)):
                self._absolute.setdefault(_normal(os.path.join(place, name)), name)
        self._asked: set[str] = set()

    def find(self, absolute_path: str, relative_path: str) -> list[str] | None:
        """The captions of a photo, or None when the book does not name it.

        A name in the book is a path: absolute, or from the folder of the captions file, or from
        the folder that is indexed. One without a folder is the name of a file in any folder.

        Args:
            absolute_path: Of the photo.
            relative_path: Of the photo, from the folder that is indexed.
        """
        bare = os.path.basename(absolute_path)
        name = (
            self._absolute.get(_normal(absolute_path))
            or self._named.get(_normal(relative_path))
            or self._named_anywhere(_normal(bare))
        )
        if name is None:
            return None
        self._asked.add(name)
        return list(self._captions[name])

    def _named_anywhere(self, bare: str) -> str | None:
        """The row of a bare file name, unless that names a file beside the captions file."""
        name = self._named.get(bare)
        if name is None or os.path.lexists(os.path.join(os.path.dirname(self.path), name)):
            return None
        return name

    @property
    def unused(self) -> list[str]:
        """The names, as they are written, that no photo was found for."""
        return [name for name in self._captions if name not in self._asked]


def _normal(path: str) -> str:
    # macOS hands out names decomposed (e + ´), editors write them composed (é).
    return unicodedata.normalize("NFC", os.path.normpath(path))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PathNotFound(f"there is no captions file {path}") from error
    except UnicodeDecodeError as error:
        raise InvalidCaptions(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidCaptions(f"{path} cannot be read: {reason}") from error


def _rows(path: Path, text: str) -> Iterator[Row]:
    ending = path.suffix.lower()
    if ending == ".txt":
        ending = ".tsv" if "\t" in text.lstrip().partition("\n")[0] else ".csv"
    if ending in (".jsonl", ".ndjson"):
        return _json_rows(path, text)
    if ending == ".tsv":
        return _table_rows(path, _tab_cells(text), "\t")
    if ending == ".csv":
        return _table_rows(path, _comma_cells(path, text), ",")
    raise InvalidCaptions(f"{path}: a captions file ends in .tsv, .csv, .jsonl, .ndjson or .txt")


def _tab_cells(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        yield number, line.split("\t")


def _comma_cells(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    lines = csv.reader(io.StringIO(text), strict=True)
    while True:
        number = lines.line_num + 1  # where the row begins: a quoted cell may span lines
        try:
            cells = next(lines, None)
        except csv.Error as error:
            what = "a cell that begins with a quote must end with one, quotes inside doubled"
            raise InvalidCaptions(f"{path}, line {number}: {what} ({error})") from error
        if cells is None:
            return
        yield number, cells


def _table_rows(
    path: Path, table: Iterator[tuple[int, list[str]]], separator: str
) -> Iterator[Row]:
    file_at, caption_at, columns = 0, 1, 2
    begun = False
    for number, cells in table:
        if not any(cell.strip() for cell in cells):
            continue
        if not begun:
            begun = True
            header = [cell.strip().lower() for cell in cells]
            if _one_of(FILE_NAMES, header) is not None:
                file_at, caption_at = _header_columns(path, number, header)
                columns = len(header)
                continue
        if len(cells) <= max(file_at, caption_at):
            mark = {"\t": "tab", ",": "comma"}[separator]
            raise InvalidCaptions(
                f"{path}, line {number}: expected a file name and a caption with a {mark} between"
            )
        if columns == 2:  # what more cells there are come of separators inside the caption
            rest = cells[1:] if file_at == 0 else cells[:-1]
            yield number, cells[0 if file_at == 0 else -1], [separator.join(rest)]
        else:
            yield number, cells[file_at], [cells[caption_at]]


def _header_columns(path: Path, number: int, header: list[str]) -> tuple[int, int]:
    file_at, caption_at = _one_of(FILE_NAMES, header), _one_of(CAPTION_NAMES, header)
    if file_at is None or caption_at is None:
        known = ", ".join(CAPTION_NAMES)
        raise InvalidCaptions(f"{path}, line {number}: no column is called one of {known}")
    return file_at, caption_at


def _one_of(names: tuple[str, ...], header: list[str]) -> int | None:
    return next((column for column, cell in enumerate(header) if cell in names), None)


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, *_json_row(json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                expected = '{"file": "a.jpg", "caption": "…"} or {"file": …, "captions": ["…"]}'
                raise InvalidCaptions(f"{path}, line {number}: expected {expected}") from error


def _json_row(row: Any) -> tuple[str, list[str]]:
    """File name and captions of one JSON object; TypeError when it is none or lacks them."""
    if not isinstance(row, dict):
        raise TypeError("not an object")
    keys = {key.lower(): value for key, value in row.items()}
    name = next((keys[key] for key in FILE_NAMES if key in keys), None)
    captions = keys.get("captions")
    if captions is None:
        captions = next((keys[key] for key in CAPTION_NAMES if key in keys), None)
    texts = [name, *(captions if isinstance(captions, list) else [captions])]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not text")
    # JSON can spell halves of characters, which no file name and no database can hold
    name, *captions = (text.encode("utf-8", "replace").decode() for text in texts)
    return name, captions
