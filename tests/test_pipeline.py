"""The stages of indexing side by side: what is bounded, what is kept, what a bad moment costs."""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import io
import linecache
import os
import random
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import ToyEncoder, paint

import mmsearch
from mmsearch.errors import UnreadableFile
from mmsearch.indexing import pipeline
from mmsearch.indexing.decoder import DecodedFile
from mmsearch.indexing.file_contents import Contents, Reader
from mmsearch.indexing.pipeline import Pipeline, TimedReport
from mmsearch.indexing.scan import Scan, ScannedFile
from mmsearch.media import file_state
from mmsearch.media.walk import FileStat

JOB = ScannedFile(1, "/", "", "a.jpg", FileStat("a.jpg", "image", 1, 1))


def jobs(number: int):
    for count in range(number):
        yield ScannedFile(1, "/", "", f"{count:04}.jpg", FileStat("", "image", 1, 1))


class Stage:
    """Takes jobs for decoded at once, but for those that are held back."""

    def __init__(self, *held: str) -> None:
        self.held = held
        self.let_go = threading.Event()
        self.stopped = False

    def __call__(self, job: ScannedFile) -> DecodedFile:
        if job.name in self.held:
            self.let_go.wait(60)
        return DecodedFile(job, contents=Contents(pictures={1: None}), seconds={"decode": 0.5})

    def stop(self) -> None:
        self.stopped = True
        self.let_go.set()


def through(stage: Stage, number: int, encode=lambda files: [{} for _ in files]):
    return Pipeline(stage, encode, TimedReport()).run(jobs(number))


def test_files_come_out_in_order_in_whole_batches():
    batches = [[done.scanned.name for done in files] for files, _ in through(Stage(), 100)]
    assert [name for batch in batches for name in batch] == [f"{n:04}.jpg" for n in range(100)]
    assert [len(batch) for batch in batches] == [4, 8, 16, 32, 32, 8]


def test_a_file_that_takes_long_is_passed_by_the_others():
    stage = Stage("0000.jpg")
    running = through(stage, 500)
    first, _ = next(running)
    assert "0000.jpg" not in {done.scanned.name for done in first}
    stage.let_go.set()
    rest = [done.scanned.name for files, _ in running for done in files]
    assert len(first) + len(rest) == 500
    assert "0000.jpg" in rest


def test_no_more_files_are_read_ahead_than_is_allowed():
    asked = []

    def counted():
        for job in jobs(1000):
            asked.append(job)
            yield job

    gate = threading.Event()

    def encode(files):
        gate.wait(60)
        return [{} for _ in files]

    running = Pipeline(Stage(), encode, TimedReport()).run(counted())
    thread = threading.Thread(target=lambda: next(running))
    thread.start()
    limit = pipeline.FILES_AHEAD + 3 * pipeline.PICTURES_A_BATCH + 8
    until = time.monotonic() + 0.5
    while time.monotonic() < until and len(asked) <= limit:
        time.sleep(0.01)
    assert len(asked) <= limit
    gate.set()
    thread.join()
    running.close()


def test_the_next_batch_is_encoded_while_one_is_stored():
    began = threading.Semaphore(0)

    def encode(files):
        began.release()
        time.sleep(0.1)  # so that the next is ready before this one is
        return [{} for _ in files]

    running = through(Stage(), 200, encode)
    next(running)  # and now it is being stored: nobody asks for more
    assert began.acquire(timeout=30)
    assert began.acquire(timeout=30)
    running.close()


def test_what_goes_wrong_in_a_thread_is_raised_and_ends_the_others():
    stage = Stage("0040.jpg")

    def encode(files):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(through(stage, 100, encode))
    assert stage.stopped
    assert not [t for t in threading.enumerate() if t.name.startswith(("decode", "encode-batches"))]


def test_a_small_batch_goes_on_when_it_has_waited_long_enough(monkeypatch):
    monkeypatch.setattr(pipeline, "SECONDS_A_BATCH", 0.05)
    stage = Stage("0001.jpg")
    running = through(stage, 2)
    assert [done.scanned.name for done in next(running)[0]] == ["0000.jpg"]
    stage.let_go.set()
    assert [done.scanned.name for done in next(running)[0]] == ["0001.jpg"]


def test_the_clock_of_the_day_may_jump(monkeypatch, toy, photos, tmp_path):
    jumps = iter([1e9, 0.0] * 1000)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        assert library.report.added == 3
        assert 0 <= library.report.seconds < 60


# ---------------------------------------------------------------------- stages


def test_the_limiting_stage_is_the_longest_of_the_busiest_threads():
    report = TimedReport()
    assert report.limiting is None
    report.add_seconds("encode", 5)
    report.add_seconds("decode", 4)
    assert report.limiting == "encode"
    report.add_seconds("read", 3)  # by the same threads as decoding
    assert report.limiting == "decode"


def test_a_run_says_how_long_each_stage_was_busy(toy, photos, tmp_path):
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        stages = library.report.stages
    assert set(stages) == {"scan", "read", "decode", "encode", "store"}
    assert all(0 < seconds <= library.report.seconds for seconds in stages.values())


