"""Whether one of two settings is better on the queries of both, and how settings are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mmsearch.errors import InvalidOption, InvalidQuery
from mmsearch.evaluation.results import (
    MEANS,
    MEDIAN,
    Direction,
    Evaluation,
    Figure,
    Outcome,
    values_of,
)
from mmsearch.filters.values import shown
from mmsearch.metrics import bounds, groups_of, median_rank, resampled_means, resampled_medians
from mmsearch.search.settings import declared, settings_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdict = Literal["A is better", "B is better", "no difference shown"]

FEWEST = 6
"""Groups of queries that must differ before a difference counts as real: if five differ, all in the
same direction by chance, then p = 2 · 2⁻⁵ > 0.05, two-sided, whatever a bootstrap of them says."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of A and of B, and B − A with its interval."""

    a: float
    b: float
    change: Figure
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Compared:
    """Two settings in one direction."""

    name: str
    """The direction, such as "text→image"."""
    queries: int
    """How many both have."""
    groups: int
    """How many independent groups they form."""
    measures: Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations on the same queries."""

    a: Evaluation
    b: Evaluation
    directions: tuple[Compared, ...]
    """Those of `a` in which both have queries."""


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """The difference of each measure, with a paired bootstrap interval, and whether it is real.

    Each resample draws the same queries for both, whole groups of those that share relevant items.
    A difference is real when its 95 % interval excludes zero and at least `FEWEST` groups of
    queries differ. Each measure is judged on its own: of twenty without any difference, one is
    expected to look real.

    Args:
        a: One evaluation.
        b: Another, of the same pairs.

    Raises:
        InvalidQuery: they have no query in common.
        InvalidOption: their depths differ, or one is no evaluation.

    Source: Sakai, SIGIR 2006; Smucker, Allan & Carterette, CIKM 2007.
    """
    for one in (a, b):
        if not isinstance(one, Evaluation):
            raise InvalidOption(f"compare takes two evaluations, not {shown(one)}")
    if a.depth != b.depth:
        raise InvalidOption(f"depths {a.depth} and {b.depth} cannot be compared: use one for both")
    return Comparison(a, b, compare_directions(a.directions, b.directions))


def compare_directions(a: Sequence[Direction], b: Sequence[Direction]) -> tuple[Compared, ...]:
    """What `compare` finds, for the directions of two evaluations, in the order of the first.

    Raises:
        InvalidQuery: they have no query in common.
    """
    other = {outcome.key: outcome for direction in b for outcome in direction.outcomes}
    found = []
    for direction in a:
        both = [(one, other[one.key]) for one in direction.outcomes if one.key in other]
        if both:
            found.append(_compared(direction.name, both))
    if not found:
        raise InvalidQuery("the two have no query in common: evaluate the same pairs")
    return tuple(found)


def mean_change(comparison: Comparison, measure: str) -> Figure:
    """The change of one of MEANS, B − A, as the mean of the directions, with its interval.

    Every direction counts equally, however many queries it has. A resample draws the groups of all
    directions at once: a photo and its captions are queries of both.
    """
    import numpy as np

    at = MEANS.index(measure)
    other = {outcome.key: outcome for one in comparison.b.directions for outcome in one.outcomes}
    found, paths = [], []
    for direction in comparison.a.directions:
        both = [(one, other[one.key]) for one in direction.outcomes if one.key in other]
        if both:
            before, after = (values_of(side)[0][:, at] for side in zip(*both, strict=True))
            found.append((after - before) / len(both))
            paths += [{*one.paths, *changed.paths} for one, changed in both]
    changes = np.concatenate(found) * len(paths) / len(found)
    drawn = resampled_means(changes, groups_of(paths))
    return Figure(float(changes.mean()), *bounds(drawn))


def _compared(name: str, both: Sequence[tuple[Outcome, Outcome]]) -> Compared:
    means_a, ranks_a = values_of([one for one, _ in both])
    means_b, ranks_b = values_of([one for _, one in both])
    groups = groups_of([{*one.paths, *other.paths} for one, other in both])
    drawn = resampled_means(means_b - means_a, groups)
    measures = {}
    for at, measure in enumerate(MEANS):
        one, other = float(means_a[:, at].mean()), float(means_b[:, at].mean())
        change = Figure(other - one, *bounds(drawn[:, at]))
        differing = _differing(means_a[:, at] != means_b[:, at], groups)
        measures[measure] = Difference(one, other, change, _verdict(change, differing))
    medians = _difference(resampled_medians(ranks_b, groups), resampled_medians(ranks_a, groups))
    one, other = median_rank(ranks_a), median_rank(ranks_b)
    change = Figure(float(_difference(other, one)), *bounds(medians))
    improvement = Figure(-change.value, -change.high, -change.low)  # lower ranks are better
    verdict = _verdict(improvement, _differing(ranks_a != ranks_b, groups))
    measures[MEDIAN] = Difference(one, other, change, verdict)
    return Compared(name, len(both), int(groups.max()) + 1, measures)


def _differing(differs: NDArray[np.bool_], groups: NDArray[np.int64]) -> int:
    """How many groups have a query whose values differ."""
    return len(set(groups[differs].tolist()))


def _difference(
    one: NDArray[np.float64] | float, other: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """The difference; zero where both are infinite."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return np.where(np.equal(one, other), 0.0, np.subtract(one, other))


def _verdict(change: Figure, differing: int) -> Verdict:
    if differing < FEWEST or change.low <= 0 <= change.high:
        return "no difference shown"
    return "B is better" if change.low > 0 else "A is better"


PLAIN = "default"
"""Stands for a search without any settings."""


def parse_settings(written: str) -> dict[str, Any]:
    """Settings by keyword, of "name=value,name=value" or "default"; "index" names another index.

    Raises:
        InvalidOption: a name or a value is unknown; the message lists those there are.
    """
    if not isinstance(written, str):
        raise InvalidOption(
            f"settings are written as text, such as lexical=off, not {shown(written)}"
        )
    known = {
        name: one.format for name, one in declared().items() if one.format.parse and one.in_eval
    }
    found: dict[str, Any] = {}
    # hosts in an address have commas between them; it goes on up to the next name
    pairs = re.split(r",(?=\s*\w+\s*=)" if "://" in written else ",", written)
    for pair in pairs if written.strip() != PLAIN else ():
        name, _, text = (part.strip() for part in pair.partition("="))
        if name == "index" and text:
            found[name] = text
            continue
        if name not in known or not text:
            names = [f"{name}={format_.syntax}" for name, format_ in known.items()]
            choices = ", ".join([PLAIN, "index=NAME|DIR|URL", *names])
            raise InvalidOption(f"{pair.strip()!r} is no setting; there is: {choices}")
        format_ = known[name]
        try:
            found[name] = format_.value_of(text.split("+") if format_.collect else [text])
        except (ValueError, KeyError) as error:
            raise InvalidOption(f"{name} is {format_.syntax}, not {text!r}") from error
    settings_of({name: value for name, value in found.items() if name != "index"})
    return found
