"""Items with all their parts in one statement, since each one is a round trip to the server."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, bindparam, cast, func, select, type_coerce
from sqlalchemy.dialects.postgresql import aggregate_order_by

from mmsearch.storage.sql.database import Prepared, is_one_of_ids
from mmsearch.storage.sql.items import WITH_ROOT, Items, as_items
from mmsearch.storage.sql.schema import items, metadata, tags, texts
from mmsearch.storage.sql.types import TEXT
from mmsearch.types import Item


class PostgresItems(Items):
    """Reads and deletes items."""

    def _found(self, connection: Connection, **given: Any) -> dict[int, Item]:
        rows = (_BY_ID if "ids" in given else _NEXT_PAGE).of(connection, **given)
        # not strict: `StoredText` has put back control characters, NUL for one
        lists = [json.loads(row[-1], strict=False) for row in rows]
        parts = ([part for of_item in lists for part in of_item[table] or ()] for table in range(3))
        return as_items([row[:-1] for row in rows], *parts)


def _listed(*columns: ColumnElement[Any], order: ColumnElement[Any]) -> ColumnElement[Any]:
    """A JSON list of an item's rows of a table, each a list; None if there are none."""
    row = func.json_build_array(*(type_coerce(column, Text) for column in columns))
    listed = select(func.json_agg(aggregate_order_by(row, order)))
    return listed.where(columns[0] == items.c.id).correlate(items).scalar_subquery()


_m, _t = metadata.c, tags.c

# one JSON text, so that texts are read at once and not each by itself
_PARTS = func.json_build_array(
    _listed(*texts.c, order=texts.c.position),
    _listed(_m.item_id, _m.key, _m.text, order=_m.key),
    _listed(_t.item_id, _t.tag, _t.score, order=_t.tag),
)

_WITH_PARTS = WITH_ROOT.add_columns(type_coerce(cast(_PARTS, Text), TEXT).label("parts"))

_BY_ID = Prepared(_WITH_PARTS.where(is_one_of_ids(items.c.id)))

_NEXT_PAGE = Prepared(_WITH_PARTS.where(items.c.id > bindparam("last")).limit(bindparam("page")))
