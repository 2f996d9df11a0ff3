"""The vector of a file that is itself the query."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mmsearch.catalog import Catalog, Space
from mmsearch.errors import PathNotFound, UnreadableFile
from mmsearch.media.text import passages, read_text
from mmsearch.media.walk import EXTENSIONS
from mmsearch.search import encode_queries
from mmsearch.types import Encoder, Query

if TYPE_CHECKING:
    from mmsearch.types import Vectors


def vector_of_file(
    catalog: Catalog, space: Space | None, encoder: Encoder, path: str
) -> tuple[int | None, Vectors]:
    """(item id if it is indexed, unit vector (dim,)) of a photo or of a text's mean passage.

    Raises:
        PathNotFound: there is no such file.
        UnreadableFile: it is no photo or text, or damaged.
    """
    import numpy as np

    if not os.path.exists(path):
        raise PathNotFound(f"there is no file {path!r}")
    modality = EXTENSIONS.get(os.path.splitext(path)[1].lower())
    if modality is None:
        kinds = " ".join(sorted(EXTENSIONS))
        raise UnreadableFile(f"{path!r} is not a kind of file that can be searched with ({kinds})")
    own = _stored(catalog, path)
    matrix = None
    if own is not None and space is not None:
        _, matrix, _ = catalog.vectors(space, modality, [own])
    if matrix is None or not len(matrix):
        if modality == "text":
            parts = passages(read_text(path))
            matrix = encode_queries(encoder, [part.text for part in parts])
        else:
            matrix = encode_queries(encoder, [Query.image(path)])
    mean = matrix.mean(axis=0)
    return own, (mean / np.linalg.norm(mean)).astype(np.float32)


def _stored(catalog: Catalog, path: str) -> int | None:
    stat = os.stat(path)
    folder, name = os.path.split(os.path.abspath(path))
    for place in dict.fromkeys((folder, os.path.realpath(folder))):
        if (source := catalog.source_of(place)) is not None:
            known = catalog.known(source[0], source[2]).get(name)
            if known is not None and known.stat == (stat.st_size, stat.st_mtime_ns):
                return known.id
    return None
