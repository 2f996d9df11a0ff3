"""The vector indexes of a store in Milvus: which are built, and with which search effort."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from mmsearch.errors import InvalidOption, StorageFailed
from mmsearch.storage.index_kind import check_recall, want_index, wanted_index
from mmsearch.storage.milvus.database import Database
from mmsearch.storage.milvus.layout import vectors_name
from mmsearch.storage.milvus.vector_index import (
    CANDIDATES,
    EFFORTS,
    FLAT,
    HNSW,
    IVF_RABITQ,
    Choice,
    MilvusIndex,
)
from mmsearch.storage.records import Serving, Space
from mmsearch.storage.store import SampleQueriesOf, SettingStore, VectorIndexes
from mmsearch.storage.transfer import ENGINE
from mmsearch.types import Modality
from mmsearch.vectors import AUTO, EXACT
from mmsearch.vectors.recall import in_words, least_effort, recall_queries, why_exact

EXACT_BYTES = 256 * 2**20
"""Up to this size, in float16, the server compares all vectors."""

MEMORY_BYTES = 32 * 2**30
"""Up to this size the kind is HNSW, which keeps all vectors in memory; above, IVF_RABITQ, whose
codes take a sixteenth."""

LITE_KINDS = (HNSW, "HNSW_SQ", "IVF_FLAT", "IVF_SQ8")
"""The kinds that milvus-lite has."""

GROWTH = 0.1
"""An index is chosen, built and measured again once rows have grown or shrunk by this share."""


class MilvusIndexes(VectorIndexes):
    """The vector indexes of a store in Milvus.

    Args:
        database: The index's.
        settings: The store's settings, which hold the choices.
        folder: The local cache.
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
                # the server is slow to compare rows that are not flushed
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
        """The kind to build, for a kind that the user wants."""
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
        """Build the index that is wanted, and measure what a search of it needs.

        Args:
            space: The space.
            modality: The modality.
            queries: Sample queries.
            asked: The kind that the user wants.
            least: The recall to reach, 0 to 1.
        """
        index = self.index(space, modality)
        rows, client = len(index), self._database.client
        wanted = EXACT if least >= 1 else self._wanted(asked, rows, space.dim)
        name, choice = self._name(space, modality), Choice(wanted, rows=rows)
        try:
            if client.is_lite and wanted not in (EXACT, *LITE_KINDS):  # it would fail later
                raise StorageFailed("milvus-lite has none")  # noqa: TRY301
            client.reindex(name, "vector", choice.index_type, _build_parameters(wanted, rows))
        except StorageFailed as error:
            client.reindex(name, "vector", FLAT, {})
            why = f"{wanted} cannot be made: {error}"
            return Choice(EXACT, CANDIDATES[-1], rows=rows, why=why)
        samples = recall_queries(queries(space, modality), space.dim, imported=space.is_imported)
        if wanted == EXACT and not any(some[:, space.dim :].any() for some in samples.values()):
            return replace(choice, why=f"{rows:,} vectors, each of which the server compares")
        if not samples:
            why = f"{rows:,} vectors; there are no queries to measure the recall with"
            return replace(choice, why=why)
        test = index.recall_test(samples)

        def recall(choice: Choice, enough: float) -> dict[str, float]:
            return self._made(space, modality, choice).recall(test, enough)

        # one after the other: recall need not grow from one pair to the next
        efforts = EFFORTS.get(wanted, ("", (0,)))[1]
        most = [Choice(wanted, CANDIDATES[-1], effort, rows=rows) for effort in efforts]
        effort = least_effort(most, recall, least).effort
        choices = [Choice(wanted, candidates, effort, rows=rows) for candidates in CANDIDATES]
        found = least_effort(choices, recall, least)
        if wanted == EXACT or asked != AUTO or min(found.recall.values()) >= least:
            return found
        client.reindex(name, "vector", FLAT, {})
        why = why_exact(least, wanted, in_words(found))
        return Choice(EXACT, CANDIDATES[-1], rows=rows, why=why)


def _build_parameters(kind: str, rows: int) -> dict[str, Any]:
    """The parameters that an index of so many rows is built with, by Milvus' names."""
    if kind.startswith("HNSW"):
        more = {"sq_type": "SQ8"} if kind == "HNSW_SQ" else {}
        return {"M": 32, "efConstruction": 200, **more}
    if kind.startswith("IVF"):
        cells = {"nlist": max(min(round(4 * rows**0.5), 65_536), 1)}
        return cells | ({"refine": True, "refine_type": "SQ8"} if kind == IVF_RABITQ else {})
    return {}


def _key(space: Space, modality: Modality) -> str:
    return f"{ENGINE}neighbours {space.id} {modality}"
