"""Captioned photos, views of them to train on, and ImageNet's class names as prompts."""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from mmsearch.encoders.mini.encoder import MiniEncoder
from mmsearch.training.backbones import IMAGE_SIZE

PLAIN, MIRRORED = 0, 1

Part = Literal["train", "dev"]
LICENSED = ("clothing", "groceries")
"""Labelled sets with an open licence (CC0, MIT)."""
DEV_EVERY_PHOTO = 5
"""Of captioned photos without splits of their own, one in so many goes to the dev split."""
DEV_EVERY_OF_LABEL = 4
"""The same, of the photos of each label."""

LABEL_TEMPLATES = (
    "a photo of {}",
    "{}",
    "a photo of a {}",
    "a picture of {}",
    "this is a {}",
    "an image that shows {}",
    "{} in a photo",
    "a {} seen up close",
)


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
    files = (data / f"{name}.txt").read_text(encoding="utf-8").split()
    return _captioned(data, files, _captions(data))


def read_unsplit(data: Path, part: Part) -> Split:
    """Part of the photos in `captions.tsv`: every `DEV_EVERY_PHOTO`-th is of the dev split."""
    captions = _captions(data)
    chosen = [
        file for at, file in enumerate(sorted(captions)) if _in_part(part, at, DEV_EVERY_PHOTO)
    ]
    return _captioned(data, chosen, captions)


def _captions(data: Path) -> dict[str, list[str]]:
    captions = defaultdict(list)
    for line in (data / "captions.tsv").read_text(encoding="utf-8").splitlines():
        file, _, text = line.partition("\t")
        captions[file].append(text.strip())
    return captions


def _captioned(data: Path, files: Sequence[str], captions: Mapping[str, list[str]]) -> Split:
    return Split(data / "images", tuple(files), tuple(tuple(captions[file]) for file in files))


def _in_part(part: Part, position: int, dev_of: int) -> bool:
    return (position % dev_of == dev_of - 1) == (part == "dev")


@dataclass(frozen=True)
class LabelledSet:
    """Photos with one label each.

    Attributes:
        name: Of its folder.
        labels: Distinct.
        of_photo: The label of each photo, as an index into `labels`.
        paths: Of the photos.
    """

    name: str
    labels: tuple[str, ...]
    of_photo: tuple[int, ...]
    paths: tuple[Path, ...]


def read_labelled(data: Path, part: Part) -> list[LabelledSet]:
    """Part of each set in a folder of sets (`<set>/images/`, `<set>/labels.tsv`).

    Of each label, every `DEV_EVERY_OF_LABEL`-th photo is of the dev split.
    """
    return [_labelled_set(file.parent, part) for file in sorted(data.glob("*/labels.tsv"))]


def _labelled_set(folder: Path, part: Part) -> LabelledSet:
    lines = (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()
    rows = sorted(tuple(line.split("\t")[:2]) for line in lines)
    labels = sorted({label for _, label in rows})
    seen: Counter[str] = Counter()
    of_photo, paths = [], []
    for file, label in rows:
        if _in_part(part, seen[label], DEV_EVERY_OF_LABEL):
            of_photo.append(labels.index(label))
            paths.append(folder / "images" / file)
        seen[label] += 1
    return LabelledSet(folder.name, tuple(labels), tuple(of_photo), tuple(paths))


@dataclass(frozen=True)
class TrainingSets:
    """What the towers learn from, besides the names of ImageNet's classes.

    Attributes:
        captioned: Photos with captions.
        labelled: Photos with labels.
        paraphrases: Groups of captions of one photo, which are used without it.
    """

    captioned: tuple[Split, ...]
    labelled: tuple[LabelledSet, ...] = ()
    paraphrases: tuple[tuple[str, ...], ...] = ()

    @property
    def photos(self) -> list[Sequence[Path]]:
        """The paths of the photos of each set: captioned ones, then labelled ones."""
        return [split.paths for split in self.captioned] + [one.paths for one in self.labelled]

    @property
    def captions(self) -> list[tuple[str, ...]]:
        """Those of each captioned photo."""
        return [captions for split in self.captioned for captions in split.captions]


def training_sets(
    data: Path,
    coco: Path | None = None,
    labelled: Path | None = None,
    parallel: Path | None = None,
    *,
    licensed_only: bool = False,
) -> TrainingSets:
    """The training splits.

    Args:
        data: Captioned photos with a list of those to train on, `train.txt`.
        coco: Captioned photos without splits.
        labelled: Sets of labelled photos.
        parallel: Holds `captions.en.tsv.gz`, captions without their photos.
        licensed_only: Leave out what has no open licence: all but COCO, whose captions have one,
            and the sets in `LICENSED`.

    Raises:
        ValueError: `licensed_only`, without `coco`.
    """
    sets = read_labelled(labelled, "train") if labelled else []
    if licensed_only:
        if coco is None:
            raise ValueError("a model from licensed sets alone needs COCO: give --coco")
        licensed = tuple(one for one in sets if one.name in LICENSED)
        return TrainingSets((read_unsplit(coco, "train"),), licensed)
    more = [read_unsplit(coco, "train")] if coco else []
    alone = captions_alone(parallel, "en") if parallel else {}
    return TrainingSets(
        (read_split(data, "train"), *more),
        tuple(sets),
        tuple(tuple(texts) for texts in alone.values() if len(texts) > 1),
    )


def label_prompts(labels: Iterable[str]) -> list[list[str]]:
    """Labels in each of `LABEL_TEMPLATES`, template after template."""
    every = list(labels)
    return [[template.format(label) for label in every] for template in LABEL_TEMPLATES]


def captions_alone(parallel: Path, language: str) -> dict[str, list[str]]:
    """The captions of Multi30k's photos, which are used without the photos, by the photo's name.

    Args:
        parallel: Holds `captions.<language>.tsv.gz`, lines of photo, tab, caption.
        language: "en" or "de".
    """
    captions = defaultdict(list)
    packed = (parallel / f"captions.{language}.tsv.gz").read_bytes()
    for line in gzip.decompress(packed).decode().splitlines():
        photo, _, text = line.partition("\t")
        captions[photo].append(text)
    return captions


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
