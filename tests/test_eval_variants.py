"""Runtimes, precisions and kinds of vector index, compared on the same queries."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ToyEncoder, paint
from PIL import Image
from test_benchmarks import CAPTIONS, karpathy
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.encoders import Runtime
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY
from mmsearch.errors import InvalidOption, InvalidQuery
from mmsearch.evaluation import (
    benchmark_variants,
    evaluate,
    evaluate_variants,
    run_benchmark,
    variants_of,
)
from mmsearch.evaluation.variants import kinds_of
from mmsearch.storage.place import index_place

PHOTOS = 40


class Coarse(ToyEncoder):
    """The toy in int8, which gives everything the same vector."""

    notes = ("its check failed",)

    def encode(self, modality, batch):
        rows = super().encode(modality, batch)
        rows[:] = np.eye(self.dim, dtype=np.float32)[0]
        return rows


class Family(SingleModel):
    """The toy in two precisions on ONNX Runtime, and in one on torch."""

    has_runtimes = True

    def __init__(self) -> None:
        super().__init__("toy", ToyEncoder)
        self.encoders: dict[Runtime, ToyEncoder] = {}

    def best_here(self) -> str:
        return "toy"

    def load(self, name: str, how: Runtime) -> ToyEncoder:
        if (how.runtime, how.precision) == ("torch", "int8"):
            raise InvalidOption("int8 cannot run on torch")
        kind = Coarse if how.precision == "int8" else ToyEncoder
        return self.encoders.setdefault(how, kind())


@pytest.fixture
def family(toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch) -> Family:
    family = Family()
    monkeypatch.setitem(REGISTRY, "toy", family)
    return family


@pytest.fixture
def folder(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Photos of random colours, indexed with a caption each, and pairs of a few of them."""
    folder, chance = tmp_path / "photos", np.random.default_rng(0)
    for number, colour in enumerate(chance.integers(0, 256, (PHOTOS, 3)).tolist()):
        (folder / "deep").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), tuple(colour)).save(folder / "deep" / f"{number}.png")
    for name in ("red", "green", "blue"):
        paint(folder / "deep" / f"{name}.png", name)
    (folder / "captions.tsv").write_text("red.png\ta wall in red\n")
    mmsearch.index(folder, captions=folder / "captions.tsv").close()
    rows = [(colour, f"deep/{colour}.png") for colour in ("red", "green", "blue")]
    (folder / "pairs.tsv").write_text("".join(f"{query}\t{file}\n" for query, file in rows))
    monkeypatch.chdir(folder)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    yield folder
    assert not any((tmp_path / "scratch").iterdir())  # nothing temporary is left


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


def files_in(home: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and path.suffix not in (".db-shm", ".db-wal")
    }


# ---------------------------------------------------------------------- kinds


def test_kinds_of_index_are_compared_with_the_first_and_leave_the_index_as_it_was(folder):
    home = folder.parent / "home"
    before = files_in(home)
    found = json.loads(
        run("pairs.tsv", "--kind", "exact,1-bit", "--kind", "HNSW8", "--json").stdout
    )
    assert [one["name"] for one in found["variants"]] == ["exact", "1-bit", "HNSW8"]
    assert [(one["a"], one["b"]) for one in found["differences"]] == [
        ("exact", "1-bit"),
        ("exact", "HNSW8"),
    ]
    exact, codes, graph = found["variants"]
    assert exact["exact_recall"] == codes["exact_recall"] == graph["exact_recall"] == 1
    assert exact["bytes_per_vector"] == 2 * (8 + 8)
    assert codes["bytes_per_vector"] == 64 / 8 + 8
    assert graph["bytes_per_vector"] > 4 * (8 + 8)
    assert all(one["query_ms"] > 0 and one["items"] == PHOTOS + 3 for one in found["variants"])
    assert files_in(home) == before


def test_without_exact_among_the_kinds_recall_is_against_it_all_the_same(folder):
    found = json.loads(run("pairs.tsv", "--kind", "1-bit,SQ8", "--json").stdout)
    assert [one["name"] for one in found["variants"]] == ["1-bit", "SQ8"]
    assert [one["exact_recall"] for one in found["variants"]] == [1, 1]


def test_to_a_pipe_differences_and_costs_are_one_per_line(folder):
    rows = [
        line.split("\t") for line in run("pairs.tsv", "--kind", "exact,1-bit").stdout.split("\n")
    ]
    assert rows[0][:3] == ["1-bit", "text→image", "Recall@1"]
    assert rows[0][-1] == "no difference shown"
    assert ["exact", "bytes_per_vector", "32"] in rows


