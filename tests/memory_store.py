"""A store in memory, of dicts and NumPy: what the Store protocol asks for, and no engine.

Rows are frozen and replaced, so a shallow copy of the tables is a snapshot, and a write that fails
leaves the tables it began with.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np

from mmsearch.errors import IndexBusy, InvalidOption
from mmsearch.filters import META, AnyOf, Condition, Filter, Not
from mmsearch.filters.keys import KEYS
from mmsearch.filters.match import folded, matcher
from mmsearch.filters.values import number_in
from mmsearch.storage import (
    CompleteItem,
    DuplicateGone,
    FailureRecord,
    IndexRoot,
    ItemBatch,
    ItemQuality,
    ItemRecord,
    ItemVectors,
    KnownFile,
    ListedItem,
    NewVectors,
    Serving,
    Space,
    StoredFile,
    StoreState,
)
from mmsearch.storage.lexical import name_tokens, query_terms, tokens
from mmsearch.storage.packing import pack, unpack
from mmsearch.storage.records import (
    ALL_MODALITIES,
    BY_HAND,
    IMPORTED_FINGERPRINT,
    IMPORTED_SOURCE,
    MEDIA_COLUMNS,
    NO_MODALITIES,
    NUMERIC_KEYS,
    TEXT,
    Modalities,
    PathKey,
    fact_text,
    metadata_key,
    split_path,
)
from mmsearch.storage.transfer import COLUMNS, COPYING, is_own, key_of
from mmsearch.types import FacetCount, Facets, Failure, Item, Span, TextPart
from mmsearch.vectors import AUTO, EXACT
from mmsearch.vectors.hubness import augmented
from mmsearch.vectors.id_set import IdSet


@dataclass(frozen=True)
class ItemRow:
    source: int
    folder: str
    name: str
    kind: str
    stat: tuple[int, int]
    hash: bytes = b""
    sidecar: tuple[int, int] | None = None
    media: Mapping[str, Any] = field(default_factory=dict)
    texts: tuple[TextPart, ...] = ()
    ctime_ns: int | None = None


@dataclass(frozen=True)
class VectorRow:
    space: int
    modality: str
    item: int
    position: int
    span: Span | None
    vector: Any
    hubs: Mapping[str, float] = field(default_factory=dict)

    @property
    def place(self) -> tuple[int, str, int]:
        return self.space, self.modality, self.item


@dataclass
class Tables:
    items: dict[int, ItemRow] = field(default_factory=dict)
    sources: dict[int, tuple[str, int]] = field(default_factory=dict)
    folder_devices: dict[tuple[int, str], int] = field(default_factory=dict)
    roots: dict[str, IndexRoot] = field(default_factory=dict)
    failures: dict[tuple[int, str, str], tuple[FailureRecord, str]] = field(default_factory=dict)
    spaces: dict[int, Space] = field(default_factory=dict)
    vectors: dict[int, VectorRow] = field(default_factory=dict)
    tokens: dict[tuple[int, str, int, int], Any] = field(default_factory=dict)
    absent: dict[tuple[int, str, int], bool] = field(default_factory=dict)
    metadata: dict[int, dict[str, str]] = field(default_factory=dict)  # by users
    facts: dict[int, dict[str, str]] = field(default_factory=dict)  # by the files
    tags: dict[int, dict[str, float]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    banks: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    deleted: dict[int, VectorRow] = field(default_factory=dict)  # by change; keeps the row's place
    deleted_ids: dict[int, int] = field(default_factory=dict)  # by change, the vector's id
    numbers: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Tables:
        return Tables(**{one.name: dict(getattr(self, one.name)) for one in fields(self)})

    def next(self, what: str) -> int:
        self.numbers[what] = number = self.numbers.get(what, 0) + 1
        return number

    def path(self, row: ItemRow) -> str:
        return os.path.join(self.sources[row.source][0], row.folder, row.name)

    def at(self, source: int, folder: str, name: str) -> int | None:
        place = source, folder, name
        found = (id_ for id_, r in self.items.items() if (r.source, r.folder, r.name) == place)
        return next(found, None)

    def delete_vectors(self, doomed: Iterable[int]) -> None:
        for vector_id in list(doomed):
            row, change = self.vectors.pop(vector_id), self.next("changes")
            self.deleted[change], self.deleted_ids[change] = row, vector_id
            self.tokens.pop((*row.place, row.position), None)

    def vectors_of(self, item: int, modality: str | None = None) -> list[int]:
        return [
            id_
            for id_, row in self.vectors.items()
            if row.item == item and modality in (None, row.modality)
        ]

    def delete_item(self, item: int) -> None:
        self.delete_vectors(self.vectors_of(item))
        self.absent = {key: True for key in self.absent if key[2] != item}
        for table in (self.items, self.metadata, self.facts, self.tags):
            table.pop(item, None)

    def meta(self, item: int) -> dict[str, str]:
        return dict(sorted((self.facts.get(item, {}) | self.metadata.get(item, {})).items()))

    def put_vectors(self, item: int, place: tuple[int, str], new: ItemVectors) -> None:
        here = [id_ for id_ in self.vectors_of(item) if self.vectors[id_].place[:2] == place]
        self.delete_vectors(here)
        spans = new.spans or [None] * len(new.matrix)
        for position, (vector, span) in enumerate(zip(new.matrix, spans, strict=True)):
            hubs = {asked: float(values[position]) for asked, values in new.hubs.items()}
            row = VectorRow(*place, item, position, span, np.array(vector, np.float16), hubs)
            self.vectors[self.next("vectors")] = row
        for position, matrix in enumerate(new.token_embeddings):
            self.tokens[*place, item, position] = np.array(matrix)
        if not len(new.matrix) and place[1] != "text":
            self.absent[*place, item] = True


class Part:
    """A part of the store: the tables as this thread sees them."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    @property
    def _t(self) -> Tables:
        return self._store.tables

    def _item(self, id_: int) -> Item:
        row = self._t.items[id_]
        size, mtime = row.stat
        modified = datetime.fromtimestamp(mtime / 1e9, UTC).isoformat(timespec="seconds")
        known = {key: row.media[key] for key in MEDIA_COLUMNS if row.media.get(key) is not None}
        metadata: dict[str, Any] = {"size": size, "modified": modified} | known
        if own := self._t.meta(id_):
            metadata["meta"] = own
        if tags := self._t.tags.get(id_):
            metadata["tags"] = sorted(tags, key=lambda tag: (-tags[tag], tag))
        return Item(id_, self._t.path(row), row.kind, row.texts, metadata)  # type: ignore[arg-type]


