"""The audio head: from what the frozen image tower makes of spectrograms to the shared space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from mmsearch.encoders.mini.encoder import HEARD, MiniEncoder
from mmsearch.training.export import block_output
from mmsearch.training.features import THREADS, Arrays, cached, draw_one, tapped_session
from mmsearch.training.fit import add_noise, one_cycle
from mmsearch.training.recipe import Recipe
from mmsearch.training.sounds import Picture, Sound, changed_picture, plain_pictures, whole_wave
from mmsearch.training.towers import DIM, moments, standardised

TAPS = {block_output(20): (208, 9), block_output(15): (120, 17)}
"""The tensors of the image tower that are used, and their channels and rows; a row is a range of
pitches.

Upper layers know things by their looks; which pitch is where is lost in them, and with it much
of what tells sounds apart.
"""
WIDTH = sum(channels * rows for channels, rows in TAPS.values())


@dataclass(frozen=True)
class SoundFeatures:
    """Features of sounds: the mean over time of each channel and row of the taps.

    Attributes:
        plain: (windows, WIDTH) of the sounds as they are, in the windows that search uses.
        owners: (windows,) the sound of each window.
        changed: (views, sounds, WIDTH) of the sounds changed at random, in float16.
    """

    plain: Tensor
    owners: Tensor
    changed: Tensor


def sound_features(
    sounds: Sequence[Sound], tower: Path, *, views: int, seed: int, cache: Path
) -> SoundFeatures:
    """Features of sounds; `cache` is used and filled.

    Args:
        sounds: Those of a fold are mixed with sounds of the same fold, or of none.
        tower: `image.onnx` of the model.
        views: How many random changes of each sound.
        seed: Fixes the change, together with the view and the place of the sound.
        cache: A folder.
    """

    def compute() -> Arrays:
        session = tapped_session(tower, list(TAPS))
        with ThreadPoolExecutor(THREADS) as pool:
            plain = list(pool.map(lambda one: tap_features(session, plain_pictures(one)), sounds))
            waves = list(pool.map(whole_wave, sounds))

            def change(row: int, view: int) -> NDArray[np.float16]:
                background = [
                    wave
                    for wave, other in zip(waves, sounds, strict=True)
                    if other.fold in (0, sounds[row].fold)
                ]
                rng = np.random.default_rng([seed, view, row])
                picture = changed_picture(waves[row], background, rng)
                return tap_features(session, [picture])[0].astype(np.float16)

            changed = []
            for view in range(views):
                rows = range(len(sounds))
                changed.append(np.stack(list(pool.map(change, rows, [view] * len(rows)))))
                print(f"  view {view + 1} of {len(sounds)} sounds", flush=True)
        owners = np.repeat(np.arange(len(sounds)), [len(one) for one in plain])
        return {"plain": np.concatenate(plain), "owners": owners, "changed": np.stack(changed)}

    weights = hashlib.sha256(tower.read_bytes()).hexdigest()
    files = [(one.path.name, one.fold) for one in sounds]
    arrays = cached(cache, "heard", (weights, TAPS, files, views, seed), compute)
    names = ("plain", "owners", "changed")
    return SoundFeatures(*(torch.from_numpy(arrays[name]) for name in names))


def tap_features(session: Any, pictures: Iterable[Picture]) -> NDArray[np.float32]:
    """(pictures, WIDTH) from a `tapped_session` of the image tower."""
    rows = []
    for picture in pictures:
        pixels = np.repeat(picture[None, :, :, None], 3, axis=3)
        taps = session.run(list(TAPS), {"pixels": pixels})
        rows.append(np.concatenate([tap[0].mean(axis=2).ravel() for tap in taps]))
    return np.stack(rows)


class AudioHead(nn.Module):
    """Unit vectors of standardised features, through a few dimensions: concepts are few."""

    def __init__(self, mean: Tensor, spread: Tensor, recipe: Recipe) -> None:
        super().__init__()
        self.mean = nn.Buffer(mean)
        self.spread = nn.Buffer(spread)
        self.dropout = nn.Dropout(recipe.audio_dropout)
        self.inward = nn.Linear(len(mean), recipe.audio_inner)
        self.outward = nn.Linear(recipe.audio_inner, DIM)

    def project(self, features: Tensor) -> Tensor:
        """Unit rows (n, 512) of standardised features (n, width)."""
        return F.normalize(self.outward(self.inward(self.dropout(features))), dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        """Unit rows (n, 512) of features (n, width)."""
        return self.project(standardised(features, self.mean, self.spread))


@dataclass(frozen=True)
class Concepts:
    """What is heard in each of some sounds, and the vectors of what people call it.

    Attributes:
        of_sound: (sounds,) rows of the concepts.
        vectors: (phrases, 512), concept after concept.
        first: (concepts + 1,) where the phrases of each begin.
    """

    of_sound: Tensor
    vectors: Tensor
    first: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """(concepts, 512): a random phrase of each concept."""
        concepts = torch.arange(len(self.first) - 1)
        return self.vectors[draw_one(self.first, concepts, generator)]


def concepts_of(sounds: Sequence[Sound], encoder: MiniEncoder) -> Concepts:
    """The concepts of some sounds, with the phrases of all their labels."""
    phrases_of: dict[str, dict[str, None]] = {}
    for sound in sounds:
        phrases_of.setdefault(sound.concept, {}).update(dict.fromkeys(sound.phrases))
    rows = {concept: row for row, concept in enumerate(phrases_of)}
    phrases = [phrase for one in phrases_of.values() for phrase in one]
    return Concepts(
        torch.tensor([rows[sound.concept] for sound in sounds]),
        torch.from_numpy(encoder.encode("text", phrases)),
        torch.tensor(np.cumsum([0, *map(len, phrases_of.values())])),
    )


def fit_audio(
    features: SoundFeatures, concepts: Concepts, rows: Tensor, recipe: Recipe
) -> AudioHead:
    """The head, trained on changed sounds: each must find its phrase among all.

    Args:
        features: Of all sounds.
        concepts: Their phrases.
        rows: (n,) the sounds to learn from.
        recipe: The numbers.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    changed = features.changed[:, rows].float()
    head = AudioHead(*moments(changed.flatten(0, 1)), recipe)
    changed = standardised(changed, head.mean, head.spread)
    concept = concepts.of_sound[rows]
    rarity = torch.bincount(concept).float()[concept] ** -0.5  # rare concepts are drawn more often
    stepper = one_cycle([(recipe.audio_rate, [head])], recipe.weight_decay, recipe.audio_steps)
    for _ in range(recipe.audio_steps):
        drawn = torch.multinomial(rarity, recipe.audio_batch, replacement=True, generator=generator)
        views = torch.randint(len(changed), (recipe.audio_batch,), generator=generator)
        vectors = head.project(add_noise(changed[views, drawn], recipe.audio_noise, generator))
        scores = vectors @ concepts.draw(generator).T / recipe.audio_temperature
        smoothing = recipe.audio_smoothing
        stepper.step(F.cross_entropy(scores, concept[drawn], label_smoothing=smoothing))
    return head.eval()


