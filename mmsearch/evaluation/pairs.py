"""Pairs files: queries and the files that are relevant to them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mmsearch.errors import InvalidCaptions, InvalidOption, InvalidQuery
from mmsearch.filters.values import shown
from mmsearch.home import path_text
from mmsearch.media.captions import CAPTION_COLUMNS, without_number
from mmsearch.media.tables import Table, storable
from mmsearch.search.planning import parts_of
from mmsearch.types import Modality, Part, Query

TEXT_COLUMNS = ("query", "text", *(name for name in CAPTION_COLUMNS if name != "text"))
FILE_COLUMNS = ("file", "files", "relevant", "filename", "file_name", "image_name", "path", "name")
"""What a header, or the keys of a JSON object, may call a query in words, and what is relevant."""

EXPECTED = '{"query": "a dog", "relevant": ["a.jpg", "b.jpg"]}, or "image" or "audio" for "query"'


@dataclass(frozen=True, slots=True)
class Pair:
    """One query, and the files that are relevant to it.

    Raises:
        InvalidQuery: The query cannot be searched for, or `relevant` does not map files to gains.
    """

    query: Query
    """The path of an example in it may be relative, or a bare name."""
    relevant: Mapping[str, float]
    """Files, as written, and the gain of finding each: 1, or a grade. A file whose gain is zero or
    less is not relevant."""
    folder: str = ""
    """What relative names are relative to; the working folder if it is empty."""

    def __post_init__(self) -> None:
        if not isinstance(self.query, Query):
            raise InvalidQuery(
                f"a pair has a query such as Query.text('a dog'), not {shown(self.query)}"
            )
        parts_of(self.query)  # raises an error if it cannot be searched for
        if not isinstance(self.relevant, Mapping):
            raise InvalidQuery(
                "what is relevant to a query is the gain of each file, such as {'a.jpg': 1}, "
                f"not {shown(self.relevant)}"
            )
        try:
            relevant = {os.fsdecode(name): _number(gain) for name, gain in self.relevant.items()}
            object.__setattr__(self, "relevant", relevant)
            object.__setattr__(self, "folder", os.fsdecode(self.folder))
        except TypeError as error:
            raise InvalidQuery(f"the name of a file or folder is text: {error}") from error
        except ValueError as error:
            raise InvalidQuery(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of a table, from 0, hold the query's parts, the file, the gain …"""

    parts: Mapping[int, Modality]
    file: int
    count: int
    modality: int | None = None
    gain: int | None = None

    @property
    def last(self) -> int:
        return max(*self.parts, self.file, self.modality or 0, self.gain or 0)

    @classmethod
    def named(cls, names: Sequence[str]) -> _Columns | None:
        """The columns of these names, or None when there is none for the query or the file."""

        def column(*known: str) -> int | None:
            return next((names.index(name) for name in known if name in names), None)

        parts: dict[int, Modality] = {}
        text = column(*TEXT_COLUMNS)
        if text is not None:
            parts[text] = "text"
        examples: tuple[Modality, ...] = ("image", "audio")
        parts |= {names.index(name): name for name in examples if name in names}
        file = column(*FILE_COLUMNS)
        if file is None and text is not None:  # "image,caption": the picture is what is relevant
            file = next((at for at, modality in parts.items() if modality != "text"), None)
            parts = {text: "text"}
        if file is None or not parts:
            return None
        return cls(parts, file, len(names), column("modality"), column("gain"))


_Row = tuple[tuple[Part, ...], dict[str, float]]
"""(parts of the query, gain of each file)"""


