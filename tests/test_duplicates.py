"""Copies over a whole index, against comparing all with all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ToyEncoder, paint, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.errors import InvalidOption
from mmsearch.search import duplicate_threshold as threshold
from mmsearch.search import near_pairs as pair_search
from mmsearch.search.near_pairs import leader_groups, near_pairs


def unit(matrix: np.ndarray) -> np.ndarray:
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def clustered(count: int, copies: int, seed: int = 0) -> np.ndarray:
    """Rows about some centres, the last of which are copies of others, a little changed."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((20, 24))
    near = centres[chance.integers(20, size=count - copies)]
    rows = unit(near + chance.standard_normal(near.shape))
    changed = rows[chance.integers(len(rows), size=copies)]
    return np.concatenate([rows, unit(changed + 0.03 * chance.standard_normal(changed.shape))])


def all_with_all(matrix: np.ndarray, least: float) -> set[tuple[int, int]]:
    later, earlier = np.nonzero(np.tril(matrix @ matrix.T, -1) >= least)
    return set(zip(later.tolist(), earlier.tolist(), strict=True))


def found_in(pairs: pair_search.Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.later.tolist(), pairs.earlier.tolist(), strict=True))


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(0, 9), st.sampled_from([1, 7, 2048]))
def test_of_few_rows_each_pair_is_found(count, seed, block):
    matrix = clustered(count + 5, 5, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_search, "BLOCK", block)
        patch.setattr(pair_search, "MAX_NEIGHBOURS", 1000)
        assert found_in(near_pairs(matrix, 0.9)) == all_with_all(matrix, 0.9)


def test_of_many_rows_nearly_each_pair_is_found_and_all_are_true(monkeypatch):
    monkeypatch.setattr(pair_search, "EXACT", 100)
    monkeypatch.setattr(pair_search, "MAX_NEIGHBOURS", 1000)
    matrix = clustered(4000, 400)
    found, true = found_in(near_pairs(matrix, 0.95)), all_with_all(matrix, 0.95)
    assert len(true) >= 400
    assert found <= true
    assert len(found) >= 0.98 * len(true)


def test_the_work_grows_slower_than_the_square(monkeypatch):
    import faiss

    monkeypatch.setattr(pair_search, "EXACT", 100)
    compared = []
    for count in (2_000, 8_000):
        faiss.cvar.indexIVF_stats.reset()
        near_pairs(clustered(count, 10), 0.95)
        compared.append(faiss.cvar.indexIVF_stats.ndis)
    assert compared[1] < 12 * compared[0]  # 4 times the rows; all with all would be 16


def test_of_many_copies_of_one_row_the_earliest_are_kept(monkeypatch):
    monkeypatch.setattr(pair_search, "MAX_PAIRS", 50)
    pairs = near_pairs(np.ones((60, 4), np.float16) / 2, 0.9)
    assert pairs.earlier[pairs.later == 59].tolist() == list(range(pair_search.MAX_NEIGHBOURS))
    assert leader_groups(pairs) == {0: [(row, pytest.approx(1.0)) for row in range(1, 60)]}


@given(st.integers(2, 60), st.integers(0, 99))
def test_each_row_of_a_group_is_like_its_leader(count, seed):
    matrix = unit(np.random.default_rng(seed).standard_normal((count, 3)))
    groups = leader_groups(near_pairs(matrix, 0.9))
    rows = [row for leader, others in groups.items() for row in (leader, *(r for r, _ in others))]
    assert len(rows) == len(set(rows))
    for leader, others in groups.items():
        for row, cosine in others:
            assert row > leader
            assert cosine == pytest.approx(float(matrix[row] @ matrix[leader]), abs=1e-5)
            assert cosine >= 0.9 - 1e-6


def test_a_chain_of_small_changes_is_cut():
    angles = np.radians([0.0, 10, 20, 30])
    matrix = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    groups = leader_groups(near_pairs(matrix, float(np.cos(np.radians(10.5)))))
    assert {leader: [row for row, _ in rest] for leader, rest in groups.items()} == {0: [1], 2: [3]}


