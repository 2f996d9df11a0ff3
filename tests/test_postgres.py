"""An index in PostgreSQL under faults, and with many writers: clear errors, nothing lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ToyEncoder
from postgres_server import postgres_store, run, schema, started
from test_store_contract import ENCODER, found, indexed, opened, put, record, served, vectors

from mmsearch.errors import IndexBusy, IndexNotFound, IndexUnusable, StorageFailed
from mmsearch.storage import FailureRecord, ItemBatch, Store
from mmsearch.types import TextPart

pytest.importorskip("psycopg")

from sqlalchemy import event

from mmsearch.storage.postgres import PostgresStore
from mmsearch.storage.postgres import schema as postgres_schema

SECRET = "correct horse"


@pytest.fixture
def store() -> Iterator[PostgresStore]:
    with postgres_store() as made:
        yield made


@pytest.fixture
def place() -> Iterator[tuple[str, str]]:
    """(URL of the database, name of a schema that is not there)."""
    with schema() as made:
        yield made


def again(store: PostgresStore) -> PostgresStore:
    """The same index, as another process opens it."""
    name = store.database.name
    return PostgresStore(started().get_uri(), name, "postgresql://localhost", create=False)


def backends() -> list[int]:
    """The pids of the server's processes that serve stores."""
    chosen = "SELECT pid FROM pg_stat_activity WHERE application_name = 'mmsearch'"
    return [pid for (pid,) in run(started().get_uri(), chosen)]


def until(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------------- opening


def test_an_index_that_is_not_there_is_not_made_unless_asked_for(place: tuple[str, str]):
    with pytest.raises(IndexNotFound, match="mmsearch index FOLDER -i 'postgresql://x'"):
        PostgresStore(*place, "postgresql://x", create=False)
    assert run(place[0], "SELECT 1 FROM pg_namespace WHERE nspname = '" + place[1] + "'") == []


def test_two_processes_that_make_an_index_at_once_make_one(place: tuple[str, str]):
    def make(_: int) -> str:
        made = PostgresStore(*place, "postgresql://x", create=True)
        found = made.state().store_id
        made.close()
        return found

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(make, range(4)))) == 1


@pytest.fixture(scope="module")
def locked_role() -> Iterator[str]:
    """A user who must give a password, and may make nothing."""
    url = started().get_uri()
    hba = Path(run(url, "SHOW hba_file")[0][0])
    before = hba.read_text()
    run(url, f"CREATE ROLE locked LOGIN PASSWORD '{SECRET}'")
    hba.write_text("local all locked scram-sha-256\n" + before)
    run(url, "SELECT pg_reload_conf()")
    until(lambda: "locked" in str(run(url, "SELECT user_name FROM pg_hba_file_rules")))
    time.sleep(0.1)
    yield "locked"
    hba.write_text(before)
    run(url, "SELECT pg_reload_conf()", "DROP OWNED BY locked", "DROP ROLE locked")


def with_user(url: str, user: str, password: str) -> str:
    from urllib.parse import quote

    return url.replace("postgres:@", f"{user}:{quote(password)}@", 1)


def test_a_wrong_password_is_refused_with_the_step_and_never_shown(
    place: tuple[str, str], locked_role: str
):
    url = with_user(place[0], locked_role, "wrong " + SECRET)
    with pytest.raises(IndexUnusable, match="PGPASSWORD") as caught:
        PostgresStore(url, place[1], "postgresql://locked@localhost", create=True)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error!r} {error}"
        error = error.__cause__


def test_a_user_who_may_make_no_schema_is_told_whom_to_ask(
    place: tuple[str, str], locked_role: str
):
    url = with_user(place[0], locked_role, SECRET)
    with pytest.raises(IndexUnusable, match="GRANT CREATE ON DATABASE"):
        PostgresStore(url, place[1], "postgresql://locked@localhost", create=True)


