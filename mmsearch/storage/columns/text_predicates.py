"""Which texts of a column are as wanted; all texts that are equal have one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mmsearch.filters import Condition
from mmsearch.filters.match import folded, matcher, readings
from mmsearch.storage.columns.column import Column, Unfit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Marks = NDArray[np.bool_]

MOST_TEXTS = 50_000
"""Different texts that are looked through one by one, 20 ms; of more SQLite is asked."""


def texts_that(one: Condition, column: Column) -> Marks:
    """Of each text of a column, whether a condition on texts holds."""
    import numpy as np

    if one.op == "exists":
        return np.ones(column.values, np.bool_)
    if one.op == "in":
        return equal_to(one.value, column)
    return those(column, part_test(one.op, one.value, path=one.key == "name"))


def those(column: Column, holds: Callable[[str], object]) -> Marks:
    """Of each text of a column, whether it is as wanted."""
    import numpy as np

    if column.values > MOST_TEXTS:
        raise Unfit
    return np.fromiter((bool(holds(text)) for text in column.texts), np.bool_, column.values)


def part_test(op: str, wanted: str, *, path: bool = False) -> Callable[[str], object]:
    """Whether a text has a part, or matches a pattern."""
    if op == "glob":
        return matcher(*(readings(wanted) if path else (wanted,)))
    part = folded(wanted)
    return lambda text: part in folded(text)


def equal_to(texts: Iterable[str], column: Column) -> Marks:
    """Of each text of a column, whether it is one of some."""
    import numpy as np

    holds = np.zeros(column.values, np.bool_)
    for text in texts:
        holds[column.below(text) : column.upto(text)] = True
    return holds
