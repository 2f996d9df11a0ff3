"""Filters evaluated in Python on the values of one item, as SQLite evaluates them on its rows.

Milvus names the items that may pass; what its expressions cannot say exactly is compared here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from operator import ge, gt, le, lt
from types import SimpleNamespace
from typing import Any

from mmsearch.filters import KEYS, META, AnyOf, Condition, Filter, MetadataValue, Not
from mmsearch.filters.match import (
    EXACT,
    bounding_box,
    folded,
    kilometres,
    matcher,
    readings,
    time_ranges,
)
from mmsearch.filters.values import number_in
from mmsearch.storage.records import IMPORTED_SOURCE

ORIGINS = {
    "caption": ("caption", "sidecar"),
    "text": ("passage", "page", "ocr", "speech"),
    "speech": ("speech",),
}
"""The origins of texts that give an item a property."""

ORDER: Mapping[str, Callable[[Any, Any], bool]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


@dataclass(frozen=True)
class FilterValues:
    """What filters compare of an item.

    Attributes:
        root: The path of its source.
        folder: Below the source.
        columns: By field ("kind", "width", "taken_at", …); what is not known lacks or is None.
        origins: Of its texts.
        tags: Their names.
        metadata: Texts by key.
        heard: Whether it has a vector of sound.
    """

    root: str
    folder: str
    name: str
    columns: Mapping[str, Any]
    origins: Collection[str] = ()
    tags: Collection[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    heard: bool = False

    @cached_property
    def relative(self) -> str:
        """The path below the source."""
        if not self.folder:
            return self.name
        # the folder of a URL may end with slashes, see `split_path`
        if self.root == IMPORTED_SOURCE and self.folder.endswith(os.sep):
            return self.folder + self.name
        return f"{self.folder}{os.sep}{self.name}"

    @cached_property
    def absolute(self) -> str:
        """The absolute path."""
        return below_root(self.root, self.relative)

    @cached_property
    def absolute_folder(self) -> str:
        """The absolute path of the folder."""
        return below_root(self.root, self.folder) if self.folder else self.root


def below_root(root: str, below: str) -> str:
    """A path below a source: "/" is one; imported paths have nothing before them."""
    return f"{root.rstrip(os.sep)}{os.sep}{below}" if root else below


def passes(filter_: Filter, item: FilterValues) -> bool:
    """Whether an item passes a filter, whose keys of metadata are spelled as they are stored."""
    return all(_holds(one, item) for one in filter_.conditions)


def _holds(one: Condition | AnyOf | Not, item: FilterValues) -> bool:  # noqa: PLR0911 - a case each
    if isinstance(one, Not):
        return not passes(one.filter, item)
    if isinstance(one, AnyOf):
        return any(passes(part, item) for part in one.filters)
    if one.key.startswith(META):
        text = item.metadata.get(one.key.removeprefix(META))
        return text is not None and _of_metadata(one, text)
    match one.key:
        case "path":
            return _of_path(one, item)
        case "folder":
            return _of_text(one, (item.absolute_folder, item.folder), path=True)
        case "date":
            taken = item.columns.get("taken_at") is not None
            return _of_column(KEYS["taken" if taken else "modified"].name, one, item)
        case "near":
            return _of_near(one, item)
        case "has":
            return any(has(what, item) for what in one.value)
        case "tag":
            return any(_of_value("tag", one, tag) for tag in item.tags)
    return _of_column(one.key, one, item)


# ---------------------------------------------------------------------- stored values


def _of_column(name: str, one: Condition, item: FilterValues) -> bool:
    column = KEYS[name].field
    if column == "name":
        value: Any = item.name
    elif isinstance(column, str):
        value = item.columns.get(column)
    else:
        assert column is not None
        try:
            value = column(SimpleNamespace(**item.columns))
        except (AttributeError, TypeError):  # one of the numbers is not known
            value = None
    return value is not None and _of_value(name, one, value)


def _of_value(name: str, one: Condition, value: Any) -> bool:
    if one.op == "exists":
        return True
    type_ = KEYS[name].type
    if type_.encode is not None:
        ranges = time_ranges(one, type_.encode)
        return any(
            (start is None or value >= start) and (end is None or value < end)
            for start, end in ranges
        )
    if one.op in ORDER:
        return ORDER[one.op](value, one.value)
    if type_.compared_as == "number":
        return value in one.value
    return _of_text(one, (value,), path=type_.compared_as == "path")


def _of_text(one: Condition, spellings: Sequence[str], *, path: bool = False) -> bool:
    """Of a text that has several spellings, the longest of them first."""
    if one.op == "contains":
        return _contains(spellings[0], one.value)
    if one.op == "glob":
        patterns = readings(one.value) if path else (one.value,)
        return any(_matches(text, *patterns) for text in spellings)
    return any(text in one.value for text in spellings)


def _contains(text: str, part: str) -> bool:
    return folded(part) in folded(text)


@lru_cache(maxsize=256)
def _matcher(patterns: tuple[str, ...], *, below: bool) -> Callable[[str], object]:
    return matcher(*patterns, below=below)


def _matches(text: str, *patterns: str, below: bool = False) -> bool:
    return _matcher(patterns, below=below)(text) is not None


# ---------------------------------------------------------------------- paths


def _of_path(one: Condition, item: FilterValues) -> bool:
    if one.op == "glob":
        return _at(one.value, item)
    if one.op == "in":
        return item.absolute in one.value or item.relative in one.value
    if os.sep in folded(one.value):
        return _contains(item.absolute, one.value)
    return _contains(item.name, one.value) or _contains(item.absolute_folder, one.value)


SPECIAL = re.compile(r"[*?\[]")


def _at(pattern: str, item: FilterValues) -> bool:
    """Whether a pattern matches a file or one of its folders.

    A pattern without a slash is compared with the names of the file and of its folders; one with a
    slash with the path below the source and the absolute one.
    """
    plain = pattern.removeprefix("./").rstrip("/")
    if plain and pattern.startswith("./"):  # rows may have been imported under such a path
        imported = item.root == IMPORTED_SOURCE
        as_written = imported and _matches(
            item.relative, *readings(pattern.rstrip("/")), below=True
        )
        return as_written or _at(plain, item)
    patterns = readings(plain)
    if "/" not in plain and not pattern.startswith("/"):
        folders = f"/{item.folder}/" if item.folder else "/"
        return _matches(item.name, *patterns) or _matches(
            folders, *(f"*/{one}/*" for one in patterns)
        )
    if plain and not SPECIAL.search(plain):
        path = item.absolute if plain.startswith("/") else item.relative
        return path == plain or path.startswith(f"{plain}/")
    if plain[:1] in ("", "/", "*"):  # the absolute path alone: its star covers the relative one
        return _matches(item.absolute, *patterns, below=True)
    if _matches(item.relative, *patterns, below=True):
        return True
    return plain[0] in "?[" and _matches(item.absolute, *patterns, below=True)


# ---------------------------------------------------------------------- other evaluators


def _of_near(one: Condition, item: FilterValues) -> bool:
    latitude, longitude = item.columns.get("latitude"), item.columns.get("longitude")
    if latitude is None or longitude is None:
        return False
    (low, high), longitudes = bounding_box(one.value)
    inside = low <= latitude <= high and any(west <= longitude <= east for west, east in longitudes)
    return inside and kilometres(latitude, longitude, one.value) <= one.value.kilometres


def has(what: str, item: FilterValues) -> bool:
    """Whether an item has a property."""
    if what == "gps":
        return None not in (item.columns.get("latitude"), item.columns.get("longitude"))
    if what == "sound":
        kind = item.columns.get("kind")
        return kind == "audio" or (kind == "video" and (item.heard or has("speech", item)))
    return any(origin in item.origins for origin in ORIGINS[what])


# ---------------------------------------------------------------------- the user's own metadata


def _of_metadata(one: Condition, text: str) -> bool:
    if one.op == "exists":
        return True
    if one.op == "in":
        return _equal_to_any(one.value, text)
    if one.op in ("contains", "glob"):
        return _of_text(one, (text,))
    value: MetadataValue = one.value
    if value.number is None:
        return ORDER[one.op](text, value.texts[0])
    number = number_in(text)
    return number is not None and ORDER[one.op](number, value.number)


def _equal_to_any(values: Sequence[MetadataValue], text: str) -> bool:
    """Written so, or the same number; integers that no float tells apart must be written so."""
    number = number_in(text)
    small = number is not None and abs(number) < EXACT
    return any(text in value.texts or (small and number == value.number) for value in values)
