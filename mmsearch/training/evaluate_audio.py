"""How well the model hears: figures from sounds it was not trained on, and from those it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mmsearch.encoders.mini import MiniEncoder, load_mini
from mmsearch.training.audio import Concepts, Heard, concepts_of, fit_audio, hear
from mmsearch.training.data import Split, read_split
from mmsearch.training.evaluate import photo_vectors
from mmsearch.training.phrases import ESC10
from mmsearch.training.recipe import Recipe
from mmsearch.training.sounds import Sound, read_esc10, read_stamps, waves_of

Scores = NDArray[np.float32]
"""(queries, items)."""
Answers = NDArray[np.bool_]
"""(queries, items): which items answer which query."""

FREELY = {
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
"""ESC-10's labels in words that are not among the phrases learnt from."""

IN_CAPTIONS = {
    "Dog bark": ("dog", "dogs", "puppy"),
    "Sea waves": ("ocean", "waves", "wave", "surf", "surfer", "sea"),
    "Baby cry": ("baby", "infant"),
    "Fire crackling": ("fire", "campfire", "bonfire"),
}
"""The labels whose things are seen in Flickr8k photos, and the words of captions that say so."""


@dataclass(frozen=True)
class Figure:
    """One row of what is printed."""

    what: str
    values: dict[str, float]


def average_precisions(scores: Scores, answers: Answers) -> NDArray[np.float64]:
    """For each query the mean, over its right answers, of the precision at each one's place."""
    found = []
    for row, right in zip(scores, answers, strict=True):
        hits = right[np.argsort(-row, kind="stable")]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        found.append(precision[hits].mean())
    return np.array(found)


def hits_at(scores: Scores, answers: Answers, k: int) -> float:
    """Per cent of queries with a right answer among the first k."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100 * float(np.take_along_axis(answers, best, axis=1).any(axis=1).mean())


def precision_at(scores: Scores, answers: Answers, k: int) -> float:
    """Per cent of the first k that are right, in the mean over queries."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100 * float(np.take_along_axis(answers, best, axis=1).mean())


def unseen_vectors(
    sounds: Sequence[Sound], heard: Heard, concepts: Concepts, recipe: Recipe
) -> NDArray[np.float32]:
    """(sounds with a fold, 512): each by a head that was trained without its fold.

    Of each sound the first window stands for it; those of ESC-10 have no other.
    """
    folds = np.array([sound.fold for sound in sounds])
    first = torch.from_numpy(np.searchsorted(heard.owners.numpy(), np.arange(len(sounds))))
    vectors = np.zeros((len(sounds), concepts.vectors.shape[1]), np.float32)
    for fold in sorted(set(folds) - {0}):
        head = fit_audio(heard, concepts, torch.from_numpy(np.flatnonzero(folds != fold)), recipe)
        held_out = np.flatnonzero(folds == fold)
        with torch.no_grad():
            vectors[held_out] = head(heard.plain[first[held_out]]).numpy()
    return vectors[folds > 0]


def unseen_figures(
    labels: Sequence[str], vectors: NDArray[np.float32], encoder: MiniEncoder
) -> list[Figure]:
    """ESC-10, leaving one fold out: ten descriptions against its sounds, both ways."""
    of_sound = np.array([list(ESC10).index(label) for label in labels])
    answers = np.arange(len(ESC10))[:, None] == of_sound
    found = []
    phrased = {
        "label": list(ESC10),
        "the sound of …": [f"the sound of {label.lower()}" for label in ESC10],
        "in other words": [FREELY[label] for label in ESC10],
    }
    for how, texts in phrased.items():
        scores = encoder.encode("text", texts) @ vectors.T
        values = {
            "accuracy": 100 * float((scores.argmax(0) == of_sound).mean()),
            "mAP": float(average_precisions(scores, answers).mean()),
            "R@1": hits_at(scores, answers, 1),
        }
        found.append(Figure(f"ESC-10 unseen, {how}", values))
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -2)
    same = of_sound[:, None] == of_sound
    np.fill_diagonal(same, val=False)
    found.append(Figure("ESC-10 unseen, sound→sound", {"P@5": precision_at(alike, same, 5)}))
    return found


def photo_figures(
    labels: Sequence[str], vectors: NDArray[np.float32], encoder: MiniEncoder, data: Path
) -> list[Figure]:
    """Unseen sounds against photos of everyday scenes: what is heard should be seen."""
    split = read_split(data, "dev")
    photos = photo_vectors(encoder, split)
    found = []
    for label, words in IN_CAPTIONS.items():
        sounds = np.array([one == label for one in labels])
        shown = _shown(split, words)
        scores = vectors[sounds] @ photos.T
        right = np.broadcast_to(shown, scores.shape)
        values = {
            "sound→image P@10": precision_at(scores, right, 10),
            "by chance": 100 * float(shown.mean()),
        }
        if shown.any():
            back = photos[shown] @ vectors.T
            right = np.broadcast_to(sounds, back.shape)
            values |= {
                "image→sound P@10": precision_at(back, right, 10),
                "by chance ": 100 * float(sounds.mean()),
            }
        found.append(Figure(f"{label} unseen, {int(shown.sum())} photos", values))
    return found


