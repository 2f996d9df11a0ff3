"""From what a trunk says to the shared space: pooling, then a linear map and a residual MLP."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmsearch.training.trunks import ImageTrunk, TextTrunk

DIM = 512
SMALLEST_SPREAD = 0.02
"""MiniLM has two dimensions that never change; their deviation is taken as this."""


class Head(nn.Module):
    """Unit vectors from pooled features, standardised by the training photos' or texts' moments."""

    def __init__(self, mean: Tensor, spread: Tensor, dropout: float, inner: int = 1024) -> None:
        super().__init__()
        self.mean = nn.Buffer(mean)
        self.spread = nn.Buffer(spread)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(len(mean), DIM)
        self.mlp = nn.Sequential(
            nn.LayerNorm(DIM),
            nn.Linear(DIM, inner),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(inner, DIM),
        )

    def project(self, features: Tensor) -> Tensor:
        """Unit rows (n, 512) of standardised features (n, width)."""
        x = self.linear(self.dropout(features))
        return F.normalize(x + self.mlp(x), dim=-1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Unit rows (n, 512) of pooled features (n, width)."""
        return self.project(standardised(pooled, self.mean, self.spread))


def grid_mean(grid: Tensor) -> Tensor:
    """(n, channels) of a grid (n, channels, h, w)."""
    return grid.mean((2, 3))


def token_mean(states: Tensor, ids: Tensor) -> Tensor:
    """(n, width) mean over the tokens that are not padding."""
    stands = (ids != 0).to(states.dtype)[..., None]
    return (states * stands).sum(1) / stands.sum(1).clamp_min(1)


class ImageTower(nn.Module):
    """Pixels to unit vectors."""

    def __init__(self, trunk: ImageTrunk, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, pixels: Tensor) -> Tensor:
        """Unit rows (n, 512) of pixels (n, 260, 260, 3), 0 to 255."""
        return self.head(grid_mean(self.trunk(pixels)))


class Classifier(nn.Module):
    """The published ImageNet classifier: pixels to the probabilities of 1,000 classes."""

    def __init__(self, trunk: ImageTrunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.rows = nn.Buffer(trunk.class_rows)
        self.bias = nn.Buffer(trunk.class_bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (n, 1000) of pixels (n, 260, 260, 3), 0 to 255."""
        return (grid_mean(self.trunk(pixels)) @ self.rows.T + self.bias).softmax(-1)


class TextTower(nn.Module):
    """Token ids to unit vectors."""

    def __init__(self, trunk: TextTrunk, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    @property
    def upper_layers(self) -> nn.ModuleList:
        """The layers above the cut, shared with the trunk."""
        return self.trunk.layers[self.trunk.cut :]

    def forward(self, ids: Tensor) -> Tensor:
        """Unit rows (n, 512) of ids (n, tokens), 0 where padded."""
        return self.head(token_mean(self.trunk(ids), ids))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each dimension."""
    return features.mean(0), features.std(0).clamp_min(SMALLEST_SPREAD)


def standardised(features: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Features of mean 0 and deviation 1 over what the moments were taken of."""
    return (features - mean) / spread
