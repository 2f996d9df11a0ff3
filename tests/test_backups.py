"""Rolling backups of the catalog, restoring one, and copies of an index in use."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import paint
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.collection.doctor import examine
from mmsearch.errors import CatalogDamaged, IndexUnusable, InvalidOption, StorageFailed
from mmsearch.storage import backups

HOUR = 3600


def content(library: mmsearch.Collection) -> list[tuple[str, bytes]]:
    """(path, vector) of every item, without ids."""
    ids, rows, _ = library.store.vectors.of(library.index.serving()[0][0], "image")
    paths = {item.id: item.path for item in library.items}
    return sorted((paths[i], row.tobytes()) for i, row in zip(ids.tolist(), rows, strict=True))


def age(folder: Path, seconds: float) -> None:
    """Make the backups of an index older."""
    for backup in backups.all_of(folder):
        then = backup.stat().st_mtime - seconds
        os.utime(backup, (then, then))


def items_in(backup: Path) -> int:
    with sqlite3.connect(backup) as there:
        (found,) = there.execute("SELECT count(*) FROM items").fetchone()
    there.close()
    return int(found)


def truncate(folder: Path, length: int) -> None:
    os.truncate(folder / "catalog.db", length)


@pytest.fixture
def idx(toy, photos, tmp_path: Path) -> Path:
    """An index of three photos, with a backup."""
    mmsearch.index(photos, into=tmp_path / "idx").close()
    return tmp_path / "idx"


# ---------------------------------------------------------------------- rolling


def test_the_first_run_leaves_a_complete_backup(idx):
    (backup,) = backups.all_of(idx)
    assert backups.fault_of(backup) is None
    assert items_in(backup) == 3
    assert [file.name for file in backup.parent.iterdir()] == [backup.name]


def test_there_is_at_most_one_new_backup_an_hour(idx, photos):
    first = backups.newest(idx)
    paint(photos / "white.png", "white")
    with mmsearch.open(idx) as library:
        library.add()
        assert backups.all_of(idx) == [first]
        age(idx, HOUR)
        (photos / "white.png").unlink()
        library.add()
    (second,) = backups.all_of(idx)
    assert second != first
    assert items_in(second) == 3


def test_a_run_that_changes_nothing_makes_no_backup(idx):
    first = backups.newest(idx)
    age(idx, HOUR)
    with mmsearch.open(idx) as library:
        library.add()
    assert backups.all_of(idx) == [first]


def test_a_catalog_that_has_doubled_is_backed_up_at_once(idx):
    first = backups.newest(idx)
    assert backups.roll(idx, 2) is None
    with sqlite3.connect(idx / "catalog.db") as there:
        there.execute("CREATE TABLE ballast AS SELECT zeroblob(4000000)")
    there.close()
    second = backups.roll(idx, 2)
    assert backups.all_of(idx) == [first, second]


def test_the_number_of_backups_to_keep_is_remembered(idx, photos):
    with mmsearch.open(idx) as library:
        library.add(backups=2)
    for number in range(4):
        age(idx, HOUR)
        paint(photos / f"{number}.png", "white", (10 + number, 10))
        with mmsearch.open(idx) as library:
            library.add()
    assert [items_in(backup) for backup in backups.all_of(idx)] == [6, 7]


def test_zero_backups_makes_none_and_deletes_none(idx, photos):
    age(idx, HOUR)
    first = backups.newest(idx)
    paint(photos / "white.png", "white")
    command = ["index", "-i", f"{idx}/", "--backups", "0"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert backups.all_of(idx) == [first]
    assert items_in(first) == 3


def test_a_negative_number_of_backups_is_refused(idx):
    with mmsearch.open(idx) as library, pytest.raises(InvalidOption, match="backups"):
        library.add(backups=-1)


def test_a_clock_that_was_set_back_does_not_make_an_old_backup_the_newest(idx, photos):
    (first,) = backups.all_of(idx)
    future = first.rename(first.with_name("catalog-29990101T000000Z.db"))
    os.utime(future, (time.time() + 10 * HOUR,) * 2)
    paint(photos / "white.png", "white")
    with mmsearch.open(idx) as library:
        library.add()
    (newest,) = backups.all_of(idx)
    assert newest.name > future.name
    assert items_in(newest) == 4


def test_a_full_disk_is_a_warning_and_the_old_backup_stays(idx, photos, monkeypatch):
    (first,) = backups.all_of(idx)
    age(idx, HOUR)

    def full(*_: object) -> None:
        (first.parent / backups.PART).write_bytes(b"half")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(backups, "fault_of", full)
    paint(photos / "white.png", "white")
    with mmsearch.open(idx) as library:
        report = library.add()
    assert report.added == 1
    (warning,) = report.warnings
    assert "the backup of the index could not be made: database or disk is full" in warning
    assert list(first.parent.iterdir()) == [first]


def test_a_backup_that_does_not_fit_is_not_begun(idx, monkeypatch):
    (first,) = backups.all_of(idx)
    age(idx, HOUR)
    usage = shutil.disk_usage(idx)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageFailed, match="0 MiB free, 1 MiB are needed"):
        backups.roll(idx)
    assert backups.all_of(idx) == [first]


@pytest.mark.skipif(os.name != "posix", reason="limits")
def test_a_file_that_cannot_grow_leaves_the_old_backup(idx):
    (first,) = backups.all_of(idx)
    age(idx, HOUR)
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from mmsearch.storage import backups\n"
        "from mmsearch.errors import StorageFailed\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        "    backups.roll(Path(sys.argv[1]))\n"
        "except StorageFailed as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(idx)], capture_output=True, text=True, check=True
    )
    assert "the backup of the index could not be made" in done.stdout
    assert list(first.parent.iterdir()) == [first]


def test_a_damaged_catalog_never_takes_the_place_of_a_good_backup(idx):
    (first,) = backups.all_of(idx)
    age(idx, HOUR)
    with (idx / "catalog.db").open("r+b") as file:
        file.seek(5 * 16384)
        file.write(b"\xff" * 3 * 16384)
    with pytest.raises(StorageFailed, match="could not be made"):
        backups.roll(idx)
    assert backups.all_of(idx) == [first]
    assert backups.fault_of(first) is None


# ---------------------------------------------------------------------- restoring


LENGTHS = (0, 1, 99, 511, 512, 4096, 16383, 16384, 16385, 0.3, 0.5, 0.9, -16385, -16384, -1)


def length_of(cut: float, size: int) -> int:
    """Bytes: of a share, from the end, or as they are."""
    if 0 < cut < 1:
        return int(cut * size)
    return int(cut if cut >= 0 else size + cut)


@pytest.mark.parametrize("cut", LENGTHS)
def test_a_truncated_catalog_is_restored_and_the_run_ends_as_if_undisturbed(
    idx, photos, tmp_path, cut
):
    paint(photos / "white.png", "white")
    (photos / "red.png").unlink()
    with mmsearch.open(idx) as library:
        library.add()  # after the backup, within its hour
    truncate(idx, length_of(cut, (idx / "catalog.db").stat().st_size))
    result = CliRunner().invoke(app, ["index", str(photos), "-i", f"{idx}/"])
    assert result.exit_code == 0, result.output
    assert "has been restored from the backup of " in result.output
    with (
        mmsearch.open(idx) as library,
        mmsearch.index(photos, into=tmp_path / "undisturbed") as other,
    ):
        assert content(library) == content(other)
        found = [(hit.path, hit.score) for hit in library.search("white")]
        assert found == [(hit.path, hit.score) for hit in other.search("white")]


def test_a_run_without_paths_restores_it_as_well(idx, photos):
    truncate(idx, 20_000)
    result = CliRunner().invoke(app, ["index", "-i", f"{idx}/"])
    assert result.exit_code == 0, result.output
    assert "restored" in result.output
    assert "unchanged 3" in result.output


def test_a_catalog_that_is_gone_is_restored(idx, photos):
    (idx / "catalog.db").unlink()
    with mmsearch.index(photos, into=idx) as library:
        assert library.report is not None
        assert library.report.unchanged == 3


def test_a_collection_whose_catalog_was_replaced_writes_nothing_into_the_old_one(idx, photos):
    with mmsearch.open(idx) as library:
        (idx / "catalog.db").unlink()
        mmsearch.index(photos, into=idx).close()  # restores the backup
        paint(photos / "later.png", "red")
        for use in (lambda: library.add(photos), lambda: library.search("red")):
            with pytest.raises(IndexUnusable, match="open the index again"):
                use()
    with mmsearch.index(photos, into=idx) as library:
        assert library.report.added == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("closed", ["", "backups"])
def test_a_folder_that_may_not_be_entered_is_no_missing_index(idx, monkeypatch, closed):
    if closed:
        (idx / "catalog.db").unlink()
    stat, listdir = Path.stat, os.listdir

    def refuse(path: Any) -> None:
        if str(path).startswith(str(idx / closed)) and Path(path) != idx:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    def closed_stat(self: Path, **how: Any) -> os.stat_result:
        refuse(self)
        return stat(self, **how)

    def closed_listdir(path: Any = ".") -> list[str]:
        refuse(path)
        return listdir(path)

    monkeypatch.setattr(Path, "stat", closed_stat)
    monkeypatch.setattr(os, "listdir", closed_listdir)
    for opening in (lambda: mmsearch.open(idx), lambda: examine(idx)):
        with pytest.raises(IndexUnusable, match="cannot be read: Permission denied"):
            opening()


def test_a_name_that_is_too_long_for_an_index_is_said_so(tmp_path):
    result = CliRunner().invoke(app, ["query", "dog", "-i", f"{tmp_path}/{300 * 'x'}"])
    assert result.exit_code == 3
    assert "File name too long" in result.output


@pytest.mark.parametrize("damage", ["cut", "scribbled", "gone", "empty"])
def test_commands_that_only_read_say_how_to_restore_it(idx, damage):
    catalog = idx / "catalog.db"
    if damage == "cut":
        truncate(idx, 100_000)
    elif damage == "scribbled":
        catalog.write_bytes(b"no database" * 10_000)
    elif damage == "gone":
        catalog.unlink()
    else:
        truncate(idx, 0)
    before = catalog.read_bytes() if catalog.exists() else None
    made = backups.time_of(backups.all_of(idx)[0])
    with pytest.raises(CatalogDamaged, match="doctor --repair") as raised:
        mmsearch.open(idx)
    assert made in str(raised.value)
    assert (catalog.read_bytes() if catalog.exists() else None) == before


def test_without_a_backup_a_damaged_catalog_is_an_error(idx, photos):
    shutil.rmtree(idx / "backups")
    truncate(idx, 100_000)
    for opening in (lambda: mmsearch.open(idx), lambda: mmsearch.index(photos, into=idx)):
        with pytest.raises(IndexUnusable, match="delete its folder and index again"):
            opening()


def test_the_damaged_catalog_is_set_aside(idx):
    truncate(idx, 100_000)
    backups.restore(idx)
    (aside,) = idx.glob("catalog.db.damaged-*")
    assert aside.stat().st_size == 100_000


def test_the_log_of_the_damaged_catalog_is_not_applied_to_the_restored_one(idx):
    log = idx / "catalog.db-wal"
    holding = sqlite3.connect(idx / "catalog.db", isolation_level=None)
    holding.execute("UPDATE items SET name = 'other ' || name")
    saved = log.read_bytes()
    holding.close()
    log.write_bytes(saved)
    truncate(idx, 100_000)
    backups.restore(idx)
    with mmsearch.open(idx) as library:
        assert not [item.path for item in library.items if "other" in item.path]


def test_pages_in_the_log_are_not_missing(idx, tmp_path):
    holding = sqlite3.connect(idx / "catalog.db", isolation_level=None)
    holding.execute("CREATE TABLE ballast AS SELECT zeroblob(400000)")
    copy = tmp_path / "killed"
    shutil.copytree(idx, copy)  # as a killed process leaves it: the pages are in the log alone
    holding.close()
    with mmsearch.open(copy) as library:
        assert len(library) == 3
    shutil.copytree(copy, tmp_path / "cut")
    truncate(copy, 50_000)
    with pytest.raises(CatalogDamaged):
        mmsearch.open(copy)


def test_a_damaged_backup_is_passed_over_for_an_older_one(idx, photos):
    with mmsearch.open(idx) as library:
        library.add(backups=2)
        age(idx, HOUR)
        paint(photos / "white.png", "white")
        library.add()
    older, newer = backups.all_of(idx)
    newer.write_bytes(newer.read_bytes()[:70_000])
    truncate(idx, 0)
    assert backups.restore(idx) == older
    newer.unlink()
    older.unlink()
    with pytest.raises(IndexUnusable, match="no good backup"):
        backups.restore(idx)


def test_a_restored_catalog_uses_no_cache_made_after_its_backup(idx):
    with mmsearch.open(idx) as library:
        before = library.store.state().store_id
    backups.restore(idx)
    with mmsearch.open(idx) as library:
        assert library.store.state().store_id != before
        assert len(library.search("red")) == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from mmsearch.storage import backups
from mmsearch.storage.sqlite import database

left = [int(sys.argv[3])]

def kill(event, _):
    if event in ("open", "os.rename", "os.remove", "sqlite3.connect", "shutil.copyfile"):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
getattr(backups, sys.argv[2])(Path(sys.argv[1]))
print("done")
"""


