from __future__ import annotations

import itertools
import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import case, select
from test_filters import (
    TAGS,
    THINGS,
    WORDS,
    Catalog,
    Thing,
    some_things,
    wheres,
    world_of,
)
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.errors import InvalidFilter
from mmsearch.filters import (
    KEYS,
    Circle,
    Condition,
    Filter,
    Key,
    Not,
    from_options,
    parse_condition,
    parse_where,
)
from mmsearch.filters.keys import NUMBER, TEXT
from mmsearch.filters.match import kilometres
from mmsearch.storage.sql.schema import items
from mmsearch.storage.sqlite import filters as filters_module
from mmsearch.storage.sqlite.columns import column, generation, predicates
from mmsearch.storage.sqlite.filters import Filters
from mmsearch.storage.sqlite.view import Generation, View
from mmsearch.vectors.id_set import IdSet

HEARD = "INSERT INTO vectors (space_id, modality, item_id, position, vector) {}"


@pytest.fixture(autouse=True)
def few_items_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters_module, "SMALLEST", 1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Catalog]:
    made = world_of(some_things(40), tmp_path / "catalog.db")
    yield made
    made.close()


def process(made: Catalog, folder: Path) -> Filters:
    """Filters as a new process has them."""
    return Filters(made.database, folder)


def ready(made: Catalog, folder: Path) -> Filters:
    """Filters of a process that was asked before, so that a generation has begun."""
    filters = process(made, folder)
    filters.passing(parse_where({"name": "first"}))
    assert generation_of(made)
    return filters


def generation_of(made: Catalog) -> Generation | None:
    with made.filters.view() as view:
        return view.generation


def by_sql(made: Catalog, filter_: Any) -> list[int]:
    return made.filters.matching(filter_).tolist()


def no_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whatever asks the catalog which items pass fails."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        pytest.fail("the catalog was asked")

    for name in ("passing", "passing_lately", "passing_of"):
        monkeypatch.setattr(f"mmsearch.storage.sqlite.view.View.{name}", refuse)


def change(made: Catalog, sql: str, *values: Any) -> None:
    with made.database.write() as connection:
        connection.exec_driver_sql(sql, values)


# ---------------------------------------------------------------------- the law


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalog, Filters]]:
    folder = tmp_path_factory.mktemp("world")
    made = world_of(THINGS, folder / "catalog.db")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(filters_module, "SMALLEST", 1)
        columns = ready(made, folder / "cache")
    yield made, columns
    made.close()


@settings(max_examples=120)
@given(wanted=wheres)
@example(wanted={})
@example(wanted={"$not": {"width": {"$gt": 1}}})
@example(wanted={"path": {"$glob": "**"}})
@example(wanted={"path": {"$glob": "*/**/*"}})
@example(wanted={"path": {"$glob": "/"}})
@example(wanted={"path": {"$glob": "2019/*.jpg"}})
@example(wanted={"path": {"$glob": "20?9/beach/a.jpg"}})
@example(wanted={"path": {"$contains": "/"}})
@example(wanted={"path": "a.jpg"})
@example(wanted={"$or": [{"has": "sound"}, {"path": {"$glob": "?*/[ab]*"}}]})
@example(wanted={"size": {"$gt": 9.5}})
@example(wanted={"size": {"$gte": 10.5}})
@example(wanted={"size": {"$lt": 10.5}})
@example(wanted={"size": {"$lte": 9.5}})
@example(wanted={"size": [10, 10.5, -1e300, 1e300]})
@example(wanted={"modified": {"$gte": "0001"}})
@example(wanted={"rating": {"$gte": 2**53 + 1}})
def test_columns_say_what_the_catalog_says(full: tuple[Catalog, Filters], wanted: dict[str, Any]):
    made, columns = full
    filter_ = parse_where(wanted)
    assert columns.passing(filter_).ids.tolist() == by_sql(made, filter_)


