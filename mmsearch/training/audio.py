"""What the frozen image tower makes of pictures of sound, computed once and kept.

The audio head: from what the image tower hears to the shared space, learnt from phrases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from mmsearch.encoders.mini import HEARD, MiniEncoder
from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.training.features import keep
from mmsearch.training.fit import noisy
from mmsearch.training.recipe import Recipe
from mmsearch.training.sounds import Picture, Sound, changed_picture, plain_pictures, whole
from mmsearch.training.towers import DIM, moments, standardised

TAPS = {
    "/trunk/lower/lower.19/Add_output_0": (208, 9),
    "/trunk/lower/lower.14/Add_output_0": (120, 17),
}
"""Where the image tower is tapped, and the channels and rows there; a row is a range of pitches.

Upper layers know things by their looks; which pitch is where is lost in them, and with it much
of what tells sounds apart.
"""
WIDTH = sum(channels * rows for channels, rows in TAPS.values())
THREADS = 2


@dataclass(frozen=True)
class Heard:
    """Features of sounds: the mean over time of each channel and row of the taps."""

    plain: Tensor
    """(windows, WIDTH) of the sounds as they are, in the windows that search sees."""
    owners: Tensor
    """(windows,) the sound of each window."""
    changed: Tensor
    """(views, sounds, WIDTH) of the sounds changed at random, in float16."""


def hear(sounds: Sequence[Sound], tower: Path, *, views: int, seed: int, cache: Path) -> Heard:
    """What the tower hears in sounds, taking what `cache` already holds.

    Args:
        sounds: Those of each fold are changed with sounds of that fold, or of none, behind them.
        tower: `image.onnx` of the model.
        views: How many changed versions of each sound.
        seed: With the place of a sound and the view, fixes the change.
        cache: A folder.
    """
    weights = hashlib.sha256(tower.read_bytes()).hexdigest()
    files = [(one.path.name, one.fold) for one in sounds]
    asked = hashlib.sha256(repr((weights, TAPS, files, views, seed)).encode()).hexdigest()
    path = cache / f"heard-{asked[:16]}.npz"
    if not path.exists():
        ear = Ear(tower)
        with ThreadPoolExecutor(THREADS) as pool:
            plain = list(pool.map(lambda one: ear.features(plain_pictures(one)), sounds))
            waves = list(pool.map(whole, sounds))
            folds = [one.fold for one in sounds]

            def view(row: int, number: int) -> NDArray[np.float16]:
                behind = [
                    w for w, fold in zip(waves, folds, strict=True) if fold in (0, folds[row])
                ]
                dice = np.random.default_rng([seed, number, row])
                return ear.features([changed_picture(waves[row], behind, dice)])[0].astype(
                    np.float16
                )

            changed = []
            for number in range(views):
                rows = range(len(sounds))
                changed.append(np.stack(list(pool.map(view, rows, [number] * len(rows)))))
                print(f"  view {number + 1} of {len(sounds)} sounds", flush=True)
        owners = np.repeat(np.arange(len(sounds)), [len(one) for one in plain])
        keep(path, plain=np.concatenate(plain), owners=owners, changed=np.stack(changed))
    kept = np.load(path)
    return Heard(*(torch.from_numpy(kept[name]) for name in ("plain", "owners", "changed")))


class Ear:
    """The image tower up to its taps; safe to use from several threads."""

    def __init__(self, tower: Path) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        outputs = [helper.make_empty_tensor_value_info(name) for name in TAPS]
        tapped = onnx.ModelProto(graph=onnx.GraphProto(output=outputs)).SerializePartialToString()
        self._session = onnxruntime.InferenceSession(tower.read_bytes() + tapped, options)

    def features(self, pictures: Iterable[Picture]) -> NDArray[np.float32]:
        """(pictures, WIDTH)."""
        rows = []
        for picture in pictures:
            pixels = np.repeat(picture[None, :, :, None], 3, axis=3)
            taps = self._session.run(list(TAPS), {"pixels": pixels})
            rows.append(np.concatenate([tap[0].mean(axis=2).ravel() for tap in taps]))
        return np.stack(rows)


class AudioHead(nn.Module):
    """Unit vectors of standardised features by way of a few dimensions: concepts are few."""

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
    """What is heard in each of some sounds, and the vectors of what people call it."""

    of_sound: Tensor
    """(sounds,) rows of the concepts."""
    vectors: Tensor
    """(phrases, 512), those of one concept after another."""
    first: Tensor
    """(concepts + 1,) where the phrases of each begin."""

    def draw(self, dice: torch.Generator) -> Tensor:
        """(concepts, 512): of each concept one phrase, drawn anew."""
        counts = self.first[1:] - self.first[:-1]
        return self.vectors[
            self.first[:-1] + (torch.rand(len(counts), generator=dice) * counts).long()
        ]


def concepts_of(sounds: Sequence[Sound], encoder: MiniEncoder) -> Concepts:
    """The concepts of some sounds, with the phrases of all their labels."""
    said: dict[str, dict[str, None]] = {}
    for sound in sounds:
        said.setdefault(sound.concept, {}).update(dict.fromkeys(sound.phrases))
    rows = {concept: row for row, concept in enumerate(said)}
    phrases = [phrase for one in said.values() for phrase in one]
    return Concepts(
        torch.tensor([rows[sound.concept] for sound in sounds]),
        torch.from_numpy(encoder.encode("text", phrases)),
        torch.tensor(np.cumsum([0, *map(len, said.values())])),
    )


def fit_audio(heard: Heard, concepts: Concepts, rows: Tensor, recipe: Recipe) -> AudioHead:
    """Train the head on changed versions of some sounds: each must find its phrase among all.

    Args:
        heard: Features of all sounds.
        concepts: Their phrases.
        rows: (n,) the sounds to learn from.
        recipe: The numbers.
    """
    torch.manual_seed(recipe.seed)
    dice = torch.Generator().manual_seed(recipe.seed)
    features = heard.changed[:, rows].float()
    head = AudioHead(*moments(features.flatten(0, 1)), recipe)
    features = standardised(features, head.mean, head.spread)
    found = concepts.of_sound[rows]
    rarity = torch.bincount(found).float()[found] ** -0.5  # rare concepts are drawn more often
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=recipe.audio_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.audio_rate, total_steps=recipe.audio_steps, pct_start=0.2
    )
    for _ in range(recipe.audio_steps):
        drawn = torch.multinomial(rarity, recipe.audio_batch, replacement=True, generator=dice)
        views = torch.randint(len(features), (recipe.audio_batch,), generator=dice)
        vectors = head.project(noisy(features[views, drawn], recipe.audio_noise, dice))
        scores = vectors @ concepts.draw(dice).T / recipe.audio_temperature
        loss = F.cross_entropy(scores, found[drawn], label_smoothing=recipe.audio_smoothing)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return head.eval()


def export_audio(head: AudioHead) -> bytes:
    """What has to be added to the image tower's graph for it to hear.

    A serialised graph that holds only the new nodes, weights and output: laid behind the bytes of
    `image.onnx` it is read with them as one graph (messages of Protocol Buffers that follow each
    other are merged), so that the tower's weights need not be stored twice.
    """
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


def _node(kind: str, inputs: list[str], output: str, **how: int) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [f"hear/{output}"], name=f"hear/{output}", **how)
