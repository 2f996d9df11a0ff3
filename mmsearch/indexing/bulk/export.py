"""All of an index written to files that others can read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from mmsearch.errors import InvalidOption, MissingExtra, StorageFailed
from mmsearch.filters import parse_where
from mmsearch.indexing.bulk.meaning import META, PATH_BYTES, PLACE, TAGS, TEXTS, clean
from mmsearch.storage import CompleteItem, Space, Store

if TYPE_CHECKING:
    from mmsearch.types import Progress

VECTOR = "vector"
"""The column of vectors."""

VECTORS, ITEMS = "vectors.npy", "items.jsonl"
MADE_BY, MODEL, FINGERPRINT = "model.json", "model", "fingerprint"
"""The file that says what made exported vectors, and its keys; in parquet, those of its schema."""
"""What lies in a folder of the format "npy"."""

FORMATS = ("parquet", "npy")

_SPAN = ("start", "end", "unit")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    items: int
    vectors: int
    files: list[Path]


class Export:
    """Writes what a store holds.

    Args:
        store: Which.
        spaces: Those that answer, the preferred one first.
        name: The model whose vectors are written; None is the preferred one.

    Raises:
        InvalidOption: there is no such model.
    """

    def __init__(self, store: Store, spaces: Sequence[Space], name: str | None) -> None:
        self._store = store
        if name is None:
            self._space = spaces[0] if spaces else None
            return
        self._space = next((s for s in store.spaces.all() if s.name == name), None)
        if self._space is None:
            known = ", ".join(sorted({space.name for space in store.spaces.all()})) or "none"
            raise InvalidOption(f"the index has no vectors of {name!r}; it has: {known}")

    def write(
        self,
        dest: str,
        form: str | None,
        where: Any,
        *,
        vectors: bool,
        overwrite: bool,
        progress: Progress | None = None,
    ) -> Exported:
        """Write everything, as it is at one moment, whole or not at all."""
        chosen = form or ("npy" if os.path.isdir(dest) else "parquet")
        if chosen not in FORMATS:
            raise InvalidOption(f"the format is one of {', '.join(FORMATS)}, not {chosen!r}")
        wanted = parse_where(where)
        space = self._space if vectors else None
        with self._store.snapshot(), _writing(dest), ExitStack() as opened:
            ids = self._store.filters.matching(wanted) if wanted else None
            total = len(self._store.items) if ids is None else len(ids)
            rows = self._store.vectors.count(space, ids=ids) if space is not None else 0
            made: Any = ParquetFile if chosen == "parquet" else NpyFiles
            writer: Any = made(Path(dest), space, rows)
            if not overwrite:
                writer.check_free()
            file: _Writer = opened.enter_context(writer)
            done = 0
            for page in self._store.items.complete(space, ids):
                file.add(page)
                done += len(page)
                if progress is not None:
                    progress(done, total)
            return Exported(done, rows, file.finish())


class _Writer(Protocol):
    """Takes pages of items."""

    def add(self, page: Sequence[CompleteItem]) -> None: ...
    def finish(self) -> list[Path]: ...


class _Files:
    """Files that are written beside their place, and put there when they are whole."""

    def __init__(self, *places: Path) -> None:
        self._places = places
        self._opened: list[Any] = []

    def _part(self, place: Path) -> Path:
        return place.with_name(f"{place.name}.{os.getpid()}.part")

    def check_free(self) -> None:
        """Raise InvalidOption if something is in the place of one of them."""
        if there := [place for place in self._places if place.exists()]:
            raise InvalidOption(
                f"{str(there[0])!r} is there already: name another place, or overwrite it "
                "(--overwrite)"
            )

    def __enter__(self) -> Self:
        try:
            for place in self._places:
                self._opened.append(self._part(place).open("wb"))
        except OSError:
            self._give_up()
            raise
        return self

    def finish(self) -> list[Path]:
        """Put the files in their places; returns these."""
        for file in self._opened:
            file.close()
        for place in self._places:
            self._part(place).replace(place)
        return list(self._places)

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def _give_up(self) -> None:
        """Leave nothing behind of what is not in its place by now."""
        for file in self._opened:
            with suppress(OSError):  # a full disk has no room for what is still to be written
                file.close()
        for place in self._places:
            with suppress(OSError):
                self._part(place).unlink(missing_ok=True)


class NpyFiles(_Files):
    """A folder of `vectors.npy`, float16, and `items.jsonl`: a line a vector, in the same order.

    `model.json` says what made the vectors.

    Args:
        folder: Made if need be.
        space: Whose vectors; None: only the items.
        rows: How many vectors there will be.
    """

    def __init__(self, folder: Path, space: Space | None, rows: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = [ITEMS] if space is None else [ITEMS, VECTORS, MADE_BY]
        super().__init__(*(folder / name for name in names))
        self._made_by = made_by(space)
        self._shape = None if space is None else (rows, space.dim)

    def __enter__(self) -> Self:
        from numpy.lib.format import write_array_header_1_0

        super().__enter__()
        if self._shape is not None:
            about = {"descr": "<f2", "fortran_order": False, "shape": self._shape}
            write_array_header_1_0(self._opened[1], about)
            self._opened[2].write(json.dumps(self._made_by).encode())
        return self

    def add(self, page: Sequence[CompleteItem]) -> None:
        """Write some items."""
        for row in rows_of(page, with_places=self._shape is not None):
            vector = row.pop(VECTOR, None)
            if vector is not None:
                self._opened[1].write(vector)
            self._opened[0].write(_line({k: v for k, v in row.items() if v is not None}))


class ParquetFile(_Files):
    """A `.parquet` file, a row a vector.

    Args:
        place: Where.
        space: Whose vectors; None: only the items, a row each.
        rows: How many vectors there will be; told by the file itself here.
    """

    def __init__(self, place: Path, space: Space | None, rows: int) -> None:
        del rows
        self._parquet: Any = require_parquet()
        if place.is_dir():
            raise InvalidOption(f"{str(place)!r} is a folder: name a file, NAME.parquet")
        if place.suffix.lower() != ".parquet":  # or it would not be taken in again
            raise InvalidOption(
                f"{str(place)!r} does not end in .parquet: call it so, or say --format npy, which "
                "makes a folder"
            )
        super().__init__(place)
        self._space = space
        self._schema = _schema(space)
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self._writer = self._parquet.ParquetWriter(
            self._opened[0], self._schema, compression="zstd"
        )
        return self

    def add(self, page: Sequence[CompleteItem]) -> None:
        """Write some items."""
        self._waiting += rows_of(page, with_places=self._space is not None)
        if len(self._waiting) >= ROWS_A_GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        rows, self._waiting = self._waiting, []
        for row in rows:
            _as_utf8(row)
        arrays = [
            _vectors(rows, self._schema.field(VECTOR).type)
            if field.name == VECTOR
            else pa.array([row.get(field.name) for row in rows], field.type)
            for field in self._schema
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def finish(self) -> list[Path]:
        """Put the file in its place."""
        self._write()
        self._writer.close()
        return super().finish()

    def __exit__(self, *about: object) -> None:
        with suppress(Exception):  # what is left of it goes nowhere
            self._writer.close()
        super().__exit__(*about)


ROWS_A_GROUP = 8_192
"""Rows that are written together: 8 MiB of vectors of 512 dimensions."""


def require_parquet() -> Any:
    """The module of pyarrow that knows parquet files.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("parquet", "parquet") from error
    return parquet


