"""How many items are written at once: by a few long statements, in the driver's own words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmsearch.storage.records import ItemBatch, RowColumns, Space
from mmsearch.storage.sqlite.database import chunks
from mmsearch.types import Modality

_ALWAYS: Mapping[str, Any] = {"size": 0, "mtime_ns": 0}

MOST_PARAMETERS = 30_000
"""In one statement. A row a statement, SQLite keeps copies of the pages that triggers may have to
put back, which takes ten times as long as the writing."""

TEXTS = ("item_id", "position", "origin", "text", "start", "end", "unit")
METADATA = ("item_id", "key", "text", "number")
TAGS = ("item_id", "tag", "score")
VECTORS = ("item_id", "position", "start", "end", "unit", "vector", "hub_text", "hub_image")


def put_batch(driver: Any, batch: ItemBatch, space: Space | None) -> tuple[int, int]:
    """Write a batch; returns how many items are new, and how many were there.

    Args:
        driver: In a transaction.
        batch: What is to be written.
        space: Of its vectors; None if it has none.
    """
    ids, there = _put_items(driver, batch)
    written = _Written(driver, ids, there)
    if batch.texts is not None:
        written.texts(batch.texts)
    for table, columns, lists in (
        ("metadata", METADATA, batch.metadata),
        ("tags", TAGS, batch.tags),
    ):
        if lists is not None:
            written.clear(table)
            _put(driver, table, columns, written.with_ids(lists))
    for facet, lists in batch.vectors.items():
        if space is not None:
            written.vectors(space, facet, lists)
    return len(ids) - len(there), len(there)


# ---------------------------------------------------------------------- parts of the above


def _put_items(driver: Any, batch: ItemBatch) -> tuple[Sequence[int], dict[int, int]]:
    """The id of each item, and by number those that were there before."""
    last = driver.execute(
        "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'items'), 0),"
        " coalesce((SELECT max(id) FROM items), 0))"
    ).fetchone()[0]
    new = range(last + 1, last + 1 + len(batch.names))
    usual = {**_ALWAYS, "kind": batch.kind}
    known: dict[str, Any] = dict(usual)
    for name, values in batch.columns.items():
        always = usual.get(name)
        known[name] = [always if value is None else value for value in values]
    folders, names = _bound(batch.folders), _bound(batch.names)
    put = _put(
        driver,
        "items",
        ("id", "source_id", "folder", "name", *known, "hash"),
        [list(new), batch.sources, folders, names, *known.values()],
        form="({}, {}, CAST({} AS TEXT), CAST({} AS TEXT), " + "{}, " * len(known) + "x'')",
        conflict=" ON CONFLICT (source_id, folder, name) DO NOTHING",
    )
    if put == len(new):
        return new, {}
    made = {id_ for (id_,) in driver.execute("SELECT id FROM items WHERE id > ?", (last,))}
    there = {
        number: driver.execute(
            "SELECT id FROM items WHERE source_id = ? AND folder = CAST(? AS TEXT)"
            " AND name = CAST(? AS TEXT)",
            (batch.sources[number], folders[number], names[number]),
        ).fetchone()[0]
        for number, id_ in enumerate(new)
        if id_ not in made
    }
    _change_items(driver, batch, there)
    return [there.get(number, id_) for number, id_ in enumerate(new)], there


def _change_items(driver: Any, batch: ItemBatch, there: Mapping[int, int]) -> None:
    """Give items that were there what is known of them now."""
    for name, values in batch.columns.items():
        changed = [
            (values[number], id_, values[number])
            for number, id_ in there.items()
            if values[number] is not None
        ]
        driver.executemany(
            f"UPDATE items SET {name} = ? WHERE id = ? AND {name} IS NOT ?",  # noqa: S608
            changed,
        )


class _Written:
    """What is being written of the items of a batch.

    Args:
        driver: In a transaction.
        ids: Of each item.
        there: By number, the ids of those that were there before.
    """

    def __init__(self, driver: Any, ids: Sequence[int], there: Mapping[int, int]) -> None:
        self._driver = driver
        self._ids = ids
        self._there = there

    def with_ids(self, lists: RowColumns) -> RowColumns:
        """The same with the items' ids in the place of their numbers."""
        return [list(map(self._ids.__getitem__, lists[0])), *lists[1:]]

    def clear(self, table: str, ids: Iterable[int] | None = None, more: str = "") -> None:
        """Delete what a table holds of items that were there before."""
        for part in chunks(list(self._there.values() if ids is None else ids)):
            marks = ", ".join("?" * len(part))
            self._driver.execute(
                f"DELETE FROM {table} WHERE item_id IN ({marks}){more}",  # noqa: S608
                part,
            )

    def texts(self, lists: RowColumns) -> None:
        """Texts that are as they were keep their vectors, and so do items that had no text yet."""
        new = self.with_ids(lists)
        if self._there:
            same, changed = self._same_texts(new)
            self.clear("texts", changed)
            for table in ("vectors", "token_embeddings"):  # of all spaces
                self.clear(table, changed, " AND modality = 'text'")
            rows = [row for row in _rows(new) if row[0] not in same]
            new = list(map(list, zip(*rows, strict=True))) or [[]]
        _put(self._driver, "texts", TEXTS, new)

    def _same_texts(self, lists: RowColumns) -> tuple[set[int], list[int]]:
        """The items that have those texts already, and those that have others."""
        given: dict[int, list[tuple[Any, ...]]] = {id_: [] for id_ in self._there.values()}
        for row in _rows(lists):
            if row[0] in given:
                given[row[0]].append(row)
        held: dict[int, list[tuple[Any, ...]]] = {id_: [] for id_ in given}
        for part in chunks(list(given)):
            marks = ", ".join("?" * len(part))
            found = self._driver.execute(
                f"SELECT {_listed(TEXTS)} FROM texts WHERE item_id IN ({marks})"  # noqa: S608
                " ORDER BY item_id, position",
                part,
            )
            for row in found:
                held[row[0]].append(tuple(row))
        same = {id_ for id_, some in given.items() if some == held[id_]}
        return same, [id_ for id_, some in held.items() if some and id_ not in same]

    def vectors(self, space: Space, facet: Modality, lists: RowColumns) -> None:
        """Vectors in the place of those of the same facet and space."""
        if self._there:
            again = {self._there[number] for number in lists[0] if number in self._there}
            for table in ("vectors", "token_embeddings"):
                self.clear(table, again, f" AND space_id = {space.id} AND modality = '{facet}'")
        _put(
            self._driver,
            "vectors",
            ("space_id", "modality", *VECTORS),
            self.with_ids(lists),
            form=f"({space.id}, '{facet}', {', '.join(['{}'] * len(VECTORS))})",
        )


