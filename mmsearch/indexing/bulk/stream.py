"""Vectors and what is known of them, in step, a part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidOption
from mmsearch.indexing.bulk.matrix import ROWS_AT_ONCE, length_of, pieces
from mmsearch.indexing.bulk.meaning import (
    CAPTIONS,
    PATHS,
    PLACE,
    Columns,
    columns_of,
    named,
    path_text,
    plain,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.generic]


@dataclass(slots=True)
class Chunk:
    """Some rows.

    Attributes:
        first: The number of the first row.
        count: How many rows.
        columns: What is known of each.
        vectors: (n, dim) of each, or of those alone that `place` gives one; not yet checked.
        text_vectors: (n, dim) of their texts, if these have vectors.
    """

    first: int
    count: int
    columns: Columns
    vectors: Numbers | None
    text_vectors: Numbers | None = None


class Feed:
    """What is known of rows, taken in whatever portions are asked for.

    Args:
        metadata: Rows as mappings, columns as a mapping, a table of pyarrow's or a data frame.
        what: What it is called in an error.
    """

    def __init__(self, metadata: Any, what: str = "metadata") -> None:
        self._batches: Iterator[tuple[int, Columns]] = iter(())
        if metadata is not None:
            self._batches = _batches(metadata)
        self._none = metadata is None
        self._held: Columns = {}
        self._count = 0
        self._taken = 0
        self._what = what

    @classmethod
    def of_batches(cls, batches: Iterator[Columns], what: str) -> Feed:
        """Columns that come a part at a time."""
        feed = cls((), what)
        feed._batches = ((_length(columns), columns) for columns in batches)
        return feed

    def take(self, rows: int) -> Columns:
        """The next rows.

        Raises:
            InvalidOption: there are not so many.
        """
        if self._none:
            return {}
        while self._count < rows and (more := next(self._batches, None)) is not None:
            self._add(*more)
        if self._count < rows:
            raise InvalidOption(
                f"{self._what}: {self._taken + self._count} rows where there are more vectors, "
                f"{self._taken + rows} at least: give one row a vector, in the same order"
            )
        taken = {name: values[:rows] for name, values in self._held.items()}
        self._held = {name: values[rows:] for name, values in self._held.items()}
        self._count -= rows
        self._taken += rows
        return taken

    def _add(self, count: int, more: Columns) -> None:
        for name in self._held.keys() - more.keys():
            self._held[name] += [None] * count
        for name, values in more.items():
            self._held[name] = self._held.get(name, [None] * self._count) + values
        self._count += count

    def finish(self) -> None:
        """Raise InvalidOption if rows are left."""
        if self._count or next(self._batches, None) is not None:
            raise InvalidOption(
                f"{self._what}: more rows than vectors, of which there are {self._taken}: give one "
                "row a vector, in the same order. Those are stored"
            )


def _length(columns: Mapping[str, Any]) -> int:
    return len(next(iter(columns.values()), ()))


def _batches(metadata: Any) -> Iterator[tuple[int, Columns]]:
    """How many rows, and their columns: rows that say nothing count too."""
    if isinstance(metadata, Mapping):
        columns = {str(name): values for name, values in metadata.items()}
        yield from _slices(columns, lambda values, part: values[part])
    elif hasattr(metadata, "column_names"):  # pyarrow's
        columns = {name: metadata.column(name) for name in metadata.column_names}
        yield from _slices(columns, lambda values, part: values[part])
    elif hasattr(metadata, "iloc"):  # pandas'
        columns = {str(name): metadata[name] for name in metadata.columns}
        yield from _slices(columns, lambda values, part: values.iloc[part])
    else:
        waiting = iter(metadata)
        while some := list(islice(waiting, ROWS_AT_ONCE)):
            _check_rows(some)
            yield len(some), {name: plain(values) for name, values in columns_of(some).items()}


def _check_rows(rows: list[Any]) -> None:
    wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise InvalidOption(
            f"metadata has a mapping a row, {{'path': 'a.jpg', 'stars': 5}} say, not {wrong!r:.80}"
        )


def _slices(columns: Mapping[str, Any], cut: Any) -> Iterator[tuple[int, Columns]]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidOption(f"the columns of the metadata are not of one length: {lengths}")
    rows = _length(columns)
    for start in range(0, rows, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        some = {name: plain(cut(values, part)) for name, values in columns.items()}
        yield min(ROWS_AT_ONCE, rows - start), some


class Matrix:
    """Rows of vectors, taken in whatever portions are asked for."""

    def __init__(self, vectors: Any) -> None:
        self._pieces = pieces(vectors)
        self._held: list[Any] = []

    def take(self, rows: int) -> Any:
        """The next rows; fewer if there are no more."""
        import numpy as np

        while sum(map(len, self._held)) < rows and (more := next(self._pieces, None)) is not None:
            self._held.append(more)
        whole = self._held[0] if len(self._held) == 1 else np.concatenate(self._held or [[]])
        self._held = [whole[rows:]] if len(whole) > rows else []
        return whole[:rows]


def in_step(vectors: Any, metadata: Any, text_vectors: Any = None) -> Iterator[Chunk]:
    """Chunks of vectors and what is known of them.

    Raises:
        InvalidOption: there are not as many of the one as of the other.
    """
    feed = Feed(metadata)
    texts = None if text_vectors is None else Matrix(text_vectors)
    first = 0
    for piece in pieces(vectors):
        said = None if texts is None else texts.take(len(piece))
        if said is not None and len(said) < len(piece):
            raise InvalidOption(
                f"{first + len(said)} vectors of texts where there are more of the rows they "
                f"belong to, {first + len(piece)} at least"
            )
        yield Chunk(first, len(piece), feed.take(len(piece)), piece, said)
        first += len(piece)
    feed.finish()


def whole_items(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The same, cut so that no item whose vectors follow one another is parted."""
    held: Chunk | None = None
    for chunk in chunks:
        if PLACE not in chunk.columns:
            yield chunk
            continue
        joined = chunk if held is None else _joined(held, chunk)
        cut = _last_item(joined)
        held = joined if cut == 0 else _part(joined, cut, joined.count)
        if cut:
            yield _part(joined, 0, cut)
    if held is not None:
        yield held


