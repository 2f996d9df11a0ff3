"""What a search costs: time, size, recall against exact search, and the speed of the encoder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mmsearch.errors import PathNotFound, UnreadableFile
from mmsearch.evaluation.results import CUTOFFS
from mmsearch.media.image import load_image
from mmsearch.media.kinds import kind_of
from mmsearch.vectors import EXACT, FaissIndex

if TYPE_CHECKING:
    from mmsearch.collection import Collection

AnyQuery = TypeVar("AnyQuery")

TIMED_QUERIES = 100
"""At most this many queries, spread evenly over all, are timed one by one."""

TIMED_PHOTOS, TIMED_RUNS = 32, 3
"""At most this many photos are encoded, this many times; the fastest run counts."""

TOP = CUTOFFS[-1]
"""The number of hits that are compared with those of an exact search."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a search costs in one variant; None if it does not differ, or is not known."""

    query_ms: float
    """Milliseconds of a query that runs alone, with its encoding; the median."""
    bytes_per_vector: float | None = None
    """Of what a search reads first: codes with their links in a graph, or whole vectors."""
    exact_recall: float | None = None
    """The share of the ten best hits of an exact search that are among the first ten."""
    photos_per_second: float | None = None
    """Photos encoded in batches, without decoding."""


def measure_costs(
    searches: Sequence[Callable[[AnyQuery], list[int]]],
    queries: Sequence[AnyQuery],
    kinds: Sequence[str | None],
    sizes: Sequence[float | None],
    encoding_rate: float | None,
) -> list[Cost]:
    """The cost of each search, measured on a sample of the queries.

    The searches take turns. A query whose example file cannot be read is left out.

    Args:
        searches: Each returns the ids of the TOP hits of a query.
        queries: Of any number.
        kinds: The kind of vector index behind each search, EXACT among them; or only None.
        sizes: The bytes per vector of each.
        encoding_rate: Photos per second, the same for all.
    """
    sample = queries[:: max(len(queries) // TIMED_QUERIES, 1)][:TIMED_QUERIES]
    answers: list[list[tuple[list[int], float]]] = []
    for query in [*sample[:1], *sample]:  # the first one twice, as it loads what is needed
        with suppress(UnreadableFile, PathNotFound):
            answers.append([_timed(search, query) for search in searches])
    by_search = list(zip(*answers[1:], strict=True)) or [() for _ in searches]
    hits = [[found for found, _ in one] for one in by_search]
    exact = hits[kinds.index(EXACT)] if EXACT in kinds else []
    return [
        Cost(
            1000 * statistics.median([seconds for _, seconds in answered] or [0.0]),
            None if kind is None else size,
            None if kind is None else _recall(found, exact),
            encoding_rate,
        )
        for kind, answered, found, size in zip(kinds, by_search, hits, sizes, strict=True)
    ]


def _timed(search: Callable[[AnyQuery], list[int]], query: AnyQuery) -> tuple[list[int], float]:
    """What a search finds, and the seconds it takes."""
    began = time.perf_counter()
    found = search(query)
    return found, time.perf_counter() - began


def _recall(found: Sequence[list[int]], exact: Sequence[list[int]]) -> float | None:
    """The mean share of the exact hits that are found; None if there are none."""
    shares = [
        len(set(some) & set(best)) / len(best)
        for some, best in zip(found, exact, strict=True)
        if best
    ]
    return statistics.fmean(shares) if shares else None


def photos_per_second(library: Collection, paths: Sequence[str]) -> float | None:
    """How many photos the index's model encodes per second; None if no photo can be read.

    Args:
        library: The index.
        paths: Files, of which the first photos are encoded.
    """
    photos = [path for path in paths if kind_of(path) == "image"][:TIMED_PHOTOS]
    space = next((space for space, _ in library.index.serving() if "image" in space.serves), None)
    if space is None:
        return None
    encoder, batch = library.index.encoder(space), []
    for path in photos:
        with suppress(UnreadableFile):
            size, scale = encoder.image_size, encoder.decode_scale
            photo, _ = load_image(path, at_least=size, decode_scale=scale)
            batch.append(encoder.prepare("image", photo))
    if not batch:
        return None
    seconds = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        encoder.encode("image", batch)
        seconds.append(time.perf_counter() - began)
    return len(batch) / min(seconds)


def bytes_per_vector(library: Collection) -> float | None:
    """The mean size of what the searches so far read first; None if they used no FAISS index."""
    index = library.index
    segments = [
        one.segment
        for space, modalities in index.serving()
        for modality in modalities
        if index.vector_indexes.has(space, modality)
        and isinstance(one := index.vector_index(space, modality), FaissIndex)
    ]
    rows = sum(map(len, segments))
    size = sum(segment.bytes_per_row * len(segment) for segment in segments)
    return size / rows if rows else None