@settings(max_examples=60)
@given(wanted=wheres)
def test_many_different_texts_are_left_to_the_catalog(
    full: tuple[Catalog, Filters], wanted: dict[str, Any]
):
    made, filter_ = full[0], parse_where(wanted)
    columns = process(made, made.path.parent / "cache")
    with bounds(few=5, most_texts=2):
        assert columns.passing(filter_).ids.tolist() == by_sql(made, filter_)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalog, Filters]]:
    folder = tmp_path_factory.mktemp("tree")
    places = itertools.product(
        ["/", "/a/b"], ["", "a", "b", "a/b", "b/a/ab", "x/.a"], ["a", "ab", "b.a", "a.b.a", ".b"]
    )
    made = world_of([Thing(*place) for place in places], folder / "catalog.db")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(filters_module, "SMALLEST", 1)
        columns = ready(made, folder / "cache")
    yield made, columns
    made.close()


@settings(max_examples=200)
@given(
    op=st.sampled_from(["$glob", "$glob", "$glob", "$contains", "$eq"]),
    parts=st.lists(
        st.sampled_from(["a", "b", "ab", ".", "/", "*", "?", "**/", "*/", "/*", "[!b]", "[a/]"]),
        min_size=1,
        max_size=6,
    ),
)
@example(op="$glob", parts=["a[!b]b"])
@example(op="$glob", parts=["a[a/]b"])
@example(op="$glob", parts=["a/**/b.a"])
@example(op="$glob", parts=["*/a*b.a"])
@example(op="$glob", parts=["b/a*b*"])
@example(op="$contains", parts=["b/a"])
def test_a_path_is_split_only_where_that_makes_no_difference(
    tree: tuple[Catalog, Filters], op: str, parts: list[str]
):
    made, columns = tree
    filter_ = parse_where({"path": {op: "".join(parts)}})
    assert columns.passing(filter_).ids.tolist() == by_sql(made, filter_)


