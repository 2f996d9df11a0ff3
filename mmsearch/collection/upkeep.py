"""What is done to an index as a whole: its status, removals, moved folders."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmsearch.errors import InvalidOption, PathNotFound
from mmsearch.indexing.corpora import scan_again
from mmsearch.indexing.passed_over import stored_groups
from mmsearch.media.file_state import stat_of
from mmsearch.media.members import SEPARATOR, is_corpus, split_member
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import Store
from mmsearch.storage.backups import copy_index
from mmsearch.storage.place import IndexPlace
from mmsearch.storage.resolver import spellings
from mmsearch.storage.sqlite import Catalog

SAMPLE = 200
"""How many stored files are looked for in the new folder."""

MIN_SHARE = 0.5
"""The share of them that must exist there; the others may have been changed or deleted."""


def status(index: OpenIndex) -> dict[str, Any]:
    """As `Collection.status`."""
    store, spaces = index.store, index.store.spaces.all()
    counts = store.vectors.counts()
    models = [
        {
            "name": space.name,
            "fingerprint": space.fingerprint,
            "previous": index.encoders.is_previous(space),
            "dim": space.dim,
            "answers": sorted(space.serves),
            "fills": sorted(space.backfills),
            "vectors": counts.get(space.id, {}),
        }
        for space in spaces
    ]
    preferred = next((space for space in spaces if space.serves), None)
    return {
        "index": index.place.address,
        "model": preferred.name if preferred else None,
        "fingerprint": preferred.fingerprint if preferred else None,
        "dim": preferred.dim if preferred else None,
        "models": models,
        "sources": sorted(path for _, path in store.sources.all()),
        "items": store.items.counts(),
        "vectors": _served_vectors(models),
        "indexes": index.vector_indexes.describe(index.serving()),
        "failures": len(store.failures),
        "passed_over": stored_groups(store),
        "bytes": _size(index),
    }


def _size(index: OpenIndex) -> int | None:
    """The bytes of an index folder, or what a server says that it stores."""
    if not index.place.is_folder:
        return index.store.size()
    return sum(file.stat().st_size for file in index.place.folder.rglob("*") if file.is_file())


def _served_vectors(models: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many vectors of each modality there are, in the first model that serves it."""
    found: dict[str, int] = {}
    for model in models:
        for modality, number in model["vectors"].items():
            if modality in model["answers"]:
                found.setdefault(modality, number)
    return found


def remove(index: OpenIndex, path: str) -> int:
    """As `Collection.remove`."""
    store, places = index.store, spellings(path)
    inside = os.path.realpath(path).rstrip(os.sep) + os.sep
    below = [(source_id, "") for source_id, root in store.sources.all() if root.startswith(inside)]
    sources = [source for place in places if (source := store.sources.of(place)) is not None]
    below += [(source_id, folder) for source_id, _, folder in sources]
    removed = sum(store.items.remove_below(*one) for one in below)
    removed += sum(_remove_members(store, place) for place in places)
    removed += store.items.remove_imported(path)
    for place in places:
        store.index_roots.remove(place)
        member = split_member(place)
        scan_again(store, place if member is None else member[0])
    if not removed and not any(folder == "" for _, folder in below):
        raise PathNotFound(f"the index holds nothing at {path!r}")
    index.keep_backup()
    return removed


def _remove_members(store: Store, path: str) -> int:
    """Remove a member of a corpus, or all of one; returns how many items and failures."""
    member = split_member(path)
    if member is None and not is_corpus(path):
        return 0
    corpus = path if member is None else member[0]
    if (source := store.sources.of(corpus)) is None:
        return 0
    folder, name = os.path.split(source[2])
    name += SEPARATOR
    failed = store.failures.known(source[0], folder)
    if member is None:
        ids = [one.id for one in store.files.known(source[0], folder, name).values()]
        bad = [one for one in failed if one.startswith(name)]
    else:
        name += member[1]
        found = store.files.at(source[0], folder, name)
        ids = [] if found is None else [found.id]
        bad = [name] if name in failed else []
    store.items.remove(ids)
    store.failures.remove(source[0], folder, bad)
    return len(ids) + len(bad)


SERVER_BACKUPS = {"postgresql": "pg_dump", "milvus": "milvus-backup"}
"""What backs the index up where it is, by engine."""


def backup(place: IndexPlace, dest: Path) -> int:
    """As `Collection.backup`."""
    place.check_folder(
        "`mmsearch backup` copies",
        f"{SERVER_BACKUPS.get(place.engine)} backs up what the server has, and "
        f"`mmsearch copy {shlex.quote(place.address)} DEST` makes a folder of it",
    )
    return copy_index(place.folder, dest)


def relocate(index: OpenIndex, old: str, new: str, *, force: bool) -> int:
    """As `Collection.relocate`."""
    catalog = index.store
    if not isinstance(catalog, Catalog):
        index.place.check_folder(
            "`mmsearch relocate` follows files of",
            f"`mmsearch index {shlex.quote(new)}` recognises moved files by what they contain, and "
            f"encodes none again; then `mmsearch remove {shlex.quote(old)}`",
        )
        raise InvalidOption("this store cannot follow a folder that was moved")
    place = os.path.realpath(new)
    if not new or not os.path.isdir(place):
        raise PathNotFound(f"there is no folder {new!r}")
    known = _stored_folder(catalog, old)
    if known == place:
        raise InvalidOption(f"{place} is where it was")
    if not force:
        _check_moved(catalog, known, place)
    moved = catalog.relocation.move(known, place)
    catalog.words.refresh()
    index.keep_backup()
    return moved


def _stored_folder(catalog: Catalog, folder: str) -> str:
    """The path by which the index knows a folder, with links or without; it may not exist now."""
    for path in spellings(folder):
        if catalog.relocation.holds(path):
            return path
    known = ", ".join(sorted(root for _, root in catalog.sources.all())) or "nothing"
    raise PathNotFound(f"the index holds nothing at {os.path.abspath(folder)!r}; it holds: {known}")


def _check_moved(catalog: Catalog, old: str, new: str) -> None:
    files = catalog.relocation.sample(old, SAMPLE)
    found = sum(_has_size(os.path.join(new, path), size) for path, size in files)
    if found < MIN_SHARE * len(files):
        raise InvalidOption(
            f"only {found} of {len(files)} stored files that were looked for are in {new}, with "
            "the size they had: is it the right folder? --force takes it all the same"
        )


def _has_size(path: str, size: int) -> bool:
    try:
        return stat_of(path)[0] == size
    except OSError:
        return False
