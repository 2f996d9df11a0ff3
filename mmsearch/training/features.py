"""Outputs of the frozen lower layers for every photo and text, computed once and cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from mmsearch.encoders.model_files import file_sha256
from mmsearch.encoders.onnx import import_onnxruntime, padded_batches
from mmsearch.training.backbones import (
    ImageTrunk,
    TextTrunk,
    grid_mean,
    moments,
    standardised,
    token_mean,
    tokenizer_json,
)
from mmsearch.training.data import MIRRORED, Split, class_prompts, load_view
from mmsearch.training.onnx_graphs import block_output, export_lower

Arrays = Mapping[str, NDArray[Any]]

PHOTOS_PER_BATCH = 64
TEXTS_PER_BATCH = 256
POOLED_PER_BATCH = 100
THREADS = 2

CLASSES = 1000


def cached(cache: Path, kind: str, key: object, compute: Callable[[], Arrays]) -> Arrays:
    """Arrays from a cache folder; computed at the first call, and written atomically.

    Args:
        cache: The folder.
        kind: Begins the file's name.
        key: Everything that the arrays depend on; its `repr` is hashed.
        compute: Called if they are not in the folder.
    """
    path = cache / f"{kind}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name("part-" + path.name)
        np.savez(part, allow_pickle=False, **compute())
        part.replace(path)
    arrays: Arrays = np.load(path)
    return arrays


def photo_maps(trunk: ImageTrunk, split: Split, view: int, *, seed: int, cache: Path) -> Tensor:
    """Feature maps (n, 208, 9, 9) in float16 below the cut, of one view of every photo."""

    def compute() -> Arrays:
        session = import_onnxruntime().InferenceSession(export_lower(trunk))
        maps, paths = [], split.paths
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(paths), PHOTOS_PER_BATCH):
                batch = paths[start : start + PHOTOS_PER_BATCH]
                photos = list(pool.map(lambda path: load_view(path, view, seed), batch))
                maps.append(session.run(None, {"pixels": np.stack(photos)})[0])
        print(f"  view {view}: {len(paths)} photos")
        return {"maps": np.concatenate(maps).astype(np.float16)}

    key = ("maps", split.files, trunk.cut, view, seed if view > MIRRORED else 0)
    return torch.from_numpy(cached(cache, "maps", key, compute)["maps"])


def tower_maps(
    tower: Path, split: Split, view: int, *, blocks: int, seed: int, cache: Path
) -> NDArray[np.float16]:
    """Feature maps (photos, 208, 9, 9) after some blocks of a finished image tower (`image.onnx`),
    of one view of every photo; 34 kB of the cache per photo and view.
    """

    def compute() -> Arrays:
        output = block_output(blocks)
        session = session_with_outputs(tower, [output])

        def run(path: Path) -> NDArray[np.float16]:
            pixels = load_view(path, view, seed)[None]
            maps: NDArray[np.float32] = session.run([output], {"pixels": pixels})[0][0]
            return maps.astype(np.float16)

        with ThreadPoolExecutor(THREADS) as pool:
            maps = np.stack(list(pool.map(run, split.paths)))
        print(f"  view {view}: {len(maps)} photos", flush=True)
        return {"maps": maps}

    key = (file_sha256(tower), blocks, split.files, view, seed if view > MIRRORED else 0)
    return cached(cache, "grids", key, compute)["maps"]


def session_with_outputs(tower: Path, tensors: Sequence[str]) -> Any:
    """A thread-safe session on a graph with inner tensors as additional outputs."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    outputs = [helper.make_empty_tensor_value_info(name) for name in tensors]
    added = onnx.ModelProto(graph=onnx.GraphProto(output=outputs)).SerializePartialToString()
    return onnxruntime.InferenceSession(tower.read_bytes() + added, options)


