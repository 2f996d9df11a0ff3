"""The nearest neighbours of a query by pgvector, among the vectors of a space and modality.

PostgreSQL computes the same scores as a local index. What a query loses by rounding to float16 is
sent as a second vector, so that both inner products add up to the cosine that NumPy computes
(1e-6). Hubs are subtracted here, and no vector is sent to the client.

If there are few rows, all are compared. Otherwise one statement tests a filter for a sample of
items (the server's planner would estimate badly how many pass), and if enough pass, applies it to
the candidates that HNSW finds. If not, another one looks up the passing items to a limit, and
compares them if they are few; with many, an iterative HNSW scan continues until enough have passed.

A statement is prepared on the server once per connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from mmsearch.storage.postgres.filters import NESTED_LOOPS_ONLY, PassingItems, execute_pipelined
from mmsearch.storage.records import Space
from mmsearch.storage.server_index import ServerIndex
from mmsearch.storage.sql.database import driver_of_connection
from mmsearch.storage.sql.types import id_list
from mmsearch.types import Modality, Ranking
from mmsearch.vectors.exact import DECIMALS, as_float32, ranked
from mmsearch.vectors.few_rows import FewRows
from mmsearch.vectors.hubness import EXTRA_DIMS, SLOTS
from mmsearch.vectors.id_set import IdSet, LazyIdSet
from mmsearch.vectors.index_choice import IndexChoice

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
"""Up to this many items that pass a filter, their rows are fetched for the second query with that
filter, and compared here: later ones need no search on the server."""

STEP_COST = 4
"""HNSW visits a row and tests the filter in the time that comparing this many rows takes."""

SHARE_SAMPLE = 64
"""Up to so many items are tested for a new filter, to estimate the share that passes."""

MARGIN = 16
"""Rows beyond k that are scored, for ties and for errors of rounding."""

MARGIN_WITH_HUBS = 64
"""The same where hubs may change the order."""

MIN_SCANNED = 20_000
"""Rows that HNSW may visit at least until enough have passed a filter: pgvector's default."""

_SCALE = 2048.0
"""The factor that makes the rounding error of a query a normal float16."""

_GOLDEN = 0.618034
"""The golden ratio: its multiples' fractions are spread evenly over 0 to 1."""


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


