from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ToyEncoder, paint
from PIL import Image, features

import mmsearch
from mmsearch.errors import PathNotFound, StorageFailed
from mmsearch.indexing import pipeline
from mmsearch.indexing.decoder import Decoder
from mmsearch.media import walk


@pytest.fixture
def library(toy: ToyEncoder, photos: Path, tmp_path: Path):
    with mmsearch.index(photos, into=tmp_path / "idx") as made:
        toy.encoded.update(image=0, text=0)
        yield made


def names(library: mmsearch.Collection) -> list[str]:
    return sorted(os.path.basename(item.path) for item in library.items)


def item_of(library: mmsearch.Collection, path: Path) -> mmsearch.Item:
    return next(item for item in library.items if item.path == str(path))


def counts(report: mmsearch.Report) -> dict[str, int]:
    fields = ("added", "updated", "renamed", "unchanged", "removed", "skipped")
    return {name: getattr(report, name) for name in fields if getattr(report, name)}


def later(path: Path) -> None:
    """Give a file a newer time stamp."""
    os.utime(path, ns=(path.stat().st_mtime_ns + 10**9,) * 2)


def test_every_photo_and_text_below_a_folder_is_added(toy, photos, tmp_path):
    (photos / "note.md").write_text("red roses")
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        assert counts(library.report) == {"added": 4}
        assert names(library) == ["blue.png", "green.png", "note.md", "red.png"]


def test_unchanged_files_are_not_read_again(library, photos, toy, monkeypatch):
    monkeypatch.setattr(Decoder, "__call__", lambda *_: pytest.fail("a file was read"))
    assert counts(library.add(photos)) == {"unchanged": 3}


def test_a_changed_photo_is_encoded_again_under_its_old_id(library, photos, toy):
    before = {item.path: item.id for item in library.items}
    paint(photos / "red.png", "blue")
    later(photos / "red.png")
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 2}
    assert {item.path: item.id for item in library.items} == before
    assert {os.path.basename(hit.path) for hit in library.search("blue", k=2)} == {
        "blue.png",
        "red.png",
    }


def test_a_new_time_stamp_alone_costs_no_encoding(library, photos, toy):
    later(photos / "red.png")
    assert counts(library.add(photos)) == {"unchanged": 3}
    assert toy.encoded == {"image": 0, "text": 0}
    assert counts(library.add(photos)) == {"unchanged": 3}


def test_a_renamed_photo_keeps_its_vector_and_its_id(library, photos, toy):
    before = {item.id for item in library.items}
    (photos / "deep" / "blue.png").rename(photos / "azure.png")
    assert counts(library.add(photos)) == {"renamed": 1, "unchanged": 2}
    assert toy.encoded["image"] == 0
    assert {item.id for item in library.items} == before
    assert names(library) == ["azure.png", "green.png", "red.png"]


def test_a_copied_photo_borrows_its_vector(library, photos, toy):
    shutil.copy(photos / "red.png", photos / "deep" / "again.png")
    assert counts(library.add(photos)) == {"added": 1, "unchanged": 3}
    assert toy.encoded["image"] == 0
    hits = library.search("red", k=2, target="image")
    assert round(hits[0].score, 4) == round(hits[1].score, 4)


def test_a_photo_overwritten_by_a_copy_of_another_takes_its_metadata_too(library, photos, toy):
    paint(photos / "wide.png", "white", (99, 10))
    library.add(photos)
    toy.encoded.update(image=0)
    shutil.copy(photos / "wide.png", photos / "red.png")
    later(photos / "red.png")
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 3}
    assert toy.encoded["image"] == 0
    sizes = {os.path.basename(item.path): item.metadata["width"] for item in library.items}
    assert sizes["red.png"] == 99


def test_one_of_two_copies_of_a_lost_file_is_the_renamed_one(library, photos, toy):
    shutil.copy(photos / "red.png", photos / "one.png")
    (photos / "red.png").rename(photos / "two.png")
    assert counts(library.add(photos)) == {"renamed": 1, "added": 1, "unchanged": 2}
    assert names(library) == ["blue.png", "green.png", "one.png", "two.png"]


def test_two_photos_that_swap_names_swap_vectors(library, photos):
    red, green, spare = photos / "red.png", photos / "green.png", photos / "spare"
    red.rename(spare)
    green.rename(red)
    spare.rename(green)
    for path in (red, green):
        later(path)
    library.add(photos)
    assert library.search("red", k=1, target="image")[0].path == str(green)
    assert library.search("green", k=1, target="image")[0].path == str(red)


def test_a_rename_beside_a_swap_is_still_a_rename(library, photos, tmp_path):
    book = tmp_path / "captions.tsv"
    book.write_text("deep/blue.png\tabout blue\n")
    library.add(photos, captions=book)
    red, green, spare = photos / "red.png", photos / "green.png", photos / "spare"
    red.rename(spare)
    green.rename(red)
    spare.rename(green)
    for path in (red, green):
        later(path)
    (photos / "deep" / "blue.png").rename(photos / "azure.png")
    assert counts(library.add(photos)) == {"renamed": 1, "updated": 2}
    assert names(library) == ["azure.png", "green.png", "red.png"]
    assert captions_of(library, "azure.png") == ["about blue"]
    assert library.search("red", k=1, target="image")[0].path == str(green)