def export_audio(head: AudioHead) -> bytes:
    """The extension by which the image tower's graph gives "heard" (see `export`)."""
    with torch.no_grad():  # standardising is part of the first matrix
        inward = (head.inward.weight / head.spread).half()
        shift = head.inward.bias - inward.float() @ head.mean
    halves = {"inward": inward.T, "outward": head.outward.weight.half().T}
    floats = {"shift": shift, "bias": head.outward.bias, "least": torch.tensor(1e-12)}
    arrays = {name: one.detach().numpy() for name, one in {**halves, **floats}.items()}
    arrays |= {"time": np.array([3]), "last": np.array([1])}
    nodes = []
    for row, tap in enumerate(TAPS):
        nodes += [
            _node("ReduceMean", [tap, "hear/time"], f"mean{row}", keepdims=0),
            _node("Flatten", [f"hear/mean{row}"], f"flat{row}"),
        ]
    nodes += [
        _node("Concat", [f"hear/flat{row}" for row in range(len(TAPS))], "features", axis=1),
        *(_node("Cast", [f"hear/{name}"], f"{name}32", to=1) for name in halves),
        _node("MatMul", ["hear/features", "hear/inward32"], "product"),
        _node("Add", ["hear/product", "hear/shift"], "inner"),
        _node("MatMul", ["hear/inner", "hear/outward32"], "outer"),
        _node("Add", ["hear/outer", "hear/bias"], "plain"),
        _node("ReduceL2", ["hear/plain", "hear/last"], "length", keepdims=1),
        _node("Max", ["hear/length", "hear/least"], "divisor"),
        helper.make_node("Div", ["hear/plain", "hear/divisor"], [HEARD], name="hear/unit"),
    ]
    graph = onnx.GraphProto(
        node=nodes,
        initializer=[
            numpy_helper.from_array(np.ascontiguousarray(one), f"hear/{name}")
            for name, one in arrays.items()
        ],
        output=[helper.make_tensor_value_info(HEARD, onnx.TensorProto.FLOAT, ["photos", DIM])],
    )
    added: bytes = onnx.ModelProto(graph=graph).SerializePartialToString()
    return added


def _node(kind: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [f"hear/{output}"], name=f"hear/{output}", **attributes)
