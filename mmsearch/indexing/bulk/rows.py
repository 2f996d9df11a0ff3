"""From rows of metadata and vectors to items: where they are filed, their texts, their metadata."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.errors import InvalidMetadata, InvalidOption
from mmsearch.filters.values import number_in, shown
from mmsearch.indexing.bulk.sources import (
    CAPTIONS,
    FACTS,
    META,
    PATH_BYTES,
    PATHS,
    TAGS,
    TEXTS,
    Chunk,
    Columns,
    as_text,
    named,
    unit_rows,
)
from mmsearch.media.file_state import stat_of
from mmsearch.media.kinds import kind_of
from mmsearch.media.tables import VECTOR_PLACE, storable
from mmsearch.storage import ItemBatch
from mmsearch.storage.records import PathKey, RowColumns, metadata_key, split_path
from mmsearch.types import Kind, Modality, Unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.vectors.hubness import Hubs

HubsOf = Callable[[Modality, "NDArray[np.float16]"], "Mapping[Modality, Hubs]"]
"""Gives the hubs of vectors (n, dim) of a modality, by query modality."""


Losses = Counter[str]
"""What could not be stored as it was given, with the number of values."""

BYTES = (bytes, bytearray)


@dataclass(frozen=True, slots=True)
class Filing:
    """Where items are filed.

    Attributes:
        imported: The id of the source of what lies in no indexed folder.
        next_numbers: Gives so many numbers, which name items without a path.
        root: (source id, its path, a folder in it): rows of files that are there are filed there.
    """

    imported: int
    next_numbers: Callable[[int], Sequence[int]]
    root: tuple[int, str, str] | None = None

    def path_keys(self, paths: Sequence[str]) -> tuple[list[PathKey], Columns]:
        """Where each path is filed, and the columns of the files that exist."""
        if nameless := paths.count(""):
            numbers = iter(self.next_numbers(nameless))
            paths = [path or str(next(numbers)) for path in paths]
        if self.root is None:
            return [(self.imported, *split_path(path)) for path in paths], {}
        found = [self._on_disk(path, *self.root) for path in paths]
        facts = zip(*(facts for _, facts in found), strict=True)
        return [key for key, _ in found], dict(zip(_FILE_COLUMNS, map(list, facts), strict=False))

    def _on_disk(
        self, path: str, source_id: int, root: str, below: str
    ) -> tuple[PathKey, tuple[Any, ...]]:
        place = os.path.normpath(os.path.join(root, below, path))
        inside = root.rstrip(os.sep) + os.sep
        if place.startswith(inside) and os.path.isfile(place) and (kind := kind_of(place)):
            sidecar: tuple[int | None, int | None] = (None, None)
            if kind != "text":
                with suppress(OSError):
                    sidecar = stat_of(f"{place.rpartition('.')[0]}.txt")
            folder, name = os.path.split(place[len(inside) :])
            return (source_id, folder, name), (kind, *stat_of(place), *sidecar)
        return (self.imported, *split_path(path)), (None,) * len(_FILE_COLUMNS)


_FILE_COLUMNS = ("kind", "size", "mtime_ns", "sidecar_size", "sidecar_mtime_ns")


def modalities_in(chunk: Chunk, modality: Modality) -> set[Modality]:
    """The modalities that rows have vectors of: this one, unless the rows name it themselves."""
    if chunk.placed:
        return {place["facet"] for _, place in _places(chunk)}
    return {modality} if chunk.text_vectors is None else {modality, "text"}


def batch_of(
    chunk: Chunk, filing: Filing, modality: Modality, dim: int, hubs_of: HubsOf, losses: Losses
) -> ItemBatch:
    """The items in a chunk, whose vectors are of a modality unless the rows name it themselves.

    Of several rows of one path the last counts, unless each has its own place in the item.

    What is not stored as it was given is counted in `losses`.

    Raises:
        InvalidOption: a vector has no direction, or another number of dimensions.
        InvalidMetadata: a path or a value cannot be stored.
    """
    columns = chunk.rows.columns
    path_keys, on_disk = filing.path_keys(chunk.rows.paths())
    number_of = {key: number for number, key in enumerate(dict.fromkeys(path_keys))}
    items = [number_of[key] for key in path_keys]  # of each row
    chosen: Sequence[int] = range(len(items))  # the row of each item that counts
    if len(number_of) < len(items):
        rows = reversed(chosen) if chunk.placed else chosen  # the first row, or the last
        of_item = {items[row]: row for row in rows}
        chosen = [of_item[item] for item in range(len(number_of))]
        columns, on_disk = (
            {name: [values[row] for row in chosen] for name, values in some.items()}
            for some in (columns, on_disk)
        )
    sources, folders, names = map(list, zip(*number_of, strict=True))
    batch = ItemBatch(sources, folders, names, kind=modality)
    used = {VECTOR_PLACE, PATH_BYTES, named(columns, PATHS)}
    columns = {name: values for name, values in columns.items() if name not in used}
    batch.texts = _texts(columns, "passage" if modality == "text" else "caption", losses)
    batch.tags = _tags(columns, losses)
    batch.facts = _facts(columns, losses)
    batch.columns, batch.metadata = _known_and_own(columns, losses)
    for name, found in on_disk.items():
        given = batch.columns.get(name) or [None] * len(chosen)
        batch.columns[name] = [
            one if one is not None else other for one, other in zip(found, given, strict=True)
        ]
    if chunk.placed:
        _add_placed_vectors(batch, chunk, items, dim, hubs_of)
    for one, matrix in ((modality, chunk.vectors), ("text", chunk.text_vectors)):
        if matrix is not None and not (chunk.placed and one == modality):
            halves = unit_rows(matrix, dim, chunk.first)
            halves = halves if len(chosen) == len(halves) else halves[list(chosen)]
            _add_vectors(batch, one, halves, hubs_of, list(range(len(chosen))))
    return batch


# ---------------------------------------------------------------------- texts and metadata


def _texts(columns: Columns, origin: str, losses: Losses) -> RowColumns | None:
    """Item, position, origin, text, start, end, unit of each text; their column is taken out."""
    texts = columns.get(TEXTS, ())
    if texts and all(value is None or _is_texts(value) for value in texts):
        rows = (
            (item, n, p.get("origin") or "caption", p["text"], *map(p.get, SPAN))
            for item, value in enumerate(columns.pop(TEXTS))
            for n, p in enumerate(value or ())
        )
        found = _transposed(rows, 7)
        for column in (2, 3):
            found[column] = _cleaned(found[column], TEXTS, losses)
        return found
    if (key := named(columns, CAPTIONS)) is None:
        return None
    captions = [_captions(value, losses) for value in columns.pop(key)]
    items = [item for item, several in enumerate(captions) for _ in several]
    positions = [position for several in captions for position in range(len(several))]
    written = _cleaned(list(chain.from_iterable(captions)), key, losses)
    return [items, positions, origin, written, None, None, None]


def _tags(columns: Columns, losses: Losses) -> RowColumns | None:
    """Item, tag, score of each tag; their column is taken out."""
    values = columns.get(TAGS, ())
    if not _are_mappings(values):
        return None
    scores = [
        (item, tag, _parsed(_number, score))
        for item, value in enumerate(values)
        for tag, score in pairs(value)
    ]
    if any(score is None for _, _, score in scores):
        return None
    del columns[TAGS]
    tags = {(item, _key(tag, losses)): score for item, tag, score in scores}
    return _transposed(((*key, score) for key, score in tags.items()), 3)


def _facts(columns: Columns, losses: Losses) -> RowColumns | None:
    """Item, key, text, number of the files' own metadata; their column is removed."""
    if not _are_mappings(columns.get(FACTS, ())):
        return None
    found: dict[str, dict[int, Any]] = {}
    _add_mappings(found, columns.pop(FACTS), losses)
    return metadata_columns(found, losses)