def test_a_deleted_file_leaves_the_index(library, photos):
    (photos / "red.png").unlink()
    assert counts(library.add(photos)) == {"removed": 1, "unchanged": 2}
    assert names(library) == ["blue.png", "green.png"]


def test_a_deleted_folder_leaves_the_index(library, photos):
    shutil.rmtree(photos / "deep")
    assert counts(library.add(photos)) == {"removed": 1, "unchanged": 2}


def test_files_leave_only_below_the_paths_given(library, photos, tmp_path):
    paint(tmp_path / "other" / "white.png", "white")
    library.add(tmp_path / "other")
    (photos / "red.png").unlink()
    assert counts(library.add(tmp_path / "other")) == {"unchanged": 1}
    assert counts(library.add(photos / "deep")) == {"unchanged": 1}
    assert "red.png" in names(library)


def test_a_single_file_can_be_indexed_without_its_neighbours(toy, photos, tmp_path):
    with mmsearch.index(photos / "red.png", into=tmp_path / "idx") as library:
        assert names(library) == ["red.png"]
        library.add(photos / "green.png")
        assert names(library) == ["green.png", "red.png"]


def test_many_files_of_a_folder_are_taken_in_one_look(toy, photos, tmp_path, monkeypatch):
    looks = []
    listed = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looks.append(path) or listed(path))
    with mmsearch.index(
        [photos / "red.png", photos / "green.png"], into=tmp_path / "idx"
    ) as library:
        assert names(library) == ["green.png", "red.png"]
    assert looks.count(str(photos)) + looks.count(str(photos) + "/") == 1


def test_a_file_of_another_kind_that_is_named_is_warned_of(toy, photos, tmp_path):
    (photos / "tool.exe").write_bytes(b"MZ")
    with mmsearch.index([photos / "tool.exe", photos / "red.png"], into=tmp_path / "i") as library:
        assert names(library) == ["red.png"]
        assert "tool.exe" in library.report.warnings[0]


def test_a_folder_inside_an_indexed_one_adds_nothing_twice(library, photos):
    assert counts(library.add(photos / "deep")) == {"unchanged": 1}
    assert len(library) == 3


def test_a_folder_around_an_indexed_one_adds_nothing_twice(library, photos, tmp_path):
    paint(photos.parent / "top.png", "white")
    report = library.add([photos.parent], exclude=["home", "idx"])
    assert counts(report) == {"added": 1, "unchanged": 3}


