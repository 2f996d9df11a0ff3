"""Which corpora have not changed since all their members were stored: they cost a run one stat."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from mmsearch.errors import MMSearchError
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.indexing.scopes import Scope, is_in
from mmsearch.media.file_state import CTIME_TELLS, storable_time
from mmsearch.media.kinds import endings_of
from mmsearch.media.members import SEPARATOR, is_corpus, split_member
from mmsearch.storage import Store

STATES = "corpora"
"""The setting with the state of each corpus, by path: its size, mtime_ns and ctime_ns, how it was
read, the number of its items and that of its failures."""

MOST_BYTES_TO_COUNT = 2**30
"""The most bytes of tar and jsonl files that are read just to count their members."""


class ScannedCorpora:
    """The states of corpora, as they are stored and as a run finds them."""

    def __init__(self, store: Store, options: ReadOptions) -> None:
        self._store = store
        self._how = " ".join(sorted({*endings_of(options.kinds), *options.readings}))
        self._states: dict[str, list[Any]] | None = None
        self._scanned: list[tuple[Scope, str, list[Any]]] = []
        self._gone = False

    def unchanged(self, path: str, status: os.stat_result) -> tuple[int, int] | None:
        """How many items and failures an unchanged corpus has; None if it is to be scanned."""
        state = self._stored().get(path)
        if state is None or state[:4] != self._state(status):
            return None
        return state[4], state[5]

    def count(self, paths: Iterable[str], endings: Collection[str]) -> int | None:
        """About how many members corpora have; None if counting them would take too long.

        Args:
            paths: The corpora.
            endings: The endings of files that can be indexed.
        """
        from mmsearch.media.corpora import is_current, open_corpus

        total = unread = 0
        for path in paths:
            try:
                status = os.stat(path)
                if (known := self.unchanged(path, status)) is not None:
                    total += sum(known)
                    continue
                if not (path.lower().endswith(".parquet") or is_current(path)):
                    unread += status.st_size
                if unread > MOST_BYTES_TO_COUNT:
                    return None
                total += open_corpus(path).count(endings)
            except (OSError, MMSearchError):  # it will be one failure
                total += 1
        return total

    def scanned(self, scope: Scope, name: str, status: os.stat_result) -> None:
        """Note a corpus in a scope's folder, whose members are now read."""
        self._scanned.append((scope, name, self._state(status)))

    def forget(self, path: str) -> None:
        """Forget a corpus that is gone."""
        self._gone |= path in self._stored()
        self._stored().pop(path, None)

    def finish(self) -> None:
        """Store the states of the corpora that were scanned and need not be read again."""
        if not (self._scanned or self._gone):
            return
        states = self._stored()
        in_folders: dict[str, dict[str, dict[str, Any]]] = {}
        for scope, name, state in self._scanned:
            if scope.folder not in in_folders:
                failed = self._store.failures.known(scope.source_id, scope.below)
                in_folders[scope.folder] = by_corpus(failed)
            members = in_folders[scope.folder].get(name, {})
            path = os.path.join(scope.folder, name)
            if None in members.values():  # to be tried again
                states.pop(path, None)
                continue
            stored = self._store.files.known(scope.source_id, scope.below, name + SEPARATOR)
            states[path] = [*state, len(stored), len(members)]
        self._scanned.clear()
        self._write()

    def _stored(self) -> dict[str, list[Any]]:
        if self._states is None:
            self._states = corpus_states(self._store)
        return self._states

    def _state(self, status: os.stat_result) -> list[Any]:
        ctime_ns = storable_time(status.st_ctime_ns) if CTIME_TELLS else 0
        return [status.st_size, storable_time(status.st_mtime_ns), ctime_ns, self._how]

    def _write(self) -> None:
        roots = {root.path for root in self._store.index_roots.all() if is_corpus(root.path)}
        kept = {path: state for path, state in self._stored().items() if path in roots}
        self._store.settings.set(STATES, json.dumps(kept))


_Failed = TypeVar("_Failed")


def by_corpus(failed: Mapping[str, _Failed]) -> dict[str, dict[str, _Failed]]:
    """The failures of a folder by name: those of each corpus and its members; "" has the others."""
    found: dict[str, dict[str, _Failed]] = {}
    for name, one in failed.items():
        member = split_member(name)
        corpus = member[0] if member else name if is_corpus(name) else ""
        found.setdefault(corpus, {})[name] = one
    return found


def corpus_states(store: Store) -> dict[str, list[Any]]:
    """The stored states by path."""
    found: dict[str, list[Any]] = json.loads(store.settings.get(STATES) or "{}")
    return found


def scan_again(store: Store, path: str) -> None:
    """Have the next run scan a corpus, or those in a folder, even if they have not changed."""
    states = corpus_states(store)
    left = {one: state for one, state in states.items() if not is_in(one, path)}
    if left != states:
        store.settings.set(STATES, json.dumps(left))
