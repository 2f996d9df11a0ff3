"""The losses of the towers, and the two loops: heads on frozen features, then upper layers too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmsearch.training.backbones import (
    DIM,
    Head,
    ImageTower,
    Temperatures,
    TextTower,
    grid_mean_and_maximum,
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


def label_loss(
    photos: Tensor, names: Tensor, scale: Tensor | float, labels: Tensor, sets: Tensor
) -> Tensor:
    """InfoNCE of photos and their labels, among the labels and the photos of the same set.

    Photos of one label are not each other's negatives.

    Args:
        photos: (n, dim) unit rows.
        names: (labels, dim) unit rows.
        scale: 1 / temperature.
        labels: (n,) the label of each photo.
        sets: (labels,) the set of each label.
    """
    of_others = sets[labels][:, None] != sets[None]
    logits = (scale * photos @ names.T).masked_fill(of_others, float("-inf"))
    alike = labels[:, None] == labels[None]
    alike.fill_diagonal_(fill_value=False)
    by_name = logits[:, labels].masked_fill(alike, float("-inf")).T
    own = torch.arange(len(labels))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(by_name, own)) / 2


@dataclass(frozen=True)
class Batch:
    """What is drawn for a step: captioned photos, then labelled ones, each in one view.

    Attributes:
        photos: (n + m,) rows of both.
        views: (n + m,) the view of each.
        captions: (n,) the row of a caption of each of the first n.
        labels: (m,) the label of each of the others.
        paraphrases: (pairs, 2) rows of two captions of a photo, which is not used.
    """

    photos: Tensor
    views: Tensor
    captions: Tensor
    labels: Tensor
    paraphrases: Tensor

    @classmethod
    def draw(
        cls,
        captioned: Tensor,
        data: TrainingData,
        generator: torch.Generator,
        *,
        labelled: int,
        pairs: int,
    ) -> Self:
        """A batch of some captioned photos, of others at random, and of pairs of captions.

        Args:
            captioned: (n,) rows.
            data: What is drawn from.
            generator: Draws all else.
            labelled: The number of labelled photos, if there are any.
            pairs: The number of paraphrases, if there are any.
        """
        others = torch.randperm(len(data.labels.of_photo), generator=generator)[:labelled]
        photos = torch.cat([captioned, data.captioned + others])
        groups = torch.randperm(len(data.paraphrases), generator=generator)[:pairs]
        return cls(
            photos,
            torch.randint(len(data.features), (len(photos),), generator=generator),
            data.captions.draw(captioned, generator),
            data.labels.of_photo[others],
            data.paraphrases.draw_two(groups, generator),
        )


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of a batch, of all class names, and of all labels.

    Attributes:
        photos: (n + m, dim)
        captions: (n, dim)
        paraphrases: (pairs, 2, dim)
        label_names: (labels, dim)
        class_rows: (1000, dim) of the classifier's rows.
        class_names: (1000, dim)
    """

    photos: Tensor
    captions: Tensor
    paraphrases: Tensor
    label_names: Tensor
    class_rows: Tensor
    class_names: Tensor


