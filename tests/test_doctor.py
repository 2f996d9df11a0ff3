"""The doctor finds what is wrong with an index, and repairs what can be repaired."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import paint
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.collection import Collection
from mmsearch.collection.doctor import examine
from mmsearch.errors import IndexBusy, IndexNotFound
from mmsearch.storage.lock import FolderLock
from mmsearch.storage.sqlite.transfer import SqliteTransfer


@pytest.fixture
def index(toy, photos, tmp_path) -> Path:
    """Three photos, one with a caption, and a text; all of the catalog is in its one file."""
    (photos / "red.txt").write_text("a red square")
    (photos / "note.md").write_text("green grass")
    folder = tmp_path / "index"
    with Collection(folder, model="toy", create=True) as library:
        library.add([photos])
    with closing(sqlite3.connect(folder / "catalog.db")) as catalog:
        catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def states(found) -> dict[str, str]:
    return {finding.check: finding.state for finding in found}


def wrong(found) -> list[str]:
    return [finding.check for finding in found if finding.state == "wrong"]


def repaired(found) -> list[str]:
    return [finding.check for finding in found if finding.state == "repaired"]


def run(index: Path, statement: str, *values) -> None:
    """Change a catalog behind the back of mmsearch."""
    with closing(sqlite3.connect(index / "catalog.db")) as catalog:
        catalog.execute("PRAGMA foreign_keys=OFF")
        with catalog:
            catalog.execute(statement, values)


def answers(index: Path) -> list[tuple[str, float]]:
    with Collection(index) as library:
        return [(hit.path, hit.score) for hit in library.search("red", target="image")]


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def test_nothing_is_wrong_with_a_sound_index(index):
    found = examine(index)
    assert set(states(found).values()) == {"ok"}
    assert len({finding.check for finding in found}) == len(found)


def test_a_folder_without_an_index_is_an_error(toy, tmp_path):
    with pytest.raises(IndexNotFound):
        examine(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


# ------------------------------------------------------------------ damage that leaves all vectors


def orphan_vectors(index: Path) -> None:
    run(
        index,
        "INSERT INTO vectors (space_id, modality, item_id, position, vector) "
        "VALUES (1, 'image', 999, 0, zeroblob(16))",
    )


def orphan_texts(index: Path) -> None:
    run(index, "INSERT INTO texts (item_id, position, origin, text) VALUES (999, 0, 'page', 'x')")


def lose_the_id(index: Path) -> None:
    run(index, "DELETE FROM settings WHERE key IN ('catalog_id', 'revision')")


def lose_words(index: Path) -> None:
    run(index, "DELETE FROM words WHERE rowid = 1")


def keep_words_of_no_item(index: Path) -> None:
    run(index, "INSERT INTO words (rowid, texts, names, facts) VALUES (999, 'red', '', '')")


def damage_an_index_of_sqlite(index: Path) -> None:
    """As if it had been built of other rows."""
    with closing(sqlite3.connect(index / "catalog.db")) as catalog:
        sql = catalog.execute("SELECT sql FROM sqlite_master WHERE name='items_by_hash'").fetchone()
        catalog.execute("PRAGMA writable_schema=ON")
        with catalog:
            catalog.execute(
                "UPDATE sqlite_master SET sql = sql || ' WHERE id < 2' WHERE name='items_by_hash'"
            )
    with closing(sqlite3.connect(index / "catalog.db")) as catalog:
        catalog.execute("REINDEX items_by_hash")
        catalog.execute("PRAGMA writable_schema=ON")
        with catalog:
            catalog.execute("UPDATE sqlite_master SET sql = ? WHERE name='items_by_hash'", sql)


def truncate_a_cache(index: Path) -> None:
    os.truncate(next((index / "cache").glob("image-*/rows.f16")), 10)


def alter_a_cache(index: Path) -> None:
    rows = next((index / "cache").glob("image-*/rows.f16"))
    rows.write_bytes(bytes(rows.stat().st_size))


def lose_the_log_of_deletions(index: Path) -> None:
    """A segment has a vector that was deleted, and the catalog has no record of the deletion."""
    run(index, "DELETE FROM items WHERE name = 'green.png'")
    run(index, "DELETE FROM vectors WHERE item_id NOT IN (SELECT id FROM items)")
    run(index, "DELETE FROM changes")


def damage_a_column(index: Path) -> None:
    with closing(sqlite3.connect(index / "catalog.db")) as catalog:
        (id_,) = catalog.execute("SELECT value FROM settings WHERE key = 'catalog_id'").fetchone()
    (index / "cache" / f"columns-{id_}-generation-key.zip").write_bytes(b"half a file")


def leave_a_part_behind(index: Path) -> None:
    part = index / "cache" / "image-1-x-1-y.part"
    part.mkdir()
    (part / "rows.f16").write_bytes(b"half")
    os.utime(part, (time.time() - 7200,) * 2)


def damage_the_backup(index: Path) -> None:
    os.truncate(next((index / "backups").glob("*.db")), 5000)


DAMAGES = {
    orphan_vectors: "references",
    orphan_texts: "references",
    lose_the_id: "identity",
    lose_words: "words",
    keep_words_of_no_item: "words",
    damage_an_index_of_sqlite: "integrity",
    truncate_a_cache: "caches",
    alter_a_cache: "caches",
    lose_the_log_of_deletions: "caches",
    damage_a_column: "caches",
    leave_a_part_behind: "leftovers",
    damage_the_backup: "backups",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_repaired_without_encoding(index, toy, damage):
    before, encoded = answers(index), dict(toy.encoded)
    damage(index)
    assert DAMAGES[damage] in wrong(examine(index))
    assert DAMAGES[damage] in repaired(examine(index, repair=True))
    assert wrong(examine(index)) == []
    assert toy.encoded == encoded
    left = [
        hit for hit in before if damage is not lose_the_log_of_deletions or "green" not in hit[0]
    ]
    assert answers(index) == left


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_without_repair_nothing_is_changed(index, damage):
    damage(index)
    before = everything_in(index)
    examine(index)
    assert everything_in(index) == before


# ---------------------------------------------------------------- damage that loses vectors


def cut_a_vector(index: Path) -> None:
    run(index, "UPDATE vectors SET vector = zeroblob(4) WHERE id = 1")


def spoil_a_vector(index: Path) -> None:
    run(index, "UPDATE vectors SET vector = ? WHERE id = 1", b"\x00\x7e" * 8)  # not a number


def lengthen_a_vector(index: Path) -> None:
    run(index, "UPDATE vectors SET vector = ? WHERE id = 1", b"\x00\x40" * 8)  # twos


def lose_a_vector(index: Path) -> None:
    run(index, "DELETE FROM vectors WHERE id = 1")


def say_more(index: Path) -> None:
    run(
        index,
        "INSERT INTO texts (item_id, position, origin, text) "
        "SELECT id, 7, 'passage', 'more' FROM items WHERE name = 'note.md'",
    )


LOSSES = {
    cut_a_vector: "vectors",
    spoil_a_vector: "vectors",
    lengthen_a_vector: "vectors",
    lose_a_vector: "lacking",
    say_more: "texts",
}


@pytest.mark.parametrize("damage", LOSSES, ids=lambda damage: damage.__name__)
def test_a_lost_vector_is_encoded_by_the_next_index(index, photos, toy, damage):
    before, encoded = answers(index), dict(toy.encoded)
    damage(index)
    assert LOSSES[damage] in wrong(examine(index))
    found = examine(index, repair=True)
    assert LOSSES[damage] in repaired(found)
    assert any("mmsearch index" in finding.next for finding in found)
    assert toy.encoded == encoded
    assert wrong(examine(index)) == []
    with Collection(index) as library:
        library.add()
    assert toy.encoded != encoded
    assert set(states(examine(index)).values()) == {"ok"}
    assert answers(index) == before


def test_a_vector_missing_because_its_file_is_away_is_a_note(index, photos):
    lose_a_vector(index)
    with Collection(index) as library:
        (lacking,) = (
            {item.path for item in library.items}
            - {hit.path for hit in library.search("red", target="image")}
            - {str(photos / "note.md")}
        )
    Path(lacking).unlink()
    found = {finding.check: finding for finding in examine(index)}
    assert found["lacking"].state == "note"
    assert "not there" in found["lacking"].examples[0]


# ------------------------------------------------------------------ a catalog that cannot be opened


def truncate(catalog: Path) -> None:
    os.truncate(catalog, catalog.stat().st_size // 2)


def overwrite(catalog: Path) -> None:
    catalog.write_bytes(b"nothing of the kind" * 1000)


def delete(catalog: Path) -> None:
    catalog.unlink()


@pytest.mark.parametrize("damage", [truncate, overwrite, delete])
def test_a_catalog_that_cannot_be_opened_is_restored_from_its_backup(index, toy, damage):
    before, encoded = answers(index), dict(toy.encoded)
    for side in ("-wal", "-shm"):
        (index / f"catalog.db{side}").unlink(missing_ok=True)
    damage(index / "catalog.db")
    found = examine(index)
    assert wrong(found) == ["catalog file"]
    assert "--repair" in found[0].next
    assert "catalog file" in repaired(examine(index, repair=True))
    assert wrong(examine(index)) == []
    assert answers(index) == before
    assert toy.encoded == {**encoded, "text": toy.encoded["text"]}  # only queries


def test_a_catalog_with_a_page_of_rubbish_is_restored_from_its_backup(index, toy):
    before, encoded = answers(index), dict(toy.encoded)
    with closing(sqlite3.connect(index / "catalog.db")) as catalog:
        (root,) = catalog.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'vectors'"
        ).fetchone()
        (size,) = catalog.execute("PRAGMA page_size").fetchone()
    for side in ("-wal", "-shm"):
        (index / f"catalog.db{side}").unlink(missing_ok=True)
    with (index / "catalog.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(os.urandom(size))
    assert wrong(examine(index)) == ["integrity"]
    assert "integrity" in repaired(examine(index, repair=True))
    assert wrong(examine(index)) == []
    assert toy.encoded == encoded
    assert answers(index) == before


def test_without_a_backup_a_catalog_that_cannot_be_opened_is_lost(index):
    for backup in (index / "backups").glob("*.db"):
        backup.unlink()
    truncate(index / "catalog.db")
    for repair in (False, True):
        found = examine(index, repair=repair)
        assert wrong(found) == ["catalog file"]
        assert "delete the index folder" in found[0].next


# ------------------------------------------------------------------ a folder that is half copied


def copied(index: Path, *without: str) -> Path:
    """A copy of the index folder in which something is missing."""
    folder = index.with_name(f"copy without {len(without)}")
    shutil.copytree(index, folder, ignore=shutil.ignore_patterns(*without))
    return folder


@pytest.mark.parametrize("file", ["rows.f16", "ids.i64", "about.json"])
def test_a_file_of_vectors_that_was_not_copied_is_named(index, file):
    (found,) = [one for one in examine(copied(index, file)) if one.state == "wrong"]
    assert found.check == "caches"
    assert all(file in example for example in found.examples)
    assert "--repair deletes them; a search rebuilds them" in found.next


@pytest.mark.parametrize("repair", [False, True])
def test_caches_without_a_catalog_are_half_a_copy(index, repair):
    folder = copied(index, "catalog.db*", "backups")
    before = everything_in(folder / "cache")
    (found,) = [one for one in examine(folder, repair=repair) if one.state == "wrong"]
    assert (found.check, found.what) == (
        "catalog file",
        "catalog.db is missing or empty: there are only caches",
    )
    assert "copy the whole folder again" in found.next
    assert everything_in(folder / "cache") == before
    assert not (folder / "catalog.db").exists()


def test_an_empty_catalog_is_no_index_and_is_left_as_it_is(toy, tmp_path):
    (tmp_path / "catalog.db").touch()
    with pytest.raises(IndexNotFound):
        examine(tmp_path)
    assert (tmp_path / "catalog.db").stat().st_size == 0


def test_a_catalog_without_its_log_is_older_than_its_caches(index, photos):
    shutil.copytree(photos, photos.with_name("more"))
    with Collection(index) as library:
        library.add([photos.with_name("more")], backups=0)
        whole, part = copied(index), copied(index, "catalog.db-*", "backups")
    assert wrong(examine(whole)) == []
    (found,) = [one for one in examine(part) if one.state == "wrong"]
    assert found.check == "log"
    assert "catalog.db-wal was lost, or not copied" in found.what
    assert "copy the whole folder again" in found.next
    assert "log" in repaired(examine(part, repair=True))
    assert wrong(examine(part)) == []


def test_a_folder_of_vectors_whose_name_has_no_revision_is_compared_like_the_others(index):
    *_, segment = sorted((index / "cache").glob("image-*-*-*-*"))
    segment.rename(segment.with_name("-".join([*segment.name.split("-")[:3], "old"])))
    assert wrong(examine(index)) == []


def test_a_catalog_whose_tables_were_all_in_its_log_is_not_taken_for_a_new_one(index, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "catalog.db")) as catalog:
        catalog.execute("PRAGMA journal_mode=WAL")
    before = everything_in(folder)
    (found,) = [one for one in examine(folder) if one.state == "wrong"]
    assert "catalog.db-wal was lost" in found.what
    assert everything_in(folder) == before


def test_an_unfinished_copy_is_wrong_and_the_command_that_finishes_it_is_named(
    index, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(SqliteTransfer, "finish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mmsearch.copy(index, tmp_path / "half")
    for repair in (False, True):
        (found,) = [
            one for one in examine(tmp_path / "half", repair=repair) if one.state == "wrong"
        ]
        assert found.check == "copy"
        assert f"a part of a copy of {index}" in found.what
        assert f"mmsearch copy {index} {tmp_path / 'half'}" in found.next
    mmsearch.copy(index, tmp_path / "half")
    assert wrong(examine(tmp_path / "half")) == []


# ------------------------------------------------------------------ the disk


def test_changed_and_deleted_files_are_a_note(index, photos):
    (photos / "green.png").unlink()
    paint(photos / "red.png", "white")
    found = {finding.check: finding for finding in examine(index)}
    assert (found["files"].state, found["files"].number) == ("note", 2)
    assert found["files"].next == "mmsearch index"


def test_other_content_at_the_same_size_and_time_is_wrong(index, photos):
    file = photos / "note.md"
    status = file.stat()
    file.write_text("gReen grass")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with closing(sqlite3.connect(index / "catalog.db")) as driver, driver:
        now = (file.stat().st_ctime_ns, file.name)  # as if nobody had written to it
        driver.execute("UPDATE items SET ctime_ns = ? WHERE name = ?", now)
    found = {finding.check: finding for finding in examine(index)}
    assert found["content"].state == "wrong"
    assert found["content"].examples == [str(file)]


def test_a_file_that_was_changed_in_place_with_its_old_time_has_changed(index, photos):
    file = photos / "note.md"
    status = file.stat()
    file.write_text("gReen grass")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = {finding.check: finding for finding in examine(index)}
    assert (found["files"].examples, found["content"].state) == ([str(file)], "ok")


def test_a_missing_folder_is_a_note(index, photos):
    photos.rename(photos.with_name("elsewhere"))
    found = {finding.check: finding for finding in examine(index)}
    assert found["folders"].state == "note"
    assert "relocate" in found["folders"].next


def test_no_more_files_are_read_than_the_sample_has(index):
    found = {finding.check: finding for finding in examine(index, sample=2)}
    assert found["content"].number == found["files"].number == 2


def test_imported_vectors_need_no_files(toy, tmp_path):
    with Collection(tmp_path / "index", model="toy", create=True) as library:
        library.add_vectors(np.eye(8, dtype=np.float32), root=None, model="toy")
    assert wrong(examine(tmp_path / "index")) == []


# ------------------------------------------------------------------ other processes


def test_an_index_that_is_being_written_is_checked_but_not_repaired(index):
    with FolderLock(index).writing("testing"):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as other:
            assert wrong(other.submit(examine, index).result()) == []
            with pytest.raises(IndexBusy):
                other.submit(examine, index, repair=True).result()


def test_what_another_process_is_writing_is_left_alone(index):
    part = index / "cache" / "image-1-x-1-y.part"
    part.mkdir()
    assert wrong(examine(index, repair=True)) == []
    assert part.exists()


def test_a_cache_from_which_something_was_removed_is_sound(index, photos):
    with Collection(index) as library:
        library.search("red")
        library.remove(photos / "red.png")
    assert wrong(examine(index)) == []


# ------------------------------------------------------------------ the command


def test_the_exit_code_is_1_if_something_is_wrong_and_0_once_it_is_repaired(index):
    lose_words(index)
    done = CliRunner().invoke(app, ["doctor", "-i", str(index)])
    assert done.exit_code == 1
    assert [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    done = CliRunner().invoke(app, ["doctor", "--repair", "-i", str(index)])
    assert done.exit_code == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("repaired")]


def test_as_many_vectors_are_checked_closely_as_is_asked_for(index):
    done = CliRunner().invoke(app, ["doctor", "--sample", "2", "-i", str(index)])
    assert "; 2 checked closely" in done.stdout


def test_indexes_missing_after_a_killed_import_are_a_note_and_rebuilt_by_a_repair(index):
    run(index, "DROP INDEX metadata_by_value")
    (found,) = [one for one in examine(index) if one.check == "filters"]
    assert (found.state, found.examples) == ("note", ["metadata_by_value"])
    assert "filters" in repaired(examine(index, repair=True))
    assert states(examine(index))["filters"] == "ok"


def test_words_that_are_not_indexed_yet_are_a_note_and_indexed_by_a_repair(index):
    run(index, "UPDATE texts SET text = 'a crimson square' WHERE text = 'a red square'")
    (found,) = [one for one in examine(index) if one.check == "words"]
    assert (found.state, found.number) == ("note", 1)
    assert "words" in repaired(examine(index, repair=True))
    assert states(examine(index))["words"] == "ok"


def test_as_json_each_finding_has_its_state_and_what_to_do(index):
    lose_words(index)
    done = CliRunner().invoke(app, ["doctor", "--json", "-i", str(index)])
    found = {row["check"]: row for row in json.loads(done.stdout)}
    assert found["words"]["state"] == "wrong"
    assert found["words"]["number"] == 1
    assert "--repair" in found["words"]["next"]
    assert found["integrity"]["state"] == "ok"
