"""How many of many items have each folder and tag, whose indexes name the items of each value."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select

from mmsearch.storage.sql.facets import BY_INDEX, COLUMNS, Counts, key_of

if TYPE_CHECKING:
    from mmsearch.vectors.id_set import IdSet


def counted_by_index(connection: Connection, ids: IdSet) -> Counts:
    """How many of some items have each folder and tag."""
    import numpy as np

    found: Counts = {}
    for name in BY_INDEX:
        *value, id_ = COLUMNS[name]
        listing = select(*value, func.group_concat(id_)).group_by(*value)
        rows: Any = connection.execute(listing).cursor
        found[name] = Counter()
        for row in rows:
            number = np.count_nonzero(ids.contains(np.fromstring(row[-1], np.int64, sep=",")))
            if number:
                found[name][key_of(row)] = int(number)
    return found
