"""Files of vectors and metadata, as clip-retrieval, img2dataset and `export` write them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, tee, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidMetadata, InvalidOption, MissingExtra, PathNotFound
from mmsearch.home import path_text
from mmsearch.indexing.bulk.sources import (
    PATHS,
    ROWS_AT_ONCE,
    Chunk,
    Row,
    Rows,
    chunks_of,
    in_batches,
    named,
    pieces,
    rows_in,
)
from mmsearch.media.tables import VECTOR_PLACE, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.indexing.bulk.sources import Numbers

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

VECTOR = "vector"
"""What our own exports call the column of vectors."""

VECTOR_NAMES = (VECTOR, "embedding", "vectors", "embeddings", "image_embedding", "img_emb", "emb")
"""What the column of vectors in a parquet file may be called."""

VECTORS, ITEMS, MADE_BY = "vectors.npy", "items.jsonl", "model.json"
"""The files in a folder of the format "npy"; the last names the model of the vectors."""

MODEL, FINGERPRINT = "model", "fingerprint"
"""The keys under which an export names the model of its vectors."""

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"
"""The folders of shards that clip-retrieval writes."""

TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
"""The endings of files of metadata."""

_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)")
_NPY = b"\x93NUMPY"


def require_parquet() -> Any:
    """The module of pyarrow that reads and writes parquet files.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("parquet", "parquet") from error
    return parquet


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of vectors with the files that belong to it.

    Attributes:
        vectors: `.npy`, or a `.parquet` with the metadata in it.
        rows: How many there are.
        metadata: A table, a row a vector.
        texts: `.npy`, a row a vector.
    """

    vectors: Path
    rows: int
    metadata: Path | None = None
    texts: Path | None = None

    def made_by(self) -> tuple[str, str] | None:
        """(model, fingerprint) of the encoder that made the vectors, if the file names it."""
        path = self.vectors
        try:
            if path.suffix.lower() == ".parquet":
                found = require_parquet().read_schema(path).metadata or {}
                about = {key.decode("utf-8", "replace"): v.decode() for key, v in found.items()}
            elif path.name == VECTORS:
                about = json.loads((path.parent / MADE_BY).read_bytes())
            else:
                return None
            return str(about[MODEL]), str(about[FINGERPRINT])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None  # it does not, or not in our form

    def chunks(self, warn: Callable[[str], None]) -> Iterator[Chunk]:
        """The rows; those without a path have that of the file and their number.

        Args:
            warn: Called with what users should know of how a table was read.

        Raises:
            InvalidOption: a file cannot be used, or has not as many rows as another.
            InvalidMetadata: a table cannot be parsed; the message names the line.
        """
        if self.vectors.suffix.lower() == ".parquet":
            vectors, rows = _vectors_and_rows(self.vectors)
            found = chunks_of(vectors, rows)
        else:
            table = None if self.metadata is None else _table(self.metadata, warn)
            texts = None if self.texts is None else _array(self.texts)
            what = f"{self.metadata}, to {self.vectors}"
            found = chunks_of(_array(self.vectors), table, texts, what)
        place = os.path.abspath(self.vectors)
        for chunk in found:
            if named(chunk.rows.columns, PATHS) is None:
                numbers = range(chunk.first, chunk.first + len(chunk.rows))
                chunk.rows.columns["path"] = [f"{place}/{number}" for number in numbers]
            yield chunk


def shards_in(files: Files, metadata: Files = (), texts: Files = ()) -> list[Shard]:
    """Files of vectors, each with those that belong to it.

    Args:
        files: `.npy` or `.parquet` files, or folders of them.
        metadata: Tables, one a file of vectors, if not those beside them.
        texts: `.npy` files, one a file of vectors.

    Raises:
        PathNotFound: there is no such file.
        InvalidOption: a file cannot be used; files do not go together.
    """
    arrays: list[Path] = []
    tables: list[Path | None] = []
    text_vectors: list[Path | None] = []
    for path in _existing(files):
        vectors, about, of_texts = _files_of(path)
        arrays += vectors
        tables += _paired(vectors, about, "metadata")
        text_vectors += _paired(vectors, of_texts, "vectors of texts")
    if not arrays:
        raise InvalidOption("no file of vectors was given: name .npy or .parquet files, or folders")
    if given := _files_in(_existing(metadata)):
        tables = _paired(arrays, given, "metadata")
    if given := _files_in(_existing(texts)):
        text_vectors = _paired(arrays, given, "vectors of texts")
    shards = [
        Shard(array, _count(array), table, text)
        for array, table, text in zip(arrays, tables, text_vectors, strict=True)
    ]
    for shard in shards:
        for other in (shard.metadata, shard.texts):
            counted = other is not None and other.suffix.lower() in (".npy", ".parquet")
            if other is not None and counted and (rows := _count(other)) != shard.rows:
                raise InvalidOption(
                    f"{shard.vectors} has {shard.rows} rows, and {other} {rows}: they do not "
                    "belong together"
                )
    return shards


def chunks_in(shards: Iterable[Shard], warn: Callable[[str], None]) -> Iterator[Chunk]:
    """The rows of shards, one after the other, numbered through; see `Shard.chunks`."""
    first = 0
    for shard in shards:
        for chunk in shard.chunks(warn):
            chunk.first += first
            yield chunk
        first += shard.rows


def read_vector(path: Path) -> Numbers:
    """The vector (1, dim) of a `.npy` file, which may hold it as (dim,).

    Raises:
        PathNotFound: there is no such file.
        InvalidOption: it holds anything else, such as several vectors.
    """
    if not path.exists():
        raise PathNotFound(f"there is no file {str(path)!r}")
    found = array_in(path)
    rows = found[None] if found.ndim == 1 else found
    next(pieces(rows), None)  # checks the shape
    if len(rows) != 1:
        raise InvalidOption(f"{str(path)!r} holds {len(rows)} vectors: a query is one, (dim,)")
    return rows


# ---------------------------------------------------------------------- which files


def _existing(names: Files) -> list[Path]:
    several = [names] if isinstance(names, (str, bytes, os.PathLike)) else names
    paths = [Path(path_text(name)) for name in several]
    for path in paths:
        if not path.exists():
            raise PathNotFound(f"there is no file {str(path)!r}")
    return paths


def _files_in(paths: Iterable[Path]) -> list[Path]:
    """Files, and those in folders."""
    folders = (_numbered(path, (*TABLES, ".npy")) if path.is_dir() else [path] for path in paths)
    return list(chain.from_iterable(folders))


def _files_of(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Vectors, tables and vectors of texts: a file, our own export, or others' in a folder."""
    if not path.is_dir():
        return [path], [], []
    if (path / VECTORS).exists() and (path / ITEMS).exists():
        return [path / VECTORS], [path / ITEMS], []
    if (path / IMAGES).is_dir():
        arrays = _numbered(path / IMAGES, (".npy",))
        tables = _numbered(path / METADATA, TABLES)
        texts = _numbered(path / TEXTS, (".npy",))
    else:
        arrays = _numbered(path, (".npy",))
        tables, texts = _numbered(path, TABLES) if arrays else [], []
        arrays = arrays or _numbered(path, (".parquet",))
    if not arrays:
        raise InvalidOption(f"{str(path)!r} holds no vectors: no .npy and no .parquet file")
    return arrays, tables, texts


