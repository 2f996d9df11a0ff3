"""Which files belong to the photo or video beside them."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.media.companions import COMPANION_ENDINGS, find_companions, may_be_sidecar
from mmsearch.media.kinds import FORMATS, ending_of
from mmsearch.media.walk import FileStat, Folder, Tree

# ---------------------------------------------------------------------- names

LONG = "a photo of the whole family on the beach at sunset"  # Takeout cuts its JSON, not the photo


def owners(name: str, photos: list[str]) -> list[str]:
    found = find_companions(photos, [name])
    assert all(files == [name] for files in found.values())
    return sorted(found)


@pytest.mark.parametrize(
    ("name", "photos", "expected"),
    [
        ("a.xmp", ["a.jpg"], ["a.jpg"]),
        ("a.XMP", ["a.jpg"], ["a.jpg"]),
        ("a.jpg.xmp", ["a.jpg", "a.png"], ["a.jpg"]),
        ("a.xmp", ["a.jpg", "a.mp4", "ab.jpg"], ["a.jpg", "a.mp4"]),
        ("b.xmp", ["a.jpg"], []),
        ("a.jpg.json", ["a.jpg"], ["a.jpg"]),
        ("a.mp4.json", ["a.mp4"], ["a.mp4"]),
        ("a.json", ["a.jpg"], []),
        ("a.jpg.supplemental-metadata.json", ["a.jpg"], ["a.jpg"]),
        ("a.jpg.supplemental-me.json", ["a.jpg"], ["a.jpg"]),
        ("a.jpg.s.json", ["a.jpg"], ["a.jpg"]),
        ("a.jpg..json", ["a.jpg"], ["a.jpg"]),
        ("a.jpg.supplement.json", ["b.jpg"], []),
        ("a.jpg.other.json", ["a.jpg"], []),
        ("a.jpg(1).json", ["a.jpg", "a(1).jpg"], ["a(1).jpg"]),
        ("a.jpg.supplemental-metadata(2).json", ["a.jpg", "a(2).jpg"], ["a(2).jpg"]),
        ("a(1).jpg.json", ["a.jpg", "a(1).jpg"], ["a(1).jpg"]),
        ("a.jpg.json", ["a.jpg", "a-edited.jpg"], ["a-edited.jpg", "a.jpg"]),
        ("a.jpg.json", ["a-bearbeitet.jpg"], ["a-bearbeitet.jpg"]),
        ("a.jpg(1).json", ["a-edited.jpg", "a-edited(1).jpg"], ["a-edited(1).jpg"]),
        (f"{LONG[:46]}.json", [f"{LONG[:47]}.jpg"], [f"{LONG[:47]}.jpg"]),
        (f"{LONG[:46]}.json", [f"{LONG[:47]}.jpg", f"{LONG[:47]}-edited.jpg"], 2),
        (f"{LONG[:46]}.json", [f"{LONG[:46]}1.jpg", f"{LONG[:46]}2.jpg"], 0),  # whose is it?
        (f"{LONG[:45]}.json", [f"{LONG[:47]}.jpg"], []),
        ("IMG_1.MOV", ["IMG_1.HEIC"], ["IMG_1.HEIC"]),
        ("IMG_1.mov", ["IMG_1.JPG"], ["IMG_1.JPG"]),
        ("IMG_1.MOV", ["IMG_1.png"], []),
        ("IMG_1.MOV", ["IMG_2.HEIC"], []),
        ("a.cr2", ["a.jpg"], ["a.jpg"]),
        ("a.DNG", ["a.heic"], ["a.heic"]),
        ("a.cr2", ["a.jpg", "a.heic"], ["a.heic"]),
        ("a.cr2", ["a.png", "b.jpg"], []),
    ],
)
def test_a_file_belongs_to_the_photo_that_its_name_names(name, photos, expected):
    found = owners(name, photos)
    assert found == expected or len(found) == expected


def test_the_number_of_a_cut_name_tells_which_photo_was_cut():
    one, two = f"{LONG[:47]}.jpg", f"{LONG[:47]}(1).jpg"
    assert owners(f"{LONG[:46]}.json", [one, two]) == [one]
    assert owners(f"{LONG[:46]}(1).json", [one, two]) == [two]


def test_raw_photos_may_be_left_alone():
    assert find_companions(["a.jpg"], ["a.cr2"], "both") == {}
    both = find_companions(["a.jpg"], ["a.cr2", "a.xmp", "a.cr2.xmp"], "both")
    assert both == {"a.jpg": ["a.xmp"], "a.cr2": ["a.cr2.xmp", "a.xmp"]}


def test_what_belongs_to_a_raw_photo_belongs_to_its_jpeg():
    one = find_companions(["a.jpg"], ["a.cr2", "a.cr2.xmp"])
    assert one == {"a.jpg": ["a.cr2.xmp", "a.cr2"]}


def test_the_surest_file_of_metadata_comes_first():
    names = ["a.cr2", "a.jpg.json", "a.xmp", "a.jpg.xmp", "a.mov"]
    [files] = [one for name, one in find_companions(["a.jpg"], names).items() if name == "a.jpg"]
    assert files[:3] == ["a.jpg.xmp", "a.xmp", "a.jpg.json"]
    assert sorted(files[3:]) == ["a.cr2", "a.mov"]


def test_only_names_of_metadata_files_are_worth_a_look():
    names = [
        "a.xmp",
        "a.jpg.json",
        "a.jpg.suppl(1).json",
        f"{LONG[:46]}.json",
        f"{LONG[:43]}(1).json",
    ]
    assert all(map(may_be_sidecar, names))
    assert not any(map(may_be_sidecar, ["a.json", "package.json", "a.txt.json", "a.jpg", "xmp"]))


# ---------------------------------------------------------------------- in a walk


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_text(name)


def walked(root: Path, **options) -> Folder:
    tree = Tree(root, **options)
    [folder] = tree.walk()
    assert tree.count() == len(folder.files)
    return folder


def files_of(folder: Folder) -> dict[str, FileStat]:
    return {file.path: file for file in folder.files}


def test_what_belongs_to_a_photo_is_no_file_of_its_own_and_counts_for_its_changes(tmp_path):
    make(tmp_path, "a.jpg", "a.txt", "a.xmp", "a.jpg.json", "a.cr2", "b.jpg", "other.json")
    folder = walked(tmp_path)
    files = files_of(folder)
    assert list(files) == ["a.jpg", "b.jpg"]
    beside = [(tmp_path / name).stat() for name in ("a.txt", "a.xmp", "a.jpg.json")]
    assert files["a.jpg"].sidecar == (
        sum(one.st_size for one in beside),
        max(one.st_mtime_ns for one in beside),
    )
    assert files["a.jpg"].companions == ("a.xmp", "a.jpg.json", "a.cr2")
    assert files["b.jpg"].sidecar is None
    assert (folder.others, folder.unknown, folder.failures) == ({}, {}, [])


def test_a_raw_photo_of_no_jpeg_is_a_file_and_both_are_on_demand(tmp_path):
    make(tmp_path, "a.jpg", "a.cr2", "b.cr2")
    assert [*files_of(walked(tmp_path))] == ["a.jpg", "b.cr2"]
    assert [*files_of(walked(tmp_path, raw_pairs="both"))] == ["a.cr2", "a.jpg", "b.cr2"]


def test_raw_photos_that_cannot_be_read_are_passed_over_unless_they_belong_to_a_jpeg(tmp_path):
    make(tmp_path, "a.jpg", "a.cr2", "b.cr2")
    folder = walked(tmp_path, endings={".jpg"})
    assert [*files_of(folder)] == ["a.jpg"]
    assert folder.others == {FORMATS[".cr2"]: 1}


def test_a_jpeg_that_is_left_out_or_is_a_broken_link_owns_nothing(tmp_path):
    make(tmp_path, "a.cr2")
    (tmp_path / "a.jpg").symlink_to("nowhere")
    folder = next(iter(Tree(tmp_path).walk()))
    assert [*files_of(folder)] == ["a.cr2"]
    (tmp_path / "a.jpg").unlink()
    make(tmp_path, "a.jpg")
    assert [*files_of(walked(tmp_path, exclude=["*.jpg"]))] == ["a.cr2"]


def test_the_film_of_a_live_photo_comes_apart_from_its_still_on_demand(tmp_path):
    make(tmp_path, "a.heic", "a.mov", "a.mov.json")
    folder = walked(tmp_path)
    assert [*files_of(folder)] == ["a.heic"]
    still, film = folder.films["a.heic"]
    assert (still.sidecar, film.path, film.companions) == (None, "a.mov", ("a.mov.json",))
    assert files_of(folder)["a.heic"].companions == ("a.mov",)
    without = walked(tmp_path, endings=FORMATS.keys() - {".mov"})
    assert (without.films, without.others) == ({}, {})
    assert without.files[0].sidecar is None


def test_folders_and_pipes_that_are_called_like_sidecars_are_none(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.xmp").mkdir()
    os.mkfifo(tmp_path / "b.xmp")
    folder = next(iter(Tree(tmp_path).walk()))
    assert [file.sidecar for file in folder.files] == [None, None]
    assert folder.failures == []


def test_a_broken_link_in_place_of_a_sidecar_is_a_failure(tmp_path):
    make(tmp_path, "a.jpg")
    (tmp_path / "a.xmp").symlink_to("nowhere")
    folder = walked(tmp_path)
    assert folder.failures == [("a.xmp", "broken link")]
    assert folder.files[0].sidecar is None


STEMS = ("a", "a.jpg", "a(1)", "a-edited", "b")
ENDINGS = (".jpg", ".heic", ".cr2", ".dng", ".mov", ".mp4", ".xmp", ".json", "(1).json", ".txt")


@given(
    names=st.sets(st.tuples(st.sampled_from(STEMS), st.sampled_from(ENDINGS)).map("".join)),
    raw_pairs=st.sampled_from(["one", "both"]),
)
def test_every_file_is_an_item_or_belongs_to_one_or_is_neither_but_never_both(names, raw_pairs):
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), *names)
        folder = walked(Path(place), raw_pairs=raw_pairs)
    items = files_of(folder)
    belonging = {name for file in folder.files for name in file.companions}
    belonging |= {file.sidecar_name for file in folder.files if file.sidecar_name}
    films = {film.path: film for _, film in folder.films.values()}
    assert len(items) == len(folder.files)
    assert not belonging & items.keys()
    assert belonging | items.keys() <= names
    assert films.keys() <= belonging
    left = names - belonging - items.keys()
    of_films = {name for film in films.values() for name in film.companions}
    assert {ending_of(name) for name in left - of_films} <= {".xmp", ".json"}
    if raw_pairs == "both":
        assert not {ending_of(name) for name in belonging} & {".cr2", ".dng"}


@given(names=st.sets(st.tuples(st.sampled_from(STEMS), st.sampled_from(ENDINGS)).map("".join)))
def test_what_belongs_to_what_does_not_depend_on_the_order_of_names(names):
    photos = sorted(name for name in names if ending_of(name) not in {*COMPANION_ENDINGS, ".txt"})
    others = sorted(name for name in names if ending_of(name) in COMPANION_ENDINGS)
    assert find_companions(photos, others) == find_companions(photos[::-1], others[::-1])
