"""Indexes at addresses: what an address says, that its password is shown nowhere, and the commands.

A store in memory answers in the place of a server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import paint
from memory_store import MemoryStore
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.cli.evaluate import _named
from mmsearch.cli.serve import served_places
from mmsearch.collection.doctor import examine
from mmsearch.encoders import runtime_of
from mmsearch.errors import IndexNotFound, InvalidOption, MissingExtra, StorageFailed
from mmsearch.evaluation.comparison import parse_settings
from mmsearch.server import index_process
from mmsearch.server.indexes import ServedIndexes
from mmsearch.storage.place import IndexPlace, index_not_found, index_place, place_of

SECRET = "hunter2"
ADDRESS = f"postgresql://ann:{SECRET}@db.example/photos?schema=holiday"
SHOWN = "postgresql://ann@db.example/photos?schema=holiday"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    for name in ("MMSEARCH_INDEX", "MILVUS_TOKEN", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------------- what an address says

POSTGRESQL = {
    "postgresql://db/photos": ("mmsearch", "postgresql://db/photos"),
    "postgres://db/photos": ("mmsearch", "postgresql://db/photos"),
    "POSTGRESQL://db/photos?schema=a": ("a", "postgresql://db/photos"),
    "postgresql://ann@db:5433/photos?schema=Fotos%202": (
        "Fotos 2",
        "postgresql://ann@db:5433/photos",
    ),
    "postgresql://db/photos?sslmode=require&schema=a&connect_timeout=3": (
        "a",
        "postgresql://db/photos?sslmode=require&connect_timeout=3",
    ),
    "postgresql:///photos?host=/run/postgresql": (
        "mmsearch",
        "postgresql:///photos?host=/run/postgresql",
    ),
    "postgresql://%2Frun%2Fpostgresql/photos": (
        "mmsearch",
        "postgresql://%2Frun%2Fpostgresql/photos",
    ),
    "postgresql://one:5432,two,[::1]:5433/photos": (
        "mmsearch",
        "postgresql://one:5432,two,[::1]:5433/photos",
    ),
    "postgresql://db?dbname=photos": ("mmsearch", "postgresql://db?dbname=photos"),
}


@pytest.mark.parametrize("address", POSTGRESQL)
def test_of_an_address_of_postgresql_the_schema_is_ours_and_the_rest_is_libpqs(address: str):
    place = index_place(address)
    assert (place.name, place.url) == POSTGRESQL[address]
    assert not place.is_folder
    assert place.engine == "postgresql"


MILVUS = {
    "milvus://host/photos": ("http://host:19530", "photos"),
    "milvus://host:1234/photos/": ("http://host:1234", "photos"),
    "milvuss://host:443/Photos_2": ("https://host:443", "Photos_2"),
    "milvus://[::1]:1234/photos": ("http://[::1]:1234", "photos"),
}


@pytest.mark.parametrize("address", MILVUS)
def test_an_address_of_milvus_names_the_server_and_the_index(address: str):
    place = index_place(address)
    assert (place.url, place.name) == MILVUS[address]
    assert place.engine == "milvus"


def test_the_database_may_come_from_the_environment_as_libpq_has_it(monkeypatch):
    with pytest.raises(InvalidOption, match="names no database"):
        index_place("postgresql://db")
    monkeypatch.setenv("PGDATABASE", "photos")
    assert index_place("postgresql://db").url == "postgresql://db"


def test_a_token_of_milvus_comes_from_the_environment_or_the_address(monkeypatch):
    assert index_place("milvus://host/photos").token == ""
    monkeypatch.setenv("MILVUS_TOKEN", "abc")
    assert index_place("milvus://host/photos").token == "abc"
    place = index_place(f"milvus://ann:{SECRET}%40@host/photos")
    assert (place.token, place.address) == (f"ann:{SECRET}@", "milvus://ann@host/photos")


BAD = {
    "mysql://host/photos": "give a folder, or one of postgresql://",
    "file:///photos": "give a folder, or one of postgresql://",
    "postgresql://db": "names no database",
    "postgresql://db/": "names no database",
    "postgresql://db/photos/holiday": r"nothing but \?schema=NAME",
    "postgresql://db:port/photos": "its port, from 1 to 65535",
    "postgresql://db:99999/photos": "its port, from 1 to 65535",
    "postgresql://[::1/photos": "its port, from 1 to 65535",
    "postgresql://db/photos?schema=": "a schema has a name",
    "postgresql://db/photos?schema=pg_mine": "a schema has a name",
    f"postgresql://db/photos?schema={'a' * 64}": "a schema has a name",
    "postgresql://db/my photos": "holds a space",
    "postgresql://db/photos\n": "holds a space",
    "postgresql://db/100%": "write %25",
    "milvus://host": "comes the index's name",
    "milvus://host/": "comes the index's name",
    "milvus://host/my-photos": "up to 64 letters, digits and _",
    "milvus://host/2photos": "up to 64 letters, digits and _",
    "milvus:///photos": "names no single host",
    "milvus://one,two/photos": "names no single host",
    "milvus://host/photos?db=x": "takes no parameters",
    "milvus://token@host/photos": "MILVUS_TOKEN",
}


@pytest.mark.parametrize("address", BAD)
def test_a_bad_address_is_refused_with_what_it_should_be(address: str):
    with pytest.raises(InvalidOption, match=BAD[address]):
        index_place(address)


def test_an_address_that_became_a_path_is_refused():
    with pytest.raises(InvalidOption, match="as a string"):
        mmsearch.Collection(Path("postgresql://db/photos"))


def test_a_folder_may_be_called_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert index_place("./postgresql:").folder == tmp_path / "postgresql:"
    assert index_place("postgresql").folder == tmp_path / "home" / "postgresql"


# ---------------------------------------------------------------------- passwords


@pytest.mark.parametrize(
    "address",
    [
        ADDRESS,
        f"postgresql://ann:{SECRET}@db/photos",
        f"postgresql://db/photos?user=ann&password={SECRET}",
        f"postgresql://db/photos?sslpassword={SECRET}&sslmode=require",
        f"postgresql://db/photos?pass%77ord={SECRET}",
        f"milvus://ann:{SECRET}@host/photos",
    ],
)
def test_no_password_is_in_what_is_shown_of_a_place(address: str):
    place = index_place(address)
    for shown in (str(place), repr(place), place.address, str(index_not_found(place))):
        assert SECRET not in shown
    assert SECRET in place.given
    assert SECRET in place.url + place.token
    assert place.folder == index_place(address.replace(SECRET, "other")).folder


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://ann:{SECRET}/x@db/photos",
        f"postgresql://ann:{SECRET}?x@db/photos",
        f"postgresql://ann:a@{SECRET}@db/photos",
        f"postgresql://ann:{SECRET} @db/photos",
        f"postgresql://ann:{SECRET}%@db/photos",
        f"postgresql://ann:{SECRET}\\@db/photos",
        f"postgresql://ann:{SECRET}/photos",
        f"postgresql://db/photos?password={SECRET}@",
        f"mysql://ann:{SECRET}@db/photos",
        f"milvus://{SECRET}@host/photos",
        f"milvus://ann:{SECRET}@host/photos/x",
        f"milvus://ann:{SECRET}@host/photos?{SECRET}",
    ],
)
def test_no_message_about_a_bad_address_quotes_what_may_be_a_password(address: str):
    with pytest.raises(InvalidOption) as raised:
        index_place(address)
    assert SECRET not in str(raised.value)


def test_each_address_has_a_folder_of_its_own_in_the_cache(tmp_path):
    folders = {index_place(f"postgresql://db/photos?schema={name}").folder for name in "abc"}
    assert {folder.parent for folder in folders} == {tmp_path / "cache" / "stores"}
    assert len(folders) == 3


# ---------------------------------------------------------------------- commands


class Server:
    """Stores in memory, by the name of the index, behind the `open_store` of a package."""

    def __init__(self) -> None:
        self.stores: dict[str, MemoryStore] = {}
        self.places: list[IndexPlace] = []
        self.down = False

    def open_store(self, place: IndexPlace, *, create: bool, initial: Any = None) -> MemoryStore:
        if self.down:
            raise StorageFailed(f"the server of {place} cannot be reached: start it")
        self.places.append(place)
        if place.name not in self.stores:
            if not create:
                raise index_not_found(place)
            self.stores[place.name] = MemoryStore()
            for key, value in (initial or {}).items():
                self.stores[place.name].settings.set(key, value)
        return self.stores[place.name]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    engine = SimpleNamespace(open_store=made.open_store)
    monkeypatch.setitem(sys.modules, "mmsearch.storage.postgres", engine)
    monkeypatch.setitem(sys.modules, "mmsearch.storage.milvus", engine)
    return made


@pytest.fixture
def shots(tmp_path: Path, toy: Any) -> Path:
    folder = tmp_path / "shots"
    folder.mkdir()
    for name, colour in {"red": "red", "copy": "red", "green": "green"}.items():
        paint(folder / f"{name}.png", colour)
    (folder / "note.txt").write_text("a red note about the green sea")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def run(*arguments: object, code: int = 0) -> str:
    """What a command prints; its exit code is checked, and that no password is in it."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert SECRET not in result.output
    return result.output