@pytest.fixture(scope="module")
def globe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalog, Filters]]:
    folder, dice = tmp_path_factory.mktemp("globe"), random.Random(0)
    points = [(dice.uniform(-90, 90), dice.uniform(-180, 180)) for _ in range(200)]
    made = world_of(
        [
            Thing(name=f"{number}.jpg", details={"latitude": point[0], "longitude": point[1]})
            for number, point in enumerate([*points, (90.0, 0.0), (-90.0, 0.0), (0.0, 180.0)])
        ],
        folder / "catalog.db",
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(filters_module, "SMALLEST", 1)
        columns = ready(made, folder / "cache")
    yield made, columns
    made.close()


@given(
    here=st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    other=st.integers(1, 203),
    reach=st.one_of(st.none(), st.floats(0, 20_100)),
)
def test_distances_are_those_of_the_catalog_to_the_last_bit(
    globe: tuple[Catalog, Filters],
    here: tuple[float, float],
    other: int,
    reach: float | None,
):
    made, columns = globe
    if reach is None:  # as far as to one of the items, exactly
        point = made.database.rows(
            select(items.c.latitude, items.c.longitude).where(items.c.id == other)
        )
        reach = kilometres(*point[0], Circle(*here, 0.0))
    filter_ = Filter((Condition("near", "within", Circle(*here, reach)),))
    assert columns.passing(filter_).ids.tolist() == by_sql(made, filter_)


@contextmanager
def bounds(few: int, most_texts: int) -> Iterator[None]:
    """Up to how many items are looked up one by one, and how many texts are looked through."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(generation, "FEW", few)
        patched.setattr(predicates, "MOST_TEXTS", most_texts)
        yield


class Changes:
    """Things that happen to a catalog, drawn by a dice."""

    def __init__(self, made: Catalog, seed: int) -> None:
        self.made = made
        self.dice = random.Random(seed)
        self.numbers = itertools.count()

    def one(self) -> int:
        ids = by_sql(self.made, parse_where({}))
        return self.dice.choice(ids or [0])

    def add(self) -> None:
        number, dice = next(self.numbers), self.dice
        source = dice.choice(list(self.made.sources.all()))[0]
        change(
            self.made,
            "INSERT INTO items (source_id, folder, name, kind, size, mtime_ns, hash, width, "
            "camera, taken_at) VALUES (?, ?, ?, ?, ?, 0, x'00', ?, ?, ?)",
            source,
            dice.choice(["2019", "2019/beach", ""]),
            f"{number}.{dice.choice(['jpg', 'png'])}",
            dice.choice(["image", "video", "audio"]),
            dice.choice([0, 10, 1024]),
            dice.choice([None, 640, 1920]),
            dice.choice([None, "NIKON D90"]),
            dice.choice([None, "2020-01-01T00:00:00"]),
        )

    def alter(self) -> None:
        column_, values = self.dice.choice(
            [
                ("width", [None, 640, 7]),
                ("camera", [None, "Canon EOS 5D"]),
                ("taken_at", [None, "2019-12-31T23:59:59"]),
                ("mtime_ns", [0, 10**18]),
                ("latitude", [None, 48.2]),
            ]
        )
        sql = f"UPDATE items SET {column_} = ? WHERE id = ?"
        change(self.made, sql, self.dice.choice(values), self.one())

    def remove(self) -> None:
        self.made.items.remove([self.one()])

    def rename(self) -> None:
        change(
            self.made,
            "UPDATE items SET folder = 'new', name = ? WHERE id = ?",
            f"r{next(self.numbers)}.jpg",
            self.one(),
        )

    def relocate(self) -> None:
        source, _ = self.dice.choice(list(self.made.sources.all()))
        path = f"/moved/{next(self.numbers)}"
        change(self.made, "UPDATE sources SET path = ? WHERE id = ?", path, source)

    def describe(self) -> None:
        meta = {"rating": self.dice.choice([None, *WORDS]), "who": self.dice.choice(["Ann", 5])}
        self.made.metadata.set([(self.one(), meta)])

    def tag(self) -> None:
        item, tag = self.one(), self.dice.choice(TAGS)
        if self.dice.random() < 0.5:
            change(self.made, "DELETE FROM tags WHERE item_id = ?", item)
        elif item:
            change(self.made, "INSERT OR REPLACE INTO tags VALUES (?, ?, 0.5)", item, tag)

    def say(self) -> None:
        item, origin = self.one(), self.dice.choice(["ocr", "caption", "speech"])
        change(self.made, "DELETE FROM texts WHERE item_id = ?", item)
        sql = "INSERT INTO texts (item_id, position, origin, text) VALUES (?, 0, ?, 'x')"
        if item:
            change(self.made, sql, item, origin)

    def sound(self) -> None:
        item = self.one()
        change(self.made, "DELETE FROM vectors WHERE item_id = ?", item)
        sql = HEARD.format("VALUES (1, 'audio', ?, 0, 'ab')")
        if item and self.dice.random() < 0.7:
            change(self.made, sql, item)

    def file_words(self) -> None:
        self.made.words.refresh()

    def begin(self) -> None:
        self.made.filters.begin_generation(generation_of(self.made))


KINDS = ["add", "alter", "remove", "rename", "relocate", "describe", "tag", "say", "sound"]
KINDS += ["file_words", "begin"]


def test_an_item_that_is_altered_after_it_was_added_and_its_words_filed_is_found(
    world: Catalog, tmp_path: Path
):
    filters = ready(world, tmp_path / "cache")
    changes = Changes(world, 0)
    changes.add()
    world.words.refresh()
    newest = by_sql(world, parse_where({}))[-1]
    world.metadata.set([(newest, {"rating": 5})])
    filter_ = parse_where({"rating": 5})
    assert filters.passing(filter_).ids.tolist() == by_sql(world, filter_)
    assert newest in by_sql(world, filter_)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.lists(st.sampled_from(KINDS), max_size=3), min_size=1, max_size=5),
    wanted=st.lists(wheres, min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    few=st.sampled_from([0, 2_000]),
    most_texts=st.sampled_from([2, 50_000]),
)
def test_whatever_changes_and_whoever_asks_no_answer_is_out_of_date(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[list[str]],
    wanted: list[dict[str, Any]],
    seed: int,
    few: int,
    most_texts: int,
):
    folder = tmp_path_factory.mktemp("changing")
    made = world_of(some_things(25, seed), folder / "catalog.db")
    other = Catalog(folder / "catalog.db")  # as in another process
    asking = [
        process(made, folder / "cache"),
        process(other, folder / "cache"),
        process(other, folder / "elsewhere"),
    ]
    # a key must be there to be asked for
    made.metadata.set([(1, {"rating": 5, "who": "Ann", "size": "XL"})])
    changes, filters = Changes(made, seed), [parse_where(one) for one in wanted]
    with bounds(few, most_texts):
        for some in kinds:
            for kind in some:
                getattr(changes, kind)()
            for filter_, columns in itertools.product(filters, asking):
                with suppress(InvalidFilter):  # the last item of that key may be gone
                    expected = by_sql(made, filter_)
                    assert columns.passing(filter_).ids.tolist() == expected
    made.close()
    other.close()


# ---------------------------------------------------------------------- when columns are used


@pytest.mark.parametrize(
    "wanted",
    [
        {"camera": {"$contains": "canon"}},
        {"size": {"$gt": 10}, "width": [640, 1920]},
        {"date": {"$lt": "2020"}},
        {"rating": {"$gt": 1}},
        {"rating": [5, "n/a", True]},
        {"$not": {"who": {"$glob": "[Aa]*"}}},
        {"$or": [{"who": None}, {"modality": "video"}]},
        {"near": [48.2, 16.4, 500]},
        {"megapixels": {"$gte": 1}},
    ],
)
def test_columns_answer_without_sql(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where(wanted)
    expected = by_sql(world, filter_)
    no_sql(monkeypatch)
    assert columns.passing(filter_).ids.tolist() == expected


def test_the_first_filter_is_answered_by_sql_and_makes_no_columns(world: Catalog, tmp_path: Path):
    process(world, tmp_path / "cache").passing(parse_where({"width": 640}))
    assert not list(tmp_path.glob("cache/*"))


def test_the_second_filter_makes_columns_for_later_processes(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    filter_ = parse_where({"width": {"$gte": 1920}})
    for _ in range(2):  # as two commands of a shell
        process(world, tmp_path / "cache").passing(filter_)
    expected = by_sql(world, filter_)
    no_sql(monkeypatch)
    monkeypatch.setattr("mmsearch.storage.sqlite.view.View.values", None)
    assert process(world, tmp_path / "cache").passing(filter_).ids.tolist() == expected


def test_filters_over_few_items_are_left_to_sql(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(filters_module, "SMALLEST", 41)
    columns = process(world, tmp_path / "cache")
    for width in (640, 1920, 640):
        filter_ = parse_where({"width": width})
        assert columns.passing(filter_).ids.tolist() == by_sql(world, filter_)
    assert generation_of(world) is None
    assert not (tmp_path / "cache").exists()


def test_an_answer_is_remembered_until_something_changes(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"width": 640})
    with monkeypatch.context() as patched:
        first = columns.passing(filter_)
        no_sql(patched)
        assert columns.passing(filter_) is first
    other = Catalog(world.path)
    other.items.remove(first.ids[:1].tolist())
    assert columns.passing(filter_).ids.tolist() == first.ids[1:].tolist()
    world.items.remove(first.ids[1:2].tolist())
    assert columns.passing(filter_).ids.tolist() == first.ids[2:].tolist()
    other.close()


@pytest.mark.parametrize(
    ("wanted", "sql"),
    [
        ({"has": "sound"}, HEARD.format("SELECT 1, 'audio', id, 9, 'ab' FROM items")),
        ({"path": {"$glob": "*/moved/*"}}, "UPDATE sources SET path = '/moved' || path"),
        ({"folder": {"$contains": "moved"}}, "UPDATE sources SET path = '/moved' || path"),
        ({"folder": {"$contains": "2020"}}, "UPDATE items SET folder = '2020/' || id WHERE id < 9"),
    ],
)
def test_an_answer_of_sql_is_not_remembered_where_it_may_have_changed(
    world: Catalog, tmp_path: Path, wanted: dict[str, Any], sql: str
):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where(wanted)
    with bounds(few=0, most_texts=2):
        before = columns.passing(filter_).ids.tolist()
        change(world, sql)
        after = columns.passing(filter_).ids.tolist()
    assert after == by_sql(world, filter_) != before


def test_an_answer_of_sql_is_remembered_while_other_items_change(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"path": {"$glob": "*[0-9]*"}})
    with bounds(few=0, most_texts=2):
        before = columns.passing(filter_).ids.tolist()
        change(world, "DELETE FROM items WHERE id = ?", before[0])
        monkeypatch.delattr("mmsearch.storage.sqlite.view.View.passing")
        assert columns.passing(filter_).ids.tolist() == before[1:]


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_a_change_of_what_a_key_asks_for_is_logged(world: Catalog, key: Key):
    """Otherwise columns would be out of date."""
    if not isinstance(key.field, str):
        return
    assert world.filters.begin_generation(None)
    table, _, column = key.field.rpartition(".")
    change(world, f"UPDATE {table or 'items'} SET {column} = {column}")
    with world.filters.view() as view:
        assert view.altered()


def test_an_unknown_key_is_refused_with_columns_too(world: Catalog, tmp_path: Path):
    columns = ready(world, tmp_path / "cache")
    with pytest.raises(InvalidFilter, match="did you mean"):
        columns.passing(parse_where({"widht": 1}))


def test_where_no_file_can_be_written_columns_are_kept_in_memory(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "cache").write_bytes(b"no folder")
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"width": 640})
    expected = by_sql(world, filter_)
    no_sql(monkeypatch)
    assert columns.passing(filter_).ids.tolist() == expected


def test_filters_over_a_catalog_that_cannot_be_written_are_left_to_sql(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    filter_ = parse_where({"width": 640})
    expected = by_sql(world, filter_)
    monkeypatch.setattr("mmsearch.storage.sqlite.database.os.access", lambda *_: False)
    reading = Catalog(world.path)
    columns = process(reading, tmp_path / "cache")
    for wanted in (parse_where({"height": 480}), filter_):
        assert columns.passing(wanted).ids.tolist() == by_sql(world, wanted)
    assert len(columns.passing(filter_)) == len(expected)
    assert generation_of(world) is None
    reading.close()


def test_while_another_process_writes_no_generation_begins(world: Catalog, tmp_path: Path):
    columns = process(world, tmp_path / "cache")
    writer = sqlite3.connect(world.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    for width in (640, 1920):
        filter_ = parse_where({"width": width})
        assert columns.passing(filter_).ids.tolist() == by_sql(world, filter_)
    assert generation_of(world) is None
    writer.execute("ROLLBACK")
    writer.close()
    columns.passing(parse_where({"width": 4000}))
    assert generation_of(world) is not None


def test_a_generation_that_another_process_began_goes_on(world: Catalog):
    assert world.filters.begin_generation(None)
    first = generation_of(world)
    assert not world.filters.begin_generation(None)
    assert generation_of(world) == first
    assert world.filters.begin_generation(first)
    assert generation_of(world) != first


def test_after_many_changes_a_new_generation_begins_and_old_files_go(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(filters_module, "CHANGED", 3)
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"width": 640})
    columns.passing(filter_)
    first, kept = generation_of(world), set(tmp_path.glob("cache/*"))
    for item in (1, 2, 3, 4):
        change(world, "UPDATE items SET width = 640 WHERE id = ?", item)
    assert {1, 2, 3, 4} <= set(columns.passing(filter_).ids.tolist())
    assert generation_of(world) != first
    assert columns.passing(parse_where({"width": 7})).ids.tolist() == []
    assert not kept & set(tmp_path.glob("cache/*"))
    with world.filters.view() as view:
        assert view.altered() == []


def test_a_snapshot_sees_what_was_and_not_what_newer_columns_hold(world: Catalog, tmp_path: Path):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"width": 640})
    expected = by_sql(world, filter_)
    other = Catalog(world.path)
    with world.snapshot():
        assert by_sql(world, parse_where({})) == list(range(1, 41))
        change(other, "UPDATE items SET width = 640")
        process(other, tmp_path / "cache").passing(parse_where({"pages": 12}))
        later = ready(other, tmp_path / "cache").passing(filter_)  # makes the column of width
        assert len(later) == 40
        assert columns.passing(filter_).ids.tolist() == expected
    assert len(columns.passing(filter_)) == 40
    other.close()


def test_a_snapshot_takes_no_answer_that_sql_gave_another_thread_since(
    world: Catalog, tmp_path: Path
):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"path": {"$glob": "*[0-9]*"}})

    columns.passing(parse_where({"folder": "makes the column"}))

    def elsewhere() -> None:
        change(world, "UPDATE items SET folder = '7/' || id WHERE id <= 20")
        assert {*range(1, 21)} <= {*columns.passing(filter_).ids.tolist()}

    with bounds(few=0, most_texts=2), world.snapshot():
        expected = by_sql(world, filter_)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert columns.passing(filter_).ids.tolist() == expected
    assert not {*range(1, 21)} <= {*expected}


def test_threads_are_answered_as_of_the_moment_that_they_see(world: Catalog, tmp_path: Path):
    columns, done = ready(world, tmp_path / "cache"), threading.Event()
    wrong: list[Any] = []

    def ask(seed: int) -> None:
        dice = random.Random(seed)
        while not done.is_set():
            wanted = {dice.choice(["width", "height"]): {"$lt": dice.choice([7, 481, 1000])}}
            with world.snapshot():
                found = columns.passing(parse_where(wanted)).ids.tolist()
                if found != by_sql(world, parse_where(wanted)):
                    wrong.append(wanted)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    changes = Changes(world, seed=1)
    for kind in ["add", "alter", "alter", "remove", "begin"] * 12:
        getattr(changes, kind)()
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------------- a new key

MINUTES = Key("minutes", NUMBER, "how long it lasts", lambda item: item.seconds / 60)


@pytest.fixture
def lasting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of 5,001 items: a note that takes ten minutes, and shorter and longer ones."""
    monkeypatch.undo()  # as many items as it takes
    monkeypatch.setitem(KEYS, MINUTES.name, MINUTES)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").write_text("a dog on a beach")
    mmsearch.index(tmp_path / "notes", into=tmp_path / "idx", model="mini").close()
    made = Catalog(tmp_path / "idx" / "catalog.db")
    change(made, "UPDATE items SET seconds = 600")
    change(
        made,
        "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 5000) INSERT "
        "INTO items (source_id, folder, name, kind, size, mtime_ns, hash, seconds) "
        "SELECT 1, '', n || '.wav', 'audio', 0, 0, x'00', n / 4.0 FROM n",
    )
    made.close()
    return tmp_path / "idx"


def test_a_key_that_is_declared_is_asked_of_sql_and_of_columns(
    lasting: Path, monkeypatch: pytest.MonkeyPatch
):
    made = Catalog(lasting / "catalog.db")
    filter_ = parse_condition("minutes >= 10")
    expected = [1, *range(2401, 5002)]
    assert by_sql(made, filter_) == expected
    made.filters.passing(parse_where({"minutes": {"$lt": 5}}))
    no_sql(monkeypatch)
    assert made.filters.passing(filter_).ids.tolist() == expected
    made.close()


def test_a_key_that_is_declared_is_asked_for_in_the_shell(lasting: Path):
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*words, "-i", str(lasting)])
        return done.exit_code, done.stdout or done.stderr

    for _ in range(3):  # by SQL, by columns that are built, by columns that are read
        code, out = run("query", "a dog", "--where", "minutes = 10", "-f")
        assert code == 0, out
        assert out.endswith("note.txt\n")
        assert run("query", "a dog", "--where", "minutes > 10", "-f")[0] == 1
    assert list((lasting / "cache").glob("columns-*"))
    assert run("list", "--where", "minutes = 20", "-f")[1].endswith("/4800.wav\n")
    code, out = run("query", "a dog", "--where", "minutes = long")
    assert (code, out) == (2, "mmsearch: minutes: 'long' is not a number\n")
    assert "minutes" in run("query", "a dog", "--where", "hours = 1")[1]


