"""From pairs to what can be asked of an index, and what is right there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from mmsearch.errors import InvalidOption, InvalidQuery, UnreadableFile
from mmsearch.evaluation.item_resolver import Place, SeveralItems, Shelf, few
from mmsearch.media.kinds import kind_of
from mmsearch.media.pairs import Pair
from mmsearch.media.text import read_text
from mmsearch.types import Modality, Part, Query

if TYPE_CHECKING:
    from mmsearch.collection import Collection

Way = Literal["forward", "backward"]
"""From a query to its files, or from a file to the queries it is right for."""

Ways = Literal["forward", "backward", "both"]

NOT_HELD = "none of their files is in the index"
NO_EXAMPLE = "their example is not there"
NO_ITEM = "no item is what a query of several parts asks with"
NO_QUERY = "files of this kind cannot be asked with"
NO_HOLDER = "the index holds none of their queries"


@dataclass(frozen=True, slots=True)
class Judged:
    """One query as it is put to the index, and what is right.

    Attributes:
        key: What tells it from the others, the same in every index.
        query: What is asked.
        shown: The same, for people.
        asked: The modalities of its parts, "text+image".
        wanted: What it is to find, "image".
        target: The facets to search unless the settings say so; None leaves it to the search.
        relevant: What finding each right item is worth, by id.
        paths: Of the right items.
        own: The items that are its own examples: each would only find itself.
        verbatim: Whether a right item holds the very words of the query.
    """

    key: tuple[Way, int | str]
    query: Query
    shown: str
    asked: str
    wanted: str
    target: tuple[Modality, ...] | None
    relevant: Mapping[int, float]
    paths: tuple[str, ...]
    own: frozenset[int] = frozenset()
    verbatim: bool = False


@dataclass(slots=True)
class Docket:
    """What is to be asked, and what cannot be.

    Attributes:
        size: Items in the index.
        missing: Files that are not in it, as they are written.
        ambiguous: Bare names of several files.
        left_out: Queries that cannot be asked, and why.
    """

    size: int = 0
    judged: list[Judged] = field(default_factory=list)
    missing: dict[str, None] = field(default_factory=dict)
    ambiguous: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def judge(collection: Collection, pairs: Sequence[Pair], direction: Ways = "forward") -> Docket:
    """Each query with the items that are right for it; what the index does not hold is listed.

    Args:
        collection: What is to be asked.
        pairs: Queries and files.
        direction: "forward" asks the queries for their files; "backward" each file for its
            queries: for the items that hold its words, or for its examples.

    Raises:
        InvalidOption: there is no such direction.
        InvalidQuery: nothing can be asked.
    """
    if direction not in get_args(Ways):
        known = ", ".join(get_args(Ways))
        raise InvalidOption(f"a direction is one of {known}, not {direction!r}")
    if not pairs:
        raise InvalidQuery("there are no pairs of a query and a file")
    names = {name for pair in pairs for name in pair.relevant}
    parts = [part for pair in pairs for part in pair.query.parts]
    names |= {os.fspath(part.content) for part in parts if _is_file(part)}
    texts = {part.content for part in parts if part.modality == "text"}
    bench = _Bench(Shelf(collection, names, texts))
    if direction != "backward":
        for number, pair in enumerate(pairs):
            bench.forward(number, pair)
    if direction != "forward":
        bench.backward(pairs)
    if not bench.docket.judged:
        raise InvalidQuery(_nothing(bench.docket, pairs))
    return bench.docket


def _is_file(part: Part) -> bool:
    return part.modality != "text" and isinstance(part.content, (str, os.PathLike))


def _shown(query: Query) -> str:
    return " + ".join(str(part.content) for part in query.parts)


class _Bench:
    """Takes pairs up one after the other."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.docket = Docket(shelf.size)

    def forward(self, number: int, pair: Pair) -> None:
        """Take up a query that asks for files."""
        shown = _shown(pair.query)
        found = self._graded(pair)
        located = [self._located(part, pair.folder) for part in pair.query.parts]
        parts = [part for part, _ in located if part is not None]
        if not found or len(parts) < len(located):
            self.docket.left_out[shown] = NO_EXAMPLE if found else NOT_HELD
            return
        relevant = {place.id: gain for place, gain in found}
        facets = tuple(sorted({place.facet for place, _ in found}))
        words = [part.content for part in parts if part.modality == "text"]
        held = {place.id for text in words for place in self._shelf.holders(text)}
        judged = Judged(
            key=("forward", number),
            query=Query(tuple(parts)),
            shown=shown,
            asked="+".join(dict.fromkeys(part.modality for part in parts)),
            wanted="+".join(facets),
            target=None if words else facets,
            relevant=relevant,
            paths=tuple(place.path for place, _ in found),
            own=frozenset(own for _, own in located if own is not None) - relevant.keys(),
            verbatim=bool(held & relevant.keys()),
        )
        self.docket.judged.append(judged)

    def backward(self, pairs: Sequence[Pair]) -> None:
        """Take up the files of all pairs, each of which asks for what asked for it."""
        askers: dict[tuple[str, Modality], list[tuple[Place, float]]] = {}
        own: dict[str, int] = {}
        for pair in pairs:
            if len(pair.query.parts) > 1:
                self.docket.left_out[_shown(pair.query)] = NO_ITEM
                continue
            part = pair.query.parts[0]
            for name, gain in pair.relevant.items():
                path, item = self._path(name, pair.folder)
                if path is None:
                    self.docket.missing[name] = None
                elif gain > 0:
                    holding = askers.setdefault((path, part.modality), [])
                    holding += [(place, gain) for place in self._holding(part, pair.folder)]
                    own |= {} if item is None else {path: item}
        for (path, modality), found in askers.items():
            self._ask_back(path, modality, found, own.get(path))

    def _ask_back(
        self, path: str, modality: Modality, found: Sequence[tuple[Place, float]], own: int | None
    ) -> None:
        asked = _asking_with(path)
        if asked is None or not found:
            self.docket.left_out[path] = NO_HOLDER if asked else NO_QUERY
            return
        relevant = {place.id: gain for place, gain in sorted(found, key=lambda pair: pair[1])}
        judged = Judged(
            key=("backward", f"{path} → {modality}"),
            query=Query((asked,)),
            shown=path,
            asked=asked.modality,
            wanted=modality,
            target=(modality,),
            relevant=relevant,
            paths=tuple(dict.fromkeys(place.path for place, _ in found)),
            own=frozenset(() if own is None else (own,)) - relevant.keys(),
        )
        self.docket.judged.append(judged)

    def _graded(self, pair: Pair) -> list[tuple[Place, float]]:
        """The right items of a pair; what is not found is noted."""
        found = []
        for name, gain in pair.relevant.items():
            try:
                place = self._shelf.find(name, pair.folder)
            except SeveralItems:
                self.docket.ambiguous[name] = None
                continue
            if place is None:
                self.docket.missing[name] = None
            elif gain > 0:
                found.append((place, gain))
        return found

    def _located(self, part: Part, folder: str) -> tuple[Part | None, int | None]:
        """A part whose example is found, if it has one, and the item that it is."""
        if not _is_file(part):
            return part, None
        path, item = self._path(os.fspath(part.content), folder)
        return (None if path is None else replace(part, content=path)), item

    def _path(self, name: str, folder: str) -> tuple[str | None, int | None]:
        """Where a file is, in the index or not, and the item that it is."""
        try:
            place = self._shelf.find(name, folder)
        except SeveralItems:
            return None, None
        if place is not None:
            return place.path, place.id
        path = os.path.join(os.path.abspath(folder), name)
        return (path if os.path.isfile(path) else None), None

    def _holding(self, part: Part, folder: str) -> list[Place]:
        """The items that hold the words of a query, or are its example."""
        if part.modality == "text":
            return self._shelf.holders(part.content)
        if not _is_file(part):
            return []
        try:
            place = self._shelf.find(os.fspath(part.content), folder)
        except SeveralItems:
            return []
        return [] if place is None else [place]


def _asking_with(path: str) -> Part | None:
    """A file as a query; None when it is of no kind that can ask."""
    kind = kind_of(path)
    if kind == "text":
        with suppress(UnreadableFile):
            return Part("text", read_text(path))
    return Part(kind, path) if kind in ("image", "audio") else None


def _nothing(docket: Docket, pairs: Sequence[Pair]) -> str:
    """Why nothing can be asked, and what to do."""
    if docket.ambiguous and not docket.missing:
        return (
            f"every file that is named is there several times ({few(docket.ambiguous)}): "
            "write their paths"
        )
    if len(docket.missing) == len({name for pair in pairs for name in pair.relevant}):
        return (
            f"none of the {len(docket.missing)} files that are named is in the index "
            f"({few(docket.missing)}); if the file stands first in a line, say so: "
            "--columns file,query"
        )
    reasons = Counter(docket.left_out.values()).most_common()
    told = ", ".join(f"{count}: {reason}" for reason, count in reasons)
    return f"none of the queries can be asked ({told})"