def test_a_user_who_may_not_read_an_index_is_told_whom_to_ask(
    store: PostgresStore, locked_role: str
):
    url = with_user(started().get_uri(), locked_role, SECRET)
    with pytest.raises(IndexUnusable, match="GRANT you the use of the schema"):
        PostgresStore(url, store.database.name, "postgresql://locked@localhost", create=False)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (("/postgres", "/nowhere"), "createdb"),
        (("host=", "host=/nowhere"), "socket"),
        (("postgres:@", "nobody:@"), "name a database and a user"),
        (("?host", "?nonsense=1&host"), "nonsense"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(
    place: tuple[str, str], change: tuple[str, str], step: str
):
    head, _, tail = place[0].rpartition(change[0])
    with pytest.raises(IndexUnusable, match=step):
        PostgresStore(f"{head}{change[1]}{tail}", place[1], "postgresql://x", create=True)


def test_a_server_without_pgvector_says_what_to_install(place: tuple[str, str]):
    def misspelt(*given: Any) -> Any:
        statement, parameters = given[2].replace("EXISTS vector", "EXISTS no_vector"), given[3]
        return statement, parameters

    run(place[0], "CREATE DATABASE bare")
    from sqlalchemy import Engine

    event.listen(Engine, "before_cursor_execute", misspelt, retval=True)
    try:
        with pytest.raises(IndexUnusable, match=r"lacks pgvector .* install"):
            PostgresStore(
                place[0].replace("/postgres?", "/bare?"), "a", "postgresql://x", create=True
            )
    finally:
        event.remove(Engine, "before_cursor_execute", misspelt)
        run(place[0], "DROP DATABASE bare")


def test_a_schema_of_something_else_is_left_alone(place: tuple[str, str]):
    url, name = place
    run(url, f"CREATE SCHEMA {name}", f"CREATE TABLE {name}.items (mine int)")
    with pytest.raises(IndexUnusable, match=r"something else \(items\).*schema=photos"):
        PostgresStore(url, name, "postgresql://x", create=True)


def test_an_index_of_a_newer_version_says_to_upgrade(store: PostgresStore):
    run(started().get_uri(), f"UPDATE {store.database.name}.mmsearch SET version = 999")
    with pytest.raises(IndexUnusable, match=r"newer mmsearch.*pip install -U mmsearch"):
        again(store)


def test_an_index_of_an_older_version_is_migrated_once(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
):
    put(store, record(store, "a.jpg"))
    add = "ALTER TABLE items ADD COLUMN colour text"
    migrations = [
        *postgres_schema.MIGRATIONS,
        lambda connection: connection.exec_driver_sql(add),
    ]
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", migrations)
    for _ in range(2):
        other = again(store)
        assert len(other) == 1
        other.close()
    name = store.database.name
    assert run(started().get_uri(), f"SELECT version FROM {name}.mmsearch") == [(3,)]


TO_VERSION_1 = """
DROP TABLE word_counts;
DROP FUNCTION delete_words CASCADE;
DROP FUNCTION count_new_words CASCADE;
DROP FUNCTION count_deleted_words CASCADE;
ALTER TABLE words ADD FOREIGN KEY (item_id) REFERENCES items (id) ON DELETE CASCADE;
UPDATE mmsearch SET version = 1
"""


def test_words_of_version_1_are_counted_when_it_is_opened(store: PostgresStore):
    caption = [TextPart("a dog", "caption")]
    ids = put(store, *(record(store, f"{n}.jpg", texts=caption) for n in range(4)))
    put(store, *(record(store, f"other{n}.jpg") for n in range(9)))
    store.words.refresh()
    before = store.words.search("dog", 9)
    with store.database.write() as connection:
        connection.exec_driver_sql(TO_VERSION_1)
    other = again(store)
    assert other.words.search("dog", 9) == before
    other.items.remove(ids[:2])
    with other.database.read() as connection:
        counted = connection.exec_driver_sql("SELECT number FROM word_counts WHERE token = 'dog'")
        assert counted.scalar_one() == 2
    other.close()


# ---------------------------------------------------------------------- connections


def test_a_connection_that_was_cut_while_idle_is_replaced(store: PostgresStore):
    put(store, record(store, "a.jpg"))
    for pid in backends():
        run(started().get_uri(), f"SELECT pg_terminate_backend({pid})")
    until(lambda: not backends())
    assert len(store) == 1
    put(store, record(store, "b.jpg"))
    assert len(store) == 2


def test_a_connection_that_is_cut_within_a_batch_leaves_nothing_of_it(store: PostgresStore):
    put(store, record(store, "a.jpg"))

    def write() -> None:
        with store.database.write() as connection:
            (pid,) = connection.exec_driver_sql("SELECT pg_backend_pid()").one()
            connection.exec_driver_sql("DELETE FROM items")
            run(started().get_uri(), f"SELECT pg_terminate_backend({pid})")
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StorageFailed, match=r"connection to .* was lost.*run the command again"):
        write()
    assert [item.path for item in store.items.all()] == ["/photos/a.jpg"]


def loaded(store: Store, numbers: range) -> ItemBatch:
    source = store.sources.imported()
    names = [f"{number}.jpg" for number in numbers]
    return ItemBatch([source] * len(names), ["/x"] * len(names), names)


