"""How the built-in model is made, and how a `clip:` model is tuned for reranking.

    recipe                the hyperparameters
    data                  photos with captions, their views, ImageNet class names as prompts
    backbones             EfficientNet-lite2 and MiniLM as plain modules, and the heads above them
    late_interaction      region and word embeddings, and their late interaction
    onnx_graphs           ONNX graphs: tracing, small weights, extensions of other graphs
    features              outputs of the frozen lower layers, computed once and cached
    fit                   InfoNCE, distillation, and the two training loops of the towers
    phrases, sounds       labelled sounds, phrases that describe them, random changes of them
    audio_head            features of spectrograms in the image tower, and the audio head
    fit_late_interaction  the training loop of token embeddings, on features of any encoder
    build                 the steps that write `models/mini`
    dev_figures           recall of the written files on the dev split, with and without reranking
    evaluate_audio        how well the written files find sounds
    tuning                the steps of `tune`: reranking for a `clip:` model, on a user's own pairs
    clip_features         features of those pairs by open_clip's towers
    tune_figures          the gain of tuning on held-out pairs

Searches import nothing of this; it needs `pip install 'mmsearch[train]'`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidOption, MissingExtra
from mmsearch.training.recipe import Recipe

if TYPE_CHECKING:
    from mmsearch.training.tune_figures import TuneFigures

NEEDED = ("torch", "torchvision", "open_clip", "onnx")
"""The packages that `tune` needs."""


def tune(
    model: str,
    photos: Path,
    captions: Path,
    out: Path | None = None,
    *,
    recipe: Recipe = Recipe(),  # noqa: B008 - frozen
) -> TuneFigures:
    """The gain of reranking on held-out photos; trains it on the others and writes its files.

    A fifth of the photos is held out. The towers of the model do not change, nor do the vectors in
    its indexes; the next `mmsearch index` adds the region and word embeddings.

    Args:
        model: clip:ARCH/TAG, or another name of a `clip:` model that is on this machine.
        photos: A folder of photos.
        captions: A file that names them, as `mmsearch index --captions` takes it.
        out: The folder to write; by default where the model will find it.
        recipe: The hyperparameters and the seed.

    Raises:
        MMSearchError: reranking does not measurably find more; nothing is written.
        InvalidOption: the model cannot be tuned, or there are too few captioned photos.
        MissingExtra: torch or open_clip is not installed.
        PathNotFound, InvalidCaptions: the photos or the captions cannot be read.
        UnknownModel, ModelUnavailable: there is no such model here.
    """
    if not model.startswith("clip:"):
        raise InvalidOption(
            f"only a clip: model can be tuned, clip:ViT-B-32/laion2b_s34b_b79k say, not {model!r} "
            "('mini' comes tuned)"
        )
    if any(importlib.util.find_spec(package) is None for package in NEEDED):
        raise MissingExtra(f"Tuning {model}", "clip")
    from mmsearch.training.tuning import Tuning

    return Tuning(model, recipe).run(photos, captions, out)
