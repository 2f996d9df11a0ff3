"""Vectors and what is known of each, read in step, some rows at a time."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidMetadata, InvalidOption
from mmsearch.filters.values import shown
from mmsearch.home import is_possible
from mmsearch.media.tables import VECTOR_PLACE

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

PATH_BYTES, TEXTS, TAGS = "path_bytes", "texts", "tags"
META, FACTS = "metadata", "facts"
"""Other keys of our own exports: names that are not UTF-8, texts with spans, tags with scores; the
user's metadata by key, and the files' own."""


Columns = dict[str, list[Any]]
"""By key, the value of each row; None where there is none."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of some rows, column by column."""

    count: int
    columns: Columns

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> Rows:
        columns = {name: values[part] for name, values in self.columns.items()}
        return Rows(len(range(*part.indices(self.count))), columns)

    @staticmethod
    def joined(parts: Iterable[Rows]) -> Rows:
        """The rows of all parts; what a part has no column for is None in its rows."""
        count, columns = 0, Columns()
        for part in parts:
            for name in dict.fromkeys(chain(columns, part.columns)):
                before = columns.get(name, [None] * count)
                columns[name] = before + part.columns.get(name, [None] * part.count)
            count += part.count
        return Rows(count, columns)

    def paths(self) -> list[str]:
        """The path or URL of each row; "" if it has none."""
        nothing = [None] * self.count
        written = self.columns.get(named(self.columns, PATHS) or "", nothing)
        in_bytes = self.columns.get(PATH_BYTES, nothing)
        pairs = zip(written, in_bytes, strict=True)
        paths = [one if raw is None else raw for one, raw in pairs]
        if {str}.issuperset(map(type, paths)) and is_possible("".join(paths)):
            return paths
        return list(map(_path, paths))


@dataclass(slots=True)
class Chunk:
    """Some rows with their vectors.

    Attributes:
        first: The number of the first row.
        rows: What is known of each.
        vectors: (n, dim) of each row, or of those with a `VECTOR_PLACE`; not checked yet.
        text_vectors: (n, dim) of their texts, if these have vectors.
        placed: Whether the rows have places in their items.
    """

    first: int
    rows: Rows
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
    """What `Collection.add_vectors` is given, in chunks.

    Raises:
        InvalidOption: they are known not to have the same number of rows, or are not of this form.
        InvalidMetadata: a column of the metadata has no rows.
    """
    if captions is not None and not _is_list(captions):
        raise InvalidOption(f"captions are a list, with one entry a row, not {shown(captions)}")
    if isinstance(metadata, Mapping):
        metadata = {name: _column(name, values) for name, values in metadata.items()}
    others = {"metadata": metadata, "captions": captions, "text": text_vectors}
    for what, given in others.items():
        counts = length_of(vectors), _rows_of(given)
        if None not in counts and counts[0] != counts[1]:
            raise InvalidOption(f"there are {counts[0]} vectors, and {counts[1]} rows of {what}")
    rows: Iterable[Rows] | None = None
    if metadata is not None:
        rows = rows_in(metadata)
        rows = rows if captions is None else _with_captions(rows, captions)
    elif captions is not None:
        rows = in_batches({CAPTIONS[0]: caption} for caption in captions)
    return chunks_of(vectors, rows, text_vectors)


