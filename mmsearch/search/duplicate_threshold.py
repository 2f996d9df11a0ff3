"""The cosine from which two items count as copies of each other."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Encoder
from mmsearch.errors import UnreadableFile
from mmsearch.storage import Space, Store
from mmsearch.types import Item, Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from mmsearch.types import Vectors

KNOWN: dict[tuple[str, Modality], float] = {
    ("mini", "image"): 0.93,
    ("mini", "audio"): 0.985,
    ("mini", "text"): 0.985,
}
"""By model and modality, measured by benchmarks/duplicates.py on Flickr8k and ESC-10."""

UNMEASURED: dict[Modality, float] = {"image": 0.96, "audio": 0.985, "text": 0.985}
"""For other models where nothing could be measured: precise rather than complete."""

SAMPLE = 32
"""Pictures whose altered copies are encoded."""

FEWEST = 8
"""With fewer pictures than this, no threshold is measured."""

QUERIES = 256
"""Items whose nearest neighbours are searched."""

CANDIDATES = 16_384
"""Vectors among which these neighbours are searched, at most."""

HARD, MEDIAN, DIFFERENT = 0.05, 0.5, 0.99
"""Quantiles: two of the cosines of copies, and one of the cosines of nearest different items."""


def threshold_key(space: Space, modality: Modality) -> str:
    """The setting that holds a threshold that was measured."""
    return f"duplicates:{space.id}:{modality}"


def threshold_of(
    store: Store,
    space: Space,
    encoder_of: Callable[[Space], Encoder] | None = None,
    modality: Modality = "image",
) -> float:
    """The cosine from which two items count as copies of each other.

    Known for `mini`. For pictures and any other model it is measured on the index itself, once, and
    stored: see `measured`.

    `encoder_of` loads the encoder to measure with. Without it, the result is the stored threshold,
    or a guess.
    """
    if (known := KNOWN.get((space.name, modality))) is not None:
        return known
    key = threshold_key(space, modality)
    if stored := store.settings.get(key):
        return float(stored)
    if modality == "image" and encoder_of is not None:
        threshold = measured(store, space, encoder_of(space))
        if threshold is not None:
            store.settings.set(key, str(threshold))
            return threshold
    return UNMEASURED[modality]


def measured(store: Store, space: Space, encoder: Encoder) -> float | None:
    """The cosine that separates altered copies of an index's pictures from different pictures.

    It is low enough for most copies (JPEG quality 40, half the size, 3 % cropped, 10 % brighter),
    but high enough that hardly any two different pictures reach it, unless half of the copies would
    be missed then. None if fewer than `FEWEST` pictures can be read.
    """
    import numpy as np

    ids, sample = _sample(store, space)
    pictures = [item for item in store.items.get(ids.tolist()).values() if item.modality == "image"]
    step = max(1, len(pictures) // SAMPLE)
    cosines = copy_cosines(_readable(pictures[::step], encoder), encoder)
    if len(cosines) < FEWEST:
        return None
    hard, median = np.quantile(cosines, (HARD, MEDIAN))
    others = _nearest_others(store, ids, sample)
    different = float(np.quantile(others, DIFFERENT)) if len(others) >= FEWEST else 0.0
    return round(float(min(max(hard, different), median)), 4)


def altered(picture: Image) -> list[Image]:
    """Common kinds of copies of an RGB picture: recompressed, smaller, cropped, brighter."""
    from PIL import Image, ImageEnhance

    width, height = picture.size
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=40)
    half = (max(1, width // 2), max(1, height // 2))
    left, top = round(width * 0.015), round(height * 0.015)
    return [
        Image.open(jpeg).convert("RGB"),
        picture.resize(half, Image.Resampling.BICUBIC),
        picture.crop((left, top, width - left, height - top)),
        ImageEnhance.Brightness(picture).enhance(1.1),
    ]


def copy_cosines(pictures: Sequence[Image], encoder: Encoder) -> NDArray[np.float32]:
    """(pictures, 4): the cosines of pictures to their altered copies."""
    import numpy as np

    cosines = np.zeros((len(pictures), 4), dtype=np.float32)
    for row, picture in zip(cosines, pictures, strict=True):
        batch = [encoder.prepare("image", image) for image in (picture, *altered(picture))]
        vectors = encoder.encode("image", batch)
        row[:] = vectors[1:] @ vectors[0]
    return cosines


def _readable(items: Sequence[Item], encoder: Encoder) -> list[Image]:
    """The pictures of up to SAMPLE items."""
    from mmsearch.media.image import load_image

    pictures: list[Any] = []
    for item in items:
        try:
            picture = load_image(item.path, at_least=encoder.image_size)[0]
        except (UnreadableFile, OSError):
            continue  # moved or damaged since; other pictures will do
        pictures.append(picture.convert("RGB"))
        if len(pictures) == SAMPLE:
            break
    return pictures


def _sample(store: Store, space: Space) -> tuple[NDArray[np.int64], Vectors]:
    """Item ids and vectors, one an item, of up to CANDIDATES items spread over the index."""
    import numpy as np

    step = max(1, -(-store.vectors.count(space, "image") // CANDIDATES))
    ids, rows = [np.zeros(0, np.int64)], [np.zeros((0, space.dim), np.float32)]
    for page_ids, matrix in store.vectors.pages(space, "image"):
        first = np.r_[True, page_ids[1:] != page_ids[:-1]]
        ids.append(page_ids[first][::step])
        rows.append(matrix[first][::step])
    return np.concatenate(ids), np.concatenate(rows)


def _nearest_others(store: Store, ids: NDArray[np.int64], rows: Vectors) -> NDArray[np.float32]:
    """The cosines of up to QUERIES items to the nearest item of different content."""
    import numpy as np

    queries = np.unique(np.linspace(0, len(ids) - 1, min(QUERIES, len(ids))).astype(int))
    scores = rows[queries] @ rows.T
    hashes = store.items.hashes(ids.tolist())
    numbers: dict[bytes, int] = {}
    content = np.array([numbers.setdefault(hashes.get(i, b""), len(numbers)) for i in ids.tolist()])
    scores[content[queries][:, None] == content[None, :]] = -1.0
    nearest: NDArray[np.float32] = scores.max(axis=1)
    return nearest[nearest > -1.0]
