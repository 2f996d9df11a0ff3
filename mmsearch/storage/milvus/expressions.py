"""A filter as a boolean expression of Milvus on the scalar fields of a collection.

What Milvus cannot say exactly (globs, letters of either case, distances, numbers in the user's
metadata) becomes an expression that passes more, and `predicates.passes` compares those rows again.
Not every server takes parameters, so texts are quoted (`layout.quoted`). LIKE is not used, as
servers differ in how they escape its wildcards: prefixes are ranges.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmsearch.filters import KEYS, META, AnyOf, Condition, Filter, Not
from mmsearch.filters.match import bounding_box, time_ranges
from mmsearch.filters.values import number_in
from mmsearch.storage.milvus.layout import quoted
from mmsearch.storage.milvus.predicates import ORIGINS, SPECIAL
from mmsearch.storage.records import IMPORTED_SOURCE, split_path

INTEGERS = frozenset({"source_id", "size", "mtime_ns", "width", "height", "pages"})
"""Fields that hold integers of 64 bits; the other numbers are doubles."""

REQUIRED = frozenset({"id", "source_id", "folder", "name", "kind", "size", "mtime_ns"})
"""Fields that no item lacks."""

_LOW, _HIGH = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Expression:
    """What rows must fulfil to pass a filter.

    Attributes:
        text: Of Milvus; "" passes every row.
        exact: Whether every row that fulfils it passes; if not, rows must be compared again.
        fields: The fields that it names.
    """

    text: str
    exact: bool = True
    fields: frozenset[str] = frozenset()

    @property
    def as_filter(self) -> str:
        """The expression where one is required: ids are above 0."""
        return self.text or "id >= 0"


EVERYTHING = Expression("")
NOTHING = Expression("id < 0", fields=frozenset({"id"}))
UNKNOWN = Expression("", exact=False)
"""Any row may pass."""


def compiled(filter_: Filter, sources: Mapping[int, str]) -> Expression:
    """The expression of a filter, whose keys of metadata are spelled as they are stored.

    Args:
        filter_: The filter.
        sources: The paths of the sources by id.
    """
    return _every([_compiled(one, sources) for one in filter_.conditions])


def both(first: Expression, second: Expression) -> Expression:
    """Whether a row fulfils two expressions."""
    return _every([first, second])


def _compiled(one: Condition | AnyOf | Not, sources: Mapping[int, str]) -> Expression:  # noqa: PLR0911 - a case each
    if isinstance(one, Not):
        return _not(compiled(one.filter, sources))
    if isinstance(one, AnyOf):
        return _any([compiled(part, sources) for part in one.filters])
    if one.op == "in" and not one.value:
        return NOTHING
    if one.key.startswith(META):
        return _of_metadata(one)
    match one.key:
        case "path":
            return _of_path(one, sources)
        case "folder":
            return _of_folder(one, sources)
        case "date":
            taken, modified = (_of_column(name, one) for name in ("taken", "modified"))
            is_taken = _present("taken_at")
            return _any([_every([is_taken, taken]), _every([_not(is_taken), modified])])
        case "near":
            return _of_near(one)
        case "has":
            return _any([_has(what) for what in dict.fromkeys(one.value)])
        case "tag":
            return _of_tag(one)
        case "megapixels":
            return _inexact(_every([_present("width"), _present("height")]))
    return _of_column(one.key, one)


# ---------------------------------------------------------------------- both, either, not


def _every(parts: Sequence[Expression]) -> Expression:
    if NOTHING in parts:
        return NOTHING
    exact = all(part.exact for part in parts)
    return _joined(" and ", [part for part in parts if part.text], exact=exact)


def _any(parts: Sequence[Expression]) -> Expression:
    parts = [part for part in parts if part != NOTHING]
    if not parts:
        return NOTHING
    if EVERYTHING in parts:
        return EVERYTHING
    exact = all(part.exact for part in parts)
    if not all(part.text for part in parts):
        return UNKNOWN
    return _joined(" or ", parts, exact=exact)


def _joined(word: str, parts: Sequence[Expression], *, exact: bool) -> Expression:
    if len(parts) == 1:
        return Expression(parts[0].text, exact, parts[0].fields)
    text = word.join(f"({part.text})" for part in parts)
    return Expression(text, exact, frozenset().union(*(part.fields for part in parts)))


def _not(one: Expression) -> Expression:
    """The rows that an exact expression leaves out.

    Every comparison of a field that may be null says so itself: servers differ in whether the
    negation of a comparison with null holds.
    """
    if not one.exact:
        return UNKNOWN
    if one in (EVERYTHING, NOTHING):
        return NOTHING if one == EVERYTHING else EVERYTHING
    return Expression(f"not ({one.text})", fields=one.fields)


def _inexact(one: Expression) -> Expression:
    return Expression(one.text, exact=False, fields=one.fields)


# ---------------------------------------------------------------------- one field


def _present(field: str) -> Expression:
    if field in REQUIRED:
        return EVERYTHING
    return Expression(f"{field} is not null", fields=frozenset({field}))


def _comparing(field: str, text: str) -> Expression:
    """A comparison, which a row without the field does not fulfil."""
    compared = Expression(text, fields=frozenset({field}))
    return _every([_present(field), compared])


def _text_in(field: str, values: Iterable[str]) -> Expression:
    listed = ",".join(map(quoted, values))
    return _comparing(field, f"{field} in [{listed}]") if listed else NOTHING


def _text_between(field: str, start: str | None, end: str | None) -> Expression:
    """The texts from one on and before another, in order of their characters."""
    bounds = [(">=", start), ("<", end)]
    compared = [f"{field} {sign} {quoted(bound)}" for sign, bound in bounds if bound is not None]
    return _comparing(field, " and ".join(compared)) if compared else _present(field)


def _prefixed(field: str, prefix: str) -> Expression:
    """The texts that begin so."""
    if not prefix:
        return _present(field)
    last = ord(prefix[-1])
    if not 0x20 <= last < 0xD7FF:  # what follows may be no character, or be stored as another
        return _inexact(_present(field))
    return _text_between(field, prefix, prefix[:-1] + chr(last + 1))


def _of_number(field: str, op: str, value: float) -> Expression:  # noqa: PLR0911 - a case each
    if math.isnan(value):
        return NOTHING
    if field not in INTEGERS:
        if math.isinf(value):
            return _present(field) if (value > 0) == (op in ("lt", "lte")) else NOTHING
        return _comparing(field, f"{field} {_SIGNS[op]} {float(value)!r}")
    # integers compare exactly with integers only
    if op in ("gt", "gte"):
        least = _whole(value, up=True) + (op == "gt" and _is_whole(value))
        if least > _HIGH:
            return NOTHING
        return _present(field) if least <= _LOW else _comparing(field, f"{field} >= {least}")
    most = _whole(value, up=False) - (op == "lt" and _is_whole(value))
    if most < _LOW:
        return NOTHING
    return _present(field) if most >= _HIGH else _comparing(field, f"{field} <= {most}")


_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _whole(value: float, *, up: bool) -> int:
    """The nearest integer at or above a number, or at or below; those beyond 64 bits are one."""
    if math.isinf(value):
        return _HIGH + 1 if value > 0 else _LOW - 1
    return math.ceil(value) if up else math.floor(value)


def _is_whole(value: float) -> bool:
    return math.isfinite(value) and value == math.floor(value)


def _number_in(field: str, values: Iterable[float]) -> Expression:
    if field in INTEGERS:
        whole = {int(value) for value in values if _is_whole(value)}
        listed = [str(value) for value in sorted(whole) if _LOW <= value <= _HIGH]
    else:
        listed = [repr(float(value)) for value in values if math.isfinite(value)]
    return _comparing(field, f"{field} in [{','.join(listed)}]") if listed else NOTHING


def _of_column(name: str, one: Condition) -> Expression:  # noqa: PLR0911 - a case each
    key = KEYS[name]
    field = key.field
    assert isinstance(field, str), f"no way to evaluate {name}"
    if one.op == "exists":
        return _present(field)
    if key.type.encode is not None:
        ranges = time_ranges(one, key.type.encode)
        return _any([_of_range(field, *range_) for range_ in ranges])
    if key.type.compared_as == "number":
        if one.op == "in":
            return _number_in(field, one.value)
        return _of_number(field, one.op, one.value)
    if one.op == "in":
        return _text_in(field, one.value)
    if one.op == "glob":
        return _inexact(_prefixed(field, SPECIAL.split(one.value)[0]))
    return _inexact(_present(field))


def _of_range(field: str, start: Any, end: Any) -> Expression:
    if field not in INTEGERS:
        return _text_between(field, start, end)
    bounds = [("gte", start), ("lt", end)]
    found = [_of_number(field, op, bound) for op, bound in bounds if bound is not None]
    return _every([_present(field), *found])


# ---------------------------------------------------------------------- paths


def _below(root: str, path: str) -> str | None:
    """A path below a source; None if it is not in there."""
    if root == IMPORTED_SOURCE:
        return path
    if path == root:
        return ""
    inside = root.rstrip(os.sep) + os.sep
    return path[len(inside) :] if path.startswith(inside) else None


def _of_source(id_: int) -> Expression:
    return Expression(f"source_id == {id_}", fields=frozenset({"source_id"}))


def _of_folder(one: Condition, sources: Mapping[int, str]) -> Expression:
    if one.op != "in":
        return UNKNOWN
    below = _text_in("folder", one.value)
    absolute = []
    for id_, root in sources.items():
        inside = [found for path in one.value if (found := _below(root, path)) is not None]
        if root != IMPORTED_SOURCE and inside:
            absolute.append(_every([_of_source(id_), _text_in("folder", inside)]))
    return _any([below, *absolute])


def _of_path(one: Condition, sources: Mapping[int, str]) -> Expression:
    if one.op == "in":
        # the names are enough to find the rows
        return _inexact(_text_in("name", [os.path.basename(path) for path in one.value]))
    if one.op != "glob":
        return UNKNOWN
    pattern = one.value
    plain = pattern.removeprefix("./").rstrip("/")
    if not plain or pattern.startswith("./") or ("/" not in plain and pattern[:1] != "/"):
        return UNKNOWN
    begin = SPECIAL.split(plain)[0]
    whole = begin == plain
    if not whole:
        begin = begin.rpartition("/")[0]  # the folders that are surely meant
        if not begin:
            return UNKNOWN
    if not plain.startswith("/"):
        return _inexact(_at_or_below(begin, whole=whole))
    found = []
    for id_, root in sources.items():
        if root == IMPORTED_SOURCE:
            found.append(_every([_of_source(id_), _at_or_below(begin, whole=whole)]))
        elif (below := _below(root, begin)) is not None:
            inside = _at_or_below(below, whole=whole) if below else EVERYTHING
            found.append(_every([_of_source(id_), inside]))
        elif _below(begin, root) is not None:  # the source is inside that folder
            found.append(_of_source(id_))
    return _inexact(_any(found))


def _at_or_below(path: str, *, whole: bool) -> Expression:
    """The files in the folder at a path below a source, and in those below it; the file there."""
    inside = [_text_in("folder", [path]), _prefixed("folder", f"{path}/")]
    folder, name = split_path(path)
    if whole:
        inside.append(_every([_text_in("folder", [folder]), _text_in("name", [name])]))
    return _any(inside)


# ---------------------------------------------------------------------- several values


def _of_near(one: Condition) -> Expression:
    (low, high), longitudes = bounding_box(one.value)
    latitude = [_of_number("latitude", "gte", low), _of_number("latitude", "lte", high)]
    longitude = _any(
        [
            _every([_of_number("longitude", "gte", west), _of_number("longitude", "lte", east)])
            for west, east in longitudes
        ]
    )
    return _inexact(_every([*latitude, longitude]))


def _has(what: str) -> Expression:
    if what == "gps":
        return _every([_present("latitude"), _present("longitude")])
    if what == "sound":  # whether a video has sound is compared again
        return _inexact(_text_in("kind", ["audio", "video"]))
    return _holds("origins", ORIGINS[what])


def _of_tag(one: Condition) -> Expression:
    if one.op == "in":
        return _holds("tags", one.value)
    tagged = Expression("array_length(tags) > 0", fields=frozenset({"tags"}))
    return tagged if one.op == "exists" else _inexact(tagged)


def _holds(field: str, values: Iterable[str]) -> Expression:
    """Whether an array holds one of some texts."""
    listed = ",".join(map(quoted, values))
    return Expression(f"array_contains_any({field}, [{listed}])", fields=frozenset({field}))


def _of_metadata(one: Condition) -> Expression:
    key = one.key.removeprefix(META)
    if not _PLAIN.fullmatch(key):
        return UNKNOWN
    there = Expression(f"exists meta[{quoted(key)}]", fields=frozenset({"meta"}))
    if one.op == "exists":
        return there
    if one.op == "in":
        texts = [text for value in one.value for text in value.texts]
        if all(_PLAIN.fullmatch(text) and number_in(text) is None for text in texts):
            ways = [f"meta[{quoted(key)}] == {quoted(text)}" for text in texts]
            found = Expression(" or ".join(ways), fields=frozenset({"meta"}))
            return _every([there, found])
    return _inexact(there)


_PLAIN = re.compile(r"[\w .:+-]+")
"""Keys and texts that every server reads as they are written: in other keys, some read a path of
JSON; and an index of JSON may hold other texts otherwise."""
