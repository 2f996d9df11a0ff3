"""The files that an index does not include are counted, and it is said how to include them."""

import json
import shutil
from importlib.util import find_spec

import pytest
from conftest import paint

import mmsearch
from mmsearch.indexing.passed_over import PassedOver, stored_groups
from mmsearch.media import kinds


@pytest.fixture
def library(toy, tmp_path):
    with mmsearch.Collection(tmp_path / "idx", create=True, model="toy") as library:
        yield library


@pytest.fixture
def mixed(photos):
    """Three photos, a text, two videos and a PDF."""
    for name in ("a.mp4", "deep/b.MOV", "c.pdf"):
        (photos / name).write_bytes(b"nothing that is read")
    return photos


@pytest.fixture
def without(monkeypatch):
    """Have packages look as if they were not installed."""

    def hide(*packages: str) -> None:
        def found(name: str, package: str | None = None) -> object:
            return None if name in packages else find_spec(name, package)

        monkeypatch.setattr("mmsearch.media.kinds.find_spec", found)
        monkeypatch.setattr("mmsearch.indexing.passed_over.find_spec", found)

    return hide


def counts(library: mmsearch.Collection) -> dict[str, int]:
    return {group["what"]: group["files"] for group in library.status()["passed_over"]}


def test_status_counts_what_the_last_run_passed_over_and_how_to_include_it(library, mixed):
    library.add(mixed)
    assert library.status()["passed_over"] == [
        {
            "kind": "document",
            "what": "PDF",
            "files": 1,
            "cure": "to include PDFs: `mmsearch index --pdf`",
        },
        {
            "kind": "video",
            "what": "videos",
            "files": 2,
            "cure": "to include videos: `mmsearch index --video`",
        },
    ]


def test_what_is_included_or_gone_is_no_longer_counted(library, mixed):
    library.add(mixed)
    (mixed / "c.pdf").unlink()
    library.add()
    assert counts(library) == {"videos": 2}
    pytest.importorskip("av")
    library.add(video=True)
    assert counts(library) == {}


def test_the_package_that_a_kind_needs_is_named_before_its_flag(library, mixed, without):
    library.add(mixed)
    without("av", "pypdfium2")
    assert [group["cure"] for group in library.status()["passed_over"]] == [
        "to include PDFs: `pip install 'mmsearch[pdf]'`, then `mmsearch index --pdf`",
        "to include videos: `pip install 'mmsearch[av]'`, then `mmsearch index --video`",
    ]


def test_a_new_index_has_passed_over_nothing(toy, tmp_path):
    with mmsearch.Collection(tmp_path / "i", create=True, model="toy") as library:
        assert library.status()["passed_over"] == []


def test_files_that_need_a_package_are_grouped_by_it(library, mixed, without, monkeypatch):
    raw = kinds.Format("image", "rawpy")
    monkeypatch.setitem(kinds.FORMATS, ".nef", raw)
    monkeypatch.setitem(kinds.FORMATS, ".cr2", raw)
    without("rawpy")
    for name in ("a.nef", "b.cr2", "deep/c.NEF"):
        (mixed / name).write_bytes(b"nothing that is read")
    report = library.add(mixed)
    cure = "to include RAW photos: `pip install 'mmsearch[raw]'`, then `mmsearch index`"
    assert f"passed over 3 RAW photos ({cure})" in report.warnings
    found = {group["what"]: group for group in library.status()["passed_over"]}
    assert found["RAW photos"] == {
        "kind": "image",
        "what": "RAW photos",
        "files": 3,
        "cure": cure,
    }
    without()  # it is installed now, or may be
    monkeypatch.setattr("mmsearch.indexing.passed_over.find_spec", lambda _: object())
    found = {group["what"]: group for group in library.status()["passed_over"]}
    assert found["RAW photos"]["cure"] == "to include RAW photos: `mmsearch index`"


