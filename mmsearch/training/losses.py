"""What training makes small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
