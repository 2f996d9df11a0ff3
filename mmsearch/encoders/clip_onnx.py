"""A tower of a `clip:` model on ONNX Runtime."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.onnx import session

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from mmsearch.types import Modality, Vectors


TEXTS_A_RUN = 16


def tower_of(graph: Path, modality: Modality) -> Tower:
    """A tower as its kind runs best.

    One photo a thread and run: on two cores larger runs are hardly faster, and in int8 a photo's
    vector would depend on its neighbours. A text is so short that a run of one would mostly read
    weights; its graph is simple enough to be loaded as it was written.
    """
    image = modality == "image"
    return Tower(graph, a_run=1 if image else TEXTS_A_RUN, optimise=image)


class Tower:
    """Unit vectors of pixels, or of token ids; safe to use from several threads."""

    def __init__(self, graph: Path, *, a_run: int, optimise: bool) -> None:
        """Nothing is loaded yet.

        Args:
            graph: An ONNX file with one input and one output.
            a_run: How many things run together.
            optimise: Whether ONNX Runtime is to lay the graph out for this processor.
        """
        self._graph = graph
        self._a_run = a_run
        self._optimise = optimise
        self._loading = threading.Lock()
        self._sessions: dict[str, InferenceSession] = {}

    def load(self, count: int) -> None:
        """Read the graph, to run so many things first."""
        self._session(alone=count <= self._a_run)

    def run(self, things: Sequence[NDArray[Any]]) -> Vectors:
        """Vectors (len(things), dim) of at least one thing; shorter texts are filled up with 0."""
        import numpy as np

        session = self._session(alone=len(things) <= self._a_run)
        name = session.get_inputs()[0].name
        by_length = sorted(range(len(things)), key=lambda at: len(things[at]))
        starts = range(0, len(things), self._a_run)
        runs = [by_length[start : start + self._a_run] for start in starts]

        def run_some(rows: list[int]) -> Vectors:
            batch = _together([things[row] for row in rows])
            found: Vectors = session.run(None, {name: batch})[0]
            return found

        parts = [run_some(runs[0])] if len(runs) == 1 else list(self._threads.map(run_some, runs))
        vectors = np.empty((len(things), parts[0].shape[1]), np.float32)
        for rows, found in zip(runs, parts, strict=True):
            vectors[rows] = found
        return vectors

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")

    def _session(self, *, alone: bool) -> InferenceSession:
        """One that takes a core for a run; or all of them, when a single thing is all there is."""
        with self._loading:
            if "one core" in self._sessions:
                return self._sessions["one core"]
            wanted = "all cores" if alone else "one core"
            if wanted not in self._sessions:
                self._sessions[wanted] = session(
                    self._graph, optimise=self._optimise, threads=0 if alone else 1
                )
            return self._sessions[wanted]


def _together(things: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One batch of things, the last of which is the longest."""
    import numpy as np

    if len(things) == 1:
        return things[0][None]
    batch = np.zeros((len(things), *things[-1].shape), things[0].dtype)
    for row, thing in zip(batch, things, strict=True):
        row[: len(thing)] = thing
    return batch
