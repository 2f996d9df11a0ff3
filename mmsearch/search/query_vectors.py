"""From planned queries to query vectors: parts are encoded, summed, and bridged between models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Encoder
from mmsearch.errors import InvalidQuery, PathNotFound, UnreadableFile, UnsupportedModality
from mmsearch.media.members import exists
from mmsearch.search.planning import CANCELLED, NEGLIGIBLE, PlannedQuery, words_of
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import Space
from mmsearch.types import Modality, Part, StoredItem
from mmsearch.vectors.hubness import EXTRA_DIMS, augmented_query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Ranking, Vectors

BATCH = 64
"""Query parts encoded in one call: decoded pictures are large."""

MAX_WINDOWS = 240
"""At most so many windows of a query sound (ten minutes), or shots of an animation, are encoded."""

ROUNDING = 1e-6
"""How far from 1 the length of a float32 unit vector may be."""

BRIDGE_TEXTS = 10
"""Texts that bridge one model's space to another's."""


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A query encoded in the space that is searched: the input of one ranking."""

    modality: Modality
    """What is searched."""
    space: Space
    """The space that is searched."""
    vector: Vectors
    """(dim,) of unit length."""
    weight: float = 1.0
    """The weight of the ranking among those of the query."""
    hub_weights: Mapping[Modality, float] = field(default_factory=dict)
    """By query modality, the weight of an item's hub value in its score."""
    query_modality: Modality | None = None
    """The modality of the query's parts, if they have the same."""
    part: Part | None = None
    """The query part, if there is only one, and it is not a stored item."""

    @property
    def augmented(self) -> NDArray[np.float32]:
        """The vector (dim + EXTRA_DIMS,) whose inner products have hubs subtracted."""
        augmented = augmented_query(self.vector, "text", 0.0)
        for modality, weight in self.hub_weights.items():
            augmented[-EXTRA_DIMS:] += augmented_query(self.vector, modality, weight)[-EXTRA_DIMS:]
        return augmented

    def without_hubs(self) -> QueryVector:
        """The same query vector, whose scores are plain cosines."""
        return replace(self, hub_weights={}, query_modality=None)


def encode(index: OpenIndex, plans: Sequence[Sequence[PlannedQuery]]) -> list[list[QueryVector]]:
    """The query vectors of each query's plan; each encoder gets all its parts in one call.

    Raises:
        InvalidQuery: a part is empty, or the parts cancel each other out; an item is gone.
        PathNotFound, UnreadableFile: as `encode_parts`.
        UnsupportedModality: no text bridges two spaces.
    """
    encoded: dict[tuple[int, int], Vectors] = {}
    parts: dict[int, tuple[Space, dict[int, Part]]] = {}
    for planned in chain.from_iterable(plans):
        space = planned.encoded_in
        for part in planned.parts:
            if isinstance(part.content, StoredItem):
                vector = stored_vector(index, space, part.modality, part.content.id)
                encoded[space.id, id(part)] = vector
            else:
                parts.setdefault(space.id, (space, {}))[1][id(part)] = part
    for space_id, (space, by_id) in parts.items():
        vectors = encode_parts(index.encoder(space), list(by_id.values()))
        encoded |= {(space_id, key): row for key, row in zip(by_id, vectors, strict=True)}
    return [[_sum_parts(index, planned, encoded) for planned in queries] for queries in plans]


def stored_vector(index: OpenIndex, space: Space, modality: Modality, item_id: int) -> Vectors:
    """The unit vector (dim,) of a stored item in a space; the mean, if it has several.

    Raises:
        InvalidQuery: it is gone.
    """
    matrix = index.store.vectors.of(space, modality, [item_id])[1]
    if not len(matrix):
        raise InvalidQuery(f"no item of the index has the id {item_id}")
    return unit_sum(matrix, [1.0] * len(matrix))


def query_vector(
    index: OpenIndex,
    planned: PlannedQuery,
    vector: Vectors,
    shares: Mapping[Modality, float] | None = None,
) -> QueryVector:
    """The query vector of a unit vector (dim,) that was encoded in `planned.encoded_in`.

    If that is a sum of parts, `shares` says how much the parts of each modality contribute.

    Raises:
        UnsupportedModality: no text bridges the two spaces.
    """
    part: Part | None = None
    if shares is None:
        only = planned.parts[0]
        shares = {only.modality: 1.0}
        part = None if isinstance(only.content, StoredItem) else only
    if planned.bridged_from is not None:
        vector = bridge_through_texts(index, vector, planned.bridged_from, planned.space)
        part, shares = None, {"text": 1.0}
    hub_weight = index.query_banks.hub_weight
    weights = {
        query_modality: share * hub_weight(planned.space, query_modality, planned.modality)
        for query_modality, share in shares.items()
    }
    return QueryVector(
        planned.modality,
        planned.space,
        vector,
        planned.weight,
        {query_modality: weight for query_modality, weight in weights.items() if weight},
        next(iter(shares)) if len(shares) == 1 else None,
        part,
    )


