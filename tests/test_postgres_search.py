"""Searches in PostgreSQL answer as the local index does: filters, words, nearest neighbours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import ToyEncoder, paint
from hypothesis import given, settings
from postgres_server import postgres_store
from postgres_server import schema as schema_of_server
from sqlalchemy import insert, select, text
from test_filters import some_things, wheres, world_of
from test_store_contract import opened

from mmsearch.errors import InvalidFilter, InvalidOption, StorageFailed
from mmsearch.filters import parse_where
from mmsearch.search.duplicates import duplicate_groups
from mmsearch.search.searcher import Searcher
from mmsearch.search.settings import Settings
from mmsearch.search.tagging import tag_items
from mmsearch.storage import ItemRecord, ItemVectors, Store
from mmsearch.storage.lexical import bm25
from mmsearch.storage.sql import schema
from mmsearch.storage.sql.database import driver_of_connection
from mmsearch.storage.sqlite import Catalog
from mmsearch.types import TextPart
from mmsearch.vectors.exact import DECIMALS
from mmsearch.vectors.hubness import augmented, augmented_query
from mmsearch.vectors.id_set import IdSet, LazyIdSet

if TYPE_CHECKING:
    from mmsearch.storage.postgres import PostgresStore

CLOSE = 1.5 * 10**-DECIMALS
"""Scores are rounded, so two that are equal but for a float's error may be one unit apart."""

# ---------------------------------------------------------------------- filters

PATTERNS = ["[]", "[!]", "[!c-a]x", "[]-a]", "[a-]*", "[--a]*", "[^a]*", "[[]x]*", "[\\]*", "a\\*"]
PATTERNS += ["*[é-ﬁ]*", "**/x", "2019/**/a*", "[!\udc80]*", "[\udc80-\udcff]*", "*[a-c-e]*"]
PATTERNS += ["caf\udce9*"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalog, PostgresStore]]:
    """The same items in both databases."""
    with ExitStack() as stack:
        local = world_of(some_things(90), tmp_path_factory.mktemp("world") / "catalog.db")
        stack.callback(local.close)
        server = stack.enter_context(postgres_store())
        copied = [schema.sources, schema.spaces, schema.items, schema.texts]
        copied += [schema.metadata, schema.tags]
        with local.database.read() as reading, server.database.write() as writing:
            for table in copied:
                rows = [dict(row) for row in reading.execute(select(table)).mappings()]
                writing.execute(insert(table), rows)
            heard = "INSERT INTO vectors (space_id, modality, item_id, position, vector)"
            for (id_,) in reading.execute(select(schema.vectors.c.item_id)):
                writing.exec_driver_sql(f"{heard} VALUES (1, 'audio', {id_}, 0, '[1]')")
        yield local, server


@settings(max_examples=50)
@given(wanted=wheres)
def test_the_same_items_pass_a_filter(
    worlds: tuple[Catalog, PostgresStore], wanted: dict[str, Any]
):
    local, server = worlds
    filter_ = parse_where(wanted)
    passing = local.filters.matching(filter_)
    assert server.filters.matching(filter_).tolist() == passing.tolist()
    found = server.filters.passing(filter_)
    some = np.arange(20, 60)
    assert found.count_up_to(7) == min(len(passing), 7)
    assert found.contains(some).tolist() == IdSet.of(passing).contains(some).tolist()
    assert len(found) == len(passing)


@settings(max_examples=50)
@given(wanted=wheres)
def test_the_same_items_pass_a_filter_that_is_tested_for_each_by_itself(
    worlds: tuple[Catalog, PostgresStore], wanted: dict[str, Any]
):
    local, server = worlds
    filter_ = parse_where(wanted)
    tested, parameters = server.filters.passing(filter_).sql.test
    with server.database.read() as connection:
        rows = "SELECT item_id FROM (SELECT id AS item_id FROM items) AS v"
        statement = f"{rows} WHERE {tested} ORDER BY item_id"
        found = driver_of_connection(connection).execute(statement, parameters).fetchall()
    assert [id_ for (id_,) in found] == local.filters.matching(filter_).tolist()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("key", ["path", "name", "folder"])
