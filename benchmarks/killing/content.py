"""The content of an index apart from ids, so that indexes made in different ways can be compared.

It is read by sqlite3 alone, not by the code under test.
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
from killing.files import Site
from mmsearch import Query
from mmsearch.errors import MMSearchError

UNINDEXED_WORDS = """
    SELECT item_id FROM changes, followers WHERE what = 'words' AND seq > words_change
    UNION SELECT items.id FROM items, followers WHERE items.id > words_item
"""
COUNTERS = {"catalog_id", "revision", "columns upto", "hubs epoch", "changes forgotten"}
"""Settings that count events, and say nothing about the content."""

SCORE_TOLERANCE = 5e-4
"""The background of scores depends slightly on the segment."""

HUB_TOLERANCE = 1e-4
"""Hubs are means over other pictures, which depend on the order in which these were stored."""

ORPHAN = "orphan"
"""The path for rows whose item does not exist."""

Key = tuple[Any, ...]


@dataclass
class Content:
    """The content of one catalog.

    Attributes:
        items: The rows of an item, by path and part: "row", "texts", "vectors toy image", …
        index: What belongs to no single item: settings, spaces, failures, index roots, words.
        hubs: By path, space, modality and position.
        repeated: Paths of more than one item.
    """

    items: dict[tuple[str, str], Any] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=dict)
    hubs: dict[Key, tuple[float | None, ...]] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    def paths(self) -> set[str]:
        """The paths of the items."""
        return {path for path, part in self.items if part == "row"}


def content_of(catalog: Path) -> Content:
    """The content of a catalog at this moment, even while it is written."""
    uri = f"file:{catalog}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=20, isolation_level=None)) as driver:
        driver.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        driver.execute("BEGIN")
        return _read(driver)


def _read(driver: sqlite3.Connection) -> Content:
    content = Content()
    sources = dict(driver.execute("SELECT id, path FROM sources"))
    spaces = {row[0]: row[1] for row in driver.execute("SELECT id, name FROM spaces")}
    paths: dict[int, str] = {}
    for id_, source, folder, name, *row in driver.execute(
        "SELECT id, source_id, folder, name, kind, size, mtime_ns, sidecar_size, "
        "sidecar_mtime_ns, hash, width, height, taken_at, seconds, pages, readings FROM items"
    ):
        path = paths[id_] = os.path.join(sources[source], folder, name)
        if (path, "row") in content.items:
            content.repeated.append(path)
        content.items[path, "row"] = tuple(row)
    _read_items(driver, content, paths, spaces)
    _read_index(driver, content, sources, spaces, paths)
    return content


def _read_items(
    driver: sqlite3.Connection,
    content: Content,
    paths: Mapping[int, str],
    spaces: Mapping[int, str],
) -> None:
    def add(item_id: int, part: str, row: Key) -> None:
        content.items.setdefault((paths.get(item_id, ORPHAN), part), []).append(row)

    for table, columns in (
        ("texts", "position, origin, text, start, end, unit"),
        ("metadata", "key, text, number"),
        ("tags", "tag, round(score, 6)"),
    ):
        for item_id, *row in driver.execute(
            f"SELECT item_id, {columns} FROM {table} ORDER BY 1, 2"
        ):
            add(item_id, table, tuple(row))
    for item_id, space, modality, position, start, end, unit, vector, *hubs in driver.execute(
        "SELECT item_id, space_id, modality, position, start, end, unit, vector, hub_text, "
        "hub_image FROM vectors ORDER BY 1, 2, 3, 4"
    ):
        name = spaces[space]
        add(item_id, f"vectors {name} {modality}", (position, start, end, unit, vector))
        content.hubs[paths.get(item_id, ORPHAN), name, modality, position] = tuple(hubs)
    absent = "SELECT item_id, space_id, modality FROM absent_modalities"
    for item_id, space, modality in driver.execute(absent):
        add(item_id, f"absent {spaces[space]}", (modality,))


def _read_index(
    driver: sqlite3.Connection,
    content: Content,
    sources: Mapping[int, str],
    spaces: Mapping[int, str],
    paths: Mapping[int, str],
) -> None:
    def rows(sql: str) -> list[Any]:
        return driver.execute(sql).fetchall()

    content.index = {
        "settings": {k: v for k, v in rows("SELECT key, value FROM settings") if k not in COUNTERS},
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
            (paths.get(row[0], ORPHAN), *row[1:])
            for row in rows("SELECT rowid, texts, names, facts FROM words")
        ),
        "unindexed words": len(rows(UNINDEXED_WORDS)),
    }


# ---------------------------------------------------------------------- comparison


def differences(actual: Content, expected: Content) -> list[str]:
    """A line for each difference of two contents."""
    found = [f"repeated: {path}" for path in actual.repeated]
    found += [
        f"{name}: {_short(actual.index[name], wanted)}"
        for name, wanted in expected.index.items()
        if actual.index[name] != wanted
    ]
    for key in sorted(actual.items.keys() | expected.items.keys()):
        one, other = actual.items.get(key), expected.items.get(key)
        if one != other:
            found.append(f"{key}: {_short(one, other)}")
    if actual.hubs.keys() == expected.hubs.keys():
        found += [
            f"hubs of {key}"
            for key in actual.hubs
            if not _close(actual.hubs[key], expected.hubs[key])
        ]
    return found


def _close(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    return all(
        a is b or (a is not None and b is not None and math.isclose(a, b, abs_tol=HUB_TOLERANCE))
        for a, b in zip(one, other, strict=True)
    )


def _short(actual: Any, expected: Any) -> str:
    if isinstance(actual, list) and isinstance(expected, list):
        extra = [row for row in actual if row not in expected]
        missing = [row for row in expected if row not in actual]
        return f"unexpected {str(extra)[:300]}, missing {str(missing)[:300]}"
    return f"{str(actual)[:300]}, not {str(expected)[:300]}"


def half_done(content: Content, seen: Content | None, before: Content, final: Content) -> list[str]:
    """What is neither as before nor as in the end, and what was committed and is lost.

    Args:
        content: After the kill.
        seen: What a reader saw last before the kill, if one was reading.
        before: When the killed process began.
        final: What an undisturbed process leaves.
    """
    found = [f"repeated: {path}" for path in content.repeated]
    for path in sorted(content.paths() | before.paths() | final.paths()):
        now, was, will = (_transactions(each, path) for each in (content, before, final))
        for part, value in now.items():
            if value not in (was[part], will[part]):
                found.append(f"{path}: its {part} are neither as before nor as in the end")
            if seen is None:
                continue
            was_seen = _transactions(seen, path)[part]
            if was_seen == will[part] != was[part] and value != was_seen:
                found.append(f"{path}: its {part} were committed, and are lost")
    return found


def _transactions(content: Content, path: str) -> dict[str, Any]:
    """What is stored of one path; what one transaction writes is one value."""
    get = content.items.get
    together = ("row", "texts", "vectors toy image", "vectors toy text")
    alone = ("metadata", "tags", "vectors second image", "vectors second text")
    return {
        "row, texts and vectors": [get((path, part)) for part in together],
        **{part: get((path, part)) for part in alone},
    }


# ---------------------------------------------------------------------- queries

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
    """All hits of `QUERIES`, in order of path."""
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


def answer_differences(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """A line for each query that is not answered as expected."""
    return [
        f"query {name}: {_short(actual.get(name), expected[name])}"
        for name in expected
        if not _same_hits(actual.get(name), expected[name])
    ]


def _same_hits(actual: Any, expected: Any) -> bool:
    if isinstance(actual, str) or isinstance(expected, str) or actual is None:
        return bool(actual == expected)
    return len(actual) == len(expected) and all(
        one[:-1] == other[:-1] and math.isclose(one[-1], other[-1], abs_tol=SCORE_TOLERANCE)
        for one, other in zip(actual, expected, strict=True)
    )


def answers_of(site: Site) -> dict[str, Any]:
    """The answers of the index, opened for this."""
    with mmsearch.open(site.index) as library:
        return answers(library)
