"""Text in pictures (OCR), recognised by RapidOCR."""

from __future__ import annotations

import math
import os
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from mmsearch.errors import MissingExtra, ModelDamaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

AT_LEAST = 500
"""The `at_least` of `load_image` for OCR: half the shorter side, in pixels. Of a page in 6 points
(1/72 inch), 73 % of the words are read at a shorter side of 500, 99 % at 700 and all at 800."""
MOST_PIXELS = 2_000_000
"""Of the picture that OCR runs on; time and memory grow with them (2 million: 4 s of one core and
700 MiB)."""
LONGEST_SIDE = 10_000
ENLARGED_SIDE = 736
"""The shorter side to which small pictures are enlarged, as by RapidOCR itself: at most threefold,
and at most to the area of a picture of this side and twice as wide."""
PADDED_SIDE = 64
"""Side to which narrow strips are padded: letters that touch the border aren't found."""
MIN_CONFIDENCE = 0.8
"""Most lines recognised with less confidence are leaves and railings taken for letters."""

_load_lock = Lock()


def require() -> None:
    """Raise MissingExtra unless RapidOCR is installed."""
    if find_spec("rapidocr") is None:
        raise MissingExtra("--ocr", "ocr")


def read_words(picture: Image.Image) -> list[str]:
    """The lines of text in a picture, from top to bottom and left to right.

    Hardly legible lines and single characters are left out. Thread-safe; each call keeps one core
    busy.

    Args:
        picture: Upright RGB. Small type is missed if its sides are shorter than twice `AT_LEAST`.

    Raises:
        MissingExtra: RapidOCR is not installed.
        ModelDamaged: Its weights are missing.
    """
    import numpy as np

    with _load_lock:
        engine = _engine()
    sized = _sized(picture)
    if min(sized.size) < 8:
        return []
    margins = [max(8, (PADDED_SIDE - side) // 2) for side in reversed(sized.size)]
    pixels = np.asarray(sized)[:, :, ::-1]  # BGR
    found = engine(np.pad(pixels, [*((side, side) for side in margins), (0, 0)], mode="edge"))
    if found.boxes is None or found.txts is None:
        return []
    lines = [
        (box, " ".join(text.split()))
        for box, text, confidence in zip(found.boxes, found.txts, found.scores, strict=True)
        if confidence >= MIN_CONFIDENCE and sum(map(str.isalnum, text)) > 1
    ]
    return [text for _, text in _in_reading_order(lines)]


# ---------------------------------------------------------------------- engine


@cache
def _engine() -> Any:
    require()
    for name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # by version
        os.environ.setdefault(name, "1")  # before ONNX Runtime is imported
    from rapidocr import RapidOCR

    options = {
        "Global.log_level": "critical",
        "Global.text_score": MIN_CONFIDENCE,
        # RapidOCR's own scaling would shrink long screenshots to nothing, and enlarge strips until
        # they fill the memory
        "Global.use_preprocess_img": False,
        "Global.use_vertical_padding": False,
        "Det.limit_side_len": 32,
        # detection of lines that are upside down shrinks them: long ones come out as noise
        "Global.use_cls": False,
        # alone in its batch, a line is not padded to the longest
        "Rec.rec_batch_num": 1,
        # one thread per picture is faster than several
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "Det.model_path": _weights("det"),
        "Rec.model_path": _weights("rec"),
    }
    return RapidOCR(params=options)


def _weights(task: str) -> str:
    """The path of the model in RapidOCR's wheel; RapidOCR itself would download a missing one."""
    for file in metadata.files("rapidocr") or ():
        if file.suffix == ".onnx" and f"_{task}_" in file.name:
            path = Path(str(file.locate()))
            if path.is_file():
                return str(path)
    raise ModelDamaged("RapidOCR's models are missing: pip install --force-reinstall rapidocr")


# ---------------------------------------------------------------------- pictures and lines


def _sized(picture: Image.Image) -> Image.Image:
    """The picture, shrunk or enlarged to a size at which letters are found well, within bounds."""
    short, long = min(picture.size), max(picture.size)
    enlarge = min(3.0, ENLARGED_SIDE / short, ENLARGED_SIDE * math.sqrt(2 / (short * long)))
    most = min(2 * AT_LEAST / short, math.sqrt(MOST_PIXELS / (short * long)), LONGEST_SIDE / long)
    scale = min(max(1.0, enlarge), most)
    if scale == 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), reducing_gap=2.0)


def _in_reading_order(lines: Sequence[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """Lines row by row; they share a row if their centres are at about the same height.

    A line is its box and text; the corners of a box are top left, top right, bottom right, bottom
    left.
    """
    rows: list[list[tuple[Any, str]]] = []
    row_end = 0.0
    for box, text in sorted(lines, key=lambda line: float(line[0][:, 1].mean())):
        centre = float(box[:, 1].mean())
        if not rows or centre > row_end:
            rows.append([])
            height = float(((box[3] - box[0]) ** 2).sum() ** 0.5)
            row_end = centre + 0.4 * height
        rows[-1].append((box, text))
    return [line for row in rows for line in sorted(row, key=lambda line: line[0][:, 0].min())]
