"""The pairs to learn from: captioned photos, and class names set into prompts.

How a photo looks to the model in training: as it is, mirrored, or cropped and recoloured.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from mmsearch.training.towers import IMAGE_SIZE

CAPTIONS_A_PHOTO = 5


@dataclass(frozen=True)
class Split:
    """Photos of one split, each with its captions."""

    folder: Path
    files: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]

    @property
    def texts(self) -> list[str]:
        """All captions in photo order."""
        return [text for captions in self.captions for text in captions]

    @property
    def owners(self) -> list[int]:
        """For each of `texts`, the position of its photo."""
        return [row for row, captions in enumerate(self.captions) for _ in captions]

    def path(self, row: int) -> Path:
        """Where the photo of a row lies."""
        return self.folder / self.files[row]


def read_split(data: Path, name: str) -> Split:
    """The photos named in `<name>.txt` with their captions from `captions.tsv`.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
    """
    captions = defaultdict(list)
    for line in (data / "captions.tsv").read_text(encoding="utf-8").splitlines():
        file, _, text = line.partition("\t")
        captions[file].append(text.strip())
    files = tuple((data / f"{name}.txt").read_text(encoding="utf-8").split())
    return Split(data / "images", files, tuple(tuple(captions[file]) for file in files))


def class_prompts(templates: int) -> list[list[str]]:
    """ImageNet's 1,000 class names, each set into the published prompt templates.

    Args:
        templates: How many of those, evenly spread.

    Returns:
        Lists of 1,000 prompts: "a photo of a X", the bare name, then one for each template.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    every = len(OPENAI_IMAGENET_TEMPLATES) // max(1, templates)
    chosen = list(OPENAI_IMAGENET_TEMPLATES)[::every][:templates]
    plain = [f"a photo of a {name}" for name in IMAGENET_CLASSNAMES]
    bare = list(IMAGENET_CLASSNAMES)
    return [plain, bare, *([fill(name) for name in IMAGENET_CLASSNAMES] for fill in chosen)]


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
