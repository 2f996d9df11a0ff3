"""Photos as a few rows of numbers, one a region, and texts as a few, one a word.

Takes the grid features and the token features of any encoder: what lies below is handed in.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.training.heads import SMALLEST_SPREAD
from mmsearch.training.recipe import Recipe
from mmsearch.training.trunks import ImageTrunk, padding_bias

ROW = 128
"""Numbers of a row, each stored as one byte."""
OVERALL = 2
"""Rows that stand for the whole, in training only; those of the parts come after them."""
SIDE = 5
"""A photo has SIDE × SIDE regions."""


class Overall(nn.Module):
    """Rows of the whole, from standardised pooled features: a linear map and a residual MLP."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        wide = OVERALL * ROW
        self.linear = nn.Linear(width, wide)
        self.mlp = residual(wide, wide, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """Rows (n, OVERALL, ROW), each of length 1, of (n, width)."""
        x = self.linear(self.dropout(pooled))
        return F.normalize((x + self.mlp(x)).float().unflatten(-1, (OVERALL, ROW)), dim=-1)


def residual(width: int, inner: int, dropout: float) -> nn.Sequential:
    """What is added to a vector: two layers on its normalised self."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(inner, width),
    )


class Regions(nn.Module):
    """Rows of a photo from features of its places, standardised by moments of their means."""

    def __init__(self, mean: Tensor, spread: Tensor, side: int, recipe: Recipe) -> None:
        super().__init__()
        self.mean, self.spread = nn.Buffer(mean), nn.Buffer(spread)
        self.overall = Overall(len(mean), recipe.row_dropout)
        self.linear = nn.Linear(len(mean), ROW)
        self.mlp = residual(ROW, 2 * ROW, recipe.row_dropout / 2)
        self.dropout, self.noise = recipe.row_dropout, recipe.photo_noise
        places = torch.eye(side * side).view(side * side, 1, side, side)
        self.pooling = nn.Buffer(F.adaptive_avg_pool2d(places, SIDE).flatten(1).T.contiguous())

    def forward(self, grid: Tensor) -> Tensor:
        """Rows (n, OVERALL + SIDE², ROW), each of length 1, of a grid (n, places, width)."""
        pooled = (grid.mean(1, dtype=torch.float32) - self.mean) / self.spread
        if self.training:
            pooled = pooled + self.noise * torch.randn_like(pooled)
        return torch.cat([self.overall(pooled), self.parts(grid)], 1)

    def parts(self, grid: Tensor) -> Tensor:
        """The rows of the regions alone."""
        if self.training:
            whole = torch.ones(len(grid), 1, grid.shape[-1])  # a channel goes everywhere at once
            grid = grid * F.dropout(whole, self.dropout).to(grid.dtype)
        # places deviate more than their mean does; standardising is part of the matrix
        weight = self.linear.weight * (0.3 / self.spread)
        bias = self.linear.bias - weight @ self.mean
        x = self.pooling.to(grid.dtype) @ F.linear(grid, weight, bias)
        return F.normalize((x + self.mlp(x)).float(), dim=-1)


class Words(nn.Module):
    """Rows of a text from the states of its tokens."""

    def __init__(self, width: int, recipe: Recipe) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.overall = Overall(width, recipe.word_dropout)
        self.dropout = nn.Dropout(recipe.word_dropout)
        self.linear = nn.Linear(width, ROW)
        self.mlp = residual(ROW, 2 * ROW, recipe.word_dropout)

    def forward(self, states: Tensor, stands: Tensor, spoken: Tensor) -> Tensor:
        """Rows (n, OVERALL + tokens, ROW) of length 1, or of zeros where nothing is spoken.

        Args:
            states: (n, tokens, width).
            stands: (n, tokens) whether a token is there; all that are say what the whole is.
            spoken: (n, tokens) whether it is a word, or a part of one.
        """
        there = stands.float()[..., None]
        pooled = (states * there).sum(1) / there.sum(1).clamp_min(1)
        return torch.cat([self.overall(self.norm(pooled.float())), self.parts(states, spoken)], 1)

    def parts(self, states: Tensor, spoken: Tensor) -> Tensor:
        """The rows of the words alone."""
        x = self.linear(self.dropout(self.norm(states)))
        return F.normalize((x + self.mlp(x)).float(), dim=-1) * spoken.float()[..., None]


class ImageSide(nn.Module):
    """`mini`'s photos: own copies of the last blocks and convolution, then rows."""

    def __init__(self, trunk: ImageTrunk, rows: Regions) -> None:
        super().__init__()
        self.upper, self.last, self.rows = trunk.upper, trunk.last, rows

    def forward(self, maps: Tensor) -> Tensor:
        """Rows of maps (n, 208, 9, 9)."""
        return self.rows(self.grid(maps))

    def parts(self, maps: Tensor) -> Tensor:
        """Those of the regions alone."""
        return self.rows.parts(self.grid(maps))

    def grid(self, maps: Tensor) -> Tensor:
        """Features (n, 81, 1280) of maps (n, 208, 9, 9)."""
        x = self.upper(maps)
        x = x.permute(0, 2, 3, 1).flatten(1, 2)  # a product of matrices is quicker than 1 × 1
        return F.linear(x, self.last.conv.weight[:, :, 0, 0], self.last.conv.bias).clamp(0, 6)


class TextSide(nn.Module):
    """`mini`'s texts: own copies of layers above the frozen ones, then rows."""

    CLS, SEP = 101, 102

    def __init__(self, layers: nn.ModuleList, rows: Words) -> None:
        super().__init__()
        self.layers, self.rows = layers, rows

    def forward(self, states: Tensor, ids: Tensor) -> Tensor:
        """Rows of token states (n, tokens, 384) and ids (n, tokens), 0 is padding."""
        return self.rows(self.upper(states, ids), ids != 0, self.spoken(ids))

    def parts(self, states: Tensor, ids: Tensor) -> Tensor:
        """Those of the words alone."""
        return self.rows.parts(self.upper(states, ids), self.spoken(ids))

    def upper(self, states: Tensor, ids: Tensor) -> Tensor:
        """Token states above the own layers."""
        bias = padding_bias(ids)
        for layer in self.layers:
            states = layer(states, bias)
        return states

    def spoken(self, ids: Tensor) -> Tensor:
        """Which tokens are words, or parts of one."""
        return (ids != 0) & (ids != self.CLS) & (ids != self.SEP)


def moments_of(grid: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel's mean over the places; a grid (n, places, width)."""
    pooled = grid.mean(1)
    return pooled.mean(0), pooled.std(0).clamp_min(SMALLEST_SPREAD)
