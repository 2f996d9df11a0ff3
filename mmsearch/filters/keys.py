"""What a filter can ask of an item: one declaration a key.

Parsing, SQL, columns, error messages and the table of keys in docs/commands.md follow from it.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from mmsearch.errors import InvalidFilter
from mmsearch.filters import values
from mmsearch.filters.match import nanoseconds, path_spellings, spellings
from mmsearch.filters.model import META, AnyOf, Condition, Filter, MetadataValue, Not, Op
from mmsearch.types import Kind

_EQUALITY = ("$eq", "$ne", "$in", "$nin")
_ORDER = ("$gt", "$gte", "$lt", "$lte")
_PATTERNS = ("$contains", "$glob")


@dataclass(frozen=True, slots=True)
class KeyType:
    """The values of a key, and how they are compared.

    Attributes:
        compared_as: "path" is a text that need not be UTF-8.
        parse: Takes the key's name and a value as written; returns the value as conditions hold it
            or raises InvalidFilter.
        operations: The operations that make sense.
        encode: Of times: a moment as the store holds it.
    """

    compared_as: Literal["text", "path", "number", "time", "place", "property"]
    parse: Callable[[str, Any], Any]
    operations: tuple[str, ...]
    encode: Callable[[datetime], Any] | None = None


_DATED = (*_EQUALITY, *_ORDER, "$exists")

TEXT = KeyType("text", values.text, (*_EQUALITY, *_PATTERNS, "$exists"))
PATH = KeyType("path", values.path, (*_EQUALITY, *_PATTERNS))
KIND = KeyType("text", values.one_of(*get_args(Kind)), _EQUALITY)
NUMBER = KeyType("number", values.number, (*_EQUALITY, *_ORDER, "$exists"))
BYTES = KeyType("number", values.bytes_, (*_EQUALITY, *_ORDER))
ISO_TIME = KeyType("time", values.period, _DATED, datetime.isoformat)
NANOSECONDS = KeyType("time", values.period, _DATED, nanoseconds)
CIRCLE = KeyType("place", values.circle, ("$eq", "$ne"))
PROPERTY = KeyType("property", values.one_of("caption", "gps", "text", "sound"), _EQUALITY)
METADATA = KeyType("text", values.metadata_value, (*_EQUALITY, *_ORDER, *_PATTERNS, "$exists"))


@dataclass(frozen=True, slots=True)
class Key:
    """A key that every item can be asked for.

    Attributes:
        name: As users write it.
        type: The values it takes.
        help: One line for docs/commands.md.
        field: Where its value is stored: a field of the item ("width"), a function of the item's
            fields, or, where an item may have several values, a column of another table
            ("tags.tag"). None: storage evaluates this key by a function of its own.
        aliases: Other names of it.
    """

    name: str
    type: KeyType
    help: str
    field: str | Callable[[Any], Any] | None = None
    aliases: tuple[str, ...] = ()


_DECLARED = (
    Key("path", PATH, "the absolute path, or the one below the folder that was indexed"),
    Key("name", PATH, "the file's name", "name"),
    Key("folder", PATH, "the folder it lies in: absolute, or below the folder that was indexed"),
    Key("modality", KIND, "`image`, `text`, `audio`, `video` or `document`", "kind"),
    Key("size", BYTES, "bytes, or `500kB`, `2MB`, `1GiB`", "size"),
    Key(
        "taken",
        ISO_TIME,
        "when a picture was taken, in the camera's local time: `taken = 2020-03` is all of that "
        "March, `taken > 2020` is 2021 and later",
        "taken_at",
        ("taken_at",),  # as a hit's metadata call it
    ),
    Key("modified", NANOSECONDS, "when the file was modified, in UTC", "mtime_ns"),
    Key("date", ISO_TIME, "`taken`, else `modified`"),
    Key("camera", TEXT, "the camera's name", "camera"),
    Key("width", NUMBER, "pixels, upright; of pictures and videos", "width"),
    Key("height", NUMBER, "pixels, upright", "height"),
    Key(
        "megapixels",
        NUMBER,
        "width × height / 1,000,000",
        lambda item: item.width * item.height / 1e6,
    ),
    Key("latitude", NUMBER, "degrees north of the equator", "latitude"),
    Key("longitude", NUMBER, "degrees east of Greenwich", "longitude"),
    Key("near", CIRCLE, "within so many kilometres of a place: `near = 48.2,16.37,10`"),
    Key("seconds", NUMBER, "how long a sound, video or animation is", "seconds"),
    Key("pages", NUMBER, "how many pages a PDF has", "pages"),
    Key("has", PROPERTY, "`caption`, `gps`, `text` or `sound`, as for `--has`"),
    Key(
        "tag", TEXT, "what `mmsearch tag` found it to show; `tag in dog,cat` is either", "tags.tag"
    ),
)

KEYS: dict[str, Key] = {key.name: key for key in _DECLARED}
"""The keys of every item, by name; any other key is of the user's own metadata."""


