"""Everything in an index, written to files that others can read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mmsearch.errors import InvalidOption, StorageFailed
from mmsearch.filters import parse_where
from mmsearch.indexing.bulk.rows import SPAN
from mmsearch.indexing.bulk.sources import FACTS, META, PATH_BYTES, TAGS, TEXTS
from mmsearch.indexing.bulk.vector_files import (
    FINGERPRINT,
    ITEMS,
    MADE_BY,
    MODEL,
    VECTOR,
    VECTORS,
    require_parquet,
)
from mmsearch.media.tables import VECTOR_PLACE, storable
from mmsearch.storage import CompleteItem, Space, Store

if TYPE_CHECKING:
    from mmsearch.types import Progress

FORMATS = ("parquet", "npy")

ROWS_A_GROUP = 8_192
"""Rows of a parquet file that are written together: 8 MiB of vectors of 512 dimensions."""

Pages = Iterable[Sequence[CompleteItem]]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    items: int
    vectors: int
    files: list[Path]


def export(  # noqa: PLR0913 - keywords, all optional
    store: Store,
    dest: str,
    form: str | None,
    *,
    where: Any = None,
    ids: Sequence[int] | None = None,
    space: Space | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write everything, as it is at one moment, whole or not at all: see `Collection.export`.

    The vectors are those of `space`; without one, only the items are written. `ids` are those of
    the items to write, sorted.

    Raises:
        InvalidOption: there is no such format; there is a file already.
        MissingExtra: "parquet" needs a package that is not installed.
        StorageFailed: the files cannot be written.
    """
    form = form or ("npy" if os.path.isdir(dest) else "parquet")
    if form not in FORMATS:
        raise InvalidOption(f"the format is one of {', '.join(FORMATS)}, not {form!r}")
    wanted = parse_where(where)
    try:
        with store.snapshot():
            places = _places(Path(dest), form, space)
            taken = next((place for place in places if place.exists()), None)
            if taken is not None and not overwrite:
                raise InvalidOption(
                    f"{str(taken)!r} is there already: name another place, or overwrite it "
                    "(--overwrite)"
                )
            if wanted:
                ids = store.filters.matching(wanted).tolist()
            items = len(store.items) if ids is None else len(ids)
            rows = store.vectors.count(space, ids=ids) if space is not None else 0
            pages = _counted(store.items.complete(space, ids), items, progress)
            with (
                _made(Path(dest)) if form == "npy" else nullcontext(),
                _written_whole(places) as files,
            ):
                if form == "npy":
                    _write_npy(files, pages, space, rows)
                else:
                    _write_parquet(files[0], pages, space)
            return Exported(items, rows, places)
    except OSError as error:
        raise StorageFailed(f"{dest!r} cannot be written: {error.strerror or error}") from error


def space_to_export(store: Store, model: str | None) -> Space | None:
    """The space of a model, or the preferred one, if there is any.

    Raises:
        InvalidOption: the index has no vectors of the model.
    """
    spaces = store.spaces.all()
    if model is None:
        return next((space for space in spaces if space.serves), None)
    found = next((space for space in spaces if space.name == model), None)
    if found is None:
        known = ", ".join(sorted({space.name for space in spaces})) or "none"
        raise InvalidOption(f"the index has no vectors of {model!r}; it has: {known}")
    return found


def _counted(pages: Pages, total: int, progress: Progress | None) -> Pages:
    done = 0
    for page in pages:
        yield page
        done += len(page)
        if progress is not None:
            progress(done, total)


# ---------------------------------------------------------------------- files


def _places(dest: Path, form: str, space: Space | None) -> list[Path]:
    """The files to write."""
    if form == "npy":
        return [dest / name for name in ([ITEMS] if space is None else [ITEMS, VECTORS, MADE_BY])]
    require_parquet()
    if dest.is_dir():
        raise InvalidOption(f"{str(dest)!r} is a folder: name a file, NAME.parquet")
    if dest.suffix.lower() != ".parquet":  # or it would not be imported again
        raise InvalidOption(
            f"{str(dest)!r} does not end in .parquet: call it so, or say --format npy, which makes "
            "a folder"
        )
    return [dest]


def part_of(place: Path) -> Path:
    """Where a file is written until it is whole."""
    return place.with_name(f"{place.name}.{os.getpid()}.part")


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder to write in; if that fails, no folder is left that was not there before."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
        raise


