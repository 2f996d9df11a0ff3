"""Keeping an index in step with a disk that changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import paint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmsearch.cli.app import app
from mmsearch.collection import Collection, folder_changes
from mmsearch.collection import watch as watching
from mmsearch.collection.folder_changes import PendingChanges
from mmsearch.collection.watch import watch
from mmsearch.errors import IndexNotFound, IndexUnusable, MissingExtra, PathNotFound, StorageFailed
from mmsearch.storage.lock import FolderLock

PATIENCE = 30  # seconds until a test gives up; none takes as long


def until(condition, *, running: threading.Thread | None = None) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert running is None or running.is_alive(), "the watch has ended"
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.02)


class Watch:
    """A watch that runs in a thread; what it was told, and what the index holds by now."""

    def __init__(self, index: Path, paths, **options) -> None:
        self.index = index
        self.updates, self.troubles = [], []
        self.stop = threading.Event()
        self.report = None
        self._collection = Collection(index, model="toy", create=True)
        self._reader = Collection(index)
        self._options = {"quiet": 0.2, "patience": 2.0, **options}
        self._thread = threading.Thread(target=self._run, args=(paths,))

    def _run(self, paths) -> None:
        self.report = watch(
            self._collection,
            paths,
            stop=self.stop,
            on_update=self.updates.append,
            on_trouble=self.troubles.append,
            **self._options,
        )

    def names(self) -> set[str]:
        return {Path(item.path).name for item in self._reader.items}

    def ids(self) -> dict[str, int]:
        return {Path(item.path).name: item.id for item in self._reader.items}

    def asked(self) -> list[str]:
        return [one.path for one in self._reader.store.index_roots.all()]

    def sees(self, *names: str) -> None:
        until(lambda: self.names() == set(names), running=self._thread)

    def waits(self, condition) -> None:
        until(condition, running=self._thread)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        for collection in (self._collection, self._reader):
            collection.close()


@contextmanager
def watched(index: Path, paths=None, *, up_to_date: bool = True, **options):
    one = Watch(index, paths, **options)
    one.start()
    try:
        if up_to_date:
            one.waits(lambda: one.updates)
        yield one
    finally:
        one.end()


@pytest.fixture
def index(toy, tmp_path: Path) -> Path:
    pytest.importorskip("watchfiles")
    return tmp_path / "index"


# ------------------------------------------------------------------ what it keeps up with


def test_it_begins_by_bringing_the_index_up_to_date(index, photos):
    with watched(index, [photos]) as seen:
        seen.sees("red.png", "green.png", "blue.png")


def test_a_new_photo_is_found(index, photos):
    with watched(index, [photos]) as seen:
        paint(photos / "deep" / "white.png", "white")
        seen.sees("red.png", "green.png", "blue.png", "white.png")


def test_a_deleted_photo_leaves(index, photos):
    with watched(index, [photos]) as seen:
        (photos / "red.png").unlink()
        seen.sees("green.png", "blue.png")


def test_a_photo_that_is_painted_over_is_encoded_anew(index, photos, toy):
    with watched(index, [photos]) as seen:
        before = toy.encoded["image"]
        paint(photos / "red.png", "white")
        seen.waits(lambda: toy.encoded["image"] > before)
        assert seen.names() == {"red.png", "green.png", "blue.png"}


def test_a_sidecar_that_is_written_reaches_its_photo(index, photos, toy):
    with watched(index, [photos]) as seen:
        encoded = toy.encoded["image"]
        told = {"photoTakenTime": {"timestamp": "1525600000"}}
        (photos / "package.json").write_text("{}")
        (photos / "deep" / "blue.png.json").write_text(json.dumps(told))
        seen.waits(lambda: [one for one in seen.updates if one.updated])
        assert toy.encoded["image"] == encoded
        assert seen.names() == {"red.png", "green.png", "blue.png"}


def test_a_renamed_photo_keeps_its_id_and_is_not_encoded_again(index, photos, toy):
    with watched(index, [photos]) as seen:
        before, encoded = seen.ids()["red.png"], toy.encoded["image"]
        (photos / "red.png").rename(photos / "deep" / "rot.png")
        seen.sees("rot.png", "green.png", "blue.png")
        assert seen.ids()["rot.png"] == before
        assert toy.encoded["image"] == encoded


def test_a_moved_folder_keeps_its_photos(index, photos, toy):
    with watched(index, [photos]) as seen:
        before, encoded = seen.ids()["blue.png"], toy.encoded["image"]
        (photos / "deep").rename(photos / "deeper")
        seen.waits(lambda: [one for one in seen.updates if one.renamed])
        assert seen.ids()["blue.png"] == before
        assert toy.encoded["image"] == encoded
        paint(photos / "deeper" / "white.png", "white")  # it is heard of under its new name
        seen.sees("red.png", "green.png", "blue.png", "white.png")


def test_an_editor_that_writes_beside_and_renames_over_changes_one_photo(index, photos, toy):
    with watched(index, [photos]) as seen:
        before = seen.ids()["red.png"]
        paint(photos / ".red.png.swp.png", "blue")
        (photos / "red.png").rename(photos / "red.png~")
        (photos / ".red.png.swp.png").rename(photos / "red.png")
        (photos / "red.png~").unlink()
        seen.waits(lambda: [one for one in seen.updates if one.updated])
        assert seen.ids()["red.png"] == before
        assert seen.names() == {"red.png", "green.png", "blue.png"}


def test_a_folder_full_of_photos_that_is_moved_in_is_found_whole(index, photos, tmp_path):
    for number in range(3):
        paint(tmp_path / "card" / "a" / "b" / f"{number}.png", "white", size=(40 + number, 30))
    with watched(index, [photos]) as seen:
        (tmp_path / "card").rename(photos / "card")
        seen.sees("red.png", "green.png", "blue.png", "0.png", "1.png", "2.png")


def test_a_folder_that_was_deleted_and_comes_back_is_found_again(index, photos):
    with watched(index, [photos]) as seen:
        shutil.rmtree(photos)
        seen.waits(lambda: seen.troubles)
        assert str(photos) in seen.troubles[0]
        paint(photos / "white.png", "white")
        seen.sees("white.png")
        paint(photos / "later.png", "red")
        seen.sees("white.png", "later.png")


def test_a_flood_of_changes_becomes_looks_at_whole_folders(index, photos, monkeypatch):
    monkeypatch.setattr(folder_changes, "FLOOD", 20)
    with watched(index, [photos]) as seen:
        looks = []
        refresh = seen._collection.refresh
        seen._collection.refresh = lambda paths, **how: looks.append(paths) or refresh(paths, **how)
        for number in range(200):
            (photos / f"{number}.txt").write_text(f"red number {number}")
        seen.waits(lambda: len(seen.names()) == 203)
        assert {str(photos)} in looks


def test_what_is_indexed_while_it_runs_is_watched_as_well(index, photos, tmp_path):
    paint(tmp_path / "more" / "white.png", "white")
    with Collection(index, model="toy", create=True) as other:
        other.add([photos])
        with watched(index) as seen:
            other.add([tmp_path / "more"])
            seen.sees("red.png", "green.png", "blue.png", "white.png")
            seen.waits(lambda: len(seen._collection.asked_folders()) == 2)
            paint(tmp_path / "more" / "later.png", "red")
            seen.sees("red.png", "green.png", "blue.png", "white.png", "later.png")


def test_names_that_are_not_utf8_do_not_end_it(index, photos):
    if sys.platform == "darwin":
        pytest.skip("there are no such names")
    with watched(index, [photos]) as seen:
        (photos / os.fsdecode(b"\xff.txt")).write_text("red")
        seen.waits(lambda: len(seen.names()) == 4)
        paint(photos / "white.png", "white")
        seen.waits(lambda: len(seen.names()) == 5)


# ------------------------------------------------------------------ what it leaves alone


def test_what_was_left_out_at_indexing_stays_out(index, photos):
    with Collection(index, model="toy", create=True) as library:
        library.add([photos], exclude=["drafts"])
    with watched(index, [photos]) as seen:
        paint(photos / "drafts" / "white.png", "white")
        paint(photos / ".hidden.png", "white")
        paint(photos / ".git" / "white.png", "white")
        paint(photos / "last.png", "white")
        seen.sees("red.png", "green.png", "blue.png", "last.png")


def test_nothing_more_is_asked_for_than_was(index, photos):
    with watched(index, [photos]) as seen:
        paint(photos / "white.png", "white")
        paint(photos / "new" / "white2.png", "white", size=(20, 20))
        seen.waits(lambda: len(seen.names()) == 5)
        assert seen.asked() == [str(photos)]


def test_a_single_file_is_watched_without_what_lies_beside_it(index, photos, toy):
    with watched(index, [photos / "red.png"]) as seen:
        before = toy.encoded["image"]
        paint(photos / "white.png", "white")
        paint(photos / "red.png", "blue")
        seen.waits(lambda: toy.encoded["image"] > before)
        assert seen.names() == {"red.png"}


def test_a_path_that_does_not_exist_is_an_error(index, tmp_path):
    with Collection(index, model="toy", create=True) as library, pytest.raises(PathNotFound):
        watch(library, [tmp_path / "nowhere"])


def test_an_index_of_nothing_has_nothing_to_watch(index):
    with Collection(index, model="toy", create=True) as library, pytest.raises(PathNotFound):
        watch(library)


def test_an_index_that_is_deleted_ends_it(index, photos):
    with Collection(index, model="toy", create=True) as library:
        told = [(index / "catalog.db").unlink, lambda: paint(photos / "new.png", "white")]
        with pytest.raises(IndexNotFound):
            watch(library, [photos], quiet=0.1, on_update=lambda _: [do() for do in told])


def test_without_watchfiles_it_says_what_to_install(index, photos, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with (
        Collection(index, model="toy", create=True) as library,
        pytest.raises(MissingExtra, match="watch"),
    ):
        watch(library, [photos])


# ------------------------------------------------------------------ what is in its way


def test_it_waits_for_another_writer_before_it_notes_what_to_watch(index, photos):
    Collection(index, model="toy", create=True).close()
    with FolderLock(index).writing("indexing"):
        one = Watch(index, [photos])
        one.start()
        one.waits(lambda: one.troubles)
    try:
        one.sees("red.png", "green.png", "blue.png")
    finally:
        one.end()
    assert [trouble.count("is tried again") for trouble in one.troubles] == [1]


def test_it_can_be_stopped_while_another_writes(index, photos):
    Collection(index, model="toy", create=True).close()
    with FolderLock(index).writing("indexing"):
        one = Watch(index, [photos])
        one.start()
        one.waits(lambda: one.troubles)
        one.end()
    assert one.report is not None


def test_it_waits_for_another_writer(index, photos):
    with watched(index, [photos]) as seen:
        with FolderLock(index).writing("testing"):
            paint(photos / "white.png", "white")
            seen.waits(lambda: seen.troubles)
            assert "testing" in seen.troubles[0]
            assert "white.png" not in seen.names()
        seen.sees("red.png", "green.png", "blue.png", "white.png")
        assert len(seen.troubles) == 1


def test_a_full_disk_is_told_of_once_and_tried_again(index, photos, monkeypatch):
    monkeypatch.setitem(watching.LONGEST_PAUSE, StorageFailed, 0.1)
    with watched(index, [photos]) as seen:
        refresh, tries = seen._collection.refresh, []

        def full(paths, **how):
            tries.append(paths)
            if len(tries) < 3:
                raise StorageFailed("the disk is full")
            return refresh(paths, **how)

        seen._collection.refresh = full
        paint(photos / "white.png", "white")
        seen.sees("red.png", "green.png", "blue.png", "white.png")
        assert ["full" in trouble for trouble in seen.troubles] == [True]


def test_where_the_system_tells_nothing_it_looks_again_and_again(index, photos, monkeypatch):
    monkeypatch.setattr(watching, "POLLING", 0.2)
    with watched(index, [photos], poll=True) as seen:
        paint(photos / "white.png", "white")
        seen.sees("red.png", "green.png", "blue.png", "white.png")


def test_too_many_folders_for_the_system_are_polled(index, photos, monkeypatch):
    import watchfiles

    def refuse(*_folders, **_how):
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr(watchfiles, "watch", refuse)
    monkeypatch.setattr(watching, "POLLING", 0.2)
    with watched(index, [photos]) as seen:
        paint(photos / "white.png", "white")
        seen.sees("red.png", "green.png", "blue.png", "white.png")
        assert "fs.inotify.max_user_watches" in seen.troubles[0]


def test_a_folder_that_may_not_be_read_does_not_make_it_deaf(index, photos, monkeypatch):
    import watchfiles

    hear = watchfiles.watch

    def refuse(*folders, recursive, **how):
        if recursive:  # what the system says if one of the folders below may not be read
            raise PermissionError("Permission denied")
        return hear(*folders, recursive=False, **how)

    monkeypatch.setattr(watchfiles, "watch", refuse)
    with watched(index, [photos]) as seen:
        paint(photos / "deep" / "white.png", "white")
        seen.sees("red.png", "green.png", "blue.png", "white.png")
        paint(photos / "new" / "later.png", "white", size=(10, 10))
        seen.waits(lambda: "later.png" in seen.names())
        paint(photos / "new" / "last.png", "white", size=(11, 11))
        seen.waits(lambda: "last.png" in seen.names())


def test_stopping_keeps_what_is_stored_and_the_next_watch_goes_on(index, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(600):
        (folder / f"{number}.txt").write_text(f"red number {number}")
    stop = threading.Event()
    with Collection(index, model="toy", create=True) as library:
        told = []
        report = watch(
            library,
            [folder],
            stop=stop,
            on_update=told.append,
            progress=lambda done, _total: stop.set() if done > 10 else None,
        )
        assert report.interrupted
        assert 10 < report.added == len(library) < 600
        stop.clear()
        watch(library, [folder], stop=stop, on_update=lambda _: stop.set())
        assert len(library) == 600


# ------------------------------------------------------------------ the command


def number_in(index: Path) -> int:
    try:
        with Collection(index) as library:
            return len(library)
    except IndexUnusable:  # it is only being made
        return 0


def run_while(steps, *arguments: str):
    """The command, ended by SIGTERM once some steps are done beside it."""
    ended = threading.Event()

    def work() -> None:
        try:
            steps()
        finally:
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # the command may not listen yet
    worker = threading.Thread(target=work)
    worker.start()
    try:
        return CliRunner().invoke(app, ["watch", *arguments])
    finally:
        ended.set()
        worker.join()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to catch")
def test_the_command_says_once_what_changed_and_ends_well_when_asked_to(index, photos):
    (photos / "broken.png").write_bytes(b"\x89PNG nothing")

    def steps() -> None:
        until(lambda: number_in(index) == 3)
        paint(photos / "white.png", "white")
        until(lambda: number_in(index) == 4)

    done = run_while(steps, str(photos), "-i", str(index))
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert "broken.png" in lines[0]
    assert lines[1].endswith(" 3 added")
    assert [line for line in lines if line.endswith(" 1 added")]
    assert lines[-1] == "stopped watching; 4 added"
    assert done.stderr.count("broken.png") == 1


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to catch")
def test_the_command_watches_every_folder_and_if_quiet_names_only_problems(index, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"\x89PNG nothing")
    more = paint(tmp_path / "more" / "white.png", "white").parent

    def steps() -> None:
        until(lambda: number_in(index) == 4)
        paint(more / "blue.png", "blue", (50, 30))
        until(lambda: number_in(index) == 5)

    done = run_while(steps, str(photos), str(more), "--quiet", "-i", str(index))
    problem, *others, last = done.stderr.splitlines()
    assert "broken.png" in problem
    assert last == "stopped watching; 5 added"
    assert [line for line in others if not line.startswith("SIGTERM")] == []


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to catch")
def test_the_command_polls_where_nothing_reports_changes(index, photos, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    words = [str(photos), "-i", str(index)]
    assert "watch" in CliRunner().invoke(app, ["watch", *words]).stderr
    done = run_while(lambda: until(lambda: number_in(index) == 3), *words, "--poll")
    assert done.exit_code == 0


# ------------------------------------------------------------------ when what is due


def test_what_changed_is_due_when_nothing_has_changed_for_a_while():
    due = PendingChanges(quiet=1, patience=10)
    due.add(["a"], 0.0)
    due.add(["b"], 1.0)
    assert due.take(1.5) == set()
    assert due.take(2.0) == {"a", "b"}
    assert not due


def test_under_a_steady_stream_what_is_quiet_is_due_after_the_patience():
    due = PendingChanges(quiet=1, patience=10)
    for tenth in range(100):
        due.add([f"{tenth}"], tenth / 10)
        assert due.take(tenth / 10) == set()
    taken = due.take(10.0)
    assert "0" in taken
    assert "99" not in taken  # it may still be written to


def test_a_file_that_is_written_to_without_end_is_read_now_and_then():
    due = PendingChanges(quiet=1, patience=10)
    taken = []
    for half in range(200):
        due.add(["log"], half / 2)
        taken += due.take(half / 2)
    assert taken == ["log"]


def test_too_many_changes_become_their_folder():
    due = PendingChanges(quiet=1, patience=10)
    due.add((f"/photos/{number}" for number in range(5000)), 0.0, ["/photos", "/texts"])
    assert len(due) == 1
    assert due.take(1.0) == {"/photos"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([f"/{folder}/{n}" for folder in "ab" for n in range(4)]),
            st.floats(0, 20),
        ),
        max_size=30,
    ),
    st.sampled_from([2, 1000]),
)
def test_no_change_is_forgotten(steps, flood):
    before, folder_changes.FLOOD = folder_changes.FLOOD, flood
    try:
        due, now, taken = PendingChanges(quiet=1, patience=10), 0.0, []
        since = {}
        for path, wait in steps:
            now += wait
            due.add([path], now, ["/a", "/b"])
            since[path] = len(taken)  # it has to be taken after this
            taken.append(due.take(now))
        taken.append(due.take(now + 1000))
        for path, place in since.items():
            assert any({path, path[:2]} & one for one in taken[place:])
        assert not due
    finally:
        folder_changes.FLOOD = before


# ------------------------------------------------------------------ where to look


FOLDERS = ["", "sub", "sub/deep", ".hidden", "drafts"]
NAMES = ["a.png", "a.txt", "b.png", "b.txt", "note.md", ".c.txt", "x.log"]
STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(FOLDERS), st.sampled_from(NAMES)),
    st.tuples(st.just("break"), st.sampled_from(FOLDERS), st.just("b.png")),
    st.tuples(st.just("delete"), st.sampled_from(FOLDERS), st.sampled_from(NAMES)),
    st.tuples(
        st.just("rename"),
        st.sampled_from(FOLDERS),
        st.sampled_from(NAMES),
        st.sampled_from(FOLDERS),
        st.sampled_from(NAMES),
    ),
    st.tuples(st.just("drop"), st.sampled_from(FOLDERS[1:])),
    st.tuples(st.just("move"), st.sampled_from(FOLDERS[1:]), st.sampled_from(FOLDERS[1:])),
    st.tuples(st.just("look")),
)


class Disk:
    """A folder that things are done to; `changed` is what a system would tell of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changed: set[str] = set()
        self._clock = 1_600_000_000

    def do(self, what: str, *about: str) -> None:
        getattr(self, what)(*about)

    def tell(self, path: Path) -> None:
        self.changed.add(str(path))

    def folder(self, path: Path) -> None:
        if not path.exists():
            self.folder(path.parent)
            path.mkdir()
            self.tell(path)

    def write(self, folder: str, name: str, data: bytes | None = None) -> None:
        self._clock += 1
        self.folder(self.root / folder)
        path = self.root / folder / name
        if data is None and name.endswith(".png"):
            paint(path, ["red", "green", "blue", "white"][self._clock % 4], size=(8, 8))
        else:
            path.write_bytes(data or f"red {self._clock}".encode())
        os.utime(path, (self._clock, self._clock))
        self.tell(path)

    def break_(self, folder: str, name: str) -> None:
        self.write(folder, name, b"\x89PNG nothing")

    def delete(self, folder: str, name: str) -> None:
        path = self.root / folder / name
        if path.exists():
            path.unlink()
            self.tell(path)

    def rename(self, folder: str, name: str, other: str, new: str) -> None:
        path, target = self.root / folder / name, self.root / other / new
        if path.exists() and path.suffix == target.suffix:
            self.folder(target.parent)
            path.rename(target)
            self.tell(path)
            self.tell(target)

    def drop(self, folder: str) -> None:
        path = self.root / folder
        if path.exists():
            shutil.rmtree(path)
            self.tell(path)

    def move(self, folder: str, other: str) -> None:
        path, target = self.root / folder, self.root / other
        if path.exists() and not target.exists() and path not in target.parents:
            self.folder(target.parent)
            path.rename(target)
            self.tell(path)
            self.tell(target)


