"""Recall against the number of hits looked at, drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidOption, MissingExtra, PathNotFound
from mmsearch.evaluation.figures import Evaluation, recall_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (6.4, 4.4)
"""Inches."""


def check_plot(path: str | os.PathLike[str]) -> None:
    """Find out before a long run whether a plot could be written.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidOption: the ending is that of no kind of picture that it writes.
        PathNotFound: the folder does not exist.
    """
    path = Path(path)
    known = _canvas().canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        shown = " ".join(f".{ending}" for ending in sorted(known))
        raise InvalidOption(
            f"a plot cannot be written as {path.name!r}; its ending is one of {shown}"
        )
    if not path.absolute().parent.is_dir():
        raise PathNotFound(f"there is no folder {path.parent} to write a plot in")


def plot(evaluations: Mapping[str, Evaluation], path: str | os.PathLike[str]) -> None:
    """Write a picture of recall at every cutoff, a line for each direction of each evaluation.

    Args:
        evaluations: By what they are to be called; a single one needs no name.
        path: Where, in a format by its ending: .png, .pdf, .svg. Written whole or not at all.

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
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(part, dpi=150)
        part.replace(path)
    except OSError as error:
        raise InvalidOption(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _canvas() -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("drawing a plot", "plot") from error
    return Figure(SIZE, layout="constrained")
