"""What the frozen lower parts say of each photo and text: computed once, kept in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.training.data import Split
from mmsearch.training.trunks import MAX_TOKENS, ImageTrunk, TextTrunk, minilm_folder
from mmsearch.training.views import MIRRORED, seen

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
