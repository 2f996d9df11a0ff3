"""What was asked to be indexed is kept, and is what a run without paths looks at."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import paint, tone

import mmsearch
from mmsearch.errors import MissingExtra


def names(library) -> list[str]:
    return sorted(Path(item.path).name for item in library.items)


@pytest.fixture
def library(toy, photos: Path, tmp_path: Path):
    with mmsearch.index(photos / "red.png", tmp_path / "idx") as made:
        yield made


def test_a_folder_stays_whole_when_a_file_above_it_is_named(library, photos):
    library.add(photos / "deep")
    paint(photos / "deep" / "new.png", "white")
    library.add()
    assert names(library) == ["blue.png", "new.png", "red.png"]


def test_a_folder_that_is_asked_for_after_one_of_its_files_is_whole(library, photos):
    library.add(photos)
    paint(photos / "new.png", "white")
    library.add()
    assert names(library) == ["blue.png", "green.png", "new.png", "red.png"]


def test_a_file_that_was_named_and_is_deleted_leaves_the_index(library, photos):
    library.add(photos / "green.png")
    (photos / "red.png").unlink()
    library.add()
    assert names(library) == ["green.png"]


def test_a_named_file_that_failed_is_tried_again_once_it_changes(library, photos):
    (photos / "bad.png").write_bytes(b"nothing")
    library.add(photos / "bad.png")
    assert library.report.skipped == 1
    paint(photos / "bad.png", "white")
    library.add()
    assert names(library) == ["bad.png", "red.png"]


def test_the_files_of_a_named_folder_that_is_gone_leave_the_index(library, photos):
    library.add([photos / "deep", photos / "green.png"])
    (photos / "deep" / "blue.png").unlink()
    (photos / "deep").rmdir()
    library.add()
    assert names(library) == ["green.png", "red.png"]


def test_what_was_excluded_stays_out_and_what_is_hidden_in(library, photos):
    paint(photos / ".hidden.png", "white")
    library.add(photos, exclude="deep", include_hidden=True)
    library.add()
    assert names(library) == [".hidden.png", "green.png", "red.png"]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"exclude": "green.*"}, {".hidden.png", "blue.png", "red.png", "white.png"}),
        ({"exclude": ["green.*", "white.*"]}, {".hidden.png", "blue.png", "red.png"}),
        (
            {"include_hidden": True},
            {".hidden.png", "green.png", "red.png", "white.png", ".white.png"},
        ),
    ],
)
def test_what_to_leave_out_or_take_in_is_set_for_all_folders_by_naming_none(
    toy, photos, tmp_path, given, left
):
    paint(photos / ".hidden.png", "white")
    for name in ("white", ".white"):
        paint(tmp_path / "more" / f"{name}.png", "white", (50, 40))
    with mmsearch.index(photos, tmp_path / "idx", exclude="deep", include_hidden=True) as library:
        library.add(tmp_path / "more")
        for keywords in (given, {}):
            library.add(**keywords)
            assert set(names(library)) == left


def test_paths_stay_known_when_patterns_are_set_for_all_of_them(library, photos):
    library.add([photos / "deep", photos / "green.png"])
    roots = [root.path for root in library.store.index_roots.all()]
    library.add(exclude="*.gif")
    assert [root.path for root in library.store.index_roots.all()] == roots
    library.add(photos)
    library.add(photos / "deep")
    roots = [root.path for root in library.store.index_roots.all()]
    library.add(exclude="*.gif")
    assert [root.path for root in library.store.index_roots.all()] == roots


def test_a_folder_that_was_excluded_and_then_asked_for_stays(library, photos):
    library.add(photos, exclude="deep")
    library.add(photos / "deep")
    library.add()
    assert names(library) == ["blue.png", "green.png", "red.png"]
    assert library.report.removed == 0


def test_what_was_removed_is_not_asked_for_any_more(library, photos):
    library.add(photos / "deep")
    library.remove(photos / "deep")
    library.add()
    assert names(library) == ["red.png"]


def test_a_file_below_a_linked_folder_can_be_removed_by_the_path_it_was_found_at(toy, tmp_path):
    paint(tmp_path / "elsewhere" / "white.png", "white")
    paint(tmp_path / "photos" / "red.png", "red")
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    with mmsearch.index(tmp_path / "photos", tmp_path / "idx") as library:
        assert names(library) == ["red.png", "white.png"]
        assert library.remove(tmp_path / "photos" / "link" / "white.png") == 1
        assert names(library) == ["red.png"]


def test_what_was_turned_off_stays_off_for_every_folder(toy, tmp_path):
    pytest.importorskip("pypdfium2")
    from test_media import pdf

    pdf(tmp_path / "e" / "a.pdf", "red one")
    pdf(tmp_path / "f" / "b.pdf", "blue two")
    with mmsearch.index([tmp_path / "e", tmp_path / "f"], tmp_path / "i", pdf=True) as library:
        library.add(tmp_path / "f", pdf=False)
        assert names(library) == ["a.pdf"]
        library.add()
        assert names(library) == []


def test_a_package_that_is_gone_is_warned_of_and_what_it_read_stays(toy, tmp_path, monkeypatch):
    pytest.importorskip("pypdfium2")
    from test_media import pdf

    pdf(tmp_path / "e" / "a.pdf", "red one")
    with mmsearch.index(tmp_path / "e", tmp_path / "i", pdf=True) as library:

        def gone():
            raise MissingExtra("reading PDFs", "pdf")

        monkeypatch.setattr("mmsearch.media.pdf.require", gone)
        paint(tmp_path / "e" / "red.png", "red")
        library.add()
        assert names(library) == ["a.pdf", "red.png"]
        assert "pip install 'mmsearch[pdf]'" in " ".join(library.report.warnings)


def test_sounds_stay_when_the_package_that_reads_them_is_gone(toy, tmp_path, monkeypatch):
    from mmsearch.indexing import passed_over
    from mmsearch.media import kinds

    tone(tmp_path / "s" / "low.wav", "low")
    with mmsearch.index(tmp_path / "s", tmp_path / "i", model="ear") as library:
        monkeypatch.setitem(kinds.FORMATS, ".wav", kinds.Format("audio", "av"))
        for module in (kinds, passed_over):
            monkeypatch.setattr(module, "find_spec", lambda _: None)
        library.add()
        assert names(library) == ["low.wav"]
        assert "mmsearch[av]" in " ".join(library.report.warnings)


# ---------------------------------------------------------------------- refresh


def test_a_refresh_of_paths_looks_only_at_their_folders(library, photos):
    library.add(photos)
    paint(photos / "deep" / "new.png", "white")
    paint(photos / "other.png", "white", (50, 40))
    library.refresh([str(photos / "deep" / "new.png")])
    assert names(library) == ["blue.png", "green.png", "new.png", "red.png"]
    library.refresh()
    assert names(library) == ["blue.png", "green.png", "new.png", "other.png", "red.png"]


def test_a_refresh_leaves_files_that_are_still_being_written(library, photos):
    library.add(photos)
    new = [
        str(paint(photos / f"{name}.png", "white", (50, 40 + len(name)))) for name in ("a", "bb")
    ]
    library.refresh(new, unsettled=new[:1])
    assert names(library) == ["bb.png", "blue.png", "green.png", "red.png"]


def test_a_refresh_tells_how_far_it_is(library, photos):
    told = []
    library.refresh(progress=lambda done, total: told.append(done))
    assert told[-1] == 1
