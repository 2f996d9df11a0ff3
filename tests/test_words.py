from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmsearch.storage import ItemRecord
from mmsearch.storage.lexical import bm25, query_terms
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.sqlite import words as refreshing
from mmsearch.types import TextPart
from mmsearch.vectors.id_set import IdSet

NOON = 1_552_000_000_000_000_000  # 2019-03-07, a Thursday, in nanoseconds


class World:
    """A catalog of items that are named, and found, by their file names."""

    def __init__(self, folder: Path, root: str = "/home/ann/Holidays") -> None:
        self.catalog = Catalog(folder / "catalog.db")
        self.source = self.catalog.sources.add(root)

    def entry(
        self, name: str, *said: str, folder: str = "", mtime: int = NOON, **details
    ) -> ItemRecord:
        texts = [TextPart(text, "caption") for text in said]
        hash_ = name.encode("utf-8", "surrogateescape")
        given = (self.source, folder, name, "image", (1, mtime), hash_)
        return ItemRecord(*given, texts=texts, media=details)

    def put(self, name: str, *said: str, **more) -> None:
        self.catalog.put([self.entry(name, *said, **more)])

    def fill(self, said: list[str]) -> World:
        """Items 1, 2, … with a caption each."""
        self.catalog.put([self.entry(f"x{number}", text) for number, text in enumerate(said, 1)])
        self.catalog.words.refresh()
        return self

    def run(self, statement: str) -> None:
        with self.catalog.database.write() as connection:
            connection.exec_driver_sql(statement)

    def find(self, query: str, **more) -> list[str]:
        """Names, sorted."""
        self.catalog.words.refresh()
        ids = [id_ for id_, _ in self.catalog.words.search(query, 100, **more)]
        items = self.catalog.items.get(ids)
        return sorted(Path(items[id_].path).name for id_ in ids)


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path)
    yield made
    made.catalog.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):
    said = ["a dog", "dog dog and a cat", "東京タワー", "cat " * 9, "two birds, one dog"]
    made = World(tmp_path_factory.mktemp("shared")).fill(said)
    yield made
    made.catalog.close()


# ------------------------------------------------------------------ what is found


@pytest.mark.parametrize(
    "query",
    ["dogs", "DOG running", "cafe", "canon", "eos 5d", "march 2019", "mar", "thursday",
     "holidays", "rome", "trip 42", "IMG_0042", "2019-03-07", "ann lee", "sunset"],
)  # fmt: skip
def test_an_item_is_found_by_all_that_is_said_of_it(world: World, query: str):
    said = ("A dog runs", "past the café")
    world.put("IMG_0042.jpg", *said, folder="Trip/Rome", camera="Canon EOS 5D")
    world.put("b.jpg", "nothing", taken_at="2001-07-04T10:00:00")
    world.run("INSERT INTO metadata (item_id, key, text, number) VALUES (1, 'by', 'Ann Lee', NULL)")
    world.run("INSERT INTO tags VALUES (1, 'sunset', 0.9)")
    world.catalog.words.refresh()
    assert 1 in dict(world.catalog.words.search(query, 5))


def test_a_date_that_was_taken_goes_before_that_of_the_file(world: World):
    world.put("a.jpg", taken_at="2001-07-04T10:00:00")
    assert world.find("july 2001") == ["a.jpg"]
    assert world.find("march") == []


@pytest.mark.parametrize("mtime", [-(2**63), 2**63 - 1, -1])
def test_a_broken_clock_costs_no_more_than_the_date(world: World, mtime: int):
    world.put("a.jpg", "a dog", mtime=mtime)
    assert world.find("dog") == ["a.jpg"]


@pytest.mark.parametrize("query", ["東", "タ", "京タ", "東京タワー", "タワー", "dog"])
def test_any_part_of_a_text_without_spaces_finds_it(shared: World, query: str):
    assert ("x3" in shared.find(query)) == (query != "dog")


