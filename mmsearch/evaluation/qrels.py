"""From pairs of queries and files to qrels: queries, and the items of an index that are relevant.

Files and texts that pairs name are resolved to items by one pass over the index.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal, get_args

from mmsearch.errors import InvalidOption, InvalidQuery, UnreadableFile
from mmsearch.evaluation.pairs import Pair
from mmsearch.media.documents.reader import is_document, read_passages
from mmsearch.media.kinds import kind_of
from mmsearch.media.tables import normal_path
from mmsearch.media.text import read_text
from mmsearch.storage.resolver import spellings
from mmsearch.types import Kind, Modality, Part, Query

if TYPE_CHECKING:
    from mmsearch.collection import Collection

Way = Literal["forward", "backward"]
"""From a query to its files, or from a file to the queries that it is relevant to."""
Ways = Literal["forward", "backward", "both"]

NOT_INDEXED = "none of their files is in the index"
NO_GAIN = "none of their files has a gain above 0"
NO_EXAMPLE = "their example is not there"
SEVERAL_PARTS = "a query of several parts is not one item, so no file can search for it"
NO_QUERY = "files of this kind cannot be queries"
NO_TEXT = "the index holds none of their queries"

LISTED = 3
"""Names of a long list that a message shows."""


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query and its relevant items.

    Attributes:
        key: Identifies the query, the same in every index.
        query: What is searched for.
        label: The same, for people to read.
        query_modality: The modalities of its parts, "text+image".
        item_modality: Those of its relevant items, "image".
        target: The modalities to search by default; None leaves the choice to the search.
        relevant: The gain of each relevant item, by id.
        paths: Of the relevant items.
        example_ids: The items that are its own examples, which are left out of its ranking.
        verbatim: Whether a relevant item holds the very words of the query.
    """

    key: tuple[Way, int | str]
    query: Query
    label: str
    query_modality: str
    item_modality: str
    target: tuple[Modality, ...] | None
    relevant: Mapping[int, float]
    paths: tuple[str, ...]
    example_ids: frozenset[int] = frozenset()
    verbatim: bool = False


@dataclass(slots=True)
class Qrels:
    """The judged queries of an index, and what could not be judged.

    Attributes:
        size: Items in the index.
        queries: Those that can be searched.
        missing: Files that are not in the index, as written; a dict for its order.
        ambiguous: Bare names of several files, likewise.
        left_out: Queries that cannot be searched, and why.
    """

    size: int = 0
    queries: list[JudgedQuery] = field(default_factory=list)
    missing: dict[str, None] = field(default_factory=dict)
    ambiguous: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def build_qrels(collection: Collection, pairs: Sequence[Pair], direction: Ways) -> Qrels:
    """Each query with its relevant items, and what the index does not contain.

    Args:
        collection: The index.
        pairs: Queries and files.
        direction: "forward" searches for the files of each query; "backward" searches with each
            file for the items that hold the words of its queries, or are their examples; "both".

    Raises:
        InvalidOption: there is no such direction.
        InvalidQuery: there is nothing to search for.
    """
    if direction not in get_args(Ways):
        known = ", ".join(get_args(Ways))
        raise InvalidOption(f"a direction is one of {known}, not {direction!r}")
    if not pairs:
        raise InvalidQuery(
            "there are no pairs of a query and a file: write one per line, with a tab between "
            "them, such as 'a dog on the beach' and beach/rex.jpg"
        )
    parts = [part for pair in pairs for part in pair.query.parts]
    names = {name for pair in pairs for name in pair.relevant}
    names |= {os.fspath(part.content) for part in parts if is_file(part)}
    texts = {part.content for part in parts if part.modality == "text"}
    folders = {pair.folder for pair in pairs}
    builder = _Builder(ItemResolver(collection, names, folders, texts))
    if direction != "backward":
        for number, pair in enumerate(pairs):
            builder.forward(number, pair)
    if direction != "forward":
        builder.backward(pairs)
    if not builder.qrels.queries:
        raise InvalidQuery(_why_empty(builder.qrels, pairs))
    return builder.qrels


