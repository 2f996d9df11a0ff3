"""Trains what looks closer: rows of photos and of texts, and how they are compared.

Every photo of a step must find its captions among all, and every caption its photo, once by the
rows of the whole and once by those of the parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmsearch.encoders.mini_match import MOST_ROWS
from mmsearch.training.features import Texts
from mmsearch.training.fit import shuffled
from mmsearch.training.recipe import Recipe
from mmsearch.training.token_embeddings import OVERALL, Matcher

TEXTS_AT_ONCE = 100


@dataclass(frozen=True)
class Pairs:
    """Features of captioned photos below what is trained, of any encoder."""

    grids: Sequence[Any]
    """One array (photos, …) in float16 a view."""
    captions: Texts
    captions_a_photo: int

    def __len__(self) -> int:
        return len(self.grids[0])

    def photos(self, rows: Tensor, dice: torch.Generator) -> Tensor:
        """Features of some photos, each in a view drawn at random."""
        views = torch.randint(len(self.grids), (len(rows),), generator=dice).tolist()
        drawn = [self.grids[view][row] for view, row in zip(views, rows.tolist(), strict=True)]
        return torch.stack([torch.as_tensor(one) for one in drawn]).float()

    def draw(self, rows: Tensor, dice: torch.Generator) -> Tensor:
        """Of each photo one caption, drawn at random."""
        which = torch.randint(self.captions_a_photo, (len(rows),), generator=dice)
        return rows * self.captions_a_photo + which


def rows_of_texts(side: Any, texts: Texts, wanted: Tensor, at_once: int = TEXTS_AT_ONCE) -> Tensor:
    """Rows (n, OVERALL + longest, ROW) of some texts; those of like length run together."""
    order = (texts.starts[wanted + 1] - texts.starts[wanted]).argsort(stable=True)
    parts = []
    for part in torch.split(wanted[order], at_once):
        ids, states = texts.batch(part)
        found = side(states, ids)
        # the first token is no word
        parts.append(
            torch.cat([found[:, :OVERALL], found[:, OVERALL + 1 :]], 1)[:, : OVERALL + MOST_ROWS]
        )
    longest = max(part.shape[1] for part in parts)
    level = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(level)[order.argsort()]


def contrast(logits: Tensor) -> Tensor:
    """InfoNCE in both directions: row i belongs to column i."""
    right = torch.arange(len(logits))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def course(first: int, last: int, an_epoch: int) -> Callable[[int], float]:
    """Of a learning rate: nothing before epoch `first`, then up within an epoch, and down to 0."""
    start, end = first * an_epoch, last * an_epoch

    def rate(step: int) -> float:
        if step < start:
            return 0.0
        rising = min(1.0, (step - start + 1) / (0.8 * an_epoch))
        return rising * (0.5 + 0.5 * math.cos(math.pi * (step - start) / (end - start)))

    return rate


class Reranking:
    """The loop: both sides and the matcher, trained together on pairs."""

    def __init__(self, image: nn.Module, text: nn.Module, pairs: Pairs, recipe: Recipe) -> None:
        self.image, self.text, self.pairs, self.recipe = image, text, pairs, recipe
        self.matcher = Matcher(recipe)
        self.trained = nn.ModuleList([image, text, self.matcher])
        self.dice = torch.Generator().manual_seed(recipe.seed + 2)
        averaging = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.trained, multi_avg_fn=averaging)

    def run(self) -> None:
        """Train, and leave all three with the moving average of their weights."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)  # of dropout
        self.trained.train()
        for number, (epochs, share) in enumerate(recipe.row_rounds):
            self._round(epochs, share, warm=0 if number else recipe.row_warm)
            self.trained.load_state_dict(self.average.module.state_dict())
        self.trained.eval()

    def _round(self, epochs: int, share: float, *, warm: int) -> None:
        """Train for some epochs; for the first `warm` of them only what is new."""
        recipe = self.recipe
        optimiser, schedule = self._optimiser(epochs, share, warm)
        for epoch in range(epochs):
            for one in self._came_trained():
                one.requires_grad_(epoch >= warm)
            losses = []
            for owners in shuffled(len(self.pairs), recipe.row_batch, self.dice):
                loss = self._loss(owners)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
                self.matcher.bound()
                self.average.update_parameters(self.trained)
                losses.append(loss.item())
            print(f"  epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}", flush=True)

    def _came_trained(self) -> list[nn.Parameter]:
        """What lies below the rows of either side."""
        found = []
        for side in (self.image, self.text):
            rows = {id(one) for one in side.rows.parameters()}  # type: ignore[union-attr]
            found += [one for one in side.parameters() if id(one) not in rows]
        return found

    def _optimiser(
        self, epochs: int, share: float, warm: int
    ) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
        """What is new learns from the first step on; what came trained later, and slower."""
        recipe = self.recipe
        of_text = {id(one) for one in self.text.parameters()}
        old = self._came_trained()
        known = {id(one) for one in old}
        parts = [
            (
                [one for one in self.trained.parameters() if id(one) not in known],
                recipe.row_rate,
                0,
            ),
            ([one for one in old if id(one) not in of_text], recipe.image_rate, warm),
            ([one for one in old if id(one) in of_text], recipe.text_rate, warm),
        ]
        parts = [one for one in parts if one[0]]
        optimiser = torch.optim.AdamW(
            [{"params": group, "lr": share * rate} for group, rate, _ in parts],
            weight_decay=recipe.weight_decay,
        )
        an_epoch = max(1, len(self.pairs) // recipe.row_batch)
        courses = [course(first, epochs, an_epoch) for _, _, first in parts]
        return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, courses)

    def _loss(self, owners: Tensor) -> Tensor:
        recipe, pairs = self.recipe, self.pairs
        maps = pairs.photos(owners, self.dice)
        with torch.autocast("cpu", torch.bfloat16):
            photos = self.image(maps.contiguous(memory_format=torch.channels_last))
            texts = rows_of_texts(self.text, pairs.captions, pairs.draw(owners, self.dice))
        texts = self._without_some_words(texts)
        whole, parts = self.matcher.crossed(texts, photos)
        return contrast(whole) + recipe.parts_weight * contrast(parts)

    def _without_some_words(self, texts: Tensor) -> Tensor:
        """Rows of some words set to zero, so that no one word is relied on."""
        stays = torch.rand(texts.shape[:2], generator=self.dice) >= self.recipe.word_dropout
        stays[:, : OVERALL + 1] = True
        return texts * stays[..., None]