@given(st.text("東京都ก", min_size=1, max_size=8), st.data())
@settings(deadline=None, max_examples=15)
def test_a_quoted_run_finds_just_the_texts_that_hold_it(
    tmp_path_factory: pytest.TempPathFactory, query: str, data: st.DataObject
):
    said = data.draw(st.lists(st.text("東京都ก ", max_size=12), max_size=6))
    world = World(tmp_path_factory.mktemp("runs"), "/s").fill(said)
    holding = [f"x{number}" for number, text in enumerate(said, 1) if query in text]
    assert world.find(f'"{query}"') == holding
    world.catalog.close()


def test_a_run_that_nothing_holds_finds_what_holds_part_of_it(shared: World):
    assert shared.find("東京の塔") == ["x3"]
    assert shared.find('"東京の塔"') == []


def test_quoted_words_must_stand_together(world: World):
    world.fill(["dog and cat", "cat and dog", "the cat"])
    assert world.find('"cat and dog"') == ["x2"]


def test_a_phrase_does_not_go_from_one_text_to_the_next(world: World):
    world.put("a.jpg", "a dog", "cat food")
    assert world.find('"dog cat"') == []


def test_where_enough_items_hold_all_words_no_others_are_found(world: World):
    world.fill(["dog and cat", "cat " * 9, "cat and dog", "dog"])
    assert sorted(id_ for id_, _ in world.catalog.words.search("dog cat", 2)) == [1, 3]


def test_where_too_few_items_hold_all_words_those_with_some_are_found_too(shared: World):
    assert sorted(id_ for id_, _ in shared.catalog.words.search("dog cat", 9)) == [1, 2, 4, 5]


@pytest.mark.parametrize("query", ["", "the of and", "zebra", "?!", '""'])
def test_nothing_to_find_finds_nothing(shared: World, query: str):
    assert shared.catalog.words.search(query, 5) == []


def test_no_more_than_k_are_found(shared: World):
    assert len(shared.catalog.words.search("dog", 2)) == 2
    assert shared.catalog.words.search("dog", 0) == []


def test_equal_items_stand_in_order_of_id(world: World):
    world.fill(["a dog", "a cat", "a dog", "a dog"])
    assert [id_ for id_, _ in world.catalog.words.search("dog", 5)] == [1, 3, 4]


def test_only_allowed_items_are_found(shared: World):
    assert shared.find("dog", allowed=IdSet.of([1, 3, 5])) == ["x1", "x5"]
    assert shared.find("dog", allowed=IdSet.of([])) == []
    assert shared.find("dog", allowed=IdSet.of([99])) == []


SIGNS = st.text('" “”*()^:-+{}\\\0\ud800🐕東京กdogNEARANDORNOTtexts', max_size=80)


@given(SIGNS | st.text())
@example("dog " * 25_000)
@example("東京" * 50_000)
@example('"' * 100_000)
@example("(" * 100_000)
@settings(deadline=None)
def test_no_query_is_wrong(shared: World, query: str):
    assert len(shared.catalog.words.search(query, 3)) <= 3


@given(SIGNS)
@settings(deadline=None, max_examples=15)
def test_whatever_is_said_is_found_by_its_words(
    tmp_path_factory: pytest.TempPathFactory, said: str
):
    said = said.encode("utf-8", "replace").decode()
    world = World(tmp_path_factory.mktemp("self"), "/s").fill(["other", said])
    for term in query_terms(said):
        assert 2 in dict(world.catalog.words.search(f'"{said}"' if term.quoted else said, 2))
    world.catalog.close()


# ------------------------------------------------------------------ BM25


VOCABULARY = ["dog", "cat", "bird", "sun", "tree"]
CAPTIONS = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=6).map(" ".join)


OTHERS = 5 + 5
"""Tokens of an item's names ("x", "1" and "x1", a border, a folder) and of its date."""


