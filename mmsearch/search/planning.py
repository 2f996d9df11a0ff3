"""Query planning: which parts of a query are encoded by which model, to search which vectors."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, get_args

from mmsearch.errors import InvalidQuery, UnsupportedModality
from mmsearch.search.setting_formats import item_id
from mmsearch.search.settings import Combine
from mmsearch.storage import Serving, Space
from mmsearch.types import Modality, Part, Query, StoredItem

MAX_WEIGHT = 1e300
"""Larger weights are scaled down, so that their sums stay finite."""

NEGLIGIBLE = 1e-6
"""A sum of parts below this share of the largest part counts as zero."""

CANCELLED = "the parts of the query cancel each other out"
EMPTY = "the query is empty: say in words what to look for"

Encodable = Callable[[Space, Part], bool]
"""Whether a query part has a vector in a space, or can be encoded for it."""


def can_encode(space: Space, part: Part) -> bool:
    """Whether the encoder of a space takes the modality of a part."""
    return part.modality in space.modalities


@dataclass(frozen=True, slots=True)
class PlannedQuery:
    """One ranking to be made for a query."""

    modality: Modality
    """What is searched."""
    space: Space
    """The space that is searched."""
    parts: tuple[Part, ...]
    """The query parts whose weighted sum is the query vector."""
    weight: float = 1.0
    """The weight of this ranking among those of the query."""
    bridged_from: Space | None = None
    """The space that the part is encoded in, if that is another one. The texts nearest to it there,
    which have vectors in both spaces, then replace it: their mean is the query vector."""

    @property
    def encoded_in(self) -> Space:
        """The space that the parts are encoded in."""
        return self.bridged_from or self.space


def plan(
    query: str | Query,
    targets: Sequence[Modality],
    combine: Combine,
    serving: Serving,
    encodable: Encodable = can_encode,
) -> list[PlannedQuery]:
    """The rankings that answer a query: one for each modality, or for each modality and part.

    Args:
        query: What is searched for.
        targets: The modalities to search.
        combine: "early" sums the vectors of the parts; "late" makes a ranking for each part.
        serving: The spaces that can be searched, the preferred one first, with their modalities.
        encodable: Whether a part has, or can be given, a vector in a space.

    Raises:
        InvalidQuery: the query is empty.
        UnsupportedModality: no model can encode one of the parts; the message names it.
    """
    parts = parts_of(query)
    if len(parts) == 1:
        parts = (replace(parts[0], weight=1.0),)  # the weight of a single part has no effect
    routes = _Routes(serving, encodable)
    routes.check_encodable(parts)
    groups = [parts] if combine == "early" else [(part,) for part in parts]
    planned = []
    for modality in targets:
        for group in groups if routes.spaces_with(modality) else []:
            space, bridged_from = routes.find(modality, group)
            weight = group[0].weight if len(group) < len(parts) else 1.0
            planned.append(PlannedQuery(modality, space, group, weight, bridged_from))
    return planned


# ---------------------------------------------------------------------- parts of a query


def parts_of(query: str | Query) -> tuple[Part, ...]:
    """The parts of a query, the heaviest first; equal ones are merged, their weights added.

    The order in which they were given makes no difference.

    Raises:
        InvalidQuery: no part is left, or only negative ones, or one has an unknown modality, or a
            weight is not a number.
    """
    given = query.parts if isinstance(query, Query) else Query.text(query).parts
    weights = [_number(part.weight) for part in given]
    largest = max(map(abs, weights), default=0.0)
    scale = largest if largest > MAX_WEIGHT else 1.0
    weighted = [
        replace(part, weight=weight / scale)
        for part, weight in zip(given, weights, strict=True)
        if weight != 0
    ]
    if not weighted:
        raise InvalidQuery(EMPTY)
    for part in weighted:
        if part.modality not in get_args(Modality):
            known = ", ".join(get_args(Modality))
            raise InvalidQuery(f"a part of a query is one of {known}, not {part.modality!r}")
        if isinstance(part.content, StoredItem):
            item_id(part.content.id)
        elif part.modality == "text":
            words_of(part.content)
    parts = _merged(weighted) if len(weighted) > 1 else weighted
    if not parts:
        raise InvalidQuery(CANCELLED)
    if not any(part.weight > 0 for part in parts):
        raise InvalidQuery("all parts of the query are negative: say what to look for as well")
    return tuple(parts)


def words_of(content: Any) -> str:
    """The text of a query part, as an encoder takes it.

    Raises:
        InvalidQuery: it is not a string, or empty.
    """
    if not isinstance(content, str):
        raise InvalidQuery(f"a text query is a string, not {type(content).__name__}")
    if not content.strip():
        raise InvalidQuery(EMPTY)
    # a shell may pass bytes that are not UTF-8, which no tokenizer takes
    return content.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _number(weight: object) -> float:
    try:
        number = float(weight) if isinstance(weight, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidQuery(f"a weight is a number, not {weight!r}")
    return number


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Parts in a canonical order; equal ones are merged, and left out if they cancel out."""
    same: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        same.setdefault((part.modality, _identity(part.content)), []).append(part)
    negligible = NEGLIGIBLE * max(abs(part.weight) for part in parts)
    merged: list[tuple[float, tuple[str, str], Part]] = []
    for identity, equal in same.items():
        weight = math.fsum(part.weight for part in equal)
        if len(equal) == 1 or abs(weight) > negligible:
            merged.append((-weight, identity, replace(equal[0], weight=weight)))
    return [part for _, _, part in sorted(merged, key=lambda entry: entry[:2])]


