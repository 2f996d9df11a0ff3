"""The vector indexes of a store in PostgreSQL: which are built, and with which search effort.

If rows are few, all are compared. If they are many, an HNSW index over the vectors finds
candidates. The search effort is the least that reaches the wanted recall, measured on the server
for each kind of query, with and without filters.

Sources: Malkov & Yashunin, "Efficient and robust approximate nearest neighbor search using HNSW",
TPAMI 2020; pgvector's README on iterative scans and on expression indexes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import func, literal, select

from mmsearch.errors import InvalidOption
from mmsearch.storage.index_kind import check_recall, want_index, wanted_index
from mmsearch.storage.postgres.vector_index import (
    HNSW,
    MAX_EFFORT,
    EachNth,
    IndexState,
    PgVectorIndex,
    indexed,
)
from mmsearch.storage.postgres.vectors import PostgresVectors
from mmsearch.storage.records import Space, StoreState
from mmsearch.storage.sql.schema import vectors
from mmsearch.storage.store import SettingStore, VectorIndexes
from mmsearch.storage.transfer import ENGINE
from mmsearch.types import Modality
from mmsearch.vectors.hubness import augmented
from mmsearch.vectors.index_choice import AUTO, EXACT, NEIGHBOURS, IndexChoice
from mmsearch.vectors.recall import (
    RecallTest,
    in_words,
    least_effort,
    recall_queries,
    why_exact,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage.postgres.database import Database
    from mmsearch.storage.records import Serving
    from mmsearch.storage.store import SampleQueriesOf
    from mmsearch.types import Vectors
    from mmsearch.vectors.exact import Float16Rows
    from mmsearch.vectors.index_choice import SampleQueries

INDEX_FROM = 5_000
"""The number of rows from which an index pays: fewer are compared, and stored, faster without."""

MAX_DIM = 4_000
"""The most float16 dimensions that HNSW of pgvector indexes."""

LINKS, BUILD_EFFORT = 32, 200
"""HNSW's m, links per node and layer, and ef_construction, candidates for them."""

EFFORTS = (40, 60, 80, 100, 120, 140, 160, 180, 200, 240, 280, 320, 400, 500, 600, 800, MAX_EFFORT)
"""Search efforts to try (ef_search), ascending."""

GROWTH = 0.2
"""Recall is measured again once the number of rows has grown or shrunk by this share."""

MAX_MEMORY = 1 << 30
"""Bytes of the server's memory that building may use, unless maintenance_work_mem is higher."""


