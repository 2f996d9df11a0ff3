"""What one thread reads is of one moment, whoever writes meanwhile."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmsearch.errors import StorageFailed
from mmsearch.storage.sqlite import Catalog


@pytest.fixture
def catalog(tmp_path: Path):
    with Catalog(tmp_path / "catalog.db").snapshot():
        pass
    made = Catalog(tmp_path / "catalog.db")
    yield made
    made.close()


def write_elsewhere(catalog: Catalog, value: str) -> None:
    other = Catalog(catalog.path)
    other.settings.set("colour", value)
    other.close()


def test_within_a_snapshot_nothing_changes(catalog: Catalog):
    catalog.settings.set("colour", "red")
    with catalog.snapshot():
        write_elsewhere(catalog, "blue")
        with catalog.snapshot():
            assert catalog.settings.get("colour") == "red"
        assert catalog.settings.get("colour") == "red"
    assert catalog.settings.get("colour") == "blue"


def test_a_snapshot_is_of_the_moment_it_began_not_of_the_first_reading(catalog: Catalog):
    with catalog.snapshot():
        write_elsewhere(catalog, "blue")
        assert catalog.settings.get("colour") is None


def test_a_snapshot_is_one_threads_alone(catalog: Catalog):
    seen: list[str | None] = []
    with catalog.snapshot():
        write_elsewhere(catalog, "blue")
        thread = threading.Thread(target=lambda: seen.append(catalog.settings.get("colour")))
        thread.start()
        thread.join()
    assert seen == ["blue"]


def test_writing_within_a_snapshot_is_a_mistake(catalog: Catalog):
    with catalog.snapshot(), pytest.raises(RuntimeError, match="snapshot"):
        catalog.settings.set("colour", "red")
    catalog.settings.set("colour", "red")
    assert catalog.settings.get("colour") == "red"


def test_an_error_within_a_snapshot_ends_it(catalog: Catalog):
    with pytest.raises(KeyError), catalog.snapshot():
        raise KeyError
    catalog.settings.set("colour", "red")


WRITES = """
import sys
from pathlib import Path
from mmsearch.storage.sqlite import Catalog
catalog = Catalog(Path(sys.argv[1]))
for number in range(300):
    if catalog.settings.get("colour") is not None:
        catalog.settings.set(sys.argv[2], str(number))
"""


def test_processes_that_read_and_then_write_never_fail_each_other(catalog: Catalog):
    catalog.settings.set("colour", "red")
    children = [
        subprocess.Popen([sys.executable, "-c", WRITES, str(catalog.path), name])
        for name in ("one", "other")
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    assert (catalog.settings.get("one"), catalog.settings.get("other")) == ("299", "299")


def test_a_catalog_that_stays_locked_says_what_to_do(catalog: Catalog, monkeypatch):
    monkeypatch.setattr("mmsearch.storage.sqlite.database.TIMEOUT", 0)
    impatient = Catalog(catalog.path)
    with sqlite3.connect(catalog.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFailed, match="another process is writing: wait for it"):
            impatient.settings.set("colour", "red")
        assert impatient.settings.get("colour") is None
        other.execute("ROLLBACK")
    other.close()
    impatient.close()
