"""Nearest neighbours: Milvus names candidates, which are scored exactly with their float16 vectors.

The server knows the plain vectors, and hubs beside them, since hubs change in place. So candidates
come by their cosine, and more of them are asked for until those left out are unlikely to score
higher once their hubs are subtracted. Scores are computed by the same code as those of a local
index, and so are equal to the last bit.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.errors import InvalidOption, StorageFailed
from mmsearch.storage.index_kind import check_recall, want_index, wanted_index
from mmsearch.storage.milvus.client import MOST_ROWS
from mmsearch.storage.milvus.database import Database
from mmsearch.storage.milvus.expressions import EVERYTHING, Expression
from mmsearch.storage.milvus.layout import COPIES, one_of, vectors_name
from mmsearch.storage.records import Space
from mmsearch.storage.store import SettingStore, VectorIndex, VectorIndexes
from mmsearch.storage.transfer import ENGINE
from mmsearch.types import Modality, Ranking
from mmsearch.vectors import AUTO, EXACT
from mmsearch.vectors.exact import as_float32, exact_index, search_exactly
from mmsearch.vectors.hubness import EXTRA_DIMS, augmented
from mmsearch.vectors.id_set import IdSet, LazyIdSet
from mmsearch.vectors.index import merged
from mmsearch.vectors.index_choice import NEIGHBOURS, SAMPLED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage.records import Serving
    from mmsearch.storage.store import SampleQueriesOf
    from mmsearch.types import Vectors

FLAT, HNSW, IVF_RABITQ, DISKANN = "FLAT", "HNSW", "IVF_RABITQ", "DISKANN"

EXACT_BYTES = 256 * 2**20
"""Up to this size, in float16, all rows are compared by the server."""

MEMORY_BYTES = 32 * 2**30
"""Up to this size HNSW, which keeps all vectors in memory, is chosen; above, IVF_RABITQ, whose
codes take a sixteenth."""

EFFORTS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    HNSW: ("ef", (64, 128, 256, 512, 1024, 2048)),
    "HNSW_SQ": ("ef", (64, 128, 256, 512, 1024, 2048)),
    "IVF_FLAT": ("nprobe", (16, 64, 256, 1024)),
    "IVF_SQ8": ("nprobe", (16, 64, 256, 1024)),
    IVF_RABITQ: ("nprobe", (16, 64, 256, 1024)),
    DISKANN: ("search_list", (100, 200, 400, 800)),
}
"""By kind of index, the parameter of a search's effort, and its values, ascending."""

LITE = (HNSW, "HNSW_SQ", "IVF_FLAT", "IVF_SQ8")
"""What milvus-lite has of these."""

CANDIDATES = (100, 400, 1_600)
"""The numbers of candidates that are tried."""

MORE = 16
"""Candidates beyond the k wanted, in case some score alike."""

MOST_CANDIDATES = 4_096
"""A search whose k is smaller asks for no more: a server sends some thousand vectors a second."""

FEW_ROWS = 1_000
"""So many rows that pass a filter are read and compared themselves, if the index is approximate."""

MOST_LISTED = 100_000
"""Ids that an expression lists: a server parses so many in a second."""

LOW_HUBS = 0.005
"""This share of the hubs may be lower than those that a search allows for."""

GROWTH = 0.1
"""An index is chosen, built and measured again once rows have grown or shrunk by this share."""

_HUBS = ("hub_text", "hub_image")
_FIELDS = ("id", "item_id", *_HUBS, "vector")


@dataclass(frozen=True, slots=True)
class Choice:
    """The kind of index of a modality's vectors, as it was chosen and measured.

    Attributes:
        kind: "exact", or Milvus's name of it.
        candidates: Rows that are scored exactly to find the nearest ten.
        effort: Of a search: ef, nprobe or search_list.
        recall: Of the ten nearest, by query modality, and "… 50%" and "… 1%" under filters that
            pass such a share.
        why: In words for the user.
        rows: How many vectors there were then.
    """

    kind: str = EXACT
    candidates: int = CANDIDATES[0]
    effort: int = 0
    recall: dict[str, float] = field(default_factory=dict)
    why: str = "there is nothing yet"
    rows: int = 0

    @property
    def index_type(self) -> str:
        """What Milvus calls it."""
        return FLAT if self.kind == EXACT else self.kind

    def params(self, share: float = 1.0) -> dict[str, int]:
        """What a search is given, under a filter that passes a share of the rows."""
        if self.kind not in EFFORTS:
            return {}
        name, efforts = EFFORTS[self.kind]
        effort = self.effort or efforts[0]
        return {name: min(round(effort / max(share, 1e-3)), 16 * efforts[-1])}


