"""What all parts of the store share: the head, documents, and writes that a crash cannot halve.

Milvus has no transactions. A write is a sequence of calls, ordered so that a client or server that
is killed between any two loses at most this write, and doubles nothing:

1. The intent is stored: the number of the write, which items it stores or removes, and the last
   vector id before it.
2. New vectors, with ids above that, and the parts of long texts.
3. The rows of the items, each with the number of the write: from here on an item is the new one.
4. What its former vectors were is logged and deleted; copies in vectors that stay are brought up to
   date.
5. The head, with the number of the write, which ends it.

The next writer that finds an intent above the head's number finishes it item by item: the items
whose row has the number get step 4, the new vectors of the others are deleted (`recovery.recover`).
What one call stores in one collection is stored whole.

Readers take no lock, and there are no snapshots: a reader may see some items of a batch before
others, and both the former and the new vectors of an item for a moment. Within `snapshot`, numbers
and documents (sources, spaces, settings) stay what they were when they were first read. All reads
are strongly consistent. What Milvus has acknowledged is in its log, and survives a kill -9: nothing
has to be flushed for that.
"""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.errors import IndexUnusable, StorageFailed
from mmsearch.storage.milvus.client import Client, Row
from mmsearch.storage.milvus.layout import (
    LAYOUTS,
    LONGEST,
    Layout,
    one_of,
    stored_text,
    vectors_name,
)
from mmsearch.storage.milvus.lease import ROW as LEASE_ROW
from mmsearch.storage.milvus.lease import Lease
from mmsearch.storage.records import Space, VectorField
from mmsearch.types import Modality

if TYPE_CHECKING:
    from mmsearch.storage.place import IndexPlace

VERSION = 1
"""Of the layout."""

WAIT = 10.0
"""Seconds that a write of its own waits for another writer."""

DUMMY = [0.0, 0.0]

_HEAD, _INTENT = "head", "intent"

SETTING = "setting "
"""The prefix of the keys of documents that are settings."""

Deletion = tuple[int, str, int]
"""(space id, modality, vector id)."""

MOST_DELETIONS = 200_000
"""In the log; older ones are dropped, and followers then begin anew."""


