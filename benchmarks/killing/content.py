"""What an index holds, ids aside: two that were made by other ways can be compared.

It is read by the driver alone, not by what it is to judge.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmsearch
from killing.world import Site
from mmsearch import Query
from mmsearch.errors import MMSearchError

DUE = """
    SELECT item_id FROM changes, followers WHERE what = 'words' AND seq > words_change
    UNION SELECT items.id FROM items, followers WHERE items.id > words_item
"""
PASSING = {"catalog_id", "revision", "columns upto", "hubs epoch", "changes forgotten"}
"""Settings that count what happened, and say nothing of what is held."""

SCORES = 5e-4
"""How far scores may lie apart: the background depends a little on the segment at hand."""

HUBS = 1e-4
"""How far hubs may lie apart: they are means over other pictures, in whatever order these came."""

NOWHERE = "nowhere"
"""The path of an item that is not there, though something is stored of it."""

Key = tuple[Any, ...]


@dataclass
class Content:
    """What one catalog holds.

    Attributes:
        items: By path and part ("row", "texts", "vectors toy", …), what is stored.
        whole: Of an index: settings, spaces, failures, what was asked for, words.
        hubs: By path, space, modality and position.
        doubled: Paths that more than one item has.
    """

    items: dict[tuple[str, str], Any] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    hubs: dict[Key, tuple[float | None, ...]] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)

    def paths(self) -> set[str]:
        """Where the items are."""
        return {path for path, part in self.items if part == "row"}


def content_of(catalog: Path) -> Content:
    """What a catalog holds at this moment, whoever writes."""
    uri = f"file:{catalog}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=20, isolation_level=None)) as driver:
        driver.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        driver.execute("BEGIN")
        return _read(driver)


def _read(driver: sqlite3.Connection) -> Content:
    found = Content()
    sources = dict(driver.execute("SELECT id, path FROM sources"))
    spaces = {row[0]: row[1] for row in driver.execute("SELECT id, name FROM spaces")}
    paths: dict[int, str] = {}
    for id_, source, folder, name, *row in driver.execute(
        "SELECT id, source_id, folder, name, kind, size, mtime_ns, sidecar_size, "
        "sidecar_mtime_ns, hash, width, height, taken_at, seconds, pages, readings FROM items"
    ):
        path = paths[id_] = os.path.join(sources[source], folder, name)
        if (path, "row") in found.items:
            found.doubled.append(path)
        found.items[path, "row"] = tuple(row)
    _parts(driver, found, paths, spaces)
    _whole(driver, found, sources, spaces, paths)
    return found


def _parts(
    driver: sqlite3.Connection, found: Content, paths: Mapping[int, str], spaces: Mapping[int, str]
) -> None:
    def file(item_id: int, part: str, row: Key) -> None:
        found.items.setdefault((paths.get(item_id, NOWHERE), part), []).append(row)

    for table, columns in (
        ("texts", "position, origin, text, start, end, unit"),
        ("metadata", "key, text, number"),
        ("tags", "tag, round(score, 6)"),
    ):
        for item_id, *row in driver.execute(
            f"SELECT item_id, {columns} FROM {table} ORDER BY 1, 2"
        ):
            file(item_id, table, tuple(row))
    for item_id, space, modality, position, start, end, unit, vector, *hubs in driver.execute(
        "SELECT item_id, space_id, modality, position, start, end, unit, vector, hub_text, "
        "hub_image FROM vectors ORDER BY 1, 2, 3, 4"
    ):
        name = spaces[space]
        file(item_id, f"vectors {name} {modality}", (position, start, end, unit, vector))
        found.hubs[paths.get(item_id, NOWHERE), name, modality, position] = tuple(hubs)
    absent = "SELECT item_id, space_id, modality FROM absent_modalities"
    for item_id, space, modality in driver.execute(absent):
        file(item_id, f"absent {spaces[space]}", (modality,))


def _whole(
    driver: sqlite3.Connection,
    found: Content,
    sources: Mapping[int, str],
    spaces: Mapping[int, str],
    paths: Mapping[int, str],
) -> None:
    def rows(sql: str) -> list[Any]:
        return driver.execute(sql).fetchall()

    found.whole = {
        "settings": {k: v for k, v in rows("SELECT key, value FROM settings") if k not in PASSING},
        "sources": sorted(sources.values()),
        "spaces": sorted(
            rows("SELECT name, fingerprint, dim, modalities, serves, backfills FROM spaces")
        ),
        "index roots": sorted(
            rows("SELECT path, folder, exclude, include_hidden FROM index_roots")
        ),
        "failures": sorted(
            (os.path.join(sources[source], folder, name), *map(str, row))
            for source, folder, name, *row in rows(
                "SELECT source_id, folder, name, reason, size, mtime_ns, retry FROM failures"
            )
        ),
        "banks": sorted((spaces[row[0]], row[1]) for row in rows("SELECT * FROM query_banks")),
        "words": sorted(
            (paths.get(row[0], NOWHERE), *row[1:])
            for row in rows("SELECT rowid, texts, names, facts FROM words")
        ),
        "words due": len(rows(DUE)),
    }


# ---------------------------------------------------------------------- compared


def differences(is_: Content, should_be: Content) -> list[str]:
    """In what two contents differ, in words."""
    told = [f"doubled: {path}" for path in is_.doubled]
    told += [
        f"{name}: {_short(is_.whole[name], wanted)}"
        for name, wanted in should_be.whole.items()
        if is_.whole[name] != wanted
    ]
    for key in sorted(is_.items.keys() | should_be.items.keys()):
        now, wanted = is_.items.get(key), should_be.items.get(key)
        if now != wanted:
            told.append(f"{key}: {_short(now, wanted)}")
    if is_.hubs.keys() == should_be.hubs.keys():
        told += [
            f"hubs of {key}" for key in is_.hubs if not _near(is_.hubs[key], should_be.hubs[key])
        ]
    return told


def _near(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    return all(
        a is b or (a is not None and b is not None and math.isclose(a, b, abs_tol=HUBS))
        for a, b in zip(one, other, strict=True)
    )


def _short(now: Any, wanted: Any) -> str:
    if isinstance(now, list) and isinstance(wanted, list):
        more = [row for row in now if row not in wanted]
        less = [row for row in wanted if row not in now]
        return f"too much {str(more)[:300]}, lacking {str(less)[:300]}"
    return f"{str(now)[:300]}, not {str(wanted)[:300]}"


def halves(now: Content, seen: Content | None, before: Content, final: Content) -> list[str]:
    """What is neither as it was nor as it is to be, or was stored and is not there any more.

    Args:
        now: After the kill.
        seen: What a reader saw last before it, if one was reading.
        before: What was stored when the killed process began.
        final: What an undisturbed process leaves.
    """
    told = [f"doubled: {path}" for path in now.doubled]
    for path in sorted(now.paths() | before.paths() | final.paths()):
        is_, was, will = (_joint(one, path) for one in (now, before, final))
        for part, value in is_.items():
            if value not in (was[part], will[part]):
                told.append(f"{path}: its {part} are neither as before nor as they are to be")
            if seen is None:
                continue
            was_seen = _joint(seen, path)[part]
            if was_seen == will[part] != was[part] and value != was_seen:
                told.append(f"{path}: its {part} were seen stored, and are not any more")
    return told


def _joint(content: Content, path: str) -> dict[str, Any]:
    """What is stored of one path: together, what is stored together."""
    get = content.items.get
    together = ("row", "texts", "vectors toy image", "vectors toy text")
    alone = ("metadata", "tags", "vectors second image", "vectors second text")
    return {
        "row, texts and vectors": [get((path, part)) for part in together],
        **{part: get((path, part)) for part in alone},
    }


# ---------------------------------------------------------------------- asked

QUERIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("red", {"target": "image"}),
    ("grey", {"target": "image", "hubness": False}),
    ("a green meadow", {}),
    ("violin", {"lexical": True}),
    ("part3", {}),
    ("lantern house", {}),
    ("blue", {"where": {"rating": {"$gte": 2}}}),
    ("grey", {"where": {"path": {"$glob": "*deep*"}}}),
    ("blue", {"where": {"tag": "red"}}),
)


def answers(library: mmsearch.Collection) -> dict[str, Any]:
    """What an index answers to some queries, in full, in order of path."""
    found: dict[str, Any] = {}
    for query, settings in QUERIES:
        try:
            hits = library.search(query, k=1000, **settings)
        except MMSearchError as error:
            found[f"{query} {settings}"] = f"{type(error).__name__}: {error}"
            continue
        found[f"{query} {settings}"] = sorted((hit.path, str(hit.span), hit.score) for hit in hits)
    if len(library):
        example = min(item.path for item in library.items if item.modality == "image")
        hits = library.search(Query.image(example), k=1000) if os.path.exists(example) else []
        found["example"] = sorted((hit.path, str(hit.span), hit.score) for hit in hits)
    return found


def other_answers(is_: Mapping[str, Any], should_be: Mapping[str, Any]) -> list[str]:
    """Queries that are answered otherwise than they should be."""
    return [
        f"query {name}: {_short(is_.get(name), should_be[name])}"
        for name in should_be
        if not _alike(is_.get(name), should_be[name])
    ]


def _alike(is_: Any, should_be: Any) -> bool:
    if isinstance(is_, str) or isinstance(should_be, str) or is_ is None:
        return bool(is_ == should_be)
    return len(is_) == len(should_be) and all(
        one[:-1] == other[:-1] and math.isclose(one[-1], other[-1], abs_tol=SCORES)
        for one, other in zip(is_, should_be, strict=True)
    )


def asked_of(site: Site) -> dict[str, Any]:
    """The answers of an index that is opened for it."""
    with mmsearch.open(site.index) as library:
        return answers(library)
