"""The nearest neighbours of a query by pgvector, among the vectors of a space and modality.

PostgreSQL computes the same scores as a local index. What a query loses by rounding to float16 is
sent as a second vector, so that both inner products add up to the cosine that NumPy computes
(1e-6). Hubs are subtracted here, and no vector is sent to the client.

If the rows are few, or those that pass a filter, all are compared; the ids of those that pass are
fetched once, since the server's planner would estimate their number badly. If they are many, an
HNSW index over the vectors finds candidates.

A statement is compiled once, and prepared on the server once per connection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Double,
    Select,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.types import NullType

from mmsearch.storage.postgres import functions
from mmsearch.storage.postgres.filters import is_in
from mmsearch.storage.records import Space
from mmsearch.storage.sql.conditions import Dialect, compiled
from mmsearch.storage.sql.database import Prepared, is_one_of, is_one_of_ids, together
from mmsearch.storage.sql.schema import items, sources, vectors
from mmsearch.storage.sql.types import id_list
from mmsearch.storage.store import VectorIndex
from mmsearch.types import Modality, Ranking
from mmsearch.vectors.exact import DECIMALS, as_float32, ranked
from mmsearch.vectors.few_rows import FewRows
from mmsearch.vectors.hubness import SLOTS, augmented
from mmsearch.vectors.id_set import FEW, IdSet, LazyIdSet
from mmsearch.vectors.index_choice import SAMPLED, IndexChoice
from mmsearch.vectors.sample import ChanceSample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage.postgres.database import Database
    from mmsearch.types import Vectors
    from mmsearch.vectors.exact import Float16Rows

HNSW = "hnsw"
"""The kind of index that pgvector builds."""

MAX_EFFORT = 1_000
"""The highest ef_search of HNSW that pgvector accepts: the candidates that a search keeps."""

FEW_ROWS = 2_000
"""Up to this many items that pass a filter, their rows are fetched once and compared here: the next
query with that filter needs no search on the server."""

STEP_COST = 4
"""HNSW visits a row and tests the filter in the time that comparing this many rows takes."""

MARGIN = 16
"""Rows beyond k that are scored, for ties and for errors of rounding."""

MARGIN_WITH_HUBS = 64
"""The same where hubs may change the order."""

MAX_STATEMENTS = 64
"""Compiled searches that are cached: one for each filter and number of results."""

_SCALE = 2048.0
"""The factor that makes the rounding error of a query a normal float16."""


@dataclass(frozen=True, slots=True)
class IndexState:
    """The vectors of a space and modality at a revision, and how they are searched.

    It is stored as a setting, by these names.
    """

    revision: int
    rows: int
    """The number of vectors."""
    choice: IndexChoice = field(default_factory=lambda: IndexChoice(why="there is nothing yet"))
    measured: int = 0
    """The number of rows when the recall was last measured."""
    given_up: int = 0
    """The number of rows when HNSW missed the recall; it is not built again before they double."""
    found: float = 1.0
    """The recall that HNSW then reached, of the hardest kind of query."""
    found_for: str = ""
    """The recalls that it then reached, as text."""


class PgVectorIndex(VectorIndex):
    """The vectors of a space and modality.

    Args:
        database: The store's.
        space: The space of the vectors.
        modality: The modality of the vectors.
        state: How many there are, and how they are searched.
        statements: The cache of compiled searches, which indexes share.
        sample_file: The file that caches a sample of the vectors; None: none does.
    """

    def __init__(
        self,
        database: Database,
        space: Space,
        modality: Modality,
        state: IndexState,
        statements: dict[Any, Prepared],
        sample_file: Path | None = None,
    ) -> None:
        self._database = database
        self._space, self._modality = space, modality
        self._state = state
        self._statements = statements
        self._sample_file = sample_file
        self._few = FewRows(self._fetched)

    def __len__(self) -> int:
        return self._state.rows

    def items(self) -> IdSet:
        import numpy as np

        own = select(vectors.c.item_id).where(self._own).distinct()
        return IdSet.of(np.array(self._database.scalars(own), np.int64))

    # ------------------------------------------------------------------ searching

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        if not self._state.rows or k < 1 or (allowed is not None and not len(allowed)):
            return []
        if isinstance(allowed, LazyIdSet) and len(allowed) <= FEW_ROWS:
            return self._few.search(allowed, vector, k)
        query = _Query(vector, self._space.dim)
        if not self.compares_all(k, allowed):
            found = self._by_index(query, k, allowed)
            if found is not None:
                return found
        return self._exactly(query, k, allowed)

    def compares_all(self, k: int, allowed: IdSet | None = None) -> bool:
        """Whether a search compares all allowed rows, as there is no HNSW or it would take longer.

        HNSW has to visit k / share rows until k have passed a filter, if so many pass at all.
        """
        if self._state.choice.kind != HNSW:
            return True
        if allowed is None:
            return False
        rows = self._state.rows
        passing = min(len(allowed), rows)
        visited = (k + MARGIN) * rows / max(passing, 1)
        return passing <= max(FEW_ROWS, STEP_COST * visited)

    def _exactly(self, query: _Query, k: int, allowed: IdSet | None) -> Ranking:
        wanted = k + MARGIN_WITH_HUBS
        if isinstance(allowed, LazyIdSet) and len(allowed) <= FEW:
            allowed = IdSet.of(allowed.ids)
        with self._database.read() as connection:
            while True:
                statement, more = self._prepared(query, allowed, wanted, by_index=False)
                rows = statement.of(connection, **query.parameters, **query.weights, **more)
                ranking = query.ranking(rows)
                if len(rows) < wanted:
                    return ranking[:k]
                # done if no row beyond those found can be among the first k
                worst = max(row[-1] for row in rows)
                if len(ranking) >= k and ranking[k - 1][1] > query.margin - worst:
                    return ranking[:k]
                wanted *= 4

    def _by_index(self, query: _Query, k: int, allowed: IdSet | None) -> Ranking | None:
        """The best of the candidates from HNSW, with hubs subtracted; None if they are too few."""
        effort = self._state.choice.effort
        wanted = k + (MARGIN_WITH_HUBS if query.weights else MARGIN)
        if allowed is None and query.weights:
            wanted = max(wanted, effort)  # HNSW keeps that many candidates anyway
        number = self._state.rows if allowed is None else len(allowed)
        search = {
            "effort": str(min(max(effort, wanted), MAX_EFFORT)),
            "most": str(max(20_000, math.ceil(8 * wanted * self._state.rows / number))),
        }
        statement, more = self._prepared(query, allowed, wanted, by_index=True)
        with self._database.read() as connection:
            if connection.info.get(_SET) != search:
                _SET.of(connection, **search)
                connection.info[_SET] = search
            given = {**query.parameters, **more}
            if allowed is None:
                rows = statement.of(connection, **given)
            else:  # without sorting, or the planner would choose not to use the index
                _, rows, _ = together(connection, (_NO_SORT, {}), (statement, given), (_SORT, {}))
        ranking = query.ranking(rows)
        return ranking[:k] if len(ranking) >= min(k, number) else None

    # ------------------------------------------------------------------ statements

    def _prepared(
        self, query: _Query, allowed: IdSet | None, most: int, *, by_index: bool
    ) -> tuple[Prepared, dict[str, Any]]:
        """A search, compiled once per filter, and its parameters besides those of the query."""
        more: dict[str, Any] = {}
        condition: Any = None
        if isinstance(allowed, LazyIdSet):
            condition = allowed.condition
        elif allowed is not None:
            condition, more = IdSet, {"ids": id_list(allowed.ids.tolist())}
        hubs = tuple(query.weights)
        key = self._space.id, self._space.dim, self._modality, by_index, most, hubs, condition
        cache = self._statements
        if (found := cache.get(key)) is None:
            found = Prepared(self._statement(hubs, allowed, most, by_index=by_index))
            if len(cache) >= MAX_STATEMENTS:
                cache.pop(next(iter(cache), None), None)  # another thread may empty it meanwhile
            cache[key] = found
        return found, more

    def _statement(
        self, hubs: tuple[str, ...], allowed: IdSet | None, most: int, *, by_index: bool
    ) -> Select[Any]:
        """A query for rows (item_id, high, low, hubs…, rough) in ascending order of rough distance.

        `high` and `low` are the distances to the two parts of the query, which add up.

        Args:
            hubs: The hub columns to subtract.
            allowed: The items to search; the ids of a set that is no filter are the parameter
                `ids`.
            most: The number of rows: a literal, so that the server plans for it.
            by_index: Whether HNSW finds the rows, which ignores hubs.
        """
        v = vectors.alias("v")
        rough = _distance(f"v.{indexed(self._space.dim)}" if by_index else "v.vector", "high")
        for hub in () if by_index else hubs:
            rough = rough - func.coalesce(v.c[hub], 0.0) * bindparam(hub, type_=Double())
        columns = [literal_column(f"v.{one}", NullType()).label(one) for one in ("vector", *hubs)]
        own = text(f"v.space_id = {self._space.id:d} AND v.modality = '{self._modality}'")
        first = select(v.c.item_id, *columns, rough.label("rough")).where(own)
        if isinstance(allowed, EachNth):
            first = first.where(v.c.item_id % allowed.condition == 0)
        elif isinstance(allowed, LazyIdSet) and by_index:  # tested for each row HNSW visits
            passes = compiled(allowed.condition, Dialect(functions, few=True))
            joined = v.join(items, items.c.id == v.c.item_id).outerjoin(sources)
            first = first.select_from(joined).where(passes)
        elif isinstance(allowed, LazyIdSet):
            first = first.where(is_in(v.c.item_id, allowed))
        elif allowed is not None:
            first = first.where(is_one_of_ids(v.c.item_id))
        inner = first.order_by(rough).limit(literal_column(str(int(most)))).subquery("v")
        return select(
            inner.c.item_id,
            _distance("v.vector", "high").label("high"),
            _distance("v.vector", "low").label("low"),
            *(inner.c[name] for name in hubs),
            inner.c.rough,
        )

    # ------------------------------------------------------------------ reading rows

    def sample(self, n: int) -> Vectors:
        rows = len(self)
        n = min(n, rows)
        chosen = None
        if n < rows:
            # row numbers i · rows / n by arithmetic: a list would be scanned for each row
            each = func.row_number().over(order_by=vectors.c.id) - 1
            numbered = select(vectors.c.id, each.label("n")).where(self._own).subquery()
            number = numbered.c.n
            which = (number * n + rows - 1) // rows
            is_chosen = (which * rows // n == number) & (number < rows)
            ids = self._database.scalars(select(numbered.c.id).where(is_chosen))
            chosen = is_one_of(vectors.c.id, ids)
        return as_float32(self._read(chosen)[1])

    def _fetched(self, few: IdSet) -> tuple[NDArray[np.int64], Float16Rows]:
        return self._read(is_one_of(vectors.c.item_id, few.ids.tolist()))

    @property
    def _own(self) -> ColumnElement[bool]:
        c = vectors.c
        return (c.space_id == self._space.id) & (c.modality == self._modality)

    def _read(self, condition: ColumnElement[bool] | None) -> tuple[NDArray[np.int64], Float16Rows]:
        """The rows (n, dim + EXTRA_DIMS) that meet a condition, after the item id (n,) of each."""
        import numpy as np

        c = vectors.c
        chosen = select(c.item_id, c.vector, c.hub_text, c.hub_image).where(self._own)
        if condition is not None:
            chosen = chosen.where(condition)
        found = self._database.rows(chosen.order_by(c.id))
        matrix = np.frombuffer(b"".join(row.vector for row in found), "<f2")
        hubs = np.array([(row.hub_text or 0, row.hub_image or 0) for row in found], np.float32)
        rows = augmented(
            matrix.astype(np.float32).reshape(len(found), self._space.dim),
            *hubs.reshape(-1, 2).T,
        )
        return np.array([row.item_id for row in found], np.int64), rows.astype(np.float16)

    @cached_property
    def _chance_sample(self) -> ChanceSample:
        revision = str(self._state.revision)
        return ChanceSample.read_or_draw(self._sample_file, revision, lambda: self.sample(SAMPLED))

    def mean(self) -> Vectors:
        return self._chance_sample.mean

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        return self._chance_sample.moments(vector)

    def warm_up(self) -> None:
        _ = self._chance_sample


class _Query:
    """A query (dim + EXTRA_DIMS,) as parameters of a statement, and the scores of its rows."""

    def __init__(self, vector: Vectors, dim: int) -> None:
        import numpy as np
        from pgvector import HalfVector

        whole = np.asarray(vector, np.float32)
        high = whole[:dim].astype(np.float16)
        rest = whole[:dim] - high.astype(np.float32)
        self.parameters: dict[str, Any] = {
            "high": HalfVector(high),
            "low": HalfVector((rest * np.float32(_SCALE)).astype(np.float16)),
        }
        weights = {f"hub_{of}": float(whole[dim + slot]) for of, slot in SLOTS.items()}
        self.weights = {name: weight for name, weight in weights.items() if weight}
        """The weights of hubs that are not 0, by column."""
        self.margin = float(np.linalg.norm(rest)) + sum(map(abs, weights.values())) * 2.0**-11
        """How far a rough score may be from the exact one, whose hubs are rounded to float16."""

    def ranking(self, rows: list[Any]) -> Ranking:
        """The ranking of the rows that a statement returned, by exact score."""
        import numpy as np

        if not rows:
            return []
        ids, high, low, *hubs, _ = zip(*rows, strict=True)
        scores = -(np.array(high) + np.array(low) / _SCALE)
        for weight, column in zip(self.weights.values(), hubs, strict=True):
            known = [hub or 0.0 for hub in column]
            scores += weight * np.array(known, np.float16).astype(np.float64)
        return ranked(ids, scores.round(DECIMALS).tolist())


class EachNth(LazyIdSet):
    """Every n-th id: a filter to measure recall with."""

    def __init__(self, nth: int, number: int) -> None:
        super().__init__(nth, lambda: number, _never_fetched)


def _never_fetched(among: Any) -> NDArray[np.int64]:
    raise NotImplementedError


def indexed(dim: int) -> str:
    """The SQL expression that HNSW indexes.

    It has no hubs: as a further dimension they would attract links, and queries across the modality
    gap would miss their nearest rows.
    """
    return f"vector::halfvec({dim})"


def _distance(vector_sql: str, parameter: str) -> ColumnElement[float]:
    """The negative inner product of a row's vector with a parameter."""
    query = bindparam(parameter, type_=NullType())
    vector = literal_column(vector_sql, NullType())
    found: ColumnElement[float] = vector.op("<#>", precedence=6, return_type=Double())(query)
    return found


def _set_config(name: str, value: ColumnElement[str], local: str = "false") -> ColumnElement[Any]:
    """Sets a server parameter for the session, or for the transaction if `local` is "true"."""
    parameter: ColumnElement[str] = literal_column(f"'{name}'")
    return func.set_config(parameter, value, literal_column(local)).label(name)


_SEARCH_SETTINGS: tuple[ColumnElement[Any], ...] = (
    _set_config("hnsw.ef_search", bindparam("effort", type_=Text())),
    _set_config("hnsw.max_scan_tuples", bindparam("most", type_=Text())),
    _set_config("hnsw.iterative_scan", literal_column("'relaxed_order'")),
)

_SET = Prepared(select(*_SEARCH_SETTINGS))

_NO_SORT, _SORT = (
    Prepared(select(_set_config("enable_sort", literal_column(f"'{value}'"), local="true")))
    for value in ("off", "on")
)
