"""Looks an index over: its catalog, its caches, the disk it is about; and mends what can be.

file      the catalog's file itself, its backups, what was left behind beside it
tables    what is in it: vectors, texts, words, what is lacking and why
caches    what was made of it
disk      the files that it is about

What is stored is never encoded again here: what has to be read anew is marked, and the next
`mmsearch index` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from mmsearch.collection.doctor.finding import Finding
from mmsearch.errors import IndexNotFound
from mmsearch.storage import backups
from mmsearch.storage.lock import WriterLock

__all__ = ["SAMPLE", "Finding", "examine"]

SAMPLE = 1_000
"""Vectors and files of which more is looked at than that they are there."""


def examine(
    folder: Path,
    *,
    repair: bool = False,
    sample: int = SAMPLE,
    on_finding: Callable[[Finding], None] | None = None,
) -> list[Finding]:
    """What is right and what is wrong with an index, a finding for each thing looked at.

    Args:
        folder: The index's.
        repair: Mend what can be mended; nobody else writes meanwhile.
        sample: How many vectors are compared, and how many files read again.
        on_finding: Told of each as it is found.

    Raises:
        IndexNotFound: there is none.
        IndexUnusable: it was made by a newer mmsearch, or cannot be read at all.
        IndexBusy: another process is writing, and it is to be repaired.
        StorageFailed: it cannot be repaired, as nothing can be written.
    """
    if not (folder / backups.CATALOG).exists() and backups.newest(folder) is None:
        raise IndexNotFound(f"there is no index at {folder}: make one with `mmsearch index FOLDER`")
    found: list[Finding] = []
    alone = WriterLock(folder).writing("repairing") if repair else nullcontext()
    with alone:
        for finding in _findings(folder, sample, repair=repair):
            found.append(finding)
            if on_finding is not None:
                on_finding(finding)
    return found


def _findings(folder: Path, sample: int, *, repair: bool) -> Iterator[Finding]:
    from mmsearch.collection.doctor.file import check_beside, check_whole

    whole = check_whole(folder, repair=repair)
    yield whole
    if whole.state != "wrong":
        yield from _inside(folder, sample, repair=repair)
    yield from check_beside(folder, repair=repair)


def _inside(
    folder: Path, sample: int, *, repair: bool, restored: bool = False
) -> Iterator[Finding]:
    """What is found in a catalog; if that is damaged and to be repaired, in its backup."""
    from mmsearch.collection.doctor.caches import check_caches
    from mmsearch.collection.doctor.check_context import opened
    from mmsearch.collection.doctor.disk import DISK_CHECKS
    from mmsearch.collection.doctor.file import check_integrity, mended
    from mmsearch.collection.doctor.tables import TABLE_CHECKS

    pages = check_integrity(folder, repair=repair)
    if pages.state == "wrong" and repair and not restored:
        pages = mended(folder, pages.what, pages.check, repair=True)
        yield pages
        if pages.state == "repaired":
            yield from _inside(folder, sample, repair=True, restored=True)
        return
    yield pages
    if pages.state == "wrong":
        return  # nothing that is read from it can be relied on
    with opened(folder, sample, repair=repair) as context:
        for check in (*TABLE_CHECKS, check_caches, *DISK_CHECKS):
            yield from check(context)