def _put(
    driver: Any,
    table: str,
    columns: Sequence[str],
    lists: RowColumns,
    *,
    form: str | None = None,
    conflict: str = "",
) -> int:
    """Insert rows, many by one statement; returns how many were.

    Args:
        driver: In a transaction.
        table: Where.
        columns: What the table calls them.
        lists: Their values.
        form: One row of them, with a {} for each.
        conflict: What is to be done with those that are there.
    """
    form = form or f"({', '.join(['{}'] * len(lists))})"
    form = form.format(*("?" if isinstance(one, list) else _literal(one) for one in lists))
    varied = [one for one in lists if isinstance(one, list)]
    width = len(varied)
    bound = driver.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    most = max(1, min(MOST_PARAMETERS, bound) // width)
    put = 0
    for start in range(0, len(lists[0]), most):
        number = min(most, len(lists[0]) - start)
        values: list[Any] = [None] * (number * width)
        for place, column in enumerate(varied):
            values[place::width] = column[start : start + number]
        rows = ", ".join([form] * number)
        statement = f"INSERT INTO {table} ({_listed(columns)}) VALUES {rows}{conflict}"  # noqa: S608
        put += driver.execute(statement, values).rowcount
    return put


def _literal(value: str | int | None) -> str:
    """A value as SQL writes it."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'{}'".format(value.replace("'", "''"))


def _rows(lists: RowColumns) -> Iterator[tuple[Any, ...]]:
    """The same, row by row."""
    number = len(lists[0])
    return zip(*(one if isinstance(one, list) else [one] * number for one in lists), strict=True)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _bound(names: list[str]) -> list[Any]:
    """Names as the driver takes them: those that are not UTF-8 as bytes."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return [name.encode("utf-8", "surrogateescape") for name in names]
    return names