def chunks_of(
    vectors: Any, rows: Iterable[Rows] | None, text_vectors: Any = None, what: str = "metadata"
) -> Iterator[Chunk]:
    """Chunks of vectors and what is known of them; no item whose rows follow one another is parted.

    Args:
        vectors: (n, dim), or arrays of them one after the other.
        rows: A row a vector, or rows that have a `VECTOR_PLACE`; None: nothing is known.
        text_vectors: Like `vectors`, of the texts of the rows.
        what: What the rows are called in an error.

    Raises:
        InvalidOption: there are not as many of the one as of the other.
    """
    waiting = iter(rows or ())
    head = next(waiting, Rows(0, {}))
    waiting = chain([head], waiting)
    if VECTOR_PLACE in head.columns:
        yield from _placed_chunks(vectors, waiting)
        return
    known = _Portions(waiting, Rows.joined)
    texts = None if text_vectors is None else _Portions(pieces(text_vectors), _concatenated)
    first = 0
    for piece in pieces(vectors):
        count = len(piece)
        some = Rows(count, {}) if rows is None else known.take(count)
        if len(some) < count:
            raise InvalidOption(
                f"{what}: {first + len(some)} rows where there are more vectors, {first + count} "
                "at least: give one row a vector, in the same order"
            )
        of_texts = None if texts is None else texts.take(count)
        if of_texts is not None and len(of_texts) < count:
            raise InvalidOption(
                f"{first + len(of_texts)} vectors of texts where there are more of the rows they "
                f"belong to, {first + count} at least"
            )
        yield Chunk(first, some, piece, of_texts)
        first += count
    if len(known.take(1)):
        raise InvalidOption(
            f"{what}: more rows than vectors, of which there are {first}: give one row a vector, "
            "in the same order. Those are stored"
        )


def _placed_chunks(vectors: Any, batches: Iterable[Rows]) -> Iterator[Chunk]:
    portions = _Portions(pieces(vectors), _concatenated)
    first = 0
    rest = Rows(0, {})  # of the last item, which may go on in the next batch
    for batch in chain(batches, [None]):
        rows = rest if batch is None else Rows.joined([rest, batch])
        end = len(rows)
        paths = rows.paths() if batch is not None else []
        while end and paths and paths[end - 1] == paths[-1]:
            end -= 1
        rows, rest = rows[:end], rows[end:]
        if end:
            placed = sum(place is not None for place in rows.columns.get(VECTOR_PLACE, ()))
            chunk = Chunk(first, rows, portions.take(placed) if placed else None, placed=True)
            yield from _without_repeats(chunk)
            first += end


def _without_repeats(chunk: Chunk) -> Iterator[Chunk]:
    """The rows of a chunk; those that repeat an earlier place follow in chunks of their own.

    So the last one counts, as if each repetition came from another file.
    """
    places = chunk.rows.columns.get(VECTOR_PLACE, [])
    vectors = 0 if chunk.vectors is None else len(chunk.vectors)
    if not all(place is None or isinstance(place, Mapping) for place in places):
        yield chunk  # storing them reports what is malformed
        return
    try:
        keys: list[Any] = [
            path if place is None else (path, place["facet"], place["position"])
            for path, place in zip(chunk.rows.paths(), places, strict=True)
        ]
        repeated = len(set(keys)) < len(keys)
    except (KeyError, TypeError):  # also malformed
        repeated = False
    if not repeated or vectors != len(places) - places.count(None):
        yield chunk
        return
    rounds: dict[int, list[int]] = {}
    times: Counter[Any] = Counter()
    for row, key in enumerate(keys):
        rounds.setdefault(times[key], []).append(row)
        times[key] += 1
    numbers = list(accumulate((place is not None for place in places), initial=0))
    for rows in rounds.values():
        columns = {key: [values[row] for row in rows] for key, values in chunk.rows.columns.items()}
        own = [numbers[row] for row in rows if places[row] is not None]
        some = chunk.vectors[own] if own and chunk.vectors is not None else None
        yield Chunk(chunk.first, Rows(len(rows), columns), some, placed=True)


class _Portions:
    """Arrays or rows that come in pieces, taken in portions of any size.

    `join` makes one of several pieces, or of none.
    """

    def __init__(self, parts: Iterator[Any], join: Callable[[list[Any]], Any]) -> None:
        self._parts = parts
        self._join = join
        self._read: list[Any] = []

    def take(self, count: int) -> Any:
        """The next rows; fewer if there are no more."""
        while sum(map(len, self._read)) < count and (more := next(self._parts, None)) is not None:
            self._read.append(more)
        whole = self._read[0] if len(self._read) == 1 else self._join(self._read)
        self._read = [whole[count:]]
        return whole[:count]


def _concatenated(arrays: list[Any]) -> Any:
    import numpy as np

    return np.concatenate(arrays or [[]])


