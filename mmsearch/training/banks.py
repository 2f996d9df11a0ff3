"""The bank of typical queries that ships with the built-in model, and what is measured on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.encoders.banks import save_bank, typical_texts
from mmsearch.encoders.mini import MiniEncoder, load_mini
from mmsearch.spaces.query_banks import measured
from mmsearch.training.data import Split, read_split
from mmsearch.types import Modality

if TYPE_CHECKING:
    from mmsearch.types import Vectors

CAPTIONS = 1_800
"""And half of the sentences: captions alone stand for searches among photos of people."""
PHOTOS = 2_000
"""As many again are the items that references are measured on."""
PHOTOS_AT_ONCE = 64


def make_bank(data: Path, out: Path, *, seed: int) -> None:
    """Write `bank.npz` into a model's folder, from the train split.

    Args:
        data: Holds `images/`, `captions.tsv` and `train.txt`.
        out: The model's folder; its towers encode.
        seed: Of the draw.
    """
    split, encoder = read_split(data, "train"), load_mini(out)
    drawn = np.random.default_rng(seed).permutation(len(split.files)).tolist()
    photos, others, captioned = drawn[:PHOTOS], drawn[PHOTOS : 2 * PHOTOS], drawn[2 * PHOTOS :]
    sentences = typical_texts()
    captions = [split.captions[row][0] for row in captioned[:CAPTIONS]]
    rows: dict[Modality, Vectors] = {
        "text": encoder.encode("text", captions + sentences[::2]),
        "image": _photos(encoder, split, photos),
    }
    others_of: dict[Modality, Vectors] = {
        "text": encoder.encode("text", sentences[1::2]),
        "image": _photos(encoder, split, others),
    }
    save_bank(out / "bank.npz", encoder.fingerprint, measured(rows, others_of))


def _photos(encoder: MiniEncoder, split: Split, chosen: Sequence[int]) -> Vectors:
    parts = (encoder.encode("image", part) for part in _opened(split, chosen))
    return np.concatenate(list(parts))


def _opened(split: Split, chosen: Sequence[int]) -> Iterator[list[Any]]:
    from PIL import Image

    for start in range(0, len(chosen), PHOTOS_AT_ONCE):
        part = chosen[start : start + PHOTOS_AT_ONCE]
        yield [Image.open(split.path(row)).convert("RGB") for row in part]
