"""Photos as a few region embeddings, texts as a few word embeddings, and their late interaction.

The heads take grid features and token states of any encoder. In training they also give POOLED
embeddings of the whole photo or text, which come first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.encoders.token_embeddings import TOKEN_DIM
from mmsearch.training.backbones import ImageTrunk, Temperatures, residual_mlp, run_layers
from mmsearch.training.recipe import Recipe

POOLED = 2
"""Embeddings of a whole photo or text, in training only."""
GRID = 5
"""A photo has GRID × GRID regions."""
NEAREST = 12
"""Hubness is the mean cosine to this number of typical queries, those nearest to an item."""
CONTRAST = 10.0
"""Factor on the logits of an embedding's weight: embeddings have length 1, and learn slowly."""


class PooledHead(nn.Module):
    """Standardised pooled features to embeddings of the whole: a linear map and an MLP."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, POOLED * TOKEN_DIM)
        self.mlp = residual_mlp(POOLED * TOKEN_DIM, POOLED * TOKEN_DIM, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """Unit rows (n, POOLED, TOKEN_DIM) of features (n, width)."""
        x = self.linear(self.dropout(pooled))
        return F.normalize((x + self.mlp(x)).float().unflatten(-1, (POOLED, TOKEN_DIM)), dim=-1)


class RegionHead(nn.Module):
    """The features of a photo's grid to its embeddings."""

    def __init__(self, mean: Tensor, spread: Tensor, side: int, recipe: Recipe) -> None:
        """An untrained head.

        Args:
            mean: (width,) of each channel, pooled over the grid of side × side places.
            spread: (width,) its deviation.
            side: Of the grid.
            recipe: Dropout and noise.
        """
        super().__init__()
        self.mean, self.spread = nn.Buffer(mean), nn.Buffer(spread)
        self.overall = PooledHead(len(mean), recipe.region_dropout)
        self.linear = nn.Linear(len(mean), TOKEN_DIM)
        self.mlp = residual_mlp(TOKEN_DIM, 2 * TOKEN_DIM, recipe.region_dropout / 2)
        self.dropout, self.noise = recipe.region_dropout, recipe.photo_noise
        self.pooling = nn.Buffer(grid_pooling(side, side).T.contiguous())

    def forward(self, grid: Tensor) -> Tensor:
        """Unit rows (n, POOLED + GRID², TOKEN_DIM) of a grid (n, places, width)."""
        pooled = (grid.mean(1, dtype=torch.float32) - self.mean) / self.spread
        if self.training:
            pooled = pooled + self.noise * torch.randn_like(pooled)
        return torch.cat([self.overall(pooled), self.parts(grid)], 1)

    def parts(self, grid: Tensor) -> Tensor:
        """The embeddings of the regions alone, (n, GRID², TOKEN_DIM)."""
        if self.training:  # a dropped channel is dropped at every place
            ones = torch.ones(len(grid), 1, grid.shape[-1])
            grid = grid * F.dropout(ones, self.dropout).to(grid.dtype)
        # places deviate more than their mean does; standardising is part of the matrix
        weight = self.linear.weight * (0.3 / self.spread)
        bias = self.linear.bias - weight @ self.mean
        x = self.pooling.to(grid.dtype) @ F.linear(grid, weight, bias)
        return F.normalize((x + self.mlp(x)).float(), dim=-1)


def grid_pooling(rows: int, columns: int) -> Tensor:
    """The matrix (rows · columns, GRID²) that averages a grid's places to GRID × GRID."""
    places = torch.eye(rows * columns).view(rows * columns, 1, rows, columns)
    return F.adaptive_avg_pool2d(places, GRID).flatten(1)


