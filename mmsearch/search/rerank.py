"""The best hits put in a better order: by a second model, by what they add, without copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmsearch.encoders import TokenEncoder, token_encoder
from mmsearch.errors import InvalidOption
from mmsearch.search.diversity import collapse, mmr
from mmsearch.search.facets import Facet
from mmsearch.search.queries import ready
from mmsearch.search.rank import Holdings, Search, stretches
from mmsearch.search.rerank_blend import rerank
from mmsearch.search.settings import Settings
from mmsearch.spaces.encoder_pool import tokens_are_current
from mmsearch.storage import Space
from mmsearch.types import Modality, Ranking

if TYPE_CHECKING:
    from mmsearch.types import Vectors

LOOKED_AT = 100
"""What is looked at again: vectors whose regions or words the second model compares, or hits that
are to differ. Always as many, so that the order does not depend on k."""

MATCHED: frozenset[tuple[Modality, Modality]] = frozenset({("text", "image"), ("image", "text")})
"""What can be looked at together: what is asked with, and the facet that is searched."""


def rematched(holdings: Holdings, facets: Sequence[Facet]) -> list[Facet]:
    """Facets whose best are ranked anew by the regions of pictures and the words of texts.

    Raises:
        InvalidOption: nothing of the query can be ranked so.
    """
    found = [_rematched(holdings, facet) for facet in facets]
    if facets and all(facet is None for facet in found):
        raise InvalidOption(
            "--rerank fusion compares one text with pictures, or one picture with texts, by a "
            "model that was tuned for it ('mini' is), in an index that keeps their details "
            "(`mmsearch index --details` brings it up to date): this query or this index has "
            "nothing of the kind"
        )
    return [new or old for new, old in zip(found, facets, strict=True)]


def _rematched(holdings: Holdings, facet: Facet) -> Facet | None:
    search = facet.search
    if search is None or search.part is None:
        return None
    encoder = token_encoder(holdings.encoder_of(search.space))
    asked = search.part.modality
    if encoder is None or (asked, search.facet) not in MATCHED:
        return None
    if not {asked, search.facet} <= encoder.token_modalities:
        return None
    if not tokens_are_current(holdings.store, search.space, encoder):
        return None
    scores = _scores(holdings, search, encoder, [id_ for id_, _ in facet.ranking[:LOOKED_AT]])
    if facet.ranking and not scores:
        raise InvalidOption(
            "--rerank fusion needs what this index does not keep: run `mmsearch index --details`"
        )
    return replace(facet, ranking=_above(scores, facet.ranking), first=dict(facet.ranking))


def _scores(
    holdings: Holdings, search: Search, encoder: TokenEncoder, ids: Sequence[int]
) -> dict[int, float]:
    """New scores of the items whose regions or words are known."""
    import numpy as np

    assert search.part is not None
    tokens = holdings.store.token_embeddings.of(search.space, search.facet, ids)
    rows = [row for row in stretches(holdings.store, search, ids) if row[0] in tokens]
    rows = rows[:LOOKED_AT]
    if not rows:
        return {}
    asked = search.part.modality
    own = encoder.encode_with_tokens(asked, [ready(search.part, encoder)])[1][0]
    match = encoder.match(asked, own, [tokens[key] for key, _, _ in rows])
    first = np.asarray([score for _, score, _ in rows])
    best: dict[int, float] = {}
    for ((item_id, _), _, _), score in zip(
        rows, rerank(first, match, encoder.match_weight).tolist(), strict=True
    ):
        best[item_id] = max(best.get(item_id, -np.inf), round(score, 6))
    return best


def _above(scores: dict[int, float], ranking: Ranking) -> Ranking:
    """The items that have new scores by these, then the others, none of them above."""
    better = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    ceiling = better[-1][1] if better else 1.0
    others = [(id_, min(score, ceiling)) for id_, score in ranking if id_ not in scores]
    return better + others


def diverse(holdings: Holdings, ranking: Ranking, settings: Settings) -> Ranking:
    """The best hundred, those first that differ from those before them; then the others."""
    best = ranking[:LOOKED_AT]
    vectors = _vectors(holdings, [item_id for item_id, _ in best])
    order = mmr([score for _, score in best], vectors, len(best), 1 - settings.diversity)
    return [best[place] for place in order] + ranking[LOOKED_AT:]


def grouped(holdings: Holdings, ranking: Ranking, settings: Settings) -> dict[int, list[int]]:
    """By the first of each group of copies, the group; without collapsing, each item alone."""
    ids = [item_id for item_id, _ in ranking]
    if not settings.collapses:
        return {item_id: [item_id] for item_id in ids}
    hashes = holdings.store.items.hashes(ids)
    space = _preferred(holdings)
    threshold = holdings.alike(space) if space else 2.0
    groups = collapse(
        ids, [hashes.get(item_id) for item_id in ids], _vectors(holdings, ids), threshold
    )
    return {group[0]: group for group in groups}


def _vectors(holdings: Holdings, ids: Sequence[int]) -> Vectors:
    """The vector (dim,) of each item's picture; zeros, which are like no other, without one.

    What is read or heard is only told apart by its content: the words of two captions may be much
    alike, and the photos not.
    """
    import numpy as np

    space = _preferred(holdings)
    found = np.zeros((len(ids), space.dim if space else 1), np.float32)
    place = {item_id: row for row, item_id in enumerate(ids)}
    if space is None:
        return found
    owners, matrix, positions = holdings.store.vectors.of(space, "image", ids)
    first = positions == 0
    for item_id, vector in zip(owners[first].tolist(), matrix[first], strict=True):
        found[place[item_id]] = vector
    return found


def _preferred(holdings: Holdings) -> Space | None:
    """The space that answers for pictures, else another that answers."""
    return next((space for space in holdings.store.spaces.all() if space.serves), None)
