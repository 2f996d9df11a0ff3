"""Keeps an index in step with the disk, for as long as it is let to.

The system tells of changes (inotify and its like, through watchfiles); what it tells is only taken
for where to look. Whatever it does not tell is found all the same: everything is looked at once in
the beginning, when a folder comes back, after a flood, and now and then.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmsearch.collection.watch.debouncer import PATIENCE, QUIET, Pending
from mmsearch.collection.watch.folder_listener import require
from mmsearch.collection.watch.watching import Told, Watching
from mmsearch.errors import IndexBusy
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.types import Progress

__all__ = ["Pending", "watch"]

TRIED_AGAIN = 1.0
"""Seconds until it is looked again whether others still write."""


def watch(  # noqa: PLR0913 - keywords, all optional
    collection: Collection,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    *,
    poll: bool = False,
    stop: threading.Event | None = None,
    on_update: Callable[[Report], None] | None = None,
    on_trouble: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    quiet: float = QUIET,
    patience: float = PATIENCE,
) -> Report:
    """Bring an index up to date, and keep it so until `stop` is set; returns what was done in all.

    Args:
        collection: The index.
        paths: Folders and files; left out, all that was ever indexed, also what is later on.
        poll: Do not rely on being told of changes: look at everything again and again, which takes
            a tenth of the time. For network drives that other machines write to.
        stop: Ends it, once the batch in hand is stored.
        on_update: Told what each look found, also if it is nothing.
        on_trouble: Told what is in the way, once; it is tried again.
        progress: Of the first look.
        quiet: Seconds without a change after which what has changed is read.
        patience: Seconds after which it is read although changes go on.

    Raises:
        MissingExtra: watchfiles is not installed, and it is not to `poll`.
        PathNotFound: one of `paths` does not exist, or none were given and nothing was indexed yet.
        IndexNotFound: the index was deleted meanwhile.
    """
    if not poll:
        require()
    stop = stop or threading.Event()
    told = Told(on_update or _nobody, on_trouble or _nobody, progress)
    given = None if paths is None else _asked_for(collection, paths, stop, told)
    pending = Pending(quiet, patience)
    return Watching(collection, given, pending, stop, told, poll=poll).run()


def _asked_for(
    collection: Collection,
    paths: Sequence[str | os.PathLike[str]],
    stop: threading.Event,
    told: Told,
) -> dict[str, bool]:
    """The folders to watch, noted as asked for as soon as nobody else writes; none if stopped."""
    said = False
    while not stop.is_set():
        try:
            return collection.ask_for(paths)
        except IndexBusy as error:
            if not said:
                told.trouble(f"{error} (it is tried again)")
            said = True
            stop.wait(TRIED_AGAIN)
    return {}


def _nobody(_: object) -> None:
    return None