def _sum_parts(
    index: OpenIndex, planned: PlannedQuery, encoded: Mapping[tuple[int, int], Vectors]
) -> QueryVector:
    import numpy as np

    vectors = np.stack([encoded[planned.encoded_in.id, id(part)] for part in planned.parts])
    if len(planned.parts) == 1:
        return query_vector(index, planned, vectors[0])
    largest = max(abs(part.weight) for part in planned.parts)
    weights = [part.weight / largest for part in planned.parts]
    total = unit_sum(vectors, weights)
    length = float(np.linalg.norm(np.asarray(weights) @ vectors.astype(np.float64)))
    shares: dict[Modality, float] = {}
    for part, weight in zip(planned.parts, weights, strict=True):
        shares[part.modality] = shares.get(part.modality, 0.0) + weight / length
    return query_vector(index, planned, total, shares)


def bridge_through_texts(
    index: OpenIndex, vector: Vectors, source: Space, target: Space
) -> Vectors:
    """The weighted mean (dim,), in the target space, of the texts nearest to a source vector.

    Raises:
        UnsupportedModality: no text has vectors in both spaces.
    """
    query = QueryVector("text", source, vector)
    nearest = index.vector_index(source, "text").search(query.augmented, BRIDGE_TEXTS)
    ids = [item_id for item_id, _ in nearest]
    near = score_vectors(index, query, ids)[:BRIDGE_TEXTS]
    owners, matrix, positions = index.store.vectors.of(target, "text", ids)
    keys = zip(owners.tolist(), positions.tolist(), strict=True)
    rows = {key: row for row, key in enumerate(keys)}
    shared = [(rows[text.key], max(text.score, 0.0) + 1e-3) for text in near if text.key in rows]
    if not shared:
        raise UnsupportedModality(
            f"no text has vectors of both {source.name!r} and {target.name!r}, so neither can "
            "search for the other: bring the index up to date (mmsearch index)"
        )
    return unit_sum(matrix[[row for row, _ in shared]], [score for _, score in shared])


# ---------------------------------------------------------------------- exact scores


VectorKey = tuple[int, int]
"""(item id, position): identifies one vector of an item; a sound has one for each window."""


@dataclass(frozen=True, slots=True)
class ScoredVector:
    """One vector of an item, scored exactly."""

    key: VectorKey
    score: float
    """The cosine less the hub correction, rounded to six decimals."""
    cosine: float
    """The plain cosine, rounded likewise."""


def score_vectors(index: OpenIndex, query: QueryVector, ids: Sequence[int]) -> list[ScoredVector]:
    """Every vector of some items with its exact score, best first; ties in order of key."""
    import numpy as np

    owners, matrix, positions = index.store.vectors.of(query.space, query.modality, ids)
    # row by row: a product of matrices varies in the 7th decimal with the number of rows
    cosines = (matrix.astype(np.float64) * query.vector).sum(axis=1)
    scores = cosines.copy()
    for query_modality, weight in query.hub_weights.items():
        hubs = index.store.hubs.of(query.space, query.modality, query_modality, ids)
        scores -= weight * np.nan_to_num(hubs.astype(np.float16).astype(np.float64))
    columns = (array.round(6).tolist() for array in (owners, positions, scores, cosines))
    scored = [
        ScoredVector((item_id, position), as_cosine(score), as_cosine(cosine))
        for item_id, position, score, cosine in zip(*columns, strict=True)
    ]
    return sorted(scored, key=lambda vector: (-vector.score, vector.key))


def as_cosine(product: float) -> float:
    """An inner product clipped to [-1, 1], as float16 rows may be 1e-3 longer than 1; not -0.0."""
    return max(-1.0, min(product, 1.0)) + 0.0


def as_cosines(ranking: Ranking) -> Ranking:
    """A ranking by inner products, best first, with cosines."""
    if not ranking or (ranking[0][1] <= 1 and ranking[-1][1] >= -1):
        return ranking
    return [(item_id, as_cosine(score)) for item_id, score in ranking]


# ---------------------------------------------------------------------- encoding parts


def encode_parts(encoder: Encoder, parts: Sequence[Part]) -> Vectors:
    """Unit vectors (len(parts), dim); parts of a modality are encoded together.

    Raises:
        InvalidQuery: a part is empty.
        PathNotFound: a part's file does not exist.
        UnreadableFile: a part's file cannot be used.
    """
    import numpy as np

    vectors = np.zeros((len(parts), encoder.dim), dtype=np.float32)
    for modality in sorted({part.modality for part in parts}):
        rows = [row for row, part in enumerate(parts) if part.modality == modality]
        if modality == "audio":
            for row in rows:
                vectors[row] = _encode_sound(parts[row].content, encoder)
            continue
        if modality == "image":
            means = {row: _encode_animation(parts[row].content, encoder) for row in rows}
            for row, mean in means.items():
                if mean is not None:
                    vectors[row] = mean
            rows = [row for row in rows if means[row] is None]
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            prepared = [prepare_part(parts[row], encoder) for row in batch]
            vectors[batch] = encoder.encode_query(modality, prepared)
    return vectors


