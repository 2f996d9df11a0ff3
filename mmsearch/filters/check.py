"""Whether a filter can be answered by a store, whose items have certain keys of metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from mmsearch.errors import InvalidFilter
from mmsearch.filters.keys import KEYS
from mmsearch.filters.match import folded
from mmsearch.filters.model import META, AnyOf, Condition, Filter, Not, Period

DEEPEST = 40
"""Levels to which filters may be nested: Python and SQLite both have a limit."""

MOST_CONDITIONS = 250
MOST_VALUES = 10_000
"""In one filter: SQLite takes expressions of 1,000 levels, and 32,766 parameters."""


def checked(
    filter_: Filter, is_key: Callable[[str], bool], keys: Callable[[], Sequence[str]]
) -> Filter:
    """A filter with the keys of the user's metadata as they are stored.

    A key that no item has so is one that differs in case, or in how its accents are composed.

    Args:
        filter_: The filter.
        is_key: Whether some item has a key of metadata.
        keys: Returns all that there are, sorted; called only if one is not there.

    Raises:
        InvalidFilter: it cannot be answered here.
    """
    found = list(conditions(filter_))
    values = [value for one in found if one.op == "in" for value in one.value]
    periods = sum(isinstance(value, Period) for value in values)  # each is two comparisons
    if len(found) + periods > MOST_CONDITIONS or len(values) > MOST_VALUES:
        raise InvalidFilter(
            f"a filter has at most {MOST_CONDITIONS} conditions and {MOST_VALUES:,} values"
        )
    own = {one.key.removeprefix(META) for one in found if one.key not in KEYS}
    stored: dict[str, list[str]] = {}
    for key in sorted(own):
        if not is_key(key):
            there = keys()
            stored[META + key] = alike = [META + one for one in there if folded(one) == folded(key)]
            if not alike:
                raise InvalidFilter(_unknown(key, there))
    return _with_keys(filter_, stored) if stored else filter_


def conditions(filter_: Filter) -> Iterator[Condition]:
    """All conditions of a filter."""
    level, waiting = 0, [filter_]
    while waiting:
        if level == DEEPEST:
            raise InvalidFilter(f"a filter is nested {DEEPEST // 2} deep at most")
        level, parts = level + 1, [one for part in waiting for one in part.conditions]
        yield from (one for one in parts if isinstance(one, Condition))
        waiting = [one.filter for one in parts if isinstance(one, Not)]
        waiting += [part for one in parts if isinstance(one, AnyOf) for part in one.filters]


def _with_keys(filter_: Filter, stored: Mapping[str, Sequence[str]]) -> Filter:
    """A filter with other keys in place of some, any of which may fulfil a condition."""

    def renamed(one: Condition | AnyOf | Not) -> Condition | AnyOf | Not:
        if isinstance(one, Not):
            return Not(_with_keys(one.filter, stored))
        if isinstance(one, AnyOf):
            return AnyOf(tuple(_with_keys(part, stored) for part in one.filters))
        if one.key not in stored:
            return one
        ways = [replace(one, key=key) for key in stored[one.key]]
        return ways[0] if len(ways) == 1 else AnyOf(tuple(Filter((way,)) for way in ways))

    return Filter(tuple(map(renamed, filter_.conditions)))


def _unknown(key: str, own: Sequence[str]) -> str:
    from difflib import get_close_matches

    known = [*KEYS, *(f"{META}{one}" if one in KEYS else one for one in own)]
    near = get_close_matches(key, known, 1)
    perhaps = f"; did you mean {near[0]!r}?" if near else ";"
    mine = f"; and of metadata: {', '.join(known[len(KEYS) :])}" if own else ""
    return f"no item has a key {key!r}{perhaps} there are: {', '.join(KEYS)}{mine}"
