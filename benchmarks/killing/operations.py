"""Operations that write to an index: the index before, and what is done to it."""

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
from killing import files
from killing.content import Content, answers, content_of, differences
from killing.files import Site
from killing.old_schemas import to_version_1, to_version_3, to_version_6
from mmsearch.collection.doctor import examine
from mmsearch.errors import InvalidOption, PathNotFound
from mmsearch.storage import backups

LOCK_TIMEOUT = 60
"""Seconds to wait for a reader that holds the lock for a moment, to save an index it has built."""


@dataclass(frozen=True)
class Operation:
    """Something that writes to an index.

    Attributes:
        prepare: Makes the files and the index before the operation.
        run: Does it; run again, it completes what an interrupted run began.
        readable: Whether the index before is undamaged, and of this version.
        check: A further check after a kill; returns what is wrong.
    """

    prepare: Callable[[Site], None]
    run: Callable[[Site], None]
    readable: bool = True
    check: Callable[[Site, Content], list[str]] = lambda _site, _before: []


@contextmanager
def _writing(site: Site, model: str | None = None) -> Iterator[mmsearch.Collection]:
    new = not (site.index / "catalog.db").exists()
    model = model or ("toy" if new else None)
    with (
        mmsearch.Collection(site.index, model=model, create=True) as library,
        library.writing("being killed", wait=LOCK_TIMEOUT),
    ):
        yield library


def _index(site: Site) -> None:
    with _writing(site) as library:
        library.add([site.photos], captions=site.captions, metadata=site.metadata)


def _prepare_index(site: Site) -> None:
    files.make_files(site)
    _index(site)


def _prepare_changes(site: Site) -> None:
    _prepare_index(site)
    files.change_files(site)


def _refresh(site: Site) -> None:
    changed = [site.photos / name for name in ("", "deep/04.png", "texts", "new/80.png", "nowhere")]
    with _writing(site) as library:
        library.refresh(changed[1:])
        library.refresh(changed[:1])


def _remove(site: Site) -> None:
    with _writing(site) as library:
        for name in ("deep", "texts/long.txt", "00.png"):
            with suppress(PathNotFound):  # an interrupted run did it
                library.remove(site.photos / name)


def _add_model(site: Site) -> None:
    with _writing(site, "second") as library:
        library.add([site.photos])


def _prepare_two_models(site: Site) -> None:
    _prepare_index(site)
    _add_model(site)


def _drop(site: Site) -> None:
    with _writing(site) as library, suppress(InvalidOption):  # an interrupted run did it
        library.drop_space("toy")


def _prepare_tags(site: Site) -> None:
    _prepare_index(site)
    with _writing(site) as library:
        library.tag(["grey", "red"], min_confidence=0.3)


def _tag(site: Site) -> None:
    with _writing(site) as library:
        library.tag(["red", "blue"], min_confidence=0.2)
        library.tag_new()


def _untag(site: Site) -> None:
    with _writing(site) as library:
        library.untag(["grey"])


def _prepare_schema_1(site: Site) -> None:
    _prepare_tags(site)
    to_version_1(site.index / "catalog.db")


def _prepare_schema_6(site: Site) -> None:
    _prepare_tags(site)
    to_version_6(site.index / "catalog.db")


def _prepare_schema_3(site: Site) -> None:
    _prepare_tags(site)
    to_version_3(site.index / "catalog.db")


def _open_and_add(site: Site) -> None:
    with mmsearch.open(site.index) as library, library.writing("being killed", wait=LOCK_TIMEOUT):
        library.add([site.photos])


def _prepare_caches(site: Site) -> None:
    _prepare_import(site)
    _backfill(site)
    shutil.rmtree(site.index / "cache")


def _rebuild_caches(site: Site) -> None:
    with _writing(site) as library:
        for kind in ("RaBitQ", "auto"):
            library.add([site.photos], kind=kind)
            answers(library)


def _prepare_backup(site: Site) -> None:
    _prepare_index(site)
    for backup in backups.all_of(site.index):
        os.utime(backup, (files.LONG_AGO, files.LONG_AGO))
    files.write_text(site.photos / "fresh.md", 90)


def _backup(site: Site) -> None:
    with _writing(site) as library:
        library.add([site.photos], backups=2)
        backups.roll(site.index, 2)  # in case it was killed after the last commit


def _check_backups(site: Site, before: Content) -> list[str]:
    found = []
    for backup in backups.all_of(site.index):
        if fault := backups.fault_of(backup):
            found.append(f"{backup.name}: {fault}")
        elif lost := before.paths() - content_of(backup).paths():
            found.append(f"{backup.name} lacks {sorted(lost)}")
    return found if backups.all_of(site.index) else ["all backups are lost"]