def tower_loss(
    batch: Batch, vectors: Vectors, temperatures: Temperatures, data: TrainingData, recipe: Recipe
) -> Tensor:
    """The loss of both loops: captions, class names, distillation, labels and paraphrases."""
    caption_scale, scale = temperatures.scales()
    number = len(batch.captions)
    captioned = vectors.photos[:number]
    loss = info_nce(captioned, vectors.captions, caption_scale, batch.photos[:number])
    classes = info_nce(vectors.class_rows, vectors.class_names, scale, torch.arange(CLASSES))
    posteriors = data.posteriors[batch.views, batch.photos].float()
    distilled = classifier_distillation(vectors.photos, vectors.class_names, scale, posteriors)
    loss = loss + recipe.class_weight * classes + recipe.distil_weight * distilled
    if len(batch.labels):
        others, sets = vectors.photos[number:], data.labels.sets
        labelled = label_loss(others, vectors.label_names, scale, batch.labels, sets)
        loss = loss + recipe.label_weight * labelled
    if len(batch.paraphrases):
        one, other = vectors.paraphrases.unbind(1)
        alike = info_nce(one, other, caption_scale, torch.arange(len(one)))
        loss = loss + recipe.paraphrase_weight * alike
    return loss


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
    steps = recipe.warm_epochs * max(1, data.captioned // recipe.warm_batch)
    groups = [(recipe.warm_rate, [image, text, temperatures])]
    stepper = one_cycle(groups, recipe.weight_decay, steps)
    classes, labels = torch.arange(CLASSES), torch.arange(data.labels.prompts.names)
    for _ in range(recipe.warm_epochs):
        for captioned in shuffled(data.captioned, recipe.warm_batch, generator):
            batch = Batch.draw(
                captioned, data, generator, labelled=recipe.warm_labelled_batch, pairs=0
            )
            features = data.features[batch.views, batch.photos].float()
            photos = standardised(features, image.mean, image.spread)
            vectors = Vectors(
                photos=image.project(add_noise(photos, recipe.photo_noise, generator)),
                captions=text(data.pooled.captions[batch.captions]),
                paraphrases=torch.empty(0),
                label_names=text(data.pooled.labels[data.labels.prompts.draw(labels, generator)]),
                class_rows=image.project(add_noise(data.class_rows, recipe.class_noise, generator)),
                class_names=text(data.pooled.classes[data.classes.draw(classes, generator)]),
            )
            stepper.step(tower_loss(batch, vectors, temperatures, data, recipe))
            temperatures.clamp()


def fine_tune(image: ImageTower, text: TextTower, data: TrainingData, recipe: Recipe) -> None:
    """Train the layers above the cuts in rounds of several runs, whose weights are averaged.

    Source: Wortsman et al., *Model soups*, ICML 2022; *Robust fine-tuning*, CVPR 2022.
    """
    towers = nn.ModuleList([image, text])
    seed = recipe.seed
    for one in recipe.rounds:
        start = {name: weights.clone() for name, weights in towers.state_dict().items()}
        means = {name: torch.zeros_like(weights) for name, weights in start.items()}
        for epochs in one.epochs:
            print(f"  {epochs} epochs")
            towers.load_state_dict(start)
            FineTuning(image, text, data, recipe, seed).run(epochs, one.factor)
            seed += 1
            for name, weights in towers.state_dict().items():
                means[name] += weights / len(one.epochs)
        towers.load_state_dict(
            {name: start[name].lerp(mean, one.trained_share) for name, mean in means.items()}
        )


class FineTuning:
    """Trains the layers above the cuts of both towers, together with the heads."""

    def __init__(
        self, image: ImageTower, text: TextTower, data: TrainingData, recipe: Recipe, seed: int
    ) -> None:
        torch.manual_seed(seed)  # of dropout
        self.image, self.text = image, text
        self.temperatures = Temperatures(recipe.temperature)
        self.data, self.recipe = data, recipe
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.trained = nn.ModuleList(
            [image.trunk.upper, image.trunk.last, image.head, text.upper_layers, text.head]
        )
        # the last vectors computed for the class names and for the labels
        self.class_names = self.label_names = torch.empty(0)
        self.average = moving_average(self.trained, recipe.average)

    def run(self, epochs: int, factor: float) -> None:
        """Train, and set the towers to the moving average of their weights.

        Args:
            epochs: In which the learning rates rise and fall once.
            factor: On the recipe's learning rates.
        """
        recipe, data = self.recipe, self.data
        groups: list[tuple[float, list[nn.Module]]] = [
            (factor * recipe.image_rate, [self.image.trunk.upper, self.image.trunk.last]),
            (factor * recipe.text_rate, [self.text.upper_layers]),
            (factor * recipe.head_rate, [self.image.head, self.text.head, self.temperatures]),
        ]
        steps = epochs * max(1, data.captioned // recipe.batch)
        stepper = one_cycle(groups, recipe.weight_decay, steps)
        self.trained.eval()
        with torch.no_grad():
            self.class_names = self._encode(data.classes.states, torch.arange(CLASSES)).clone()
            labels = torch.arange(data.labels.prompts.names)
            self.label_names = self._encode(data.labels.prompts.states, labels).clone()
        self.trained.train()
        for epoch in range(epochs):
            losses = []
            for captioned in shuffled(data.captioned, recipe.batch, self.generator):
                losses.append(stepper.step(self._loss(captioned)))
                self.temperatures.clamp()
                self.average.update_parameters(self.trained)
            print(f"  epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}", flush=True)
        self.trained.load_state_dict(self.average.module.state_dict())
        self.trained.eval()

    def _loss(self, captioned: Tensor) -> Tensor:
        recipe, data, generator = self.recipe, self.data, self.generator
        batch = Batch.draw(
            captioned,
            data,
            generator,
            labelled=recipe.labelled_batch,
            pairs=recipe.paraphrase_batch,
        )
        classes = torch.randperm(CLASSES, generator=generator)[: recipe.classes]
        prompts, captions = data.classes.draw(classes, generator), data.captions.states
        published = data.features[batch.views, batch.photos].float()
        maps = data.draw_maps(batch.photos, batch.views).bfloat16()
        labels = batch.labels.unique()
        with torch.autocast("cpu", torch.bfloat16):
            grid = self.image.trunk.grid_of(maps)
            head = self.image.head
            pooled = grid_mean_and_maximum(grid.float())
            features = standardised(pooled, head.mean, head.spread)
            class_rows = add_noise(data.class_rows, recipe.class_noise, generator)
            class_names = self._encode(data.classes.states, prompts)
            label_prompts = data.labels.prompts.draw(labels, generator)
            label_names = self._encode(data.labels.prompts.states, label_prompts)
            paraphrases = self._encode(data.paraphrases.states, batch.paraphrases.flatten())
            vectors = Vectors(
                photos=head.project(add_noise(features, recipe.photo_noise, generator)).float(),
                captions=self._encode(captions, batch.captions),
                paraphrases=paraphrases.unflatten(0, (len(batch.paraphrases), 2)),
                label_names=self.label_names.index_copy(0, labels, label_names),
                class_rows=head.project(class_rows).float(),
                class_names=self.class_names.index_copy(0, classes, class_names),
            )
        self.class_names[classes] = class_names.detach()
        self.label_names[labels] = label_names.detach()
        anchor = (features - standardised(published, head.mean, head.spread)).square().mean()
        loss = tower_loss(batch, vectors, self.temperatures, data, recipe)
        return loss + recipe.anchor_weight * anchor

    def _encode(self, texts: TextStates, rows: Tensor) -> Tensor:
        """Vectors of some texts."""
        if not len(rows):
            return torch.empty(0, DIM)
        trunk, head = self.text.trunk, self.text.head
        batches, restore = texts.by_length(rows, TEXTS_PER_BATCH)
        vectors = [
            head(token_mean(trunk.above(states, ids).float(), ids))
            for ids, states in map(texts.batch, batches)
        ]
        return torch.cat(vectors)[restore].float()
