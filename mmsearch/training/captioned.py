"""A user's own captioned photos, and their features below what is tuned."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsearch.errors import PathNotFound, UnreadableFile
from mmsearch.media.captions import CaptionBook
from mmsearch.media.image import load_image
from mmsearch.media.kinds import kind_of
from mmsearch.training.features import Texts
from mmsearch.training.intermediate_features import ABSENT, SPOKEN, Marks, Places, States
from mmsearch.training.regions import SIDE
from mmsearch.training.rerank import Pairs

if TYPE_CHECKING:
    from mmsearch.encoders.clip import ClipEncoder

AT_ONCE = 16
VIEWS = 2
"""Of each photo: as it is, and mirrored."""
MOST_CAPTIONS = 5
"""Of a photo, the first ones."""
THREADS = 2


@dataclass(frozen=True)
class Captioned:
    """A photo with its captions."""

    path: Path
    captions: tuple[str, ...]


def read_pairs(folder: Path, captions: Path) -> list[Captioned]:
    """The photos below a folder that a captions file names, in order of their paths.

    Raises:
        PathNotFound: there is no such folder, or no such file.
        InvalidCaptions: the file cannot be parsed.
    """
    if not folder.is_dir():
        raise PathNotFound(f"there is no folder {folder}")
    book, top = CaptionBook(captions), os.path.abspath(folder)
    found = []
    for place, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            if kind_of(name) == "image":
                own = book.find(path, os.path.relpath(path, top))
                if own:
                    found.append(Captioned(Path(path), tuple(own[:MOST_CAPTIONS])))
    return found


def prepared(
    encoder: ClipEncoder, pairs: Sequence[Captioned]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(row, pixels) of each photo as the model takes it; what cannot be read is left out."""

    def read(pair: Captioned) -> NDArray[np.uint8] | None:
        try:
            photo, _ = load_image(pair.path, at_least=encoder.image_size)
        except (UnreadableFile, OSError) as error:
            print(f"  {pair.path} is left out: {error}", flush=True)
            return None
        pixels: NDArray[np.uint8] = encoder.prepare("image", photo)
        return pixels

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(pairs), AT_ONCE):
            some = pool.map(read, pairs[start : start + AT_ONCE])
            yield from ((start + at, one) for at, one in enumerate(some) if one is not None)


@dataclass(frozen=True)
class OwnPairs(Pairs):
    """Pairs of which some photos have more captions than others."""

    firsts: Tensor
    """(photos + 1,) row of each photo's first caption, and the number of all."""

    def draw(self, rows: Tensor, dice: torch.Generator) -> Tensor:
        """Of each photo one caption, drawn at random."""
        counts = self.firsts[rows + 1] - self.firsts[rows]
        chance = torch.rand(len(rows), generator=dice)
        return self.firsts[rows] + (chance * counts).long()


def features_of(
    encoder: ClipEncoder,
    pairs: Sequence[Captioned],
    places: Places,
    words: TokenStates,
    scratch: Path,
) -> OwnPairs:
    """What the frozen towers say of pairs, in two views of each photo.

    Args:
        encoder: Prepares photos.
        pairs: Those to learn from.
        places: Of the image tower.
        words: Of the text tower.
        scratch: An empty folder for the photos' features: 100 bytes a channel and photo.
    """
    shape = (len(pairs), places.width, SIDE, SIDE)
    grids = [
        np.lib.format.open_memmap(scratch / f"view-{view}.npy", "w+", np.float16, shape)
        for view in range(VIEWS)
    ]
    good: list[int] = []
    for some in _batches(prepared(encoder, pairs)):
        pixels = torch.from_numpy(np.stack([one for _, one in some]))
        rows = slice(len(good), len(good) + len(some))
        for grid, seen in zip(grids, (pixels, pixels.flip(2)), strict=True):
            with torch.no_grad():
                grid[rows] = places(seen).half().numpy()
        good += [row for row, _ in some]
        if len(good) % (AT_ONCE * 32) == 0:
            print(f"  {len(good)} of {len(pairs)} photos", flush=True)
    print(f"  {len(good)} photos, each as it is and mirrored", flush=True)
    captions = [pairs[row].captions for row in good]
    firsts = np.cumsum([0, *map(len, captions)])
    texts = words([text for own in captions for text in own])
    print(f"  {len(texts)} captions", flush=True)
    return OwnPairs([grid[: len(good)] for grid in grids], texts, 0, torch.from_numpy(firsts))


class TokenStates:
    """States of the tokens of texts, padding left out, marks first."""

    def __init__(self, tokens: Any, states: States, marks: Marks) -> None:
        """Nothing is computed yet.

        Args:
            tokens: Texts to arrays of token ids.
            states: Of the text tower.
            marks: Which ids are no words.
        """
        self._tokens, self._states, self._marks = tokens, states, marks

    def __call__(self, texts: Sequence[str]) -> Texts:
        """Kinds of tokens in place of their ids, and their states in float16."""
        ids = [torch.from_numpy(one) for one in self._tokens(texts)]
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(ids)
        for start in range(0, len(ids), AT_ONCE):
            rows = by_length[start : start + AT_ONCE]
            batch = torch.nn.utils.rnn.pad_sequence([ids[row] for row in rows], batch_first=True)
            with torch.no_grad():
                states = self._states(batch)
            for row, own, kinds in zip(rows, states, self._marks.kinds(batch), strict=True):
                found[row] = _marks_first(kinds[: len(ids[row])], own)
        starts = torch.tensor([0, *(len(kinds) for kinds, _ in found)]).cumsum(0)
        kinds, of_tokens = (torch.cat(part) for part in zip(*found, strict=True))
        return Texts(kinds, of_tokens, starts)


def _marks_first(kinds: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens that are there; the first is no word, which the training leaves out."""
    there = (kinds != ABSENT).nonzero()[:, 0]
    order = there[(kinds[there] == SPOKEN).long().argsort(stable=True)]
    kinds, states = kinds[order], states[order].half()
    if not len(kinds) or kinds[0] == SPOKEN:
        kinds = torch.cat([torch.tensor([ABSENT]), kinds])
        states = torch.cat([torch.zeros(1, states.shape[1], dtype=states.dtype), states])
    return kinds, states


def _batches(
    photos: Iterator[tuple[int, NDArray[np.uint8]]],
) -> Iterator[list[tuple[int, NDArray[np.uint8]]]]:
    some = []
    for photo in photos:
        some.append(photo)
        if len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some
