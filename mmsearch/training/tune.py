"""`python -m mmsearch.training tune`: teaches a `clip:` model to look closer, on a user's pairs.

Nothing heavy is imported before it is known to be here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidOption, MissingExtra
from mmsearch.training.recipe import Recipe

if TYPE_CHECKING:
    from mmsearch.training.tune_figures import Figures

NEEDED = ("torch", "torchvision", "open_clip", "onnx")


def tune(
    model: str,
    photos: Path,
    captions: Path,
    out: Path | None = None,
    *,
    recipe: Recipe = Recipe(),  # noqa: B008 - frozen
) -> Figures:
    """Learn regions, words and how they match on captioned photos, and keep it if it helps.

    A fifth of the photos is held out. Both towers of the model stay as they are, and so do the
    vectors of its indexes; their regions and words are computed by the next `mmsearch index`.

    Args:
        model: clip:ARCH/TAG, or another name of a `clip:` model that is on this machine.
        photos: A folder of photos.
        captions: A file that names them, as `mmsearch index --captions` takes it.
        out: The folder to write; left out, where the model will find it.
        recipe: How to learn, and the seed.

    Returns:
        What it is worth on the held-out photos.

    Raises:
        MMSearchError: on those it finds no more, for all that can be told; nothing is written.
        InvalidOption: the model cannot be tuned so, or there are too few captioned photos.
        MissingExtra: torch or open_clip is not installed.
        PathNotFound, InvalidCaptions: the photos or the captions cannot be read.
        UnknownModel, ModelUnavailable: there is no such model here.
    """
    if not model.startswith("clip:"):
        raise InvalidOption(
            f"what is tuned is a clip: model, clip:ViT-B-32/laion2b_s34b_b79k say, not {model!r} "
            "('mini' comes tuned)"
        )
    if any(importlib.util.find_spec(package) is None for package in NEEDED):
        raise MissingExtra(f"Tuning {model}", "clip")
    from mmsearch.training.tuning import Tuning

    return Tuning(model, recipe).run(photos, captions, out)
