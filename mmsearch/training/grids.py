"""What the image tower's frozen blocks say of each part of a photo: computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.training.data import Split
from mmsearch.training.views import MIRRORED, seen

SHAPE = (208, 9, 9)
"""Channels, rows and columns after any of blocks 17 to 20."""
THREADS = 2


def tap(blocks: int) -> str:
    """The tensor of the image tower's graph that comes out of its first `blocks` blocks."""
    return f"/trunk/lower/lower.{blocks - 1}/Add_output_0"


def grids_of(
    tower: Path, split: Split, view: int, *, blocks: int, seed: int, cache: Path
) -> NDArray[np.float16]:
    """(photos, *SHAPE) of one view of every photo.

    Args:
        tower: `image.onnx` of the model.
        split: The photos.
        view: As in `views.seen`.
        blocks: How many of the tower's blocks the photos go through.
        seed: With a photo and the view, fixes the crop.
        cache: A folder; 34 kB a photo and view.
    """
    weights = hashlib.sha256(tower.read_bytes()).hexdigest()
    asked = repr((weights, blocks, split.files, view, seed if view > MIRRORED else 0))
    path = cache / f"grids-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name("part-" + path.name)
        file = np.lib.format.open_memmap(part, "w+", np.float16, (len(split.files), *SHAPE))
        for row, grid in enumerate(_through(tower, split, view, tap(blocks), seed)):
            file[row] = grid[0]
        file.flush()
        part.replace(path)
        print(f"  view {view}: {len(split.files)} photos", flush=True)
    kept: NDArray[np.float16] = np.load(path)
    return kept


def _through(
    tower: Path, split: Split, view: int, name: str, seed: int
) -> Iterator[NDArray[np.float32]]:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    output = helper.make_empty_tensor_value_info(name)
    tapped = onnx.ModelProto(graph=onnx.GraphProto(output=[output])).SerializePartialToString()
    session = onnxruntime.InferenceSession(tower.read_bytes() + tapped, options)

    def run(row: int) -> Any:
        return session.run([name], {"pixels": seen(split.path(row), view, seed)[None]})[0]

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(run, range(len(split.files)))