# ---------------------------------------------------------------------- files that misbehave


LARGE = 65 * 2**20
"""Bytes of a file that is not held whole."""


def enlarge(path: Path) -> None:
    """Let a file end in nothing, which takes no room on the disk and no picture minds."""
    with path.open("ab") as file:
        file.truncate(LARGE)


def changing(path: Path, times: int, monkeypatch) -> None:
    """The file is written to while it is read, so many times."""
    left = [times]
    opened = Path.open

    def open_and_change(self, *args, **options):
        file = opened(self, *args, **options)
        if self == path and left[0]:
            left[0] -= 1
            read = file.read
            longer = io.BytesIO(b"")

            class Torn:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

                def fileno(self):
                    return file.fileno()

                def read(self, *size):
                    content = read(*size)
                    with open(path, "ab") as other:
                        other.write(b"\0")
                    return content + longer.read()

            return Torn()
        return file

    monkeypatch.setattr(Path, "open", open_and_change)


def test_a_file_that_changes_while_it_is_read_is_read_again(toy, photos, tmp_path, monkeypatch):
    changing(photos / "red.png", 1, monkeypatch)
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        assert library.report.added == 3


def test_a_file_that_goes_on_changing_is_left_for_the_next_run(toy, photos, tmp_path, monkeypatch):
    changing(photos / "red.png", 2, monkeypatch)
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        assert library.report.added == 2
        assert [failure.reason for failure in library.failures] == ["changed while it was read"]
        assert library.add(photos).added == 1
        assert library.failures == []


def test_a_large_file_that_changes_while_it_is_decoded_is_left_for_the_next_run(
    toy, photos, tmp_path, monkeypatch
):
    enlarge(photos / "red.png")
    read = Reader.read

    def and_change(self, kind, source, path):
        found = read(self, kind, source, path)
        if path.endswith("red.png"):
            os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr(Reader, "read", and_change)
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        assert library.report.added == 2
        assert [failure.reason for failure in library.failures] == ["changed while it was read"]


@pytest.mark.parametrize("large", [False, True])
def test_a_disk_that_fails_on_one_file_costs_that_file_until_the_next_run(
    toy, photos, tmp_path, monkeypatch, large
):
    if large:
        enlarge(photos / "red.png")
    opened = Path.open

    def fail(self, *args, **options):
        if self.name == "red.png":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        library = mmsearch.index(photos, into=tmp_path / "idx")
        assert library.report.added == 2
        assert [failure.reason for failure in library.failures] == ["input/output error"]
    assert library.add(photos).added == 1
    library.close()


def test_what_a_decoder_says_of_the_disk_is_not_held_against_the_file():
    error = UnreadableFile("input/output error")
    error.__cause__ = OSError(errno.EIO, "Input/output error")
    assert file_state.may_pass(error)
    error.__cause__ = OSError("image file is truncated")  # Pillow's way to say so
    assert not file_state.may_pass(error)


def test_a_folder_that_vanishes_while_it_is_scanned_loses_nothing(
    toy, photos, tmp_path, monkeypatch
):
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        listed = os.scandir

        def vanish(path):
            if os.fspath(path).endswith("deep"):
                shutil.move(photos / "deep", tmp_path / "elsewhere")
            return listed(path)

        monkeypatch.setattr(os, "scandir", vanish)
        report = library.add(photos)
        assert (report.unchanged, report.removed) == (2, 0)
        assert len(library) == 3


# ---------------------------------------------------------------------- hashes


