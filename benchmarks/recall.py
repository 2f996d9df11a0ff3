"""Recall and time of searches with 1-bit codes: for hard queries, under filters, with a delta.

    python benchmarks/recall.py [--sizes 300000,1000000] [--work FOLDER] [--queries 50]

Vectors of 512 numbers in clusters, without a model. Queries are like the stored vectors, or across
a modality gap (0.35 · a vector + 0.8 · one common direction + noise), or random directions. Each
row has the recall of the 1, 10 and 300 nearest against the exact search of the same float16 rows,
the lowest recall that any query has, and the median milliseconds of a search for 10, which
alternates with the exact one. A twentieth of the vectors is deleted and a fiftieth added after the
index was made.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import cost, machine, table

from mmsearch.vectors import AUTO, RECALL, FaissIndex, IdSet, Segment, write_segment
from mmsearch.vectors.hubness import EXTRA_DIMS

DIM = 512
CHUNK = 20_000
CUTOFFS = (1, 10, 300)
SAMPLE = 128
"""Queries like the stored vectors, which the index is tuned with."""


class World:
    """Clusters of unit vectors."""

    def __init__(self, size: int) -> None:
        self.rng = np.random.default_rng(0)
        self.centres = self.unit(self.rng.standard_normal((int(math.sqrt(size)), DIM)))
        self.common = self.unit(self.rng.standard_normal((1, DIM)))

    @staticmethod
    def unit(rows: Any) -> Any:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def noise(self, count: int) -> Any:
        """Vectors of a length of about 1."""
        return self.rng.standard_normal((count, DIM), dtype=np.float32) / math.sqrt(DIM)

    def rows(self, count: int) -> tuple[Any, Any]:
        """Vectors (count, DIM), and the cluster of each."""
        clusters = self.rng.integers(0, len(self.centres), count)
        return self.unit(self.centres[clusters] + 0.6 * self.noise(count)), clusters

    def queries(self, count: int) -> dict[str, Any]:
        like, near = self.rows(count)[0], self.rows(count)[0]
        gap = 0.35 * near + 0.8 * self.common + 0.3 * self.noise(count)
        found = {"like": like, "gap": self.unit(gap), "random": self.unit(self.noise(count))}
        return {name: widened(rows) for name, rows in found.items()}


def widened(rows: Any) -> Any:
    """Rows as an index has them, with places for hubs that nothing is known of."""
    return np.pad(rows, ((0, 0), (0, EXTRA_DIMS)))


def build(folder: Path, size: int, world: World) -> tuple[FaissIndex, FaissIndex, Any]:
    """An index, one of the same rows that is searched exactly, and the cluster of each id."""
    clusters = [np.zeros(1, np.int64)]

    def batches() -> Iterator[tuple[Any, Any, Any]]:
        for start in range(0, size, CHUNK):
            rows, some = world.rows(min(CHUNK, size - start))
            clusters.append(some)
            ids = np.arange(start, start + len(rows)) + 1
            yield widened(rows).astype(np.float16), ids, ids

    sample = widened(world.rows(SAMPLE)[0])
    dim = DIM + EXTRA_DIMS
    options: Any = {"kind": AUTO, "recall": RECALL}
    write_segment(folder, dim, batches(), {}, lambda: {"image": sample}, **options)
    segment = Segment.open(folder)
    print(f"{segment.choice.kind}: {segment.choice.why}")
    index = FaissIndex(segment)
    exact = FaissIndex(Segment(segment.rows, segment.ids, segment.vector_ids))
    rows, some = world.rows(size // 50)
    clusters.append(some)
    deleted = np.flatnonzero(world.rng.random(size) < 1 / 20) + 1
    for each in (index, exact):
        each.add(np.arange(len(rows)) + size + 1, widened(rows))
        each.delete(deleted)
    return index, exact, np.concatenate(clusters)


def measured(
    index: FaissIndex, exact: FaissIndex, queries: Any, allowed: IdSet | None
) -> list[str]:
    """The cells of a row of the table."""
    shares: dict[int, list[float]] = {k: [] for k in CUTOFFS}
    own, whole = [], []
    for query in queries:
        expected = exact.search(query, max(CUTOFFS), allowed)
        for k in CUTOFFS:
            best = {item for item, _ in expected[:k]}
            found = {item for item, _ in index.search(query, k, allowed)}
            shares[k].append(len(best & found) / max(len(best), 1))
        own.append(cost(lambda query=query: index.search(query, 10, allowed)).wall)
        whole.append(cost(lambda query=query: exact.search(query, 10, allowed)).wall)
    times = [f"{statistics.median(each) * 1000:.1f}" for each in (own, whole)]
    recalls = [f"{statistics.mean(some):.4f}" for some in shares.values()]
    return [*recalls, f"{min(map(min, shares.values())):.3f}", *times]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="300000,1000000")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()), help="of temporary files"
    )
    parser.add_argument("--queries", type=int, default=50)
    options = parser.parse_args()
    print(machine())
    options.work.mkdir(parents=True, exist_ok=True)
    for size in map(int, options.sizes.split(",")):
        world = World(size)
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            index, exact, clusters = build(Path(folder), size, world)
            chance = world.rng.random(len(clusters))
            filters = {
                "": None,
                ", 50 % at random": IdSet.of(np.flatnonzero(chance < 0.5)),
                ", 1 % at random": IdSet.of(np.flatnonzero(chance < 0.01)),
                ", 0.1 % at random": IdSet.of(np.flatnonzero(chance < 0.001)),
                ", half of the clusters": IdSet.of(np.flatnonzero(clusters % 2)),
            }
            rows = [
                [f"{name}{condition}", *measured(index, exact, queries, allowed)]
                for name, queries in world.queries(options.queries).items()
                for condition, allowed in filters.items()
            ]
        recalls = [f"recall@{k}" for k in CUTOFFS]
        table(f"{size:,} vectors", rows, ["queries", *recalls, "lowest", "ms", "exact ms"])


if __name__ == "__main__":
    main()
