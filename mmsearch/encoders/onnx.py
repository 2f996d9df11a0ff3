"""ONNX Runtime, kept to itself."""

from __future__ import annotations

import os
from typing import Any


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
