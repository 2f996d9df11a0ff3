"""How well a model's folder finds sounds, both unseen and from its training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mmsearch.encoders.mini.encoder import MiniEncoder, load_mini
from mmsearch.training.audio_head import (
    Concepts,
    SoundFeatures,
    concepts_of,
    fit_audio,
    sound_features,
)
from mmsearch.training.data import Split, photo_pixels, read_split
from mmsearch.training.phrases import ESC10
from mmsearch.training.recipe import Recipe
from mmsearch.training.sounds import Sound, SoundSources, waves_of

Scores = NDArray[np.float32]
"""(queries, items)."""
Relevant = NDArray[np.bool_]
"""(queries, items)."""
Figures = dict[str, dict[str, float]]
"""Values by measure, of each row that is printed."""

HELD_OUT_VIEWS = 4
"""Random changes of sounds that are held out of training for evaluation."""

OTHER_WORDS = {
    "Dog bark": "a dog is barking outside",
    "Rooster": "a rooster crows in the morning",
    "Rain": "rain drums on the window",
    "Sea waves": "waves hitting the beach",
    "Baby cry": "an infant is crying loudly",
    "Clock tick": "the hands of an old clock",
    "Person sneeze": "somebody has a cold and sneezes",
    "Helicopter": "a helicopter hovers in the sky",
    "Chainsaw": "felling a tree with a power saw",
    "Fire crackling": "wood burns in a fireplace",
}
"""ESC-10's labels in words that are not among the phrases trained on."""

IN_CAPTIONS = {
    "Dog bark": ("dog", "dogs", "puppy"),
    "Sea waves": ("ocean", "waves", "wave", "surf", "surfer", "sea"),
    "Baby cry": ("baby", "infant"),
    "Fire crackling": ("fire", "campfire", "bonfire"),
}
"""The labels of things that Flickr8k's photos show, and the words of captions that mention them."""


def average_precisions(scores: Scores, relevant: Relevant) -> NDArray[np.float64]:
    """For each query, the mean of the precisions at the ranks of its relevant items."""
    found = []
    for row, right in zip(scores, relevant, strict=True):
        hits = right[np.argsort(-row, kind="stable")]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        found.append(precision[hits].mean())
    return np.array(found)


def hits_at(scores: Scores, relevant: Relevant, k: int) -> float:
    """Per cent of queries with a relevant item among the first k."""
    return 100 * float(_first(scores, relevant, k).any(axis=1).mean())


def precision_at(scores: Scores, relevant: Relevant, k: int) -> float:
    """Per cent of the first k that are relevant, in the mean over queries."""
    return 100 * float(_first(scores, relevant, k).mean())


