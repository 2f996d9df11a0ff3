"""The training loop of token embeddings and their matcher, on features of any encoder.

Each photo of a step must find its captions among all, and each caption its photo, once by the
pooled embeddings and once by those of regions and words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.encoders.token_embeddings import MOST_ROWS
from mmsearch.training.features import Captions, TextStates
from mmsearch.training.fit import Stepper, moving_average, shuffled, symmetric_cross_entropy
from mmsearch.training.late_interaction import POOLED, Matcher
from mmsearch.training.recipe import Recipe

TEXTS_PER_BATCH = 100
PHOTOS_PER_BATCH = 250
MOMENTS_OF = 500
"""Photos whose features give the mean and deviation that standardise those of all."""


@dataclass(frozen=True)
class Pairs:
    """Features of captioned photos below the layers that are trained.

    Attributes:
        grids: One array (photos, …) in float16 per view.
        captions: Of all photos.
    """

    grids: Sequence[Any]
    captions: Captions

    def __len__(self) -> int:
        return len(self.grids[0])

    def draw_photos(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Features of some photos, each in a random view."""
        views = torch.randint(len(self.grids), (len(rows),), generator=generator).tolist()
        grids = [self.grids[view][row] for view, row in zip(views, rows.tolist(), strict=True)]
        return torch.stack([torch.as_tensor(grid) for grid in grids]).float()


def text_embeddings(model: Any, texts: TextStates, rows: Tensor) -> Tensor:
    """Embeddings (n, POOLED + longest, TOKEN_DIM) of some texts, padded with zeros."""
    batches, restore = texts.by_length(rows, TEXTS_PER_BATCH)
    parts = []
    for ids, states in map(texts.batch, batches):
        rows_of_batch = model(states, ids)
        words = rows_of_batch[:, POOLED + 1 :]  # the first token is no word
        parts.append(torch.cat([rows_of_batch[:, :POOLED], words], 1)[:, : POOLED + MOST_ROWS])
    longest = max(part.shape[1] for part in parts)
    padded = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(padded)[restore]


def rate_curve(first: int, last: int, steps_per_epoch: int) -> Callable[[int], float]:
    """A learning rate by step: 0 before epoch `first`, rising in an epoch, down to 0 at `last`."""
    start, end = first * steps_per_epoch, last * steps_per_epoch

    def rate(step: int) -> float:
        if step < start:
            return 0.0
        rising = min(1.0, (step - start + 1) / (0.8 * steps_per_epoch))
        return rising * (0.5 + 0.5 * math.cos(math.pi * (step - start) / (end - start)))

    return rate


class RerankTraining:
    """Trains the embeddings of photos and of texts together with their matcher.

    Args:
        image: Features of photos to embeddings; its head is `rows`.
        text: States of texts to embeddings; its head is `rows`.
        pairs: The photos and captions to train on.
        recipe: The hyperparameters.
    """

    def __init__(self, image: nn.Module, text: nn.Module, pairs: Pairs, recipe: Recipe) -> None:
        self.image, self.text, self.pairs, self.recipe = image, text, pairs, recipe
        self.matcher = Matcher(recipe)
        self.trained = nn.ModuleList([image, text, self.matcher])
        self.generator = torch.Generator().manual_seed(recipe.seed + 2)
        self.average = moving_average(self.trained, recipe.average)

    def run(self) -> None:
        """Train, set all three to the moving average of their weights, and store typical items."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)  # of dropout
        self.trained.train()
        for number, (epochs, factor) in enumerate(recipe.rerank_rounds):
            self._round(epochs, factor, warm=0 if number else recipe.rerank_warm)
            self.trained.load_state_dict(self.average.module.state_dict())
        self.trained.eval()
        with torch.no_grad():
            self.matcher.set_typical(*self._typical())

    def _round(self, epochs: int, factor: float, *, warm: int) -> None:
        """Train for some epochs, in the first `warm` of them only the new layers."""
        recipe = self.recipe
        stepper = self._stepper(epochs, factor, warm)
        for epoch in range(epochs):
            for parameter in self._published():
                parameter.requires_grad_(epoch >= warm)
            losses = []
            for owners in shuffled(len(self.pairs), recipe.rerank_batch, self.generator):
                losses.append(stepper.step(self._loss(owners)))
                self.matcher.temperatures.clamp()
                self.average.update_parameters(self.trained)
            print(f"  epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}", flush=True)

    def _published(self) -> list[nn.Parameter]:
        """The parameters below the two heads, which come from published models."""
        published = []
        for model in (self.image, self.text):
            head = _ids(model.rows.parameters())  # type: ignore[union-attr]
            published += [
                parameter for parameter in model.parameters() if id(parameter) not in head
            ]
        return published

    def _stepper(self, epochs: int, factor: float, warm: int) -> Stepper:
        """An optimiser for a round; published layers learn later and more slowly than new ones."""
        recipe = self.recipe
        of_text = _ids(self.text.parameters())
        published = self._published()
        known = _ids(published)
        new = [p for p in self.trained.parameters() if id(p) not in known]
        groups = [
            (new, recipe.rerank_rate, 0),
            ([p for p in published if id(p) not in of_text], recipe.image_rate, warm),
            ([p for p in published if id(p) in of_text], recipe.text_rate, warm),
        ]
        groups = [group for group in groups if group[0]]
        optimiser = torch.optim.AdamW(
            [{"params": parameters, "lr": factor * rate} for parameters, rate, _ in groups],
            weight_decay=recipe.weight_decay,
        )
        steps_per_epoch = max(1, len(self.pairs) // recipe.rerank_batch)
        curves = [rate_curve(first, epochs, steps_per_epoch) for _, _, first in groups]
        return Stepper(optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, curves))

    def _loss(self, owners: Tensor) -> Tensor:
        recipe, pairs = self.recipe, self.pairs
        maps = pairs.draw_photos(owners, self.generator)
        with torch.autocast("cpu", torch.bfloat16):
            photos = self.image(maps.contiguous(memory_format=torch.channels_last))
            captions = pairs.captions.draw(owners, self.generator)
            texts = text_embeddings(self.text, pairs.captions.states, captions)
        pooled, tokens = self.matcher.all_pairs(self._without_some_words(texts), photos)
        return symmetric_cross_entropy(pooled) + recipe.token_weight * symmetric_cross_entropy(
            tokens
        )

    def _without_some_words(self, texts: Tensor) -> Tensor:
        """Embeddings with those of random words set to zero: dropout of whole words."""
        remains = torch.rand(texts.shape[:2], generator=self.generator) >= self.recipe.word_dropout
        remains[:, : POOLED + 1] = True
        return texts * remains[..., None]

    def _typical(self) -> tuple[Tensor, Tensor]:
        """Word embeddings of captions and region embeddings of other photos, drawn at random."""
        size = min(self.recipe.hub_bank, len(self.pairs) // 2)
        generator = torch.Generator().manual_seed(self.recipe.seed)
        order = torch.randperm(len(self.pairs), generator=generator)
        photos, captioned = order[:size], order[size : 2 * size]
        captions = self.pairs.captions
        texts = text_embeddings(self.text, captions.states, captions.first[captioned])
        grids = [
            torch.from_numpy(self.pairs.grids[0][part.numpy()]).float()
            for part in torch.split(photos, PHOTOS_PER_BATCH)
        ]
        regions = torch.cat([self.image(grid) for grid in grids])
        return texts[:, POOLED:], regions[:, POOLED:]


def _ids(parameters: Iterable[nn.Parameter]) -> set[int]:
    """Parameters by identity, since `==` compares their values."""
    return {id(parameter) for parameter in parameters}
