"""Gives the items of an index what a metadata file says of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from mmsearch.media.metadata import read_metadata
from mmsearch.media.names import NameBook
from mmsearch.storage.sqlite.filtering import FilterTables

EXAMPLES = 5
"""Names that no item was found for, of which the caller is told."""


class Applied(NamedTuple):
    """What came of a metadata file."""

    matched: int
    """Items that have their metadata now."""
    unmatched: int
    """Names in the file that mean no item, or several of which none can be told from the others."""
    examples: list[str]
    """A few of those names."""


def apply_metadata(catalog: FilterTables, path: str | os.PathLike[str]) -> Applied:
    """Keep what a metadata file says, in the place of what was kept of the same items.

    A name in the file is a path: absolute, or from the folder of the file, or below a folder that
    is indexed. One without a folder means the one item of that name; when there are several in
    different folders, it means none.

    Args:
        catalog: Whose items.
        path: A file as `read_metadata` takes it.

    Raises:
        PathNotFound: There is no such file.
        InvalidMetadata: It cannot be parsed; nothing has been changed.
    """
    metadata = read_metadata(path)
    names = NameBook(Path(path).parent, metadata)
    found: dict[int, str] = {}
    bare: dict[str, list[int]] = {}
    for item_id, root, folder, name in catalog.places():
        relative = os.path.join(folder, name)
        if (written := names.at(os.path.join(root, relative), relative)) is not None:
            found[item_id] = written
        elif (written := names.anywhere(name)) is not None:
            bare.setdefault(written, []).append(item_id)
    used = set(found.values())
    for written, ids in bare.items():
        if written not in used and len(ids) == 1:
            found[ids[0]] = written
            used.add(written)
    catalog.set_attributes((item_id, metadata[written]) for item_id, written in found.items())
    unused = [name for name in metadata if name not in used]
    return Applied(len(found), len(unused), unused[:EXAMPLES])