class PgVectorIndexes(VectorIndexes):
    """The vector indexes of a PostgreSQL store.

    Args:
        database: The store's.
        settings: Its settings.
        store_state: Returns the store's state.
        folder: The local cache, which need not exist or be writable; None: there is none.
    """

    def __init__(
        self,
        database: Database,
        settings: SettingStore,
        store_state: Callable[[], StoreState],
        folder: Path | None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.store_state = store_state
        self.folder = folder
        self._states: dict[tuple[int, Modality], IndexState] = {}
        self._indexes: dict[tuple[int, Modality], tuple[IndexState, PgVectorIndex]] = {}

    def index(self, space: Space, modality: Modality) -> PgVectorIndex:
        state, key = self.state_of(space, modality), (space.id, modality)
        known = self._indexes.get(key)
        if known is None or known[0] != state:
            self._indexes[key] = known = state, self._made(space, modality, state)
        return known[1]

    def _made(self, space: Space, modality: Modality, state: IndexState) -> PgVectorIndex:
        file = None
        if self.folder is not None:
            file = self.folder / f"{modality}-{space.id}-{self.store_state().store_id}.npz"
        return PgVectorIndex(self.database, space, modality, state, file)

    def state_of(self, space: Space, modality: Modality) -> IndexState:
        """How many vectors a space and modality have, and how they are searched."""
        revision, key = self.store_state().revision, (space.id, modality)
        known = self._states.get(key)
        if known is None or known.revision != revision:
            known = self._stored_state(space, modality)
            if known is None or known.revision != revision:
                rows = self._count(space, modality)
                known = replace(known or IndexState(revision, rows), revision=revision, rows=rows)
            self._states[key] = known
        return known

    def has(self, space: Space, modality: Modality) -> bool:
        return (space.id, modality) in self._indexes

    def clear(self) -> None:
        self._states, self._indexes = {}, {}

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

    def _stored_state(self, space: Space, modality: Modality) -> IndexState | None:
        written = self.settings.get(_setting(space, modality))
        if written is None:
            return None
        read = json.loads(written)
        return IndexState(**{**read, "choice": IndexChoice(**read["choice"])})

    def _store(self, space: Space, modality: Modality, state: IndexState) -> None:
        if state != self._stored_state(space, modality):
            self.settings.set(_setting(space, modality), json.dumps(asdict(state)))
        self._states[space.id, modality] = state

    def describe(self, serving: Serving) -> list[dict[str, Any]]:
        kind, _ = wanted_index(self.settings)
        found = []
        for space, modalities in serving:
            for modality in modalities:
                state = self.state_of(space, modality)
                index = func.to_regclass(literal(_name(space, modality)))
                size = select(func.coalesce(func.pg_relation_size(index), 0))
                shown = {"rows": state.rows, "dim": space.dim, "revision": state.revision}
                shown |= {**asdict(state.choice), "bytes": self.database.scalars(size)[0]}
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
                    state = self._rebuilt(session, space, modality, queries, soon_again=soon_again)
                    self._store(space, modality, state)

    def _rebuilt(
        self,
        session: psycopg.Connection[Any],
        space: Space,
        modality: Modality,
        queries: SampleQueriesOf,
        *,
        soon_again: bool,
    ) -> IndexState:
        """How the vectors are searched from now on, after building or dropping their index."""
        known = self.state_of(space, modality)
        changed = abs(known.rows - known.measured) > GROWTH * known.measured
        if changed and not (soon_again and known.measured):
            session.execute("ANALYZE items, metadata, tags, texts, vectors")
        kind, recall = wanted_index(self.settings)
        built = _is_built(session, space, modality)
        measured = replace(known, measured=known.rows)
        if why := _why_unindexed(kind, recall, space, known.rows):
            if built:
                _drop(session, space, modality)
            return replace(measured, choice=IndexChoice(why=why))
        if built and (not changed or soon_again) and known.choice.kind == HNSW:
            return known
        if kind == AUTO and known.found < recall and known.rows < 2 * known.given_up and not built:
            why = why_exact(recall, HNSW, known.found_for)
            return replace(measured, choice=IndexChoice(why=why))
        samples = recall_queries(queries(space, modality), space.dim, imported=space.is_imported)
        if not samples:
            why = "there are no queries to measure the recall of another kind with"
            return replace(known, choice=IndexChoice(why=why))
        if not built:
            _build(session, space, modality, known.rows)
        choice = self._measured(space, modality, known, samples, recall)
        lowest = min(choice.recall.values())
        if lowest >= recall or kind != AUTO:
            return replace(measured, choice=choice)
        _drop(session, space, modality)
        found = in_words(choice)
        return replace(
            measured,
            choice=IndexChoice(why=why_exact(recall, HNSW, found)),
            given_up=known.rows,
            found=lowest,
            found_for=found,
        )

    def _measured(
        self,
        space: Space,
        modality: Modality,
        known: IndexState,
        queries: SampleQueries,
        target: float,
    ) -> IndexChoice:
        """HNSW with the least effort that reaches a recall, and the recalls measured."""
        rows = self._augmented_rows(space, modality)
        test = RecallTest.of(queries, rows, lambda ids, one_in: ids % one_in == 0)

        def recall(choice: IndexChoice, enough: float) -> dict[str, float]:
            index = self._made(space, modality, replace(known, choice=choice))

            def search(some: Vectors, one_in: int) -> list[set[int]] | None:
                allowed = None if one_in == 1 else EachNth(one_in, known.rows // one_in)
                if index.compares_all(NEIGHBOURS, allowed):
                    return None
                return [set(dict(index.search(one, NEIGHBOURS, allowed))) for one in some]

            return test.recall(search, enough)

        efforts = [IndexChoice(HNSW, effort=effort) for effort in EFFORTS]
        with self.database.snapshot():  # one transaction, not one per search
            choice = least_effort(efforts, recall, target)
        return replace(
            choice, why=f"{choice.why}; a filter that few items pass is answered exactly"
        )

    def _augmented_rows(
        self, space: Space, modality: Modality
    ) -> Iterator[tuple[NDArray[np.int64], Float16Rows]]:
        """All rows (n, dim + EXTRA_DIMS), page by page, after the item ids (n,) of each page."""
        import numpy as np

        for new in PostgresVectors(self.database).new(space, modality):
            rows = augmented(new.rows.astype(np.float32), new.hub_text, new.hub_image)
            yield new.ids, rows.astype(np.float16)

    def drop(self, space: Space) -> None:
        with self.database.session() as session:
            for modality in ("image", "text", "audio"):
                _drop(session, space, modality)
        self.clear()


# ---------------------------------------------------------------------- the index on the server


def _setting(space: Space, modality: str) -> str:
    return f"{ENGINE}vector index {space.id} {modality}"


def _name(space: Space, modality: str) -> str:
    """The name of the index of a space and modality."""
    return f"vectors_hnsw_{space.id}_{modality}"


def _why_unindexed(kind: str, recall: float, space: Space, rows: int) -> str:
    """Why every vector is compared; "" if an index is worth building."""
    if not rows:
        return "there is nothing yet"
    if kind == EXACT:
        return "as asked for"
    if recall >= 1:
        return "a recall of 1 compares every vector"
    if space.dim > MAX_DIM:
        return f"pgvector indexes vectors of up to {MAX_DIM:,} numbers"
    if kind == AUTO and rows < INDEX_FROM:
        return f"{rows:,} vectors are compared in a moment"
    return ""


def _is_built(session: psycopg.Connection[Any], space: Space, modality: str) -> bool:
    """Whether the index exists; one whose build was interrupted is dropped."""
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
    found = session.execute(query, (_name(space, modality),)).fetchone()
    if found is not None and not found[0]:
        _drop(session, space, modality)
    return found is not None and bool(found[0])


def _drop(session: psycopg.Connection[Any], space: Space, modality: str) -> None:
    session.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_name(space, modality)}")


def _build(session: psycopg.Connection[Any], space: Space, modality: str, rows: int) -> None:
    """Build the index, without blocking readers and writers."""
    needed = rows * ((space.dim + 8) * 2 + LINKS * 24 + 160) * 5 // 4
    own = "SELECT pg_size_bytes(current_setting('maintenance_work_mem'))"
    (allowed,) = session.execute(own).fetchone() or (0,)
    memory = max(allowed, min(needed, MAX_MEMORY))
    statement = (
        f"CREATE INDEX CONCURRENTLY {_name(space, modality)} ON vectors USING hnsw "
        f"(({indexed(space.dim)}) halfvec_ip_ops) "
        f"WITH (m = {LINKS}, ef_construction = {BUILD_EFFORT}) "
        f"WHERE space_id = {space.id:d} AND modality = '{modality}'"
    )
    session.execute(f"SET maintenance_work_mem = '{memory // 1024}kB'")
    try:
        session.execute(statement)
    except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory):
        # parallel workers share that memory through /dev/shm, which is small in containers
        _drop(session, space, modality)
        session.execute("SET max_parallel_maintenance_workers = 0")
        session.execute(statement)
