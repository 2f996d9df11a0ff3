"""Vectors and what is known of each, in step and a part at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidOption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.generic]

Row = Mapping[str, Any]
"""What is known of a row, by key."""

ROWS_AT_ONCE = 20_000
"""Rows that are read, checked and written together."""

UNIT = 6e-4
"""How far from 1 a length may be that is taken for 1: rows that float16 has rounded stay as they
are, so that what was exported comes back to the bit."""

PATHS = (
    "path",
    "image_path",
    "file_path",
    "filepath",
    "file",
    "filename",
    "file_name",
    "image_name",
    "image",
    "url",
    "key",
    "id",
)
"""The keys that may name the item of a row, in any case: the first of these there is."""

CAPTIONS = ("caption", "captions", "text", "description", "sentence", "comment")
"""The keys that the captions of a row may have, in any case; the first of these there is."""

PLACE = "vector_place"
"""The key, in our own exports, of the place of a row's vector in its item: facet, position, span.
None if the item has no vector."""

PATH_BYTES, TEXTS, TAGS, META = "path_bytes", "texts", "tags", "metadata"
"""Other keys of our own exports: names that are not UTF-8, texts with spans, tags with scores,
metadata by key."""


@dataclass(slots=True)
class Chunk:
    """Some rows.

    Attributes:
        first: The number of the first row.
        rows: What is known of each.
        vectors: (n, dim) of each row, or of those with a `PLACE`; not checked yet.
        text_vectors: (n, dim) of their texts, if these have vectors.
        placed: Whether the rows have places in their items.
    """

    first: int
    rows: Sequence[Row]
    vectors: Numbers | None
    text_vectors: Numbers | None = None
    placed: bool = False


# ---------------------------------------------------------------------- in step


def array_chunks(
    vectors: Any,
    metadata: Any = None,
    captions: Sequence[Any] | None = None,
    text_vectors: Any = None,
) -> Iterator[Chunk]:
    """Arrays of vectors with what is known of each row, in chunks.

    Args:
        vectors: (n, dim) numbers, or arrays of them one after the other.
        metadata: Of each row, or None; see `Collection.add_vectors`.
        captions: Of each row, or None.
        text_vectors: (n, dim) of the captions, or None.

    Raises:
        InvalidOption: they are known not to have the same number of rows.
    """
    others = {"metadata": metadata, "captions": captions, "text": text_vectors}
    for what, given in others.items():
        counts = length_of(vectors), _rows_of(given)
        if None not in counts and counts[0] != counts[1]:
            raise InvalidOption(f"there are {counts[0]} vectors, and {counts[1]} rows of {what}")
    rows = None if metadata is None else rows_in(metadata)
    if captions is not None:
        rows = with_captions(rows, captions)
    return chunks_of(vectors, rows, text_vectors)


def chunks_of(
    vectors: Any, rows: Iterable[Row] | None, text_vectors: Any = None, what: str = "metadata"
) -> Iterator[Chunk]:
    """Chunks of vectors and what is known of them; no item whose rows follow one another is parted.

    Args:
        vectors: (n, dim), or arrays of them one after the other.
        rows: A row a vector, or rows that have a `PLACE`; None: nothing is known.
        text_vectors: Like `vectors`, of the texts of the rows.
        what: What the rows are called in an error.

    Raises:
        InvalidOption: there are not as many of the one as of the other.
    """
    waiting = iter(rows or ())
    head = list(islice(waiting, ROWS_AT_ONCE))
    waiting = chain(head, waiting)
    if any(PLACE in row for row in head):
        yield from _placed_chunks(vectors, waiting)
        return
    texts = None if text_vectors is None else _Portions(text_vectors)
    first = 0
    for piece in pieces(vectors):
        count = len(piece)
        some: list[Row] = [{}] * count if rows is None else list(islice(waiting, count))
        if len(some) < count:
            raise InvalidOption(
                f"{what}: {first + len(some)} rows where there are more vectors, {first + count} "
                "at least: give one row a vector, in the same order"
            )
        beside = None if texts is None else texts.take(count)
        if beside is not None and len(beside) < count:
            raise InvalidOption(
                f"{first + len(beside)} vectors of texts where there are more of the rows they "
                f"belong to, {first + count} at least"
            )
        yield Chunk(first, some, piece, beside)
        first += count
    if next(waiting, None) is not None:
        raise InvalidOption(
            f"{what}: more rows than vectors, of which there are {first}: give one row a vector, "
            "in the same order. Those are stored"
        )


def _placed_chunks(vectors: Any, rows: Iterable[Row]) -> Iterator[Chunk]:
    portions = _Portions(vectors)
    first = 0
    some: list[Row] = []
    for row in chain(rows, [None]):
        full = len(some) >= ROWS_AT_ONCE
        if row is None or (full and _path_in(row) != _path_in(some[-1])):
            there = sum(one.get(PLACE) is not None for one in some)
            yield Chunk(first, some, portions.take(there) if there else None, placed=True)
            first += len(some)
            some = []
        if row is not None:
            some.append(row)


class _Portions:
    """Arrays one after the other, taken in portions of any size."""

    def __init__(self, vectors: Any) -> None:
        self._pieces = pieces(vectors)
        self._held: list[Any] = []

    def take(self, rows: int) -> Any:
        """The next rows; fewer if there are no more."""
        import numpy as np

        while sum(map(len, self._held)) < rows and (more := next(self._pieces, None)) is not None:
            self._held.append(more)
        whole = self._held[0] if len(self._held) == 1 else np.concatenate(self._held or [[]])
        self._held = [whole[rows:]]
        return whole[:rows]


def pieces(vectors: Any) -> Iterator[Any]:
    """An array (n, dim), or arrays one after the other, in parts of at most ROWS_AT_ONCE rows."""
    for array in [vectors] if hasattr(vectors, "shape") else vectors:
        shape = getattr(array, "shape", None)
        if shape is None or len(shape) != 2 or array.dtype.kind not in "fiu":
            what = type(array).__name__ if shape is None else f"{array.dtype} of shape {shape}"
            raise InvalidOption(f"vectors are numbers in an array (rows, dimensions), not {what}")
        for start in range(0, len(array), ROWS_AT_ONCE):
            yield array[start : start + ROWS_AT_ONCE]


def unit_rows(rows: Any, dim: int, first: int = 0) -> NDArray[np.float16]:
    """Rows (n, dim) float16 of unit length, as they are stored.

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
    # in float64 no square is too large or too small
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide, dtype=np.float64))
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        row = int(np.argmax(bad))
        what = "is all zeros" if not wide[row].any() else "holds NaN or infinity"
        others = int(bad.sum()) - 1
        more = f", like {others} more of the {len(wide)} rows read with it" if others else ""
        raise InvalidOption(
            f"row {first + row} of the vectors {what}{more}: it has no direction; leave it out"
        )
    off = np.abs(lengths - 1) > UNIT
    if not off.any() and rows.dtype == np.dtype("<f2"):
        return np.asarray(rows)
    if off.any():
        wide = np.array(wide, copy=True)
        wide[off] /= lengths[off, None]
    found: NDArray[np.float16] = wide.astype("<f2")
    return found


