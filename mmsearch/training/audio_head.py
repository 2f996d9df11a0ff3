"""The audio head: features of spectrograms in the frozen image tower to the shared space."""

from __future__ import annotations

import inspect
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
from torch import Tensor

from mmsearch.encoders.mini import mel
from mmsearch.encoders.mini.encoder import HEARD, MiniEncoder
from mmsearch.training import sounds as sound_code
from mmsearch.training.backbones import DIM, moments, standardised
from mmsearch.training.features import THREADS, Arrays, cached, session_with_outputs
from mmsearch.training.onnx_graphs import block_output
from mmsearch.training.recipe import Recipe
from mmsearch.training.sounds import Picture, Sound, changed_picture, plain_pictures, whole_wave

AUDIO_TENSORS = {
    block_output(18): (208, 9),
    block_output(15): (120, 17),
    block_output(11): (88, 17),
}
"""Tensors in the image tower → their channels and rows; a row is a range of pitches.

Upper layers describe what a picture shows. They lose the pitch of things, which distinguishes
sounds. All of these blocks are published ones: training the tower does not change them.
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

    def unchanged(self) -> Tensor:
        """(sounds, WIDTH): the mean of each sound's windows."""
        numbers = torch.bincount(self.owners)
        sums = torch.zeros(len(numbers), self.plain.shape[1])
        return sums.index_add_(0, self.owners, self.plain) / numbers[:, None]


def sound_features(
    sounds: Sequence[Sound], tower: Path, recipe: Recipe, *, cache: Path
) -> SoundFeatures:
    """Features of sounds, from `cache` or computed and stored there.

    They are computed anew when the code changes that reads, augments or pictures sounds.

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

    files = [(sound.path.name, sound.label, sound.fold) for sound in sounds]
    code = [inspect.getsource(one) for one in (sound_code, mel, sound_features, audio_features)]
    key = (AUDIO_TENSORS, files, views, seed, code)  # not the tower: see AUDIO_TENSORS
    arrays = cached(cache, "heard", key, compute)
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


@dataclass(frozen=True)
class AudioHead:
    """A linear map of features to unit vectors: to a score of each concept, then to its phrases.

    Attributes:
        inward: (width, concepts)
        shift: (concepts,)
        outward: (concepts, 512)
        bias: (512,)
    """

    inward: Tensor
    shift: Tensor
    outward: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Unit rows (n, 512) of features (n, width)."""
        scores = features @ self.inward + self.shift
        return F.normalize(scores @ self.outward + self.bias, dim=-1)


@dataclass(frozen=True)
class Concepts:
    """The concept heard in each sound, and the mean vectors of the phrases that describe it.

    Attributes:
        of_sound: (sounds,) the concept of each.
        vectors: (concepts, 512) unit rows.
    """

    of_sound: Tensor
    vectors: Tensor


def concepts_of(sounds: Sequence[Sound], encoder: MiniEncoder) -> Concepts:
    """The concepts of sounds, each with the phrases of all its labels."""
    phrases_of: dict[str, dict[str, None]] = {}
    for sound in sounds:
        phrases_of.setdefault(sound.concept, {}).update(dict.fromkeys(sound.phrases))
    rows = {concept: row for row, concept in enumerate(phrases_of)}
    means = [encoder.encode("text", list(phrases)).mean(axis=0) for phrases in phrases_of.values()]
    return Concepts(
        torch.tensor([rows[sound.concept] for sound in sounds]),
        F.normalize(torch.from_numpy(np.stack(means)), dim=-1),
    )


def fit_audio(
    features: SoundFeatures, concepts: Concepts, rows: Tensor, recipe: Recipe
) -> AudioHead:
    """The head by ridge regression of sounds and changed sounds on their concepts' vectors:

        W = (Xᵀ D X / Σ D + λ I)⁻¹ Xᵀ D Y / Σ D

    with standardised features X, targets Y less their mean, and weights D, a sound's being the
    inverse square root of the number of sounds of its concept. Y = C V with C one in the column of
    a sound's concept, so W goes through as many dimensions as there are concepts.

    Args:
        features: Of all sounds.
        concepts: Of all sounds.
        rows: (n,) the sounds to train on.
        recipe: Has λ, `audio_ridge`.

    Source: Hoerl & Kennard, Technometrics 1970.
    """
    seen = torch.cat([features.changed.float(), features.unchanged()[None]])[:, rows]
    views, width = len(seen), seen.shape[-1]
    mean, spread = moments(seen.flatten(0, 1))
    concept = concepts.of_sound[rows]
    weights = torch.bincount(concept).float()[concept] ** -0.5
    weights /= weights.sum()
    targets = F.one_hot(concept, len(concepts.vectors)).float()
    share = weights @ targets  # of each concept
    gram, moment = torch.zeros(width, width), torch.zeros(width, len(share))
    middle = torch.einsum("n,vnw->w", weights, standardised(seen, mean, spread)) / views
    for view in seen:
        inputs = standardised(view, mean, spread) - middle
        weighted = inputs.T * (weights / views)
        gram.addmm_(weighted, inputs)
        moment.addmm_(weighted, targets)
    gram.diagonal().add_(recipe.audio_ridge)
    solution = torch.cholesky_solve(moment, torch.linalg.cholesky(gram))
    inward = (solution / spread[:, None]).half().float()  # as it is stored, so that shift fits it
    shift = -(mean + spread * middle) @ inward
    return AudioHead(inward, shift, concepts.vectors, share @ concepts.vectors)


def export_audio(head: AudioHead) -> bytes:
    """The extension that adds the output "heard" to the image tower (see `onnx_graphs`)."""
    halves = {"inward": head.inward.half(), "outward": head.outward.half()}
    floats = {"shift": head.shift, "bias": head.bias, "least": torch.tensor(1e-12)}
    arrays = {name: array.numpy() for name, array in {**halves, **floats}.items()}
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
