"""The parts of a query: which of them count, and for how much."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, get_args

from mmsearch.errors import InvalidQuery
from mmsearch.types import Modality, Part, Query

HUGE = 1e300
"""Weights above it are scaled down, so that their sums stay finite."""

NEGLIGIBLE = 1e-6
"""What is left of parts that cancel each other out, as a share of the largest."""

CANCELLED = "the parts of the query cancel each other out"
EMPTY = "the query is empty: say in words what to look for"


def parts_of(query: str | Query) -> tuple[Part, ...]:
    """The parts of a query that count, the heaviest first; equal ones are one of their sum.

    The order in which they were given makes no difference.

    Raises:
        InvalidQuery: there are none, or only such as push away, or one is of no known modality,
            or a weight is no number.
    """
    asked = query if isinstance(query, Query) else Query.text(query)
    weights = [_number(part.weight) for part in asked.parts]
    largest = max(map(abs, weights), default=0.0)
    scale = largest if largest > HUGE else 1.0
    given = [
        replace(part, weight=weight / scale)
        for part, weight in zip(asked.parts, weights, strict=True)
        if weight != 0
    ]
    if not given:
        raise InvalidQuery(EMPTY)
    for part in given:
        _check_part(part)
    parts = _merged(given) if len(given) > 1 else given
    if not parts:
        raise InvalidQuery(CANCELLED)
    if not any(part.weight > 0 for part in parts):
        raise InvalidQuery("the query says only what is not wanted: say what to look for as well")
    return tuple(parts)


def _number(weight: object) -> float:
    try:
        number = float(weight) if isinstance(weight, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidQuery(f"a weight is a number, not {weight!r}")
    return number


def _check_part(part: Part) -> None:
    if part.modality not in get_args(Modality):
        known = ", ".join(get_args(Modality))
        raise InvalidQuery(f"a part of a query is one of {known}, not {part.modality!r}")
    if part.modality == "text":
        words_of(part.content)


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Parts in an order of their own; those that are equal are one, or none if they cancel out."""
    same: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        same.setdefault((part.modality, _told_apart(part.content)), []).append(part)
    negligible = NEGLIGIBLE * max(abs(part.weight) for part in parts)
    merged: list[tuple[float, tuple[str, str], Part]] = []
    for key, equal in same.items():
        weight = math.fsum(part.weight for part in equal)
        if len(equal) == 1 or abs(weight) > negligible:
            merged.append((-weight, key, replace(equal[0], weight=weight)))
    return [part for _, _, part in sorted(merged, key=lambda one: one[:2])]


def _told_apart(content: Any) -> str:
    """The same for the same words, path or picture, and for nothing else."""
    if isinstance(content, (str, os.PathLike)):
        return os.fsdecode(content)
    from PIL.Image import Image

    if not isinstance(content, Image):
        return f"{type(content).__name__} {id(content)}"  # is refused when it is encoded
    from mmsearch.media.image import upright

    seen = upright(content)
    return f"{seen.size} {hashlib.sha256(seen.tobytes()).hexdigest()}"


def words_of(content: Any) -> str:
    """A text as an encoder takes it.

    Raises:
        InvalidQuery: it is no string, or empty.
    """
    if not isinstance(content, str):
        raise InvalidQuery(f"a text query is a string, not {type(content).__name__}")
    if not content.strip():
        raise InvalidQuery(EMPTY)
    # a shell may hand over bytes that are not UTF-8, which no tokenizer takes
    return content.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def told(part: Part) -> str:
    """A part, for a message."""
    content = part.content if isinstance(part.content, (str, os.PathLike)) else "given"
    kind = {"text": "the text", "image": "the picture", "audio": "the sound"}[part.modality]
    return f"{kind} {os.fspath(content)!r}"
