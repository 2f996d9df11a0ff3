"""The vectors of the items, by space and modality, their hubs, token embeddings and deletions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import Database
from mmsearch.storage.milvus.files import Sources
from mmsearch.storage.milvus.layout import VECTORS, flag, one_of
from mmsearch.storage.milvus.rows import read_texts, read_tokens, sent_vector, vector_of
from mmsearch.storage.milvus.writer import put_vectors
from mmsearch.storage.records import IMPORTED_SOURCE, ItemVectors, NewVectors, Space, VectorField
from mmsearch.storage.store import ChangeStore, HubStore, TokenEmbeddingStore, VectorStore
from mmsearch.storage.stored_text import text_of
from mmsearch.types import Kind, Modality, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

ROWS_AT_ONCE = 4_096
"""Vectors that are read by one call."""

_VECTOR = ["id", "item_id", "position", "vector"]


class StoredVectors(VectorStore):
    """Reads vectors, and stores those that items lack."""

    def __init__(self, database: Database, sources: Sources) -> None:
        self._database = database
        self._sources = sources

    def _name(self, space: Space, modality: Modality) -> str:
        return _name(self._database, space, modality)

    # ------------------------------------------------------------------ counting

    def counts(self) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = {}
        for (space, modality), name in self._database.vector_fields().items():
            if number := self._database.client.count(name):
                found.setdefault(space, {})[modality] = number
        return found

    def count(
        self, space: Space, modality: Modality | None = None, ids: Iterable[int] | None = None
    ) -> int:
        total, client = 0, self._database.client
        listed = None if ids is None else sorted({int(id_) for id_ in ids})
        for one in get_args(Modality) if modality is None else (modality,):
            name = self._name(space, one)
            if listed is None:
                total += client.count(name)
            else:
                for start in range(0, len(listed), ROWS_AT_ONCE):
                    some = listed[start : start + ROWS_AT_ONCE]
                    total += client.count(name, one_of("item_id", some))
        return total

    def modalities(self, space: Space) -> list[Modality]:
        client = self._database.client
        return [
            modality
            for modality in sorted(get_args(Modality))
            if client.query(self._name(space, modality), "id > 0", ["id"], 1)
        ]

    # ------------------------------------------------------------------ reading

    def of(
        self, space: Space, modality: Modality, ids: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int64], Vectors, NDArray[np.int64]]:
        import numpy as np

        rows = _rows(self._database, space, modality, _VECTOR, ids)
        owners = np.fromiter((row["item_id"] for row in rows), np.int64, len(rows))
        positions = np.fromiter((row["position"] for row in rows), np.int64, len(rows))
        return owners, _matrix(rows, space), positions

    def pages(
        self, space: Space, modality: Modality, rows: int = 8192
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        import numpy as np

        client, name = self._database.client, self._name(space, modality)
        total, last = client.count(name), self._last_item()
        # Milvus sorts by nothing but the key: windows of item ids give the order
        step = max(1, last * rows // max(total, 1))
        low = 0
        while total and low < last:
            page = client.query(name, f"item_id > {low} and item_id <= {low + step}", _VECTOR)
            low += step
            if page:
                page = _ordered(page)
                yield np.array([row["item_id"] for row in page], np.int64), _matrix(page, space)
            step = max(1, min(last, step * rows // max(len(page), rows // 4, 1)))

    def _last_item(self) -> int:
        return int(self._database.head()["numbers"].get("items", 0))

    def sample(self, space: Space, modality: Modality, number: int) -> Vectors:
        import numpy as np

        client, name = self._database.client, self._name(space, modality)
        total, last = client.count(name), self._last_item()
        best: dict[int, int] = {}
        if total > 4 * number:  # a few ids for each that is wanted will do
            some = np.unique(np.linspace(1, last, 4 * number).astype(np.int64))
            for row in client.among(name, "item_id", some, ["id", "item_id"]):
                best[row["item_id"]] = min(row["id"], best.get(row["item_id"], row["id"]))
        chosen = [best[item] for item in sorted(best)]
        if len(chosen) < min(number, total):
            pages = client.iterate(name, "id > 0", ["id"], 16_384)
            chosen = [row["id"] for page in pages for row in page]
        places = np.linspace(0, len(chosen) - 1, min(number, len(chosen))).astype(int)
        wanted = [chosen[place] for place in np.unique(places)]
        rows = client.among(name, "id", wanted, _VECTOR, at_once=ROWS_AT_ONCE)
        return _matrix(_ordered(rows), space)

    def spans(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> dict[tuple[int, int], Span | None]:
        if modality == "text":
            items = self._database.collection("items")
            fields = ["id", "texts", "parts", "parts_write"]
            found = self._database.client.among(items, "id", sorted(set(ids)), fields)
            return {
                (id_, position): _span(*span)
                for id_, texts in read_texts(self._database, found).items()
                for position, (_, _, *span) in enumerate(texts)
            }
        fields = ["id", "item_id", "position", "start", "end", "unit"]
        return {
            (row["item_id"], row["position"]): _span(row["start"], row["end"], row["unit"])
            for row in _rows(self._database, space, modality, fields, ids)
        }

    # ------------------------------------------------------------------ what is missing

    def missing(
        self,
        space: Space,
        modality: Modality,
        kinds: Iterable[Kind],
        *,
        token_embeddings: bool = False,
    ) -> list[tuple[int, str, bytes]]:
        place = space.id, modality
        generation = self._database.json("token generations", {}).get(str(space.id), 0)
        having = flag(place, f"+{generation}") if token_embeddings else flag(place)
        where = f"{_should_have(modality, kinds)} and {_without(having)}"
        if modality != "text":
            imported = self._sources.known(IMPORTED_SOURCE)
            where += f" and {_without(flag(place, '-'))}"
            where += "" if imported is None else f" and source_id != {imported}"
        roots = self._sources.roots()
        fields = ["id", "source_id", "folder", "name", "hash"]
        items = self._database.collection("items")
        return [
            (
                row["id"],
                os.path.join(
                    roots.get(row["source_id"], ""), text_of(row["folder"]), text_of(row["name"])
                ),
                bytes.fromhex(row["hash"]),
            )
            for page in self._database.client.iterate(items, where, fields, 16_384)
            for row in page
        ]

    def any_missing(self, space: Space, modality: Modality, kinds: Iterable[Kind]) -> bool:
        where = f"{_should_have(modality, kinds)} and {_without(flag((space.id, modality)))}"
        items = self._database.collection("items")
        return bool(self._database.client.query(items, where, ["id"], 1))

    def missing_of_imported(self, space: Space, modality: Modality, kinds: Iterable[Kind]) -> int:
        imported = self._sources.known(IMPORTED_SOURCE)
        if imported is None:
            return 0
        where = f"source_id == {imported} and {one_of('kind', kinds)}"
        where += f" and {_without(flag((space.id, modality)))}"
        return self._database.client.count(self._database.collection("items"), where)

    def backfill(
        self,
        vectors: Mapping[tuple[int, bytes], Mapping[VectorField, ItemVectors]],
        texts: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        if not vectors:
            return
        database = self._database
        with database.write(vectors=True) as write:
            fields = ["id", "hash", "texts", "parts", "parts_write"]
            ids = sorted({id_ for id_, _ in vectors})
            rows = write.client.among(database.collection("items"), "id", ids, fields)
            hashes = {row["id"]: row["hash"] for row in rows}
            current = read_texts(database, rows) if texts is not None else {}
            unchanged = [
                (id_, fields_)
                for (id_, hash_), fields_ in vectors.items()
                if hashes.get(id_) == hash_.hex()
                and (texts is None or [one[1] for one in current[id_]] == list(texts[id_]))
            ]
            put_vectors(write, unchanged)

    def new(self, space: Space, modality: Modality, after: int = 0) -> Iterator[NewVectors]:
        import numpy as np

        fields = ["id", "item_id", "vector", "hub_text", "hub_image"]
        name = self._name(space, modality)
        for rows in self._database.client.iterate(name, f"id > {after}", fields, ROWS_AT_ONCE):
            yield NewVectors(
                np.array([row["id"] for row in rows], np.int64),
                np.array([row["item_id"] for row in rows], np.int64),
                np.stack([vector_of(row["vector"]) for row in rows]),
                *(_hubs(rows, asked) for asked in ("text", "image")),
            )


def _name(database: Database, space: Space, modality: Modality) -> str:
    return database.collection(f"v{space.id}_{modality}")


def _rows(
    database: Database,
    space: Space,
    modality: Modality,
    fields: Sequence[str],
    ids: Iterable[int] | None,
) -> list[Row]:
    """Rows of vectors, of some items or all, in order of (item id, position)."""
    client, name = database.client, _name(database, space, modality)
    if ids is None:
        pages = client.iterate(name, "id > 0", fields, ROWS_AT_ONCE)
        return _ordered([row for page in pages for row in page])
    wanted = sorted({int(id_) for id_ in ids})
    return _ordered(client.among(name, "item_id", wanted, fields, at_once=1000))


def _ordered(rows: Iterable[Row]) -> list[Row]:
    """Rows in order of (item id, position); of two at one place the newer one."""
    # while an item is stored anew, both its former vectors and the new ones are there
    best = {
        (row["item_id"], row["position"]): row for row in sorted(rows, key=lambda r: int(r["id"]))
    }
    return [best[key] for key in sorted(best)]


def _matrix(rows: Sequence[Row], space: Space) -> Vectors:
    """Vectors (n, dim) as float32."""
    import numpy as np

    found = np.empty((len(rows), space.dim), np.float32)
    for number, row in enumerate(rows):
        found[number] = vector_of(row["vector"])
    return found


def _hubs(rows: Sequence[Row], query_modality: str) -> NDArray[np.float32]:
    import numpy as np

    return np.array([row[f"hub_{query_modality}"] for row in rows], np.float32)  # None becomes NaN


def _span(start: float | None, end: float | None, unit: Any) -> Span | None:
    return None if start is None or end is None else Span(float(start), float(end), unit)


def _should_have(modality: Modality, kinds: Iterable[Kind]) -> str:
    """The expression that an item should have a vector of a modality."""
    return "texts_count > 0" if modality == "text" else one_of("kind", kinds)


def _without(one: str) -> str:
    """The expression that an item does not have a flag."""
    return f'not (fields like "%{one}%")'


class Hubs(HubStore):
    """How much of a hub each vector is, by query modality."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(
        self,
        space: Space,
        modality: Modality,
        query_modality: Modality,
        ids: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        fields = ["id", "item_id", "position", f"hub_{query_modality}"]
        return _hubs(_rows(self._database, space, modality, fields, ids), query_modality)

    def missing(
        self, space: Space, modality: Modality, query_modality: Modality, most: int
    ) -> tuple[list[int], Vectors]:
        rows = self._database.client.query(
            _name(self._database, space, modality),
            f"hub_{query_modality} is null",
            ["id", "vector"],
            most,
        )
        return [row["id"] for row in rows], _matrix(rows, space)

    def set(
        self, query_modality: Modality, vector_ids: Sequence[int], hubs: NDArray[np.float32]
    ) -> None:
        given = dict(zip(map(int, vector_ids), hubs.tolist(), strict=True))
        with self._database.write(vectors=True) as write:
            for name in self._database.vector_fields().values():
                left = sorted(given)
                for start in range(0, len(left), ROWS_AT_ONCE):
                    some = left[start : start + ROWS_AT_ONCE]
                    rows = write.client.among(name, "id", some, list(VECTORS))
                    for row in rows:
                        row[f"hub_{query_modality}"] = given.pop(row["id"])
                        row["vector"] = sent_vector(self._database, vector_of(row["vector"]))
                    write.client.upsert(name, rows)
            write.head["epoch"] += 1


