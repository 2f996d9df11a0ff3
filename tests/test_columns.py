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
from sqlalchemy import select
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

from mmsearch.errors import InvalidFilter
from mmsearch.filters import KEYS, Circle, Condition, Filter, Key, Not, from_options, parse_where
from mmsearch.filters.match import kilometres
from mmsearch.storage.columns import Columns, column, files, paths
from mmsearch.storage.columns import column_generation as era
from mmsearch.storage.columns import filter_cache as answers
from mmsearch.storage.columns import text_predicates as wording
from mmsearch.storage.columns.lru import Recent
from mmsearch.storage.sqlite.schema import items
from mmsearch.storage.sqlite.view import Era
from mmsearch.vectors.id_set import IdSet

HEARD = "INSERT INTO vectors (space_id, facet, item_id, position, vector) {}"


@pytest.fixture(autouse=True)
def few_items_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SMALLEST", 1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Catalog]:
    made = world_of(some_things(40), tmp_path / "catalog.db")
    yield made
    made.close()


def ready(made: Catalog, folder: Path) -> Columns:
    """Columns of a process that has asked before, and has found it worth to begin an era."""
    columns = Columns(made, folder)
    for name in ("first", "second"):
        columns.passing(parse_where({"name": name}))
    assert era_of(made)
    return columns


def era_of(made: Catalog) -> Era | None:
    with made.filters.view() as view:
        return view.era


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
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalog, Columns]]:
    folder = tmp_path_factory.mktemp("world")
    made = world_of(THINGS, folder / "catalog.db")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answers, "SMALLEST", 1)
        columns = ready(made, folder / "cache")
    yield made, columns
    made.close()


@settings(max_examples=200)
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
def test_columns_say_what_the_catalog_says(full: tuple[Catalog, Columns], wanted: dict[str, Any]):
    made, columns = full
    filter_ = parse_where(wanted)
    assert columns.passing(filter_).ids.tolist() == by_sql(made, filter_)


@settings(max_examples=60)
@given(wanted=wheres)
def test_many_different_texts_are_left_to_the_catalog(
    full: tuple[Catalog, Columns], wanted: dict[str, Any]
):
    made, columns = full
    filter_ = parse_where(wanted)
    columns._answers = Recent(4)
    with bounds(few=5, most_texts=2):
        assert columns.passing(filter_).ids.tolist() == by_sql(made, filter_)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalog, Columns]]:
    folder = tmp_path_factory.mktemp("tree")
    places = itertools.product(
        ["/", "/a/b"], ["", "a", "b", "a/b", "b/a/ab", "x/.a"], ["a", "ab", "b.a", "a.b.a", ".b"]
    )
    made = world_of([Thing(*place) for place in places], folder / "catalog.db")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answers, "SMALLEST", 1)
        columns = ready(made, folder / "cache")
    yield made, columns
    made.close()


@settings(max_examples=400)
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
    tree: tuple[Catalog, Columns], op: str, parts: list[str]
):
    made, columns = tree
    filter_ = parse_where({"path": {op: "".join(parts)}})
    assert columns.passing(filter_).ids.tolist() == by_sql(made, filter_)


@pytest.fixture(scope="module")
def globe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalog, Columns]]:
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
        patched.setattr(answers, "SMALLEST", 1)
        columns = ready(made, folder / "cache")
    yield made, columns
    made.close()


