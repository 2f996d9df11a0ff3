"""A sample of an index's vectors: the scores of chance matches. A server's is cached in a file."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmsearch.types import Vectors


class ChanceSample:
    """A sample of an index's rows, for the distribution of scores by chance.

    Args:
        rows: (n, dim + EXTRA_DIMS), float32.
    """

    def __init__(self, rows: Vectors) -> None:
        self.rows = rows

    @classmethod
    def read_or_draw(
        cls, path: Path | None, state: str, draw: Callable[[], Vectors]
    ) -> ChanceSample:
        """The sample in a file if it is of this state; else one that is drawn, and written there.

        Args:
            path: The file; its folder need not exist or be writable. None: no file is used.
            state: The state of the store that the sample must be of.
            draw: Returns the rows, float32 without more precision than float16.
        """
        import numpy as np

        if path is not None:
            with suppress(OSError, ValueError, KeyError), np.load(path) as stored:
                if str(stored["state"]) == state:
                    return cls(stored["rows"].astype(np.float32))
        rows = draw()
        if path is not None:
            with suppress(OSError):  # without the file, the next process is only slower
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = path.with_suffix(f".{uuid.uuid4().hex[:6]}.part")
                with unfinished.open("wb") as file:
                    np.savez(file, state=np.array(state), rows=rows.astype(np.float16))
                unfinished.replace(path)
        return cls(rows)

    @cached_property
    def mean(self) -> Vectors:
        """The mean (dim + EXTRA_DIMS,); there must be a row."""
        import numpy as np

        # float64, or the order of the rows would change scores in their fifth digit
        mean: Vectors = self.rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        """(n, mean, mean square) of the inner products of the n rows with a vector (dim +
        EXTRA_DIMS,).
        """
        import numpy as np

        # sorted, so that the order of the rows makes no difference to the sums
        scores = np.sort(self.rows @ vector).astype(float)
        mean = float(scores.mean())
        # about the mean, so that equal vectors have no variance at all
        return len(scores), mean, mean * mean + float(((scores - mean) ** 2).mean())
