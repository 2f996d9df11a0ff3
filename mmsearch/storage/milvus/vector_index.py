"""Nearest neighbours in Milvus: it finds candidates, which are scored with their float16 vectors.

The server has the plain vectors, and hubs beside them, since hubs change in place. So candidates
are found by their cosine, and more are fetched until those left out are unlikely to score higher
once hubs are subtracted. The same code computes the scores as in a local index, so they are equal
to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.storage.milvus.client import MOST_ROWS
from mmsearch.storage.milvus.database import Database
from mmsearch.storage.milvus.expressions import EVERYTHING, Expression
from mmsearch.storage.milvus.layout import COPIES, one_of, vectors_name
from mmsearch.storage.records import Space
from mmsearch.storage.server_index import ServerIndex
from mmsearch.types import Modality, Ranking
from mmsearch.vectors import EXACT
from mmsearch.vectors.few_rows import FewRows, best_of
from mmsearch.vectors.hubness import EXTRA_DIMS, augmented
from mmsearch.vectors.id_set import IdSet, LazyIdSet
from mmsearch.vectors.index import merged
from mmsearch.vectors.index_choice import NEIGHBOURS, IndexChoice
from mmsearch.vectors.recall import RecallTest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.index_choice import SampleQueries

FLAT, HNSW, IVF_RABITQ, DISKANN = "FLAT", "HNSW", "IVF_RABITQ", "DISKANN"

EFFORTS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    HNSW: ("ef", (64, 128, 256, 512, 1024, 2048)),
    "HNSW_SQ": ("ef", (64, 128, 256, 512, 1024, 2048)),
    "IVF_FLAT": ("nprobe", (16, 64, 256, 1024)),
    "IVF_SQ8": ("nprobe", (16, 64, 256, 1024)),
    IVF_RABITQ: ("nprobe", (16, 64, 256, 1024)),
    DISKANN: ("search_list", (100, 200, 400, 800)),
}
"""For each kind of index, the parameter that is its search effort, and values to try, ascending."""

CANDIDATES = (100, 400, 1_600)
"""The numbers of candidates to try, ascending."""

MARGIN = 16
"""Candidates beyond the k wanted, in case some have equal scores."""

MAX_CANDIDATES = 4_096
"""The most candidates that a search with a smaller k fetches: a server sends some thousand vectors
a second."""

FEW_ROWS = 1_000
"""Up to this many items that pass a filter, their rows are compared here if the index is
approximate."""

MIN_SHARE = 0.05
"""From this share of all rows on, a set of items is searched by dropping other items from the
first candidates; the ids of a smaller one are listed in an expression."""

MAX_LISTED = 100_000
"""The most ids that an expression lists: a server parses about that many a second."""

LOW_HUBS = 0.005
"""The share of hubs that may be lower than a search allows for."""

_HUBS = ("hub_text", "hub_image")
_FIELDS = ("id", "item_id", *_HUBS, "vector")


@dataclass(frozen=True, slots=True)
class Choice(IndexChoice):
    """The kind of index of a modality's vectors, as it was chosen and measured.

    `kind` is EXACT or Milvus' name of the kind; `effort` is ef, nprobe or search_list.
    """

    candidates: int = CANDIDATES[0]
    """The least number of candidates that a search asks for."""
    rows: int = 0
    """The number of vectors at that time."""

    @property
    def index_type(self) -> str:
        """Milvus' name of the kind."""
        return FLAT if self.kind == EXACT else self.kind

    def params(self, share: float = 1.0) -> dict[str, int]:
        """The parameters of a search whose filter passes this share of the rows."""
        if self.kind not in EFFORTS:
            return {}
        name, efforts = EFFORTS[self.kind]
        effort = self.effort or efforts[0]
        return {name: min(round(effort / max(share, 1e-3)), 16 * efforts[-1])}


