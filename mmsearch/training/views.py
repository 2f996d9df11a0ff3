"""How a photo looks to the model in training: as it is, mirrored, or cropped and recoloured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from mmsearch.training.trunks import IMAGE_SIZE

PLAIN, MIRRORED = 0, 1


def seen(path: Path, view: int, seed: int) -> NDArray[np.uint8]:
    """Pixels (260, 260, 3) of one photo.

    Args:
        path: The photo.
        view: 0 as it is, 1 mirrored, any other a random crop of its own.
        seed: With the path and the view, fixes the crop.
    """
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    if view == MIRRORED:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif view != PLAIN:
        key = [seed, view, *path.name.encode()]
        photo = _cropped(photo, np.random.default_rng(key))
    small = photo.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(small)


def _cropped(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """40 to 100 % of the photo's area, sides at most 4:3 apart, perhaps mirrored, recoloured."""
    area, ratio = rng.uniform(0.4, 1.0), np.exp(rng.uniform(np.log(0.75), np.log(1.33)))
    wide, high = min(1.0, (area * ratio) ** 0.5), min(1.0, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, 1 - wide) * photo.width, rng.uniform(0, 1 - high) * photo.height
    box = (left, top, left + wide * photo.width, top + high * photo.height)
    photo = photo.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]
    if rng.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = change(photo).enhance(rng.uniform(0.75, 1.25))
    return photo
