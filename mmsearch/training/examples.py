"""What a space is tuned on: queries and their relevant items, as vectors of that space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoders import Encoder
from mmsearch.encoders.projected import projected
from mmsearch.evaluation.pairs import Pair
from mmsearch.evaluation.qrels import MODALITIES, JudgedQuery, Qrels, build_qrels
from mmsearch.metrics import groups_of
from mmsearch.search.query_vectors import encode_parts
from mmsearch.types import CAPTIONS, Kind, Part, Query
from mmsearch.vectors.hubness import hub_weight, hubs

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.encoders.query_bank import QueryBank
    from mmsearch.encoders.tuned import Heads
    from mmsearch.storage import Space
    from mmsearch.types import Item, Modality, Progress, Vectors

    Scores = NDArray[np.float32]

CAPTIONED: frozenset[Kind] = frozenset({"image", "audio", "video"})
"""The kinds of items whose captions serve as pairs if no others are given."""

TEXTS_AT_ONCE = 64
ITEMS_AT_ONCE = 1_000


@dataclass(frozen=True, eq=False)
class Examples:
    """Queries of one modality, and the items of another that are relevant to them.

    Attributes:
        modalities: Of the queries, and of the items.
        queries: (n, dim) the queries, encoded as queries.
        documents: (n, dim) the same, encoded as documents: some models distinguish the two.
        labels: The queries in a readable form.
        rows: (r, dim) vectors of the items; those of an item are adjacent.
        owners: (r,) the item of each row, as an index into `ids`.
        ids: (m,) of the items.
        paths: Of the items.
        relevant: For each query the relevant items, as indexes into `ids`.
        query_groups: (n,) the group of each query. A group is never split between training and
            held-out pairs.
        item_groups: (m,) the group of each item.
    """

    modalities: tuple[Modality, Modality]
    queries: Vectors
    documents: Vectors
    labels: Sequence[str]
    rows: Vectors
    owners: NDArray[np.int64]
    ids: NDArray[np.int64]
    paths: Sequence[str]
    relevant: Sequence[Sequence[int]]
    query_groups: NDArray[np.int64]
    item_groups: NDArray[np.int64]

    def subset(self, groups: NDArray[np.int64]) -> Examples:
        """The examples of some groups."""
        kept = np.flatnonzero(np.isin(self.item_groups, groups)).tolist()
        number = {old: new for new, old in enumerate(kept)}
        queries = np.flatnonzero(np.isin(self.query_groups, groups)).tolist()
        rows = np.isin(self.owners, kept)
        return replace(
            self,
            queries=self.queries[queries],
            documents=self.documents[queries],
            labels=[self.labels[at] for at in queries],
            rows=self.rows[rows],
            owners=np.searchsorted(kept, self.owners[rows]),
            ids=self.ids[kept],
            paths=[self.paths[at] for at in kept],
            relevant=[[number[item] for item in self.relevant[at]] for at in queries],
            query_groups=self.query_groups[queries],
            item_groups=self.item_groups[kept],
        )

    def scores(self, heads: Heads, bank: QueryBank | None) -> tuple[Scores, Scores]:
        """The scores of searches in both directions: (n, m) items for queries, (m, n) the reverse.

        Args:
            heads: Applied to all vectors first.
            bank: Measures hubs, which are subtracted as in a search; without it, these are cosines.
        """
        one, other = self.modalities
        rows = projected(heads, other, self.rows)
        starts = np.flatnonzero(np.r_[True, self.owners[1:] != self.owners[:-1]])

        def searched(queries: Vectors, items: Vectors, pair: tuple[Modality, Modality]) -> Scores:
            cosines: Scores = queries @ items.T
            if bank is None or pair[0] not in bank.rows:
                return cosines
            weight = hub_weight(*pair, shipped=bank.shipped)
            return cosines - weight * hubs(items, projected(heads, pair[0], bank.rows[pair[0]]))

        forward = searched(projected(heads, one, self.queries), rows, (one, other))
        backward = searched(rows, projected(heads, one, self.documents), (other, one))
        best: Scores = np.maximum.reduceat(forward, starts, axis=1)
        best_back: Scores = np.maximum.reduceat(backward, starts, axis=0)
        return best, best_back

    def relevance(self) -> NDArray[np.bool_]:
        """(n, m) whether an item is relevant to a query."""
        mask = np.zeros((len(self.relevant), len(self.ids)), bool)
        for query, items in enumerate(self.relevant):
            mask[query, items] = True
        return mask

    def queries_of_items(self) -> list[list[int]]:
        """For each item the queries that it is relevant to, as indexes."""
        found: list[list[int]] = [[] for _ in self.ids]
        for query, items in enumerate(self.relevant):
            for item in items:
                found[item].append(query)
        return found


def captions_of(collection: Collection) -> list[Pair]:
    """The captions in an index, each with the files that have it."""
    files: dict[str, dict[str, float]] = {}
    for item in collection.items:
        for part in item.texts if item.modality in CAPTIONED else ():
            if part.origin in CAPTIONS and (text := " ".join(part.text.split())):
                files.setdefault(text, {})[item.path] = 1.0
    return [Pair(Query.text(text), relevant) for text, relevant in files.items()]


def judged_queries(collection: Collection, pairs: Sequence[Pair] | None) -> Qrels:
    """The queries of the pairs, else the captions in the index, and the items relevant to them.

    Raises:
        InvalidQuery: none of the files that the pairs name is in the index.
    """
    given = captions_of(collection) if pairs is None else pairs
    if pairs is None and not given:
        return Qrels()
    qrels = build_qrels(collection, given, "forward")
    several = [judged for judged in qrels.queries if len(judged.query.parts) > 1]
    qrels.left_out |= {judged.label: "as they have several parts" for judged in several}
    qrels.queries = [judged for judged in qrels.queries if len(judged.query.parts) == 1]
    return qrels


def examples_of(
    collection: Collection,
    space: Space,
    encoder: Encoder,
    judged: Sequence[JudgedQuery],
    progress: Progress | None = None,
) -> list[Examples]:
    """The examples of a space, one set for each pair of modalities that it serves.

    Args:
        collection: The index.
        space: Where the vectors are stored.
        encoder: That of the space; it encodes queries whose vectors are not stored.
        judged: Queries and the items relevant to them.
        progress: Called with (queries encoded, queries in all).
    """
    items: dict[int, Item] = {}
    for ids in batched(sorted({id_ for one in judged for id_ in one.relevant}), ITEMS_AT_ONCE):
        items |= collection.store.items.get(ids)
    groups = groups_of([one.relevant.keys() for one in judged])
    by_pair: dict[tuple[Modality, Modality], list[int]] = {}
    for number, one in enumerate(judged):
        query = one.query.parts[0].modality
        for modality in {MODALITIES[items[id_].modality] for id_ in one.relevant if id_ in items}:
            if query != modality and {query, modality} <= space.serves:
                by_pair.setdefault((query, modality), []).append(number)
    stored = _StoredTexts(collection, space, items)
    found = []
    for modalities, numbers in sorted(by_pair.items()):
        some = [judged[number] for number in numbers]
        encoded = _encoded(encoder, [one.query.parts[0] for one in some], stored, progress)
        one_set = _examples(collection, space, modalities, some, groups[numbers], items, encoded)
        if one_set is not None:
            found.append(one_set)
    return found


def _examples(
    collection: Collection,
    space: Space,
    modalities: tuple[Modality, Modality],
    judged: Sequence[JudgedQuery],
    groups: NDArray[np.int64],
    items: Mapping[int, Item],
    encoded: tuple[Vectors, Vectors],
) -> Examples | None:
    """The examples of a pair of modalities; None if the space has no vectors of their items."""
    group_of = {
        id_: group
        for one, group in zip(judged, groups.tolist(), strict=True)
        for id_ in one.relevant
        if id_ in items and MODALITIES[items[id_].modality] == modalities[1]
    }
    owner_ids, rows, _ = collection.store.vectors.of(space, modalities[1], sorted(group_of))
    ids = np.unique(owner_ids)
    number = {int(id_): at for at, id_ in enumerate(ids)}
    relevant = [sorted(number[id_] for id_ in one.relevant if id_ in number) for one in judged]
    kept = [at for at, own in enumerate(relevant) if own]
    if not kept:
        return None
    queries, documents = encoded
    return Examples(
        modalities,
        queries[kept],
        documents[kept],
        [judged[at].label for at in kept],
        rows,
        np.searchsorted(ids, owner_ids),
        ids,
        [items[id_].path for id_ in ids.tolist()],
        [relevant[at] for at in kept],
        groups[kept],
        np.array([group_of[id_] for id_ in ids.tolist()], np.int64),
    )


class _StoredTexts:
    """The stored vectors of the texts of some items."""

    def __init__(self, collection: Collection, space: Space, items: Mapping[int, Item]) -> None:
        self._vectors: dict[str, Vectors] = {}
        for ids in batched(sorted(items), ITEMS_AT_ONCE):
            owners, rows, positions = collection.store.vectors.of(space, "text", ids)
            for id_, position, row in zip(owners.tolist(), positions.tolist(), rows, strict=True):
                texts = items[id_].texts
                if position < len(texts):
                    self._vectors[" ".join(texts[position].text.split())] = row

    def get(self, part: Part) -> Vectors | None:
        """The stored vector (dim,) of a text; None if there is none."""
        return self._vectors.get(part.content) if part.modality == "text" else None


def _encoded(
    encoder: Encoder,
    parts: Sequence[Part],
    stored: _StoredTexts,
    progress: Progress | None,
) -> tuple[Vectors, Vectors]:
    """The vectors (n, dim) of queries, encoded as queries and as documents; stored ones are reused.

    Of most models the two are the same.
    """
    queries = np.zeros((len(parts), encoder.dim), np.float32)
    distinct = type(encoder).encode_query is not Encoder.encode_query
    documents = np.zeros_like(queries)
    has = np.zeros(len(parts), bool)
    for at, part in enumerate(parts):
        if (vector := stored.get(part)) is not None:
            documents[at], has[at] = vector, True
    due = range(len(parts)) if distinct else np.flatnonzero(~has).tolist()
    for rows in batched(due, TEXTS_AT_ONCE):
        queries[rows] = encode_parts(encoder, [parts[row] for row in rows])
        if progress is not None:
            progress(rows[-1] + 1, len(parts))
    if not distinct:
        queries[has] = documents[has]
        return queries, queries
    lacking = np.flatnonzero(~has).tolist()
    for rows in batched(lacking, TEXTS_AT_ONCE):
        texts = [row for row in rows if parts[row].modality == "text"]
        documents[rows] = queries[rows]
        if texts:
            prepared = [encoder.prepare("text", parts[row].content) for row in texts]
            documents[texts] = encoder.encode("text", prepared)
    return queries, documents


def batched(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """The numbers in lists of `size`, the last one shorter."""
    for at in range(0, len(rows), size):
        yield list(rows[at : at + size])
