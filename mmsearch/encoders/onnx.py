"""ONNX Runtime, kept to itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def import_onnxruntime() -> Any:
    """The onnxruntime module, with its telemetry off.

    Recent Linux and macOS builds write a device id into the user's cache folder and
    report each process to their makers unless this is set before the first import (onnxruntime's
    pull request 27379); its Windows builds are told by a call.
    """
    for name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # by version
        os.environ.setdefault(name, "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def session(
    graph: Path | bytes, *, optimise: bool, threads: int = 0, beside: Path | None = None
) -> InferenceSession:
    """A graph ready to run; one that was optimised when it was made loads faster as it is.

    Args:
        graph: The ONNX file, or its bytes.
        optimise: Whether ONNX Runtime is to optimise it first.
        threads: How many a run may use; 0 is as many as there are cores.
        beside: Where the weights lie that a graph given as bytes keeps in files of their own.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    # idle threads that spin take the cores that decode the next photos
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if beside is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(beside))
    options.log_severity_level = 3  # errors only: warnings would land on the user's stderr
    loaded: InferenceSession = onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph),
        options,
        providers=["CPUExecutionProvider"],
    )
    return loaded