def contents_of(library: Collection, root: Path):
    items = {
        os.path.relpath(item.path, root): (item.modality, [text.text for text in item.texts])
        for item in library.items
    }
    failures = {(os.path.relpath(one.path, root), one.reason) for one in library.failures}
    return items, failures, library.status()["vectors"]


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(STEPS, max_size=14), st.sampled_from([(), ("drafts",), ("sub/*.txt", "b.png")]))
def test_looking_where_something_changed_finds_what_a_fresh_index_would(
    toy, tmp_path_factory, steps, exclude
):
    world = tmp_path_factory.mktemp("world")
    disk = Disk(world / "files")
    disk.root.mkdir()
    with Collection(world / "index", model="toy", create=True) as library:
        library.add([disk.root], exclude=exclude)
        for what, *about in [*steps, ("look",)]:
            if what == "look":
                library.refresh(sorted(disk.changed))
                disk.changed.clear()
            else:
                disk.do("break_" if what == "break" else what, *about)
        with Collection(world / "fresh", model="toy", create=True) as fresh:
            fresh.add([disk.root], exclude=exclude)
            assert contents_of(library, disk.root) == contents_of(fresh, disk.root)
    shutil.rmtree(world)


def test_a_text_that_gets_a_photo_beside_it_becomes_its_caption(toy, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("a red square")
    with Collection(tmp_path / "index", model="toy", create=True) as library:
        library.add([folder])
        paint(folder / "a.png", "red")
        library.refresh([folder / "a.png"])
        (item,) = library.items
    assert item.modality == "image"
    assert [text.text for text in item.texts] == ["a red square"]


def test_a_change_in_a_file_looks_at_no_other_folder(toy, photos, tmp_path):
    with Collection(tmp_path / "index", model="toy", create=True) as library:
        library.add([photos])
        paint(photos / "red.png", "white")
        report = library.refresh([photos / "red.png"])
    assert (report.updated, report.unchanged) == (1, 1)  # deep/blue.png is none of them


def test_places_that_nobody_asked_for_are_passed_over(toy, photos, tmp_path):
    other = paint(tmp_path / "other" / "white.png", "white")
    with Collection(tmp_path / "index", model="toy", create=True) as library:
        library.add([photos])
        assert library.refresh([other, tmp_path / "other"]).added == 0
        assert len(library) == 3


def test_a_place_reached_by_a_link_is_looked_at_as_a_walk_meets_it(toy, photos, tmp_path):
    (photos / "link").symlink_to(photos / "deep")
    with Collection(tmp_path / "index", model="toy", create=True) as library:
        library.add([photos])
        paint(photos / "deep" / "white.png", "white")
        library.refresh([photos / "link" / "white.png"])
        found = {os.path.relpath(item.path, photos) for item in library.items}
    assert found == {"red.png", "green.png", "deep/blue.png", "deep/white.png"}


def test_a_drive_that_was_unmounted_loses_nothing(toy, photos, tmp_path):
    with Collection(tmp_path / "index", model="toy", create=True) as library:
        library.add([photos])
        ((source_id, _),) = library.store.sources.all()
        library.store.sources.set_device(source_id, library.store.sources.device(source_id) + 1)
        shutil.rmtree(photos)
        photos.mkdir()  # an empty mount point, on another device
        library.refresh([photos, photos / "deep", photos / "red.png"])
        assert len(library) == 3
