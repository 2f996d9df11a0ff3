"""The collections of an index in Milvus, and how values are stored in them.

Names begin with the index's own, `P` here:

* `P_state`: texts by key. The row "head" has the numbers that all else is compared with, "intent"
  what the last write set out to do; settings, sources, spaces, roots and the lease are rows, too.
* `P_items`: an item a row, with everything but its vectors. Milvus writes a row whole or not at
  all, so that an item is never half changed. Texts that are too long for one value go on in
  `P_parts`.
* `P_v3_image`: the vectors of space 3 and modality "image", with copies of what filters compare.
* `P_t3_image`: their token embeddings.
* `P_failures`, `P_folders`, `P_deleted`: files that could not be used; the folders that hold items
  or failures, which Milvus cannot list by itself; and the log of deleted vectors.

A collection is made when something is first written to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from mmsearch.storage.records import VectorField
from mmsearch.storage.stored_text import not_storable
from mmsearch.storage.stored_text import stored_text as stored

LONGEST = 60_000
"""Bytes of one value; Milvus takes 65,535. What is longer goes on in further rows."""

COPIES = (
    *("kind", "source_id", "size", "mtime_ns", "taken_at", "camera", "width", "height", "pages"),
    *("seconds", "latitude", "longitude"),
)
"""Fields of an item that its vectors repeat: Milvus has no joins."""

FieldType = Literal["int", "float", "text", "json", "texts", "vector", "dummy"]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a collection.

    Attributes:
        type: "int" and "float" of 64 bits, "text", "json", "texts" (an array of texts), "vector",
            or "dummy": the vector that every collection must have.
        key: Whether it is the primary key.
        nullable: Whether it may be None.
        indexed: Whether it is compared so often that it has an index.
    """

    type: FieldType
    key: bool = False
    nullable: bool = False
    indexed: bool = False


_ID = Field("int", key=True)
_INT, _FLOAT, _TEXT, _JSON, _TEXTS = (
    Field("int"),
    Field("float"),
    Field("text"),
    Field("json"),
    Field("texts"),
)
_MAYBE_INT, _MAYBE_FLOAT, _MAYBE_TEXT = (
    Field("int", nullable=True),
    Field("float", nullable=True),
    Field("text", nullable=True),
)
_LOOKED_UP, _LOOKED_UP_INT = Field("text", indexed=True), Field("int", indexed=True)
_NO_VECTOR = {"dummy": Field("dummy")}

_MEDIA = {
    "width": _MAYBE_INT,
    "height": _MAYBE_INT,
    "taken_at": _MAYBE_TEXT,
    "camera": _MAYBE_TEXT,
    "latitude": _MAYBE_FLOAT,
    "longitude": _MAYBE_FLOAT,
    "seconds": _MAYBE_FLOAT,
    "pages": _MAYBE_INT,
}

STATE = {"id": Field("text", key=True), "value": _TEXT, **_NO_VECTOR}

ITEMS = {
    "id": _ID,
    "source_id": _LOOKED_UP_INT,
    "folder": _LOOKED_UP,
    "name": _TEXT,
    "place": _LOOKED_UP,  # `place_key` of source, folder and name
    "folder_key": _LOOKED_UP,  # `place_key` of source and folder
    "kind": _LOOKED_UP,
    "size": _INT,
    "mtime_ns": _INT,
    "ctime_ns": _MAYBE_INT,
    "sidecar_size": _MAYBE_INT,
    "sidecar_mtime_ns": _MAYBE_INT,
    "hash": _LOOKED_UP,  # in hexadecimal
    "readings": _TEXT,
    **_MEDIA,
    "texts": _TEXT,  # JSON: [[origin, text, start, end, unit], …], as far as it goes
    "parts": _INT,  # how many rows in `parts` it goes on in
    "parts_write": _INT,  # the write that made them
    "texts_count": _INT,
    "origins": _TEXTS,  # those of its texts, each once
    "tags": _TEXTS,
    "tag_scores": _JSON,
    "own": _JSON,  # the user's metadata
    "facts": _JSON,  # the file's own metadata
    "meta": _JSON,  # what is shown and searched of both
    "fields": _TEXT,  # see `flag`
    "words_due": _LOOKED_UP_INT,  # the last write that changed its words
    "write": _INT,  # the last write that changed it
    **_NO_VECTOR,
}