# ---------------------------------------------------------------------- parts of the above


def rows_of(page: Sequence[CompleteItem], *, with_places: bool) -> Iterator[dict[str, Any]]:
    """A row a vector; of an item without any, one row. Texts stand in an item's first row."""
    for item in page:
        row: dict[str, Any] = {
            "path": item.path,
            "modality": item.kind,
            **item.columns,
            META: item.metadata or None,
            TAGS: item.tags or None,
            TEXTS: [_text(part) for part in item.texts] or None,
        }
        if not with_places:
            yield row
        elif not item.vectors:
            yield row | {PLACE: None, VECTOR: None}
        for facet, position, start, end, unit, blob in item.vectors if with_places else ():
            span = {"start": start, "end": end, "unit": unit}
            yield row | {PLACE: {"facet": facet, "position": position, **span}, VECTOR: blob}
            row[TEXTS] = None


def _text(part: tuple[Any, ...]) -> dict[str, Any]:
    origin, text, *span = part
    told = {"text": clean(text), "origin": origin, **dict(zip(_SPAN, span, strict=True))}
    return {key: value for key, value in told.items() if value is not None}


def _line(row: dict[str, Any]) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a name that is not UTF-8, as escapes
        return (json.dumps(row) + "\n").encode()


def _as_utf8(row: dict[str, Any]) -> None:
    """A name that is not UTF-8 stands as it is in a column of bytes, and readable in its own."""
    try:
        row["path"].encode()
    except UnicodeEncodeError:
        row[PATH_BYTES] = os.fsencode(row["path"])
        row["path"] = row[PATH_BYTES].decode("utf-8", "replace")


def _schema(space: Space | None) -> Any:
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    span = [("start", number), ("end", number), ("unit", text)]
    fields = [
        ("path", text),
        (PATH_BYTES, pa.binary()),
        ("modality", text),
        ("size", whole),
        ("mtime_ns", whole),
        ("width", whole),
        ("height", whole),
        ("taken_at", text),
        ("camera", text),
        ("latitude", number),
        ("longitude", number),
        ("seconds", number),
        ("pages", whole),
        (META, pa.map_(text, text)),
        (TAGS, pa.map_(text, number)),
        (TEXTS, pa.list_(pa.struct([("text", text), ("origin", text), *span]))),
    ]
    if space is not None:
        place = pa.struct([("facet", text), ("position", pa.int32()), *span])
        fields += [(PLACE, place), (VECTOR, pa.list_(pa.float16(), space.dim))]
    return pa.schema(fields, metadata=made_by(space))


def made_by(space: Space | None) -> dict[str, str]:
    """What made the vectors, as an export says it."""
    return {} if space is None else {MODEL: space.name, FINGERPRINT: space.fingerprint}


def _vectors(rows: Sequence[dict[str, Any]], kind: Any) -> Any:
    """The vectors as one array, with nothing where there is none."""
    import numpy as np
    import pyarrow as pa

    empty = bytes(2 * kind.list_size)
    blobs = [row.get(VECTOR) for row in rows]
    flat = np.frombuffer(b"".join(blob or empty for blob in blobs), dtype="<f2")
    missing = pa.array([blob is None for blob in blobs], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind, mask=missing)


class _writing:  # noqa: N801 - a context, used as a function is
    """What the file system refuses becomes StorageFailed."""

    def __init__(self, dest: str) -> None:
        self._dest = dest

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError):
            raise StorageFailed(
                f"{self._dest!r} cannot be written: {error.strerror or error}"
            ) from error
