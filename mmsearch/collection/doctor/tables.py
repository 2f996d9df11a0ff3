"""What is in the catalog: vectors, texts and words, and what is lacking."""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmsearch.collection.doctor.finding import SHOWN, Finding, ok
from mmsearch.indexing.run import INCOMPLETE
from mmsearch.spaces.targets import KINDS_WITH

if TYPE_CHECKING:
    from mmsearch.collection.doctor.check_context import CheckContext
    from mmsearch.storage import Space

REFERENCES, IDENTITY = "references", "identity"
VECTORS, TEXTS, LACKING, WORDS, FILTERS = "vectors", "texts", "lacking", "words", "filters"

FILL = "mmsearch index, which makes them"
REPAIR = "mmsearch doctor --repair"

LENGTH_IS = 0.01
"""How far the length of a vector may be from 1: rounding to float16 moves it by less."""


def check_references(context: CheckContext) -> Iterator[Finding]:
    """Whether every row belongs to one that is there."""
    orphans = context.rows("PRAGMA foreign_key_check")
    tables = Counter(str(row[0]) for row in orphans)
    examples = [f"{number} of {table}" for table, number in tables.most_common(SHOWN)]
    what = f"{len(orphans)} rows belong to nothing"
    if not orphans:
        yield ok(REFERENCES, 1, "every row belongs to one that is there")
        return
    if not context.repair:
        yield Finding(REFERENCES, "wrong", len(orphans), what, REPAIR, examples)
        return
    while orphans:  # what belonged to those that go is next
        for table in {str(row[0]) for row in orphans}:
            context.delete_rows(table, sorted({row[1] for row in orphans if row[0] == table}))
        orphans = context.rows("PRAGMA foreign_key_check")
    number = tables.total()
    yield Finding(REFERENCES, "repaired", number, f"{what}; deleted", examples=examples)


def check_identity(context: CheckContext) -> Iterator[Finding]:
    """Whether the catalog has its id and revision."""
    known = {key for (key,) in context.rows("SELECT key FROM settings")}
    lacking = sorted({"catalog_id", "revision"} - known)
    what = f"the catalog lacks its {' and '.join(lacking)}"
    if not lacking:
        yield ok(IDENTITY, 2, "the catalog has its id and revision")
    elif not context.repair:
        yield Finding(IDENTITY, "wrong", len(lacking), what, REPAIR)
    else:
        if "revision" in lacking:
            context.catalog.settings.set("revision", "0")
        context.catalog.settings.set(
            "catalog_id", uuid.uuid4().hex[:12]
        )  # no cache is of this state
        yield Finding(IDENTITY, "repaired", len(lacking), f"{what}; they were made anew")


def check_vectors(context: CheckContext) -> Iterator[Finding]:
    """Whether vectors are what their space says, of unit length, and one for each place."""
    bad = context.rows(
        "SELECT v.id, v.space_id, v.modality, v.item_id FROM vectors v JOIN spaces s "
        "ON s.id = v.space_id WHERE length(v.vector) <> 2 * s.dim"
    )
    twice = context.rows(
        "SELECT max(id), space_id, modality, item_id FROM vectors "
        "GROUP BY space_id, modality, item_id, position HAVING count(*) > 1"
    )
    looked, crooked = _sampled(context)
    kinds = {"are of the wrong size": bad, "stand twice": twice, "are not of unit length": crooked}
    wrong = [row for rows in kinds.values() for row in rows]
    if not wrong:
        number = context.number("SELECT count(*) FROM vectors")
        yield ok(VECTORS, number, f"{number:,}, each of the right size; {looked} looked at closely")
        return
    what = ", ".join(f"{len(rows)} {how}" for how, rows in kinds.items() if rows)
    names = _names(context, [row[3] for row in wrong])
    if not context.repair:
        yield Finding(VECTORS, "wrong", len(wrong), what, REPAIR, names)
        return
    places = {tuple(row[1:]) for row in wrong}
    context.delete_rows("vectors", _rows_at(context, places))
    context.mark_incomplete()
    yield Finding(VECTORS, "repaired", len(wrong), f"{what}; deleted", FILL, names)


