"""What training makes small.

The two loops of training: the heads on frozen features, then the upper layers with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmsearch.training.features import CLASSES, Lessons, Texts
from mmsearch.training.recipe import Recipe
from mmsearch.training.towers import (
    Head,
    ImageTower,
    TextTower,
    grid_mean,
    standardised,
    token_mean,
)


def info_nce(images: Tensor, texts: Tensor, scale: Tensor | float, owners: Tensor) -> Tensor:
    """Symmetric InfoNCE: each photo must find its text among all, each text its photo.

        loss = ½ (mean −log softmax(s · I Tᵀ)ᵢᵢ + mean −log softmax(s · T Iᵀ)ᵢᵢ)

    Pairs of the same owner (two captions of one photo, say) are never each other's negatives.

    Args:
        images: (n, dim) unit rows.
        texts: (n, dim) unit rows; row i belongs to image i.
        scale: 1 / temperature.
        owners: (n,) what each pair is of.

    Source: van den Oord, Li & Vinyals, arXiv:1807.03748; Radford et al., arXiv:2103.00020.
    """
    logits = scale * images @ texts.T
    same = owners[:, None] == owners[None]
    same.fill_diagonal_(fill_value=False)
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def classifier_distillation(
    images: Tensor, names: Tensor, scale: Tensor | float, posteriors: Tensor
) -> Tensor:
    """Cross entropy between what the ImageNet classifier says of photos and what the space says.

    Args:
        images: (n, dim) unit rows, of real photos.
        names: (classes, dim) unit rows, of the class names' prompts.
        scale: 1 / temperature.
        posteriors: (n, classes) the classifier's probabilities for the same photos.

    Source: Hinton, Vinyals & Dean, arXiv:1503.02531.
    """
    return F.cross_entropy(scale * images @ names.T, posteriors)


SHARPEST = math.log(100)
"""Bound of the log of 1 / temperature, as in CLIP."""

TEXTS_AT_ONCE = 100

WARM_UP = 0.2
"""Share of the steps in which the rates rise."""


Parts = list[tuple[float, list[nn.Module]]]
"""Modules and the highest learning rate of each group."""


@dataclass(frozen=True)
class Batch:
    """Vectors of one step: photos with their captions, class rows with their names."""

    photos: Tensor
    texts: Tensor
    rows: Tensor
    names: Tensor
    owners: Tensor
    classes: Tensor


class Temperatures(nn.Module):
    """1 / temperature of the captions' and of the class names' term, learnt as logarithms."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.captions = nn.Parameter(torch.tensor(-math.log(start)))
        self.classes = nn.Parameter(torch.tensor(-math.log(start)))

    def bound(self) -> None:
        """Keep both between 1 and 100."""
        for one in self.parameters():
            one.data.clamp_(0, SHARPEST)


def loss_of(batch: Batch, heat: Temperatures, lessons: Lessons, recipe: Recipe) -> Tensor:
    """What both loops make small."""
    captions = info_nce(batch.photos, batch.texts, heat.captions.exp(), batch.owners)
    sharp = heat.classes.exp()
    classes = info_nce(batch.rows, batch.names, sharp, batch.classes)
    posteriors = lessons.posteriors[batch.owners][:, batch.classes]
    distilled = classifier_distillation(batch.photos, batch.names, sharp, posteriors)
    return captions + recipe.class_weight * classes + recipe.distil_weight * distilled


def noisy(features: Tensor, deviation: float, dice: torch.Generator) -> Tensor:
    """Features with Gaussian noise, drawn anew."""
    return features + deviation * torch.randn(features.shape, generator=dice)


