"""Features of a user's captioned photos from open_clip's towers, on which tuning trains its heads.

Those of a photo are the grid of the last block, those of a text the states of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmsearch.encoders.clip.onnx_export import short_states
from mmsearch.encoders.clip.torch_model import normalised, trims
from mmsearch.encoders.onnx import padded_batches
from mmsearch.errors import InvalidOption, UnreadableFile
from mmsearch.media.image import load_image
from mmsearch.training.examples import ITEMS_AT_ONCE, batched, judged_queries
from mmsearch.training.features import Captions, TextStates
from mmsearch.training.fit_late_interaction import Pairs
from mmsearch.training.late_interaction import GRID, POOLED, RegionHead, WordHead, grid_pooling

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.encoders.clip.encoder import ClipEncoder
    from mmsearch.encoders.clip.preprocessing import TokenRecipe
    from mmsearch.encoders.clip.torch_model import TorchModel
    from mmsearch.evaluation.pairs import Pair

PADDING, SPECIAL, WORD = 0, 1, 2
"""Kinds of tokens; a word may consist of several."""

LAST_BLOCK: dict[str, Any] = {"indices": 1, "intermediates_only": True}
"""Options of `forward_intermediates`."""

BATCH = 16
THREADS = 2
VIEWS = 2
"""Of each photo: as it is, and mirrored."""
MOST_CAPTIONS = 5
"""Captions used of each photo."""


# ---------------------------------------------------------------------- towers


class GridTower(nn.Module):
    """Features of the last block of an image tower, averaged to GRID × GRID places.

    A region embedding starts as a mean of linear maps, which equals the linear map of the mean. So
    nothing is lost by averaging first, and a photo takes 50 bytes per channel for any grid.
    """

    def __init__(self, model: TorchModel) -> None:
        """Take a model's image tower.

        Raises:
            InvalidOption: it has no grid of features.
        """
        super().__init__()
        self.visual, self.pixels = model.model.visual, model.pixels
        # an attention pooler is followed by the last norm, which then has another width
        self.normed = getattr(self.visual, "attn_pool", None) is None
        blank = torch.zeros(1, self.pixels.height, self.pixels.width, 3, dtype=torch.uint8)
        try:
            with torch.no_grad():
                _, self.width, high, wide = self.grid(blank).shape
        except Exception as error:  # depends on which of open_clip's or timm's towers it is
            raise InvalidOption(
                f"the image tower of this model ({type(self.visual).__name__}) gives no features "
                f"of the places of a photo, so it cannot be tuned for reranking: {error}"
            ) from error
        self.pooling = nn.Buffer(grid_pooling(high, wide))

    def grid(self, pixels: Tensor) -> Tensor:
        """(n, width, rows, columns) of pixels (n, height, width, 3) uint8."""
        found = self.visual.forward_intermediates(
            normalised(pixels, self.pixels),
            normalize_intermediates=self.normed,
            output_fmt="NCHW",
            **LAST_BLOCK,
        )
        return found["image_intermediates"][-1]

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, width, GRID, GRID) of pixels (n, height, width, 3) uint8."""
        return (self.grid(pixels).flatten(2) @ self.pooling).unflatten(2, (GRID, GRID))


class StateTower(nn.Module):
    """States (n, tokens, width) after the last layer of a text tower."""

    def __init__(self, model: TorchModel) -> None:
        """Take a model's text tower.

        Raises:
            InvalidOption: it does not return the states of its tokens.
        """
        super().__init__()
        self.whole = model.model
        self.short = trims(model.model)
        try:
            with torch.no_grad():
                ids = torch.from_numpy(model.tokens(["a dog"]))
                found = self(ids)
        except Exception as error:  # depends on which of open_clip's or transformers' towers it is
            raise InvalidOption(
                "the text tower of this model does not give the states of its tokens, so it "
                f"cannot be tuned for reranking: {error}"
            ) from error
        if found.shape[:2] != ids.shape:
            raise InvalidOption(
                "the text tower of this model does not give one state per token, so it cannot be "
                "tuned for reranking"
            )
        self.width = found.shape[2]

    def forward(self, ids: Tensor) -> Tensor:
        """States of token ids (n, tokens)."""
        text = getattr(self.whole, "text", self.whole)
        if self.short:
            return short_states(text, ids)
        if hasattr(text, "config"):  # a model of transformers
            mask = (ids != text.config.pad_token_id).long()
            return text.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
        if text is self.whole:
            found = text.forward_intermediates(
                text=ids, text_indices=1, normalize_intermediates=True, intermediates_only=True
            )
        else:
            found = text.forward_intermediates(
                ids, normalize_intermediates=True, output_fmt="NLC", **LAST_BLOCK
            )
        return found["text_intermediates"][-1]


