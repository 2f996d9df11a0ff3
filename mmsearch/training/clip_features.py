"""What any model of open_clip says of the places of a photo and of the tokens of a text.

A user's own captioned photos, and their features below what is tuned.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmsearch.encoders.clip_export import short_states
from mmsearch.encoders.clip_torch import normalised, trims
from mmsearch.errors import InvalidOption, PathNotFound, UnreadableFile
from mmsearch.media.captions import CaptionFile
from mmsearch.media.image import load_image
from mmsearch.media.kinds import kind_of
from mmsearch.training.features import Texts
from mmsearch.training.rerank import Pairs
from mmsearch.training.token_embeddings import OVERALL, SIDE, Regions, Words

if TYPE_CHECKING:
    from mmsearch.encoders.clip import ClipEncoder
    from mmsearch.encoders.clip_tokens import TokenRecipe
    from mmsearch.encoders.clip_torch import TorchModel

ABSENT, SILENT, SPOKEN = 0, 1, 2
"""What a token is: padding; a mark, which says something of the whole; a word or a part of one."""

LAST: dict[str, Any] = {
    "indices": 1,
    "intermediates_only": True,
}


class Places(nn.Module):
    """Features of the last block of an image tower, averaged to SIDE × SIDE places.

    Regions are means of linear maps, which are linear maps of these means: nothing is lost that
    they would have seen, and a photo is 50 numbers a channel, however fine the tower's grid.
    """

    def __init__(self, model: TorchModel) -> None:
        """Tap a tower.

        Raises:
            InvalidOption: it has no grid of features to tap.
        """
        super().__init__()
        self.visual, self.pixels = model.model.visual, model.pixels
        # an attention pooler is followed by the last norm, which then has another width
        self.normed = getattr(self.visual, "attn_pool", None) is None
        blank = torch.zeros(1, self.pixels.height, self.pixels.width, 3, dtype=torch.uint8)
        try:
            with torch.no_grad():
                _, self.width, high, wide = self.grid(blank).shape
        except Exception as error:  # open_clip and timm have towers of many kinds
            raise InvalidOption(
                f"the image tower of this model ({type(self.visual).__name__}) gives no features "
                f"of the places of a photo, so it cannot be tuned to look closer: {error}"
            ) from error
        places = torch.eye(high * wide).view(high * wide, 1, high, wide)
        self.pooling = nn.Buffer(F.adaptive_avg_pool2d(places, SIDE).flatten(1))

    def grid(self, pixels: Tensor) -> Tensor:
        """(n, width, rows, columns) of pixels (n, height, width, 3) uint8."""
        photos = normalised(pixels, self.pixels)
        found = self.visual.forward_intermediates(
            photos, normalize_intermediates=self.normed, output_fmt="NCHW", **LAST
        )
        return found["image_intermediates"][-1]

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, width, SIDE, SIDE) of pixels (n, height, width, 3) uint8."""
        return (self.grid(pixels).flatten(2) @ self.pooling).unflatten(2, (SIDE, SIDE))


class States(nn.Module):
    """States (n, tokens, width) after the last layer of a text tower."""

    def __init__(self, model: TorchModel) -> None:
        """Tap a tower.

        Raises:
            InvalidOption: it does not show the states of its tokens.
        """
        super().__init__()
        self.whole = model.model
        self.short = trims(model.model)
        try:
            with torch.no_grad():
                ids = torch.from_numpy(model.tokens(["a dog"]))
                found = self(ids)
        except Exception as error:  # open_clip and transformers have towers of many kinds
            raise InvalidOption(
                "the text tower of this model does not show the states of its tokens, so it "
                f"cannot be tuned to look closer: {error}"
            ) from error
        if found.shape[:2] != ids.shape:
            raise InvalidOption(
                "the text tower of this model has not one state a token, so it cannot be tuned to "
                "look closer"
            )
        self.width = found.shape[2]

    def forward(self, ids: Tensor) -> Tensor:
        """States of token ids (n, tokens)."""
        text = getattr(self.whole, "text", self.whole)
        if self.short:
            return short_states(text, ids)
        if hasattr(text, "config"):  # one of transformers'
            there = (ids != text.config.pad_token_id).long()
            return text.transformer(input_ids=ids, attention_mask=there).last_hidden_state
        if text is self.whole:
            found = text.forward_intermediates(
                text=ids, text_indices=1, normalize_intermediates=True, intermediates_only=True
            )
        else:
            found = text.forward_intermediates(
                ids, normalize_intermediates=True, output_fmt="NLC", **LAST
            )
        return found["text_intermediates"][-1]


@dataclass(frozen=True)
class Marks:
    """Which token ids of a model are no words."""

    padding: int
    silent: tuple[int, ...]

    def kinds(self, ids: Tensor) -> Tensor:
        """ABSENT, SILENT or SPOKEN, of each token id."""
        kinds = torch.full_like(ids, SPOKEN)
        for mark in self.silent:
            kinds = torch.where(ids == mark, SILENT, kinds)
        return torch.where(ids == self.padding, ABSENT, kinds)


def marks_of(recipe: TokenRecipe, model: TorchModel) -> Marks:
    """What a model's own tokenizer puts into a text that is no word."""
    if recipe.kind == "clip":
        return Marks(0, recipe.marks)
    if recipe.kind == "clips":
        start, end, padding, last = recipe.marks
        return Marks(padding, (start, end, last))
    own = model.tokenizer.tokenizer
    silent = set(own.all_special_ids) - {own.unk_token_id}
    padding = own.pad_token_id
    return Marks(0 if padding in (None, recipe.blanked) else padding, tuple(sorted(silent)))


class PhotoSide(nn.Module):
    """Rows of photos, from what `Places` gives."""

    def __init__(self, rows: Regions) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, places: Tensor) -> Tensor:
        """(n, rows, ROW) of (n, width, SIDE, SIDE)."""
        return self.rows(places.flatten(2).transpose(1, 2))


class WordSide(nn.Module):
    """Rows of texts, from what `States` gives."""

    def __init__(self, rows: Words) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, states: Tensor, kinds: Tensor) -> Tensor:
        """(n, rows, ROW) of states (n, tokens, width) and the kinds of tokens (n, tokens)."""
        return self.rows(states, kinds != ABSENT, kinds == SPOKEN)


class PhotoTower(nn.Module):
    """Pixels to rows of regions, as they are stored."""

    def __init__(self, places: Places, side: PhotoSide) -> None:
        super().__init__()
        self.places, self.side = places, side

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, rows, ROW) of pixels (n, height, width, 3) uint8."""
        return self.side(self.places(pixels))[:, OVERALL:]


class WordTower(nn.Module):
    """Token ids to rows of words, zeros where there is none."""

    def __init__(self, states: States, side: WordSide, marks: Marks) -> None:
        super().__init__()
        self.states, self.side, self.marks = states, side, marks

    def forward(self, ids: Tensor) -> Tensor:
        """(n, rows, ROW) of token ids (n, tokens)."""
        return self.side(self.states(ids), self.marks.kinds(ids))[:, OVERALL:]


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
    book, top = CaptionFile(captions), os.path.abspath(folder)
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