class _Builder:
    """Judges pairs one after the other."""

    def __init__(self, resolver: ItemResolver) -> None:
        self._resolver = resolver
        self.qrels = Qrels(resolver.size)

    def forward(self, number: int, pair: Pair) -> None:
        """Judge a query that searches for files."""
        label = _label(pair.query)
        graded = self._relevant(pair)
        located = [self._resolved(part, pair.folder) for part in pair.query.parts]
        parts = [part for part, _ in located if part is not None]
        if not graded or len(parts) < len(located):
            self.qrels.left_out[label] = NO_EXAMPLE if graded else _why_nothing_is_relevant(pair)
            return
        relevant = {item.id: gain for item, gain in sorted(graded, key=lambda pair: pair[1])}
        modalities = tuple(sorted({item.modality for item, _ in graded}))
        words = [part.content for part in parts if part.modality == "text"]
        holding = {item.id for text in words for item in self._resolver.with_text(text)}
        judged = JudgedQuery(
            key=("forward", number),
            query=Query(tuple(parts)),
            label=label,
            query_modality="+".join(dict.fromkeys(part.modality for part in parts)),
            item_modality="+".join(modalities),
            target=None if words else modalities,
            relevant=relevant,
            paths=tuple(dict.fromkeys(item.path for item, _ in graded)),
            example_ids=frozenset(own for _, own in located if own is not None) - relevant.keys(),
            verbatim=bool(holding & relevant.keys()),
        )
        self.qrels.queries.append(judged)

    def backward(self, pairs: Sequence[Pair]) -> None:
        """Judge the files of all pairs, each of which searches for the queries it answers."""
        answers: dict[tuple[str, Modality], list[tuple[ItemRef, float]]] = {}
        own: dict[str, int] = {}
        for pair in pairs:
            if len(pair.query.parts) > 1:
                self.qrels.left_out[_label(pair.query)] = SEVERAL_PARTS
                continue
            part = pair.query.parts[0]
            for name, gain in pair.relevant.items():
                path, item = self._path(name, pair.folder)
                if path is None:
                    self.qrels.missing[name] = None
                elif gain > 0:
                    found = self._matching(part, pair.folder)
                    answers.setdefault((path, part.modality), []).extend(
                        (item, gain) for item in found
                    )
                    own |= {} if item is None else {path: item}
        for (path, modality), graded in answers.items():
            self._file_as_query(path, modality, graded, own.get(path))

    def _file_as_query(
        self, path: str, modality: Modality, graded: list[tuple[ItemRef, float]], own: int | None
    ) -> None:
        part = _as_query(path)
        if part is None or not graded:
            self.qrels.left_out[path] = NO_TEXT if part else NO_QUERY
            return
        relevant = {item.id: gain for item, gain in sorted(graded, key=lambda pair: pair[1])}
        judged = JudgedQuery(
            key=("backward", f"{path} → {modality}"),
            query=Query((part,)),
            label=path,
            query_modality=part.modality,
            item_modality=modality,
            target=(modality,),
            relevant=relevant,
            paths=tuple(dict.fromkeys(item.path for item, _ in graded)),
            example_ids=frozenset(() if own is None else (own,)) - relevant.keys(),
        )
        self.qrels.queries.append(judged)

    def _relevant(self, pair: Pair) -> list[tuple[ItemRef, float]]:
        """The relevant items of a pair and their gains; names without one item are noted."""
        graded = []
        for name, gain in pair.relevant.items():
            items = self._resolver.find(name, pair.folder)
            if len(items) > 1:
                self.qrels.ambiguous[name] = None
            elif not items:
                self.qrels.missing[name] = None
            elif gain > 0:
                graded.append((items[0], gain))
        return graded

    def _resolved(self, part: Part, folder: str) -> tuple[Part | None, int | None]:
        """A part with the path of its example (None if that does not exist), and its item's id."""
        if not is_file(part):
            return part, None
        path, item = self._path(os.fspath(part.content), folder)
        return (None if path is None else replace(part, content=path)), item

    def _path(self, name: str, folder: str) -> tuple[str | None, int | None]:
        """The path of a file, indexed or not, and the id of its item."""
        items = self._resolver.find(name, folder)
        if len(items) == 1:
            return items[0].path, items[0].id
        paths = (os.path.join(os.path.abspath(folder), path) for path in _spellings_of(name))
        return (None if items else next(filter(os.path.isfile, paths), None)), None

    def _matching(self, part: Part, folder: str) -> list[ItemRef]:
        """The items that hold the words of a query, or the item that is its example."""
        if part.modality == "text":
            return self._resolver.with_text(part.content)
        items = self._resolver.find(os.fspath(part.content), folder) if is_file(part) else []
        return items if len(items) == 1 else []


def is_file(part: Part) -> bool:
    """Whether a part of a query is an example in a file."""
    return part.modality != "text" and isinstance(part.content, (str, os.PathLike))


def _label(query: Query) -> str:
    return " + ".join(str(part.content) for part in query.parts)