@dataclass(frozen=True)
class TextStates:
    """Token ids of texts and their states below the cut, concatenated.

    Text i has rows `starts[i]` to `starts[i + 1]` of `ids` (tokens,) and `states` (tokens, width).
    """

    ids: Tensor
    states: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def by_length(self, rows: Tensor, size: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Batches of texts of similar length, to save padding, and how to restore the order.

        Args:
            rows: Of the texts.
            size: Of a batch.

        Returns:
            The rows of each batch, and the positions that restore the order of `rows`.
        """
        order = (self.starts[rows + 1] - self.starts[rows]).argsort(stable=True)
        return torch.split(rows[order], size), order.argsort()

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (n, longest) padded with 0, and states (n, longest, width), of some texts."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        positions = torch.arange(int(lengths.max()))
        inside = positions[None] < lengths[:, None]
        indices = torch.where(inside, self.starts[rows][:, None] + positions[None], 0)
        ids = torch.where(inside, self.ids[indices], 0)
        return ids, self.states[indices].float() * inside[..., None]


def text_states(trunk: TextTrunk, texts: Sequence[str], *, cache: Path) -> TextStates:
    """Token states below the cut of every text, in float16."""

    def compute() -> Arrays:
        ids = tokenize(texts)
        states: list[NDArray[np.float16]] = [np.empty((0, 384), np.float16)] * len(ids)
        for rows, batch in padded_batches(ids, TEXTS_PER_BATCH):
            with torch.no_grad():
                found = trunk.below(torch.from_numpy(batch)).half().numpy()
            for row, state in zip(rows, found, strict=True):
                states[row] = state[: len(ids[row])]
        starts = np.cumsum([0, *map(len, ids)])
        print(f"  {len(ids)} texts")
        return {"ids": np.concatenate(ids), "states": np.concatenate(states), "starts": starts}

    arrays = cached(cache, "texts", ("texts", texts, trunk.cut), compute)
    return TextStates(*(torch.from_numpy(arrays[name]) for name in ("ids", "states", "starts")))


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, [CLS] and [SEP] included, at most 128."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(tokenizer_json())
    return [found.ids for found in tokenizer.encode_batch(list(texts))]


def draw_one(first: Tensor, groups: Tensor, generator: torch.Generator) -> Tensor:
    """A random row of each group, of which group i has rows `first[i]` to `first[i + 1]`."""
    counts = first[groups + 1] - first[groups]
    return first[groups] + (torch.rand(len(groups), generator=generator) * counts).long()


@dataclass(frozen=True)
class Captions:
    """The captions of photos, in order: photo i has texts `first[i]` to `first[i + 1]`."""

    states: TextStates
    first: Tensor

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]], states: TextStates) -> Self:
        """The captions of each photo, and the states of all."""
        return cls(states, torch.tensor([0, *map(len, captions)]).cumsum(0))

    def draw(self, photos: Tensor, generator: torch.Generator) -> Tensor:
        """For each photo, the row of a random one of its captions."""
        return draw_one(self.first, photos, generator)


class EvenCaptions(Captions):
    """The same number of captions for each photo; the draws are those that trained `mini`."""

    def draw(self, photos: Tensor, generator: torch.Generator) -> Tensor:
        """For each photo, the row of a random one of its captions."""
        number = int(self.first[1])
        return self.first[photos] + torch.randint(number, (len(photos),), generator=generator)


@dataclass(frozen=True)
class TrainingData:
    """What the towers learn from: photos, captions and class names.

    Attributes:
        maps: One (photos, 208, 9, 9) float16 per view, below the image cut.
        captions: Of all photos.
        prompts: Prompt t of class c is row 1000 t + c.
        features: (photos, 1280) pooled by the published trunk, of the photos as they are.
        caption_features: (captions, 384).
        prompt_features: (prompts, 384).
        class_rows: (1000, 1280) the classifier's rows, each dimension of mean 0 and deviation 1.
        posteriors: (photos, 1000) the classifier's probabilities.
    """

    maps: list[Tensor]
    captions: Captions
    prompts: TextStates
    features: Tensor
    caption_features: Tensor
    prompt_features: Tensor
    class_rows: Tensor
    posteriors: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def draw_prompts(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """For each class, the row of a random one of its prompts."""
        templates = len(self.prompts) // CLASSES
        drawn = torch.randint(templates, (len(classes),), generator=generator)
        return drawn * CLASSES + classes


def gather(
    split: Split, image: ImageTrunk, text: TextTrunk, *, views: int, seed: int, cache: Path
) -> TrainingData:
    """The training data of a split; `cache` is used and filled."""
    maps = [photo_maps(image, split, view, seed=seed, cache=cache) for view in range(views)]
    captions = text_states(text, split.texts, cache=cache)
    texts = [prompt for prompts_of_classes in class_prompts(14) for prompt in prompts_of_classes]
    prompts = text_states(text, texts, cache=cache)
    with torch.no_grad():
        parts = torch.split(maps[0], POOLED_PER_BATCH)
        features = torch.cat([grid_mean(image.above(part.float())) for part in parts])
    return TrainingData(
        maps=maps,
        captions=Captions.of(split.captions, captions),
        prompts=prompts,
        features=features,
        caption_features=_pooled(text, captions),
        prompt_features=_pooled(text, prompts),
        class_rows=standardised(image.class_rows, *moments(image.class_rows)),
        posteriors=(features @ image.class_rows.T + image.class_bias).softmax(-1),
    )


def _pooled(trunk: TextTrunk, texts: TextStates) -> Tensor:
    """(texts, 384) from the states below the cut."""
    batches, restore = texts.by_length(torch.arange(len(texts)), POOLED_PER_BATCH)
    pooled = []
    with torch.no_grad():
        for ids, states in map(texts.batch, batches):
            pooled.append(token_mean(trunk.above(states, ids), ids))
    return torch.cat(pooled)[restore]
