"""Where to look: what the user gave to `index`, and the parts of it in which something changed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmsearch.errors import PathNotFound
from mmsearch.media.companions import RawPairs, may_be_sidecar
from mmsearch.media.kinds import FORMATS, kind_of
from mmsearch.media.members import is_corpus
from mmsearch.media.walk import Tree, device_of, is_away
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import IndexRoot, Store
from mmsearch.storage.resolver import known_path, spellings


@dataclass(frozen=True, slots=True)
class Scope:
    """A folder to scan with everything below it, a part of that, or some files in it.

    Attributes:
        source_id: The source that it lies in.
        root: The absolute path of the source.
        below: The folder, relative to the root; "" for the root itself.
        only: The names of the files to scan; None: all.
        exclude: Shell patterns of names or relative paths to leave out.
        include_hidden: Whether files and folders that begin with a dot are scanned too.
        start: The folder at or under `below` to scan, relative to the root; None: all.
        recursive: Whether the folders under that are scanned too.
        unsettled: Names of files in it that are still being written: they are left as they were.
        corpora: Whether `only` names corpora, whose members are scanned.
    """

    source_id: int
    root: str
    below: str
    only: frozenset[str] | None = None
    exclude: Sequence[str] = ()
    include_hidden: bool = False
    start: str | None = None
    recursive: bool = True
    unsettled: frozenset[str] = frozenset()
    corpora: bool = False

    @property
    def folder(self) -> str:
        """The absolute path of the folder that was given."""
        return os.path.join(self.root, self.below) if self.below else self.root

    @property
    def top(self) -> str:
        """The folder where the scan begins, relative to the root."""
        return self.below if self.start is None else self.start

    @property
    def is_whole(self) -> bool:
        """Whether this is a folder as it was given to `index`, not a part of it."""
        return self.only is None and self.start is None and self.recursive

    def tree(self, endings: Collection[str] = FORMATS, raw_pairs: RawPairs = "one") -> Tree:
        """The files to scan; those that are named are included even if they are hidden."""
        named = self.only is not None
        return Tree(
            self.root,
            self.below,
            start=self.start,
            recursive=self.recursive and not named,
            exclude=self.exclude,
            include_hidden=self.include_hidden or named,
            endings=endings,
            raw_pairs=raw_pairs,
        )


def add_scopes(
    store: Store,
    paths: Iterable[str | os.PathLike[str]],
    exclude: Sequence[str] = (),
    *,
    include_hidden: bool = False,
) -> list[Scope]:
    """The scopes of paths, which become index roots; a folder becomes a source unless it is in one.

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
    outer = outermost(folders)
    # a folder does not take in the members of corpora, which are given by name
    corpora = {
        os.path.join(one, name) for one, some in files.items() for name in some if is_corpus(name)
    }
    files = {one: some for one, some in files.items() if not any(is_in(one, o) for o in outer)}
    how: dict[str, Any] = {"exclude": tuple(exclude), "include_hidden": include_hidden}
    roots = [IndexRoot(folder, folder=True, **how) for folder in folders if folder in outer]
    roots += [
        IndexRoot(os.path.join(folder, name), folder=False, **how)
        for folder, names in files.items()
        for name in sorted(names)
    ]
    there = {root.path for root in roots}
    roots += [IndexRoot(path, folder=False, **how) for path in sorted(corpora) if path not in there]
    for folder in dict.fromkeys(os.path.dirname(o.path) if not o.folder else o.path for o in roots):
        store.sources.add(folder, device_of(folder))
    before = [root for root in store.index_roots.all() if _is_corpus_root(root)]
    store.index_roots.add(roots)
    after = {root.path for root in store.index_roots.all()}
    store.index_roots.add([root for root in before if root.path not in after])
    return _scopes(store, roots)


def known_scopes(store: Store) -> list[Scope]:
    """The scopes of all index roots that are there, each as it was given."""
    scopes = _scopes(store, store.index_roots.all())
    return [scope for scope in scopes if os.path.isdir(scope.root)]


def previous_scopes(
    store: Store, warnings: list[str], exclude: Sequence[str] = (), *, include_hidden: bool = False
) -> list[Scope]:
    """The known scopes, for a user who names none.

    Args:
        store: Where they are.
        warnings: What the user should know is added to it.
        exclude: Patterns that replace those of all scopes; none leaves them as they are.
        include_hidden: True includes hidden files in all scopes; False leaves them as they are.

    Raises:
        PathNotFound: nothing was ever indexed.
    """
    roots = store.index_roots.all()
    if not roots:
        if not len(store):
            raise PathNotFound("nothing was indexed yet: say what, `mmsearch index FOLDER`")
        if store.sources.all():
            warnings.append(
                "an index of mmsearch 0.1.0 does not have the folders that were given: name them "
                "once more, `mmsearch index FOLDER...`"
            )
    changes: dict[str, Any] = {"exclude": tuple(exclude)} if exclude else {}
    if include_hidden:
        changes["include_hidden"] = True
    if changes:
        # in order of path, so that none is deleted with a folder that it lies in
        store.index_roots.add([replace(root, **changes) for root in roots])
    return known_scopes(store)