@pytest.mark.parametrize("wanted", ["true", "True", "TRUE"])
def test_true_is_found_however_it_is_spelt_by_sql_by_columns_and_in_the_shell(
    lasting: Path, wanted: str
):
    made = Catalog(lasting / "catalog.db")
    spelt = [True, "True", "TRUE", "yes"]
    made.metadata.set((id_, {"good": one}) for id_, one in enumerate(spelt, 1))
    filter_ = parse_condition(f"good = {wanted}")
    for _ in range(2):
        assert made.filters.passing(filter_).ids.tolist() == by_sql(made, filter_) == [1, 2, 3]
    made.close()
    done = CliRunner().invoke(app, ["list", "-w", f"good = {wanted}", "-f", "-i", str(lasting)])
    assert len(done.stdout.splitlines()) == 3


def test_a_key_that_columns_cannot_answer_is_answered_by_sql(
    lasting: Path, monkeypatch: pytest.MonkeyPatch
):
    """As one with several values an item, or of values of several types."""
    mixed = Key("mixed", NUMBER, "", lambda item: case((item.id > 9, item.id), else_=item.name))
    captioned = Key("said", TEXT, "", "texts.text")
    for key in (mixed, captioned):
        monkeypatch.setitem(KEYS, key.name, key)
    made = Catalog(lasting / "catalog.db")
    made.filters.passing(parse_where({"minutes": 1}))
    for condition in ("mixed < 20", "said ~ DOG"):
        filter_ = parse_condition(condition)
        assert made.filters.passing(filter_).ids.tolist() == by_sql(made, filter_)
    made.close()


