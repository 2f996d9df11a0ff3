"""Checks of the catalog: rows, vectors, texts, words, and the indexed files."""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from mmsearch.collection.doctor.check import REPAIR, CheckContext, Outcome
from mmsearch.errors import UnreadableFile
from mmsearch.indexing.index_run import INCOMPLETE
from mmsearch.media.file_state import has_content, read_file, stat_of, touched_since
from mmsearch.media.members import exists
from mmsearch.media.walk import is_away
from mmsearch.spaces.targets import KINDS_WITH
from mmsearch.storage import Space
from mmsearch.storage.transfer import CopyProgress

INDEX = "mmsearch index"
ENCODE = "mmsearch index, which makes them"
"""What to do once lost vectors are marked."""

LENGTH_ERROR = 0.01
"""How far the length of a vector may be from 1: rounding to float16 moves it by less."""

MOST_READ = 2 * 2**30
"""Bytes of files that are read again, at most."""

FileState = Literal["missing", "changed", "same"]
"""Whether a file is as it was indexed, by its size and time."""

Place = tuple[int, str, int]
"""(space id, modality, item id) of the vectors that an item has in a space."""

# ---------------------------------------------------------------------- rows


def check_copy(context: CheckContext) -> Outcome | None:
    """Whether the index is an unfinished copy by `mmsearch copy`; None if it is not."""
    progress = CopyProgress.of(context.catalog)
    if progress is None:
        return None
    rows = sum(number for number, _ in progress.done.values())
    what = f"it holds a part of a copy of {progress.source}: {rows:,} rows"
    cure = f"{progress.command(str(context.folder))}, which finishes it; or delete the folder"
    return Outcome("wrong", 1, what, cure)


def check_identity(context: CheckContext) -> Outcome:
    """Whether the catalog has its id and revision."""
    known = {key for (key,) in context.rows("SELECT key FROM settings")}
    missing = sorted({"catalog_id", "revision"} - known)
    if not missing:
        return Outcome("ok", 2, "the catalog has its id and revision")
    what = f"the catalog lacks its {' and '.join(missing)}"
    renew = partial(_renew_identity, context, missing)
    return Outcome(
        "wrong", len(missing), what, REPAIR, repair=renew, done="they were created again"
    )


def _renew_identity(context: CheckContext, missing: Collection[str]) -> None:
    if "revision" in missing:
        context.catalog.settings.set("revision", "0")
    # a new id in any case, as no cache is of this state
    context.catalog.settings.set("catalog_id", uuid.uuid4().hex[:12])


def check_references(context: CheckContext) -> Outcome:
    """Whether every foreign key refers to an existing row."""
    orphans = Counter(table for table, _ in _orphans(context))
    if not orphans:
        return Outcome("ok", 1, "every row refers to existing rows")
    return Outcome(
        "wrong",
        orphans.total(),
        f"{orphans.total()} rows refer to deleted ones",
        REPAIR,
        [f"{number} of {table}" for table, number in orphans.most_common()],
        repair=lambda: _delete_orphans(context),
        done="deleted",
    )


def _orphans(context: CheckContext) -> list[tuple[str, int]]:
    """(table, row id) of the rows that refer to one that does not exist."""
    return [(str(row[0]), row[1]) for row in context.rows("PRAGMA foreign_key_check")]


def _delete_orphans(context: CheckContext) -> None:
    while orphans := _orphans(context):  # rows that belong to deleted ones are next
        for table in {table for table, _ in orphans}:
            context.delete_rows(table, sorted({row for other, row in orphans if other == table}))


def check_filters(context: CheckContext) -> Outcome:
    """Whether filters have their indexes: a killed import leaves these for `index` to build."""
    loader = context.catalog.loader
    missing = loader.missing_indexes()
    if not missing:
        return Outcome("ok", 1, "their indexes exist")
    what = f"{len(missing)} indexes are missing, without which filters take longer"
    build, done = loader.restore_indexes, "they were built"
    return Outcome("note", len(missing), what, INDEX, missing, repair=build, done=done)


# ---------------------------------------------------------------------- vectors


