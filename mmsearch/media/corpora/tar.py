"""Tar shards, in the layout of webdataset."""

from __future__ import annotations

import io
import json
import os
import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmsearch.errors import UnreadableFile
from mmsearch.media.corpora.corpus import Corpus, Details, Member, no_member
from mmsearch.media.corpora.rows import details_of
from mmsearch.media.kinds import ending_of, kind_of

_CAPTIONED = ("image", "audio", "video")
_LONGEST_HEADER = 2**20
"""Bytes; an archive with a longer header is damaged."""
_MOST_METADATA = 2**20
"""Bytes of the metadata of a member."""


class _Part(io.RawIOBase):
    """A stretch of a file as a file; closes that with itself."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(22, "negative position")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        self._file.seek(self._start + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Headers:
    """The file of an archive, of which only headers are read: never more than fits in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError("too long a header")
        return self._file.read(size)


class Tar(Corpus):
    """A tar shard: where the members are that may be items, or belong to one.

    Arrays, since a shard may have a million members, and an object of each would take a gigabyte.
    """

    def __init__(self, path: str, status: os.stat_result) -> None:
        super().__init__(path, status)
        self._blob = bytearray()
        self._ends, self._offsets, self._sizes = array("Q"), array("Q"), array("Q")
        self._problems: dict[int, str] = {}
        with Path(path).open("rb") as file:
            self._read(file)
        self._hashes, self._order, self._unique = self._sorted()

    def __len__(self) -> int:
        return len(self._ends)

    def _read(self, file: BinaryIO) -> None:
        at = -1
        try:
            headers: Any = _Headers(file)
            with tarfile.open(
                fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as archive:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined] # else it keeps all
                    _check(info, at, archive.offset)
                    at = archive.offset
                    self._add(info)
                end = archive.offset
            _check_end(file, end)
        except MemoryError:
            raise
        except Exception as error:  # damaged headers raise nearly anything
            if isinstance(error, OSError) and error.errno:
                raise
            damage = "truncated" if "unexpected end" in str(error) else "damaged"
            if not self._ends and at < 0:
                empty = self.status.st_size == 0
                raise UnreadableFile("empty" if empty else "not a tar archive") from error
            self.problem = f"{damage} after {len(self._ends)} members, which are indexed"

    def _add(self, info: tarfile.TarInfo) -> None:
        steps = [step for step in info.name.split("/") if step not in ("", ".")]
        name, problem = "/".join(steps), ""
        if not name or info.isdir() or not _is_of_use(name):
            return
        if ".." in steps:
            problem = "its name leads out of the archive"
        elif "\0" in name:
            name, problem = name.replace("\0", "\N{REPLACEMENT CHARACTER}"), "its name is damaged"
        elif info.islnk() or info.issym():
            problem = "a link, which is not followed: archive the file itself (tar -h)"
        elif not info.isreg():
            problem = "a device or pipe, not a file"
        elif info.issparse():
            problem = "a sparse file: archive it without --sparse"
        elif info.offset_data + info.size > self.status.st_size:
            problem = "truncated: the archive ends in it"
        if problem:
            self._problems[len(self._ends)] = problem
        self._blob += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._blob))
        self._offsets.append(info.offset_data)
        self._sizes.append(0 if problem else info.size)

    def _sorted(self) -> tuple[array[int], array[int], bool]:
        """The hashes of the names, ascending; whose they are; whether all differ."""
        import numpy as np

        hashes = np.fromiter(map(hash, self._names()), np.int64, len(self))
        order = np.argsort(hashes, kind="stable").astype(np.int64)
        hashes = hashes[order]
        # arrays, as bisect takes a tenth of the time that NumPy takes for one number
        found = array("q", hashes.tobytes()), array("q", order.tobytes())
        return (*found, not bool((hashes[1:] == hashes[:-1]).any()))

    def _names(self) -> Iterator[bytes]:
        start = 0
        for end in self._ends:
            yield bytes(self._blob[start:end])
            start = end

    def _name(self, number: int) -> bytes:
        return bytes(self._blob[self._ends[number - 1] if number else 0 : self._ends[number]])

    def _find(self, name: str) -> int | None:
        """The number of the last member of a name, as tar would unpack it."""
        wanted = name.encode("utf-8", "surrogateescape")
        hashed = hash(wanted)
        for place in range(bisect_right(self._hashes, hashed) - 1, -1, -1):
            if self._hashes[place] != hashed:
                break
            if self._name(number := self._order[place]) == wanted:
                return number
        return None

    def _beside(self, name: str, ending: str) -> tuple[str, int] | None:
        """The name and number of the member of another ending that belongs to one."""
        stem = name[: len(name) - len(ending_of(name))]
        folder, slash, last = name.rpartition("/")
        key = folder + slash + last.partition(".")[0]  # what webdataset goes by
        for one in dict.fromkeys((stem, key)):
            if (found := self._find(one + ending)) is not None and found not in self._problems:
                return one + ending, found
        return None

    def members(self) -> Iterator[Member]:
        sidecars = bytearray(len(self))
        captioned = any(name.endswith(b".txt") for name in self._names())
        for name in map(_text_of, self._names()) if captioned else ():
            if kind_of(name) in _CAPTIONED and (text := self._beside(name, ".txt")):
                sidecars[text[1]] = 1
        for number, name in enumerate(map(_text_of, self._names())):
            kind = kind_of(name)
            if kind is None or sidecars[number]:
                continue
            if not self._unique and self._find(name) != number:
                continue
            if number in self._problems:
                yield Member(name, 0, problem=self._problems[number])
                continue
            text = self._beside(name, ".txt") if captioned and kind in _CAPTIONED else None
            beside = (text[0], self._sizes[text[1]]) if text else ()
            yield Member(name, self._sizes[number], *beside)

    def count(self, endings: Collection[str]) -> int:
        return sum(ending_of(member.name) in endings for member in self.members())

    def size(self, name: str) -> int:
        return self._sizes[self._readable(name)]

    def _readable(self, name: str) -> int:
        number = self._find(name)
        if number is None:
            raise no_member(name)
        if number in self._problems:
            raise UnreadableFile(self._problems[number])
        return number

    def open(self, name: str, file: BinaryIO | None = None) -> BinaryIO:
        number = self._readable(name)
        part = _Part(self._file(file), self._offsets[number], self._sizes[number])
        return io.BufferedReader(part, 2**16)

    def details(self, name: str) -> Details:
        if (beside := self._beside(name, ".json")) is None:
            return Details()
        found, number = beside
        if self._sizes[number] > _MOST_METADATA:
            size = self._sizes[number]
            return Details(problem=(found, f"too large: metadata of {size} bytes (limit 1 MiB)"))
        with self.open(found) as file:
            try:
                row = json.loads(file.read())
            except (ValueError, RecursionError):
                return Details(problem=(found, "not JSON"))
        return details_of(row) if isinstance(row, dict) else Details()


def _check(info: tarfile.TarInfo, before: int, after: int) -> None:
    """Refuse a member after which the archive would be read in circles."""
    if info.size < 0 or after <= before:
        raise tarfile.ReadError("damaged")


def _check_end(file: BinaryIO, end: int) -> None:
    """Refuse an archive that ends in a damaged header."""
    file.seek(end)
    if any(file.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError("damaged")


def _text_of(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _is_of_use(name: str) -> bool:
    return kind_of(name) is not None or ending_of(name) == ".json"
