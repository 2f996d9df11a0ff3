"""Steps that several kinds of writes share: deleting items, and updating what depends on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import DUMMY, Database, Deletion, Write
from mmsearch.storage.milvus.layout import COPIES, VECTORS, place_key, quoted, stored_text
from mmsearch.storage.milvus.rows import failure_row, sent_vector, vector_of
from mmsearch.storage.records import FailureRecord, VectorField
from mmsearch.storage.stored_text import text_of

FEW_FOLDERS = 20
"""Up to this many folders are queried one by one; of more, all rows are read at once."""


def delete_vectors(write: Write, place: VectorField, ids: Sequence[int], where: str) -> None:
    """Delete vectors of items in a vector field, with their token embeddings, and log it.

    Args:
        write: The write.
        place: The vector field.
        ids: The items.
        where: An expression that selects among their vectors.
    """
    client, database = write.client, write.database
    name = database.vector_collection(*place)
    if name is None or not ids:
        return
    rows = client.among(name, "item_id", ids, ["id"], where)
    if not rows:
        return
    doomed = sorted(row["id"] for row in rows)
    deletions: list[Deletion] = [(*place, id_) for id_ in doomed]
    write.log_deletions(deletions)
    client.delete_among(name, "id", doomed)
    for (space, _, modality), tokens in database.token_collections().items():
        if (space, modality) == place:
            client.delete_among(tokens, "vector_id", doomed)


def delete_items(write: Write, ids: Sequence[int]) -> None:
    """Delete items with all that belongs to them.

    Their own rows are deleted first: what a crash leaves of the rest belongs to no item.
    """
    client, database = write.client, write.database
    items = database.collection("items")
    rows = client.among(items, "id", ids, ["source_id", "folder"])
    client.delete_among(items, "id", ids)
    for place in database.vector_fields():
        delete_vectors(write, place, ids, "id > 0")
    client.delete_among(database.collection("parts"), "item_id", ids)
    client.delete_among(database.collection("words"), "item_id", ids)
    forget_folders(database, {(row["source_id"], text_of(row["folder"])) for row in rows})


def remove_items(write: Write, ids: Sequence[int]) -> None:
    """Delete items; what a crash leaves of them is deleted by the next writer."""
    write.intend({"removed": list(ids)})
    delete_items(write, ids)


def refresh_copies(database: Database, ids: Sequence[int]) -> None:
    """Update the copies of an item's fields (COPIES) in the rows of its vectors."""
    client = database.client
    rows = client.among(database.collection("items"), "id", ids, ["id", *COPIES])
    copies = {row["id"]: {name: row.get(name) for name in COPIES} for row in rows}
    for name in database.vector_fields().values():
        for start in range(0, len(ids), 1000):
            some = ids[start : start + 1000]
            found = client.among(name, "item_id", some, list(VECTORS))
            changed = [
                {**row, **copies[row["item_id"]]}
                for row in found
                if row["item_id"] in copies
                and any(row.get(key) != value for key, value in copies[row["item_id"]].items())
            ]
            for row in changed:
                row["vector"] = sent_vector(database, vector_of(row["vector"]))
            client.upsert(name, changed)


def forget_folders(database: Database, places: set[tuple[int, str]]) -> None:
    """Forget those of some folders that no longer hold items or failures.

    Args:
        database: The index's.
        places: (source id, folder) of each.
    """
    client = database.client
    keys = {place_key(*place) for place in places}
    for table in (database.collection("items"), database.collection("failures")):
        if len(keys) <= FEW_FOLDERS:
            keys = {
                key
                for key in keys
                if not client.query(table, f"folder_key == {quoted(key)}", ["id"], 1)
            }
        else:
            rows = client.among(table, "folder_key", sorted(keys), ["folder_key"])
            keys -= {row["folder_key"] for row in rows}
    client.delete_among(database.collection("folders"), "id", sorted(keys))
    database.known_folders -= keys


def note_folders(database: Database, places: Iterable[tuple[int, str]]) -> None:
    """Note folders before items or failures are stored in them.

    Args:
        database: The index's.
        places: (source id, folder) of each.
    """
    new = {place_key(*place): place for place in places}
    new = {key: place for key, place in new.items() if key not in database.known_folders}
    rows: list[Row] = [
        {"id": key, "source_id": source, "folder": stored_text(folder), "dummy": DUMMY}
        for key, (source, folder) in new.items()
    ]
    if rows:
        database.client.upsert(database.made("folders"), rows)
        database.known_folders.update(new)


def put_failures(database: Database, records: Sequence[FailureRecord]) -> None:
    """Store failures; each replaces an earlier one of the same file."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    note_folders(database, {(one.source_id, one.folder) for one in records})
    rows: dict[str, Row] = {}
    for one in records:
        key = place_key(one.source_id, one.folder, one.name)
        rows[key] = failure_row(
            one.source_id,
            one.folder,
            one.name,
            reason=one.reason,
            seen_at=now,
            size=one.stat and one.stat[0],
            mtime_ns=one.stat and one.stat[1],
            retry=int(one.retry),
            ctime_ns=one.ctime_ns,
        )
    if rows:
        database.client.upsert(database.made("failures"), list(rows.values()))
