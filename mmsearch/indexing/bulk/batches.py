"""Rows as items: where each is filed, what is written of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidOption
from mmsearch.indexing.bulk.matrix import unit_rows
from mmsearch.indexing.bulk.meaning import (
    CAPTIONS,
    KNOWN,
    META,
    PATH_BYTES,
    PATHS,
    PLACE,
    TAGS,
    TEXTS,
    Columns,
    Own,
    captions_of,
    clean,
    is_mapping,
    known_values,
    named,
    own_mappings,
    own_values,
    pairs,
)
from mmsearch.indexing.bulk.stream import Chunk, paths_in
from mmsearch.media.kinds import kind_of
from mmsearch.storage import ItemBatch
from mmsearch.storage.records import RowColumns, split_path
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Spot = tuple[int, str, str]
"""(source id, folder, name)"""

Hubs = Callable[[Modality, Any], "Mapping[Modality, NDArray[np.float32]]"]
"""Gives the hubs of rows (n, dim) float16 of a facet, by what is asked with."""

Numbers = Callable[[int], Sequence[int]]
"""Gives numbers that name items without a name."""


@dataclass(frozen=True, slots=True)
class Filing:
    """Where items are filed.

    Attributes:
        elsewhere: The id of the source of what lies in no folder we know.
        numbers: Names what has no name.
        root: (source id, its path, a folder in it): files that are there are filed there.
    """

    elsewhere: int
    numbers: Numbers
    root: tuple[int, str, str] | None = None

    def spots(self, paths: Sequence[str]) -> tuple[list[Spot], dict[str, list[Any]]]:
        """Where each path is filed, and what the disk says of those that are there."""
        if nameless := paths.count(""):
            numbers = iter(self.numbers(nameless))
            paths = [path or str(next(numbers)) for path in paths]
        if self.root is None:
            here = self.elsewhere
            return [(here, *split_path(path)) for path in paths], {}
        found = [self._on_disk(path, *self.root) for path in paths]
        facts = zip(*(facts for _, facts in found), strict=True)
        return [spot for spot, _ in found], dict(zip(_OF_FILES, map(list, facts), strict=False))

    def _on_disk(
        self, path: str, source_id: int, root: str, below: str
    ) -> tuple[Spot, tuple[Any, ...]]:
        place = os.path.normpath(os.path.join(root, below, path))
        inside = root.rstrip(os.sep) + os.sep
        if place.startswith(inside) and os.path.isfile(place) and (kind := kind_of(place)):
            stat = os.stat(place)
            beside = _stat_of(f"{place.rpartition('.')[0]}.txt") if kind != "text" else None
            folder, name = os.path.split(place[len(inside) :])
            sidecar = beside or (None, None)
            return (source_id, folder, name), (kind, stat.st_size, stat.st_mtime_ns, *sidecar)
        return (self.elsewhere, *split_path(path)), (None,) * len(_OF_FILES)


_OF_FILES = ("kind", "size", "mtime_ns", "sidecar_size", "sidecar_mtime_ns")


def _stat_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def facets_of(chunk: Chunk, facet: Modality) -> set[Modality]:
    """The facets that rows have vectors of.

    Args:
        chunk: Rows.
        facet: Of which facet they are, if they do not say so themselves.
    """
    if PLACE in chunk.columns:
        return {place["facet"] for place in chunk.columns[PLACE] if place is not None}
    return {facet} if chunk.text_vectors is None else {facet, "text"}


def batch_of(chunk: Chunk, filing: Filing, facet: Modality, dim: int, hubs: Hubs) -> ItemBatch:
    """What is to be written of a chunk; of rows of one path the last counts, unless they say which
    of its vectors each is.

    Args:
        chunk: Rows.
        filing: Where they go.
        facet: Of which facet the vectors are, if the rows do not say so themselves.
        dim: Dimensions of the space.
        hubs: Tells the hubs of vectors.

    Raises:
        InvalidOption: a vector has no direction, or another number of dimensions.
    """
    spots, on_disk = filing.spots(paths_in(chunk.columns, chunk.count))
    apart = PLACE in chunk.columns
    places, numbers, heads = _items(spots, first_speaks=apart)
    columns = chunk.columns
    if len(heads) < chunk.count:
        columns = {name: [values[row] for row in heads] for name, values in columns.items()}
        on_disk = {name: [values[row] for row in heads] for name, values in on_disk.items()}
    sources, folders, names = (list(part) for part in zip(*places, strict=True))
    batch = ItemBatch(sources, folders, names, kind=facet)
    _describe(batch, columns, "passage" if facet == "text" else "caption")
    for name, values in on_disk.items():
        told = batch.columns.get(name) or [None] * len(values)
        batch.columns[name] = [
            old if new is None else new for new, old in zip(values, told, strict=True)
        ]
    if apart:
        _add_apart(batch, chunk, numbers, dim, hubs)
    for kind, rows in ((facet, None if apart else chunk.vectors), ("text", chunk.text_vectors)):
        if rows is not None:
            kept = unit_rows(rows, dim, chunk.first)
            kept = kept[list(heads)] if len(heads) < len(kept) else kept
            spans: RowColumns = [0, None, None, None]
            batch.vectors[kind] = [list(range(len(heads))), *spans, *_kept(kept, kind, hubs)]
    return batch


def _items(
    spots: list[Spot], *, first_speaks: bool
) -> tuple[Sequence[Spot], Sequence[int], Sequence[int]]:
    """(where each item is filed, the item of each row, the row that speaks for each item)."""
    every = range(len(spots))
    item_of = {spot: number for number, spot in enumerate(dict.fromkeys(spots))}
    if len(item_of) == len(spots):
        return spots, every, every
    numbers = [item_of[spot] for spot in spots]
    rows = reversed(every) if first_speaks else every
    speaks = {numbers[row]: row for row in rows}
    return list(item_of), numbers, [speaks[number] for number in range(len(item_of))]


# ---------------------------------------------------------------------- what is known of items


def _describe(batch: ItemBatch, columns: Columns, origin: str) -> None:
    """Fill in what the columns say of the items, a row each."""
    used = {PLACE, PATH_BYTES, named(columns, PATHS)}
    texts = columns.get(TEXTS)
    if texts is not None and _are_texts(texts):
        used.add(TEXTS)
        batch.texts = _texts(texts)
    elif (key := named(columns, CAPTIONS)) is not None:
        used.add(key)
        items, positions, said = captions_of(columns[key])
        batch.texts = [items, positions, origin, said, None, None, None]
    own: list[Own] = []
    several = len(set(map(clean, columns))) < len(columns)  # a key may come twice
    for name, values in columns.items():
        if name in used:
            continue
        if name == TAGS and is_mapping(values):
            batch.tags = _tags(values)
            continue
        rest = values
        if name.lower() in KNOWN:
            column, known, rest = known_values(name, values)
            batch.columns[column] = known
        is_meta = name == META and is_mapping(rest)
        several = several or is_meta
        own.append(own_mappings(rest) if is_meta else own_values(name, rest))
    if own:
        lists = [list(chain(*part)) for part in zip(*own, strict=True)]
        batch.metadata = _each_key_once(lists) if several else lists


def _are_texts(values: Sequence[Any]) -> bool:
    parts = [part for value in values if isinstance(value, list) for part in value]
    kinds = all(value is None or isinstance(value, list) for value in values)
    return kinds and all(isinstance(part, dict) and "text" in part for part in parts)


def _texts(values: Sequence[Any]) -> RowColumns:
    rows = [
        (
            item,
            position,
            part.get("origin") or "caption",
            clean(part["text"]),
            part.get("start"),
            part.get("end"),
            part.get("unit"),
        )
        for item, value in enumerate(values)
        for position, part in enumerate(value or ())
    ]
    return _as_lists(rows, 7)


def _tags(values: Sequence[Any]) -> RowColumns:
    rows = [
        (item, clean(str(tag)), float(score))
        for item, value in enumerate(values)
        for tag, score in pairs(value)
    ]
    return _as_lists(rows, 3)


def _as_lists(rows: Sequence[tuple[Any, ...]], width: int) -> RowColumns:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _each_key_once(lists: RowColumns) -> RowColumns:
    """Of an item's values of one key the last; keys can differ by what no database can hold."""
    items, keys = lists[:2]
    last = {key: row for row, key in enumerate(zip(items, keys, strict=True))}
    if len(last) == len(items):
        return lists
    return [[column[row] for row in last.values()] for column in lists]


