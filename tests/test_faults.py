"""Disks that are full or fail, files and clocks that misbehave, caches that are damaged."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COLOURS, ToyEncoder, paint
from sqlalchemy import event

import mmsearch
from mmsearch.collection import Collection
from mmsearch.collection.doctor import examine
from mmsearch.errors import IndexUnusable, StorageFailed
from mmsearch.indexing.decoder import Decoder
from mmsearch.storage.lock import FolderLock

NAMES = list(COLOURS)
YEARS = 365 * 86_400


def unlike(path: Path, number: int) -> None:
    """A photo of other content than all others."""
    paint(path, NAMES[number % 4], (9, 9))
    with path.open("ab") as file:
        file.write(number.to_bytes(2))


@pytest.fixture
def many(tmp_path) -> Path:
    for number in range(80):
        unlike(tmp_path / "many" / f"{number:02}.png", number)
        (tmp_path / "many" / f"{number:02}.txt").write_text(f"a red wall {number} " * 150)
    return tmp_path / "many"


def content(library: Collection) -> dict[str, Any]:
    """By path, the vector; and the texts."""
    ids, rows, _ = library.store.vectors.of(library.index.serving()[0][0], "image")
    paths = {item.id: item.path for item in library.items}
    found: dict[str, Any] = {
        paths[id_]: row.tobytes() for id_, row in zip(ids.tolist(), rows, strict=True)
    }
    return found | {f"{i.path} says": [t.text for t in i.texts] for i in library.items if i.texts}


def hits(library: Collection, query: str = "red") -> list[tuple[str, float]]:
    return [(hit.path, round(hit.score, 5)) for hit in library.search(query, k=200)]


def wrong(index: Path) -> list[str]:
    return [f"{one.check}: {one.what}" for one in examine(index) if one.state == "wrong"]


# ------------------------------------------------------------------ a full disk


@pytest.mark.parametrize("more", [0, 3, 8])
def test_wherever_a_disk_fills_up_what_is_stored_is_whole_and_the_rest_comes_later(
    toy, many, tmp_path, more
):
    with mmsearch.index(many, into=tmp_path / "undisturbed") as library:
        wanted = content(library)
    with Collection(tmp_path / "idx", model="toy", create=True) as library:
        engine = library.store.database.engine
        limit = _pages(tmp_path / "idx") + more

        def bound(driver: Any, *_: object) -> None:
            driver.execute(f"PRAGMA max_page_count={limit}")

        event.listen(engine, "connect", bound)
        engine.dispose()
        with pytest.raises(StorageFailed, match="free some space, then run the command again"):
            library.add(many)
        assert content(library).items() <= wanted.items()
        assert library.report.added == len(library)
        library.search("red")
    assert wrong(tmp_path / "idx") == []
    with Collection(tmp_path / "idx") as library:
        library.add(many)
        assert content(library) == wanted
    assert wrong(tmp_path / "idx") == []


def _pages(index: Path) -> int:
    with closing(sqlite3.connect(index / "catalog.db")) as catalog:
        return int(catalog.execute("PRAGMA page_count").fetchone()[0])


class FullDisk(io.BytesIO):
    def write(self, *_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["open", "write", "flush"])
def test_without_room_for_a_segment_a_search_answers_all_the_same(
    toy, many, tmp_path, monkeypatch, step
):
    with mmsearch.index(many, into=tmp_path / "idx") as library:
        wanted = hits(library)
    shutil.rmtree(tmp_path / "idx" / "cache")
    opened, failed = Path.open, []

    def full(self, mode="r", *given, **named):
        if self.parent.suffix == ".part" and mode == ("rb+" if step == "flush" else "wb"):
            failed.append(self)
            if step == "write":
                return FullDisk()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(self, mode, *given, **named)

    with monkeypatch.context() as patch, mmsearch.open(tmp_path / "idx") as library:
        patch.setattr(Path, "open", full)
        assert hits(library) == wanted
    assert failed
    assert list((tmp_path / "idx" / "cache").iterdir()) == []
    with mmsearch.open(tmp_path / "idx") as library:
        assert hits(library) == wanted
    assert list((tmp_path / "idx" / "cache").glob("image-*/about.json"))


def test_without_room_for_a_backup_the_run_ends_with_a_warning_and_all_stored(
    toy, photos, tmp_path, monkeypatch
):
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        assert len(library) == 3
        assert any("backup" in warning for warning in library.report.warnings)
        assert len(library.search("red")) == 3


# ------------------------------------------------------------------ a disk that fails


def test_a_catalog_that_cannot_be_read_says_so_and_nothing_is_lost(
    toy, photos, tmp_path, monkeypatch
):
    with mmsearch.index(photos, into=tmp_path / "idx") as library:

        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr("sqlalchemy.engine.default.DefaultDialect.do_execute", fail)
            with pytest.raises(StorageFailed, match=r"disk I/O error; .*check the disk"):
                library.search("red")
        assert len(library.search("red")) == 3


def says(library: Collection) -> list[str]:
    (item,) = [item for item in library.items if item.path.endswith("red.png")]
    return [text.text for text in item.texts]


def test_a_sidecar_that_cannot_be_read_leaves_its_captions_until_the_next_run(
    toy, photos, tmp_path, monkeypatch
):
    (photos / "red.txt").write_text("a red wall")
    library = mmsearch.index(photos, into=tmp_path / "idx")
    (photos / "red.txt").write_text("a white wall")
    opened = Path.open

    def fail(self, *given, **named):
        if self.name == "red.txt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        library.add(photos)
    assert [Path(failure.path).name for failure in library.failures] == ["red.txt"]
    assert says(library) == ["a red wall"]
    library.add(photos)
    assert says(library) == ["a white wall"]
    assert library.failures == []
    library.close()


# ------------------------------------------------------------------ files that come and go


def test_a_folder_that_is_moved_away_while_it_is_read_loses_nothing(
    toy, many, tmp_path, monkeypatch
):
    with mmsearch.index(many, into=tmp_path / "idx") as library:
        before = content(library)
        for number in range(40):
            unlike(many / f"{number:02}.png", 200 + number)
        seen: list[int] = []
        decode = Decoder.__call__

        def move(self, job, **named):
            seen.append(1)
            if len(seen) == 20:
                many.rename(tmp_path / "away")
            return decode(self, job, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Decoder, "__call__", move)
            library.add(many)
        assert len(library) == 80
        assert content(library).keys() == before.keys()
        (tmp_path / "away").rename(many)
        library.add(many)
        with mmsearch.index(many, into=tmp_path / "fresh") as fresh:
            assert content(library) == content(fresh)
            assert library.failures == []


# ------------------------------------------------------------------ clocks


@pytest.mark.parametrize("jump", [-30 * YEARS, 30 * YEARS])
def test_a_clock_that_jumps_by_years_between_two_runs_makes_no_difference(
    toy, photos, tmp_path, monkeypatch, jump
):
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        library.search("red")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    paint(photos / "white.png", "white")
    with Collection(tmp_path / "idx") as library:
        report = library.add(photos)
        assert (report.added, report.unchanged) == (1, 3)
        assert library.search("white", k=1)[0].path.endswith("white.png")
    assert wrong(tmp_path / "idx") == []


@pytest.mark.parametrize("stamp", [-(10**18), -1, 0, 1, 4 * 10**18])
def test_a_file_of_any_date_is_taken_in_once(toy, photos, tmp_path, stamp):
    os.utime(photos / "red.png", ns=(stamp, stamp))
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        assert len(library) == 3
        assert library.add(photos).unchanged == 3


# ------------------------------------------------------------------ someone else writes


def test_a_run_that_finds_the_catalog_locked_says_so_and_a_search_goes_on(
    toy, photos, tmp_path, monkeypatch
):
    mmsearch.index(photos, into=tmp_path / "idx").close()
    monkeypatch.setattr("mmsearch.storage.sqlite.database.TIMEOUT", 0)
    paint(photos / "white.png", "white")
    catalog = tmp_path / "idx" / "catalog.db"
    with (
        closing(sqlite3.connect(catalog, isolation_level=None)) as other,
        Collection(tmp_path / "idx") as library,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFailed, match="another process is writing: wait for it"):
            library.add(photos)
        assert len(library.search("red")) == 3
        other.execute("ROLLBACK")
        assert library.add(photos).added == 1
        assert len(library.search("red")) == 4


# ------------------------------------------------------------------ damaged caches


@pytest.fixture
def coded(toy, tmp_path) -> Path:
    """An index that is searched by 1-bit codes."""
    for number in range(12):
        unlike(tmp_path / "some" / f"{number:02}.png", number)
    with Collection(tmp_path / "idx", model="toy", create=True) as library:
        library.add(tmp_path / "some", kind="RaBitQ")
    return tmp_path / "idx"


def base_of(index: Path) -> Path:
    (found,) = (index / "cache").glob("image-*")
    return found


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip_some(path: Path) -> None:
    held = bytearray(path.read_bytes())
    for _ in range(3):
        held[random.Random(len(held)).randrange(len(held))] ^= 16
    path.write_bytes(held)


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink], ids=lambda one: one.__name__)
def test_whatever_file_of_a_base_is_lost_or_cut_answers_stay_the_same(coded, damage):
    with mmsearch.open(coded) as library:
        wanted = hits(library)
    names = sorted(file.name for file in base_of(coded).iterdir())
    assert "coarse.faiss" in names
    for name in names:
        damage(base_of(coded) / name)
        with mmsearch.open(coded) as library:
            assert hits(library) == wanted, name


@pytest.mark.parametrize("damage", [overwrite, flip_some])
@pytest.mark.parametrize("name", ["about.json", "coarse.faiss"])
def test_bits_that_flip_in_what_is_said_of_a_base_make_it_anew(coded, name, damage):
    with mmsearch.open(coded) as library:
        wanted = hits(library)
    before = base_of(coded)
    damage(before / name)
    with mmsearch.open(coded) as library:
        assert hits(library) == wanted
    assert base_of(coded) != before


def test_one_bit_that_flips_anywhere_in_what_is_said_of_a_base_hides_no_vector(coded):
    with mmsearch.open(coded) as library:
        wanted = hits(library)
    chance = random.Random(3)
    for _ in range(12):
        path = base_of(coded) / chance.choice(["about.json", "coarse.faiss"])
        held = bytearray(path.read_bytes())
        held[chance.randrange(len(held))] ^= 1 << chance.randrange(8)
        path.write_bytes(held)
        with mmsearch.open(coded) as library:
            assert hits(library) == wanted


@pytest.mark.parametrize("name", ["rows.f16", "ids.i64", "vectors.i64"])
def test_bits_that_flip_in_the_rows_of_a_base_are_found_by_the_doctor(coded, name):
    with mmsearch.open(coded) as library:
        wanted = hits(library)
    path = base_of(coded) / name
    held = bytearray(path.read_bytes())
    held[len(held) // 2 & ~7] ^= 4  # the lowest byte of a number
    path.write_bytes(held)
    assert [one.check for one in examine(coded) if one.state == "wrong"] == ["caches"]
    examine(coded, repair=True)
    assert wrong(coded) == []
    with mmsearch.open(coded) as library:
        assert hits(library) == wanted


def test_a_base_is_never_left_half_deleted_under_its_own_name(coded, monkeypatch):
    """Who is killed while an old base is deleted leaves what is known to be half a base."""
    names: list[str] = []

    def stop(path: Path, **_: object) -> None:
        names.append(Path(path).name)
        (Path(path) / "about.json").unlink()

    monkeypatch.setattr("mmsearch.spaces.index_cache.shutil.rmtree", stop)
    with mmsearch.open(coded) as library:
        library.add(kind="exact")
    assert names
    assert all(name.endswith(".part") for name in names)
    assert wrong(coded) == []


# ------------------------------------------------------------------ imports that end early


def test_captions_of_an_import_that_ends_early_get_their_vectors_later(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("mmsearch.indexing.bulk.sources.ROWS_AT_ONCE", 5)
    rows = np.random.default_rng(1).standard_normal((20, ToyEncoder.dim)).astype(np.float32)
    said = [{"path": f"/far/{n}.png", "caption": f"red {n}"} for n in range(20)]

    def parts():
        yield rows[:10]
        raise KeyError("as if it had been killed")

    with Collection(tmp_path / "idx", model="toy", create=True) as library:
        with pytest.raises(KeyError):
            library.add_vectors(parts(), said, model="toy")
        assert len(library) > 0
        assert wrong(tmp_path / "idx") == []
        paint(tmp_path / "photos" / "red.png", "red")
        library.add(tmp_path / "photos")
        (space,) = library.store.spaces.all()
        assert library.store.vectors.missing(space, "text", ()) == []


def test_an_import_without_captions_leaves_nothing_to_be_done(toy, tmp_path):
    rows = np.random.default_rng(1).standard_normal((20, ToyEncoder.dim)).astype(np.float32)
    with Collection(tmp_path / "idx", model="toy", create=True) as library:
        library.add_vectors(rows, [{"path": f"/far/{n}.png"} for n in range(20)], model="toy")
        assert not library.store.settings.get("holes")


# ------------------------------------------------------------------ old or new, never half


def test_who_searches_while_everything_is_replaced_sees_all_old_or_all_new(
    toy, tmp_path, monkeypatch
):
    """Each of 30 items has vectors of two facets; a transaction replaces all of both."""
    index = tmp_path / "idx"
    names = [f"/far/{n}.png" for n in range(30)]

    def put(library: Collection, colour: str) -> None:
        library.add_vectors(
            np.tile(ToyEncoder().encode("text", [colour]), (30, 1)),
            [{"path": name, "caption": f"{colour} {name}"} for name in names],
            text_vectors=np.tile(ToyEncoder().encode("text", [f"{colour} wall"]), (30, 1)),
            model="toy",
        )

    with Collection(index, model="toy", create=True) as library:
        put(library, "red")
    seen: list[set[tuple[str, float]]] = []
    stop = threading.Event()
    trouble: list[BaseException] = []

    def look() -> None:
        try:
            with mmsearch.open(index) as reader:
                while not stop.is_set():
                    found = reader.search("red", k=100, lexical=False)
                    assert len(found) == 30
                    seen.append({(hit.caption or "", round(hit.score, 4)) for hit in found})
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        with Collection(index) as library:
            for colour in ("blue", "red") * 4:
                put(library, colour)
                before = len(seen)
                while len(seen) < before + 3 and not trouble:
                    time.sleep(0.005)
    finally:
        stop.set()
        thread.join()
    if trouble:
        raise trouble[0]
    for moment in seen:
        colours = {caption.split()[0] for caption, _ in moment}
        assert len(colours) == 1
        assert len({score for _, score in moment}) == 1
    assert {caption.split()[0] for moment in seen for caption, _ in moment} == {"red", "blue"}


def test_another_programs_database_is_refused_and_stays_as_it_is(tmp_path):
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = (tmp_path / "catalog.db").read_bytes()
    with pytest.raises(IndexUnusable, match="not an mmsearch catalog"):
        mmsearch.open(tmp_path)
    assert (tmp_path / "catalog.db").read_bytes() == before


def test_a_disk_too_full_to_name_the_writer_keeps_no_half_written_name(tmp_path, monkeypatch):
    def full(self: Path, *_: object, **__: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with FolderLock(tmp_path).writing("indexing"):
        assert {path.name for path in tmp_path.iterdir()} <= {"writer.lock"}
