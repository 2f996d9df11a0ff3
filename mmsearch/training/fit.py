"""The losses of the towers, and the two loops: heads on frozen features, then upper layers too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmsearch.training.backbones import (
    Head,
    ImageTower,
    Temperatures,
    TextTower,
    grid_mean,
    standardised,
    token_mean,
)
from mmsearch.training.features import CLASSES, TextStates, TrainingData
from mmsearch.training.recipe import Recipe

TEXTS_PER_BATCH = 100

WARM_UP = 0.2
"""Share of the steps in which the learning rates rise."""


def symmetric_cross_entropy(logits: Tensor) -> Tensor:
    """InfoNCE of logits (n, n) in both directions: row i belongs to column i."""
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def info_nce(images: Tensor, texts: Tensor, scale: Tensor | float, owners: Tensor) -> Tensor:
    """Symmetric InfoNCE: each photo must find its text among all, and each text its photo.

        loss = ½ (mean −log softmax(s · I Tᵀ)ᵢᵢ + mean −log softmax(s · T Iᵀ)ᵢᵢ)

    Pairs of the same owner, such as two captions of one photo, are not each other's negatives.

    Args:
        images: (n, dim) unit rows.
        texts: (n, dim) unit rows; row i belongs to image i.
        scale: 1 / temperature.
        owners: (n,) what each pair belongs to.

    Source: van den Oord, Li & Vinyals, arXiv:1807.03748; Radford et al., arXiv:2103.00020.
    """
    logits = scale * images @ texts.T
    same = owners[:, None] == owners[None]
    same.fill_diagonal_(fill_value=False)
    return symmetric_cross_entropy(logits.masked_fill(same, float("-inf")))


def classifier_distillation(
    images: Tensor, names: Tensor, scale: Tensor | float, posteriors: Tensor
) -> Tensor:
    """Cross entropy between the ImageNet classifier's view of photos and that of the space.

    Args:
        images: (n, dim) unit rows, of real photos.
        names: (classes, dim) unit rows, of the class names' prompts.
        scale: 1 / temperature.
        posteriors: (n, classes) the classifier's probabilities for the same photos.

    Source: Hinton, Vinyals & Dean, arXiv:1503.02531.
    """
    return F.cross_entropy(scale * images @ names.T, posteriors)


@dataclass(frozen=True)
class Batch:
    """Unit vectors of a step: photos with their captions, class rows with the classes' names."""

    photos: Tensor
    captions: Tensor
    class_rows: Tensor
    class_names: Tensor
    owners: Tensor
    classes: Tensor


def tower_loss(
    batch: Batch, temperatures: Temperatures, data: TrainingData, recipe: Recipe
) -> Tensor:
    """The loss of both loops: captions, class names and distillation."""
    caption_scale, scale = temperatures.scales()
    captions = info_nce(batch.photos, batch.captions, caption_scale, batch.owners)
    classes = info_nce(batch.class_rows, batch.class_names, scale, batch.classes)
    posteriors = data.posteriors[batch.owners][:, batch.classes]
    distilled = classifier_distillation(batch.photos, batch.class_names, scale, posteriors)
    return captions + recipe.class_weight * classes + recipe.distil_weight * distilled


@dataclass(frozen=True)
class Stepper:
    """An optimiser with its schedule of learning rates."""

    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def step(self, loss: Tensor) -> float:
        """Follow the gradient of a loss; returns its value."""
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.schedule.step()
        return loss.item()


def one_cycle(groups: list[tuple[float, list[nn.Module]]], decay: float, steps: int) -> Stepper:
    """AdamW with learning rates that rise and fall once.

    Args:
        groups: The highest learning rate of some modules.
        decay: Weight decay.
        steps: In all.
    """
    parameters = [
        {"params": [p for module in modules for p in module.parameters()], "lr": rate}
        for rate, modules in groups
    ]
    optimiser = torch.optim.AdamW(parameters, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [rate for rate, _ in groups], total_steps=steps, pct_start=WARM_UP
    )
    return Stepper(optimiser, schedule)


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a module's weights."""
    averaging = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(module, multi_avg_fn=averaging)