def test_no_rows_make_no_groups():
    assert leader_groups(near_pairs(np.zeros((0, 4), np.float32), 0.9)) == {}


# ---------------------------------------------------------------------- an index's files


def told(groups) -> list[tuple[str, list[str]]]:
    return [
        (Path(group.keep.path).name, sorted(Path(copy.item.path).name for copy in group.copies))
        for group in groups
    ]


@pytest.fixture
def library(toy, photos: Path, tmp_path: Path):
    """Three colours; the red one once more as it is, and once smaller and a little changed."""
    shutil.copy(photos / "red.png", photos / "red again.png")
    os.utime(photos / "red again.png", (0, 0))
    Image.new("RGB", (20, 15), (220, 50, 20)).save(photos / "small red.jpg")
    with mmsearch.index(photos, tmp_path / "i") as made:
        yield made


def test_copies_stand_behind_the_largest_and_oldest_file(library):
    assert told(library.duplicates(threshold=0.98)) == [
        ("red again.png", ["red.png", "small red.jpg"])
    ]


def test_each_copy_says_whether_its_content_is_the_same_and_how_like_it_is(library):
    (group,) = library.duplicates(threshold=0.98)
    same, near = group.copies
    assert (same.same, same.cosine) == (True, 1.0)
    assert not near.same
    assert 0.98 <= near.cosine < 0.9999
    assert group.wasted == sum(Path(copy.item.path).stat().st_size for copy in group.copies)


def test_same_takes_only_files_of_one_content(library):
    assert told(library.duplicates(same=True)) == [("red again.png", ["red.png"])]


def test_a_higher_threshold_finds_less(library):
    assert told(library.duplicates(threshold=0.9999)) == [("red again.png", ["red.png"])]


def test_a_copy_of_a_copy_is_told_with_it(library, photos):
    shutil.copy(photos / "small red.jpg", photos / "smaller red.jpg")
    library.add()
    (group,) = library.duplicates(threshold=0.98)
    assert told([group]) == [("red again.png", ["red.png", "small red.jpg", "smaller red.jpg"])]
    assert [copy.same for copy in group.copies] == [True, False, False]


def test_an_index_without_copies_has_no_groups(toy, photos, tmp_path):
    with mmsearch.index(photos, tmp_path / "i") as library:
        assert library.duplicates() == []


def test_a_picture_and_a_text_are_never_copies(toy, tmp_path):
    paint(tmp_path / "p" / "red.png", "red")
    (tmp_path / "p" / "note.txt").write_text("red")
    with mmsearch.index(tmp_path / "p", tmp_path / "i") as library:
        assert library.duplicates(threshold=0.0) == []


def test_sounds_of_other_lengths_are_no_copies(toy, tmp_path):
    for name, seconds in (("one", 5.0), ("same", 5.1), ("longer", 10.0)):
        tone(tmp_path / "p" / f"{name}.wav", "low", seconds=seconds)
    with mmsearch.index(tmp_path / "p", tmp_path / "i", model="ear") as library:
        assert told(library.duplicates(threshold=0.9)) == [("same.wav", ["one.wav"])]


def test_progress_counts_the_items_compared(library):
    seen: list[tuple[int, int | None]] = []
    library.duplicates(threshold=0.9, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)  # of the two of one content, one is compared


@pytest.mark.parametrize("given", [-0.1, 1.5])
def test_a_threshold_is_a_cosine(library, given):
    with pytest.raises(InvalidOption, match="cosine"):
        library.duplicates(threshold=given)


# ---------------------------------------------------------------------- the threshold


def test_the_built_in_models_threshold_is_known(library):
    space = library.store.spaces.all()[0]
    known = {(space.name, "image"): 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threshold, "KNOWN", known)
        assert threshold.threshold_of(library.store, space) == 0.5