def _add_mappings(own: dict[str, dict[int, Any]], values: Sequence[Any], losses: Losses) -> None:
    """Add the mapping of each item to `own`, which is by key and item."""
    for item, mapping in enumerate(values):
        for key, value in pairs(mapping):
            if value is not None:
                own.setdefault(metadata_key(_key(key, losses)), {})[item] = value


def _known_and_own(columns: Columns, losses: Losses) -> tuple[Columns, RowColumns | None]:
    """The columns of items, and the user's own metadata; None if there is no column for them."""
    known: Columns = {}
    own: dict[str, dict[int, Any]] = {}  # a key may come twice, written otherwise or nested
    for name, values in columns.items():
        rest = values
        if name.lower() in KNOWN:
            column, parse = KNOWN[name.lower()]
            found = [None if value is None else _parsed(parse, value) for value in values]
            known[column] = found
            unparsed = (v if p is None else None for v, p in zip(values, found, strict=True))
            rest = [None if isinstance(v, str) and not v else v for v in unparsed]
        if name == META and _are_mappings(rest):
            _add_mappings(own, rest, losses)
        else:
            given = {item: value for item, value in enumerate(rest) if value is not None}
            own.setdefault(metadata_key(_key(name, losses)), {}).update(given)
    return known, metadata_columns(own, losses) if columns else None