class Items(Part):
    def __len__(self) -> int:
        return len(self._t.items)

    def counts(self) -> dict[str, int]:
        kinds = [row.kind for row in self._t.items.values()]
        return {kind: kinds.count(kind) for kind in kinds}

    def get(self, ids: Sequence[int]) -> dict[int, Item]:
        return {id_: self._item(id_) for id_ in sorted(map(int, set(ids))) if id_ in self._t.items}

    def all(self, page: int = 500) -> Iterator[Item]:
        del page
        yield from self.get(list(self._t.items)).values()

    def listed(self, ids: Any = None, limit: int | None = None) -> Iterator[ListedItem]:
        wanted = sorted(self._t.items) if ids is None else [int(i) for i in ids]
        for id_ in [i for i in wanted if i in self._t.items][:limit]:
            row = self._t.items[id_]
            taken = row.media.get("taken_at")
            yield ListedItem(id_, self._t.path(row), row.kind, *row.stat, taken)  # type: ignore[arg-type]

    def complete(self, space: Space | None, ids: Any = None) -> Iterator[list[CompleteItem]]:
        page = []
        for listed in self.listed(ids):
            row = self._t.items[listed.id]
            columns = {"size": row.stat[0], "mtime_ns": row.stat[1]}
            columns |= {key: row.media.get(key) for key in MEDIA_COLUMNS}
            vectors = [
                (v.modality, v.position, *_span(v.span), v.vector.astype("<f2").tobytes())
                for v in _ordered(self._t, space, None, [listed.id])
            ]
            texts = [(part.origin, part.text, *_span(part.span)) for part in row.texts]
            said = (self._t.metadata, self._t.facts)
            own, facts = (dict(sorted(some.get(listed.id, {}).items())) for some in said)
            tags = dict(sorted(self._t.tags.get(listed.id, {}).items()))
            kind: Any = row.kind
            page.append(CompleteItem(listed.id, listed.path, kind, columns, texts, own, facts))
            page[-1].tags.update(tags)
            page[-1].vectors.extend(vectors)
        if page:
            yield page

    def hashes(self, ids: Sequence[int]) -> dict[int, bytes]:
        known = {int(i): self._t.items[int(i)].hash for i in set(ids) if int(i) in self._t.items}
        return {id_: hash_ for id_, hash_ in known.items() if hash_}

    def same_content(self) -> list[list[int]]:
        groups: dict[Any, list[int]] = {}
        for id_, row in sorted(self._t.items.items()):
            if row.hash:
                groups.setdefault((row.hash, row.kind), []).append(id_)
        return [ids for ids in groups.values() if len(ids) > 1]

    def quality(self) -> dict[int, ItemQuality]:
        return {
            id_: ItemQuality(
                id_,
                row.kind,  # type: ignore[arg-type]
                *row.stat,
                (row.media.get("width") or 0) * (row.media.get("height") or 0),
                row.media.get("seconds") or 0.0,
                row.hash,
            )
            for id_, row in self._t.items.items()
        }

    def remove(self, ids: Sequence[int]) -> None:
        if ids:
            with self._store.write(vectors=True) as tables:
                for id_ in ids:
                    tables.delete_item(int(id_))

    def remove_below(self, source_id: int, below: str) -> int:
        with self._store.write(vectors=True) as tables:

            def inside(source: int, folder: str, name: str) -> bool:
                path = os.path.join(folder, name)
                hit = not below or path == below or f"{folder}/".startswith(f"{below}/")
                return source == source_id and hit

            files = [i for i, r in tables.items.items() if inside(r.source, r.folder, r.name)]
            failed = [key for key in tables.failures if inside(*key)]
            for id_ in files:
                tables.delete_item(id_)
            for key in failed:
                del tables.failures[key]
            if not below:
                tables.sources.pop(source_id, None)
            return len(files) + len(failed)

    def remove_imported(self, path: str) -> int:
        source = self._store.sources.known(IMPORTED_SOURCE)
        folder, name = split_path(path)
        below = path.rstrip(os.sep)
        doomed = [
            id_
            for id_, row in self._t.items.items()
            if row.source == source
            and ((row.folder, row.name) == (folder, name) or _inside(row.folder, below))
        ]
        self.remove(doomed)
        return len(doomed)


class Files(Part):
    def known(self, source_id: int, folder: str, prefix: str = "") -> dict[str, KnownFile]:
        return {
            row.name: KnownFile(
                row.name,
                id_,
                *row.stat,
                *(row.sidecar or (None, None)),
                row.ctime_ns,
                row.hash,
                row.media.get("readings") or None,
            )
            for id_, row in self._t.items.items()
            if (row.source, row.folder) == (source_id, folder) and row.name.startswith(prefix)
        }

    def set_change_times(self, rows: Sequence[tuple[int, int]]) -> None:
        with self._store.write() as tables:
            for id_, ctime_ns in rows:
                tables.items[id_] = replace(tables.items[id_], ctime_ns=ctime_ns)

    def readings(self, item_id: int) -> frozenset[str]:
        row = self._t.items.get(item_id)
        return frozenset((row.media.get("readings") or "").split()) if row else frozenset()

    def folders(self, source_id: int, below: str) -> set[str]:
        places = [(row.source, row.folder) for row in self._t.items.values()]
        places += [(source, folder) for source, folder, _ in self._t.failures]
        inside = f"{below}/" if below else ""
        return {f for source, f in places if source == source_id and f"{f}/".startswith(inside)}

    def duplicates_of(self, hash_: bytes, kind: str) -> list[tuple[int, str, str, int, str]]:
        return [
            (
                id_,
                self._t.sources[row.source][0],
                row.folder if (row.source, row.folder) in self._t.folder_devices else "",
                self._t.folder_devices.get(
                    (row.source, row.folder), self._t.sources[row.source][1]
                ),
                self._t.path(row),
            )
            for id_, row in sorted(self._t.items.items())
            if (row.hash, row.kind) == (hash_, kind)
        ][:20]

    def at(self, source_id: int, folder: str, name: str) -> StoredFile | None:
        return self._stored(self._t.at(source_id, folder, name))

    def imported(self, path: str) -> StoredFile | None:
        source = self._store.sources.known(IMPORTED_SOURCE)
        found = None if source is None else self._t.at(source, *split_path(path))
        return self._stored(found, imported=True)

    def of(self, item_id: int) -> tuple[str, str, StoredFile] | None:
        if (row := self._t.items.get(item_id)) is None:
            return None
        root = self._t.sources[row.source][0]
        stored = self._stored(item_id, imported=root == IMPORTED_SOURCE)
        assert stored is not None
        return root, self._t.path(row), stored

    def _stored(self, id_: int | None, *, imported: bool = False) -> StoredFile | None:
        if id_ is None:
            return None
        row = self._t.items[id_]
        return StoredFile(id_, row.kind, row.stat, row.hash, imported, row.ctime_ns)  # type: ignore[arg-type]

    def all(self, page: int = 20_000) -> Iterator[tuple[int, str, str, str]]:
        del page
        for id_, row in sorted(self._t.items.items()):
            yield id_, self._t.sources[row.source][0], row.folder, row.name