class MilvusIndex(ServerIndex):
    """The vectors of a modality, as of one moment of the store.

    Args:
        database: The index's.
        space: The space of the vectors.
        modality: The modality of the vectors.
        choice: How they are searched.
        folder: The local cache, with a sample of the vectors.
    """

    def __init__(
        self, database: Database, space: Space, modality: Modality, choice: Choice, folder: Path
    ) -> None:
        head = database.head()
        super().__init__(
            f"{head['store_id']} {head['revision']} {head['epoch']}",
            folder / f"sample-{space.id}-{modality}.npz",
        )
        self._last_id = int(head["numbers"].get("vectors", 0))
        self._client = database.client
        self._name = database.collection(vectors_name((space.id, modality)))
        self._dim = space.dim
        self._few = FewRows(self._fetched)
        self.choice = choice

    def __len__(self) -> int:
        return self._size

    @cached_property
    def _size(self) -> int:
        return self._client.count(self._name)

    def items(self) -> IdSet:
        return self._items

    @cached_property
    def _items(self) -> IdSet:
        read = self._client.pages(self._name, "id >= 0", ["id", "item_id"])
        return IdSet.of({row["item_id"] for page in read for row in page})

    # ------------------------------------------------------------------ searching

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        if k < 1 or not self._size or (allowed is not None and not len(allowed)):
            return []
        if allowed is None:
            return self._search(vector, k, EVERYTHING, self._size)
        is_few = len(allowed) <= FEW_ROWS
        compares_few = is_few and self.choice.kind != EXACT
        if isinstance(allowed, LazyIdSet) and _is_copied(allowed.condition) and not compares_few:
            return self._search(vector, k, allowed.condition, len(allowed))
        if is_few:
            return self._few.search(allowed, vector, k)
        if len(allowed) > min(self._size * MIN_SHARE, MAX_LISTED):
            return self._search(vector, k, EVERYTHING, self._size, allowed)
        return self._listed(vector, k, allowed)

    def _listed(self, vector: Vectors, k: int, allowed: IdSet) -> Ranking:
        listed = Expression(one_of("item_id", allowed.ids.tolist()))
        return self._search(vector, k, listed, len(allowed))

    def _search(
        self,
        vector: Vectors,
        k: int,
        condition: Expression,
        number: int,
        allowed: IdSet | None = None,
    ) -> Ranking:
        """The k best items with a row that meets a condition.

        Args:
            vector: The query (dim + EXTRA_DIMS,).
            k: The number of items.
            condition: What the server filters by.
            number: The number of rows, or of items, that meet it.
            allowed: If given, rows of other items are dropped from what the server finds.
        """
        params = self.choice.params(min(number / self._size, 1.0))
        wanted = k + MARGIN
        if self.choice.kind != EXACT or vector[self._dim :].any():  # cosines may mislead
            wanted = max(self.choice.candidates, wanted)
        if allowed is not None:
            wanted = round(wanted * 1.5 * self._size / len(allowed))
        most = max(MAX_CANDIDATES, wanted)
        while True:
            wanted = min(wanted, MOST_ROWS)
            # if distances are exact, most rows can be ruled out without their vectors
            without_vectors = self.choice.kind == EXACT and wanted > 2 * (k + MARGIN)
            (found,) = self._client.search(
                self._name,
                vector[None, : self._dim],
                wanted,
                expression=condition.text,
                fields=_FIELDS[1:-1] if without_vectors else _FIELDS[1:],
                params=params | ({"ef": max(params["ef"], wanted)} if "ef" in params else {}),
            )
            some = found if allowed is None else _inside(found, allowed)
            if without_vectors:
                some = self._best(some, vector, k)
            ranking = self._scored(some, vector, k)
            complete = len(ranking) == k
            is_all = len(found) < wanted
            if is_all and self.choice.kind == EXACT:
                return ranking
            if not complete and (is_all or wanted >= most):
                if allowed is not None and len(allowed) <= MAX_LISTED:
                    return self._listed(vector, k, allowed)
                return self._search_all(vector, k, condition, allowed)
            if complete and (
                is_all
                or wanted >= most
                or ranking[-1][1] >= self._most_beyond(vector, found[-1]["distance"])
            ):
                return self._by_best_rows(ranking, vector, k)
            wanted *= 4

    def _best(self, found: list[dict[str, Any]], vector: Vectors, k: int) -> list[dict[str, Any]]:
        """Of the k + MARGIN items that rank first by distance, the rows with their vectors."""
        import numpy as np

        if not found:
            return []
        scores = np.array([row["distance"] for row in found], np.float32)
        weights = vector[self._dim :][: len(_HUBS)].tolist()
        for weight, column in zip(weights, self._known_hubs(found), strict=True):
            scores += np.float32(weight) * column
        items: set[int] = set()
        ids = []
        for number in np.argsort(-scores).tolist():
            ids.append(found[number]["id"])
            items.add(found[number]["item_id"])
            if len(items) == k + MARGIN:
                break
        return self._client.among(self._name, "id", ids, _FIELDS)

    def _by_best_rows(self, ranking: Ranking, vector: Vectors, k: int) -> Ranking:
        """The same items, scored by their best rows, which an approximate index may have missed."""
        if self.choice.kind == EXACT:
            return ranking
        return self._few.search(IdSet.of(id_ for id_, _ in ranking), vector, k)

    def _most_beyond(self, vector: Vectors, cosine: float) -> float:
        """The highest score of a row with at most this cosine, unless its hub is very low."""
        weights = vector[self._dim :][: len(_HUBS)]
        return float(cosine + weights @ self._low_hubs) if weights.any() else cosine

    @cached_property
    def _low_hubs(self) -> Vectors:
        import numpy as np

        hubs = self._chance_sample.rows[:, self._dim :][:, : len(_HUBS)]
        found: Vectors = np.quantile(hubs, LOW_HUBS, axis=0).astype(np.float32)
        return found

    def _fetched(self, few: IdSet) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        found = self._client.among(self._name, "item_id", few.ids.tolist(), _FIELDS)
        return self._with_items(found)

    def _search_all(
        self, vector: Vectors, k: int, condition: Expression, allowed: IdSet | None = None
    ) -> Ranking:
        """The k best items with a row that meets a condition; all such rows are read."""
        best: Ranking = []
        for page in self._client.pages(self._name, condition.as_filter, _FIELDS):
            some = page if allowed is None else _inside(page, allowed)
            best = merged(best, self._scored(some, vector, k))[:k]
        return best

    def _scored(self, found: list[dict[str, Any]], vector: Vectors, k: int) -> Ranking:
        """The k best items of some rows, by exact score."""
        return best_of(self._with_items(found), vector, k)

    def _with_items(
        self, found: list[dict[str, Any]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """The item ids (n,) of rows, and the rows (n, dim + EXTRA_DIMS)."""
        return _array(row["item_id"] for row in found), self._augmented(found)

    def _augmented(
        self, found: list[dict[str, Any]], *, is_sample: bool = False
    ) -> NDArray[np.float16]:
        """Rows (n, dim + EXTRA_DIMS) as a local index has them.

        Args:
            found: Rows as the server returns them.
            is_sample: Whether they are for the sample, whose mean stands in for unknown hubs: then
                these stay NaN.
        """
        import numpy as np

        vectors = _matrix(found, self._dim)
        hubs = [_hubs(found, name) for name in _HUBS] if is_sample else self._known_hubs(found)
        extra = augmented(vectors[:, :0].astype(np.float32), *hubs).astype(np.float16)
        return np.ascontiguousarray(np.concatenate([vectors, extra], axis=1))

    def _known_hubs(self, found: list[dict[str, Any]]) -> list[Vectors]:
        """The hubs (n,) of rows for each of _HUBS; the mean of the sample where one is unknown."""
        import numpy as np

        hubs = [_hubs(found, name) for name in _HUBS]
        if not any(np.isnan(column).any() for column in hubs):
            return hubs
        means = self._mean_hubs.tolist()
        return [np.where(np.isnan(one), mean, one) for one, mean in zip(hubs, means, strict=True)]

    @cached_property
    def _mean_hubs(self) -> Vectors:
        means: Vectors = self._chance_sample.mean[self._dim :][: len(_HUBS)]
        return means

    # ------------------------------------------------------------------ samples and recall

    def sample(self, n: int) -> Vectors:
        import numpy as np

        found = self._sampled(min(n, self._size))
        if not found:
            return np.zeros((0, self._dim + EXTRA_DIMS), np.float32)
        rows: Vectors = self._augmented(found, is_sample=True).astype(np.float32)
        return rows

    def _sampled(self, n: int) -> list[dict[str, Any]]:
        """Up to n rows, spread evenly over the ids."""
        if n >= self._size:
            found = [row for page in self._client.pages(self._name, "id >= 0", _FIELDS)
                     for row in page]  # fmt: skip
            return found
        low, high = self._ends
        # more ids than n, as those of deleted vectors are not found
        number = min(round(n * (high - low + 1) / self._size), 4 * n + MOST_ROWS)
        ids = [low + place * (high - low + 1) // number for place in range(number)]
        found = sorted(
            self._client.among(self._name, "id", ids, _FIELDS), key=lambda row: row["id"]
        )
        return [found[place * len(found) // n] for place in range(min(n, len(found)))]

    @cached_property
    def _ends(self) -> tuple[int, int]:
        """The lowest id, and an upper bound of all ids."""
        first = next(iter(self._client.iterate(self._name, "id >= 0", ["id"], 1)), [{"id": 0}])
        return int(first[0]["id"]), max(self._last_id, int(first[0]["id"]))

    def recall(self, test: RecallTest, enough: float) -> dict[str, float]:
        """The recall of the candidates that a search begins with; see `RecallTest.recall`."""

        def search(queries: Vectors, one_in: int) -> list[list[int]] | None:
            if one_in > 1 and self._size <= FEW_ROWS * one_in:
                return None  # `search` compares all of so few
            number = max(self.choice.candidates, NEIGHBOURS + MARGIN)
            params = self.choice.params(1 / one_in)
            if "ef" in params:
                params["ef"] = max(params["ef"], number)
            low, high = self._id_range(one_in)
            found = self._client.search(
                self._name,
                queries[:, : self._dim],
                number,
                expression="" if one_in == 1 else f"id >= {low} and id <= {high}",
                params=params,
            )
            return [[row["id"] for row in rows] for rows in found]

        return test.recall(search, enough)

    def recall_test(self, queries: SampleQueries) -> RecallTest:
        """Sample queries (m, dim + EXTRA_DIMS) with their nearest vectors, found by reading all."""

        def passing(ids: NDArray[np.int64], one_in: int) -> NDArray[np.bool_]:
            low, high = self._id_range(one_in)
            inside: NDArray[np.bool_] = (ids >= low) & (ids <= high)
            return inside

        pages = (
            (_array(row["id"] for row in page), self._augmented(page))
            for page in self._client.iterate(self._name, "id >= 0", _FIELDS)
        )
        return RecallTest.of(queries, pages, passing)

    def _id_range(self, one_in: int) -> tuple[int, int]:
        """The first and last id of the middle 1 / `one_in` of all ids.

        Like what passes most filters, such vectors mostly belong to the same folders.
        """
        low, high = self._ends
        margin = int((high - low) * (1 - 1 / one_in) / 2)
        return low + margin, high - margin


def _inside(found: list[dict[str, Any]], allowed: IdSet) -> list[dict[str, Any]]:
    """Those rows whose items are in a set."""
    is_in = allowed.contains(_array(row["item_id"] for row in found)).tolist()
    return [row for row, one in zip(found, is_in, strict=True) if one]


def _is_copied(condition: Any) -> bool:
    """Whether the server can filter vectors by it: its fields are copied to their rows."""
    return isinstance(condition, Expression) and condition.fields <= set(COPIES)


def _array(values: Iterable[int]) -> NDArray[np.int64]:
    import numpy as np

    return np.fromiter(values, np.int64)


def _matrix(found: list[dict[str, Any]], dim: int) -> NDArray[np.float16]:
    """The vectors (n, dim) of rows: lists of floats, or the bytes of float16."""
    import numpy as np

    if found and isinstance(found[0]["vector"], bytes):
        joined = b"".join(row["vector"] for row in found)
        return np.frombuffer(joined, "<f2").reshape(-1, dim)
    matrix = np.array([row["vector"] for row in found], np.float32)
    return matrix.reshape(-1, dim).astype(np.float16)


def _hubs(found: list[dict[str, Any]], name: str) -> Vectors:
    import numpy as np

    return np.array([np.nan if row[name] is None else row[name] for row in found], np.float32)
