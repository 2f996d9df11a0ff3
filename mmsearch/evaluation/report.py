"""Evaluations and comparisons as tables, TSV, JSON and plots."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidOption, MissingExtra, PathNotFound
from mmsearch.evaluation.benchmarks import BenchmarkResult
from mmsearch.evaluation.comparison import Compared, Comparison
from mmsearch.evaluation.costs import Cost
from mmsearch.evaluation.qrels import few
from mmsearch.evaluation.results import MEDIAN, Direction, Evaluation, Figure, recall_curve
from mmsearch.evaluation.variants import VariantComparison
from mmsearch.search.setting_formats import one_or_several

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from mmsearch.encoders import Runtime


FEW_GROUPS = 20
"""Fewer independent queries than this say little, whatever their interval."""

PLOT_SIZE = (6.4, 4.4)
"""Inches."""

Result = Evaluation | Comparison | BenchmarkResult | VariantComparison
"""What can be reported."""

# ---------------------------------------------------------------------- tables


def as_table(result: Result) -> str:
    """A block of lines per direction, a line per measure; for variants also a table of costs."""
    if isinstance(result, BenchmarkResult):
        return _benchmark_table(result)
    if isinstance(result, VariantComparison):
        return _variants_table(result)
    if isinstance(result, Comparison):
        return "\n".join(map(_comparison_block, result.directions))
    return "\n".join(_block(direction, result) for direction in result.directions)


def _block(direction: Direction, result: Evaluation) -> str:
    rows = [["", "value", "95 % interval"]]
    for measure, figure in direction.measures.items():
        bounds = f"{_value(measure, figure.low)} … {_value(measure, figure.high)}"
        rows.append([measure, _value(measure, figure.value), bounds])
    depth = min(result.depth, result.items)
    title = (
        f"{direction.name}: {_queries(len(direction.outcomes))}, {direction.groups} independent; "
        f"{_count(result.items, 'item')}, searched to rank {depth}"
    )
    return f"{title}\n{_aligned(rows)}"


def _comparison_block(direction: Compared, names: str = "") -> str:
    rows = [["", "A", "B", "B − A", "95 % interval, points", ""]]
    for measure, of in direction.measures.items():
        change, low, high = (
            _change(measure, value) for value in (of.change.value, of.change.low, of.change.high)
        )
        a, b = _value(measure, of.a), _value(measure, of.b)
        rows.append([measure, a, b, change, f"{low} … {high}", of.verdict])
    title = f"{direction.name}: {_queries(direction.queries)}, {direction.groups} independent"
    title += names and f"; {names}"
    return f"{title}\n{_aligned(rows)}"


def _value(measure: str, value: float) -> str:
    """A share in per cent, or a rank as it is."""
    if math.isinf(value):
        return "not found"
    return f"{value:g}" if measure == MEDIAN else f"{100 * value:.1f} %"


def _change(measure: str, change: float) -> str:
    """A difference of shares in percentage points, or of ranks as it is."""
    return f"{change:+g}" if measure == MEDIAN else f"{100 * change:+.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def _benchmark_table(result: BenchmarkResult) -> str:
    """A line per direction and cutoff, beside the published recalls."""
    rows = [["", "", "value", "95 % interval", "published", "difference, points"]]
    for direction, measure, value, low, high, published in result.rows():
        bounds = f"{_value(measure, low)} … {_value(measure, high)}"
        theirs = "–" if published is None else _value(measure, published)
        apart = "" if published is None else _change(measure, value - published)
        rows.append([direction, measure, _value(measure, value), bounds, theirs, apart])
    title = f"{result.name}, {result.model}: {_count(result.files, 'file')}"
    source = f"published: {result.source}\n" if result.source else ""
    return f"{title}\n{_aligned(rows)}{source}"


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "query_ms": ("ms a query", "{:.1f}".format),
    "bytes_per_vector": ("bytes a vector", "{:.0f}".format),
    "exact_recall": ("recall@10 against exact", lambda share: _value("", share)),
    "photos_per_second": ("photos a second", "{:.1f}".format),
}
"""For each field of `Cost`, its title and the function that formats it."""


def _variants_table(result: VariantComparison) -> str:
    """A table for each comparison with the first variant, and one of all costs."""
    first, *others = result.variants
    blocks = [
        _benchmark_table(one) for one in result.results[:1] if isinstance(one, BenchmarkResult)
    ]
    for variant, differences in zip(others, result.differences, strict=True):
        names = f"A: {first.name}, B: {variant.name}"
        blocks += [_comparison_block(direction, names) for direction in differences]
    rows = [["", *(variant.name for variant in result.variants)]]
    for name, (title, shown) in COSTS.items():
        figures = [getattr(cost, name) for cost in result.costs]
        if any(figure is not None for figure in figures):
            rows.append([title, *("–" if one is None else shown(one) for one in figures)])
    return "\n".join([*blocks, _aligned(rows)])


# ---------------------------------------------------------------------- TSV


def as_tsv(result: Result) -> str:
    """A line per measure, with shares as numbers.

    Direction, measure, value, low and high; of a comparison: A, B, B − A, low, high and verdict; of
    a benchmark also the published value, or nothing. Variants begin each line of a comparison with
    the first one, and of a cost (variant, name, value).
    """
    if isinstance(result, BenchmarkResult):
        return _benchmark_tsv(result)
    if isinstance(result, VariantComparison):
        return _variants_tsv(result)
    return "".join(f"{line}\n" for one in result.directions for line in _tsv_lines(one))


def _tsv_lines(direction: Direction | Compared) -> Iterator[str]:
    for measure, of in direction.measures.items():
        if isinstance(of, Figure):
            numbers, verdict = [of.value, of.low, of.high], []
        else:
            numbers = [of.a, of.b, of.change.value, of.change.low, of.change.high]
            verdict = [of.verdict]
        cells = [direction.name, measure, *(f"{number:.6g}" for number in numbers), *verdict]
        yield "\t".join(cells)


def _benchmark_tsv(result: BenchmarkResult) -> str:
    return "".join(
        "\t".join([*names, *("" if one is None else f"{one:.6g}" for one in numbers)]) + "\n"
        for *names, numbers in ((row[0], row[1], row[2:]) for row in result.rows())
    )


def _variants_tsv(result: VariantComparison) -> str:
    lines = []
    for variant, differences in zip(result.variants[1:], result.differences, strict=True):
        for direction in differences:
            lines += [f"{variant.name}\t{line}\n" for line in _tsv_lines(direction)]
    for variant, cost in zip(result.variants, result.costs, strict=True):
        lines += [f"{variant.name}\t{name}\t{one:.6g}\n" for name, one in _known_costs(cost)]
    return "".join(lines)


# ---------------------------------------------------------------------- JSON


def as_dict(result: Result, *, per_query: bool = False) -> dict[str, Any]:
    """Plain values for JSON; an infinite rank, or a median of those, is None.

    Args:
        result: What is reported.
        per_query: Whether the figures of each query of an evaluation are included.
    """
    if isinstance(result, BenchmarkResult):
        return _benchmark_dict(result)
    if isinstance(result, VariantComparison):
        return _variants_dict(result, per_query=per_query)
    if isinstance(result, Comparison):
        return {
            "a": as_dict(result.a, per_query=per_query),
            "b": as_dict(result.b, per_query=per_query),
            "differences": [_comparison_dict(direction) for direction in result.directions],
        }
    return {
        "index": result.index,
        "settings": dict(result.settings),
        "depth": result.depth,
        "items": result.items,
        "directions": [_dict(direction, per_query=per_query) for direction in result.directions],
        "verbatim": result.verbatim,
        "missing": list(result.missing),
        "ambiguous": list(result.ambiguous),
        "left_out": dict(result.left_out),
    }


def _dict(direction: Direction, *, per_query: bool) -> dict[str, Any]:
    entry = {
        "direction": direction.name,
        "way": direction.way,
        "queries": len(direction.outcomes),
        "groups": direction.groups,
        "measures": {name: _finite(asdict(of)) for name, of in direction.measures.items()},
    }
    if per_query:
        entry["per_query"] = [
            {
                "query": outcome.query,
                "files": list(outcome.paths),
                "rank": _finite(outcome.rank),
                "ndcg@10": outcome.ndcg,
                "r-precision": outcome.r_precision,
                "ap@r": outcome.average_precision,
            }
            for outcome in direction.outcomes
        ]
    return entry


def _comparison_dict(direction: Compared) -> dict[str, Any]:
    return {
        "direction": direction.name,
        "queries": direction.queries,
        "groups": direction.groups,
        "measures": {name: _finite(asdict(of)) for name, of in direction.measures.items()},
    }


def _finite(value: Any) -> Any:
    """A value of JSON, which has no infinities, or a dict of such values."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if value in (math.inf, -math.inf) else value