def test_a_batch_of_which_some_is_there_updates_that_and_adds_the_rest(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mmsearch.storage.postgres.writer.MANY", 2)
    with store.loader.loading() as put_batch:
        assert put_batch(loaded(store, range(5)), None) == (5, 0)
        assert put_batch(loaded(store, range(3, 9)), None) == (4, 2)
    assert len(store) == 9


def test_a_server_that_is_killed_within_a_batch_has_what_was_stored_before(store: PostgresStore):
    with store.loader.loading() as put_batch:
        put_batch(loaded(store, range(100)), None)
    before, more = store.state(), loaded(store, range(50, 150))

    def write() -> None:
        with store.database.write() as connection:
            (pid,) = connection.exec_driver_sql("SELECT pg_backend_pid()").one()
            store.database.writer(connection).put_items(more)
            os.kill(pid, signal.SIGKILL)  # the server ends all connections, and recovers
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StorageFailed, match="was lost"):
        write()

    def answers() -> bool:
        with suppress(StorageFailed):  # while it recovers
            return len(store) == 100
        return False

    until(answers)
    assert store.state() == before
    with store.loader.loading() as put_batch:
        assert put_batch(more, None) == (50, 50)
    assert len(store) == 150


def test_a_full_disk_of_the_server_keeps_what_was_stored(store: PostgresStore):
    put(store, record(store, "a.jpg"))
    name = store.database.name
    full = "RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'"
    run(
        started().get_uri(),
        f"CREATE FUNCTION {name}.full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {full}; END $$",
        f"CREATE TRIGGER full_disk BEFORE INSERT ON {name}.texts "
        f"FOR EACH ROW EXECUTE FUNCTION {name}.full_disk()",
    )
    with pytest.raises(StorageFailed, match=r"No space left.*give the server more room"):
        put(store, record(store, "b.jpg", texts=[TextPart("a dog", "caption")]))
    assert [item.path for item in store.items.all()] == ["/photos/a.jpg"]


def test_an_index_that_was_deleted_says_so(store: PostgresStore):
    run(started().get_uri(), f"DROP SCHEMA {store.database.name} CASCADE")
    with pytest.raises(IndexUnusable, match="deleted or altered"):
        store.check_open()
    with pytest.raises(IndexUnusable, match="deleted or altered"):
        len(store)


# ---------------------------------------------------------------------- many writers


def test_many_writers_of_the_same_files_double_and_lose_nothing(store: PostgresStore):
    space = served(store)
    field = space.id, "image"
    stores = [store, *(again(store) for _ in range(3))]
    files = [
        record(store, f"{number}.jpg", vectors={field: vectors(number % 4)}, facts={"iso": 100.0})
        for number in range(40)
    ]
    bad = FailureRecord(files[0].source_id, "", "bad.jpg", "0 bytes", None, retry=False)

    def write(one: PostgresStore) -> None:
        for start in range(0, 40, 4):  # each of them in another order
            some = files[start : start + 4]
            one.put(some if stores.index(one) % 2 else some[::-1], [bad])
            one.tags.add("mine", [item.id for item in one.items.all()])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, stores))
    assert len(store) == store.vectors.count(space) == 40
    assert len(store.failures) == 1
    assert {item.metadata["meta"]["iso"] for item in store.items.all()} == {"100"}
    for one in stores[1:]:
        one.close()


def test_words_are_counted_exactly_whoever_indexes_and_deletes_at_once(store: PostgresStore):
    said = ["a dog", "the dog and the cat", "cat dog bird"]
    ids = put(
        store,
        *(record(store, f"{n}.jpg", texts=[TextPart(said[n % 3], "caption")]) for n in range(60)),
    )
    stores = [store, *(again(store) for _ in range(3))]

    def write(one: PostgresStore) -> None:
        place = stores.index(one)
        for start in range(place, 30, 4):
            one.words.refresh(at_most=7)
            one.items.remove([ids[start], ids[29 - start]])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, stores))
    store.words.refresh()
    real = "SELECT token, count(*) FROM words, unnest(tokens) AS token GROUP BY token"
    kept = "SELECT token, number FROM word_counts WHERE number > 0 AND trim(token) <> ''"
    with store.database.read() as connection:
        counts = [dict(map(tuple, connection.exec_driver_sql(one))) for one in (kept, real)]
    assert counts[0] == counts[1]
    assert counts[0]["bird"] == 10
    for one in stores[1:]:
        one.close()


def test_a_follower_misses_no_vector_of_several_writers(store: PostgresStore):
    space = served(store)
    field = space.id, "image"
    stores = [again(store) for _ in range(3)]
    source = record(store, "x").source_id
    done = threading.Event()
    seen: list[int] = []

    def follow() -> None:
        last = 0
        while True:
            ended = done.is_set()
            for new in store.vectors.new(space, "image", last):
                seen.extend(new.vector_ids.tolist())
                last = seen[-1]
            if ended:
                return

    def write(number: int) -> None:
        for step in range(20):
            name = f"{number} {step}.jpg"
            plain = replace(record(store, name), source_id=source, hash=name.encode())
            stores[number].put([replace(plain, vectors={field: vectors(step % 4)})])

    with ThreadPoolExecutor(4) as threads:
        following = threads.submit(follow)
        list(threads.map(write, range(3)))
        done.set()
        following.result()
    assert seen == sorted(seen)
    assert len(seen) == store.vectors.count(space) == 60
    for one in stores:
        one.close()


