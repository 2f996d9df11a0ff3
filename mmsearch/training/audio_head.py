"""The audio head: features of spectrograms in the frozen image tower to the shared space."""

from __future__ import annotations

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
from mmsearch.encoders.model_files import file_sha256
from mmsearch.training.backbones import DIM, moments, standardised
from mmsearch.training.features import THREADS, Arrays, cached, draw_one, session_with_outputs
from mmsearch.training.fit import add_noise, one_cycle
from mmsearch.training.onnx_graphs import block_output
from mmsearch.training.recipe import Recipe
from mmsearch.training.sounds import Picture, Sound, changed_picture, plain_pictures, whole_wave

AUDIO_TENSORS = {block_output(20): (208, 9), block_output(15): (120, 17)}
"""Tensors in the image tower → their channels and rows; a row is a range of pitches.

Upper layers describe what a picture shows. They lose the pitch of things, which distinguishes
sounds.
"""
WIDTH = sum(channels * rows for channels, rows in AUDIO_TENSORS.values())


@dataclass(frozen=True)
class SoundFeatures:
    """Features of sounds: the mean over time of each channel and row of AUDIO_TENSORS.

    Attributes:
        plain: (windows, WIDTH) of the unchanged sounds, in the windows that search uses.
        owners: (windows,) the sound of each window.
        changed: (views, sounds, WIDTH) of the sounds changed at random, in float16.
    """

    plain: Tensor
    owners: Tensor
    changed: Tensor


def sound_features(
    sounds: Sequence[Sound], tower: Path, recipe: Recipe, *, cache: Path
) -> SoundFeatures:
    """Features of sounds, from `cache` or computed and stored there.

    Args:
        sounds: Those of a fold are mixed only with sounds of that fold, or of none.
        tower: `image.onnx` of the model.
        recipe: The number of random changes of each sound, and their seed.
        cache: A folder.
    """
    views, seed = recipe.sound_views, recipe.seed

    def compute() -> Arrays:
        session = session_with_outputs(tower, list(AUDIO_TENSORS))
        with ThreadPoolExecutor(THREADS) as pool:
            plain = list(
                pool.map(lambda sound: audio_features(session, plain_pictures(sound)), sounds)
            )
            waves = list(pool.map(whole_wave, sounds))

            def change(row: int, view: int) -> NDArray[np.float16]:
                background = [
                    wave
                    for wave, other in zip(waves, sounds, strict=True)
                    if other.fold in (0, sounds[row].fold)
                ]
                rng = np.random.default_rng([seed, view, row])
                picture = changed_picture(waves[row], background, rng)
                return audio_features(session, [picture])[0].astype(np.float16)

            changed = []
            for view in range(views):
                rows = range(len(sounds))
                changed.append(np.stack(list(pool.map(change, rows, [view] * len(rows)))))
                print(f"  view {view + 1} of {len(sounds)} sounds", flush=True)
        owners = np.repeat(np.arange(len(sounds)), [len(windows) for windows in plain])
        return {"plain": np.concatenate(plain), "owners": owners, "changed": np.stack(changed)}

    files = [(sound.path.name, sound.fold) for sound in sounds]
    arrays = cached(
        cache, "heard", (file_sha256(tower), AUDIO_TENSORS, files, views, seed), compute
    )
    names = ("plain", "owners", "changed")
    return SoundFeatures(*(torch.from_numpy(arrays[name]) for name in names))


def audio_features(session: Any, pictures: Iterable[Picture]) -> NDArray[np.float32]:
    """(pictures, WIDTH) of spectrograms, by the image tower with AUDIO_TENSORS as outputs."""
    rows = []
    for picture in pictures:
        pixels = np.repeat(picture[None, :, :, None], 3, axis=3)
        tensors = session.run(list(AUDIO_TENSORS), {"pixels": pixels})
        rows.append(np.concatenate([tensor[0].mean(axis=2).ravel() for tensor in tensors]))
    return np.stack(rows)


class AudioHead(nn.Module):
    """Standardised features to unit vectors, through few dimensions: there are few concepts."""

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
    """The concept heard in each sound, and vectors of the phrases that describe it.

    Attributes:
        of_sound: (sounds,) the concept of each.
        vectors: (phrases, 512), concept after concept.
        first: (concepts + 1,) the row of each concept's first phrase.
    """

    of_sound: Tensor
    vectors: Tensor
    first: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """(concepts, 512): a random phrase of each concept."""
        concepts = torch.arange(len(self.first) - 1)
        return self.vectors[draw_one(self.first, concepts, generator)]


def concepts_of(sounds: Sequence[Sound], encoder: MiniEncoder) -> Concepts:
    """The concepts of sounds, each with the phrases of all its labels."""
    phrases_of: dict[str, dict[str, None]] = {}
    for sound in sounds:
        phrases_of.setdefault(sound.concept, {}).update(dict.fromkeys(sound.phrases))
    rows = {concept: row for row, concept in enumerate(phrases_of)}
    phrases = [phrase for of_concept in phrases_of.values() for phrase in of_concept]
    return Concepts(
        torch.tensor([rows[sound.concept] for sound in sounds]),
        torch.from_numpy(encoder.encode("text", phrases)),
        torch.tensor(np.cumsum([0, *map(len, phrases_of.values())])),
    )


def fit_audio(
    features: SoundFeatures, concepts: Concepts, rows: Tensor, recipe: Recipe
) -> AudioHead:
    """The head, trained on changed sounds: each must find its phrase among those of all concepts.

    Args:
        features: Of all sounds.
        concepts: Of all sounds.
        rows: (n,) the sounds to train on.
        recipe: The hyperparameters.
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
    """The extension that adds the output "heard" to the image tower (see `onnx_graphs`)."""
    with torch.no_grad():  # standardising is part of the first matrix
        inward = (head.inward.weight / head.spread).half()
        shift = head.inward.bias - inward.float() @ head.mean
    halves = {"inward": inward.T, "outward": head.outward.weight.half().T}
    floats = {"shift": shift, "bias": head.outward.bias, "least": torch.tensor(1e-12)}
    arrays = {name: array.detach().numpy() for name, array in {**halves, **floats}.items()}
    arrays |= {"time": np.array([3]), "last": np.array([1])}
    nodes = []
    for row, tensor in enumerate(AUDIO_TENSORS):
        nodes += [
            _node("ReduceMean", [tensor, "hear/time"], f"mean{row}", keepdims=0),
            _node("Flatten", [f"hear/mean{row}"], f"flat{row}"),
        ]
    nodes += [
        _node(
            "Concat", [f"hear/flat{row}" for row in range(len(AUDIO_TENSORS))], "features", axis=1
        ),
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
            numpy_helper.from_array(np.ascontiguousarray(array), f"hear/{name}")
            for name, array in arrays.items()
        ],
        output=[helper.make_tensor_value_info(HEARD, onnx.TensorProto.FLOAT, ["photos", DIM])],
    )
    added: bytes = onnx.ModelProto(graph=graph).SerializePartialToString()
    return added


def _node(kind: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [f"hear/{output}"], name=f"hear/{output}", **attributes)