def pieces(vectors: Any) -> Iterator[Any]:
    """An array (n, dim), or arrays one after the other, in parts of at most ROWS_AT_ONCE rows."""
    alone = hasattr(vectors, "shape") or not isinstance(vectors, Iterable)
    for array in [vectors] if alone else vectors:
        shape = getattr(array, "shape", None) if hasattr(array, "dtype") else None
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

    if not dim:
        raise InvalidOption(f"row {first} of the vectors has 0 dimensions")
    if rows.shape[1] != dim:
        raise InvalidOption(
            f"row {first} of the vectors has {rows.shape[1]} dimensions where {dim} are due"
        )
    with np.errstate(over="ignore"):
        wide = np.asarray(rows, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide), dtype=np.float64)
    extreme = ~((lengths > 1e-15) & (lengths < 1e15))  # float32 cannot hold their squares, or them
    if extreme.any():
        exact = rows[extreme].astype(np.float64)
        with np.errstate(invalid="ignore"):
            exact /= np.abs(exact).max(axis=1, keepdims=True)
        wide = np.array(wide, copy=True)
        wide[extreme] = exact
        lengths[extreme] = np.linalg.norm(exact, axis=1)
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        row = int(np.argmax(bad))
        what = "is all zeros" if not rows[row].any() else "holds NaN or infinity"
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


def rows_in(metadata: Any) -> Iterator[Rows]:
    """The rows of what `add_vectors` was given as metadata, in batches.

    Raises:
        InvalidOption: the columns are not of one length, or a row is not a mapping.
    """
    columns: Mapping[Any, Any]
    if isinstance(metadata, Mapping):
        columns = metadata
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidOption(f"the columns of the metadata are not of one length: {lengths}")
    elif hasattr(metadata, "num_rows"):  # pyarrow's
        columns = dict(zip(metadata.schema.names, metadata.columns, strict=True))
    elif hasattr(metadata, "iloc"):  # pandas'
        columns = {name: series.iloc for name, series in metadata.items()}
    else:
        yield from in_batches(metadata)
        return
    count = _rows_of(metadata) or 0
    for start in range(0, count, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, count)
        yield Rows(stop - start, _plain({key: v[start:stop] for key, v in columns.items()}))


def in_batches(rows: Any) -> Iterator[Rows]:
    """Mappings, one a row, in batches.

    Raises:
        InvalidOption: a row is not a mapping.
    """
    if not _is_list(rows):
        raise InvalidOption(f"metadata are mappings, columns or a table, not {shown(rows)}")
    waiting = iter(rows)
    while some := list(islice(waiting, ROWS_AT_ONCE)):
        for row in some:
            if not isinstance(row, Mapping):
                raise InvalidOption(
                    "metadata has a mapping a row, like {'path': 'a.jpg', 'stars': 5}, not "
                    f"{shown(row)}"
                )
        keys = dict.fromkeys(chain.from_iterable(some))
        yield Rows(len(some), _plain({key: [row.get(key) for row in some] for key in keys}))


def _plain(columns: Mapping[Any, Any]) -> Columns:
    """Columns of any kind as lists of plain values, in which NaN is None."""
    found = {}
    for key, values in columns.items():
        try:
            whole = _in_microseconds(values)
            to_list = getattr(whole, "to_pylist", None) or getattr(whole, "tolist", None)
            listed = values if to_list is None else to_list()  # of pyarrow; of NumPy and pandas
        except (ValueError, OverflowError):  # pyarrow has times that Python cannot represent
            listed = _times(key, values)
        if _SIMPLE.issuperset(types := set(map(type, listed))):
            nan = float in types and any(one != one for one in listed)  # noqa: PLR0124
            found[as_text(key)] = list(map(_plain_value, listed)) if nan else list(listed)
        else:
            found[as_text(key)] = list(map(_plain_value, listed))
    return found


