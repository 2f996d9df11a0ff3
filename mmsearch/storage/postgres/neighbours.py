"""Nearest neighbours by pgvector.

PostgreSQL computes the very scores that the local index does. A row's vector and its two hubs are
one `halfvec` of dim + 2 numbers, and so is a query and its weights (`vectors.hubness`): their inner
product is the cosine less the weighted hub. What a query loses when it is rounded to float16 is
sent as a second vector, so that both products add up to the score that NumPy finds (1e-6), and no
vector is read by the client.

Few rows, or few that pass a filter, are all compared. Of many, an HNSW index over the vectors names
the candidates, from 20,000 rows on, and these are scored with their hubs. The graph must not know
the hubs: as one more dimension they draw links to the hubs, and what queries across the modality
gap are nearest to is missed. The search effort is the least that finds enough of the nearest,
measured on the server for queries of each modality, with and without filters.

A statement is compiled once, and prepared on the server once a connection.

Sources: Malkov & Yashunin, "Efficient and robust approximate nearest neighbor search using HNSW",
TPAMI 2020; pgvector's README on iterative scans and on expression indexes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import (
    ColumnElement,
    Double,
    Select,
    Text,
    bindparam,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.types import NullType

from mmsearch.errors import InvalidOption
from mmsearch.storage.index_kind import check_recall, want_index, wanted_index
from mmsearch.storage.postgres import functions
from mmsearch.storage.postgres.filters import is_in
from mmsearch.storage.records import Space, StoreState
from mmsearch.storage.sql.conditions import Dialect, compiled
from mmsearch.storage.sql.database import Prepared, is_one_of, is_one_of_ids, together
from mmsearch.storage.sql.schema import items, sources, vectors
from mmsearch.storage.sql.types import id_list
from mmsearch.storage.store import SettingStore, VectorIndex, VectorIndexes
from mmsearch.storage.transfer import ENGINE
from mmsearch.types import Modality, Ranking
from mmsearch.vectors.exact import DECIMALS, ranked
from mmsearch.vectors.hubness import SLOTS, augmented
from mmsearch.vectors.id_set import IdSet, LazyIdSet
from mmsearch.vectors.index_choice import AUTO, EXACT, SAMPLED, IndexChoice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage.postgres.database import Database
    from mmsearch.storage.records import Serving
    from mmsearch.storage.store import SampleQueriesOf
    from mmsearch.types import Vectors

HNSW = "hnsw"
"""The kind of index that pgvector builds."""

INDEX_FROM = 20_000
"""Rows from which on an index pays: fewer are compared in the time that its search takes."""

WIDEST = 4_000
"""Numbers of a vector that HNSW takes of float16."""

LINKS, BUILD_EFFORT = 32, 200
"""Links of a node (m), and candidates for them (ef_construction)."""

EFFORTS = (100, 200, 400, 800, 1000)
"""Candidates that a search keeps (ef_search), ascending; pgvector takes no more."""

SAMPLE_QUERIES, SAMPLE_ROWS = 64, 200_000_000
"""Queries of each modality that recall is measured with; fewer, if to compare them with all rows
would take more inner products than these. At least 16."""

FEWEST_QUERIES = 16

NEIGHBOURS = 10

SHARES = (2, 100)
"""Recall is measured under filters, too, that one item in so many passes."""

CHANGED = 0.2
"""Recall is measured again once the number of rows has changed by this share."""

STEP_COST = 8
"""How many rows are compared in the time that HNSW takes to visit one; see `_is_cheaper_exact`."""

MORE = 64
"""Rows beyond k that are scored at first, for ties and for what rounding may have hidden."""

MOST_MEMORY = 1 << 30
"""Bytes of the server's memory that an index is built in, unless it is set to allow more."""

STATEMENTS = 64
"""Compiled searches that are kept: one for each filter and number of results."""