def test_to_a_terminal_a_comparison_and_costs_are_tables(folder, monkeypatch):
    monkeypatch.setattr("mmsearch.cli.evaluate.terminal", lambda: True)
    shown = run("pairs.tsv", "--kind", "exact,1-bit").stdout
    assert shown.startswith("text→image: 3 queries, 3 independent; A: exact, B: 1-bit\n")
    assert "\nbytes a vector           32       16\n" in shown
    assert "\nrecall@10 against exact  100.0 %  100.0 %\n" in shown


def test_a_kind_that_needs_more_vectors_is_named(folder):
    said = run("pairs.tsv", "--kind", "exact,IVF4096,Flat").stderr
    assert "IVF4096,Flat cannot be made of 43 vectors" in said


@pytest.mark.parametrize(
    ("written", "kinds"),
    [
        (["exact,1-bit"], ["exact", "1-bit"]),
        (["exact, RR64,IVF8,RaBitQ ,auto"], ["exact", "RR64,IVF8,RaBitQ", "auto"]),
        (["exact", "HNSW32", "PCA64,SQ8", "exact"], ["exact", "HNSW32", "PCA64,SQ8"]),
        ([], []),
    ],
)
def test_commas_separate_kinds_but_not_the_parts_of_a_factory_string(written, kinds):
    assert kinds_of(written) == kinds


def test_for_an_index_on_a_server_the_error_says_how_to_compare_kinds(folder):
    with mmsearch.open() as library:
        library.index.place = index_place("postgresql://host/db")
        with pytest.raises(InvalidOption, match=r"eval PAIRS --compare default index=COPY"):
            evaluate_variants(library, "pairs.tsv", variants_of(kinds=["exact", "1-bit"]))


# ---------------------------------------------------------------------- runtimes and precisions


def test_precisions_are_compared_on_the_files_to_be_found_encoded_again(folder, family):
    home = folder.parent / "home"
    before, family.encoders = files_in(home), {}
    given = ["--precision", "fp32,int8", "--with", "lexical=off"]
    result = run("pairs.tsv", *given, "--json")
    found = json.loads(result.stdout)
    assert [one["name"] for one in found["variants"]] == ["fp32", "int8"]
    assert [one["precision"] for one in found["variants"]] == ["fp32", "int8"]
    assert not any("once" in one for one in found["variants"])  # that is none of the user's
    assert [one["items"] for one in found["variants"]] == [3, 3]
    assert found["encoded"] == 3
    assert "only the 3 right files are searched" in result.stderr
    assert "encoding 3 files with toy (int8)" in result.stderr
    assert "int8: its check failed" in result.stderr
    assert all(one["photos_per_second"] > 0 for one in found["variants"])
    first, second = (one["directions"][0]["measures"] for one in found["variants"])
    assert (first["Recall@1"]["value"], second["Recall@1"]["value"]) == (1, 1 / 3)
    assert files_in(home) == before


def test_captions_go_with_the_files_that_are_encoded_again(folder):
    (folder / "pairs.tsv").write_text("a wall in red\tred.png\ngreen\tgreen.png\n")
    with mmsearch.open() as library:
        here = evaluate(library, "pairs.tsv", direction="both")
        found = evaluate_variants(
            library, "pairs.tsv", variants_of(precisions=["fp32", "int8"]), direction="both"
        )
    names = [direction.name for direction in here.directions]
    assert names == ["text→image", "image→text"]
    assert [one.name for one in found.results[0].directions] == names
    assert found.results[0].verbatim == here.verbatim == 1


def test_every_combination_that_can_run_is_compared(folder):
    given = ["--runtime", "onnx, torch", "--precision", "fp32,int8", "--kind", "exact,1-bit"]
    result = run("pairs.tsv", *given, "--json")
    assert "torch int8 exact is left out: int8 cannot run on torch" in result.stderr
    names = [one["name"] for one in json.loads(result.stdout)["variants"]]
    assert names == [
        f"{how} {kind}"
        for how in ("onnx fp32", "onnx int8", "torch fp32")
        for kind in ("exact", "1-bit")
    ]


def test_deleted_files_cannot_be_encoded_again(folder):
    for path in (folder / "deep").glob("*.png"):
        path.unlink()
    with mmsearch.open() as library, pytest.raises(InvalidQuery, match="encoded again"):
        evaluate_variants(library, "pairs.tsv", variants_of(precisions=["fp32", "int8"]))