def check_texts(context: CheckContext) -> Iterator[Finding]:
    """Whether each text has its vector in every space that answers for texts."""
    places = []
    for space in context.catalog.spaces.all():
        if "text" in space.serves and not space.is_imported:
            places += [(space.id, "text", item) for item in _unevenly_told(context, space)]
    if not places:
        number = context.number("SELECT count(*) FROM texts")
        yield ok(TEXTS, number, f"{number:,}; where some of an item have vectors, all have")
        return
    names = _names(context, [place[2] for place in places])
    what = f"{len(places)} items have more or fewer vectors than texts"
    if not context.repair:
        yield Finding(TEXTS, "wrong", len(places), what, REPAIR, names)
        return
    context.delete_rows("vectors", _rows_at(context, set(places)))
    context.mark_incomplete()
    yield Finding(TEXTS, "repaired", len(places), f"{what}; those were deleted", FILL, names)


def check_lacking(context: CheckContext) -> Iterator[Finding]:
    """Which items lack a vector that they should have, and why."""
    marked = bool(context.catalog.settings.get(INCOMPLETE))
    reasons: Counter[str] = Counter()
    unexplained: set[int] = set()
    failed = {(row[0], row[1], row[2]) for row in context.rows(_FAILED)}
    for space in context.catalog.spaces.all():
        for facet in sorted(space.encodes_for if not space.is_imported else ()):
            for item_id, path, _ in context.catalog.vectors.missing(
                space, facet, KINDS_WITH[facet]
            ):
                why = _reason(context, space, facet, item_id, path, failed)
                if why is None and not marked:
                    unexplained.add(item_id)
                reasons[why or "to be read again by `mmsearch index`"] += 1
    said = [f"{number} {why}" for why, number in reasons.most_common()]
    if not reasons:
        yield ok(LACKING, len(context.catalog), "no item lacks a vector")
    elif not unexplained:
        yield Finding(
            LACKING,
            "note",
            reasons.total(),
            f"{reasons.total()} items lack vectors",
            "mmsearch index",
            said,
        )
    elif context.repair:
        context.mark_incomplete()
        what = f"{len(unexplained)} items lack vectors; they are marked"
        yield Finding(LACKING, "repaired", len(unexplained), what, FILL, said)
    else:
        names = _names(context, sorted(unexplained))
        what = f"{len(unexplained)} items lack vectors, and nothing says why"
        yield Finding(LACKING, "wrong", len(unexplained), what, REPAIR, names)


def check_words(context: CheckContext) -> Iterator[Finding]:
    """Whether a search by words knows each item, and no other."""
    lost, unknown = len(context.rows(_WORDED_IN_VAIN)), len(context.rows(_UNWORDED))
    due = context.catalog.words.due()
    if context.repair and (lost or unknown or due):
        context.change(_FORGET_WORDS, _FILE_WORDS)
        context.catalog.words.refresh()
    what = f"{unknown} items cannot be found by their words, {lost} that are gone can"
    if lost + unknown and context.repair:
        yield Finding(WORDS, "repaired", lost + unknown, f"{what}; their words were filed anew")
    elif lost + unknown:
        yield Finding(WORDS, "wrong", lost + unknown, what, REPAIR)
    elif due and not context.repair:
        yield Finding(WORDS, "note", due, f"{due} items have words still to be filed", "any search")
    else:
        yield ok(
            WORDS, len(context.catalog), f"of {len(context.catalog):,} items, all can be looked up"
        )


def check_filters(context: CheckContext) -> Iterator[Finding]:
    """Whether filters have their indexes: a killed import leaves these out for `index` to make."""
    missing = context.catalog.loader.missing_indexes()
    what = f"{len(missing)} indexes are still to be made; filters take longer without"
    if not missing:
        yield ok(FILTERS, 1, "their indexes are there")
    elif not context.repair:
        yield Finding(FILTERS, "note", len(missing), what, "mmsearch index", missing)
    else:
        context.catalog.loader.restore_indexes()
        what = f"{len(missing)} indexes that were missing were made"
        yield Finding(FILTERS, "repaired", len(missing), what, examples=missing)


