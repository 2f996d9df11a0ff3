"""Token embeddings: a text's words against a photo's regions, for reranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsearch.encoders.onnx import session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.encoders.model_files import ModelFiles
    from mmsearch.types import Modality

REGIONS, WORDS, RERANK = "regions.onnx", "words.onnx", "rerank.onnx"
"""The graphs that make embeddings of a photo's regions and of a text's words, and that compare
them."""

TOKEN_DIM = 128
"""Dimensions of an embedding, each stored as one byte."""
MOST_ROWS = 32
"""Of a photo or a text: 4,096 bytes."""

FULL = 127
"""What a row of length 1 is stored as."""


class Matcher:
    """Compares the words of texts with the regions of photos, by `rerank.onnx` of a folder."""

    def __init__(self, files: ModelFiles) -> None:
        self._files = files

    def match(
        self, modality: Modality, query: TokenEmbeddings, candidates: Sequence[TokenEmbeddings]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate matches; see `mmsearch.encoders.TokenEncoder.match`."""
        import numpy as np

        scores = np.full(len(candidates), np.nan, np.float32)
        comparable = [row for row, one in enumerate(candidates) if len(one) and len(query)]
        if not comparable:
            return scores
        own, others = ("words", "regions") if modality == "text" else ("regions", "words")
        inputs = {own: query[None], others: stacked([candidates[row] for row in comparable])}
        scores[comparable] = self._session().run([modality], inputs)[0]
        return scores

    def _session(self) -> InferenceSession:
        def load() -> InferenceSession:
            return session(self._files.checked(RERANK), optimise=True, threads=1)

        return self._files.once(RERANK, load)


def stacked(rows: Sequence[TokenEmbeddings]) -> TokenEmbeddings:
    """(n, longest, width): the shorter ones are filled up with rows of zeros."""
    import numpy as np

    longest = max(map(len, rows))
    padded = np.zeros((len(rows), longest, rows[0].shape[1]), np.int8)
    for one, place in zip(rows, padded, strict=True):
        place[: len(one)] = one
    return padded


def quantised(rows: NDArray[np.float32]) -> TokenEmbeddings:
    """What is stored of a thing's rows: a byte a number, no rows of zeros, at most MOST_ROWS."""
    import numpy as np

    filled = rows[np.any(rows != 0, axis=1)][:MOST_ROWS]
    if not len(filled):
        filled = rows[:1]  # a text without a word
    return np.rint(filled * FULL).astype(np.int8)
