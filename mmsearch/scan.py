"""What changed on disk since the catalog was last brought in line with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.catalog import Asked, Catalog, Known
from mmsearch.contents import Options
from mmsearch.decode import Job
from mmsearch.entries import Stat
from mmsearch.errors import PathNotFound
from mmsearch.media.kinds import endings_of, kind_of
from mmsearch.media.walk import (
    CAPTIONED,
    FileStat,
    Folder,
    count,
    is_away,
    is_passed_over,
    walk,
)
from mmsearch.types import Failure, Kind, Report

if TYPE_CHECKING:
    from mmsearch.media.captions import CaptionBook


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
    catalog: Catalog,
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
            folders[_place(catalog, given)] = None
        elif os.path.exists(given):
            folder, name = os.path.split(given)
            files.setdefault(_place(catalog, folder), set()).add(name)
        else:
            raise PathNotFound(f"there is no file or folder {os.fsdecode(path)!r}")
    # what lies in another folder that is given is met there
    folders = {one: None for one in folders if not any(_is_in(one, o) for o in folders if o != one)}
    files = {one: some for one, some in files.items() if not any(_is_in(one, o) for o in folders)}
    how: dict[str, Any] = {"exclude": tuple(exclude), "include_hidden": include_hidden}
    asked = [Asked(folder, folder=True, **how) for folder in folders]
    asked += [
        Asked(os.path.join(folder, name), folder=False, **how)
        for folder, names in files.items()
        for name in sorted(names)
    ]
    for folder in (*folders, *files):
        catalog.add_source(folder, os.stat(folder).st_dev)
    catalog.note_asked(asked)
    return _scopes(catalog, asked)


def known_scopes(catalog: Catalog) -> list[Scope]:
    """All that was ever asked for, as far as it is there, each as it was asked for."""
    scopes = _scopes(catalog, catalog.asked())
    return [scope for scope in scopes if os.path.isdir(scope.root)]


def _scopes(catalog: Catalog, asked: Sequence[Asked]) -> list[Scope]:
    names: dict[tuple[str, tuple[str, ...], bool], set[str]] = {}
    scopes = []
    for one in asked:
        if one.folder:
            source = catalog.source_of(one.path)  # asked when all are there: sources merge
            if source is not None:
                scopes.append(Scope(*source, None, one.exclude, one.include_hidden))
        else:
            folder, name = os.path.split(one.path)
            names.setdefault((folder, tuple(one.exclude), one.include_hidden), set()).add(name)
    for (folder, exclude, hidden), some in names.items():
        source = catalog.source_of(folder)
        if source is not None:
            scopes.append(Scope(*source, frozenset(some), exclude, hidden))
    return scopes


def _place(catalog: Catalog, folder: str) -> str:
    """A folder as the index knows it: a link inside a source stands for itself."""
    return folder if catalog.source_of(folder) else os.path.realpath(folder)


class Scan:
    """One look at some scopes.

    Args:
        catalog: What was known.
        scopes: Where to look.
        options: How.
        book: Captions from a file, if any.
        report: Counts what is unchanged or known to be bad, and takes the scan's own failures.
        step: Called for each file that needs no further work.
    """

    def __init__(
        self,
        catalog: Catalog,
        scopes: Sequence[Scope],
        options: Options,
        *,
        book: CaptionBook | None,
        report: Report,
        step: Callable[[], None],
    ) -> None:
        self.missing: list[int] = []
        """Items whose file was not met where it should be; complete when `jobs` has ended."""
        self._catalog = catalog
        self._scopes = scopes
        self._options = options
        self._book = book
        self._report = report
        self._step = step
        self._foreign: list[str] = []
        self._nested = any(
            one is not other and one.source_id == other.source_id and _is_in(one.below, other.below)
            for one in scopes
            for other in scopes
        )
        self._met: set[int] = set()  # of nested scopes, one may leave out what another meets
        self._endings = endings_of(options.kinds)
        self._readings = {kind: options.readings_of(kind) for kind in get_args(Kind)}
        self.others: Counter[Kind] = Counter()
        """Files that could be indexed, but were not asked for; complete when `jobs` has ended."""

    def count(self) -> int | None:
        """How many files there are, told from names alone; None if a folder vanished."""
        total = sum(len(scope.only) for scope in self._scopes if scope.only is not None)
        with suppress(OSError, PathNotFound):
            for scope in self._scopes:
                if scope.only is None:
                    total += count(
                        scope.root,
                        scope.below,
                        exclude=scope.exclude,
                        include_hidden=scope.include_hidden,
                        endings=self._endings,
                    )
            return total
        return None

    def jobs(self) -> Iterator[Job]:
        """Files that are new or may have changed, folder by folder."""
        for scope in self._scopes:
            if scope.only is not None:
                yield from self._some_files(scope, scope.only)
                continue
            if self._is_away(scope):
                continue
            if self._is_lost(scope):
                self._note_lost_folders(scope, set(), [])
                continue
            seen: set[str] = set()
            unlisted: list[str] = []
            for folder in walk(
                scope.root,
                scope.below,
                exclude=scope.exclude,
                include_hidden=scope.include_hidden,
                endings=self._endings,
            ):
                seen.add(folder.path)
                self.others.update(folder.others)
                if not folder.complete:
                    unlisted.append(folder.path)
                yield from self._changed(scope, folder)
            self._note_lost_folders(scope, seen, unlisted)
        if self._met:
            self.missing = [item_id for item_id in self.missing if item_id not in self._met]
        if self._foreign:
            shown = ", ".join(self._foreign[:3]) + (", …" if len(self._foreign) > 3 else "")
            kinds = " ".join(sorted(self._endings))
            self._report.warnings.append(
                f"{len(self._foreign)} of the files given cannot be indexed: {shown} "
                f"(what can be: {kinds})"
            )

    def _some_files(self, scope: Scope, only: frozenset[str]) -> Iterator[Job]:
        """As if the folder held but these files; those that are named are meant, hidden or not."""
        if self._is_lost(scope):
            known = self._catalog.known(scope.source_id, scope.below)
            self._miss(scope, scope.below, {name: known[name] for name in only & known.keys()})
            return
        folder = next(
            walk(
                scope.root,
                scope.below,
                exclude=scope.exclude,
                include_hidden=True,
                endings=self._endings,
            ),
            None,
        )
        if folder is None:
            return
        for name, stored in self._catalog.known(scope.source_id, scope.below).items():
            gone = not os.path.lexists(os.path.join(scope.root, scope.below, name))
            if name in only and (gone or kind_of(name) in self._options.refused):
                self.missing.append(stored.id)
        files = [
            file
            for file in folder.files
            if os.path.basename(file.path) in only or file.sidecar_name in only
        ]
        failures = [pair for pair in folder.failures if os.path.basename(pair[0]) in only]
        met = {os.path.basename(file.path) for file in files}
        met |= {file.sidecar_name or "" for file in files}
        met |= {os.path.basename(path) for path, _ in failures}
        unmet = only - met
        self._foreign += sorted(name for name in unmet if kind_of(name) is None)
        self.others.update(
            kind for name in unmet if (kind := kind_of(name)) and not _ends(name, self._endings)
        )
        yield from self._changed(
            scope, replace(folder, files=files, failures=failures, complete=False)
        )

    def _changed(self, scope: Scope, folder: Folder) -> Iterator[Job]:
        """Jobs for what is new or different in one folder; the rest is counted."""
        known = self._catalog.known(scope.source_id, folder.path)
        bad = self._catalog.known_failures(scope.source_id, folder.path)
        for path, reason in folder.failures:
            self._keep_failure(scope, path, reason)
            known.pop(os.path.basename(path), None)
            bad.pop(os.path.basename(path), None)
        books = self._captions_of(scope, folder)
        outdated = self._outdated_captions(known, books)
        for file in folder.files:
            name = os.path.basename(file.path)
            if self._book is not None and self._book.path == os.path.join(scope.root, file.path):
                continue  # it is about the photos it lies among, not one of them
            stored = known.pop(name, None)
            if stored is not None and self._nested:
                self._met.add(stored.id)
            failed = bad.pop(name, None)
            beside = bad.pop(file.sidecar_name, None) if file.sidecar_name else None
            if failed == (file.size, file.mtime_ns):
                self._report.skipped += 1
                self._step()
            elif (
                stored is not None
                and _same(stored, file)
                and stored.id not in outdated
                and self._readings[file.kind] <= stored.readings
            ):
                self._report.unchanged += 1
                self._report.skipped += beside is not None and beside == file.sidecar
                self._heal(scope, folder, name, failed)
                self._step()
            else:
                yield Job(
                    scope.source_id, scope.root, folder.path, name, file, stored, books.get(name)
                )
        if folder.complete:
            self._miss(scope, folder.path, known)
            self._catalog.forget_failures(scope.source_id, folder.path, bad)

    def _heal(self, scope: Scope, folder: Folder, name: str, failed: Stat | None) -> None:
        """A file that is again what it was when it was stored is no failure any more."""
        if failed is not None:
            self._catalog.forget_failures(scope.source_id, folder.path, [name])

    def _miss(self, scope: Scope, folder: str, known: dict[str, Known]) -> None:
        """What was not met is gone, unless it is there and walks pass it over: it was named.

        Or else it is of a kind that cannot be read just now, for want of a package, say.
        """
        for name, stored in known.items():
            path = os.path.join(folder, name)
            there = os.path.lexists(os.path.join(scope.root, path))
            unasked = not _ends(name, self._endings) and kind_of(name) not in self._options.refused
            if not (there and (is_passed_over(path) or unasked)):
                self.missing.append(stored.id)

    def _is_lost(self, scope: Scope) -> bool:
        """Whether a folder in a source that is there is gone: then so is what was in it."""
        return bool(scope.below) and not os.path.isdir(os.path.join(scope.root, scope.below))

    def _is_away(self, scope: Scope) -> bool:
        """Whether a whole source is an empty mount point now: then nothing in it was deleted."""
        if scope.below:
            return False
        device = self._catalog.device(scope.source_id)
        if is_away(scope.root, device):
            self._report.warnings.append(
                f"{scope.root} is empty and was on another disk before: is it mounted? What was "
                f"found in it stays in the index until `mmsearch remove {scope.root}`"
            )
            return True
        now = os.stat(scope.root).st_dev
        if now != device:
            self._catalog.note_device(scope.source_id, now)
        return False

    def _captions_of(self, scope: Scope, folder: Folder) -> dict[str, list[str]]:
        """What the captions file says of the photos of a folder, by name."""
        if self._book is None:
            return {}
        found = {}
        for file in folder.files:
            if file.kind in CAPTIONED:
                absolute = os.path.join(scope.root, file.path)
                given = os.path.relpath(file.path, scope.below or os.curdir)
                captions = self._book.find(absolute, given)
                if captions is not None:
                    found[os.path.basename(file.path)] = captions
        return found

    def _outdated_captions(self, known: dict[str, Known], books: dict[str, list[str]]) -> set[int]:
        """Items whose stored captions are not those of the captions file."""
        asked = {known[name].id: captions for name, captions in books.items() if name in known}
        stored = self._catalog.items(list(asked))
        return {
            item_id
            for item_id, captions in asked.items()
            if item_id in stored
            and captions != [t.text for t in stored[item_id].texts if t.origin == "caption"]
        }

    def _note_lost_folders(self, scope: Scope, seen: set[str], unlisted: list[str]) -> None:
        """Folders that are gone take their items along; those that could not be listed do not."""
        for folder in self._catalog.folders(scope.source_id, scope.below) - seen:
            if not any(_is_in(folder, kept) for kept in unlisted):
                self._miss(scope, folder, self._catalog.known(scope.source_id, folder))
                bad = self._catalog.known_failures(scope.source_id, folder)
                self._catalog.forget_failures(scope.source_id, folder, bad)

    def _keep_failure(self, scope: Scope, path: str, reason: str) -> None:
        """Note what could not even be listed."""
        folder, name = os.path.split(path)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._report.failures.append(Failure(os.path.join(scope.root, path), reason, now))
        self._report.skipped += 1
        row = {"source_id": scope.source_id, "folder": folder, "name": name, "reason": reason}
        self._catalog.fail([{**row, "size": None, "mtime_ns": None, "retry": 1}])


def _ends(name: str, endings: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in endings


def _same(known: Known, file: FileStat) -> bool:
    return known.stat == (file.size, file.mtime_ns) and known.sidecar == file.sidecar


def _is_in(folder: str, other: str) -> bool:
    return other in ("", folder) or folder.startswith(other.rstrip(os.sep) + os.sep)