def read_pairs(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> list[Pair]:
    """The distinct queries of a file in order, each with everything that is relevant to it.

    By the ending of `path`: .tsv (no quoting), .csv (double quotes), .jsonl or .ndjson; a .txt is
    either of the first two. A table has a file per row. Its header says what a query is: `query`
    and the other `TEXT_COLUMNS` are words, `image` and `audio` are paths of examples; where
    several of them are filled, the parts are added up. A column `modality` gives the modality of
    each `query`, `gain` the gain of the file, else 1. Without a header there are two columns, a
    query in words and a file. A JSON object has the same keys, and in "relevant" one name,
    several, or an object of names and gains. `photo.jpg#0` means `photo.jpg`.

    Args:
        path: The file.
        columns: Names of the columns of a file without a header.

    Raises:
        PathNotFound: There is no such file.
        InvalidCaptions: It cannot be read or parsed; the message names the line.
        InvalidOption: `columns` names no query or no file, or an argument is of a wrong type.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise InvalidOption(f"pairs are read from a file, not {shown(path)}")
    path = path_text(path)
    named = None
    if columns is not None:
        if isinstance(columns, str) or not _are_texts(columns):
            raise InvalidOption(
                f"columns are a list of names, such as ['file', 'query'], not {shown(columns)}"
            )
        named = _Columns.named([column.strip().lower() for column in columns])
        if named is None:
            raise InvalidOption(
                f"columns {','.join(columns)!r} name no query or no file; say which is which: "
                "query,file or file,text or image,file, say"
            )
    table = Table.read(path, "pairs", InvalidCaptions)
    if table.encoding is not None:  # figures should not depend on a guess
        raise InvalidCaptions(f"{table.path} is not UTF-8 text; save it as UTF-8")
    folder = os.path.dirname(os.path.abspath(path))
    pairs: dict[tuple[Part, ...], dict[str, float]] = {}
    for parts, relevant in _json_rows(table) if table.is_json else _table_rows(table, named):
        known = pairs.setdefault(parts, {})
        for name, gain in relevant.items():
            known[name] = max(gain, known.get(name, gain))
    return [Pair(Query(parts), relevant, folder) for parts, relevant in pairs.items()]


def _are_texts(values: Any) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, str) for value in values)


def _table_rows(table: Table, columns: _Columns | None) -> Iterator[_Row]:
    for number, cells in table.cells():
        if columns is None:
            columns = _Columns.named([cell.strip().lower() for cell in cells])
            if columns is not None:
                continue
            if len(cells) != 2 and table.separator == "\t":
                raise table.error(
                    number,
                    f"{len(cells)} columns and no header; without one there are two, query and "
                    "file, else name them: query, image, audio, file, gain",
                )
            columns = _Columns({0: "text"}, 1, 2)
        if columns.count == 2 and len(cells) > 2:
            cells = table.in_two(cells, 1 - columns.file)  # noqa: PLW2901
        if len(cells) <= columns.last:
            raise table.error(
                number,
                f"expected {columns.count} columns with a {table.separator_name} between, "
                f"not {len(cells)}",
            )
        try:
            yield _row(columns, [cell.strip() or None for cell in cells])
        except ValueError as error:
            raise table.error(number, str(error)) from error


def _json_rows(table: Table) -> Iterator[_Row]:
    for number, row in table.objects(EXPECTED):
        columns = _Columns.named([key.lower() for key in row])
        if columns is None:
            raise table.error(number, f"expected {EXPECTED}")
        try:
            yield _row(columns, list(row.values()))
        except TypeError as error:
            raise table.error(number, f"expected {EXPECTED}") from error
        except ValueError as error:
            raise table.error(number, str(error)) from error


def _row(columns: _Columns, values: Sequence[Any]) -> _Row:
    """The query and relevant files of a row, in which what is left out is None.

    Raises:
        TypeError: A value is not of the type that JSON should have there.
        ValueError: A value is missing or out of range.
    """
    modality = columns.modality is not None and values[columns.modality]
    parts = tuple(
        _part(str(modality).lower() if modality and part == "text" else part, values[at])
        for at, part in columns.parts.items()
        if values[at] is not None
    )
    relevant = values[columns.file]
    if not isinstance(relevant, dict):
        gain = 1 if columns.gain is None or values[columns.gain] is None else values[columns.gain]
        names = relevant if isinstance(relevant, list) else [relevant]
        relevant = {name: gain for name in names if name is not None}
    gains: dict[str, float] = {}
    for written, gain in relevant.items():
        name = without_number(_plain(written))
        gains[name] = max(_gain(gain), gains.get(name, 0.0))
    if not parts:
        raise ValueError("the query is missing")
    if values[columns.file] is None:
        raise ValueError("the file name is missing")
    if not gains:
        raise TypeError("nothing is relevant")
    return parts, gains


def _part(modality: str, content: Any) -> Part:
    """A part of a query; ValueError when there is no such modality."""
    known: tuple[Modality, ...] = get_args(Modality)
    for one in known:
        if modality == one:
            plain = _plain(content)
            return Part(one, " ".join(plain.split()) if one == "text" else plain)
    raise ValueError(f"a modality is one of {', '.join(known)}, not {modality!r}")


def _gain(written: Any) -> float:
    """The gain of finding a file; ValueError when it is not a number from 0 on."""
    gain = _number(written)
    if gain < 0:
        raise ValueError(f"a gain is a number, 0 or more, not {shown(written)}")
    return gain


def _number(written: Any) -> float:
    """A gain of any sign; ValueError when it is not a finite number."""
    try:
        gain = float(written)
    except (TypeError, ValueError, OverflowError):
        gain = math.nan
    if not math.isfinite(gain):
        raise ValueError(f"a gain is a number, 0 or more, not {shown(written)}")
    return gain


def _plain(text: Any) -> str:
    """A text without blanks around it; TypeError when it is not text or is empty."""
    if not isinstance(text, str) or not text.strip():
        raise TypeError("not text")
    return storable(text.strip())