class MilvusIndexes(VectorIndexes):
    """The vector indexes of a store in Milvus.

    Args:
        database: The index's.
        settings: Of the store: what was chosen is kept there.
        folder: Of the local cache.
    """

    def __init__(self, database: Database, settings: SettingStore, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._settings = settings
        self._indexes: dict[tuple[int, Modality], tuple[Hashable, MilvusIndex]] = {}

    def index(self, space: Space, modality: Modality) -> MilvusIndex:
        moment, place = self._database.moment(), (space.id, modality)
        known = self._indexes.get(place)
        if known is None or known[0] != moment:
            choice = self._choice(space, modality)
            known = moment, self._made(space, modality, choice)
            self._indexes[place] = known
        return known[1]

    def _name(self, space: Space, modality: Modality) -> str:
        return self._database.collection(vectors_name((space.id, modality)))

    def _made(self, space: Space, modality: Modality, choice: Choice) -> MilvusIndex:
        return MilvusIndex(self._database, space, modality, choice, self._folder)

    def has(self, space: Space, modality: Modality) -> bool:
        return (space.id, modality) in self._indexes

    def rebuild(
        self, serving: Serving, queries: SampleQueriesOf, *, soon_again: bool = False
    ) -> None:
        for space, modalities in serving:
            for modality in modalities:
                before, rows = self._choice(space, modality), len(self.index(space, modality))
                kind, recall = wanted_index(self._settings)
                changed = abs(rows - before.rows) > GROWTH * before.rows
                if not rows or not (changed or before.kind != self._wanted(kind, rows, space.dim)):
                    continue
                if soon_again and before.rows and rows < 2 * before.rows:
                    continue
                # rows that are not flushed are compared slowly
                for name in (self._name(space, modality), self._database.collection("items")):
                    if name is not None:
                        self._database.client.flush(name)
                chosen = self._chosen(space, modality, queries, kind, recall)
                self._settings.set(_key(space, modality), json.dumps(asdict(chosen)))
        self.clear()

    def configure(self, kind: str | None, recall: float | None) -> None:
        check_recall(recall)
        if kind is not None and kind not in (AUTO, EXACT, *EFFORTS):
            raise InvalidOption(
                f"{kind!r} is no kind of index of Milvus's that mmsearch uses: it is {AUTO!r}, "
                f"{EXACT!r}, {', '.join(map(repr, EFFORTS))}"
            )
        want_index(self._settings, kind, recall)
        self.clear()

    def describe(self, serving: Serving) -> list[dict[str, Any]]:
        found = []
        for space, modalities in serving:
            for modality in modalities:
                choice = self._choice(space, modality)
                if not choice.rows:
                    continue
                about = asdict(choice) | {"rows": len(self.index(space, modality))}
                size = about["rows"] * space.dim * 2
                about |= {"dim": space.dim, "bytes": size, "asked": wanted_index(self._settings)[0]}
                found.append({"model": space.name, "facet": modality, **about})
        return found

    def warnings(self, serving: Serving) -> list[str]:
        least = wanted_index(self._settings)[1]
        return [
            f"{one['facet']}: {one['why']}"
            for one in self.describe(serving)
            if one["asked"] not in (AUTO, EXACT, one["kind"])
            or min(one["recall"].values(), default=1.0) < least
        ]

    def drop(self, space: Space) -> None:
        for modality in get_args(Modality):
            if self._settings.get(_key(space, modality)):
                self._settings.set(_key(space, modality), "")
        self.clear()

    def clear(self) -> None:
        self._indexes = {}

    # ------------------------------------------------------------------ which index

    def _choice(self, space: Space, modality: Modality) -> Choice:
        written = self._settings.get(_key(space, modality))
        return Choice(**json.loads(written)) if written else Choice()

    def _wanted(self, kind: str, rows: int, dim: int) -> str:
        """The kind to try first."""
        if kind != AUTO:
            return kind
        size = rows * dim * 2
        if size <= EXACT_BYTES:
            return EXACT
        return HNSW if size <= MEMORY_BYTES or self._database.client.is_lite else IVF_RABITQ

    def _chosen(
        self,
        space: Space,
        modality: Modality,
        queries: SampleQueriesOf,
        asked: str,
        least: float,
    ) -> Choice:
        """The index that was built, and what a search of it needs for a recall."""
        index = self.index(space, modality)
        rows, wanted = len(index), self._wanted(asked, len(index), space.dim)
        if least >= 1:
            wanted = EXACT
        name = self._name(space, modality)
        choice = Choice(wanted, rows=rows)
        build = self._build_parameters(wanted, rows)
        client = self._database.client
        try:
            if client.is_lite and wanted not in (EXACT, *LITE):  # it would find that out later
                raise StorageFailed("milvus-lite has none")  # noqa: TRY301
            client.reindex(name, "vector", choice.index_type, build)
        except StorageFailed as error:
            client.reindex(name, "vector", FLAT, {})
            why = f"{wanted} cannot be made: {error}"
            return Choice(EXACT, CANDIDATES[-1], rows=rows, why=why)
        sample = {one: some for one, some in queries(space, modality).items() if len(some)}
        if not sample:
            why = f"{rows:,} vectors; there are no queries to measure the recall with"
            return Choice(wanted, rows=rows, why=why)
        truth = Truth.of(index, sample)
        found = choice
        for effort in EFFORTS.get(wanted, ("", (0,)))[1]:
            for candidates in CANDIDATES:
                found = Choice(wanted, candidates, effort, rows=rows)
                recall = truth.recall(
                    MilvusIndex(self._database, space, modality, found, self._folder)
                )
                if min(recall.values()) >= least:
                    shown = f"finds {min(recall.values()):.3f} of the ten nearest to sample queries"
                    why = f"{rows:,} vectors; {shown}, filtered or not"
                    return Choice(wanted, candidates, effort, recall, why, rows)
        if wanted == EXACT or asked != AUTO:
            why = f"{wanted} found {min(recall.values()):.3f}; {least} was asked for"
            return Choice(wanted, found.candidates, found.effort, recall, why, rows)
        self._database.client.reindex(name, "vector", FLAT, {})
        why = f"no other kind finds {least}: {wanted} found {min(recall.values()):.3f}"
        return Choice(EXACT, CANDIDATES[-1], rows=rows, why=why)

    def _build_parameters(self, kind: str, rows: int) -> dict[str, Any]:
        if kind.startswith("HNSW"):
            more = {"sq_type": "SQ8"} if kind == "HNSW_SQ" else {}
            return {"M": 32, "efConstruction": 200, **more}
        if kind.startswith("IVF"):
            cells = {"nlist": max(min(round(4 * rows**0.5), 65_536), 1)}
            return cells | ({"refine": True, "refine_type": "SQ8"} if kind == IVF_RABITQ else {})
        return {}


def _key(space: Space, modality: Modality) -> str:
    return f"{ENGINE}neighbours {space.id} {modality}"


class MilvusIndex(VectorIndex):
    """The vectors of a modality, as of one moment of the store.

    Args:
        database: The index's.
        space: Of the vectors.
        modality: Of the vectors.
        choice: How they are searched.
        folder: Where a sample of them is kept, which every search needs.
    """

    def __init__(
        self, database: Database, space: Space, modality: Modality, choice: Choice, folder: Path
    ) -> None:
        head = database.head()
        self._moment = f"{head['store_id']} {head['revision']} {head['epoch']}"
        self._last_id = int(head["numbers"].get("vectors", 0))
        self._file = folder / f"sample-{space.id}-{modality}.npz"
        self._client = database.client
        self._name = database.collection(vectors_name((space.id, modality)))
        self._dim = space.dim
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

    def search(  # noqa: PLR0911 - a way each
        self, vector: Vectors, k: int, allowed: IdSet | None = None
    ) -> Ranking:
        if k < 1 or not self._size or (allowed is not None and not len(allowed)):
            return []
        if allowed is None:
            return self._search(vector, k, EVERYTHING, self._size)
        if isinstance(allowed, LazyIdSet) and _is_copied(allowed.condition):
            condition: Expression = allowed.condition
            if self.choice.kind != EXACT and len(allowed) <= FEW_ROWS:
                return self._compared(vector, k, condition)
            return self._search(vector, k, condition, len(allowed))
        if len(allowed) <= FEW_ROWS:
            return self._of_items(vector, k, allowed)
        if len(allowed) <= MOST_LISTED:
            listed = Expression(one_of("item_id", allowed.ids.tolist()))
            return self._search(vector, k, listed, len(allowed))
        found = self._search(vector, MOST_ROWS // 2, EVERYTHING, self._size)
        inside = [pair for pair in found if allowed.contains(_array([pair[0]]))[0]]
        return inside[:k] if len(inside) >= k else self._compared(vector, k, EVERYTHING, allowed)

    def _search(self, vector: Vectors, k: int, condition: Expression, number: int) -> Ranking:
        """The best of the rows that fulfil a condition, which so many items do."""
        params = self.choice.params(min(number / self._size, 1.0))
        wanted = k + MORE
        if (
            self.choice.kind != EXACT or vector[self._dim :].any()
        ):  # the order is not that of cosines
            wanted = max(self.choice.candidates, wanted)
        most = max(MOST_CANDIDATES, wanted)
        while True:
            wanted = min(wanted, MOST_ROWS)
            (found,) = self._client.search(
                self._name,
                vector[None, : self._dim],
                wanted,
                expression=condition.text,
                fields=_FIELDS[1:],
                params=params | ({"ef": max(params["ef"], wanted)} if "ef" in params else {}),
            )
            ranking = self._scored(found, vector, k)
            complete = len(ranking) == k
            is_all = len(found) < wanted
            if is_all and self.choice.kind == EXACT:
                return ranking
            if not complete and (is_all or wanted >= most):
                return self._compared(vector, k, condition)
            if complete and (
                is_all
                or wanted >= most
                or ranking[-1][1] >= self._most_beyond(vector, found[-1]["distance"])
            ):
                return self._of_their_best(ranking, vector, k)
            wanted *= 4

    def _of_their_best(self, ranking: Ranking, vector: Vectors, k: int) -> Ranking:
        """The same items, each by the best of its vectors: an approximate index may lack that."""
        if self.choice.kind == EXACT:
            return ranking
        return self._of_items(vector, k, IdSet.of(id_ for id_, _ in ranking))

    def _most_beyond(self, vector: Vectors, cosine: float) -> float:
        """The highest score of a row whose cosine is no higher, unless its hub is very low."""
        weights = vector[self._dim :][: len(_HUBS)]
        return float(cosine + weights @ self._low_hubs) if weights.any() else cosine

    @cached_property
    def _low_hubs(self) -> Vectors:
        import numpy as np

        hubs = self._chance_sample[:, self._dim :][:, : len(_HUBS)]
        found: Vectors = np.quantile(hubs, LOW_HUBS, axis=0).astype(np.float32)
        return found

    def _of_items(self, vector: Vectors, k: int, allowed: IdSet) -> Ranking:
        """The best of the rows of a few items."""
        rows = self._client.among(self._name, "item_id", allowed.ids.tolist(), _FIELDS)
        return self._scored(rows, vector, k)

    def _compared(
        self, vector: Vectors, k: int, condition: Expression, allowed: IdSet | None = None
    ) -> Ranking:
        """The best of all rows that fulfil a condition, each of which is read."""
        best: Ranking = []
        for page in self._client.pages(self._name, condition.as_filter, _FIELDS):
            some = page
            if allowed is not None:
                inside = allowed.contains(_array(row["item_id"] for row in page)).tolist()
                some = [row for row, is_in in zip(page, inside, strict=True) if is_in]
            best = merged(best, self._scored(some, vector, k))[:k]
        return best

    def _scored(self, found: list[dict[str, Any]], vector: Vectors, k: int) -> Ranking:
        """The best of some rows by exact scores."""
        if not found:
            return []
        rows = self._augmented(found)
        items = _array(row["item_id"] for row in found)
        return search_exactly(exact_index(rows), items, vector, k, len(rows))

    def _augmented(
        self, found: list[dict[str, Any]], *, is_sample: bool = False
    ) -> NDArray[np.float16]:
        """Rows (n, dim + EXTRA_DIMS) as a local index has them.

        A hub that is not known yet is the mean of those in a sample.
        """
        import numpy as np

        vectors = _matrix(found, self._dim)
        hubs = [_hubs(found, name) for name in _HUBS]
        if not is_sample and any(np.isnan(column).any() for column in hubs):
            hubs = [
                np.where(np.isnan(column), mean, column)
                for column, mean in zip(hubs, self._mean_hubs, strict=True)
            ]
        extra = augmented(vectors[:, :0].astype(np.float32), *hubs).astype(np.float16)
        return np.ascontiguousarray(np.concatenate([vectors, extra], axis=1))

    @cached_property
    def _mean_hubs(self) -> Vectors:
        means: Vectors = self._chance_sample[:, self._dim :][:, : len(_HUBS)].mean(axis=0)
        return means

    # ------------------------------------------------------------------ what a search is judged by

    def sample(self, n: int) -> Vectors:
        import numpy as np

        found = self._sampled(min(n, self._size))
        if not found:
            return np.zeros((0, self._dim + EXTRA_DIMS), np.float32)
        rows: Vectors = self._augmented(found, is_sample=True).astype(np.float32)
        return rows

    def mean(self) -> Vectors:
        mean: Vectors = self._chance_sample.mean(axis=0)
        return mean

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        scores = (self._chance_sample @ vector).astype(float)
        return len(scores), float(scores.mean()), float((scores * scores).mean())

    def warm_up(self) -> None:
        _ = self._chance_sample

    @cached_property
    def _chance_sample(self) -> Vectors:
        import numpy as np

        with suppress(OSError, ValueError, KeyError), np.load(self._file) as kept:
            if str(kept["moment"]) == self._moment:
                rows: Vectors = kept["rows"].astype(np.float32)
                return rows
        sample = self.sample(SAMPLED)
        with suppress(OSError):  # only the next process is slower for it
            self._file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self._file.with_suffix(f".{uuid.uuid4().hex[:6]}.part")
            with unfinished.open("wb") as file:
                np.savez(file, moment=np.array(self._moment), rows=sample.astype(np.float16))
            unfinished.replace(self._file)
        return sample

    def _sampled(self, n: int) -> list[dict[str, Any]]:
        """At most n rows, evenly strided in order of their ids."""
        if n >= self._size:
            found = [row for page in self._client.pages(self._name, "id >= 0", _FIELDS)
                     for row in page]  # fmt: skip
            return found
        low, high = self._ends
        # ids that are gone are not found: as many more are asked for
        number = min(round(n * (high - low + 1) / self._size), 4 * n + MOST_ROWS)
        ids = [low + place * (high - low + 1) // number for place in range(number)]
        found = sorted(
            self._client.among(self._name, "id", ids, _FIELDS), key=lambda row: row["id"]
        )
        return [found[place * len(found) // n] for place in range(min(n, len(found)))]

    @cached_property
    def _ends(self) -> tuple[int, int]:
        """The lowest id, and one that none exceeds."""
        first = next(iter(self._client.iterate(self._name, "id >= 0", ["id"], 1)), [{"id": 0}])
        return int(first[0]["id"]), max(self._last_id, int(first[0]["id"]))

    def candidate_ids(
        self, vectors: Vectors, number: int, condition: str, share: float
    ) -> list[list[int]]:
        """The ids of the first candidates of each query (m, dim + EXTRA_DIMS)."""
        params = self.choice.params(share)
        if "ef" in params:
            params["ef"] = max(params["ef"], number)
        found = self._client.search(
            self._name,
            vectors[:, : self._dim],
            number,
            expression=condition,
            fields=["item_id"],
            params=params,
        )
        return [[row["id"] for row in rows] for rows in found]

    def stretch(self, share: float) -> tuple[int, int]:
        """The first and the last of the middle ids, a share of all.

        Such vectors are of the same folders, as those that filters pass mostly are.
        """
        low, high = self._ends
        margin = int((high - low) * (1 - share) / 2)
        return low + margin, high - margin

    def every_row(self) -> Iterable[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """Pages of the ids (n,) of vectors, and their rows (n, dim + EXTRA_DIMS)."""
        for page in self._client.iterate(self._name, "id >= 0", _FIELDS):
            yield _array(row["id"] for row in page), self._augmented(page)


_SHARES = {"": 1.0, " 50%": 0.5, " 1%": 0.01}
"""The filters that recall is measured under: how each is shown, and the share of rows it passes."""

MEASURED = 32
"""Queries of each modality that recall is measured with."""


@dataclass
class Truth:
    """The vectors that are nearest to sample queries, by comparing all of them.

    Attributes:
        queries: By their modality.
        conditions: By the name of a filter, an expression that passes its share of the rows.
        nearest: By query modality and filter, the ids (m, NEIGHBOURS) of the nearest.
    """

    queries: dict[str, Vectors]
    conditions: dict[str, str]
    nearest: dict[tuple[str, str], list[set[int]]]

    @classmethod
    def of(cls, index: MilvusIndex, queries: Mapping[str, Vectors]) -> Truth:
        """The truth about an index, all of whose vectors are read, a page at a time."""
        some = {one: rows[:MEASURED] for one, rows in queries.items()}
        stretches = {name: index.stretch(share) for name, share in _SHARES.items()}
        best = {
            (modality, name): _Nearest(rows)
            for name in stretches
            for modality, rows in some.items()
        }
        for ids, rows in index.every_row():
            for name, (low, high) in stretches.items():
                inside = (ids >= low) & (ids <= high)
                for modality in some if inside.any() else ():
                    best[modality, name].add(ids[inside], rows[inside])
        conditions = {
            name: f"id >= {low} and id <= {high}" if name else ""
            for name, (low, high) in stretches.items()
        }
        return cls(some, conditions, {place: one.ids() for place, one in best.items()})

    def recall(self, index: MilvusIndex) -> dict[str, float]:
        """The share of the nearest that are among an index's first candidates."""
        found: dict[str, float] = {}
        for (modality, name), nearest in self.nearest.items():
            share, number = _SHARES[name], max(index.choice.candidates, NEIGHBOURS + MORE)
            if share * len(index) <= FEW_ROWS and name:
                found[modality + name] = 1.0  # those are compared themselves
                continue
            candidates = index.candidate_ids(
                self.queries[modality], number, self.conditions[name], share
            )
            hits = [len(true & set(ids)) for true, ids in zip(nearest, candidates, strict=True)]
            found[modality + name] = round(sum(hits) / sum(map(len, nearest)), 4)
        return found


class _Nearest:
    """The rows of the highest inner products with each of some queries (m, dim)."""

    def __init__(self, queries: Vectors) -> None:
        import numpy as np

        self._queries = queries
        self._scores = np.zeros((len(queries), 0), np.float32)
        self._ids = np.zeros((len(queries), 0), np.int64)

    def add(self, ids: NDArray[np.int64], rows: NDArray[np.float16]) -> None:
        """Compare rows (n, dim), whose ids (n,) are given."""
        import numpy as np

        scores = self._queries @ as_float32(rows).T
        scores = np.concatenate([self._scores, scores], axis=1)
        known = np.concatenate([self._ids, np.broadcast_to(ids, (len(scores), len(ids)))], axis=1)
        kept = np.argsort(-scores, axis=1)[:, :NEIGHBOURS]
        self._scores = np.take_along_axis(scores, kept, axis=1)
        self._ids = np.take_along_axis(known, kept, axis=1)

    def ids(self) -> list[set[int]]:
        """Of each query."""
        return [set(some) for some in self._ids.tolist()]


def _is_copied(condition: Any) -> bool:
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
    return matrix.astype(np.float16)


def _hubs(found: list[dict[str, Any]], name: str) -> Vectors:
    import numpy as np

    return np.array([np.nan if row[name] is None else row[name] for row in found], np.float32)
