"""Lists that users write about their files: tab or comma separated, or a JSON object a line."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmsearch.errors import MMSearchError, PathNotFound

FILE_NAMES = ("file", "filename", "file_name", "image", "image_name", "path", "name")
"""What a header, or a key of a JSON object, may call the file's name, in any case."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A list that has been read but not yet understood.

    Attributes:
        path: Where it is.
        text: All of it.
        separator: Of the cells of a line; "" when lines are JSON objects.
        invalid: The error to raise for what is wrong with it.
    """

    path: Path
    text: str
    separator: Literal["", "\t", ","]
    invalid: type[MMSearchError]

    @classmethod
    def read(cls, path: str | os.PathLike[str], what: str, invalid: type[MMSearchError]) -> Sheet:
        """The file at `path`; its ending tells its form, a .txt's first line whether it has tabs.

        Args:
            path: Where it is.
            what: What it is a list of: "captions".
            invalid: The error to raise when it cannot be used.

        Raises:
            PathNotFound: There is no such file.
        """
        path = Path(path)
        text = _text_of(path, what, invalid)
        ending = path.suffix.lower()
        if ending == ".txt":
            ending = ".tsv" if "\t" in text.lstrip().partition("\n")[0] else ".csv"
        separators: dict[str, Literal["", "\t", ","]] = {".tsv": "\t", ".csv": ","}
        separators |= {".jsonl": "", ".ndjson": ""}
        if ending not in separators:
            known = ".tsv, .csv, .jsonl, .ndjson or .txt"
            raise invalid(f"{path}: a {what} file ends in {known}")
        return cls(path, text, separators[ending], invalid)

    @property
    def form(self) -> Literal["json", "table"]:
        """Whether lines are JSON objects or cells."""
        return "table" if self.separator else "json"

    def error(self, line: int, what: str) -> MMSearchError:
        """The error to raise for a line."""
        return self.invalid(f"{self.path}, line {line}: {what}")

    def cells(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells) of each line that is not blank; .csv alone has quotes."""
        if self.separator == "\t":
            lines = tab_cells(self.text)
        else:
            lines = comma_cells(self.path, self.text, self.invalid)
        return ((number, cells) for number, cells in lines if any(map(str.strip, cells)))

    def objects(self, expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line number, JSON object) of each line that is not blank.

        Args:
            expected: What an object should look like, for the error.
        """
        for number, line in enumerate(self.text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self.error(number, f"expected {expected}") from error
            if not isinstance(row, dict):
                raise self.error(number, f"expected {expected}")
            yield number, row


def tab_cells(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of lines with tabs between cells; quotes mean nothing."""
    for number, line in enumerate(text.split("\n"), start=1):
        yield number, line.split("\t")


def comma_cells(
    path: Path, text: str, invalid: type[MMSearchError]
) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of lines with commas between cells, which may be in double quotes."""
    lines = csv.reader(io.StringIO(text), strict=True)
    while True:
        number = lines.line_num + 1  # where the row begins: a quoted cell may span lines
        try:
            cells = next(lines, None)
        except csv.Error as error:
            what = "a cell that begins with a quote must end with one, quotes inside doubled"
            raise invalid(f"{path}, line {number}: {what} ({error})") from error
        if cells is None:
            return
        yield number, cells


def whole(text: str) -> str:
    """A text without halves of characters: JSON can spell them, no file name can hold them."""
    return text.encode("utf-8", "replace").decode()


def _text_of(path: Path, what: str, invalid: type[MMSearchError]) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PathNotFound(f"there is no {what} file {path}") from error
    except UnicodeDecodeError as error:
        raise invalid(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise invalid(f"{path} cannot be read: {reason}") from error
