"""Maps from the vectors of new weights to those of the weights before, by ridge regression.

Both models encode the same things: the training captions, typical texts and class prompts; the
training photos and others; the training sounds. The maps of photos and sounds, of which there are
fewer, are pulled towards that of texts, since each model has one space for all of them.

Source: Hoerl & Kennard, Technometrics 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoders.previous import LinearMap
from mmsearch.encoders.projected import projected
from mmsearch.encoders.query_bank import typical_texts
from mmsearch.media.kinds import kind_of
from mmsearch.training.data import Split, class_prompts, read_split
from mmsearch.training.dev_figures import dev_recalls
from mmsearch.training.languages import photo_vectors, text_vectors
from mmsearch.training.sounds import Sound, place_in_window, whole_wave

if TYPE_CHECKING:
    from mmsearch.encoders.mini.encoder import MiniEncoder
    from mmsearch.types import Modality, Vectors

RIDGES = tuple(10.0**power for power in range(-4, 5))
"""Ridge strengths to try; the one with the highest mean cosine on held-out vectors is used."""

KEPT_OUT = 10
"""One in this many groups of training vectors is held out to choose the ridge."""

PROMPTS = 7
"""Prompt templates for class names, besides the plain photo prompt and the bare name."""

WINDOWS = 8
"""Random windows of each sound."""


def fit_map(
    new: Vectors,
    old: Vectors,
    prior: LinearMap | None = None,
    *,
    owners: NDArray[np.integer] | None = None,
) -> LinearMap:
    """The map from new unit rows (n, dim) to old unit rows (n, dim).

    Args:
        new: What the current weights make of some things.
        old: What the previous ones make of them.
        prior: What the ridge pulls the map towards; nothing, by default.
        owners: (n,) numbers of the groups that are held out together; by default, each row is one.
    """
    kept_out = (np.arange(len(new)) if owners is None else owners) % KEPT_OUT == 0
    by_ridge = _ridge_path(new[~kept_out], old[~kept_out], prior)

    def cosine(ridge: float) -> float:
        return float((by_ridge(ridge)(new[kept_out]) * old[kept_out]).sum(axis=1).mean())

    return _ridge_path(new, old, prior)(max(RIDGES, key=cosine))


def _ridge_path(
    new: Vectors, old: Vectors, prior: LinearMap | None
) -> Callable[[float], LinearMap]:
    """The map by the ridge; a mean is subtracted from both sides, so the bias is not shrunk."""
    x, y = new.astype(np.float64), old.astype(np.float64)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean_x, y - mean_y
    start = np.zeros((x.shape[1], y.shape[1])) if prior is None else prior.matrix
    values, vectors = np.linalg.eigh(x.T @ x)
    right = vectors.T @ (x.T @ (y - x @ start))

    def solve(ridge: float) -> LinearMap:
        matrix = start + vectors @ (right / (np.maximum(values, 0) + ridge)[:, None])
        return LinearMap(*(one.astype(np.float32) for one in (matrix, mean_y - mean_x @ matrix)))

    return solve


def fit_previous(
    old: MiniEncoder,
    new: MiniEncoder,
    data: Path,
    *,
    photos: Sequence[Path] = (),
    sounds: Sequence[Sound] = (),
    cache: Path,
    seed: int = 0,
) -> dict[Modality, LinearMap]:
    """The maps from the vectors of one model to those of another, by modality.

    Args:
        old: With the previous weights.
        new: With the current ones.
        data: Captioned photos; their train split is used.
        photos: Folders of more photos.
        sounds: May be empty if either model does not hear.
        cache: A folder for what both encode.
        seed: Of the windows of sounds.

    Raises:
        ValueError: both models hear, and there are no sounds.
    """
    if "audio" in old.modalities & new.modalities and not sounds:
        raise ValueError("both models hear: give --sounds, --animals and --stamps")
    split = read_split(data, "train")
    owner_of = _training_texts(split)
    texts, owners_of_texts = list(owner_of), np.array(list(owner_of.values()))
    print(f"{len(texts)} texts")
    new_texts, old_texts = (text_vectors(one, texts, cache) for one in (new, old))
    by_text = fit_map(new_texts, old_texts, owners=owners_of_texts)
    folders = [split, *(_photos_in(folder) for folder in photos)]
    print(f"{sum(len(one.files) for one in folders)} photos")
    new_photos, old_photos = (
        np.concatenate([photo_vectors(one, folder, cache) for folder in folders])
        for one in (new, old)
    )
    maps: dict[Modality, LinearMap] = {
        "text": by_text,
        "image": fit_map(new_photos, old_photos, by_text),
    }
    if sounds:
        waves = _windows(sounds, seed)
        print(f"{len(waves)} windows of {len(sounds)} sounds")
        owners = np.repeat(np.arange(len(sounds)), WINDOWS)
        new_sounds, old_sounds = (one.encode("audio", waves) for one in (new, old))
        maps["audio"] = fit_map(new_sounds, old_sounds, by_text, owners=owners)
    return maps


def print_cost(
    old: MiniEncoder,
    new: MiniEncoder,
    maps: Mapping[Modality, LinearMap],
    data: Path,
    *,
    cache: Path,
) -> None:
    """Print the recalls on the dev split of both models, and of new queries on old vectors."""
    split = read_split(data, "dev")
    new_texts, old_texts = (text_vectors(one, split.texts, cache) for one in (new, old))
    new_photos, old_photos = (photo_vectors(one, split, cache) for one in (new, old))
    by_text = dev_recalls(old_photos, projected(maps, "text", new_texts), split)
    by_photo = dev_recalls(projected(maps, "image", new_photos), old_texts, split)
    found = {
        "old on old": dev_recalls(old_photos, old_texts, split),
        "mapped on old": by_photo | {"text→image": by_text["text→image"]},
        "new on new": dev_recalls(new_photos, new_texts, split),
    }
    for direction in ("text→image", "image→text"):
        for name, rows in found.items():
            figures = " ".join(
                f"R@{cutoff} {at.mean:.1f}" for cutoff, at in rows[direction].items()
            )
            print(f"{direction} {name:13}", figures)


def _training_texts(split: Split) -> dict[str, int]:
    """Captions, typical texts and class prompts, each with the number of its photo, text or class.

    Where these numbers coincide, what they are of is held out together, which does no harm.
    """
    found = dict(zip(split.texts, split.owners, strict=True))
    for listed in (typical_texts(), *class_prompts(PROMPTS)):
        found |= {text: number for number, text in enumerate(listed)}
    return found


def _photos_in(folder: Path) -> Split:
    """All photos in a folder, to any depth, without captions."""
    found = (path for path in sorted(folder.resolve().rglob("*")) if kind_of(path.name) == "image")
    files = tuple(map(str, found))
    return Split(folder, files, ((),) * len(files))


def _windows(sounds: Sequence[Sound], seed: int) -> list[NDArray[np.float32]]:
    """Windows of sounds, each at random places."""
    rng = np.random.default_rng(seed)
    found = []
    for wave in map(whole_wave, sounds):
        found += [place_in_window(wave, rng, repeat=bool(n % 2)) for n in range(WINDOWS)]
    return found
