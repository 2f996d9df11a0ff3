"""`mmsearch encode`: shards that hold what an index would, written whole, continued later."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ToyEncoder, paint
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.collection import encode as encoding
from mmsearch.errors import InvalidOption, PathNotFound


@pytest.fixture
def photos(tmp_path: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(encoding, "ITEMS_PER_SHARD", 2)
    folder = tmp_path / "photos"
    for name in ("red", "green", "blue"):
        paint(folder / f"{name}.png", name)
    return folder


def encode(photos: Path, form: str = "parquet") -> list[Path]:
    return mmsearch.encode(photos, photos.parent / "out", format=form, model="toy").files


def imported(*shards: Path) -> dict[str, list[float]]:
    """By the name of a file, its vector in an index that the shards are imported to."""
    place = shards[0].parent.parent / "imported"
    with mmsearch.Collection(place, create=True, model="toy") as library:
        library.import_files(shards)
        space = library.store.spaces.all()[0]
        ids, rows, _ = library.store.vectors.of(space, "image")
        names = {item.id: os.path.basename(item.path) for item in library.items}
        return {names[id_]: row.tolist() for id_, row in zip(ids, rows, strict=True)}


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_importing_the_shards_gives_what_indexing_gives(photos: Path, form: str):
    shards = encode(photos, form)
    assert [one.stem for one in shards] == ["shard-00000", "shard-00001"]
    with mmsearch.index(photos, into=photos.parent / "idx", model="toy") as library:
        space = library.store.spaces.all()[0]
        ids, rows, _ = library.store.vectors.of(space, "image")
        wanted = dict(zip(ids.tolist(), rows.tolist(), strict=True))
        found = imported(*shards)
        for item in library.items:
            assert found[os.path.basename(item.path)] == wanted[item.id]


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_shards_of_another_program_are_neither_overwritten_nor_deleted(photos: Path, form: str):
    shard = photos.parent / "out" / ("shard-00007" + (".parquet" if form == "parquet" else ""))
    mine = shard if form == "parquet" else shard / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InvalidOption, match="no shard of `mmsearch encode`"):
        encode(photos, form)
    assert mine.read_text() == "mine"
    assert os.listdir(photos.parent / "out") == [shard.name]


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_without_the_index_beside_them_all_shards_are_written_anew(photos: Path, form: str):
    shards = encode(photos, form)
    if form == "npy":  # killed while it was written
        (shards[1] / "model.json").unlink()
        (shards[1] / "items.jsonl.1.part").write_bytes(b"")
    shutil.rmtree(photos.parent / "out" / ".mmsearch")
    paint(photos / "white.png", "white")
    assert encode(photos, form) == shards
    assert len(imported(*shards)) == 4


def test_npy_has_a_line_for_each_vector(photos: Path):
    first, second = encode(photos, "npy")
    vectors = [np.load(one / "vectors.npy") for one in (first, second)]
    assert [(one.shape, one.dtype) for one in vectors] == [((2, 8), "float16"), ((1, 8), "float16")]
    lines = (first / "items.jsonl").read_text().splitlines()
    assert [Path(json.loads(line)["path"]).suffix for line in lines] == [".png", ".png"]


def test_a_run_that_finds_nothing_new_writes_only_shards_that_are_missing(
    photos: Path, toy: ToyEncoder
):
    first, second = encode(photos)
    before, encoded = first.stat().st_mtime_ns, toy.encoded["image"]
    second.unlink()
    assert encode(photos) == [first, second]
    assert first.stat().st_mtime_ns == before
    assert second.is_file()
    assert toy.encoded["image"] == encoded


def test_a_folder_that_has_lost_a_file_is_written_again(photos: Path):
    first, second = encode(photos, "npy")
    before = (first / "vectors.npy").stat().st_mtime_ns
    (second / "vectors.npy").unlink()
    encode(photos, "npy")
    assert (second / "vectors.npy").is_file()
    assert (first / "vectors.npy").stat().st_mtime_ns == before


def test_only_shards_with_new_changed_or_lost_files_are_written(photos: Path):
    for number in range(3):  # seven files, two a shard
        paint(photos / f"z{number}.png", "red", (60, 30 + number))
    paint(photos / "zz.png", "blue", (60, 30))
    shards = encode(photos)

    def rewritten() -> list[str]:
        """The numbers of the shards that another run writes."""
        for one in photos.parent.glob("out/shard-*"):
            os.utime(one, (1, 1))
        return [one.stem[-1] for one in encode(photos) if one.stat().st_mtime > 1]

    stored = [path for one in shards for path in pq.read_table(one)["path"].to_pylist()]
    assert rewritten() == []
    paint(photos / "new.png", "green", (60, 30))
    assert rewritten() == ["3"]
    paint(Path(stored[2]), "green", (70, 30))
    assert rewritten() == ["1"]
    Path(stored[0]).with_suffix(".txt").write_text("a caption")
    assert rewritten() == ["0"]
    Path(stored[4]).rename(photos / "renamed.png")
    assert rewritten() == ["2"]
    Path(stored[1]).unlink()
    assert rewritten() == ["0"]
    for path in (photos / "new.png", Path(stored[6])):
        path.unlink()
    assert rewritten() == []
    left = {"renamed.png", *(Path(path).name for path in (*stored[:1], *stored[2:4], stored[5]))}
    found = sorted(photos.parent.glob("out/shard-*"))
    assert [one.stem[-1] for one in found] == ["0", "1", "2"]
    assert set(imported(*found)) == left


def test_what_only_searches_need_is_not_stored(photos: Path):
    encode(photos)
    kept = photos.parent / "out" / encoding.INDEX_FOLDER
    assert [one for one in (kept / "cache").glob("**/*") if one.is_file()] == []
    with mmsearch.open(kept) as library:
        assert library.search("red", k=1)


def test_what_was_interrupted_while_shards_were_written_is_written_anew(
    photos: Path, monkeypatch: pytest.MonkeyPatch
):
    encode(photos)
    paint(photos / "red.png", "green", (60, 30))  # another content under the same name
    export = encoding.export

    def interrupted(store: object, place: str, *more: object, **how: object) -> None:
        if place.endswith("1.parquet"):
            raise KeyboardInterrupt
        export(store, place, *more, **how)

    monkeypatch.setattr(encoding, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(photos)
    monkeypatch.setattr(encoding, "export", export)
    found = imported(*encode(photos))
    assert found["red.png"] == found["green.png"]


def test_the_other_format_needs_another_folder(photos: Path):
    encode(photos)
    with pytest.raises(InvalidOption, match="other format"):
        encode(photos, "npy")


def test_wrong_input_makes_no_folder(photos: Path):
    with pytest.raises(PathNotFound):
        mmsearch.encode(photos / "gone", photos.parent / "out")
    with pytest.raises(InvalidOption, match="parquet, npy"):
        mmsearch.encode(photos, photos.parent / "out", format="csv")
    assert not (photos.parent / "out").exists()


def test_the_command_names_shards_and_failures(photos: Path):
    (photos / "broken.png").write_bytes(b"no photo")
    out = photos.parent / "out"
    shown = CliRunner().invoke(app, ["encode", str(photos), "--out", str(out), "--model", "toy"])
    assert shown.exit_code == 4
    assert shown.stdout.splitlines() == [str(out / f"shard-0000{n}.parquet") for n in (0, 1)]
    assert f"{photos / 'broken.png'}: not an image" in shown.stderr
