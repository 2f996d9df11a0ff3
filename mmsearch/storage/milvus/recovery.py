"""The last step of a write, and how the next writer finishes one that was cut off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmsearch.storage.milvus.database import Write
from mmsearch.storage.milvus.files import merge_sources
from mmsearch.storage.milvus.row_updates import (
    delete_items,
    delete_vectors,
    forget_folders,
    refresh_copies,
)
from mmsearch.storage.milvus.spaces import drop_space
from mmsearch.storage.records import VectorField
from mmsearch.types import Modality


def recover(write: Write, intent: dict[str, Any]) -> None:
    """Finish a write that was cut off: each of its items is then as before the write, or new.

    Args:
        write: The write that finishes it.
        intent: What the other write was to do, as `Write.intend` stored it.
    """
    client, database = write.client, write.database
    logged = client.query(database.collection("deleted"), f"id > {write.head['changes']}", ["id"])
    write.head["changes"] = max([write.head["changes"], *(row["id"] for row in logged)])
    number = intent["write"]
    items = database.collection("items")
    done = client.among(items, "id", intent.get("items", ()), ["id"], f"write == {number}")
    committed = {row["id"] for row in done}
    undone = sorted(set(intent.get("items", ())) - committed)
    above = f"id > {intent.get('vectors', 0)}"
    for place in map(_vector_field, intent.get("fields", ())):
        delete_vectors(write, place, undone, above)
    client.delete_among(database.collection("parts"), "item_id", undone, f"write == {number}")
    finish(write, intent, committed)
    if "merge" in intent:
        merge_sources(write, **intent["merge"])
    if "dropped" in intent:
        drop_space(write, intent["dropped"])


def finish(write: Write, intent: Mapping[str, Any], committed: set[int]) -> None:
    """The last step of a write: delete what it replaces, and update copies and folders.

    Args:
        write: The write.
        intent: What it was to do.
        committed: The ids of the items whose new rows are stored.
    """
    before = f"id <= {intent.get('vectors', 0)}"
    for key, ids in intent.get("clear", {}).items():
        delete_vectors(write, _vector_field(key), sorted(committed & set(ids)), before)
    displaced = [id_ for id_, by in intent.get("displaced", ()) if by in committed]
    if removed := [*intent.get("removed", ()), *displaced]:
        delete_items(write, removed)
    if stale := sorted(committed & set(intent.get("stale_parts", ()))):
        parts = write.database.collection("parts")
        write.client.delete_among(parts, "item_id", stale, f"write != {intent['write']}")
    if mirrored := sorted(committed & set(intent.get("mirror", ()))):
        refresh_copies(write.database, mirrored)
    if left := intent.get("left"):
        forget_folders(write.database, {(source, folder) for source, folder in left})


def _vector_field(key: str) -> VectorField:
    space, _, modality = key.partition(" ")
    known: Modality = modality  # type: ignore[assignment]
    return int(space), known
