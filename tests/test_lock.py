"""One writer at a time; readers never wait."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import paint
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.errors import IndexBusy, StorageFailed
from mmsearch.storage.lock import FolderLock
from mmsearch.storage.sqlite import migrations

WITHOUT_FLOCK = """
import errno, fcntl
def no_locks(*_):
    raise OSError(errno.ENOSYS, "no locks here")
fcntl.flock = no_locks
"""

HOLDS = """
import sys, time
from pathlib import Path
from mmsearch.storage.lock import FolderLock
with FolderLock(Path(sys.argv[1])).writing("indexing"):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(folder: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that holds the lock until it is killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", before + HOLDS, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path):
    child = hold(tmp_path)
    try:
        with pytest.raises(IndexBusy) as raised, FolderLock(tmp_path).writing("tagging"):
            pass
        holder = FolderLock(tmp_path).holder()
    finally:
        end(child)
    assert f"pid {child.pid} on {socket.gethostname()}, indexing since " in str(raised.value)
    assert holder is not None
    assert (holder.pid, holder.what) == (child.pid, "indexing")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path: Path):
    child = hold(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert (tmp_path / "writer.lock").exists()
    with FolderLock(tmp_path).writing("indexing"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="flock")
def test_without_locks_of_the_file_system_a_live_holder_is_respected_and_a_dead_one_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    child = hold(tmp_path, WITHOUT_FLOCK)
    with pytest.raises(IndexBusy), FolderLock(tmp_path).writing("tagging"):
        pass
    end(child)
    with FolderLock(tmp_path).writing("tagging", wait=10):
        pass


@pytest.mark.skipif(os.name != "posix", reason="flock")
def test_a_network_drive_whose_locks_do_not_answer_is_locked_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        FolderLock(tmp_path).writing("indexing"),
        pytest.raises(IndexBusy),
        FolderLock(tmp_path).writing("tagging"),
    ):
        pass
    with FolderLock(tmp_path).writing("tagging"):
        pass


def test_who_writes_may_take_the_lock_again(tmp_path: Path):
    lock = FolderLock(tmp_path)
    with lock.writing("watching"), lock.writing("indexing"), lock.may_write("words") as free:
        assert free
        holder = lock.holder()
    assert holder is not None
    assert holder.what == "watching"
    with FolderLock(tmp_path).writing("tagging"):
        pass


def test_another_thread_is_another_writer(tmp_path: Path):
    lock, seen = FolderLock(tmp_path), []

    def try_it() -> None:
        with lock.may_write("words") as free:
            seen.append(free)

    with lock.writing("indexing"):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert seen == [False]


def test_what_can_be_left_undone_does_not_wait_and_hides_no_error(tmp_path: Path):
    with FolderLock(tmp_path).writing("indexing"):
        began = time.monotonic()
        with FolderLock(tmp_path).may_write("words") as free:
            assert not free
        assert time.monotonic() - began < 5
    with pytest.raises(IndexBusy, match="mine"), FolderLock(tmp_path).may_write("words"):
        raise IndexBusy("mine")
    with pytest.raises(KeyError), FolderLock(tmp_path).may_write("words"):
        raise KeyError


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path):
    lock = FolderLock(tmp_path / "nowhere")
    with pytest.raises(StorageFailed, match="cannot be written"), lock.writing("indexing"):
        pass
    with lock.may_write("words") as free:
        assert not free


# ---------------------------------------------------------------------- an index


WRITES: dict[str, Callable[[mmsearch.Collection], object]] = {
    "add": lambda library: library.add(),
    "remove": lambda library: library.remove("/"),
    "tag": lambda library: library.tag(["red"]),
    "tag_new": lambda library: library.tag_new(),
    "untag": lambda library: library.untag(),
    "drop_space": lambda library: library.drop_space("toy"),
    "relocate": lambda library: library.relocate("/", os.getcwd()),
}


@pytest.mark.parametrize("name", WRITES)
def test_whatever_writes_needs_the_lock(toy, photos, tmp_path, name):
    mmsearch.index(photos, into=tmp_path / "idx").close()
    with (
        mmsearch.open(tmp_path / "idx") as library,
        FolderLock(tmp_path / "idx").writing("indexing"),
        pytest.raises(IndexBusy),
    ):
        WRITES[name](library)


def test_searching_needs_no_lock(toy, photos, tmp_path):
    mmsearch.index(photos, into=tmp_path / "idx").close()
    child = hold(tmp_path / "idx")
    try:
        with mmsearch.open(tmp_path / "idx") as library:
            assert len(library.search("red")) == 3
            assert library.status()["items"] == {"image": 3}
    finally:
        end(child)


def test_a_busy_index_is_one_line_and_an_exit_code_of_its_own(toy, photos, tmp_path):
    mmsearch.index(photos, into=tmp_path / "idx").close()
    child = hold(tmp_path / "idx")
    try:
        result = CliRunner().invoke(app, ["index", str(photos), "-i", f"{tmp_path}/idx/"])
    finally:
        end(child)
    assert result.exit_code == 5
    (line,) = result.output.splitlines()
    assert f"another process is writing to this index: pid {child.pid} on " in line


def test_a_run_that_has_the_lock_already_needs_no_other(toy, photos, tmp_path):
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        paint(photos / "white.png", "white")
        with library.writing("watching"):
            assert library.add().added == 1
            assert library.tag(["red"]) is not None


def test_an_older_catalog_is_brought_up_by_who_has_the_lock(toy, photos, tmp_path, monkeypatch):
    mmsearch.index(photos, into=tmp_path / "idx").close()
    done: list[object] = []
    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, done.append])
    monkeypatch.setattr("mmsearch.storage.sqlite.database.MIGRATION_TIMEOUT", 0)
    with (
        FolderLock(tmp_path / "idx").writing("bringing it up"),
        pytest.raises(IndexBusy, match="bringing it up"),
    ):
        mmsearch.open(tmp_path / "idx")
    assert not done
    mmsearch.open(tmp_path / "idx").close()
    assert len(done) == 1


def test_a_writer_can_wait_for_another(tmp_path: Path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    taken = threading.Event()

    def write_a_little() -> None:
        with first.writing("tagging"):
            taken.set()
            time.sleep(0.3)

    thread = threading.Thread(target=write_a_little)
    thread.start()
    taken.wait()
    with pytest.raises(IndexBusy), second.writing("indexing"):
        pass
    with second.writing("indexing", wait=30):
        pass
    thread.join()


def test_a_collection_waits_for_another_writer_as_long_as_it_is_told(toy, photos, tmp_path):
    with mmsearch.index(photos, tmp_path / "idx") as one, mmsearch.open(tmp_path / "idx") as other:
        taken = threading.Event()

        def write_a_little() -> None:
            with one.writing("tagging"):
                taken.set()
                time.sleep(0.3)

        thread = threading.Thread(target=write_a_little)
        thread.start()
        taken.wait()
        with other.writing("indexing", wait=30):
            pass
        thread.join()
