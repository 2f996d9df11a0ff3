"""Photos for benchmarks: crops of the real ones that ship in scikit-image's wheel."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

from PIL import Image

NAMES = ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "ihc")
SMALL = (224, 224)
LARGE = (4000, 3000)  # 12 megapixels


def crops(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> Path:
    """A folder of `count` JPEGs of `size`, each a different crop; made by the first run."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.jpg"))) == count:
        return folder
    rng = random.Random(seed)
    sources = [Image.open(path).convert("RGB") for path in _wheel_photos()]
    for number in range(count):
        source = rng.choice(sources)
        side = rng.uniform(0.4, 1.0)
        width, height = int(source.width * side), int(source.height * side)
        left = rng.randint(0, source.width - width)
        top = rng.randint(0, source.height - height)
        crop = source.crop((left, top, left + width, top + height))
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crop.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)
    return folder


def _wheel_photos() -> list[Path]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("the photos come from scikit-image: pip install scikit-image")
    return [Path(spec.origin).parent / "data" / f"{name}.png" for name in NAMES]