def test_a_pattern_means_the_same(worlds: tuple[Catalog, PostgresStore], key: str, pattern: str):
    local, server = worlds
    filter_ = parse_where({key: {"$glob": pattern}})
    same = local.filters.matching(filter_).tolist()
    assert server.filters.matching(filter_).tolist() == same


def test_a_key_that_no_item_has_is_refused(worlds: tuple[Catalog, PostgresStore]):
    _, server = worlds
    with pytest.raises(InvalidFilter, match="did you mean 'rating'"):
        server.filters.passing(parse_where({"ratng": 5}))
    spelled = parse_where({"RATING": {"$exists": True}})
    assert len(server.filters.passing(spelled))


def test_threads_share_the_cached_filters(
    worlds: tuple[Catalog, PostgresStore], monkeypatch: pytest.MonkeyPatch
):
    local, server = worlds
    monkeypatch.setattr("mmsearch.storage.postgres.filters.ANSWERS", 1)  # each drops another's
    filters = [parse_where({"width": {"$gt": 100 * number}}) for number in range(4)]
    numbers = [len(local.filters.passing(one)) for one in filters]

    def counted(turn: int) -> list[int]:
        return [
            server.filters.passing(filters[number % 4]).count_up_to(1_000)
            for number in range(turn, turn + 40)
        ]

    with ThreadPoolExecutor(4) as threads:
        for turn, found in enumerate(threads.map(counted, range(4))):
            assert found == [numbers[number % 4] for number in range(turn, turn + 40)]


def test_orders_and_facets_are_the_same(worlds: tuple[Catalog, PostgresStore]):
    local, server = worlds
    wide = parse_where({"width": {"$gt": 100}})
    filters = type(server.filters)(server.database)  # whose sets no other test has fetched
    few, lazy = local.filters.passing(wide), filters.passing(wide)
    assert isinstance(lazy, LazyIdSet)
    for theirs, ours in ((None, None), (few, lazy), (few, few)):
        assert server.filters.facets(ours) == local.filters.facets(theirs)
        for oldest in (True, False):
            order = server.filters.by_date(ours, oldest=oldest).tolist()
            assert order == local.filters.by_date(theirs, oldest=oldest).tolist()
    assert not lazy.is_fetched


# ---------------------------------------------------------------------- words

TEXTS = ["Two dogs run on the beach", "a dog", "the beach of Rome", "北京大学的图书馆", "北京 大学"]
TEXTS += ["dog dog dog beach dog", "New York, New York", "York is new", "été à la plage", ""]
TEXTS += ["zwei Hunde am Strand, ein Hund im Haus", "des chiens sur la plage et dans les maisons"]
TEXTS += ["psi běží po pláži a na plážích", "the Strand and the maison, dog"]
TEXTS += ["das Restaurant und Paris"]
TEXTS += ["le restaurant de Paris est sur la plage", "the restaurants of Paris"]

QUERIES = [
    "dog",
    "dog beach",
    '"new york"',
    "new york",
    "北京大学",
    "大学 dog",
    "rome trip 2",
    "the",
]
QUERIES += ["nowhere", "dog nowhere", "january 1970", "plage", "Hund", "chien plages", "pláž psi"]
QUERIES += ["restaurant", "restaurant Paris dog", '"restaurants of Paris"', "Strand Häuser maison"]
QUERIES += ['"sur la plage"', "jpg", "jpg dog"]


def stored_words(made: Store) -> Store:
    source = made.sources.add("/photos")
    records = [
        ItemRecord(
            source,
            f"trip {number % 3}",
            f"{TEXTS[-number % len(TEXTS)][:9]} {number}.jpg",
            "image",
            (10, number * 86_400 * 10**9),
            str(number).encode(),
            texts=[TextPart(TEXTS[number % len(TEXTS)], "caption")] * (number % 4),
        )
        for number in range(40)
    ]
    made.put(records)
    made.metadata.set([(3, {"place": "Beach of Rome"}), (7, {"title": "dog"})])
    made.items.remove([11])
    made.words.refresh()
    return made


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store]]:
    with ExitStack() as stack:
        local = Catalog(tmp_path_factory.mktemp("words") / "catalog.db")
        stack.callback(local.close)
        server: Any = stack.enter_context(postgres_store())
        yield stored_words(local), stored_words(server)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("k", [3, 100])