class Sources(Part):
    def known(self, path: str) -> int | None:
        return next((id_ for id_, (root, _) in self._t.sources.items() if root == path), None)

    def all(self) -> list[tuple[int, str]]:
        there = self._t.sources.items()
        return [(id_, root) for id_, (root, _) in there if root != IMPORTED_SOURCE]

    def device(self, source_id: int) -> int:
        return self._t.sources[source_id][1]

    def set_device(self, source_id: int, device: int) -> None:
        with self._store.write() as tables:
            tables.sources[source_id] = tables.sources[source_id][0], device

    def folder_devices(self, source_id: int) -> dict[str, int]:
        there = self._t.folder_devices.items()
        return {folder: device for (source, folder), device in there if source == source_id}

    def set_folder_devices(self, source_id: int, devices: Mapping[str, int | None]) -> None:
        with self._store.write() as tables:
            for folder, device in devices.items():
                tables.folder_devices.pop((source_id, folder), None)
                if device is not None:
                    tables.folder_devices[source_id, folder] = device

    def of(self, path: str) -> tuple[int, str, str] | None:
        for id_, root in self.all():
            if path == root:
                return id_, root, ""
            if path.startswith(root.rstrip(os.sep) + os.sep):
                return id_, root, os.path.relpath(path, root)
        return None

    def add(self, root: str, device: int = 0) -> int:
        if (known := self.of(root)) is not None:
            return known[0]
        with self._store.write() as tables:
            new = tables.next("sources")
            tables.sources[new] = root, device
            for other, (path, _) in list(tables.sources.items()):
                if other == new or not path.startswith(root.rstrip(os.sep) + os.sep):
                    continue
                below = os.path.relpath(path, root)
                noted = {r.folder: tables.sources[other][1] for r in tables.items.values()
                         if r.source == other}  # fmt: skip
                noted |= {f: d for (s, f), d in tables.folder_devices.items() if s == other}
                for folder, its in noted.items():
                    tables.folder_devices.pop((other, folder), None)
                    place = os.path.join(below, folder).rstrip(os.sep)
                    tables.folder_devices[new, place] = its
                for id_, row in tables.items.items():
                    if row.source == other:
                        folder = os.path.join(below, row.folder).rstrip(os.sep)
                        tables.items[id_] = replace(row, source=new, folder=folder)
                for (source, folder, name), (record, seen) in list(tables.failures.items()):
                    if source == other:
                        deeper = os.path.join(below, folder).rstrip(os.sep)
                        moved = replace(record, source_id=new, folder=deeper)
                        del tables.failures[source, folder, name]
                        tables.failures[new, deeper, name] = moved, seen
                del tables.sources[other]
            return new

    def imported(self) -> int:
        if (known := self.known(IMPORTED_SOURCE)) is not None:
            return known
        with self._store.write() as tables:
            new = tables.next("sources")
            tables.sources[new] = IMPORTED_SOURCE, 0
            return new


class IndexRoots(Part):
    def all(self) -> list[IndexRoot]:
        return [self._t.roots[path] for path in sorted(self._t.roots)]

    def add(self, given: Sequence[IndexRoot]) -> None:
        with self._store.write() as tables:
            for one in given:
                if one.folder:
                    _forget(tables, one.path)
                tables.roots[one.path] = one

    def remove(self, path: str) -> None:
        with self._store.write() as tables:
            _forget(tables, path)


def _forget(tables: Tables, path: str) -> None:
    inside = path.rstrip(os.sep) + os.sep
    for other in [one for one in tables.roots if one == path or one.startswith(inside)]:
        del tables.roots[other]


class Failures(Part):
    def __len__(self) -> int:
        return len(self._t.failures)

    def known(
        self, source_id: int, folder: str
    ) -> dict[str, tuple[tuple[int, int], int | None] | None]:
        return {
            name: None if record.retry else (record.stat or (0, 0), record.ctime_ns)
            for (source, where, name), (record, _) in self._t.failures.items()
            if (source, where) == (source_id, folder)
        }

    def folders(self, source_id: int) -> set[str]:
        return {folder for source, folder, _ in self._t.failures if source == source_id}

    def add(self, records: Sequence[FailureRecord]) -> None:
        with self._store.write() as tables:
            _fail(tables, records)

    def remove(self, source_id: int, folder: str, names: Iterable[str]) -> None:
        with self._store.write() as tables:
            for name in names:
                tables.failures.pop((source_id, folder, name), None)

    def all(self) -> list[Failure]:
        found = [
            Failure(
                os.path.join(self._t.sources[source][0], folder, name).rstrip(os.sep),
                record.reason,
                seen,
            )
            for (source, folder, name), (record, seen) in self._t.failures.items()
        ]
        return sorted(found, key=lambda failure: failure.path)


