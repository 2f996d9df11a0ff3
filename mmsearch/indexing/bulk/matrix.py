"""Vectors as they are given, made into the rows that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidOption, PathNotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Halves = NDArray[np.float16]
    """(n, dim) float16; every row has unit length."""

ROWS_AT_ONCE = 20_000
"""Rows that are read, checked and written together."""

UNIT = 6e-4
"""How far from 1 a length may be that is taken for 1: rows that float16 has rounded stay as they
are, so that what was given out comes back to the bit."""

_MAGIC = b"\x93NUMPY"


def pieces(vectors: Any, rows: int = ROWS_AT_ONCE) -> Iterator[Any]:
    """An array (n, dim), or arrays one after the other, in parts of at most so many rows."""
    arrays: Iterable[Any] = [vectors] if hasattr(vectors, "shape") else vectors
    for array in arrays:
        _check_shape(array)
        for start in range(0, len(array), rows):
            yield array[start : start + rows]


def _check_shape(array: Any) -> None:
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) != 2 or array.dtype.kind not in "fiu":
        what = type(array).__name__ if shape is None else f"{array.dtype} of shape {shape}"
        raise InvalidOption(f"vectors are numbers in an array (rows, dimensions), not {what}")


def unit_rows(rows: Any, dim: int, first: int = 0) -> Halves:
    """Rows (n, dim) of unit length, as they are kept.

    Args:
        rows: Any numbers (n, dim).
        dim: How many a row should have.
        first: The number of the first row, for the error.

    Raises:
        InvalidOption: rows are of another length, or some have no direction.
    """
    import numpy as np

    if rows.shape[1] != dim:
        raise InvalidOption(
            f"row {first} of the vectors has {rows.shape[1]} dimensions where {dim} are due"
        )
    wide = np.asarray(rows, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", wide, wide, dtype=np.float32)
        bad = ~(np.isfinite(squares) & (squares > 0))
        if bad.any():
            wide, squares, bad = _rescaled(wide, squares, bad)
    if bad.any():
        raise InvalidOption(_no_direction(wide, bad, first))
    lengths = np.sqrt(squares)
    off = np.abs(lengths - 1) > UNIT
    if not off.any() and rows.dtype == np.dtype("<f2"):
        return np.asarray(rows)
    if off.any():
        wide = np.array(wide, copy=True)
        wide[off] /= lengths[off, None]
    found: Halves = wide.astype("<f2")
    return found


def _rescaled(wide: Any, squares: Any, bad: Any) -> tuple[Any, Any, Any]:
    """Rows whose squares are too large or too small for float32 are halved or doubled first."""
    import numpy as np

    largest = np.abs(wide[bad]).max(axis=1, initial=0)
    usable = np.isfinite(largest) & (largest > 0)
    chosen = np.flatnonzero(bad)[usable]
    wide = np.array(wide, copy=True)
    wide[chosen] /= largest[usable, None]
    squares[chosen] = np.einsum("ij,ij->i", wide[chosen], wide[chosen])
    bad = bad.copy()
    bad[chosen] = False
    return wide, squares, bad


def _no_direction(wide: Any, bad: Any, first: int) -> str:
    import numpy as np

    row = int(np.argmax(bad))
    what = "is all zeros" if not wide[row].any() else "holds NaN or infinity"
    others = int(bad.sum()) - 1
    more = f", like {others} more of the {len(wide)} rows read with it" if others else ""
    return f"row {first + row} of the vectors {what}{more}: it has no direction; leave it out"


def length_of(vectors: Any) -> int | None:
    """How many rows there are, if that can be told without reading them."""
    return len(vectors) if hasattr(vectors, "__len__") and hasattr(vectors, "shape") else None


def array_in(path: Path) -> NDArray[np.generic]:
    """What a `.npy` file holds, mapped into memory.

    Raises:
        InvalidOption: it cannot be read, or holds no array.
    """
    import numpy as np

    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:  # NumPy would tell how to unpickle it
                raise InvalidOption(f"{str(path)!r} holds no array of NumPy's (.npy)")
        found: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidOption(f"{str(path)!r} cannot be read as an array: {error}") from error
    return found


def read_vector(path: Path) -> Any:
    """The unit vector (1, dim) float32 of a `.npy` file, which may hold it as (dim,).

    Raises:
        PathNotFound: there is no such file.
        InvalidOption: it holds anything else, several say.
    """
    import numpy as np

    if not path.exists():
        raise PathNotFound(f"there is no file {str(path)!r}")
    found = array_in(path)
    rows = found[None] if found.ndim == 1 else found
    _check_shape(rows)
    if len(rows) != 1:
        raise InvalidOption(f"{str(path)!r} holds {len(rows)} vectors: a query is one, (dim,)")
    unit_rows(rows, rows.shape[1])  # that each has a direction
    wide = rows.astype(np.float64)
    wide /= np.abs(wide).max(axis=1, keepdims=True)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