def _numbered(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of some endings in a folder, in order of the last number in their names."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.suffix.lower() in endings]
    return sorted(files, key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    found = _LAST_NUMBER.search(path.stem)
    return int(found[1]) if found else -1


def _paired(arrays: list[Path], others: list[Path], what: str) -> list[Path | None]:
    """The file that belongs to each array: the one with its number, else the one in its place."""
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
    return [*others]


def _count(path: Path) -> int:
    ending = path.suffix.lower()
    if ending == ".npy":
        return len(_array(path))
    if ending == ".parquet":
        return int(_parquet(path).metadata.num_rows)
    raise InvalidOption(f"{str(path)!r} is no file of vectors: these end in .npy or .parquet")


# ---------------------------------------------------------------------- what is in them


def array_in(path: Path) -> NDArray[np.generic]:
    """What a `.npy` file holds, mapped into memory.

    Raises:
        InvalidOption: it cannot be read, or holds no array.
    """
    import numpy as np

    try:
        with path.open("rb") as file:
            if file.read(len(_NPY)) != _NPY:  # NumPy would explain how to unpickle it
                raise InvalidOption(f"{str(path)!r} holds no array of NumPy's (.npy)")
        found: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidOption(f"{str(path)!r} cannot be read as an array: {error}") from error
    return found


def _array(path: Path) -> NDArray[np.generic]:
    found = array_in(path)
    if found.ndim != 2:
        raise InvalidOption(f"{str(path)!r} holds an array of shape {found.shape}, not of rows")
    return found


def _parquet(path: Path) -> Any:
    parquet = require_parquet()
    from pyarrow import ArrowException

    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise InvalidOption(f"{str(path)!r} cannot be read as parquet: {error}") from error


def _vectors_and_rows(path: Path) -> tuple[Iterator[Any], Iterator[Rows]]:
    """The vectors in a parquet file that has them in one of its columns, and its rows."""
    file = _parquet(path)
    column = _vector_column(file.schema_arrow, path)
    others = [name for name in file.schema_arrow.names if name != column]
    ahead, behind = tee(file.iter_batches(batch_size=ROWS_AT_ONCE))
    rows = chain.from_iterable(rows_in(batch.select(others)) for batch in ahead)

    def vectors() -> Iterator[Any]:
        first = 0
        for batch in behind:
            cells = batch.column(column)
            if cells.null_count and VECTOR_PLACE not in others:
                row = first + cells.is_null().to_pylist().index(True)
                raise InvalidOption(f"row {row} of {path} has no vector: leave it out")
            filled = len(cells) - cells.null_count
            flat = cells.flatten().to_numpy(zero_copy_only=False)
            lengths = cells.drop_null().value_lengths().unique().to_pylist()
            if len(lengths) > 1:
                least, most = min(lengths), max(lengths)
                raise InvalidOption(
                    f"{str(path)!r}: the vectors differ in length, from {least} to {most}"
                )
            if filled:
                yield flat.reshape(filled, -1)
            first += len(cells)

    return vectors(), rows


def _vector_column(schema: Any, path: Path) -> str:
    from pyarrow import types

    lists = [
        field.name
        for field in schema
        if (
            types.is_fixed_size_list(field.type)
            or types.is_list(field.type)
            or types.is_large_list(field.type)
        )
        and (
            types.is_floating(field.type.value_type)
            or (types.is_integer(field.type.value_type) and field.name.lower() in VECTOR_NAMES)
        )
    ]
    known = [name for name in lists if name.lower() in VECTOR_NAMES] or lists
    if len(known) != 1:
        names = " and ".join(map(repr, known)) or "none"
        raise InvalidOption(
            f"{str(path)!r}: which column holds the vectors? There is {names}; call it 'vector'"
        )
    return str(known[0])


def _table(path: Path, warn: Callable[[str], None]) -> Iterator[Rows]:
    """The rows of a table, in batches."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        for batch in _parquet(path).iter_batches(batch_size=ROWS_AT_ONCE):
            yield from rows_in(batch)
        return
    if ending not in (*TABLES, ".txt"):
        raise InvalidOption(f"{str(path)!r}: a table ends in {', '.join(TABLES)}")
    table = Table.read(path, "metadata", InvalidMetadata)
    rows = (row for _, row in table.objects("a JSON object")) if table.is_json else _cells(table)
    yield from in_batches(rows)
    for warning in table.warnings():
        warn(warning)


def _cells(table: Table) -> Iterator[Row]:
    lines = table.cells(blank=True)
    _, header = next(lines, (1, []))
    keys = [cell.strip() or f"column {place}" for place, cell in enumerate(header, start=1)]
    for number, cells in lines:
        table.check_width(number, cells, len(keys))
        yield dict(zip_longest(keys, (cell or None for cell in cells)))
