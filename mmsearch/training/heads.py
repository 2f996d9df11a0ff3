"""Residual heads above the vectors of a space, trained on pairs of them.

Each head is `x → normalise(x + (x · down) · up + bias)`. `up` and `bias` start at zero, so that it
starts as the identity. Few pairs suffice: a head has low rank, and is regularised towards the
identity. `space_tuning` chooses when to stop, and the share of the update to keep (WiSE-FT).

Source: InfoNCE: van den Oord, Li & Vinyals, arXiv:1807.03748; residual adapters above CLIP: Gao et
al., arXiv:2110.04544; low rank: Hu et al., ICLR 2022; WiSE-FT: Wortsman et al., CVPR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmsearch.encoders.tuned import Head, Heads

if TYPE_CHECKING:
    from mmsearch.types import Modality, Vectors

SHARE_OF_POSITIVE = 0.95
"""The highest cosine of a hard negative, as a share of the positive's: anything closer may well be
relevant, too (NV-Retriever, Moreira et al., arXiv:2407.15831)."""

ROWS_AT_ONCE = 1_024
"""Queries whose hard negatives are mined at a time, to bound memory."""


@dataclass(frozen=True)
class HeadRecipe:
    """The hyperparameters, chosen by `benchmarks/tune.py --choose` on its training pairs alone."""

    rank: int = 64
    epochs: int = 40
    batch: int = 256
    rate: float = 1e-3
    temperature: float = 0.03
    """At the start; it is learnt."""
    temperature_rate: float = 1e-2
    dropout: float = 0.4
    """Share of the components of a vector that are zeroed in training."""
    decay: float = 0.1
    """Weight of the squared distance between a tuned vector and the stored one."""
    anchor: float = 10.0
    """Weight of the squared change of cosines to modalities without pairs."""
    negatives: int = 4
    """Hard negatives of each vector, mined from the index."""
    patience: int = 15
    """Epochs without improvement after which training stops."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Pool:
    """Stored vectors of a modality, from which hard negatives are mined.

    Attributes:
        rows: (m, dim)
        groups: (m,) the group of pairs that each belongs to; -1: none.
    """

    rows: Vectors
    groups: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of vectors of two modalities.

    Attributes:
        modalities: The two modalities.
        vectors: (n, dim) of each modality; row i of one belongs to row i of the other.
        groups: (n,) pairs of the same group are never each other's negatives.
        pools: Stored vectors of each modality.
        negatives: (n, k) for each modality, the rows of its pool that are hard negatives of row
            i of the *other* modality; -1: there are no more.
    """

    modalities: tuple[Modality, Modality]
    vectors: tuple[Tensor, Tensor]
    groups: Tensor
    pools: tuple[Pool, Pool]
    negatives: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.groups)

    @classmethod
    def mined(
        cls,
        modalities: tuple[Modality, Modality],
        vectors: tuple[Vectors, Vectors],
        groups: NDArray[np.int64],
        pools: tuple[Pool, Pool],
        number: int,
    ) -> PairSet:
        """Pairs with up to `number` hard negatives of each vector."""
        first, second = vectors
        ours = _hard_negatives(second, first, groups, pools[0], number)
        theirs = _hard_negatives(first, second, groups, pools[1], number)
        return cls(
            modalities,
            (torch.from_numpy(first), torch.from_numpy(second)),
            torch.from_numpy(groups),
            pools,
            (torch.from_numpy(ours), torch.from_numpy(theirs)),
        )

    def hard_negatives(self, side: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Hard negatives (m, dim) of one modality for rows of the other, and their groups (m,)."""
        numbers = self.negatives[side][rows].unique().numpy()
        pool, numbers = self.pools[side], numbers[numbers >= 0]
        return torch.from_numpy(pool.rows[numbers]), torch.from_numpy(pool.groups[numbers])