def _as_query(path: str) -> Part | None:
    """A file as a query, or None if its kind cannot be one."""
    kind = kind_of(path)
    if kind == "text":
        with suppress(UnreadableFile):
            if is_document(path):
                passages = read_passages(path, path)
                return Part("text", "\n\n".join(part.text for part in passages))
            return Part("text", read_text(path))
    return Part(kind, path) if kind in ("image", "audio") else None


def _why_nothing_is_relevant(pair: Pair) -> str:
    return NOT_INDEXED if any(gain > 0 for gain in pair.relevant.values()) else NO_GAIN


def _why_empty(qrels: Qrels, pairs: Sequence[Pair]) -> str:
    """Why there is nothing to search for, and the cure."""
    if qrels.ambiguous and not qrels.missing:
        return f"every file named exists several times ({few(qrels.ambiguous)}): write their paths"
    named = {name for pair in pairs for name in pair.relevant}
    if named and len(qrels.missing) == len(named):
        return (
            f"none of the {len(qrels.missing)} files named is in the index "
            f"({few(qrels.missing)}); if the file comes first in each line, add "
            "--columns file,query"
        )
    reasons = Counter(qrels.left_out.values()).most_common()
    counts = ", ".join(f"{count}: {reason}" for reason, count in reasons)
    return f"none of the queries can be searched ({counts})"


def few(names: Iterable[str]) -> str:
    """The first names of a list, for a message."""
    first = list(islice(names, LISTED + 1))
    return ", ".join(map(repr, first[:LISTED])) + (", …" if len(first) > LISTED else "")


# ---------------------------------------------------------------------- items of an index

MODALITIES: Mapping[Kind, Modality] = {
    "image": "image",
    "video": "image",
    "audio": "audio",
    "text": "text",
    "document": "text",
}
"""The modality that items of each kind are searched by."""


@dataclass(frozen=True, slots=True)
class ItemRef:
    """An item, as far as an evaluation needs it."""

    id: int
    path: str
    modality: Modality


class ItemResolver:
    """The items of a collection that some file names or texts may refer to, read in one pass.

    Attributes:
        size: How many items the collection holds.
    """

    def __init__(
        self,
        collection: Collection,
        names: Iterable[str],
        folders: Iterable[str],
        texts: Iterable[str],
    ) -> None:
        """Read the items.

        Args:
            collection: Where they are.
            names: Every name that `find` will be called with.
            folders: Every folder that `find` will be called with.
            texts: Every text that `with_text` will be called with.
        """
        self.size = 0
        roots = [root for source in collection.status()["sources"] for root in spellings(source)]
        self._tops = {one: [*spellings(one or os.curdir), *roots] for one in folders}
        self._by_path: dict[str, ItemRef] = {}
        self._by_name: dict[str, list[ItemRef]] = {
            _base(path): [] for name in names for path in _spellings_of(name)
        }
        self._by_text: dict[str, list[ItemRef]] = {_words(text): [] for text in texts}
        for item in collection.items:
            self.size += 1
            ref = ItemRef(item.id, item.path, MODALITIES[item.modality])
            if (namesakes := self._by_name.get(_base(item.path))) is not None:
                namesakes.append(ref)
                self._by_path[normal_path(item.path)] = ref
            for words in {_words(part.text) for part in item.texts} & self._by_text.keys():
                self._by_text[words].append(ref)

    def find(self, name: str, folder: str) -> list[ItemRef]:
        """The items that a name may refer to: none, one, or the several files of that bare name.

        Args:
            name: A path: absolute, or relative to `folder` or to an indexed folder, or as an item
                was imported. A name without a folder may also be that of a file anywhere in the
                index.
            folder: The folder of the file that `name` was read from.
        """
        for path in _spellings_of(name):
            for top in (*self._tops[folder], ""):  # imported items have paths in no folder
                if found := self._by_path.get(normal_path(os.path.join(top, path))):
                    return [found]
        return self._by_name[normal_path(name)] if os.path.basename(name) == name else []

    def with_text(self, text: str) -> list[ItemRef]:
        """The items that hold a text word for word, by id; white space makes no difference."""
        return sorted(self._by_text[_words(text)], key=lambda ref: ref.id)


def _spellings_of(name: str) -> tuple[str, ...]:
    """A path as written, and with slashes if it has backslashes, as on Windows."""
    return (name, name.replace("\\", "/")) if "\\" in name else (name,)


def _base(path: str) -> str:
    return os.path.basename(normal_path(path))


def _words(text: str) -> str:
    return " ".join(text.split())