def test_a_folder_reached_by_a_link_adds_nothing_twice(library, photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    assert counts(library.add(tmp_path / "link")) == {"unchanged": 3}


def test_a_missing_path_is_an_error_and_removes_nothing(library, photos):
    shutil.rmtree(photos)
    with pytest.raises(PathNotFound, match="photos"):
        library.add(photos)
    assert len(library) == 3


def test_overlapping_paths_are_read_once(library, photos):
    (photos / "deep" / "blue.png").rename(photos / "deep" / "azure.png")
    report = library.add([photos, photos / "deep", photos / "deep" / "azure.png"])
    assert counts(report) == {"renamed": 1, "unchanged": 2}
    assert "azure.png" in {os.path.basename(hit.path) for hit in library.search("blue")}


def test_of_two_copies_the_one_that_was_renamed_keeps_its_captions(library, photos, tmp_path):
    shutil.copy(photos / "red.png", photos / "zred.png")
    book = tmp_path / "captions.tsv"
    book.write_text("red.png\tthe first\nzred.png\tthe second\n")
    library.add(photos, captions=book)
    (photos / "zred.png").rename(photos / "other.png")
    assert counts(library.add(photos)) == {"renamed": 1, "unchanged": 3}
    assert captions_of(library, "other.png") == ["the second"]


def test_a_file_put_over_another_brings_its_captions_along(library, photos, tmp_path):
    book = tmp_path / "captions.tsv"
    book.write_text("red.png\tabout red\ngreen.png\tabout green\n")
    library.add(photos, captions=book)
    (photos / "green.png").replace(photos / "red.png")
    library.add(photos)
    assert captions_of(library, "red.png") == ["about green"]
    assert library.search("green", k=1, target="image")[0].path == str(photos / "red.png")


def test_a_copy_does_not_take_the_captions_its_original_is_just_given(library, photos):
    shutil.copy(photos / "red.png", photos / "zcopy.png")
    (photos / "red.txt").write_text("my dog rex")
    library.add(photos)
    assert captions_of(library, "red.png") == ["my dog rex"]
    assert captions_of(library, "zcopy.png") == []


def test_a_file_in_a_hidden_folder_that_was_named_stays(library, photos):
    paint(photos / ".secret" / "white.png", "white")
    library.add(photos / ".secret")
    assert counts(library.add(photos)) == {"unchanged": 3}
    assert "white.png" in names(library)
    shutil.rmtree(photos / ".secret")
    assert counts(library.add(photos)) == {"removed": 1, "unchanged": 3}


def test_an_empty_folder_that_was_on_another_disk_keeps_its_items(library, photos, tmp_path):
    ((source_id, _),) = library.store.sources.all()
    library.store.sources.set_device(source_id, -1)  # as if it had been a mounted drive
    photos.rename(tmp_path / "away")
    photos.mkdir()
    report = library.add(photos)
    assert counts(report) == {}
    assert "mounted" in report.warnings[0]
    assert len(library) == 3


def test_an_empty_mount_point_loses_nothing_of_a_subfolder_asked_for_alone(library, photos):
    library.add([photos, photos / "deep"])
    library.add([photos / "deep" / "blue.png"])
    before = {item.path for item in library.items}
    ((source_id, _),) = library.store.sources.all()
    shutil.rmtree(photos)
    photos.mkdir()
    library.store.sources.set_device(source_id, -1)  # as if it had been a mounted drive
    report = library.add()
    assert {item.path for item in library.items} == before
    assert sum("is it mounted?" in warning for warning in report.warnings) == 1


def test_what_a_disk_that_is_mounted_over_it_hides_stays(library, photos, monkeypatch):
    shutil.rmtree(photos / "deep")
    (photos / "deep").mkdir()
    real = walk.device_of
    monkeypatch.setattr(walk, "device_of", lambda path: real(path) + path.endswith("deep"))
    report = library.add(photos)
    assert counts(report) == {"unchanged": 2}
    assert f"until `mmsearch remove {photos / 'deep'}`" in report.warnings[0]


def on_another_disk(library: mmsearch.Collection, folder: str) -> None:
    """Have the index believe that a folder was another disk's mount point."""
    ((source_id, _),) = library.store.sources.all()
    library.store.sources.set_folder_devices(source_id, {folder: -1})


@pytest.mark.parametrize("mount_point", [None, "", ".hidden.png", "new.png"])
def test_a_disk_that_was_mounted_below_a_folder_and_is_away_keeps_its_items(
    library, photos, mount_point
):
    library.store.metadata.set([(item_of(library, photos / "deep" / "blue.png").id, {"stars": 5})])
    on_another_disk(library, "deep")
    shutil.rmtree(photos / "deep")
    if mount_point is not None:
        (photos / "deep").mkdir()
        if mount_point:
            paint(photos / "deep" / mount_point, "white")
    for _ in range(2):  # the second run knows of the new file
        report = library.add(photos)
        assert str(photos / "deep") in report.warnings[0]
        assert "is it mounted?" in report.warnings[0]
        assert item_of(library, photos / "deep" / "blue.png").metadata["meta"] == {"stars": "5"}


def test_a_disk_that_comes_back_under_another_number_is_there(library, photos):
    paint(photos / "deep" / "white.png", "white")
    paint(photos / "deep" / "black.png", "red")
    library.add(photos)
    on_another_disk(library, "deep")
    (photos / "deep" / "white.png").unlink()
    report = library.add(photos)
    assert (counts(report), report.warnings) == ({"removed": 1, "unchanged": 4}, [])
    shutil.rmtree(photos / "deep")  # it is on the disk of the folder above, the index has learnt
    assert counts(library.add(photos)) == {"removed": 2, "unchanged": 2}


def test_what_is_removed_by_its_folder_goes_though_its_disk_is_away(library, photos):
    on_another_disk(library, "deep")
    shutil.rmtree(photos / "deep")
    library.remove(photos / "deep")
    report = library.add(photos)
    assert (len(library), report.warnings) == (2, [])


def test_a_copy_of_what_is_on_a_disk_that_is_away_is_no_rename(library, photos):
    on_another_disk(library, "deep")
    shutil.copy(photos / "deep" / "blue.png", photos / "copy.png")
    shutil.rmtree(photos / "deep")
    assert counts(library.add(photos)) == {"added": 1, "unchanged": 2}
    assert names(library) == ["blue.png", "copy.png", "green.png", "red.png"]


def test_a_mount_point_with_hidden_files_keeps_its_items(library, photos, tmp_path):
    ((source_id, _),) = library.store.sources.all()
    library.store.sources.set_device(source_id, -1)
    photos.rename(tmp_path / "away")
    (photos / "lost+found").mkdir(parents=True)
    (photos / ".not_mounted").touch()
    report = library.add(photos)
    assert "is it mounted?" in report.warnings[0]
    assert len(library) == 3


def test_a_folder_that_held_much_and_lists_nothing_keeps_its_items(library, photos):
    for number in range(100):
        (photos / f"{number}.md").write_text(f"note {number}")
    library.add(photos)
    shutil.rmtree(photos)
    photos.mkdir()
    report = library.add(photos)
    assert (len(library), report.removed) == (103, 0)
    assert f"mmsearch remove {photos}" in report.warnings[0]


def test_a_large_removal_says_so_and_leaves_a_backup_from_before(library, photos, tmp_path):
    for number in range(150):
        (photos / f"{number}.md").write_text(f"note {number}")
    library.add(photos)
    for number in range(120):
        (photos / f"{number}.md").unlink()
    report = library.add(photos)
    (warning,) = report.warnings
    assert report.removed == 120
    assert "the files of 120 of 153 items are gone, which is unusually many" in warning
    catalog = tmp_path / "idx" / "catalog.db"
    assert f"rename {catalog}" in warning
    library.close()
    catalog.rename(tmp_path / "aside.db")
    for number in range(120):
        (photos / f"{number}.md").write_text(f"note {number}")
    with mmsearch.index(photos, into=tmp_path / "idx") as again:
        assert len(again) == 153
        assert again.report.added == 0


def in_place(path: Path, write) -> None:
    """Change a file and put its time stamp back."""
    before = path.stat()
    write()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


tells_changes = pytest.mark.skipif(os.name == "nt", reason="st_ctime is when the file was made")


@tells_changes
def test_a_file_changed_in_place_with_size_and_time_kept_is_read_again(library, photos):
    note = photos / "note.md"
    note.write_text("red roses")
    library.add(photos)
    in_place(note, lambda: note.write_text("red herbs"))
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 3}
    assert [part.text for part in item_of(library, note).texts] == ["red herbs"]


