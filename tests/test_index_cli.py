"""The flags of `mmsearch index` reach the index, each by what it changes there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ToyEncoder, paint, tone
from test_media import film, pdf
from typer.testing import CliRunner

from mmsearch.cli.app import app
from mmsearch.types import Span, TextPart

ALL = {"red.png", "green.png", "blue.png"}


def run(*words: str | Path, code: int = 0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


def names() -> set[str]:
    return {Path(line).name for line in run("list", "-f").stdout.splitlines()}


def status() -> dict:
    return json.loads(run("status", "--json").stdout)


def test_several_folders_and_files_are_indexed(toy: ToyEncoder, photos: Path, tmp_path: Path):
    white = paint(tmp_path / "white.png", "white")
    run("index", photos / "deep", white, photos / "red.png")
    assert names() == {"blue.png", "white.png", "red.png"}


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        ([], ALL),
        (["--exclude", "deep"], {"red.png", "green.png"}),
        (["--exclude", "deep", "--exclude", "red.*"], {"green.png"}),
        (["--include-hidden"], {*ALL, ".white.png"}),
    ],
)
def test_files_are_left_out_and_hidden_ones_taken_in(toy, photos, flags, left):
    paint(photos / ".white.png", "white")
    run("index", photos, *flags)
    assert names() == left


def test_larger_pictures_than_the_limit_are_refused(toy, photos):
    paint(photos / "wide.png", "white", (200, 100))
    said = run("index", photos, "--max-megapixels", "0.01", code=4).stderr
    assert "too large" in said
    assert names() == ALL


def test_captions_come_from_the_file_that_is_given(toy, photos, tmp_path):
    (tmp_path / "captions.tsv").write_text("red.png\ta rose in bloom\n")
    run("index", photos, "--captions", tmp_path / "captions.tsv")
    hit = json.loads(run("query", "rose", "--json", "-k", "1").stdout)[0]
    assert (Path(hit["path"]).name, hit["caption"]) == ("red.png", "a rose in bloom")


def coloured_film(path: Path, colour: str) -> Path:
    return film(path, (colour, 1.0))


@pytest.mark.parametrize(
    ("on", "off", "name", "make"),
    [
        ("--video", "--no-video", "a.mp4", coloured_film),
        ("--pdf", "--no-pdf", "a.pdf", pdf),
    ],
)
def test_videos_and_pdfs_are_taken_in_from_when_they_are_turned_on_until_turned_off(
    toy, photos, on, off, name, make
):
    make(photos / name, "red")
    run("index", photos)
    assert names() == ALL
    for flags in ([on], []):
        run("index", photos, *flags)
        assert names() == {*ALL, name}
    for flags in ([off], []):
        run("index", photos, *flags)
        assert names() == ALL


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """OCR and speech recognition that find the same words everywhere; the models of speech."""
    heard: list[str | None] = []

    def segments(path: str, model: str | None, **_: object):
        heard.append(model)
        yield TextPart("lighthouse keeper", "speech", Span(0, 1, "second"))

    for needed in ("ocr.require", "speech.require", "speech.model_folder"):
        monkeypatch.setattr(f"mmsearch.media.{needed}", lambda *_: None)
    monkeypatch.setattr("mmsearch.media.ocr.read_words", lambda picture: ["lighthouse keeper"])
    monkeypatch.setattr("mmsearch.media.speech.segments", segments)
    return heard


def speaking(path: Path, colour: str) -> Path:
    return tone(path, "low", "" if colour == "red" else "high", seconds=1 + len(colour))


@pytest.mark.parametrize(
    ("on", "off", "ending", "make"),
    [
        ("--ocr", "--no-ocr", ".png", paint),
        ("--transcribe", "--no-transcribe", ".wav", speaking),
    ],
)
def test_words_are_read_from_when_that_is_turned_on_until_turned_off(
    toy, tmp_path, reading, on, off, ending, make
):
    folder, found = tmp_path / "p", []
    for colour, flags in {"red": [], "green": [on], "blue": [], "white": [off]}.items():
        make(folder / f"{colour}{ending}", colour)
        run("index", folder, *flags)
        listed = CliRunner().invoke(app, ["list", "-f", "-w", "has = text"]).stdout
        found.append({Path(line).stem for line in listed.splitlines()})
    assert found == [set(), {"red", "green"}, {"red", "green", "blue"}, {"red", "green", "blue"}]


def test_speech_is_transcribed_by_the_model_that_is_named_and_remembered(toy, tmp_path, reading):
    run("index", speaking(tmp_path / "a.wav", "red"), "--transcribe", "--whisper", "small")
    run("index", speaking(tmp_path / "b.wav", "green"))
    assert reading == ["small", "small"]


def test_the_model_for_speech_can_be_named_before_speech_is_transcribed(toy, tmp_path, reading):
    run("index", speaking(tmp_path / "a.wav", "red"), "--whisper", "small")
    run("index", "--transcribe")
    assert reading == ["small"]


def test_details_are_stored_unless_that_is_turned_off(toy, photos):
    rerank = ["query", "red", "--in", "image", "--rerank", "fusion"]
    run("index", photos, "--model", "mini", "--no-details")
    run(*rerank, code=2)
    run("index", "--details")
    run(*rerank)


def test_a_kind_of_index_that_is_named_answers_unless_all_of_the_nearest_are_wanted(toy, photos):
    run("index", photos, "--kind", "HNSW8")
    assert [one["kind"] for one in status()["indexes"]] == ["HNSW8"]
    run("index", "--recall", "1")
    assert [one["kind"] for one in status()["indexes"]] == ["exact"]


def test_an_index_is_given_the_models_that_are_named(toy, photos):
    tone(photos / "low.wav", "low")
    run("index", photos, "--model", "second", "--model", "ear")
    assert [one["name"] for one in status()["models"]] == ["second", "ear"]


def test_a_model_that_answers_no_more_is_dropped(toy, photos):
    run("index", photos)
    run("index", "--model", "second")
    assert [one["name"] for one in status()["models"]] == ["second", "toy"]
    run("index", "--drop-space", "toy")
    assert [one["name"] for one in status()["models"]] == ["second"]


def test_as_many_backups_are_kept_as_is_said(toy, photos, tmp_path):
    run("index", photos, "--backups", "0")
    assert not list((tmp_path / "home" / "default").glob("backups/*"))
    paint(photos / "white.png", "white")
    run("index", "--backups", "1")
    assert list((tmp_path / "home" / "default").glob("backups/*"))
