"""Parquet files of pictures and sounds, as bytes or by path, or of texts."""

from __future__ import annotations

import io
import os
import stat
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media.corpora.corpus import Corpus, Details, Member, changed, identity, no_member
from mmsearch.media.corpora.rows import (
    TEXT_COLUMNS,
    details_of,
    is_an_export,
    text_of,
)
from mmsearch.media.kinds import ending_by_content, ending_of, kind_of
from mmsearch.media.open_media import damage_as_unreadable
from mmsearch.media.tables import FILE_COLUMNS, VECTOR_PLACE, storable

_OF_PICTURES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "photo")
_OF_SOUNDS = ("audio", "wav", "mp3", "flac", "ogg", "sound", "video", "mp4")
MEDIA_COLUMNS = (*_OF_PICTURES, *_OF_SOUNDS, "bytes", "content", "data")
"""What a column of bytes may be called, in any case; any other is looked into."""
PATH_COLUMNS = (*FILE_COLUMNS, "image_path", "file_path", "filepath", "audio_path", "audio")
"""What a column of paths may be called."""

_ROWS = 16
"""Rows that are read together."""
_BATCHES, _MOST_BYTES = 12, 2**28
"""Of these, and bytes of them, kept of each file that is open: threads ask nearly in order."""


class Parquet(Corpus):
    """A parquet file of bytes, paths or texts."""

    def __init__(self, path: str, status: os.stat_result) -> None:
        super().__init__(path, status)
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtra("parquet", "parquet", error) from error
        self._parquet: Any = parquet
        self._lock = Lock()
        self._batches: OrderedDict[tuple[int, int], list[_Row | None]] = OrderedDict()
        self._cursor: tuple[int, int, Iterator[list[_Row | None]]] | None = None
        with damage_as_unreadable():
            file = self._opened()
            meta, schema = file.metadata, file.schema_arrow
            self._firsts = [0]
            for group in range(meta.num_row_groups):
                self._firsts.append(self._firsts[-1] + meta.row_group(group).num_rows)
            self._choose(schema)
        self._file_of_rows: Any = None

    def _opened(self) -> Any:
        # read by buffers: a row group may be larger than the memory
        return self._parquet.ParquetFile(self.path, buffer_size=2**20, pre_buffer=False)

    def _choose(self, schema: Any) -> None:
        """Which columns hold the items, and which say something of them."""
        from pyarrow import types

        if VECTOR_PLACE in schema.names:
            raise is_an_export(self.path)
        of_bytes, of_paths, others = {}, {}, []
        for column in schema:
            kind, lower = column.type, column.name.lower()
            inner = (
                {kind.field(n).name for n in range(kind.num_fields)}
                if types.is_struct(kind)
                else set()
            )
            if types.is_binary(kind) or types.is_large_binary(kind) or "bytes" in inner:
                of_bytes[lower] = column.name
            elif (types.is_string(kind) or types.is_large_string(kind)) and lower in PATH_COLUMNS:
                of_paths[lower] = column.name
            if not (types.is_binary(kind) or types.is_large_binary(kind) or inner):
                others.append((column.name, kind))
        self._media = next((of_bytes[one] for one in MEDIA_COLUMNS if one in of_bytes), None)
        if self._media is None:
            self._media = next((one for one in of_bytes.values() if self._holds_media(one)), None)
        if self._media is None:
            self._media = next((of_paths[one] for one in PATH_COLUMNS if one in of_paths), None)
        self._others = [
            name
            for name, kind in others
            if name != self._media
            and not (
                (types.is_list(kind) or types.is_large_list(kind))
                and not types.is_string(kind.value_type)
            )
            and not types.is_fixed_size_list(kind)
        ]
        if self._media is None and not {name.lower() for name in self._others} & {*TEXT_COLUMNS}:
            columns = ", ".join(f"{column.name} ({column.type})" for column in schema)
            raise UnreadableFile(
                "no column of pictures, sounds, paths or texts is known among its columns: "
                f"{columns[:1000]}; rename one to image or audio (bytes), path, or text"
            )

    def _holds_media(self, column: str) -> bool:
        for batch in self._opened().iter_batches(_ROWS, columns=[column]):
            for value in batch.column(0).to_pylist():
                data = value.get("bytes") if isinstance(value, dict) else value
                if isinstance(data, bytes) and data:
                    return ending_by_content(data) is not None
        return False

    def members(self) -> Iterator[Member]:
        number = 0
        columns = self._others if self._media is None else [self._media]
        with damage_as_unreadable():
            batches = self._opened().iter_batches(_ROWS, columns=columns)
        while True:
            try:
                with damage_as_unreadable():
                    batch = next(batches, None)
                    rows = [] if batch is None else _plain(batch)
            except UnreadableFile as error:
                self.problem = f"{error} after {number} rows, which are indexed"
                return
            if batch is None:
                return
            for row in rows:
                yield self._member(number, row)
                number += 1

    def count(self, endings: Collection[str]) -> int:
        del endings  # rows have none, or only in what they hold
        return self._firsts[-1]

    def _member(self, number: int, row: Mapping[str, Any] | None) -> Member:
        if row is None:
            return Member(str(number), 0, problem="damaged")
        try:
            ending, data = self._content(row)
            size = os.stat(data).st_size if isinstance(data, str) else len(data)
        except UnreadableFile as error:
            return Member(str(number), 0, problem=str(error))
        except (OSError, ValueError) as error:
            why = (isinstance(error, OSError) and error.strerror) or "not a path"
            return Member(str(number), 0, problem=why.lower(), retry=True)
        return Member(f"{number}{ending}", size)

    def _content(self, row: Mapping[str, Any]) -> tuple[str, bytes | str]:
        """The ending of what a row holds, and its bytes, or the path of them."""
        if self._media is None:
            return "", text_of(row)
        found = row[self._media]
        if isinstance(found, dict):
            value, path = found.get("bytes"), found.get("path")
        else:
            value, path = found, found
        known = ending_of(path) if isinstance(path, str) and kind_of(path) else ""
        if isinstance(value, bytes) and value:
            ending = known or ending_by_content(value)
            if not ending:
                raise UnreadableFile("neither a picture nor a sound or video that is known")
            return ending, value
        if not isinstance(path, str) or not path:
            raise UnreadableFile("the row is empty")
        if not known:
            raise UnreadableFile(f"{storable(path)!r} is not a kind of file that can be indexed")
        return known, self._place(path)

    def _place(self, path: str) -> str:
        """Where a path in the file leads; not out of its folder, as it may come from anybody."""
        if "\0" in path:
            raise UnreadableFile("not a path")
        top = os.path.dirname(os.path.abspath(self.path))
        place = os.path.join(top, storable(path))
        real, real_top = os.path.realpath(place), os.path.realpath(top)
        if not real.startswith(real_top.rstrip(os.sep) + os.sep):
            raise UnreadableFile(
                f"{path!r} lies outside of the folder of the parquet file: move that to a folder "
                "above all of its files"
            )
        return real

    # ------------------------------------------------------------------ single rows

    def _row(self, name: str) -> dict[str, Any]:
        digits, dot, _ = name.partition(".")
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else -1
        if not 0 <= number < self._firsts[-1] or str(number) != digits:
            raise no_member(name)
        group = bisect_right(self._firsts, number) - 1
        at = number - self._firsts[group]
        with self._lock, damage_as_unreadable():
            row = self._batch(group, at // _ROWS)[at % _ROWS]
        if row is None:
            raise UnreadableFile("damaged")
        if bool(dot) != (self._media is not None):
            raise no_member(name)
        return row

    def _bytes(self) -> int:
        rows = (row for batch in self._batches.values() for row in batch if row is not None)
        return sum(map(_size_of, rows)) if self._media is not None else 0

    def _named(self, name: str) -> bytes | str:
        """The bytes of a row, or the path of them; raises unless its ending is right, too."""
        ending, data = self._content(self._row(name))
        if name != name.partition(".")[0] + ending:
            raise no_member(name)
        return data

    def _batch(self, group: int, wanted: int) -> list[_Row | None]:
        """Some rows of a row group; read forward from the last ones if they come after those."""
        key = group, wanted
        if key in self._batches:
            self._batches.move_to_end(key)
            return self._batches[key]
        if self._cursor is None or self._cursor[0] != group or self._cursor[1] > wanted:
            if self._file_of_rows is None:
                self._file_of_rows = self._opened()
                if identity(os.stat(self.path)) != identity(self.status):
                    self._file_of_rows = None
                    raise changed()
            columns = [*self._others, *([self._media] if self._media is not None else [])]
            read = self._file_of_rows.iter_batches(_ROWS, row_groups=[group], columns=columns)
            self._cursor = group, 0, _in_rows(read)
        _, at, batches = self._cursor
        while True:
            self._cursor = group, at + 1, batches
            if (batch := next(batches, None)) is None:
                self._cursor = None
                raise UnreadableFile("damaged")
            if wanted - at < _BATCHES // 2:  # rows are asked for nearly in order
                self._batches[group, at] = batch
                while len(self._batches) > 2 and (
                    len(self._batches) > _BATCHES or self._bytes() > _MOST_BYTES
                ):
                    self._batches.popitem(last=False)
            if at == wanted:
                return self._batches[key]
            at += 1

    def size(self, name: str) -> int:
        data = self._named(name)
        return os.stat(data).st_size if isinstance(data, str) else len(data)

    def open(self, name: str, file: BinaryIO | None = None) -> BinaryIO:
        if file is not None:
            self._file(file).close()
        data = self._named(name)
        if isinstance(data, bytes):
            return io.BytesIO(data)
        if not stat.S_ISREG(os.stat(data).st_mode):
            raise UnreadableFile("not a regular file")
        return Path(data).open("rb")

    def details(self, name: str) -> Details:
        row = {key: value for key, value in self._row(name).items() if key != self._media}
        return details_of(row, captions=self._media is not None)

    def close(self) -> None:
        with self._lock:
            self._cursor, self._file_of_rows = None, None
            self._batches.clear()


_Row = dict[str, Any]


def _size_of(row: _Row) -> int:
    """Bytes of the pictures or sounds in a row."""
    values = (one.get("bytes") if isinstance(one, dict) else one for one in row.values())
    return sum(len(one) for one in values if isinstance(one, bytes))


def _plain(batch: Any) -> list[_Row | None]:
    """The rows of a batch; None is one that is damaged."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):  # a text that is not UTF-8, say
        if len(batch) == 1:
            return [None]
        return [row for at in range(len(batch)) for row in _plain(batch.slice(at, 1))]


def _in_rows(batches: Iterator[Any]) -> Iterator[list[_Row | None]]:
    """The rows of batches, which may be short, by _ROWS."""
    rows: list[_Row | None] = []
    for batch in batches:
        rows += _plain(batch)
        while len(rows) >= _ROWS:
            yield rows[:_ROWS]
            del rows[:_ROWS]
    if rows:
        yield rows
