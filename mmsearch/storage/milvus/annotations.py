"""What users and labels say of the items: metadata and tags."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import DUMMY, Database, Write
from mmsearch.storage.milvus.layout import quoted, stored_text
from mmsearch.storage.milvus.rows import ITEM_FIELDS, set_tags, tags_of
from mmsearch.storage.records import BY_HAND, metadata_texts
from mmsearch.storage.store import MetadataStore, TagStore

ITEMS_AT_ONCE = 1_000
"""Items that are changed by one call."""


def change_items(write: Write, ids: Iterable[int], change: Callable[[Row], bool]) -> int:
    """Change the rows of items; returns how many were changed.

    Args:
        write: The write; each portion of it is stored whole.
        ids: The items; those that are gone are left out.
        change: Changes a row; returns whether there was anything to change.
    """
    items = write.database.collection("items")
    waiting, number = iter(sorted({int(id_) for id_ in ids})), 0
    while some := list(islice(waiting, ITEMS_AT_ONCE)):
        changed = []
        for row in write.client.among(items, "id", some, ITEM_FIELDS):
            if change(row):
                row["words_due"] = write.number
                changed.append({**row, "dummy": DUMMY})
        write.client.upsert(items, changed)
        number += len(changed)
    return number


class Metadata(MetadataStore):
    """The user's own metadata of the items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        waiting = iter(rows)
        with self._database.write() as write:
            while some := dict(islice(waiting, ITEMS_AT_ONCE)):
                own = {int(id_): _stored(given) for id_, given in some.items()}

                def change(row: Row, own: dict[int, dict[str, str]] = own) -> bool:
                    row["own"] = own[row["id"]]
                    row["meta"] = dict(sorted(((row["facts"] or {}) | row["own"]).items()))
                    return True

                change_items(write, own, change)


def _stored(own: Mapping[str, Any]) -> dict[str, str]:
    return {stored_text(key): stored_text(text) for key, text in metadata_texts(own).items()}


class Tags(TagStore):
    """The tags of the items, each with a score in [0, 1]."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self, found: Mapping[str, Mapping[int, float]], among: Iterable[int] | None = None
    ) -> None:
        looked = None if among is None else {int(id_) for id_ in among}
        with self._database.write() as write:
            ids = {id_ for scores in found.values() for id_ in scores}
            ids |= self._having(found) if looked is None else looked

            def change(row: Row) -> bool:
                own = before = tags_of(row)
                own = dict(own)
                for tag, scores in found.items():
                    if own.get(tag) == BY_HAND:
                        continue
                    if looked is None or row["id"] in looked:
                        own.pop(tag, None)
                    if row["id"] in scores:
                        own[tag] = float(scores[row["id"]])
                set_tags(row, own)
                return own != before

            change_items(write, ids, change)

    def _having(self, names: Iterable[str]) -> builtins.set[int]:
        """The items that have one of some tags."""
        items = self._database.collection("items")
        return {
            row["id"]
            for tag in names
            for rows in self._database.client.iterate(
                items, f"array_contains(tags, {quoted(tag)})", ["id"], 16_384
            )
            for row in rows
        }

    def add(self, tag: str, ids: Sequence[int]) -> int:
        def change(row: Row) -> bool:
            set_tags(row, tags_of(row) | {tag: BY_HAND})
            return True

        with self._database.write() as write:
            return change_items(write, ids, change)

    def remove(self, tag: str, ids: Sequence[int]) -> int:
        def change(row: Row) -> bool:
            own = tags_of(row)
            set_tags(row, {name: score for name, score in own.items() if name != tag})
            return tag in own

        with self._database.write() as write:
            return change_items(write, ids, change)

    def clear(self, names: Iterable[str] | None = None) -> int:
        wanted = None if names is None else set(names)
        removed = 0

        def change(row: Row) -> bool:
            nonlocal removed
            own = tags_of(row)
            kept = {} if wanted is None else {t: s for t, s in own.items() if t not in wanted}
            removed += len(own) - len(kept)
            set_tags(row, kept)
            return kept != own

        with self._database.write() as write:
            items = self._database.collection("items")
            if wanted is None:
                having = "array_length(tags) > 0"
                pages = write.client.iterate(items, having, ["id"], 16_384)
                ids = {row["id"] for rows in pages for row in rows}
            else:
                ids = self._having(wanted)
            change_items(write, ids, change)
        return removed
