"""Query by example: the modalities that a file or stored item is compared by, and its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidQuery, PathNotFound, UnreadableFile, UnsupportedModality
from mmsearch.media.kinds import FORMATS, kind_of
from mmsearch.media.members import exists
from mmsearch.search.planning import PlannedQuery, can_encode, plan
from mmsearch.search.query_vectors import encode_parts, unit_sum
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import Serving, Space
from mmsearch.storage.resolver import is_current, item_at
from mmsearch.types import Item, Kind, Modality, Part, Query, StoredItem

if TYPE_CHECKING:
    from mmsearch.types import Vectors

COMPARED_BY: dict[Kind, tuple[Modality, ...]] = {
    "image": ("image", "text"),
    "text": ("text",),
    "audio": ("audio", "text"),
    "video": ("image", "audio", "text"),
    "document": ("image", "text"),
}
"""The modalities that a file can be compared by, the preferred one first."""


class StoredParts:
    """The parts of a query some of which are items of the index.

    Args:
        index: That they are stored in.
        serving: The spaces that can be searched, with their modalities.
        parts: All parts of the query.

    Raises:
        InvalidQuery: no item has one of the ids.
        UnsupportedModality: an item has no vectors.
    """

    def __init__(self, index: OpenIndex, serving: Serving, parts: Sequence[Part]) -> None:
        self._index = index
        self._serving = serving
        self._parts = parts
        self._present: dict[tuple[int, int, Modality], bool] = {}
        ids = {part.content.id for part in parts if isinstance(part.content, StoredItem)}
        items = index.store.items.get(sorted(ids))
        if missing := ids - items.keys():
            raise InvalidQuery(f"no item of the index has the id {min(missing)}")
        self._modalities = {id_: self._modalities_of(item) for id_, item in items.items()}

    @property
    def modalities(self) -> list[Modality]:
        """The modality of each part; of an item, the preferred one that it has vectors of."""
        return [
            self._modalities[part.content.id][0]
            if isinstance(part.content, StoredItem)
            else part.modality
            for part in self._parts
        ]

    def compared_with(self, target: Modality) -> Query:
        """The query with its items compared by the modality that suits what is searched."""
        return Query(tuple(self._suited(part, target) for part in self._parts))

    def encodable(self, space: Space, part: Part) -> bool:
        """Whether a part has a vector in a space, or can be encoded for it."""
        if isinstance(part.content, StoredItem):
            return self._has_vector(space, part.modality, part.content.id)
        return can_encode(space, part)

    def _suited(self, part: Part, target: Modality) -> Part:
        if not isinstance(part.content, StoredItem):
            return part
        modalities = self._modalities[part.content.id]
        for modality in sorted(modalities, key=lambda modality: modality != target):
            suited = replace(part, modality=modality)
            with suppress(UnsupportedModality):
                alone = Query((replace(suited, weight=1.0),))
                plan(alone, [target], "early", self._serving, self.encodable)
                return suited
        return replace(part, modality=modalities[0])

    def _modalities_of(self, item: Item) -> list[Modality]:
        found: list[Modality] = [
            modality
            for modality in COMPARED_BY[item.modality]
            if any(self._has_vector(space, modality, item.id) for space, _ in self._serving)
        ]
        if not found:
            raise UnsupportedModality(
                f"item {item.id} cannot be searched with, as it has no vectors: bring the index up "
                "to date (mmsearch index)"
            )
        return found

    def _has_vector(self, space: Space, modality: Modality, item_id: int) -> bool:
        key = space.id, item_id, modality
        if key not in self._present:
            number = self._index.store.vectors.count(space, modality, [item_id])
            self._present[key] = number > 0
        return self._present[key]


class Example:
    """A file that hits should resemble.

    Args:
        index: If the file is indexed and has not changed, its stored vectors are used.
        path: The file.
        serving: The spaces that can be searched, with their modalities.

    Raises:
        PathNotFound: there is no such file.
        UnreadableFile: its kind cannot be searched with, or it is a video or PDF that is not
            indexed.
    """

    def __init__(self, index: OpenIndex, path: str, serving: Serving) -> None:
        stored = item_at(index.store, path)
        if not exists(path) and not (stored and stored.imported):
            raise PathNotFound(f"there is no file {path!r}, neither on disk nor in the index")
        kind = kind_of(path) if stored is None else stored.kind
        if kind is None:
            kinds = " ".join(sorted(FORMATS))
            raise UnreadableFile(
                f"{path!r} is not a kind of file that can be searched with ({kinds})"
            )
        self._index = index
        self._serving = serving
        self._path = path
        self._kind = kind
        self._stored_vectors: dict[tuple[int, Modality], Vectors] = {}
        self._current = stored is not None and is_current(stored, path)
        self.item_id = None if stored is None else stored.id
        """Its item id if it is indexed, even if it has changed since."""
        self.modalities = tuple(
            modality
            for modality in COMPARED_BY[kind]
            if modality == kind or any(self._encodable(space, modality) for space, _ in serving)
        )
        """The modalities it can be compared by, the preferred one first."""
        if not self.modalities or (not self._current and kind in ("video", "document")):
            raise UnreadableFile(
                f"{path!r} is not indexed: index it first, or give a picture of it"
            )

    def plan(self, targets: Sequence[Modality]) -> list[PlannedQuery]:
        """The rankings to be made, as `planning.plan` returns them.

        A modality is compared with the same modality of the file if possible, else with its
        preferred one.

        Raises:
            UnsupportedModality: no modality of the file can be compared with one of the targets.
        """
        return [planned for target in targets for planned in self._plan(target)]

    def vector(self, planned: PlannedQuery) -> Vectors:
        """Its unit vector (dim,) in `planned.encoded_in`; the mean, if the file has several.

        Raises:
            UnreadableFile: it is damaged.
        """
        space, modality = planned.encoded_in, planned.parts[0].modality
        matrix = self._vectors(space, modality)
        if not len(matrix):
            matrix = encode_parts(self._index.encoder(space), self._parts(modality))
        return unit_sum(matrix, [1.0] * len(matrix))

    def _plan(self, target: Modality) -> list[PlannedQuery]:
        refusals = []
        for modality in sorted(self.modalities, key=lambda modality: modality != target):
            query = Query((Part(modality, self._path),))
            try:
                return plan(query, [target], "early", self._serving, self._has_vector)
            except UnsupportedModality as error:
                refusals.append(error)
        raise refusals[0]

    def _has_vector(self, space: Space, part: Part) -> bool:
        return self._encodable(space, part.modality)

    def _encodable(self, space: Space, modality: Modality) -> bool:
        """Whether it has a vector of a modality in a space, or can be read to get one."""
        readable = exists(self._path) and modality == self._kind and modality in space.modalities
        return readable or len(self._vectors(space, modality)) > 0

    def _vectors(self, space: Space, modality: Modality) -> Vectors:
        """Its stored vectors (n, dim)."""
        key = space.id, modality
        if key not in self._stored_vectors:
            ids = [self.item_id] if self.item_id is not None and self._current else []
            self._stored_vectors[key] = self._index.store.vectors.of(space, modality, ids)[1]
        return self._stored_vectors[key]

    def _parts(self, modality: Modality) -> list[Part]:
        if modality != "text":
            return [Part(modality, self._path)]
        try:
            from mmsearch.media.documents.reader import read_passages

            return [Part(modality, part.text) for part in read_passages(self._path, self._path)]
        except UnreadableFile as error:
            raise UnreadableFile(f"{self._path!r} cannot be searched with: {error}") from error