def kill_at(step: int, what: str, folder: Path) -> bool:
    """Whether the process ended before it could be killed."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), what, str(step)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.stdout == "done\n"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_kill_at_any_step_of_a_backup_leaves_a_good_one_and_the_next_run_makes_another(idx):
    age(idx, HOUR)
    (first,) = backups.all_of(idx)
    for step in range(1, 100):
        ended = kill_at(step, "roll", idx)
        kept = backups.all_of(idx)
        assert kept
        assert all(backups.fault_of(backup) is None for backup in kept)
        if ended:
            break
        for backup in kept:
            if backup != first:
                backup.unlink()
        if not first.exists():
            pytest.fail("the old one went before the new one was there")
    assert ended
    assert step > 5
    assert first not in kept
    assert {file.suffix for file in first.parent.iterdir()} == {".db"}


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_kill_at_any_step_of_restoring_is_made_good_by_the_next_run(idx, photos, tmp_path):
    truncate(idx, 100_000)
    for step in range(1, 100):
        copy = tmp_path / f"copy-{step}"
        shutil.copytree(idx, copy)
        ended = kill_at(step, "restore", copy)
        with mmsearch.index(photos, into=copy) as library:
            assert library.report is not None
            assert library.report.unchanged == 3
        assert not list(copy.glob("*.part*"))
        if ended:
            break
    assert ended
    assert step > 5


# ---------------------------------------------------------------------- copies


def test_a_copy_opens_elsewhere_and_finds_the_same(idx, tmp_path):
    with mmsearch.open(idx) as library:
        size = library.backup(tmp_path / "deep" / "copy")
        expected = [(hit.path, hit.score) for hit in library.search("red")]
    copy = tmp_path / "deep" / "copy"
    assert size == sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
    assert not (copy / "backups").exists()
    shutil.rmtree(idx)
    with mmsearch.open(copy) as library:
        assert [(hit.path, hit.score) for hit in library.search("red")] == expected


def test_an_index_can_be_copied_while_it_is_written(toy, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(backups, "PAGES_AT_ONCE", 1)  # so that there is time to write in between
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                library.store.settings.set("one", str(number))
                library.store.settings.set("other", str(number))
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(3):
                library.backup(tmp_path / f"copy-{number}")
        finally:
            stop.set()
            writer.join()
    for number in range(3):
        assert backups.fault_of(tmp_path / f"copy-{number}" / "catalog.db") is None
        with mmsearch.open(tmp_path / f"copy-{number}") as copy:
            one, other = (int(copy.store.settings.get(key) or 0) for key in ("one", "other"))
            assert one - other in (0, 1)
            assert len(copy) == 3


def test_a_copy_replaces_nothing(idx, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with mmsearch.open(idx) as library:
        library.backup(tmp_path / "empty")
        for name in ("file", "full", "idx", "idx/copy"):
            with pytest.raises(InvalidOption):
                library.backup(tmp_path / name)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["file"]
    mmsearch.open(tmp_path / "empty").close()


def test_a_copy_that_fails_leaves_nothing(idx, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backups, "_sync", full)
    before = sorted(tmp_path.iterdir())
    with (
        mmsearch.open(idx) as library,
        pytest.raises(StorageFailed, match="could not be copied: No space left"),
    ):
        library.backup(tmp_path / "copy")
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_says_how_large_the_copy_is_and_how_to_search_it(idx, tmp_path):
    result = CliRunner().invoke(app, ["backup", f"{tmp_path}/copy", "-i", f"{idx}/"])
    assert result.exit_code == 0
    assert "MiB" in result.output
    assert f"mmsearch query -i {tmp_path}/copy" in result.output
    found = CliRunner().invoke(app, ["query", "red", "-i", f"{tmp_path}/copy/"])
    assert found.exit_code == 0
