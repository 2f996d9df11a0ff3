"""What a catalog holds: rows, vectors, texts, words; and the files that it is about."""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

from mmsearch.collection.doctor.check import (
    REPAIR,
    CheckContext,
    Finding,
    Findings,
    Repairable,
    note,
    ok,
    wrong,
)
from mmsearch.errors import UnreadableFile
from mmsearch.indexing.run import INCOMPLETE
from mmsearch.media.file_state import has_content, read_file, stat_of
from mmsearch.media.walk import is_away
from mmsearch.spaces.targets import KINDS_WITH
from mmsearch.storage import Space

IDENTITY, REFERENCES, FILTERS = "identity", "references", "filters"
VECTORS, TEXTS, LACKING, WORDS = "vectors", "texts", "lacking", "words"
FOLDERS, FILES, CONTENT, FAILED = "folders", "files", "content", "failed files"

INDEX = "mmsearch index"
ENCODE = "mmsearch index, which makes them"
"""What to do once lost vectors are marked."""

LENGTH_ERROR = 0.01
"""How far the length of a vector may be from 1: rounding to float16 moves it by less."""

MOST_READ = 2 * 2**30
"""Bytes of files that are read again, at most."""

Place = tuple[int, str, int]
"""(space id, modality, item id) of the vectors that an item has in a space."""

# ---------------------------------------------------------------------- rows


def check_identity(context: CheckContext) -> Findings:
    """Whether the catalog has its id and revision."""
    known = {key for (key,) in context.rows("SELECT key FROM settings")}
    missing = sorted({"catalog_id", "revision"} - known)
    if not missing:
        yield ok(IDENTITY, 2, "the catalog has its id and revision")
        return
    what = f"the catalog lacks its {' and '.join(missing)}"
    repair = partial(_renew_identity, context, missing)
    yield Repairable(wrong(IDENTITY, len(missing), what), repair, "they were made anew")


def _renew_identity(context: CheckContext, missing: Collection[str]) -> None:
    if "revision" in missing:
        context.catalog.settings.set("revision", "0")
    # a new id in any case, as no cache is of this state
    context.catalog.settings.set("catalog_id", uuid.uuid4().hex[:12])


def check_references(context: CheckContext) -> Findings:
    """Whether every row belongs to one that is there."""
    orphans = Counter(table for table, _ in _orphans(context))
    if not orphans:
        yield ok(REFERENCES, 1, "every row belongs to one that is there")
        return
    number = orphans.total()
    examples = [f"{number} of {table}" for table, number in orphans.most_common()]
    found = wrong(REFERENCES, number, f"{number} rows belong to nothing", REPAIR, examples)
    yield Repairable(found, lambda: _delete_orphans(context), "deleted")


def _orphans(context: CheckContext) -> list[tuple[str, int]]:
    """(table, row id) of the rows that refer to one that is gone."""
    return [(str(row[0]), row[1]) for row in context.rows("PRAGMA foreign_key_check")]


def _delete_orphans(context: CheckContext) -> None:
    while orphans := _orphans(context):  # rows that belong to deleted ones are next
        for table in {table for table, _ in orphans}:
            context.delete_rows(table, sorted({row for other, row in orphans if other == table}))


def check_filters(context: CheckContext) -> Findings:
    """Whether filters have their indexes: a killed import leaves these for `index` to build."""
    missing = context.catalog.loader.missing_indexes()
    if missing:
        what = f"{len(missing)} indexes are missing, without which filters take longer"
        found = note(FILTERS, len(missing), what, INDEX, missing)
        yield Repairable(found, context.catalog.loader.restore_indexes, "they were built")
    else:
        yield ok(FILTERS, 1, "their indexes are there")


# ---------------------------------------------------------------------- vectors


def check_vectors(context: CheckContext) -> Findings:
    """Whether vectors have the size of their space and unit length, one for each position."""
    wrong_size = context.rows(
        "SELECT v.space_id, v.modality, v.item_id FROM vectors v JOIN spaces s "
        "ON s.id = v.space_id WHERE length(v.vector) <> 2 * s.dim"
    )
    repeated = context.rows(
        "SELECT space_id, modality, item_id FROM vectors "
        "GROUP BY space_id, modality, item_id, position HAVING count(*) > 1"
    )
    sampled, wrong_length = _sampled_lengths(context)
    faults = {
        "are of the wrong size": wrong_size,
        "are there twice": repeated,
        "are not of unit length": wrong_length,
    }
    places = [tuple(row) for rows in faults.values() for row in rows]
    if places:
        what = ", ".join(f"{len(rows)} {how}" for how, rows in faults.items() if rows)
        yield _lost_vectors(context, VECTORS, places, what)
    else:
        number = context.count("vectors")
        what = f"{number:,}, each of the right size; {sampled} checked closely"
        yield ok(VECTORS, number, what)


