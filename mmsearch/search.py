"""From queries to hits: encode → one ranking a facet → fuse → look the items up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.catalog import Catalog, Space
from mmsearch.errors import InvalidQuery, PathNotFound, UnknownTarget, UnreadableFile
from mmsearch.fusion import rrf
from mmsearch.types import (
    Encoder,
    Hit,
    Item,
    Modality,
    Query,
    Ranking,
    Signal,
    TextPart,
    VectorIndex,
)

if TYPE_CHECKING:
    from mmsearch.types import Vectors

DEPTH = 10
"""How many times k each facet's ranking goes down before fusion."""

BATCH = 64
"""Queries encoded in one call."""

Target = str | Sequence[str] | None


def targets_of(target: Target, present: Sequence[str]) -> list[str]:
    """The facets to search: those asked for, else pictures if there are any, else what there is.

    Raises:
        UnknownTarget: there is no such facet.
    """
    if target is None:
        return ["image"] if "image" in present else list(present[:1])
    known = get_args(Modality)
    asked = [target] if not isinstance(target, Iterable) or isinstance(target, str) else target
    for facet in asked:
        if facet not in known:
            shown = ", ".join(known)
            raise UnknownTarget(f"nothing can be searched in {facet!r}; there is: {shown}")
    return list(dict.fromkeys(asked))


def encode_queries(encoder: Encoder, queries: Sequence[str | Query]) -> Vectors:
    """Vectors (len(queries), dim), each modality encoded in one call.

    Raises:
        InvalidQuery: a query is empty.
        PathNotFound: a query's file does not exist.
        UnreadableFile: a query's file cannot be used.
        UnsupportedModality: the encoder cannot encode a query.
    """
    import numpy as np

    asked = [query if isinstance(query, Query) else Query.text(query) for query in queries]
    out = np.zeros((len(asked), encoder.dim), dtype=np.float32)
    for modality in sorted({query.modality for query in asked}):
        rows = [row for row, query in enumerate(asked) if query.modality == modality]
        for start in range(0, len(rows), BATCH):  # decoded pictures are large
            some = rows[start : start + BATCH]
            out[some] = encoder.encode(modality, [_content(asked[row], encoder) for row in some])
    return out


def _content(query: Query, encoder: Encoder) -> Any:
    if query.modality == "text":
        return encoder.prepare("text", _words(query.content))
    if query.modality == "image":
        return encoder.prepare("image", _picture(query.content, encoder))
    return encoder.prepare(query.modality, query.content)


def _words(content: Any) -> str:
    if not isinstance(content, str):
        raise InvalidQuery(f"a text query is a string, not {type(content).__name__}")
    if not content.strip():
        raise InvalidQuery("the query is empty: say in words what to look for")
    # a shell may hand over bytes that are not UTF-8, which no tokenizer takes
    return content.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _picture(content: Any, encoder: Encoder) -> Any:
    from PIL.Image import Image

    from mmsearch.media.image import load_image, upright

    if isinstance(content, Image):
        return upright(content)
    if not isinstance(content, (str, os.PathLike)):
        name = type(content).__name__
        raise InvalidQuery(f"an image query is a path or a PIL image, not {name}")
    path = os.fsdecode(content)
    if not os.path.exists(path):
        raise PathNotFound(f"there is no file {path!r}")
    if os.path.isdir(path):
        raise UnreadableFile(f"{path!r} is a folder: give one picture in it")
    try:
        return load_image(path, at_least=encoder.image_size)[0]
    except UnreadableFile as error:
        raise UnreadableFile(f"{path!r} cannot be searched with: {error}") from error


def rank(
    vector: Vectors,
    index_of: Callable[[str], VectorIndex],
    targets: Sequence[str],
    k: int,
    without: int | None = None,
) -> tuple[Ranking, dict[str, Ranking]]:
    """The k best items for one query vector (dim,), and each facet's own ranking.

    Args:
        vector: The query, of unit length.
        index_of: Gives a facet's index.
        targets: The facets.
        k: How many items.
        without: An item to leave out.
    """
    depth = 1 + (k if len(targets) == 1 else max(k * DEPTH, 100))
    rankings = {
        facet: [pair for pair in index_of(facet).search(vector, depth) if pair[0] != without]
        for facet in targets
    }
    if len(rankings) == 1:
        return next(iter(rankings.values()))[:k], rankings
    return rrf(list(rankings.values()))[:k], rankings


def hits(
    catalog: Catalog, space: Space, vector: Vectors, fused: Ranking, rankings: dict[str, Ranking]
) -> list[Hit]:
    """Ranked items as hits, with where each matched; items that have just gone are left out."""
    ids = [item_id for item_id, _ in fused]
    items = catalog.items(ids)
    signals: dict[int, dict[str, Signal]] = {item_id: {} for item_id in ids}
    for facet, ranking in rankings.items():
        for place, (item_id, score) in enumerate(ranking, start=1):
            if item_id in signals:
                signals[item_id][facet] = Signal(place, min(score, 1.0))
    positions = _best_texts(catalog, space, vector, ids) if "text" in rankings else {}
    found: list[Hit] = []
    for item_id, score in fused:
        if (item := items.get(item_id)) is not None:
            part = _part(item, positions.get(item_id, 0))
            found.append(_hit(len(found) + 1, item, score, part, signals[item_id]))
    return found


def _best_texts(
    catalog: Catalog, space: Space, vector: Vectors, ids: Sequence[int]
) -> dict[int, int]:
    """For each item, the position of its text nearest to the query."""
    owners, matrix, positions = catalog.vectors(space, "text", ids)
    best: dict[int, tuple[float, int]] = {}
    for owner, score, position in zip(owners, matrix @ vector, positions, strict=True):
        candidate = (float(score), -int(position))
        best[int(owner)] = max(best.get(int(owner), candidate), candidate)
    return {owner: -position for owner, (_, position) in best.items()}


def _part(item: Item, position: int) -> TextPart | None:
    return item.texts[position] if position < len(item.texts) else None


def _hit(
    rank_: int, item: Item, score: float, part: TextPart | None, signals: dict[str, Signal]
) -> Hit:
    return Hit(
        rank=rank_,
        id=item.id,
        path=item.path,
        modality=item.modality,
        score=min(score, 1.0),  # float16 rows are up to 1e-3 longer than 1
        confidence=None,
        span=part.span if part else None,
        caption=part.text if part else None,
        metadata=item.metadata,
        signals=signals,
    )