_SPLIT = 2048.0
"""What the rest of a query is multiplied by, to be a normal float16."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of the vectors of a space and modality at a revision; stored as a setting."""

    revision: int
    rows: int
    choice: IndexChoice = field(default_factory=lambda: IndexChoice(why="there is nothing yet"))
    measured: int = 0
    """Rows that there were when the recall was measured."""
    given_up: int = 0
    """Rows that there were when HNSW found too few; it is not built again before they double."""
    found: float = 1.0
    """The recall that it reached."""
    found_for: str = ""
    """The same of each kind of query, in words."""


class PgVectorIndexes(VectorIndexes):
    """The vector indexes of a PostgreSQL store.

    Args:
        database: The store's.
        settings: Its settings.
        state: Returns its state.
        folder: The local cache, which need not exist, nor be writable; None: there is none.
    """

    def __init__(
        self,
        database: Database,
        settings: SettingStore,
        state: Callable[[], StoreState],
        folder: Path | None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.state = state
        self.folder = folder
        self._figures: dict[tuple[int, Modality], Figures] = {}
        self._samples: dict[tuple[int, Modality], tuple[int, Sample]] = {}
        self.statements: dict[Any, Prepared] = {}

    def index(self, space: Space, modality: Modality) -> VectorIndex:
        return PgVectorIndex(self, space, modality, self.figures(space, modality))

    def figures(self, space: Space, modality: Modality) -> Figures:
        """How many vectors there are, and by which index they are searched."""
        revision, key = self.state().revision, (space.id, modality)
        known = self._figures.get(key)
        if known is None or known.revision != revision:
            known = self._stored_figures(space, modality)
            if known is None or known.revision != revision:
                rows = self._count(space, modality)
                known = replace(known or Figures(revision, rows), revision=revision, rows=rows)
            self._figures[key] = known
        return known

    def sample(self, space: Space, modality: Modality, figures: Figures) -> Sample:
        """The sample of the vectors that calibration needs, as of a revision."""
        key = space.id, modality
        known = self._samples.get(key)
        if known is None or known[0] != figures.revision:
            path = None
            if self.folder is not None:
                path = self.folder / f"{modality}-{space.id}-{self.state().store_id}.npz"
            found = None if path is None else Sample.read(path, figures)
            if found is None:
                found = Sample.of(PgVectorIndex(self, space, modality, figures).sample(SAMPLED))
                if path is not None:
                    found.write(path, figures)
            self._samples[key] = known = figures.revision, found
        return known[1]

    def has(self, space: Space, modality: Modality) -> bool:
        return (space.id, modality) in self._samples

    def clear(self) -> None:
        self._figures, self._samples = {}, {}

    def _count(self, space: Space, modality: Modality) -> int:
        c = vectors.c
        rows = select(func.count()).where(c.space_id == space.id, c.modality == modality)
        return int(self.database.scalars(rows)[0])

    # ------------------------------------------------------------------ settings

    def configure(self, kind: str | None, recall: float | None) -> None:
        check_recall(recall)
        if kind not in (None, AUTO, EXACT, HNSW):
            raise InvalidOption(
                f"{kind!r} is no kind of index in PostgreSQL: it is {AUTO!r}, {EXACT!r} or {HNSW!r}"
            )
        want_index(self.settings, kind, recall)

    def _stored_figures(self, space: Space, modality: Modality) -> Figures | None:
        written = self.settings.get(_setting(space, modality))
        if written is None:
            return None
        read = json.loads(written)
        return Figures(**{**read, "choice": IndexChoice(**read["choice"])})

    def _store(self, space: Space, modality: Modality, figures: Figures) -> None:
        if figures != self._stored_figures(space, modality):
            self.settings.set(_setting(space, modality), json.dumps(asdict(figures)))
        self._figures[space.id, modality] = figures

    def describe(self, serving: Serving) -> list[dict[str, Any]]:
        kind, _ = wanted_index(self.settings)
        found = []
        for space, modalities in serving:
            for modality in modalities:
                figures = self.figures(space, modality)
                index = func.to_regclass(literal(_name(space, modality)))
                size = select(func.coalesce(func.pg_relation_size(index), 0))
                shown = {"rows": figures.rows, "dim": space.dim, "revision": figures.revision}
                shown |= {**asdict(figures.choice), "bytes": self.database.scalars(size)[0]}
                found.append({"model": space.name, "facet": modality, **shown, "asked": kind})
        return found

    def warnings(self, serving: Serving) -> list[str]:
        kind, _ = wanted_index(self.settings)
        return [
            f"{one['facet']}: {one['why']}; every vector is compared meanwhile"
            for one in self.describe(serving)
            if kind == HNSW and one["kind"] == EXACT and one["rows"]
        ]

    # ------------------------------------------------------------------ building

    def rebuild(
        self, serving: Serving, queries: SampleQueriesOf, *, soon_again: bool = False
    ) -> None:
        with self.database.session() as session:
            key = self.database.lock_key("vector indexes")
            locked = session.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
            if locked is None or not locked[0]:
                return  # another process is building them
            for space, modalities in serving:
                for modality in modalities:
                    self._rebuild(session, space, modality, queries, soon_again=soon_again)

    def _rebuild(
        self,
        session: psycopg.Connection[Any],
        space: Space,
        modality: Modality,
        queries: SampleQueriesOf,
        *,
        soon_again: bool,
    ) -> None:
        known = self.figures(space, modality)
        changed = abs(known.rows - known.measured) > CHANGED * known.measured
        if changed and not (soon_again and known.measured):
            session.execute("ANALYZE items, metadata, tags, texts, vectors")
        kind, recall = wanted_index(self.settings)
        why = _why_exact(kind, recall, space, known.rows)
        built = _is_built(session, space, modality)
        if why:
            if built:
                _drop(session, space, modality)
            choice = IndexChoice(why=why)
            self._store(space, modality, replace(known, choice=choice, measured=known.rows))
            return
        if built and (not changed or soon_again) and known.choice.kind == HNSW:
            self._store(space, modality, known)
            return
        if kind == AUTO and known.found < recall and known.rows < 2 * known.given_up and not built:
            choice = IndexChoice(why=_why_given_up(recall, known.found_for))
            self._store(space, modality, replace(known, choice=choice, measured=known.rows))
            return
        given = {name: rows for name, rows in queries(space, modality).items() if len(rows)}
        if not given:
            why = "there are no queries to measure the recall of another kind with"
            self._store(space, modality, replace(known, choice=IndexChoice(why=why)))
            return
        if not built:
            _build(session, space, modality, known.rows)
        choice = self._measured(space, modality, known, given, recall)
        lowest = min(choice.recall.values())
        if lowest < recall and kind == AUTO:
            _drop(session, space, modality)
            known = replace(known, given_up=known.rows, found=lowest, found_for=_shown(choice))
            choice = IndexChoice(why=_why_given_up(recall, known.found_for))
        self._store(space, modality, replace(known, choice=choice, measured=known.rows))

    def _measured(
        self,
        space: Space,
        modality: Modality,
        known: Figures,
        queries: Mapping[str, Vectors],
        target: float,
    ) -> IndexChoice:
        """The least effort that reaches a recall, and the recall that it reaches."""
        number = max(FEWEST_QUERIES, min(SAMPLE_QUERIES, SAMPLE_ROWS // max(known.rows, 1)))
        exact = PgVectorIndex(self, space, modality, known)
        filters: dict[str, IdSet | None] = {"": None}
        for share in SHARES:
            filters[f", {100 // share} % pass"] = _EachNth(share, known.rows // share)
        truth = {
            (name, passed): [set(dict(exact.exactly(one, NEIGHBOURS, allowed))) for one in some]
            for name, some in ((name, _spread(rows, number)) for name, rows in queries.items())
            for passed, allowed in filters.items()
        }
        aim = target + (1 - target) / 4  # the recall of a sample is an estimate
        choice = IndexChoice(HNSW)
        for effort in EFFORTS:
            searched = PgVectorIndex(
                self, space, modality, replace(known, choice=IndexChoice(HNSW, effort=effort))
            )
            recall = {}
            for (name, passed), nearest in truth.items():
                rows = _spread(queries[name], number)
                found = [dict(searched.search(one, NEIGHBOURS, filters[passed])) for one in rows]
                hits = sum(len(own & got.keys()) for own, got in zip(nearest, found, strict=True))
                recall[f"{name}{passed}"] = round(hits / max(sum(map(len, nearest)), 1), 4)
            choice = IndexChoice(HNSW, effort=effort, recall=recall)
            if min(recall.values()) >= aim:
                break
        why = (
            f"found {_shown(choice)} of the ten nearest to sample queries on the server; {target} "
            "was asked for; a filter that few items pass is answered exactly"
        )
        return replace(choice, why=why)

    def drop(self, space: Space) -> None:
        with self.database.session() as session:
            for modality in ("image", "text", "audio"):
                _drop(session, space, modality)
        self.clear()


class PgVectorIndex(VectorIndex):
    """Nearest neighbours among the vectors of a space and modality."""

    def __init__(
        self, indexes: PgVectorIndexes, space: Space, modality: Modality, figures: Figures
    ) -> None:
        self._indexes = indexes
        self._database = indexes.database
        self._space, self._modality, self._figures = space, modality, figures

    def __len__(self) -> int:
        return self._figures.rows

    def items(self) -> IdSet:
        import numpy as np

        c = vectors.c
        own = select(c.item_id).where(c.space_id == self._space.id, c.modality == self._modality)
        return IdSet.of(np.array(self._database.scalars(own.distinct()), np.int64))

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        rows = len(self)
        if not rows or k < 1 or (allowed is not None and not len(allowed)):
            return []
        if self._figures.choice.kind != HNSW:
            return self.exactly(vector, k, allowed)
        share = 1.0 if allowed is None else min(len(allowed) / rows, 1.0)
        if _is_cheaper_exact(rows, share, k + MORE):
            return self.exactly(vector, k, allowed)
        found = self._by_index(vector, k, allowed, share)
        return self.exactly(vector, k, allowed) if found is None else found

    def exactly(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        """What `search` returns, by comparing all rows that are allowed."""
        query, wanted = _Query(vector, self._space.dim), k + MORE
        with self._database.read() as connection:
            while True:
                statement, more = self._prepared(allowed, wanted, by_index=False)
                rows = statement.of(connection, **query.parameters, **query.weights, **more)
                ranking = _ranking(rows)
                if len(rows) < wanted:
                    return ranking[:k]
                # neither ties nor repeated ids can change the first k
                if len(ranking) >= k and ranking[k - 1][1] > query.margin - rows[-1][2]:
                    return ranking[:k]
                wanted *= 4

    def _by_index(
        self, vector: Vectors, k: int, allowed: IdSet | None, share: float
    ) -> Ranking | None:
        """The best of those that the index names, less their hubs; None if it names too few."""
        query = _Query(vector, self._space.dim)
        effort, wanted = self._figures.choice.effort, k + MORE
        if allowed is None:
            wanted = max(wanted, effort)  # the candidates are there: hubs may change their order
        settings = {
            "scan": "relaxed_order",
            "effort": str(min(max(effort, wanted), EFFORTS[-1])),
            "most": str(max(20_000, math.ceil(STEP_COST * wanted / share))),
            "sort": "on" if allowed is None else "off",  # by the index, until enough have passed
        }
        statement, more = self._prepared(allowed, wanted, by_index=True)
        with self._database.read() as connection:
            _, rows, _ = together(
                connection,
                (_SET, settings),
                (statement, {**query.parameters, **more}),
                (_SET_BACK, {}),
            )
        ranking = _ranking(rows)
        there = len(self) if allowed is None else len(allowed)
        return ranking[:k] if len(ranking) >= min(k, there) else None

    def _prepared(
        self, allowed: IdSet | None, most: int, *, by_index: bool
    ) -> tuple[Prepared, dict[str, Any]]:
        """A statement, compiled once for each filter, and what it is given beside the query."""
        more: dict[str, Any] = {}
        condition: Any = None
        if isinstance(allowed, LazyIdSet):
            condition = allowed.condition
        elif allowed is not None:
            condition, more = IdSet, {"ids": id_list(allowed.ids.tolist())}
        key = self._space.id, self._space.dim, self._modality, by_index, most, condition
        kept = self._indexes.statements
        found = kept.get(key)
        if found is None:
            found = Prepared(self._statement(allowed, most, by_index=by_index))
            kept.pop(next(iter(kept), None), None) if len(kept) >= STATEMENTS else None
            kept[key] = found
        return found, more

    def _statement(self, allowed: IdSet | None, most: int, *, by_index: bool) -> Select[Any]:
        """Selects (item_id, distance, rough): the first rows by the rough one of two distances.

        Args:
            allowed: Only these items; of a set that is no filter, the parameter `ids`.
            most: How many rows; a literal, by which the server's plan is made.
            by_index: Written so that the HNSW index is used, which knows no hubs.
        """
        v, row = vectors.alias("v"), literal_column(_row(self._space.dim), NullType())
        if by_index:
            indexed = f"v.{_indexed(self._space.dim)}"
            rough = _product(literal_column(indexed, NullType()), "plain")
        else:
            rough = _product(literal_column("v.vector", NullType()), "plain")
            for name in SLOTS:
                hub = func.coalesce(v.c[f"hub_{name}"], 0.0)
                rough = rough - hub * bindparam(f"weight_{name}", type_=Double())
        columns = [literal_column(f"v.{name}", NullType()).label(name) for name in _PARTS]
        own = text(f"v.space_id = {self._space.id:d} AND v.modality = '{self._modality}'")
        first = select(v.c.item_id, *columns, rough.label("rough")).where(own)
        if isinstance(allowed, _EachNth):
            first = first.where(v.c.item_id % allowed.condition == 0)
        elif isinstance(allowed, LazyIdSet) and by_index:  # tried for each row that is visited
            passes = compiled(allowed.condition, Dialect(functions, few=True))
            joined = v.join(items, items.c.id == v.c.item_id).outerjoin(sources)
            first = first.select_from(joined).where(passes)
        elif isinstance(allowed, LazyIdSet):
            first = first.where(is_in(v.c.item_id, allowed))
        elif allowed is not None:
            first = first.where(is_one_of_ids(v.c.item_id))
        inner = first.order_by(rough).limit(literal_column(str(int(most)))).subquery("v")
        exact = _product(row, "high") + _product(row, "low") / literal(_SPLIT)
        chosen = select(inner.c.item_id, exact.label("distance"), inner.c.rough)
        return chosen.order_by(inner.c.rough)

    # ------------------------------------------------------------------ samples

    def sample(self, n: int) -> Vectors:
        import numpy as np

        rows = len(self)
        n = min(n, rows)
        c = vectors.c
        own = (c.space_id == self._space.id) & (c.modality == self._modality)
        chosen = select(c.vector, c.hub_text, c.hub_image).where(own)
        if n < rows:
            # by arithmetic: a list of numbers would be looked through for each row
            each = func.row_number().over(order_by=c.id) - 1
            numbered = select(c.id, each.label("n")).where(own).subquery()
            number = numbered.c.n
            which = (number * n + rows - 1) // rows
            is_chosen = (which * rows // n == number) & (number < rows)
            ids = self._database.scalars(select(numbered.c.id).where(is_chosen))
            chosen = chosen.where(is_one_of(c.id, ids))
        found = self._database.rows(chosen.order_by(c.id))
        matrix = np.frombuffer(b"".join(row.vector for row in found), "<f2")
        hubs = np.array([(row.hub_text, row.hub_image) for row in found], np.float32)
        augmented_rows = augmented(
            matrix.astype(np.float32).reshape(len(found), self._space.dim),
            *hubs.reshape(-1, 2).T,
        )
        return augmented_rows.astype(np.float16).astype(np.float32)

    def mean(self) -> Vectors:
        return self._sample().mean

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        return self._sample().moments(vector)

    def warm_up(self) -> None:
        self._sample()

    def _sample(self) -> Sample:
        return self._indexes.sample(self._space, self._modality, self._figures)


@dataclass(frozen=True, slots=True)
class Sample:
    """What calibration needs of the vectors: the moments of a sample of them."""

    number: int
    mean: Vectors
    """(dim,)"""
    products: Vectors
    """(dim, dim): the mean of the rows' outer products."""

    @classmethod
    def of(cls, rows: Vectors) -> Sample:
        """Of a sample (n, dim)."""
        import numpy as np

        number = max(len(rows), 1)
        products: Vectors = rows.T @ rows / np.float32(number)
        return cls(len(rows), rows.sum(axis=0) / np.float32(number), products)

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        """(n, mean, mean of squares) of its inner products with a vector (dim,)."""
        import numpy as np

        exact = np.asarray(vector, np.float64)
        return self.number, float(self.mean @ exact), float(exact @ (self.products @ exact))

    @classmethod
    def read(cls, path: Path, figures: Figures) -> Sample | None:
        """The sample that was written as of a revision, if it is there."""
        import numpy as np

        with suppress(OSError, ValueError, KeyError), np.load(path) as stored:
            if int(stored["revision"]) == figures.revision:
                return cls(int(stored["number"]), stored["mean"], stored["products"])
        return None

    def write(self, path: Path, figures: Figures) -> None:
        """Keep it for later processes, if the disk takes it."""
        import numpy as np

        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.savez(file, revision=figures.revision, **asdict(self))
            part.replace(path)


class _Query:
    """A query (dim + EXTRA_DIMS,) as the server takes it."""

    def __init__(self, vector: Vectors, dim: int) -> None:
        import numpy as np
        from pgvector import HalfVector

        whole = np.asarray(vector, np.float32)[: dim + len(SLOTS)]
        high = whole.astype(np.float16)
        rest = whole - high.astype(np.float32)
        weights = {name: float(whole[dim + slot]) for name, slot in SLOTS.items()}
        self.parameters: dict[str, Any] = {
            "high": HalfVector(high),
            "low": HalfVector((rest * np.float32(_SPLIT)).astype(np.float16)),
            "plain": HalfVector(high[:dim]),
        }
        self.weights = {f"weight_{name}": weight for name, weight in weights.items()}
        self.margin = float(np.linalg.norm(rest)) + sum(map(abs, weights.values())) * 2.0**-11
        """How far a rough score may be from the exact one: hubs are rounded to float16, too."""


class _EachNth(LazyIdSet):
    """Each n-th id, as a filter that such a share of the items pass."""

    def __init__(self, nth: int, number: int) -> None:
        super().__init__(nth, lambda: number, _never_fetched)


def _never_fetched(among: Any) -> NDArray[np.int64]:
    raise NotImplementedError


_PARTS = ("vector", "hub_text", "hub_image")
"""The columns that a row consists of."""


def _indexed(dim: int) -> str:
    """What HNSW indexes.

    Without the hubs: with them it would link rows to hubs rather than to their neighbours.
    """
    return f"vector::halfvec({dim})"


def _row(dim: int) -> str:
    """A row of `v` with its hubs: what a query is compared with."""
    hubs = "ARRAY[coalesce(v.hub_text, 0), coalesce(v.hub_image, 0)]::real[]::halfvec"
    return f"((v.vector || {hubs})::halfvec({dim + len(SLOTS)}))"


def _product(row: ColumnElement[Any], parameter: str) -> ColumnElement[float]:
    """The negative inner product of a row with a parameter."""
    query = bindparam(parameter, type_=NullType())
    found: ColumnElement[float] = row.op("<#>", precedence=6, return_type=Double())(query)
    return found


def _ranking(rows: list[Any]) -> Ranking:
    """The ranking of rows (item_id, distance, rough)."""
    scores = [round(-distance, DECIMALS) for _, distance, _ in rows]
    return ranked([row[0] for row in rows], scores)


def _is_cheaper_exact(rows: int, share: float, wanted: int) -> bool:
    """Whether to compare all rows that pass a filter takes less time than HNSW does.

    HNSW visits rows until as many as are wanted have passed, which it may not do, either.
    """
    return share < 1 and rows * share <= max(INDEX_FROM, STEP_COST * wanted / share)


def _set_config(name: str, parameter: str) -> ColumnElement[str]:
    """Sets a parameter of the server for this transaction."""
    value = bindparam(parameter, type_=Text())
    return func.set_config(literal_column(f"'{name}'"), value, literal_column("true")).label(name)


_SET = Prepared(
    select(
        _set_config("hnsw.ef_search", "effort"),
        _set_config("hnsw.max_scan_tuples", "most"),
        _set_config("enable_sort", "sort"),
        func.set_config("hnsw.iterative_scan", "relaxed_order", literal_column("true")).label(
            "scan"
        ),
    )
)

_SET_BACK = Prepared(select(func.set_config("enable_sort", "on", literal_column("true"))))


def _spread(rows: Vectors, number: int) -> Vectors:
    return rows[:: max(1, len(rows) // number)][:number]


# ---------------------------------------------------------------------- the index on the server


def _setting(space: Space, modality: str) -> str:
    return f"{ENGINE}vector index {space.id} {modality}"


def _name(space: Space, modality: str) -> str:
    """The name of the index of a space and modality."""
    return f"vectors_hnsw_{space.id}_{modality}"


def _why_exact(kind: str, recall: float, space: Space, rows: int) -> str:
    """Why every vector is to be compared; "" if an index is worth building."""
    if not rows:
        return "there is nothing yet"
    if kind == EXACT:
        return "as asked for"
    if recall >= 1:
        return "a recall of 1 compares every vector"
    if space.dim > WIDEST:
        return f"pgvector indexes vectors of up to {WIDEST:,} numbers"
    if kind == AUTO and rows < INDEX_FROM:
        return f"{rows:,} vectors are compared in a moment"
    return ""


def _why_given_up(recall: float, found_for: str) -> str:
    return f"no other kind finds {recall}: {HNSW} found {found_for}"


def _shown(choice: IndexChoice) -> str:
    """The recall of each kind of query, in words."""
    return ", ".join(f"{share:.3f} for {name}" for name, share in choice.recall.items())


def _is_built(session: psycopg.Connection[Any], space: Space, modality: str) -> bool:
    """Whether the index is there; what an interrupted build has left is dropped."""
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
    found = session.execute(query, (_name(space, modality),)).fetchone()
    if found is not None and not found[0]:
        _drop(session, space, modality)
    return found is not None and bool(found[0])


def _drop(session: psycopg.Connection[Any], space: Space, modality: str) -> None:
    session.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_name(space, modality)}")


def _build(session: psycopg.Connection[Any], space: Space, modality: str, rows: int) -> None:
    """Build the index; others go on reading and writing meanwhile."""
    needed = rows * ((space.dim + 8) * 2 + LINKS * 24 + 160) * 5 // 4
    own = "SELECT pg_size_bytes(current_setting('maintenance_work_mem'))"
    (allowed,) = session.execute(own).fetchone() or (0,)
    memory = max(allowed, min(needed, MOST_MEMORY))
    statement = (
        f"CREATE INDEX CONCURRENTLY {_name(space, modality)} ON vectors USING hnsw "
        f"(({_indexed(space.dim)}) halfvec_ip_ops) "
        f"WITH (m = {LINKS}, ef_construction = {BUILD_EFFORT}) "
        f"WHERE space_id = {space.id:d} AND modality = '{modality}'"
    )
    session.execute(f"SET maintenance_work_mem = '{memory // 1024}kB'")
    try:
        session.execute(statement)
    except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory):
        # workers share that memory by way of /dev/shm, which is small in containers
        _drop(session, space, modality)
        session.execute("SET max_parallel_maintenance_workers = 0")
        session.execute(statement)