@tells_changes
def test_captions_changed_in_place_with_size_and_time_kept_are_read_again(library, photos):
    captions = photos / "red.txt"
    captions.write_text("a red square")
    library.add(photos)
    in_place(captions, lambda: captions.write_text("a red circle"))
    library.add(photos)
    assert [part.text for part in item_of(library, photos / "red.png").texts] == ["a red circle"]


@tells_changes
def test_a_file_that_failed_and_is_mended_in_place_is_read_again(library, photos):
    whole = (photos / "red.png").read_bytes()
    bad = photos / "bad.png"
    bad.write_bytes(bytes(len(whole)))
    assert counts(library.add(photos)) == {"skipped": 1, "unchanged": 3}
    assert library.add(photos).failures == []
    in_place(bad, lambda: bad.write_bytes(whole))
    assert counts(library.add(photos)) == {"added": 1, "unchanged": 3}
    assert library.failures == []


@tells_changes
def test_captions_that_failed_and_are_mended_in_place_are_read_again(library, photos):
    captions = photos / "red.txt"
    captions.write_bytes(bytes(12))
    library.add(photos)
    assert len(library.failures) == 1
    in_place(captions, lambda: captions.write_text("a red square"))
    library.add(photos)
    assert library.failures == []
    assert [part.text for part in item_of(library, photos / "red.png").texts] == ["a red square"]


@tells_changes
def test_a_file_whose_rights_changed_is_not_encoded_again(library, photos, toy):
    (photos / "red.png").chmod(0o600)
    os.link(photos / "green.png", photos / "deep" / "green.png")
    assert counts(library.add(photos)) == {"added": 1, "unchanged": 3}
    assert toy.encoded["image"] == 0


@tells_changes
def test_an_index_that_knows_no_change_times_reads_nothing_and_learns_them(
    library, photos, monkeypatch
):
    with library.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE items SET ctime_ns = NULL")
    monkeypatch.setattr(Decoder, "__call__", None)
    assert counts(library.add(photos)) == {"unchanged": 3}
    known = library.store.files.known(1, "")["red.png"]
    assert known.ctime_ns == (photos / "red.png").stat().st_ctime_ns


@pytest.mark.parametrize("year", [1500, 2300, 9000])
def test_a_file_from_before_or_after_what_can_be_stored_is_indexed_once(library, photos, year):
    seconds = (year - 1970) * 31_556_952
    try:
        os.utime(photos / "red.png", (seconds, seconds))
    except OverflowError:
        pytest.skip("the file system has no such time")
    if abs((photos / "red.png").stat().st_mtime - seconds) > 1:
        pytest.skip("the file system has no such time")
    assert counts(library.add(photos)) == {"unchanged": 3}
    assert counts(library.add(photos)) == {"unchanged": 3}
    assert library.search("red", k=3)


def test_an_empty_folder_on_the_same_disk_was_emptied(library, photos):
    shutil.rmtree(photos)
    photos.mkdir()
    assert counts(library.add(photos)) == {"removed": 3}


def test_a_source_that_is_gone_is_warned_of_and_its_captions_go_to_the_copies(
    library, photos, tmp_path
):
    book = tmp_path / "captions.tsv"
    book.write_text("red.png\ta white wall\n")
    library.add(photos, captions=book)
    photos.rename(tmp_path / "renamed")
    report = library.add(tmp_path / "renamed")
    assert counts(report) == {"added": 3}
    assert any(f"mmsearch remove {photos}" in line for line in report.warnings)
    assert captions_of(library, "red.png") == ["a white wall", "a white wall"]
    library.remove(photos)
    assert library.search("red", k=1, target="image")[0].path == str(
        tmp_path / "renamed" / "red.png"
    )


