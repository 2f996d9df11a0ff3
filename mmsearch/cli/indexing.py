"""The commands that change what an index holds: `mmsearch index`, `watch`, `remove`, `import`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import render
from mmsearch.cli.console import out as out_
from mmsearch.cli.console import progress_bar, say
from mmsearch.cli.options import Device, Index, Precision, Quiet, Runtime, as_path, option
from mmsearch.collection.opening import collection_for, open_collection
from mmsearch.encoders import runtime_of
from mmsearch.errors import InvalidOption
from mmsearch.media.companions import RawPairs
from mmsearch.media.kinds import FORMATS
from mmsearch.types import Modality, Report

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.types import Report

SOME_FAILED = 4

MOST_FAILURES = 5
"""How many failed files `watch` names at a time; `mmsearch errors` lists all."""

On = Annotated[
    str | None,
    option(
        "--on",
        "Decode and encode with Ray: ray (workers of this machine), or a cluster's address.",
        "ray[://HOST:PORT]",
    ),
]

Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATH]...",
        help="Folders and files; also tar shards, parquet and jsonl, whose members are indexed. "
        "(default: all that was indexed before)",
        show_default=False,
    ),
]


def index_command(
    paths: Paths = None,
    *,
    index: Index = None,
    model: Annotated[
        list[str] | None,
        option(
            "--model",
            "Which encoder; repeatable. One that is new to the index is given what is stored, and "
            "answers once it has everything. (default: the index's own; see `mmsearch models`)",
            "M",
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        option("--captions", "File names and captions: tsv, csv, jsonl.", "FILE", parser=as_path),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        option("--exclude", "Names or paths to leave out; repeatable.", "GLOB"),
    ] = None,
    include_hidden: Annotated[
        bool, option("--include-hidden", "Also files and folders that begin with a dot.")
    ] = False,
    max_megapixels: Annotated[
        float, option("--max-megapixels", "Refuse larger pictures. (default: 200)", "N")
    ] = 200.0,
    video: Annotated[bool | None, option("--video/--no-video", "Include videos.")] = None,
    pdf: Annotated[bool | None, option("--pdf/--no-pdf", "Include PDFs.")] = None,
    ocr: Annotated[bool | None, option("--ocr/--no-ocr", "Read the text in pictures.")] = None,
    transcribe: Annotated[
        bool | None,
        option("--transcribe/--no-transcribe", "Transcribe speech in sounds and videos."),
    ] = None,
    whisper: Annotated[
        str | None, option("--whisper", "The model that transcribes: a size or a folder.", "M")
    ] = None,
    raw_pairs: Annotated[
        RawPairs | None,
        option(
            "--raw-pairs",
            "Whether a RAW photo and the JPEG of its name are one item or both. (default: one)",
            "one|both",
        ),
    ] = None,
    metadata: Annotated[
        Path | None,
        option(
            "--metadata",
            "Your own metadata of files, for --where: csv, tsv, jsonl.",
            "FILE",
            parser=as_path,
        ),
    ] = None,
    details: Annotated[
        bool | None,
        option(
            "--details/--no-details",
            "Store what --rerank fusion compares: at most 4 KB a photo or text.",
        ),
    ] = None,
    backups: Annotated[
        int | None,
        option("--backups", "How many backups of the catalog to keep; 0 makes none.", "N", min=0),
    ] = None,
    kind: Annotated[
        str | None,
        option(
            "--kind",
            "The vector index that answers: auto, exact, 1-bit, or a FAISS factory string.",
            "K",
        ),
    ] = None,
    recall: Annotated[
        float | None,
        option(
            "--recall",
            "The share of the nearest vectors to find on average; 1 compares all. (default: 0.98)",
            "R",
        ),
    ] = None,
    on: On = None,
    drop_space: Annotated[
        str | None, option("--drop-space", "Delete the vectors of one of the index's models.", "M")
    ] = None,
    runtime: Runtime = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Index folders of photos, texts and sounds, or bring an index up to date.

    Only files that are new or changed are read. Files that were deleted leave the index; nothing
    on your disk is ever changed. --video, --pdf, --ocr, --transcribe, --raw-pairs and --details
    stay as they were last set.
    """
    if drop_space is not None:
        if paths or model:
            raise InvalidOption("--drop-space stands alone: no PATH and no --model with it")
        with open_collection(index) as library:
            library.drop_space(drop_space)
        say(f"dropped the vectors of {drop_space}")
        return
    needed = [*(paths or []), *(str(file) for file in (captions, metadata) if file is not None)]
    how = runtime_of(runtime, device, precision)
    into = collection_for(needed, index, model=model or "auto", how=how, create=bool(paths))
    with into as library:

        def stage() -> str | None:
            return library.report.limiting if library.report else None

        with (
            _report_shown(library, index),
            progress_bar(" files", quiet=quiet, limiting=stage) as progress,
        ):
            report = library.add(
                paths or None,
                captions=captions,
                exclude=exclude or (),
                include_hidden=include_hidden,
                max_megapixels=max_megapixels,
                video=video,
                pdf=pdf,
                ocr=ocr,
                transcribe=transcribe,
                whisper=whisper,
                raw_pairs=raw_pairs,
                metadata=metadata,
                details=details,
                kind=kind,
                recall=recall,
                backups=backups,
                on=on,
                progress=progress,
            )
        if not len(library):
            say(f"nothing was found to index; what can be: {' '.join(sorted(FORMATS))}")
        _say_lost(report)
        if report.skipped:
            say(render.for_index("see `mmsearch errors` for the files that were skipped", index))
        if report.skipped or report.lost:
            raise typer.Exit(SOME_FAILED)


