"""The flags of searching commands reach the search, and what comes of them is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ToyEncoder
from typer.testing import CliRunner

from mmsearch.cli.app import app


def run(*words: str, code: int = 0):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(toy: ToyEncoder, photos: Path, tmp_path: Path) -> Path:
    (photos / "sea.txt").write_text("blue sea")
    (tmp_path / "stars.csv").write_text("file,stars\nred.png,5\ngreen.png,2\n")
    run("index", str(photos), "--metadata", str(tmp_path / "stars.csv"))
    return photos


def names(*words: str) -> set[str]:
    return {Path(line).name for line in run("query", "red", "-f", *words).stdout.splitlines()}


@pytest.mark.parametrize(
    ("flags", "passing"),
    [
        (["--where", "stars > 3"], {"red.png"}),
        (["--where", "stars"], {"red.png", "green.png"}),
        (["--where", "stars", "--where", "stars < 3"], {"green.png"}),
        (["--path", "*.txt"], {"sea.txt"}),
        (["--path", "deep"], {"blue.png"}),
        (["--modality", "image"], {"red.png", "green.png", "blue.png"}),
        (["--has", "text"], {"sea.txt"}),
        (["--min-size", "40x30"], {"red.png", "green.png", "blue.png"}),
        (["--after", "2000", "--path", "red*"], {"red.png"}),
    ],
)
def test_a_filter_leaves_just_what_passes(folder, flags, passing):
    assert names(*flags) == passing


def test_metadata_of_the_users_comes_back_with_the_hit(folder):
    hit = json.loads(run("query", "red", "--where", "stars = 5", "--json").stdout)[0]
    assert hit["metadata"]["meta"] == {"stars": "5"}


def test_an_unknown_key_is_an_error_that_lists_those_of_the_index(folder):
    said = run("query", "red", "--where", "moons > 1", code=2).stderr
    assert "moons" in said
    assert "stars" in said


def test_nothing_that_passes_is_told_from_nothing_there(folder):
    assert "passes the filters" in run("query", "red", "--before", "1980", code=1).stderr


@pytest.mark.parametrize("poor", [True, False])
def test_the_shell_says_when_there_is_no_good_match(folder, monkeypatch, poor):
    monkeypatch.setattr("mmsearch.cli.search.no_good_match", lambda hits: poor)
    line = "no good match; nearest:\n"
    assert run("query", "red", "--table").stdout.startswith(line) is poor
    piped = run("query", "red", "--tsv")
    assert (piped.stderr == line) is poor
    assert piped.stdout.startswith("1\t")


def test_a_table_explains_each_hit_when_asked(folder):
    shown = run("query", "blue", "--table", "--explain").stdout
    assert "stands out" in shown
    assert "words" in shown
    assert "stands out" not in run("query", "blue", "--table").stdout


def test_words_are_not_looked_up_when_that_is_off(folder):
    hits = json.loads(run("query", "blue", "--lexical", "off", "--json").stdout)
    assert all("words" not in hit["signals"] for hit in hits)


def test_weights_decide_between_facets(folder):
    first = json.loads(run("query", "blue", "--weight", "text=0", "--json").stdout)[0]
    assert first["modality"] == "image"


@pytest.mark.parametrize("flags", [["--lexical", "maybe"], ["--weight", "text"], ["--near", "x"]])
def test_a_flag_that_has_no_such_value_is_one_line_that_says_what_has(folder, flags):
    said = run("query", "red", *flags, code=2).stderr
    assert len(said.splitlines()) == 1
