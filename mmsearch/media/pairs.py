"""Reads a file of queries and the files that are right for them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mmsearch.errors import InvalidCaptions, InvalidOption
from mmsearch.media.captions import CAPTION_NAMES
from mmsearch.media.tables import Sheet, whole
from mmsearch.types import Modality, Part, Query

TEXT_NAMES = ("query", "text", *(name for name in CAPTION_NAMES if name != "text"))
FILE_NAMES = ("file", "files", "relevant", "filename", "file_name", "image_name", "path", "name")
"""What a header, or the keys of a JSON object, may call a query in words, and what is right."""

EXPECTED = '{"query": "a dog", "relevant": ["a.jpg", "b.jpg"]}, or "image" or "audio" for "query"'


@dataclass(frozen=True, slots=True)
class Pair:
    """One query, and the files that are right for it.

    Attributes:
        query: What is asked; the path of an example may be relative, or a bare name.
        relevant: Files, as they are written, and what finding each is worth: 1, or a grade.
        folder: Where relative names begin; the working folder if it is empty.
    """

    query: Query
    relevant: Mapping[str, float]
    folder: str = ""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of a table mean what, from 0."""

    parts: Mapping[int, Modality]
    file: int
    count: int
    modality: int | None = None
    gain: int | None = None

    @property
    def last(self) -> int:
        return max(*self.parts, self.file, self.modality or 0, self.gain or 0)


_Row = tuple[list[Part], dict[str, float]]
"""(parts of the query, gain of each file)"""