def test_sounds_that_need_a_package_are_told_from_those_that_need_a_model(toy, tmp_path, without):
    without("av")
    for name in ("a.m4a", "b.wma", "c.wav"):
        (tmp_path / "s").mkdir(exist_ok=True)
        (tmp_path / "s" / name).write_bytes(b"nothing that is read")
    with mmsearch.index(tmp_path / "s", tmp_path / "i", model="toy") as library:
        assert counts(library) == {"sounds": 3}
    with mmsearch.index(tmp_path / "s", tmp_path / "j", model="ear") as library:
        [group] = library.status()["passed_over"]
        assert (group["what"], group["files"]) == ("M4A, AAC or WMA sounds", 2)
        assert "pip install 'mmsearch[av]'" in group["cure"]


def test_every_package_that_a_format_needs_has_an_extra_and_a_name(without):
    for form in set(kinds.FORMATS.values()):
        if form.package is not None:
            without(form.package)
            passed_over = PassedOver({form.kind})
            passed_over.add("/", {form: 2})
            [warning] = passed_over.warnings(look_inside=False)
            assert warning.startswith("passed over 2 ")
            assert "pip install 'mmsearch[" in warning


def test_a_run_over_one_folder_leaves_the_counts_of_others(library, mixed, tmp_path):
    library.add(mixed)
    other = tmp_path / "other"
    paint(other / "red.png", "red")
    (other / "d.mp4").touch()
    library.add(other)
    assert counts(library) == {"PDF": 1, "videos": 3}
    (other / "d.mp4").unlink()
    library.add(other)
    assert counts(library) == {"PDF": 1, "videos": 2}
    library.remove(str(mixed))
    assert counts(library) == {}


def test_an_update_of_a_part_leaves_the_counts_of_the_whole(library, mixed):
    library.add(mixed)
    paint(mixed / "deep" / "new.png", "red")
    library.refresh([str(mixed / "deep" / "new.png")])
    assert counts(library) == {"PDF": 1, "videos": 2}
    library.refresh([str(mixed / "deep")])
    assert counts(library) == {"PDF": 1, "videos": 2}


def test_what_lies_in_two_indexed_folders_counts_once(library, mixed):
    library.add(mixed)
    library.add(mixed / "deep", include_hidden=True)
    library.add()
    assert counts(library) == {"PDF": 1, "videos": 2}
    told = [one for one in library.report.warnings if one.startswith("passed over")]
    assert [one.split(" (")[0] for one in told] == ["passed over 1 PDF", "passed over 2 videos"]


def test_a_folder_whose_disk_is_away_keeps_its_counts(library, mixed, tmp_path):
    library.add(mixed)
    shutil.move(mixed, tmp_path / "away")
    library.add()
    assert counts(library) == {"PDF": 1, "videos": 2}


def test_a_file_that_was_named_counts_until_it_is_included(toy, tmp_path):
    photo = paint(tmp_path / "p" / "red.png", "red")
    film = tmp_path / "p" / "a.mp4"
    film.touch()
    (tmp_path / "p" / "b.mp4").touch()
    with mmsearch.index([photo, film], tmp_path / "i") as library:
        assert counts(library) == {"video": 1}
        library.add(film)
        assert counts(library) == {"video": 1}
        pytest.importorskip("av")
        library.add(video=True)
        assert counts(library) == {}


def test_names_that_are_not_utf8_are_counted(library, photos):
    folder = photos / "\udcff\udcfe"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (folder / "a.mp4").touch()
    library.add(folder)
    assert counts(library) == {"video": 1}


def test_a_group_of_a_later_version_is_left_out(library, mixed):
    library.add(mixed)
    stored = json.dumps({str(mixed): {"smell-o-vision": 3, "video": 2}})
    library.store.settings.set("passed over", stored)
    assert [group["what"] for group in stored_groups(library.store)] == ["videos"]


def test_an_interrupted_run_leaves_the_counts_as_they_were(library, mixed):
    library.add(mixed)
    (mixed / "e.mp4").touch()
    paint(mixed / "new.png", "red")

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.add(mixed, progress=interrupt)
    assert counts(library) == {"PDF": 1, "videos": 2}