@contextmanager
def _written_whole(places: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Files that are put in their places when all are whole; else nothing is left of them."""
    files: list[BinaryIO] = []
    try:
        files.extend(part_of(place).open("wb") for place in places)
        yield files
        for file in files:
            file.close()
        for place in places:
            part_of(place).replace(place)
    finally:
        for file in files:
            with suppress(OSError):  # a full disk has no room for what is still to be written
                file.close()
        for place in places:
            with suppress(OSError):
                part_of(place).unlink(missing_ok=True)


def _write_npy(files: Sequence[BinaryIO], pages: Pages, space: Space | None, rows: int) -> None:
    """`vectors.npy`, float16, and `items.jsonl`: a line a vector, in the same order."""
    from numpy.lib.format import write_array_header_1_0

    if space is not None:
        about = {"descr": "<f2", "fortran_order": False, "shape": (rows, space.dim)}
        write_array_header_1_0(files[1], about)
        files[2].write(json.dumps(_made_by(space)).encode())
    for page in pages:
        for row in rows_of(page, with_vectors=space is not None):
            vector = row.pop(VECTOR, None)
            if vector is not None:
                files[1].write(vector)
            files[0].write(_line({key: v for key, v in row.items() if v is not None}))


def _write_parquet(file: BinaryIO, pages: Pages, space: Space | None) -> None:
    """A row a vector, or an item."""
    schema = _schema(space)
    writer = require_parquet().ParquetWriter(file, schema, compression="zstd")
    try:
        waiting: list[dict[str, Any]] = []
        for page in pages:
            waiting += rows_of(page, with_vectors=space is not None)
            if len(waiting) >= ROWS_A_GROUP:
                writer.write_table(_table_of(waiting, schema))
                waiting = []
        writer.write_table(_table_of(waiting, schema))
    except BaseException:
        with suppress(Exception):  # what it still writes is deleted
            writer.close()
        raise
    writer.close()


# ---------------------------------------------------------------------- rows


def rows_of(page: Iterable[CompleteItem], *, with_vectors: bool) -> Iterator[dict[str, Any]]:
    """A row a vector; of an item without any, one row. Texts stand in an item's first row."""
    for item in page:
        row: dict[str, Any] = {
            "path": item.path,
            "modality": item.kind,
            **item.columns,
            META: item.metadata or None,
            FACTS: item.facts or None,
            TAGS: item.tags or None,
            TEXTS: [_text(part) for part in item.texts] or None,
        }
        if not with_vectors:
            yield row
        elif not item.vectors:
            yield row | {VECTOR_PLACE: None, VECTOR: None}
        for modality, position, start, end, unit, blob in item.vectors if with_vectors else ():
            span = {"start": start, "end": end, "unit": unit}
            yield row | {
                VECTOR_PLACE: {"facet": modality, "position": position, **span},
                VECTOR: blob,
            }
            row[TEXTS] = None


def _text(part: tuple[Any, ...]) -> dict[str, Any]:
    origin, text, *span = part
    found = {"text": storable(text), "origin": origin, **dict(zip(SPAN, span, strict=True))}
    return {key: value for key, value in found.items() if value is not None}


def _line(row: dict[str, Any]) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a name that is not UTF-8, as escapes
        return (json.dumps(row) + "\n").encode()


def _made_by(space: Space | None) -> dict[str, str]:
    """The model of exported vectors, as `Shard.made_by` reads it."""
    return {} if space is None else {MODEL: space.name, FINGERPRINT: space.fingerprint}


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
        (FACTS, pa.map_(text, text)),
        (TAGS, pa.map_(text, number)),
        (TEXTS, pa.list_(pa.struct([("text", text), ("origin", text), *span]))),
    ]
    if space is not None:
        place = pa.struct([("facet", text), ("position", pa.int32()), *span])
        fields += [(VECTOR_PLACE, place), (VECTOR, pa.list_(pa.float16(), space.dim))]
    return pa.schema(fields, metadata=_made_by(space))


def _table_of(rows: Sequence[dict[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    for row in rows:
        try:
            row["path"].encode()
        except UnicodeEncodeError:  # as it is in a column of bytes, readable in its own
            row[PATH_BYTES] = os.fsencode(row["path"])
            row["path"] = row[PATH_BYTES].decode("utf-8", "replace")
    arrays = [
        _vector_array([row[VECTOR] for row in rows], field.type)
        if field.name == VECTOR
        else pa.array([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _vector_array(blobs: Sequence[bytes | None], kind: Any) -> Any:
    """The vectors as one array, with nothing where there is none."""
    import numpy as np
    import pyarrow as pa

    empty = bytes(2 * kind.list_size)
    flat = np.frombuffer(b"".join(blob or empty for blob in blobs), dtype="<f2")
    missing = pa.array([blob is None for blob in blobs], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind, mask=missing)
