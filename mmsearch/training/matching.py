"""How well the words of a text match the regions of a photo."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.training.recipe import Recipe
from mmsearch.training.regions import OVERALL, ROW

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
