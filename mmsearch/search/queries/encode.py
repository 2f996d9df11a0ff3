"""The vectors of a query's parts, and how they add up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Encoder
from mmsearch.errors import InvalidQuery, PathNotFound, UnreadableFile
from mmsearch.search.queries.parts import CANCELLED, NEGLIGIBLE, words_of
from mmsearch.types import Part

if TYPE_CHECKING:
    from mmsearch.types import Vectors

BATCH = 64
"""Query parts encoded in one call: decoded pictures are large."""

LONGEST = 240
"""Windows of a sound that are listened to when it is a query: ten minutes."""


def encode_parts(encoder: Encoder, parts: Sequence[Part]) -> Vectors:
    """Unit vectors (len(parts), dim), those of a modality encoded together.

    Raises:
        InvalidQuery: a part is empty.
        PathNotFound: a part's file does not exist.
        UnreadableFile: a part's file cannot be used.
    """
    import numpy as np

    out = np.zeros((len(parts), encoder.dim), dtype=np.float32)
    for modality in sorted({part.modality for part in parts}):
        rows = [row for row, part in enumerate(parts) if part.modality == modality]
        if modality == "audio":
            for row in rows:
                out[row] = _heard(parts[row].content, encoder)
            continue
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            out[some] = encoder.encode(modality, [ready(parts[row], encoder) for row in some])
    return out


def combined(vectors: Vectors, weights: Sequence[float]) -> Vectors:
    """Σ wᵢ·vᵢ, of unit length again (dim,); neither order nor a common factor makes a difference.

    Raises:
        InvalidQuery: the parts cancel each other out.
    """
    import numpy as np

    largest = max(map(abs, weights), default=0.0) or 1.0
    shares = np.asarray([weight / largest for weight in weights])
    total = np.sort(vectors.astype(np.float64) * shares[:, None], axis=0).sum(axis=0)
    length = np.linalg.norm(total)
    if length < NEGLIGIBLE:
        raise InvalidQuery(CANCELLED)
    added: Vectors = (total / length).astype(np.float32)
    return added


def checked_vectors(queries: Any, dim: int) -> Vectors:
    """Query vectors that were encoded elsewhere, as rows (n, dim) of float32.

    Raises:
        InvalidQuery: they are anything else.
    """
    import numpy as np

    try:
        with np.errstate(over="ignore"):
            rows: Vectors = np.asarray(queries, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidQuery(f"query vectors are numbers, {dim} a row: {error}") from error
    if rows.shape == (0,):
        return rows.reshape(0, dim)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise InvalidQuery(
            f"query vectors come in rows of {dim} numbers, an array (n, {dim}), not {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise InvalidQuery("query vectors hold NaN or infinity")
    return rows


def ready(part: Part, encoder: Encoder) -> Any:
    """A text or picture that is asked with, read and made ready for its encoder.

    Raises:
        InvalidQuery: it is empty.
        PathNotFound: its file does not exist.
        UnreadableFile: its file cannot be used.
    """
    words = part.modality == "text"
    thing = words_of(part.content) if words else _picture(part.content, encoder)
    return encoder.prepare(part.modality, thing)


def _picture(content: Any, encoder: Encoder) -> Any:
    from PIL.Image import Image

    from mmsearch.media.image import load_image, upright

    if isinstance(content, Image):
        return upright(content)
    path = _file(content, "an image query is a path or a PIL image", "picture")
    try:
        scale = encoder.decode_scale  # as when it was indexed
        return load_image(path, at_least=encoder.image_size, spare=scale)[0]
    except UnreadableFile as error:
        raise UnreadableFile(f"{path!r} cannot be searched with: {error}") from error


def _heard(content: Any, encoder: Encoder) -> Vectors:
    """The mean over a sound's windows."""
    import numpy as np

    from mmsearch.media.audio import windows

    path = _file(content, "a sound query is a path", "sound")
    try:
        pieces = islice(windows(path, encoder.sample_rate), LONGEST)
        prepared = [encoder.prepare("audio", piece) for _, piece in pieces]
    except UnreadableFile as error:
        raise UnreadableFile(f"{path!r} cannot be searched with: {error}") from error
    heard = encoder.encode("audio", prepared)
    return combined(heard, np.ones(len(heard)).tolist())


def _file(content: Any, wanted: str, what: str) -> str:
    if not isinstance(content, (str, os.PathLike)):
        raise InvalidQuery(f"{wanted}, not {type(content).__name__}")
    path = os.fsdecode(content)
    if not os.path.exists(path):
        raise PathNotFound(f"there is no file {path!r}")
    if os.path.isdir(path):
        raise UnreadableFile(f"{path!r} is a folder: give one {what} in it")
    return path
