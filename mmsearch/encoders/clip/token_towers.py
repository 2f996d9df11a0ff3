"""What was tuned so that a `clip:` model can rerank: `…/tuned/FINGERPRINT/`.

    regions.onnx   pixels → embeddings of a photo's regions; its weights are in regions.bin
    words.onnx     token ids → embeddings of a text's words; words.bin
    rerank.onnx    compares them
    manifest.json  SHA-256 of each, how much a match counts, figures on held-out pairs

`mmsearch tune --reranker` makes it, for one model's weights; it runs without torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.clip.preprocessing import TokenRecipe, Tokens
from mmsearch.encoders.clip.towers import TowerCache
from mmsearch.encoders.model_files import MANIFEST, ModelFiles, short_hash
from mmsearch.encoders.onnx import in_threads, padded_batches, session
from mmsearch.encoders.token_embeddings import REGIONS, RERANK, WORDS, Matcher, quantised
from mmsearch.home import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.types import Modality

log = logging.getLogger(__name__)

REGIONS_WEIGHTS, WORDS_WEIGHTS = "regions.bin", "words.bin"
FILES = (REGIONS, REGIONS_WEIGHTS, WORDS, WORDS_WEIGHTS, RERANK)
TEXTS_PER_BATCH = 16


def tuned_folder(fingerprint: str) -> Path:
    """The folder of the tuned reranker of a model with these weights."""
    return cache_folder() / "tuned" / fingerprint


def find_token_towers(fingerprint: str, facts: dict[str, Any]) -> TokenTowers | None:
    """What was tuned for a model; None if nothing was, or for other weights.

    Args:
        fingerprint: Of the model's weights.
        facts: What `TowerCache` keeps of the model: how its texts become tokens.
    """
    folder = tuned_folder(fingerprint)
    if facts["tokens"] is None or not (folder / MANIFEST).exists():
        return None
    recipe = TokenRecipe.read(facts["tokens"])
    towers = read_token_towers(folder, lambda: Tokens(TowerCache(fingerprint).tokenizer, recipe))
    if towers.fingerprint != fingerprint:
        log.warning("%s was tuned for other weights, and is ignored", folder)
        return None
    return towers


def read_token_towers(folder: Path, tokens: Callable[[], Tokens]) -> TokenTowers:
    """What a folder holds; its graphs are read at their first use.

    Args:
        folder: As `mmsearch.training.reranker_tuning` wrote it.
        tokens: Returns the model's own tokenizer.

    Raises:
        ModelDamaged: its manifest cannot be read.
    """
    files = ModelFiles(
        folder,
        what="the tuned reranker",
        cure=f"Tune it again, or delete {folder} to do without",
    )
    try:
        return TokenTowers(files, tokens)
    except (KeyError, TypeError, ValueError) as error:
        raise files.damaged(MANIFEST, "cannot be read") from error


class TokenTowers:
    """Token embeddings of photos and texts, and their comparison; safe to use from threads."""

    def __init__(self, files: ModelFiles, tokens: Callable[[], Tokens]) -> None:
        self._files, self._read_tokens = files, tokens
        self.match = Matcher(files).match
        self.fingerprint = str(files.manifest["fingerprint"])
        """Of the model's weights."""
        self.match_weight = float(files.manifest["match_weight"])
        hashes = {name: str(files.sha256[name]) for name in FILES}
        self.version = short_hash("".join(hashes[name] for name in FILES if name != RERANK))

    def embeddings(self, modality: Modality, things: Sequence[Any]) -> list[TokenEmbeddings]:
        """Of each thing (rows, 128) int8, at most 32 rows: its regions or words.

        Args:
            modality: "image" or "text".
            things: Pixels as the model's preprocessing leaves them, or strings.

        Raises:
            ModelDamaged: a file is missing or not the one that was made.
        """
        import numpy as np

        if modality == "image":
            photos = self._region_graph()
            runs = in_threads(lambda pixels: _run(photos, pixels[None])[0], things)
            return [quantised(rows) for rows in runs]
        texts, tokens = self._word_graph()
        found = [np.empty((0, 0), np.int8)] * len(things)
        for rows, ids in padded_batches(tokens(things), TEXTS_PER_BATCH):
            for row, words in zip(rows, _run(texts, ids), strict=True):
                found[row] = quantised(words)
        return found

    def _region_graph(self) -> InferenceSession:
        def load() -> InferenceSession:
            self._files.checked(REGIONS_WEIGHTS)  # ONNX Runtime finds them beside the graph
            return session(self._files.checked(REGIONS), optimise=True, threads=1)

        return self._files.once("regions", load)

    def _word_graph(self) -> tuple[InferenceSession, Tokens]:
        def load() -> tuple[InferenceSession, Tokens]:
            self._files.checked(WORDS_WEIGHTS)
            return session(self._files.checked(WORDS), optimise=False), self._read_tokens()

        return self._files.once("words", load)


def _run(graph: InferenceSession, batch: NDArray[Any]) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = graph.run(None, {graph.get_inputs()[0].name: batch})[0]
    return rows
