"""Captioned photos, views of them to train on, and ImageNet's class names as prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from mmsearch.encoders.mini.encoder import MiniEncoder
from mmsearch.training.backbones import IMAGE_SIZE

PLAIN, MIRRORED = 0, 1


@dataclass(frozen=True)
class Split:
    """Photos of one split, each with its captions."""

    folder: Path
    files: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]

    @property
    def texts(self) -> list[str]:
        """All captions, in photo order."""
        return [text for captions in self.captions for text in captions]

    @property
    def owners(self) -> list[int]:
        """For each of `texts`, the row of its photo."""
        return [row for row, captions in enumerate(self.captions) for _ in captions]

    @property
    def text_rows(self) -> list[list[int]]:
        """For each photo, the rows of its captions in `texts`."""
        rows = iter(range(len(self.owners)))
        return [list(islice(rows, len(captions))) for captions in self.captions]

    @property
    def paths(self) -> list[Path]:
        """Of the photos."""
        return [self.folder / file for file in self.files]


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
    """ImageNet's 1,000 class names in the published prompt templates.

    Args:
        templates: The number of templates to use, evenly spread.

    Returns:
        Lists of 1,000 prompts: "a photo of a X", the bare names, then one list per template.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    every = len(OPENAI_IMAGENET_TEMPLATES) // max(1, templates)
    chosen = list(OPENAI_IMAGENET_TEMPLATES)[::every][:templates]
    plain = [f"a photo of a {name}" for name in IMAGENET_CLASSNAMES]
    bare = list(IMAGENET_CLASSNAMES)
    return [plain, bare, *([fill(name) for name in IMAGENET_CLASSNAMES] for fill in chosen)]


def photo_pixels(encoder: MiniEncoder, paths: Iterable[Path]) -> list[NDArray[np.uint8]]:
    """Photos, prepared for an encoder."""
    pixels = []
    for path in paths:
        with Image.open(path) as photo:
            pixels.append(encoder.prepare("image", photo.convert("RGB")))
    return pixels


def load_view(path: Path, view: int, seed: int) -> NDArray[np.uint8]:
    """Pixels (260, 260, 3) of one photo.

    Args:
        path: The photo.
        view: 0 is the photo as it is, 1 mirrored, any other a random crop with changed colours.
        seed: Of the random crop, together with the path and the view.
    """
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    if view == MIRRORED:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif view != PLAIN:
        photo = _random_crop(photo, np.random.default_rng([seed, view, *path.name.encode()]))
    small = photo.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(small)


def _random_crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """40 to 100 % of the area, its sides' ratio changed by up to 4:3, perhaps mirrored."""
    area, ratio = rng.uniform(0.4, 1.0), np.exp(rng.uniform(np.log(0.75), np.log(1.33)))
    width, height = min(1.0, (area * ratio) ** 0.5), min(1.0, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, 1 - width) * photo.width, rng.uniform(0, 1 - height) * photo.height
    box = (left, top, left + width * photo.width, top + height * photo.height)
    photo = photo.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]
    if rng.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = enhance(photo).enhance(rng.uniform(0.75, 1.25))
    return photo