class WordHead(nn.Module):
    """The states of a text's tokens to its embeddings."""

    def __init__(self, width: int, recipe: Recipe) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.overall = PooledHead(width, recipe.word_dropout)
        self.dropout = nn.Dropout(recipe.word_dropout)
        self.linear = nn.Linear(width, TOKEN_DIM)
        self.mlp = residual_mlp(TOKEN_DIM, 2 * TOKEN_DIM, recipe.word_dropout)

    def forward(self, states: Tensor, present: Tensor, words: Tensor) -> Tensor:
        """Rows (n, POOLED + tokens, TOKEN_DIM) of length 1, or of zeros where there is no word.

        Args:
            states: (n, tokens, width).
            present: (n, tokens) whether a token is not padding, and so is pooled.
            words: (n, tokens) whether it is a word or part of a word.
        """
        mask = present.float()[..., None]
        pooled = (states * mask).sum(1) / mask.sum(1).clamp_min(1)
        return torch.cat([self.overall(self.norm(pooled.float())), self.parts(states, words)], 1)

    def parts(self, states: Tensor, words: Tensor) -> Tensor:
        """The embeddings of the words alone, (n, tokens, TOKEN_DIM)."""
        x = self.linear(self.dropout(self.norm(states)))
        return F.normalize((x + self.mlp(x)).float(), dim=-1) * words.float()[..., None]


class MiniRegions(nn.Module):
    """`mini`'s region embeddings: copies of the last blocks and convolution, then a head."""

    def __init__(self, trunk: ImageTrunk, rows: RegionHead) -> None:
        super().__init__()
        self.upper, self.last, self.rows = trunk.upper, trunk.last, rows

    def forward(self, maps: Tensor) -> Tensor:
        """Embeddings, pooled ones included, of maps (n, 208, 9, 9)."""
        return self.rows(self.grid(maps))

    def parts(self, maps: Tensor) -> Tensor:
        """The embeddings of the regions alone."""
        return self.rows.parts(self.grid(maps))

    def grid(self, maps: Tensor) -> Tensor:
        """Features (n, 81, 1280) of maps (n, 208, 9, 9)."""
        x = self.upper(maps)
        x = x.permute(0, 2, 3, 1).flatten(1, 2)  # a matrix product is faster than a 1 × 1 filter
        return F.linear(x, self.last.conv.weight[:, :, 0, 0], self.last.conv.bias).clamp(0, 6)


class MiniWords(nn.Module):
    """`mini`'s word embeddings: copies of the layers above the frozen ones, then a head."""

    CLS, SEP = 101, 102

    def __init__(self, layers: nn.ModuleList, rows: WordHead) -> None:
        super().__init__()
        self.layers, self.rows = layers, rows

    def forward(self, states: Tensor, ids: Tensor) -> Tensor:
        """Embeddings, pooled ones included, of states (n, tokens, 384) and ids (n, tokens)."""
        return self.rows(run_layers(self.layers, states, ids), ids != 0, self.words(ids))

    def parts(self, states: Tensor, ids: Tensor) -> Tensor:
        """The embeddings of the words alone."""
        return self.rows.parts(run_layers(self.layers, states, ids), self.words(ids))

    def words(self, ids: Tensor) -> Tensor:
        """Which tokens are words or parts of words."""
        return (ids != 0) & (ids != self.CLS) & (ids != self.SEP)


