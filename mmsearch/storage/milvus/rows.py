"""Rows of Milvus made of what is stored, and back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import DUMMY, Database
from mmsearch.storage.milvus.layout import (
    ITEMS,
    LONGEST,
    TOKEN_PARTS,
    place_key,
    stored_text,
    tokens_name,
)
from mmsearch.storage.records import VectorField
from mmsearch.storage.stored_text import text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Text = list[Any]
"""[origin, text, start, end, unit]."""

ITEM_FIELDS = [name for name in ITEMS if name != "dummy"]

NEW_ITEM: Row = {
    **dict.fromkeys(ITEMS),
    **{name: 0 for name, field in ITEMS.items() if field.type == "int" and not field.nullable},
    "readings": "",
    "hash": "",
    "texts": "[]",
    "origins": [],
    "tags": [],
    "tag_scores": {},
    "own": {},
    "facts": {},
    "meta": {},
    "fields": "|",
    "dummy": DUMMY,
}


def failure_row(source_id: int, folder: str, name: str, *, reason: str, **more: Any) -> Row:
    """A row of `failures`."""
    return {
        "id": place_key(source_id, folder, name),
        "source_id": source_id,
        "folder": stored_text(folder),
        "name": stored_text(name),
        "folder_key": place_key(source_id, folder),
        "reason": stored_text(reason)[: LONGEST // 4],
        **more,
        "dummy": DUMMY,
    }


def set_tags(row: Row, scores: Mapping[str, float]) -> None:
    """Give a row tags in place of those it has."""
    row["tag_scores"] = {stored_text(tag): float(score) for tag, score in sorted(scores.items())}
    row["tags"] = sorted(row["tag_scores"])


def tags_of(row: Row) -> dict[str, float]:
    """The scores of an item's tags."""
    return {text_of(tag): score for tag, score in sorted((row["tag_scores"] or {}).items())}


def texts_by_key(stored: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata as they were given."""
    return dict(sorted((text_of(key), text_of(text)) for key, text in (stored or {}).items()))


# ---------------------------------------------------------------------- texts and vectors


def text_pieces(texts: Sequence[Text]) -> list[str]:
    """Texts as JSON, in pieces of which each fits in one value; the first may be all."""
    encoded = json.dumps(list(texts), separators=(",", ":"))
    return [encoded[at : at + LONGEST] for at in range(0, len(encoded), LONGEST)]


def part_rows(item_id: int, write: int, pieces: Sequence[str]) -> list[Row]:
    """The rows of the pieces but the first."""
    return [
        {
            "id": f"{item_id}.{write}.{part}",
            "item_id": item_id,
            "part": part,
            "write": write,
            "value": piece,
            "dummy": DUMMY,
        }
        for part, piece in enumerate(pieces)
        if part
    ]


def read_texts(database: Database, rows: Sequence[Row]) -> dict[int, list[Text]]:
    """The texts of items, given their rows with id, texts, parts and parts_write."""
    encoded = {row["id"]: row["texts"] for row in rows}
    if long := {row["id"]: row["parts_write"] for row in rows if row["parts"]}:
        parts = database.client.among(
            database.collection("parts"),
            "item_id",
            sorted(long),
            ["item_id", "part", "write", "value"],
            at_once=100,
        )
        for row in sorted(parts, key=lambda row: int(row["part"])):
            if row["write"] == long[row["item_id"]]:
                encoded[row["item_id"]] += row["value"]
    return {id_: json.loads(text) for id_, text in encoded.items()}


def token_rows(vector_id: int, item_id: int, position: int, packed: bytes) -> Iterator[Row]:
    """The rows of a vector's token embeddings."""
    text = base64.b85encode(packed).decode()
    for part, at in enumerate(range(0, max(len(text), 1), LONGEST)):
        yield {
            "id": vector_id * TOKEN_PARTS + part,
            "vector_id": vector_id,
            "item_id": item_id,
            "position": position,
            "value": text[at : at + LONGEST],
            "dummy": DUMMY,
        }


def read_tokens(
    database: Database, place: VectorField, ids: Sequence[int]
) -> dict[tuple[int, int], bytes]:
    """The packed token embeddings of some items by (item id, position)."""
    generation = database.json("token generations", {}).get(str(place[0]), 0)
    name = database.collection(tokens_name(place, generation))
    fields = ["id", "vector_id", "item_id", "position", "value"]
    rows = database.client.among(name, "item_id", sorted(set(ids)), fields, at_once=500)
    found: dict[tuple[int, int], tuple[int, str]] = {}
    for row in sorted(rows, key=lambda row: int(row["id"])):
        key = row["item_id"], row["position"]
        vector_id, text = found.get(key, (0, ""))
        before = text if vector_id == row["vector_id"] else ""
        found[key] = row["vector_id"], before + row["value"]
    return {key: base64.b85decode(text) for key, (_, text) in found.items()}


def sent_vector(database: Database, vector: NDArray[np.float16]) -> NDArray[np.floating[Any]]:
    """A vector as the server takes it."""
    import numpy as np

    return vector.astype(np.float32 if database.client.is_lite else np.float16)


def sorted_ids(rows: Iterable[Mapping[str, Any]], field: str = "id") -> NDArray[np.int64]:
    """The ids (n,) in a field of rows, ascending."""
    import numpy as np

    return np.sort(np.fromiter((row[field] for row in rows), np.int64))


def vector_of(value: Any) -> NDArray[np.float16]:
    """A vector (dim,) as the server gave it."""
    import numpy as np

    if isinstance(value, list) and value and isinstance(value[0], bytes):
        value = value[0]
    if isinstance(value, bytes):
        return np.frombuffer(value, np.float16)
    return np.asarray(value, np.float32).astype(np.float16)
