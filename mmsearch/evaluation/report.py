"""Evaluations and comparisons as people and programs read them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence, Sized
from typing import Any

from mmsearch.evaluation.compare import Compared, Comparison, Difference
from mmsearch.evaluation.figures import MEDIAN, Direction, Evaluation, Figure
from mmsearch.evaluation.item_resolver import few

FEW_GROUPS = 20
"""Fewer independent queries than this say little, whatever their interval."""


def as_table(found: Evaluation | Comparison) -> str:
    """A block of lines a direction, a measure a line."""
    if isinstance(found, Comparison):
        return "\n".join(_compared_block(direction) for direction in found.directions)
    return "\n".join(_block(direction, found) for direction in found.directions)


def as_tsv(found: Evaluation | Comparison) -> str:
    """A measure a line: direction, measure, value (or A, B and B − A), bounds, queries, verdict."""
    rows = []
    for direction in found.directions:
        for measure, figure in direction.measures.items():
            shown = [direction.name, measure, *_cells(figure)]
            rows.append("\t".join(shown))
    return "".join(row + "\n" for row in rows)


def as_dict(found: Evaluation | Comparison, *, per_query: bool = False) -> dict[str, Any]:
    """Plain values for JSON; a rank that was not found, or its median, is None."""
    if isinstance(found, Comparison):
        return {
            "a": as_dict(found.a, per_query=per_query),
            "b": as_dict(found.b, per_query=per_query),
            "differences": [_compared_dict(direction) for direction in found.directions],
        }
    return {
        "index": found.index,
        "settings": dict(found.settings),
        "depth": found.depth,
        "items": found.items,
        "directions": [_dict(direction, per_query=per_query) for direction in found.directions],
        "verbatim": found.verbatim,
        "missing": list(found.missing),
        "ambiguous": list(found.ambiguous),
        "left_out": dict(found.left_out),
    }


def notes(found: Evaluation) -> Iterator[str]:
    """What one should know before taking the figures at their word."""
    if found.missing:
        yield f"{_count(found.missing, 'file')} not in the index: {few(found.missing)}"
    if found.ambiguous:
        names = few(found.ambiguous)
        yield f"{_count(found.ambiguous, 'name')} of several files, write their paths: {names}"
    reasons: dict[str, list[str]] = defaultdict(list)
    for query, reason in found.left_out.items():
        reasons[reason].append(query)
    for reason, queries in reasons.items():
        yield f"{_count(queries, 'query', 'queries')} left out, {reason}: {few(queries)}"
    if found.verbatim and "text" in (found.settings.get("target") or ["text"]):
        yield (
            f"{found.verbatim} of the queries stand word for word in the texts of what they ask "
            "for, which is easily found; to search without texts: --in image, say"
        )
    for direction in found.directions:
        if direction.groups < FEW_GROUPS:
            yield f"{direction.name}: {direction.groups} independent queries say little"


def _count(things: Sized, one: str, several: str | None = None) -> str:
    return f"{len(things)} {one if len(things) == 1 else several or one + 's'}"


def _block(direction: Direction, found: Evaluation) -> str:
    rows = [["", "value", "95 % interval"]]
    for measure, figure in direction.measures.items():
        bounds = f"{_shown(measure, figure.low)} … {_shown(measure, figure.high)}"
        rows.append([measure, _shown(measure, figure.value), bounds])
    queries = len(direction.outcomes)
    told = f"{direction.name}: {queries} queries, {direction.groups} independent"
    depth = min(found.depth, found.items)
    return f"{told}; {found.items} items, searched to rank {depth}\n{_aligned(rows)}"


def _compared_block(direction: Compared) -> str:
    rows = [["", "A", "B", "B − A", "95 % interval, points", ""]]
    for measure, of in direction.measures.items():
        change = of.change
        bounds = f"{_moved(measure, change.low)} … {_moved(measure, change.high)}"
        both = [_shown(measure, of.a), _shown(measure, of.b)]
        rows.append([measure, *both, _moved(measure, change.value), bounds, of.verdict])
    told = f"{direction.name}: {direction.queries} queries, {direction.groups} independent"
    return f"{told}\n{_aligned(rows)}"


def _shown(measure: str, value: float) -> str:
    """Shares in per cent; ranks as they are."""
    if math.isinf(value):
        return "not found"
    return f"{value:g}" if measure == MEDIAN else f"{100 * value:.1f} %"


def _moved(measure: str, change: float) -> str:
    """A difference: of shares in points of a hundred, of ranks as it is."""
    return f"{change:+g}" if measure == MEDIAN else f"{100 * change:+.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def _cells(figure: Figure | Difference) -> list[str]:
    if isinstance(figure, Difference):
        change = figure.change
        numbers = [figure.a, figure.b, change.value, change.low, change.high]
        return [*(f"{number:.6g}" for number in numbers), figure.verdict]
    return [f"{number:.6g}" for number in (figure.value, figure.low, figure.high)]


def _dict(direction: Direction, *, per_query: bool) -> dict[str, Any]:
    found = {
        "direction": direction.name,
        "way": direction.way,
        "queries": len(direction.outcomes),
        "groups": direction.groups,
        "measures": {name: _figure(figure) for name, figure in direction.measures.items()},
    }
    if per_query:
        found["per_query"] = [
            {
                "query": outcome.query,
                "files": list(outcome.paths),
                "rank": _finite(outcome.rank),
                "ndcg@10": outcome.ndcg,
            }
            for outcome in direction.outcomes
        ]
    return found


def _compared_dict(direction: Compared) -> dict[str, Any]:
    return {
        "direction": direction.name,
        "queries": direction.queries,
        "groups": direction.groups,
        "measures": {
            name: {
                "a": _finite(of.a),
                "b": _finite(of.b),
                "change": _figure(of.change),
                "verdict": of.verdict,
            }
            for name, of in direction.measures.items()
        },
    }


def _figure(figure: Figure) -> dict[str, float | None]:
    return {name: _finite(getattr(figure, name)) for name in ("value", "low", "high")}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
