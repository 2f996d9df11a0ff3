"""The time of a search of 10,000 rows on one thread and on all, on an idle and on a busy machine.

    python benchmarks/threads.py

Prints medians, the reason why `FaissIndex` keeps small searches on the calling thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time

import faiss
import numpy as np

ROWS, DIM, RUNS = 10_000, 512, 200


def burn(until: float) -> None:
    while time.time() < until:
        pass


def median_ms(index: faiss.Index, query: np.ndarray, threads: int) -> float:
    faiss.omp_set_num_threads(threads)
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        index.search(query, 26)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexScalarQuantizer(DIM, half, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    cores = os.cpu_count() or 1
    for state in ("idle", "busy"):
        busy = [
            multiprocessing.Process(target=burn, args=(time.time() + 20,), daemon=True)
            for _ in range(cores if state == "busy" else 0)
        ]
        for process in busy:
            process.start()
        times = {threads: median_ms(index, rows[:1], threads) for threads in (1, cores)}
        for process in busy:
            process.terminate()
            process.join()
        cells = ", ".join(f"{ms:.2f} ms on {threads}" for threads, ms in times.items())
        print(f"other programs {state}: {cells} threads")


if __name__ == "__main__":
    main()