class ResidualHead(nn.Module):
    """A head in training."""

    def __init__(self, dim: int, rank: int, draw: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(dim, rank, generator=draw) / math.sqrt(dim))
        self.up = nn.Parameter(torch.zeros(rank, dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, rows: Tensor) -> Tensor:
        """Unit rows (…, dim) of rows (…, dim)."""
        return F.normalize(rows + rows @ self.down @ self.up + self.bias, dim=-1)

    def frozen(self, strength: float) -> Head:
        """The head as searches use it, its update scaled by `strength`, from 0 to 1."""
        up, bias = (strength * weights.detach() for weights in (self.up, self.bias))
        return Head(self.down.detach().numpy().copy(), up.numpy().copy(), bias.numpy().copy())


class HeadTraining:
    """The training of one set of heads.

    Args:
        pairs: A set for each pair of modalities.
        anchors: (m, dim) vectors of modalities without pairs; their cosines to other modalities
            should not change.
        recipe: The hyperparameters.
    """

    def __init__(
        self, pairs: Sequence[PairSet], anchors: Mapping[Modality, Vectors], recipe: HeadRecipe
    ) -> None:
        self._draw = torch.Generator().manual_seed(recipe.seed)
        self._recipe = recipe
        self._pairs = pairs
        # by the square root, so that small sets count: one with 1 % of the pairs weighs a tenth
        weights = np.sqrt([len(one) for one in pairs])
        self._weights = (weights / weights.sum()).tolist()
        self._anchors = {name: torch.from_numpy(rows) for name, rows in anchors.items()}
        dim = pairs[0].vectors[0].shape[1]
        rank = min(recipe.rank, dim)
        names = sorted({name for one in pairs for name in one.modalities} | anchors.keys())
        self._heads = nn.ModuleDict({name: ResidualHead(dim, rank, self._draw) for name in names})
        self._scale = nn.Parameter(torch.tensor(-math.log(recipe.temperature)))
        self._steps = max(math.ceil(len(one) / recipe.batch) for one in pairs)
        self._optimiser = torch.optim.Adam(
            [
                {"params": list(self._heads.parameters()), "lr": recipe.rate},
                {"params": [self._scale], "lr": recipe.temperature_rate},
            ]
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimiser, recipe.epochs * self._steps
        )

    def epoch(self) -> None:
        """Train for one of the recipe's epochs."""
        for _ in range(self._steps):
            self._optimiser.zero_grad()
            torch.autograd.backward(self._loss())
            self._optimiser.step()
            self._schedule.step()

    def heads(self, strength: float) -> Heads:
        """The heads so far, their updates scaled by `strength`, from 0 to 1."""
        heads: Mapping[str, ResidualHead] = self._heads  # type: ignore[assignment]
        return {name: head.frozen(strength) for name, head in heads.items()}  # type: ignore[misc]

    def _loss(self) -> Tensor:
        losses = [
            weight * self._pair_loss(pairs)
            for pairs, weight in zip(self._pairs, self._weights, strict=True)
        ]
        return torch.stack(losses).sum()

    def _pair_loss(self, pairs: PairSet) -> Tensor:
        """Symmetric InfoNCE of a batch of pairs, and the regularisation of the heads."""
        rows = torch.randperm(len(pairs.groups), generator=self._draw)[: self._recipe.batch]
        groups = pairs.groups[rows]
        before = [vectors[rows] for vectors in pairs.vectors]
        first, second = (
            self._heads[name](self._with_dropout(own))
            for name, own in zip(pairs.modalities, before, strict=True)
        )
        one, other = pairs.modalities
        loss = (
            self._info_nce(first, second, groups, other, pairs.hard_negatives(1, rows))
            + self._info_nce(second, first, groups, one, pairs.hard_negatives(0, rows))
        ) / 2
        for name, own in zip(pairs.modalities, before, strict=True):
            after = self._heads[name](own)
            loss = loss + self._recipe.decay * (after - own).square().sum(1).mean() / 2
            loss = loss + self._anchored(own, after)
        return loss

    def _info_nce(
        self,
        queries: Tensor,
        items: Tensor,
        groups: Tensor,
        modality: Modality,
        hard: tuple[Tensor, Tensor],
    ) -> Tensor:
        """InfoNCE of queries against the items of the batch and its hard negatives.

        Other candidates of a query's own group are masked.
        """
        negatives, negative_groups = hard
        same = groups[:, None] == torch.cat([groups, negative_groups])[None]
        same.fill_diagonal_(fill_value=False)
        candidates = torch.cat([items, self._heads[modality](negatives)])
        logits = self._scale.exp() * queries @ candidates.T
        return F.cross_entropy(logits.masked_fill(same, -math.inf), torch.arange(len(queries)))

    def _anchored(self, before: Tensor, after: Tensor) -> Tensor:
        """The weighted squared change of the cosines to vectors of modalities without pairs."""
        changes = [
            (after @ self._heads[name](rows).T - before @ rows.T).square().mean()
            for name, rows in self._anchors.items()
        ]
        return self._recipe.anchor * torch.stack(changes).sum() if changes else torch.zeros(())

    def _with_dropout(self, rows: Tensor) -> Tensor:
        kept = 1 - self._recipe.dropout
        return rows * (torch.rand(rows.shape, generator=self._draw) < kept) / kept


def _hard_negatives(
    queries: Vectors, positives: Vectors, groups: NDArray[np.int64], pool: Pool, number: int
) -> NDArray[np.int64]:
    """The rows of a pool that are closest to each query, yet not as close as its positive.

    Args:
        queries: (n, dim).
        positives: (n, dim) the item of each query.
        groups: (n,) of the queries: rows of the same group are left out.
        pool: Where they are mined.
        number: How many for each query.

    Returns:
        (n, at most `number`); -1 where there are no more.
    """
    number = min(number, len(pool.rows))
    found = np.full((len(queries), number), -1, np.int64)
    for start in range(0, len(queries) if number else 0, ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        cosines = queries[some] @ pool.rows.T
        limit = SHARE_OF_POSITIVE * np.einsum("nd,nd->n", queries[some], positives[some])
        cosines[cosines > limit[:, None]] = -np.inf
        cosines[groups[some, None] == pool.groups[None]] = -np.inf
        best = np.argpartition(-cosines, number - 1, axis=1)[:, :number]
        usable = np.isfinite(np.take_along_axis(cosines, best, 1))
        found[some] = np.where(usable, best, -1)
    return found
