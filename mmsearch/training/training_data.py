"""Everything the two loops of training read, gathered once: photos, captions, class names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmsearch.training.data import Split, class_prompts
from mmsearch.training.features import Texts, photo_maps, text_states
from mmsearch.training.heads import grid_mean, moments, standardised, token_mean
from mmsearch.training.trunks import ImageTrunk, TextTrunk

CLASSES = 1000
AT_ONCE = 100


@dataclass(frozen=True)
class Lessons:
    """What is learnt from; photo i has captions `first[i]` to `first[i + 1]`."""

    maps: list[Tensor]
    """One (photos, 208, 9, 9) float16 a view, below the image cut."""
    captions: Texts
    first: Tensor
    prompts: Texts
    """Prompt t of class c stands at row 1000 t + c."""
    features: Tensor
    """(photos, 1280) pooled by the published trunk, of the photos as they are."""
    caption_features: Tensor
    """(captions, 384)."""
    prompt_features: Tensor
    """(prompts, 384)."""
    class_rows: Tensor
    """(1000, 1280) the classifier's rows, each dimension of mean 0 and deviation 1."""
    posteriors: Tensor
    """(photos, 1000) what the classifier says of each photo."""

    def __len__(self) -> int:
        return len(self.features)

    def captions_of(self, photos: Tensor, dice: torch.Generator) -> Tensor:
        """For each photo the row of one of its captions, drawn anew."""
        counts = self.first[photos + 1] - self.first[photos]
        return self.first[photos] + (torch.rand(len(photos), generator=dice) * counts).long()

    def prompts_of(self, classes: Tensor, dice: torch.Generator) -> Tensor:
        """For each class the row of one of its prompts, drawn anew."""
        templates = len(self.prompts) // CLASSES
        return torch.randint(templates, (len(classes),), generator=dice) * CLASSES + classes


def gather(
    split: Split, image: ImageTrunk, text: TextTrunk, *, views: int, seed: int, cache: Path
) -> Lessons:
    """Lessons from one split, taking what `cache` already holds."""
    maps = [photo_maps(image, split, view, seed=seed, cache=cache) for view in range(views)]
    captions = text_states(text, split.texts, cache=cache)
    prompts = text_states(text, [one for row in class_prompts(14) for one in row], cache=cache)
    features = pooled_maps(image, maps[0])
    counts = torch.tensor([0, *map(len, split.captions)])
    return Lessons(
        maps=maps,
        captions=captions,
        first=counts.cumsum(0),
        prompts=prompts,
        features=features,
        caption_features=pooled_texts(text, captions),
        prompt_features=pooled_texts(text, prompts),
        class_rows=standardised(image.class_rows, *moments(image.class_rows)),
        posteriors=(features @ image.class_rows.T + image.class_bias).softmax(-1),
    )


def pooled_maps(trunk: ImageTrunk, maps: Tensor) -> Tensor:
    """(photos, 1280) from the maps below the cut."""
    with torch.no_grad():
        parts = torch.split(maps, AT_ONCE)
        return torch.cat([grid_mean(trunk.above(part.float())) for part in parts])


def pooled_texts(trunk: TextTrunk, texts: Texts) -> Tensor:
    """(texts, 384) from the states below the cut."""
    pooled = torch.empty(len(texts), 384)
    with torch.no_grad():
        for rows in texts.by_length(AT_ONCE):
            ids, states = texts.batch(rows)
            pooled[rows] = token_mean(trunk.above(states, ids), ids)
    return pooled
