"""Where to look again, given what changed: the least that a whole scan would find different."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from glob import escape
from stat import S_ISDIR, S_ISREG

from mmsearch.indexing.scan import Scope, known_scopes
from mmsearch.media.kinds import kind_of
from mmsearch.media.walk import CAPTIONED, SKIPPED_FOLDERS, excluder, is_away
from mmsearch.storage import Store


def looks_at(store: Store, changed: Iterable[str]) -> list[Scope]:
    """Scopes that bring a store in line with changed places, of what was ever asked for.

    A file is looked at among those of its name (a photo and its text), a folder with all below.
    What failed at a place that is gone is forgotten.

    Args:
        store: What was known, and what was asked for.
        changed: Absolute paths of files and folders that came, changed or went.
    """
    asked = [scope for scope in known_scopes(store) if not _is_away(store, scope)]
    return _Looks(store, asked).at(changed)


def scope_above(asked: Iterable[Scope], place: str) -> Scope | None:
    """What was asked for that takes in an absolute path, if anything does."""
    for scope in asked:
        below = _below(place, scope)
        if below is None:
            continue
        if scope.only is None and (not below or not _leaves_out(scope, below)):
            return scope
        if scope.only is not None and below in scope.only:
            return scope
    return None


class _Looks:
    """What is to be looked at: folders with all that is below, and files of other folders."""

    def __init__(self, store: Store, asked: Sequence[Scope]) -> None:
        self._store = store
        self._asked = asked
        self._folders: set[str] = set()
        self._files: dict[str, set[str]] = {}

    def at(self, changed: Iterable[str]) -> list[Scope]:
        """The scopes that take in all of it."""
        for path in changed:
            for way in self._ways_to(path):
                self._sort_in(way)
        for folder, names in list(self._files.items()):
            if any(self._change_roles(scope, folder, names) for scope in self._asked):
                self._folders.add(folder)
        self._widen()
        wholly = {folder for folder in self._folders if not self._is_met(folder)}
        found = dict.fromkeys(look for folder in wholly for look in self._of_folder(folder))
        for folder, names in self._files.items():
            if not self._is_met(os.path.join(folder, "")):
                found |= dict.fromkeys(self._of_files(folder, names))
        return list(found)

    def _ways_to(self, path: str) -> set[str]:
        """A path as it was given, and without the links on the way to it."""
        folder, name = os.path.split(path)
        return {path, os.path.join(os.path.realpath(folder), name)}

    def _sort_in(self, path: str) -> None:
        folder, name = os.path.split(path)
        kind = kind_of(name)
        try:
            mode = os.stat(path).st_mode
        except OSError:  # gone, or a link to nothing: a file, or a folder if such is known
            if kind is not None:
                self._files.setdefault(folder, set()).add(name)
            if self._held_below(path):
                self._folders.add(path)
            return
        if S_ISREG(mode):
            if kind is not None:
                self._files.setdefault(folder, set()).add(name)
        elif S_ISDIR(mode):
            self._forget_failure(path)  # it is noted anew if it cannot be listed still
            self._folders.add(path)
        if kind is not None and not S_ISREG(mode):
            self._folders.add(folder)  # what may have been a photo of that name is none now

    def _held_below(self, path: str) -> bool:
        self._forget_failure(path)
        source = self._store.sources.of(path)
        return source is not None and bool(self._store.files.folders(source[0], source[2]))

    def _forget_failure(self, path: str) -> None:
        source = self._store.sources.of(path)
        if source is not None and source[2]:
            folder, name = os.path.split(source[2])
            self._store.failures.remove(source[0], folder, [name])

    def _change_roles(self, scope: Scope, folder: str, names: set[str]) -> bool:
        """Whether a text that was an item may have become the captions of a photo.

        Then the folder is read as a whole, since reading some files takes out none that is there.
        """
        if scope.only is not None or _below(folder, scope) is None:
            return False
        known = self._store.files.known(scope.source_id, _relative(folder, scope.root))
        stems = {_stem(name) for name in names}
        texts = {_stem(name) for name in known if name[-4:].lower() == ".txt"} & stems
        return bool(texts) and any(
            _stem(name) in texts and kind_of(name) in CAPTIONED for name in _names_in(folder)
        )

    def _widen(self) -> None:
        """Patterns of what to leave out are about the whole path from where they were given."""
        outermost = sorted(self._asked, key=lambda scope: len(_place(scope)))
        for folder in list(self._folders):
            for scope in outermost:
                below = _below(folder, scope)
                if below and scope.exclude and scope.only is None and not _leaves_out(scope, below):
                    self._folders.add(_place(scope))
                    break

    def _is_met(self, folder: str) -> bool:
        """Whether a folder above this one is looked at."""
        while (above := os.path.dirname(folder)) != folder:
            if above in self._folders:
                return True
            folder = above
        return False

    def _of_folder(self, folder: str) -> Iterator[Scope]:
        for scope in self._asked:
            below = _below(folder, scope)
            if _is_in(_place(scope), folder):
                yield scope
            elif below is None or scope.only is not None or _leaves_out(scope, below):
                continue
            elif _leads_elsewhere(folder, scope):
                yield scope
            else:
                yield replace(scope, below=_relative(folder, scope.root))

    def _of_files(self, folder: str, names: set[str]) -> Iterator[Scope]:
        there = _names_in(folder)
        for scope in self._asked:
            below = _below(folder, scope)
            if below is None or (scope.only is not None and below):
                continue
            if scope.only is not None or _leads_elsewhere(folder, scope):
                yield scope
                continue
            relative = _relative(folder, scope.root)
            stems = {_stem(name) for name in names}
            known = self._store.files.known(scope.source_id, relative)
            alike = {name for name in {*names, *there, *known} if _stem(name) in stems}
            out = {name for name in alike if _leaves_out(scope, os.path.join(below, name))}
            if wanted := frozenset(name for name in alike - out if kind_of(name)):
                leave = tuple(sorted(map(escape, out)))
                yield replace(scope, below=relative, only=wanted, exclude=leave)


# ------------------------------------------------------------------ parts of the above


def _is_away(store: Store, scope: Scope) -> bool:
    """Whether what seems deleted in it is on a disk that is not mounted."""
    return is_away(scope.root, store.sources.device(scope.source_id))


def _place(scope: Scope) -> str:
    return os.path.join(scope.root, scope.below) if scope.below else scope.root


def _below(path: str, scope: Scope) -> str | None:
    """A path as seen from the folder that was asked for; None outside of it."""
    place = _place(scope)
    return _relative(path, place) if _is_in(path, place) else None


def _relative(path: str, folder: str) -> str:
    return "" if path == folder else os.path.relpath(path, folder)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _leaves_out(scope: Scope, below: str) -> bool:
    """Whether a walk of a scope passes over a path, for its name or one on the way to it."""
    excluded = excluder(scope.exclude)
    names = below.split(os.sep)
    for depth, name in enumerate(names, start=1):
        hidden = name[:1] == "." and (not scope.include_hidden or name.startswith("._"))
        if hidden or name in SKIPPED_FOLDERS:
            return True
        if excluded and (excluded(name) or excluded("/".join(names[:depth]))):
            return True
    return False


def _leads_elsewhere(folder: str, scope: Scope) -> bool:
    """Whether a folder is reached by a link: by which name, a walk of the scope alone can tell."""
    return scope.only is None and os.path.realpath(folder) != folder
