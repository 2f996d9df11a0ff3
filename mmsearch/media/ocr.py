"""Writing in pictures (OCR), read by RapidOCR."""

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
"""Half the shorter side, in pixels, at which reading is worthwhile. Of a page in type of 6 points
(1/72 inch), 73 % of the words are read at a shorter side of 500, 99 % at 700 and all at 800."""
MOST_PIXELS = 2_000_000
"""Of a picture when it is read: time and memory grow with them (2 million: 4 s of one core, 700
MiB)."""
LONGEST_SIDE = 10_000
ENOUGH = 736
"""The shorter side to which small pictures are enlarged, as by RapidOCR itself: at most threefold,
and at most to the area of a picture of this side and twice as wide."""
SMALLEST = 64
"""Side to which strips are padded: letters that touch the border aren't found."""
SURE = 0.8
"""Most lines that are read with less confidence are leaves and railings taken for letters."""

_load_lock = Lock()


def require() -> None:
    """Raise MissingExtra unless RapidOCR is installed."""
    if find_spec("rapidocr") is None:
        raise MissingExtra("--ocr", "ocr")


def read_words(picture: Image.Image) -> list[str]:
    """The lines of writing, from top to bottom and left to right.

    Lines that are hardly legible, and single characters, are left out. Callable from many threads
    at once; each call keeps one core busy.

    Args:
        picture: Upright RGB. Small type is lost when its sides are under twice `AT_LEAST`.

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
    filled = [max(8, (SMALLEST - side) // 2) for side in reversed(sized.size)]
    pixels = np.asarray(sized)[:, :, ::-1]  # blue first
    found = engine(np.pad(pixels, [*((side, side) for side in filled), (0, 0)], mode="edge"))
    if found.boxes is None or found.txts is None:
        return []
    lines = [
        (box, " ".join(text.split()))
        for box, text, sure in zip(found.boxes, found.txts, found.scores, strict=True)
        if sure >= SURE and sum(map(str.isalnum, text)) > 1
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
        "Global.text_score": SURE,
        # no scaling of its own: it would shrink long screenshots to nothing, and enlarge strips
        # until they fill the memory
        "Global.use_preprocess_img": False,
        "Global.use_vertical_padding": False,
        "Det.limit_side_len": 32,
        # it tells whether a line is upside down, but shrinks it first: long ones come out as noise
        "Global.use_cls": False,
        # one by one, lines aren't padded to the longest
        "Rec.rec_batch_num": 1,
        # a thread per picture beats several threads to a picture
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "Det.model_path": _weights("det"),
        "Rec.model_path": _weights("rec"),
    }
    return RapidOCR(params=options)


def _weights(task: str) -> str:
    """The model in RapidOCR's wheel: left alone, RapidOCR would download a missing one."""
    for file in metadata.files("rapidocr") or ():
        if file.suffix == ".onnx" and f"_{task}_" in file.name:
            place = Path(str(file.locate()))
            if place.is_file():
                return str(place)
    raise ModelDamaged("RapidOCR's models are missing: pip install --force-reinstall rapidocr")


# ---------------------------------------------------------------------- pictures and lines


def _sized(picture: Image.Image) -> Image.Image:
    """The picture, shrunk or enlarged to where letters are found well, within bounds."""
    short, long = min(picture.size), max(picture.size)
    enlarged = min(3.0, ENOUGH / short, ENOUGH * math.sqrt(2 / (short * long)))
    within = min(2 * AT_LEAST / short, math.sqrt(MOST_PIXELS / (short * long)), LONGEST_SIDE / long)
    scale = min(max(1.0, enlarged), within)
    if scale == 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), reducing_gap=2.0)


def _in_reading_order(lines: Sequence[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """Lines row by row; they share a row when their middles are at about the same height.

    Each comes with the corners of its box: top left, top right, bottom right, bottom left.
    """
    rows: list[list[tuple[Any, str]]] = []
    below = 0.0
    for box, text in sorted(lines, key=lambda line: float(line[0][:, 1].mean())):
        middle = float(box[:, 1].mean())
        if not rows or middle > below:
            rows.append([])
            height = float(((box[3] - box[0]) ** 2).sum() ** 0.5)
            below = middle + 0.4 * height
        rows[-1].append((box, text))
    return [line for row in rows for line in sorted(row, key=lambda line: line[0][:, 0].min())]
