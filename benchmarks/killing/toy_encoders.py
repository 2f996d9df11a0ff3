"""Encoders that cost nothing, and batches so small that a few files make many of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from mmsearch.encoders import Encoder
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY

SMALL: dict[str, Any] = {
    "mmsearch.indexing.pipeline.PICTURES_A_BATCH": 8,
    "mmsearch.indexing.pipeline.TEXTS_A_BATCH": 6,
    "mmsearch.indexing.pipeline.FILES_AHEAD": 16,
    "mmsearch.indexing.backfill.ITEMS_A_BATCH": 9,
    "mmsearch.storage.sqlite.words.BATCH": 25,
    "mmsearch.indexing.bulk.sources.ROWS_AT_ONCE": 10,
    "mmsearch.storage.sqlite.filters.SMALLEST": 10,
    "mmsearch.spaces.query_banks.FEWEST_PICTURES": 66,
    "mmsearch.spaces.query_banks.SAMPLE_QUERIES": 8,
    "mmsearch.storage.backups.PAGES_AT_ONCE": 4,
}
"""Sizes so small that a folder of some hundred files is stored in a dozen transactions."""

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 30),
    "blue": (20, 30, 220),
    "grey": (99, 99, 99),
}


class Toy(Encoder):
    """Encodes the colours of a picture, and the words for them.

    Each row is computed by itself, so that its bits do not depend on its batch.
    """

    name = "toy"
    fingerprint = "toy-1"
    dim = 16
    modalities = frozenset({"image", "text"})
    image_size = 4

    def prepare(self, modality: str, thing: Any) -> Any:
        """The pixels of a small picture; a text as it is."""
        return np.asarray(thing.resize((4, 4))) if modality == "image" else thing

    def encode(self, modality: str, batch: Any) -> Any:
        """Unit vectors (n, 16)."""
        rows = np.zeros((len(batch), self.dim), np.float32)
        for row, thing in zip(rows, batch, strict=True):
            self._encode(modality, thing, row)
        lengths = [np.sqrt(np.sum(row.astype(np.float64) ** 2)) for row in rows]
        return rows / np.array(lengths, np.float32)[:, None]

    def _encode(self, modality: str, thing: Any, row: Any) -> None:
        row[15] = 0.05
        if modality == "image":
            pixels = self.prepare("image", thing) if isinstance(thing, Image.Image) else thing
            row[:3] = pixels.reshape(-1, 3).mean(axis=0) / 255
            row[3:15] = pixels[::3, ::3].reshape(-1) / 2550
            return
        for word in thing.lower().split():
            row[:3] += np.array(COLOURS.get(word.strip(".,"), (0, 0, 0)), np.float32) / 255
            row[3 + sum(word.encode("utf-8", "replace")) % 12] += 0.1


class Second(Toy):
    """Encodes the same otherwise, as another model would."""

    name = "second"
    fingerprint = "second-1"

    def encode(self, modality: str, batch: Any) -> Any:
        """Unit vectors (n, 16)."""
        return super().encode(modality, batch)[:, ::-1].copy()


class Preferred(SingleModel):
    """The model that `auto` stands for."""

    def best_here(self) -> str:
        return self.forms[0]


@contextmanager
def small_steps(home: Path) -> Iterator[None]:
    """Replace the models by the toys, and the sizes of batches by small ones."""
    models = {"toy": Preferred("toy", Toy), "second": SingleModel("second", Second)}
    environment = {"MMSEARCH_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    with ExitStack() as patches:
        patches.enter_context(patch.dict(REGISTRY, models))
        patches.enter_context(patch.dict(os.environ, environment))
        for name, value in SMALL.items():
            patches.enter_context(patch(name, value))
        yield
