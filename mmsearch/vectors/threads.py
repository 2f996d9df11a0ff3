"""How many threads FAISS calculates on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def alone() -> Iterator[None]:
    """Within it, FAISS stays on the thread that asks.

    Its threads, like NumPy's, spin for a while when they have nothing to do, and take the cores of
    those who have: 10,000 rows take 0.4 ms so, and 8 ms on two threads when other programs are busy
    (benchmarks/threads.py).
    """
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # of the calling thread alone
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
