"""Tables that users write about their files: tab- or comma-separated, or a JSON object per line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from mmsearch.errors import MMSearchError, PathNotFound, UnreadableFile
from mmsearch.media.text import UNICODE_MARKS, decode_legacy, is_utf8

FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_name", "path", "name")
"""What a header, or a key of a JSON object, may call the file's name, in any case."""

VECTOR_PLACE = "vector_place"
"""The key, in our own exports, of the place of a row's vector in its item: facet, position, span.
None if the item has no vector."""

Separator = Literal["", "\t", ",", ";"]

_SEPARATORS: dict[str, Separator] = {".tsv": "\t", ".csv": ",", ".jsonl": "", ".ndjson": ""}

LONGEST_CELL = 2**31 - 1
"""Characters; the highest limit that the csv module accepts. Its default is 131,072."""

_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t])"?\s*')
"""A first line by which spreadsheets state the separator."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file of cells or JSON objects, read a line at a time, whose columns the caller interprets.

    Attributes:
        path: Its file.
        separator: Between the cells of a line; "" if lines are JSON objects.
        quoted: Whether cells may be in double quotes.
        invalid: The type of error to raise for invalid lines.
    """

    path: Path
    separator: Separator
    quoted: bool
    invalid: type[MMSearchError]
    _what: str
    _open: Callable[[], TextIO]
    _before: int
    """The number of lines before the table."""
    encoding: str | None
    """The encoding that a file was read in because it is not Unicode; else None."""
    _replaced: list[int] = field(default_factory=list)
    """The lines in which characters were replaced."""

    @classmethod
    def read(cls, path: str | os.PathLike[str], what: str, invalid: type[MMSearchError]) -> Table:
        """The table in a .tsv, .csv, .jsonl, .ndjson or .txt (a .tsv if its first line has a tab).

        It is read as UTF-8, in which damaged bytes become surrogate escapes, as in file names; as
        UTF-16 or UTF-32 if it begins with a byte order mark; or else in its most likely encoding. A
        .csv may also be separated by semicolons or tabs, as spreadsheets write it.

        Args:
            path: The file.
            what: Its content, for errors: "captions".
            invalid: The type of error to raise for an invalid table.

        Raises:
            PathNotFound: There is no such file.
        """
        path = Path(path)
        with _reading(path, what, invalid):
            open_, encoding = _opener(path, invalid)
            with open_() as file:
                first = next((line for line in file if line.strip()), "")
        ending = path.suffix.lower()
        if ending == ".txt":
            ending = ".tsv" if "\t" in first else ".csv"
        if ending not in _SEPARATORS:
            known = ".tsv, .csv, .jsonl, .ndjson or .txt"
            raise invalid(f"{path}: a {what} file ends in {known}")
        separator, before = _SEPARATORS[ending], 0
        if ending == ".csv":
            if stated := _SEPARATOR_LINE.fullmatch(first):
                separator, before = cast("Separator", stated[1]), 1
            else:
                with _reading(path, what, invalid):
                    separator = _separator_of(first, open_)
        return cls(path, separator, ending == ".csv", invalid, what, open_, before, encoding)

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

    def check_width(self, line: int, cells: Sequence[str], columns: int) -> None:
        """Raise the error for a line that has more cells than the header has columns."""
        if len(cells) > columns:
            raise self.error(line, f"{len(cells)} cells, but the header has {columns} columns")

    def cells(self, *, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells) of each line; only a .csv has quoted cells.

        A quoted cell may span lines; the number is that of the first.

        Args:
            blank: Whether to include lines of blank cells; those without any never are.
        """
        for number, cells in self._split():
            if any(map(str.strip, cells)) or (blank and len(cells) > 1):
                yield number, cells

    def _split(self) -> Iterator[tuple[int, list[str]]]:
        with _reading(self.path, self._what, self.invalid), self._open() as file:
            for _ in range(self._before):
                next((line for line in file if line.strip()), "")
            if not self.quoted:
                for number, line in enumerate(file, start=1):
                    yield number, line.removesuffix("\n").split(self.separator)
                return
            lines = _csv_rows(file, self.separator)
            while True:
                number = lines.line_num + 1
                try:
                    cells = next(lines, None)
                except csv.Error as error:
                    what = (
                        "a cell that begins with a quote must end with one, quotes inside doubled"
                    )
                    raise self.error(number + self._before, f"{what} ({error})") from error
                if cells is None:
                    return
                yield number + self._before, cells

    def storable(self, line: int, text: str) -> str:
        """A text of a line as `storable` makes it; `warnings` reports replacements."""
        found = storable(text)
        if found != text:
            self._replaced.append(line)
        return found

    def warnings(self) -> list[str]:
        """What users should know of how the table was read; complete once it has been."""
        found = []
        if self.encoding is not None:
            found.append(
                f"{self.path} is not UTF-8 text and was read as {self.encoding}: if names or "
                "accents in it are wrong, save it as UTF-8"
            )
        if lines := list(dict.fromkeys(self._replaced)):
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            found.append(
                f"{self.path}: damaged characters and NULs were replaced by U+FFFD in line "
                f"{', '.join(map(str, lines[:3]))}{more}"
            )
        return found

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
        with _reading(self.path, self._what, self.invalid), self._open() as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise self.error(number, f"expected {expected}") from error
                if not isinstance(row, dict):
                    raise self.error(number, f"expected {expected}")
                yield number, row


def _opener(path: Path, invalid: type[MMSearchError]) -> tuple[Callable[[], TextIO], str | None]:
    """What opens a text file in its encoding; and the encoding's name if it is not Unicode."""
    with path.open("rb") as file:
        head = file.read(4)
        for mark, encoding in UNICODE_MARKS:
            if head.startswith(mark):  # which "utf-16" and "utf-32" take off
                return partial(path.open, encoding=encoding[:6], errors="replace"), None
        file.seek(0)
        decoder = getincrementaldecoder("utf-8")()
        try:
            while data := file.read(2**20):
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            file.seek(0)
            whole = file.read()
        else:
            return partial(path.open, encoding="utf-8-sig"), None
    if is_utf8(whole.decode(errors="replace")):
        return partial(path.open, encoding="utf-8-sig", errors="surrogateescape"), None
    try:
        text, legacy = decode_legacy(whole)
    except UnreadableFile as error:
        raise invalid(f"{path} is not a text file") from error
    return partial(io.StringIO, text, newline=None), legacy


