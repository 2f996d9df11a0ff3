"""The catalog: what is known of each file, its texts and its vectors, in one SQLite file.

It is the truth; everything else in an index folder can be made again from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, case, delete, func, literal, or_, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError, IntegrityError

from mmsearch.entries import Entry, Stat, next_revision, put_entry, put_failures
from mmsearch.errors import StorageFailed
from mmsearch.schema import (
    PathText,
    connect,
    items,
    sources,
    spaces,
    state,
    texts,
    vectors,
    writing,
)
from mmsearch.schema import failures as failed
from mmsearch.types import Failure, Item, Modality, Span, TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

MAX_PARAMETERS = 500
"""Ids in one IN list; SQLite's oldest bound is 999 variables."""


MOST_TWINS = 20
"""Files of one content that are looked at for one that is gone."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the catalog holds of a file that may have changed since."""

    id: int
    stat: Stat
    sidecar: Stat | None
    hash: bytes


@dataclass(frozen=True, slots=True)
class Space:
    """Where vectors are filed."""

    id: int
    name: str
    fingerprint: str
    dim: int


class Catalog:
    """One index's SQLite file. Reads are consistent; each write is one transaction."""

    def __init__(self, path: Path) -> None:
        self._engine = connect(path)
        self._open = True
        self.path = path

    def close(self) -> None:
        """Let go of the file; it cannot be used any more."""
        self._open = False
        self._engine.dispose()

    def _check_open(self) -> None:
        if not self._open:
            raise StorageFailed("this index has been closed: open it again to use it")

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        self._check_open()
        with _storage_errors(), writing(self._engine) as connection:
            yield connection

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        self._check_open()
        with _storage_errors(), self._engine.begin() as connection:
            yield connection

    def _rows(self, statement: Select[Any]) -> list[Any]:
        with self._read() as connection:
            return list(connection.execute(statement).all())

    # ------------------------------------------------------------------ state and spaces

    def stamp(self) -> tuple[str, int]:
        """(catalog id, revision); the revision rises whenever a vector comes, changes or goes."""
        found = dict(self._rows(select(state.c.key, state.c.value)))
        return found["catalog_id"], int(found["revision"])

    def spaces(self) -> list[Space]:
        """All spaces, oldest first."""
        return [Space(*row) for row in self._rows(select(spaces).order_by(spaces.c.id))]

    def add_space(self, name: str, fingerprint: str, dim: int) -> Space:
        """The space of these weights, made if it is new."""
        with self._write() as connection:
            connection.execute(
                insert(spaces)
                .values(name=name, fingerprint=fingerprint, dim=dim)
                .on_conflict_do_nothing()
            )
        wanted = (name, fingerprint)
        return next(s for s in self.spaces() if (s.name, s.fingerprint) == wanted)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many items of each modality, vectors of each facet, and failures there are."""
        item_counts = select(items.c.modality, func.count()).group_by(items.c.modality)
        facet_counts = select(vectors.c.facet, func.count()).group_by(vectors.c.facet)
        bad = self._rows(select(func.count()).select_from(failed))[0][0]
        return {
            "items": dict(map(tuple, self._rows(item_counts))),
            "vectors": dict(map(tuple, self._rows(facet_counts))),
            "failures": {"files": bad},
        }

    def __len__(self) -> int:
        return int(self._rows(select(func.count()).select_from(items))[0][0])

    # ------------------------------------------------------------------ sources

    def sources(self) -> list[tuple[int, str]]:
        """(id, absolute path) of each indexed folder."""
        return [tuple(row) for row in self._rows(_SOURCES)]

    def device(self, source_id: int) -> int:
        """The device (st_dev) that a source was on when it was last read."""
        return int(self._scalars(select(sources.c.device).where(sources.c.id == source_id))[0])

    def note_device(self, source_id: int, device: int) -> None:
        """Keep the device that a source is on."""
        with self._write() as connection:
            changed = update(sources).where(sources.c.id == source_id)
            connection.execute(changed.values(device=device))

    def source_of(self, path: str) -> tuple[int, str, str] | None:
        """(source id, source path, path below it) of the source that an absolute path lies in."""
        return _source_of(path, self.sources())

    def add_source(self, root: str, device: int = 0) -> int:
        """The source that `root` is or lies in, made if need be.

        Sources inside a new one become part of it, their items kept.
        """
        inside = root.rstrip(os.sep) + os.sep
        with self._write() as connection:
            there = [tuple(row) for row in connection.execute(_SOURCES).all()]
            if (known := _source_of(root, there)) is not None:
                return known[0]
            new = insert(sources).values(path=root, device=device).returning(sources.c.id)
            source_id = int(connection.execute(new).scalar_one())
            for other, path in there:
                if not path.startswith(inside):
                    continue
                below = literal(os.path.relpath(path, root), PathText())
                for table in (items, failed):
                    deeper = below.concat(os.sep).concat(table.c.folder)
                    moved = case((table.c.folder == "", below), else_=deeper)
                    connection.execute(
                        update(table)
                        .where(table.c.source_id == other)
                        .values(source_id=source_id, folder=moved)
                    )
                connection.execute(delete(sources).where(sources.c.id == other))
        return source_id

    # ------------------------------------------------------------------ what a scan asks

    def known(self, source_id: int, folder: str) -> dict[str, Known]:
        """What is stored of the files that lie directly in a folder, by name."""
        c = items.c
        rows = self._rows(
            select(
                c.name, c.id, c.size, c.mtime_ns, c.sidecar_size, c.sidecar_mtime_ns, c.hash
            ).where(c.source_id == source_id, c.folder == folder)
        )
        return {
            name: Known(id_, (size, mtime), None if side is None else (side, side_mtime), hash_)
            for name, id_, size, mtime, side, side_mtime, hash_ in rows
        }

    def known_failures(self, source_id: int, folder: str) -> dict[str, Stat | None]:
        """The failures in a folder by name: the file's stat, or None if it is worth another try."""
        c = failed.c
        where = (c.source_id == source_id, c.folder == folder)
        rows = self._rows(select(c.name, c.size, c.mtime_ns, c.retry).where(*where))
        return {name: None if retry else (size, mtime) for name, size, mtime, retry in rows}

    def folders(self, source_id: int, below: str) -> set[str]:
        """The folders at and below a folder of a source that hold items or failures."""
        found: set[str] = set()
        for table in (items, failed):
            where = [table.c.source_id == source_id]
            if below:
                where.append(_at_or_below(table, below))
            found.update(self._scalars(select(table.c.folder).where(*where).distinct()))
        return found

    def _scalars(self, statement: Select[Any]) -> list[Any]:
        return [row[0] for row in self._rows(statement)]

    def twins(self, hash_: bytes, modality: Modality) -> list[tuple[int, str, int, str]]:
        """(item id, source path, source device, file path) of files of this content, a few."""
        statement = (
            select(items.c.id, sources.c.path, sources.c.device, items.c.folder, items.c.name)
            .join(sources)
            .where(items.c.hash == hash_, items.c.modality == modality)
            .order_by(items.c.id)
            .limit(MOST_TWINS)
        )
        return [
            (id_, root, device, os.path.join(root, folder, name))
            for id_, root, device, folder, name in self._rows(statement)
        ]

    # ------------------------------------------------------------------ writing

    def put(
        self, entries: Sequence[Entry], space: Space, failures: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Store a batch, all or none; what is stored of a file forgets its earlier failure.

        Args:
            entries: Items to make or change.
            space: Where their vectors are filed.
            failures: source_id, folder, name, reason, size, mtime_ns and retry each.
        """
        with self._write() as connection:
            for entry in entries:
                put_entry(connection, entry, space.id)
            put_failures(connection, failures)
            if any(entry.brings_vectors for entry in entries):
                next_revision(connection)

    def fail(self, failures: Sequence[dict[str, Any]]) -> None:
        """Keep failures alone, as `put` does."""
        with self._write() as connection:
            put_failures(connection, failures)

    def forget_failures(self, source_id: int, folder: str, names: Iterable[str]) -> None:
        """Drop failures, if there are any to drop."""
        if not (names := list(names)):
            return
        with self._write() as connection:
            for chunk in _chunks(names):
                c = failed.c
                where = (c.source_id == source_id, c.folder == folder, c.name.in_(chunk))
                connection.execute(delete(failed).where(*where))

    def remove(self, ids: Sequence[int]) -> None:
        """Take items out, with their texts and vectors, all or none."""
        if not ids:
            return
        with self._write() as connection:
            for chunk in _chunks(ids):
                connection.execute(delete(items).where(items.c.id.in_(chunk)))
            next_revision(connection)

    def remove_below(self, source_id: int, below: str) -> int:
        """Take out a file or all at and below a folder; returns how many items and failures."""
        with self._write() as connection:
            gone = 0
            for table in (failed, items):
                where = [table.c.source_id == source_id]
                if below:
                    folder, name = os.path.split(below)
                    file = (table.c.folder == folder) & (table.c.name == name)
                    where.append(or_(file, _at_or_below(table, below)))
                gone += connection.execute(delete(table).where(*where)).rowcount
            if not below:
                connection.execute(delete(sources).where(sources.c.id == source_id))
            next_revision(connection)
        return gone

    # ------------------------------------------------------------------ reading

    def vectors(
        self, space: Space, facet: str, ids: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int64], Vectors, NDArray[np.int64]]:
        """Item ids (n,), vectors (n, dim) float32 and text positions (n,), in order of id.

        Args:
            space: Which encoder's.
            facet: "image", "text" or "audio".
            ids: Only these items' (all of them when None).
        """
        import numpy as np

        c = vectors.c
        base = select(c.item_id, c.position, c.vector).where(
            c.space_id == space.id, c.facet == facet
        )
        rows: list[Any] = []
        for part in [None] if ids is None else _chunks(sorted(set(ids))):
            chosen = base if part is None else base.where(c.item_id.in_(part))
            rows += self._rows(chosen.order_by(c.item_id, c.position))
        blob = b"".join(row[2] for row in rows)
        matrix = np.frombuffer(blob, dtype="<f2").reshape(len(rows), space.dim)
        id_array = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
        positions = np.fromiter((row[1] for row in rows), dtype=np.int64, count=len(rows))
        return id_array, matrix.astype(np.float32), positions

    def facets(self, space: Space) -> list[str]:
        """The facets that have vectors in a space, sorted."""
        c = vectors.c
        first = select(c.id).where(c.space_id == space.id).limit(1)
        known = ("audio", "image", "text")
        return [facet for facet in known if self._rows(first.where(c.facet == facet))]

    def items(self, ids: Sequence[int]) -> dict[int, Item]:
        """Items by id, with their texts; ids that are gone are left out."""
        found: dict[int, Item] = {}
        with self._read() as connection:
            for chunk in _chunks(ids):
                found.update(_items(connection, items.c.id.in_(chunk)))
        return found

    def all_items(self, page: int = 500) -> Iterator[Item]:
        """Every item in order of id, read page by page."""
        last = 0
        while True:
            with self._read() as connection:
                some = _items(connection, items.c.id > last, page)
            if not some:
                return
            yield from some.values()
            last = max(some)

    def failures(self) -> list[Failure]:
        """The files that could not be used, by path."""
        c = failed.c
        statement = select(sources.c.path, c.folder, c.name, c.reason, c.seen_at).join(sources)
        return sorted(
            (
                Failure(os.path.join(root, folder, name).rstrip(os.sep), reason, seen_at)
                for root, folder, name, reason, seen_at in self._rows(statement)
            ),
            key=lambda failure: failure.path,
        )


# ---------------------------------------------------------------------- parts of the above


_SOURCES = select(sources.c.id, sources.c.path)


def _source_of(path: str, known: Iterable[tuple[int, str]]) -> tuple[int, str, str] | None:
    for source_id, root in known:
        if path == root:
            return source_id, root, ""
        if path.startswith(root.rstrip(os.sep) + os.sep):
            return source_id, root, os.path.relpath(path, root)
    return None


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise StorageFailed(
            f"another process changed the index at the same time ({error.orig}); what was stored "
            "before is kept: run the command again"
        ) from error
    except DatabaseError as error:
        cure = next((cure for word, cure in _CURES.items() if word in str(error.orig)), _CHECK)
        raise StorageFailed(
            f"the catalog could not be read or written: {error.orig}; {cure}"
        ) from error


_KEPT = "what was stored before is kept: "
_CHECK = f"{_KEPT}check the disk, then run the command again"
_CURES = {
    "full": f"{_KEPT}free some space, then run the command again",
    "readonly": f"{_KEPT}make the index folder writable, then run the command again",
    "locked": "another process is writing: wait for it, then run the command again",
    "malformed": "it is damaged: delete the index folder and index again",
    "not a database": "it is damaged: delete the index folder and index again",
}


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), MAX_PARAMETERS):
        yield values[start : start + MAX_PARAMETERS]


def _at_or_below(table: Any, folder: str) -> Any:
    # a range, not LIKE: it is served by the index and no character is special in it
    below = table.c.folder.between(folder + os.sep, folder + chr(ord(os.sep) + 1))
    return or_(table.c.folder == folder, below & (table.c.folder != folder + chr(ord(os.sep) + 1)))


def _items(connection: Connection, where: Any, limit: int | None = None) -> dict[int, Item]:
    statement = (
        select(items, sources.c.path.label("root"))
        .join(sources)
        .where(where)
        .order_by(items.c.id)
        .limit(limit)
    )
    rows = connection.execute(statement).mappings().all()
    parts: dict[int, list[TextPart]] = {row["id"]: [] for row in rows}
    c = texts.c
    for chunk in _chunks(list(parts)):
        chosen = select(texts).where(c.item_id.in_(chunk)).order_by(c.item_id, c.position)
        for row in connection.execute(chosen).mappings():
            start, end = row["start_line"], row["end_line"]
            span = None if start is None else Span(start, end, "line")
            parts[row["item_id"]].append(TextPart(row["text"], row["origin"], span))
    return {row["id"]: _item(row, parts[row["id"]]) for row in rows}


def _item(row: Any, parts: list[TextPart]) -> Item:
    metadata: dict[str, Any] = {
        "size": row["size"],
        "modified": datetime.fromtimestamp(row["mtime_ns"] / 1e9, UTC).isoformat(
            timespec="seconds"
        ),
    }
    for key in ("width", "height", "taken_at", "camera", "latitude", "longitude"):
        if row[key] is not None:
            metadata[key] = row[key]
    path = os.path.join(row["root"], row["folder"], row["name"])
    return Item(row["id"], path, row["modality"], tuple(parts), metadata)
