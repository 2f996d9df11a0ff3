"""The command `mmsearch eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import render
from mmsearch.cli.console import out, progress_bar, say, terminal
from mmsearch.cli.options import Device, Index, Json, Precision, Quiet, Runtime, as_path, option
from mmsearch.collection.opening import open_collection

if TYPE_CHECKING:
    from mmsearch.evaluation import Comparison, Evaluation


def evaluate(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help="Queries and the files to be found: tsv, csv, jsonl; with --benchmark, the folder "
            "of its files.",
            parser=as_path,
        ),
    ],
    *,
    index: Index = None,
    target: Annotated[
        str | None,
        option(
            "--in",
            "What to search; several separated by commas. (default: as `query` does; for an "
            "example, items like the files to be found)",
            "image|text|audio",
        ),
    ] = None,
    direction: Annotated[
        str,
        option(
            "--direction",
            "forward: queries search for their files; backward: each file for the texts of its "
            "queries; both. (default: forward)",
            "D",
        ),
    ] = "forward",
    columns: Annotated[
        str | None,
        option("--columns", "The columns of a file without a header, such as file,query.", "A,B,…"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        option(
            "--with",
            "Settings, such as fusion=rrf,lexical=off; repeatable: the last value of a name "
            "counts.",
            "S",
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        option(
            "--compare",
            "Search with settings A and with settings B: is one better? `default` stands for none.",
            "A B",
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        option(
            "--benchmark",
            "Measure the model on a public dataset, beside its published recalls: flickr30k, "
            "coco, flickr8k, clotho, audiocaps. What is lacking is indexed. (-i, default: an index "
            "of that name)",
            "NAME",
        ),
    ] = None,
    depth: Annotated[
        int, option("-k --depth", "How many ranks count. (default: 1000)", "N")
    ] = 1000,
    plot: Annotated[
        Path | None,
        option("--plot", "Draw recall against k: png, pdf, svg.", "FILE", parser=as_path),
    ] = None,
    json: Json = False,
    per_query: Annotated[
        bool, option("--per-query", "With --json, the figures of each query too.")
    ] = False,
    runtime: Runtime = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure how well an index finds what queries ask for, or which of two settings is better.

    PAIRS has a query and a file per row; a header says if queries are pictures
    or sounds (`image`, `audio`). Figures over all queries, with 95 % bootstrap
    intervals:

    Recall@K: whether any right file is among the first K.
    MRR: 1 / rank of the first right file.
    nDCG@10: the gains of the first ten, earlier ones counting more, as a share
    of the best possible.
    R-precision: the share of right files among the first R, if there are R.
    mAP@R: the same, earlier ones counting more.
    median rank: of the first right file; lower is better.
    """
    from mmsearch import evaluation
    from mmsearch.evaluation import parse_settings, report
    from mmsearch.evaluation.pairs import read_pairs

    how: dict[str, Any] = {"runtime": runtime, "device": device, "precision": precision}
    if benchmark is not None:
        _run_benchmark(benchmark, pairs, index, how, json=json, quiet=quiet)
        return
    common: dict[str, Any] = {}
    for written in settings or ():
        common |= parse_settings(written)
    if target is not None:
        common["target"] = [modality.strip() for modality in target.split(",")]
    runs = [common | parse_settings(written) for written in compare or ("default",)]
    names = [_named(written, run) for written, run in zip(compare or ("",), runs, strict=True)]
    if plot is not None:
        report.check_plot(plot)
    judged = read_pairs(pairs, None if columns is None else columns.split(","))
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
        report.plot(dict(zip(names, found, strict=True)), plot)


def _named(written: str, run: Mapping[str, Any]) -> str:
    """Settings as the user wrote them, without the password of an address."""
    index = run.get("index", "")
    return written.replace(index, render.shown_index(index)) if index else written


def _run_benchmark(
    name: str, folder: Path, index: str | None, how: dict[str, Any], *, json: bool, quiet: bool
) -> None:
    from mmsearch.collection.opening import collection_for
    from mmsearch.encoders import runtime_of
    from mmsearch.evaluation import run_benchmark
    from mmsearch.evaluation.benchmarks import read_benchmark
    from mmsearch.evaluation.report import benchmark_dict, benchmark_table, benchmark_tsv

    read_benchmark(name, folder)  # before an index is made
    with (
        collection_for([folder], index or name, how=runtime_of(**how)) as library,
        progress_bar(" files", quiet=quiet) as progress,
    ):
        found = run_benchmark(library, name, folder, progress)
    if found.missing:
        say(
            f"{len(found.missing)} files of {name} are missing or cannot be read, "
            f"{found.missing[0]!r} for one: these figures are not those of the benchmark"
        )
    if json:
        out(render.as_pretty_json(benchmark_dict(found)))
    else:
        out(benchmark_table(found) if terminal() else benchmark_tsv(found))


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