def _csv_rows(lines: Iterable[str], separator: str) -> Any:
    csv.field_size_limit(LONGEST_CELL)
    return csv.reader(lines, delimiter=separator, strict=True)


def _separator_of(first: str, open_: Callable[[], TextIO]) -> Separator:
    """What separates the cells of a .csv: often semicolons where commas are decimal points.

    A tab or semicolon does if the first line contains it and no comma; or, since captions may
    contain either, if it divides every line into the same number of cells, two or more, of which
    the first has no comma.
    """
    others: tuple[Separator, ...] = ("\t", ";")
    for separator in others:
        if separator in first and ("," not in first or _is_separated(open_, separator)):
            return separator
    return ","


def _is_separated(open_: Callable[[], TextIO], separator: str) -> bool:
    width = 0
    try:
        with open_() as file:
            for cells in _csv_rows(file, separator):
                if not any(map(str.strip, cells)):
                    continue
                if "," in cells[0] or len(cells) == 1 or (width and len(cells) != width):
                    return False
                width = len(cells)
    except csv.Error:
        return False
    return True


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


def storable(text: str) -> str:
    """A text that the catalog can store: with U+FFFD in place of lone surrogates and NULs.

    JSON can contain lone surrogates, and a `Table` has them for bytes that are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


_SURROGATES = re.compile("[\ud800-\udfff]")


def normal_path(path: str) -> str:
    """The one spelling of a path that users and file systems may write in several."""
    # macOS returns decomposed names (e + ´), editors write composed ones (é)
    return unicodedata.normalize("NFC", os.path.normpath(path))


@contextmanager
def _reading(path: Path, what: str, invalid: type[MMSearchError]) -> Iterator[None]:
    """A context in which a file is read, whose errors it raises as ours; see `Table.read`."""
    try:
        yield
    except FileNotFoundError as error:
        raise PathNotFound(f"there is no {what} file {path}") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise invalid(f"{path} cannot be read: {reason}") from error
