"""A model for child processes, as `mini` costs seconds of computing in each."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mmsearch.encoders import Encoder
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY

SECONDS = 0.015
"""For each photo, in which the process sleeps: it can be met in the midst of indexing."""


class SlowToy(Encoder):
    """Sees a picture's pixels, and reads the letters of a text."""

    name = "slow"
    fingerprint = "slow-1"
    dim = 48
    modalities = frozenset({"image", "text"})
    image_size = 4

    def prepare(self, modality: str, thing: Any) -> Any:
        return np.asarray(thing.resize((4, 4))) if modality == "image" else thing

    def encode(self, modality: str, batch: Any) -> Any:
        rows = np.full((len(batch), self.dim), 0.01, dtype=np.float32)
        for at, thing in enumerate(batch):
            if modality == "image":
                pixels = thing if isinstance(thing, np.ndarray) else self.prepare("image", thing)
                rows[at] += pixels.reshape(-1)
                time.sleep(SECONDS)
            else:
                rows[at] += np.bincount([ord(one) % self.dim for one in thing], minlength=self.dim)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class _Best(SingleModel):
    def best_here(self) -> str:
        return self.forms[0]


FAMILY = _Best("slow", SlowToy)


def register() -> None:
    """Make it the model that new indexes get."""
    REGISTRY["slow"] = FAMILY
