"""Public benchmarks: their layouts, recalls by the papers' protocol, published figures."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ToyEncoder, paint
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.encoders import registry
from mmsearch.encoders.family import Recall
from mmsearch.errors import InvalidCaptions, InvalidOption, InvalidQuery, PathNotFound
from mmsearch.evaluation import benchmarks, run_benchmark
from mmsearch.evaluation.benchmarks import read_benchmark

CAPTIONS = {"red.png": ["red", "a red wall"], "blue.png": ["blue", "the blue sea"]}


def karpathy(folder: Path, name: str) -> None:
    images = [
        {"filename": file, "split": "test", "sentences": [{"raw": one} for one in captions]}
        for file, captions in CAPTIONS.items()
    ]
    other = {"filename": "green.png", "split": "train", "sentences": [{"raw": "green"}]}
    (folder / f"dataset_{name}.json").write_text(json.dumps({"images": [*images, other]}))


def numbered(folder: Path, name: str, separator: str = "\t") -> None:
    lines = [
        f"{file}#{number}{separator}{caption}"
        for file, captions in {**CAPTIONS, "green.png": ["green"]}.items()
        for number, caption in enumerate(captions)
    ]
    (folder / name).write_text("\n".join(lines))
    (folder / "test.txt").write_text("\n".join(CAPTIONS))


def coco(folder: Path) -> None:
    images = [{"id": number, "file_name": file} for number, file in enumerate(CAPTIONS)]
    annotations = [
        {"image_id": number, "caption": caption}
        for number, captions in enumerate(CAPTIONS.values())
        for caption in captions
    ]
    (folder / "annotations").mkdir()
    found = {"images": images, "annotations": annotations}
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(found))


def kaggle(folder: Path) -> None:
    with (folder / "captions.txt").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        rows.writerows((name, one) for name, some in CAPTIONS.items() for one in some)
    (folder / "test.txt").write_text("\n".join(CAPTIONS))


LAYOUTS = {
    "coco-karpathy": ("coco", lambda folder: karpathy(folder, "coco")),
    "coco": ("coco", coco),
    "flickr30k": ("flickr30k", lambda folder: karpathy(folder, "flickr30k")),
    "flickr30k-token": ("flickr30k", lambda folder: numbered(folder, "results_20130124.token")),
    "flickr8k": ("flickr8k", lambda folder: karpathy(folder, "flickr8k")),
    "flickr8k-token": ("flickr8k", lambda folder: numbered(folder, "Flickr8k.token.txt")),
    "flickr8k-kaggle": ("flickr8k", kaggle),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_captions_of_the_test_split_are_read_from_each_layout(layout: str, tmp_path: Path):
    name, write = LAYOUTS[layout]
    write(tmp_path)
    assert read_benchmark(name, tmp_path) == ("image", CAPTIONS)


def test_a_byte_order_mark_and_fields_that_papers_do_not_use_make_no_difference(tmp_path: Path):
    images = [
        {"filename": "a.jpg", "split": "test", "cocoid": 7, "sentences": [{"raw": " a  dog "}]},
        {"filename": "b.jpg", "split": "restval", "cocoid": 8, "sentences": [{"raw": "a cat"}]},
    ]
    written = json.dumps({"dataset": "coco", "images": images})
    (tmp_path / "dataset_coco.json").write_text(written, encoding="utf-8-sig")
    assert read_benchmark("coco", tmp_path) == ("image", {"a.jpg": ["a dog"]})


def test_a_csv_from_windows_may_have_captions_with_commas(tmp_path: Path):
    written = 'image,caption\r\na.jpg,A man , a dog .\r\na.jpg,"a dog, ""Rex"""\r\nb.jpg,a cat\r\n'
    (tmp_path / "captions.txt").write_bytes(written.encode("utf-8-sig"))
    (tmp_path / "test.txt").write_bytes("\ufeffa.jpg\r\n".encode())
    found = {"a.jpg": ["A man , a dog .", 'a dog, "Rex"']}
    assert read_benchmark("flickr8k", tmp_path) == ("image", found)


def test_a_list_of_the_split_may_leave_out_endings(tmp_path: Path):
    lines = ["image_name| comment_number| comment", "1.jpg| 0| A dog .", "2.jpg| 0| A cat ."]
    (tmp_path / "results.csv").write_text("\n".join([*lines, "1.jpg| 4   a broken row ."]))
    (tmp_path / "test.txt").write_text("1\n")
    found = {"1.jpg": ["A dog .", "4 a broken row ."]}
    assert read_benchmark("flickr30k", tmp_path) == ("image", found)


def test_clotho_and_audiocaps_are_of_sounds(tmp_path: Path):
    heads = "file_name," + ",".join(f"caption_{number}" for number in range(1, 6))
    (tmp_path / "clotho_captions_evaluation.csv").write_text(f'{heads}\nrain.wav,"a, b",c,d,e,f\n')
    assert read_benchmark("clotho", tmp_path) == ("audio", {"rain.wav": ["a, b", *"cdef"]})
    rows = "audiocap_id,youtube_id,start_time,caption\n1,abc,30,rain\n2,abc,30,a storm\n"
    (tmp_path / "test.csv").write_text(rows)
    (tmp_path / "Yabc.wav").touch()
    assert read_benchmark("audiocaps", tmp_path) == ("audio", {"Yabc.wav": ["rain", "a storm"]})