def test_two_runs_index_the_same_folder_at_once(
    store: PostgresStore, toy: ToyEncoder, tmp_path: Path
):
    from conftest import paint

    photos = tmp_path / "photos"
    for number in range(12):
        paint(photos / f"{number}.png", "red" if number % 2 else "green")
    others = [again(store) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        indexes = list(threads.map(lambda one: opened(one, photos, toy), others))
    assert len(store) == 12
    (space,) = store.spaces.all()
    assert store.vectors.count(space, "image") == 12
    assert len(found(indexes[0], "red", k=12)) == 12
    for one in others:
        one.close()


def test_a_file_that_another_run_stored_meanwhile_is_counted_as_unchanged(
    store: PostgresStore, toy: ToyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from conftest import paint

    for number, colour in enumerate(("red", "green", "blue")):
        paint(tmp_path / "photos" / f"{number}.png", colour)
    other, put, counts = again(store), store.put, []

    def put_after_the_other(*given: Any) -> Any:
        if not counts:
            counts.append(indexed(other, tmp_path / "photos", toy)[1])
        return put(*given)

    monkeypatch.setattr(store, "put", put_after_the_other)
    counts.append(indexed(store, tmp_path / "photos", toy)[1])
    assert [(one.added, one.unchanged, one.updated) for one in counts] == [(3, 0, 0), (0, 3, 0)]
    assert len(store) == 3
    other.close()


# ---------------------------------------------------------------------- locks


def test_writers_write_side_by_side_and_a_copy_alone(store: PostgresStore):
    other = again(store)
    with store.writer_lock.writing("indexing"):
        with store.writer_lock.writing("tagging"), other.writer_lock.may_write("x") as may:
            assert may
        with (
            pytest.raises(IndexBusy, match=f"indexing, pid {os.getpid()} on "),
            other.transfer.writing(),
        ):
            pass
    with other.transfer.writing():
        with (
            pytest.raises(IndexBusy, match="copying, pid"),
            store.writer_lock.writing("indexing"),
        ):
            pass
        with store.writer_lock.may_write("x") as may:
            assert not may
    with store.writer_lock.writing("indexing"):
        pass
    other.close()


def test_the_lock_of_a_process_that_is_gone_is_free(store: PostgresStore):
    other = again(store)

    @contextmanager
    def cut() -> Iterator[None]:
        with other.writer_lock.writing_alone("copying"):
            where = "application_name LIKE 'mmsearch: copying%'"
            ends = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {where}"
            run(started().get_uri(), ends)
            yield

    with cut(), store.writer_lock.writing("indexing", wait=5):
        pass
    other.close()


# ---------------------------------------------------------------------- odd texts


@pytest.mark.parametrize("odd", ["a\0b", "caf\udce9", "\U0010d7ff\U0010d7fex\U0010d800", "%s ? \\"])
def test_any_text_comes_back_as_it_was_stored(store: PostgresStore, odd: str):
    texts = [TextPart(odd, "caption")]
    facts = {"title": odd}
    plain = record(store, "a.jpg", folder=odd, texts=texts, facts=facts)
    (id_,) = put(store, replace(plain, name=f"{odd}.jpg"))
    store.settings.set(odd, odd)
    source = store.sources.imported()
    batch = ItemBatch([source], [odd], ["b.jpg"], tags=[[0], odd, [0.5]])
    with store.loader.loading(1) as put_batch:
        put_batch(batch, None)
    item = store.items.get([id_])[id_]
    assert item.path == f"/photos/{odd}/{odd}.jpg"
    assert (item.texts, item.metadata["meta"]) == (tuple(texts), {"title": odd})
    assert store.settings.get(odd) == odd
    assert store.files.known(1, odd)[f"{odd}.jpg"].id == id_
    (tagged,) = [one for one in store.items.all() if "tags" in one.metadata]
    assert tagged.metadata["tags"] == [odd]
    assert store.items.remove_below(1, odd) == 1


def test_a_closed_store_says_so(store: PostgresStore):
    store.close()
    store.close()
    with pytest.raises(StorageFailed, match="has been closed"):
        len(store)


def test_encoders_of_two_processes_make_one_space(store: PostgresStore):
    others = [again(store) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda one: one.spaces.serve_with([ENCODER]), others))
    assert [space.name for space in store.spaces.all()] == ["toy"]
    for one in others:
        one.close()
