"""What another runtime, precision or kind of vector index costs in quality, and what it saves.

Each kind of vector index is built in a temporary folder over the vectors that the index holds. For
each runtime or precision, the relevant files of all queries are encoded again, into a temporary
index. The evaluated index does not change.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.collection import Collection
from mmsearch.encoders import Encoder, Runtime, runtime_of
from mmsearch.encoders.registry import choose, family_of, load_encoder
from mmsearch.encoders.tuned import base_name
from mmsearch.errors import InvalidOption, InvalidQuery
from mmsearch.evaluation.benchmarks import BenchmarkResult, encode_benchmark, result_of
from mmsearch.evaluation.comparison import Compared, compare_directions
from mmsearch.evaluation.costs import (
    TOP,
    Cost,
    bytes_per_vector,
    measure_costs,
    photos_per_second,
)
from mmsearch.evaluation.pairs import Pair
from mmsearch.evaluation.qrels import ItemResolver, JudgedQuery, Ways, build_qrels, is_file
from mmsearch.evaluation.results import CUTOFFS, Evaluation
from mmsearch.evaluation.run import DEPTH, evaluate, pairs_of
from mmsearch.indexing.media_options import RAW_PAIRS
from mmsearch.spaces.index_cache import KIND_HINT, check_kind
from mmsearch.vectors import AUTO, EXACT, NAMED, RECALL, FaissIndex, write_segment
from mmsearch.vectors.hubness import EXTRA_DIMS

if TYPE_CHECKING:
    from mmsearch.types import Item, Progress, Vectors
    from mmsearch.vectors.index_choice import SampleQueries

progress_log = logging.getLogger("mmsearch.progress")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run an evaluation."""

    name: str
    """What distinguishes it from the other variants: "int8", "onnx fp32", "exact"."""
    runtime: Runtime | None = None
    """What models run on; None if all variants use the vectors of the index."""
    kind: str | None = None
    """The kind of vector index; None if all variants use that of the index."""


@dataclass(frozen=True, slots=True)
class VariantComparison:
    """The same evaluation in several variants, each compared with the first."""

    variants: tuple[Variant, ...]
    results: tuple[Evaluation | BenchmarkResult, ...]
    costs: tuple[Cost, ...]
    differences: tuple[tuple[Compared, ...], ...]
    """For each variant from the second on, by direction: A is the first variant, B this one."""
    encoded: int = 0
    """The number of files that were encoded again for each runtime and precision."""
    notes: tuple[str, ...] = ()
    """What the user should know, a line each."""


def variants_of(
    runtimes: Sequence[str] = ("auto",),
    precisions: Sequence[str] = ("auto",),
    kinds: Sequence[str] = (),
    *,
    device: str = "auto",
) -> list[Variant]:
    """Every combination of runtimes, precisions and kinds of vector index.

    Returns:
        An empty list for one runtime, one precision and no kind: there is nothing to compare.

    Raises:
        InvalidOption: a runtime or precision is unknown, or a single kind has nothing to be
            compared with.
    """
    combined = [runtime_of(one, device, other) for one, other in product(runtimes, precisions)]
    if len(combined) == 1 and len(kinds) == 1:
        raise InvalidOption(
            f"{kinds[0]} is compared with nothing: name several kinds, --kind exact,1-bit say"
        )
    if len(combined) == 1 and not kinds:
        return []
    found = []
    wanted: list[str | None] = [*kinds] or [None]
    for runtime, kind in product(combined, wanted):
        parts = (
            (runtime.runtime, len(runtimes)),
            (runtime.precision, len(precisions)),
            (kind, len(kinds)),
        )
        name = " ".join(str(part) for part, number in parts if number > 1)
        found.append(Variant(name, runtime if len(combined) > 1 else None, kind))
    return found