def key_of(name: str) -> tuple[str, KeyType]:
    """A key as conditions hold it ("meta.rating" for "rating") and its type."""
    for key in KEYS.values():
        if name == key.name or name in key.aliases:
            return key.name, key.type
    return META + values.text("a key", name.removeprefix(META)), METADATA


def condition(name: str, operation: str, value: Any) -> Filter:
    """A filter of one condition.

    Args:
        name: A key as it is written.
        operation: "$eq", "$gte", …
        value: As it is written.

    Raises:
        InvalidFilter: the key does not take that; the message says what it takes.
    """
    key, type_ = key_of(name)
    if operation not in type_.operations:
        takes = " ".join(type_.operations)
        raise InvalidFilter(f"{name} takes no {operation!r}; it takes {takes}")
    if operation in ("$ne", "$nin"):
        opposite = condition(name, {"$ne": "$eq", "$nin": "$in"}[operation], value)
        return Filter((Not(opposite),))
    if operation == "$exists":
        if not isinstance(value, bool):
            raise InvalidFilter(f"{name}: $exists is true or false, not {values.shown(value)}")
        exists = Filter((Condition(key, "exists"),))
        return exists if value else Filter((Not(exists),))
    found = _condition(name, key, type_, operation, value)
    if key.lower() == _KEYWORDS and found.op == "in":
        return Filter((AnyOf((Filter((found,)), *_has_keyword(key, found.value))),))
    if found.op != "glob":
        return Filter((found,))
    spelled = [Filter((Condition(key, "glob", one),)) for one in _spellings(type_, found.value)]
    return spelled[0] if len(spelled) == 1 else Filter((AnyOf(tuple(spelled)),))


_KEYWORDS = f"{META}keywords"
"""The key, in any case, whose value is a list joined by ", "."""


def _has_keyword(key: str, wanted: Iterable[MetadataValue]) -> Iterator[Filter]:
    """Filters that pass lists of several keywords, one of which is wanted."""
    for text in (glob.escape(text) for value in wanted for text in value.texts):
        for pattern in (f"{text}, *", f"*, {text}", f"*, {text}, *"):
            yield Filter((Condition(key, "glob", pattern),))


def _spellings(type_: KeyType, value: str) -> tuple[str, ...]:
    return path_spellings(value) if type_.compared_as == "path" else spellings(value)


def _equal_to(name: str, type_: KeyType, given: Iterable[Any]) -> tuple[Any, ...]:
    parsed = [type_.parse(name, one) for one in given]
    if name == "folder":  # may be given with a slash at its end; those of URLs are stored with it
        bare = [one.rstrip("/") or one[:1] for one in parsed]
        parsed = list(dict.fromkeys([*parsed, *bare]))
    if type_ is METADATA:  # "1/100" is an exposure of 0.01, or that text in the user's own metadata
        parsed += [
            MetadataValue(one.texts, None)
            for one in parsed
            if one.number is not None and values.number_in(one.texts[0]) is None
        ]
    if type_ in (TEXT, PATH):
        parsed = [spelled for one in parsed for spelled in _spellings(type_, one)]
    return tuple(parsed)


_ORDER_OPS: dict[str, Op] = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


def _condition(name: str, key: str, type_: KeyType, operation: str, value: Any) -> Condition:
    if type_.compared_as == "place":
        return Condition(key, "within", type_.parse(name, value))
    if operation == "$in":
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise InvalidFilter(f"{name}: $in takes a list, not {values.shown(value)}")
        return Condition(key, "in", _equal_to(name, type_, value))
    if operation == "$eq":
        return Condition(key, "in", _equal_to(name, type_, (value,)))
    if operation in _ORDER_OPS:
        return Condition(key, _ORDER_OPS[operation], type_.parse(name, value))
    parse = values.path if type_.compared_as == "path" else values.text
    pattern = parse(name, value)
    if not pattern:
        raise InvalidFilter(f"{name}: {operation} takes a text that is not empty")
    return Condition(key, "glob" if operation == "$glob" else "contains", pattern)
