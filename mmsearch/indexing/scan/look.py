"""What changed on disk since the store was last brought in line with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, get_args

from mmsearch.errors import PathNotFound
from mmsearch.indexing.decode import Job
from mmsearch.indexing.decode.contents import Options
from mmsearch.indexing.scan.scopes import Scope, is_in
from mmsearch.media.file_state import Stat, same_stats
from mmsearch.media.kinds import endings_of, kind_of
from mmsearch.media.walk import CAPTIONED, FileStat, Folder, Tree, is_away, is_passed_over
from mmsearch.storage import FailureRecord, KnownFile, Store
from mmsearch.types import Failure, Kind, Report

if TYPE_CHECKING:
    from mmsearch.media.captions import CaptionFile


class Scan:
    """One look at some scopes.

    Args:
        store: What was known.
        scopes: Where to look.
        options: How.
        book: Captions from a file, if any.
        report: Counts what is unchanged or known to be bad, and takes the scan's own failures.
        step: Called with how many files more need no further work.
    """

    def __init__(
        self,
        store: Store,
        scopes: Sequence[Scope],
        options: Options,
        *,
        book: CaptionFile | None,
        report: Report,
        step: Callable[[int], None],
    ) -> None:
        self.missing: list[int] = []
        """Items whose file was not met where it should be; complete when `jobs` has ended."""
        self._store = store
        self._scopes = scopes
        self._options = options
        self._book = book
        self._report = report
        self._step = step
        self._foreign: list[str] = []
        self._failed: set[str] = set()  # folders of the scope's source that have failures
        self._nested = any(
            one is not other and one.source_id == other.source_id and is_in(one.below, other.below)
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
                    total += self._tree(scope).count()
            return total
        return None

    def _tree(self, scope: Scope) -> Tree:
        return Tree(
            scope.root,
            scope.below,
            exclude=scope.exclude,
            include_hidden=scope.include_hidden,
            endings=self._endings,
        )

    def jobs(self) -> Iterator[Job]:
        """Files that are new or may have changed, folder by folder."""
        for scope in self._scopes:
            self._failed = self._store.failures.folders(scope.source_id)
            if self._is_away(scope):
                continue
            if scope.only is not None:
                yield from self._some_files(scope, scope.only)
                continue
            if self._is_lost(scope):
                self._note_lost_folders(scope, set(), [])
                continue
            seen: set[str] = set()
            unlisted: list[str] = []
            for folder in self._tree(scope).walk():
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
            known = self._store.files.known(scope.source_id, scope.below)
            self._miss(scope, scope.below, {name: known[name] for name in only & known.keys()})
            return
        folder = next(self._tree(replace(scope, include_hidden=True)).walk(), None)
        if folder is None:
            return
        for name, stored in self._store.files.known(scope.source_id, scope.below).items():
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
        known = self._store.files.known(scope.source_id, folder.path)
        bad = self._bad_in(scope, folder.path)
        start = len(folder.path) + 1 if folder.path else 0
        for path, reason in folder.failures:
            self._keep_failure(scope, path, reason)
            known.pop(path[start:], None)
            bad.pop(path[start:], None)
        books = self._captions_of(scope, folder)
        outdated = self._outdated_captions(known, books)
        again = {name for name, stat in bad.items() if stat is None}
        plain = not (bad or outdated or self._nested or self._book)
        unchanged = 0
        for file in folder.files:
            name = file.path[start:]
            row = known.pop(name, None)
            if row is not None and same_stats(row[2:6], file) and self._is_read(row, file.kind):
                if plain:
                    unchanged += 1
                    continue
                same = row.id not in outdated and file.sidecar_name not in again
            else:
                same = False
            self._count_unchanged(unchanged)
            unchanged = 0
            if self._needs_work(scope, file, row, bad, same=same):
                captions = books.get(name)
                yield Job(scope.source_id, scope.root, folder.path, name, file, row, captions)
        self._count_unchanged(unchanged)
        if folder.complete:
            self._miss(scope, folder.path, known)
            self._store.failures.remove(scope.source_id, folder.path, bad)

    def _needs_work(
        self,
        scope: Scope,
        file: FileStat,
        row: KnownFile | None,
        bad: dict[str, Stat | None],
        *,
        same: bool,
    ) -> bool:
        """Whether a file is to be read; if not, it is counted."""
        folder, name = os.path.split(file.path)
        if self._book is not None and self._book.path == os.path.join(scope.root, file.path):
            return False  # it is about the photos it lies among, not one of them
        if row is not None and self._nested:
            self._met.add(row.id)
        failed = bad.pop(name, None)
        beside = bad.pop(file.sidecar_name, None) if file.sidecar_name else None
        if failed == (file.size, file.mtime_ns):
            self._report.skipped += 1
            self._step(1)
            return False
        if same:
            self._report.skipped += beside is not None and beside == file.sidecar
            if failed is not None:  # it is again what it was when it was stored
                self._store.failures.remove(scope.source_id, folder, [name])
            self._count_unchanged(1)
        return not same

    def _count_unchanged(self, files: int) -> None:
        if files:
            self._report.unchanged += files
            self._step(files)

    def _is_read(self, row: KnownFile, kind: Kind) -> bool:
        """Whether all has been read from a stored file that is to be read from its kind now."""
        wanted = self._readings[kind]
        return not wanted or wanted <= row.readings

    def _bad_in(self, scope: Scope, folder: str) -> dict[str, Stat | None]:
        """The failures in a folder; which folders have any is asked once a scope."""
        if folder not in self._failed:
            return {}
        return self._store.failures.known(scope.source_id, folder)

    def _miss(self, scope: Scope, folder: str, known: dict[str, KnownFile]) -> None:
        """What was not met is gone, unless it is there and walks pass it over: it was named.

        Or else it is of a kind that cannot be read just now, for want of a package, say.
        """
        for name, row in known.items():
            path = os.path.join(folder, name)
            there = os.path.lexists(os.path.join(scope.root, path))
            unasked = not _ends(name, self._endings) and kind_of(name) not in self._options.refused
            if not (there and (is_passed_over(path) or unasked)):
                self.missing.append(row.id)

    def _is_lost(self, scope: Scope) -> bool:
        """Whether a folder in a source that is there is gone: then so is what was in it."""
        return bool(scope.below) and not os.path.isdir(os.path.join(scope.root, scope.below))

    def _is_away(self, scope: Scope) -> bool:
        """Whether a whole source is an empty mount point now: then nothing in it was deleted."""
        device = self._store.sources.device(scope.source_id)
        if is_away(scope.root, device):
            warning = (
                f"{scope.root} is empty and was on another disk before: is it mounted? What was "
                f"found in it stays in the index until `mmsearch remove {scope.root}`; if it was "
                f"moved: `mmsearch relocate {scope.root} NEW`"
            )
            if warning not in self._report.warnings:
                self._report.warnings.append(warning)
            return True
        if not scope.below and (now := os.stat(scope.root).st_dev) != device:
            self._store.sources.set_device(scope.source_id, now)
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

    def _outdated_captions(
        self, known: dict[str, KnownFile], books: dict[str, list[str]]
    ) -> set[int]:
        """Items whose stored captions are not those of the captions file."""
        if not books:
            return set()
        asked = {known[name].id: captions for name, captions in books.items() if name in known}
        stored = self._store.items.get(list(asked))
        return {
            item_id
            for item_id, captions in asked.items()
            if item_id in stored
            and captions != [t.text for t in stored[item_id].texts if t.origin == "caption"]
        }

    def _note_lost_folders(self, scope: Scope, seen: set[str], unlisted: list[str]) -> None:
        """Folders that are gone take their items along; those that could not be listed do not."""
        for folder in self._store.files.folders(scope.source_id, scope.below) - seen:
            if not any(is_in(folder, kept) for kept in unlisted):
                self._miss(scope, folder, self._store.files.known(scope.source_id, folder))
                bad = self._store.failures.known(scope.source_id, folder)
                self._store.failures.remove(scope.source_id, folder, bad)

    def _keep_failure(self, scope: Scope, path: str, reason: str) -> None:
        """Note what could not even be listed."""
        folder, name = os.path.split(path)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._report.failures.append(Failure(os.path.join(scope.root, path), reason, now))
        self._report.skipped += 1
        failure = FailureRecord(scope.source_id, folder, name, reason, stat=None, retry=True)
        self._store.failures.add([failure])


def _ends(name: str, endings: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in endings