def _sampled_lengths(context: CheckContext) -> tuple[int, list[Place]]:
    """How many vectors were read, and the places of those whose length is not 1."""
    import numpy as np

    ids = [id_ for (id_,) in context.rows("SELECT id FROM vectors")]
    chosen = random.Random(0)  # noqa: S311 - the same each time, so that a repair can be checked
    read, wrong_length = 0, []
    for id_ in sorted(chosen.sample(ids, min(context.sample, len(ids)))):
        for *place, vector in context.rows(_VECTOR, id_):
            read += 1
            row = np.frombuffer(vector, "<f2").astype(np.float32)
            with np.errstate(invalid="ignore"):  # a damaged vector may hold anything
                square = float(row @ row)
            if not abs(square - 1) < 2 * LENGTH_ERROR:  # so that NaN is found too
                wrong_length.append((place[0], place[1], place[2]))
    return read, wrong_length


_VECTOR = (
    "SELECT v.space_id, v.modality, v.item_id, v.vector FROM vectors v JOIN spaces s "
    "ON s.id = v.space_id WHERE v.id = ? AND length(v.vector) = 2 * s.dim"
)


def check_texts(context: CheckContext) -> Findings:
    """Whether items that have vectors of their texts have one for each, in every space."""
    places = [
        (space.id, "text", item_id)
        for space in context.catalog.spaces.all()
        if "text" in space.serves and not space.is_imported
        for (item_id,) in context.rows(_UNEVEN, space.id)
    ]
    if places:
        what = f"{len(places)} items have more or fewer vectors than texts"
        yield _lost_vectors(context, TEXTS, places, what)
    else:
        number = context.count("texts")
        yield ok(TEXTS, number, f"{number:,}; where some of an item have vectors, all have")


_UNEVEN = (
    "SELECT item_id FROM (SELECT item_id, count(*) AS has FROM vectors "
    "WHERE space_id = ? AND modality = 'text' GROUP BY item_id) AS v "
    "WHERE has <> (SELECT count(*) FROM texts t WHERE t.item_id = v.item_id)"
)


def _lost_vectors(
    context: CheckContext, check: str, places: Sequence[Place], what: str
) -> Repairable:
    """The finding that vectors are wrong: all at their places are deleted, and encoded again."""

    def delete() -> None:
        chosen = "SELECT id FROM vectors WHERE space_id = ? AND modality = ? AND item_id = ?"
        rows = [row[0] for place in set(places) for row in context.rows(chosen, *place)]
        context.delete_rows("vectors", rows)
        context.mark_incomplete()

    examples = context.paths([item_id for _, _, item_id in places])
    return Repairable(wrong(check, len(places), what, REPAIR, examples), delete, "deleted", ENCODE)


def check_lacking(context: CheckContext) -> Findings:
    """Which items lack a vector that they should have, and why."""
    reasons, unexplained = _missing_vectors(context)
    examples = [f"{number} {reason}" for reason, number in reasons.most_common()]
    if not reasons:
        yield ok(LACKING, len(context.catalog), "no item lacks a vector")
    elif unexplained:
        what = f"{len(unexplained)} items lack vectors, and nothing says why"
        names = context.paths(sorted(unexplained))
        found = wrong(LACKING, len(unexplained), what, REPAIR, names)
        yield Repairable(found, context.mark_incomplete, "they are marked", ENCODE)
    else:
        what = f"{reasons.total()} items lack vectors"
        yield note(LACKING, reasons.total(), what, INDEX, examples)


def _missing_vectors(context: CheckContext) -> tuple[Counter[str], set[int]]:
    """How many vectors are missing by reason, and the ids of the items where none is known."""
    marked = bool(context.catalog.settings.get(INCOMPLETE))
    reasons: Counter[str] = Counter()
    unexplained: set[int] = set()
    failed = {tuple(row) for row in context.rows("SELECT source_id, folder, name FROM failures")}
    for space in context.catalog.spaces.all():
        for modality in sorted(space.encodes_for if not space.is_imported else ()):
            kinds = KINDS_WITH[modality]
            for item_id, path, _ in context.catalog.vectors.missing(space, modality, kinds):
                reason = _reason(context, space, modality, item_id, path, failed)
                if reason is None and not marked:
                    unexplained.add(item_id)
                reasons[reason or "to be read again by `mmsearch index`"] += 1
    return reasons, unexplained


def _reason(
    context: CheckContext,
    space: Space,
    modality: str,
    item_id: int,
    path: str,
    failed: Collection[tuple[Any, ...]],
) -> str | None:
    """Why an item lacks a vector, if anything explains it."""
    if modality in space.backfills:
        return f"of {space.name!r}, which is being filled"
    (file,) = context.rows("SELECT source_id, folder, name FROM items WHERE id = ?", item_id)
    if tuple(file) in failed:
        return "could not be read (`mmsearch errors` says why)"
    if modality != "text" and not os.path.exists(path):
        return "whose files are not there just now"
    return None


# ---------------------------------------------------------------------- words


def check_words(context: CheckContext) -> Findings:
    """Whether a search by words finds each item, and no other."""
    deleted, unknown = len(context.rows(_DELETED)), len(context.rows(_UNKNOWN))
    due = context.catalog.words.due()
    if deleted or unknown:
        what = f"{unknown} items cannot be found by their words, {deleted} that are gone can"
        found = wrong(WORDS, deleted + unknown, what)
        yield Repairable(found, lambda: _file_words(context), "their words were filed again")
    elif due:
        what = f"{due} items have words still to be filed"
        found = note(WORDS, due, what, "any search files them")
        yield Repairable(found, context.catalog.words.refresh, "filed")
    else:
        number = len(context.catalog)
        yield ok(WORDS, number, f"of {number:,} items, all can be found by their words")


