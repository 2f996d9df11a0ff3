"""What any model of open_clip says of the places of a photo and of the tokens of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.encoders.clip_export import short_states
from mmsearch.encoders.clip_torch import normalised, trims
from mmsearch.errors import InvalidOption
from mmsearch.training.regions import OVERALL, SIDE, Regions, Words

if TYPE_CHECKING:
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
