"""Filters from what people write: Python mappings, written conditions, command-line options."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmsearch.errors import InvalidFilter
from mmsearch.filters.keys import condition, key_of
from mmsearch.filters.model import META, AnyOf, Filter, Not
from mmsearch.filters.values import shown

DEEPEST = 20
"""Levels to which $and, $or and $not may be nested."""

Where = Mapping[str, Any] | Filter | None


def parse_where(where: Where) -> Filter:
    """The filter of a mapping such as {"taken": {"$gte": "2020"}, "camera": "Canon EOS 5D"}.

    A plain value means equality, a list one of several, None that the item has no value.
    Operations: $eq $ne $in $nin $gt $gte $lt $lte $exists $contains $glob; $and and $or take a list
    of such mappings, $not takes one. $ne, $nin and $not also pass items without a value.

    Raises:
        InvalidFilter: an operation or a value makes no sense. Whether some item has a key of the
            user's own metadata is checked later, by the index.
    """
    return _parsed(where, DEEPEST)


def _parsed(where: Any, levels: int) -> Filter:
    if where is None or isinstance(where, Filter):
        return where or Filter()
    if not isinstance(where, Mapping):
        raise InvalidFilter(
            f'a filter is a mapping, {{"camera": "Canon"}} say, and not {shown(where)}'
        )
    if not levels:
        raise InvalidFilter(f"a filter is nested {DEEPEST} deep at most")
    found = Filter()
    for key, wanted in where.items():
        if not isinstance(key, str):
            raise InvalidFilter(f"a key is text, not {shown(key)}")
        found &= _combined(key, wanted, levels) if key[:1] == "$" else _of_key(key, wanted)
    return found


def _combined(word: str, wanted: Any, levels: int) -> Filter:
    if word == "$not":
        return Filter((Not(_parsed(wanted, levels - 1)),))
    if word not in ("$and", "$or"):
        raise InvalidFilter(f"{word!r} stands for a key; there are $and, $or and $not")
    if not isinstance(wanted, (list, tuple)) or not wanted:
        raise InvalidFilter(f"{word} takes a list of filters, not {shown(wanted)}")
    parts = tuple(_parsed(one, levels - 1) for one in wanted)
    if word == "$or":
        return Filter((AnyOf(parts),))
    return _all_of(parts)


def _all_of(filters: Iterable[Filter]) -> Filter:
    return Filter(tuple(condition for one in filters for condition in one.conditions))


def _of_key(key: str, wanted: Any) -> Filter:
    if isinstance(wanted, Mapping):
        if not wanted:
            raise InvalidFilter(f'{key}: no operation is given; write {{"$gte": 5}}, say')
        return _all_of(condition(key, op, value) for op, value in wanted.items())
    if wanted is None:
        return condition(key, "$exists", value=False)
    several = (
        isinstance(wanted, (list, tuple, set, frozenset)) and "$in" in key_of(key)[1].operations
    )
    return condition(key, "$in" if several else "$eq", wanted)


_SIGNS = {
    "=": "$eq",
    "==": "$eq",
    "!=": "$ne",
    "<": "$lt",
    "<=": "$lte",
    ">": "$gt",
    ">=": "$gte",
    "~": "$contains",
    "!~": "$contains",
}
_QUOTED_KEY = r"""(?:meta\.)?(?:"[^"]+"|'[^']+')"""
_IS_QUOTED = rf"{_QUOTED_KEY}\s*(?:[=!<>~]|\s(?:not\s+)?in\s|$)"
_KEY = rf"({_QUOTED_KEY}|(?!{_IS_QUOTED})[^=!<>~]*?[^=!<>~\s])"
_LISTED = re.compile(rf"\s*{_KEY}\s+(not\s+)?in\s+(.+)", re.DOTALL)
_COMPARED = re.compile(rf"\s*{_KEY}\s*(!=|<=|>=|==|=|<|>|!~|~)\s*(.*)", re.DOTALL)
_NAMED = re.compile(rf"\s*(!?)\s*({_QUOTED_KEY}|[^=!<>~\s]+)\s*")


