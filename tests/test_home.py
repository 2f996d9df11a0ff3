from __future__ import annotations

from pathlib import Path

import pytest

from mmsearch.home import home, index_folder


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
    assert index_folder("holiday") == tmp_path / "holiday"
    assert index_folder() == tmp_path / "default"


def test_the_environment_names_the_index(monkeypatch, tmp_path):
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path))
    monkeypatch.setenv("MMSEARCH_INDEX", "work")
    assert index_folder() == tmp_path / "work"


@pytest.mark.parametrize("value", ["./idx", "a/b", "idx/", ".", ".."])
def test_a_value_with_a_separator_is_a_folder(value, tmp_path):
    assert index_folder(value) == Path(value).resolve()


def test_a_path_object_is_a_folder(tmp_path):
    assert index_folder(Path("idx")) == tmp_path / "idx"
