"""What the frozen image tower makes of pictures of sound, computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.training.features import keep
from mmsearch.training.sounds import Picture, Sound, changed_picture, plain_pictures, whole

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
