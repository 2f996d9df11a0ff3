"""One key of all items: a code an item, and what the codes stand for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_RUNS = 4
"""Stretches of codes up to which comparing is faster than looking each code up."""


class Unfit(Exception):
    """Columns cannot tell this: the catalog is to be asked."""


class Column:
    """What items hold under one key.

    Of n items in order of id, or of a few values, the arrays are:

    codes    (n,) unsigned; 0: holds nothing; c: holds value c - 1
    numbers  (values,) int64 or float64; rising, but for metadata, whose texts do; NaN: no number
    blob     (bytes,) uint8, the texts one behind the other, sorted as bytes
    ends     (values,) int64, where each text ends in it
    rows     in the place of codes where an item holds several values: their items, value by value
    counts   (values,) int64, how many of these rows each value has

    Args:
        arrays: By name.
        filed: The last alteration that it knows of.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], filed: int) -> None:
        self.arrays = arrays
        self.filed = filed

    @property
    def numbers(self) -> NDArray[Any]:
        """What the codes stand for, if that is numbers."""
        return self.arrays["numbers"]

    @property
    def values(self) -> int:
        """How many different ones there are."""
        return len(self.arrays["ends" if "ends" in self.arrays else "numbers"])

    @cached_property
    def texts(self) -> list[str]:
        """All texts that the codes stand for; names of files with surrogate escapes."""
        return [self._text(number).decode("utf-8", "surrogateescape") for number in self._numbers]

    @property
    def _numbers(self) -> range:
        return range(self.values)

    def _text(self, number: int) -> bytes:
        ends = self.arrays["ends"]
        start = int(ends[number - 1]) if number else 0
        return self.arrays["blob"][start : int(ends[number])].tobytes()

    def below(self, text: str) -> int:
        """How many of the values are texts that are sorted before one."""
        wanted = text.encode("utf-8", "surrogateescape")
        return bisect_left(self._numbers, wanted, key=self._text)

    def upto(self, text: str) -> int:
        """How many are, or are that text."""
        wanted = text.encode("utf-8", "surrogateescape") + b"\0"  # the next text after it
        return bisect_left(self._numbers, wanted, key=self._text)

    def where(self, holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of each item whether it holds a value that is wanted.

        Args:
            holds: (values,) which are wanted.
        """
        if "rows" in self.arrays:
            return self._where_of_rows(holds)
        import numpy as np

        codes = self.arrays["codes"]
        edges = np.flatnonzero(np.diff(holds, prepend=False, append=False))
        if len(edges) > 2 * MOST_RUNS:
            looked_up: NDArray[np.bool_] = np.concatenate([[False], holds])[codes]
            return looked_up
        found = np.zeros(len(codes), np.bool_)
        for start, end in edges.reshape(-1, 2).tolist():
            within = codes <= end
            if start:
                within &= codes > start
            else:
                within &= codes != 0
            found |= within
        return found

    def _where_of_rows(self, holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
        import numpy as np

        ends = np.cumsum(self.arrays["counts"])
        found = np.zeros(int(self.arrays["items"][0]), np.bool_)
        for number in np.flatnonzero(holds).tolist():
            found[self.arrays["rows"][ends[number - 1] if number else 0 : ends[number]]] = True
        return found


@dataclass(frozen=True, slots=True)
class Held:
    """What there is to tell by.

    Attributes:
        column: Gives the column of a key, or raises Unfit.
        sources: The folders that were indexed, by id.
    """

    column: Callable[[str], Column]
    sources: Mapping[int, str]


def packed(texts: list[bytes]) -> dict[str, NDArray[Any]]:
    """Texts as a column has them."""
    import numpy as np

    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return {"blob": np.frombuffer(b"".join(texts), np.uint8), "ends": np.cumsum(lengths)}


def smallest(codes: NDArray[Any], values: int) -> NDArray[Any]:
    """Codes in as few bytes as they fit in."""
    import numpy as np

    for kind in (np.uint8, np.uint16, np.uint32):
        if values < np.iinfo(kind).max:
            return codes.astype(kind)
    return codes
