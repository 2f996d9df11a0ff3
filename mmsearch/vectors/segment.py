"""A segment: the vectors of one modality at one revision, in files that are mapped into memory.

    rows.f16        (n, dim) float16: the rows that scores are computed from
    ids.i64         (n,) the item of each row
    vectors.i64     (n,) the catalog's id of each row's vector, ascending
    coarse.faiss    an approximate index of the rows, if one was chosen
    moments.f32     (dim + 1, dim) with it: the mean of sampled rows, and of their outer products
    margins.f32     (n + 1,) with it: its `ScoreMargins`, the constant first
    about.json      how many rows, of how many dimensions, which index was chosen and why, …

Pages are read when they are needed, and the system may evict them.
"""

from __future__ import annotations

import json
import math
import os
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import StorageFailed
from mmsearch.vectors.ann_index import AnnIndex
from mmsearch.vectors.exact import as_float32, exact_index
from mmsearch.vectors.index_choice import (
    SAMPLED,
    IndexChoice,
    ScoreMargins,
    choose_index,
    score_margins,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.exact import Float16Rows
    from mmsearch.vectors.index_choice import SampleQueries

    RowBatch = tuple[Float16Rows, NDArray[np.int64], NDArray[np.int64]]
    """Rows (m, dim), the item of each, and the catalog's id of each one's vector, ascending."""

FORMAT = 2
"""The version of the files. Segments of another one are rebuilt: those of version 1 lack margins,
and a search of them could miss rows that are the centre of their cell."""

ROWS, IDS, VECTOR_IDS = "rows.f16", "ids.i64", "vectors.i64"
ANN_INDEX, MOMENTS, MARGINS, ABOUT = "coarse.faiss", "moments.f32", "margins.f32", "about.json"

UPTO, HAS_ANN_INDEX, ANN_CHECKSUM, CHECKSUM = "upto", "coarse", "coarse sum", "sum"
"""Keys of ABOUT."""

CHECKED_BYTES = 32 * 2**20
"""The bytes of an approximate index that its checksum covers: they describe its structure."""
_CHUNK = 2**20

_TRIED, _SLOW = 16, 4e-5
"""If the first 16 candidates take 40 µs each or more to read, they must lie on disk: a candidate in
memory takes a twentieth of that."""


class SegmentDamaged(Exception):
    """Files are missing, truncated, or of another format; they can be rebuilt from the catalog."""


class OtherFormat(SegmentDamaged):
    """Another version of mmsearch made it: nothing is wrong with it, but this one rebuilds it."""


@dataclass
class Segment:
    """Rows that never change, and the index over them."""

    rows: Float16Rows
    ids: NDArray[np.int64]
    """(n,) the item of each row."""
    vector_ids: NDArray[np.int64]
    """(n,) the catalog's id of each row's vector, ascending."""
    choice: IndexChoice = field(default_factory=IndexChoice)
    ann_index: AnnIndex | None = None
    """The index of that kind, unless it is exact."""
    margins: ScoreMargins | None = None
    """The margins of that index's scores, if there is one."""
    about: dict[str, Any] = field(default_factory=dict)
    """The contents of ABOUT."""
    folder: Path | None = None
    """The folder of the files; None: in memory only."""

    @classmethod
    def empty(cls, dim: int) -> Segment:
        """A segment without rows."""
        import numpy as np

        no_ids = np.zeros(0, np.int64)
        return cls(np.zeros((0, dim), np.float16), no_ids, no_ids)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """The length of a row."""
        return int(self.rows.shape[1])

    @property
    def bytes_per_row(self) -> float:
        """Bytes per row that a search reads first: codes of the approximate index, else rows."""
        return 2 * self.dim if self.ann_index is None else self.ann_index.bytes_per_row

    @cached_property
    def exact_index(self) -> Any:
        """The FAISS index that compares a query with all rows."""
        return exact_index(self.rows)

    @cached_property
    def moments(self) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
        """(m, the mean (dim,) of m sampled rows, the mean of their outer products (dim, dim))."""
        import numpy as np

        number = min(SAMPLED, len(self))
        if self.folder is not None:
            with suppress(OSError, ValueError):
                stored = np.fromfile(self.folder / MOMENTS, np.float32).reshape(-1, self.dim)
                if len(stored) == self.dim + 1:
                    return number, stored[0], stored[1:]
        sample = as_float32(self.rows, np.arange(number) * len(self) // max(number, 1))
        products: Vectors = sample.T @ sample / np.float32(max(number, 1))
        return number, sample.mean(axis=0), products

    def read_rows(self, numbers: NDArray[np.int64]) -> Float16Rows:
        """A copy of the rows of the given numbers.

        Those of a large segment are read from its file, since a memory mapping would make the
        system load their neighbours as well: a gigabyte for 1,600 rows.

        Raises:
            StorageFailed: the file has been truncated since it was opened.
        """
        import numpy as np

        if self._file is None or not len(numbers):  # an empty array has no memoryview
            return self.rows[numbers]
        rows: Float16Rows = np.empty((len(numbers), self.dim), np.float16)
        size, file, read = self.dim * 2, self._file, os.preadv
        buffer = memoryview(rows).cast("B")  # type: ignore[arg-type]
        starts = (numbers * size).tolist()
        began = time.perf_counter()
        done = 0
        for number, start in enumerate(starts):
            if number == _TRIED and time.perf_counter() - began > _TRIED * _SLOW:
                _prefetch(file, starts[number:], size)
            done += read(file, [buffer[number * size : (number + 1) * size]], start)
        if done != len(buffer):  # the rest of the array is uninitialised
            raise StorageFailed(
                f"{self.folder} has been truncated: delete it, and a search will rebuild it"
            )
        return rows

    @cached_property
    def _file(self) -> int | None:
        """The open file of rows, if candidates are read from it."""
        if self.folder is None or self.ann_index is None or not hasattr(os, "preadv"):
            return None
        try:
            file = os.open(self.folder / ROWS, os.O_RDONLY)
        except OSError:  # the folder was deleted a moment ago; mapped files stay readable
            return None
        weakref.finalize(self, os.close, file)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        return file

    @classmethod
    def open(cls, folder: Path) -> Segment:
        """The segment that `write_segment` wrote.

        Raises:
            SegmentDamaged: it is incomplete, or of another format.
        """
        about = read_about(folder)
        try:
            number, dim = int(about["rows"]), int(about["dim"])
            choice = IndexChoice(**about["choice"])
            rows, ids, vector_ids = _mapped_arrays(folder, number, dim)
            ann_index, margins = None, None
            if about[HAS_ANN_INDEX]:
                if _file_checksum(folder / ANN_INDEX) != about[ANN_CHECKSUM]:
                    raise SegmentDamaged(f"{folder}: {ANN_INDEX} is not what was written")
                ann_index = AnnIndex.load(folder / ANN_INDEX)
                margins = _stored_margins(folder, number)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise SegmentDamaged(f"{folder}: {error}") from error
        if ann_index is not None and len(ann_index) != number:
            raise SegmentDamaged(
                f"{folder}: {ANN_INDEX} has {len(ann_index)} rows instead of {number}"
            )
        return cls(rows, ids, vector_ids, choice, ann_index, margins, about, folder)


def read_about(folder: Path) -> dict[str, Any]:
    """The contents of a segment's ABOUT.

    Raises:
        OtherFormat: another version made it.
        SegmentDamaged: the file is missing or damaged.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise OtherFormat(f"{folder}: its format is {about['format']}, not {FORMAT}")
        if about[CHECKSUM] != checksum(about):
            raise SegmentDamaged(f"{folder}: {ABOUT} is not what was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegmentDamaged(f"{folder}: {error}") from error
    return about


def write_segment(
    folder: Path | None,
    dim: int,
    batches: Iterable[RowBatch],
    about: dict[str, Any],
    sample_queries: Callable[[], SampleQueries],
    *,
    kind: str,
    recall: float,
) -> Segment:
    """A new segment, with the kind of index that `choose_index` chooses for its rows.

    It is written to an empty folder, or kept in memory if `folder` is None. ABOUT holds what
    `about` does, and more. Rows come in batches to bound memory.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    import numpy as np

    if folder is None:
        empty = Segment.empty(dim)
        arrays = zip((empty.rows, empty.ids, empty.vector_ids), *batches, strict=True)
        rows, ids, vector_ids = map(np.concatenate, arrays)
    else:
        number = _write_batches(folder, batches)
        rows, ids, vector_ids = _mapped_arrays(folder, number, dim)
    choice, ann_index = choose_index(rows, sample_queries, kind=kind, recall=recall)
    about = {
        **about,
        UPTO: int(vector_ids[-1]) if len(vector_ids) else 0,
        "recall": recall,
        "format": FORMAT,
        "rows": len(rows),
        "dim": dim,
        HAS_ANN_INDEX: ann_index is not None,
        "choice": asdict(choice),
    }
    margins = None if ann_index is None else score_margins(rows, ann_index, recall)
    segment = Segment(rows, ids, vector_ids, choice, ann_index, margins, about)
    if folder is not None:
        if ann_index is not None and margins is not None:
            ann_index.save(folder / ANN_INDEX)
            about[ANN_CHECKSUM] = _file_checksum(folder / ANN_INDEX)
            _, mean, products = segment.moments
            np.concatenate([mean[None], products]).tofile(folder / MOMENTS)
            np.append(np.float32(margins.constant), margins.by_row).tofile(folder / MARGINS)
        about[CHECKSUM] = checksum(about)
        (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        for path in folder.iterdir():  # flushed before the folder is renamed as a complete segment
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    return segment


def _write_batches(folder: Path, batches: Iterable[RowBatch]) -> int:
    """Write rows and their ids to files; returns the number of rows."""
    import numpy as np

    number = 0
    with ExitStack() as stack:
        files = [
            stack.enter_context((folder / name).open("wb")) for name in (ROWS, IDS, VECTOR_IDS)
        ]
        for batch in batches:
            for file, array, dtype in zip(files, batch, ("<f2", "<i8", "<i8"), strict=True):
                file.write(np.ascontiguousarray(array, dtype).data)
            number += len(batch[0])
    return number


def checksum(about: dict[str, Any]) -> int:
    """The checksum of ABOUT: a changed digit might hide vectors."""
    rest = {name: value for name, value in about.items() if name != CHECKSUM}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _file_checksum(path: Path) -> int:
    """The checksum of the beginning of a file, which FAISS trusts: damage may make it hang."""
    found = 0
    with path.open("rb") as file:
        for _ in range(0, CHECKED_BYTES, _CHUNK):
            found = zlib.crc32(file.read(_CHUNK), found)
    return found


def _stored_margins(folder: Path, number: int) -> ScoreMargins:
    """The margins of a segment of so many rows.

    Raises:
        ValueError: the file is shorter or longer, or damaged.
    """
    stored = _mapped(folder / MARGINS, "<f4", (number + 1,))
    widest = float(stored[1:].max())
    if not (math.isfinite(stored[0]) and math.isfinite(widest)):
        raise ValueError(f"{MARGINS} is not what was written")
    return ScoreMargins(float(stored[0]), stored[1:], widest)


def _mapped_arrays(folder: Path, number: int, dim: int) -> RowBatch:
    """The rows of a segment and their ids, mapped into memory."""
    return (
        _mapped(folder / ROWS, "<f2", (number, dim)),
        _mapped(folder / IDS, "<i8", (number,)),
        _mapped(folder / VECTOR_IDS, "<i8", (number,)),
    )


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a file, mapped copy-on-write, since FAISS takes no read-only arrays.

    Raises:
        ValueError: the file is shorter or longer than the array.
    """
    import numpy as np

    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if (size := path.stat().st_size) != expected:
        raise ValueError(f"{path.name} has {size} bytes, not {expected}")
    if not expected:
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(path, dtype, mode="c", shape=shape))


def _prefetch(file: int, starts: Sequence[int], size: int) -> None:
    """Have the system read several parts of a file at once, to keep the disk's queue full."""
    if hasattr(os, "posix_fadvise"):
        for start in starts:
            os.posix_fadvise(file, start, size, os.POSIX_FADV_WILLNEED)
