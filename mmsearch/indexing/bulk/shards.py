"""Files of vectors and what is known of them, as clip-retrieval, img2dataset and we write them."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidMetadata, InvalidOption, PathNotFound
from mmsearch.indexing.bulk.export import (
    FINGERPRINT,
    ITEMS,
    MADE_BY,
    MODEL,
    VECTOR,
    VECTORS,
    require_parquet,
)
from mmsearch.indexing.bulk.matrix import ROWS_AT_ONCE, array_in
from mmsearch.indexing.bulk.meaning import PATHS, PLACE, Columns, columns_of, named, plain
from mmsearch.indexing.bulk.stream import Chunk, Feed, Matrix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"
"""The folders of shards that clip-retrieval writes."""

TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
"""The endings of files that say what is known of vectors."""

VECTOR_NAMES = (VECTOR, "embedding", "vectors", "embeddings", "image_embedding", "img_emb", "emb")
"""What the column of vectors in a parquet file may be called."""

_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)")


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of vectors with what belongs to it.

    Attributes:
        vectors: `.npy`, or `.parquet` that has everything.
        rows: How many.
        metadata: A table, a row a vector.
        texts: `.npy`, a row a vector.
    """

    vectors: Path
    rows: int
    metadata: Path | None = None
    texts: Path | None = None


def shards_in(
    files: Sequence[str], metadata: Sequence[str] = (), texts: Sequence[str] = ()
) -> list[Shard]:
    """Files of vectors, each with those that belong to it.

    Args:
        files: `.npy` or `.parquet` files, or folders of them.
        metadata: Tables, one a file of vectors, if not those beside them.
        texts: `.npy` files, one a file of vectors.

    Raises:
        PathNotFound: there is no such file.
        InvalidOption: a file cannot be used; files do not go together.
    """
    found = [shard for name in files for shard in _of(Path(name))]
    if not found:
        raise InvalidOption("no file of vectors was given: name .npy or .parquet files, or folders")
    tables = _paired([shard.vectors for shard in found], _existing(metadata), "metadata")
    said = _paired([shard.vectors for shard in found], _existing(texts), "vectors of texts")
    shards = [
        Shard(shard.vectors, shard.rows, table or shard.metadata, beside or shard.texts)
        for shard, table, beside in zip(found, tables, said, strict=True)
    ]
    for shard in shards:
        _check_rows(shard)
    return shards


def made_by(shards: Sequence[Shard]) -> tuple[str, str] | None:
    """(model, fingerprint) of what made the vectors, where all files say the same; else None."""
    said = {_said_by(shard) for shard in shards}
    return said.pop() if len(said) == 1 else None


def _said_by(shard: Shard) -> tuple[str, str] | None:
    path = shard.vectors
    try:
        if path.suffix.lower() == ".parquet":
            found = require_parquet().read_schema(path).metadata or {}
            about = {key.decode("utf-8", "replace"): value.decode() for key, value in found.items()}
        elif path.name == VECTORS:
            about = json.loads((path.parent / MADE_BY).read_bytes())
        else:
            return None
        return str(about[MODEL]), str(about[FINGERPRINT])
    except (OSError, ValueError, KeyError, TypeError):  # nobody has said it, or not so
        return None


def chunks_of(shards: Iterable[Shard]) -> Iterator[Chunk]:
    """The rows of shards, one after the other; those without a path have that of their file.

    Raises:
        InvalidOption: a file cannot be used, or has not as many rows as another.
        InvalidMetadata: a table cannot be parsed; the message names the line.
    """
    first = 0
    for shard in shards:
        for chunk in _rows_of(shard):
            if named(chunk.columns, PATHS) is None:
                place = os.path.abspath(shard.vectors)
                start = chunk.first
                rows = range(start, start + chunk.count)
                chunk.columns["path"] = [f"{place}/{row}" for row in rows]
            chunk.first += first
            yield chunk
        first += shard.rows


# ---------------------------------------------------------------------- which files


def _of(path: Path) -> list[Shard]:
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise PathNotFound(f"there is no file {str(path)!r}")
    return [Shard(path, _count(path))]


