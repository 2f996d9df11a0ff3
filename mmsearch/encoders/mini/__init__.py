"""`mini`, the built-in model: photos, sounds and English text, on ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.encoders.family import SingleModel

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder

FOLDER = Path(__file__).parent.parent.parent / "models" / "mini"


def _load() -> Encoder:
    from mmsearch.encoders.mini.encoder import load_mini

    return load_mini()


MINI = SingleModel(
    "mini",
    _load,
    about="small and quick; needs nothing else",
    licence="apache-2.0",
    folder=FOLDER,
    modalities=("audio", "image", "text"),
)
