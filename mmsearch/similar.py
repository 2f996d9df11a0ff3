"""The vector of a file that is itself the query."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmsearch.catalog import Catalog, Space
from mmsearch.errors import PathNotFound, UnreadableFile
from mmsearch.media.kinds import EXTENSIONS, kind_of
from mmsearch.media.text import passages, read_text
from mmsearch.queries import combined, encode_parts
from mmsearch.types import Encoder, Kind, Modality, Part, Query

if TYPE_CHECKING:
    from mmsearch.types import Vectors


_COMPARED_BY: dict[Kind, Modality] = {
    "image": "image",
    "text": "text",
    "audio": "audio",
    "video": "image",
    "document": "image",
}


class Example:
    """A file that others are to be like.

    Args:
        catalog: Asked whether it is indexed: then it is not read again.
        path: Where it is.

    Raises:
        PathNotFound: there is no such file.
        UnreadableFile: it is of no kind that can be searched with.
    """

    def __init__(self, catalog: Catalog, path: str) -> None:
        if not os.path.exists(path):
            raise PathNotFound(f"there is no file {path!r}")
        kind = kind_of(path)
        if kind is None:
            kinds = " ".join(sorted(EXTENSIONS))
            raise UnreadableFile(
                f"{path!r} is not a kind of file that can be searched with ({kinds})"
            )
        self.own = _stored(catalog, path)
        """Its item id, if it is indexed."""
        self.modality: Modality = _COMPARED_BY[kind]
        """What it is compared by: a video by its frames, a document by how its pages look."""
        if self.own is None and kind in ("video", "document"):
            raise UnreadableFile(
                f"{path!r} is not indexed: index it first, or give a picture of it"
            )
        self._catalog = catalog
        self._path = path
        self.query = Query((Part(self.modality, path),))
        """The same as a query, to be planned."""

    def vector(self, space: Space, encoder_of: Callable[[Space], Encoder]) -> Vectors:
        """Its unit vector (dim,) in a space: of a text, a sound and so on the mean of its parts'.

        Raises:
            UnreadableFile: it is damaged.
        """
        if self.own is not None:
            _, matrix, _ = self._catalog.vectors(space, self.modality, [self.own])
            if len(matrix):
                return combined(matrix, [1.0] * len(matrix))
        contents = [self._path]
        if self.modality == "text":
            contents = [part.text for part in passages(read_text(self._path))]
        parts = [Part(self.modality, content) for content in contents]
        matrix = encode_parts(encoder_of(space), parts)
        return combined(matrix, [1.0] * len(matrix))


def _stored(catalog: Catalog, path: str) -> int | None:
    stat = os.stat(path)
    folder, name = os.path.split(os.path.abspath(path))
    for place in dict.fromkeys((folder, os.path.realpath(folder))):
        if (source := catalog.source_of(place)) is not None:
            known = catalog.known(source[0], source[2]).get(name)
            if known is not None and known.stat == (stat.st_size, stat.st_mtime_ns):
                return known.id
    return None