def test_patterns_are_relative_to_the_folder_given_and_one_may_come_alone(library, photos):
    paint(photos / "deep" / "er" / "white.png", "white")
    assert counts(library.add(photos / "deep", exclude="er/white.png")) == {"unchanged": 1}
    assert counts(library.add(photos, exclude="*.png")) == {"removed": 3}


def test_paths_may_be_any_iterable_and_bytes(toy, photos, tmp_path):
    paths = (path for path in [photos / "red.png", photos / "green.png"])
    with mmsearch.index(paths, into=tmp_path / "idx") as library:
        library.add(os.fsencode(photos / "deep"))
        assert len(library) == 3


@pytest.mark.parametrize("limit", [0, -5, float("nan")])
def test_a_limit_that_makes_no_sense_is_an_error(library, photos, limit):
    with pytest.raises(mmsearch.MMSearchError, match="max_megapixels"):
        library.add(photos, max_megapixels=limit)


def test_items_taken_out_by_another_process_meanwhile_are_stored_anew(library, photos, monkeypatch):
    shutil.copy(photos / "red.png", photos / "copy.png")
    whole = Decoder.__call__

    def then_remove(self, job, **options):
        done = whole(self, job, **options)
        with mmsearch.open(library.folder) as other:
            ids = {os.path.basename(item.path): item.id for item in other.items}
            if "red.png" in ids:
                other.store.items.remove([ids["red.png"]])
        return done

    monkeypatch.setattr(Decoder, "__call__", then_remove)
    library.add(photos)
    assert "copy.png" in {os.path.basename(hit.path) for hit in library.search("red", k=1)}


# ---------------------------------------------------------------------- bad files


def bad_files(folder: Path) -> None:
    good = paint(folder / "good.jpg", "red", (200, 200))
    (folder / "truncated.jpg").write_bytes(good.read_bytes()[:-400])
    (folder / "zip.jpg").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "empty.png").write_bytes(b"")
    (folder / "blank.txt").write_bytes(b"")
    (folder / "binary.txt").write_bytes(b"ab\0\1\2" * 50)


def test_bad_files_are_skipped_with_a_reason_and_the_rest_is_indexed(toy, tmp_path):
    folder = tmp_path / "mixed"
    bad_files(folder)
    with mmsearch.index(folder, into=tmp_path / "idx") as library:
        assert counts(library.report) == {"added": 1, "skipped": 5}
        reasons = {os.path.basename(f.path): f.reason for f in library.failures}
    assert set(reasons) == {"truncated.jpg", "zip.jpg", "empty.png", "blank.txt", "binary.txt"}
    assert all(reasons.values())
    assert "0 bytes" in reasons["empty.png"]


def test_a_bad_file_is_not_read_again_until_it_changes(toy, tmp_path):
    folder = tmp_path / "mixed"
    bad_files(folder)
    with mmsearch.index(folder, into=tmp_path / "idx") as library:
        report = library.add(folder)
        assert counts(report) == {"unchanged": 1, "skipped": 5}
        assert report.failures == []
        paint(folder / "zip.jpg", "blue")
        assert counts(library.add(folder)) == {"added": 1, "unchanged": 1, "skipped": 4}
        assert "zip.jpg" not in {os.path.basename(f.path) for f in library.failures}


def test_a_bad_file_that_is_deleted_is_forgotten(toy, tmp_path):
    folder = tmp_path / "mixed"
    bad_files(folder)
    with mmsearch.index(folder, into=tmp_path / "idx") as library:
        (folder / "zip.jpg").unlink()
        library.add(folder)
        assert "zip.jpg" not in {os.path.basename(f.path) for f in library.failures}