def _shown(split: Split, words: Sequence[str]) -> Answers:
    """The photos of which at least two captions say one of the words."""
    said = [
        sum(bool({*text.lower().replace(".", " ").split()} & {*words}) for text in captions)
        for captions in split.captions
    ]
    return np.array(said) >= 2


def stamp_figures(stamps: Sequence[Sound], encoder: MiniEncoder, folder: Path) -> list[Figure]:
    """Sounds the shipped head was trained on, by their captions and pictures."""
    windows = [waves_of(sound) for sound in stamps]
    owners = np.repeat(np.arange(len(stamps)), [len(one) for one in windows])
    vectors = encoder.encode("audio", [wave for one in windows for wave in one])
    labels = [sound.label for sound in stamps]
    texts = encoder.encode("text", labels)
    same = np.array(labels)[:, None] == np.array(labels)

    def by_sound(scores: Scores) -> Scores:
        best = np.full((len(scores), len(stamps)), -2, np.float32)
        for window, owner in enumerate(owners):  # its best window stands for a sound
            best[:, owner] = np.maximum(best[:, owner], scores[:, window])
        return best

    names = sorted({path.name for path in (folder / "images").iterdir()})
    pictures = photo_vectors(encoder, Split(folder / "images", tuple(names), ()))
    own = np.array([[name == sound.picture for name in names] for sound in stamps])
    seen = pictures[own.argmax(1)] @ vectors.T
    back = by_sound(pictures @ vectors.T).T
    heard = by_sound(texts @ vectors.T)
    return [
        Figure(
            "stamps trained on, text→sound",
            {
                "mAP": float(average_precisions(heard, same).mean()),
                "R@1": hits_at(heard, same, 1),
                "R@5": hits_at(heard, same, 5),
            },
        ),
        Figure("stamps trained on, sound→text", _recalls(heard.T, same)),
        Figure("stamps trained on, sound→image", _recalls(back, own)),
        Figure("stamps trained on, image→sound", _recalls(by_sound(seen), same)),
    ]


def _recalls(scores: Scores, answers: Answers) -> dict[str, float]:
    return {f"R@{k}": hits_at(scores, answers, k) for k in (1, 5, 10)}


def changed_figures(
    sounds: Sequence[Sound],
    heard: Heard,
    concepts: Concepts,
    encoder: MiniEncoder,
    recipe: Recipe,
) -> list[Figure]:
    """Stamps again, changed in ways that were kept out of training: not other recordings."""
    kept = len(heard.changed) - 4
    seen = Heard(heard.plain, heard.owners, heard.changed[:kept])
    head = fit_audio(seen, concepts, torch.arange(len(sounds)), recipe)
    stamps = [row for row, sound in enumerate(sounds) if sound.fold == 0]
    labels = np.array([sounds[row].label for row in stamps])
    texts = encoder.encode("text", labels.tolist())
    same = labels[:, None] == labels
    rows = []
    for view in heard.changed[kept:]:
        with torch.no_grad():
            scores = texts @ head(view[stamps].float()).numpy().T
        rows.append([average_precisions(scores, same).mean(), *_recalls(scores, same).values()])
    mean = np.mean(rows, axis=0)
    values = dict(zip(("mAP", "R@1", "R@5", "R@10"), map(float, mean), strict=True))
    return [Figure("stamps changed in new ways, text→sound", values)]


def evaluate_hearing(
    model: Path, data: Path, esc10: Path, stamps: Path, *, cache: Path, recipe: Recipe
) -> list[Figure]:
    """Every figure of hearing, printed as a row each.

    Args:
        model: The model's folder.
        data: Captioned photos, of which the dev split is asked.
        esc10: Holds `audio/` and `labels.tsv`.
        stamps: The same, of tuxpaint, and `images/`.
        cache: Keeps features between runs.
        recipe: That of the shipped head, for those that are trained without a fold.
    """
    encoder = load_mini(model)
    sounds = [*read_esc10(esc10), *read_stamps(stamps)]
    tower = model / "image.onnx"
    heard = hear(sounds, tower, views=recipe.sound_views, seed=recipe.seed, cache=cache)
    concepts = concepts_of(sounds, encoder)
    labels = [sound.label for sound in sounds if sound.fold]
    vectors = unseen_vectors(sounds, heard, concepts, recipe)
    found = unseen_figures(labels, vectors, encoder)
    found += photo_figures(labels, vectors, encoder, data)
    found += changed_figures(sounds, heard, concepts, encoder, recipe)
    found += stamp_figures([sound for sound in sounds if not sound.fold], encoder, stamps)
    for figure in found:
        places = {name: 3 if name == "mAP" else 1 for name in figure.values}
        row = (f"{name.strip()} {value:.{places[name]}f}" for name, value in figure.values.items())
        print(f"{figure.what:40}", "  ".join(row))
    return found
