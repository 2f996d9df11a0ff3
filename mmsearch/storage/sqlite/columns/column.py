"""A column: the values of all items under one key, built from the catalog and kept in a file."""

from __future__ import annotations

import struct
import time
import uuid
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

ENDING = ".zip"

MOST_BYTES = 64 * 2**20
"""Of texts, each as long as the longest of them; longer ones make no column."""

MOST_RANGES = 8
"""Up to so many ranges, comparing codes is faster than looking each one up: for a million of one
byte it takes 0.1 ms a range, against 3 ms."""


class Unfit(Exception):
    """Columns cannot answer this: SQL must."""


@dataclass(frozen=True)
class Column:
    """The values of n items, in order of id.

    Attributes:
        codes: (n,) unsigned: 0 where an item has no value, else the number of its value from 1 on.
        values: (k,) distinct, ascending: float64, int64, or bytes in UTF-8.
        logged: The number of the last alteration that the column knows of.
    """

    codes: NDArray[Any]
    values: NDArray[Any]
    logged: int

    @property
    def has_value(self) -> Mask:
        """Whether each item (n,) has a value."""
        found: Mask = self.codes != 0
        return found

    @cached_property
    def texts(self) -> list[str]:
        """The values (k,), if they are texts."""
        return [value.decode("utf-8", "surrogateescape") for value in self.values.tolist()]

    def below(self, value: Any) -> int:
        """How many of the values are less than one."""
        # Python compares integers with floats exactly, NumPy does not
        return bisect_left(self.values, _encoded(value), key=lambda one: one.item())

    def upto(self, value: Any) -> int:
        """How many of the values are less than one, or equal."""
        return bisect_right(self.values, _encoded(value), key=lambda one: one.item())

    def within(self, ranges: Sequence[tuple[int, int]]) -> Mask:
        """Whether each item's value (n,) is in one of some half-open ranges of values."""
        import numpy as np

        chosen = np.zeros(len(self.values), np.bool_)
        for start, end in ranges:
            chosen[start:end] = True
        return self.among(chosen)

    def among(self, chosen: Mask) -> Mask:
        """Whether each item's value (n,) is one of the chosen values (k,)."""
        import numpy as np

        edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)).reshape(-1, 2)
        found: Mask
        if len(edges) > MOST_RANGES:
            found = np.concatenate([[False], chosen])[self.codes]
            return found
        found = np.zeros(len(self.codes), np.bool_)
        for start, end in edges.tolist():
            found |= (self.codes > start) & (self.codes <= end)
        return found


def _encoded(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


# ---------------------------------------------------------------------- building


def build_column(
    pages: Iterable[list[tuple[int, Any]]], low: int, count: int, logged: int
) -> Column:
    """The column of pages of (item id, value), in any order.

    Args:
        pages: Their values are all bytes, all integers or all floats.
        low: The id of the first item.
        count: How many items the column has.
        logged: The number of the last alteration that the pages know of.

    Raises:
        Unfit: the values are too long, or not all of a kind.
    """
    import numpy as np

    rows: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    values: list[NDArray[Any]] = []
    for page in pages:
        rows.append(np.fromiter(map(itemgetter(0), page), np.int64, len(page)) - low)
        values.append(_as_array([value for _, value in page]))
        longest = max(part.itemsize for part in values)
        too_long = longest > 8 and longest * sum(map(len, rows)) > MOST_BYTES
        if too_long or values[-1].dtype.char != values[0].dtype.char:
            raise Unfit
    distinct, numbers = np.unique(np.concatenate(values or rows), return_inverse=True)
    kinds = (
        kind for kind in (np.uint8, np.uint16, np.uint32) if len(distinct) < np.iinfo(kind).max
    )
    codes = np.zeros(count, next(kinds))
    codes[np.concatenate(rows)] = numbers + 1
    return Column(codes, distinct, logged)


def _as_array(values: list[Any]) -> NDArray[Any]:
    import numpy as np

    try:
        if isinstance(values[0], bytes):
            if any(value.endswith(b"\0") for value in values):  # NumPy would drop it
                raise Unfit
            return np.array(values)
        # unlike NumPy, an array takes no text for a number and no 1.5 for an integer
        code = "q" if isinstance(values[0], int) else "d"
        return np.frombuffer(array(code, values), code)
    except (TypeError, AttributeError, OverflowError) as error:
        raise Unfit from error


# ---------------------------------------------------------------------- files


def path_of(folder: Path, catalog_id: str, generation: str, name: str) -> Path:
    """Where a column is kept; users' keys do not become file names."""
    what = f"{__version__} {name}".encode()  # another version may declare the key otherwise
    short = blake2b(what, digest_size=8).hexdigest()
    return folder / f"columns-{catalog_id}-{generation}-{short}{ENDING}"


_NAMES = ("codes", "values", "logged")


def read_column(path: Path) -> Column | None:
    """The column in a file, if the file is there and undamaged."""
    import zipfile

    import numpy as np

    try:
        # not by np.load: it compares no checksums, and parses headers by `ast`, which other threads
        # may not do at the same time (Python 3.11, https://github.com/python/cpython/issues/106905)
        with zipfile.ZipFile(path) as file:
            codes, values, logged = (
                np.frombuffer(file.read(name), name.partition(" ")[2]) for name in file.namelist()
            )
        return Column(codes, values, int(logged[0]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError):
        return None
    except (zipfile.BadZipFile, zlib.error, struct.error):
        return None


def write_column(path: Path, column: Column) -> None:
    """Keep a column, whole or not at all; delete the columns of other generations.

    A full or read-only disk costs later filters time, nothing else.
    """
    import zipfile

    import numpy as np

    part = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}.part")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            with zipfile.ZipFile(part, "w") as file:
                logged = np.array([column.logged])
                for name, data in zip(_NAMES, (column.codes, column.values, logged), strict=True):
                    file.writestr(f"{name} {data.dtype.str}", data.tobytes())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        _delete_old(path)


def _delete_old(path: Path) -> None:
    own = path.name.rpartition("-")[0]
    for old in path.parent.glob("columns-*"):
        if old.suffix == ".part":  # a new one is being written by another process
            due = time.time() - old.stat().st_mtime > 3600
        else:
            due = not old.name.startswith(own) or old.suffix != ENDING
        if due:
            old.unlink(missing_ok=True)