def check_vectors(context: CheckContext) -> Outcome:
    """Whether vectors have the size of their space and unit length, one for each position."""
    sampled, wrong_length = _sampled_lengths(context)
    faults = {
        "are of the wrong size": context.rows(_WRONG_SIZE),
        "are duplicated": context.rows(_REPEATED),
        "are not of unit length": wrong_length,
    }
    places = [tuple(row) for rows in faults.values() for row in rows]
    if places:
        what = ", ".join(f"{len(rows)} {how}" for how, rows in faults.items() if rows)
        return _lost_vectors(context, places, what)
    number = context.count("vectors")
    what = f"{number:,}, each of the right size; {sampled} checked closely"
    return Outcome("ok", number, what)


_WRONG_SIZE = (
    "SELECT v.space_id, v.modality, v.item_id FROM vectors v JOIN spaces s "
    "ON s.id = v.space_id WHERE length(v.vector) <> 2 * s.dim"
)
_REPEATED = (
    "SELECT space_id, modality, item_id FROM vectors "
    "GROUP BY space_id, modality, item_id, position HAVING count(*) > 1"
)


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


def check_texts(context: CheckContext) -> Outcome:
    """Whether items that have vectors of their texts have one for each, in every space."""
    places = [
        (space.id, "text", item_id)
        for space in context.catalog.spaces.all()
        if "text" in space.serves and not space.is_imported
        for (item_id,) in context.rows(_UNEVEN, space.id)
    ]
    if places:
        what = f"{len(places)} items have more or fewer vectors than texts"
        return _lost_vectors(context, places, what)
    number = context.count("texts")
    return Outcome("ok", number, f"{number:,}; where some of an item have vectors, all have")


_UNEVEN = (
    "SELECT item_id FROM (SELECT item_id, count(*) AS has FROM vectors "
    "WHERE space_id = ? AND modality = 'text' GROUP BY item_id) AS v "
    "WHERE has <> (SELECT count(*) FROM texts t WHERE t.item_id = v.item_id)"
)


def _lost_vectors(context: CheckContext, places: Sequence[Place], what: str) -> Outcome:
    """Vectors at these places are wrong: a repair deletes all of them, to be encoded again."""

    def delete() -> None:
        chosen = "SELECT id FROM vectors WHERE space_id = ? AND modality = ? AND item_id = ?"
        rows = [row[0] for place in set(places) for row in context.rows(chosen, *place)]
        context.delete_rows("vectors", rows)
        context.mark_incomplete()

    return Outcome(
        "wrong",
        len(places),
        what,
        REPAIR,
        context.paths([item_id for _, _, item_id in places]),
        repair=delete,
        done="deleted",
        then=ENCODE,
    )


def check_missing_vectors(context: CheckContext) -> Outcome:
    """Which items lack a vector that they should have, and why."""
    reasons, unexplained = _missing_vectors(context)
    if unexplained:
        return Outcome(
            "wrong",
            len(unexplained),
            f"{len(unexplained)} items lack vectors for no known reason",
            REPAIR,
            context.paths(sorted(unexplained)),
            repair=context.mark_incomplete,
            done="they are marked",
            then=ENCODE,
        )
    if reasons:
        what = f"{reasons.total()} items lack vectors"
        examples = [f"{number} {reason}" for reason, number in reasons.most_common()]
        return Outcome("note", reasons.total(), what, INDEX, examples)
    return Outcome("ok", len(context.catalog), "no item lacks a vector")


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
        return f"of {space.name!r}, which is being backfilled"
    (file,) = context.rows("SELECT source_id, folder, name FROM items WHERE id = ?", item_id)
    if tuple(file) in failed:
        return "could not be read (`mmsearch errors` says why)"
    if modality != "text" and not exists(path):
        return "whose files are not there just now"
    return None


# ---------------------------------------------------------------------- words


def check_words(context: CheckContext) -> Outcome:
    """Whether a search by words finds each item, and no other."""
    deleted, unknown = len(context.rows(_DELETED)), len(context.rows(_UNKNOWN))
    if deleted or unknown:
        return Outcome(
            "wrong",
            deleted + unknown,
            f"{unknown} items cannot be found by their words, {deleted} deleted ones can",
            REPAIR,
            repair=lambda: _index_words(context),
            done="their words were indexed again",
        )
    words = context.catalog.words
    if due := words.due():
        what, cure = f"the words of {due} items are not indexed yet", "any search indexes them"
        return Outcome("note", due, what, cure, repair=words.refresh, done="indexed")
    number = len(context.catalog)
    return Outcome("ok", number, f"of {number:,} items, all can be found by their words")


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


