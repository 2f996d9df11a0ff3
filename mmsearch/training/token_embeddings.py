"""Photos as a few rows of numbers, one a region, and texts as a few, one a word.

Takes the grid features and the token features of any encoder: what lies below is handed in.


How well the words of a text match the regions of a photo.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.training.recipe import Recipe
from mmsearch.training.towers import SMALLEST_SPREAD, ImageTrunk, padding_bias

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


SHARPEST = math.log(100)
NEAREST = 12
"""Of typical texts or photos, those whose mean cosine says how much of a hub something is."""
CONTRAST = 10.0
"""What a row's weight is multiplied by before the softmax: rows have length 1, and learn slowly."""


class Matcher(nn.Module):
    """Late interaction of the rows of texts with the rows of photos, in both directions.

        overall = mean over the rows of the whole: cos
        parts   = m · Σ_w weight(w) · max_r cos(w, r)
                  + (1 − m) · Σ_r weight(r) · max(0, max_w cos(w, r))

    So a region that no word is near to counts nothing, and a row of zeros is as no word. In
    training the whole is compared as well, so that what lies below learns more; searches do not.

    Source: MaxSim is that of ColBERT (Khattab & Zaharia, SIGIR 2020) and, in both directions, of
    FILIP (Yao et al., ICLR 2022); learnt weights take the place of its mean.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.word_weight, self.region_weight = nn.Linear(ROW, 1), nn.Linear(ROW, 1)
        for one in (self.word_weight, self.region_weight):
            nn.init.zeros_(one.weight)
            nn.init.zeros_(one.bias)
        self.mix = nn.Parameter(torch.zeros(()))
        start = -math.log(recipe.row_temperature)
        self.sharp = nn.Parameter(torch.full((2,), start))
        self.words_share, self.hub_weight = recipe.words_share, recipe.hub_weight
        self.typical_texts = nn.Buffer(torch.zeros(NEAREST, ROW))
        self.typical_photos = nn.Buffer(torch.zeros(NEAREST, ROW))

    def bound(self) -> None:
        """Keep both temperatures between 1 and 1/100."""
        self.sharp.data.clamp_(0, SHARPEST)

    def crossed(self, texts: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (texts, photos) of the whole and of the parts, of every text with every photo."""
        whole = texts[:, :OVERALL].flatten(1) @ photos[:, :OVERALL].flatten(1).T / OVERALL
        words, regions = texts[:, OVERALL:], photos[:, OVERALL:]
        kind = torch.bfloat16 if self.training else torch.float32
        n, m = len(words), len(regions)
        flat = words.reshape(-1, ROW).to(kind) @ regions.reshape(-1, ROW).to(kind).T
        cosines = flat.view(n, words.shape[1], m, regions.shape[1])
        of_words = (cosines.amax(3).float() * self._spread(words, self.word_weight)[..., None]).sum(
            1
        )
        of_regions = (
            cosines.amax(1).float().clamp_min(0) * self._spread(regions, self.region_weight)
        ).sum(2)
        mix = self.mix.sigmoid()
        parts = mix * of_words + (1 - mix) * of_regions
        return whole * self.sharp[0].exp(), parts * self.sharp[1].exp()

    def forward(self, words: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """How well n texts match n photos, or one text n photos, or n texts one photo.

            share · told + (1 − share) · seen − hub weight · hub of the candidate

        where told and seen are the two sums of `parts`. What the query consists of should count
        more, so a text and a photo as the query have shares of their own.

        Args:
            words: (n or 1, words, ROW).
            regions: (n or 1, regions, ROW).

        Returns:
            (n,) in cosines: when asked with the text, and when asked with the photo.
        """
        cosines = words @ regions.transpose(1, 2)
        of_words, of_regions = self._spread(words, self.word_weight), self._spread_regions(regions)
        told = (cosines.amax(2) * of_words).sum(1)
        seen = (cosines.amax(1).clamp_min(0) * of_regions).sum(1)
        photo_hubs = nearness(middle(regions, of_regions), self.typical_texts)
        text_hubs = nearness(middle(words, of_words), self.typical_photos)
        by_text, by_photo = self.words_share
        return (
            by_text * told + (1 - by_text) * seen - self.hub_weight[0] * photo_hubs,
            by_photo * told + (1 - by_photo) * seen - self.hub_weight[1] * text_hubs,
        )

    def learn_hubs(self, words: Tensor, regions: Tensor) -> None:
        """Keep the middles of typical texts' and photos' rows, which tell what is a hub."""
        self.typical_texts = middle(words, self._spread(words, self.word_weight))
        self.typical_photos = middle(regions, self._spread_regions(regions))

    def _spread_regions(self, rows: Tensor) -> Tensor:
        return self._spread(rows, self.region_weight)

    @staticmethod
    def _spread(rows: Tensor, weigh: nn.Linear) -> Tensor:
        """What each row counts: (n, rows), of sum 1; rows of zeros count nothing."""
        there = rows.abs().sum(-1) > 0
        weights = (CONTRAST * weigh(rows)[..., 0]).float()
        return weights.masked_fill(~there, -1e4).softmax(-1)


def middle(rows: Tensor, weights: Tensor) -> Tensor:
    """(n, ROW) of length 1: the weighted mean of each thing's rows."""
    return F.normalize((rows * weights[..., None]).sum(1), dim=-1)


def nearness(middles: Tensor, typical: Tensor) -> Tensor:
    """(n,) the mean cosine of each to those of `typical` that are nearest to it."""
    return (middles @ typical.T).topk(NEAREST, dim=1).values.mean(1)