def _last_item(chunk: Chunk) -> int:
    """The row where the last item of a chunk begins."""
    paths = paths_in(chunk.columns, chunk.count)
    row = chunk.count - 1
    while row > 0 and paths[row - 1] == paths[-1]:
        row -= 1
    return row


def paths_in(columns: Columns, count: int) -> list[str]:
    """The path or address of each row; "" where there is none."""
    key = named(columns, PATHS)
    given = [None] * count if key is None else columns[key]
    plain_texts = set(map(type, given)) == {str}
    found = list(given) if plain_texts else [path_text(value) for value in given]
    for row, raw in enumerate(columns.get("path_bytes", ())):
        if raw is not None:
            found[row] = path_text(raw)
    return found


def _has_vector(columns: Columns) -> list[bool]:
    return [place is not None for place in columns[PLACE]]


def _part(chunk: Chunk, start: int, stop: int) -> Chunk:
    has = _has_vector(chunk.columns)
    before, within = sum(has[:start]), sum(has[start:stop])
    return Chunk(
        chunk.first + start,
        stop - start,
        {name: values[start:stop] for name, values in chunk.columns.items()},
        None if chunk.vectors is None else chunk.vectors[before : before + within],
    )


def _joined(one: Chunk, other: Chunk) -> Chunk:
    import numpy as np

    names = dict.fromkeys([*one.columns, *other.columns])
    columns = {
        name: one.columns.get(name, [None] * one.count)
        + other.columns.get(name, [None] * other.count)
        for name in names
    }
    there = [chunk.vectors for chunk in (one, other) if chunk.vectors is not None]
    vectors = np.concatenate(there) if there else None
    return Chunk(one.first, one.count + other.count, columns, vectors)


def check_lengths(vectors: Any, others: Mapping[str, Any]) -> None:
    """Raise InvalidOption if something is told to be of another length than the vectors."""
    rows = length_of(vectors)
    for what, given in others.items():
        count = _rows_of(given)
        if None not in (rows, count) and rows != count:
            raise InvalidOption(f"there are {rows} vectors, and {count} rows of {what}")


def _rows_of(given: Any) -> int | None:
    if isinstance(given, Mapping):
        return len(next(iter(given.values()), []))
    if hasattr(given, "num_rows"):
        return int(given.num_rows)
    known = hasattr(given, "shape") or isinstance(given, (list, tuple))
    return len(given) if known and not _are_arrays(given) else None


def _are_arrays(given: Any) -> bool:
    """Whether it is arrays one after the other, not rows."""
    return isinstance(given, (list, tuple)) and bool(given) and hasattr(given[0], "shape")


def captioned(chunks: Iterable[Chunk], captions: Sequence[Any]) -> Iterator[Chunk]:
    """The same rows with captions, in the place of those they have."""
    for chunk in chunks:
        if (key := named(chunk.columns, CAPTIONS)) is not None:
            del chunk.columns[key]
        chunk.columns[CAPTIONS[0]] = list(captions[chunk.first : chunk.first + chunk.count])
        yield chunk
