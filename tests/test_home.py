from __future__ import annotations

import os
from pathlib import Path

import pytest

import mmsearch
from mmsearch.encoders import hub
from mmsearch.errors import NoHomeFolder
from mmsearch.home import cache_folder, home
from mmsearch.media.speech import model_folder
from mmsearch.storage.place import index_not_found, index_place, place_of

CACHES = ("MMSEARCH_CACHE", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "MMSEARCH_WHISPER")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMSEARCH_HOME", raising=False)
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    return tmp_path


def test_the_environment_names_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "here"))
    assert home() == tmp_path / "here"


def test_a_marked_folder_of_indexes_is_the_home(tmp_path):
    (tmp_path / "indexes").mkdir()
    unmarked = home()
    (tmp_path / "indexes" / ".mmsearch").touch()
    assert unmarked != tmp_path / "indexes" == home()


def test_without_either_the_users_data_folder_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert home().name == "mmsearch"
    assert tmp_path / "me" in home().parents


def test_a_bare_name_lies_in_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path))
    assert index_place("holiday").folder == tmp_path / "holiday"
    assert index_place().folder == tmp_path / "default"


def test_the_environment_names_the_index(monkeypatch, tmp_path):
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path))
    monkeypatch.setenv("MMSEARCH_INDEX", "work")
    assert index_place().folder == tmp_path / "work"


@pytest.mark.parametrize("value", ["./idx", "a/b", "idx/", ".", ".."])
def test_a_value_with_a_separator_is_a_folder(value, tmp_path):
    assert index_place(value).folder == Path(value).resolve()


def test_a_path_object_is_a_folder(tmp_path):
    assert index_place(Path("idx")).folder == tmp_path / "idx"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in the user database."""
    for name in ("HOME", "USERPROFILE", "XDG_DATA_HOME", "XDG_CACHE_HOME", *CACHES):
        monkeypatch.delenv(name, raising=False)
    pwd = pytest.importorskip("pwd")

    def unknown(_uid: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("folder", [home, cache_folder])
def test_a_user_without_a_home_is_told_what_to_set(folder):
    with pytest.raises(NoHomeFolder, match="set HOME or MMSEARCH_"):
        folder()


@pytest.mark.usefixtures("homeless")
def test_an_index_in_a_named_folder_needs_no_home(tmp_path):
    (tmp_path / "note.md").write_text("red roses")
    with mmsearch.index(tmp_path / "note.md", tmp_path / "idx") as library:
        assert library.search("roses")[0].path == str(tmp_path / "note.md")


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("folder", ["~/idx", "~"])
def test_a_folder_in_a_home_that_is_not_there_is_refused_not_made(tmp_path, folder):
    with pytest.raises(NoHomeFolder, match="set HOME or give another path"):
        index_place(os.path.join(folder, ""))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("model", [None, "tiny", "~/whisper"])
def test_a_model_that_transcribes_is_not_looked_for_in_a_home_that_is_not_there(model):
    pytest.importorskip("faster_whisper")
    with pytest.raises(NoHomeFolder, match=r"set HOME or .*--whisper DIR"):
        model_folder(model)


@pytest.mark.usefixtures("homeless")
def test_no_model_is_downloaded_into_a_home_that_is_not_there():
    with pytest.raises(NoHomeFolder, match="set HOME or HF_HOME"):
        hub.fetch("someone/model", list, extra="clip")


def test_the_error_of_no_index_names_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    assert str(index_not_found(index_place())).endswith("`mmsearch index FOLDER`")
    holiday = tmp_path / "home" / "holiday"
    assert str(index_not_found(place_of(holiday))).endswith(f"`mmsearch index FOLDER -i {holiday}`")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").touch()
    assert str(index_not_found(place_of(photos))).endswith(f"run `mmsearch index {photos}`")