# ---------------------------------------------------------------------- what is known of rows


def rows_in(metadata: Any) -> Iterator[Row]:
    """The rows of what `add_vectors` was given as metadata.

    Raises:
        InvalidOption: the columns are not of one length, or a row is not a mapping.
    """
    if isinstance(metadata, Mapping):
        lengths = {name: len(values) for name, values in metadata.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidOption(f"the columns of the metadata are not of one length: {lengths}")
        for start in range(0, max(lengths.values(), default=0), ROWS_AT_ONCE):
            parts = [_plain(v[start : start + ROWS_AT_ONCE]) for v in metadata.values()]
            for values in zip(*parts, strict=True):
                yield dict(zip(metadata, values, strict=True))
    elif hasattr(metadata, "to_pylist"):  # pyarrow's
        for start in range(0, metadata.num_rows, ROWS_AT_ONCE):
            yield from metadata.slice(start, ROWS_AT_ONCE).to_pylist()
    elif hasattr(metadata, "iloc"):  # pandas'
        for start in range(0, len(metadata), ROWS_AT_ONCE):
            yield from metadata.iloc[start : start + ROWS_AT_ONCE].to_dict("records")
    else:
        for row in metadata:
            if not isinstance(row, Mapping):
                raise InvalidOption(
                    "metadata has a mapping a row, like {'path': 'a.jpg', 'stars': 5}, not "
                    f"{row!r:.80}"
                )
            yield row


def _plain(values: Any) -> Sequence[Any]:
    """A column of any kind as plain values."""
    for name in ("to_pylist", "tolist"):  # of pyarrow; of NumPy and pandas
        if hasattr(values, name):
            found: list[Any] = getattr(values, name)()
            return found
    return list(values)


def with_captions(rows: Iterable[Row] | None, captions: Iterable[Any]) -> Iterator[Row]:
    """Rows with captions in place of those they have."""
    for row, caption in zip(repeat({}) if rows is None else rows, captions, strict=False):
        own = named(row, CAPTIONS)
        yield {CAPTIONS[0]: caption, **{key: value for key, value in row.items() if key != own}}


def length_of(vectors: Any) -> int | None:
    """How many rows there are, if that is known without reading them."""
    return len(vectors) if hasattr(vectors, "__len__") and hasattr(vectors, "shape") else None


def _rows_of(given: Any) -> int | None:
    if isinstance(given, Mapping):
        return len(next(iter(given.values()), []))
    if hasattr(given, "num_rows"):
        return int(given.num_rows)
    if isinstance(given, (list, tuple)):
        arrays = bool(given) and hasattr(given[0], "shape")  # one after the other
        return None if arrays else len(given)
    return length_of(given)


def named(keys: Iterable[str], names: Iterable[str]) -> str | None:
    """The key that is one of some names, in any case; the earliest of these."""
    lowered = {str(key).lower(): key for key in reversed(list(keys))}
    return next((lowered[name] for name in names if name in lowered), None)


def path_of(row: Row, key: str | None) -> str:
    """The path or address of a row, which is under a key; "" if there is none."""
    value = row.get(PATH_BYTES)
    if value is None and key is not None:
        value = row.get(key)
    if isinstance(value, str):
        return value
    if value is None or value != value:  # noqa: PLR0124 - NaN alone
        return ""
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


def _path_in(row: Row) -> str:
    return path_of(row, named(row, PATHS))