def _index_words(context: CheckContext) -> None:
    with context.catalog.database.write() as connection:
        connection.exec_driver_sql(_DELETE_WORDS)
        connection.exec_driver_sql(_LOG_UNKNOWN)
    context.catalog.words.refresh()


# ---------------------------------------------------------------------- files


def check_folders(context: CheckContext) -> Outcome:
    """Whether the indexed folders exist."""
    rows = context.rows("SELECT path, device FROM sources WHERE path <> ''")
    away = [root for root, device in rows if is_away(root, device)]
    if not away:
        return Outcome("ok", len(rows), f"{len(rows)}, all exist")
    what = f"{len(away)} are missing; their items are kept"
    cure = "mount them; or mmsearch relocate OLD NEW; or mmsearch remove FOLDER"
    return Outcome("note", len(away), what, cure, away)


def check_files(context: CheckContext) -> Outcome:
    """Whether a sample of files has the size and time stored of them."""
    paths: dict[FileState, list[str]] = {"missing": [], "changed": [], "same": []}
    for path, state, _, _ in _sampled_files(context):
        paths[state].append(path)
    missing, changed = paths["missing"], paths["changed"]
    checked = sum(map(len, paths.values()))
    if not missing and not changed:
        return Outcome("ok", checked, f"{checked} checked, unchanged since they were indexed")
    what = f"of {checked} files checked, {len(missing)} are missing and {len(changed)} have changed"
    return Outcome("note", len(missing) + len(changed), what, INDEX, [*missing, *changed])


def check_content(context: CheckContext) -> Outcome:
    """Whether files of the sample that have the same size and time have the same content."""
    other, unreadable = [], []
    read = checked = 0
    for path, state, size, hash_ in _sampled_files(context):
        if state != "same":
            continue
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
        return Outcome("ok", checked, f"{checked} files read again, their content is the same")
    what = f"{len(other)} files have other content although size and time are the same"
    if unreadable:
        what += f", {len(unreadable)} cannot be read any more"
    cure = "compare them with a copy: the disk may be failing; `touch` has one indexed as it is"
    return Outcome("wrong", len(examples), what, cure, examples)


def _sampled_files(context: CheckContext) -> Iterator[tuple[str, FileState, int, bytes]]:
    """(path, state, size, hash) of a sample of files in existing folders, another in each run."""
    ids = [id_ for (id_,) in context.rows("SELECT id FROM items")]
    chosen = random.Random(context.seed)  # noqa: S311 - not for secrets
    away: dict[str, bool] = {}
    for id_ in sorted(chosen.sample(ids, min(len(ids), context.sample))):
        for root, below, device, folder, name, *stored, hash_ in context.rows(_FILE, id_):
            disk = os.path.join(root, below)
            if disk not in away:
                away[disk] = is_away(root, device, below)
            if not away[disk]:
                path = os.path.join(root, folder, name)
                yield path, _state(path, *stored), stored[0], hash_


def _state(path: str, size: int, mtime_ns: int, ctime_ns: int | None) -> FileState:
    try:
        changed = stat_of(path) != (size, mtime_ns) or touched_since(path, ctime_ns)
    except OSError:
        return "missing"
    return "changed" if changed else "same"


_FILE = """
    SELECT sources.path, coalesce(folder_devices.folder, ''),
        coalesce(folder_devices.device, sources.device), items.folder, name,
        size, mtime_ns, ctime_ns, hash
    FROM items JOIN sources ON sources.id = items.source_id
    LEFT JOIN folder_devices
        ON folder_devices.source_id = items.source_id AND folder_devices.folder = items.folder
    WHERE items.id = ? AND mtime_ns <> 0 AND sources.path <> ''
"""


def check_failures(context: CheckContext) -> Outcome:
    """How many files could not be used."""
    if number := context.count("failures"):
        return Outcome("note", number, f"{number} could not be used", "mmsearch errors")
    return Outcome("ok", 0, "none")