def _benchmark_dict(result: BenchmarkResult) -> dict[str, Any]:
    keys = ("direction", "measure", "value", "low", "high", "published")
    return {
        "benchmark": result.name,
        "model": result.model,
        "files": result.files,
        "missing": list(result.missing),
        "source": result.source,
        "recalls": [dict(zip(keys, row, strict=True)) for row in result.rows()],
    }


def _variants_dict(result: VariantComparison, *, per_query: bool) -> dict[str, Any]:
    variants = [
        {"name": variant.name, "kind": variant.kind}
        | _runtime_dict(variant.runtime)
        | dict(_known_costs(cost))
        | as_dict(one, per_query=per_query)
        for variant, cost, one in zip(result.variants, result.costs, result.results, strict=True)
    ]
    first, *others = result.variants
    differences = [
        {"a": first.name, "b": other.name, "directions": list(map(_comparison_dict, directions))}
        for other, directions in zip(others, result.differences, strict=True)
    ]
    return {"variants": variants, "differences": differences, "encoded": result.encoded}


def _runtime_dict(runtime: Runtime | None) -> dict[str, str]:
    names = ("runtime", "device", "precision")
    return {} if runtime is None else {name: getattr(runtime, name) for name in names}


def _known_costs(cost: Cost) -> Iterator[tuple[str, float]]:
    return ((name, figure) for name, figure in asdict(cost).items() if figure is not None)


