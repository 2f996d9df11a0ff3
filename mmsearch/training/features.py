"""What the frozen lower parts say of each photo and text: computed once, kept in a folder.

What the image tower's frozen blocks say of each part of a photo: computed once and kept.

Everything the two loops of training read, gathered once: photos, captions, class names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.training.data import MIRRORED, Split, class_prompts, seen
from mmsearch.training.towers import (
    MAX_TOKENS,
    ImageTrunk,
    TextTrunk,
    grid_mean,
    minilm_folder,
    moments,
    standardised,
    token_mean,
)

PHOTOS_A_BATCH = 64
TEXTS_A_BATCH = 256


def photo_maps(trunk: ImageTrunk, split: Split, view: int, *, seed: int, cache: Path) -> Tensor:
    """Feature maps (n, 208, 9, 9) in float16 below the cut, one view of every photo of a split."""
    key = _key("maps", split.files, trunk.cut, view, seed if view > MIRRORED else 0)
    path = cache / f"maps-{key}.npz"
    if not path.exists():
        maps = np.concatenate(list(_below(trunk, split, view, seed)))
        keep(path, maps=maps.astype(np.float16))
        print(f"  view {view}: {len(maps)} photos")
    return torch.from_numpy(np.load(path)["maps"])


def _below(trunk: ImageTrunk, split: Split, view: int, seed: int) -> Iterator[NDArray[np.float32]]:
    onnxruntime = import_onnxruntime()

    from mmsearch.training.export import export_lower

    session = onnxruntime.InferenceSession(export_lower(trunk))
    rows = range(len(split.files))
    with ThreadPoolExecutor(2) as pool:
        pixels = pool.map(lambda row: seen(split.path(row), view, seed), rows)
        batch: list[NDArray[np.uint8]] = []
        for row, photo in zip(rows, pixels, strict=True):
            batch.append(photo)
            if len(batch) == PHOTOS_A_BATCH or row == rows[-1]:
                yield session.run(None, {"pixels": np.stack(batch)})[0]
                batch = []


@dataclass(frozen=True)
class Texts:
    """Token ids and their states below the cut, laid end to end.

    Text i has rows `starts[i]` to `starts[i + 1]` of `ids` (tokens,) and `states` (tokens, 384).
    """

    ids: Tensor
    states: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def by_length(self, size: int) -> tuple[Tensor, ...]:
        """All rows in parts of `size`, texts of like length together."""
        return torch.split((self.starts[1:] - self.starts[:-1]).argsort(stable=True), size)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (n, longest) padded with 0, and states (n, longest, 384), of some texts."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        at = torch.arange(int(lengths.max()))
        inside = at[None] < lengths[:, None]
        where = torch.where(inside, self.starts[rows][:, None] + at[None], 0)
        ids = torch.where(inside, self.ids[where], 0)
        return ids, self.states[where].float() * inside[..., None]


def text_states(trunk: TextTrunk, texts: Sequence[str], *, cache: Path) -> Texts:
    """Token states below the cut of every text, in float16."""
    path = cache / f"texts-{_key('texts', texts, trunk.cut)}.npz"
    if not path.exists():
        ids = tokenize(texts)
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        states: list[NDArray[np.float16]] = [np.empty((0, 384), np.float16)] * len(ids)
        for start in range(0, len(ids), TEXTS_A_BATCH):
            rows = by_length[start : start + TEXTS_A_BATCH]
            with torch.no_grad():
                found = trunk.below(padded([ids[row] for row in rows])).half().numpy()
            for row, state in zip(rows, found, strict=True):
                states[row] = state[: len(ids[row])]
        starts = np.cumsum([0, *map(len, ids)])
        keep(path, ids=np.concatenate(ids), states=np.concatenate(states), starts=starts)
        print(f"  {len(ids)} texts")
    kept = np.load(path)
    return Texts(*(torch.from_numpy(kept[name]) for name in ("ids", "states", "starts")))


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, [CLS] and [SEP] included, at most 128."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [found.ids for found in tokenizer.encode_batch(list(texts))]


def padded(ids: Sequence[Sequence[int]]) -> Tensor:
    """One (n, longest) tensor of ids, filled up with 0."""
    longest = max(map(len, ids))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def keep(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays to one file, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("part-" + path.name)
    np.savez(part, allow_pickle=False, **arrays)
    part.replace(path)


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


CLASSES = 1000
AT_ONCE = 100


@dataclass(frozen=True)
class Lessons:
    """What is learnt from; photo i has captions `first[i]` to `first[i + 1]`."""

    maps: list[Tensor]
    """One (photos, 208, 9, 9) float16 a view, below the image cut."""
    captions: Texts
    first: Tensor
    prompts: Texts
    """Prompt t of class c stands at row 1000 t + c."""
    features: Tensor
    """(photos, 1280) pooled by the published trunk, of the photos as they are."""
    caption_features: Tensor
    """(captions, 384)."""
    prompt_features: Tensor
    """(prompts, 384)."""
    class_rows: Tensor
    """(1000, 1280) the classifier's rows, each dimension of mean 0 and deviation 1."""
    posteriors: Tensor
    """(photos, 1000) what the classifier says of each photo."""

    def __len__(self) -> int:
        return len(self.features)

    def captions_of(self, photos: Tensor, dice: torch.Generator) -> Tensor:
        """For each photo the row of one of its captions, drawn anew."""
        counts = self.first[photos + 1] - self.first[photos]
        return self.first[photos] + (torch.rand(len(photos), generator=dice) * counts).long()

    def prompts_of(self, classes: Tensor, dice: torch.Generator) -> Tensor:
        """For each class the row of one of its prompts, drawn anew."""
        templates = len(self.prompts) // CLASSES
        return torch.randint(templates, (len(classes),), generator=dice) * CLASSES + classes


def gather(
    split: Split, image: ImageTrunk, text: TextTrunk, *, views: int, seed: int, cache: Path
) -> Lessons:
    """Lessons from one split, taking what `cache` already holds."""
    maps = [photo_maps(image, split, view, seed=seed, cache=cache) for view in range(views)]
    captions = text_states(text, split.texts, cache=cache)
    prompts = text_states(text, [one for row in class_prompts(14) for one in row], cache=cache)
    features = pooled_maps(image, maps[0])
    counts = torch.tensor([0, *map(len, split.captions)])
    return Lessons(
        maps=maps,
        captions=captions,
        first=counts.cumsum(0),
        prompts=prompts,
        features=features,
        caption_features=pooled_texts(text, captions),
        prompt_features=pooled_texts(text, prompts),
        class_rows=standardised(image.class_rows, *moments(image.class_rows)),
        posteriors=(features @ image.class_rows.T + image.class_bias).softmax(-1),
    )


def pooled_maps(trunk: ImageTrunk, maps: Tensor) -> Tensor:
    """(photos, 1280) from the maps below the cut."""
    with torch.no_grad():
        parts = torch.split(maps, AT_ONCE)
        return torch.cat([grid_mean(trunk.above(part.float())) for part in parts])


def pooled_texts(trunk: TextTrunk, texts: Texts) -> Tensor:
    """(texts, 384) from the states below the cut."""
    pooled = torch.empty(len(texts), 384)
    with torch.no_grad():
        for rows in texts.by_length(AT_ONCE):
            ids, states = texts.batch(rows)
            pooled[rows] = token_mean(trunk.above(states, ids), ids)
    return pooled
