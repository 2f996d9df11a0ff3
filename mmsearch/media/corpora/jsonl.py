"""Jsonl files of texts, one a line."""

from __future__ import annotations

import io
import json
import os
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmsearch.errors import UnreadableFile
from mmsearch.media.corpora.corpus import Corpus, Details, Member, no_member
from mmsearch.media.corpora.rows import (
    TEXT_COLUMNS,
    details_of,
    is_an_export,
    text_of,
)
from mmsearch.media.kinds import kind_of
from mmsearch.media.tables import FILE_COLUMNS, VECTOR_PLACE

_LONGEST_LINE = 64 * 2**20
"""Bytes; a longer line is not read."""


class Jsonl(Corpus):
    """A jsonl of texts: where its lines begin."""

    def __init__(self, path: str, status: os.stat_result) -> None:
        super().__init__(path, status)
        self._starts = array("Q")
        with Path(path).open("rb", 2**20) as file:
            at = 0
            while line := file.readline(_LONGEST_LINE):
                self._starts.append(at)
                while not line.endswith(b"\n") and (line := file.readline(_LONGEST_LINE)):
                    pass
                at = file.tell()
        self._check()

    def __len__(self) -> int:
        return len(self._starts)

    def _check(self) -> None:
        """Refuse a file none of whose first rows has a text, or that names files."""
        keys: dict[str, None] = {}
        rows = 0
        for number in range(min(len(self), 100)):
            try:
                row = self._row(number)
            except UnreadableFile:
                continue
            if row is None:
                continue
            if VECTOR_PLACE in row:
                raise is_an_export(os.path.dirname(self.path))
            rows += 1
            lower = {key.lower() for key in row}
            named = [row[key] for key in row if key.lower() in FILE_COLUMNS]
            if any(isinstance(one, str) and kind_of(one) for one in named):
                raise UnreadableFile(
                    "it names files, rather than holding texts: index their folder, with it as "
                    "--captions or --metadata"
                )
            if lower & {*TEXT_COLUMNS}:
                return
            keys |= dict.fromkeys(row)
        if rows:
            raise UnreadableFile(
                f"no row has a text: one of its keys ({', '.join(list(keys)[:20])}) is to be "
                f"called {', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}"
            )

    def _end(self, number: int) -> int:
        """Where a line ends."""
        return self._starts[number + 1] if number + 1 < len(self) else self.status.st_size

    def _row(self, number: int) -> dict[str, Any] | None:
        """The object in a line; None if that is blank."""
        with self._file() as file:
            return _object_in(file, number, self._starts[number], self._end(number))

    def members(self) -> Iterator[Member]:
        with self._file() as file:
            for number, start in enumerate(self._starts):
                end = self._end(number)
                name = str(number + 1)
                try:
                    row = _object_in(file, number, start, end)
                    if row is not None:
                        yield Member(name, len(text_of(row)))
                except UnreadableFile as error:
                    yield Member(name, 0, problem=str(error))

    def count(self, endings: Collection[str]) -> int:
        del endings  # rows have none, or only in what they hold
        return len(self)

    def _found(self, name: str) -> dict[str, Any]:
        number = int(name) - 1 if name.isascii() and name.isdigit() and len(name) < 19 else -1
        if not 0 <= number < len(self) or str(number + 1) != name:
            raise no_member(name)
        if (row := self._row(number)) is None:
            raise no_member(name)
        return row

    def size(self, name: str) -> int:
        return len(text_of(self._found(name)))

    def open(self, name: str, file: BinaryIO | None = None) -> BinaryIO:
        if file is not None:
            self._file(file).close()
        return io.BytesIO(text_of(self._found(name)))

    def details(self, name: str) -> Details:
        return details_of(self._found(name), captions=False)


def _object_in(file: BinaryIO, number: int, start: int, end: int) -> dict[str, Any] | None:
    """The object in a line; None if that is blank."""
    if end - start > _LONGEST_LINE:
        raise UnreadableFile("too long a line")
    file.seek(start)
    line = file.read(end - start)
    if number == 0:
        line = line.removeprefix(b"\xef\xbb\xbf")
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile("the line is not JSON") from error
    if not isinstance(row, dict):
        raise UnreadableFile("the line is not a JSON object")
    return row