@dataclass(frozen=True)
class SpecialTokens:
    """The token ids of a model that do not stand for words."""

    padding: int
    others: tuple[int, ...]

    @classmethod
    def of(cls, recipe: TokenRecipe, model: TorchModel) -> SpecialTokens:
        """The ids that a model's tokenizer adds to a text."""
        if recipe.kind == "clip":
            return cls(0, recipe.marks)
        if recipe.kind == "clips":
            start, end, padding, last = recipe.marks
            return cls(padding, (start, end, last))
        tokenizer = model.tokenizer.tokenizer
        others = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        padding = tokenizer.pad_token_id
        return cls(0 if padding in (None, recipe.blanked) else padding, tuple(sorted(others)))

    def kinds(self, ids: Tensor) -> Tensor:
        """PADDING, SPECIAL or WORD, for each token id."""
        kinds = torch.full_like(ids, WORD)
        for special in self.others:
            kinds = torch.where(ids == special, SPECIAL, kinds)
        return torch.where(ids == self.padding, PADDING, kinds)


class ClipRegions(nn.Module):
    """Features of `GridTower` to region embeddings."""

    def __init__(self, rows: RegionHead) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, grid: Tensor) -> Tensor:
        """(n, rows, TOKEN_DIM) of (n, width, GRID, GRID)."""
        return self.rows(grid.flatten(2).transpose(1, 2))


class ClipWords(nn.Module):
    """States of `StateTower` to word embeddings."""

    def __init__(self, rows: WordHead) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, states: Tensor, kinds: Tensor) -> Tensor:
        """(n, rows, TOKEN_DIM) of states (n, tokens, width) and kinds of tokens (n, tokens)."""
        return self.rows(states, kinds != PADDING, kinds == WORD)


class RegionTower(nn.Module):
    """Pixels to region embeddings."""

    def __init__(self, tower: GridTower, regions: ClipRegions) -> None:
        super().__init__()
        self.tower, self.regions = tower, regions

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, rows, TOKEN_DIM) of pixels (n, height, width, 3) uint8."""
        return self.regions(self.tower(pixels))[:, POOLED:]


class WordTower(nn.Module):
    """Token ids to word embeddings, zeros for tokens that are not words."""

    def __init__(self, tower: StateTower, words: ClipWords, special: SpecialTokens) -> None:
        super().__init__()
        self.tower, self.words, self.special = tower, words, special

    def forward(self, ids: Tensor) -> Tensor:
        """(n, rows, TOKEN_DIM) of token ids (n, tokens)."""
        return self.words(self.tower(ids), self.special.kinds(ids))[:, POOLED:]


# ---------------------------------------------------------------------- a user's pairs


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo with its captions."""

    path: Path
    captions: tuple[str, ...]


def captioned_photos(collection: Collection, pairs: Sequence[Pair] | None) -> list[CaptionedPhoto]:
    """The captioned photos of an index, by path; captions are those of the pairs, else the index's.

    Raises:
        InvalidQuery: none of the files that the pairs name is in the index.
    """
    texts: dict[int, list[str]] = {}
    for judged in judged_queries(collection, pairs).queries:
        part = judged.query.parts[0]
        for item_id in judged.relevant if part.modality == "text" else ():
            texts.setdefault(item_id, []).append(part.content)
    photos = [
        CaptionedPhoto(Path(item.path), tuple(texts[item.id][:MOST_CAPTIONS]))
        for ids in batched(sorted(texts), ITEMS_AT_ONCE)
        for item in collection.store.items.get(ids).values()
        if item.modality == "image"
    ]
    return sorted(photos, key=lambda photo: photo.path)