@pytest.fixture
def indexed(server: Server, shots: Path) -> Iterator[Callable[..., str]]:
    """Runs a command on an index at ADDRESS that has been filled."""
    output = run("index", shots, "-i", ADDRESS, "--model", "toy", "-q", code=4)
    assert f"`mmsearch errors -i '{SHOWN}'`" in output

    def on_it(command: str, *arguments: object, code: int = 0) -> str:
        return run(command, *arguments, "-i", ADDRESS, code=code)

    yield on_it
    assert {place.address for place in server.places} == {SHOWN}
    assert {place.name for place in server.places} == {"holiday"}


def test_the_commands_work_on_an_index_at_an_address(indexed, shots, tmp_path):
    assert indexed("query", "red", "-k", 1, "--in", "image", "--paths").splitlines()[0] in {
        str(shots / "red.png"),
        str(shots / "copy.png"),
    }
    assert "copy.png" in indexed("similar", shots / "red.png", "-k", 1)
    assert "red" in indexed("tag", "red", "green", "--min-confidence", "0", "-q")
    assert "red.png" in indexed("duplicates", "--same", "-q")
    assert len(indexed("list").splitlines()) == 4
    assert "broken.png" in indexed("errors", code=0)
    exported = tmp_path / "vectors"
    indexed("export", exported, "--format", "npy", "-q")
    assert (exported / "vectors.npy").exists()
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(f"query\tfile\ngreen\t{shots / 'green.png'}\n")
    assert "Recall@1" in indexed("eval", pairs, "-q")
    assert "1" in indexed("remove", shots / "note.txt")
    assert len(indexed("list").splitlines()) == 3