class PgVectorIndex(ServerIndex):
    """The vectors of a space and modality.

    Args:
        database: The store's.
        space: The space of the vectors.
        modality: The modality of the vectors.
        state: How many there are, and how they are searched.
        sample_file: The file that caches a sample of the vectors; None: none does.
    """

    def __init__(
        self,
        database: Database,
        space: Space,
        modality: Modality,
        state: IndexState,
        sample_file: Path | None = None,
    ) -> None:
        super().__init__(str(state.revision), sample_file)
        self._database = database
        self._space, self._modality = space, modality
        self._state = state
        self._few = FewRows(self._fetched)
        self._searched_once: WeakSet[PassingItems] = WeakSet()
        """Filters that did not pass enough of HNSW's candidates once; the next search with one that
        few items pass is by `FewRows`."""
        self._sample_counts: WeakKeyDictionary[PassingItems, int] = WeakKeyDictionary()
        """How many of the sampled items pass each filter."""

    def __len__(self) -> int:
        return self._state.rows

    def items(self) -> IdSet:
        import numpy as np

        own = f"SELECT DISTINCT item_id FROM vectors v WHERE {self._own}"  # noqa: S608 - constants
        return IdSet.of(np.array(self._database.driver_rows(own, ()), np.int64).reshape(-1))

    # ------------------------------------------------------------------ searching

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        if not self._state.rows or k < 1:
            return []
        query = _Query(vector, self._space.dim)
        found = None
        if self._untested(allowed) is not None or self._enough_candidates_pass(k, allowed):
            found = self._by_hnsw(query, k, allowed)
        if found is None and isinstance(allowed, PassingItems):
            found = self._among_few(query, k, allowed)
        if found is None and allowed is not None and not self._all_are_compared(k, allowed):
            found = self._by_filtered_hnsw(query, k, allowed)
        return self._exactly(query, k, allowed) if found is None else found

    def compares_all(self, k: int, allowed: IdSet | None = None) -> bool:
        """Whether a search compares all allowed rows: there is no HNSW, or it would take longer."""
        return not self._enough_candidates_pass(k, allowed) and self._all_are_compared(k, allowed)

    def _all_are_compared(self, k: int, allowed: IdSet | None) -> bool:
        """Whether to compare all allowed rows is quicker than HNSW among these."""
        if self._state.choice.kind != HNSW:
            return True
        limit = self._most_compared(k)
        return allowed is not None and allowed.count_up_to(limit + 1) <= limit

    def _most_compared(self, k: int) -> int:
        """Up to so many rows that pass a filter, comparing them all is quicker than HNSW.

        HNSW has to visit (k + MARGIN) / share rows until enough have passed.
        """
        return max(FEW_ROWS, math.isqrt(STEP_COST * (k + MARGIN) * self._state.rows))

    def _exactly(self, query: _Query, k: int, allowed: IdSet | None) -> Ranking:
        """The best allowed rows, all compared."""
        condition, parameters = self._condition(allowed)
        given = {**query.parameters, **parameters}

        def best(wanted: int) -> list[Any]:
            statement = self._statement(query, condition, wanted, "true", wanted, by_index=False)
            with self._database.read() as connection:
                driver = driver_of_connection(connection)
                return list(driver.execute(statement, given, prepare=True, binary=True))

        return query.best_of_all(k, best)

    def _among_few(self, query: _Query, k: int, allowed: PassingItems) -> Ranking | None:
        """The best of the rows that pass a filter, all compared; None if too many items pass, or if
        their ids have been fetched already.

        One statement looks up which items pass, and compares their rows; from the second search on,
        the rows of a few items are compared here.
        """
        most = self._most_compared(k)
        is_few = allowed.is_counted and len(allowed) <= FEW_ROWS
        if is_few and allowed in self._searched_once:
            return self._few.search(allowed, query.vector, k)
        self._searched_once.add(allowed)
        if allowed.is_fetched or allowed.at_least > most:
            return None
        ids, parameters = allowed.sql.ids
        given = {**query.parameters, **parameters}
        passing = f"SELECT ARRAY({ids} LIMIT {most + 1:d}) AS ids"
        first = f"SELECT cardinality(ids) AS number, ids FROM ({passing}) AS passing"  # noqa: S608 - constants
        few = f"(SELECT ids FROM first WHERE number <= {most:d})"  # noqa: S608 - number
        condition = f"v.item_id = ANY (CAST({few} AS bigint[]))"

        def best(wanted: int) -> list[Any]:
            statement = self._statement(query, condition, wanted, "true", wanted, by_index=False)
            with self._database.read() as connection:
                driver = driver_of_connection(connection)
                both = _with_number(first, statement)
                cursor = execute_pipelined(driver, both, given, *NESTED_LOOPS_ONLY)
                number, rows = _number_and_rows(cursor)
            allowed.note_count(number, most + 1)
            return rows

        found = query.best_of_all(k, best)
        return None if allowed.at_least > most else found

    def _by_hnsw(self, query: _Query, k: int, allowed: IdSet | None) -> Ranking | None:
        """The best allowed rows of the candidates from HNSW; None if they are too few.

        A new filter is first tested for a sample, in the same statement.
        """
        effort, returned = self._state.choice.effort, k + MARGIN
        tested, parameters = self._condition(allowed, per_row=True)
        given = {**query.parameters, **parameters}
        most = returned
        if allowed is not None:
            most = self._candidate_count(k)
        elif query.weights:
            most = max(effort, k + MARGIN_WITH_HUBS)  # HNSW keeps that many anyway
        searched = "true"
        if (untested := self._untested(allowed)) is not None:
            given["among"] = self._sampled_list
            searched = f"(SELECT number FROM first) >= {self._least_in_sample(k)}"  # noqa: S608 - number
        while True:
            statement = self._statement(query, searched, most, tested, returned, by_index=True)
            if untested is not None:
                statement = _with_number(_number_among(tested), statement)
            with self._hnsw_session(max(effort, most), MIN_SCANNED) as driver:
                cursor = driver.execute(statement, given, prepare=True, binary=True)
            if untested is None:
                rows = cursor.fetchall()
            else:
                self._sample_counts[untested], rows = _number_and_rows(cursor)
            ranking = query.ranking(rows)
            enough = len(ranking) >= min(k, self._state.rows)
            if enough and (allowed is None or len(rows) >= k + MARGIN):
                return ranking[:k]
            if len(rows) < returned:
                return None
            returned *= 4  # many are of the same items
            most = max(most, returned)

    def _candidate_count(self, k: int) -> int:
        """The number of candidates that a filter is applied to, to find k items."""
        return max(self._state.choice.effort, 2 * (k + MARGIN_WITH_HUBS))

    def _untested(self, allowed: IdSet | None) -> PassingItems | None:
        """The allowed items if they are of a filter that HNSW might be used for, and that has not
        been tested for the sample yet; else None.
        """
        if self._state.choice.kind != HNSW or not isinstance(allowed, PassingItems):
            return None
        return None if allowed in self._sample_counts else allowed

    def _enough_candidates_pass(self, k: int, allowed: IdSet | None) -> bool:
        """Whether enough of HNSW's candidates are likely to be allowed.

        No filter is counted for this: it is tested for a sample.
        """
        if self._state.choice.kind != HNSW:
            return False
        return allowed is None or self._count_in_sample(allowed) >= self._least_in_sample(k)

    def _least_in_sample(self, k: int) -> int:
        """How many of the sampled items must be allowed for HNSW's candidates to be searched.

        Half the share that is needed counts as enough: candidates resemble the query, and so may
        the items that pass a filter.
        """
        sampled = len(self._sampled_items)
        return math.ceil((k + MARGIN) / 2 / self._candidate_count(k) * sampled)

    def _count_in_sample(self, allowed: IdSet) -> int:
        """How many of the sampled items are allowed."""
        if not isinstance(allowed, PassingItems):
            return int(allowed.contains(self._sampled_items).sum())
        if (number := self._sample_counts.get(allowed)) is None:
            tested, parameters = allowed.sql.test
            given = {**parameters, "among": self._sampled_list}
            with self._database.read() as connection:
                driver = driver_of_connection(connection)
                counted = _number_among(tested)
                cursor = driver.execute(counted, given, prepare=True, binary=True)
                self._sample_counts[allowed] = number = int(cursor.fetchone()[0])
        return number

    @cached_property
    def _sampled_list(self) -> str:
        """The sampled items as a parameter."""
        return id_list(self._sampled_items.tolist())

    @cached_property
    def _sampled_items(self) -> NDArray[np.int64]:
        """Up to SHARE_SAMPLE ids of items that have vectors, spread evenly over the ids in use.

        Ranges of ids are divided until more than half as many are in use, or each has one id. So
        gaps do not matter, however large.
        """
        import numpy as np

        ends = f"SELECT min(item_id), max(item_id) FROM vectors v WHERE {self._own}"  # noqa: S608 - constants
        first = (
            "SELECT range.low, found.item_id FROM unnest(CAST(? AS bigint[])) range(low), LATERAL ("  # noqa: S608 - constants
            f"SELECT v.item_id FROM vectors v WHERE {self._own} AND v.item_id >= range.low "
            "ORDER BY v.item_id LIMIT 1) found"
        )

        def first_from(lows: NDArray[np.int64]) -> NDArray[np.int64]:
            rows = self._database.driver_rows(first, (lows.tolist(),))
            return np.array(rows, np.int64).reshape(-1, 2)

        ((low, high),) = self._database.driver_rows(ends, ())
        if low is None:  # all were removed meanwhile
            return np.zeros(0, np.int64)
        lows, width = np.array([low]), 1 << (high - low).bit_length()
        while len(lows) <= SHARE_SAMPLE // 2 and width > 1:
            parts = min(1 << (SHARE_SAMPLE // len(lows)).bit_length() - 1, width)
            width //= parts
            found = first_from(np.add.outer(lows, width * np.arange(parts)).reshape(-1))
            lows = found[found[:, 1] < found[:, 0] + width, 0]
        # not the first of each: what every second item passes would pass all of them or none
        within = (np.arange(len(lows)) * _GOLDEN % 1 * width).astype(np.int64)
        return np.unique(first_from(lows + within)[:, 1])

    def _by_filtered_hnsw(self, query: _Query, k: int, allowed: IdSet) -> Ranking | None:
        """The best of the rows that HNSW finds among the allowed; None if they are too few."""
        wanted = k + (MARGIN_WITH_HUBS if query.weights else MARGIN)
        condition, parameters = self._condition(allowed)
        statement = self._statement(query, condition, wanted, "true", wanted, by_index=True)
        effort = max(self._state.choice.effort, wanted)
        passing = allowed.count_up_to(self._most_compared(k) + 1)
        scanned = max(MIN_SCANNED, math.ceil(8 * wanted * self._state.rows / passing))
        given = {**query.parameters, **parameters}
        with self._hnsw_session(effort, scanned) as driver:
            # without sorting, or the planner would choose not to use HNSW
            found = execute_pipelined(driver, statement, given, "enable_sort")
        ranking = query.ranking(found.fetchall())
        return ranking[:k] if len(ranking) >= min(k, passing) else None

    @contextmanager
    def _hnsw_session(self, effort: int, scanned: int) -> Iterator[Any]:
        """The driver of a connection that searches HNSW with an effort.

        Args:
            effort: ef_search, if that is not above MAX_EFFORT.
            scanned: From so many visited rows on, no further ones are visited.
        """
        settings = {"effort": str(min(effort, MAX_EFFORT)), "scanned": str(scanned)}
        with self._database.read() as connection:
            driver = driver_of_connection(connection)
            if connection.info.get(_SET) != settings:
                driver.execute(_SET, settings, prepare=True)
                connection.info[_SET] = settings
            yield driver

    # ------------------------------------------------------------------ statements

    def _condition(
        self, allowed: IdSet | None, *, per_row: bool = False
    ) -> tuple[str, dict[str, Any]]:
        """What a row `v` must fulfil to be of an allowed item, and the parameters of it.

        Args:
            allowed: The items; None: all.
            per_row: Whether a filter is to be tested for each row by itself.
        """
        if allowed is None:
            return "true", {}
        if isinstance(allowed, EachNth):
            return f"v.item_id %% {allowed.condition:d} = 0", {}
        if not isinstance(allowed, PassingItems) or allowed.fits_in_parameter:
            ids = {"ids": id_list(allowed.ids.tolist())}
            return f"v.item_id = ANY ({_ARRAY.format('ids')})", ids
        if per_row:
            return allowed.sql.test
        subquery, parameters = allowed.sql.ids
        return f"v.item_id IN ({subquery})", parameters

    def _statement(
        self, query: _Query, allowed: str, most: int, tested: str, returned: int, *, by_index: bool
    ) -> str:
        """A query for rows (item_id, high, low, hubs…, rough), those of the best rough score first.

        `high` and `low` are the distances to the two parts of the query, which add up.

        Args:
            query: Its hubs are subtracted.
            allowed: The condition of rows `v` that are searched.
            most: The number of candidates: a literal, so that the server plans for it.
            tested: The condition of candidates `v` that are returned.
            returned: How many of them are, at most.
            by_index: Whether HNSW finds the candidates, which ignores hubs.
        """
        subtracted = "".join(f" - coalesce(v.{hub}, 0) * %({hub})s" for hub in query.weights)
        hubs = "".join(f"v.{hub}, " for hub in query.weights)
        vector = indexed(self._space.dim) if by_index else "vector"
        rough = f"v.{vector} <#> %(high)s"
        order = rough if by_index else f"({rough}){subtracted}"
        final = f"v.rough{subtracted if by_index else ''}"
        return (
            "SELECT v.item_id, v.vector <#> %(high)s AS high, v.vector <#> %(low)s AS low, "  # noqa: S608 - constants
            f"{hubs}v.rough FROM (SELECT * FROM ("
            f"SELECT v.item_id, v.vector, {hubs}{order} AS rough FROM vectors v "
            f"WHERE {self._own} AND {allowed} ORDER BY {order} LIMIT {most:d}"
            # candidates are tested in this order, until enough pass
            f") v ORDER BY {final} OFFSET 0) v WHERE {tested} LIMIT {returned:d}"
        )

    @property
    def _own(self) -> str:
        return f"v.space_id = {self._space.id:d} AND v.modality = '{self._modality}'"

    # ------------------------------------------------------------------ reading rows

    def sample(self, n: int) -> Vectors:
        rows = len(self)
        n = min(n, rows)
        condition = "true"
        if n < rows:
            # row numbers i · rows / n by arithmetic: a list would be scanned for each row
            condition = (
                "id = ANY (ARRAY(SELECT id FROM ("  # noqa: S608 - numbers
                "SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM vectors v "
                f"WHERE {self._own}) numbered WHERE number < {rows} "
                f"AND (number * {n} + {rows - 1}) / {rows} * {rows} / {n} = number))"
            )
        return as_float32(self._read(condition, {})[1])

    def _fetched(self, few: IdSet) -> tuple[NDArray[np.int64], Float16Rows]:
        return self._read(*self._condition(few), *NESTED_LOOPS_ONLY)

    def _read(
        self, condition: str, parameters: dict[str, Any], *disabled: str
    ) -> tuple[NDArray[np.int64], Float16Rows]:
        """The rows (n, dim + EXTRA_DIMS) that meet a condition, after the item id (n,) of each.

        Settings of the planner that are `disabled` are off.
        """
        import numpy as np

        statement = (
            "SELECT item_id, halfvec_send(vector), coalesce(hub_text, 0), coalesce(hub_image, 0) "  # noqa: S608
            f"FROM vectors v WHERE {self._own} AND {condition} ORDER BY id"
        )
        with self._database.read() as connection:
            driver = driver_of_connection(connection)
            found = execute_pipelined(driver, statement, parameters, *disabled).fetchall()
        dim = self._space.dim
        rows = np.zeros((len(found), dim + EXTRA_DIMS), np.float16)
        if not found:
            return np.zeros(0, np.int64), rows
        ids, sent, *hubs = zip(*found, strict=True)
        # halfvec_send: two int16 of header, then big-endian float16
        rows[:, :dim] = np.frombuffer(b"".join(sent), ">f2").reshape(len(found), -1)[:, -dim:]
        for slot, column in zip(SLOTS.values(), hubs, strict=True):
            rows[:, dim + slot] = column
        return np.array(ids, np.int64), rows


class _Query:
    """A query (dim + EXTRA_DIMS,) as parameters of a statement, and the scores of its rows."""

    def __init__(self, vector: Vectors, dim: int) -> None:
        import numpy as np
        from pgvector import HalfVector

        self.vector = whole = np.asarray(vector, np.float32)
        high = whole[:dim].astype(np.float16)
        rest = whole[:dim] - high.astype(np.float32)
        self.parameters: dict[str, Any] = {
            "high": HalfVector(high),
            "low": HalfVector((rest * np.float32(_SCALE)).astype(np.float16)),
        }
        weights = {f"hub_{of}": float(whole[dim + slot]) for of, slot in SLOTS.items()}
        self.weights = {name: weight for name, weight in weights.items() if weight}
        """The weights of hubs that are not 0, by column."""
        self.parameters |= self.weights
        self.margin = float(np.linalg.norm(rest)) + sum(map(abs, weights.values())) * 2.0**-11
        """How far a rough score may be from the exact one, whose hubs are rounded to float16."""

    def best_of_all(self, k: int, best: Callable[[int], list[Any]]) -> Ranking:
        """The k best of rows that are all compared.

        Args:
            k: The number of items.
            best: Returns the n rows with the best rough scores, or all if there are fewer.
        """
        wanted = k + MARGIN_WITH_HUBS
        while True:
            rows = best(wanted)
            ranking = self.ranking(rows)
            if len(rows) < wanted:
                return ranking[:k]
            # done if no row beyond those found can be among the first k
            worst = max(row[-1] for row in rows)
            if len(ranking) >= k and ranking[k - 1][1] > self.margin - worst:
                return ranking[:k]
            wanted *= 4

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


def _number_among(tested: str) -> str:
    """How many of the items `among` pass a test."""
    among = _ARRAY.format("among")
    return f"SELECT count(*) AS number FROM unnest({among}) AS v (item_id) WHERE {tested}"  # noqa: S608


def _with_number(first: str, statement: str) -> str:
    """A statement whose rows begin with the `number` that another one selects.

    The statement may read that one's only row, as the table `first`. If it finds nothing, there is
    one row, of the number and NULLs.
    """
    return (
        f"WITH first AS MATERIALIZED ({first}) SELECT first.number, found.* "  # noqa: S608 - statements
        f"FROM first LEFT JOIN ({statement}) AS found ON true"
    )


def _number_and_rows(cursor: Any) -> tuple[int, list[Any]]:
    """The number and the rows that a statement by `_with_number` returned."""
    rows = cursor.fetchall()
    return rows[0][0], [row[1:] for row in rows if row[1] is not None]


class EachNth(LazyIdSet):
    """Every n-th id: a filter to measure recall with."""

    def __init__(self, nth: int, number: int) -> None:
        super().__init__(nth, lambda: number, _never_fetched)

    def contains(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of the given ids (n,) is one of them."""
        passes: NDArray[np.bool_] = ids % self.condition == 0
        return passes


def _never_fetched(_among: Any) -> NDArray[np.int64]:
    raise AssertionError("the ids are told by arithmetic in each statement")


def indexed(dim: int) -> str:
    """The SQL expression that HNSW indexes.

    It has no hubs: as a further dimension they would attract links, and queries across the modality
    gap would miss their nearest rows.
    """
    return f"vector::halfvec({dim})"


_SET = (
    "SELECT set_config('hnsw.ef_search', %(effort)s, false), "
    "set_config('hnsw.max_scan_tuples', %(scanned)s, false), "
    "set_config('hnsw.iterative_scan', 'relaxed_order', false)"
)
"""Sets how HNSW is searched, until it is set again."""

_ARRAY = "CAST(translate(%({})s, '[]', '{{}}') AS bigint[])"
"""The ids of a parameter that `id_list` made."""