class TokenEmbeddings(TokenEmbeddingStore):
    """Small vectors of a text's words or a picture's regions, for reranking."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> dict[tuple[int, int], NDArray[np.int8]]:
        from mmsearch.storage.packing import unpack

        found = read_tokens(self._database, (space.id, modality), ids)
        return {key: unpack(packed) for key, packed in found.items()}

    def clear(self, space: Space) -> None:
        database = self._database
        with database.write() as write:
            generations = database.json("token generations", {})
            generations[str(space.id)] = generations.get(str(space.id), 0) + 1
            write.put_json("token generations", generations)
        for (space_id, generation, _), name in database.token_collections().items():
            if space_id == space.id and generation < generations[str(space.id)]:
                database.client.drop(name)


class Changes(ChangeStore):
    """The log of deleted vectors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self) -> int:
        return int(self._database.head()["changes"])

    def deleted_vectors(
        self, space: Space, modality: Modality, after: int
    ) -> tuple[NDArray[np.int64], int]:
        import numpy as np

        last = self.last()
        where = f"id > {after} and id <= {last} and space_id == {space.id}"
        where += f' and modality == "{modality}"'
        name, fields = self._database.collection("deleted"), ["id", "vector_id"]
        pages = self._database.client.iterate(name, where, fields, 16_384)
        found = [row["vector_id"] for page in pages for row in page]
        return np.array(found, np.int64), max(last, after)

    def forget(self, upto: int) -> None:
        with self._database.write() as write:
            write.client.delete(self._database.collection("deleted"), f"id <= {upto}")
            write.head["forgotten"] = upto