@pytest.mark.parametrize("most_scored", [bm25.MOST_SCORED, 12, 0])
def test_bm25_is_that_of_the_local_index(
    documents: tuple[Store, Store],
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    k: int,
    most_scored: int,
):
    local, server = documents
    monkeypatch.setattr(bm25, "MOST_SCORED", most_scored)
    ours, theirs = server.words.search(query, k), local.words.search(query, k)
    assert [id_ for id_, _ in ours] == [id_ for id_, _ in theirs]
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-6)
    ids = list(range(1, 41))
    assert server.words.holding(query, ids) == local.words.holding(query, ids)


def test_words_are_searched_among_the_items_that_pass_a_filter(documents: tuple[Store, Store]):
    local, server = documents
    wanted = parse_where({"folder": "trip 1"})
    for query in ("dog", "北京"):
        found = server.words.search(query, 10, server.filters.passing(wanted))
        same = local.words.search(query, 10, local.filters.passing(wanted))
        assert [id_ for id_, _ in found] == [id_ for id_, _ in same] != []


def test_words_of_changed_items_are_indexed_again(documents: tuple[Store, Store]):
    _, server = documents
    assert server.words.due() == 0
    server.metadata.set([(5, {"place": "Atlantis"})])
    assert (server.words.due(), server.words.search("atlantis", 5)) == (1, [])
    assert server.words.refresh() == 1
    assert [id_ for id_, _ in server.words.search("atlantis", 5)] == [5]


# ---------------------------------------------------------------------- nearest neighbours

DIM, ITEMS = 32, 1_500

ENCODER: Any = SimpleNamespace(
    name="toy", fingerprint="1", dim=DIM, modalities=frozenset({"image", "text"})
)


def put_items(store: PostgresStore, widths: Iterable[int], rows: Any, hubs: Any) -> Any:
    """Store an item a width, with its rows (n, dim) and their hubs (n,); returns the space.

    The width is metadata of its file, too: `number`.
    """
    store.spaces.serve_with([ENCODER])
    (space,) = store.spaces.all()
    source = store.sources.add("/photos")
    store.put(
        [
            ItemRecord(
                source,
                "",
                f"{width:04}.jpg",
                "image",
                (width, 1),
                str(width).encode(),
                media={"width": width},
                facts={"number": width},
                vectors={(space.id, "image"): ItemVectors(own, hubs={"text": of_own})},
            )
            for width, own, of_own in zip(widths, rows, hubs, strict=True)
        ]
    )
    return space


@pytest.fixture(scope="module")
def neighbours() -> Iterator[tuple[PostgresStore, Any, Any]]:
    """(a store with two vectors an item, its space, the rows with their hubs)."""
    dice = np.random.default_rng(3)
    centres = dice.standard_normal((30, DIM))
    near = centres[dice.integers(0, 30, 2 * ITEMS)] + 0.6 * dice.standard_normal((2 * ITEMS, DIM))
    unit = near / np.linalg.norm(near, axis=1, keepdims=True)
    unit[7] = unit[-7] = unit[0]  # copies, whose scores are equal
    rows = unit.astype(np.float16)
    hubs = dice.normal(0.25, 0.03, 2 * ITEMS).astype(np.float32)
    hubs[[7, -7]] = hubs[0]
    with postgres_store() as store:
        space = put_items(store, range(ITEMS), rows.reshape(ITEMS, 2, DIM), hubs.reshape(ITEMS, 2))
        whole = augmented(rows.astype(np.float32), hubs).astype(np.float16)
        yield store, space, whole.astype(np.float64)


def query(rows: Any, number: int = 5, weight: float = 0.5) -> Any:
    dice = np.random.default_rng(number)
    vector = rows[number, :DIM] + 0.1 * dice.standard_normal(DIM)
    return augmented_query((vector / np.linalg.norm(vector)).astype(np.float32), "text", weight)