def scores_by_hand(said: list[str], query: list[str]) -> dict[int, float]:
    """Source: Robertson & Zaragoza 2009, with SQLite's k1 and b, and its least idf."""
    lengths = [len(text.split()) + OTHERS for text in said]
    mean = sum(lengths) / len(said)
    found: dict[int, float] = {}
    for word in query:
        counts = [Counter(text.split())[word] for text in said]
        holding = sum(count > 0 for count in counts)
        idf = max(math.log((len(said) - holding + 0.5) / (holding + 0.5)), 1e-6)
        for number, (count, length) in enumerate(zip(counts, lengths, strict=True), 1):
            if count:
                norm = count + 1.2 * (0.25 + 0.75 * length / mean)
                found[number] = found.get(number, 0.0) + idf * count * 2.2 / norm
    return found


@given(
    st.lists(CAPTIONS, min_size=1, max_size=12), st.sets(st.sampled_from(VOCABULARY), min_size=1)
)
@settings(deadline=None, max_examples=15)
def test_scores_are_those_of_bm25(
    tmp_path_factory: pytest.TempPathFactory, said: list[str], query: set[str]
):
    world = World(tmp_path_factory.mktemp("bm25"), "/s").fill(said)
    expected = scores_by_hand(said, sorted(query))
    assert dict(world.catalog.words.search(" ".join(query), 100)) == pytest.approx(expected)
    world.catalog.close()


def test_a_word_in_the_texts_counts_for_more_than_in_names_and_there_more_than_in_facts(
    world: World,
):
    world.put("a.jpg", "x", camera="dog")
    world.put("dog.jpg", "x", camera="b")
    world.put("c.jpg", "dog", camera="c")
    for number in range(8):
        world.put(f"{number}.jpg", "y", camera="d")
    world.catalog.words.refresh()
    assert [id_ for id_, _ in world.catalog.words.search("dog", 5)] == [3, 2, 1]


# ------------------------------------------------------------------ a bound on the work


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch):
    """Bounds so low that a few items pass them."""
    for name, bound in (("MOST_SCORED", 3), ("MOST_SEEN", 12), ("MOST_PASSED", 60)):
        monkeypatch.setattr(bm25, name, bound)
    monkeypatch.setattr(bm25, "RESCORED", 4)


@given(
    st.lists(CAPTIONS, min_size=1, max_size=12), st.sets(st.sampled_from(VOCABULARY), min_size=1)
)
@settings(deadline=None, max_examples=15)
def test_scores_are_the_same_when_words_are_added_up_first(
    tmp_path_factory: pytest.TempPathFactory, said: list[str], query: set[str]
):
    world = World(tmp_path_factory.mktemp("bounded"), "/s").fill(said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25, "MOST_SCORED", 0)
        found = dict(world.catalog.words.search(" ".join(query), 100))
    assert found == pytest.approx(scores_by_hand(said, sorted(query)))
    world.catalog.close()


def test_past_the_bounds_items_with_all_words_still_stand_first(world: World, bounded: None):
    common = ["a dog and a cat"] * 6 + ["a dog"] * 9 + ["a cat"] * 9
    world.fill([*common, "bird with dog", "bird with cat and dog", "bird", *["sun"] * 60])
    found = [id_ for id_, _ in world.catalog.words.search("dog cat bird", 10)]
    assert found[0] == 26
    assert set(found[1:3]) == {25, 27}


def test_past_the_bounds_a_common_word_finds_its_first_items(world: World, bounded: None):
    world.fill(["a dog"] * 20 + ["a cat"])
    assert [id_ for id_, _ in world.catalog.words.search("dog", 3)] == [1, 2, 3]


def test_past_the_bounds_common_words_find_items_with_all_of_them_first(
    world: World, bounded: None
):
    world.fill(["dog"] * 7 + ["cat"] * 7 + ["dog cat"] * 7 + ["bird"] * 9)
    assert [id_ for id_, _ in world.catalog.words.search("dog cat", 5)][:3] == [15, 16, 17]