class Database:
    """An index in Milvus.

    Args:
        client: The connection.
        place: Where the index is; its cache folder exists.
        recover: Finishes the write of an intent.
    """

    def __init__(
        self, client: Client, place: IndexPlace, recover: Callable[[Write, dict[str, Any]], None]
    ) -> None:
        self.client = client
        self.address = place.address
        self.prefix = f"{place.name}_"
        self._recover = recover
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._writing: Write | None = None
        self._head: dict[str, Any] | None = None  # while this process has the right to write
        self._head_of = 0
        self._unfinished = False
        self._closed = False
        self._store_id: str | None = None
        self._documents: dict[str, tuple[Any, str | None]] = {}
        self.known_folders: set[str] = set()
        """Keys of rows in `folders` that are there as long as this process writes alone."""
        self.lease = Lease(
            place.folder,
            place.address,
            lambda: self._read_documents([LEASE_ROW])[LEASE_ROW],
            lambda text: self._put_now({LEASE_ROW: text}),
            self._lock,
        )

    # ------------------------------------------------------------------ collections

    def collection(self, what: str) -> str:
        """The name of a collection."""
        return f"{self.prefix}{what}"

    def vector_collection(self, space: Space | int, modality: Modality | str) -> str | None:
        """The collection of a space's vectors of a modality; None if there is none yet."""
        space_id = space if isinstance(space, int) else space.id
        name = self.collection(vectors_name((space_id, modality)))  # type: ignore[arg-type]
        return name if self.client.has(name) else None

    def vector_fields(self) -> dict[VectorField, str]:
        """All collections of vectors by (space id, modality)."""
        start = f"{self.prefix}v"
        found: dict[VectorField, str] = {}
        for name in self.client.collections(start):
            number, _, modality = name.removeprefix(start).partition("_")
            if number.isdigit() and modality in get_args(Modality):
                found[int(number), modality] = name  # type: ignore[index]
        return found

    def token_collections(self) -> dict[tuple[int, int, str], str]:
        """All collections of token embeddings by (space id, generation, modality)."""
        start = f"{self.prefix}t"
        found: dict[tuple[int, int, str], str] = {}
        for name in self.client.collections(start):
            number, _, rest = name.removeprefix(start).partition("_")
            generation, _, modality = rest.partition("_")
            if number.isdigit() and generation.isdigit() and modality in get_args(Modality):
                found[int(number), int(generation), modality] = name
        return found

    def made(self, what: str, layout: Layout | None = None) -> str:
        """A collection, made if it is missing."""
        name = self.collection(what)
        self.client.create(name, layout or Layout(LAYOUTS[what]))
        return name

    # ------------------------------------------------------------------ opening

    @property
    def exists(self) -> bool:
        """Whether there is an index."""
        return self._read_documents([_HEAD])[_HEAD] is not None

    def make(self, initial: Mapping[str, str]) -> None:
        """Make the index, with settings that it has from the start."""
        self.made("state")
        with self.lease.writing("making the index", wait=WAIT):
            if not self.exists:
                self.made("items")
                head = {
                    "version": VERSION,
                    "store_id": uuid.uuid4().hex,
                    **dict.fromkeys(("write", "moment", "revision", "epoch", "changes"), 0),
                    "forgotten": 0,
                    "numbers": {},
                }
                # before the head, without which there is no index
                self._put_now({f"{SETTING}{key}": value for key, value in initial.items()})
                self._put_now({_HEAD: json.dumps(head)})

    def check_version(self) -> None:
        """Raise IndexUnusable if another version of the layout made the index."""
        self.check_open()
        version = self.head()["version"]
        if version > VERSION:
            raise IndexUnusable(
                f"the index at {self.address} was made by a newer mmsearch: "
                "`pip install --upgrade mmsearch`"
            )
        if version < VERSION:  # collections can be copied, but not altered
            raise IndexUnusable(
                f"the index at {self.address} was made by an older mmsearch (schema {version}, "
                f"this one reads {VERSION}): with that version, `mmsearch copy {self.address} DIR` "
                "makes a folder of it, which this one can copy to a new address"
            )

    def check_open(self) -> None:
        """Raise IndexUnusable if it was closed, or deleted or replaced since it was opened."""
        if self._closed:
            raise IndexUnusable(f"the index at {self.address} was closed: open it again")
        store_id = self.head()["store_id"]
        if self._store_id is None:
            self._store_id = store_id
        if store_id != self._store_id:
            raise IndexUnusable(f"the index at {self.address} was replaced: open it again")

    def close(self) -> None:
        """Close the connection."""
        if not self._closed:
            self._closed = True
            self.client.close()

    # ------------------------------------------------------------------ reading

    def head(self) -> dict[str, Any]:
        """The numbers of the last write, which say how far the store has come."""
        if (pinned := getattr(self._thread, "head", None)) is not None:
            return pinned  # type: ignore[no-any-return]
        if self._is_writer and self._writing is not None:
            return self._writing.head
        if self._head is not None and self.lease.is_held and self._head_of == self.lease.number:
            return self._head
        return self._read_head()

    def moment(self) -> Hashable:
        """Equal for two calls if nothing can have changed between."""
        head = self.head()
        return head["store_id"], head["moment"]

    def _read_head(self) -> dict[str, Any]:
        text = self._read_documents([_HEAD])[_HEAD]
        if text is None:
            raise StorageFailed(f"the index at {self.address} is gone: it was deleted")
        head: dict[str, Any] = json.loads(text)
        return head

    @property
    def _is_writer(self) -> bool:
        return self._writing is not None and self._writing.thread == threading.get_ident()

    def document(self, key: str) -> str | None:
        """A text by key, as of the head."""
        if self._is_writer and self._writing is not None and key in self._writing.documents:
            return self._writing.documents[key]
        moment = self.moment()
        known = self._documents.get(key)
        if known is None or known[0] != moment:
            known = self._documents[key] = moment, self._read_documents([key])[key]
        return known[1]

    def json(self, key: str, default: Any) -> Any:
        """A document that is JSON."""
        text = self.document(key)
        return default if text is None else json.loads(text)

    def documents_like(self, start: str) -> list[str]:
        """The keys of documents that begin like this, sorted."""
        expression = f'id >= "{start}" and id < "{start}\U0010ffff"'
        rows = self.client.query(self.collection("state"), expression, ["id"])
        return sorted(row["id"] for row in rows if _PART not in row["id"])

    def _read_documents(self, keys: list[str]) -> dict[str, str | None]:
        found: dict[str, str | None] = dict.fromkeys(keys)
        state = self.collection("state")
        rows = self.client.query(state, one_of("id", keys), ["id", "value"])
        values = {row["id"]: row["value"] for row in rows}
        for key in keys:
            value = values.get(stored_text(key))
            if value and value[0] == "+":
                ids = _part_ids(key, value)
                parts = {
                    row["id"]: row["value"]
                    for start in range(0, len(ids), 64)
                    for row in self.client.query(
                        state, one_of("id", ids[start : start + 64]), ["id", "value"]
                    )
                }
                value = "=" + "".join(parts.get(stored_text(one), "") for one in ids)
            if value and value != "-":
                found[key] = json.loads(value[1:])
        return found

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Documents and numbers are of one moment for this thread, which may not write."""
        if self.in_snapshot:
            yield
            return
        self._thread.head = self.head()
        try:
            yield
        finally:
            self._thread.head = None

    @property
    def in_snapshot(self) -> bool:
        """Whether this thread is within a snapshot."""
        return getattr(self._thread, "head", None) is not None

    # ------------------------------------------------------------------ writing

    @contextmanager
    def write(self, *, vectors: bool = False) -> Iterator[Write]:
        """A write, which ends with the context.

        Args:
            vectors: Whether vectors change.

        Raises:
            RuntimeError: this thread is within a snapshot.
            IndexBusy: another process is writing.
        """
        if self.in_snapshot:
            raise RuntimeError("nothing may be written within a snapshot")
        with ExitStack() as stack:
            if not self.lease.is_held:
                stack.enter_context(self.lease.writing("writing", wait=WAIT))
            stack.enter_context(self._lock)
            if self._writing is not None:  # a part of a larger write
                self._writing.vectors |= vectors
                yield self._writing
                return
            self._begin()
            write = self._writing = Write(self, vectors=vectors)
            try:
                yield write
                write.commit()
                self._head = write.head
            except BaseException:
                self._unfinished = True
                raise
            finally:
                self._writing = None

    def _begin(self) -> None:
        """See that this process writes alone, and finish what the last writer could not."""
        self.lease.check()
        if self._head is not None and self._head_of == self.lease.number and not self._unfinished:
            return
        head = self._read_head()
        self.known_folders.clear()
        text = self._read_documents([_INTENT])[_INTENT]
        intent = json.loads(text) if text else None
        self._head, self._head_of = head, self.lease.number
        if intent is not None and intent["write"] > head["write"]:
            self._head = {**head, "numbers": intent["numbers"]}
            write = self._writing = Write(self, vectors=True)
            write.head["write"] = intent["write"]
            try:
                self._recover(write, intent)
                write.commit()
                self._head = write.head
            finally:
                self._writing = None
        self._unfinished = False

    def _put_now(self, documents: dict[str, str | None], write: int = 0) -> None:
        """Store documents, all or none if none of them is long."""
        state, rows, stale = self.collection("state"), [], []
        old = {}
        if any(key not in (LEASE_ROW, _HEAD) for key in documents):
            keys = [key for key in documents if key not in (LEASE_ROW, _HEAD)]
            found = self.client.query(state, one_of("id", keys), ["id", "value"])
            old = {row["id"]: row["value"] for row in found}
        for key, text in documents.items():
            if (was := old.get(stored_text(key), ""))[:1] == "+":
                stale += _part_ids(key, was)
            if text is None:
                rows.append(_state_row(key, "-"))
                continue
            encoded = json.dumps(text)
            if len(encoded) < LONGEST:
                rows.append(_state_row(key, f"={encoded}"))
                continue
            pieces = [encoded[at : at + LONGEST] for at in range(0, len(encoded), LONGEST)]
            pointer = f"+{len(pieces)}.{write}"
            if pointer == was:  # the former parts are valid until the row says otherwise
                pointer += "b"
            ids = _part_ids(key, pointer)
            self.client.upsert(state, list(map(_state_row, ids, pieces)))
            stale = [one for one in stale if one not in set(ids)]
            rows.append(_state_row(key, pointer))
        self.client.upsert(state, rows)
        if stale:
            self.client.delete_among(state, "id", stale)


_PART = " #"


def _part_ids(key: str, pointer: str) -> list[str]:
    """The rows in which a long document goes on."""
    number, _, write = pointer[1:].partition(".")
    return [f"{key}{_PART}{write}.{part}" for part in range(int(number))]


def _state_row(key: str, value: str) -> Row:
    return {"id": stored_text(key), "value": value, "dummy": DUMMY}


class Write:
    """A write that has begun.

    Args:
        database: The index.
        vectors: Whether vectors change.
    """

    def __init__(self, database: Database, *, vectors: bool) -> None:
        self.database = database
        self.client = database.client
        self.head = copy.deepcopy(database._head or {})  # noqa: SLF001 - a part of it
        self.head["write"] += 1
        self.vectors = vectors
        self.documents: dict[str, str | None] = {}
        self.thread = threading.get_ident()

    @property
    def number(self) -> int:
        """The number of this write."""
        return int(self.head["write"])

    def last(self, what: str) -> int:
        """The last number that was given to something: an item, a vector, a source, a space."""
        return int(self.head["numbers"].get(what, 0))

    def next(self, what: str, number: int = 1) -> int:
        """The first of some new numbers, which were never given before."""
        first = self.last(what) + 1
        self.head["numbers"][what] = first + number - 1
        return first

    def put_document(self, key: str, text: str | None) -> None:
        """Store a text by key when the write ends."""
        self.documents[key] = text

    def put_json(self, key: str, value: Any) -> None:
        """Store JSON by key when the write ends."""
        self.put_document(key, json.dumps(value))

    def intend(self, intent: dict[str, Any]) -> None:
        """Note what this write sets out to do, before it changes anything that was there."""
        full = {**intent, "write": self.number, "numbers": self.head["numbers"]}
        put: Any = self.database._put_now  # noqa: SLF001 - a part of it
        put({_INTENT: json.dumps(full)}, self.number)

    def log_deletions(self, deletions: list[Deletion]) -> None:
        """Log vectors that are about to be deleted."""
        if not deletions:
            return
        self.vectors = True
        first = self.head["changes"] + 1
        self.head["changes"] += len(deletions)
        name = self.database.made("deleted")
        rows = [
            {
                "id": first + number,
                "space_id": space,
                "modality": modality,
                "vector_id": id_,
                "dummy": DUMMY,
            }
            for number, (space, modality, id_) in enumerate(deletions)
        ]
        self.client.upsert(name, rows)
        if self.head["changes"] - self.head["forgotten"] > MOST_DELETIONS:
            self.head["forgotten"] = self.head["changes"] - MOST_DELETIONS // 2
            self.client.delete(name, f"id <= {self.head['forgotten']}")

    def commit(self) -> None:
        """End the write."""
        self.database.lease.check()
        self.head["moment"] += 1
        if self.vectors:
            self.head["revision"] += 1
        put: Any = self.database._put_now  # noqa: SLF001 - a part of it
        put({**self.documents, _HEAD: json.dumps(self.head)}, self.number)
