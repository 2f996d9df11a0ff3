"""Checks an index, and repairs what can be repaired.

folder      the files of the index folder: the catalog's, its backups, leftovers, caches
catalog     what the catalog holds, and the files that it is about
check       what a check works on, and what it finds

Nothing is encoded here: lost vectors are marked, and the next `mmsearch index` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from mmsearch.collection.doctor.catalog import FILE_CHECKS, TABLE_CHECKS
from mmsearch.collection.doctor.check import Finding, Outcome, opened
from mmsearch.collection.doctor.folder import (
    CACHE_CHECKS,
    FOLDER_CHECKS,
    check_catalog_file,
    check_integrity,
    restore,
)
from mmsearch.errors import IndexNotFound
from mmsearch.storage import backups
from mmsearch.storage.lock import WriterLock

__all__ = ["SAMPLE", "Finding", "examine"]

SAMPLE = 1_000
"""How many vectors and files are checked closely."""


def examine(
    folder: Path,
    *,
    repair: bool = False,
    sample: int = SAMPLE,
    on_finding: Callable[[Finding], None] | None = None,
) -> list[Finding]:
    """What is right and what is wrong with an index, a finding for each check.

    Args:
        folder: The index folder.
        repair: Repair what can be repaired; nobody else writes meanwhile.
        sample: How many vectors are compared, and how many files are read again.
        on_finding: Called with each finding as it is made.

    Raises:
        IndexNotFound: there is no index.
        IndexUnusable: it was made by a newer mmsearch, or cannot be read at all.
        IndexBusy: another process is writing, and the index is to be repaired.
        StorageFailed: nothing can be written, and the index is to be repaired.
    """
    if backups.catalog_size(folder) is None and backups.newest(folder) is None:
        raise IndexNotFound(f"there is no index at {folder}: make one with `mmsearch index FOLDER`")
    findings: list[Finding] = []
    with WriterLock(folder).writing("repairing") if repair else nullcontext():
        for check, outcome in _outcomes(folder, sample, repair=repair):
            finding = outcome.finding(check, repair=repair)
            findings.append(finding)
            if on_finding is not None:
                on_finding(finding)
    return findings


def _outcomes(folder: Path, sample: int, *, repair: bool) -> Iterator[tuple[str, Outcome]]:
    """The name and outcome of each check; what is found is repaired before the next one."""
    file = check_catalog_file(folder, repair=repair)
    yield "catalog file", file
    if file.state != "wrong":
        yield from _outcomes_of_catalog(folder, sample, repair=repair)
    for check, outcome_of in FOLDER_CHECKS.items():
        yield check, outcome_of(folder)


def _outcomes_of_catalog(
    folder: Path, sample: int, *, repair: bool
) -> Iterator[tuple[str, Outcome]]:
    """The same for a catalog that opens; if it is damaged and to be repaired, for its backup."""
    integrity = check_integrity(folder, repair=repair)
    if integrity.state == "wrong" and repair:
        integrity = restore(folder, integrity.what)
        if integrity.state == "repaired":
            yield "integrity", integrity
            integrity = check_integrity(folder, repair=repair)
    yield "integrity", integrity
    if integrity.state == "wrong":
        return  # nothing that is read from it can be relied on
    with opened(folder, sample, repair=repair) as context:
        for check, outcome_of in (TABLE_CHECKS | CACHE_CHECKS | FILE_CHECKS).items():
            outcome = outcome_of(context)
            if outcome is not None:
                yield check, outcome