# ---------------------------------------------------------------------- vectors


def _add_apart(
    batch: ItemBatch, chunk: Chunk, numbers: Sequence[int], dim: int, hubs: Hubs
) -> None:
    """Vectors of which each row says what it is a vector of."""
    places = chunk.columns[PLACE]
    there = [row for row, place in enumerate(places) if place is not None]
    if chunk.vectors is None or not there:
        return
    if len(chunk.vectors) != len(there):
        raise InvalidOption(
            f"{len(there)} of rows {chunk.first} to {chunk.first + chunk.count - 1} say which "
            f"vector they have, and there are {len(chunk.vectors)} vectors"
        )
    kept = unit_rows(chunk.vectors, dim, chunk.first)
    for facet in dict.fromkeys(places[row]["facet"] for row in there):
        mine = [at for at, row in enumerate(there) if places[row]["facet"] == facet]
        rows = [there[at] for at in mine]
        batch.vectors[facet] = [
            [numbers[row] for row in rows],
            [int(places[row]["position"]) for row in rows],
            *([places[row].get(name) for row in rows] for name in ("start", "end", "unit")),
            *_kept(kept[mine], facet, hubs),
        ]


def _kept(rows: NDArray[np.float16], facet: Modality, hubs: Hubs) -> RowColumns:
    """Each row's bytes, and its hubs as texts and as pictures ask."""
    width = rows.shape[1] * 2
    raw = rows.tobytes()
    told = hubs(facet, rows)
    asked: tuple[Modality, Modality] = ("text", "image")
    return [
        [raw[start : start + width] for start in range(0, len(raw), width)],
        *(told[one].tolist() if one in told else None for one in asked),
    ]