def test_without_variants_or_an_index_to_build_kinds_for_there_is_an_error(folder):
    with mmsearch.open() as library, pytest.raises(InvalidOption, match="nothing to compare"):
        evaluate_variants(library, "pairs.tsv", variants_of())
    with pytest.raises(InvalidOption, match="compared on an index: give one"):
        benchmark_variants(None, "coco", folder, variants_of(kinds=["exact", "1-bit"]))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--kind", "exact"], "exact is compared with nothing"),
        (["--kind", ""], "missing in '': give one of 'auto', 'exact', '1-bit', or a FAISS"),
        (["--kind", ","], "missing in ',': give one of"),
        (["--kind", "exact,"], "missing in 'exact,': give one of"),
        (["--kind", "exact,rabitq"], "'auto', 'exact', '1-bit', or a FAISS factory string"),
        (["--precision", "fp32,int4"], "auto, fp32, bf16, int8, not 'int4'"),
        (["--runtime", "torch,jax"], "auto, torch, onnx, not 'jax'"),
        (["--runtime", "torch", "--precision", "fp32,int8"], "int8 cannot run on torch"),
        (["--kind", "exact,1-bit", "--compare", "default", "lexical=off"], "leave one of them out"),
    ],
)
def test_a_usage_error_is_one_line_and_exits_with_2(folder, arguments, reason):
    result = run("pairs.tsv", *arguments, code=2)
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_model_with_a_single_runtime_is_an_error_that_says_so(folder, toy, monkeypatch):
    monkeypatch.setitem(REGISTRY, "toy", SingleModel("toy", ToyEncoder))
    reason = "toy runs in one way and one precision"
    assert reason in run("pairs.tsv", "--precision", "fp32,int8", code=2).stderr


def test_a_plot_has_a_line_for_each_variant(folder, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr("mmsearch.evaluation.report.plot", lambda found, _: drawn.append(found))
    run("pairs.tsv", "--kind", "exact,1-bit", "--plot", "out.png")
    assert [*drawn[0]] == ["exact", "1-bit"]


# ---------------------------------------------------------------------- benchmarks


@pytest.fixture
def benchmark(family: Family, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in CAPTIONS:
        paint(folder / "images" / name, name.removesuffix(".png"))
    karpathy(folder, "coco")
    return folder


def test_kinds_are_compared_on_a_benchmark(benchmark):
    given = ["--benchmark", "coco", str(benchmark), "--kind", "exact,1-bit", "--json"]
    found = json.loads(run(*given).stdout)
    with mmsearch.open("coco") as library:
        plain = run_benchmark(library, "coco", benchmark)
    rows = [(row[1], row[2]) for row in plain.rows()]
    for one in found["variants"]:
        assert [(row["measure"], row["value"]) for row in one["recalls"]] == rows
        assert one["exact_recall"] == 1
    measures = [list(one["measures"]) for one in found["differences"][0]["directions"]]
    assert measures == [["Recall@1", "Recall@5", "Recall@10"]] * 2


def test_precisions_are_compared_on_a_benchmark_without_leaving_an_index(benchmark):
    given = ["--benchmark", "coco", str(benchmark), "--precision", "fp32,int8"]
    result = run(*given, "--json")
    found = json.loads(result.stdout)
    assert [one["recalls"][0]["value"] for one in found["variants"]] == [1, 0]
    assert not (benchmark.parent / "home").exists()
    run(*given, "-i", "elsewhere", code=3)


def test_a_benchmark_shows_published_figures_above_the_comparison(benchmark, monkeypatch):
    monkeypatch.setattr("mmsearch.cli.evaluate.terminal", lambda: True)
    shown = run("--benchmark", "coco", str(benchmark), "--kind", "exact,1-bit").stdout
    assert shown.startswith("coco, toy: 2 files\n")
    assert "text→image: 4 queries, 2 independent; A: exact, B: 1-bit" in shown


# ---------------------------------------------------------------------- a model of open_clip


def test_half_precision_of_a_model_is_compared_with_full_precision(tmp_path, monkeypatch):
    pytest.importorskip("open_clip")
    pytest.importorskip("skimage")
    from test_clip import checkpoint, photos

    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    name = checkpoint(tmp_path / "model")
    rows = []
    for number, photo in enumerate(photos(10)):
        photo.save(tmp_path / f"{number}.png")
        rows.append(f"photo {number}\t{number}.png\n")
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    how = {"runtime": "torch", "device": "cpu", "precision": "fp32"}
    files = [tmp_path / f"{number}.png" for number in range(10)]
    with mmsearch.index(files, tmp_path / "idx", model=name, **how) as library:
        variants = variants_of(["torch"], ["fp32", "bf16"], device="cpu")
        found = evaluate_variants(library, tmp_path / "pairs.tsv", variants)
        plain = evaluate(library, tmp_path / "pairs.tsv")
    ranks = [
        [one.rank for one in each.directions[0].outcomes] for each in (plain, found.results[0])
    ]
    assert ranks[0] == ranks[1]
    assert found.encoded == 10
    assert [cost.photos_per_second > 0 for cost in found.costs] == [True, True]