def _identity(content: Any) -> str:
    """A string that identifies the words, path, bytes or picture."""
    if isinstance(content, (str, os.PathLike)):
        return os.fsdecode(content)
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if isinstance(content, StoredItem):
        return f"item {content.id}"
    from PIL.Image import Image

    if not isinstance(content, Image):
        return f"{type(content).__name__} {id(content)}"  # encoding it will raise an error
    from mmsearch.media.image import upright

    picture = upright(content)
    return f"{picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()}"


# ---------------------------------------------------------------------- spaces for the parts


@dataclass(frozen=True, slots=True)
class _Routes:
    """Finds the spaces to search in, and to encode in, for the parts of a query."""

    serving: Serving
    encodable: Encodable

    def spaces_with(self, modality: Modality) -> list[Space]:
        """The spaces that a modality is searched in."""
        return [space for space, modalities in self.serving if modality in modalities]

    def encodable_in(self, spaces: Sequence[Space], part: Part) -> bool:
        """Whether a part can be encoded in any of some spaces."""
        return any(self.encodable(space, part) for space in spaces)

    def check_encodable(self, parts: Sequence[Part]) -> None:
        """Raise an error if no model can encode one of the parts."""
        spaces = [space for space, _ in self.serving]
        for part in parts:
            if spaces and not self.encodable_in(spaces, part):
                raise UnsupportedModality(
                    f"{_in_words(part)} cannot be searched with: {_names(spaces)} cannot encode "
                    f"{part.modality}; add a model that can: mmsearch index --model mini"
                )

    def bridge(self, part: Part, targets: Sequence[Space]) -> tuple[Space, Space] | None:
        """A space that can encode a part, and a target that has vectors of texts as well."""
        with_texts = self.spaces_with("text")
        for source in with_texts:
            for target in targets:
                if self.encodable(source, part) and target in with_texts:
                    return source, target
        return None

    def find(self, modality: Modality, parts: Sequence[Part]) -> tuple[Space, Space | None]:
        """The space to search in, and the space to encode in if that is another."""
        spaces = self.spaces_with(modality)
        for space in spaces:
            if all(self.encodable(space, part) for part in parts):
                return space, None
        if len(parts) == 1 and (bridge := self.bridge(parts[0], spaces)):
            return bridge[1], bridge[0]
        foreign = [part for part in parts if not self.encodable_in(spaces, part)]
        for part in foreign:
            if self.bridge(part, spaces) is None:
                raise UnsupportedModality(
                    f"{_in_words(part)} cannot be compared with what is searched ({modality}): "
                    f"{_names(spaces)} does not take {part.modality}, and the index has no "
                    "captions or texts that could bridge the two. Index a model that takes both "
                    "(mmsearch index --model mini), or captions (--captions FILE)"
                )
        together = " and ".join(
            {part.modality: _in_words(part) for part in reversed(parts)}.values()
        )
        alone = "; texts can bridge two models for a part on its own only" if foreign else ""
        raise UnsupportedModality(
            f"{together} cannot be added up to search {modality}: no one model takes them all"
            f"{alone}. Try --combine late, which ranks for each part"
        )


def _in_words(part: Part) -> str:
    """A part, for a message."""
    if isinstance(part.content, StoredItem):
        return f"item {part.content.id}"
    content = part.content if isinstance(part.content, (str, os.PathLike)) else "given"
    kind = {"text": "the text", "image": "the picture", "audio": "the sound"}[part.modality]
    return f"{kind} {os.fspath(content)!r}"


def _names(spaces: Sequence[Space]) -> str:
    return " and ".join(repr(space.name) for space in spaces)