_DELETED = "SELECT id FROM words_content EXCEPT SELECT id FROM items"
_UNKNOWN = """
    SELECT id FROM items WHERE id <= (SELECT words_item FROM followers)
    EXCEPT SELECT id FROM words_content EXCEPT SELECT item_id FROM changes
    WHERE what = 'words' AND seq > (SELECT words_change FROM followers)
"""


_DELETE_WORDS = f"DELETE FROM words WHERE rowid IN ({_DELETED})"  # noqa: S608 - constants
_LOG_UNKNOWN = f"""
    INSERT OR REPLACE INTO changes (what, item_id) SELECT 'words', id FROM ({_UNKNOWN})
"""  # noqa: S608


def _file_words(context: CheckContext) -> None:
    with context.catalog.database.write() as connection:
        connection.exec_driver_sql(_DELETE_WORDS)
        connection.exec_driver_sql(_LOG_UNKNOWN)
    context.catalog.words.refresh()


# ---------------------------------------------------------------------- files


def check_folders(context: CheckContext) -> Findings:
    """Whether the folders that were indexed are there."""
    rows = context.rows("SELECT path, device FROM sources WHERE path <> ''")
    away = [root for root, device in rows if is_away(root, device)]
    if away:
        what = f"{len(away)} are not there; what was found in them is kept"
        cure = "mount them; or mmsearch relocate OLD NEW; or mmsearch remove FOLDER"
        yield note(FOLDERS, len(away), what, cure, away)
    else:
        yield ok(FOLDERS, len(rows), f"{len(rows)}, all there")


def check_files(context: CheckContext) -> Findings:
    """Whether a sample of files is as it was when it was indexed, by size and time, and content."""
    gone, changed, same = [], [], []
    for path, size, mtime_ns, hash_ in _sampled_files(context):
        try:
            now = stat_of(path)
        except OSError:
            gone.append(path)
            continue
        if now == (size, mtime_ns):
            same.append((path, size, hash_))
        else:
            changed.append(path)
    checked = len(gone) + len(changed) + len(same)
    if gone or changed:
        what = f"of {checked} files checked, {len(gone)} are gone and {len(changed)} have changed"
        yield note(FILES, len(gone) + len(changed), what, INDEX, [*gone, *changed])
    else:
        yield ok(FILES, checked, f"{checked} checked, as they were when they were indexed")
    yield _content(same)


def _sampled_files(context: CheckContext) -> Iterator[tuple[str, int, int, bytes]]:
    """(path, size, mtime_ns, hash) of some files whose folder is there."""
    ids = [id_ for (id_,) in context.rows("SELECT id FROM items")]
    chosen = random.Random()  # noqa: S311 - others each time, so that all are checked in the end
    away: dict[str, bool] = {}
    for id_ in sorted(chosen.sample(ids, min(len(ids), context.sample))):
        for root, device, folder, name, size, mtime_ns, hash_ in context.rows(_FILE, id_):
            if root not in away:
                away[root] = is_away(root, device)
            if not away[root]:
                yield os.path.join(root, folder, name), size, mtime_ns, hash_


_FILE = """
    SELECT sources.path, sources.device, folder, name, size, mtime_ns, hash FROM items
    JOIN sources ON sources.id = source_id
    WHERE items.id = ? AND mtime_ns <> 0 AND sources.path <> ''
"""


def _content(files: Sequence[tuple[str, int, bytes]]) -> Finding:
    """Whether files (path, size, hash) of the same size and time still hold what was hashed."""
    other, unreadable = [], []
    read = checked = 0
    for path, size, hash_ in files:
        if read + size > MOST_READ:
            break
        read, checked = read + size, checked + 1
        try:
            if not has_content(path, read_file(path)[1], hash_):
                other.append(path)
        except (OSError, UnreadableFile) as error:
            unreadable.append(f"{path}: {error}")
    examples = [*other, *unreadable]
    if not examples:
        return ok(CONTENT, checked, f"{checked} files read again, their content is the same")
    what = f"{len(other)} files have other content although size and time are the same"
    if unreadable:
        what += f", {len(unreadable)} cannot be read any more"
    cure = "compare them with a copy: the disk may be failing; `touch` has one indexed as it is"
    return wrong(CONTENT, len(examples), what, cure, examples)


def check_failures(context: CheckContext) -> Findings:
    """How many files could not be used."""
    if number := context.count("failures"):
        yield note(FAILED, number, f"{number} could not be used", "mmsearch errors")
    else:
        yield ok(FAILED, 0, "none")


TABLE_CHECKS = (
    check_identity,
    check_references,
    check_vectors,
    check_texts,
    check_lacking,
    check_words,
    check_filters,
)
FILE_CHECKS = (check_folders, check_files, check_failures)