def test_what_is_no_benchmark_is_said(tmp_path: Path):
    with pytest.raises(InvalidOption, match="flickr30k, coco"):
        read_benchmark("imagenet", tmp_path)
    with pytest.raises(PathNotFound, match=r"dataset_coco\.json"):
        read_benchmark("coco", tmp_path)
    with pytest.raises(PathNotFound, match="no folder"):
        read_benchmark("coco", tmp_path / "gone")
    karpathy(tmp_path, "coco")
    with pytest.raises(PathNotFound, match="name the folder"):
        read_benchmark("coco", tmp_path / "dataset_coco.json")
    (tmp_path / "val2014").mkdir()
    with pytest.raises(PathNotFound, match=f"; name {tmp_path}$"):
        read_benchmark("coco", tmp_path / "val2014")


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, '{"images": 1}', '{"images": [{}]}', '{"images": []}']
)
def test_a_listing_of_another_form_is_an_error(content: str, tmp_path: Path):
    (tmp_path / "dataset_coco.json").write_text(content)
    with pytest.raises(InvalidCaptions, match=r"dataset_coco\.json"):
        read_benchmark("coco", tmp_path)


def test_a_listing_that_is_not_utf8_is_an_error_of_one_line(tmp_path: Path):
    (tmp_path / "captions.txt").write_bytes("image,caption\n".encode("utf-16") * 1000)
    (tmp_path / "test.txt").write_text("a.jpg")
    with pytest.raises(InvalidCaptions, match=r"it is not UTF-8 text$"):
        read_benchmark("flickr8k", tmp_path)


def test_a_row_that_is_cut_short_is_an_error(tmp_path: Path):
    heads = "file_name," + ",".join(f"caption_{number}" for number in range(1, 6))
    (tmp_path / "clotho_captions_evaluation.csv").write_text(f"{heads}\nrain.wav,a,b\n")
    with pytest.raises(InvalidCaptions, match="a value is missing"):
        read_benchmark("clotho", tmp_path)


def test_captions_without_the_list_of_their_split_are_an_error(tmp_path: Path):
    (tmp_path / "captions.txt").write_text("image,caption\na.jpg,a dog\n")
    with pytest.raises(InvalidCaptions, match=r"list of test files is missing"):
        read_benchmark("flickr8k", tmp_path)


@pytest.fixture
def folder(tmp_path: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    photos = tmp_path / "data"
    for name in ("red", "blue", "green"):
        paint(photos / "images" / f"{name}.png", name)
    karpathy(photos, "coco")
    return photos


def recalls(result: benchmarks.BenchmarkResult) -> dict[tuple[str, str], float]:
    return {(direction, measure): value for direction, measure, value, *_ in result.rows()}


def test_files_that_cannot_be_used_are_an_error_that_names_the_index(folder: Path):
    for photo in (folder / "images").iterdir():
        photo.write_bytes(b"")
    place = folder.parent / "my idx"
    with (
        mmsearch.Collection(place, create=True, model="toy") as library,
        pytest.raises(InvalidQuery, match=f"mmsearch errors -i '{place}'"),
    ):
        run_benchmark(library, "coco", folder)


def test_both_directions_are_measured_on_the_test_split_alone(folder: Path):
    with mmsearch.Collection(folder.parent / "idx", create=True, model="toy") as library:
        library.add(folder / "images" / "green.png")
        result = run_benchmark(library, "coco", folder)
    assert (result.model, result.files, result.missing) == ("toy", 2, ())
    assert [len(one.outcomes) for one in result.directions] == [4, 2]
    found = recalls(result)
    assert found["text→image", "Recall@1"] == found["image→text", "Recall@1"] == 1


def test_a_missing_file_is_named(folder: Path):
    (folder / "images" / "blue.png").unlink()
    with mmsearch.Collection(folder.parent / "idx", create=True, model="toy") as library:
        assert run_benchmark(library, "coco", folder).missing == ("blue.png",)
        (folder / "images" / "red.png").unlink()
        with pytest.raises(InvalidQuery, match="none of the 2 files"):
            run_benchmark(library, "coco", folder)


def test_the_command_shows_published_recalls_beside_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    known = replace(registry.recommended()[0], name="toy", recall={"coco": Recall(75.0, None)})
    monkeypatch.setattr(benchmarks, "recommended", lambda: [known])
    monkeypatch.setattr(registry, "default", lambda: "toy")
    shown = CliRunner().invoke(app, ["eval", "--benchmark", "coco", str(folder), "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert (found["model"], found["source"]) == ("toy", known.source)
    assert [one["published"] for one in found["recalls"]] == [0.75, None, None, None, None, None]
    again = CliRunner().invoke(app, ["eval", "--benchmark", "coco", str(folder)])
    assert again.stdout.startswith("text→image\tRecall@1\t1\t1\t1\t0.75\n")


def test_a_wrong_folder_makes_no_index(folder: Path):
    shown = CliRunner().invoke(app, ["eval", "--benchmark", "clotho", str(folder)])
    assert shown.exit_code == 2
    assert "clotho_captions_evaluation.csv" in shown.stderr
    assert not (folder.parent / "home").exists()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3))
def test_ranks_are_those_of_a_sorted_list(seed: int, files: int, captions: int):
    random = np.random.default_rng(seed)
    rows, texts = (random.normal(size=(n, 4)).astype(np.float32) for n in (files, files * captions))
    rows, texts = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (rows, texts))
    owner = np.repeat(np.arange(files), captions)
    by_rank = [
        np.argsort(-(rows @ text)).tolist().index(own) + 1
        for text, own in zip(texts, owner, strict=True)
    ]
    assert list(benchmarks._ranks(texts, rows, owner)) == by_rank
    orders = [np.argsort(-(texts @ row)).tolist() for row in rows]
    best = [min(map(order.index, np.flatnonzero(owner == n))) for n, order in enumerate(orders)]
    assert list(benchmarks._first_ranks(rows, texts, owner)) == [rank + 1 for rank in best]
