"""Whether a graph's vectors are those of torch: compared on real photos, and on sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

COUNT = 64
"""Photos, or texts, that are compared."""
LEAST_COSINE = 0.999
"""Of centred vectors in fp32; that of untrained towers is 0.9 between any two photos if not."""
LEAST_NEIGHBOURS = 0.95
"""Share of things whose nearest other one must stay the same in int8."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a graph compares with torch."""

    passed: bool
    cosine: float
    """The lowest between a thing's two vectors, both centred."""
    neighbours: float
    """The share of things whose nearest other one is the same."""
    distinct: int
    """Of how many different photos or texts; the other ones up to 64 were crops of these."""

    def write(self) -> dict[str, Any]:
        """As an object for a JSON file."""
        return asdict(self)


def compare(wanted: Vectors, found: Vectors, precision: str, distinct: int) -> Verdict:
    """Compare two runs' unit vectors (n, dim) of the same n things, in the same order."""
    import numpy as np

    middle = wanted.mean(axis=0)
    one, other = wanted - middle, found - middle
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = float(((one * other).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
    same = float((_nearest(wanted) == _nearest(found)).mean())
    good = same >= LEAST_NEIGHBOURS if precision == "int8" else cosine >= LEAST_COSINE
    passed = bool(good and np.isfinite(found).all())
    return Verdict(passed, round(cosine, 6), round(same, 4), distinct)


def _nearest(vectors: Vectors) -> NDArray[np.intp]:
    import numpy as np

    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -2.0)
    nearest: NDArray[np.intp] = alike.argmax(axis=1)
    return nearest


def sample(photos: Sequence[NDArray[np.uint8]]) -> tuple[list[NDArray[np.uint8]], int]:
    """64 photos to compare on, and how many of them are different photos; the rest are crops.

    Args:
        photos: Pixels (height, width, 3), at least one.
    """
    distinct = list({photo.tobytes(): photo for photo in photos}.values())[:COUNT]
    chance = random.Random(0)  # noqa: S311 - the same crops every time
    crops = [_crop(distinct[at % len(distinct)], chance) for at in range(COUNT - len(distinct))]
    return distinct + crops, len(distinct)


def _crop(photo: NDArray[np.uint8], chance: random.Random) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    high, wide = photo.shape[:2]
    share = chance.uniform(0.3, 0.8)
    left, top = chance.uniform(0, wide * (1 - share)), chance.uniform(0, high * (1 - share))
    box = (left, top, left + wide * share, top + high * share)
    picture = Image.fromarray(photo)
    cropped = picture.resize((wide, high), Image.Resampling.BICUBIC, box=box)
    if chance.random() < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(cropped)
