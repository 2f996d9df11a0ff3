"""The command `mmsearch eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import render
from mmsearch.cli.console import Index, out, progress_bar, say, terminal
from mmsearch.collection.opening import open_collection

if TYPE_CHECKING:
    from mmsearch.evaluation import Comparison, Evaluation


def evaluate(
    pairs: Annotated[
        Path,
        typer.Argument(metavar="PAIRS", help="Queries and the files to be found: tsv, csv, jsonl."),
    ],
    *,
    index: Index = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="image|text|audio",
            help="What to search; several with a comma. (default: as `query` does; for an example, "
            "items like the files to be found)",
            show_default=False,
        ),
    ] = None,
    direction: Annotated[
        str,
        typer.Option(
            "--direction",
            metavar="D",
            help="forward: queries search for their files; backward: each file for the texts of "
            "its queries; both.",
        ),
    ] = "forward",
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="A,B,…",
            help="The columns of a file without a header, such as file,query.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="S",
            help="Settings, such as fusion=rrf,lexical=off. Repeatable: the last value of a name "
            "counts.",
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Search with settings A and with settings B: is one better? `default` stands for "
            "none.",
        ),
    ] = None,
    depth: Annotated[
        int, typer.Option("-k", "--depth", metavar="N", help="How many ranks count.")
    ] = 1000,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw recall against k: png, pdf, svg."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    per_query: Annotated[
        bool, typer.Option("--per-query", help="With --json, the rank of each query too.")
    ] = False,
    runtime: Annotated[
        str,
        typer.Option("--runtime", metavar="R", help="What models run on: auto, torch, onnx."),
    ] = "auto",
    device: Annotated[
        str, typer.Option("--device", metavar="D", help="Where: auto, cpu, cuda, mps.")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="P", help="With what: auto, fp32, bf16, int8."),
    ] = "auto",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar.")] = False,
) -> None:
    """Measure how well an index finds what queries ask for, or which of two settings is better.

    PAIRS has a query and a file per row; a header says if queries are pictures or sounds (`image`,
    `audio`). Recall@1, 5 and 10, MRR, nDCG@10 and median rank, with 95 % bootstrap intervals.
    """
    from mmsearch import evaluation
    from mmsearch.evaluation import parse_settings, report
    from mmsearch.media.pairs import read_pairs

    base: dict[str, Any] = {}
    for written in settings or ():
        base |= parse_settings(written)
    if target is not None:
        base["target"] = [modality.strip() for modality in target.split(",")]
    runs = [base | parse_settings(written) for written in compare or ("default",)]
    if plot is not None:
        report.check_plot(plot)
    judged = read_pairs(pairs, None if columns is None else columns.split(","))
    how = {"runtime": runtime, "device": device, "precision": precision}
    found = []
    for run in runs:
        folder = run.pop("index", index)
        with (
            open_collection(folder, **how) as library,
            progress_bar(" queries", quiet=quiet) as progress,
        ):
            more: Any = {"direction": direction, "depth": depth, "progress": progress}
            found.append(evaluation.evaluate(library, judged, settings=run, **more))
    _show(found[0] if compare is None else evaluation.compare(*found), json, per_query)
    if plot is not None:
        report.plot(dict(zip(compare or ("",), found, strict=True)), plot)


def _show(found: Evaluation | Comparison, json: bool, per_query: bool) -> None:
    from mmsearch.evaluation import Comparison
    from mmsearch.evaluation.report import as_dict, as_table, as_tsv, notes

    evaluations = [found.a, found.b] if isinstance(found, Comparison) else [found]
    for note in dict.fromkeys(note for one in evaluations for note in notes(one)):
        say(render.visible(note))
    if json:
        out(render.as_pretty_json(as_dict(found, per_query=per_query)))
    else:
        out(as_table(found) if terminal() else as_tsv(found))