def test_a_large_file_is_known_by_two_mebibytes_of_it(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    enlarge(path)
    content, before = file_state.read_file(str(path))
    assert content == str(path)
    read = []
    opened = Path.open

    def counted(self, *args, **options):
        file = opened(self, *args, **{"buffering": 0, **options})
        inner = file.read

        class Counted:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def read(self, size=-1):
                found = inner(size)
                read.append(len(found))
                return found

        return Counted()

    monkeypatch.setattr(Path, "open", counted)
    assert file_state.read_file(str(path)) == (str(path), before)
    assert sum(read) == 2 * 2**20


@pytest.mark.parametrize("place", [0, LARGE - 1])
def test_the_first_and_the_last_byte_of_a_large_file_count(tmp_path, place):
    path = tmp_path / "film.mp4"
    enlarge(path)
    _, before = file_state.read_file(str(path))
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    assert file_state.read_file(str(path))[1] != before


def test_a_large_file_that_was_hashed_whole_is_still_known(tmp_path):
    path = tmp_path / "film.mp4"
    enlarge(path)
    whole = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    now = file_state.read_file(str(path))[1]
    assert now != whole
    assert file_state.has_content(str(path), now, whole)
    assert not file_state.has_content(str(path), now, b"another")


# ---------------------------------------------------------------------- what is stored at once


def test_hubs_are_stored_with_their_vectors(tmp_path):
    paint(tmp_path / "photos" / "red.png", "red")
    (tmp_path / "photos" / "note.txt").write_text("a red wall")
    with mmsearch.index(tmp_path / "photos", into=tmp_path / "idx", model="mini") as library:
        catalog = library.store
        ((space, _),) = library.index.serving()
        early = {
            (facet, asked): catalog.hubs.of(space, facet, asked)
            for facet, asked in (("image", "text"), ("text", "image"), ("text", "text"))
        }
        with catalog.database.write() as connection:
            connection.exec_driver_sql("UPDATE vectors SET hub_text = NULL, hub_image = NULL")
        library.index.query_banks.update(lambda _: library.encoder)
        for (facet, asked), hubs in early.items():
            assert np.isfinite(hubs).all()
            np.testing.assert_allclose(catalog.hubs.of(space, facet, asked), hubs, atol=1e-6)


def test_one_batch_raises_the_revision_once(toy, photos, tmp_path):
    with mmsearch.Collection(tmp_path / "idx", model="toy", create=True) as library:
        before = library.store.state().revision
        library.add(photos)
        assert library.store.state().revision == before + 1


def test_new_items_have_all_that_is_stored_of_them(toy, photos, tmp_path):
    (photos / "red.txt").write_text("a white house\na green hill")
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        item = next(i for i in library.items if i.path.endswith("red.png"))
        assert [text.text for text in item.texts] == ["a white house", "a green hill"]
        assert (item.metadata["width"], item.metadata["height"]) == (40, 30)
        ((space, _),) = library.index.serving()
        ids, vectors, _ = library.store.vectors.of(space, "text")
        assert ids.tolist() == [item.id, item.id]
        assert vectors.shape == (2, ToyEncoder.dim)


def test_a_file_met_twice_in_one_run_is_stored_once(toy, photos, tmp_path):
    with mmsearch.Collection(tmp_path / "idx", model="toy", create=True) as library:
        library.add([photos], exclude="*.txt")
        paint(photos / "deep" / "new.png", "white")
        library.add([photos / "deep"], exclude="*.md")
        paint(photos / "deep" / "newer.png", "red", (11, 11))
        library.add()
        assert len(library) == 5


# ---------------------------------------------------------------------- the scan


def test_files_are_not_counted_when_nothing_has_changed(toy, photos, tmp_path, monkeypatch):
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        monkeypatch.setattr(Scan, "count", lambda _: pytest.fail("files were counted"))
        seen = []
        library.add(photos, progress=lambda *now: seen.append(now))
        assert seen[-1] == (3, None)


def test_an_unchanged_folder_costs_a_fixed_number_of_statements(toy, tmp_path):
    from sqlalchemy import event

    for number in range(50):
        paint(tmp_path / "many" / f"{number}.png", "red", (9 + number, 9))
    with mmsearch.index(tmp_path / "many", into=tmp_path / "idx") as library:
        asked = []
        event.listen(
            library.store.database.engine,
            "before_cursor_execute",
            lambda *args: asked.append(args[2]),
        )
        library.add(tmp_path / "many")
        few = len(asked)
        for number in range(50, 100):
            paint(tmp_path / "many" / f"{number}.png", "red", (9 + number, 9))
        library.add(tmp_path / "many")
        asked.clear()
        assert library.add(tmp_path / "many").unchanged == 100
        assert len(asked) <= few


def test_an_empty_batch_waits_for_its_first_file_however_long_that_takes(monkeypatch):
    monkeypatch.setattr(pipeline, "SECONDS_A_BATCH", 0.05)
    stage = Stage("0000.jpg")
    turns = 0
    monotonic = time.monotonic

    def counted() -> float:
        nonlocal turns
        turns += 1
        if turns > 2000:
            stage.let_go.set()
        return monotonic()

    monkeypatch.setattr(pipeline.time, "monotonic", counted)
    threading.Timer(0.5, stage.let_go.set).start()
    batches = list(through(stage, 1))
    assert [len(files) for files, _ in batches] == [1]
    assert turns < 200


def run_interrupted_at(step: int) -> tuple[bool, threading.Thread]:
    """A run that Ctrl-C meets at a line of its own or of what it waits with; was it met?"""
    watched = (pipeline.__file__, concurrent.futures._base.__file__)
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename not in watched:
            return None
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        # a signal is not seen between the end of a block and that of its `with`; a trace is
        if event == "line" and not source.startswith("with "):
            lines += 1
            if lines == step:
                raise KeyboardInterrupt
        return trace

    class Slow(Stage):
        def __call__(self, job: ScannedFile) -> DecodedFile:
            time.sleep(0.001)  # so that it is waited for
            return super().__call__(job)

    def encode(files):
        time.sleep(0.005)
        return [{} for _ in files]

    def consume() -> None:
        running = through(Slow(), 34, encode)
        sys.settrace(trace)
        with suppress(KeyboardInterrupt):
            for _ in running:
                pass
        sys.settrace(None)
        running.close()

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    thread.join(10)
    return lines >= step, thread


def test_ctrl_c_at_any_line_ends_a_run():
    chance = random.Random(0)
    step, met = 1, True
    while met:
        met, thread = run_interrupted_at(step)
        assert not thread.is_alive(), f"it hangs when interrupted at line {step}"
        step += chance.randint(1, 29)
    assert step > 500