def expected(
    rows: Any, vector: Any, k: int, allowed: Any = None, ids: Sequence[int] = range(1, ITEMS + 1)
) -> list[tuple[int, float]]:
    """The k best items by NumPy; each id has as many rows, one after the other."""
    scores = (rows @ vector.astype(np.float64)).round(DECIMALS)
    best = scores.reshape(len(ids), -1).max(axis=1)
    pairs = list(zip(ids, best.tolist(), strict=True))
    inside = [pair for pair in pairs if allowed is None or allowed(pair[0])]
    return sorted(inside, key=lambda pair: (-pair[1], pair[0]))[:k]


def agree(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> None:
    assert len(found) == len(wanted)
    scores = dict(wanted)
    assert [score for _, score in found] == pytest.approx([s for _, s in wanted], abs=CLOSE)
    for id_, score in found:  # those of nearly equal scores may change places
        assert score == pytest.approx(scores.get(id_, wanted[-1][1]), abs=CLOSE)


def queries_of(rows: Any) -> Any:
    def queries(space: Any, modality: Any) -> Mapping[str, Any]:
        return {"text": np.stack([query(rows, number) for number in range(20)])}

    return queries


PLANNER = ("enable_hashjoin", "enable_mergejoin", "enable_seqscan", "plan_cache_mode")


def planner_of(store: PostgresStore) -> dict[str, str]:
    """The settings of the planner that a look-up changes, as this thread's connection has them."""
    shown = ", ".join(f"current_setting('{name}')" for name in PLANNER)
    return dict(zip(PLANNER, store.database.rows(text(f"SELECT {shown}"))[0], strict=True))


@pytest.mark.parametrize("k", [1, 10, 300, 2 * ITEMS])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_few_vectors_are_all_compared(
    neighbours: tuple[PostgresStore, Any, Any], k: int, weight: float
):
    store, space, rows = neighbours
    index = store.vector_indexes.index(space, "image")
    vector = query(rows, weight=weight)
    agree(index.search(vector, k), expected(rows, vector, k))
    assert len(index) == 2 * ITEMS
    assert len(index.items()) == ITEMS


def test_equal_scores_are_in_order_of_id(neighbours: tuple[PostgresStore, Any, Any]):
    store, space, rows = neighbours
    vector = augmented_query(rows[0, :DIM].astype(np.float32), "text", 0.5)
    found = store.vector_indexes.index(space, "image").search(vector, 3)
    assert [id_ for id_, _ in found] == [1, 4, ITEMS - 3]


def test_only_what_passes_a_filter_is_found(neighbours: tuple[PostgresStore, Any, Any]):
    store, space, rows = neighbours
    index, vector = store.vector_indexes.index(space, "image"), query(rows)
    allowed = store.filters.passing(parse_where({"width": {"$lt": 100}}))
    wanted = expected(rows, vector, 10, lambda id_: id_ <= 100)
    agree(index.search(vector, 10, allowed), wanted)
    agree(index.search(vector, 10, IdSet.of(range(1, 101))), wanted)
    assert index.search(vector, 10, IdSet.of([])) == []


@pytest.mark.parametrize("key", ["width", "number"])
def test_the_second_and_third_search_with_a_narrow_filter_find_what_the_first_did(
    neighbours: tuple[PostgresStore, Any, Any], key: str
):
    store, space, rows = neighbours
    index = store.vector_indexes.index(space, "image")
    narrow = store.filters.passing(parse_where({key: {"$lt": 70}}))
    for number in (5, 6, 7):  # compared on the server; fetched and compared here; compared here
        vector = query(rows, number)
        wanted = expected(rows, vector, 10, lambda id_: id_ <= 70)
        agree(index.search(vector, 10, narrow), wanted)


def test_equal_scores_are_in_order_of_id_in_each_search_with_a_narrow_filter(
    neighbours: tuple[PostgresStore, Any, Any],
):
    store, space, rows = neighbours
    index = store.vector_indexes.index(space, "image")
    vector = augmented_query(rows[0, :DIM].astype(np.float32), "text", 0.5)
    ends = parse_where({"$or": [{"width": {"$lt": 50}}, {"width": {"$gte": ITEMS - 50}}]})
    narrow = store.filters.passing(ends)
    for _ in range(3):
        found = index.search(vector, 3, narrow)
        assert [id_ for id_, _ in found] == [1, 4, ITEMS - 3]


def test_the_planner_is_as_before_once_a_filter_was_looked_up(
    neighbours: tuple[PostgresStore, Any, Any],
):
    store, *_ = neighbours
    passing = type(store.filters)(store.database).passing(parse_where({"width": {"$lt": 60}}))
    with store.snapshot():  # one transaction, in which settings last
        before = planner_of(store)
        assert passing.count_up_to(100) == 60
        assert planner_of(store) == before


def test_the_planner_is_as_its_user_set_it_once_a_filter_was_looked_up():
    with schema_of_server() as (url, name):  # skips without a server
        from mmsearch.storage.postgres import PostgresStore

        own = f"{url}{'&' if '?' in url else '?'}options=-c%20enable_mergejoin%3Doff"
        store = PostgresStore(own, name, f"postgresql://localhost/{name}", create=True)
        with closing(store), store.snapshot():
            store.filters.passing(parse_where({"width": {"$lt": 60}})).count_up_to(100)
            assert planner_of(store)["enable_mergejoin"] == "off"


def test_the_planner_is_as_before_after_a_look_up_that_failed(
    neighbours: tuple[PostgresStore, Any, Any],
):
    store, *_ = neighbours
    passing = type(store.filters)(store.database).passing(parse_where({"width": {"$lt": 60}}))
    before = planner_of(store)
    with pytest.raises(StorageFailed):
        passing.count_up_to(2**70)  # more than LIMIT takes
    assert planner_of(store) == before


def test_the_planner_is_as_before_after_a_statement_that_was_not_sent(
    neighbours: tuple[PostgresStore, Any, Any],
):
    store, *_ = neighbours
    from psycopg import ProgrammingError

    from mmsearch.storage.postgres.filters import execute_pipelined

    with store.snapshot(), store.database.read() as connection:
        before = planner_of(store)
        with pytest.raises(ProgrammingError, match="missing"):
            execute_pipelined(
                driver_of_connection(connection), "SELECT %(id)s", {}, "enable_seqscan"
            )
        assert planner_of(store) == before


@pytest.mark.parametrize(("values", "plans"), [(3, (2, 0)), (100, (0, 2))])
def test_a_look_up_is_planned_once_unless_a_list_is_long(
    neighbours: tuple[PostgresStore, Any, Any], values: int, plans: tuple[int, int]
):
    store, *_ = neighbours
    wanted = parse_where({"number": list(range(values))})
    counted = text(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements"
        " WHERE statement LIKE '%FROM metadata%LIMIT 1000) AS passing'"
        " ORDER BY prepare_time DESC LIMIT 1"
    )
    with store.snapshot():
        for _ in range(2):
            passing = type(store.filters)(store.database).passing(wanted)
            assert passing.count_up_to(1_000) == values
        assert tuple(store.database.rows(counted)[0]) == plans


def test_the_moments_are_those_of_all_scores(neighbours: tuple[PostgresStore, Any, Any]):
    store, space, rows = neighbours
    index, vector = store.vector_indexes.index(space, "image"), query(rows)
    scores = rows @ vector
    number, mean, square = index.moments(vector)
    assert number == len(rows)
    assert (mean, square) == pytest.approx((scores.mean(), (scores**2).mean()), abs=1e-6)
    assert np.abs(index.mean() - rows.mean(axis=0)).max() < 1e-6
    assert index.sample(100).tolist() == rows[np.arange(100) * len(rows) // 100].tolist()


def test_an_index_is_built_where_it_is_asked_for_and_its_recall_is_measured(
    neighbours: tuple[PostgresStore, Any, Any], monkeypatch: pytest.MonkeyPatch
):
    store, space, rows = neighbours
    indexes = store.vector_indexes
    serving = [(space, ["image"])]
    indexes.rebuild(serving, queries_of(rows))
    (before,) = indexes.describe(serving)
    assert (before["kind"], before["rows"], before["bytes"]) == ("exact", 2 * ITEMS, 0)
    indexes.configure("hnsw", None)
    indexes.rebuild(serving, queries_of(rows))
    (after,) = indexes.describe(serving)
    assert (after["kind"], after["asked"], indexes.warnings(serving)) == ("hnsw", "hnsw", [])
    assert after["bytes"] > 0
    assert set(after["recall"]) == {"text", "text, 50 % pass", "text, 1 % pass"}
    assert min(after["recall"].values()) >= 0.98
    index = indexes.index(space, "image")
    vectors = [query(rows, number) for number in range(40, 50)]
    wide = store.filters.passing(parse_where({"width": {"$gte": 400}}))
    for allowed, test in ((None, None), (wide, lambda id_: id_ > 400)):
        hits = [set(dict(index.search(one, 10, allowed))) for one in vectors]
        truth = [set(dict(expected(rows, one, 10, test))) for one in vectors]
        assert sum(len(a & b) for a, b in zip(hits, truth, strict=True)) >= 98
    narrow = store.filters.passing(parse_where({"width": {"$lt": 120}}))
    # as if comparing all of their rows took longer than HNSW
    monkeypatch.setattr("mmsearch.storage.postgres.vector_index.FEW_ROWS", 0)
    monkeypatch.setattr("mmsearch.storage.postgres.vector_index.STEP_COST", 0)
    for allowed in (narrow, narrow, IdSet.of(range(1, 121))):
        for vector in vectors:
            wanted = expected(rows, vector, 10, lambda id_: id_ <= 120)
            agree(index.search(vector, 10, allowed), wanted)
    effort = text("SELECT current_setting('hnsw.ef_search')")
    for fails in (True, False):  # what a transaction has set is lost when it fails
        with suppress(ZeroDivisionError), store.snapshot():
            index.search(vectors[0], 300)
            assert int(store.database.scalars(effort)[0]) >= 300
            assert 1 / (1 - fails)
    indexes.configure("exact", None)
    indexes.rebuild(serving, queries_of(rows))
    assert indexes.describe(serving)[0]["bytes"] == 0
    indexes.configure("auto", None)


def test_an_index_of_fewer_rows_than_the_filters_that_it_is_measured_with_is_built(
    toy: ToyEncoder, tmp_path: Path
):
    paint(tmp_path / "photos" / "red.png", "red")
    with postgres_store() as store:
        store.vector_indexes.configure("hnsw", None)
        index = opened(store, tmp_path / "photos", toy)
        (about,) = store.vector_indexes.describe([(index.serving()[0][0], ["image"])])
        assert (about["kind"], set(about["recall"].values())) == ("hnsw", {1.0})


def test_an_index_that_finds_too_few_is_not_built_again_at_once(
    neighbours: tuple[PostgresStore, Any, Any], monkeypatch: pytest.MonkeyPatch
):
    store, space, rows = neighbours
    indexes, serving = store.vector_indexes, [(space, ["image"])]
    monkeypatch.setattr("mmsearch.storage.postgres.vector_indexes.INDEX_FROM", 0)
    monkeypatch.setattr("mmsearch.storage.postgres.vector_indexes.EFFORTS", (1,))
    monkeypatch.setattr("mmsearch.storage.postgres.vector_index.MARGIN_WITH_HUBS", 0)
    measured = []

    def queries(space: Any, modality: Any) -> Any:
        measured.append(modality)
        return queries_of(rows)(space, modality)

    indexes.configure("auto", 0.9999)
    for _ in range(2):
        indexes.rebuild(serving, queries)
        (found,) = indexes.describe(serving)
        assert (found["kind"], found["bytes"]) == ("exact", 0)
        assert re.search(r"hnsw found 0\.\d+ for text, .* for text, 50 % pass", found["why"])
    assert len(measured) == 1
    indexes.configure("auto", 0.01)  # which it does find
    indexes.rebuild(serving, queries)
    assert indexes.describe(serving)[0]["kind"] == "hnsw"
    indexes.configure("exact", 0.98)
    indexes.rebuild(serving, queries)
    indexes.configure("auto", None)


PASSAGES, DOCUMENTS = 20, 120
"""Rows of each item, and items: the ids of the second half are far above those of the first."""


@pytest.fixture(scope="module")
def passages() -> Iterator[tuple[PostgresStore, Any, Any, list[int]]]:
    """(a store with an HNSW index, its space, PASSAGES rows of each item with hubs, the ids)."""
    dice = np.random.default_rng(4)
    centres = dice.standard_normal((DOCUMENTS, 1, DIM))
    near = centres + 0.4 * dice.standard_normal((DOCUMENTS, PASSAGES, DIM))
    rows = (near / np.linalg.norm(near, axis=2, keepdims=True)).astype(np.float16)
    hubs = dice.normal(0.25, 0.03, (DOCUMENTS, PASSAGES)).astype(np.float32)
    half = DOCUMENTS // 2
    with postgres_store() as store:
        put_items(store, range(half), rows[:half], hubs[:half])
        with store.database.write() as writing:
            writing.exec_driver_sql("SELECT setval('items_id_seq', 1000000)")
        space = put_items(store, range(half, DOCUMENTS), rows[half:], hubs[half:])
        flat = augmented(rows.reshape(-1, DIM).astype(np.float32), hubs.reshape(-1))
        flat = flat.astype(np.float16).astype(np.float64)
        store.vector_indexes.configure("hnsw", None)
        store.vector_indexes.rebuild([(space, ["image"])], queries_of(flat))
        yield store, space, flat, store.vector_indexes.index(space, "image").items().ids.tolist()


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("where", [None, {"width": {"$gte": 30}}, {"number": {"$gte": 30}}])
def test_k_items_are_found_where_the_nearest_rows_are_of_few(
    passages: tuple[PostgresStore, Any, Any, list[int]], weight: float, where: Any
):
    store, space, rows, ids = passages
    index = store.vector_indexes.index(space, "image")
    allowed = None if where is None else store.filters.passing(parse_where(where))
    passing = set(ids if where is None else ids[30:])
    common = 0
    for number in range(0, len(rows), 8 * PASSAGES):
        vector = query(rows, number, weight)
        nearest = np.argsort(-(rows @ vector))[:50] // PASSAGES
        assert len(set(nearest.tolist())) < 30
        found = index.search(vector, 30, allowed)
        wanted = expected(rows, vector, 30, passing.__contains__, ids)
        assert len(found) == 30
        common += len(dict(found).keys() & dict(wanted).keys())
    assert common >= 0.98 * 30 * 15


def test_all_items_are_found_where_more_are_asked_for(
    passages: tuple[PostgresStore, Any, Any, list[int]],
):
    store, space, rows, ids = passages
    index, vector = store.vector_indexes.index(space, "image"), query(rows)
    wanted = expected(rows, vector, DOCUMENTS, ids=ids)
    agree(index.search(vector, DOCUMENTS + 1), wanted)


def test_items_with_many_rows_are_found_by_each_search_with_a_narrow_filter(
    passages: tuple[PostgresStore, Any, Any, list[int]],
):
    store, space, rows, ids = passages
    index = store.vector_indexes.index(space, "image")
    narrow = store.filters.passing(parse_where({"width": {"$in": [3, 40, 70, 110]}}))
    few = {ids[number] for number in (3, 40, 70, 110)}
    for number in (5, 6, 7):
        vector = query(rows, number)
        wanted = expected(rows, vector, 4, few.__contains__, ids)
        agree(index.search(vector, 4, narrow), wanted)


def test_a_wide_filter_is_applied_to_candidates_despite_a_gap_between_ids(
    passages: tuple[PostgresStore, Any, Any, list[int]],
):
    store, space, *_ = passages
    index = store.vector_indexes.index(space, "image")
    first = [0, DOCUMENTS // 2]  # before and after the gap
    wide = store.filters.passing(parse_where({"$not": {"width": {"$in": first}}}))
    narrow = store.filters.passing(parse_where({"width": {"$in": first}}))
    assert not index.compares_all(10, wide)
    assert index.compares_all(10, narrow)


def test_a_filter_that_every_second_item_passes_is_applied_to_candidates(
    passages: tuple[PostgresStore, Any, Any, list[int]],
):
    store, space, *_ = passages
    index = store.vector_indexes.index(space, "image")
    for parity in (0, 1):
        half = {"width": {"$in": list(range(parity, DOCUMENTS, 2))}}
        assert not index.compares_all(10, store.filters.passing(parse_where(half)))


def test_filters_of_a_handful_of_items_find_those_that_pass():
    dice = np.random.default_rng(5)
    rows = dice.standard_normal((5, 2, DIM))
    rows = (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float16)
    hubs = dice.normal(0.25, 0.03, (5, 2)).astype(np.float32)
    flat = augmented(rows.reshape(-1, DIM).astype(np.float32), hubs.reshape(-1))
    flat = flat.astype(np.float16).astype(np.float64)
    with postgres_store() as store:
        space = put_items(store, range(5), rows, hubs)
        store.vector_indexes.configure("hnsw", None)
        store.vector_indexes.rebuild([(space, ["image"])], lambda *_: {"text": flat[:3]})
        index = store.vector_indexes.index(space, "image")
        vector = query(flat)
        for below in range(6):
            passing = store.filters.passing(parse_where({"width": {"$lt": below}}))
            wanted = expected(flat, vector, 3, lambda id_, most=below: id_ <= most, range(1, 6))
            agree(index.search(vector, 3, passing), wanted)


def test_another_engines_kinds_of_index_are_refused(neighbours: tuple[PostgresStore, Any, Any]):
    store, *_ = neighbours
    with pytest.raises(InvalidOption, match="'auto', 'exact' or 'hnsw'"):
        store.vector_indexes.configure("IVF64,RaBitQ", None)
    with pytest.raises(InvalidOption, match="share"):
        store.vector_indexes.configure(None, 2.0)


# ---------------------------------------------------------------------- all of it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    for name, colour in {"red": "red", "copy": "red", "green": "green", "blue": "blue"}.items():
        paint(photos / f"{name}.png", colour)
    paint(photos / "more" / "red and green.png", "red")
    (photos / "red.txt").write_text("a red house\na house by the sea")
    (photos / "note.txt").write_text("a red note about the green sea")
    (photos / "caf\udce9.txt").write_text("blue, blue and blue again")
    return photos


def answers(store: Store, folder: Path, toy: ToyEncoder) -> list[Any]:
    index = opened(store, folder, toy)
    search = Searcher(index)
    wheres_: list[Any] = [None, {"path": {"$glob": "more/*"}}, {"modality": "image"}]
    wheres_ += [{"name": {"$contains": "RED"}}, {"$not": {"tag": "red"}}]
    tags = tag_items(index, ["red", "green"], min_confidence=0.0)
    found: list[Any] = [
        search.search([text], Settings(k=20, where=where, **more))[0]
        for text in ("red", "green sea", '"red note"', "house by the sea", "nothing of this")
        for where in wheres_
        for more in ({}, {"target": "image"}, {"spans": True}, {"lexical": False})
        if not (where and more)
    ]
    alike = ("red.png", "note.txt")
    found += [search.similar(str(folder / name), Settings(k=20)) for name in alike]
    found += [search.search([str(folder / "green.png")], Settings(k=20))[0]]
    groups = duplicate_groups(index, same=False)
    copies = [[os.path.basename(one.item.path) for one in group.copies] for group in groups]
    return [tags, copies, store.filters.facets(), found]


def test_a_folder_in_both_gives_the_same_hits_with_the_same_scores(
    folder: Path, toy: ToyEncoder, tmp_path: Path
):
    local = Catalog(tmp_path / "catalog.db")
    *same, theirs = answers(local, folder, toy)
    local.close()
    with postgres_store() as server:
        *ours_same, ours = answers(server, folder, toy)
    assert ours_same == same
    for mine, other in zip(ours, theirs, strict=True):
        assert [(hit.path, hit.span) for hit in mine] == [(hit.path, hit.span) for hit in other]
        for one, same_one in zip(mine, other, strict=True):
            assert one.signals.keys() == same_one.signals.keys()
            for name, signal in one.signals.items():
                assert signal.score == pytest.approx(same_one.signals[name].score, abs=CLOSE)
            # a score in standard deviations is the rounded cosine divided by a small number
            assert one.score == pytest.approx(same_one.score, abs=1e-4)
            assert one.confidence == pytest.approx(same_one.confidence, abs=1e-4)
