"""The spaces of an index: which encoders have vectors in it, and which modalities each serves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, and_, delete, select, update

from mmsearch.encoders import Encoder
from mmsearch.storage.records import (
    ALL_MODALITIES,
    IMPORTED_FINGERPRINT,
    NO_MODALITIES,
    TEXT,
    Modalities,
    Space,
)
from mmsearch.storage.serving import assigned, in_order, joined, split, switched
from mmsearch.storage.sql.database import Database, insert_into, put_rows
from mmsearch.storage.sql.index_settings import next_revision
from mmsearch.storage.sql.schema import items, query_banks, spaces
from mmsearch.storage.store import QueryBankStore, SpaceStore
from mmsearch.types import Modality


class Spaces(SpaceStore):
    """The spaces, and the modalities that each serves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Space]:
        with self._database.read() as connection:
            return _spaces(connection)

    def add(self, encoder: Encoder) -> Space:
        with self._database.write() as connection:
            return _add(connection, encoder)

    def add_imported(self, name: str, dim: int, modalities: Iterable[Modality]) -> Space:
        c = spaces.c
        key = {"name": name, "fingerprint": IMPORTED_FINGERPRINT}
        mine = and_(c.name == name, c.fingerprint == IMPORTED_FINGERPRINT)
        with self._database.write() as connection:
            made = insert_into(connection, spaces).values(
                **key, dim=dim, modalities="", serves="", backfills=""
            )
            connection.execute(made.on_conflict_do_nothing())
            served = connection.execute(select(c.serves).where(mine)).scalar_one().split()
            joined = " ".join(sorted({*served, *modalities}))
            connection.execute(update(spaces).where(mine).values(serves=joined))
            return _find(connection, name, IMPORTED_FINGERPRINT)

    def adopt(self, encoder: Encoder) -> None:
        c = spaces.c
        known = {"fingerprint": encoder.fingerprint, "modalities": joined(encoder.modalities)}
        here = select(c.id).where(c.name == encoder.name, c.fingerprint == encoder.fingerprint)
        with self._database.write() as connection:
            if connection.execute(here).first() is None:
                imported = and_(c.name == encoder.name, c.fingerprint == IMPORTED_FINGERPRINT)
                connection.execute(update(spaces).where(imported).values(**known))

    def serve_with(self, encoders: Sequence[Encoder], only: Modalities = ALL_MODALITIES) -> None:
        with self._database.write() as connection:
            space_of: dict[Modality, int] = {}
            for encoder in encoders:
                space = _add(connection, encoder)
                space_of |= dict.fromkeys(sorted(encoder.modalities & only - TEXT), space.id)
            if not space_of:
                return
            before = _spaces(connection)
            now = assigned({one.id: one for one in before}, space_of)
            if connection.execute(select(items.c.id).limit(1)).first() is None:
                for one in before:
                    now = switched(now, one.id)
            _store(connection, before, now)

    def switch_to(self, space: Space) -> None:
        with self._database.write() as connection:
            before = _spaces(connection)
            known = {one.id: one for one in before}
            if space.id in known and known[space.id].backfills == space.backfills:
                _store(connection, before, switched(known, space.id))

    def cancel_backfill(self, space: Space) -> None:
        stopped = update(spaces).where(spaces.c.id == space.id)
        with self._database.write() as connection:
            connection.execute(stopped.values(backfills=joined(NO_MODALITIES)))

    def set_modalities(self, space: Space, modalities: Iterable[Modality]) -> None:
        changed = update(spaces).where(spaces.c.id == space.id)
        with self._database.write() as connection:
            connection.execute(changed.values(modalities=joined(modalities)))

    def drop(self, space: Space) -> None:
        with self._database.write() as connection:
            connection.execute(delete(spaces).where(spaces.c.id == space.id))
            next_revision(connection)


_c = spaces.c

_SPACES = select(_c.id, _c.name, _c.fingerprint, _c.dim, _c.modalities, _c.serves, _c.backfills)


def _spaces(connection: Connection) -> list[Space]:
    found = [
        Space(id_, name, fingerprint, dim, *map(split, modalities))
        for id_, name, fingerprint, dim, *modalities in connection.execute(_SPACES).all()
    ]
    return in_order(found)


def _find(connection: Connection, name: str, fingerprint: str) -> Space:
    key = (name, fingerprint)
    return next(one for one in _spaces(connection) if (one.name, one.fingerprint) == key)


def _add(connection: Connection, encoder: Encoder) -> Space:
    """The space of an encoder, made if it is new."""
    key = {"name": encoder.name, "fingerprint": encoder.fingerprint}
    modalities = {"modalities": joined(encoder.modalities)}
    made = insert_into(connection, spaces).values(
        **key, **modalities, dim=encoder.dim, serves="", backfills=""
    )
    connection.execute(made.on_conflict_do_update(index_elements=list(key), set_=modalities))
    return _find(connection, encoder.name, encoder.fingerprint)


def _store(connection: Connection, before: Sequence[Space], now: Mapping[int, Space]) -> None:
    """Store what spaces serve and backfill, where it has changed."""
    for space in before:
        if (new := now[space.id]) != space:
            changed = {"serves": joined(new.serves), "backfills": joined(new.backfills)}
            connection.execute(update(spaces).where(_c.id == space.id).values(**changed))


class QueryBanks(QueryBankStore):
    """The query banks that were made for the spaces of this index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, space: Space) -> bytes | None:
        chosen = select(query_banks.c.bank).where(query_banks.c.space_id == space.id)
        found = self._database.scalars(chosen)
        return found[0] if found else None

    def set(self, space: Space, version: str, bank: bytes) -> None:
        row = {"space_id": space.id, "version": version, "bank": bank}
        with self._database.write() as connection:
            put_rows(connection, query_banks, row)