def read_pairs(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> list[Pair]:
    """The queries of a file in order, each once, with all that is right for it.

    By the ending of `path`: .tsv (no quoting), .csv (double quotes), .jsonl or .ndjson; a .txt is
    either of the first two. A table has a file a row. Its header says what a query is: `query`
    and what `TEXT_NAMES` lists are words, `image` and `audio` are paths of examples; where
    several of them are filled, the parts are added up. A column `modality` says of each `query`
    what it is. `gain` is what finding the file is worth, else 1. Without a header there are two
    columns, a query in words and a file. A JSON object has the same keys, and in "relevant" one
    name, several, or an object of names and gains.

    Args:
        path: The file.
        columns: What the columns of a file without a header are called.

    Raises:
        PathNotFound: There is no such file.
        InvalidCaptions: It cannot be read or parsed; the message names the line.
        InvalidOption: `columns` names no query or no file.
    """
    named = None if columns is None else _named(columns)
    sheet = Sheet.read(path, "pairs", InvalidCaptions)
    rows = _json_rows(sheet) if sheet.form == "json" else _table_rows(sheet, named)
    folder = os.path.dirname(os.path.abspath(path))
    pairs: dict[tuple[Part, ...], dict[str, float]] = {}
    for parts, relevant in rows:
        known = pairs.setdefault(tuple(parts), {})
        for name, gain in relevant.items():
            known[name] = max(gain, known.get(name, gain))
    return [Pair(Query(parts), relevant, folder) for parts, relevant in pairs.items()]


def _named(columns: Sequence[str]) -> _Columns:
    found = _header([column.strip().lower() for column in columns])
    if found is None:
        raise InvalidOption(
            f"columns {','.join(columns)!r} name no query or no file; say which is which: "
            "query,file or file,text or image,file, say"
        )
    return found


def _header(cells: Sequence[str]) -> _Columns | None:
    """What the columns mean, or None when the cells name no query or no file."""
    parts: dict[int, Modality] = {}
    text = _one_of(TEXT_NAMES, cells)
    if text is not None:
        parts[text] = "text"
    examples: tuple[Modality, ...] = ("image", "audio")
    parts |= {cells.index(name): name for name in examples if name in cells}
    file = _one_of(FILE_NAMES, cells)
    if file is None and text is not None:  # "image,caption": the picture is what is looked for
        file = next((at for at, modality in parts.items() if modality != "text"), None)
        parts = {text: "text"}
    if file is None or not parts:
        return None
    modality, gain = _one_of(("modality",), cells), _one_of(("gain",), cells)
    return _Columns(parts, file, len(cells), modality, gain)


def _one_of(names: Sequence[str], cells: Sequence[str]) -> int | None:
    return next((cells.index(name) for name in names if name in cells), None)


def _table_rows(sheet: Sheet, columns: _Columns | None) -> Iterator[_Row]:
    for number, written in sheet.cells():
        if columns is None:
            columns = _header([cell.strip().lower() for cell in written])
            if columns is not None:
                continue
            if len(written) != 2 and sheet.separator == "\t":
                raise sheet.error(
                    number,
                    f"{len(written)} columns and no header; without one there are two, query and "
                    "file, else name them: query, image, audio, file, gain",
                )
            columns = _Columns({0: "text"}, 1, 2)
        cells = written
        if columns.count == 2 and len(cells) > 2:
            cells = _whole_query(written, columns, sheet.separator)
        if len(cells) <= columns.last:
            mark = {"\t": "tab", ",": "comma"}[sheet.separator]
            raise sheet.error(
                number, f"expected {columns.count} columns with a {mark} between, not {len(cells)}"
            )
        yield _table_row(sheet, number, [cell.strip() for cell in cells], columns)


def _whole_query(cells: list[str], columns: _Columns, separator: str) -> list[str]:
    """The two cells of a row in which the query has unquoted separators of its own."""
    if columns.file == 0:
        return [cells[0], separator.join(cells[1:])]
    return [separator.join(cells[:-1]), cells[-1]]


def _table_row(sheet: Sheet, number: int, cells: Sequence[str], columns: _Columns) -> _Row:
    said = "" if columns.modality is None else cells[columns.modality].lower()
    gain = "" if columns.gain is None else cells[columns.gain]
    name = cells[columns.file]
    try:
        parts = [
            _part(said if said and modality == "text" else modality, cells[at])
            for at, modality in columns.parts.items()
            if cells[at]
        ]
        relevant = {name: _gain(gain or "1")}
    except ValueError as error:
        raise sheet.error(number, str(error)) from error
    if not parts or not name:
        raise sheet.error(number, f"the {'file name' if parts else 'query'} is missing")
    return parts, relevant


def _part(modality: str, content: str) -> Part:
    """A part of a query; ValueError when there is no such modality."""
    known: tuple[Modality, ...] = get_args(Modality)
    for one in known:
        if modality == one:
            return Part(one, " ".join(content.split()) if one == "text" else content)
    raise ValueError(f"a modality is one of {', '.join(known)}, not {modality!r}")


def _gain(written: Any) -> float:
    """What finding a file is worth; ValueError when that is no number."""
    try:
        gain = float(written)
    except (TypeError, ValueError):
        gain = math.nan
    if not math.isfinite(gain) or gain < 0:
        raise ValueError(f"a gain is a number, 0 or more, not {written!r}")
    return gain


def _json_rows(sheet: Sheet) -> Iterator[_Row]:
    for number, row in sheet.objects(EXPECTED):
        try:
            yield _json_row({key.lower(): value for key, value in row.items()})
        except TypeError as error:
            raise sheet.error(number, f"expected {EXPECTED}") from error
        except ValueError as error:
            raise sheet.error(number, str(error)) from error


def _json_row(keys: dict[str, Any]) -> _Row:
    """What one JSON object says; TypeError when it lacks something, ValueError when it is wrong."""
    names = list(keys)
    columns = _header(names)
    if columns is None:
        raise TypeError("no query or no file")
    said = keys.get("modality")
    asked = {kind: keys[names[at]] for at, kind in columns.parts.items()}
    parts = [
        _part(str(said) if said and kind == "text" else kind, _plain(value))
        for kind, value in asked.items()
        if value is not None
    ]
    right = keys[names[columns.file]]
    if not isinstance(right, dict):
        gain = keys.get("gain", 1)
        right = {_plain(name): gain for name in (right if isinstance(right, list) else [right])}
    if not right or not parts:
        raise TypeError("nothing asked, or nothing right")
    return parts, {_plain(name): _gain(gain) for name, gain in right.items()}


def _plain(text: Any) -> str:
    """A string with something in it; TypeError when it is none."""
    if not isinstance(text, str) or not text.strip():
        raise TypeError("not text")
    return whole(text.strip())
