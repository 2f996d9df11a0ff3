"""Which encoders have vectors in the catalog, and which of them answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.encoders import Encoder
from mmsearch.storage.records import (
    IMPORTED_FINGERPRINT,
    NO_MODALITIES,
    TEXT,
    Modalities,
    Space,
)
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.records import next_revision
from mmsearch.storage.sqlite.schema import items, spaces
from mmsearch.types import Modality


class Spaces:
    """The encoders of an index and their spaces."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Space]:
        """All spaces: first those that answer for pictures, then for sounds, then the others."""
        with self._database.read() as connection:
            return _spaces(connection)

    def add(self, encoder: Encoder) -> Space:
        """The space of an encoder, made if it is new; then it answers for nothing yet."""
        with self._database.write() as connection:
            return _add(connection, encoder)

    def serve_with(self, encoders: Sequence[Encoder]) -> None:
        """Have encoders answer for the media they can encode, of two that can the later one.

        At once if the index is empty, else once their spaces are filled. All or none: a space
        that nobody had answer for anything would be given nothing by later runs.
        """
        with self._database.write() as connection:
            media: dict[Modality, int] = {}
            for encoder in encoders:
                space = _add(connection, encoder)
                media |= dict.fromkeys(sorted(encoder.modalities - TEXT), space.id)
            if media:
                _assign(connection, media)

    def switch_to(self, space: Space) -> None:
        """Let a space that has been filled answer; what answered before is left as it is."""
        with self._database.write() as connection:
            now = next((one for one in _spaces(connection) if one.id == space.id), None)
            if now is not None and now.backfills == space.backfills:
                _switch(connection, now)

    def cancel_backfill(self, space: Space) -> None:
        """Fill a space no further."""
        with self._database.write() as connection:
            _put(connection, space, space.serves, NO_MODALITIES)

    def set_modalities(self, space: Space, modalities: Iterable[Modality]) -> None:
        """Keep what a newer version of a space's encoder can encode."""
        self._change(space, modalities=_joined(modalities))

    def _change(self, space: Space, **changed: Any) -> None:
        with self._database.write() as connection:
            connection.execute(update(spaces).where(spaces.c.id == space.id).values(**changed))

    def drop(self, space: Space) -> None:
        """Delete a space and all vectors in it."""
        with self._database.write() as connection:
            connection.execute(delete(spaces).where(spaces.c.id == space.id))
            next_revision(connection)

    def add_imported(self, name: str, dim: int, facets: Iterable[Modality]) -> Space:
        """The space of vectors whose encoder is not here, made if need be; it answers for facets.

        It has no modalities: nothing can be encoded for it.
        """
        key = {"name": name, "fingerprint": IMPORTED_FINGERPRINT}
        with self._database.write() as connection:
            made = insert(spaces).values(**key, dim=dim, modalities="", keeps="", fills="")
            connection.execute(made.on_conflict_do_nothing())
            c = spaces.c
            mine = and_(c.name == name, c.fingerprint == IMPORTED_FINGERPRINT)
            kept = connection.execute(select(c.keeps).where(mine)).scalar_one().split()
            joined = " ".join(sorted({*kept, *facets}))
            connection.execute(update(spaces).where(mine).values(keeps=joined))
        return next(
            s for s in self.all() if (s.name, s.fingerprint) == (name, IMPORTED_FINGERPRINT)
        )

    def adopt(self, encoder: Encoder) -> None:
        """Let an encoder answer for vectors that came without it, under its name."""
        c = spaces.c
        known = {"fingerprint": encoder.fingerprint, "modalities": " ".join(encoder.modalities)}
        here = select(c.id).where(c.name == encoder.name, c.fingerprint == encoder.fingerprint)
        with self._database.write() as connection:
            if connection.execute(here).first() is None:
                mine = and_(c.name == encoder.name, c.fingerprint == IMPORTED_FINGERPRINT)
                connection.execute(update(spaces).where(mine).values(**known))


_c = spaces.c

_SPACES = select(_c.id, _c.name, _c.fingerprint, _c.dim, _c.modalities, _c.keeps, _c.fills)


def _spaces(connection: Connection) -> list[Space]:
    found = [
        Space(id_, name, fingerprint, dim, *map(_split, facets))
        for id_, name, fingerprint, dim, *facets in connection.execute(_SPACES).all()
    ]
    return sorted(
        found, key=lambda s: ("image" not in s.serves, "audio" not in s.serves, not s.serves, -s.id)
    )


def _add(connection: Connection, encoder: Encoder) -> Space:
    """The space of an encoder, made if it is new."""
    key = {"name": encoder.name, "fingerprint": encoder.fingerprint}
    takes = {"modalities": _joined(encoder.modalities)}
    made = insert(spaces).values(**key, **takes, dim=encoder.dim, keeps="", fills="")
    connection.execute(made.on_conflict_do_update(index_elements=list(key), set_=takes))
    return next(
        space
        for space in _spaces(connection)
        if (space.name, space.fingerprint) == (encoder.name, encoder.fingerprint)
    )


def _assign(connection: Connection, media: Mapping[Modality, int]) -> None:
    """Say which space (by its id) is to answer for "image" or "audio"."""
    empty = connection.execute(select(items.c.id).limit(1)).first() is None
    for medium, space_id in media.items():
        for space in _spaces(connection):
            fills = space.backfills - {medium}
            if space.id == space_id and medium not in space.serves:
                fills |= {medium} | ((TEXT & space.modalities) - space.serves)
            elif not fills - TEXT:
                fills = NO_MODALITIES
            _put(connection, space, space.serves, fills)
    if empty:
        for space in _spaces(connection):
            _switch(connection, space)


def _switch(connection: Connection, space: Space) -> None:
    media = space.backfills - TEXT
    for other in _spaces(connection):
        if other.id != space.id and other.serves & media:
            kept = other.serves - media
            _put(connection, other, kept if kept - TEXT else NO_MODALITIES, other.backfills)
    _put(connection, space, space.encodes_for, NO_MODALITIES)


def _put(connection: Connection, space: Space, keeps: Modalities, fills: Modalities) -> None:
    changed = {"keeps": _joined(keeps), "fills": _joined(fills)}
    connection.execute(update(spaces).where(spaces.c.id == space.id).values(**changed))


def _joined(facets: Iterable[Modality]) -> str:
    return " ".join(sorted(facets))


def _split(facets: str) -> Modalities:
    return frozenset(facets.split())  # type: ignore[arg-type]