PARTS = {
    "id": Field("text", key=True),
    "item_id": _LOOKED_UP_INT,
    "part": _INT,
    "write": _INT,
    "value": _TEXT,
    **_NO_VECTOR,
}

FAILURES = {
    "id": Field("text", key=True),  # `place_key` of source, folder and name
    "source_id": _INT,
    "folder": _TEXT,
    "name": _TEXT,
    "folder_key": _LOOKED_UP,
    "reason": _TEXT,
    "seen_at": _TEXT,
    "size": _MAYBE_INT,
    "mtime_ns": _MAYBE_INT,
    "ctime_ns": _MAYBE_INT,
    "retry": _INT,
    **_NO_VECTOR,
}

FOLDERS = {
    "id": Field("text", key=True),  # `place_key` of source and folder
    "source_id": _INT,
    "folder": _TEXT,
    **_NO_VECTOR,
}

DELETED = {"id": _ID, "space_id": _INT, "modality": _TEXT, "vector_id": _INT, **_NO_VECTOR}

_OF_ITEM = {name: ITEMS[name] for name in COPIES}

VECTORS = {
    "id": _ID,  # ascending: a vector that is added has a higher id than all before
    "item_id": _LOOKED_UP_INT,
    "position": _INT,
    "start": _MAYBE_FLOAT,
    "end": _MAYBE_FLOAT,
    "unit": _MAYBE_TEXT,
    "hub_text": _MAYBE_FLOAT,
    "hub_image": _MAYBE_FLOAT,
    **_OF_ITEM,
    "vector": Field("vector"),
}

TOKENS = {
    "id": _ID,  # TOKEN_PARTS times the vector's id, and the part
    "vector_id": _LOOKED_UP_INT,
    "item_id": _LOOKED_UP_INT,
    "position": _INT,
    "value": _TEXT,  # base64
    **_NO_VECTOR,
}

TOKEN_PARTS = 256

LAYOUTS = {
    "state": STATE,
    "items": ITEMS,
    "parts": PARTS,
    "failures": FAILURES,
    "folders": FOLDERS,
    "deleted": DELETED,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What a collection is made of.

    Attributes:
        fields: By name.
        dim: Of its vectors; None if it has none.
    """

    fields: dict[str, Field] = field(default_factory=dict)
    dim: int | None = None


def vectors_name(place: VectorField) -> str:
    """The end of the name of the collection of a vector field."""
    return f"v{place[0]}_{place[1]}"


def tokens_name(place: VectorField, generation: int) -> str:
    """The end of the name of the collection of a vector field's token embeddings."""
    return f"t{place[0]}_{generation}_{place[1]}"


def flag(place: VectorField, what: str = "") -> str:
    """What stands in an item's `fields` if it has vectors in a vector field.

    Args:
        place: The vector field.
        what: "-" says that it was encoded and has none; "+" and a generation that it has token
            embeddings.
    """
    return f"|{place[0]}:{place[1]}{what}|"


def flags(stored: str) -> set[str]:
    """The flags in an item's `fields`."""
    return {f"|{one}|" for one in stored.split("|") if one}


def joined(found: Iterable[str]) -> str:
    """Flags as they are stored: each between bars."""
    return "|".join(["", *sorted(one.strip("|") for one in found), ""]).replace("||", "|")


# ---------------------------------------------------------------------- texts and expressions

_REFUSED = not_storable("\0-\x1f\x7f")


def stored_text(text: str) -> str:
    """A text as Milvus can hold it, and write it in an expression: without control characters."""
    return stored(text, _REFUSED)


def quoted(text: str) -> str:
    """A text as an expression writes it."""
    escaped = stored_text(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def one_of(name: str, values: Iterable[Any]) -> str:
    """The expression that a field has one of some values."""
    listed = ",".join(quoted(one) if isinstance(one, str) else str(int(one)) for one in values)
    return f"{name} in [{listed}]"


def place_key(*place: int | str) -> str:
    """What a path is looked up by: source, folder and perhaps name."""
    text = "\0".join(map(str, place)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
