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

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    case,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError, IntegrityError

from mmsearch.entries import (
    DETAILS,
    Entry,
    Place,
    Rows,
    Stat,
    next_revision,
    put_entry,
    put_failures,
    put_rows,
)
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
from mmsearch.types import Encoder, Failure, Item, Kind, Modality, Span, TextPart

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
    readings: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Space:
    """Where the vectors of one encoder are filed."""

    id: int
    name: str
    fingerprint: str
    dim: int
    modalities: frozenset[Modality]
    preference: int
    complete: bool
    """Whether it has a vector of everything; until then it answers nothing."""


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

    def setting(self, key: str) -> str | None:
        """What was kept under a key, if anything was."""
        found: list[str] = self._scalars(select(state.c.value).where(state.c.key == key))
        return found[0] if found else None

    def set_setting(self, key: str, value: str) -> None:
        """Keep a text under a key."""
        with self._write() as connection:
            row = insert(state).values(key=key, value=value)
            kept = {"value": row.excluded.value}
            connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=kept))

    def spaces(self) -> list[Space]:
        """All spaces, the preferred one first."""
        c = spaces.c
        columns = (c.id, c.name, c.fingerprint, c.dim, c.modalities, c.preference, c.complete)
        rows = self._rows(select(*columns).order_by(c.preference.desc()))
        return [
            Space(id_, name, fingerprint, dim, frozenset(takes.split()), rank, bool(complete))
            for id_, name, fingerprint, dim, takes, rank, complete in rows
        ]

    def add_space(self, encoder: Encoder) -> Space:
        """The space of an encoder, preferred to all others, made if it is new.

        While there are items that it has no vectors of, it is not complete.
        """
        key = {"name": encoder.name, "fingerprint": encoder.fingerprint}
        c = spaces.c
        with self._write() as connection:
            last = connection.execute(select(func.max(c.preference))).scalar_one() or 0
            empty = connection.execute(select(items.c.id).limit(1)).first() is None
            row = {
                "modalities": " ".join(sorted(encoder.modalities)),
                "preference": last + 1,
                "complete": int(empty),
            }
            made = insert(spaces).values(**key, dim=encoder.dim, **row)
            connection.execute(made.on_conflict_do_update(index_elements=list(key), set_=row))
        return next(
            space
            for space in self.spaces()
            if (space.name, space.fingerprint) == (encoder.name, encoder.fingerprint)
        )

    def note_modalities(self, space: Space, modalities: Iterable[Modality]) -> None:
        """Keep what a newer version of a space's encoder can encode."""
        self._change_space(space, modalities=" ".join(sorted(modalities)))

    def complete_space(self, space: Space) -> None:
        """Say that a space has a vector of everything."""
        self._change_space(space, complete=1)

    def _change_space(self, space: Space, **changed: Any) -> None:
        with self._write() as connection:
            connection.execute(update(spaces).where(spaces.c.id == space.id).values(**changed))

    def drop_space(self, space: Space) -> None:
        """Delete a space and all vectors in it."""
        with self._write() as connection:
            connection.execute(delete(spaces).where(spaces.c.id == space.id))
            next_revision(connection)

    def counts(self) -> dict[str, Any]:
        """How many there are: items by kind, vectors by space id and facet, failures."""
        item_counts = select(items.c.modality, func.count()).group_by(items.c.modality)
        c = vectors.c
        vector_counts = select(c.space_id, c.facet, func.count()).group_by(c.space_id, c.facet)
        by_space: dict[int, dict[str, int]] = {}
        for space_id, facet, number in self._rows(vector_counts):
            by_space.setdefault(space_id, {})[facet] = number
        return {
            "items": dict(map(tuple, self._rows(item_counts))),
            "vectors": by_space,
            "failures": self._scalars(select(func.count()).select_from(failed))[0],
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

    def is_whole(self, source_id: int) -> bool:
        """Whether all of a source was asked for, not only some of its files."""
        return bool(self._scalars(select(sources.c.whole).where(sources.c.id == source_id))[0])

    def add_source(self, root: str, device: int = 0, *, whole: bool = True) -> int:
        """The source that `root` is or lies in, made if need be.

        Sources inside a new one become part of it, their items kept.
        """
        inside = root.rstrip(os.sep) + os.sep
        with self._write() as connection:
            there = [tuple(row) for row in connection.execute(_SOURCES).all()]
            if (known := _source_of(root, there)) is not None:
                if whole and known[1] == root:
                    changed = update(sources).where(sources.c.id == known[0])
                    connection.execute(changed.values(whole=1))
                return known[0]
            row = {"path": root, "device": device, "whole": int(whole)}
            new = insert(sources).values(row).returning(sources.c.id)
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
                c.name,
                c.id,
                c.size,
                c.mtime_ns,
                c.sidecar_size,
                c.sidecar_mtime_ns,
                c.hash,
                c.readings,
            ).where(c.source_id == source_id, c.folder == folder)
        )
        return {
            name: Known(
                id_,
                (size, mtime),
                None if side is None else (side, side_mtime),
                hash_,
                frozenset(readings.split()) if readings else _NONE,
            )
            for name, id_, size, mtime, side, side_mtime, hash_, readings in rows
        }

    def readings(self, item_id: int) -> frozenset[str]:
        """What has been read from an item besides its pixels and samples: "ocr", "speech"."""
        found = self._scalars(select(items.c.readings).where(items.c.id == item_id))
        return frozenset(found[0].split()) if found else _NONE

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

    def twins(self, hash_: bytes, modality: Kind) -> list[tuple[int, str, int, str]]:
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

    def put(self, entries: Sequence[Entry], failures: Sequence[dict[str, Any]] = ()) -> None:
        """Store a batch, all or none; what is stored of a file forgets its earlier failure.

        Args:
            entries: Items to make or change.
            failures: source_id, folder, name, reason, size, mtime_ns and retry each.
        """
        with self._write() as connection:
            for entry in entries:
                put_entry(connection, entry)
            put_failures(connection, failures)
            if any(entry.brings_vectors for entry in entries):
                next_revision(connection)

    def fill(self, rows: dict[tuple[int, bytes], dict[Place, Rows]]) -> None:
        """File vectors of items that are stored already, all or none.

        Args:
            rows: By (item id, hash); an item whose content has changed meanwhile is left out.
        """
        with self._write() as connection:
            hashes = dict(
                map(tuple, connection.execute(_hashes_of([id_ for id_, _ in rows])).all())
            )
            for (item_id, hash_), places in rows.items():
                if hashes.get(item_id) == hash_:
                    for place, some in places.items():
                        put_rows(connection, item_id, place, some)
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

    def spans(
        self, space: Space, facet: str, ids: Sequence[int]
    ) -> dict[tuple[int, int], Span | None]:
        """By (item id, position), what stretch of the file each vector of some items is about."""
        c = texts.c if facet == "text" else vectors.c
        base = select(c.item_id, c.position, c.start, c.end, c.unit)
        if facet != "text":
            base = base.where(c.space_id == space.id, c.facet == facet)
        return {
            (item_id, position): _span(start, end, unit)
            for part in _chunks(sorted(set(ids)))
            for item_id, position, start, end, unit in self._rows(base.where(c.item_id.in_(part)))
        }

    def without(
        self, space: Space, facet: str, kinds: Iterable[Kind]
    ) -> list[tuple[int, str, bytes]]:
        """(item id, path, hash) of the items of some kinds that have no vector in a space.

        Args:
            space: Which encoder's.
            facet: Which facet's vector; for "text", items of any kind that have texts.
            kinds: Which items, for the other facets.
        """
        c = vectors.c
        has = select(c.id).where(c.space_id == space.id, c.facet == facet, c.item_id == items.c.id)
        due: ColumnElement[bool] = items.c.modality.in_(list(kinds))
        if facet == "text":
            due = select(texts.c.item_id).where(texts.c.item_id == items.c.id).exists()
        statement = (
            select(items.c.id, sources.c.path, items.c.folder, items.c.name, items.c.hash)
            .join(sources)
            .where(due, ~has.exists())
            .order_by(items.c.id)
        )
        return [
            (id_, os.path.join(root, folder, name), hash_)
            for id_, root, folder, name, hash_ in self._rows(statement)
        ]

    def facets(self, space: Space) -> list[Modality]:
        """The facets that have vectors in a space, sorted."""
        c = vectors.c
        first = select(c.id).where(c.space_id == space.id).limit(1)
        known: tuple[Modality, ...] = ("audio", "image", "text")
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


_NONE: frozenset[str] = frozenset()
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


def _hashes_of(ids: Sequence[int]) -> Select[Any]:
    return select(items.c.id, items.c.hash).where(items.c.id.in_(ids))


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
            span = _span(row["start"], row["end"], row["unit"])
            parts[row["item_id"]].append(TextPart(row["text"], row["origin"], span))
    return {row["id"]: _item(row, parts[row["id"]]) for row in rows}


def _span(start: float | None, end: float | None, unit: Any) -> Span | None:
    return None if start is None or end is None else Span(start, end, unit)


def _item(row: Any, parts: list[TextPart]) -> Item:
    metadata: dict[str, Any] = {
        "size": row["size"],
        "modified": datetime.fromtimestamp(row["mtime_ns"] / 1e9, UTC).isoformat(
            timespec="seconds"
        ),
    }
    for key in DETAILS:
        if row[key] is not None:
            metadata[key] = row[key]
    path = os.path.join(row["root"], row["folder"], row["name"])
    return Item(row["id"], path, row["modality"], tuple(parts), metadata)