@given(
    here=st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    other=st.integers(1, 203),
    reach=st.one_of(st.none(), st.floats(0, 20_100)),
)
def test_distances_are_those_of_the_catalog_to_the_last_bit(
    globe: tuple[Catalog, Columns],
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
        patched.setattr(era, "FEW", few)
        for module in (wording, paths):
            patched.setattr(module, "MOST_TEXTS", most_texts)
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
            "INSERT INTO items (source_id, folder, name, modality, size, mtime_ns, hash, width, "
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

    def begin(self) -> None:
        self.made.filters.begin_generation(era_of(self.made))


KINDS = ["add", "alter", "remove", "rename", "relocate", "describe", "tag", "say", "sound", "begin"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        Columns(made, folder / "cache"),
        Columns(other, folder / "cache"),
        Columns(other, folder / "elsewhere"),
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
        {"tag": ["dog", "été"]},
        {"$not": {"has": ["caption", "text", "gps"]}},
        {"path": {"$glob": "*.jpg"}},
        {"path": {"$glob": "2019"}},
        {"path": {"$glob": "/photos/2019/*.jpg"}},
        {"path": {"$contains": "beach"}},
        {"folder": "/mnt/été"},
        {"near": [48.2, 16.4, 500]},
        {"megapixels": {"$gte": 1}},
        {"has": "sound", "modality": ["image", "text"]},
    ],
)
def test_columns_answer_without_the_catalog(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where(wanted)
    expected = by_sql(world, filter_)
    no_sql(monkeypatch)
    assert columns.passing(filter_).ids.tolist() == expected


def test_who_asks_once_makes_no_columns(world: Catalog, tmp_path: Path):
    Columns(world, tmp_path / "cache").passing(parse_where({"width": 640}))
    assert era_of(world) is None
    ready(world, tmp_path / "cache")
    once = parse_where({"height": 480})
    before = sorted(tmp_path.glob("cache/*"))
    assert Columns(world, tmp_path / "cache").passing(once).ids.tolist() == by_sql(world, once)
    assert sorted(tmp_path.glob("cache/*")) == before


def test_who_asks_once_uses_the_columns_that_are_there(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    filter_ = parse_where({"width": {"$gte": 1920}})
    expected = ready(world, tmp_path / "cache").passing(filter_).ids.tolist()
    no_sql(monkeypatch)
    assert Columns(world, tmp_path / "cache").passing(filter_).ids.tolist() == expected


def test_small_catalogs_are_asked_themselves(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answers, "SMALLEST", 41)
    columns = Columns(world, tmp_path / "cache")
    for width in (640, 1920, 640):
        filter_ = parse_where({"width": width})
        assert columns.passing(filter_).ids.tolist() == by_sql(world, filter_)
    assert era_of(world) is None
    assert not (tmp_path / "cache").exists()


def test_an_answer_is_remembered_until_something_changes(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    columns, filter_ = Columns(world, tmp_path / "cache"), parse_where({"width": 640})
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
def test_what_the_catalog_was_asked_for_the_columns_is_asked_again_when_it_may_have_changed(
    world: Catalog, tmp_path: Path, wanted: dict[str, Any], sql: str
):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where(wanted)
    with bounds(few=0, most_texts=2):
        before = columns.passing(filter_).ids.tolist()
        change(world, sql)
        after = columns.passing(filter_).ids.tolist()
    assert after == by_sql(world, filter_) != before


def test_what_the_catalog_was_asked_for_the_columns_is_remembered_while_other_things_change(
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


def test_an_unknown_key_is_refused_as_the_catalog_does(world: Catalog, tmp_path: Path):
    columns = ready(world, tmp_path / "cache")
    with pytest.raises(InvalidFilter, match="did you mean"):
        columns.passing(parse_where({"widht": 1}))


def test_without_leave_to_write_columns_are_kept_in_memory(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "cache").write_bytes(b"no folder")
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"width": 640})
    expected = by_sql(world, filter_)
    no_sql(monkeypatch)
    assert columns.passing(filter_).ids.tolist() == expected


def test_a_catalog_that_cannot_be_written_is_asked_itself(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    filter_ = parse_where({"width": 640})
    expected = by_sql(world, filter_)
    monkeypatch.setattr("mmsearch.storage.sqlite.schema.connection.os.access", lambda *_: False)
    reading = Catalog(world.path)
    columns = Columns(reading, tmp_path / "cache")
    for wanted in (parse_where({"height": 480}), filter_):
        assert columns.passing(wanted).ids.tolist() == by_sql(world, wanted)
    assert len(columns.passing(filter_)) == len(expected)
    assert era_of(world) is None
    reading.close()


def test_while_someone_writes_no_era_is_begun_and_nothing_waits(world: Catalog, tmp_path: Path):
    columns = Columns(world, tmp_path / "cache")
    writer = sqlite3.connect(world.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    for width in (640, 1920):
        filter_ = parse_where({"width": width})
        assert columns.passing(filter_).ids.tolist() == by_sql(world, filter_)
    assert era_of(world) is None
    writer.execute("ROLLBACK")
    writer.close()
    columns.passing(parse_where({"width": 4000}))
    assert era_of(world) is not None


def test_an_era_that_another_process_began_goes_on(world: Catalog):
    assert world.filters.begin_generation(None)
    first = era_of(world)
    assert not world.filters.begin_generation(None)
    assert era_of(world) == first
    assert world.filters.begin_generation(first)
    assert era_of(world) != first


def test_after_many_changes_a_new_era_begins_and_old_files_go(
    world: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answers, "_LATELY", (3, 0.0))
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"width": 640})
    columns.passing(filter_)
    first, kept = era_of(world), set(tmp_path.glob("cache/*"))
    for item in (1, 2, 3, 4):
        change(world, "UPDATE items SET width = 640 WHERE id = ?", item)
    assert {1, 2, 3, 4} <= set(columns.passing(filter_).ids.tolist())
    assert era_of(world) != first
    assert not kept & set(tmp_path.glob("cache/*"))
    with world.filters.view() as view:
        assert view.altered() == []


def test_a_snapshot_sees_what_was_and_not_what_columns_have_learnt_since(
    world: Catalog, tmp_path: Path
):
    columns, filter_ = ready(world, tmp_path / "cache"), parse_where({"width": 640})
    expected = by_sql(world, filter_)
    other = Catalog(world.path)
    with world.snapshot():
        assert by_sql(world, parse_where({})) == list(range(1, 41))
        change(other, "UPDATE items SET width = 640")
        Columns(other, tmp_path / "cache").passing(parse_where({"pages": 12}))
        later = ready(other, tmp_path / "cache").passing(filter_)  # makes the column of width
        assert len(later) == 40
        assert columns.passing(filter_).ids.tolist() == expected
    assert len(columns.passing(filter_)) == 40
    other.close()


def test_a_snapshot_takes_nothing_that_the_catalog_told_another_thread_since(
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


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "header", "other"])
def test_a_damaged_file_is_made_again(world: Catalog, tmp_path: Path, damage: str):
    filter_ = parse_where({"rating": {"$gte": 5}})
    ready(world, tmp_path / "cache").passing(filter_)
    for path in tmp_path.glob("cache/*"):
        raw = path.read_bytes()
        path.write_bytes(
            {
                "cut": raw[:-1],
                "bit": raw[:-70] + bytes([raw[-70] ^ 4]) + raw[-69:],
                "empty": b"",
                "header": raw.replace(b'"arrays"', b'"arrayz"'),
                "other": b"something else",
            }[damage]
        )
        assert files.read_column(path) is None
    columns = Columns(world, tmp_path / "cache")
    columns.passing(parse_where({}))
    assert columns.passing(filter_).ids.tolist() == by_sql(world, filter_)
    whole = [files.read_column(path) is not None for path in tmp_path.glob("cache/*")]
    assert sum(whole) == 2  # which items there are, and the key that was asked for


@given(
    texts=st.lists(st.binary(max_size=5).filter(lambda one: b"\0" not in one), unique=True),
    numbers=st.lists(st.floats(allow_nan=False), max_size=8),
)
def test_a_column_comes_back_from_its_file_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], numbers: list[float]
):
    path = tmp_path_factory.mktemp("file") / f"columns-a-b-c{files.ENDING}"
    codes = np.arange(len(texts) + 1, dtype=np.uint8)
    arrays = {"codes": codes, "numbers": np.array(numbers), **column.packed(sorted(texts))}
    files.write_column(path, column.Column(arrays, 7))
    found = files.read_column(path)
    assert found is not None
    assert found.filed == 7
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, strict=True)
    for number, text in enumerate(sorted(texts)):
        decoded = text.decode("utf-8", "surrogateescape")
        assert found.texts[number] == decoded
        assert (found.below(decoded), found.upto(decoded)) == (number, number + 1)