SPAN = ("start", "end", "unit")

_LARGE = 2**63
"""Larger numbers, infinite ones and NaN are read from their texts, as `number_in` does."""


def metadata_columns(own: Mapping[str, Mapping[int, Any]], losses: Losses) -> RowColumns:
    """Item, key, text, number of each value, by key and item; bytes and None are left out."""
    columns: RowColumns = [[], [], [], []]
    for key, given in own.items():
        values = given
        if not {str, int, float}.issuperset(map(type, given.values())):
            present = {item: value for item, value in given.items() if value is not None}
            values = {i: value for i, value in present.items() if not isinstance(value, BYTES)}
            if len(values) < len(present):
                losses[f"{key!r}: bytes are not stored"] += len(present) - len(values)
        texts, numbers = _written(list(values.values()), key, losses)
        own_columns = list(values), [key] * len(values), texts, numbers
        for column, some in zip(columns, own_columns, strict=True):
            column.extend(some)
    return columns


def _written(values: list[Any], key: str, losses: Losses) -> tuple[list[str], list[float | None]]:
    """Values as texts and, where they read so, as numbers."""
    if {int, float}.issuperset(map(type, values)):
        with suppress(OverflowError):
            exact = list(map(float, values))
            if all(map(math.isfinite, exact)) and max(map(abs, exact), default=0) < _LARGE:
                return list(map(str, values)), [*exact]
    written = [value if type(value) is str else as_text(value) for value in values]
    texts = _cleaned(written, key, losses)
    numbers = {text: number_in(text) for text in set(texts)}
    return texts, [numbers[text] for text in texts]


def _cleaned(texts: list[str], key: str, losses: Losses) -> list[str]:
    """Texts as `storable` makes them; nearly always these are as they were."""
    whole = "".join(texts)
    if storable(whole) == whole:
        return texts
    cleaned = list(map(storable, texts))
    changed = sum(one != other for one, other in zip(texts, cleaned, strict=True))
    losses[f"{key!r}: damaged characters and NULs are replaced by U+FFFD"] += changed
    return cleaned


def _key(name: Any, losses: Losses) -> str:
    """The name of a key or tag as it is stored."""
    return _cleaned([as_text(name)], "names of keys", losses)[0]


def pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    """What is in a mapping; pyarrow gives one as a list of pairs."""
    return value.items() if isinstance(value, Mapping) else value or ()