def test_past_the_bounds_only_allowed_items_are_found(world: World, bounded: None):
    world.fill(["a dog and a bird"] * 20 + ["a bird"] * 3 + ["a dog"])
    few = IdSet.of([18, 21, 24])
    assert [id_ for id_, _ in world.catalog.words.search("dog", 5, few)] == [18, 24]
    assert sorted(dict(world.catalog.words.search("dog bird", 5, few))) == [18, 24]


def test_past_the_bounds_no_query_is_wrong(world: World, bounded: None):
    world.fill(["dog cat 東京 bird", "dog 東京タワー", "東 dog dog"] * 4)
    for query in ('"dog cat" bird', "東京タワー", "東 dog", '"dog dog"', "dog " * 40):
        assert world.catalog.words.search(query, 3)


def test_the_counts_of_common_words_are_kept_and_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(refreshing, "COUNTED_FROM", 2)

    def counts() -> dict[str, int]:
        with world.catalog.database.read() as connection:
            rows = connection.exec_driver_sql("SELECT word, items FROM common_words").all()
        return {word: items for word, items in rows if word in {"", "dog", "cat"}}

    world.fill(["dog", "dog", "dog cat"])
    assert counts() == {"": 3, "dog": 3}
    world.put("more", "cat")
    world.put("most", "cat dog")
    world.catalog.words.refresh()
    assert counts() == {"": 5, "dog": 4, "cat": 3}


# ------------------------------------------------------------------ in step with the catalog


def due(world: World) -> int:
    return world.catalog.words.due()


def test_what_is_put_is_due_until_it_is_refreshed(world: World):
    world.put("a.jpg", "a dog")
    world.put("b.jpg", "a cat")
    assert world.catalog.words.search("dog", 5) == []
    assert due(world) == 2
    assert world.catalog.words.refresh() == 2
    assert due(world) == 0
    assert world.find("dog") == ["a.jpg"]


def test_new_texts_take_the_place_of_old_ones(world: World):
    world.put("a.jpg", "a dog")
    world.catalog.words.refresh()
    world.put("a.jpg", "a cat")
    assert world.find("cat") == ["a.jpg"]
    assert world.find("dog") == []


def test_what_is_removed_is_gone_at_once(world: World):
    world.fill(["a dog", "a dog", "a dog"])
    world.catalog.items.remove([2])
    assert [id_ for id_, _ in world.catalog.words.search("dog", 5)] == [1, 3]
    assert due(world) == 0


def test_a_removed_source_takes_its_words_along(world: World):
    world.fill(["a dog"])
    world.catalog.items.remove_below(world.source, "")
    assert world.catalog.words.search("dog", 5) == []
    assert due(world) == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE items SET name = 'new.jpg' WHERE id = 1",
        "UPDATE items SET folder = 'new' WHERE id = 1",
        "UPDATE items SET camera = 'new' WHERE id = 1",
        "UPDATE items SET taken_at = '2001-01-01' WHERE id = 1",
        "UPDATE items SET mtime_ns = 0 WHERE id = 1",
        "UPDATE texts SET text = 'new' WHERE item_id = 1",
        "DELETE FROM texts WHERE item_id = 1",
        "INSERT INTO metadata (item_id, key, text) VALUES (1, 'k', 'new')",
        "INSERT OR REPLACE INTO metadata (item_id, key, text) VALUES (1, 'k', 'newer')",
        "DELETE FROM metadata",
        "INSERT INTO tags VALUES (1, 'new', 0.5)",
        "DELETE FROM tags",
    ],
)
def test_any_change_of_its_words_makes_an_item_due(world: World, change: str):
    world.fill(["a dog", "a cat"])
    world.run("INSERT INTO metadata (item_id, key, text, number) VALUES (1, 'k', 'old', NULL)")
    world.run("INSERT INTO tags VALUES (1, 'old', 0.5)")
    world.catalog.words.refresh()
    world.run(change.replace("(1, 'k', 'new'", "(1, 'k2', 'new'"))
    with world.catalog.database.read() as connection:
        assert connection.exec_driver_sql(CHANGED).all() == [(1,)]


