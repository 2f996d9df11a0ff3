"""From a path, as a user writes it, to the item or folder of an index."""

from __future__ import annotations

import os
from contextlib import suppress

from mmsearch.errors import PathNotFound, UnreadableFile
from mmsearch.media.file_state import is_unchanged
from mmsearch.media.members import folder_and_name
from mmsearch.storage.records import StoredFile
from mmsearch.storage.store import Store


def spellings(path: str) -> list[str]:
    """The absolute paths by which an index may know a file or folder.

    As it was given; without the links on the way to it; and, if it is itself a link, where that
    leads.

    Raises:
        PathNotFound: it is empty, as an unset variable of a shell is.
    """
    if not path:  # the current folder, to os.path
        raise PathNotFound("an empty path names no file or folder")
    given = os.path.abspath(path)
    return list(dict.fromkeys((given, _without_links_above(given), os.path.realpath(given))))


def known_path(store: Store, path: str) -> str:
    """A path as the index knows it, or would: of links, only those inside a source are kept."""
    given = os.path.abspath(path)
    if store.sources.of(given):
        return given
    return os.path.realpath(given) if os.path.isdir(given) else _without_links_above(given)


def item_at(store: Store, path: str) -> StoredFile | None:
    """The item that a path names: a file in an indexed folder, or what was imported by it."""
    if (imported := store.files.imported(path)) is not None:
        return imported
    for place in spellings(path):
        if (source := store.sources.of(place)) is not None:
            source_id, _, below = source
            if (found := store.files.at(source_id, *folder_and_name(below))) is not None:
                return found
    return None


def current_item_at(store: Store, path: str) -> int | None:
    """The id of the item that a path names, unless the file has changed since it was stored."""
    found = item_at(store, path)
    return None if found is None or not is_current(found, path) else found.id


def is_current(stored: StoredFile, path: str) -> bool:
    """Whether a file is as it was stored; an imported item counts as current."""
    with suppress(OSError, UnreadableFile):
        return stored.imported or is_unchanged(path, stored.stat, stored.hash, stored.ctime_ns)
    return False


def _without_links_above(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)
