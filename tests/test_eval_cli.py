from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ToyEncoder, paint
from typer.testing import CliRunner

from mmsearch.cli.app import app

runner = CliRunner()


@pytest.fixture
def folder(toy: ToyEncoder, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indexed photos with pairs beside them, the working folder set to them."""
    assert runner.invoke(app, ["index", str(photos)]).exit_code == 0
    (photos / "pairs.tsv").write_text("red\tred.png\ngreen\tgreen.png\nblue sky\tblue.png\n")
    monkeypatch.chdir(photos)
    return photos


def run(*arguments: str, code: int = 0):
    result = runner.invoke(app, ["eval", *arguments])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


def test_a_pipe_gets_a_measure_a_line(folder):
    rows = [line.split("\t") for line in run("pairs.tsv").stdout.splitlines()]
    assert [row[1] for row in rows] == [
        "Recall@1",
        "Recall@5",
        "Recall@10",
        "MRR",
        "nDCG@10",
        "R-precision",
        "mAP@R",
        "median rank",
    ]
    assert rows[0][:3] == ["text→image", "Recall@1", "1"]


def test_a_terminal_gets_a_table(folder, monkeypatch):
    monkeypatch.setattr("mmsearch.cli.evaluate.terminal", lambda: True)
    assert run("pairs.tsv").stdout.startswith("text→image: 3 queries, 3 independent; 3 items")


def test_json_has_every_figure_and_query(folder):
    found = json.loads(run("pairs.tsv", "--json", "--per-query").stdout)
    [direction] = found["directions"]
    assert direction["measures"]["MRR"]["value"] == 1.0
    assert [one["rank"] for one in direction["per_query"]] == [1, 1, 1]
    assert "per_query" not in json.loads(run("pairs.tsv", "--json").stdout)["directions"][0]


def test_two_settings_are_compared(folder):
    compared = ["--compare", "default", "combine=late"]
    rows = [line.split("\t") for line in run("pairs.tsv", *compared).stdout.splitlines()]
    assert {row[-1] for row in rows} == {"no difference shown"}
    found = json.loads(run("pairs.tsv", *compared, "--json").stdout)
    assert (found["a"]["settings"], found["b"]["settings"]) == ({}, {"combine": "late"})


def test_two_indexes_are_compared(folder, tmp_path):
    other = tmp_path / "other"
    assert runner.invoke(app, ["index", ".", "-i", str(other)]).exit_code == 0
    found = json.loads(run("pairs.tsv", "--compare", "default", f"index={other}", "--json").stdout)
    assert found["b"]["index"] == str(other)
    assert found["differences"][0]["queries"] == 3


def test_what_is_searched_can_be_named(folder):
    found = json.loads(run("pairs.tsv", "--in", "image", "--with", "combine=late", "--json").stdout)
    assert found["settings"] == {"target": ["image"], "combine": "late"}


def test_settings_given_one_by_one_add_up_and_the_last_of_a_name_counts(folder):
    given = ["--with", "hubness=off,fusion=rrf", "--with", "lexical=off", "--with", "fusion=wsum"]
    found = json.loads(run("pairs.tsv", *given, "--json").stdout)
    assert found["settings"] == {"hubness": False, "fusion": "wsum", "lexical": False}


def test_compared_settings_are_added_to_those_of_both(folder):
    given = ["--with", "hubness=off", "--with", "lexical=off", "--compare", "default", "lexical=on"]
    found = json.loads(run("pairs.tsv", *given, "--json").stdout)
    assert found["a"]["settings"] == {"hubness": False, "lexical": False}
    assert found["b"]["settings"] == {"hubness": False, "lexical": True}


def test_the_columns_of_a_captions_file_can_be_named(folder):
    (folder / "captions.tsv").write_text("red.png\tred\n")
    run("captions.tsv", code=2)
    assert run("captions.tsv", "--columns", "file,query").stdout.startswith("text→image")


def test_each_file_searches_for_its_texts_too_if_both_directions_are_asked_for(folder):
    for name in ("red", "green"):
        (folder / f"{name}.txt").write_text(f"{name} wall")
    assert runner.invoke(app, ["index", "."]).exit_code == 0
    (folder / "pairs.tsv").write_text("red wall\tred.png\ngreen wall\tgreen.png\n")
    found = json.loads(run("pairs.tsv", "--direction", "both", "--json").stdout)
    assert [one["direction"] for one in found["directions"]] == ["text→image", "image→text"]


def test_only_ranks_down_to_the_depth_count(folder):
    (folder / "pairs.tsv").write_text("red\tgreen.png\n")
    ranks = []
    for depth in ([], ["-k", "1"], ["--depth", "1"]):
        found = json.loads(run("pairs.tsv", *depth, "--json", "--per-query").stdout)
        ranks.append(found["directions"][0]["per_query"][0]["rank"])
    assert ranks[0] > 1
    assert ranks[1:] == [None, None]


def test_what_is_not_in_the_index_is_told_apart_from_the_figures(folder):
    (folder / "pairs.tsv").write_text("red\tred.png\nred\tgone.png\npink\tpink.png\n")
    result = run("pairs.tsv")
    assert "2 files not in the index: 'gone.png', 'pink.png'" in result.stderr
    assert "1 query left out, none of their files is in the index: 'pink'" in result.stderr
    assert "gone" not in result.stdout


def test_names_with_control_characters_do_not_reach_the_terminal(folder):
    (folder / "pairs.tsv").write_text("red\tred.png\nred\tgo\x1bne.png\n")
    assert "\x1b" not in run("pairs.tsv").stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.tsv"], "no pairs file nowhere.tsv"),
        (["pairs.tsv", "--compare", "default", "colour=red"], "'colour=red' is no setting"),
        (["pairs.tsv", "-k", "0"], "at least 1, not 0"),
        (["pairs.tsv", "--direction", "up"], "forward, backward, both"),
        (["pairs.tsv", "--columns", "a,b"], "name no query or no file"),
    ],
)
def test_a_wrong_use_is_one_line_and_ends_with_2(folder, arguments, reason):
    result = run(*arguments, code=2)
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_an_index_that_is_not_there_ends_with_3(folder):
    run("pairs.tsv", "-i", "nowhere", code=3)


def test_a_plot_is_written(folder):
    pytest.importorskip("matplotlib")
    run("pairs.tsv", "--plot", "out.png")
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupt_gives_nothing_half(folder, monkeypatch):
    paint(folder / "extra.png", "white")

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmsearch.evaluation.run._outcome", interrupt)
    assert run("pairs.tsv", code=130).stdout == ""
