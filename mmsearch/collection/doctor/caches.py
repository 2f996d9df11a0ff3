"""What was made of the catalog: it must say what the catalog says, or go."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mmsearch.collection.doctor.finding import SHOWN, Finding, State, ok
from mmsearch.storage.sqlite.columns import ENDING, read_column
from mmsearch.vectors import Segment, SegmentDamaged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.collection.doctor.check_context import CheckContext
    from mmsearch.storage import Space
    from mmsearch.types import Modality

CACHES, STALE = "caches", "stale caches"
REPAIR = "mmsearch doctor --repair deletes them; a search makes them anew"


def check_caches(context: CheckContext) -> Iterator[Finding]:
    """Whether each cache holds what the catalog does; those of another catalog are of no use."""
    if (
        context.catalog.settings.get("catalog_id") is None
        or context.catalog.settings.get("revision") is None
    ):
        return  # there is nothing to tell them by
    wrong: dict[Path, str] = {}
    stale: list[Path] = []
    good = 0
    for path in sorted((context.folder / "cache").glob("*")):
        if path.suffix == ".part":
            continue  # what is left behind is told elsewhere
        if not _is_current(context, path):
            stale.append(path)
        elif fault := _fault(context, path):
            wrong[path] = fault
        else:
            good += 1
    if wrong:
        what = f"{len(wrong)} damaged, or other than the catalog"
        examples = [f"{path.name}: {fault}" for path, fault in list(wrong.items())[:SHOWN]]
        yield _found(context, CACHES, list(wrong), what, examples)
    else:
        yield ok(CACHES, good, f"{good}, as the catalog has it")
    if stale:
        what = f"{len(stale)} belong to nothing that is there"
        yield _found(context, STALE, stale, what, [path.name for path in stale[:SHOWN]])


# ---------------------------------------------------------------------- parts of the above


def _found(
    context: CheckContext, check: str, paths: Sequence[Path], what: str, examples: Sequence[str]
) -> Finding:
    if not context.repair:
        state: State = "wrong" if check == CACHES else "note"
        return Finding(check, state, len(paths), what, REPAIR, examples)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    what = f"{what}; deleted, a search makes them anew"
    return Finding(check, "repaired", len(paths), what, examples=examples)


def _is_current(context: CheckContext, path: Path) -> bool:
    """Whether it is named after this catalog and, if it holds vectors, a space in it."""
    catalog_id = context.catalog.state().store_id
    if path.suffix == ENDING:
        return path.name.startswith(f"columns-{catalog_id}-")
    return path.is_dir() and _space_of(context, path) is not None and f"-{catalog_id}-" in path.name


def _space_of(context: CheckContext, path: Path) -> Space | None:
    number = path.name.split("-")[1:2]
    return next(
        (space for space in context.catalog.spaces.all() if [str(space.id)] == number), None
    )


def _fault(context: CheckContext, path: Path) -> str | None:
    """What is wrong with a cache, if anything is."""
    if path.suffix == ENDING:
        return None if read_column(path) is not None else "it is not whole"
    space = _space_of(context, path)
    try:
        segment = Segment.open(path)
    except SegmentDamaged as error:
        return str(error).removeprefix(f"{path}: ")
    if space is None:
        return "it is of no model"
    modality = cast("Modality", path.name.split("-")[0])
    return _disagreement(context, segment, space, modality)


def _disagreement(
    context: CheckContext, segment: Segment, space: Space, facet: Modality
) -> str | None:
    """What a segment holds that the catalog does not, or the other way round."""
    import numpy as np

    upto, told = int(segment.about.get("upto", 0)), int(segment.about.get("gone", 0))
    stamp = context.catalog.state()
    if segment.about.get("epoch") != stamp.epoch or told < stamp.forgotten:
        return None  # out of date: a search passes it over and makes another
    gone, _ = context.catalog.changes.deleted_vectors(space, facet, told)
    there = np.fromiter((row[0] for row in context.rows(_THERE, space.id, facet, upto)), np.int64)
    held = np.setdiff1d(np.asarray(segment.vector_ids), gone)
    if unknown := len(np.setdiff1d(held, there)):
        return f"{unknown} of its rows are of vectors that are gone, and nothing says so"
    if lacking := len(np.setdiff1d(there, held)):
        return f"{lacking} vectors are not in it"
    return _difference(context, segment, held)


_THERE = "SELECT id FROM vectors WHERE space_id = ? AND modality = ? AND id <= ? ORDER BY id"


def _difference(context: CheckContext, segment: Segment, held: NDArray[np.int64]) -> str | None:
    """Whether some rows are other than the catalog's, bit for bit."""
    import numpy as np

    chosen = random.Random(0)  # noqa: S311 - the same each time
    at = np.searchsorted(segment.vector_ids, held)
    some = chosen.sample(range(len(at)), min(len(at), context.sample))
    other = 0
    for row in at[sorted(some)]:
        stored = context.rows(_VECTOR, int(segment.vector_ids[row]))
        item, vector = stored[0]
        same = np.asarray(segment.rows[row])[: len(vector) // 2].astype("<f2").tobytes() == vector
        other += not same or int(segment.ids[row]) != item
    return f"{other} of {len(some)} rows are other than the catalog's" if other else None


_VECTOR = "SELECT item_id, vector FROM vectors WHERE id = ?"
