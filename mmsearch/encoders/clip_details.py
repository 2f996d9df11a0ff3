"""What was tuned so that a `clip:` model can look closer: `…/tuned/FINGERPRINT/`.

    regions.onnx   pixels → rows of a photo; its weights are in regions.bin
    words.onnx     token ids → rows of a text; words.bin
    rerank.onnx    compares them
    manifest.json  SHA-256 of each, what a match counts, figures on held-out pairs

`python -m mmsearch.training tune` makes it, for one model's weights; it runs without torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmsearch.encoders.clip_cache import Towers
from mmsearch.encoders.clip_tokens import TokenRecipe, Tokens
from mmsearch.encoders.mini_match import REGIONS, RERANK, WORDS, Matcher, quantised
from mmsearch.encoders.onnx import session
from mmsearch.errors import ModelDamaged
from mmsearch.home import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from mmsearch.types import Modality

Loaded = TypeVar("Loaded")

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
REGIONS_WEIGHTS, WORDS_WEIGHTS = "regions.bin", "words.bin"
FILES = (REGIONS, REGIONS_WEIGHTS, WORDS, WORDS_WEIGHTS, RERANK)
TEXTS_A_RUN = 16


def tuned_folder(fingerprint: str) -> Path:
    """Where what was tuned for a model's weights is looked for."""
    return cache_folder() / "tuned" / fingerprint


def find_details(fingerprint: str, facts: dict[str, Any]) -> Details | None:
    """What was tuned for a model, None if nothing was; other weights' is passed over.

    Args:
        fingerprint: Of the model's weights.
        facts: What `Towers` keeps of the model: how its texts are cut into tokens.
    """
    folder = tuned_folder(fingerprint)
    if facts["tokens"] is None or not (folder / MANIFEST).exists():
        return None
    recipe = TokenRecipe.read(facts["tokens"])
    details = read_details(folder, lambda: Tokens(Towers(fingerprint).tokenizer, recipe))
    if details.fingerprint != fingerprint:
        log.warning("%s was tuned for other weights, and is passed over", folder)
        return None
    return details


def read_details(folder: Path, tokens: Callable[[], Tokens]) -> Details:
    """What lies in a folder; its graphs are read when first needed.

    Args:
        folder: As `mmsearch.training.tune` wrote it.
        tokens: Gives the model's own tokens.

    Raises:
        ModelDamaged: its manifest cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Details(folder, manifest, tokens)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / MANIFEST, "cannot be read") from error


class Details:
    """Rows of photos and of texts, and how well they match; safe to use from several threads."""

    def __init__(
        self, folder: Path, manifest: dict[str, Any], tokens: Callable[[], Tokens]
    ) -> None:
        self.fingerprint = str(manifest["fingerprint"])
        self.weight = float(manifest["match_weight"])
        self._folder, self._read_tokens = folder, tokens
        self._sha256 = {name: str(manifest["sha256"][name]) for name in FILES}
        rows = "".join(self._sha256[name] for name in FILES if name != RERANK)
        self.version = hashlib.sha256(rows.encode()).hexdigest()[:16]
        self._loading = threading.Lock()
        self._loaded: dict[str, Any] = {}

    def rows(self, modality: Modality, things: Sequence[Any]) -> list[NDArray[np.int8]]:
        """Of each thing (rows, 128) int8, at most 32 rows: regions or words.

        Args:
            modality: "image" or "text".
            things: Pixels as the model's preprocessing leaves them, or strings.

        Raises:
            ModelDamaged: a file is missing or not the one that was made.
        """
        if modality == "image":
            one = self._photos
            found = list(self._threads.map(lambda pixels: _run(one, pixels[None])[0], things))
            return [quantised(rows) for rows in found]
        return self._of_texts(things)

    def _of_texts(self, texts: Sequence[str]) -> list[NDArray[np.int8]]:
        """Texts of like length run together."""
        import numpy as np

        graph, tokens = self._texts
        ids = tokens(texts)
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        found = [np.empty((0, 0), np.int8)] * len(ids)
        for start in range(0, len(ids), TEXTS_A_RUN):
            rows = by_length[start : start + TEXTS_A_RUN]
            batch = np.zeros((len(rows), len(ids[rows[-1]])), np.int64)
            for line, row in zip(batch, rows, strict=True):
                line[: len(ids[row])] = ids[row]
            for row, words in zip(rows, _run(graph, batch), strict=True):
                found[row] = quantised(words)
        return found

    def match(
        self, modality: Modality, query: NDArray[np.int8], candidates: Sequence[NDArray[np.int8]]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate fits the query; see `mini_match.Matcher.scores`."""
        return self._matcher.scores(modality, query, candidates)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="look")

    @property
    def _photos(self) -> InferenceSession:
        def load() -> InferenceSession:
            self._checked(REGIONS_WEIGHTS)  # ONNX Runtime finds it beside the graph
            return session(self._checked(REGIONS), optimise=True, threads=1)

        return self._once("photos", load)

    @property
    def _texts(self) -> tuple[InferenceSession, Tokens]:
        def load() -> tuple[InferenceSession, Tokens]:
            self._checked(WORDS_WEIGHTS)
            return session(self._checked(WORDS), optimise=False), self._read_tokens()

        return self._once("texts", load)

    @property
    def _matcher(self) -> Matcher:
        return self._once("matcher", lambda: Matcher(self._checked(RERANK)))

    def _once(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        """What `load` gives, unless it was loaded before or by another thread meanwhile."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = load()
            loaded: Loaded = self._loaded[name]
            return loaded

    def _checked(self, name: str) -> Path:
        """Where one of the files lies, once it is known to be what was made."""
        path = self._folder / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _damaged(path, "cannot be read") from error
        if found != self._sha256[name]:
            raise _damaged(path, "is not the file that was made (its SHA-256 differs)")
        return path


def _run(graph: InferenceSession, batch: NDArray[Any]) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = graph.run(None, {graph.get_inputs()[0].name: batch})[0]
    return rows


def _damaged(path: Path, what: str) -> ModelDamaged:
    return ModelDamaged(
        f"the tuned reranker is damaged: {path} {what}. Tune it again, or delete {path.parent} to "
        "do without"
    )