def _say_lost(report: Report) -> None:
    if report.lost:
        first = render.visible(report.lost[0])
        say(
            f"missing: {len(report.lost)} files, {first!r} for one, as the workers that had them "
            "died. The same command again does them"
        )


def encode(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Folders and files.")],
    *,
    out: Annotated[
        Path,
        option("--out", "The folder of the shards; a later run adds to it.", "DIR", parser=as_path),
    ],
    form: Annotated[
        str,
        option(
            "--format",
            "Parquet files, or folders of vectors.npy and items.jsonl. (default: parquet)",
            "parquet|npy",
        ),
    ] = "parquet",
    model: Annotated[
        list[str] | None,
        option("--model", "Which encoder; repeatable. (see `mmsearch models`)", "M"),
    ] = None,
    on: On = None,
    runtime: Runtime = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Encode files into shards of vectors, for a search engine of your own.

    `mmsearch import` reads them, too. No index is needed. The same command again goes on where it
    was interrupted, and encodes only what is new.
    """
    from mmsearch.collection.encode import encode as encoded

    how = runtime_of(runtime, device, precision)
    with progress_bar(" files", quiet=quiet) as progress:
        shards = encoded(
            paths, out, format=form, model=model or "auto", on=on, how=how, progress=progress
        )
    report = shards.report
    say("\n".join([*map(render.visible, report.warnings), render.report_line(report)]))
    for failure in report.failures:
        say(f"{render.visible(failure.path)}: {render.visible(failure.reason)}")
    out_("".join(f"{file}\n" for file in shards.files), raw=True)
    _say_lost(report)
    if report.skipped or report.lost:
        raise typer.Exit(SOME_FAILED)


@contextmanager
def _report_shown(library: Collection, index: str | None) -> Iterator[None]:
    """Show what a run did, also one that fails or is interrupted."""
    try:
        yield
    finally:
        if library.report is not None:
            shown = map(render.visible, library.report.warnings)
            warnings = [render.for_index(warning, index) for warning in shown]
            say("\n".join([*warnings, render.report_line(library.report)]))


def import_command(
    vectors: Annotated[
        list[Path],
        typer.Argument(
            metavar="VECTORS...",
            help=".npy or .parquet files, or folders: shards of clip-retrieval, or an export.",
            parser=as_path,
        ),
    ],
    *,
    metadata: Annotated[
        list[Path] | None,
        option(
            "--metadata",
            "What is known of each row: parquet, csv, tsv, jsonl; one per file of vectors.",
            "FILE",
            parser=as_path,
        ),
    ] = None,
    text_vectors: Annotated[
        list[Path] | None,
        option("--text-vectors", "Vectors of the captions: .npy.", "FILE", parser=as_path),
    ] = None,
    model: Annotated[
        str | None,
        option("--model", "The model that made the vectors, so that queries can use it.", "M"),
    ] = None,
    facet: Annotated[
        Modality,
        option("--facet", "What they are vectors of. (default: image)", "image|text|audio"),
    ] = "image",
    root: Annotated[
        Path | None,
        option(
            "--root", "The folder of the files that they were made from.", "DIR", parser=as_path
        ),
    ] = None,
    index: Index = None,
    quiet: Quiet = False,
) -> None:
    """Import vectors that were made elsewhere, with what is known of them.

    A row with the path of a stored item replaces it, so an interrupted import can be run again.
    Nothing is encoded.
    """
    from mmsearch.indexing.bulk.vector_files import shards_in

    shards_in(vectors, metadata or (), text_vectors or ())  # if it fails, no empty index is left
    with (
        collection_for([*vectors, *([root] if root else [])], index) as library,
        _report_shown(library, index),
        progress_bar(" rows", quiet=quiet) as progress,
    ):
        library.import_files(
            vectors,
            metadata=metadata or (),
            text_vectors=text_vectors or (),
            model=model,
            facet=facet,
            root=root,
            progress=progress,
        )


def remove(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files or folders.")],
    *,
    index: Index = None,
) -> None:
    """Take files or folders out of an index; nothing on your disk is deleted."""
    with open_collection(index) as library:
        removed = sum(library.remove(path) for path in paths)
    say(f"removed {removed}")


# ---------------------------------------------------------------------- watch


def watch(
    paths: Paths = None,
    *,
    index: Index = None,
    poll: Annotated[
        bool,
        option("--poll", "Look again at intervals: for network drives, which report few changes."),
    ] = False,
    quiet: Annotated[bool, option("-q --quiet", "Report only problems.")] = False,
) -> None:
    """Bring an index up to date and keep it so, until Ctrl-C.

    Changes are read once nothing has changed for a second. A new PATH is indexed; one that was
    indexed before is read with the same options as then.
    """
    from mmsearch.collection.watch import watch as keep_watching

    with _stopped_by_signals() as stop, ExitStack() as opened, ExitStack() as bar:
        library = collection_for(paths, index) if paths else open_collection(index)
        opened.enter_context(library)
        progress = bar.enter_context(progress_bar(" files", quiet=quiet))
        on_update, on_trouble = _reporter(bar.close, index, quiet=quiet)
        done = keep_watching(
            library,
            paths or None,
            poll=poll,
            stop=stop,
            on_update=on_update,
            on_trouble=on_trouble,
            progress=progress,
        )
    say(f"stopped watching; {_counts(done) or 'nothing had changed'}")


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C does not wait."""
    stop = threading.Event()

    def request_stop(number: int, frame: object) -> None:
        del frame
        if stop.is_set():
            raise KeyboardInterrupt
        say(f"{signal.Signals(number).name}: stopping when the current batch is stored")
        stop.set()

    before = {one: signal.signal(one, request_stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _reporter(
    close_bar: Callable[[], None], index: str | None, *, quiet: bool
) -> tuple[Callable[[Report], None], Callable[[str], None]]:
    """Callbacks that say, with the time, what each update did and what went wrong, each once."""
    known: set[str] = set()
    first = True

    def line(text: str) -> None:
        close_bar()
        said = render.for_index(render.visible(text), index)
        say(f"{time.strftime('%H:%M:%S')} {said}")

    def update(report: Report) -> None:
        nonlocal first
        problems = [f"{one.path}: {one.reason}" for one in report.failures if one.path not in known]
        if len(problems) > MOST_FAILURES:
            problems[MOST_FAILURES:] = [f"and {len(problems) - MOST_FAILURES} more files failed"]
        warnings = [one for one in dict.fromkeys(report.warnings) if one not in known]
        for problem in [*warnings, *problems]:
            line(problem)
        known.update(report.warnings, (one.path for one in report.failures))
        if not quiet and (first or _counts(report)):
            line(_counts(report) or "up to date, waiting for changes")
        first = False

    return update, line


def _counts(report: Report) -> str:
    names = ("added", "updated", "renamed", "removed", "filled")
    return ", ".join(f"{number} {name}" for name in names if (number := getattr(report, name)))
