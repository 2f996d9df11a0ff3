"""The rows of a facet as they were at one moment, in files that are mapped into memory.

    rows.f16        (n, dim) float16: what scores are computed from
    ids.i64         (n,) the item of each row
    vectors.i64     (n,) the catalog's own id of each row, rising
    sample.f16      some rows, evenly strided
    moments.f32     (dim + 1, dim) the mean of these, and of their outer products
    coarse.faiss    an approximate index over the rows, if one was chosen
    about.json      how many rows of which dim, up to where they go, what was chosen and why

Nothing is read before it is needed, and the system may drop again what was.
"""

from __future__ import annotations

import json
import os
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from mmsearch.errors import StorageFailed
from mmsearch.vectors.ann_index import Coarse
from mmsearch.vectors.flat import flat_over, widened
from mmsearch.vectors.index_choice import Choice, chosen
from mmsearch.vectors.rows import Part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.flat import Rows
    from mmsearch.vectors.index_choice import Asked

FORMAT = 1
"""Of the files; those of another are made anew."""

SAMPLED = 4_096
"""Rows in the sample, if there are so many."""

ROWS, IDS, VECTOR_IDS, SAMPLE = "rows.f16", "ids.i64", "vectors.i64", "sample.f16"
MOMENTS, COARSE, ABOUT = "moments.f32", "coarse.faiss", "about.json"


SUM, COARSE_SUM = "sum", "coarse sum"
SUMMED = 32 * 2**20
"""Bytes of an approximate index whose sum is kept: what tells how it is built lies in these."""
_PIECE = 2**20

_TRIED, _SLOW = 16, 4e-5
"""Candidates that are read before it is told whether they have to come from the disk, and the
seconds that each of them then takes at least; of those that are in memory it is a twentieth."""


class SegmentDamaged(Exception):
    """Files are missing, cut short, or of another format: the catalog has what was in them."""