def test_a_pattern_with_brackets_finds_the_name_that_is_written_so(tmp_path: Path):
    names = ["[x].jpg", "x.jpg", "y.jpg"]
    made = world_of([Thing(name=name) for name in names], tmp_path / "catalog.db")
    filters = ready(made, tmp_path / "cache")
    assert filters.passing(parse_where({"name": {"$glob": "[x].jpg"}})).ids.tolist() == [1, 2]
    made.close()


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_a_damaged_file_is_made_again(world: Catalog, tmp_path: Path, damage: str):
    filter_ = parse_where({"rating": {"$gte": 5}})
    ready(world, tmp_path / "cache").passing(filter_)
    paths = list(tmp_path.glob("cache/*"))
    for path in paths:
        raw = path.read_bytes()
        path.write_bytes(
            {
                "cut": raw[:-1],
                "bit": raw[:45] + bytes([raw[45] ^ 4]) + raw[46:],
                "empty": b"",
                "other": b"something else",
            }[damage]
        )
        assert column.read_column(path) is None
    columns = process(world, tmp_path / "cache")
    assert columns.passing(filter_).ids.tolist() == by_sql(world, filter_)
    assert len(paths) == 2  # which items there are, and the key that was asked for
    assert all(column.read_column(path) is not None for path in paths)


