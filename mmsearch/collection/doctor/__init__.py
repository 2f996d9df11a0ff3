"""Checks an index, and repairs what can be repaired.

folder      checks of the index folder: the catalog's file, backups, leftovers, caches
catalog     checks of the catalog, and of the indexed files
check       the input and the results of checks

Nothing is encoded here: lost vectors are marked, and the next `mmsearch index` makes them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

from mmsearch.collection.doctor import catalog
from mmsearch.collection.doctor import folder as index_folder
from mmsearch.collection.doctor.check import CheckContext, Finding, Outcome
from mmsearch.storage.lock import FolderLock
from mmsearch.storage.place import IndexLike, index_not_found, place_of

__all__ = ["SAMPLE", "Finding", "examine"]

SERVER_CHECKS = {
    "postgresql": "pg_amcheck checks PostgreSQL's files",
    "milvus": "Milvus checks its own files",
}

SAMPLE = 1_000
"""How many vectors and files are checked closely."""

CHECKS: dict[str, Callable[[CheckContext], Outcome | None]] = {
    "identity": catalog.check_identity,
    "references": catalog.check_references,
    "vectors": catalog.check_vectors,
    "texts": catalog.check_texts,
    "lacking": catalog.check_missing_vectors,
    "words": catalog.check_words,
    "filters": catalog.check_filters,
    "log": index_folder.check_log,
    "caches": index_folder.check_caches,
    "stale caches": index_folder.check_stale_caches,
    "folders": catalog.check_folders,
    "files": catalog.check_files,
    "content": catalog.check_content,
    "failed files": catalog.check_failures,
}
"""The checks of a catalog that opens; None if one does not apply."""


def examine(
    index: IndexLike,
    *,
    repair: bool = False,
    sample: int = SAMPLE,
    on_finding: Callable[[Finding], None] | None = None,
) -> list[Finding]:
    """A finding for each check of an index.

    Args:
        index: The index folder, or another place.
        repair: Repair what can be repaired; nobody else writes meanwhile.
        sample: How many vectors are compared, and how many files are read again.
        on_finding: Called with each finding as it is made.

    Raises:
        InvalidOption: it is on a server.
        IndexNotFound: there is no index.
        IndexUnusable: it was made by a newer mmsearch, or cannot be read at all.
        IndexBusy: another process is writing, and the index is to be repaired.
        StorageFailed: nothing can be written, and the index is to be repaired.
    """
    place = place_of(index)
    place.check_folder(
        "`mmsearch doctor` checks",
        f"`mmsearch status` counts what is stored, {SERVER_CHECKS.get(place.engine)}, and a folder "
        f"made by `mmsearch copy {shlex.quote(place.address)} DIR` can be checked",
    )
    folder = place.folder
    if not index_folder.holds_index(folder):
        raise index_not_found(place)
    findings: list[Finding] = []
    with FolderLock(folder).writing("repairing") if repair else nullcontext():
        for check, outcome in _outcomes(folder, sample, repair=repair):
            finding = outcome.finding(check, repair=repair)
            findings.append(finding)
            if on_finding is not None:
                on_finding(finding)
    return findings


def _outcomes(folder: Path, sample: int, *, repair: bool) -> Iterator[tuple[str, Outcome]]:
    """The name and outcome of each check; faults are repaired before the next check."""
    file = index_folder.check_catalog_file(folder, repair=repair)
    yield "catalog file", file
    if file.state != "wrong":
        yield from _outcomes_of_catalog(folder, sample, repair=repair)
    yield "backups", index_folder.check_backups(folder)
    yield "leftovers", index_folder.check_leftovers(folder)


def _outcomes_of_catalog(
    folder: Path, sample: int, *, repair: bool
) -> Iterator[tuple[str, Outcome]]:
    """The same for a catalog that opens; if it is damaged and to be repaired, for its backup."""
    integrity = index_folder.check_integrity(folder, repair=repair)
    if integrity.state == "wrong" and repair:
        integrity = index_folder.restore(folder, integrity.what)
        if integrity.state == "repaired":
            yield "integrity", integrity
            integrity = index_folder.check_integrity(folder, repair=repair)
    yield "integrity", integrity
    if integrity.state == "wrong":
        return  # nothing that is read from it is reliable
    context = CheckContext(folder, sample)
    with closing(context.catalog), nullcontext() if repair else context.catalog.snapshot():
        copy = catalog.check_copy(context)
        if copy is not None:
            yield "copy", copy
            return  # finishing the copy brings whatever else is missing
        for check, outcome_of in CHECKS.items():
            outcome = outcome_of(context)
            if outcome is not None:
                yield check, outcome