def test_a_photo_that_was_good_and_is_damaged_keeps_what_was_stored(library, photos):
    content = (photos / "red.png").read_bytes()
    (photos / "red.png").write_bytes(content[: len(content) // 2])
    later(photos / "red.png")
    assert counts(library.add(photos)) == {"skipped": 1, "unchanged": 2}
    assert library.search("red", k=1, target="image")[0].path == str(photos / "red.png")
    (photos / "red.png").write_bytes(content)
    assert counts(library.add(photos)) == {"unchanged": 3}
    assert library.failures == []


def test_a_file_restored_with_its_old_time_stamp_is_no_failure_any_more(library, photos):
    path = photos / "red.png"
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(b"")
    library.add(photos)
    assert len(library.failures) == 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert counts(library.add(photos)) == {"unchanged": 3}
    assert library.failures == []


def test_a_broken_link_that_is_deleted_is_forgotten(library, photos):
    (photos / "link.jpg").symlink_to("/nowhere/at/all.jpg")
    assert counts(library.add(photos)) == {"unchanged": 3, "skipped": 1}
    (photos / "link.jpg").unlink()
    library.add(photos)
    assert library.failures == []


def test_a_picture_over_the_limit_is_tried_again_when_the_limit_is_raised(toy, tmp_path):
    paint(tmp_path / "p" / "big.png", "red", (1000, 1000))
    with mmsearch.index(tmp_path / "p", into=tmp_path / "idx", max_megapixels=0.5) as library:
        assert "max-megapixels" in library.failures[0].reason
        assert counts(library.add(tmp_path / "p")) == {"added": 1}


def test_metadata_stays_with_its_own_file_when_others_fail(toy, tmp_path):
    folder = tmp_path / "many"
    for number in range(90):
        path = paint(folder / f"{number:03}.png", "red", (100 + number, 10))
        if number % 3 == 0:
            path.write_bytes(path.read_bytes()[:-30])
    with mmsearch.index(folder, into=tmp_path / "idx") as library:
        assert library.report.added == 60
        for item in library.items:
            assert item.metadata["width"] == 100 + int(Path(item.path).stem)


def passed_over(report: mmsearch.Report) -> list[str]:
    return [warning for warning in report.warnings if warning.startswith("passed over")]


def test_pictures_and_sounds_of_unknown_endings_are_counted_and_named(library, photos):
    for number in range(40):
        shutil.copy(photos / "red.png", photos / f"{number}.jpg_large")
    shutil.copy(photos / "red.png", photos / "deep" / "scan")
    (photos / "deep" / "LICENSE").write_text("Permission is hereby granted")
    (photos / "clip.tmp").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(99))
    (warning,) = passed_over(library.add(photos))
    assert "passed over 42 files that contain pictures, sounds or videos" in warning
    assert "(.jpg_large ×40, no ending ×1, .tmp ×1): rename them" in warning
    assert ".jpg_large' to '" in warning
    assert warning.endswith(".png'")


def test_of_an_ending_that_few_pictures_have_some_are_counted(library, photos):
    for number in range(20):
        shutil.copy(photos / "red.png", photos / f"{number}.dat")
    for number in range(20, 220):
        (photos / "deep" / f"{number}.dat").write_text("1, 2, 3")
    (warning,) = passed_over(library.add(photos))
    assert "at least 9 files" in warning
    assert "(.dat, some of 220)" in warning


@pytest.mark.parametrize(
    "name",
    ["a.png.part", "a.jpg.crdownload", "a.png~", "a.jpg_original", "a.png.bak", "A.THM", "a.json"],
)
def test_downloads_and_copies_are_passed_over_in_silence(library, photos, name):
    shutil.copy(photos / "red.png", photos / name)
    shutil.copy(photos / "red.png", photos / ".hidden")
    assert passed_over(library.add(photos)) == []


def test_files_of_unknown_endings_that_hold_no_media_are_passed_over_in_silence(library, photos):
    (photos / "a.xmp").write_text("<x:xmpmeta>")
    (photos / "BMW").write_text("BMW made this car")
    (photos / "plan").write_text("P1 before P2, or else P3")
    (photos / "empty").touch()
    (photos / "loop").symlink_to("loop")
    if hasattr(os, "mkfifo"):
        os.mkfifo(photos / "pipe")
    assert passed_over(library.add(photos)) == []


def test_of_many_unknown_endings_the_warning_names_a_few(library, photos):
    for number in range(300):
        shutil.copy(photos / "red.png", photos / f"{number}.e{number}")
    (warning,) = passed_over(library.add(photos))
    assert "passed over at least 200 files" in warning
    assert warning.count("×1") == 5
    assert "and 195 more endings" in warning


@pytest.mark.parametrize("form", ["png", "gif", "bmp", "tiff", "webp", "avif", "jpeg2000", "ppm"])
def test_a_picture_of_an_unknown_ending_is_named_whatever_its_format(library, photos, form):
    if form == "avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    with Image.open(photos / "red.png") as picture:
        picture.convert("RGB").save(photos / "picture", format=form)
    (warning,) = passed_over(library.add(photos))
    ending = {"tiff": "tif", "jpeg2000": "jp2"}.get(form, form)
    assert f"'picture' to 'picture.{ending}'" in warning


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "caf", "w64", "flac", "ogg", "mp3"])
def test_a_sound_of_an_unknown_ending_is_named_by_its_format(library, photos, kind):
    soundfile = pytest.importorskip("soundfile")
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
    soundfile.write(photos / "sound.blob", noise, 44100, format=kind.upper())
    (warning,) = passed_over(library.add(photos))
    assert warning.startswith("passed over 1 file that contains a picture, sound or video")
    assert f"rename 'sound.blob' to 'sound.{kind}'" in warning


def test_an_update_of_a_few_files_looks_into_none_of_unknown_endings(library, photos):
    shutil.copy(photos / "red.png", photos / "a.jpg_large")
    assert passed_over(library.refresh([str(photos / "red.png")])) == []


