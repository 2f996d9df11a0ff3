"""Moved folders are followed, and nothing that is stored of them is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import paint
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.errors import InvalidOption, PathNotFound
from mmsearch.storage import ItemRecord
from mmsearch.storage.sqlite import Catalog


def places(library: mmsearch.Collection) -> dict[str, int]:
    """Item ids by path."""
    return {item.path: item.id for item in library.items}


def below(root: Path, known: dict[str, int]) -> dict[str, int]:
    """Ids by the path from a folder."""
    return {os.path.relpath(path, root): id_ for path, id_ in known.items()}


@pytest.fixture
def idx(toy, photos, tmp_path: Path) -> Path:
    mmsearch.index(photos, into=tmp_path / "idx").close()
    return tmp_path / "idx"


def test_a_moved_folder_keeps_ids_tags_and_vectors_and_nothing_is_encoded(
    toy, idx, photos, tmp_path
):
    with mmsearch.open(idx) as library:
        library.tag(["red"], min_confidence=0.1)
        before = below(photos, places(library))
        photos.rename(tmp_path / "archive")
        seen = dict(toy.encoded)
        assert library.relocate(photos, tmp_path / "archive") == 3
        assert below(tmp_path / "archive", places(library)) == before
        tagged = library.search("red", where={"tag": "red"})
        report = library.add()
    assert toy.encoded["image"] == seen["image"]
    assert tagged[0].path == str(tmp_path / "archive" / "red.png")
    assert (report.unchanged, report.added, report.removed, report.warnings) == (3, 0, 0, [])


def test_a_moved_mount_point_takes_all_that_is_indexed_below_it(toy, tmp_path):
    old, new = tmp_path / "mnt" / "disk", tmp_path / "media" / "disk"
    for name in ("a", "b/c"):
        paint(old / name / "red.png", "red")
    with mmsearch.index([old / "a", old / "b" / "c"], into=tmp_path / "idx") as library:
        ids = below(old, places(library))
        new.parent.mkdir()
        old.rename(new)
        assert library.relocate(old, new) == 2
        assert below(new, places(library)) == ids
        assert library.add().unchanged == 2


def test_a_folder_inside_an_indexed_one_may_move_out_of_it(idx, photos, tmp_path):
    with mmsearch.open(idx) as library:
        ids = places(library)
        (photos / "deep").rename(tmp_path / "elsewhere")
        assert library.relocate(photos / "deep", tmp_path / "elsewhere") == 1
        assert (
            places(library)[str(tmp_path / "elsewhere" / "blue.png")]
            == ids[str(photos / "deep" / "blue.png")]
        )
        report = library.add()  # it is an index root there now
    assert (report.unchanged, report.added, report.removed) == (3, 0, 0)


def test_a_folder_may_move_within_an_indexed_one(idx, photos):
    with mmsearch.open(idx) as library:
        ids = places(library)
        (photos / "x").mkdir()
        (photos / "deep").rename(photos / "x" / "deeper")
        library.relocate(photos / "deep", photos / "x" / "deeper")
        now = places(library)
        assert (
            now[str(photos / "x" / "deeper" / "blue.png")] == ids[str(photos / "deep" / "blue.png")]
        )
        assert library.add().unchanged == 3
        assert library.status()["sources"] == [str(photos)]


def test_a_folder_may_move_into_one_of_its_own_name(idx, photos):
    with mmsearch.open(idx) as library:
        ids = places(library)
        (photos / "deep").rename(photos / "held")
        (photos / "deep").mkdir()
        (photos / "held").rename(photos / "deep" / "deep")
        library.relocate(photos / "deep", photos / "deep" / "deep")
        assert (
            places(library)[str(photos / "deep" / "deep" / "blue.png")]
            == ids[str(photos / "deep" / "blue.png")]
        )
        assert library.add().unchanged == 3


def test_sources_never_come_to_lie_inside_one_another(toy, tmp_path):
    paint(tmp_path / "a" / "red.png", "red")
    paint(tmp_path / "b" / "green.png", "green")
    with mmsearch.index([tmp_path / "a", tmp_path / "b"], into=tmp_path / "idx") as library:
        ids = sorted(places(library).values())
        (tmp_path / "a").rename(tmp_path / "b" / "inner")
        library.relocate(tmp_path / "a", tmp_path / "b" / "inner")
        assert library.status()["sources"] == [str(tmp_path / "b")]
        assert sorted(places(library).values()) == ids
        assert library.add().unchanged == 2
        (tmp_path / "b").rename(tmp_path / "c")
        paint(tmp_path / "other" / "deep" / "blue.png", "blue")
        library.add([tmp_path / "other" / "deep"])
        (tmp_path / "c").rename(tmp_path / "held")
        (tmp_path / "other" / "deep").rename(tmp_path / "held" / "deep")
        (tmp_path / "other").rmdir()
        (tmp_path / "held").rename(tmp_path / "other")
        library.relocate(tmp_path / "b", tmp_path / "other")
        assert library.status()["sources"] == [str(tmp_path / "other")]
        assert library.add().unchanged == 3


def test_what_was_indexed_at_the_new_place_gives_way_to_what_moves_there(idx, photos, tmp_path):
    with mmsearch.open(idx) as library:
        ids = below(photos, places(library))
        photos.rename(tmp_path / "archive")
        paint(tmp_path / "archive" / "red.png", "white")
        paint(tmp_path / "archive" / "new.png", "white", (9, 9))
        assert library.add([tmp_path / "archive"]).added == 4
        assert len(library) == 7
        assert library.relocate(photos, tmp_path / "archive") == 2
        now = below(tmp_path / "archive", places(library))
        assert len(now) == 4
        assert {name: now[name] for name in ("green.png", "deep/blue.png")} == {
            name: ids[name] for name in ("green.png", "deep/blue.png")
        }
        assert now["red.png"] != ids["red.png"]
        assert library.add().unchanged == 4
        assert len(library.search("green", k=10)) == 4


def test_files_that_were_given_one_by_one_are_followed(toy, photos, tmp_path):
    with mmsearch.index([photos / "red.png"], into=tmp_path / "idx") as library:
        photos.rename(tmp_path / "archive")
        library.relocate(photos, tmp_path / "archive")
        assert library.add().unchanged == 1
        assert len(library) == 1


def test_failures_move_along(toy, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no picture")
    with mmsearch.index(photos, into=tmp_path / "idx") as library:
        photos.rename(tmp_path / "archive")
        library.relocate(photos, tmp_path / "archive")
        assert [failure.path for failure in library.failures] == [
            str(tmp_path / "archive" / "broken.png")
        ]


def test_items_are_found_by_the_new_name_of_a_folder_and_not_by_the_old_one(idx, photos, tmp_path):
    photos.rename(tmp_path / "archive")
    with mmsearch.open(idx) as library:
        assert len(library.store.words.search("photos", 5)) == 3
        library.relocate(photos, tmp_path / "archive")
        assert len(library.store.words.search("archive", 5)) == 3
        assert library.store.words.search("photos", 5) == []


def test_filters_by_path_follow(idx, photos, tmp_path):
    photos.rename(tmp_path / "archive")
    with mmsearch.open(idx) as library:
        where = {"path": {"$glob": f"{photos}/*"}}
        assert len(library.search("red", where=where)) == 3
        library.relocate(photos, tmp_path / "archive")
        assert library.search("red", where=where) == []
        assert len(library.search("red", where={"path": {"$glob": "*/archive/*"}})) == 3


def test_a_wrong_folder_is_refused_unless_it_is_forced(idx, photos, tmp_path):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "red.png").write_bytes((photos / "red.png").read_bytes())
    command = ["relocate", str(photos), str(tmp_path / "wrong"), "-i", f"{idx}/"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "only 1 of 3 stored files that were looked for" in refused.output
    with mmsearch.open(idx) as library:
        assert library.status()["sources"] == [str(photos)]
    forced = CliRunner().invoke(app, [*command, "--force"])
    assert (forced.exit_code, forced.output) == (0, "relocated 3\n")


def test_a_folder_that_is_not_there_is_an_error(idx, photos, tmp_path):
    with mmsearch.open(idx) as library:
        with pytest.raises(PathNotFound, match="there is no folder"):
            library.relocate(photos, tmp_path / "nowhere")
        with pytest.raises(PathNotFound, match=f"it holds: {photos}"):
            library.relocate(tmp_path / "nowhere", tmp_path)
        with pytest.raises(InvalidOption, match="is where it was"):
            library.relocate(photos, photos)


def test_names_that_are_not_utf8_are_followed(toy, tmp_path):
    odd = os.fsdecode(b"caf\xe9 \xf0\x9f\x90")
    try:
        paint(tmp_path / "photos" / odd / "deep" / odd / "red.png", "red")
    except OSError:
        pytest.skip("this file system takes no such names")
    with mmsearch.index(tmp_path / "photos", into=tmp_path / "idx") as library:
        (tmp_path / "photos" / odd).rename(tmp_path / "new")
        library.relocate(tmp_path / "photos" / odd, tmp_path / "new")
        (path,) = places(library)
        assert path == str(tmp_path / "new" / "deep" / odd / "red.png")
        assert library.add().unchanged == 1


# ---------------------------------------------------------------------- laws

NAMES = st.sampled_from(["a", "ab", "b", "é"])
FOLDERS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


@settings(max_examples=60)
@given(
    roots=st.lists(FOLDERS, min_size=1, max_size=3),
    files=st.lists(st.tuples(FOLDERS, NAMES), min_size=1, max_size=6, unique=True),
    old=FOLDERS,
    new=FOLDERS,
)
def test_every_item_is_where_its_old_path_leads(tmp_path_factory, roots, files, old, new):
    catalog = Catalog(tmp_path_factory.mktemp("law") / "catalog.db")
    for root in roots:
        catalog.sources.add(root)
    stored = {}
    for folder, name in files:
        source = catalog.sources.of(folder)
        if source is not None:
            hash_ = f"{folder}/{name}".encode()
            catalog.put([ItemRecord(source[0], source[2], name, "text", (1, 1), hash_, texts=())])
            stored[f"{folder}/{name}"] = hash_
    before = {item.path: item.id for item in catalog.items.all()}
    assert before.keys() == stored.keys()
    catalog.relocation.move(old, new)
    after = {item.id: item.path for item in catalog.items.all()}
    moves = {path: path.startswith(f"{old}/") for path in before}
    there = {path for path, moved in moves.items() if not moved}
    for path, id_ in before.items():
        target = new + path[len(old) :] if moves[path] else path
        if moves[path] and target in there:
            assert id_ not in after  # other content: what was read there stays
        else:
            assert after[id_] == target
    found = [path for _, path in catalog.sources.all()]
    assert not [(one, other) for one in found for other in found if other.startswith(one + "/")]
    catalog.close()
