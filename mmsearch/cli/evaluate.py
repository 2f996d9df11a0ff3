"""The command `mmsearch eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import render
from mmsearch.cli.console import out, progress_bar, say, terminal
from mmsearch.cli.options import Device, Index, Json, Quiet, as_path, option
from mmsearch.collection.opening import open_collection
from mmsearch.errors import IndexNotFound, InvalidOption

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.evaluation import Evaluation, Variant, VariantComparison
    from mmsearch.evaluation.report import Result


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
    runtime: Annotated[
        str,
        option(
            "--runtime",
            "What runs models: auto, torch, onnx. Several, separated by commas, are compared on "
            "the files to be found, which are encoded again. (default: auto)",
            "R,…",
        ),
    ] = "auto",
    device: Device = "auto",
    precision: Annotated[
        str,
        option(
            "--precision",
            "Of models: auto, fp32, bf16, int8; several are compared as for --runtime. "
            "(default: auto)",
            "P,…",
        ),
    ] = "auto",
    kind: Annotated[
        list[str] | None,
        option(
            "--kind",
            "Compare kinds of vector index: exact, 1-bit, FAISS factory strings. Repeatable.",
            "K,…",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure how well an index finds what queries ask for, or compare ways to search it.

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
    from mmsearch.evaluation.variants import kinds_of

    runtimes, precisions = (
        list(dict.fromkeys(map(str.strip, one.split(",")))) for one in (runtime, precision)
    )
    kinds = kinds_of(kind or ())
    variants = evaluation.variants_of(runtimes, precisions, kinds, device=device)
    if variants and compare is not None:
        raise InvalidOption(
            "--compare A B compares settings, and several values of --kind, --runtime or "
            "--precision are a comparison of their own: leave one of them out"
        )
    how: dict[str, Any] = {
        "runtime": runtimes[0] if len(runtimes) == 1 else "auto",
        "device": device,
        "precision": precisions[0] if len(precisions) == 1 else "auto",
    }
    if benchmark is not None:
        _run_benchmark(benchmark, pairs, index, how, variants, json=json, quiet=quiet)
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
    results: list[Evaluation | VariantComparison] = []
    unit = " files and queries" if variants else " queries"
    for run in runs:
        with (
            open_collection(run.pop("index", index), **how) as library,
            progress_bar(unit, quiet=quiet) as progress,
        ):
            more: Any = {"settings": run, "direction": direction, "depth": depth}
            more["progress"] = progress
            results.append(
                evaluation.evaluate_variants(library, judged, variants, **more)
                if variants
                else evaluation.evaluate(library, judged, **more)
            )
    found: list[Any] = [*results]
    if isinstance(results[0], evaluation.VariantComparison):
        names = [variant.name for variant in results[0].variants]
        found = [*results[0].results]
    _show(results[0] if compare is None else evaluation.compare(*found), json, per_query=per_query)
    if plot is not None:
        report.plot(dict(zip(names, found, strict=True)), plot)


def _named(written: str, run: Mapping[str, Any]) -> str:
    """Settings as the user wrote them, without the password of an address."""
    index = run.get("index", "")
    return written.replace(index, render.shown_index(index)) if index else written


def _run_benchmark(
    name: str,
    folder: Path,
    index: str | None,
    how: dict[str, Any],
    variants: Sequence[Variant],
    *,
    json: bool,
    quiet: bool,
) -> None:
    from mmsearch.collection.opening import collection_for
    from mmsearch.encoders import runtime_of
    from mmsearch.evaluation import benchmark_variants, run_benchmark
    from mmsearch.evaluation.benchmarks import read_benchmark

    read_benchmark(name, folder)  # before an index is made
    library: AbstractContextManager[Collection | None]
    if variants and variants[0].runtime is not None:  # which leaves no index behind
        try:
            library = open_collection(index or name, **how)
        except IndexNotFound:
            if index is not None:
                raise
            library = nullcontext()
    else:
        library = collection_for([folder], index or name, how=runtime_of(**how))
    with library as opened, progress_bar(" files", quiet=quiet) as progress:
        if variants:
            found: Result = benchmark_variants(opened, name, folder, variants, progress)
        elif opened is not None:
            found = run_benchmark(opened, name, folder, progress)
    _show(found, json)


def _show(found: Result, json: bool, *, per_query: bool = False) -> None:
    from mmsearch.evaluation import report

    for note in report.notes(found):
        say(render.visible(note))
    if json:
        out(render.as_pretty_json(report.as_dict(found, per_query=per_query)))
    else:
        out(report.as_table(found) if terminal() else report.as_tsv(found))