class Matcher(nn.Module):
    """Late interaction of word and region embeddings, in both directions.

        pooled = mean over the embeddings of the whole: cos
        tokens = m · Σ_w weight(w) · max_r cos(w, r)
                 + (1 − m) · Σ_r weight(r) · max(0, max_w cos(w, r))

    So a region that no word is close to adds nothing, and a row of zeros stands for no word. The
    pooled term is used in training only, where the layers below learn more from it.

    Source: MaxSim is that of ColBERT (Khattab & Zaharia, SIGIR 2020) and, in both directions, of
    FILIP (Yao et al., ICLR 2022); learnt weights take the place of its mean.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.word_weight, self.region_weight = nn.Linear(TOKEN_DIM, 1), nn.Linear(TOKEN_DIM, 1)
        for layer in (self.word_weight, self.region_weight):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.mix = nn.Parameter(torch.zeros(()))
        self.temperatures = Temperatures(recipe.rerank_temperature)
        self.words_share, self.hub_weight = recipe.words_share, recipe.hub_weight
        self.typical_texts = nn.Buffer(torch.zeros(NEAREST, TOKEN_DIM))
        self.typical_photos = nn.Buffer(torch.zeros(NEAREST, TOKEN_DIM))

    def all_pairs(self, texts: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (texts, photos) of every text with every photo: of pooled ones, and of tokens."""
        pooled = texts[:, :POOLED].flatten(1) @ photos[:, :POOLED].flatten(1).T / POOLED
        words, regions = texts[:, POOLED:], photos[:, POOLED:]
        dtype = torch.bfloat16 if self.training else torch.float32
        flat = words.reshape(-1, TOKEN_DIM).to(dtype) @ regions.reshape(-1, TOKEN_DIM).to(dtype).T
        cosines = flat.view(len(words), words.shape[1], len(regions), regions.shape[1])
        of_words = _weights(words, self.word_weight)[..., None]
        by_words = (cosines.amax(3).float() * of_words).sum(1)
        of_regions = _weights(regions, self.region_weight)
        by_regions = (cosines.amax(1).float().clamp_min(0) * of_regions).sum(2)
        mix = self.mix.sigmoid()
        tokens = mix * by_words + (1 - mix) * by_regions
        pooled_scale, token_scale = self.temperatures.scales()
        return pooled * pooled_scale, tokens * token_scale

    def forward(self, words: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """How well n texts match n photos, or one text n photos, or n texts one photo.

            share · by_words + (1 − share) · by_regions − hub weight · hubness of the candidate

        The two sums are those of `tokens` above. The query's own parts should count more, so the
        share depends on whether the query is a text or a photo.

        Args:
            words: (n or 1, words, TOKEN_DIM).
            regions: (n or 1, regions, TOKEN_DIM).

        Returns:
            (n,) in cosines, with the text as the query, and with the photo as the query.
        """
        cosines = words @ regions.transpose(1, 2)
        of_words = _weights(words, self.word_weight)
        of_regions = _weights(regions, self.region_weight)
        by_words = (cosines.amax(2) * of_words).sum(1)
        by_regions = (cosines.amax(1).clamp_min(0) * of_regions).sum(1)
        photo_hubs = hubness(weighted_mean(regions, of_regions), self.typical_texts)
        text_hubs = hubness(weighted_mean(words, of_words), self.typical_photos)
        of_text, of_photo = self.words_share
        return (
            of_text * by_words + (1 - of_text) * by_regions - self.hub_weight[0] * photo_hubs,
            of_photo * by_words + (1 - of_photo) * by_regions - self.hub_weight[1] * text_hubs,
        )

    def set_typical(self, words: Tensor, regions: Tensor) -> None:
        """Store the mean embeddings of typical texts and photos, to measure hubness on."""
        self.typical_texts = weighted_mean(words, _weights(words, self.word_weight))
        self.typical_photos = weighted_mean(regions, _weights(regions, self.region_weight))


def _weights(rows: Tensor, layer: nn.Linear) -> Tensor:
    """The weight of each row, (n, rows), of sum 1; rows of zeros have none."""
    present = rows.abs().sum(-1) > 0
    logits = (CONTRAST * layer(rows)[..., 0]).float()
    return logits.masked_fill(~present, -1e4).softmax(-1)


def weighted_mean(rows: Tensor, weights: Tensor) -> Tensor:
    """(n, TOKEN_DIM) of length 1: the direction of each item's mean row."""
    return F.normalize((rows * weights[..., None]).sum(1), dim=-1)


def hubness(means: Tensor, typical: Tensor) -> Tensor:
    """(n,) the mean cosine of each row to the NEAREST `typical` rows."""
    return (means @ typical.T).topk(NEAREST, dim=1).values.mean(1)