@dataclass
class Segment:
    """Rows and what tells where they go.

    Attributes:
        rows: (n, dim) float16.
        ids: (n,) the item of each.
        vector_ids: (n,) the catalog's own id of each, rising.
        choice: Which kind of index serves them, and why.
        coarse: That index, unless it is the exact one.
        about: What else was said of them, as `write` was given it.
        folder: Where the files are; None: in memory alone.
    """

    rows: Rows
    ids: NDArray[np.int64]
    vector_ids: NDArray[np.int64]
    choice: Choice = field(default_factory=Choice)
    coarse: Coarse | None = None
    about: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @classmethod
    def empty(cls, dim: int) -> Segment:
        """No rows."""
        import numpy as np

        none = np.zeros(0, np.int64)
        return cls(np.zeros((0, dim), np.float16), none, none)

    @property
    def dim(self) -> int:
        """How many numbers a row has."""
        return int(self.rows.shape[1])

    def part(self) -> Part:
        """The rows, to be searched."""
        flat = flat_over(self.rows)
        parts = self.rows, self.ids, self.vector_ids, flat
        return Part(*parts, self.coarse, self.choice, self.gathered)

    def sample(self) -> Rows:
        """At most SAMPLED of the rows, evenly strided."""
        import numpy as np

        number = min(SAMPLED, len(self.rows))
        if self.folder is not None:
            kept = self.folder / SAMPLE
            with suppress(OSError):
                if kept.stat().st_size == number * self.dim * 2:
                    return np.fromfile(kept, np.float16).reshape(number, self.dim)
        return self.rows[np.arange(number) * len(self.rows) // max(number, 1)]

    @cached_property
    def moments(self) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
        """(m, the mean (dim,) of m sampled rows, the mean of their outer products (dim, dim))."""
        import numpy as np

        number = min(SAMPLED, len(self.rows))
        if self.folder is not None:
            with suppress(OSError, ValueError):
                kept = np.fromfile(self.folder / MOMENTS, np.float32).reshape(-1, self.dim)
                if len(kept) == self.dim + 1:
                    return number, kept[0], kept[1:]
        wide = widened(self.sample())
        products: Vectors = wide.T @ wide / np.float32(max(number, 1))
        return number, wide.mean(axis=0), products

    def gathered(self, rows: NDArray[np.int64]) -> Rows:
        """Some rows, copied.

        Of a large base they are read from the file: through a mapping, the system would bring
        in its neighbours for each, a gigabyte of memory for 1,600 rows.

        Raises:
            StorageFailed: the file has been cut short since it was opened.
        """
        import numpy as np

        if self._file is None or not len(rows):  # no view is of nothing
            return self.rows[rows]
        found: Any = np.empty((len(rows), self.dim), np.float16)
        size, file, read = self.dim * 2, self._file, os.preadv
        room = memoryview(found).cast("B")
        starts = (rows * size).tolist()
        began = time.perf_counter()
        came = 0
        for number, start in enumerate(starts):
            if number == _TRIED and time.perf_counter() - began > _TRIED * _SLOW:
                _fetch(file, starts[number:], size)
            came += read(file, [room[number * size : (number + 1) * size]], start)
        if came != len(room):  # what is missing would be whatever lay in that memory
            raise StorageFailed(
                f"{self.folder} is not all there any more: delete it, a search makes it anew"
            )
        whole: Rows = found
        return whole

    @cached_property
    def _file(self) -> int | None:
        """The open file of the rows, if candidates are read from it."""
        if self.folder is None or self.coarse is None or not hasattr(os, "preadv"):
            return None
        try:
            file = os.open(self.folder / ROWS, os.O_RDONLY)
        except OSError:  # its folder has just been deleted; what is mapped stays
            return None
        weakref.finalize(self, os.close, file)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # no neighbours
        return file

    # ------------------------------------------------------------------ files

    @classmethod
    def open(cls, folder: Path) -> Segment:
        """What `Writer` wrote.

        Raises:
            SegmentDamaged: it is not all there, or of another format.
        """
        about = about_of(folder)
        try:
            number, dim = int(about["rows"]), int(about["dim"])
            choice = Choice(**about["choice"])
            rows = _mapped(folder / ROWS, "float16", (number, dim))
            ids = _mapped(folder / IDS, "int64", (number,))
            vector_ids = _mapped(folder / VECTOR_IDS, "int64", (number,))
            if about["coarse"] and _sum_of_file(folder / COARSE) != about[COARSE_SUM]:
                raise SegmentDamaged(f"{folder}: {COARSE} is not what was written")
            coarse = Coarse.load(folder / COARSE) if about["coarse"] else None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise SegmentDamaged(f"{folder}: {error}") from error
        if coarse is not None and len(coarse) != number:
            raise SegmentDamaged(f"{folder}: of {number} rows {len(coarse)} are in {COARSE}")
        return cls(rows, ids, vector_ids, choice, coarse, about, folder)


def _fetch(file: int, starts: Sequence[int], size: int) -> None:
    """Have the system read some places of a file, all at once: the disk then has several to do."""
    if hasattr(os, "posix_fadvise"):
        for start in starts:
            os.posix_fadvise(file, start, size, os.POSIX_FADV_WILLNEED)


def about_of(folder: Path) -> dict[str, Any]:
    """What is said of a base.

    Raises:
        SegmentDamaged: nothing, or in another format.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise SegmentDamaged(f"{folder}: its format is {about['format']}, not {FORMAT}")
        if about[SUM] != _sum_of(about):
            raise SegmentDamaged(f"{folder}: {ABOUT} is not what was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegmentDamaged(f"{folder}: {error}") from error
    return about


class SegmentWriter:
    """Makes a base of rows that come a few at a time; memory does not grow with them.

    Args:
        folder: Where to, an empty folder; None: into memory.
        dim: How many numbers a row has.
    """

    def __init__(self, folder: Path | None, dim: int) -> None:
        self._folder = folder
        self._dim = dim
        self._number = 0
        self._held: list[tuple[Any, Any, Any]] = []
        self._files: list[IO[bytes]] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._folder is not None:
            for name in (ROWS, IDS, VECTOR_IDS):
                self._files.append(self._open.enter_context((self._folder / name).open("wb")))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, rows: Rows, ids: NDArray[np.int64], vector_ids: NDArray[np.int64]) -> None:
        """Append rows (m, dim), the item of each and the catalog's id of each, which rise.

        Raises:
            OSError: the disk is full, say.
        """
        import numpy as np

        each = rows.astype("<f2"), ids.astype("<i8"), vector_ids.astype("<i8")
        self._number += len(rows)
        if self._folder is None:
            self._held.append(each)
            return
        for file, some in zip(self._files, each, strict=True):
            file.write(np.ascontiguousarray(some).data)

    def finish(
        self, about: dict[str, Any], asked: Callable[[], Asked], *, kind: str, recall: float
    ) -> Segment:
        """The base, with an index of a kind that `chosen` chooses.

        Args:
            about: What else to say of it.
            asked: Gives queries (m, dim) by modality, to measure the index by.
            kind: As `chosen` takes it.
            recall: The same.

        Raises:
            OSError: it cannot be written.
        """
        import numpy as np

        self._open.close()
        shape = self._number, self._dim
        if self._folder is None:
            empty = Segment.empty(self._dim)
            held = [(empty.rows, empty.ids, empty.vector_ids), *self._held]
            rows, ids, vector_ids = (np.concatenate(some) for some in zip(*held, strict=True))
        else:
            rows = _mapped(self._folder / ROWS, "float16", shape)
            ids, vector_ids = (
                _mapped(self._folder / name, "int64", shape[:1]) for name in (IDS, VECTOR_IDS)
            )
        choice, coarse = chosen(rows, asked, kind=kind, recall=recall)
        said = {
            **about,
            "format": FORMAT,
            "rows": shape[0],
            "dim": shape[1],
            "coarse": coarse is not None,
            "choice": choice.as_dict(),
        }
        base = Segment(rows, ids, vector_ids, choice, coarse, said)
        if self._folder is not None:
            base.sample().tofile(self._folder / SAMPLE)
            if coarse is not None:
                coarse.save(self._folder / COARSE)
                _, mean, products = base.moments
                np.concatenate([mean[None], products]).tofile(self._folder / MOMENTS)
                said[COARSE_SUM] = _sum_of_file(self._folder / COARSE)
            said[SUM] = _sum_of(said)
            (self._folder / ABOUT).write_text(json.dumps(said, indent=1), encoding="utf-8")
            _flushed(self._folder)
        return base


def _sum_of(about: dict[str, Any]) -> int:
    """Of what is said of a base: one digit that changes on the disk may hide vectors."""
    rest = {name: value for name, value in about.items() if name != SUM}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _sum_of_file(path: Path) -> int:
    """Of a file's beginning: FAISS believes what it reads there, and may never come to an end."""
    found = 0
    with path.open("rb") as file:
        for _ in range(0, SUMMED, _PIECE):
            found = zlib.crc32(file.read(_PIECE), found)
    return found


def _mapped(path: Path, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a file, mapped; copied on write, as FAISS takes no array that is read-only.

    Raises:
        ValueError: the file is not as long as that takes.
    """
    import numpy as np

    dtype = np.dtype(kind).newbyteorder("<")
    expected = int(np.prod(shape)) * dtype.itemsize
    if (size := path.stat().st_size) != expected:
        raise ValueError(f"{path.name} has {size} bytes, not {expected}")
    if not expected:
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(path, dtype, mode="c", shape=shape))


def _flushed(folder: Path) -> None:
    """Have the disk hold what was written, before its name says that it is whole."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