def add_noise(features: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Features with Gaussian noise."""
    return features + deviation * torch.randn(features.shape, generator=generator)


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of rows in random order, without an incomplete last one."""
    order = torch.randperm(count, generator=generator)
    batches = max(1, count // size)
    yield from torch.split(order[: batches * size], size)


def fit_heads(image: Head, text: Head, data: TrainingData, recipe: Recipe) -> None:
    """Train the heads on features of the published trunks."""
    generator = torch.Generator().manual_seed(recipe.seed)
    temperatures = Temperatures(recipe.warm_temperature)
    steps = recipe.warm_epochs * max(1, len(data) // recipe.warm_batch)
    groups = [(recipe.warm_rate, [image, text, temperatures])]
    stepper = one_cycle(groups, recipe.weight_decay, steps)
    photos = standardised(data.features, image.mean, image.spread)
    classes = torch.arange(CLASSES)
    for _ in range(recipe.warm_epochs):
        for owners in shuffled(len(data), recipe.warm_batch, generator):
            captions = data.caption_features[data.captions.draw(owners, generator)]
            prompts = data.prompt_features[data.draw_prompts(classes, generator)]
            batch = Batch(
                photos=image.project(add_noise(photos[owners], recipe.photo_noise, generator)),
                captions=text(captions),
                class_rows=image.project(add_noise(data.class_rows, recipe.class_noise, generator)),
                class_names=text(prompts),
                owners=owners,
                classes=classes,
            )
            stepper.step(tower_loss(batch, temperatures, data, recipe))
            temperatures.clamp()


class FineTuning:
    """Trains the layers above the cuts of both towers, together with the heads."""

    def __init__(
        self, image: ImageTower, text: TextTower, data: TrainingData, recipe: Recipe
    ) -> None:
        self.image, self.text = image, text
        self.temperatures = Temperatures(recipe.temperature)
        self.data, self.recipe = data, recipe
        self.generator = torch.Generator().manual_seed(recipe.seed + 1)
        self.anchors = standardised(data.features, image.head.mean, image.head.spread)
        self.trained = nn.ModuleList(
            [image.trunk.upper, image.trunk.last, image.head, text.upper_layers, text.head]
        )
        self.class_names = torch.empty(0)  # the last vector computed for each class
        self.average = moving_average(self.trained, recipe.average)

    def run(self) -> None:
        """Train, and set the towers to the moving average of their weights."""
        recipe = self.recipe
        for module in (self.image.trunk.upper, self.image.trunk.last):
            module.to(memory_format=torch.channels_last)  # a third faster on CPUs
        groups: list[tuple[float, list[nn.Module]]] = [
            (recipe.image_rate, [self.image.trunk.upper, self.image.trunk.last]),
            (recipe.text_rate, [self.text.upper_layers]),
            (recipe.head_rate, [self.image.head, self.text.head, self.temperatures]),
        ]
        steps = recipe.epochs * max(1, len(self.data) // recipe.batch)
        stepper = one_cycle(groups, recipe.weight_decay, steps)
        with torch.no_grad():
            self.class_names = self._encode(self.data.prompts, torch.arange(CLASSES)).clone()
        self.trained.train()
        for epoch in range(recipe.epochs):
            losses = []
            for owners in shuffled(len(self.data), recipe.batch, self.generator):
                losses.append(stepper.step(self._loss(owners)))
                self.temperatures.clamp()
                self.average.update_parameters(self.trained)
            print(f"  epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}", flush=True)
        self.trained.load_state_dict(self.average.module.state_dict())
        self.trained.eval()

    def _loss(self, owners: Tensor) -> Tensor:
        recipe, data, generator = self.recipe, self.data, self.generator
        classes = torch.randperm(CLASSES, generator=generator)[: recipe.classes]
        prompts = data.draw_prompts(classes, generator)
        views = torch.randint(len(data.maps), (len(owners),), generator=generator)
        rows = zip(views.tolist(), owners.tolist(), strict=True)
        maps = torch.stack([data.maps[view][row] for view, row in rows]).float()
        with torch.autocast("cpu", torch.bfloat16):
            grid = self.image.trunk.above(maps.contiguous(memory_format=torch.channels_last))
            head = self.image.head
            features = standardised(grid_mean(grid.float()), head.mean, head.spread)
            class_rows = add_noise(data.class_rows, recipe.class_noise, generator)
            names = self._encode(data.prompts, prompts)
            batch = Batch(
                photos=head.project(add_noise(features, recipe.photo_noise, generator)).float(),
                captions=self._encode(data.captions.states, data.captions.draw(owners, generator)),
                class_rows=head.project(class_rows).float(),
                class_names=self.class_names.index_copy(0, classes, names),
                owners=owners,
                classes=torch.arange(CLASSES),
            )
        self.class_names[classes] = names.detach()
        whole = views < 2  # the published features are of whole photos, not of crops
        anchor = (features[whole] - self.anchors[owners[whole]]).square().mean()
        return tower_loss(batch, self.temperatures, data, recipe) + recipe.anchor_weight * anchor

    def _encode(self, texts: TextStates, rows: Tensor) -> Tensor:
        """Vectors of some texts."""
        trunk, head = self.text.trunk, self.text.head
        batches, restore = texts.by_length(rows, TEXTS_PER_BATCH)
        vectors = [
            head(token_mean(trunk.above(states, ids).float(), ids))
            for ids, states in map(texts.batch, batches)
        ]
        return torch.cat(vectors)[restore].float()