def prepared_batches(
    encoder: ClipEncoder, photos: Sequence[CaptionedPhoto], size: int
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Rows of `photos` and their pixels (n, height, width, 3); unreadable photos are skipped."""

    def read(photo: CaptionedPhoto) -> NDArray[np.uint8] | None:
        try:
            image, _ = load_image(photo.path, at_least=encoder.image_size)
        except (UnreadableFile, OSError) as error:
            print(f"  {photo.path} is left out: {error}", flush=True)
            return None
        pixels: NDArray[np.uint8] = encoder.prepare("image", image)
        return pixels

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(photos), size):
            found = {
                start + at: pixels
                for at, pixels in enumerate(pool.map(read, photos[start : start + size]))
                if pixels is not None
            }
            if found:
                yield list(found), np.stack(list(found.values()))


def pair_features(
    encoder: ClipEncoder,
    photos: Sequence[CaptionedPhoto],
    tower: GridTower,
    states_of: Callable[[Sequence[str]], TextStates],
    scratch: Path,
) -> Pairs:
    """Features of captioned photos, in two views of each.

    Those of the photos are in files in `scratch`, an empty folder: 100 bytes a channel and photo.
    """
    shape = (len(photos), tower.width, GRID, GRID)
    grids = [
        np.lib.format.open_memmap(scratch / f"view-{view}.npy", "w+", np.float16, shape)
        for view in range(VIEWS)
    ]
    readable: list[int] = []
    for rows, batch in prepared_batches(encoder, photos, BATCH):
        pixels = torch.from_numpy(batch)
        at = slice(len(readable), len(readable) + len(rows))
        for grid, view in zip(grids, (pixels, pixels.flip(2)), strict=True):
            with torch.no_grad():
                grid[at] = tower(view).half().numpy()
        readable += rows
        if len(readable) % (BATCH * 32) == 0:
            print(f"  {len(readable)} of {len(photos)} photos", flush=True)
    print(f"  {len(readable)} photos, each as it is and mirrored", flush=True)
    captions = [photos[row].captions for row in readable]
    states = states_of([text for of_photo in captions for text in of_photo])
    print(f"  {len(states)} captions", flush=True)
    return Pairs([grid[: len(readable)] for grid in grids], Captions.of(captions, states))


def token_states(
    tokenize: Callable[[Sequence[str]], Sequence[NDArray[np.int64]]],
    tower: StateTower,
    special: SpecialTokens,
    texts: Sequence[str],
) -> TextStates:
    """States of the tokens of texts in float16, with the kinds of tokens instead of their ids.

    Padding is removed, and special tokens come first.
    """
    ids = tokenize(texts)
    found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(ids)
    for rows, padded in padded_batches(ids, BATCH):
        batch = torch.from_numpy(padded)
        with torch.no_grad():
            states = tower(batch)
        for row, states_of_text, kinds in zip(rows, states, special.kinds(batch), strict=True):
            found[row] = _special_first(kinds[: len(ids[row])], states_of_text)
    starts = torch.tensor([0, *(len(kinds) for kinds, _ in found)]).cumsum(0)
    kinds, states = (torch.cat(part) for part in zip(*found, strict=True))
    return TextStates(kinds, states, starts)


def _special_first(kinds: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens without padding; the first is never a word, since training skips it."""
    present = (kinds != PADDING).nonzero()[:, 0]
    order = present[(kinds[present] == WORD).long().argsort(stable=True)]
    kinds, states = kinds[order], states[order].half()
    if not len(kinds) or kinds[0] == WORD:
        kinds = torch.cat([torch.tensor([PADDING]), kinds])
        states = torch.cat([torch.zeros(1, states.shape[1], dtype=states.dtype), states])
    return kinds, states
