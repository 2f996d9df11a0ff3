"""Finds the files that are new, changed or deleted since the last run."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, get_args

from mmsearch.errors import MissingExtra, PathNotFound, UnreadableFile
from mmsearch.indexing.corpora import ScannedCorpora, by_corpus
from mmsearch.indexing.disks import Disks
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.indexing.passed_over import PassedOver
from mmsearch.indexing.scopes import Scope, is_in
from mmsearch.media.file_state import Stat, may_pass, same_stats, storable_time
from mmsearch.media.kinds import FORMATS, Format, ending_of, endings_of, kind_of
from mmsearch.media.members import (
    SEPARATOR,
    TAR,
    folder_and_name,
    lexists,
    split_member,
)
from mmsearch.media.walk import (
    CAPTIONED,
    FileStat,
    Film,
    Folder,
    Tree,
    device_now,
    excluder,
    is_passed_over,
)
from mmsearch.storage import FailureRecord, KnownFile, Store
from mmsearch.types import Failure, Kind, Report

if TYPE_CHECKING:
    from mmsearch.media.captions import CaptionFile
    from mmsearch.media.corpora import Member

    _Failed = tuple[Stat, int | None]
    """The stat and the ctime_ns of a file when it failed."""

LONGEST_FILM = 10.0
"""Seconds; the film of a Live Photo takes 3. A longer video is an item of its own."""


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """A file that is new or may have changed.

    Attributes:
        known: What is stored of it; None if it is new.
        captions: From a captions file; None if that does not name it.
    """

    source_id: int
    root: str
    folder: str
    name: str
    file: FileStat
    known: KnownFile | None = None
    captions: Sequence[str] | None = None

    @property
    def path(self) -> str:
        """Absolute."""
        return os.path.join(self.root, self.folder, self.name)

    def beside(self, name: str) -> str:
        """The absolute path of another file in its folder, or member of its corpus."""
        return os.path.join(self.root, self.folder, name)


class Scan:
    """Compares some scopes with the store.

    `report` counts files that are unchanged or known to be bad, and takes the scan's failures;
    `step` is called with how many files more need no further work.
    """

    def __init__(
        self,
        store: Store,
        scopes: Sequence[Scope],
        options: ReadOptions,
        *,
        caption_file: CaptionFile | None,
        report: Report,
        step: Callable[[int], None],
    ) -> None:
        self.passed_over = PassedOver(options.kinds)
        """The files that are not indexed here; complete when `files` has ended."""
        self._store = store
        self._scopes = scopes
        self._options = options
        self._caption_file = caption_file
        self._report = report
        self._step = step
        self._unusable: list[str] = []  # of the files that were named
        self._folders_with_failures: set[str] = set()  # of the scope's source
        self._nested = any(
            one is not other and one.source_id == other.source_id and is_in(one.top, other.top)
            for one in scopes
            for other in scopes
            if not (one.corpora or other.corpora)
        )
        self._met: set[int] = set()  # of nested scopes, one may leave out what another meets
        self._disks: dict[int, Disks] = {}  # by source
        self._corpora = ScannedCorpora(store, options)
        self._failed_members: dict[str, dict[str, _Failed | None]] | None = None
        """The failures in the folder that is scanned for corpora, by corpus."""
        self._endings = endings_of(options.kinds)
        self._readings = {kind: options.readings_of(kind) for kind in get_args(Kind)}
        """By kind, what is to be read from a file besides its pixels and samples."""

    def count(self) -> int | None:
        """How many files there are, by their names alone.

        It is None if a folder vanished, or if counting the members of corpora would take too long.
        """
        total = 0
        with suppress(OSError, PathNotFound):
            paths = [
                os.path.join(scope.folder, name)
                for scope in self._scopes
                if scope.corpora
                for name in scope.only or ()
            ]
            if (members := self._corpora.count(paths, self._endings)) is None:
                return None
            total += members
            for scope in self._scopes:
                if scope.corpora:
                    continue
                if scope.only is not None:
                    total += len(scope.only)
                else:
                    total += self._tree(scope).count()
            return total
        return None

    def files(self) -> Iterator[ScannedFile]:
        """Files that are new or may have changed, folder by folder."""
        for scope in self._scopes:
            self._folders_with_failures = self._store.failures.folders(scope.source_id)
            if not os.path.isdir(scope.root):
                continue
            if scope.source_id not in self._disks:
                self._disks[scope.source_id] = Disks(self._store, scope.source_id, scope.root)
            if scope.only is not None:
                scan = self._members if scope.corpora else self._named_files
                yield from scan(scope, scope.only)
            else:
                yield from self._all_files(scope)
        if self._unusable:
            shown = ", ".join(self._unusable[:3]) + (", …" if len(self._unusable) > 3 else "")
            kinds = " ".join(sorted(self._endings))
            older = any(ending_of(name) in (".doc", ".ppt") for name in self._unusable)
            self._report.warnings.append(
                f"{len(self._unusable)} of the files given cannot be indexed: {shown} "
                f"({'save .doc as .docx, .ppt as .pptx; ' if older else ''}what can be: {kinds})"
            )

    def _tree(self, scope: Scope) -> Tree:
        return scope.tree(self._endings, self._options.raw_pairs)

    def _all_files(self, scope: Scope) -> Iterator[ScannedFile]:
        seen: set[str] = set()
        unlisted: list[str] = []
        if scope.is_whole:
            self.passed_over.walk(scope.folder)
        for folder in () if self._is_deleted(scope) else self._tree(scope).walk():
            seen.add(folder.path)
            self.passed_over.add(scope.folder, folder.others)
            if folder.unknown:
                tars = len(folder.unknown.get(TAR, ()))
                self.passed_over.add_tars(scope.folder, tars)
                place = os.path.join(scope.root, folder.path)
                self.passed_over.add_unknown(place, folder.unknown)
            if not folder.complete:
                unlisted.append(folder.path)
            known = self._store.files.known(scope.source_id, folder.path)
            yield from self._changed(scope, self._with_long_films(scope, folder, known), known)
        if scope.recursive or not seen:
            self._miss_deleted_folders(scope, seen, unlisted)

    def _named_files(self, scope: Scope, only: frozenset[str]) -> Iterator[ScannedFile]:
        """Scan a folder as if it held only these files, which are indexed even if hidden."""
        known = self._store.files.known(scope.source_id, scope.below)
        named = {name: known[name] for name in only & known.keys()}
        if self._is_deleted(scope):
            self._miss(scope, scope.below, named)
            return
        folder = next(self._tree(scope).walk(), None)
        if folder is None:
            return
        folder = self._with_long_films(scope, folder, known)
        attached = _attached_in(folder)
        for name, stored in named.items():
            deleted = not os.path.lexists(os.path.join(scope.folder, name))
            if deleted or name in attached or kind_of(name) in self._options.removed_kinds:
                self._disks[scope.source_id].miss(scope.below, [stored.id])
        files = [
            file
            for file in folder.files
            if os.path.basename(file.path) in only
            or file.sidecar_name in only
            or not only.isdisjoint(file.companions)
        ]
        failures = [pair for pair in folder.failures if os.path.basename(pair[0]) in only]
        met = {os.path.basename(file.path) for file in files}
        met |= {file.sidecar_name or "" for file in files}
        met.update(*(file.companions for file in files))
        met |= {os.path.basename(path) for path, _ in failures}
        unmet = only - met
        self._unusable += sorted(name for name in unmet if kind_of(name) is None)
        for name in only:
            place, ending = os.path.join(scope.folder, name), ending_of(name)
            self.passed_over.walk(place)
            if name in unmet and (form := FORMATS.get(ending)) and ending not in self._endings:
                self.passed_over.add(place, {form: 1})
        folder = replace(folder, files=files, failures=failures, complete=False)
        yield from self._changed(scope, folder, known)

    def _members(self, scope: Scope, only: frozenset[str]) -> Iterator[ScannedFile]:
        """Scan corpora of a folder, each as if it were a folder with its members."""
        self._failed_members = None
        met = 0
        for name in sorted(only - scope.unsettled):
            path = os.path.join(scope.folder, name)
            try:
                status = os.stat(path)
            except FileNotFoundError:
                known = self._store.files.known(scope.source_id, scope.below, name + SEPARATOR)
                self._miss(scope, scope.below, known, corpus=name)
                self._forget_failures(scope, name)
                self._corpora.forget(path)
                continue
            except OSError:
                continue  # its disk may be failing: its items stay
            unchanged = None if self._caption_file else self._corpora.unchanged(path, status)
            if unchanged is not None:
                items, failures = unchanged
                self._count_unchanged(items)
                self._report.skipped += failures
                self._step(failures)
                met += items
            else:
                yield from self._members_of(scope, name, path, status)
        if met:
            self._disks[scope.source_id].met(_folder_of(scope, [], complete=True), met)

    def _members_of(
        self, scope: Scope, name: str, path: str, status: os.stat_result
    ) -> Iterator[ScannedFile]:
        """The members of a corpus that are new or may have changed."""
        prefix = name + SEPARATOR
        above = f"{scope.below}/{prefix}" if scope.below else prefix
        known = self._store.files.known(scope.source_id, scope.below, prefix)
        mtime_ns, ctime_ns = storable_time(status.st_mtime_ns), storable_time(status.st_ctime_ns)
        leaves_out = excluder(scope.exclude)
        files, failures = [], []
        others: Counter[Format] = Counter()

        def fail(name: str, reason: str, size: int, *, retry: bool) -> None:
            place = scope.source_id, scope.below, name
            failures.append(FailureRecord(*place, reason, (size, mtime_ns), retry, ctime_ns))

        from mmsearch.media.corpora import open_corpus

        try:
            corpus = open_corpus(path)
            for member in corpus.members():
                # ".." in a name is no hidden folder, but a failure
                if is_passed_over(member.name.replace("..", "")) and not scope.include_hidden:
                    continue
                if leaves_out is not None and (
                    leaves_out(member.name) or leaves_out(posixpath.basename(member.name))
                ):
                    continue
                ending = ending_of(member.name)
                if ending and ending not in self._endings and ending in FORMATS:
                    others[FORMATS[ending]] += 1
                elif member.problem:
                    fail(prefix + member.name, member.problem, member.size, retry=member.retry)
                else:
                    files.append(_member_stat(above, member, mtime_ns, ctime_ns))
            if corpus.problem:
                fail(name, corpus.problem, status.st_size, retry=False)
            complete = not corpus.problem
        except (UnreadableFile, MissingExtra, OSError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            retry = isinstance(error, OSError) or may_pass(error)
            files, complete = [], False
            failures.clear()
            fail(
                name,
                why.lower() if isinstance(error, OSError) else why,
                status.st_size,
                retry=retry,
            )
        self.passed_over.walk(path)
        self.passed_over.add(path, others)
        if not (files or failures or others):
            self._report.warnings.append(f"{path} has no member that can be indexed")
        self._fail_members(scope, failures)
        for failure in failures:
            known.pop(failure.name, None)
        folder = _folder_of(scope, files, complete=complete)
        failed = {failure.name for failure in failures}
        self._corpora.scanned(scope, name, status)
        yield from self._changed(scope, folder, known, corpus=name, failed_now=failed)

    def _fail_members(self, scope: Scope, failures: Sequence[FailureRecord]) -> None:
        """Record the failures of a corpus and of members that cannot even be listed."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for failure in failures:
            path = os.path.join(scope.folder, failure.name)
            self._report.failures.append(Failure(path, failure.reason, now))
            self._report.skipped += 1
            self._step(1)
        if failures:
            self._store.failures.add(failures)
            self._folders_with_failures.add(scope.below)

    def _forget_failures(self, scope: Scope, name: str) -> None:
        failed = self._failures_in(scope, scope.below, name)
        self._store.failures.remove(scope.source_id, scope.below, failed)

    def _with_long_films(
        self, scope: Scope, folder: Folder, known: Mapping[str, KnownFile]
    ) -> Folder:
        """The folder, in which films that are too long for a Live Photo are files of their own.

        A film's length is read only if neither its still nor the film itself is stored unchanged.
        """
        if not folder.films:
            return folder
        start = len(folder.path) + 1 if folder.path else 0
        stored: dict[int, Film] = {}
        long: list[Film] = []
        by_path = {file.path: file for file in folder.files}
        for path, (still, film) in folder.films.items():
            name, row = film.path[start:], known.get(path[start:])
            if row is not None and same_stats(row[2:7], by_path[path]):
                continue
            if name in scope.unsettled and folder.path == scope.top:
                continue
            row = known.get(name)
            if row is not None and same_stats(row[2:7], film):
                stored[row.id] = still, film
            elif _is_long(os.path.join(scope.root, film.path)):
                long.append((still, film))
        for item_id, item in self._store.items.get(list(stored)).items() if stored else ():
            if (item.metadata.get("seconds") or 0.0) > LONGEST_FILM:
                long.append(stored[item_id])
        for still, film in long:
            by_path |= {still.path: still, film.path: film}
        files = sorted(by_path.values(), key=lambda file: file.path)
        return replace(folder, files=files) if long else folder

    # ------------------------------------------------------------------ one folder

    def _changed(
        self,
        scope: Scope,
        folder: Folder,
        known: dict[str, KnownFile],
        *,
        corpus: str = "",
        failed_now: Collection[str] = (),
    ) -> Iterator[ScannedFile]:
        """What is new or different in one folder; the rest is counted.

        Args:
            scope: What is scanned.
            folder: With the files that are there.
            known: Those that are stored; files that are met are removed from it.
            corpus: The name of the corpus in the folder whose members these are; "" for its files.
            failed_now: What failed in this scan already.
        """
        stored = len(known)
        new_times: list[tuple[int, int]] = []
        failed = self._failures_in(scope, folder.path, corpus)
        for name in failed_now:
            failed.pop(name, None)
        start = len(folder.path) + 1 if folder.path else 0
        for path, reason in folder.failures:
            self._record_failure(scope, path, reason)
            known.pop(path[start:], None)
            failed.pop(path[start:], None)
        files = folder.files
        if scope.unsettled and folder.path == scope.top:
            files = _settled(files, scope.unsettled, start, known, failed)
        captions = self._captions_of(scope, files)
        outdated = self._outdated_captions(known, captions)
        retried = {name for name, stat in failed.items() if stat is None}
        plain = not (failed or outdated or self._nested or self._caption_file)
        readings = self._readings
        unchanged = 0  # counted a folder at a time, since 100,000 files are compared in a second
        for file in files:
            name = file.path[start:]
            row = known.pop(name, None)
            same = row is not None and (row[2:7] == file[2:7] or same_stats(row[2:7], file))
            if same and row is not None:
                if row.ctime_ns is None and file.ctime_ns is not None:  # stored by an older version
                    new_times.append((row.id, file.ctime_ns))
                same = not (wanted := readings[file.kind]) or wanted <= row.readings
            if same and plain:
                unchanged += 1
                continue
            if row is not None and same:
                same = row.id not in outdated and retried.isdisjoint(_attached_to(file))
            self._count_unchanged(unchanged)
            unchanged = 0
            if self._needs_work(scope, folder.path, file, row, failed, same=same):
                place = scope.source_id, scope.root, folder.path, name
                yield ScannedFile(*place, file, row, captions.get(name))
        self._count_unchanged(unchanged)
        if new_times:
            self._store.files.set_change_times(new_times)
        self._disks[scope.source_id].met(folder, stored - len(known))
        if folder.complete:
            self._miss(scope, folder.path, known, _attached_in(folder), corpus=corpus)
            if not scope.recursive:  # folders in it that failed are not looked at
                at = os.path.join(scope.root, folder.path)
                failed = {n: s for n, s in failed.items() if not os.path.isdir(f"{at}/{n}")}
            self._store.failures.remove(scope.source_id, folder.path, failed)

    def _needs_work(
        self,
        scope: Scope,
        folder: str,
        file: FileStat,
        row: KnownFile | None,
        failed: dict[str, _Failed | None],
        *,
        same: bool,
    ) -> bool:
        """Whether a file is to be read; if not, it is counted."""
        name = file.path[len(folder) + 1 if folder else 0 :]
        own_path = os.path.join(scope.root, file.path)
        if self._caption_file is not None and self._caption_file.path == own_path:
            return False  # the captions file itself is not indexed
        if row is not None and self._nested:
            self._met.add(row.id)
        failure = failed.pop(name, None)
        beside = [
            found for one in _attached_to(file) if (found := failed.pop(one, None)) is not None
        ]
        if failure is not None and _is_unchanged(failure, file):
            self._report.skipped += 1
            self._step(1)
            return False
        if same:
            self._report.skipped += len(beside)
            if failure is not None:  # it is again what it was when it was stored
                self._store.failures.remove(scope.source_id, folder, [name])
            self._count_unchanged(1)
        return not same

    def _count_unchanged(self, files: int) -> None:
        if files:
            self._report.unchanged += files
            self._step(files)

    def _is_wanted(self, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in self._endings

    # ------------------------------------------------------------------ deleted files

    def _miss(
        self,
        scope: Scope,
        folder: str,
        known: dict[str, KnownFile],
        attached: Collection[str] = (),
        *,
        corpus: str = "",
    ) -> None:
        """Items of a folder whose files were not found are missing, unless they may stay.

        A walk leaves out hidden files, which may have been named, and files of kinds that cannot be
        read now, for example because a package is missing: those stay while they exist, unless they
        are companions. The members of a corpus are missed only by a scan of it.
        """
        missing = []
        for name, row in known.items():
            if not corpus and split_member(name) is not None:
                continue
            path = os.path.join(folder, name)
            exists = lexists(os.path.join(scope.root, path))
            kind = kind_of(name)
            unread = not self._is_wanted(name) and kind not in self._options.removed_kinds
            if name in attached or not (exists and (is_passed_over(path) or unread)):
                missing.append(row.id)
        self._disks[scope.source_id].miss(folder, missing)

    def _miss_deleted_folders(self, scope: Scope, seen: set[str], unlisted: list[str]) -> None:
        """Items of folders that were not found are missing, unless one above was not listed."""
        for folder in self._store.files.folders(scope.source_id, scope.top) - seen:
            if not any(is_in(folder, one) for one in unlisted):
                self._miss(scope, folder, self._store.files.known(scope.source_id, folder))
                failed = by_corpus(self._store.failures.known(scope.source_id, folder))
                self._store.failures.remove(scope.source_id, folder, failed.get("", {}))

    def _is_deleted(self, scope: Scope) -> bool:
        """Whether the scope's folder was deleted, with all files in it, and the source exists."""
        return bool(scope.top) and not os.path.isdir(os.path.join(scope.root, scope.top))

    def finish_corpora(self) -> None:
        """Note the corpora whose members are all stored or failed, once they are."""
        self._corpora.finish()

    def deleted(self, renamed: Collection[int]) -> list[int]:
        """The items whose files are gone, when `files` has ended; those stay that are away.

        Args:
            renamed: Items that were found under another path.
        """
        found: set[int] = set()
        for disks in self._disks.values():
            deleted, away = disks.settle({*self._met, *renamed})
            found.update(deleted)
            self._report.warnings += (
                f"{folder} {why}: is it mounted? The {number} items found in it stay in the index "
                f"until `mmsearch remove {folder}`; if it was moved: `mmsearch relocate {folder} "
                "NEW`"
                for folder, number, why in away
            )
        return sorted(found)

    # ------------------------------------------------------------------ captions and failures

    def _captions_of(self, scope: Scope, files: Sequence[FileStat]) -> dict[str, list[str]]:
        """The captions that the captions file has for the files of a folder, by name."""
        if self._caption_file is None:
            return {}
        found = {}
        for file in files:
            if file.kind in CAPTIONED:
                absolute = os.path.join(scope.root, file.path)
                given = os.path.relpath(file.path, scope.below or os.curdir)
                captions = self._caption_file.find(absolute, given)
                if captions is not None:
                    found[folder_and_name(file.path)[1]] = captions
        return found

    def _outdated_captions(
        self, known: dict[str, KnownFile], captions: dict[str, list[str]]
    ) -> set[int]:
        """Items whose stored captions are not those of the captions file."""
        given = {known[name].id: texts for name, texts in captions.items() if name in known}
        stored = self._store.items.get(list(given)) if given else {}
        return {
            item_id
            for item_id, item in stored.items()
            if given[item_id] != [part.text for part in item.texts if part.origin == "caption"]
        }

    def _failures_in(
        self, scope: Scope, folder: str, corpus: str = ""
    ) -> dict[str, _Failed | None]:
        """The failures of the files in a folder, or of a corpus in it and its members."""
        if folder not in self._folders_with_failures:
            return {}
        if not corpus:
            return by_corpus(self._store.failures.known(scope.source_id, folder)).get("", {})
        if self._failed_members is None:
            self._failed_members = by_corpus(self._store.failures.known(scope.source_id, folder))
        return self._failed_members.get(corpus, {})

    def _record_failure(self, scope: Scope, path: str, reason: str) -> None:
        """Record what could not even be listed."""
        folder, name = os.path.split(path)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._report.failures.append(Failure(os.path.join(scope.root, path), reason, now))
        self._report.skipped += 1
        failure = FailureRecord(scope.source_id, folder, name, reason, stat=None, retry=True)
        self._store.failures.add([failure])


def _settled(
    files: Sequence[FileStat],
    unsettled: Collection[str],
    start: int,
    known: dict[str, KnownFile],
    failed: dict[str, _Failed | None],
) -> list[FileStat]:
    """The files of a folder that are not being written; the others leave `known` and `failed`."""
    waiting = {*unsettled}
    # a file waits for its companions
    waiting.update(file.path[start:] for file in files if not waiting.isdisjoint(file.companions))
    for name in waiting:
        known.pop(name, None)
        failed.pop(name, None)
    return [file for file in files if file.path[start:] not in waiting]


def _folder_of(scope: Scope, files: list[FileStat], *, complete: bool) -> Folder:
    """The members of a corpus as files of the folder that it is in."""
    device = device_now(scope.root, scope.below)
    return Folder(scope.below, files, [], complete, {}, device=device)


def _member_stat(above: str, member: Member, mtime_ns: int, ctime_ns: int) -> FileStat:
    """A member of a corpus as a file; `above` begins its path."""
    kind = kind_of(above + member.name)
    assert kind is not None
    beside: tuple[int | None, int | None, str | None] = (None, None, None)
    if member.sidecar:
        name = above.rpartition("/")[2] + member.sidecar
        beside = member.sidecar_size, mtime_ns, name
    path, (size, sidecar_mtime_ns, sidecar) = above + member.name, beside
    own = path, kind, member.size, mtime_ns, size, sidecar_mtime_ns
    return FileStat(*own, ctime_ns, sidecar)


def _is_long(path: str) -> bool:
    """Whether a video is too long for the film of a Live Photo; True if it cannot be read."""
    from mmsearch.media import video

    try:
        return video.seconds(path) > LONGEST_FILM
    except UnreadableFile:
        return True  # as a file of its own, it is listed as a failure


def _attached_to(file: FileStat) -> Sequence[str]:
    """The names of a file's companions, and of its captions."""
    if file.sidecar_name is None:
        return file.companions
    return (file.sidecar_name, *file.companions)


def _attached_in(folder: Folder) -> set[str]:
    """The names of all companions and captions in a folder."""
    return {name for file in folder.files for name in _attached_to(file)}


def _is_unchanged(failed: _Failed, file: FileStat) -> bool:
    """Whether a file is as it was when it failed."""
    (size, mtime_ns), ctime_ns = failed
    return same_stats((size, mtime_ns, file.sidecar_size, file.sidecar_mtime_ns, ctime_ns), file)