def _in_folder(folder: Path) -> list[Shard]:
    """Our own export, shards of clip-retrieval's, or the files that lie in a folder."""
    if (folder / VECTORS).exists() and (folder / ITEMS).exists():
        return [Shard(folder / VECTORS, _count(folder / VECTORS), folder / ITEMS)]
    if (folder / IMAGES).is_dir():
        arrays = _numbered(folder / IMAGES, (".npy",))
        tables = _numbered(folder / METADATA, TABLES)
        said = _numbered(folder / TEXTS, (".npy",))
    else:
        arrays = _numbered(folder, (".npy",))
        tables, said = _numbered(folder, TABLES) if arrays else [], []
        arrays = arrays or _numbered(folder, (".parquet",))
    if not arrays:
        raise InvalidOption(f"{str(folder)!r} holds no vectors: no .npy and no .parquet file")
    beside = _paired(arrays, tables, "metadata")
    text_arrays = _paired(arrays, said, "vectors of texts")
    return [
        Shard(array, _count(array), table, text)
        for array, table, text in zip(arrays, beside, text_arrays, strict=True)
    ]


def _numbered(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of some endings in a folder, in order of the last number in their names."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.suffix.lower() in endings]
    return sorted(files, key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    found = _LAST_NUMBER.search(path.stem)
    return int(found[1]) if found else -1


def _existing(names: Sequence[str]) -> list[Path]:
    paths = [Path(name) for name in names]
    for path in paths:
        if not path.exists():
            raise PathNotFound(f"there is no file {str(path)!r}")
    folders = [_numbered(path, (*TABLES, ".npy")) if path.is_dir() else [path] for path in paths]
    return list(chain.from_iterable(folders))


def _paired(arrays: Sequence[Path], others: Sequence[Path], what: str) -> Sequence[Path | None]:
    """Of each array the file that belongs to it: that of its number, else that of its place."""
    if not others:
        return [None] * len(arrays)
    if len(others) != len(arrays):
        raise InvalidOption(
            f"{len(arrays)} files of vectors, and {len(others)} of {what}: give one each "
            f"({arrays[0]} …, {others[0]} …)"
        )
    by_number = {_number(path): path for path in others}
    numbers = {_number(path) for path in arrays}
    if len(numbers) == len(arrays) and numbers == by_number.keys() and len(arrays) > 1:
        return [by_number[_number(path)] for path in arrays]
    return others


def _check_rows(shard: Shard) -> None:
    """Raise InvalidOption if two files are known to be of different lengths."""
    for other in (shard.metadata, shard.texts):
        rows = None if other is None else _told(other)
        if rows is not None and rows != shard.rows:
            raise InvalidOption(
                f"{shard.vectors} has {shard.rows} rows, and {other} {rows}: they do not belong "
                "together"
            )


def _told(path: Path) -> int | None:
    """How many rows a file says it has."""
    return _count(path) if path.suffix.lower() in (".npy", ".parquet") else None


def _count(path: Path) -> int:
    ending = path.suffix.lower()
    if ending == ".npy":
        return len(_array(path))
    if ending == ".parquet":
        return int(_opened(path).metadata.num_rows)
    raise InvalidOption(f"{str(path)!r} is no file of vectors: these end in .npy or .parquet")


# ---------------------------------------------------------------------- what is in them


def _rows_of(shard: Shard) -> Iterator[Chunk]:
    if shard.vectors.suffix.lower() == ".parquet":
        yield from _parquet_rows(shard)
        return
    matrix = Matrix(_array(shard.vectors))
    texts = None if shard.texts is None else Matrix(_array(shard.texts))
    batches = iter(()) if shard.metadata is None else _table(shard.metadata)
    head = next(batches, {})
    batches = chain([head], batches) if head else batches
    if PLACE in head:
        yield from _apart(matrix, batches)
        return
    feed = Feed(None)
    if shard.metadata is not None:
        feed = Feed.of_batches(batches, f"{shard.metadata}, to {shard.vectors}")
    for first in range(0, shard.rows, ROWS_AT_ONCE):
        number = min(ROWS_AT_ONCE, shard.rows - first)
        said = None if texts is None else texts.take(number)
        yield Chunk(first, number, feed.take(number), matrix.take(number), said)
    feed.finish()


def _apart(matrix: Matrix, batches: Iterable[Columns]) -> Iterator[Chunk]:
    """Rows that say themselves whether they have a vector."""
    first = 0
    for columns in batches:
        places = columns[PLACE]
        yield Chunk(
            first, len(places), columns, matrix.take(sum(one is not None for one in places))
        )
        first += len(places)


def _array(path: Path) -> NDArray[np.generic]:
    found = array_in(path)
    if found.ndim != 2:
        raise InvalidOption(f"{str(path)!r} holds an array of shape {found.shape}, not of rows")
    return found


def _opened(path: Path) -> Any:
    parquet = require_parquet()
    from pyarrow import ArrowException

    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise InvalidOption(f"{str(path)!r} cannot be read as parquet: {error}") from error


def _parquet_rows(shard: Shard) -> Iterator[Chunk]:
    """Rows of a file that has the vectors in one of its columns."""
    file = _opened(shard.vectors)
    column = _vector_column(file.schema_arrow, shard.vectors)
    first = 0
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
        names = batch.schema.names
        columns = {name: plain(batch.column(name)) for name in names if name != column}
        vectors = batch.column(column)
        if vectors.null_count and PLACE not in columns:
            row = first + vectors.is_null().to_pylist().index(True)
            raise InvalidOption(f"row {row} of {shard.vectors} has no vector: leave it out")
        yield Chunk(first, len(batch), columns, _flat(vectors, shard.vectors))
        first += len(batch)


def _vector_column(schema: Any, path: Path) -> str:
    from pyarrow import types

    lists = [
        field.name
        for field in schema
        if (types.is_fixed_size_list(field.type) or types.is_list(field.type))
        and types.is_floating(field.type.value_type)
    ]
    known = [name for name in lists if name.lower() in VECTOR_NAMES] or lists
    if len(known) != 1:
        there = " and ".join(map(repr, known)) or "none"
        raise InvalidOption(
            f"{str(path)!r}: which column holds the vectors? There is {there}; call it 'vector'"
        )
    return str(known[0])


def _flat(vectors: Any, path: Path) -> NDArray[np.generic]:
    there = len(vectors) - vectors.null_count
    flat: NDArray[np.generic] = vectors.flatten().to_numpy(zero_copy_only=False)
    if there and len(flat) % there:
        raise InvalidOption(f"{str(path)!r}: the vectors are not of one length")
    return flat.reshape(there, -1) if there else flat.reshape(0, 1)


def _table(path: Path) -> Iterator[Columns]:
    """What a table says of rows, a part at a time."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        for batch in _opened(path).iter_batches(batch_size=ROWS_AT_ONCE):
            yield {name: plain(batch.column(name)) for name in batch.schema.names}
        return
    if ending not in TABLES:
        raise InvalidOption(f"{str(path)!r}: a table ends in {', '.join(TABLES)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _objects(path, file) if "json" in ending else _cells(path, file, ending)
            while some := list(islice(rows, ROWS_AT_ONCE)):
                yield {name: plain(values) for name, values in columns_of(some).items()}
    except UnicodeDecodeError as error:
        raise InvalidMetadata(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise InvalidMetadata(f"{path} cannot be read: {error.strerror or error}") from error


def _objects(path: Path, file: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidMetadata(f"{path}, line {number}: expected a JSON object") from error
        if not isinstance(row, dict):
            raise InvalidMetadata(f"{path}, line {number}: expected a JSON object")
        yield row


def _cells(path: Path, file: Iterable[str], ending: str) -> Iterator[dict[str, Any]]:
    how: dict[str, Any] = {"strict": True}
    if ending == ".tsv":
        how = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    rows = csv.DictReader(file, **how)
    try:
        for row in rows:
            if None in row:
                raise InvalidMetadata(f"{path}, line {rows.line_num}: more cells than columns")
            yield {key: value or None for key, value in row.items()}
    except csv.Error as error:
        raise InvalidMetadata(f"{path}, line {rows.line_num}: {error}") from error
