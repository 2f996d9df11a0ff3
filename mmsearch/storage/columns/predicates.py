"""Which items fulfil a condition, by the columns.

The same as `catalog.conditions` says in SQL; what cannot be told surely or quickly is Unfit.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor
from typing import TYPE_CHECKING

from mmsearch.filters import KEYS, META, Circle, Condition, MetadataValue
from mmsearch.filters.match import EARTH, EXACT, bounding_box, kilometres, time_ranges
from mmsearch.storage.columns.column import Column, Held, Unfit
from mmsearch.storage.columns.making import ORIGINS, bits_of
from mmsearch.storage.columns.paths import of_folder, of_path
from mmsearch.storage.columns.text_predicates import equal_to, texts_that

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Marks = NDArray[np.bool_]

_SURE = 0.01
"""Kilometres by which NumPy's distances and Python's never differ: at most 0.0004 are lost where
the haversine is least exact, on the other side of the Earth."""

_INT64 = -(2**63), 2**63 - 1


def tell(one: Condition, held: Held) -> Marks:
    """Of each item of the columns, whether it fulfils a condition.

    Raises:
        Unfit: the catalog is to be asked.
    """
    if one.key.startswith(META):
        column = held.column(one.key)
        return column.where(_metadata(one, column))
    if one.key in _SPECIAL:
        return _SPECIAL[one.key](one, held)
    column = held.column(one.key)
    if one.key in ("taken", "modified"):
        return column.where(_at_times(one, column))
    if "ends" in column.arrays:
        return column.where(texts_that(one, column))
    return column.where(_numbers(one, column))


# ---------------------------------------------------------------------- one key, by its values


def _numbers(one: Condition, column: Column) -> Marks:
    import numpy as np

    holds = np.zeros(column.values, np.bool_)
    if one.op == "exists":
        return ~holds
    if one.op == "in":
        for number in one.value:
            holds[_below(number, column) : _upto(number, column)] = True
        return holds
    holds[_stretch(one.op, _below(one.value, column), _upto(one.value, column))] = True
    return holds


def _stretch(op: str, below: int, upto: int) -> slice:
    """Of sorted values those that compare so, given how many are below a bound, and up to it."""
    return {
        "gt": slice(upto, None),
        "gte": slice(below, None),
        "lt": slice(0, below),
        "lte": slice(0, upto),
    }[op]


def _below(number: float, column: Column) -> int:
    """How many of the values are below a number, as exactly as SQLite has it."""
    values = column.numbers
    if values.dtype.kind == "f":
        return int(values.searchsorted(number, "left"))
    bound = ceil(number)  # no integer lies between; but a float may be none of 64 bits
    if not _INT64[0] <= bound <= _INT64[1]:
        return 0 if bound < 0 else len(values)
    return int(values.searchsorted(values.dtype.type(bound), "left"))


def _upto(number: float, column: Column) -> int:
    """How many of them are below it, or are it."""
    values = column.numbers
    if values.dtype.kind == "f":
        return int(values.searchsorted(number, "right"))
    bound = floor(number)
    if not _INT64[0] <= bound <= _INT64[1]:
        return 0 if bound < 0 else len(values)
    return int(values.searchsorted(values.dtype.type(bound), "right"))


def _at_times(one: Condition, column: Column) -> Marks:
    import numpy as np

    worded = "ends" in column.arrays  # when it was taken, as text
    encode = KEYS["taken" if worded else "modified"].type.encode
    assert encode is not None
    holds = np.zeros(column.values, np.bool_)
    for bounds in time_ranges(one, encode):
        start, end = (
            at if at is None else column.below(at) if worded else _below(at, column)
            for at in bounds
        )
        holds[start:end] = True
    return holds


def _metadata(one: Condition, column: Column) -> Marks:
    import numpy as np

    if one.op in ("contains", "glob", "exists"):
        return texts_that(one, column)
    if one.op == "in":
        holds = equal_to(tuple(text for said in one.value for text in said.texts), column)
        numbers = [said.number for said in one.value if said.number is not None]
        small = [number for number in numbers if abs(number) < EXACT]
        return holds | np.isin(column.numbers, small) if small else holds
    said: MetadataValue = one.value
    if said.number is not None:
        compare = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}
        found: Marks = compare[one.op](column.numbers, said.number)
        return found
    holds = np.zeros(column.values, np.bool_)
    text = said.texts[0]
    holds[_stretch(one.op, column.below(text), column.upto(text))] = True
    return holds


# ---------------------------------------------------------------------- several keys together


def _of_date(one: Condition, held: Held) -> Marks:
    import numpy as np

    taken, modified = held.column("taken"), held.column("modified")
    return np.where(
        taken.arrays["codes"] != 0,
        taken.where(_at_times(one, taken)),
        modified.where(_at_times(one, modified)),
    )


def _of_has(one: Condition, held: Held) -> Marks:
    found = [_HAS[what](held) for what in one.value if what in _HAS]
    if len(found) < len(one.value):  # vectors of sounds come and go unseen
        raise Unfit
    marks = found[0]
    for other in found[1:]:
        marks |= other
    return marks


def _of_origins(*origins: str) -> Callable[[Held], Marks]:
    def marks(held: Held) -> Marks:
        column = held.column(ORIGINS)
        return column.where(column.numbers & bits_of(*origins) != 0)

    return marks


def _placed(held: Held) -> Marks:
    latitude, longitude = held.column("latitude"), held.column("longitude")
    found: Marks = (latitude.arrays["codes"] != 0) & (longitude.arrays["codes"] != 0)
    return found


_HAS: dict[str, Callable[[Held], Marks]] = {
    "caption": _of_origins("caption", "sidecar"),
    "text": _of_origins("passage", "page", "ocr", "speech"),
    "gps": _placed,
}


def _of_near(one: Condition, held: Held) -> Marks:
    """By distances of NumPy; where these are near to the bound, by those that SQLite is lent."""
    import numpy as np

    near: Circle = one.value
    latitudes, east_west = bounding_box(near)
    columns = held.column("latitude"), held.column("longitude")
    marks = _between(columns[0], [latitudes]) & _between(columns[1], east_west)
    inside = np.flatnonzero(marks)
    points = [column.numbers[column.arrays["codes"][inside] - 1] for column in columns]
    distances = _kilometres(points[0], points[1], near)
    marks[inside] = distances <= near.kilometres
    for number in np.flatnonzero(np.abs(distances - near.kilometres) < _SURE).tolist():
        point = float(points[0][number]), float(points[1][number])
        marks[inside[number]] = kilometres(*point, near) <= near.kilometres
    return marks


def _between(column: Column, bounds: list[tuple[float, float]]) -> Marks:
    import numpy as np

    holds = np.zeros(column.values, np.bool_)
    for low, high in bounds:
        holds[_below(low, column) : _upto(high, column)] = True
    return column.where(holds)


def _kilometres(
    latitudes: NDArray[np.float64], longitudes: NDArray[np.float64], near: Circle
) -> NDArray[np.float64]:
    """As `filters.match` has it."""
    import numpy as np

    here, there = np.radians(latitudes), np.radians(near.latitude)
    half = np.sin((there - here) / 2) ** 2
    across = np.radians(near.longitude - longitudes)
    half += np.cos(here) * np.cos(there) * np.sin(across / 2) ** 2
    found: NDArray[np.float64] = 2 * EARTH * np.arcsin(np.sqrt(np.minimum(1.0, half)))
    return found


_SPECIAL: dict[str, Callable[[Condition, Held], Marks]] = {
    "path": of_path,
    "folder": of_folder,
    "date": _of_date,
    "has": _of_has,
    "near": _of_near,
}
