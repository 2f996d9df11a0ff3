"""What can be asked of an item: the keys, and what each of them takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmsearch.errors import InvalidFilter
from mmsearch.filters import values
from mmsearch.filters.model import META, Condition, Filter, Not, Op

_EQUAL = ("$eq", "$ne", "$in", "$nin")
_ORDER = ("$gt", "$gte", "$lt", "$lte")
_WORDS = ("$contains", "$glob")


@dataclass(frozen=True, slots=True)
class Key:
    """What a key takes.

    Attributes:
        read: Gives a value as the conditions hold it, or raises InvalidFilter.
        takes: The operations that make sense.
    """

    read: Callable[[str, Any], Any]
    takes: tuple[str, ...]


_TEXT = Key(values.text, (*_EQUAL, *_WORDS, "$exists"))
_PATH = Key(values.path, (*_EQUAL, *_WORDS))
_NUMBER = Key(values.number, (*_EQUAL, *_ORDER, "$exists"))
_BYTES = Key(values.bytes_, (*_EQUAL, *_ORDER))
_DATE = Key(values.period, (*_EQUAL, *_ORDER, "$exists"))
_USERS = Key(values.said, (*_EQUAL, *_ORDER, *_WORDS, "$exists"))

KEYS: dict[str, Key] = {
    "path": _PATH,
    "name": _PATH,
    "folder": _PATH,
    "modality": Key(values.kind, _EQUAL),
    "size": _BYTES,
    "modified": _DATE,
    "taken": _DATE,
    "date": _DATE,
    "camera": _TEXT,
    "width": _NUMBER,
    "height": _NUMBER,
    "megapixels": _NUMBER,
    "latitude": _NUMBER,
    "longitude": _NUMBER,
    "near": Key(values.place, ("$eq", "$ne")),
    "seconds": _NUMBER,
    "pages": _NUMBER,
    "has": Key(values.had, _EQUAL),
    "tag": _TEXT,
}
"""What is known of every item; every other key is of the user's own metadata."""

_SAME = {"taken_at": "taken"}  # as a hit's metadata have it


def key_of(name: str) -> tuple[str, Key]:
    """A key as conditions hold it, "meta.rating" for "rating", and what it takes."""
    name = _SAME.get(name, name)
    if name in KEYS:
        return name, KEYS[name]
    own = name.removeprefix(META)
    return META + values.text("a key", own), _USERS


def condition(name: str, op: str, value: Any) -> Filter:
    """A filter of one condition.

    Args:
        name: A key as it is written.
        op: "$eq", "$gte", …
        value: As it is written.

    Raises:
        InvalidFilter: the key does not take that; the message says what it takes.
    """
    key, what = key_of(name)
    if op not in what.takes:
        raise InvalidFilter(f"{name} takes no {op!r}; it takes {' '.join(what.takes)}")
    if op in ("$ne", "$nin"):
        opposite = condition(name, {"$ne": "$eq", "$nin": "$in"}[op], value)
        return Filter((Not(opposite),))
    if op == "$exists":
        if not isinstance(value, bool):
            raise InvalidFilter(f"{name}: $exists is true or false, not {values.shown(value)}")
        there = Filter((Condition(key, "exists"),))
        return there if value else Filter((Not(there),))
    return Filter((_plain(name, key, what, op, value),))


_OPS: dict[str, Op] = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


def _plain(name: str, key: str, what: Key, op: str, value: Any) -> Condition:
    if key == "near":
        return Condition(key, "within", what.read(name, value))
    if op == "$in":
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise InvalidFilter(f"{name}: $in takes a list, not {values.shown(value)}")
        return Condition(key, "in", tuple(what.read(name, one) for one in value))
    if op == "$eq":
        return Condition(key, "in", (what.read(name, value),))
    if op in _OPS:
        return Condition(key, _OPS[op], what.read(name, value))
    # a part of a text or a pattern, of whatever the key holds
    wanted = (
        values.path(name, value) if key in ("path", "name", "folder") else values.text(name, value)
    )
    if not wanted:
        raise InvalidFilter(f"{name}: {op} takes a text that is not empty")
    return Condition(key, "glob" if op == "$glob" else "contains", wanted)
