"""Reranking: late interaction of token embeddings, maximal marginal relevance, collapsed copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmsearch.encoders import TokenEncoder, token_encoder
from mmsearch.errors import InvalidOption
from mmsearch.search.diversity import collapse, mmr
from mmsearch.search.duplicate_threshold import threshold_of
from mmsearch.search.query_vectors import QueryVector, VectorKey, prepare_part, score_vectors
from mmsearch.search.ranking import RankedList
from mmsearch.search.settings import Settings
from mmsearch.spaces.encoder_pool import tokens_are_current
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.types import Modality, Part, Ranking

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

CANDIDATES = 100
"""How many vectors are rescored by token embeddings, or hits diversified: a fixed number, so that
the order does not depend on k."""

COMPARABLE: frozenset[tuple[Modality, Modality]] = frozenset({("text", "image"), ("image", "text")})
"""The pairs (query modality, searched modality) whose token embeddings can be compared."""


def rerank(
    first: NDArray[np.float32], match: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """New scores of one query's best candidates: first + weight · (match − mean match).

    Subtracting the mean does not change the order, but keeps the scores near those of the first
    stage. A candidate that the second model cannot judge keeps its score.

    Args:
        first: (n,) scores of the first stage: cosines, corrected for hubs.
        match: (n,) scores of the second model for the same candidates, NaN where it has none.
        weight: The weight of `match` in units of `first`; chosen with the model.
    """
    import numpy as np

    judged = ~np.isnan(match)
    if not judged.any():
        return first
    gain: NDArray[np.float32] = np.where(judged, match - match[judged].mean(), np.float32(0))
    scores: NDArray[np.float32] = first + weight * gain
    return scores


def rerank_by_tokens(index: OpenIndex, lists: Sequence[RankedList]) -> list[RankedList]:
    """The lists, their best items reranked by the token embeddings of texts and pictures.

    Raises:
        InvalidOption: no list can be compared by token embeddings.
    """
    reranked = [_reranked_list(index, ranked) for ranked in lists]
    if lists and all(ranked is None for ranked in reranked):
        raise InvalidOption(
            "--rerank fusion compares one text with pictures, or one picture with texts, by a "
            "model that was tuned for it ('mini' is), in an index that keeps their details "
            "(`mmsearch index --details` brings it up to date): it does not apply to this query "
            "or this index"
        )
    return [new or old for new, old in zip(reranked, lists, strict=True)]


def _reranked_list(index: OpenIndex, ranked: RankedList) -> RankedList | None:
    """A list reranked by token embeddings; None if it cannot be."""
    query = ranked.query
    if query is None or query.part is None:
        return None
    encoder = token_encoder(index.encoder(query.space))
    modalities = query.part.modality, query.modality
    if encoder is None or modalities not in COMPARABLE:
        return None
    if not encoder.token_modalities.issuperset(modalities):
        return None
    if not tokens_are_current(index.store, query.space, encoder):
        return None
    ids = [item_id for item_id, _ in ranked.ranking[:CANDIDATES]]
    scores = _token_scores(index, query, query.part, encoder, ids)
    if ranked.ranking and not scores:
        raise InvalidOption(
            "--rerank fusion needs what this index does not keep: run `mmsearch index --details`"
        )
    # the other items follow, with scores no higher than the last of these
    best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    ceiling = best[-1][1] if best else 1.0
    others = [(id_, min(score, ceiling)) for id_, score in ranked.ranking if id_ not in scores]
    return replace(ranked, ranking=best + others, first_stage_scores=dict(ranked.ranking))


def _token_scores(
    index: OpenIndex, query: QueryVector, part: Part, encoder: TokenEncoder, ids: Sequence[int]
) -> dict[int, float]:
    """By item with stored token embeddings, its new score: that of its best vector."""
    import numpy as np

    tokens: dict[VectorKey, NDArray[np.int8]] = index.store.token_embeddings.of(
        query.space, query.modality, ids
    )
    rows = [row for row in score_vectors(index, query, ids) if row.key in tokens][:CANDIDATES]
    if not rows:
        return {}
    query_tokens = encoder.encode_with_tokens(part.modality, [prepare_part(part, encoder)])[1][0]
    match = encoder.match(part.modality, query_tokens, [tokens[row.key] for row in rows])
    first = np.asarray([row.score for row in rows])
    best: dict[int, float] = {}
    for row, score in zip(rows, rerank(first, match, encoder.match_weight).tolist(), strict=True):
        item_id = row.key[0]
        best[item_id] = max(best.get(item_id, -np.inf), round(score, 6))
    return best


def diversify(index: OpenIndex, ranking: Ranking, settings: Settings) -> Ranking:
    """The best hundred by maximal marginal relevance, then the others."""
    best = ranking[:CANDIDATES]
    vectors = _picture_vectors(index, [item_id for item_id, _ in best])
    order = mmr([score for _, score in best], vectors, len(best), 1 - settings.diversity)
    return [best[place] for place in order] + ranking[CANDIDATES:]


def group_copies(index: OpenIndex, ranking: Ranking, settings: Settings) -> dict[int, list[int]]:
    """Groups of copies by their best items; without collapsing, each item is a group of its own."""
    ids = [item_id for item_id, _ in ranking]
    if not settings.collapses:
        return {item_id: [item_id] for item_id in ids}
    hashes = index.store.items.hashes(ids)
    space = index.preferred_space()
    # the stored threshold, since measuring one takes too long for a search
    threshold = threshold_of(index.store, space) if space else 2.0
    groups = collapse(
        ids, [hashes.get(item_id) for item_id in ids], _picture_vectors(index, ids), threshold
    )
    return {group[0]: group for group in groups}


def _picture_vectors(index: OpenIndex, ids: Sequence[int]) -> Vectors:
    """The first image vector (n, dim) of each item; zeros, which resemble nothing, if it has none.

    Texts and sounds count as copies only if their content is the same, since photos with similar
    captions may differ.
    """
    import numpy as np

    space = index.preferred_space()
    found = np.zeros((len(ids), space.dim if space else 1), np.float32)
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    if space is None:
        return found
    owners, matrix, positions = index.store.vectors.of(space, "image", ids)
    first = positions == 0
    for item_id, vector in zip(owners[first].tolist(), matrix[first], strict=True):
        found[row_of[item_id]] = vector
    return found