def unit_sum(vectors: Vectors, weights: Sequence[float]) -> Vectors:
    """Σ wᵢ·vᵢ at unit length (dim,); independent of the order, and of a common factor of weights.

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
    unit: Vectors = (total / length).astype(np.float32)
    return unit


def checked_vectors(queries: Any, dim: int | None = None) -> Vectors:
    """Query vectors that were encoded elsewhere, brought to unit length: (n, dim) float32.

    Args:
        queries: Real numbers (n, dim).
        dim: How many a row should have; None takes any number.

    Raises:
        InvalidQuery: they are anything else, or a row has no direction.
    """
    import numpy as np

    expected = "n" if dim is None else dim
    try:
        given = np.asarray(queries)
        rows = given.astype(np.float64) if given.dtype.kind in "fiuO" else None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidQuery(f"query vectors are real numbers, {expected} a row: {error}") from error
    if rows is None:
        raise InvalidQuery(f"query vectors are real numbers, {expected} a row, not {given.dtype}")
    if rows.shape == (0,):
        return np.zeros((0, dim or 0), np.float32)
    if rows.ndim != 2 or dim not in (None, rows.shape[1]):
        raise InvalidQuery(
            f"query vectors come in rows of {expected} numbers, an array (m, {expected}), "
            f"not {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise InvalidQuery("query vectors hold NaN or infinity")
    if not (nonzero := rows.any(axis=1)).all():
        raise InvalidQuery(
            f"row {int(np.argmin(nonzero))} of the query vectors is all zeros: it has no direction"
        )
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True)  # squares neither overflow nor vanish
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    is_unit = np.abs(lengths - 1) < ROUNDING
    found: Vectors = np.where(is_unit, rows, unit).astype(np.float32)
    return found


def prepare_part(part: Part, encoder: Encoder) -> Any:
    """A text or picture of a query, read and prepared for its encoder; raises as `encode_parts`."""
    is_text = part.modality == "text"
    thing = words_of(part.content) if is_text else _picture(part.content, encoder)
    return encoder.prepare(part.modality, thing)


def _picture(content: Any, encoder: Encoder) -> Any:
    from PIL.Image import Image

    from mmsearch.media.image import load_image, upright

    if isinstance(content, Image):
        return upright(content)
    source = _file(content, "an image query is a path, bytes or a PIL image", "picture")
    try:
        scale = encoder.decode_scale  # as when it was indexed
        return load_image(source, at_least=encoder.image_size, decode_scale=scale)[0]
    except UnreadableFile as error:
        raise _unusable(source, "picture", error) from error


def _encode_animation(content: Any, encoder: Encoder) -> Vectors | None:
    """The mean vector (dim,) over the shots of an animation; None if it has fewer than two."""
    if not isinstance(content, (str, bytes, os.PathLike)):
        return None
    from mmsearch.media.animation import frames

    source = content if isinstance(content, bytes) else os.fsdecode(content)
    shots = islice(frames(source, at_least=encoder.image_size), MAX_WINDOWS)
    batch = [encoder.prepare("image", shot.picture) for shot in shots]
    if len(batch) < 2:
        return None
    encoded = encoder.encode_query("image", batch)
    return unit_sum(encoded, [1.0] * len(encoded))


def _encode_sound(content: Any, encoder: Encoder) -> Vectors:
    """The mean (dim,) over a sound's windows."""
    from mmsearch.media.audio import windows

    source = _file(content, "a sound query is a path or bytes", "sound")
    try:
        pieces = islice(windows(source, encoder.sample_rate), MAX_WINDOWS)
        batch = [encoder.prepare("audio", piece) for _, piece in pieces]
    except UnreadableFile as error:
        raise _unusable(source, "sound", error) from error
    encoded = encoder.encode_query("audio", batch)
    return unit_sum(encoded, [1.0] * len(encoded))


def _unusable(source: str | bytes, kind: str, error: UnreadableFile) -> UnreadableFile:
    """The error of a file that is a query; of the same class."""
    named = f"the {kind}" if isinstance(source, bytes) else repr(source)
    return type(error)(f"{named} cannot be searched with: {error}")


def _file(content: Any, expected: str, kind: str) -> str | bytes:
    """The path of an existing file that is a query, or its bytes."""
    if isinstance(content, bytes):
        return content
    if not isinstance(content, (str, os.PathLike)):
        raise InvalidQuery(f"{expected}, not {type(content).__name__}")
    path = os.fsdecode(content)
    if not exists(path):
        raise PathNotFound(f"there is no file {path!r}")
    if os.path.isdir(path):
        raise UnreadableFile(f"{path!r} is a folder: give one {kind} in it")
    return path
