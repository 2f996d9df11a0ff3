"""Tables that users write about their files: tab- or comma-separated, or a JSON object per line."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmsearch.errors import MMSearchError, PathNotFound

FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_name", "path", "name")
"""What a header, or a key of a JSON object, may call the file's name, in any case."""

Separator = Literal["", "\t", ",", ";"]

LONGEST_CELL = 2**31 - 1
"""Characters: all that the csv module can be told to take; by default it stops at 131,072."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file of cells or JSON objects, whose columns the caller interprets.

    Attributes:
        path: Its file.
        text: The content of the file.
        separator: Between the cells of a line; "" if lines are JSON objects.
        invalid: The type of error to raise for invalid lines.
    """

    path: Path
    text: str
    separator: Separator
    invalid: type[MMSearchError]

    @classmethod
    def read(cls, path: str | os.PathLike[str], what: str, invalid: type[MMSearchError]) -> Table:
        """The table in a .tsv, .csv, .jsonl, .ndjson or .txt (a .tsv if its first line has a tab).

        Args:
            path: The file.
            what: Its content, for errors: "captions".
            invalid: The type of error to raise for an invalid table.

        Raises:
            PathNotFound: There is no such file.
        """
        path = Path(path)
        with reading_utf8(path, what, invalid):
            text = path.read_text(encoding="utf-8-sig")
        ending = path.suffix.lower()
        if ending == ".txt":
            ending = ".tsv" if "\t" in text.lstrip().partition("\n")[0] else ".csv"
        separators: dict[str, Separator] = {".tsv": "\t", ".csv": ",", ".jsonl": "", ".ndjson": ""}
        if ending not in separators:
            known = ".tsv, .csv, .jsonl, .ndjson or .txt"
            raise invalid(f"{path}: a {what} file ends in {known}")
        separator = separators[ending]
        if separator == "," and _is_semicolon_separated(text):
            separator = ";"
        return cls(path, text, separator, invalid)

    @property
    def is_json(self) -> bool:
        """Whether lines are JSON objects, read by `objects`, rather than `cells`."""
        return not self.separator

    @property
    def separator_name(self) -> str:
        """The separator, for error messages."""
        return {"\t": "tab", ",": "comma", ";": "semicolon", "": "line"}[self.separator]

    def error(self, line: int, what: str) -> MMSearchError:
        """The error to raise for a line."""
        return self.invalid(f"{self.path}, line {line}: {what}")

    def cells(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells) of each line that is not blank; only a .csv has quoted cells.

        A quoted cell may span lines; the number is that of the first.
        """
        for number, cells in self._split():
            if any(map(str.strip, cells)):
                yield number, cells

    def _split(self) -> Iterator[tuple[int, list[str]]]:
        if self.separator == "\t":
            for number, line in enumerate(self.text.split("\n"), start=1):
                yield number, line.split("\t")
            return
        csv.field_size_limit(LONGEST_CELL)
        lines = csv.reader(io.StringIO(self.text), delimiter=self.separator, strict=True)
        while True:
            number = lines.line_num + 1
            try:
                cells = next(lines, None)
            except csv.Error as error:
                what = "a cell that begins with a quote must end with one, quotes inside doubled"
                raise self.error(number, f"{what} ({error})") from error
            if cells is None:
                return
            yield number, cells

    def in_two(self, cells: Sequence[str], text_at: int) -> list[str]:
        """The two cells of a line, where that of the text may contain unquoted separators.

        Args:
            cells: The line, split at every separator.
            text_at: Whether the text is the first cell (0) or the last.
        """
        if text_at == 0:
            return [self.separator.join(cells[:-1]), cells[-1]]
        return [cells[0], self.separator.join(cells[1:])]

    def objects(self, expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line number, JSON object) of each line that is not blank.

        Args:
            expected: What an object should look like, for the error.
        """
        return json_objects(self.text.split("\n"), expected, self.error)


def _is_semicolon_separated(text: str) -> bool:
    """Whether a .csv has semicolons, as spreadsheets write where commas are decimal points.

    That is so if the first line has them and no comma; or if cells are as many in every line, and
    two or more, and the first has no comma: captions may contain either sign.
    """
    first = text.lstrip().partition("\n")[0]
    if ";" not in first or "," not in first:
        return ";" in first
    csv.field_size_limit(LONGEST_CELL)
    try:
        rows = csv.reader(io.StringIO(text), delimiter=";", strict=True)
        lines = [cells for cells in rows if any(map(str.strip, cells))]
    except csv.Error:
        return False
    sizes = {len(cells) for cells in lines}
    return len(sizes) == 1 and sizes != {1} and not any("," in cells[0] for cells in lines)


class FileNames:
    """File names in a user's table, looked up by the path of a file.

    A name is a path: absolute, relative to the table's folder, or relative to a folder that is
    indexed. A name without a folder may stand for a file in any folder.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Take the `names`, as written, of a table in `folder`."""
        self._folder = os.path.realpath(folder)
        self._absolute: dict[str, str] = {}
        self._written: dict[str, str] = {}
        for name in names:
            for path in dict.fromkeys((name, name.replace("\\", "/"))):  # as Windows writes it
                self._written.setdefault(normal_path(path), name)
                # both, since links in a file's path may be resolved or not
                for top in (os.path.abspath(folder), self._folder):
                    self._absolute.setdefault(normal_path(os.path.join(top, path)), name)
        self._any_case = {
            path.casefold(): name
            for names_by_path in (self._absolute, self._written)
            for path, name in names_by_path.items()
        }

    def by_path(self, absolute: str, relative: str) -> str | None:
        """The name, as written, of the file at a path (absolute; relative to the index root)."""
        return self._absolute.get(normal_path(absolute)) or self._written.get(normal_path(relative))

    def by_other_case(self, absolute: str, relative: str) -> str | None:
        """The name, as written, that differs in case alone from a file's path, or from its name."""
        for path in (absolute, relative, os.path.basename(absolute)):
            if (name := self._any_case.get(normal_path(path).casefold())) is not None:
                return name
        return None

    def by_name(self, name: str) -> str | None:
        """The name, as written, that equals `name`; None if a file beside the table is meant."""
        written = self._written.get(normal_path(name))
        if written is None or os.path.lexists(os.path.join(self._folder, written)):
            return None
        return written


def json_objects(
    lines: Iterable[str], expected: str, error_at: Callable[[int, str], MMSearchError]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, JSON object) of each line that is not blank.

    Args:
        lines: Of a file.
        expected: What an object should look like, for the error.
        error_at: The error to raise for a line (its number; what is wrong).
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise error_at(number, f"expected {expected}") from error
        if not isinstance(row, dict):
            raise error_at(number, f"expected {expected}")
        yield number, row


def without_surrogates(text: str) -> str:
    """A text without lone surrogates, which JSON can spell but no file name can hold."""
    return text.encode("utf-8", "replace").decode()


def normal_path(path: str) -> str:
    """The one spelling of a path that users and file systems may write in several."""
    # macOS returns decomposed names (e + ´), editors write composed ones (é)
    return unicodedata.normalize("NFC", os.path.normpath(path))


@contextmanager
def reading_utf8(path: Path, what: str, invalid: type[MMSearchError]) -> Iterator[None]:
    """A context in which a file is read, whose errors it raises as ours; see `Table.read`."""
    try:
        yield
    except FileNotFoundError as error:
        raise PathNotFound(f"there is no {what} file {path}") from error
    except UnicodeDecodeError as error:
        raise invalid(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise invalid(f"{path} cannot be read: {reason}") from error
