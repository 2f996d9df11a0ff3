"""Columns, read from the catalog."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.filters import META
from mmsearch.storage.columns.column import Column, Unfit, packed, smallest
from mmsearch.storage.sqlite.view import Era, View
from mmsearch.types import Origin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRESENT, ORIGINS = "present", "origins"

_TEXTS = {
    "name": "CAST(name AS BLOB)",
    "folder": "CAST(source_id || '/' || folder AS BLOB)",
    "modality": "CAST(modality AS BLOB)",
    "camera": "CAST(camera AS BLOB)",
    "taken": "CAST(taken_at AS BLOB)",
}
_INTEGERS = {name: name for name in ("size", "width", "height", "pages")} | {"modified": "mtime_ns"}
_FLOATS = {name: name for name in ("latitude", "longitude", "seconds")} | {
    "megapixels": "width * height / 1e6"
}
_BITS = {origin: 1 << number for number, origin in enumerate(get_args(Origin))}


def make_column(view: View, era: Era, name: str) -> Column:
    """What the items of an era hold under a key, as a column.

    Args:
        view: What it is read from.
        era: Which items.
        name: The key; or "present", "ending" (of the name), "origins" (of the texts, as bits).

    Raises:
        Unfit: values are not of the kind that they should be.
    """
    made = _Making(view, era)
    try:
        return Column(made.arrays(name), view.filed)
    except (TypeError, OverflowError) as error:
        raise Unfit(name) from error


def bits_of(*origins: str) -> int:
    """Origins as the column of them has them."""
    return sum(_BITS[origin] for origin in origins)


class _Making:
    def __init__(self, view: View, era: Era) -> None:
        self._view = view
        self._era = era
        self._count = era.upto - era.low + 1

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        if name in _TEXTS:
            value = _TEXTS[name]
            return self._texts(
                f"SELECT id, {value} AS value FROM items NOT INDEXED "  # noqa: S608
                f"WHERE value IS NOT NULL AND id <= ? ORDER BY value"
            )
        if name in _INTEGERS:
            return self._numbers(_INTEGERS[name], "q")
        if name in _FLOATS:
            return self._numbers(_FLOATS[name], "d")
        if name.startswith(META):
            return self._metadata(name.removeprefix(META))
        special: dict[str, Callable[[], dict[str, NDArray[Any]]]] = {
            PRESENT: self._present,
            "ending": self._endings,
            ORIGINS: self._origins,
            "tag": self._tags,
        }
        if name not in special:
            raise Unfit(name)
        return special[name]()

    def _pages(self, sql: str, *parameters: Any) -> Iterator[list[tuple[Any, ...]]]:
        return self._view.pages(sql, (*parameters, self._era.upto))

    def _rows(self, page: list[tuple[Any, ...]]) -> NDArray[np.int64]:
        import numpy as np

        return np.fromiter(map(itemgetter(0), page), np.int64, len(page)) - self._era.low

    def _grouped(self, pages: Iterator[list[Any]]) -> tuple[Any, list[Any], list[Any]]:
        """(codes, rows page by page, values) of sorted rows whose values stand behind the id."""
        import numpy as np

        values: list[Any] = []
        rows, codes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
        for page in pages:
            of_group, lengths = [], []
            for value, group in groupby(page, key=itemgetter(*range(1, len(page[0])))):
                if not values or values[-1] != value:
                    values.append(value)
                of_group.append(len(values))
                lengths.append(sum(1 for _ in group))
            codes.append(np.repeat(np.asarray(of_group, np.uint32), lengths))
            rows.append(self._rows(page))
        return np.concatenate(codes), rows, values

    def _coded(self, pages: Iterator[list[Any]]) -> tuple[NDArray[Any], list[Any]]:
        import numpy as np

        codes, rows, values = self._grouped(pages)
        found = np.zeros(self._count, np.uint32)
        found[np.concatenate(rows)] = codes
        return smallest(found, len(values)), values

    def _texts(self, sql: str) -> dict[str, NDArray[Any]]:
        codes, values = self._coded(self._pages(sql))
        return {"codes": codes, **packed(values)}

    def _metadata(self, key: str) -> dict[str, NDArray[Any]]:
        import numpy as np

        # rows in the order of an index lie anywhere in the table: to read and sort all is faster
        codes, values = self._coded(
            self._pages(
                "SELECT item_id, CAST(text AS BLOB), number FROM attributes "
                "WHERE key = ? AND item_id <= ? ORDER BY text, number",
                key,
            )
        )
        numbers = [float("nan") if number is None else number for _, number in values]
        return {
            "codes": codes,
            "numbers": np.frombuffer(array("d", numbers), np.float64),
            **packed([text for text, _ in values]),
        }

    def _numbers(self, value: str, kind: str) -> dict[str, NDArray[Any]]:
        import numpy as np

        dtype = np.dtype(kind)
        rows, numbers = [np.zeros(0, np.int64)], [np.zeros(0, dtype)]
        for page in self._pages(
            f"SELECT id, {value} AS value FROM items NOT INDEXED "  # noqa: S608
            "WHERE value IS NOT NULL AND id <= ?"
        ):
            rows.append(self._rows(page))
            # an array takes no text for a number, and no 1.5 for an integer, as NumPy would
            numbers.append(np.frombuffer(array(kind, map(itemgetter(1), page)), dtype))
        values, places = np.unique(np.concatenate(numbers), return_inverse=True)
        codes = np.zeros(self._count, np.uint32)
        codes[np.concatenate(rows)] = places + 1
        return {"codes": smallest(codes, len(values)), "numbers": values}

    def _present(self) -> dict[str, NDArray[Any]]:
        import numpy as np

        codes = np.zeros(self._count, np.uint8)
        for page in self._pages("SELECT id FROM items WHERE id <= ?"):
            codes[self._rows(page)] = 1
        return {"codes": codes, "numbers": np.ones(1, np.int64)}

    def _endings(self) -> dict[str, NDArray[Any]]:
        import numpy as np

        known: dict[bytes, int] = {}
        codes = np.zeros(self._count, np.uint32)
        for page in self._pages(
            "SELECT id, CAST(name AS BLOB) FROM items NOT INDEXED WHERE id <= ?"
        ):
            parts = (name.rpartition(b".") for _, name in page)
            own = [known.setdefault(end, len(known) + 1) if dot else 0 for _, dot, end in parts]
            codes[self._rows(page)] = own
        order = sorted(known)
        ranks = np.zeros(len(known) + 1, np.uint32)
        ranks[[known[end] for end in order]] = np.arange(1, len(known) + 1)
        return {"codes": smallest(ranks[codes], len(order)), **packed(order)}

    def _origins(self) -> dict[str, NDArray[Any]]:
        import numpy as np

        codes = np.zeros(self._count, np.uint8)
        for page in self._pages("SELECT item_id, origin FROM texts NOT INDEXED WHERE item_id <= ?"):
            bits = np.fromiter((_BITS.get(one, 0) for _, one in page), np.uint8, len(page))
            np.bitwise_or.at(codes, self._rows(page), bits)
        return {"codes": codes, "numbers": np.arange(1, 1 << len(_BITS))}

    def _tags(self) -> dict[str, NDArray[Any]]:
        import numpy as np

        codes, rows, values = self._grouped(
            self._pages(
                "SELECT item_id, CAST(tag AS BLOB) FROM tags WHERE item_id <= ? ORDER BY tag"
            )
        )
        return {
            "rows": np.concatenate(rows).astype(np.uint32),
            "counts": np.bincount(codes, minlength=len(values) + 1)[1:],
            "items": np.array([self._count]),
            **packed(values),
        }