def _fail(tables: Tables, records: Sequence[FailureRecord]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for one in records:
        tables.failures[one.source_id, one.folder, one.name] = one, now


class Metadata(Part):
    def set(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        with self._store.write() as tables:
            for id_, own in rows:
                if id_ in tables.items:
                    tables.metadata[id_] = {
                        metadata_key(key): str(value).lower()
                        if isinstance(value, bool)
                        else str(value)
                        for key, value in own.items()
                        if value is not None
                    }


class Tags(Part):
    def set(
        self, found: Mapping[str, Mapping[int, float]], among: Iterable[int] | None = None
    ) -> None:
        looked = None if among is None else set(among)
        with self._store.write() as tables:
            for tag, scores in found.items():
                for id_ in tables.items:
                    own = dict(tables.tags.get(id_, {}))
                    if own.get(tag) == BY_HAND:
                        continue
                    if looked is None or id_ in looked:
                        own.pop(tag, None)
                    if id_ in scores:
                        own[tag] = float(scores[id_])
                    tables.tags[id_] = own

    def add(self, tag: str, ids: Sequence[int]) -> int:
        with self._store.write() as tables:
            there = tables.items.keys() & set(ids)
            for id_ in there:
                tables.tags[id_] = tables.tags.get(id_, {}) | {tag: BY_HAND}
        return len(there)

    def remove(self, tag: str, ids: Sequence[int]) -> int:
        with self._store.write() as tables:
            having = [id_ for id_ in set(ids) if tag in tables.tags.get(id_, {})]
            for id_ in having:
                tables.tags[id_] = {t: s for t, s in tables.tags[id_].items() if t != tag}
        return len(having)

    def clear(self, names: Iterable[str] | None = None) -> int:
        wanted = None if names is None else set(names)
        removed = 0
        with self._store.write() as tables:
            for id_, own in tables.tags.items():
                kept = {} if wanted is None else {t: s for t, s in own.items() if t not in wanted}
                removed += len(own) - len(kept)
                tables.tags[id_] = kept
        return removed


class Words(Part):
    """Every item is scored by BM25 when it is asked for, so nothing is ever due."""

    def due(self) -> int:
        return 0

    def refresh(self, at_most: int | None = None, progress: Any = None) -> int:
        del at_most, progress
        return 0

    def _documents(self) -> dict[int, str]:
        found = {}
        for id_, row in self._t.items.items():
            root = os.path.basename(self._t.sources[row.source][0])
            words = [token for part in row.texts for token in tokens(part.text)]
            for name in (row.name, root, *row.folder.split(os.sep)):
                words += name_tokens(name)
            own = self._t.metadata.get(id_, {})
            values = [
                value
                for key, value in self._t.meta(id_).items()
                if key in own or key not in NUMERIC_KEYS
            ]
            facts = [row.media.get("camera") or "", *values]
            words += [
                token for fact in (*facts, *self._t.tags.get(id_, {})) for token in tokens(fact)
            ]
            found[id_] = f" {' '.join(words)} "
        return found

    def search(self, query: str, k: int, allowed: IdSet | None = None) -> list[tuple[int, float]]:
        terms = query_terms(query)
        documents = self._documents()
        scores: dict[int, float] = {}
        for term in terms:
            holding = [id_ for id_, words in documents.items() if term.within(words)]
            rarity = math.log(max(len(documents) - len(holding) + 0.5, 0.5) / (len(holding) + 0.5))
            for id_ in holding:
                scores[id_] = scores.get(id_, 0.0) + max(rarity, 1e-6)
        inside = scores if allowed is None else set(allowed.ids.tolist())
        best = [(id_, score) for id_, score in scores.items() if id_ in inside]
        return sorted(best, key=lambda pair: (-pair[1], pair[0]))[: max(k, 0)]

    def holding(self, query: str, ids: Sequence[int]) -> set[int]:
        terms = query_terms(query)
        documents = self._documents()
        there = [i for i in ids if terms and i in documents]
        return {i for i in there if all(term.within(documents[i]) for term in terms)}


class Filters(Part):
    """The predicate tree walked for each item."""

    def matching(self, filter_: Filter, most: int | None = None) -> Any:
        found = [id_ for id_ in sorted(self._t.items) if self._passes(filter_, id_)]
        return np.array(found[:most], np.int64)

    def passing(self, filter_: Filter) -> IdSet:
        return IdSet.of(self.matching(filter_))

    def by_date(self, ids: IdSet | None = None, *, oldest: bool = False) -> Any:
        wanted = sorted(self._t.items) if ids is None else ids.ids.tolist()
        dates = {id_: self._date(id_) for id_ in wanted if id_ in self._t.items}
        dated = sorted(
            (id_ for id_ in dates if dates[id_]), key=dates.__getitem__, reverse=not oldest
        )
        return np.array([*dated, *(id_ for id_ in dates if not dates[id_])], np.int64)

    def _date(self, id_: int) -> str:
        row = self._t.items[id_]
        modified = datetime.fromtimestamp(row.stat[1] / 1e9, UTC).isoformat()[:19]
        return row.media.get("taken_at") or (modified if row.stat[1] else "")

    def facets(self, ids: IdSet | None = None) -> Facets:
        wanted = self._t.items.keys() if ids is None else ids.ids.tolist()
        rows = {id_: self._t.items[id_] for id_ in wanted if id_ in self._t.items}
        months = [date[:7] for date in map(self._date, rows) if date]
        folders = [os.path.dirname(self._t.path(row)) for row in rows.values()]
        cameras = [row.media.get("camera") for row in rows.values()]
        tags = [tag for id_ in rows for tag in self._t.tags.get(id_, {})]

        def counted(values: Iterable[Any]) -> list[FacetCount]:
            return [FacetCount(*pair) for pair in sorted(Counter(values).items())]

        def best(values: Iterable[Any]) -> list[FacetCount]:
            return sorted(counted(v for v in values if v), key=lambda one: -one.count)

        return Facets(
            best(row.kind for row in rows.values()),
            counted(month[:4] for month in months),
            counted(months),
            best(folders),
            best(cameras),
            best(tags),
            len(rows),
        )

    def _passes(self, filter_: Filter, id_: int) -> bool:
        return all(self._holds(one, id_) for one in filter_.conditions)

    def _holds(self, one: Condition | AnyOf | Not, id_: int) -> bool:
        if isinstance(one, Not):
            return not self._passes(one.filter, id_)
        if isinstance(one, AnyOf):
            return any(self._passes(part, id_) for part in one.filters)
        values = self._values(one.key, id_)
        if one.op == "exists":
            return bool(values)
        return any(_compared(one, value) for value in values)

    def _values(self, key: str, id_: int) -> list[Any]:
        row = self._t.items[id_]
        if key.startswith(META):
            own = self._t.meta(id_)
            name = key.removeprefix(META)
            return [own[name]] if name in own else []
        path, relative = self._t.path(row), os.path.join(row.folder, row.name)
        special = {
            "path": [path, relative],
            "folder": [os.path.dirname(path), row.folder],
            "name": [row.name],
            "modality": [row.kind],
            "size": [row.stat[0]],
            "modified": [datetime.fromtimestamp(row.stat[1] / 1e9, UTC).replace(tzinfo=None)],
            "tag": list(self._t.tags.get(id_, {})),
        }
        taken = row.media.get("taken_at")
        special["taken"] = [datetime.fromisoformat(taken)] if taken else []
        special["date"] = special["taken"] or special["modified"]
        if key in special:
            return special[key]
        if key not in KEYS or not isinstance(KEYS[key].field, str):
            raise NotImplementedError(f"the store in memory has no key {key!r}")
        value = row.media.get(key)
        return [] if value is None else [value]


def _compared(one: Condition, value: Any) -> bool:
    if one.op == "in":
        return any(_equal(wanted, value) for wanted in one.value)
    if one.op == "contains":
        return folded(one.value) in folded(value)
    if one.op == "glob":
        return matcher(one.value, below=one.key == "path")(value) is not None
    wanted = one.value
    if hasattr(wanted, "start"):  # a period
        end = wanted.end or _END
        return {
            "gt": value >= end,
            "gte": value >= wanted.start,
            "lt": value < wanted.start,
            "lte": value < end,
        }[one.op]
    if hasattr(wanted, "texts"):  # a value of the user's metadata
        own = number_in(value)
        if wanted.number is not None:
            value, wanted = own if own is not None else math.nan, wanted.number
        else:
            wanted = wanted.texts[0]
    return bool(
        {
            "gt": value > wanted,
            "gte": value >= wanted,
            "lt": value < wanted,
            "lte": value <= wanted,
        }[one.op]
    )


_END = datetime(9999, 12, 31)  # noqa: DTZ001 - as filters have times


def _inside(folder: str, below: str) -> bool:
    return f"{folder}/".startswith(f"{below}/")


def _equal(wanted: Any, value: Any) -> bool:
    if hasattr(wanted, "start"):
        return bool(wanted.start <= value < (wanted.end or _END))
    if hasattr(wanted, "texts"):
        own = number_in(value)
        return value in wanted.texts or (own is not None and own == wanted.number)
    return bool(wanted == value)


class Spaces(Part):
    def all(self) -> list[Space]:
        return sorted(
            self._t.spaces.values(),
            key=lambda s: ("image" not in s.serves, "audio" not in s.serves, not s.serves, -s.id),
        )

    def add(self, encoder: Any) -> Space:
        with self._store.write() as tables:
            return _add_space(tables, encoder)

    def add_imported(self, name: str, dim: int, modalities: Iterable[str]) -> Space:
        with self._store.write() as tables:
            found = [
                one
                for one in tables.spaces.values()
                if (one.name, one.fingerprint) == (name, IMPORTED_FINGERPRINT)
            ]
            none = NO_MODALITIES
            id_ = found[0].id if found else tables.next("spaces")
            space = (
                found[0] if found else Space(id_, name, IMPORTED_FINGERPRINT, dim, none, none, none)
            )
            tables.spaces[id_] = replace(space, serves=space.serves | frozenset(modalities))  # type: ignore[arg-type]
            return tables.spaces[id_]

    def adopt(self, encoder: Any) -> None:
        with self._store.write() as tables:
            keys = {(s.name, s.fingerprint): s for s in tables.spaces.values()}
            mine = keys.get((encoder.name, IMPORTED_FINGERPRINT))
            if mine is not None and (encoder.name, encoder.fingerprint) not in keys:
                tables.spaces[mine.id] = replace(
                    mine, fingerprint=encoder.fingerprint, modalities=frozenset(encoder.modalities)
                )

    def serve_with(self, encoders: Sequence[Any], only: Modalities = ALL_MODALITIES) -> None:
        with self._store.write() as tables:
            media: dict[str, int] = {}
            for encoder in encoders:
                space = _add_space(tables, encoder)
                media |= dict.fromkeys(sorted(encoder.modalities & only - TEXT), space.id)
            for medium, chosen in media.items():
                for space in list(tables.spaces.values()):
                    backfills = space.backfills - {medium}
                    if space.id == chosen and medium not in space.serves:
                        backfills |= {medium} | ((TEXT & space.modalities) - space.serves)
                    elif not backfills - TEXT:
                        backfills = NO_MODALITIES
                    tables.spaces[space.id] = replace(space, backfills=backfills)
            if media and not tables.items:
                for space in list(tables.spaces.values()):
                    _switch(tables, space)

    def switch_to(self, space: Space) -> None:
        with self._store.write() as tables:
            now = tables.spaces.get(space.id)
            if now is not None and now.backfills == space.backfills:
                _switch(tables, now)

    def cancel_backfill(self, space: Space) -> None:
        with self._store.write() as tables:
            tables.spaces[space.id] = replace(tables.spaces[space.id], backfills=NO_MODALITIES)

    def set_modalities(self, space: Space, modalities: Iterable[Any]) -> None:
        with self._store.write() as tables:
            changed = replace(tables.spaces[space.id], modalities=frozenset(modalities))
            tables.spaces[space.id] = changed

    def drop(self, space: Space) -> None:
        with self._store.write(vectors=True) as tables:
            mine = [id_ for id_, row in tables.vectors.items() if row.space == space.id]
            tables.delete_vectors(mine)
            tables.spaces.pop(space.id, None)


def _add_space(tables: Tables, encoder: Any) -> Space:
    for space in tables.spaces.values():
        if (space.name, space.fingerprint) == (encoder.name, encoder.fingerprint):
            known = replace(space, modalities=frozenset(encoder.modalities))
            tables.spaces[space.id] = known
            return known
    none, modalities = NO_MODALITIES, frozenset(encoder.modalities)
    id_ = tables.next("spaces")
    new = Space(id_, encoder.name, encoder.fingerprint, encoder.dim, modalities, none, none)
    tables.spaces[id_] = new
    return new


def _switch(tables: Tables, space: Space) -> None:
    media = space.backfills - TEXT
    for other in list(tables.spaces.values()):
        if other.id != space.id and other.serves & media:
            kept = other.serves - media
            serves = kept if kept - TEXT else NO_MODALITIES
            tables.spaces[other.id] = replace(other, serves=serves)
    tables.spaces[space.id] = replace(space, serves=space.encodes_for, backfills=NO_MODALITIES)


def _ordered(
    tables: Tables, space: Space | None, modality: str | None, ids: Iterable[int] | None
) -> list[VectorRow]:
    """Vectors in order of (modality, item, position)."""
    wanted = None if ids is None else {int(id_) for id_ in ids}
    found = [
        row
        for row in tables.vectors.values()
        if space is not None
        and row.space == space.id
        and modality in (None, row.modality)
        and (wanted is None or row.item in wanted)
    ]
    return sorted(found, key=lambda row: (row.modality, row.item, row.position))


def _span(span: Span | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if span is None else (span.start, span.end, span.unit)


class Vectors(Part):
    def counts(self) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = {}
        for row in self._t.vectors.values():
            own = found.setdefault(row.space, {})
            own[row.modality] = own.get(row.modality, 0) + 1
        return found

    def count(
        self, space: Space, modality: str | None = None, ids: Iterable[int] | None = None
    ) -> int:
        return len(_ordered(self._t, space, modality, ids))

    def modalities(self, space: Space) -> list[Any]:
        return sorted(self.counts().get(space.id, {}))

    def of(
        self, space: Space, modality: str, ids: Sequence[int] | None = None
    ) -> tuple[Any, Any, Any]:
        rows = _ordered(self._t, space, modality, ids)
        matrix = np.array([row.vector for row in rows], np.float32).reshape(len(rows), space.dim)
        owners = np.array([row.item for row in rows], np.int64)
        return owners, matrix, np.array([row.position for row in rows], np.int64)

    def pages(self, space: Space, modality: str, rows: int = 8192) -> Iterator[tuple[Any, Any]]:
        del rows
        owners, matrix, _ = self.of(space, modality)
        if len(owners):
            yield owners, matrix

    def sample(self, space: Space, modality: str, number: int) -> Any:
        _, matrix, _ = self.of(space, modality)
        places = np.unique(np.linspace(0, len(matrix) - 1, min(number, len(matrix))).astype(int))
        return matrix[places]

    def spans(self, space: Space, modality: str, ids: Sequence[int]) -> dict[Any, Span | None]:
        if modality == "text":
            return {
                (id_, position): part.span
                for id_ in set(ids)
                if id_ in self._t.items
                for position, part in enumerate(self._t.items[id_].texts)
            }
        rows = _ordered(self._t, space, modality, ids)
        return {(row.item, row.position): row.span for row in rows}

    def _lacking(self, space: Space, modality: str, kinds: Iterable[str], table: Any) -> list[int]:
        has = {place[2] for place in table if place[:2] == (space.id, modality)}
        wanted = set(kinds)
        return [
            id_
            for id_, row in sorted(self._t.items.items())
            if (row.texts if modality == "text" else row.kind in wanted) and id_ not in has
        ]

    def missing(
        self,
        space: Space,
        modality: str,
        kinds: Iterable[str],
        *,
        token_embeddings: bool = False,
    ) -> list[tuple[int, str, bytes]]:
        vectors = [row.place for row in self._t.vectors.values()]
        table = list(self._t.tokens) if token_embeddings else vectors
        imported = self._store.sources.known(IMPORTED_SOURCE)
        return [
            (id_, self._t.path(self._t.items[id_]), self._t.items[id_].hash)
            for id_ in self._lacking(space, modality, kinds, table)
            if (space.id, modality, id_) not in self._t.absent
            and (modality == "text" or self._t.items[id_].source != imported)
        ]

    def any_missing(self, space: Space, modality: str, kinds: Iterable[str]) -> bool:
        places = [row.place for row in self._t.vectors.values()]
        return bool(self._lacking(space, modality, kinds, places))

    def missing_of_imported(self, space: Space, modality: str, kinds: Iterable[str]) -> int:
        places = [row.place for row in self._t.vectors.values()]
        imported = self._store.sources.known(IMPORTED_SOURCE)
        wanted = set(kinds)
        lacking = [
            id_
            for id_, row in self._t.items.items()
            if row.source == imported
            and row.kind in wanted
            and (space.id, modality, id_) not in places
        ]
        return len(lacking)

    def backfill(
        self,
        vectors: Mapping[tuple[int, bytes], Mapping[Any, ItemVectors]],
        texts: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        if not vectors:
            return
        with self._store.write(vectors=True) as tables:
            for (id_, hash_), fields_ in vectors.items():
                row = tables.items.get(id_)
                if row is None or row.hash != hash_:
                    continue
                if texts is None or [part.text for part in row.texts] == list(texts[id_]):
                    for place, new in fields_.items():
                        tables.put_vectors(id_, place, new)

    def new(self, space: Space, modality: str, after: int = 0) -> Iterator[NewVectors]:
        rows = [
            (id_, row)
            for id_, row in sorted(self._t.vectors.items())
            if id_ > after and (row.space, row.modality) == (space.id, modality)
        ]
        if rows:
            yield NewVectors(
                np.array([id_ for id_, _ in rows], np.int64),
                np.array([row.item for _, row in rows], np.int64),
                np.array([row.vector for _, row in rows], np.float16),
                *(
                    np.array([row.hubs.get(asked, np.nan) for _, row in rows], np.float32)
                    for asked in ("text", "image")
                ),
            )


class Changes(Part):
    def last(self) -> int:
        return self._t.numbers.get("changes", 0)

    def deleted_vectors(self, space: Space, modality: str, after: int) -> tuple[Any, int]:
        found = [
            self._t.deleted_ids[change]
            for change, row in sorted(self._t.deleted.items())
            if change > after and (row.space, row.modality) == (space.id, modality)
        ]
        return np.array(found, np.int64), max(self.last(), after)

    def forget(self, upto: int) -> None:
        with self._store.write() as tables:
            for change in [one for one in tables.deleted if one <= upto]:
                del tables.deleted[change], tables.deleted_ids[change]
            tables.numbers["forgotten"] = upto


class TokenEmbeddings(Part):
    def of(self, space: Space, modality: str, ids: Sequence[int]) -> dict[tuple[int, int], Any]:
        wanted = set(ids)
        return {
            key[2:]: matrix
            for key, matrix in self._t.tokens.items()
            if key[:2] == (space.id, modality) and key[2] in wanted
        }

    def clear(self, space: Space) -> None:
        with self._store.write() as tables:
            for key in [one for one in tables.tokens if one[0] == space.id]:
                del tables.tokens[key]


class Hubs(Part):
    def of(
        self,
        space: Space,
        modality: str,
        query_modality: str,
        ids: Sequence[int] | None = None,
    ) -> Any:
        rows = _ordered(self._t, space, modality, ids)
        return np.array([row.hubs.get(query_modality, np.nan) for row in rows], np.float32)

    def missing(
        self, space: Space, modality: str, query_modality: str, most: int
    ) -> tuple[list[int], Any]:
        rows = [
            (id_, row.vector)
            for id_, row in self._t.vectors.items()
            if (row.space, row.modality) == (space.id, modality) and query_modality not in row.hubs
        ][:most]
        matrix = np.array([vector for _, vector in rows], np.float32).reshape(len(rows), space.dim)
        return [id_ for id_, _ in rows], matrix

    def set(self, query_modality: str, vector_ids: Sequence[int], hubs: Any) -> None:
        with self._store.write(vectors=True) as tables:
            tables.next("epoch")
            for id_, hub in zip(vector_ids, hubs.tolist(), strict=True):
                row = tables.vectors[id_]
                tables.vectors[id_] = replace(row, hubs={**row.hubs, query_modality: hub})


class Banks(Part):
    def get(self, space: Space) -> bytes | None:
        return self._t.banks.get(space.id, ("", None))[1]

    def set(self, space: Space, version: str, bank: bytes) -> None:
        with self._store.write() as tables:
            tables.banks[space.id] = version, bank


class Settings(Part):
    def get(self, key: str) -> str | None:
        return self._t.settings.get(key)

    def set(self, key: str, value: str) -> None:
        with self._store.write() as tables:
            tables.settings[key] = value


class Loader(Part):
    @contextmanager
    def loading(self, total: int | None = None) -> Iterator[Any]:
        del total
        yield self._put

    def next_numbers(self, number: int) -> range:
        with self._store.write() as tables:
            first = tables.numbers.get("unnamed", 0)
            tables.numbers["unnamed"] = first + number
        return range(first, first + number)

    def _put(self, batch: ItemBatch, space: Space | None) -> tuple[int, int]:
        with self._store.write(vectors=True) as tables:
            ids, new = [], 0
            for number, place in enumerate(
                zip(batch.sources, batch.folders, batch.names, strict=True)
            ):
                known = {name: column[number] for name, column in batch.columns.items()}
                id_ = tables.at(*place)
                if id_ is None:
                    id_, new = tables.next("items"), new + 1
                    tables.items[id_] = ItemRow(*place, batch.kind, (0, 0))
                row = tables.items[id_]
                given = {key: value for key, value in known.items() if value is not None}
                stat = given.pop("size", row.stat[0]), given.pop("mtime_ns", row.stat[1])
                kind = given.pop("kind", row.kind)
                side = given.pop("sidecar_size", None), given.pop("sidecar_mtime_ns", None)
                sidecar = row.sidecar if None in side else side
                media = {**row.media, **given}
                changed = replace(row, stat=stat, kind=kind, sidecar=sidecar, media=media)
                tables.items[id_] = changed
                ids.append(id_)
            if batch.texts is not None:
                self._put_texts(tables, ids, batch.texts)
            given_columns = (batch.metadata, batch.facts, batch.tags)
            stored = (tables.metadata, tables.facts, tables.tags)
            for table, columns in zip(stored, given_columns, strict=True):
                if columns is not None:
                    for id_ in ids:
                        table[id_] = {}  # type: ignore[assignment]
                    for number, key, value, *_ in _rows(columns):
                        table[ids[number]][key] = value
            for modality, columns in batch.vectors.items():
                self._put_vectors(tables, ids, space, modality, columns)
            return new, len(ids) - new

    def _put_texts(self, tables: Tables, ids: list[int], columns: list[Any]) -> None:
        texts: dict[int, list[TextPart]] = {id_: [] for id_ in ids}
        for number, _, origin, text, start, end, unit in _rows(columns):
            span = None if unit is None else Span(start, end, unit)
            texts[ids[number]].append(TextPart(text, origin, span))
        for id_, parts in texts.items():
            before = tables.items[id_].texts
            if before and before != tuple(parts):
                tables.delete_vectors(tables.vectors_of(id_, "text"))
            tables.items[id_] = replace(tables.items[id_], texts=tuple(parts))

    def _put_vectors(
        self, tables: Tables, ids: list[int], space: Space | None, modality: str, columns: list[Any]
    ) -> None:
        if space is None:
            return
        place = space.id, modality
        for id_ in {ids[number] for number in columns[0]}:
            here = [v for v in tables.vectors_of(id_) if tables.vectors[v].place[:2] == place]
            tables.delete_vectors(here)
        for number, position, start, end, unit, blob, by_text, by_image in _rows(columns):
            span = None if unit is None else Span(start, end, unit)
            pairs = {"text": by_text, "image": by_image}
            hubs = {asked: hub for asked, hub in pairs.items() if hub is not None}
            vector = np.frombuffer(blob, "<f2")
            row = VectorRow(*place, ids[number], position, span, vector, hubs)
            tables.vectors[tables.next("vectors")] = row


class Transfer(Part):
    """All tables as sorted rows; putting them all, in order, makes the same store."""

    def reading(self) -> AbstractContextManager[None]:
        return self._store.snapshot()

    @contextmanager
    def writing(self) -> Iterator[None]:
        if not self._store.copying.acquire(blocking=False):
            raise IndexBusy("this process is copying to this store")
        try:
            yield
        finally:
            self._store.copying.release()

    def count(self, table: str) -> int:
        return len(self._rows(table))

    def pages(self, table: str, after: Any, rows: int) -> Iterator[Any]:
        left = [r for r in self._rows(table) if after is None or key_of(table, r) > tuple(after)]
        for start in range(0, len(left), rows):
            yield left[start : start + rows]

    def _rows(self, table: str) -> list[tuple[Any, ...]]:
        return sorted(getattr(self, f"_{table}")(), key=lambda row: key_of(table, row))

    def _settings(self) -> Iterable[Any]:
        return [(key, text) for key, text in self._t.settings.items() if not is_own(key)]

    def _sources(self) -> Iterable[Any]:
        return [(id_, *source) for id_, source in self._t.sources.items()]

    def _folder_devices(self) -> Iterable[Any]:
        return [(*place, device) for place, device in self._t.folder_devices.items()]

    def _index_roots(self) -> Iterable[Any]:
        for one in self._t.roots.values():
            exclude = json.dumps(list(one.exclude))
            yield one.path, int(one.folder), exclude, int(one.include_hidden)

    def _spaces(self) -> Iterable[Any]:
        for one in self._t.spaces.values():
            modalities = (one.modalities, one.serves, one.backfills)
            texts = (" ".join(sorted(names)) for names in modalities)
            yield one.id, one.name, one.fingerprint, one.dim, *texts

    def _query_banks(self) -> Iterable[Any]:
        return [(space, *bank) for space, bank in self._t.banks.items()]

    def _items(self) -> Iterable[Any]:
        for id_, row in self._t.items.items():
            yield (
                *(id_, row.source, row.folder, row.name, row.kind, *row.stat),
                *(*(row.sidecar or (None, None)), row.hash),
                *(row.media.get(key) for key in MEDIA_COLUMNS),
                *(row.media.get("readings") or "", row.ctime_ns),
            )

    def _texts(self) -> Iterable[Any]:
        for id_, row in self._t.items.items():
            for position, part in enumerate(row.texts):
                yield id_, position, part.origin, part.text, *_span(part.span)

    def _metadata(self) -> Iterable[Any]:
        for id_ in self._t.items:
            own, facts = self._t.metadata.get(id_, {}), self._t.facts.get(id_, {})
            for key, text in (facts | own).items():
                origin, shadowed = ("user", facts.get(key)) if key in own else ("file", None)
                yield id_, key, text, number_in(text), origin, shadowed

    def _tags(self) -> Iterable[Any]:
        return [(id_, tag, s) for id_, own in self._t.tags.items() for tag, s in own.items()]

    def _failures(self) -> Iterable[Any]:
        for one, seen in self._t.failures.values():
            stat = one.stat or (None, None)
            place = one.source_id, one.folder, one.name
            yield *place, one.reason, seen, *stat, int(one.retry), one.ctime_ns

    def _vectors(self) -> Iterable[Any]:
        for id_, row in self._t.vectors.items():
            hubs = (row.hubs.get("text"), row.hubs.get("image"))
            place = row.space, row.modality, row.item, row.position
            yield id_, *place, *_span(row.span), row.vector.astype("<f2").tobytes(), *hubs

    def _token_embeddings(self) -> Iterable[Any]:
        return [(*key, pack(matrix)) for key, matrix in self._t.tokens.items()]

    def _absent_modalities(self) -> Iterable[Any]:
        return list(self._t.absent)

    def put(self, table: str, page: Any, progress: str) -> None:
        with self._store.write() as tables:
            for row in page:
                self._put(tables, table, row)
            tables.settings[COPYING] = progress

    def _put(self, tables: Tables, table: str, row: Any) -> None:  # noqa: PLR0912, PLR0915 - a case each
        one: Any = SimpleNamespace(**dict(zip(COLUMNS[table], row, strict=True)))
        match table:
            case "settings":
                tables.settings[one.key] = one.value
            case "sources":
                tables.sources[one.id] = one.path, one.device
            case "folder_devices":
                tables.folder_devices[one.source_id, one.folder] = one.device
            case "index_roots":
                excluded = tuple(json.loads(one.exclude))
                root = IndexRoot(one.path, bool(one.folder), excluded, bool(one.include_hidden))
                tables.roots[one.path] = root
            case "spaces":
                modalities = (one.modalities, one.serves, one.backfills)
                sets: Any = [frozenset(names.split()) for names in modalities]
                tables.spaces[one.id] = Space(one.id, one.name, one.fingerprint, one.dim, *sets)
            case "query_banks":
                tables.banks[one.space_id] = one.version, one.bank
            case "items":
                media = {key: getattr(one, key) for key in ("readings", *MEDIA_COLUMNS)}
                sidecar = None if one.sidecar_size is None else row[7:9]
                place = one.source_id, one.folder, one.name, one.kind, (one.size, one.mtime_ns)
                made = ItemRow(*place, one.hash, sidecar, media, ctime_ns=one.ctime_ns)
                tables.items[one.id] = made
            case "texts":
                item = tables.items[one.item_id]
                part = TextPart(one.text, one.origin, _span_of(one))
                parts = (*item.texts[: one.position], part)
                tables.items[one.item_id] = replace(item, texts=parts)
            case "metadata":
                mine, other = tables.metadata, tables.facts
                if one.origin == "file":
                    mine, other = other, mine
                mine[one.item_id] = mine.get(one.item_id, {}) | {one.key: one.text}
                if one.shadowed is not None:
                    facts = other.get(one.item_id, {}) | {one.key: one.shadowed}
                    other[one.item_id] = facts
            case "tags":
                tables.tags[one.item_id] = tables.tags.get(one.item_id, {}) | {one.tag: one.score}
            case "failures":
                stat = None if one.size is None else (one.size, one.mtime_ns)
                place = row[:3]
                record = FailureRecord(*place, one.reason, stat, bool(one.retry), one.ctime_ns)
                tables.failures[place] = record, one.seen_at
            case "vectors":
                pairs = {"text": one.hub_text, "image": one.hub_image}
                hubs = {asked: hub for asked, hub in pairs.items() if hub is not None}
                vector = np.frombuffer(one.vector, "<f2")
                tables.vectors[one.id] = VectorRow(*row[1:5], _span_of(one), vector, hubs)
            case "token_embeddings":
                tables.tokens[row[:4]] = unpack(one.embeddings)
            case "absent_modalities":
                tables.absent[row] = True

    def clear(self) -> None:
        with self._store.write() as tables:
            kept = {key: text for key, text in tables.settings.items() if is_own(key)}
            numbers = tables.numbers
            for one in fields(tables):
                setattr(tables, one.name, {})
            tables.settings, tables.numbers = kept, numbers

    def finish(self) -> None:
        with self._store.write(vectors=True) as tables:
            tables.next("epoch")
            for name in ("sources", "spaces", "items", "vectors"):
                tables.numbers[name] = max(getattr(tables, name), default=0)


def _span_of(row: Any) -> Span | None:
    return None if row.unit is None else Span(row.start, row.end, row.unit)


def _rows(columns: list[Any]) -> Iterator[tuple[Any, ...]]:
    number = len(columns[0])
    return zip(*(c if isinstance(c, list) else [c] * number for c in columns), strict=True)


class BruteForce:
    """Every vector compared with the query."""

    def __init__(self, store: MemoryStore, space: Space, modality: str) -> None:
        self._ids, rows, _ = store.vectors.of(space, modality)
        hubs = [store.hubs.of(space, modality, asked) for asked in ("text", "image")]
        self._rows = augmented(rows, *hubs).astype(np.float16).astype(np.float32)

    def __len__(self) -> int:
        return len(set(self._ids.tolist()))

    def items(self) -> IdSet:
        return IdSet.of(self._ids)

    def search(self, vector: Any, k: int, allowed: IdSet | None = None) -> list[tuple[int, float]]:
        best: dict[int, float] = {}
        scores = (self._rows.astype(np.float64) @ np.asarray(vector, np.float64)).round(6)
        inside = None if allowed is None else set(allowed.ids.tolist())
        for id_, score in zip(self._ids.tolist(), scores.tolist(), strict=True):
            if inside is None or id_ in inside:
                best[id_] = max(best.get(id_, -math.inf), score)
        return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:k]

    def sample(self, n: int) -> Any:
        return self._rows[:n]

    def mean(self) -> Any:
        return self._rows.mean(axis=0)

    def moments(self, vector: Any) -> tuple[int, float, float]:
        scores = (self._rows @ np.asarray(vector, np.float32)).astype(float)
        return len(scores), float(scores.mean()), float((scores * scores).mean())

    def warm_up(self) -> None:
        """Nothing is cold."""


class BruteForceIndexes:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def index(self, space: Space, modality: Any) -> BruteForce:
        return BruteForce(self._store, space, modality)

    def has(self, space: Space, modality: Any) -> bool:
        del space, modality
        return True

    def rebuild(self, serving: Serving, queries: Any, *, soon_again: bool = False) -> None:
        """Every search compares all there is."""

    def configure(self, kind: str | None, recall: float | None) -> None:
        del recall
        if kind not in (None, AUTO, EXACT):
            raise InvalidOption(f"a store in memory has no index of kind {kind!r}, only {EXACT!r}")

    def describe(self, serving: Serving) -> list[dict[str, Any]]:
        del serving
        return []

    def warnings(self, serving: Serving) -> list[str]:
        del serving
        return []

    def drop(self, space: Space) -> None:
        """There is nothing to delete."""

    def clear(self) -> None:
        """There is nothing to release."""


class MemoryStore:
    """Everything in dicts; one writer at a time."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._moment = 0
        self._lock = threading.RLock()
        self._thread = threading.local()
        self.items = Items(self)
        self.files = Files(self)
        self.sources = Sources(self)
        self.index_roots = IndexRoots(self)
        self.failures = Failures(self)
        self.metadata = Metadata(self)
        self.tags = Tags(self)
        self.words = Words(self)
        self.filters = Filters(self)
        self.spaces = Spaces(self)
        self.vectors = Vectors(self)
        self.changes = Changes(self)
        self.token_embeddings = TokenEmbeddings(self)
        self.hubs = Hubs(self)
        self.query_banks = Banks(self)
        self.settings = Settings(self)
        self.loader = Loader(self)
        self.transfer = Transfer(self)
        self.copying = threading.Lock()
        self.vector_indexes = BruteForceIndexes(self)
        self.writer_lock = None

    @property
    def tables(self) -> Tables:
        seen: Tables | None = getattr(self._thread, "seen", None)
        return self._tables if seen is None else seen

    def __len__(self) -> int:
        return len(self.items)

    @contextmanager
    def write(self, *, vectors: bool = False) -> Iterator[Tables]:
        if self.in_snapshot:
            raise RuntimeError("nothing may be written within a snapshot")
        with self._lock:
            tables = self._tables.copy()
            yield tables
            if vectors:
                tables.next("revision")
            self._tables, self._moment = tables, self._moment + 1

    def put(
        self, records: Sequence[ItemRecord], failures: Sequence[FailureRecord] = ()
    ) -> dict[PathKey, bytes]:
        changes = any(record.changes_vectors for record in records)
        with self.write(vectors=changes) as tables:
            later = [r for r in records if r.id is None and r.duplicate_of is None]
            before: dict[PathKey, bytes] = {}
            for record in [*(r for r in records if r not in later), *later]:
                there = tables.at(*record.path_key)
                if record.id is None and there is not None:
                    before[record.path_key] = tables.items[there].hash
                elif not changes and there not in (None, record.id):
                    tables.next("revision")
                _put(tables, record)
            _fail(tables, failures)
        return before

    def state(self) -> StoreState:
        numbers = self.tables.numbers
        epoch, forgotten = str(numbers.get("epoch", 0)), numbers.get("forgotten", 0)
        return StoreState(f"memory {id(self)}", numbers.get("revision", 0), epoch, forgotten)

    def moment(self) -> int:
        return self._moment

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        if self.in_snapshot:
            yield
            return
        self._thread.seen = self._tables
        try:
            yield
        finally:
            self._thread.seen = None

    @property
    def in_snapshot(self) -> bool:
        return getattr(self._thread, "seen", None) is not None

    def size(self) -> None:
        """Nobody knows how many bytes dicts take."""

    def check_open(self) -> None:
        """Nothing can replace it."""

    def close(self) -> None:
        """Nothing is open."""


def _put(tables: Tables, record: ItemRecord) -> None:  # noqa: PLR0912 - a case each
    row = ItemRow(
        record.source_id,
        record.folder,
        record.name,
        record.kind,
        record.stat,
        record.hash,
        record.sidecar,
        ctime_ns=record.ctime_ns,
    )
    original = None if record.duplicate_of is None else tables.items.get(record.duplicate_of)
    if record.duplicate_of is not None and (original is None or original.hash != record.hash):
        raise DuplicateGone(record.duplicate_of)
    there = tables.at(*record.path_key)
    if record.id is not None and there not in (None, record.id):
        tables.delete_item(there)  # type: ignore[arg-type]
    id_ = record.id if record.id is not None else there
    before = tables.items.get(id_) if id_ is not None else None
    id_ = tables.next("items") if before is None or id_ is None else id_
    media = dict(original.media) if original else dict(before.media) if before else {}
    texts = original.texts if original else before.texts if before else ()
    row = replace(row, media=media | (record.media or {}), texts=texts)
    if record.texts is not None:
        row = replace(row, texts=tuple(record.texts))
    tables.items[id_] = row
    if record.facts is not None:
        tables.facts[id_] = {key: fact_text(value) for key, value in record.facts.items()}
    elif record.duplicate_of is not None:
        tables.facts[id_] = tables.facts.get(record.duplicate_of, {})
    for name in (record.name, record.sidecar_name, *record.companions):
        tables.failures.pop((record.source_id, record.folder, name or ""), None)
    if record.duplicate_of != id_:
        tables.delete_vectors(tables.vectors_of(id_))
        tables.absent = {key: True for key in tables.absent if key[2] != id_}
    if record.duplicate_of not in (None, id_):
        for vector_id in tables.vectors_of(record.duplicate_of):
            copied = tables.vectors[vector_id]
            tables.vectors[tables.next("vectors")] = replace(copied, item=id_)
        for key, matrix in list(tables.tokens.items()):
            if key[2] == record.duplicate_of:
                tables.tokens[key[0], key[1], id_, key[3]] = matrix
        for space, modality, item in list(tables.absent):
            if item == record.duplicate_of:
                tables.absent[space, modality, id_] = True
    if record.texts is not None:
        tables.delete_vectors(tables.vectors_of(id_, "text"))
    for place, new in record.vectors.items():
        tables.put_vectors(id_, place, new)
