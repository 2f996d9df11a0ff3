"""The spaces of an index: which encoders have vectors in it, and which modalities each serves.

All of them are one document, so that a new model takes over in one step. An alias a modality,
`P_serving_image` say, points at the collection that serves it: for those who ask Milvus themselves.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mmsearch.encoders import Encoder
from mmsearch.storage.milvus.database import Database, Write
from mmsearch.storage.milvus.layout import VECTORS, Layout, vectors_name
from mmsearch.storage.records import (
    ALL_MODALITIES,
    IMPORTED_FINGERPRINT,
    NO_MODALITIES,
    TEXT,
    Modalities,
    Space,
)
from mmsearch.storage.serving import assigned, in_order, joined, split, switched
from mmsearch.storage.store import QueryBankStore, SpaceStore
from mmsearch.types import Modality

_SPACES = "spaces"


class Spaces(SpaceStore):
    """The spaces, and the modalities that each serves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Space]:
        return in_order(self._spaces().values())

    def _spaces(self) -> dict[int, Space]:
        found = self._database.json(_SPACES, [])
        return {
            id_: Space(id_, name, fingerprint, dim, *map(split, modalities))
            for id_, name, fingerprint, dim, *modalities in found
        }

    def put(self, write: Write, spaces: dict[int, Space]) -> None:
        """Store all spaces."""
        write.put_json(
            _SPACES,
            [
                [
                    *(s.id, s.name, s.fingerprint, s.dim),
                    *map(joined, (s.modalities, s.serves, s.backfills)),
                ]
                for s in spaces.values()
            ],
        )

    def add(self, encoder: Encoder) -> Space:
        with self._database.write() as write:
            spaces = self._spaces()
            added = _add(write, spaces, encoder)
            self.put(write, spaces)
            return added

    def add_imported(self, name: str, dim: int, modalities: Iterable[Modality]) -> Space:
        with self._database.write() as write:
            spaces = self._spaces()
            key = name, IMPORTED_FINGERPRINT
            found = next((s for s in spaces.values() if (s.name, s.fingerprint) == key), None)
            if found is None:
                none = NO_MODALITIES
                found = Space(write.next("spaces"), *key, dim, none, none, none)
            found = replace(found, serves=found.serves | frozenset(modalities))
            spaces[found.id] = found
            self.serve(write, spaces)
            return found

    def adopt(self, encoder: Encoder) -> None:
        with self._database.write() as write:
            spaces = self._spaces()
            keys = {(s.name, s.fingerprint): s for s in spaces.values()}
            mine = keys.get((encoder.name, IMPORTED_FINGERPRINT))
            if mine is not None and (encoder.name, encoder.fingerprint) not in keys:
                spaces[mine.id] = replace(
                    mine, fingerprint=encoder.fingerprint, modalities=frozenset(encoder.modalities)
                )
                self.put(write, spaces)

    def serve_with(self, encoders: Sequence[Encoder], only: Modalities = ALL_MODALITIES) -> None:
        with self._database.write() as write:
            spaces = self._spaces()
            space_of: dict[Modality, int] = {}
            for encoder in encoders:
                space = _add(write, spaces, encoder)
                space_of |= dict.fromkeys(sorted(encoder.modalities & only - TEXT), space.id)
            spaces = assigned(spaces, space_of)
            items = self._database.collection("items")
            if space_of and not write.client.query(items, "id > 0", ["id"], 1):
                for id_ in list(spaces):
                    spaces = switched(spaces, id_)
                self.serve(write, spaces)
            self.put(write, spaces)

    def switch_to(self, space: Space) -> None:
        with self._database.write() as write:
            spaces = self._spaces()
            now = spaces.get(space.id)
            if now is not None and now.backfills == space.backfills:
                self.serve(write, switched(spaces, now.id))

    def serve(self, write: Write, spaces: dict[int, Space]) -> None:
        """Store the spaces, and let the aliases point at those that serve."""
        self.put(write, spaces)
        for space in spaces.values():
            for modality in space.serves:
                layout = Layout(VECTORS, space.dim)
                name = self._database.made(vectors_name((space.id, modality)), layout)
                write.client.point(self._database.collection(f"serving_{modality}"), name)

    def cancel_backfill(self, space: Space) -> None:
        self._change(space, backfills=NO_MODALITIES)

    def set_modalities(self, space: Space, modalities: Iterable[Modality]) -> None:
        self._change(space, modalities=frozenset(modalities))

    def _change(self, space: Space, **changed: Any) -> None:
        with self._database.write() as write:
            spaces = self._spaces()
            if space.id in spaces:
                spaces[space.id] = replace(spaces[space.id], **changed)
                self.put(write, spaces)

    def drop(self, space: Space) -> None:
        with self._database.write(vectors=True) as write:
            write.intend({"dropped": space.id})
            drop_space(write, space.id)


def drop_space(write: Write, space_id: int) -> None:
    """Delete a space with its collections; may be done again until it is done."""
    database, client = write.database, write.client
    spaces = Spaces(database)
    left = {s.id: s for s in spaces.all() if s.id != space_id}
    for place, name in database.vector_fields().items():
        if place[0] == space_id:
            client.drop(name)
    for (space, _, _), name in database.token_collections().items():
        if space == space_id:
            client.drop(name)
    write.put_document(f"bank {space_id}", None)
    spaces.put(write, left)


def _add(write: Write, spaces: dict[int, Space], encoder: Encoder) -> Space:
    """The space of an encoder, made if it is new."""
    modalities = frozenset(encoder.modalities)
    key = encoder.name, encoder.fingerprint
    found = next((s for s in spaces.values() if (s.name, s.fingerprint) == key), None)
    if found is None:
        none = NO_MODALITIES
        found = Space(write.next("spaces"), *key, encoder.dim, modalities, none, none)
    spaces[found.id] = added = replace(found, modalities=modalities)
    return added


class QueryBanks(QueryBankStore):
    """The query banks that were made for the spaces of this index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, space: Space) -> bytes | None:
        found = self._database.json(f"bank {space.id}", None)
        return None if found is None else base64.b85decode(found[1])

    def set(self, space: Space, version: str, bank: bytes) -> None:
        with self._database.write() as write:
            text = json.dumps([version, base64.b85encode(bank).decode()])
            write.put_document(f"bank {space.id}", text)