def _captions(value: Any, losses: Losses) -> list[str]:
    """A cell has one caption, or a list of them, or none."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    several = value if isinstance(value, (list, tuple)) else [value]
    texts = [one for one in several if not isinstance(one, BYTES)]
    if len(texts) < len(several):
        losses[f"{CAPTIONS[0]!r}: bytes are not stored"] += len(several) - len(texts)
    return [text for one in texts if one is not None and (text := as_text(one)).strip()]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict)
        and isinstance(part.get("text"), str)
        and isinstance(part.get("origin"), str | None)
        and _is_span(part)
        for part in value
    )


def _is_span(values: Mapping[str, Any]) -> bool:
    """Whether `start`, `end` and `unit` are those of a span, or left out."""
    *ends, unit = map(values.get, SPAN)
    return (unit is None or (isinstance(unit, str) and unit in get_args(Unit))) and all(
        end is None or (isinstance(end, (int, float)) and abs(end) < _LARGE) for end in ends
    )


def _are_mappings(values: Sequence[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(
        isinstance(value, Mapping)
        or (isinstance(value, list) and all(isinstance(o, tuple) and len(o) == 2 for o in value))
        for value in present
    )


def _transposed(rows: Iterable[tuple[Any, ...]], width: int) -> RowColumns:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


# ---------------------------------------------------------------------- what filters know


def _parsed(parse: Callable[[Any], Any], value: Any) -> Any:
    """A value as a column takes it; None if it cannot be parsed."""
    try:
        return parse(value)
    except Exception:  # whatever a type of the user's own raises
        return None


def _kind(value: Any) -> Any:
    return value if value in get_args(Kind) else None


def _whole(value: Any) -> int | None:
    """A whole number from 0 on that the store can hold."""
    number = _signed(value)
    return number if number is not None and number >= 0 else None


def _signed(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    same = number == value or (isinstance(value, str) and str(number) == value.strip())
    return number if same and abs(number) < 2**63 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _moment(value: Any) -> str | None:
    if isinstance(value, str):
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            return None
        return value if "T" in value and read.tzinfo is None else _moment(read)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    return f"{value.isoformat()}T00:00:00" if isinstance(value, date) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value and storable(value) == value else None


KNOWN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "modality": ("kind", _kind),
    "size": ("size", _whole),
    "mtime_ns": ("mtime_ns", _signed),
    "width": ("width", _whole),
    "height": ("height", _whole),
    "taken": ("taken_at", _moment),
    "taken_at": ("taken_at", _moment),
    "camera": ("camera", _text),
    "latitude": ("latitude", _number),
    "longitude": ("longitude", _number),
    "seconds": ("seconds", _number),
    "pages": ("pages", _whole),
}
"""By key, the column that a value goes to and how it is parsed. A value that cannot be parsed is
metadata like any other."""


# ---------------------------------------------------------------------- vectors


def _places(chunk: Chunk) -> list[tuple[int, dict[str, Any]]]:
    """The rows that have a place in their item, and it.

    Raises:
        InvalidMetadata: a place is not one.
    """
    places = chunk.rows.columns.get(VECTOR_PLACE, ())
    found = [(row, place) for row, place in enumerate(places) if place is not None]
    for row, place in found:
        if not (
            isinstance(place, Mapping)
            and isinstance(place.get("facet"), str)
            and _parsed(_whole, place.get("position")) is not None
            and _is_span(place)
        ):
            raise InvalidMetadata(
                f"row {chunk.first + row} of the metadata: {VECTOR_PLACE!r} is where a vector "
                f"belongs, {{'facet': 'image', 'position': 0}} say, not {shown(place)}"
            )
    return found


def _add_placed_vectors(
    batch: ItemBatch, chunk: Chunk, items: Sequence[int], dim: int, hubs_of: HubsOf
) -> None:
    """Add the vectors of rows that have a place in their item."""
    placed = [(items[row], place) for row, place in _places(chunk)]
    if chunk.vectors is None or not placed:
        return
    if len(chunk.vectors) != len(placed):
        raise InvalidOption(
            f"{len(placed)} of rows {chunk.first} to {chunk.first + len(chunk.rows) - 1} say which "
            f"vector they have, and there are {len(chunk.vectors)} vectors"
        )
    halves = unit_rows(chunk.vectors, dim, chunk.first)
    for modality in dict.fromkeys(place["facet"] for _, place in placed):
        chosen = [n for n, (_, place) in enumerate(placed) if place["facet"] == modality]
        places = [placed[n][1] for n in chosen]
        spans = ([place.get(name) for place in places] for name in SPAN)
        positions = [int(place["position"]) for place in places]
        numbers = [placed[n][0] for n in chosen]
        _add_vectors(batch, modality, halves[chosen], hubs_of, numbers, positions, *spans)


def _add_vectors(
    batch: ItemBatch,
    modality: Modality,
    halves: NDArray[np.float16],
    hubs_of: HubsOf,
    items: list[int],
    *columns: Any,
) -> None:
    """Add vectors with their items and, unless they are of whole items, positions and spans."""
    import numpy as np

    raw = np.ascontiguousarray(halves).view(f"V{halves.shape[1] * 2}")
    hubs = hubs_of(modality, halves)
    query_modalities: tuple[Modality, Modality] = ("text", "image")
    by_query = [hubs[one].tolist() if one in hubs else None for one in query_modalities]
    batch.vectors[modality] = [
        items,
        *(columns or (0, None, None, None)),
        raw[:, 0].tolist(),
        *by_query,
    ]