def shuffled(count: int, size: int, dice: torch.Generator) -> Iterator[Tensor]:
    """All whole batches of rows, in a new order."""
    order = torch.randperm(count, generator=dice)
    whole = max(1, count // size)
    yield from torch.split(order[: whole * size], size)


def fit_heads(image: Head, text: Head, lessons: Lessons, recipe: Recipe) -> None:
    """Train the heads on features of the published trunks."""
    dice = torch.Generator().manual_seed(recipe.seed)
    heat = Temperatures(recipe.warm_temperature)
    steps = recipe.warm_epochs * max(1, len(lessons) // recipe.warm_batch)
    stepper = Stepper([(recipe.warm_rate, [image, text])], heat, recipe.weight_decay, steps)
    photos = standardised(lessons.features, image.mean, image.spread)
    classes = torch.arange(CLASSES)
    for _ in range(recipe.warm_epochs):
        for owners in shuffled(len(lessons), recipe.warm_batch, dice):
            captions = lessons.caption_features[lessons.captions_of(owners, dice)]
            prompts = lessons.prompt_features[lessons.prompts_of(classes, dice)]
            batch = Batch(
                photos=image.project(noisy(photos[owners], recipe.photo_noise, dice)),
                texts=text(captions),
                rows=image.project(noisy(lessons.class_rows, recipe.class_noise, dice)),
                names=text(prompts),
                owners=owners,
                classes=classes,
            )
            stepper.step(loss_of(batch, heat, lessons, recipe))


class Tuning:
    """Trains what lies above the cuts of both towers, together with the heads."""

    def __init__(
        self, image: ImageTower, text: TextTower, lessons: Lessons, recipe: Recipe
    ) -> None:
        self.image, self.text = image, text
        self.heat = Temperatures(recipe.temperature)
        self.lessons, self.recipe = lessons, recipe
        self.dice = torch.Generator().manual_seed(recipe.seed + 1)
        self.anchors = standardised(lessons.features, image.head.mean, image.head.spread)
        self.trained = nn.ModuleList(
            [image.trunk.upper, image.trunk.last, image.head, text.upper_layers, text.head]
        )
        self.names = torch.empty(0)  # of every class, each as last computed
        averaging = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.trained, multi_avg_fn=averaging)

    def run(self) -> None:
        """Train, and leave the towers with the moving average of their weights."""
        recipe = self.recipe
        for module in (self.image.trunk.upper, self.image.trunk.last):
            module.to(memory_format=torch.channels_last)  # a third faster here
        steps = recipe.epochs * max(1, len(self.lessons) // recipe.batch)
        parts: Parts = [
            (recipe.image_rate, [self.image.trunk.upper, self.image.trunk.last]),
            (recipe.text_rate, [self.text.upper_layers]),
            (recipe.head_rate, [self.image.head, self.text.head]),
        ]
        stepper = Stepper(parts, self.heat, recipe.weight_decay, steps)
        with torch.no_grad():
            self.names = self._texts(self.lessons.prompts, torch.arange(CLASSES)).clone()
        self.trained.train()
        for epoch in range(recipe.epochs):
            losses = []
            for owners in shuffled(len(self.lessons), recipe.batch, self.dice):
                losses.append(stepper.step(self._loss(owners)))
                self.average.update_parameters(self.trained)
            print(f"  epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}", flush=True)
        self.trained.load_state_dict(self.average.module.state_dict())
        self.trained.eval()

    def _loss(self, owners: Tensor) -> Tensor:
        recipe, lessons, dice = self.recipe, self.lessons, self.dice
        classes = torch.randperm(CLASSES, generator=dice)[: recipe.classes]
        prompts = lessons.prompts_of(classes, dice)
        views = torch.randint(len(lessons.maps), (len(owners),), generator=dice)
        rows = zip(views.tolist(), owners.tolist(), strict=True)
        maps = torch.stack([lessons.maps[view][row] for view, row in rows]).float()
        with torch.autocast("cpu", torch.bfloat16):
            grid = self.image.trunk.above(maps.contiguous(memory_format=torch.channels_last))
            head = self.image.head
            features = standardised(grid_mean(grid.float()), head.mean, head.spread)
            pseudo = noisy(lessons.class_rows, recipe.class_noise, dice)
            fresh = self._texts(lessons.prompts, prompts)
            batch = Batch(
                photos=head.project(noisy(features, recipe.photo_noise, dice)).float(),
                texts=self._texts(lessons.captions, lessons.captions_of(owners, dice)),
                rows=head.project(pseudo).float(),
                names=self.names.index_copy(0, classes, fresh),
                owners=owners,
                classes=torch.arange(CLASSES),
            )
        self.names[classes] = fresh.detach()
        whole = views < 2  # a crop shows less than the published features are of
        anchor = (features[whole] - self.anchors[owners[whole]]).square().mean()
        return loss_of(batch, self.heat, lessons, recipe) + recipe.anchor_weight * anchor

    def _texts(self, texts: Texts, rows: Tensor) -> Tensor:
        """Vectors of some texts, those of like length together so that little is padding."""
        order = (texts.starts[rows + 1] - texts.starts[rows]).argsort(stable=True)
        parts = [texts.batch(part) for part in torch.split(rows[order], TEXTS_AT_ONCE)]
        trunk, head = self.text.trunk, self.text.head
        found = [head(token_mean(trunk.above(states, ids).float(), ids)) for ids, states in parts]
        return torch.cat(found)[order.argsort()].float()


class Stepper:
    """One optimiser with its schedule: a step a loss."""

    def __init__(self, parts: Parts, heat: Temperatures, decay: float, steps: int) -> None:
        self.heat = heat
        last_rate, last_modules = parts[-1]
        parts = [*parts[:-1], (last_rate, [*last_modules, heat])]
        groups = [
            {"params": [one for module in modules for one in module.parameters()], "lr": rate}
            for rate, modules in parts
        ]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, [rate for rate, _ in parts], total_steps=steps, pct_start=WARM_UP
        )

    def step(self, loss: Tensor) -> float:
        """Follow the gradient of a loss; returns its value."""
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.schedule.step()
        self.heat.bound()
        return loss.item()