@pytest.mark.parametrize("name", ["new\nline.png", "🐕 dog.png", "tab\t.png", "ü.png"])
def test_odd_file_names_are_found_again(toy, tmp_path, name):
    path = paint(tmp_path / "odd" / name, "red")
    with mmsearch.index(tmp_path / "odd", into=tmp_path / "idx") as library:
        assert library.search("red")[0].path == str(path)
        assert counts(library.add(tmp_path / "odd")) == {"unchanged": 1}


def test_a_name_that_is_not_utf8_is_found_again(toy, tmp_path):
    (tmp_path / "odd").mkdir()
    raw = os.fsencode(tmp_path / "odd") + b"/caf\xe9.png"
    try:
        shutil.copy(paint(tmp_path / "a.png", "red"), raw)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with mmsearch.index(tmp_path / "odd", into=tmp_path / "idx") as library:
        assert os.fsencode(library.search("red")[0].path) == raw
        assert counts(library.add(tmp_path / "odd")) == {"unchanged": 1}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_an_unreadable_folder_is_reported_and_its_items_kept(library, photos):
    (photos / "deep").chmod(0)
    try:
        report = library.add(photos)
    finally:
        (photos / "deep").chmod(0o755)
    assert counts(report) == {"unchanged": 2, "skipped": 1}
    assert "blue.png" in names(library)


def test_a_folder_that_cannot_be_listed_keeps_its_items(library, photos, monkeypatch):
    listed = os.scandir

    def refuse(path):
        if os.fspath(path).rstrip("/").endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = library.add(photos)
    monkeypatch.undo()
    assert counts(report) == {"unchanged": 2, "skipped": 1}
    assert "blue.png" in names(library)


# ---------------------------------------------------------------------- captions


def captions_of(library: mmsearch.Collection, name: str) -> list[str]:
    return [
        text.text
        for item in library.items
        if os.path.basename(item.path) == name
        for text in item.texts
    ]


def test_a_sidecar_is_a_caption_of_its_photo_and_no_item_of_its_own(library, photos):
    (photos / "red.txt").write_text("a white house\n\na green hill\n")
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 2}
    assert captions_of(library, "red.png") == ["a white house", "a green hill"]
    hit = library.search("white", k=1, target="text")[0]
    assert (os.path.basename(hit.path), hit.caption) == ("red.png", "a white house")


def test_a_new_sidecar_does_not_encode_the_photo_again(library, photos, toy):
    (photos / "red.txt").write_text("a white house")
    library.add(photos)
    assert toy.encoded == {"image": 0, "text": 1}


def test_a_sidecar_that_goes_takes_its_captions_along(library, photos):
    (photos / "red.txt").write_text("a white house")
    library.add(photos)
    (photos / "red.txt").unlink()
    assert counts(library.add(photos)) == {"updated": 1, "unchanged": 2}
    assert captions_of(library, "red.png") == []
    assert library.search("white", target="text") == []


def test_a_text_that_becomes_a_sidecar_is_no_item_any_more(library, photos):
    (photos / "sky.txt").write_text("blue sky")
    library.add(photos)
    paint(photos / "sky.png", "white")
    assert counts(library.add(photos)) == {"added": 1, "removed": 1, "unchanged": 3}
    assert captions_of(library, "sky.png") == ["blue sky"]


def test_a_bad_sidecar_is_reported_and_its_photo_kept(library, photos):
    (photos / "red.txt").write_bytes(b"\0\1\2")
    shutil.copy(photos / "red.png", photos / "red.gif")  # shares the sidecar
    assert counts(library.add(photos)) == {"added": 1, "unchanged": 3, "skipped": 1}
    assert [os.path.basename(f.path) for f in library.failures] == ["red.txt"]
    assert library.add(photos).skipped > 0
    assert "red.png" in names(library)
    (photos / "red.txt").write_text("a red wall")
    library.add(photos)
    assert library.failures == []


def test_captions_from_a_file_belong_to_their_photos(library, photos, tmp_path):
    book = tmp_path / "captions.tsv"
    book.write_text("red.png\ta white wall\nred.png\tanother one\ndeep/blue.png\tgreen sea\n")
    library.add(photos, captions=book)
    assert captions_of(library, "red.png") == ["a white wall", "another one"]
    assert captions_of(library, "blue.png") == ["green sea"]
    assert counts(library.report) == {"updated": 2, "unchanged": 1}


def test_captions_from_a_file_stay_without_it_and_cost_nothing_with_it(
    library, photos, tmp_path, toy
):
    book = tmp_path / "captions.csv"
    book.write_text("file,caption\nred.png,a white wall\n")
    library.add(photos, captions=book)
    toy.encoded.update(image=0, text=0)
    assert counts(library.add(photos)) == {"unchanged": 3}
    assert counts(library.add(photos, captions=book)) == {"unchanged": 3}
    assert toy.encoded == {"image": 0, "text": 0}
    assert captions_of(library, "red.png") == ["a white wall"]