def kinds_of(written: Sequence[str]) -> list[str]:
    """The kinds of vector index in texts such as "exact,1-bit" or "exact,IVF256,SQ8".

    Whatever stands between two names is one FAISS factory string, which has commas of its own.

    Raises:
        InvalidOption: a text is empty, or a kind is missing before or after a comma.
    """
    found: dict[str, None] = {}
    for text in written:
        pieces = [piece.strip() for piece in text.split(",")]
        for is_named, group in groupby(pieces, NAMED.__contains__):
            some = list(group)
            if not any(some):
                raise InvalidOption(f"a kind of index is missing in {text!r}: give {KIND_HINT}")
            found |= dict.fromkeys(some if is_named else [",".join(some)])
    return list(found)


def evaluate_variants(
    collection: Collection,
    pairs: str | os.PathLike[str] | Sequence[Pair],
    variants: Sequence[Variant],
    *,
    direction: Ways = "forward",
    depth: int = DEPTH,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> VariantComparison:
    """`evaluate` in several variants, with their costs and differences from the first.

    If runtimes or precisions differ, only the relevant files of all queries are searched.

    Args:
        collection: The index, which does not change.
        pairs: As for `evaluate`.
        variants: From `variants_of`.
        direction: As for `evaluate`.
        depth: As for `evaluate`.
        settings: As for `evaluate`.
        progress: Called with (files encoded and queries done, both in all).

    Raises:
        InvalidOption: a kind of index does not exist, the index is on a server, which builds its
            own, or its models have a single runtime and precision; or as `evaluate`.
        InvalidQuery: none of the relevant files can be encoded again; or as `evaluate`.
        PathNotFound, InvalidCaptions: as `evaluate`.
    """
    judged = pairs_of(pairs)
    _check(variants, collection)
    variants, notes = _runnable(variants, _models(collection))
    qrels = build_qrels(collection, judged, direction)
    files: list[Item] = []
    if variants[0].runtime is not None:
        relevant = {id_ for one in qrels.queries for id_ in one.relevant}
        files = _files_of(collection, relevant)
        judged = _with_paths(collection, judged)
        notes.append(f"only the {len(files)} right files are searched, which are encoded again")
        if left := len(relevant) - len(files):
            notes.append(
                f"{left} more cannot be encoded: they were deleted, or are parts of other files"
            )
    steps = _Steps(progress, len(variants) * len(qrels.queries))
    steps.total += len({variant.runtime for variant in variants}) * len(files)
    results: list[Evaluation] = []
    costs: list[Cost] = []
    for runtime, group in _by_runtime(variants):
        with ExitStack() as stack:
            scratch = stack.enter_context(_scratch())
            base = stack.enter_context(_encoded_again(collection, runtime, files, scratch, steps))
            kinds = _with_exact([variant.kind for variant in group])
            libraries = [
                base if kind is None else stack.enter_context(_with_kind(base, kind, scratch))
                for kind in kinds
            ]
            for library in libraries[: len(group)]:
                found = evaluate(
                    library,
                    judged,
                    direction=direction,
                    depth=depth,
                    settings=settings,
                    progress=steps.part(len(qrels.queries)),
                )
                found = replace(
                    found,
                    index=collection.place.address,
                    missing=tuple(qrels.missing),
                    ambiguous=tuple(qrels.ambiguous),
                )
                results.append(found)
                notes += library.index.vector_indexes.warnings(library.index.serving())
            searches = [partial(_top_hits, one, results[-1].settings) for one in libraries]
            sizes = [bytes_per_vector(library) for library in libraries]
            rate = photos_per_second(base, [item.path for item in files])
            costs += measure_costs(searches, qrels.queries, kinds, sizes, rate)[: len(group)]
            notes += _encoder_notes(base, runtime)
    return _comparison(variants, results, costs, len(files), notes)


def benchmark_variants(
    collection: Collection | None,
    name: str,
    folder: str | os.PathLike[str],
    variants: Sequence[Variant],
    progress: Progress | None = None,
) -> VariantComparison:
    """`run_benchmark` in several variants, with their costs and differences from the first.

    Args:
        collection: The index whose model is measured. If runtimes or precisions differ, it does not
            change, and may be None: then the model is the one that a new index would have.
        name: The benchmark, as for `run_benchmark`.
        folder: The folder of its files.
        variants: From `variants_of`.
        progress: Called with (files indexed or encoded, files in all).

    Raises:
        InvalidOption: as `evaluate_variants`.
        PathNotFound, InvalidCaptions, InvalidQuery, IndexBusy, StorageFailed: as `run_benchmark`.
    """
    _check(variants, collection)
    models = (_models(collection) if collection is not None else []) or [choose().name]
    variants, notes = _runnable(variants, models)
    results: list[BenchmarkResult] = []
    costs: list[Cost] = []
    encoded_files = 0
    for runtime, group in _by_runtime(variants):
        with (
            _scratch() as scratch,
            _benchmark_index(collection, models, runtime, scratch) as library,
        ):
            if runtime is not None:
                _announce(f"the files of {name}", models, runtime)
            encoded = encode_benchmark(library, name, folder, progress)
            space = next(one for one, _ in library.index.serving() if one.name == encoded.model)
            banks, encoder = library.index.query_banks, library.index.encoder(space)
            kinds = _with_exact([variant.kind for variant in group])
            samples = banks.searches(space, encoded.modality)
            indexes = [_index_of(encoded.file_vectors, kind, samples) for kind in kinds]
            for files, variant in zip(indexes, group, strict=False):
                samples = banks.searches(space, "text")
                captions = _index_of(encoded.caption_vectors, variant.kind, samples)
                results.append(result_of(encoded, (files, captions)))
                notes += _warnings(variant, (files, captions))
            rate = None
            if runtime is not None:
                rate = photos_per_second(library, [item.path for item in library.items])
                encoded_files = len(encoded.file_vectors)
            searches = [partial(_nearest, one, encoder) for one in indexes]
            texts = [text for _, text in encoded.queries]
            sizes = [one.segment.bytes_per_row for one in indexes]
            costs += measure_costs(searches, texts, kinds, sizes, rate)[: len(group)]
            notes += _encoder_notes(library, runtime)
    return _comparison(variants, results, costs, encoded_files, notes)


def _comparison(
    variants: Sequence[Variant],
    results: Sequence[Evaluation | BenchmarkResult],
    costs: Sequence[Cost],
    encoded: int,
    notes: Sequence[str],
) -> VariantComparison:
    first, *others = results
    differences = [compare_directions(first.directions, one.directions) for one in others]
    if isinstance(first, BenchmarkResult):  # its only measures are recalls
        differences = [tuple(map(_recalls, compared)) for compared in differences]
    return VariantComparison(
        tuple(variants),
        tuple(results),
        tuple(costs),
        tuple(differences),
        encoded,
        tuple(dict.fromkeys(notes)),
    )


def _recalls(compared: Compared) -> Compared:
    measures = {f"Recall@{cutoff}": compared.measures[f"Recall@{cutoff}"] for cutoff in CUTOFFS}
    return replace(compared, measures=measures)


def _by_runtime(variants: Sequence[Variant]) -> Iterator[tuple[Runtime | None, list[Variant]]]:
    """Variants of the same runtime together, so that files are encoded once for all of them."""
    for runtime, group in groupby(variants, lambda variant: variant.runtime):
        yield runtime, list(group)


def _check(variants: Sequence[Variant], collection: Collection | None) -> None:
    """Raise InvalidOption unless there are variants, and an index that can have their kinds."""
    if not variants:
        raise InvalidOption("there is nothing to compare: give several kinds to variants_of, say")
    if collection is None:
        if variants[0].runtime is None:
            raise InvalidOption("kinds are compared on an index: give one, mmsearch.open('coco')")
        return
    for variant in variants:
        if variant.kind is not None:
            collection.index.check_kind(variant.kind)


# ---------------------------------------------------------------------- models


def _models(collection: Collection) -> list[str]:
    """The models of an index, the preferred one last: the order in which a new index takes them."""
    serving = collection.index.serving()
    return [space.name for space, _ in reversed(serving) if not space.is_imported]


def _runnable(
    variants: Sequence[Variant], models: Sequence[str]
) -> tuple[list[Variant], list[str]]:
    """The variants in which these models run on this machine, and a note on each of the others."""
    if all(variant.runtime is None for variant in variants):
        return list(variants), []
    if any(base_name(name) is not None for name in models):
        raise InvalidOption(
            "runtimes and precisions of a tuned model cannot be compared: undo the tuning first, "
            "with `mmsearch tune --undo`"
        )
    several = [name for name in models if family_of(name).has_runtimes]
    if not several:
        raise InvalidOption(
            f"{' and '.join(models) or 'this index'} runs in one way and one precision: there is "
            "nothing to compare. Models of open_clip have several, clip:ARCH/TAG: see mmsearch "
            "models"
        )
    usable, reasons = [], []
    for variant in variants:
        try:
            for name in several:
                load_encoder(name, variant.runtime)
        except InvalidOption as error:
            reasons.append(f"{variant.name} is left out: {error}")
        else:
            usable.append(variant)
    if len(usable) < 2:
        raise InvalidOption("; ".join(reasons))
    return usable, reasons


def _encoder_notes(library: Collection, runtime: Runtime | None) -> list[str]:
    """What encoders say of a chosen runtime, for instance that its check failed."""
    if runtime is None:
        return []
    encoders = [library.index.encoder(space) for space, _ in library.index.serving()]
    return [f"{_shown(runtime)}: {note}" for encoder in encoders for note in encoder.notes]


def _announce(what: str, models: Sequence[str], runtime: Runtime) -> None:
    """Log what is encoded now, which may take long."""
    progress_log.info("encoding %s with %s (%s)", what, " and ".join(models), _shown(runtime))


def _shown(runtime: Runtime) -> str:
    names = (runtime.runtime, runtime.precision)
    return " ".join(name for name in names if name != "auto") or "auto"


# ---------------------------------------------------------------------- files encoded again


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mmsearch-eval-") as folder:
        yield Path(folder)


@contextmanager
def _encoded_again(
    collection: Collection,
    runtime: Runtime | None,
    files: Sequence[Item],
    scratch: Path,
    steps: _Steps,
) -> Iterator[Collection]:
    """A new index of some files, by the same models in another runtime; for None, the index."""
    if runtime is None:
        yield collection
        return
    models, kinds = _models(collection), {item.modality for item in files}
    _announce(f"{len(files)} files", models, runtime)
    listed = scratch / "captions.jsonl"
    with listed.open("w", encoding="utf-8") as file:
        for item in files:  # with OCR and speech, which need not be recognised again
            texts = [one.text for one in item.texts if one.origin in ("caption", "ocr", "speech")]
            if texts:
                file.write(json.dumps({"file": item.path, "captions": texts}) + "\n")
    with Collection(scratch / "index", create=True, model=models, how=runtime) as library:
        library.add(
            [item.path for item in files],
            captions=listed,
            video="video" in kinds,
            pdf="document" in kinds,
            raw_pairs=collection.store.settings.get(RAW_PAIRS),
            backups=0,
            progress=steps.part(len(files)),
        )
        yield library


@contextmanager
def _benchmark_index(
    collection: Collection | None, models: Sequence[str], runtime: Runtime | None, scratch: Path
) -> Iterator[Collection]:
    """A new, empty index with these models in a runtime; for None, the index."""
    if runtime is None:
        assert collection is not None  # `_check` has seen to it
        yield collection
        return
    with Collection(scratch / "index", create=True, model=models, how=runtime) as library:
        yield library


def _files_of(collection: Collection, ids: set[int]) -> list[Item]:
    """The items of some ids that are files of their own, in order of id.

    Raises:
        InvalidQuery: none is.
    """
    items = collection.store.items.get(sorted(ids))
    found = [items[id_] for id_ in sorted(items) if os.path.isfile(items[id_].path)]
    if not found:
        raise InvalidQuery(
            "none of the right files can be encoded again: they are not on this machine, or are "
            "parts of other files"
        )
    return found


def _with_paths(collection: Collection, pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs whose files are named by their full paths, which are the same in every index."""
    names = {name for pair in pairs for name in pair.relevant}
    parts = [part for pair in pairs for part in pair.query.parts]
    names |= {os.fspath(part.content) for part in parts if is_file(part)}
    resolver = ItemResolver(collection, names, {pair.folder for pair in pairs}, ())

    def full_path(name: str, folder: str) -> str:
        found = resolver.find(name, folder)
        return found[0].path if len(found) == 1 else name

    changed = []
    for pair in pairs:
        gains = sorted(pair.relevant.items(), key=lambda one: one[1])  # the highest counts
        relevant = {full_path(name, pair.folder): gain for name, gain in gains}
        query = replace(
            pair.query,
            parts=tuple(
                replace(part, content=full_path(os.fspath(part.content), pair.folder))
                if is_file(part)
                else part
                for part in pair.query.parts
            ),
        )
        changed.append(replace(pair, query=query, relevant=relevant))
    return changed


# ---------------------------------------------------------------------- kinds of vector index


def _with_exact(kinds: Sequence[str | None]) -> list[str | None]:
    """The kinds, and EXACT at the end unless it is among them: recall is measured against it."""
    return [*kinds] if EXACT in kinds or None in kinds else [*kinds, EXACT]


@contextmanager
def _with_kind(base: Collection, kind: str, scratch: Path) -> Iterator[Collection]:
    """The index opened once more, and searched by a kind of vector index built in `scratch`."""
    with Collection(base.place, how=base.index.runtime) as library:
        library.index.encoders.share(base.index.encoders)
        folder = tempfile.mkdtemp(prefix="kind-", dir=scratch)
        library.index.override_kind(kind, Path(folder))
        yield library


def _index_of(rows: Vectors, kind: str | None, samples: SampleQueries) -> FaissIndex:
    """An index of vectors (n, dim) whose ids are their row numbers; None is EXACT."""
    import numpy as np

    kind = EXACT if kind is None else kind
    check_kind(kind, rows.shape[1] + EXTRA_DIMS)
    padded = np.pad(rows, ((0, 0), (0, EXTRA_DIMS))).astype(np.float16)
    numbers = np.arange(len(rows))
    batches = [(padded, numbers, numbers + 1)]
    return FaissIndex(
        write_segment(None, padded.shape[1], batches, {}, lambda: samples, kind=kind, recall=RECALL)
    )


def _warnings(variant: Variant, indexes: Sequence[FaissIndex]) -> list[str]:
    """Why indexes are not of the kind that the variant wants."""
    if variant.kind in (None, AUTO, EXACT):
        return []
    choices = [index.segment.choice for index in indexes]
    return [
        f"{one.why}; every vector is compared meanwhile" for one in choices if one.kind == EXACT
    ]


def _top_hits(library: Collection, settings: Mapping[str, Any], judged: JudgedQuery) -> list[int]:
    """The ids of the first TOP hits for a query."""
    given = {"target": judged.target, **settings, "k": TOP}
    return [hit.id for hit in library.search(judged.query, **given)]


def _nearest(index: FaissIndex, encoder: Encoder, text: str) -> list[int]:
    """The TOP rows of an index that are nearest to a text."""
    import numpy as np

    query = np.pad(encoder.encode_query("text", [text])[0], (0, EXTRA_DIMS))
    return [row for row, _ in index.search(query, TOP)]


class _Steps:
    """One progress over several runs."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.total = total
        self._progress = progress
        self._done = 0

    def part(self, number: int) -> Progress:
        """The progress of the next run, which has this many steps."""
        before = self._done
        self._done += number

        def show(done: int, _: int | None) -> None:
            if self._progress is not None:
                self._progress(before + min(done, number), self.total)

        return show
