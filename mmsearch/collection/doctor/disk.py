"""The files that an index is about: whether they are there, and what they were."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mmsearch.collection.doctor.finding import SHOWN, Finding, ok
from mmsearch.errors import UnreadableFile
from mmsearch.media.file_state import has_content, read_file, stat_of
from mmsearch.media.walk import is_away

if TYPE_CHECKING:
    from mmsearch.collection.doctor.check_context import CheckContext

MOST_READ = 2 * 2**30
"""Bytes of files that are read again, at most."""

FOLDERS, FILES, CONTENT, FAILED = "folders", "files", "content", "failed files"


def check_folders(context: CheckContext) -> Iterator[Finding]:
    """Whether the folders that were indexed are there."""
    rows = context.rows("SELECT path, device FROM sources WHERE path <> ''")
    away = [root for root, device in rows if is_away(root, device)]
    if away:
        what = f"{len(away)} are not there; what was found in them is kept"
        cure = "mount them; or mmsearch relocate OLD NEW; or mmsearch remove FOLDER"
        yield Finding(FOLDERS, "note", len(away), what, cure, away[:SHOWN])
    else:
        yield ok(FOLDERS, len(rows), f"{len(rows)}, all there")


def check_files(context: CheckContext) -> Iterator[Finding]:
    """Whether files are as they were when they were read, and hold what they held."""
    gone, changed, same = [], [], []
    for path, size, mtime_ns, hash_ in _sampled(context):
        try:
            now = stat_of(path)
        except OSError:
            gone.append(path)
            continue
        if now == (size, mtime_ns):
            same.append((path, size, hash_))
        else:
            changed.append(path)
    looked = len(gone) + len(changed) + len(same)
    if gone or changed:
        what = f"of {looked} files looked at, {len(gone)} are gone and {len(changed)} have changed"
        some = [*gone, *changed][:SHOWN]
        yield Finding(FILES, "note", len(gone) + len(changed), what, "mmsearch index", some)
    else:
        yield ok(FILES, looked, f"{looked} looked at, as they were when they were indexed")
    yield _content(same)


def check_failures(context: CheckContext) -> Iterator[Finding]:
    """How many files could not be used."""
    number = context.number("SELECT count(*) FROM failures")
    if number:
        yield Finding(FAILED, "note", number, f"{number} could not be used", "mmsearch errors")
    else:
        yield ok(FAILED, 0, "none")


DISK_CHECKS = (check_folders, check_files, check_failures)


# ---------------------------------------------------------------------- parts of the above

_ITEM = """
    SELECT sources.path, sources.device, folder, name, size, mtime_ns, hash FROM items
    JOIN sources ON sources.id = source_id
    WHERE items.id = ? AND mtime_ns <> 0 AND sources.path <> ''
"""


def _sampled(context: CheckContext) -> Iterator[tuple[str, int, int, bytes]]:
    """Path, size, time and hash of some items whose folder is there; vectors alone have none."""
    ids = [row[0] for row in context.rows("SELECT id FROM items")]
    chosen = random.Random()  # noqa: S311 - others each time: all are met in the end
    away: dict[str, bool] = {}
    for id_ in sorted(chosen.sample(ids, min(len(ids), context.sample))):
        for root, device, folder, name, size, mtime_ns, hash_ in context.rows(_ITEM, id_):
            if root not in away:
                away[root] = is_away(root, device)
            if not away[root]:
                yield os.path.join(root, folder, name), size, mtime_ns, hash_


def _content(same: list[tuple[str, int, Any]]) -> Finding:
    """Whether files whose size and time are those stored still hold what was hashed."""
    other, unread = [], []
    read = looked = 0
    for path, size, hash_ in same:
        if read + size > MOST_READ:
            break
        read, looked = read + size, looked + 1
        try:
            if not has_content(path, read_file(path)[1], hash_):
                other.append(path)
        except (OSError, UnreadableFile) as error:
            unread.append(f"{path}: {error}")
    if not other and not unread:
        return ok(CONTENT, looked, f"{looked} files read again, they hold what they held")
    what = f"{len(other)} files hold something else although size and time are the same"
    if unread:
        what += f", {len(unread)} cannot be read any more"
    cure = "compare them with a copy: the disk may be failing; `touch` has one indexed as it is"
    return Finding(
        CONTENT, "wrong", len(other) + len(unread), what, cure, [*other, *unread][:SHOWN]
    )
