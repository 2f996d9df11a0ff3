"""A file that is itself the query: what it is compared by, and its vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from mmsearch.encoders import Encoder
from mmsearch.errors import PathNotFound, UnreadableFile, UnsupportedModality
from mmsearch.media.kinds import FORMATS, kind_of
from mmsearch.media.text import passages, read_text
from mmsearch.search.queries import Ask, combined, encode_parts, plan
from mmsearch.spaces.targets import served
from mmsearch.storage import Space, Store
from mmsearch.storage.resolver import is_current, item_at
from mmsearch.types import Kind, Modality, Part, Query

if TYPE_CHECKING:
    from mmsearch.types import Vectors


_COMPARED_BY: dict[Kind, tuple[Modality, ...]] = {
    "image": ("image", "text"),
    "text": ("text",),
    "audio": ("audio", "text"),
    "video": ("image", "audio", "text"),
    "document": ("image", "text"),
}
"""What a file may be compared by, what tells most of it first."""


class Example:
    """A file that others are to be like.

    Args:
        store: Tells whether it is indexed as it is now: then its stored vectors are used.
        path: Where it is.
        spaces: Those that answer.

    Raises:
        PathNotFound: there is no such file.
        UnreadableFile: it is of no kind that can be searched with, or a video or PDF of which
            nothing is stored.
    """

    def __init__(self, store: Store, path: str, spaces: Sequence[Space]) -> None:
        stored = item_at(store, path)
        if not os.path.exists(path) and not (stored and stored.imported):
            raise PathNotFound(f"there is no file {path!r}, and the index holds none of this name")
        kind = kind_of(path) if stored is None else stored.kind
        if kind is None:
            kinds = " ".join(sorted(FORMATS))
            raise UnreadableFile(
                f"{path!r} is not a kind of file that can be searched with ({kinds})"
            )
        self._store = store
        self._path = path
        self._kind = kind
        self._rows: dict[tuple[int, Modality], Vectors] = {}
        self.own = None if stored is None else stored.id
        """Its item id, if it is indexed, however it has changed since."""
        self._current = stored is not None and is_current(stored, path)
        answering = served(spaces)
        live = [space for space in spaces if space.id in answering]
        self.facets = tuple(
            facet
            for facet in _COMPARED_BY[kind]
            if facet == kind or any(self._takes(space, facet) for space in live)
        )
        """What it can be compared by, what tells most of it first."""
        if not self.facets or (not self._current and kind in ("video", "document")):
            raise UnreadableFile(
                f"{path!r} is not indexed: index it first, or give a picture of it"
            )

    def asks(
        self,
        targets: Sequence[Modality],
        spaces: Sequence[Space],
        present: Mapping[int, Collection[Modality]],
    ) -> list[Ask]:
        """The rankings to be made, as `plan` gives them.

        Each facet is searched by the same facet of the file, else by what tells most of it.

        Raises:
            UnsupportedModality: nothing of the file can be compared with one of the targets.
        """
        return [ask for target in targets for ask in self._asks(target, spaces, present)]

    def _asks(
        self,
        target: Modality,
        spaces: Sequence[Space],
        present: Mapping[int, Collection[Modality]],
    ) -> list[Ask]:
        refusals = []
        for facet in sorted(self.facets, key=lambda facet: facet != target):
            query = Query((Part(facet, self._path),))
            try:
                return plan(query, [target], "early", spaces, present, self._takes)
            except UnsupportedModality as error:
                refusals.append(error)
        raise refusals[0]

    def _takes(self, space: Space, facet: Modality) -> bool:
        """Whether it has a vector of a facet in a space, or can be read to get one."""
        there = os.path.exists(self._path)
        readable = there and facet == self._kind and facet in space.modalities
        return readable or len(self._vectors(space, facet)) > 0

    def _vectors(self, space: Space, facet: Modality) -> Vectors:
        """What is stored of it (n, dim)."""
        if (space.id, facet) not in self._rows:
            ids = [self.own] if self.own is not None and self._current else []
            self._rows[space.id, facet] = self._store.vectors.of(space, facet, ids)[1]
        return self._rows[space.id, facet]

    def vector(self, ask: Ask, encoder_of: Callable[[Space], Encoder]) -> Vectors:
        """Its unit vector (dim,) in `ask.via or ask.space`: of a long file, the mean of its parts'.

        Raises:
            UnreadableFile: it is damaged.
        """
        space, facet = ask.via or ask.space, ask.parts[0].modality
        matrix = self._vectors(space, facet)
        if not len(matrix):
            matrix = encode_parts(encoder_of(space), self._parts(facet))
        return combined(matrix, [1.0] * len(matrix))

    def _parts(self, facet: Modality) -> list[Part]:
        if facet != "text":
            return [Part(facet, self._path)]
        try:
            return [Part(facet, part.text) for part in passages(read_text(self._path))]
        except UnreadableFile as error:
            raise UnreadableFile(f"{self._path!r} cannot be searched with: {error}") from error