def varied(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number in range(count):
        pixels = chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{number}.png")


def test_another_models_threshold_is_measured_on_the_index_once(toy: ToyEncoder, tmp_path):
    varied(tmp_path / "p", 12)
    with mmsearch.index(tmp_path / "p", tmp_path / "i") as library:
        catalog, space = library.store, library.store.spaces.all()[0]
        first = threshold.threshold_of(catalog, space, lambda _: toy)
        assert 0.9 < first <= 1
        encoded = dict(toy.encoded)
        assert threshold.threshold_of(catalog, space, lambda _: toy) == first
        assert threshold.threshold_of(catalog, space) == first
        assert toy.encoded == encoded


def test_too_few_pictures_leave_the_threshold_wary(library, toy):
    catalog, space = library.store, library.store.spaces.all()[0]
    wary = threshold.UNMEASURED["image"]
    assert threshold.threshold_of(catalog, space, lambda _: toy) == wary


def test_pictures_that_are_gone_are_passed_over(toy, tmp_path):
    varied(tmp_path / "p", 12)
    with mmsearch.index(tmp_path / "p", tmp_path / "i") as library:
        shutil.rmtree(tmp_path / "p")
        space = library.store.spaces.all()[0]
        assert threshold.measured(library.store, space, toy) is None


def test_altered_copies_differ_from_the_picture_and_from_each_other(tmp_path):
    varied(tmp_path / "p", 1)
    picture = Image.open(tmp_path / "p" / "0.png").convert("RGB")
    copies = threshold.altered(picture)
    assert [copy.size for copy in copies] == [(64, 64), (32, 32), (62, 62), (64, 64)]
    brighter = ImageEnhance.Brightness(picture).enhance(1.1)
    assert copies[3].tobytes() == brighter.tobytes()
    assert len({copy.tobytes() for copy in copies}) == 4


# ---------------------------------------------------------------------- the command


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, ["duplicates", *arguments])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


@pytest.fixture
def indexed(library, tmp_path, monkeypatch) -> str:
    monkeypatch.setitem(threshold.UNMEASURED, "image", 0.98)
    return str(tmp_path / "i")


def test_a_pipe_gets_a_line_for_each_file(indexed, photos):
    rows = [line.split("\t") for line in run("-i", indexed).stdout.splitlines()]
    assert [row[:2] for row in rows] == [["1", "keep"], ["1", "same"], ["1", "near"]]
    assert rows[0][-1] == str(photos / "red again.png")


def test_json_tells_what_to_keep_and_what_is_wasted(indexed):
    (group,) = json.loads(run("-i", indexed, "--json").stdout)
    assert group["keep"]["path"].endswith("red again.png")
    assert [copy["same"] for copy in group["copies"]] == [True, False]
    assert group["wasted"] == sum(copy["size"] for copy in group["copies"])


def test_paths_are_those_of_the_copies_alone(indexed, photos):
    found = run("-i", indexed, "-0").stdout.split("\0")
    assert found == [str(photos / "red.png"), str(photos / "small red.jpg"), ""]


def test_json_lines_are_the_groups_of_the_array(indexed):
    groups = json.loads(run("-i", indexed, "--json").stdout)
    assert list(map(json.loads, run("-i", indexed, "--jsonl").stdout.splitlines())) == groups


def test_paths_are_a_path_a_line(indexed):
    expected = run("-i", indexed, "-0").stdout.replace("\0", "\n")
    assert run("-i", indexed, "-f").stdout == expected


@pytest.mark.parametrize("flags", [["--same"], ["--threshold", "1"]])
def test_what_is_only_like_another_is_left_out_when_that_is_asked_for(indexed, flags):
    rows = [line.split("\t") for line in run("-i", indexed, *flags).stdout.splitlines()]
    assert [row[1] for row in rows] == ["keep", "same"]


def test_nothing_is_deleted_and_it_says_so(indexed, photos):
    before = sorted(photos.rglob("*"))
    assert "nothing was deleted" in run("-i", indexed).stderr
    assert sorted(photos.rglob("*")) == before


def test_no_copies_end_with_1(toy, photos):
    CliRunner().invoke(app, ["index", str(photos)])
    assert "no copies" in run(code=1).stderr
    assert json.loads(run("--json", code=1).stdout) == []