@given(holds=st.lists(st.booleans(), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_runs_of_codes_and_single_ones_mark_the_same_items(holds: list[bool], seed: int):
    codes = np.random.default_rng(seed).integers(0, len(holds) + 1, 60).astype(np.uint8)
    made = column.Column({"codes": codes, "numbers": np.arange(len(holds))}, 0)
    expected = [bool(code) and holds[code - 1] for code in codes.tolist()]
    assert made.where(np.array(holds)).tolist() == expected


def test_files_of_another_time_and_half_written_ones_are_cleared(tmp_path: Path):
    names = [
        "columns-a-old-x.column",
        "columns-a-now-x-1.part",
        "columns-a-now-x-2.part",
        "i.faiss",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / names[1], (0, 0))
    made = column.Column({"codes": np.zeros(3, np.uint8), "numbers": np.zeros(0)}, 0)
    files.write_column(tmp_path / "columns-a-now-y.column", made)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {names[2], names[3], "columns-a-now-y.column"}


def test_a_filter_too_deep_for_the_catalog_is_too_deep_for_columns(world: Catalog, tmp_path: Path):
    deep = Filter((Condition("width", "exists"),))
    for _ in range(39):
        deep = Filter((Not(deep),))
    columns = ready(world, tmp_path / "cache")
    assert columns.passing(deep).ids.tolist() == by_sql(world, deep)
    for asked in (columns.passing, world.filters.matching):
        with pytest.raises(InvalidFilter, match="deep"):
            asked(Filter((Not(deep),)))


def test_options_of_a_command_line_are_told_too(world: Catalog, tmp_path: Path):
    columns = ready(world, tmp_path / "cache")
    filter_ = from_options(path=["2019", "*.png"], after="2019", where=["who ~ an"])
    assert isinstance(columns.passing(filter_), IdSet)
    assert columns.passing(filter_).ids.tolist() == by_sql(world, filter_)
