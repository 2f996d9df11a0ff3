"""Which items fulfil a condition, by columns: the same ones as by `conditions` in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mmsearch.filters import KEYS, META, Circle, Condition, MetadataValue
from mmsearch.filters.match import (
    EARTH,
    EXACT,
    bounding_box,
    folded,
    kilometres,
    matcher,
    time_ranges,
)
from mmsearch.storage.sqlite.columns.column import Column, Unfit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

MOST_TEXTS = 50_000
"""Distinct texts that are compared one by one, in 20 ms; more are left to SQL."""

_SURE = 0.01
"""Kilometres by which distances by NumPy and by Python never differ: the haversine formula loses at
most 0.0004 km, on the far side of the Earth."""


Columns = Callable[..., Column]
"""Gives the column of a key; with `numbers`, of the user's own metadata that read as numbers."""


def fulfilling(one: Condition, columns: Columns) -> Mask:
    """Whether each item fulfils a condition.

    Raises:
        Unfit: SQL must answer this.
    """
    if one.key.startswith(META):
        return _of_metadata(one, columns)
    if one.key == "date":
        return _of_date(one, columns)
    if one.key == "near":
        return _of_near(one.value, columns)
    key = KEYS[one.key]
    several = isinstance(key.field, str) and "." in key.field
    if key.field is None or several or key.type.compared_as == "path":
        raise Unfit
    column = columns(one.key)
    if key.type.encode is not None:
        return _of_time(one, column, key.type.encode)
    return _of_value(one, column)


# ---------------------------------------------------------------------- one column


def _of_value(one: Condition, column: Column) -> Mask:
    if one.op == "exists":
        return column.has_value
    if one.op == "in":
        return _equal_to_any(one.value, column)
    if one.op in ("contains", "glob"):
        return _of_pattern(one, column)
    return _ordered(one.op, one.value, column)


def _equal_to_any(values: Iterable[Any], column: Column) -> Mask:
    return column.within([(column.below(value), column.upto(value)) for value in values])


def _ordered(op: str, value: Any, column: Column) -> Mask:
    below, upto, end = column.below(value), column.upto(value), len(column.values)
    ranges = {"gt": (upto, end), "gte": (below, end), "lt": (0, below), "lte": (0, upto)}
    return column.within([ranges[op]])


def _of_pattern(one: Condition, column: Column) -> Mask:
    import numpy as np

    if len(column.values) > MOST_TEXTS:
        raise Unfit
    holds: Callable[[str], object]
    if one.op == "glob":
        holds = matcher(one.value)
    else:
        part = folded(one.value)
        holds = lambda text: part in folded(text)  # noqa: E731
    chosen = (bool(holds(text)) for text in column.texts)
    return column.among(np.fromiter(chosen, np.bool_, len(column.values)))


def _of_time(one: Condition, column: Column, encode: Callable[..., Any]) -> Mask:
    ranges = [
        (
            0 if start is None else column.below(start),
            len(column.values) if end is None else column.below(end),
        )
        for start, end in time_ranges(one, encode)
    ]
    return column.within(ranges)


# ---------------------------------------------------------------------- several columns


def _of_metadata(one: Condition, columns: Columns) -> Mask:
    if one.op == "in":
        return _equal_to_any_metadata(one.key, one.value, columns)
    if not isinstance(one.value, MetadataValue):
        return _of_value(one, columns(one.key))
    if one.value.number is not None:
        return _ordered(one.op, one.value.number, columns(one.key, numbers=True))
    return _ordered(one.op, one.value.texts[0], columns(one.key))


def _equal_to_any_metadata(key: str, values: Iterable[MetadataValue], columns: Columns) -> Mask:
    """Written so, or the same number; integers that no float tells apart must be written so."""
    numbers: list[float] = []
    texts: list[str] = []
    for value in values:
        if value.number is not None and abs(value.number) < EXACT:
            numbers.append(value.number)
        else:
            texts += value.texts
    found = [_equal_to_any(numbers, columns(key, numbers=True))] if numbers else []
    if texts:
        found.append(_equal_to_any(texts, columns(key)))
    return found[0] | found[-1]


def _of_date(one: Condition, columns: Columns) -> Mask:
    import numpy as np

    masks = []
    for key in (KEYS["taken"], KEYS["modified"]):
        assert key.type.encode is not None
        masks.append(_of_time(one, columns(key.name), key.type.encode))
    return np.where(columns("taken").has_value, *masks)


def _of_near(circle: Circle, columns: Columns) -> Mask:
    """By NumPy's distances; within rounding of the radius, by those that SQL compares."""
    import numpy as np

    latitude_range, longitude_ranges = bounding_box(circle)
    latitudes, longitudes = columns("latitude"), columns("longitude")
    found = _between(latitudes, [latitude_range]) & _between(longitudes, longitude_ranges)
    inside = np.flatnonzero(found)
    points = [column.values[column.codes[inside] - 1] for column in (latitudes, longitudes)]
    distances = _kilometres(points[0], points[1], circle)
    found[inside] = distances <= circle.kilometres
    for number in np.flatnonzero(np.abs(distances - circle.kilometres) < _SURE).tolist():
        point = float(points[0][number]), float(points[1][number])
        found[inside[number]] = kilometres(*point, circle) <= circle.kilometres
    return found


def _between(column: Column, bounds: Iterable[tuple[float, float]]) -> Mask:
    return column.within([(column.below(low), column.upto(high)) for low, high in bounds])


def _kilometres(
    latitudes: NDArray[np.float64], longitudes: NDArray[np.float64], circle: Circle
) -> NDArray[np.float64]:
    """As `mmsearch.filters.match` has it."""
    import numpy as np

    here, there = np.radians(latitudes), np.radians(circle.latitude)
    half = np.sin((there - here) / 2) ** 2
    across = np.radians(circle.longitude - longitudes)
    half += np.cos(here) * np.cos(there) * np.sin(across / 2) ** 2
    found: NDArray[np.float64] = 2 * EARTH * np.arcsin(np.sqrt(np.minimum(1.0, half)))
    return found
