"""The command `mmsearch tune`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import render
from mmsearch.cli.console import out, progress_bar, say
from mmsearch.cli.options import Index, Json, Quiet, as_path, option
from mmsearch.collection.opening import open_collection
from mmsearch.errors import InvalidOption

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.evaluation.pairs import Pair

NOT_BETTER = 1
"""The exit code when nothing was switched on."""


def tune(
    pairs: Annotated[
        Path | None,
        typer.Argument(
            metavar="PAIRS",
            help="Queries and their relevant files, as for `eval`. (default: the captions in the "
            "index)",
            show_default=False,
            parser=as_path,
        ),
    ] = None,
    *,
    index: Index = None,
    columns: Annotated[
        str | None,
        option("--columns", "The columns of a file without a header, such as file,query.", "A,B,…"),
    ] = None,
    reranker: Annotated[
        bool,
        option("--reranker", "Instead, tune the reranker of a clip: model, for --rerank fusion."),
    ] = False,
    undo: Annotated[bool, option("--undo", "Undo the tuning.")] = False,
    seed: Annotated[int, option("--seed", "For everything random. (default: 0)", "N", min=0)] = 0,
    plot: Annotated[
        Path | None,
        option(
            "--plot",
            "Draw recall against k, before and after: png, pdf, svg.",
            "FILE",
            parser=as_path,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune the models of an index on your own pairs of queries and files.

    The result is evaluated on pairs that were held out, and is switched on only
    if it is measurably better and no direction gets worse. Nothing is encoded
    again. The exit code is 1 if nothing was switched on.
    """
    from mmsearch.evaluation.pairs import read_pairs
    from mmsearch.evaluation.report import check_plot

    if undo and (pairs is not None or plot is not None or json):
        raise InvalidOption("--undo undoes an earlier tuning: leave out PAIRS, --plot and --json")
    if columns is not None and pairs is None:
        raise InvalidOption("--columns names the columns of a file: give PAIRS, too")
    if reranker and plot is not None:
        raise InvalidOption("--reranker draws nothing: leave out --plot")
    if plot is not None:
        check_plot(plot)
    given = None
    if pairs is not None:
        given = read_pairs(pairs, None if columns is None else columns.split(","))
    with open_collection(index) as library:
        if undo:
            _undo(library, reranker=reranker, quiet=quiet)
        elif reranker:
            _tune_reranker(library, given, seed, json=json, quiet=quiet)
        else:
            _tune_spaces(library, given, seed, plot, json=json, quiet=quiet)


def _undo(library: Collection, *, reranker: bool, quiet: bool) -> None:
    from mmsearch.training import undo_reranker, undo_tuning

    if reranker:
        say(f"deleted {render.visible(str(undo_reranker(library)))}")
        return
    with progress_bar(" files", quiet=quiet) as progress:
        report = undo_tuning(library, progress=progress)
    for warning in report.warnings:
        say(render.visible(warning))
    say(f"the tuning is undone; files added or changed since that were encoded: {report.filled}")


def _tune_spaces(
    library: Collection,
    pairs: list[Pair] | None,
    seed: int,
    plot: Path | None,
    *,
    json: bool,
    quiet: bool,
) -> None:
    from mmsearch.evaluation.report import notes
    from mmsearch.evaluation.report import plot as draw
    from mmsearch.training import tune as tune_spaces

    with progress_bar(" steps", quiet=quiet) as progress:
        reports = tune_spaces(library, pairs, seed=seed, progress=progress)
    said = [line for one in reports for line in (*notes(one.comparison.a), *one.warnings)]
    for line in dict.fromkeys(said):
        say(render.visible(line))
    if json:
        out(render.as_pretty_json([one.values() for one in reports]))
    else:
        out("\n".join(one.table() for one in reports))
    if plot is not None:
        several = len(reports) > 1
        curves = {
            f"{when} {one.model}" if several else when: evaluation
            for one in reports
            for when, evaluation in (("before", one.comparison.a), ("after", one.comparison.b))
        }
        draw(curves, plot)
    if not any(one.switched_on for one in reports):
        raise typer.Exit(NOT_BETTER)


def _tune_reranker(
    library: Collection, pairs: list[Pair] | None, seed: int, *, json: bool, quiet: bool
) -> None:
    from dataclasses import asdict

    from mmsearch.training import tune_reranker

    with redirect_stdout(StringIO() if quiet else sys.stderr):  # it prints its progress
        figures = tune_reranker(library, pairs, seed=seed)
    if json:
        out(render.as_pretty_json({**asdict(figures), "switched_on": figures.helps}))
    else:
        out(figures.table() + "\n")
    if not figures.helps:
        say("not switched on: the gain may be due to chance, or one direction gets worse")
        raise typer.Exit(NOT_BETTER)
    say(
        "switched on; `mmsearch index` adds the embeddings that it compares, and `mmsearch tune "
        "--reranker --undo` undoes it"
    )
