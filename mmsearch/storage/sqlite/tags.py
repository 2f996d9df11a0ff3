"""The tags that `mmsearch tag` gave the items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import delete, func, insert, select

from mmsearch.storage.sqlite.database import Database, chunks
from mmsearch.storage.sqlite.schema import items
from mmsearch.storage.sqlite.schema.tables import tags


class Tags:
    """The tags of the items, each with a score in [0, 1]."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self, found: Mapping[str, Mapping[int, float]], among: Iterable[int] | None = None
    ) -> None:
        """Give items tags, in the place of those of the same name, all or none.

        Args:
            found: By tag, the score of each item that has it; items that are gone are left out.
            among: Only these items were looked at: others keep the tag if they have it.
        """
        looked = None if among is None else sorted(set(among))
        with self._database.write() as connection:
            for tag, scores in found.items():
                same = delete(tags).where(tags.c.tag == tag)
                for part in [None] if looked is None else chunks(looked):
                    which = same if part is None else same.where(tags.c.item_id.in_(part))
                    connection.execute(which)
                for part in chunks(sorted(scores)):
                    still = select(items.c.id).where(items.c.id.in_(part))
                    rows = [
                        {"item_id": id_, "tag": tag, "score": float(scores[id_])}
                        for (id_,) in connection.execute(still).all()
                    ]
                    if rows:
                        connection.execute(insert(tags).prefix_with("OR REPLACE"), rows)

    def of(self, ids: Sequence[int]) -> dict[int, dict[str, float]]:
        """By item, its tags and their scores, the surest first; items without any are left out."""
        c = tags.c
        found: dict[int, dict[str, float]] = {}
        for part in chunks(sorted(set(ids))):
            chosen = select(c.item_id, c.tag, c.score).where(c.item_id.in_(part))
            for id_, tag, score in self._database.rows(
                chosen.order_by(c.item_id, c.score.desc(), c.tag)
            ):
                found.setdefault(id_, {})[tag] = score
        return found

    def counts(self) -> dict[str, int]:
        """How many items have each tag, by name."""
        counted = select(tags.c.tag, func.count()).group_by(tags.c.tag).order_by(tags.c.tag)
        return dict(map(tuple, self._database.rows(counted)))

    def clear(self, names: Iterable[str] | None = None) -> int:
        """Take tags off all items; of all names when None. Returns how many went."""
        with self._database.write() as connection:
            if names is None:
                return int(connection.execute(delete(tags)).rowcount)
            gone = 0
            for part in chunks(sorted(set(names))):
                gone += int(connection.execute(delete(tags).where(tags.c.tag.in_(part))).rowcount)
            return gone
