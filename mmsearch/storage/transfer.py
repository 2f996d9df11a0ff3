"""How one store is copied to another: its logical tables, read and written a page at a time.

A page is a list of rows, tuples of plain values (int, float, str, bytes, None) in the order of
`COLUMNS`. What a column holds is said in `mmsearch.storage.sql.schema`, whose tables these are,
ids included. Paths are texts in which bytes that are not UTF-8 are surrogate escapes; vectors and
hubs are not augmented; a vector is float16, little endian; `embeddings` are as
`mmsearch.storage.packing` packs them.

`mmsearch.collection.copy` does the rest for all engines: the order of the tables, progress and
resuming (a setting of the destination), the counts, and refusing what is half copied.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mmsearch.errors import IndexUnusable

if TYPE_CHECKING:
    from mmsearch.storage.place import IndexPlace
    from mmsearch.storage.store import Store

Row = tuple[Any, ...]

Page = list[Row]

Key = tuple[Any, ...]
"""The values of a row's key columns."""

_SPAN = ("start", "end", "unit")

COLUMNS: dict[str, tuple[str, ...]] = {
    "settings": ("key", "value"),
    "sources": ("id", "path", "device"),
    "folder_devices": ("source_id", "folder", "device"),
    "index_roots": ("path", "folder", "exclude", "include_hidden"),
    "spaces": ("id", "name", "fingerprint", "dim", "modalities", "serves", "backfills"),
    "query_banks": ("space_id", "version", "bank"),
    "items": (
        *("id", "source_id", "folder", "name", "kind", "size", "mtime_ns"),
        *("sidecar_size", "sidecar_mtime_ns", "hash", "width", "height", "taken_at", "camera"),
        *("latitude", "longitude", "seconds", "pages", "readings", "ctime_ns"),
    ),
    "texts": ("item_id", "position", "origin", "text", *_SPAN),
    "metadata": ("item_id", "key", "text", "number", "origin", "shadowed"),
    "tags": ("item_id", "tag", "score"),
    "failures": (
        *("source_id", "folder", "name", "reason", "seen_at", "size", "mtime_ns", "retry"),
        "ctime_ns",
    ),
    "vectors": (
        *("id", "space_id", "modality", "item_id", "position", *_SPAN, "vector"),
        *("hub_text", "hub_image"),
    ),
    "token_embeddings": ("space_id", "modality", "item_id", "position", "embeddings"),
    "absent_modalities": ("space_id", "modality", "item_id"),
}
"""The tables, in the order in which they are copied: a row comes after those that it refers to."""

KEYS: dict[str, tuple[str, ...]] = {
    "settings": ("key",),
    "sources": ("id",),
    "folder_devices": ("source_id", "folder"),
    "index_roots": ("path",),
    "spaces": ("id",),
    "query_banks": ("space_id",),
    "items": ("id",),
    "texts": ("item_id", "position"),
    "metadata": ("item_id", "key"),
    "tags": ("item_id", "tag"),
    "failures": ("source_id", "folder", "name"),
    "vectors": ("id",),
    "token_embeddings": ("space_id", "modality", "item_id", "position"),
    "absent_modalities": ("space_id", "modality", "item_id"),
}
"""The columns that name a row."""

COPYING = "copying"
"""The setting of a store that is being copied into, or was not copied to the end: what was copied
of what. Empty, or not there, of every other store."""

OWN_SETTINGS = frozenset({"catalog_id", "revision", "hubs epoch", "changes forgotten", COPYING})
"""Settings that are a store's own, and never copied or counted; so is what begins with ENGINE."""

ENGINE = "engine "
"""What the settings of one engine begin with: how far its index is built, say."""


def is_own(setting: str) -> bool:
    """Whether a setting, by its key, is the store's own."""
    return setting in OWN_SETTINGS or setting.startswith(ENGINE)


def key_of(table: str, row: Row) -> Key:
    """The key of a row of one of COLUMNS."""
    return tuple(row[COLUMNS[table].index(name)] for name in KEYS[table])


def check_whole(store: Store, place: IndexPlace) -> None:
    """Check that a store is not half copied.

    Args:
        store: The store, open.
        place: Where it lives, for the message.

    Raises:
        IndexUnusable: it is.
    """
    if (progress := CopyProgress.of(store)) is not None:
        raise IndexUnusable(
            f"{place} holds a part of a copy of {progress.source}: finish it with "
            f"`{progress.command(str(place))}`, or delete it"
        )


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy has come: what the setting COPYING of its destination holds.

    Attributes:
        source: Where the source is.
        store_id: The source's.
        done: By table, how many rows were put, and the digest of them.
        after: The key of the last row of the last of these tables.
    """

    source: str
    store_id: str
    done: dict[str, tuple[int, str]] = field(default_factory=dict)
    after: Key | None = None

    @classmethod
    def of(cls, store: Store) -> CopyProgress | None:
        """That of the copy into a store, unless it holds a whole one, or none."""
        if not (text := store.settings.get(COPYING)):
            return None
        found = json.loads(text)
        done = {table: (rows, digest) for table, (rows, digest) in found["done"].items()}
        after = None if found["after"] is None else tuple(found["after"])
        return cls(found["source"], found["store_id"], done, after)

    def command(self, destination: str) -> str:
        """The command that finishes the copy."""
        return f"mmsearch copy {shlex.quote(self.source)} {shlex.quote(destination)}"

    def packed(self) -> str:
        """As the setting holds it."""
        return json.dumps(asdict(self))


class TransferStore(Protocol):
    """Reads and writes a store as logical tables."""

    def reading(self) -> AbstractContextManager[None]:
        """A context in which all that this thread reads is of one moment.

        A snapshot; or, where the engine has none, the right to write, so that nobody else does.

        Raises:
            IndexBusy: another process is writing, and the engine has no snapshots.
        """

    def writing(self) -> AbstractContextManager[None]:
        """A context in which this process alone writes, and may call the methods below.

        Raises:
            IndexBusy: another process is writing.
        """

    def count(self, table: str) -> int:
        """How many rows a table has; settings that are the store's own are not counted."""

    def pages(self, table: str, after: Key | None, rows: int) -> Iterator[Page]:
        """The rows of a table, so many at a time (the last time fewer, never none).

        The order is the engine's, always the same while nothing is written.

        Args:
            table: One of COLUMNS.
            after: The key of the last row that is not to be read; None begins with the first.
            rows: How many a page.
        """

    # ------------------------------------------------------------------ within `writing`

    def put(self, table: str, page: Page, progress: str) -> None:
        """Store rows, and then the setting COPYING; in one transaction where there are any.

        Rows whose key is there already are the same, and may stay. Neither changes nor revisions
        need be logged, nor any index kept: `finish` comes last.

        Args:
            table: One of COLUMNS.
            page: The rows.
            progress: What the setting is to hold.

        Raises:
            StorageFailed: the disk is full, say, or the server cannot be reached.
        """

    def clear(self) -> None:
        """Delete every row of every table, of a store that holds nothing but a part of a copy.

        The index of words is empty then, and nothing is known to any follower.
        """

    def finish(self) -> None:
        """Make what was put usable: ids go on after the highest, caches see a new revision, all
        items are due for the index of words, statistics are fresh. Calling it again does no harm.
        """