TABLE_CHECKS = (
    check_identity,
    check_references,
    check_vectors,
    check_texts,
    check_lacking,
    check_words,
    check_filters,
)


# ---------------------------------------------------------------------- parts of the above

_WORDED_IN_VAIN = "SELECT id FROM words_content EXCEPT SELECT id FROM items"
_UNWORDED = """
    SELECT id FROM items WHERE id <= (SELECT words_item FROM followers)
    EXCEPT SELECT id FROM words_content EXCEPT SELECT item_id FROM changes
    WHERE what = 'words' AND seq > (SELECT words_change FROM followers)
"""
_FORGET_WORDS = f"DELETE FROM words WHERE rowid IN ({_WORDED_IN_VAIN})"  # noqa: S608
_FILE_WORDS = f"""
    INSERT OR REPLACE INTO changes (what, item_id) SELECT 'words', id FROM ({_UNWORDED})
"""  # noqa: S608 - constants

_FAILED = "SELECT source_id, folder, name FROM failures"


def _sampled(context: CheckContext) -> tuple[int, list[tuple[int, int, str, int]]]:
    """How many vectors were read, and those that have no direction or another length than 1."""
    import numpy as np

    there = [id_ for (id_,) in context.rows("SELECT id FROM vectors")]
    some = random.Random(0)  # noqa: S311 - the same each time, so that a repair can be looked at
    looked, crooked = 0, []
    for id_ in sorted(some.sample(there, min(context.sample, len(there)))):
        for *where, vector in context.rows(_VECTOR, id_):
            looked += 1
            row = np.frombuffer(vector, "<f2").astype(np.float32)
            with np.errstate(invalid="ignore"):  # what is damaged may hold anything
                square = float(row @ row)
            if not abs(square - 1) < 2 * LENGTH_IS:  # so that NaN is none
                crooked.append((id_, *where))
    return looked, crooked


_VECTOR = (
    "SELECT v.space_id, v.modality, v.item_id, v.vector FROM vectors v JOIN spaces s "
    "ON s.id = v.space_id WHERE v.id = ? AND length(v.vector) = 2 * s.dim"
)


def _rows_at(context: CheckContext, places: set[tuple[int, str, int]]) -> list[int]:
    """All vectors of some items in a space: a facet has all of its vectors or is made anew."""
    chosen = "SELECT id FROM vectors WHERE space_id = ? AND modality = ? AND item_id = ?"
    return [row[0] for place in places for row in context.rows(chosen, *place)]


def _unevenly_told(context: CheckContext, space: Space) -> list[int]:
    rows = context.rows(
        "SELECT item_id FROM (SELECT item_id, count(*) AS has FROM vectors "
        "WHERE space_id = ? AND modality = 'text' GROUP BY item_id) AS v "
        "WHERE has <> (SELECT count(*) FROM texts t WHERE t.item_id = v.item_id)",
        space.id,
    )
    return [row[0] for row in rows]


def _reason(
    context: CheckContext,
    space: Space,
    facet: str,
    item_id: int,
    path: str,
    failed: set[tuple[int, str, str]],
) -> str | None:
    """Why an item lacks a vector, if anything explains it."""
    if facet in space.backfills:
        return f"of {space.name!r}, which is being filled"
    ((source_id, folder, name),) = context.rows(
        "SELECT source_id, folder, name FROM items WHERE id = ?", item_id
    )
    if (source_id, folder, name) in failed:
        return "could not be read (`mmsearch errors` says why)"
    if facet != "text" and not os.path.exists(path):
        return "whose files are not there just now"
    return None


def _names(context: CheckContext, ids: list[int]) -> list[str]:
    some = list(dict.fromkeys(ids))[:SHOWN]
    return [item.path for item in context.catalog.items.get(some).values()]
