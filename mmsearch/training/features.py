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
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from mmsearch.encoders.onnx import import_onnxruntime, padded_batches
from mmsearch.training.backbones import (
    CHANNELS,
    ImageTrunk,
    TextTrunk,
    grid_mean_and_maximum,
    moments,
    standardised,
    token_mean,
    tokenizer_json,
)
from mmsearch.training.data import (
    MIRRORED,
    LabelledSet,
    TrainingSets,
    class_prompts,
    label_prompts,
    load_view,
)
from mmsearch.training.onnx_graphs import export_lower

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


def photo_maps(
    trunk: ImageTrunk, paths: Sequence[Path], view: int, *, seed: int, cache: Path
) -> Tensor:
    """Feature maps (photos, 208, 9, 9) in float16 below the cut, of one view of every photo.

    They take 34 kB of the cache per photo and view.
    """

    def compute() -> Arrays:
        session = one_thread_session(export_lower(trunk))

        def run(path: Path) -> NDArray[np.float16]:
            maps = session.run(None, {"pixels": load_view(path, view, seed)[None]})[0][0]
            return np.asarray(maps, np.float16)

        with ThreadPoolExecutor(THREADS) as pool:
            maps = np.stack(list(pool.map(run, paths)))
        print(f"  view {view}: {len(paths)} photos", flush=True)
        return {"maps": maps}

    files = ["/".join(path.resolve().parts[-3:]) for path in paths]  # set, folder, file
    key = ("maps", files, trunk.cut, view, seed if view > MIRRORED else 0)
    return torch.from_numpy(cached(cache, "maps", key, compute)["maps"])