def test_the_status_of_an_index_at_an_address_names_it_without_the_password(indexed):
    found = json.loads(indexed("status", "--json"))
    assert (found["index"], found["items"]["image"], found["bytes"]) == (SHOWN, 3, None)
    assert "on disk" not in indexed("status")


def test_vectors_are_imported_into_an_index_at_an_address(server, toy, shots, tmp_path):
    import numpy as np

    vectors = tmp_path / "vectors.npy"
    np.save(vectors, np.eye(2, 8, dtype=np.float32))
    run("import", vectors, "-i", ADDRESS, "--model", "toy", "-q")
    assert len(server.stores["holiday"]) == 2


def test_the_environment_and_python_take_an_address(server, shots, monkeypatch):
    with mmsearch.index(shots, ADDRESS, model="toy") as library:
        assert library.place.address == SHOWN
        assert len(library) == 4
    for opened in (mmsearch.open(ADDRESS), mmsearch.Collection(ADDRESS)):
        with opened as library:
            assert library.search("green", target="image", k=1)[0].path.endswith("green.png")
    monkeypatch.setenv("MMSEARCH_INDEX", ADDRESS)
    assert len(run("list").splitlines()) == 4


def test_a_second_run_reads_nothing_again_and_notices_what_is_gone(server, shots):
    mmsearch.index(shots, ADDRESS, model="toy").close()
    (shots / "green.png").unlink()
    with mmsearch.index(shots, ADDRESS) as library:
        assert library.report is not None
        assert (library.report.unchanged, library.report.removed) == (3, 1)


def test_nothing_but_caches_is_left_on_this_machine(server, shots, tmp_path):
    with mmsearch.index(shots, ADDRESS, model="toy") as library:
        folder = library.folder
    assert folder.is_relative_to(tmp_path / "cache")
    assert {file.name for file in folder.rglob("*")} <= {"writer.lock"}
    assert not (tmp_path / "home").exists()


def test_an_address_without_an_index_says_how_to_make_one(server):
    said = run("query", "red", "-i", ADDRESS, code=3)
    assert f"there is no index at {SHOWN}" in said
    assert f"`mmsearch index FOLDER -i '{SHOWN}'`" in said
    assert server.stores == {}


def test_a_wrong_model_leaves_no_empty_index_at_an_address(server, shots):
    run("index", shots, "-i", ADDRESS, "--model", "no-such-model", code=2)
    assert server.stores == {}