def parse_condition(text: str) -> Filter:
    """The filter of a condition as `--where` takes it.

    `key = value`, or != < <= > >= ~ (contains) !~ in place of =; `key in a,b,c` and
    `key not in a,b`; `key` alone for items that have a value, `!key` for those without. Quotes
    around a value keep its blanks and commas, those around a key whatever is in it.

    Raises:
        InvalidFilter: it is none of these, or the key does not take that.
    """
    if found := _LISTED.fullmatch(text):
        return condition(_key(found[1]), "$nin" if found[2] else "$in", _listed(found[3]))
    if found := _COMPARED.fullmatch(text):
        value = _unquoted(found[3].strip())
        if not found[3].strip():
            raise InvalidFilter(f"{text!r}: no value stands after {found[2]}")
        compared = condition(_key(found[1]), _SIGNS[found[2]], value)
        return Filter((Not(compared),)) if found[2] == "!~" else compared
    if found := _NAMED.fullmatch(text):
        return condition(_key(found[2]), "$exists", not found[1])
    raise InvalidFilter(
        f"{shown(text)} is no condition; write 'key = value', with = != < <= > >= or ~ (contains), "
        "'key in a,b,c', or 'key' alone"
    )


def _listed(values: str) -> list[str]:
    try:
        return [one.strip() for one in next(csv.reader([values], skipinitialspace=True))]
    except csv.Error as error:
        raise InvalidFilter(f"{shown(values)} is no list of values with commas between") from error


def _key(written: str) -> str:
    """A key without quotes around it: '"x = y"' is the key "x = y"."""
    prefix = META if written.startswith((f'{META}"', f"{META}'")) else ""
    return prefix + _unquoted(written.removeprefix(prefix))


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value


_SIDES = re.compile(r"\s*(\d+)\s*[x×]\s*(\d+)\s*", re.IGNORECASE | re.ASCII)


def from_options(  # noqa: PLR0913 - an option each
    *,
    path: Sequence[str] = (),
    modality: Sequence[str] = (),
    after: str | None = None,
    before: str | None = None,
    camera: str | None = None,
    near: str | None = None,
    min_size: str | None = None,
    has: Sequence[str] = (),
    tag: Sequence[str] = (),
    where: Sequence[str] = (),
) -> Filter:
    """The filter of a command line's options; all of them must hold.

    Args:
        path: Shell patterns, one of which must match; paths may be relative to the current folder.
        modality: Kinds of file, one of which the item must be; may be separated by commas.
        after: Taken (else modified) on this date or later.
        before: Taken (else modified) earlier than this date.
        camera: A part of the camera's name.
        near: LAT,LON,KM.
        min_size: WxH pixels.
        has: Properties, all of which an item must have; may be separated by commas.
        tag: Tags, all of which an item must have.
        where: Conditions as `parse_condition` takes them.

    Raises:
        InvalidFilter: one of them makes no sense; the message names it.
    """
    found = Filter()
    if path:
        found &= Filter((AnyOf(tuple(_at(pattern) for pattern in path)),))
    if modality:
        found &= condition("modality", "$in", _split(modality))
    for op, day in (("$gte", after), ("$lt", before)):
        if day is not None:
            found &= condition("date", op, day)
    if camera is not None:
        found &= condition("camera", "$contains", camera)
    if near is not None:
        found &= condition("near", "$eq", near)
    if min_size is not None:
        sides = _SIDES.fullmatch(min_size)
        if sides is None:
            raise InvalidFilter(f"{min_size!r} is no size; write width x height, as 1920x1080")
        found &= condition("width", "$gte", sides[1]) & condition("height", "$gte", sides[2])
    found &= _all_of(condition("has", "$eq", one) for one in _split(has))
    found &= _all_of(condition("tag", "$eq", one) for one in tag)
    return found & _all_of(map(parse_condition, where))


def _split(given: Iterable[str]) -> list[str]:
    return [part.strip() for one in given for part in one.split(",")]


def _at(pattern: str) -> Filter:
    """Files that a pattern matches, also as a path relative to the current folder."""
    choices = [pattern]
    if os.path.lexists(pattern):  # then it names that file or folder, whatever brackets mean
        choices += [glob.escape(of(pattern)) for of in (os.path.abspath, os.path.realpath)]
    elif "/" in pattern and not os.path.isabs(pattern):
        choices.append(os.path.normpath(os.path.join(glob.escape(os.path.abspath("")), pattern)))
    found = [condition("path", "$glob", choice) for choice in dict.fromkeys(choices)]
    return found[0] if len(found) == 1 else Filter((AnyOf(tuple(found)),))