def _first(scores: Scores, relevant: Relevant, k: int) -> Relevant:
    """Whether each of the first k items is relevant."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(relevant, best, axis=1)


def _recalls(scores: Scores, relevant: Relevant) -> dict[str, float]:
    return {f"R@{k}": hits_at(scores, relevant, k) for k in (1, 5, 10)}


def unseen_vectors(
    sounds: Sequence[Sound], features: SoundFeatures, concepts: Concepts, recipe: Recipe
) -> NDArray[np.float32]:
    """(windows of the sounds with a fold, 512), each from a head trained without that fold."""
    folds = np.array([sound.fold for sound in sounds])
    of_window = folds[features.owners]
    vectors = np.zeros((len(of_window), concepts.vectors.shape[1]), np.float32)
    for fold in sorted(set(folds) - {0}):
        head = fit_audio(
            features, concepts, torch.from_numpy(np.flatnonzero(folds != fold)), recipe
        )
        held_out = of_window == fold
        vectors[held_out] = head(features.plain[held_out]).numpy()
    return vectors[of_window > 0]


def best_window(scores: Scores, owners: NDArray[np.int64]) -> Scores:
    """(queries, sounds): the score of the best window of each sound.

    Args:
        scores: (queries, windows)
        owners: (windows,) the sound of each window, ascending.
    """
    best: Scores = np.maximum.reduceat(scores, np.unique(owners, return_index=True)[1], axis=1)
    return best


def unseen_figures(
    title: str,
    sounds: Sequence[Sound],
    heard: tuple[NDArray[np.float32], NDArray[np.int64]],
    descriptions: Mapping[str, Mapping[str, str]],
    encoder: MiniEncoder,
) -> Figures:
    """A set whose folds are left out in turn: a description of each label against its sounds.

    Args:
        title: Of the set.
        sounds: Of the set.
        heard: The vectors of their windows, and the sound of each window.
        descriptions: Kind → label → text.
        encoder: Of the texts.
    """
    vectors, owners = heard
    found: Figures = {}
    for kind, text_of in descriptions.items():
        relevant = np.array([[sound.label == label for sound in sounds] for label in text_of])
        scores = best_window(encoder.encode("text", list(text_of.values())) @ vectors.T, owners)
        found[f"{title} unseen, {kind}"] = {
            "accuracy": 100 * float((scores.argmax(0) == relevant.argmax(0)).mean()),
            "mAP": float(average_precisions(scores, relevant).mean()),
            "R@1": hits_at(scores, relevant, 1),
        }
    scores = best_window(best_window(vectors @ vectors.T, owners).T, owners)
    np.fill_diagonal(scores, -2)
    labels = np.array([sound.label for sound in sounds])
    same = labels[:, None] == labels
    np.fill_diagonal(same, val=False)
    found[f"{title} unseen, sound→sound"] = {"P@5": precision_at(scores, same, 5)}
    return found


def photo_figures(
    labels: Sequence[str], vectors: NDArray[np.float32], encoder: MiniEncoder, data: Path
) -> Figures:
    """Unseen sounds against photos of everyday scenes, which should show the source."""
    split = read_split(data, "dev")
    photos = encoder.encode("image", photo_pixels(encoder, split.paths))
    found: Figures = {}
    for label, words in IN_CAPTIONS.items():
        sounds = np.array([other == label for other in labels])
        shown = _shown(split, words)
        scores = vectors[sounds] @ photos.T
        values = {
            "sound→image P@10": precision_at(scores, np.broadcast_to(shown, scores.shape), 10),
            "by chance": 100 * float(shown.mean()),
        }
        if shown.any():
            scores = photos[shown] @ vectors.T
            values |= {
                "image→sound P@10": precision_at(scores, np.broadcast_to(sounds, scores.shape), 10),
                "by chance ": 100 * float(sounds.mean()),
            }
        found[f"{label} unseen, {int(shown.sum())} photos"] = values
    return found


def _shown(split: Split, words: Sequence[str]) -> Relevant:
    """The photos of which at least two captions mention one of the words."""
    mentions = [
        sum(bool({*text.lower().replace(".", " ").split()} & {*words}) for text in captions)
        for captions in split.captions
    ]
    return np.array(mentions) >= 2


def changed_figures(
    sounds: Sequence[Sound],
    features: SoundFeatures,
    concepts: Concepts,
    encoder: MiniEncoder,
    recipe: Recipe,
) -> Figures:
    """Stamps with changes that their head was not trained on: known recordings, changed anew."""
    train, held_out = features.changed[:-HELD_OUT_VIEWS], features.changed[-HELD_OUT_VIEWS:]
    seen = SoundFeatures(features.plain, features.owners, train)
    head = fit_audio(seen, concepts, torch.arange(len(sounds)), recipe)
    stamps = [row for row, sound in enumerate(sounds) if sound.fold == 0]
    labels = np.array([sounds[row].label for row in stamps])
    texts = encoder.encode("text", labels.tolist())
    same = labels[:, None] == labels
    vectors = head(held_out[:, stamps].float()).numpy()
    scores = np.concatenate([texts @ of_view.T for of_view in vectors])
    relevant = np.tile(same, (len(vectors), 1))
    values = {"mAP": float(average_precisions(scores, relevant).mean())}
    return {"stamps changed in new ways, text→sound": values | _recalls(scores, relevant)}


def stamp_figures(stamps: Sequence[Sound], encoder: MiniEncoder, folder: Path) -> Figures:
    """Sounds that the shipped head was trained on, by their captions and pictures."""
    windows = [waves_of(sound) for sound in stamps]
    owners = np.repeat(np.arange(len(windows)), [len(waves) for waves in windows])
    vectors = encoder.encode("audio", [wave for waves in windows for wave in waves])
    labels = [sound.label for sound in stamps]
    texts = encoder.encode("text", labels)
    same = np.array(labels)[:, None] == np.array(labels)

    names = sorted({path.name for path in (folder / "images").iterdir()})
    pixels = photo_pixels(encoder, [folder / "images" / name for name in names])
    pictures = encoder.encode("image", pixels)
    shows = np.array([[name == sound.picture for name in names] for sound in stamps])
    by_text = best_window(texts @ vectors.T, owners)
    return {
        "stamps trained on, text→sound": {
            "mAP": float(average_precisions(by_text, same).mean()),
            "R@1": hits_at(by_text, same, 1),
            "R@5": hits_at(by_text, same, 5),
        },
        "stamps trained on, sound→text": _recalls(by_text.T, same),
        "stamps trained on, sound→image": _recalls(
            best_window(pictures @ vectors.T, owners).T, shows
        ),
        "stamps trained on, image→sound": _recalls(
            best_window(pictures[shows.argmax(1)] @ vectors.T, owners), same
        ),
    }


def evaluate_audio(
    model: Path, data: Path, sources: SoundSources, *, cache: Path, recipe: Recipe
) -> None:
    """Print every figure of sounds, a row each.

    Args:
        model: The model's folder.
        data: Captioned photos; their dev split is used.
        sources: The folders of the labelled sets.
        cache: Of features.
        recipe: Of the shipped head, for the heads trained without a fold.
    """
    encoder = load_mini(model)
    esc10, animals, stamps = sources.sets()
    sounds = [*esc10, *animals, *stamps]
    features = sound_features(sounds, model / "image.onnx", recipe, cache=cache)
    concepts = concepts_of(sounds, encoder)
    vectors = unseen_vectors(sounds, features, concepts, recipe)
    owners = features.owners.numpy()[: len(vectors)]
    of_esc10 = owners < len(esc10)
    names = sorted({sound.label for sound in animals})
    found = unseen_figures(
        "ESC-10",
        esc10,
        (vectors[of_esc10], owners[of_esc10]),
        {
            "label": {label: label for label in ESC10},
            "the sound of …": {label: f"the sound of {label.lower()}" for label in ESC10},
            "in other words": OTHER_WORDS,
        },
        encoder,
    )
    found |= unseen_figures(
        "animals",
        animals,
        (vectors[~of_esc10], owners[~of_esc10]),
        {
            "label": {name: name for name in names},
            "the sound of a …": {name: f"the sound of a {name}" for name in names},
        },
        encoder,
    )
    labels = [esc10[owner].label for owner in owners[of_esc10]]  # of each window
    found |= photo_figures(labels, vectors[of_esc10], encoder, data)
    found |= changed_figures(sounds, features, concepts, encoder, recipe)
    found |= stamp_figures(stamps, encoder, sources.stamps)
    for title, values in found.items():
        row = (
            f"{name.strip()} {value:.{3 if name == 'mAP' else 1}f}"
            for name, value in values.items()
        )
        print(f"{title:40}", "  ".join(row))
