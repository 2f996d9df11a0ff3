"""The recall of an index that a server searches, and the least search effort that reaches a target.

The rows are read once, page by page, and compared with sample queries of each kind: these are the
true neighbours. The server then searches for the same queries with growing effort, without a filter
and with filters.

Queries in words are harder than others, since they lie far from what they match (the modality gap).
Vectors that were imported without their model have none. Stored vectors with noise, as far from
what they match, stand in for them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from mmsearch.vectors.exact import as_float32
from mmsearch.vectors.index_choice import NEIGHBOURS, IndexChoice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.exact import Float16Rows
    from mmsearch.vectors.index_choice import SampleQueries

    Pages = Iterable[tuple[NDArray[np.int64], Float16Rows]]
    """Ids (n,), and their rows (n, dim)."""

    Search = Callable[[Vectors, int], Sequence[Collection[int]] | None]
    """Given queries (m, dim) and a key of FILTERS: the ids found for each query; None if the search
    compares all rows that pass, and so misses none."""

FILTERS: Mapping[int, str] = {1: "", 2: ", 50 % pass", 100: ", 1 % pass"}
"""The filters that recall is measured with, and how they are described: one row in 1, 2, 100
passes."""

QUERIES = 128
"""The most queries of each kind that recall is measured with. HNSW tends to find all or none of a
query's neighbours, so with fewer queries the sampling error would exceed 0.02."""

GAP = "gap"
"""The kind of the queries that stand in for those in words."""

GAP_NOISE = 1.5
"""The length of the noise in them, which makes the cosine to what they match about 0.55."""

Choice = TypeVar("Choice", bound=IndexChoice)


@dataclass(frozen=True, slots=True)
class RecallTest:
    """Sample queries, and the ids of the rows that are nearest to them."""

    queries: Mapping[str, Vectors]
    """(m, dim) by kind: the modality of the queries, or GAP."""
    nearest: Mapping[tuple[str, int], Sequence[set[int]]]
    """By kind and key of FILTERS: for each query, the ids of its NEIGHBOURS nearest rows."""

    @classmethod
    def of(
        cls,
        queries: SampleQueries,
        pages: Pages,
        passing: Callable[[NDArray[np.int64], int], NDArray[np.bool_]],
    ) -> RecallTest:
        """A test with up to QUERIES queries of each kind.

        Args:
            queries: (m, dim) by kind.
            pages: All rows.
            passing: Given ids (n,) and a key of FILTERS, which of them pass: (n,) bool.
        """
        few = {kind: _sampled(rows) for kind, rows in queries.items() if len(rows)}
        best = {(kind, one_in): _NearestRows(few[kind]) for kind in few for one_in in FILTERS}
        for ids, rows in pages:
            for one_in in FILTERS:
                passes = slice(None) if one_in == 1 else passing(ids, one_in)
                for kind in few:
                    best[kind, one_in].add(ids[passes], rows[passes])
        return cls(few, {key: one.ids() for key, one in best.items()})

    def recall(self, search: Search, enough: float = 0.0) -> dict[str, float]:
        """The recall of a search, by kind of query and filter, as described in FILTERS.

        Args:
            search: The search.
            enough: After the first recall below this, the others are not measured.
        """
        recalls: dict[str, float] = {}
        for (kind, one_in), nearest in self.nearest.items():
            ids = search(self.queries[kind], one_in)
            hits = total = sum(map(len, nearest))
            if ids is not None:
                both = zip(nearest, ids, strict=True)
                hits = sum(len(own.intersection(some)) for own, some in both)
            # of few rows, perhaps none passes: nothing is missed then
            recalls[kind + FILTERS[one_in]] = round(hits / total, 4) if total else 1.0
            if hits < enough * total:
                break
        return recalls


def least_effort(
    choices: Sequence[Choice], recall: Callable[[Choice, float], dict[str, float]], target: float
) -> Choice:
    """The first choice that reaches a recall, with the recalls measured; the last if none does.

    Args:
        choices: At least one, in order of effort, with which recall grows.
        recall: Measures the recalls of a choice; it may stop after the first below its second
            argument.
        target: The recall to reach, 0 to 1.
    """
    aim = target + (1 - target) / 4  # the recall of a sample is an estimate
    found: Choice | None = None
    low, high = 0, len(choices) - 1
    while low < high:  # half of the choices are left each time
        middle = (low + high) // 2
        measured = replace(choices[middle], recall=recall(choices[middle], aim))
        if min(measured.recall.values()) >= aim:
            found, high = measured, middle
        else:
            low = middle + 1
    if found is None:
        found = replace(choices[-1], recall=recall(choices[-1], 0.0))
    return replace(found, why=f"found {in_words(found)}; {target} was asked for")


def in_words(choice: IndexChoice) -> str:
    """The measured recalls of a choice as text."""
    shares = ", ".join(f"{share:.3f} for {name}" for name, share in choice.recall.items())
    return f"{shares} of the ten nearest to sample queries on the server"


def why_exact(target: float, kind: str, found: str) -> str:
    """Why all vectors are compared after an index was built and measured.

    Args:
        target: The recall that was to be reached.
        kind: The kind of index that was built.
        found: Its recalls, from `in_words`.
    """
    return f"no other kind finds {target}: {kind} found {found}"


def recall_queries(samples: SampleQueries, dim: int, *, imported: bool) -> dict[str, Vectors]:
    """The sample queries of an index to measure recall with, without kinds that have none.

    Args:
        samples: (m, dim and more) by modality.
        dim: The numbers of a vector, without those of hubs.
        imported: Whether the vectors came without their model: then GAP queries are added.
    """
    queries = {kind: rows for kind, rows in samples.items() if len(rows)}
    return with_gap(queries, dim) if imported and len(queries) == 1 else queries


def with_gap(queries: SampleQueries, dim: int) -> dict[str, Vectors]:
    """Queries (m, dim and more) of one kind, and GAP queries made of them."""
    import numpy as np

    ((_, rows),) = queries.items()
    noise = np.random.default_rng(0).standard_normal((len(rows), dim))
    noise *= GAP_NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    far = rows.copy()
    far[:, :dim] += noise
    far[:, :dim] /= np.linalg.norm(far[:, :dim], axis=1, keepdims=True)
    return {**queries, GAP: far}


def _sampled(rows: Vectors) -> Vectors:
    return rows[:: max(1, len(rows) // QUERIES)][:QUERIES]


class _NearestRows:
    """The NEIGHBOURS rows of the highest inner products with each of some queries (m, dim)."""

    def __init__(self, queries: Vectors) -> None:
        import numpy as np

        self._queries = queries
        self._scores = np.zeros((len(queries), 0), np.float32)
        self._ids = np.zeros((len(queries), 0), np.int64)

    def add(self, ids: NDArray[np.int64], rows: Float16Rows) -> None:
        """Compare more rows (n, dim), with their ids (n,)."""
        import numpy as np

        scores = self._queries @ as_float32(rows).T
        scores = np.concatenate([self._scores, scores], axis=1)
        known = np.concatenate([self._ids, np.broadcast_to(ids, (len(scores), len(ids)))], axis=1)
        most = min(NEIGHBOURS, scores.shape[1])
        kept = np.argpartition(-scores, most - 1, axis=1)[:, :most] if most else known[:, :0]
        self._scores = np.take_along_axis(scores, kept, axis=1)
        self._ids = np.take_along_axis(known, kept, axis=1)

    def ids(self) -> list[set[int]]:
        """The ids for each query."""
        return [set(some) for some in self._ids.tolist()]