VALUES = st.one_of(
    st.lists(st.binary(max_size=5).filter(lambda one: b"\0" not in one)),
    st.lists(st.floats(allow_nan=False)),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
)


@given(values=VALUES, spoilt=st.integers(0, 10**9), seed=st.integers(0, 99))
def test_a_column_comes_back_from_its_file_as_it_was_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], spoilt: int, seed: int
):
    path = tmp_path_factory.mktemp("file") / f"columns-a-b-c{column.ENDING}"
    rows = list(enumerate(values, 5))
    random.Random(seed).shuffle(rows)
    made = column.build_column([rows] if rows else [], 5, len(values) + 1, 7)
    column.write_column(path, made)
    raw = path.read_bytes()
    damaged = bytearray(raw)
    damaged[spoilt // 8 % len(raw)] ^= 1 << spoilt % 8
    for written in (raw, bytes(damaged)):
        path.write_bytes(written)
        found = column.read_column(path)
        if found is None:
            assert written != raw
            continue
        assert found.logged == 7
        for array, other in ((found.codes, made.codes), (found.values, made.values)):
            np.testing.assert_array_equal(array, other, strict=True)
    distinct = sorted(set(values))
    assert made.codes[-1] == 0
    assert [made.values[code - 1] for code in made.codes[:-1]] == values
    for number, value in enumerate(distinct):
        asked = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        assert (made.below(asked), made.upto(asked)) == (number, number + 1)


@pytest.mark.parametrize(
    "values",
    [[1, 2.5], [1, "2"], [b"a", 1], [b"a\0"], [2**63], [b"x" * 10_000_000] * 10],
)
def test_values_that_are_not_of_a_kind_or_too_long_make_no_column(values: list[Any]):
    with pytest.raises(column.Unfit):
        column.build_column([list(enumerate(values))], 0, len(values), 0)
    with pytest.raises(column.Unfit):
        column.build_column([[(0, one)] for one in values], 0, 1, 0)


@given(holds=st.lists(st.booleans(), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_ranges_of_values_and_single_ones_choose_the_same_items(holds: list[bool], seed: int):
    codes = np.random.default_rng(seed).integers(0, len(holds) + 1, 60).astype(np.uint8)
    made = column.Column(codes, np.arange(len(holds)), 0)
    expected = [bool(code) and holds[code - 1] for code in codes.tolist()]
    ranges = [(number, number + 1) for number, one in enumerate(holds) if one]
    assert made.among(np.array(holds)).tolist() == made.within(ranges).tolist() == expected


def test_files_of_other_generations_and_formats_and_half_written_ones_are_deleted(tmp_path: Path):
    names = [
        "columns-a-old-x.zip",
        "columns-a-now-x-1.part",
        "columns-a-now-x.column",  # of an older version
        "columns-a-now-x-2.part",
        "i.faiss",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / names[1], (0, 0))
    made = column.Column(np.zeros(3, np.uint8), np.zeros(0), 0)
    column.write_column(tmp_path / "columns-a-now-y.zip", made)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {names[3], names[4], "columns-a-now-y.zip"}


def test_a_filter_too_deep_for_the_catalog_is_too_deep_for_columns(world: Catalog, tmp_path: Path):
    deep = Filter((Condition("width", "exists"),))
    for _ in range(39):
        deep = Filter((Not(deep),))
    columns = ready(world, tmp_path / "cache")
    assert columns.passing(deep).ids.tolist() == by_sql(world, deep)
    for asked in (columns.passing, world.filters.matching):
        with pytest.raises(InvalidFilter, match="deep"):
            asked(Filter((Not(deep),)))


def test_options_of_a_command_line_are_answered_too(world: Catalog, tmp_path: Path):
    columns = ready(world, tmp_path / "cache")
    filter_ = from_options(path=["2019", "*.png"], after="2019", where=["who ~ an"])
    assert isinstance(columns.passing(filter_), IdSet)
    assert columns.passing(filter_).ids.tolist() == by_sql(world, filter_)


# ---------------------------------------------------------------------- facets

CHANGES_OF_FACETS = (
    "UPDATE items SET taken_at = '2031-02-03T04:05:06', camera = 'Leica' WHERE id % 5 = 0",
    "UPDATE items SET kind = 'audio', folder = 'else/' || id, mtime_ns = 0 WHERE id % 7 = 0",
    "DELETE FROM items WHERE id % 6 = 0",
    (
        "INSERT INTO items (source_id, folder, name, kind, size, mtime_ns, hash, camera)"
        " SELECT source_id, 'new', name || 'n' || id, kind, size, 86400000000000 * id, hash, 'Fuji'"
        " FROM items WHERE id % 4 = 0"
    ),
    "INSERT INTO tags SELECT id, 'new', 0.5 FROM items WHERE id % 3 = 0",
)


@pytest.mark.parametrize("changes", range(len(CHANGES_OF_FACETS) + 1))
def test_facets_by_columns_are_those_by_sql_whatever_changed(world, tmp_path, monkeypatch, changes):
    filters = ready(world, tmp_path)
    filters.facets()  # the columns are of before the changes
    for statement in CHANGES_OF_FACETS[:changes]:
        change(world, statement)
    ids = [item.id for item in world.items.all()]
    assert len(ids) > 30
    for some in (None, IdSet.of(ids), IdSet.of(ids[::2]), IdSet.of(ids[-3:]), IdSet.of([])):
        monkeypatch.setattr(filters_module, "FEW", -1)
        by_columns = filters.facets(some)
        monkeypatch.setattr(filters_module, "FEW", 10**9)
        monkeypatch.setattr(filters_module, "CHANGED", -1)
        monkeypatch.setattr(filters_module, "CHANGED_SHARE", 0)
        by_sql = process(world, tmp_path / "none").facets(some)
        monkeypatch.undo()
        monkeypatch.setattr(filters_module, "SMALLEST", 1)
        assert by_columns == by_sql
        assert by_sql.counted == (len(ids) if some is None else len(some))


def test_counting_many_items_reads_no_dates_of_the_catalog(world, tmp_path, monkeypatch):
    filters = ready(world, tmp_path)
    expected = filters.facets()
    asked: list[Any] = []
    monkeypatch.setattr(
        "mmsearch.storage.sqlite.view.View.counted",
        lambda self, names, ids=None: asked.append(tuple(names)) or ORIGINAL(self, names, ids),
    )
    assert filters.facets() == expected
    assert asked == [("folder", "tag")]


ORIGINAL = View.counted
