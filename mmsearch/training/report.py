"""The report on the tuning of a space, and whether the tuned space is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmsearch.evaluation.comparison import Comparison, mean_change
from mmsearch.evaluation.report import as_dict, as_table
from mmsearch.evaluation.results import Figure

DECISIVE = "MRR"
"""The measure that decides: chance affects it less than Recall@1."""


@dataclass(frozen=True, slots=True)
class TuneReport:
    """The gain of tuning a space, and whether it was switched on.

    Attributes:
        model: The model that was tuned.
        pairs: The number of queries.
        independent: The number of groups of pairs; no two groups share a file.
        comparison: Before (A) and after (B), in each direction, by cross-validation: each pair is
            evaluated with heads that were trained without it.
        mean: The change in MRR (mean of 1 / rank of the first relevant item), averaged over all
            directions, with its 95 % interval.
        epochs: The epochs that the heads were trained for.
        strength: The share of the update that the heads keep, from 0 to 1.
        switched_on: Whether searches use the heads from now on.
        warnings: What the user should know.
        seconds: The time that the tuning took.
    """

    model: str
    pairs: int
    independent: int
    comparison: Comparison
    mean: Figure
    epochs: int
    strength: float
    switched_on: bool
    warnings: Sequence[str]
    seconds: float

    def table(self) -> str:
        """All directions before (A) and after (B), their mean, and whether it was switched on."""
        first = mean_change(self.comparison, "Recall@1")
        return (
            f"{self.model}, tuned on {self.pairs} queries ({self.independent} independent); each "
            f"evaluated with heads trained without it\n\n{as_table(self.comparison)}\n"
            f"mean of the directions: Recall@1 {points(first)}; {DECISIVE} {points(self.mean)}\n"
            f"{self._verdict()}\n"
        )

    def values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "pairs": self.pairs,
            "independent": self.independent,
            "epochs": self.epochs,
            "strength": self.strength,
            "switched_on": self.switched_on,
            "mean_mrr": asdict(self.mean),
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            **as_dict(self.comparison),
        }

    def _verdict(self) -> str:
        """Whether it was switched on; if not, why."""
        if self.switched_on:
            return "switched on; `mmsearch tune --undo` undoes it"
        if self.mean.low > 0:
            return "not switched on: one direction gets worse. The index is unchanged"
        return (
            "not switched on: the gain may be due to chance. The index is unchanged; more pairs "
            "may help, or captions that say more about what is in the files"
        )


def is_better(comparison: Comparison, mean: Figure) -> bool:
    """Whether the 95 % interval of the mean gain lies above zero, and no direction gets worse."""
    changes = [one.measures[DECISIVE].change.value for one in comparison.directions]
    return mean.low > 0 and all(change >= 0 for change in changes)


def points(change: Figure) -> str:
    """A change of a share, in percentage points, with its interval."""
    value, low, high = (f"{100 * one:+.1f}" for one in (change.value, change.low, change.high))
    return f"{value} points, 95 % interval {low} … {high}"