def one_thread_session(graph: bytes) -> Any:
    """A session that several threads use at once."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options)


def session_with_outputs(tower: Path, tensors: Sequence[str]) -> Any:
    """A thread-safe session on a graph with inner tensors as additional outputs."""
    outputs = [helper.make_empty_tensor_value_info(name) for name in tensors]
    added = onnx.ModelProto(graph=onnx.GraphProto(output=outputs)).SerializePartialToString()
    return one_thread_session(tower.read_bytes() + added)


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
        every = np.concatenate([np.empty((0, 384), np.float16), *states])
        return {
            "ids": np.concatenate([np.empty(0, np.int64), *ids]),
            "states": every,
            "starts": starts,
        }

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

    def __len__(self) -> int:
        return len(self.first) - 1

    def draw(self, photos: Tensor, generator: torch.Generator) -> Tensor:
        """For each photo, the row of a random one of its captions."""
        return draw_one(self.first, photos, generator)

    def draw_two(self, photos: Tensor, generator: torch.Generator) -> Tensor:
        """(photos, 2): for each photo, the rows of two different captions; each must have two."""
        counts = self.first[photos + 1] - self.first[photos]
        one = (torch.rand(len(photos), generator=generator) * counts).long()
        further = 1 + (torch.rand(len(photos), generator=generator) * (counts - 1)).long()
        return self.first[photos, None] + torch.stack([one, (one + further) % counts], 1)


@dataclass(frozen=True)
class Prompts:
    """Names in several templates: template t of name i is row `names` · t + i of `states`."""

    states: TextStates
    names: int

    @classmethod
    def of(cls, by_template: Sequence[Sequence[str]], trunk: TextTrunk, *, cache: Path) -> Self:
        """The states of prompts, given as a list of all names for each template."""
        texts = [prompt for prompts in by_template for prompt in prompts]
        return cls(text_states(trunk, texts, cache=cache), len(by_template[0]) if texts else 0)

    def draw(self, names: Tensor, generator: torch.Generator) -> Tensor:
        """For each name, the row of a random one of its prompts."""
        templates = len(self.states) // max(1, self.names)
        drawn = torch.randint(max(1, templates), (len(names),), generator=generator)
        return drawn * self.names + names


@dataclass(frozen=True)
class Labels:
    """Labels of photos, each the right answer among those of its own set.

    Attributes:
        prompts: Of the labels.
        sets: (labels,) the set that each is of.
        of_photo: (labelled photos,) the label of each.
    """

    prompts: Prompts
    sets: Tensor
    of_photo: Tensor


@dataclass(frozen=True)
class PooledTexts:
    """Features (texts, 384) of captions, of labels' prompts, and of class names' prompts."""

    captions: Tensor
    labels: Tensor
    classes: Tensor


@dataclass(frozen=True)
class TrainingData:
    """What the towers learn from: photos, captions, labels and class names.

    Photos with captions come first, then those with labels.

    Attributes:
        maps: One (photos, 208, 9, 9) float16 per view, below the image cut.
        features: (views, photos, 2560) float16, pooled by the published trunk.
        posteriors: (views, photos, 1000) float16, the published classifier's probabilities.
        captions: Of the photos that have some.
        labels: Of the others.
        paraphrases: Groups of captions without their photos.
        classes: Prompts of ImageNet's class names.
        class_rows: (1000, 2560) the classifier's rows, each dimension of mean 0 and deviation 1,
            then zeros, as they say nothing of maxima.
        pooled: Texts, by the published trunk.
    """

    maps: Sequence[Tensor]
    features: Tensor
    posteriors: Tensor
    captions: Captions
    labels: Labels
    paraphrases: Captions
    classes: Prompts
    class_rows: Tensor
    pooled: PooledTexts

    @property
    def captioned(self) -> int:
        """The number of photos with captions."""
        return len(self.captions)

    def draw_maps(self, photos: Tensor, views: Tensor) -> Tensor:
        """(n, 208, 9, 9) of photos, each in one view."""
        rows = zip(views.tolist(), photos.tolist(), strict=True)
        return torch.stack([self.maps[view][row] for view, row in rows]).float()


def gather(
    sets: TrainingSets, image: ImageTrunk, text: TextTrunk, *, views: int, seed: int, cache: Path
) -> TrainingData:
    """The training data of some sets; `cache` is used and filled."""
    maps, features, posteriors = [], [], []
    for view in range(views):
        of_sets = [photo_maps(image, paths, view, seed=seed, cache=cache) for paths in sets.photos]
        pooled = [published_features(image, part) for part in of_sets]
        maps.append(torch.cat(of_sets))
        features.append(torch.cat([part for part, _ in pooled]))
        posteriors.append(torch.cat([part for _, part in pooled]))
    captions = [text_ for group in sets.captions for text_ in group]
    paraphrases = [text_ for group in sets.paraphrases for text_ in group]
    of_photos = text_states(text, captions, cache=cache)
    labels = _labels(sets.labelled, text, cache=cache)
    classes = Prompts.of(class_prompts(14), text, cache=cache)
    class_rows = standardised(image.class_rows, *moments(image.class_rows))
    return TrainingData(
        maps=maps,
        features=torch.stack(features),
        posteriors=torch.stack(posteriors),
        captions=Captions.of(sets.captions, of_photos),
        labels=labels,
        paraphrases=Captions.of(sets.paraphrases, text_states(text, paraphrases, cache=cache)),
        classes=classes,
        class_rows=F.pad(class_rows, (0, CHANNELS)),
        pooled=PooledTexts(
            *(
                pooled_texts(text, states)
                for states in (of_photos, labels.prompts.states, classes.states)
            )
        ),
    )


def published_features(trunk: ImageTrunk, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Features (photos, 2560) and class probabilities (photos, 1000) by the published trunk, of
    maps below its cut; both in float16.
    """
    features, posteriors = [], []
    with torch.no_grad():
        for part in torch.split(maps, POOLED_PER_BATCH):
            pooled = grid_mean_and_maximum(trunk.grid_of(part.float()))
            logits = pooled[:, :CHANNELS] @ trunk.class_rows.T + trunk.class_bias
            features.append(pooled.half())
            posteriors.append(logits.softmax(-1).half())
    return torch.cat(features), torch.cat(posteriors)


def _labels(sets: Sequence[LabelledSet], text: TextTrunk, *, cache: Path) -> Labels:
    of_photo: list[int] = []
    first = 0
    for one in sets:
        of_photo += [first + label for label in one.of_photo]
        first += len(one.labels)
    every = [label for one in sets for label in one.labels]
    return Labels(
        Prompts.of(label_prompts(every), text, cache=cache),
        torch.tensor(np.repeat(np.arange(len(sets)), [len(one.labels) for one in sets])),
        torch.tensor(of_photo, dtype=torch.int64),
    )


def pooled_texts(trunk: TextTrunk, texts: TextStates) -> Tensor:
    """(texts, 384) by the published trunk, from the states below the cut."""
    if not len(texts):
        return torch.empty(0, 384)
    batches, restore = texts.by_length(torch.arange(len(texts)), POOLED_PER_BATCH)
    pooled = []
    with torch.no_grad():
        for ids, states in map(texts.batch, batches):
            pooled.append(token_mean(trunk.above(states, ids), ids))
    return torch.cat(pooled)[restore]
