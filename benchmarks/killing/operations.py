"""What writes to an index: how it is before, and what is done to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mmsearch
from killing import world
from killing.content import Content, answers, content_of, differences
from killing.older import make_first, make_sixth, make_third
from killing.world import Site
from mmsearch.collection.doctor import examine
from mmsearch.errors import InvalidOption, PathNotFound
from mmsearch.storage import backups

PATIENCE = 60
"""Seconds to wait for a reader that has the lock for a moment, to keep what it has worked out."""


@dataclass(frozen=True)
class Operation:
    """Something that writes to an index.

    Attributes:
        prepare: Makes the files, and the index as it is before.
        run: Does it; done again, it brings to its end what was begun.
        readable: Whether the index is sound before, and of this version.
        look: What else is to be looked at after a kill; tells what is wrong.
    """

    prepare: Callable[[Site], None]
    run: Callable[[Site], None]
    readable: bool = True
    look: Callable[[Site, Content], list[str]] = lambda _site, _before: []


@contextmanager
def _writing(site: Site, model: str | None = None) -> Iterator[mmsearch.Collection]:
    new = not (site.index / "catalog.db").exists()
    named = model or ("toy" if new else None)
    with (
        mmsearch.Collection(site.index, model=named, create=True) as library,
        library.writing("being killed", wait=PATIENCE),
    ):
        yield library


def _index(site: Site) -> None:
    with _writing(site) as library:
        library.add([site.photos], captions=site.captions, metadata=site.metadata)


def _indexed(site: Site) -> None:
    world.before(site)
    _index(site)


def _changed(site: Site) -> None:
    _indexed(site)
    world.after(site)


def _refresh(site: Site) -> None:
    changed = [site.photos / name for name in ("", "deep/04.png", "texts", "new/80.png", "gone")]
    with _writing(site) as library:
        library.refresh(changed[1:])
        library.refresh(changed[:1])


def _remove(site: Site) -> None:
    with _writing(site) as library:
        for name in ("deep", "texts/long.txt", "00.png"):
            with suppress(PathNotFound):  # done before
                library.remove(site.photos / name)


def _second(site: Site) -> None:
    with _writing(site, "second") as library:
        library.add([site.photos])


def _filled(site: Site) -> None:
    _indexed(site)
    _second(site)


def _drop(site: Site) -> None:
    with _writing(site) as library, suppress(InvalidOption):  # done before
        library.drop_space("toy")


def _tagged(site: Site) -> None:
    _indexed(site)
    with _writing(site) as library:
        library.tag(["grey", "red"], min_confidence=0.3)


def _tag(site: Site) -> None:
    with _writing(site) as library:
        library.tag(["red", "blue"], min_confidence=0.2)
        library.tag_new()


def _untag(site: Site) -> None:
    with _writing(site) as library:
        library.untag(["grey"])


def _first(site: Site) -> None:
    _tagged(site)
    make_first(site.index / "catalog.db")


def _sixth(site: Site) -> None:
    _tagged(site)
    make_sixth(site.index / "catalog.db")


def _third(site: Site) -> None:
    _tagged(site)
    make_third(site.index / "catalog.db")


def _open_and_add(site: Site) -> None:
    with mmsearch.open(site.index) as library, library.writing("being killed", wait=PATIENCE):
        library.add([site.photos])


def _many(site: Site) -> None:
    _imported(site)
    _fill(site)
    shutil.rmtree(site.index / "cache")


def _caches(site: Site) -> None:
    with _writing(site) as library:
        for kind in ("RaBitQ", "auto"):
            library.add([site.photos], kind=kind)
            answers(library)


def _old_backup(site: Site) -> None:
    _indexed(site)
    for backup in backups.all_of(site.index):
        os.utime(backup, (world.LONG_AGO, world.LONG_AGO))
    world.words(site.photos / "fresh.md", 90)


def _backup(site: Site) -> None:
    with _writing(site) as library:
        library.add([site.photos], backups=2)
        backups.roll(site.index, 2)  # also when it was killed after the last commit


def _are_whole(site: Site, before: Content) -> list[str]:
    told = []
    for backup in backups.all_of(site.index):
        if fault := backups.fault_of(backup):
            told.append(f"{backup.name}: {fault}")
        elif lost := before.paths() - content_of(backup).paths():
            told.append(f"{backup.name} lacks {sorted(lost)}")
    return told if backups.all_of(site.index) else ["there is no backup any more"]


def _copy(site: Site) -> None:
    if site.elsewhere.exists():  # at once: half of it would be taken for a copy that is not whole
        gone = site.elsewhere.with_name(f"gone-{uuid.uuid4().hex}")
        site.elsewhere.rename(gone)
        shutil.rmtree(gone)
    with mmsearch.open(site.index) as library:
        library.backup(site.elsewhere)


def _is_whole(site: Site, before: Content) -> list[str]:
    copy = site.elsewhere / "catalog.db"
    if not site.elsewhere.exists():
        return []
    if not copy.exists():
        return ["the copy has no catalog"]
    return [f"copy: {told}" for told in differences(content_of(copy), before)]


def _truncated(site: Site) -> None:
    _indexed(site)
    catalog = site.index / "catalog.db"
    os.truncate(catalog, catalog.stat().st_size * 6 // 10)


def _moved(site: Site) -> None:
    _indexed(site)
    shutil.copytree(site.photos, site.elsewhere)


def _relocate(site: Site) -> None:
    with _writing(site) as library, suppress(PathNotFound):  # done before
        library.relocate(site.photos, site.elsewhere)


def _half_of_vectors(site: Site) -> None:
    _indexed(site)
    rows = np.random.default_rng(1).standard_normal((30, 16)).astype(np.float32)
    with _writing(site) as library:
        library.add_vectors(rows, [{"path": f"/far/{n}.jpg"} for n in range(30)], model="toy")


def _vectors(site: Site) -> None:
    rows = np.random.default_rng(2).standard_normal((120, 16)).astype(np.float32)
    said = (
        {"path": f"/far/{n}.jpg", "caption": f"a {world.THINGS[n % 7]} far away", "rating": n % 5}
        for n in range(len(rows))
    )
    with _writing(site) as library:
        parts = (rows[start : start + 10] for start in range(0, len(rows), 10))
        library.add_vectors(parts, said, model="toy")


def _imported(site: Site) -> None:
    _indexed(site)
    _vectors(site)


def _fill(site: Site) -> None:
    with _writing(site) as library:
        library.add([site.photos])


def _unworded(site: Site) -> None:
    _tagged(site)
    _run(site, "UPDATE followers SET words_item = 0")


def _words(site: Site) -> None:
    with _writing(site) as library:
        library.catalog.words.refresh()


def _damaged(site: Site) -> None:
    _tagged(site)
    _run(
        site,
        "DELETE FROM words WHERE rowid < 9",
        "DELETE FROM vectors WHERE id < 4",
        "INSERT INTO vectors (space_id, modality, item_id, position, vector) "
        "VALUES (1, 'image', 9999, 0, zeroblob(32))",
    )
    next((site.index / "cache").glob("image-*/rows.f16")).write_bytes(b"damaged")


def _repair(site: Site) -> None:
    examine(site.index, repair=True)
    _index(site)


def _run(site: Site, *statements: str) -> None:
    with closing(sqlite3.connect(site.index / "catalog.db")) as catalog, catalog:
        for statement in statements:
            catalog.execute(statement)


OPERATIONS: dict[str, Operation] = {
    "index": Operation(world.before, _index),
    "update": Operation(_changed, _index),
    "refresh": Operation(_changed, _refresh),
    "remove": Operation(_indexed, _remove),
    "second model": Operation(_indexed, _second),
    "drop model, VACUUM": Operation(_filled, _drop),
    "migrate 1 → now": Operation(_first, _open_and_add, readable=False),
    "migrate 3 → now": Operation(_third, _open_and_add, readable=False),
    "migrate 6 → now": Operation(_sixth, _open_and_add, readable=False),
    "caches": Operation(_many, _caches),
    "rolling backup": Operation(_old_backup, _backup, look=_are_whole),
    "backup DEST": Operation(_indexed, _copy, look=_is_whole),
    "restore": Operation(_truncated, _index, readable=False),
    "relocate": Operation(_moved, _relocate),
    "add_vectors": Operation(_half_of_vectors, _vectors),
    "captions filled": Operation(_imported, _fill),
    "tag": Operation(_tagged, _tag),
    "untag": Operation(_tagged, _untag),
    "words": Operation(_unworded, _words),
    "doctor --repair": Operation(_damaged, _repair, readable=False),
}


def as_it_was(site: Site) -> None:
    """Put the index back to how it is before."""
    shutil.rmtree(site.index, ignore_errors=True)
    for left in site.root.glob("elsewhere.*"):
        shutil.rmtree(left)
    if site.template.exists():
        shutil.copytree(site.template, site.index)


def made(operation: Operation, root: Path) -> Site:
    """A place where an operation is ready to be run."""
    site = Site(root)
    root.mkdir(parents=True)
    operation.prepare(site)
    if site.index.exists():
        shutil.copytree(site.index, site.template)
    return site
