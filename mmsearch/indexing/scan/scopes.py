"""Where to look: the folders and files that were asked for, now or ever."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmsearch.errors import PathNotFound
from mmsearch.storage import IndexRoot, Store
from mmsearch.storage.resolver import known_path


@dataclass(frozen=True, slots=True)
class Scope:
    """A folder to be read with all that lies below it, or only some files in it."""

    source_id: int
    root: str  # of the source, absolute
    below: str  # the folder, relative to the root; "" for the root itself
    only: frozenset[str] | None = None  # names of files
    exclude: Sequence[str] = ()  # shell patterns of names or relative paths to leave out
    include_hidden: bool = False  # also files and folders that begin with a dot


def scopes_of(
    store: Store,
    paths: Sequence[str | os.PathLike[str]],
    exclude: Sequence[str] = (),
    *,
    include_hidden: bool = False,
) -> list[Scope]:
    """Where paths belong; a folder becomes a source unless it lies in one. What was asked is kept.

    Files of one folder come as one scope: a shell's `*.jpg` can be ten thousand of them.

    Raises:
        PathNotFound: there is nothing at one of the paths.
    """
    folders: dict[str, None] = {}
    files: dict[str, set[str]] = {}
    for path in paths:
        given = os.path.abspath(os.fsdecode(path))
        if os.path.isdir(given):
            folders[known_path(store, given)] = None
        elif os.path.exists(given):
            folder, name = os.path.split(given)
            files.setdefault(known_path(store, folder), set()).add(name)
        else:
            raise PathNotFound(f"there is no file or folder {os.fsdecode(path)!r}")
    # what lies in another folder that is given is met there
    folders = {one: None for one in folders if not any(is_in(one, o) for o in folders if o != one)}
    files = {one: some for one, some in files.items() if not any(is_in(one, o) for o in folders)}
    how: dict[str, Any] = {"exclude": tuple(exclude), "include_hidden": include_hidden}
    asked = [IndexRoot(folder, folder=True, **how) for folder in folders]
    asked += [
        IndexRoot(os.path.join(folder, name), folder=False, **how)
        for folder, names in files.items()
        for name in sorted(names)
    ]
    for folder in (*folders, *files):
        store.sources.add(folder, os.stat(folder).st_dev)
    store.index_roots.add(asked)
    return _scopes(store, asked)


def known_scopes(store: Store) -> list[Scope]:
    """All that was ever asked for, as far as it is there, each as it was asked for."""
    scopes = _scopes(store, store.index_roots.all())
    return [scope for scope in scopes if os.path.isdir(scope.root)]


def _scopes(store: Store, asked: Sequence[IndexRoot]) -> list[Scope]:
    names: dict[tuple[str, tuple[str, ...], bool], set[str]] = {}
    scopes = []
    for one in asked:
        if one.folder:
            source = store.sources.of(one.path)  # asked when all are there: sources merge
            if source is not None:
                scopes.append(Scope(*source, None, one.exclude, one.include_hidden))
        else:
            folder, name = os.path.split(one.path)
            names.setdefault((folder, tuple(one.exclude), one.include_hidden), set()).add(name)
    for (folder, exclude, hidden), some in names.items():
        source = store.sources.of(folder)
        if source is not None:
            scopes.append(Scope(*source, frozenset(some), exclude, hidden))
    return scopes


def is_in(folder: str, other: str) -> bool:
    """Whether a folder is another or lies below it."""
    return other in ("", folder) or folder.startswith(other.rstrip(os.sep) + os.sep)
