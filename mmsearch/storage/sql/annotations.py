"""What users and labels say of the items: metadata and tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, delete, select, true

from mmsearch.storage.records import BY_HAND, metadata_texts
from mmsearch.storage.sql.database import Database, insert_into, is_one_of
from mmsearch.storage.sql.schema import items, tags
from mmsearch.storage.sql.writer import put_metadata
from mmsearch.storage.store import MetadataStore, TagStore

if TYPE_CHECKING:
    from sqlalchemy.dialects.sqlite import Insert

ITEMS_AT_ONCE = 2_000
"""Items whose metadata are written by one statement."""


class Metadata(MetadataStore):
    """The user's own metadata of the items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        with self._database.write() as connection:
            waiting, writer = iter(rows), self._database.writer(connection)
            while some := dict(islice(waiting, ITEMS_AT_ONCE)):
                there = _ids_there(connection, some)
                put_metadata(writer, {id_: metadata_texts(some[id_]) for id_ in sorted(there)})


def _ids_there(connection: Connection, ids: Iterable[int]) -> set[int]:
    """Those of some ids that are of an item."""
    return set(connection.execute(select(items.c.id).where(is_one_of(items.c.id, ids))).scalars())


class Tags(TagStore):
    """The tags of the items, each with a score in [0, 1]."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self, found: Mapping[str, Mapping[int, float]], among: Iterable[int] | None = None
    ) -> None:
        changed = true() if among is None else is_one_of(tags.c.item_id, among)
        with self._database.write() as connection:
            for tag, scores in found.items():
                replaced = and_(tags.c.tag == tag, tags.c.score < BY_HAND, changed)
                connection.execute(delete(tags).where(replaced))
                rows = [
                    {"item_id": id_, "tag": tag, "score": float(scores[id_])}
                    for id_ in sorted(_ids_there(connection, scores))
                ]
                if rows:
                    connection.execute(_set_score(connection), rows)

    def add(self, tag: str, ids: Sequence[int]) -> int:
        with self._database.write() as connection:
            there = sorted(_ids_there(connection, ids))
            if there:
                rows = [{"item_id": id_, "tag": tag, "score": BY_HAND} for id_ in there]
                connection.execute(_set_score(connection), rows)
            return len(there)

    def remove(self, tag: str, ids: Sequence[int]) -> int:
        chosen = and_(tags.c.tag == tag, is_one_of(tags.c.item_id, ids))
        with self._database.write() as connection:
            return connection.execute(delete(tags).where(chosen)).rowcount

    def clear(self, names: Iterable[str] | None = None) -> int:
        chosen = delete(tags)
        if names is not None:
            chosen = chosen.where(tags.c.tag.in_(list(names)))
        with self._database.write() as connection:
            return connection.execute(chosen).rowcount


def _set_score(connection: Connection) -> Insert:
    """Gives an item a tag, or another score of it unless it has the tag by hand."""
    new = insert_into(connection, tags)
    keys, score = [tags.c.item_id, tags.c.tag], new.excluded.score
    return new.on_conflict_do_update(
        index_elements=keys, set_={"score": score}, where=tags.c.score < BY_HAND
    )