def _in_microseconds(values: Any) -> Any:
    """A pyarrow column of times in microseconds, as Python has them; other columns as they are.

    Of nanoseconds, pyarrow makes values of pandas where that is installed.

    Raises:
        ValueError: they would be rounded.
    """
    type_: Any = getattr(values, "type", None)
    if getattr(type_, "unit", None) != "ns":
        return values
    import pyarrow as pa

    if pa.types.is_timestamp(type_):
        return values.cast(pa.timestamp("us", type_.tz))
    return values.cast(pa.duration("us") if pa.types.is_duration(type_) else pa.time64("us"))


def _times(key: Any, values: Any) -> list[Any]:
    """A pyarrow column of times finer than a microsecond, or of years that Python does not have.

    They are rounded down to microseconds or, if that is not enough, written as text.
    """
    import pyarrow as pa

    whole = pa.timestamp("us", getattr(values.type, "tz", None))
    for type_ in (whole, pa.string()) if pa.types.is_timestamp(values.type) else (pa.string(),):
        with suppress(ValueError, OverflowError, NotImplementedError):
            found: list[Any] = values.cast(type_, safe=False).to_pylist()
            return found
    raise InvalidMetadata(f"column {key!r} has times that cannot be stored: write them as text")


_SIMPLE = frozenset({str, int, float, bool, type(None)})


def _plain_value(value: Any) -> Any:
    """A value of any type; of an array its list, of NaN and the like None."""
    if isinstance(value, memoryview):
        return bytes(value)
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        return value.tolist()
    try:
        missing = bool(value != value)  # noqa: PLR0124
    except Exception:  # whatever a type of the user's own raises
        missing = type(value).__name__ == "NAType"  # of pandas, neither true nor false
    return None if missing else value


def _is_list(value: Any) -> bool:
    """Whether it has values in an order."""
    single = (str, bytes, bytearray, memoryview, Mapping, AbstractSet)
    several = isinstance(value, Iterable) and getattr(value, "shape", None) != ()
    return several and not isinstance(value, single)


def _column(name: Any, values: Any) -> Any:
    """A column that can be sliced.

    Raises:
        InvalidMetadata: it is one value, or its values have no order.
    """
    if not _is_list(values):
        raise InvalidMetadata(f"column {name!r} of the metadata is not a list: {shown(values)}")
    if hasattr(values, "iloc"):  # of pandas
        return values.iloc
    return values if hasattr(values, "shape") or hasattr(values, "to_pylist") else list(values)


def _with_captions(batches: Iterable[Rows], captions: Iterable[Any]) -> Iterator[Rows]:
    """Rows with captions in place of those they have."""
    texts = iter(captions)
    for rows in batches:
        given = list(islice(texts, len(rows)))
        own = named(rows.columns, CAPTIONS)
        others = {key: v for key, v in rows[: len(given)].columns.items() if key != own}
        yield Rows(len(given), _plain({CAPTIONS[0]: given}) | others)


def length_of(vectors: Any) -> int | None:
    """How many rows there are, if that is known without reading them."""
    return len(vectors) if hasattr(vectors, "__len__") and getattr(vectors, "shape", None) else None


def _rows_of(given: Any) -> int | None:
    if isinstance(given, Mapping):
        column = next(iter(given.values()), ())
        return len(column) if hasattr(column, "__len__") else None
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


def _path(value: Any) -> str:
    if value is None:
        return ""
    path = os.fsdecode(value) if isinstance(value, (str, bytes)) else as_text(value)
    if not is_possible(path):
        raise InvalidMetadata(f"{path!r} is no path: it holds a NUL or half a character")
    return path


def as_text(value: Any) -> str:
    """A value as text, as a metadata file's are stored.

    Raises:
        InvalidMetadata: it cannot be written as text.
    """
    try:
        return _as_text(value)
    except Exception as error:  # too deep, too long, or of a type of the user's own
        kind = type(value).__name__
        raise InvalidMetadata(f"a {kind} in the metadata cannot be stored: {error}") from error


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(_as_text(one) for one in value if one is not None)
    if isinstance(value, Mapping):
        return json.dumps(dict(value), ensure_ascii=False, default=str)
    return value.isoformat() if isinstance(value, (datetime, date)) else str(value)
