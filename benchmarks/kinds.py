"""Kinds of FAISS index compared: the reasons for the choice in `mmsearch.vectors.index_choice`.

    python benchmarks/kinds.py [--rows 100000] [--work FOLDER] [--kind FACTORY]...

Vectors and queries are those of benchmarks/million.py. For each kind: seconds to build, bytes per
vector besides the rows, the candidates and effort needed to find 98 % of the ten nearest for
queries of both modalities, the recall then, and the median milliseconds of a search, which
alternates with the exact search of all rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from million import make_data

from mmsearch.vectors import EXACT, FaissIndex, Segment
from mmsearch.vectors.index_choice import AUTO
from mmsearch.vectors.segment import ANN_INDEX, write_segment

KINDS = (EXACT, AUTO, "RaBitQ", "HNSW32", "IVF1024,RaBitQ", "IVF1024,PQ64")
AT_ONCE = 20_000


def build(source: Path, folder: Path, kind: str) -> tuple[Segment, float]:
    """A segment of a kind, and the seconds it took to build its index."""
    rows = np.load(source / "pictures.npy", mmap_mode="r")
    queries = {
        side: np.load(source / f"queries-{side}s.npy")[::2].astype(np.float32)
        for side in ("picture", "text")
    }
    ids = np.arange(len(rows)) + 1
    slices = [slice(start, start + AT_ONCE) for start in range(0, len(rows), AT_ONCE)]
    batches = ((rows[each], ids[each], ids[each]) for each in slices)
    began = time.perf_counter()
    write_segment(folder, rows.shape[1], batches, {}, lambda: queries, kind=kind, recall=0.98)
    return Segment.open(folder), time.perf_counter() - began


def milliseconds(index: FaissIndex, query: Any) -> float:
    began = time.perf_counter()
    index.search(query, 10)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "million")
    parser.add_argument("--kind", action="append", help="instead of the default ones; repeatable")
    options = parser.parse_args()
    source = make_data(options.work, options.rows)
    sides = ("picture", "text")
    # not those that the index is tuned with
    queries = {side: np.load(source / f"queries-{side}s.npy")[1::2] for side in sides}
    truth: dict[tuple[str, int], set[int]] = {}
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        exact = FaissIndex(build(source, Path(folder), EXACT)[0])
        print(
            f"{options.rows:,} vectors; ms: median, alternating with the exact search of all rows"
        )
        print(
            f"{'kind':16}{'build s':>9}{'bytes':>7}{'cand.':>7}{'effort':>7}"
            f"{'recall, pictures/texts':>24}{'ms':>8}{'exact':>8}"
        )
        for kind in options.kind or KINDS:
            with tempfile.TemporaryDirectory(dir=options.work) as folder_of_kind:
                segment, seconds = build(source, Path(folder_of_kind), kind)
                index = FaissIndex(segment)
                recalls, times = [], []
                for side in sides:
                    shares = []
                    for number, query in enumerate(queries[side]):
                        vector = query.astype(np.float32)
                        times.append((milliseconds(index, vector), milliseconds(exact, vector)))
                        if (key := (side, number)) not in truth:
                            truth[key] = {item for item, _ in exact.search(vector, 10)}
                        found = {item for item, _ in index.search(vector, 10)}
                        shares.append(len(truth[key] & found) / 10)
                    recalls.append(statistics.mean(shares))
                size = (segment.folder / ANN_INDEX).stat().st_size if segment.ann_index else 0
                choice = segment.choice
                own_ms, exact_ms = (statistics.median(each) for each in zip(*times, strict=True))
                print(
                    f"{kind:16}{seconds:9.1f}{size / options.rows:7.0f}{choice.candidates:7}"
                    f"{choice.effort:7}{recalls[0]:18.3f}/{recalls[1]:.3f}"
                    f"{own_ms:8.2f}{exact_ms:8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
