"""Hears from the system what changes in folders."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmsearch.errors import MissingExtra
from mmsearch.media.kinds import kind_of

if TYPE_CHECKING:
    from watchfiles.main import FileChange

Heard = queue.SimpleQueue["set[str] | Exception"]
"""Paths that changed, or why no more can be heard."""


def require() -> None:
    """Whether there is what it takes.

    Raises:
        MissingExtra: watchfiles is not installed.
    """
    from importlib.util import find_spec

    if find_spec("watchfiles") is None:
        raise MissingExtra("being told of changes", "watch")


class Ears:
    """Hears of changes from when it is made until it is closed, in a thread of its own.

    Args:
        folders: Where; they exist.
        heard: Where the paths go that changed.
        deep: Whether also of what lies below, in folders that are there or come.
    """

    def __init__(self, folders: Sequence[str], heard: Heard, *, deep: bool) -> None:
        self._folders = folders
        self._heard = heard
        self._deep = deep
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="watch", daemon=True)
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Hear no more."""
        self._stop.set()
        self._thread.join()

    def _listen(self) -> None:
        try:
            for changes in self._changes():
                self._ready.set()
                if paths := {path for change, path in changes if _may_matter(change.name, path)}:
                    self._heard.put(paths)
        except (OSError, RuntimeError) as error:
            self._heard.put(error)
        finally:
            self._ready.set()

    def _changes(self) -> Iterator[set[FileChange]]:
        import watchfiles

        return watchfiles.watch(
            *self._folders,
            watch_filter=None,
            debounce=1000,
            step=50,
            rust_timeout=200,
            yield_on_timeout=True,
            stop_event=self._stop,
            recursive=self._deep,
            force_polling=False,
            # if they were, nothing would be heard of any folder, and no error either
            ignore_permission_denied=False,
            raise_interrupt=False,
        )


def readable_below(folder: str) -> list[str]:
    """A folder and those below it, as far as they may be read."""
    return [path for path, _, _ in os.walk(folder) if os.access(path, os.R_OK | os.X_OK)]


def _may_matter(change: str, path: str) -> bool:
    """Whether it is a file to index, or a folder; of what is gone, only its name can tell."""
    return change == "deleted" or kind_of(os.path.basename(path)) is not None or os.path.isdir(path)
