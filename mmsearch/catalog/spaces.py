"""Which encoders have vectors in the catalog."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.catalog.store import Store
from mmsearch.entries import next_revision
from mmsearch.schema import items, spaces
from mmsearch.types import Encoder, Modality


@dataclass(frozen=True, slots=True)
class Space:
    """Where the vectors of one encoder are filed."""

    id: int
    name: str
    fingerprint: str
    dim: int
    modalities: frozenset[Modality]
    preference: int
    complete: bool
    """Whether it has a vector of everything; until then it answers nothing."""


class SpaceTable(Store):
    """Which encoders there are."""

    def spaces(self) -> list[Space]:
        """All spaces, the preferred one first."""
        c = spaces.c
        columns = (c.id, c.name, c.fingerprint, c.dim, c.modalities, c.preference, c.complete)
        rows = self._rows(select(*columns).order_by(c.preference.desc()))
        return [
            Space(id_, name, fingerprint, dim, frozenset(takes.split()), rank, bool(complete))
            for id_, name, fingerprint, dim, takes, rank, complete in rows
        ]

    def add_space(self, encoder: Encoder) -> Space:
        """The space of an encoder, preferred to all others, made if it is new.

        While there are items that it has no vectors of, it is not complete.
        """
        key = {"name": encoder.name, "fingerprint": encoder.fingerprint}
        c = spaces.c
        with self._write() as connection:
            last = connection.execute(select(func.max(c.preference))).scalar_one() or 0
            empty = connection.execute(select(items.c.id).limit(1)).first() is None
            row = {
                "modalities": " ".join(sorted(encoder.modalities)),
                "preference": last + 1,
                "complete": int(empty),
            }
            made = insert(spaces).values(**key, dim=encoder.dim, **row)
            connection.execute(made.on_conflict_do_update(index_elements=list(key), set_=row))
        return next(
            space
            for space in self.spaces()
            if (space.name, space.fingerprint) == (encoder.name, encoder.fingerprint)
        )

    def note_modalities(self, space: Space, modalities: Iterable[Modality]) -> None:
        """Keep what a newer version of a space's encoder can encode."""
        self._change_space(space, modalities=" ".join(sorted(modalities)))

    def complete_space(self, space: Space) -> None:
        """Say that a space has a vector of everything."""
        self._change_space(space, complete=1)

    def _change_space(self, space: Space, **changed: Any) -> None:
        with self._write() as connection:
            connection.execute(update(spaces).where(spaces.c.id == space.id).values(**changed))

    def drop_space(self, space: Space) -> None:
        """Delete a space and all vectors in it."""
        with self._write() as connection:
            connection.execute(delete(spaces).where(spaces.c.id == space.id))
            next_revision(connection)