def test_a_renamed_photo_keeps_its_captions_and_a_copy_has_none(library, photos, tmp_path):
    book = tmp_path / "captions.csv"
    book.write_text("file,caption\nred.png,a white wall\n")
    library.add(photos, captions=book)
    (photos / "red.png").rename(photos / "rouge.png")
    library.add(photos)
    assert captions_of(library, "rouge.png") == ["a white wall"]
    shutil.copy(photos / "rouge.png", photos / "copy.png")
    library.add(photos)
    assert captions_of(library, "copy.png") == []


def test_captions_for_files_that_are_not_there_are_warned_of(library, photos, tmp_path):
    book = tmp_path / "captions.csv"
    book.write_text("file,caption\nnowhere.png,a wall\n")
    assert any("nowhere.png" in line for line in library.add(photos, captions=book).warnings)


def test_a_captions_file_among_the_photos_is_no_text_of_its_own(library, photos):
    book = photos / "captions.txt"
    book.write_text("image,caption\nred.png,a white wall\n")
    library.add(photos, captions=book)
    assert names(library) == ["blue.png", "green.png", "red.png"]
    assert captions_of(library, "red.png") == ["a white wall"]


def test_captions_are_found_relative_to_the_folder_that_is_given(library, photos, tmp_path):
    book = tmp_path / "captions.tsv"
    (photos / "deep" / "er").mkdir()
    paint(photos / "deep" / "er" / "x.png", "red")
    book.write_text("er/x.png\ta white wall\n")
    library.add(photos / "deep", captions=book)
    assert captions_of(library, "x.png") == ["a white wall"]


def test_a_long_text_is_cut_into_passages_and_a_hit_names_its_own(library, photos):
    filler = "word " * 80
    (photos / "long.txt").write_text(f"red {filler}\n\nblue {filler}\n\nwhite {filler}\n")
    library.add(photos)
    hit = library.search("blue", target="text")[0]
    assert (hit.span.start, hit.span.end, hit.span.unit) == (3, 3, "line")
    assert hit.caption.startswith("blue")


# ---------------------------------------------------------------------- stopping


def test_an_interrupted_run_keeps_what_is_stored_and_goes_on(toy, tmp_path):
    folder = tmp_path / "many"
    for number in range(150):
        paint(folder / f"{number:03}.png", "red", (50 + number, 10))
    library = mmsearch.Collection(tmp_path / "idx", model="toy", create=True)

    def stop(done: int, total: int | None) -> None:
        if done == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.add(folder, progress=stop)
    assert library.report.interrupted
    kept = len(library)
    assert 0 < kept < 150
    assert library.report.added == kept
    report = library.add(folder)
    assert counts(report) == {"added": 150 - kept, "unchanged": kept}
    assert sorted(i.metadata["width"] for i in library.items) == list(range(50, 200))
    library.close()
    assert not any(t.name.startswith("decode") for t in threading.enumerate())


def test_a_disk_that_fills_up_keeps_earlier_batches(toy, tmp_path, monkeypatch):
    folder = tmp_path / "many"
    for number in range(100):
        paint(folder / f"{number:03}.png", "red", (50 + number, 10))
    library = mmsearch.Collection(tmp_path / "idx", model="toy", create=True)
    put = library.store.put
    calls = []

    def fill_up(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise StorageFailed("database or disk is full")
        return put(*args, **options)

    monkeypatch.setattr(library.store, "put", fill_up)
    with pytest.raises(StorageFailed):
        library.add(folder)
    monkeypatch.undo()
    assert len(library) == pipeline.FIRST_PICTURES
    library.add(folder)
    assert len(library) == 100
    library.close()


def test_progress_ends_at_the_number_of_files(toy, photos, tmp_path):
    seen = []
    mmsearch.index(photos, into=tmp_path / "idx", progress=lambda *now: seen.append(now)).close()
    assert [done for done, _ in seen] == [1, 2, 3]
    assert {total for _, total in seen} <= {None, 3}


def test_the_number_of_files_is_told_while_they_are_read(toy, photos, tmp_path):
    seen = []

    def slow(done: int, total: int | None) -> None:
        seen.append(total)
        time.sleep(0.05)

    mmsearch.index(photos, into=tmp_path / "idx", progress=slow).close()
    assert seen[-1] == 3


# ---------------------------------------------------------------------- upright


def test_all_eight_orientations_of_a_photo_give_one_vector(tmp_path):
    encoder = mmsearch.load_encoder("mini")
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(
        (320, 240), Image.Resampling.BICUBIC
    )
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for tag, transpose in undo.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        stored = base if transpose is None else base.transpose(transpose)
        (tmp_path / "p").mkdir(exist_ok=True)
        stored.save(tmp_path / "p" / f"{tag}.jpg", exif=exif, quality=95)
    with mmsearch.index(tmp_path / "p", into=tmp_path / "idx", model="mini") as library:
        _, vectors, _ = library.store.vectors.of(library.index.serving()[0][0], "image")
    assert vectors.shape == (8, encoder.dim)
    assert (vectors @ vectors.T).min() >= 0.99
