"""Columns as files: written whole or not at all, memory-mapped, checked when they are opened."""

from __future__ import annotations

import json
import mmap
import time
import uuid
import zlib
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from mmsearch.storage.columns.column import Column
from mmsearch.storage.sqlite.view import Era

ENDING = ".column"

_MAGIC = b"mmsearch column 1 "
_ALIGNED = 64


def place_of(folder: Path, catalog_id: str, era: Era, name: str) -> Path:
    """Where a column is kept; what users call their keys does not go into the names of files."""
    short = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return folder / f"columns-{catalog_id}-{era.name}-{short}{ENDING}"


def read_column(path: Path) -> Column | None:
    """The column of a file, if that is there and whole."""
    import numpy as np

    try:
        with path.open("rb") as file:
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # not there, or empty
        return None
    try:
        if held[: len(_MAGIC)] != _MAGIC:
            return None
        end = held.find(b"\n")
        about = json.loads(held[len(_MAGIC) : end])
        start = _aligned(end + 1)
        with memoryview(held) as whole:
            if len(whole) != start + about["bytes"] or zlib.crc32(whole[start:]) != about["crc"]:
                return None
        with suppress(AttributeError, OSError):  # read to be checked; of texts few are ever needed
            held.madvise(mmap.MADV_DONTNEED)
        arrays = {
            name: np.frombuffer(held, kind, count, start + offset)
            for name, kind, count, offset in about["arrays"]
        }
        return Column(arrays, about["filed"])
    except (ValueError, KeyError, TypeError):  # damaged in its first line
        return None


def write_column(path: Path, column: Column) -> None:
    """Keep a column; what is kept of other eras is of no use any more and goes.

    A disk that is full or read-only costs speed next time, and nothing else.
    """
    about, parts, offset, crc = [], [], 0, 0
    for name, array in column.arrays.items():
        padded = array.tobytes().ljust(_aligned(array.nbytes), b"\0")
        about.append((name, array.dtype.str, array.size, offset))
        parts.append(padded)
        offset, crc = offset + len(padded), zlib.crc32(padded, crc)
    told = {"filed": column.filed, "bytes": offset, "crc": crc, "arrays": about}
    first = _MAGIC + json.dumps(told).encode() + b"\n"
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        _write(path, first.ljust(_aligned(len(first)), b"\0"), parts)
        _clear(path)


def _write(path: Path, first: bytes, arrays: Iterable[bytes]) -> None:
    part = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            for padded in (first, *arrays):
                file.write(padded)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Remove what is out of date beside a file."""
    own = path.name.rpartition("-")[0]
    for old in path.parent.glob("columns-*"):
        # a .part that is new may be another process's, which is just writing it
        if old.suffix == ".part":
            due = time.time() - old.stat().st_mtime > 3600
        else:
            due = not old.name.startswith(own)
        if due:
            old.unlink(missing_ok=True)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