@pytest.mark.parametrize(("scheme", "extra"), [("postgresql", "postgres"), ("milvus", "milvus")])
def test_packages_that_are_not_installed_are_named(scheme: str, extra: str, monkeypatch):
    monkeypatch.setitem(sys.modules, f"mmsearch.storage.{extra}", None)
    with pytest.raises(MissingExtra, match=rf"pip install 'mmsearch\[{extra}\]'"):
        mmsearch.open(f"{scheme}://host/photos")


# ---------------------------------------------------------------------- what only folders can do


def test_a_backup_of_a_server_is_made_otherwise(indexed, tmp_path):
    said = indexed("backup", tmp_path / "copy", code=2)
    assert SHOWN in said
    assert "pg_dump" in said
    assert f"`mmsearch copy '{SHOWN}' DEST`" in said
    assert not (tmp_path / "copy").exists()


def test_a_moved_folder_is_indexed_where_it_is(indexed, shots, tmp_path):
    said = indexed("relocate", shots, tmp_path, code=2)
    assert f"`mmsearch index {tmp_path}`" in said


def test_what_doctor_checks_is_checked_otherwise(indexed):
    for repair in ([], ["--repair"]):
        said = indexed("doctor", *repair, code=2)
        assert "pg_amcheck" in said
        assert "`mmsearch status`" in said
    with pytest.raises(InvalidOption, match="Milvus checks its own files"):
        examine("milvus://host/photos")


def test_no_backups_are_kept_of_an_index_on_a_server(indexed, shots):
    assert "--backups" in indexed("index", shots, "--backups", "2", code=2)


def test_following_a_moved_folder_by_indexing_it_encodes_nothing(server, shots, toy, tmp_path):
    mmsearch.index(shots, ADDRESS, model="toy").close()
    moved = shots.rename(tmp_path / "moved")
    with mmsearch.index(moved, ADDRESS) as library:
        before = dict(toy.encoded)
        library.remove(shots)
        assert len(library) == 4
    assert toy.encoded == before


# ---------------------------------------------------------------------- the server


def test_an_index_at_an_address_is_served_by_its_name(server, shots):
    mmsearch.index(shots, ADDRESS, model="toy").close()
    places = served_places([ADDRESS, "milvus://host/holiday", ADDRESS])
    assert [(name, place.address) for name, place in places.items()] == [
        ("holiday", SHOWN),
        ("holiday-2", "milvus://host/holiday"),
    ]
    indexes = ServedIndexes({"holiday": ADDRESS, "new": "milvus://host/new"}, runtime_of())
    try:
        assert [indexes.exists(name) for name in places if name != "holiday-2"] == [True]
        assert not indexes.exists("new")
        assert indexes.sizes() == {"holiday": 4, "new": 0}
        assert indexes.status("holiday")["index"] == SHOWN
        assert indexes.status("new")["index"] == "milvus://host/new"
    finally:
        indexes.close()


def test_a_server_that_is_down_does_not_keep_other_indexes_from_being_served(server, tmp_path):
    server.down = True
    indexes = ServedIndexes({"far": ADDRESS, "near": tmp_path / "near"}, runtime_of())
    indexes.warm_up()
    assert indexes.ready
    assert indexes.sizes() == {"near": 0}
    with pytest.raises(StorageFailed, match="cannot be reached"):
        indexes.status("far")


def test_the_indexing_process_reads_the_address_from_its_input_not_its_arguments(
    server, shots, toy
):
    mmsearch.index(shots, ADDRESS, model="toy").close()
    paint(shots / "new.png", "blue")
    how = asdict(runtime_of())
    given = place_of(ADDRESS).given
    task: Any = {"index": given, "paths": None, "watch": False, "how": how}
    said: list[dict[str, Any]] = []
    index_process._run(task, said.append)
    assert said[-1]["report"]["added"] == 1
    assert not any(SECRET in word for word in index_process.command())


# ---------------------------------------------------------------------- eval --compare


def test_settings_of_a_comparison_name_indexes_by_address():
    written = f"index={ADDRESS},lexical=off"
    run = parse_settings(written)
    assert run == {"index": ADDRESS, "lexical": False}
    assert _named(written, run) == f"index={SHOWN},lexical=off"
    two = "postgresql://one,two/photos?a=1&schema=b"
    assert parse_settings(f"fusion=rrf, index={two}") == {"fusion": "rrf", "index": two}


def test_an_index_that_is_not_there_is_not_found_from_python(server):
    with pytest.raises(IndexNotFound, match="make one with"):
        mmsearch.open("milvus://host/photos")
