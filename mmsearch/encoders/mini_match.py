"""A closer look of the built-in model: a text's words against a photo's regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsearch.encoders.onnx import session

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Modality

REGIONS, WORDS, RERANK = "regions.onnx", "words.onnx", "rerank.onnx"
"""What the image and the text tower lack to tell regions and words, and what compares them."""
DETAILS = {REGIONS, WORDS, RERANK}
"""A model has all of these or none."""

MOST_ROWS = 32
"""Of a photo or a text: 4,096 bytes."""

FULL = 127
"""What a row of length 1 is stored as."""


class Matcher:
    """Compares the word rows of texts with the region rows of photos."""

    def __init__(self, graph: Path) -> None:
        self._session = session(graph, optimise=True, threads=1)

    def scores(
        self, modality: Modality, query: NDArray[np.int8], candidates: Sequence[NDArray[np.int8]]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate fits; comparable within one query.

        Args:
            modality: Of the query: "text" if it is (words, dim) and the candidates are regions,
                "image" if it is (regions, dim) and the candidates are words.
            query: As `MiniEncoder.encode_with_tokens` gives it.
            candidates: The same, of things of the other modality.
        """
        import numpy as np

        if not candidates:
            return np.empty(0, np.float32)
        asked, found = ("words", "regions") if modality == "text" else ("regions", "words")
        inputs = {asked: query[None], found: stacked(candidates)}
        scores: NDArray[np.float32] = self._session.run([modality], inputs)[0]
        return scores


def stacked(rows: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
    """(n, longest, dim): rows of zeros stand for nothing."""
    import numpy as np

    longest = max(map(len, rows))
    together = np.zeros((len(rows), longest, rows[0].shape[1]), np.int8)
    for one, place in zip(rows, together, strict=True):
        place[: len(one)] = one
    return together


def quantised(rows: NDArray[np.float32]) -> NDArray[np.int8]:
    """What is stored of a thing's rows: a byte a number, no rows of zeros, and not too many."""
    import numpy as np

    there = rows[np.any(rows != 0, axis=1)][:MOST_ROWS]
    if not len(there):
        there = rows[:1]  # a text without a word
    return np.rint(there * FULL).astype(np.int8)
