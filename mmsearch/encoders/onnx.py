"""ONNX Runtime: its import, its sessions, and what is run in them together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def import_onnxruntime() -> Any:
    """The onnxruntime module, with its telemetry off.

    Recent Linux and macOS builds write a device id into the user's cache folder and report each
    process to their makers unless this is set before the first import (onnxruntime's pull request
    27379); its Windows builds have a function for it.
    """
    for name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # by version
        os.environ.setdefault(name, "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def session(
    graph: Path | bytes,
    *,
    optimise: bool,
    threads: int = 0,
    packs: bool = True,
    weights_folder: Path | None = None,
) -> InferenceSession:
    """A graph ready to run; one that was optimised when it was made loads faster as it is.

    Args:
        graph: The ONNX file, or its bytes.
        optimise: Whether ONNX Runtime is to optimise it first.
        threads: How many a run may use; 0 is as many as there are cores.
        packs: Whether matrices are copied in the order in which products read them. Of a mapped
            file in fp32, this takes as long as ten runs, each of which is then twice as fast.
        weights_folder: Of the files with the weights of a graph that is given as bytes.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    # idle threads that spin take the cores that decode the next photos
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not packs:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if weights_folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(weights_folder))
    options.log_severity_level = 3  # errors only: warnings would land on the user's stderr
    loaded: InferenceSession = onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph),
        options,
        providers=["CPUExecutionProvider"],
    )
    return loaded


def write_optimised(
    graph: Path | bytes, out: Path, level: str, entries: Mapping[str, str] | None = None
) -> None:
    """Write a graph after those optimisations of ONNX Runtime that suit every machine.

    Args:
        graph: The ONNX file, or its bytes.
        out: The file to write.
        level: "BASIC" keeps to ONNX's own operators, "EXTENDED" adds ONNX Runtime's.
        entries: Of the session's configuration.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph),
        options,
        providers=["CPUExecutionProvider"],
    )


def in_threads(run: Callable[[Thing], Result], things: Sequence[Thing]) -> Iterator[Result]:
    """What `run` returns for each thing, in order; a single thing is run in this thread."""
    return map(run, things) if len(things) == 1 else _threads().map(run, things)


def in_thread(run: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """A call that runs in another thread meanwhile."""
    return _threads().submit(run, *arguments)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")


def padded_batches(
    tokens: Sequence[Sequence[int] | NDArray[np.int64]], size: int, padding: int = 0
) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
    """Texts in batches of similar length, so that little is padding.

    Args:
        tokens: Token ids of each text.
        size: Texts in a batch, at most.
        padding: The id that shorter texts are filled up with.

    Returns:
        For each batch the places of its texts in `tokens`, the longest last, and their ids
        (texts, longest).
    """
    import numpy as np

    by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    for start in range(0, len(tokens), size):
        rows = by_length[start : start + size]
        ids = np.full((len(rows), len(tokens[rows[-1]])), padding, np.int64)
        for line, row in zip(ids, rows, strict=True):
            line[: len(tokens[row])] = tokens[row]
        yield rows, ids