CHANGED = """
    SELECT item_id FROM changes, followers WHERE what = 'words' AND seq > words_change
"""


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE items SET size = 7, hash = x'01', width = 3, readings = 'ocr'",
        "UPDATE items SET name = name, folder = folder, source_id = source_id, camera = camera",
        f"UPDATE items SET mtime_ns = {NOON + 10**9}",
        "UPDATE items SET mtime_ns = 0 WHERE taken_at IS NOT NULL",
    ],
)
def test_a_change_that_is_none_of_its_words_makes_no_item_due(world: World, change: str):
    world.put("a.jpg", "a dog", taken_at="2001-07-04T10:00:00")
    world.put("b.jpg", "a dog")
    world.catalog.words.refresh()
    world.run(change)
    assert due(world) == 0


def test_a_file_that_was_only_looked_at_again_is_not_due(world: World):
    world.put("a.jpg", "a dog")
    world.catalog.words.refresh()
    again = ItemRecord(
        world.source, "", "a.jpg", "image", (1, NOON + 5), b"a.jpg", id=1, duplicate_of=1
    )
    world.catalog.put([again])
    assert due(world) == 0


def test_a_source_inside_another_is_found_by_the_folders_above_it(tmp_path: Path):
    world = World(tmp_path, "/home/ann/Trips/Rome")
    world.put("a.jpg", "a dog")
    assert world.find("trips") == []
    world.catalog.sources.add("/home/ann/Trips")
    assert world.find("trips rome") == ["a.jpg"]
    world.catalog.close()


def test_refreshing_goes_on_where_it_was_left(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refreshing, "BATCH", 2)
    monkeypatch.setattr(refreshing, "PAGE", 1)
    for number in range(7):
        world.put(f"{number}.jpg", "a dog")
    told: list[tuple[int, int | None]] = []
    assert world.catalog.words.refresh(3, lambda *said: told.append(said)) == 3
    assert told == [(2, 3), (3, 3)]
    assert due(world) == 4
    assert world.catalog.words.refresh() == 4
    assert len(world.find("dog")) == 7


def test_names_that_are_not_utf8_are_found_by_what_can_be_read(world: World):
    world.put("dog\udcff.jpg", folder="caf\udce9 photos")
    assert world.find("dog photos") == ["dog\udcff.jpg"]


def test_new_items_are_due_without_being_filed(world: World):
    world.fill(["a dog"])
    world.put("new.jpg", "a cat")
    assert due(world) == 1
    with world.catalog.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM changes").scalar_one() == 0


def test_a_part_of_what_is_due_leaves_the_rest_of_it_due(world: World):
    world.fill(["a dog", "a dog"])
    world.run("UPDATE texts SET text = 'a fox' WHERE item_id = 1")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        world.put(name, "a fox")
    assert world.catalog.words.refresh(at_most=2) == 2  # what was changed comes first
    assert {id_ for id_, _ in world.catalog.words.search("fox", 5)} == {1, 3}
    assert due(world) == 2
    world.catalog.words.refresh()
    assert {id_ for id_, _ in world.catalog.words.search("fox", 5)} == {1, 3, 4, 5}


def test_an_index_that_cannot_be_written_is_searched_as_it_is(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    world.fill(["a dog"])
    world.put("b.jpg", "a dog")
    world.catalog.close()
    monkeypatch.setattr("mmsearch.storage.sqlite.database.os.access", lambda *_: False)
    with_nothing_to_write = Catalog(tmp_path / "catalog.db")
    assert [id_ for id_, _ in with_nothing_to_write.words.search("dog", 5)] == [1]
    with_nothing_to_write.close()