def _copy(site: Site) -> None:
    if site.elsewhere.exists():  # at once, since half of it would be an incomplete copy
        old = site.elsewhere.with_name(f"old-{uuid.uuid4().hex}")
        site.elsewhere.rename(old)
        shutil.rmtree(old)
    with mmsearch.open(site.index) as library:
        library.backup(site.elsewhere)


def _check_copy(site: Site, before: Content) -> list[str]:
    copy = site.elsewhere / "catalog.db"
    if not site.elsewhere.exists():
        return []
    if not copy.exists():
        return ["the copy has no catalog"]
    return [f"copy: {difference}" for difference in differences(content_of(copy), before)]


def _prepare_truncated_catalog(site: Site) -> None:
    _prepare_index(site)
    catalog = site.index / "catalog.db"
    os.truncate(catalog, catalog.stat().st_size * 6 // 10)


def _prepare_move(site: Site) -> None:
    _prepare_index(site)
    shutil.copytree(site.photos, site.elsewhere)


def _relocate(site: Site) -> None:
    with _writing(site) as library, suppress(PathNotFound):  # an interrupted run did it
        library.relocate(site.photos, site.elsewhere)


def _prepare_vectors(site: Site) -> None:
    _prepare_index(site)
    rows = np.random.default_rng(1).standard_normal((30, 16)).astype(np.float32)
    with _writing(site) as library:
        library.add_vectors(rows, [{"path": f"/far/{n}.jpg"} for n in range(30)], model="toy")


def _import_vectors(site: Site) -> None:
    rows = np.random.default_rng(2).standard_normal((120, 16)).astype(np.float32)
    metadata = (
        {"path": f"/far/{n}.jpg", "caption": f"a {files.THINGS[n % 7]} far away", "rating": n % 5}
        for n in range(len(rows))
    )
    with _writing(site) as library:
        batches = (rows[start : start + 10] for start in range(0, len(rows), 10))
        library.add_vectors(batches, metadata, model="toy")


def _prepare_import(site: Site) -> None:
    _prepare_index(site)
    _import_vectors(site)


def _backfill(site: Site) -> None:
    with _writing(site) as library:
        library.add([site.photos])


def _prepare_unindexed_words(site: Site) -> None:
    _prepare_tags(site)
    _execute(site, "UPDATE followers SET words_item = 0")


def _index_words(site: Site) -> None:
    with _writing(site) as library:
        library.store.words.refresh()


def _prepare_damage(site: Site) -> None:
    _prepare_tags(site)
    _execute(
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


def _execute(site: Site, *statements: str) -> None:
    with closing(sqlite3.connect(site.index / "catalog.db")) as catalog, catalog:
        for statement in statements:
            catalog.execute(statement)


OPERATIONS: dict[str, Operation] = {
    "index": Operation(files.make_files, _index),
    "update": Operation(_prepare_changes, _index),
    "refresh": Operation(_prepare_changes, _refresh),
    "remove": Operation(_prepare_index, _remove),
    "second model": Operation(_prepare_index, _add_model),
    "drop model, VACUUM": Operation(_prepare_two_models, _drop),
    "migrate 1 → now": Operation(_prepare_schema_1, _open_and_add, readable=False),
    "migrate 3 → now": Operation(_prepare_schema_3, _open_and_add, readable=False),
    "migrate 6 → now": Operation(_prepare_schema_6, _open_and_add, readable=False),
    "caches": Operation(_prepare_caches, _rebuild_caches),
    "rolling backup": Operation(_prepare_backup, _backup, check=_check_backups),
    "backup DEST": Operation(_prepare_index, _copy, check=_check_copy),
    "restore": Operation(_prepare_truncated_catalog, _index, readable=False),
    "relocate": Operation(_prepare_move, _relocate),
    "add_vectors": Operation(_prepare_vectors, _import_vectors),
    "captions filled": Operation(_prepare_import, _backfill),
    "tag": Operation(_prepare_tags, _tag),
    "untag": Operation(_prepare_tags, _untag),
    "words": Operation(_prepare_unindexed_words, _index_words),
    "doctor --repair": Operation(_prepare_damage, _repair, readable=False),
}


def reset(site: Site) -> None:
    """Restore the index before the operation."""
    shutil.rmtree(site.index, ignore_errors=True)
    for incomplete in site.root.glob("elsewhere.*"):
        shutil.rmtree(incomplete)
    if site.template.exists():
        shutil.copytree(site.template, site.index)


def prepared(operation: Operation, root: Path) -> Site:
    """A site where an operation is ready to be run."""
    site = Site(root)
    root.mkdir(parents=True)
    operation.prepare(site)
    if site.index.exists():
        shutil.copytree(site.index, site.template)
    return site