# ---------------------------------------------------------------------- notes and plots


def notes(result: Result) -> Iterator[str]:
    """Caveats about the figures, a line each and each once."""
    if isinstance(result, VariantComparison):
        several = [result.notes, *map(notes, result.results)]
    elif isinstance(result, Comparison):
        several = [notes(result.a), notes(result.b)]
    elif isinstance(result, BenchmarkResult):
        several = [_benchmark_notes(result)]
    else:
        several = [_notes(result)]
    yield from dict.fromkeys(chain.from_iterable(several))


def _benchmark_notes(result: BenchmarkResult) -> Iterator[str]:
    if result.missing:
        yield (
            f"{_count(len(result.missing), 'file')} of {result.name} missing or unreadable, "
            f"{result.missing[0]!r} for one: these figures are not those of the benchmark"
        )


def _notes(result: Evaluation) -> Iterator[str]:
    if result.missing:
        missing = _count(len(result.missing), "file")
        yield f"{missing} not in the index: {few(result.missing)}"
    if result.ambiguous:
        ambiguous = _count(len(result.ambiguous), "name")
        names = few(result.ambiguous)
        yield f"{ambiguous} of several files, write their paths: {names}"
    reasons: dict[str, list[str]] = defaultdict(list)
    for query, reason in result.left_out.items():
        reasons[reason].append(query)
    for reason, queries in reasons.items():
        yield f"{_queries(len(queries))} left out, {reason}: {few(queries)}"
    if result.verbatim and "text" in (result.settings.get("target") or ["text"]):
        yield (
            f"{_queries(result.verbatim)} {'occurs' if result.verbatim == 1 else 'occur'} word for "
            "word in the texts of relevant items, which makes these easy to find; to search "
            "without texts: --in image, say"
        )
    target = one_or_several(result.settings.get("target") or ())
    for direction in result.directions:
        if all(math.isinf(outcome.rank) for outcome in direction.outcomes):
            searched = f" (searched in {', '.join(target)})" if target else ""
            yield f"{direction.name}: no query found a relevant item{searched}"
        if direction.groups == 1:
            yield f"{direction.name}: 1 independent query says little"
        elif direction.groups < FEW_GROUPS:
            yield f"{direction.name}: {direction.groups} independent queries say little"


def _queries(number: int) -> str:
    return _count(number, "query", "queries")


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def check_plot(path: str | os.PathLike[str]) -> None:
    """Check before a long run that a plot can be written.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidOption: matplotlib writes no pictures with this ending.
        PathNotFound: the folder does not exist.
    """
    path = Path(path)
    known = _canvas().canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        endings = " ".join(f".{ending}" for ending in sorted(known))
        raise InvalidOption(
            f"a plot cannot be written as {path.name!r}; its ending is one of {endings}"
        )
    if not path.absolute().parent.is_dir():
        raise PathNotFound(f"there is no folder {path.parent} to write a plot in")


def plot(evaluations: Mapping[str, Evaluation], path: str | os.PathLike[str]) -> None:
    """Draw recall at every cutoff, a line for each direction of each evaluation.

    Args:
        evaluations: By the name in the legend; a single one may have an empty name.
        path: The picture, its format by its ending (.png, .pdf, .svg); written whole or not at all.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidOption: the file cannot be written.
    """
    path = Path(path)
    figure = _canvas()
    axes = figure.add_subplot(xscale="log", ylim=(0, 1))
    for name, evaluation in evaluations.items():
        for direction in evaluation.directions:
            label = f"{direction.name} {name}".strip()
            depth = min(evaluation.depth, evaluation.items)
            axes.plot(range(1, depth + 1), recall_curve(direction, depth), label=label)
    axes.set_xlabel("k, hits looked at")
    axes.set_ylabel("recall at k")
    axes.grid(visible=True, alpha=0.3)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(loc="lower right")
    unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=150)
        unfinished.replace(path)
    except OSError as error:
        raise InvalidOption(f"{path} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _canvas() -> Canvas:
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MissingExtra("drawing a plot", "plot") from error
    return Canvas(PLOT_SIZE, layout="constrained")
