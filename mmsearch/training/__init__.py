"""Training the built-in model, and tuning any model on a user's own pairs.

    recipe                the hyperparameters
    data                  photos with captions, their views, ImageNet class names as prompts
    backbones             EfficientNet-lite2 and MiniLM as plain modules, and the heads above them
    late_interaction      region and word embeddings, and their late interaction
    onnx_graphs           ONNX graphs: tracing, small weights, extensions of other graphs
    features              outputs of the frozen lower layers, computed once and cached
    fit                   InfoNCE, distillation, and the two training loops of the towers
    languages             the text tower for languages other than English: texts, tower, training
    phrases, sounds       labelled sounds, phrases that describe them, random changes of them
    audio_head            features of spectrograms in the image tower, and the audio head
    fit_late_interaction  the training loop of token embeddings, on features of any encoder
    previous              maps from the vectors of new weights to those of the weights before
    build                 the steps that write `models/mini`
    dev_figures           recall of the written files on the dev split, with and without reranking
    evaluate_audio        how well the written files find sounds
    space_tuning          the steps of `mmsearch tune`: the space of an index, on a user's own pairs
    examples, heads       those pairs as vectors, and the heads that are trained on them
    report                the gain of tuning, whether it is switched on; as text and for JSON
    switching             switches a tuned model on, and undoes that
    reranker_tuning       `mmsearch tune --reranker`: reranking for a `clip:` model
    clip_features         features of pairs by open_clip's towers
    reranker_figures      the gain of a tuned reranker on held-out pairs

Searches import nothing from here. Making `mini` needs `pip install 'mmsearch[train]'`; tuning a
model needs `pip install 'mmsearch[clip]'`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidOption, MissingExtra
from mmsearch.training.recipe import Recipe

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.encoders import Encoder
    from mmsearch.evaluation.pairs import Pair
    from mmsearch.training.report import TuneReport
    from mmsearch.training.reranker_figures import TuneFigures
    from mmsearch.types import Progress, Report

NEEDED = ("torch", "torchvision", "open_clip", "onnx")
"""The packages that `tune_reranker` needs; `tune` needs the first."""


def tune(
    collection: Collection,
    pairs: str | os.PathLike[str] | Sequence[Pair] | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[TuneReport]:
    """Tune the spaces of an index on pairs; a result is used only if it is measurably better.

    Residual heads above the stored vectors are trained, so nothing is encoded again. They are
    evaluated by 5-fold cross-validation. Heads trained on all pairs are switched on if the change
    in MRR, averaged over all directions, has a 95 % paired bootstrap interval above zero, and MRR
    falls in no direction. An interrupted run leaves the index as it was; `undo_tuning` undoes a
    finished one.

    Args:
        collection: The index.
        pairs: Queries and their files, or a file of them (`mmsearch.evaluation.pairs.read_pairs`);
            by default, the captions in the index.
        seed: For everything random: the same seed and pairs give the same heads.
        progress: Called with (queries encoded, queries in all), then with epochs, then vectors.

    Returns:
        A report for each space that has enough pairs.

    Raises:
        MissingExtra: torch is not installed.
        InvalidOption: there are too few pairs, or the index is tuned already.
        InvalidQuery: none of the files is in the index.
        PathNotFound, InvalidCaptions: the file of pairs does not exist, or cannot be parsed.
        IndexBusy: another process is writing to the index.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("tuning a space", "clip")
    from mmsearch.training.heads import HeadRecipe
    from mmsearch.training.space_tuning import tune as tune_spaces

    return tune_spaces(collection, _read(pairs), HeadRecipe(seed=seed), progress)


def undo_tuning(collection: Collection, *, progress: Progress | None = None) -> Report:
    """Switch back from the tuned models to the original ones, which then answer exactly as before.

    Only what was added or changed since is encoded; the report counts these files as filled.

    Raises:
        InvalidOption: the index is not tuned; or some of these files are not available now.
        IndexBusy: another process is writing to the index.
    """
    from mmsearch.training.switching import undo

    return undo(collection, progress)


def tune_reranker(
    collection: Collection,
    pairs: str | os.PathLike[str] | Sequence[Pair] | None = None,
    *,
    seed: int = 0,
) -> TuneFigures:
    """Train a reranker, which is used if it helps; returns its gain on held-out photos.

    A fifth of the photos is held out. Neither the model's towers nor any stored vectors change. The
    reranker belongs to the model, so that every index of this machine uses it; the next `mmsearch
    index` adds the region and word embeddings. Progress is printed.

    Args:
        collection: An index whose photos are served by a `clip:` model.
        pairs: As for `tune`.
        seed: For everything random.

    Raises:
        InvalidOption: the model cannot be tuned, or there are too few captioned photos.
        MissingExtra: torch or open_clip is not installed.
        InvalidQuery, PathNotFound, InvalidCaptions: as for `tune`.
    """
    model = _reranked_model(collection).name
    if any(importlib.util.find_spec(package) is None for package in NEEDED):
        raise MissingExtra(f"Tuning {model}", "clip")
    from mmsearch.training.clip_features import captioned_photos
    from mmsearch.training.reranker_tuning import Tuning

    recipe = dataclasses.replace(Recipe(), seed=seed)
    return Tuning(model, recipe).run(captioned_photos(collection, _read(pairs)))


def undo_reranker(collection: Collection) -> Path:
    """Delete the tuned reranker of an index's model; returns its folder.

    Raises:
        InvalidOption: it has none.
    """
    from mmsearch.encoders.clip.token_towers import tuned_folder

    encoder = _reranked_model(collection)
    folder = tuned_folder(encoder.fingerprint)
    if not folder.is_dir():
        raise InvalidOption(f"{encoder.name} was not tuned for reranking on this machine")
    shutil.rmtree(folder)
    return folder


def _reranked_model(collection: Collection) -> Encoder:
    """The model of an index's photos, without any heads.

    Raises:
        InvalidOption: it is not a `clip:` model, so its reranker cannot be tuned.
    """
    from mmsearch.encoders.tuned import TunedEncoder

    encoder = collection.encoder
    base = encoder.base if isinstance(encoder, TunedEncoder) else encoder
    if not base.name.startswith("clip:"):
        raise InvalidOption(
            f"only the reranking of a clip: model can be tuned, not that of {base.name!r} "
            "('mini' comes tuned)"
        )
    return base


def _read(pairs: str | os.PathLike[str] | Sequence[Pair] | None) -> Sequence[Pair] | None:
    from mmsearch.evaluation.pairs import read_pairs

    return read_pairs(pairs) if isinstance(pairs, (str, os.PathLike)) else pairs