def touched_scopes(
    store: Store, changed: Iterable[str], unsettled: Collection[str] = ()
) -> list[Scope]:
    """The parts of the known scopes to scan to bring the store up to date with changed paths.

    Of a changed file that is its folder, of a changed folder all below it as well.

    Args:
        store: With the index roots.
        changed: Absolute paths of files and folders that were added, changed or removed.
        unsettled: Paths of files that are still being written, to be left as they were.
    """
    flat: set[str] = set()
    deep: set[str] = set()
    for path in changed:
        for place in spellings(path)[:2]:
            folder, name = os.path.split(place)
            if kind_of(name) is not None or may_be_sidecar(name) or is_corpus(name):
                flat.add(folder)
            else:
                _forget_failure(store, place)  # a folder that still fails is recorded again
            if not os.path.isfile(place) and (os.path.isdir(place) or _had_files(store, place)):
                deep.add(place)
    deep = outermost(deep)
    flat = {folder for folder in flat if folder not in deep and not is_inside(folder, deep)}
    leave: dict[str, set[str]] = {}
    for path in unsettled:
        folder, name = os.path.split(path)
        leave.setdefault(folder, set()).add(name)
    found: dict[Scope, None] = {}
    for scope in known_scopes(store):
        if not is_away(scope.root, store.sources.device(scope.source_id)):
            for folder in sorted(deep):
                found |= dict.fromkeys(_parts(scope, folder))
            for folder in sorted(flat):
                names = frozenset(leave.get(folder, ()))
                parts = _parts(scope, folder, recursive=False)
                found |= dict.fromkeys(replace(part, unsettled=names) for part in parts)
    return list(found)


def add_index_roots(index: OpenIndex, paths: Iterable[str | os.PathLike[str]]) -> dict[str, bool]:
    """Make index roots of paths that lie in none; how others were given stays.

    Returns:
        The folders to watch for their changes, as `root_folders` returns them.

    Raises:
        PathNotFound: there is nothing at one of them.
        IndexBusy: another process is writing to the index.
    """
    folders: dict[str, bool] = {}
    for path in paths:
        known = known_scopes(index.store)
        place = known_path(index.store, os.fsdecode(path))
        if not os.path.exists(place) or scope_of(known, place) is None:
            with index.writing("noting what to index"):
                add_scopes(index.store, [path])
        if os.path.isdir(place):
            folders[place] = True
        else:
            folders.setdefault(os.path.dirname(place), False)
    return folders


def root_folders(store: Store) -> dict[str, bool]:
    """The folders of all index roots by absolute path: True with all below, False for its files."""
    folders: dict[str, bool] = {}
    for root in store.index_roots.all():
        folder = root.path if root.folder else os.path.dirname(root.path)
        folders[folder] = folders.get(folder, False) or root.folder
    return folders


def _is_corpus_root(root: IndexRoot) -> bool:
    return not root.folder and is_corpus(root.path)


def scope_of(scopes: Iterable[Scope], place: str) -> Scope | None:
    """The scope that takes in an absolute path, if any does."""
    corpus = is_corpus(place) and not os.path.isdir(place)
    for scope in scopes:
        if not is_in(place, scope.folder) or (corpus and not scope.corpora):
            continue
        if scope.only is None and not scope.tree().leaves_out(_relative(place, scope.root)):
            return scope
        if scope.only is not None and _relative(place, scope.folder) in scope.only:
            return scope
    return None


def is_in(folder: str, other: str) -> bool:
    """Whether a path is another or lies below it."""
    return other in ("", folder) or folder.startswith(other.rstrip(os.sep) + os.sep)


def outermost(folders: Iterable[str]) -> set[str]:
    """Those of some folders that lie in no other of them."""
    several = set(folders)
    return {one for one in several if not is_inside(one, several)}


# ---------------------------------------------------------------------- parts of the above


def _scopes(store: Store, roots: Sequence[IndexRoot]) -> list[Scope]:
    # to be called when all sources are there, since a new one may take in others
    names: dict[tuple[str, tuple[str, ...], bool, bool], set[str]] = {}
    scopes = []
    for root in roots:
        if not root.folder:
            folder, name = os.path.split(root.path)
            how = tuple(root.exclude), root.include_hidden, is_corpus(name)
            names.setdefault((folder, *how), set()).add(name)
        elif (source := store.sources.of(root.path)) is not None:
            scopes.append(Scope(*source, None, tuple(root.exclude), root.include_hidden))
    for (folder, exclude, hidden, corpora), some in names.items():
        if (source := store.sources.of(folder)) is not None:
            only = frozenset(some)
            scopes.append(Scope(*source, only, exclude, hidden, corpora=corpora))
    return scopes


def _parts(scope: Scope, folder: str, *, recursive: bool = True) -> Iterator[Scope]:
    """What of a scope lies in a folder, or in the folders below it too; at most one scope."""
    if scope.folder == folder and scope.only is None:
        yield replace(scope, recursive=recursive)
    elif scope.folder == folder or (recursive and is_in(scope.folder, folder)):
        yield scope
    elif is_in(folder, scope.folder) and scope.only is None:
        if os.path.realpath(folder) != folder:
            yield scope  # under which name a linked folder is met, only a whole walk can find out
        else:
            yield replace(scope, start=_relative(folder, scope.root), recursive=recursive)


def is_inside(path: str, folders: Collection[str]) -> bool:
    """Whether one of some folders is above a path."""
    while (above := os.path.dirname(path)) != path:
        if above in folders:
            return True
        path = above
    return False


def _had_files(store: Store, path: str) -> bool:
    source = store.sources.of(path)
    return source is not None and bool(store.files.folders(source[0], source[2]))


def _forget_failure(store: Store, path: str) -> None:
    source = store.sources.of(path)
    if source is not None and source[2]:
        folder, name = os.path.split(source[2])
        if folder in store.failures.folders(source[0]):
            store.failures.remove(source[0], folder, [name])


def _relative(path: str, folder: str) -> str:
    return "" if path == folder else os.path.relpath(path, folder)
