"""Has a model's ONNX files made and checked before they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mmsearch.encoders import Encoder, Runtime, load_encoder
from mmsearch.errors import InvalidOption, PathNotFound, UnreadableFile
from mmsearch.media.image import load_image
from mmsearch.media.kinds import endings_of
from mmsearch.media.walk import Tree

ENOUGH = 64
"""Photos that an image tower is checked on."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was made: the towers, and what they were found to be like."""

    towers: list[str]
    photos: int
    notes: list[str]


def export(name: str, photos: Iterable[str], how: Runtime) -> Exported:
    """Export a model's towers to ONNX and check them against torch.

    Args:
        name: A `clip:` model, or "auto".
        photos: Paths of photos to check the image tower on; it is left out when there are none.
        how: The precision wanted; the runtime is ONNX.

    Raises:
        InvalidOption: the model is not exported, as it runs without or on torch alone.
    """
    encoder = load_encoder(name, how)
    if not encoder.name.startswith("clip:"):
        raise InvalidOption(f"{encoder.name} needs no export: only clip: models are exported")
    encoder.encode("text", ["a photo of a dog"])
    pictures = list(islice(_readable(photos, encoder), ENOUGH))
    if pictures:
        encoder.encode("image", pictures)
    towers = ["text", "image"] if pictures else ["text"]
    return Exported(towers, len(pictures), list(encoder.notes))


def photos_in(folder: str) -> Iterator[str]:
    """The paths of the photos in a folder.

    Raises:
        PathNotFound: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise PathNotFound(f"there is no folder {folder!r}")
    for found in Tree(folder, endings=endings_of(["image"])).walk():
        for file in found.files:
            yield os.path.join(folder, file.path)


def _readable(paths: Iterable[str], encoder: Encoder) -> Iterator[Any]:
    for path in paths:
        with suppress(UnreadableFile):
            picture, _ = load_image(path, at_least=encoder.image_size)
            yield encoder.prepare("image", picture)
