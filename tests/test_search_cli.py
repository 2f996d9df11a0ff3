"""The flags of searching commands reach the search, and what comes of them is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Ear, Preferred, ToyEncoder, paint, tone
from test_image import tagged
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.cli.render import FORMATS, as_json
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY
from mmsearch.types import Query


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


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory):
    """Photos, a text and a sound that each filter tells apart, indexed by two models."""
    folder = tmp_path_factory.mktemp("search") / "album"
    place = {1: "N", 2: (48.0, 12.0, 0.0), 3: "E", 4: (16.0, 22.0, 0.0)}
    exif = tagged(main={0x0110: "Pentax K1000"}, exif={0x9003: "1999:12:31 12:00:00"}, gps=place)
    paint(folder / "old.jpg", "red", (20, 20), exif=exif)
    paint(folder / "red.png", "red")
    paint(folder / "green.png", "green")
    paint(folder / "deep" / "blue.png", "blue")
    for name in ("old", "red"):
        (folder / f"{name}.txt").write_text("a red wall")
    (folder / "sea.txt").write_text("blue sea")
    tone(folder / "low.wav", "low")
    stars = folder.parent / "stars.csv"
    stars.write_text("file,stars\nred.png,5\ngreen.png,2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "toy", Preferred("toy", ToyEncoder))
        patch.setitem(REGISTRY, "ear", SingleModel("ear", Ear))
        patch.setenv("MMSEARCH_HOME", str(folder.parent / "home"))
        patch.delenv("MMSEARCH_INDEX", raising=False)
        models = ["--model", "toy", "--model", "ear"]
        run("index", str(folder), *models, "--metadata", str(stars))
        run("tag", "red", "--in", "image", "--min-confidence", "0.999")
        run("tag", "white", "--in", "image", "--min-confidence", "0")
        yield folder


PHOTOS = {"old.jpg", "red.png", "green.png", "blue.png"}


@pytest.mark.parametrize("command", ["query", "similar"])
@pytest.mark.parametrize(
    ("flags", "passing"),
    [
        ("--where stars>3", {"red.png"}),
        ("--where stars", {"red.png", "green.png"}),
        ("--where stars -w stars<3", {"green.png"}),
        ("-w stars<3 -w stars", {"green.png"}),
        ("--path *.txt", {"sea.txt"}),
        ("--path deep", {"blue.png"}),
        ("--path deep --path red*", {"blue.png", "red.png"}),
        ("--modality image", PHOTOS),
        ("--modality image --modality text", {*PHOTOS, "sea.txt"}),
        ("--modality text,image", {*PHOTOS, "sea.txt"}),
        ("--has text", {"sea.txt"}),
        ("--has caption", {"old.jpg", "red.png"}),
        ("--has caption --has gps", {"old.jpg"}),
        ("--has gps --has caption", {"old.jpg"}),
        ("--min-size 40x30", PHOTOS - {"old.jpg"}),
        ("--after 2000 --modality image", PHOTOS - {"old.jpg"}),
        ("--before 2000", {"old.jpg"}),
        ("--camera pentax", {"old.jpg"}),
        ("--near 48.2,16.37,10", {"old.jpg"}),
        ("--tag red", {"old.jpg", "red.png"}),
        ("--tag red --tag white", {"old.jpg", "red.png"}),
        ("--tag white --tag red", {"old.jpg", "red.png"}),
    ],
)
def test_a_filter_leaves_just_what_passes(album, tmp_path, command, flags, passing):
    what = "red" if command == "query" else str(paint(tmp_path / "example.png", "red"))
    said = run(command, what, "--in", "image,text", "-f", *flags.split()).stdout
    assert {Path(line).name for line in said.splitlines()} == passing


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


def test_a_table_says_by_which_words_of_its_own_a_photo_was_found(folder, monkeypatch):
    monkeypatch.chdir(folder)  # short paths, for a narrow table
    (folder / "stars.csv").write_text("file,title,keywords\nred.png,Our wall,\ngreen.png,,lawn\n")
    run("index", str(folder), "--metadata", str(folder / "stars.csv"))
    rows = run("query", "wall lawn", "--in", "image", "--table").stdout.splitlines()
    told = {name: row.split()[-1] for row in rows for name in ("red", "green") if name in row}
    assert told == {"red": "wall", "green": "lawn"}


@pytest.mark.parametrize("command", ["query", "similar"])
def test_a_table_explains_each_hit_when_asked(album, command):
    what = "blue" if command == "query" else str(album / "red.png")
    shown = run(command, what, "--table", "--explain").stdout
    assert "stands out" in shown
    assert ("words" in shown) is (command == "query")
    assert "stands out" not in run(command, what, "--table").stdout


@pytest.mark.parametrize("command", ["query", "similar"])
@pytest.mark.parametrize(
    ("flag", "form"),
    [
        ("--json", "json"),
        ("--jsonl", "jsonl"),
        ("--csv", "csv"),
        ("--tsv", "tsv"),
        ("--table", "table"),
        ("--paths", "paths"),
        ("-f", "paths"),
        ("--null", "paths0"),
        ("-0", "paths0"),
    ],
)
def test_hits_are_printed_in_the_form_that_is_asked_for(album, monkeypatch, command, flag, form):
    example = str(album / "red.png")
    with mmsearch.open() as library:
        hits = library.search("red", k=2) if command == "query" else library.similar(example, k=2)
    monkeypatch.setattr("mmsearch.cli.search.terminal", lambda: form != "table")
    shown = run(command, "red" if command == "query" else example, "-k", "2", flag).stdout
    assert shown.removeprefix("no good match; nearest:\n") == FORMATS[form](hits)


@pytest.mark.parametrize("number", [1, 2])
def test_every_part_of_a_query_counts_with_its_weight(album, number):
    photos = [str(album / "red.png"), str(album / "deep" / "blue.png")][:number]
    words = ["red", "-k", "9", "--in", "image", "--json"]
    query = Query.text("red")
    for text, weight in (("green", 2), ("blue", 0.5))[:number]:
        words += ["--text", f"{weight}:{text}"]
        query += Query.text(text, weight)
    for photo in photos:
        words += ["--image", photo]
        query += Query.image(photo)
    for text, weight in (("white", 0.3), ("blue", 0.2))[:number]:
        words += ["--not", f"{weight}:{text}"]
        query -= Query.text(text, weight)
    with mmsearch.open() as library:
        hits = library.search(query, k=9, target="image")
    assert run("query", *words).stdout == as_json(hits)


def test_sounds_are_searched_by_all_sounds_that_are_given(album, tmp_path):
    low, high = (str(tone(tmp_path / f"{pitch}.wav", pitch)) for pitch in ("low", "high"))
    with mmsearch.open() as library:
        hits = library.search(Query.audio(low) + Query.audio(high))
    assert run("query", "--audio", low, "--audio", high, "--json").stdout == as_json(hits)


def test_words_are_not_looked_up_when_that_is_off(folder):
    hits = json.loads(run("query", "blue", "--lexical", "off", "--json").stdout)
    assert all("words" not in hit["signals"] for hit in hits)


def test_weights_decide_between_facets(folder):
    for weights, kind in (("", "text"), ("--weight text=0 --weight words=0", "image")):
        first = json.loads(run("query", "blue sea", *weights.split(), "--json").stdout)[0]
        assert first["modality"] == kind


@pytest.mark.parametrize("flags", [["--lexical", "maybe"], ["--weight", "text"], ["--near", "x"]])
def test_a_flag_that_has_no_such_value_is_one_line_that_says_what_has(folder, flags):
    said = run("query", "red", *flags, code=2).stderr
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--offset", "1000"], "after the last hit: lower --offset"),
        (["--min-confidence", "1", "--offset", "2"], "lower --min-confidence"),
        (["--sort", "newest", "--offset", "1000"], "lower --offset"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_shell_says_which_setting_left_all_hits_out(flags, why):
    assert why in run("query", "red", *flags, code=1).stderr
