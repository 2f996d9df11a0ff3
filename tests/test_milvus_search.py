"""Searching in Milvus gives the answers of SQLite and FAISS: filters, words, neighbours, hits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import milvus_server
import numpy as np
import pytest
from conftest import ToyEncoder, paint
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_filters import HOSTILE, THINGS, Thing, wheres

from mmsearch.encoders import Runtime
from mmsearch.errors import InvalidFilter, InvalidOption
from mmsearch.filters import parse_where
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.indexing.index_run import IndexRun
from mmsearch.indexing.media_options import MediaOptions
from mmsearch.indexing.scopes import add_scopes
from mmsearch.search.searcher import Searcher
from mmsearch.search.settings import Settings
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import ItemRecord, ItemVectors, Space
from mmsearch.storage.lexical import bm25
from mmsearch.storage.milvus.vector_index import MilvusIndex
from mmsearch.storage.place import place_of
from mmsearch.storage.sqlite import Catalog
from mmsearch.types import TextPart
from mmsearch.vectors import EXACT, FaissIndex
from mmsearch.vectors.hubness import augmented, augmented_query
from mmsearch.vectors.id_set import IdSet, LazyIdSet

Both = tuple[Any, Catalog]
"""A store in Milvus, and one in SQLite with the same items."""

quick = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def pair_of(
    milvus: milvus_server.MilvusServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Makes a store in Milvus and one in SQLite, filled alike."""
    from contextlib import ExitStack

    with ExitStack() as opened:

        def made(fill: Any) -> Both:
            folder = tmp_path_factory.mktemp("stores")
            theirs = opened.enter_context(milvus_server.store(milvus, folder))
            ours = Catalog(folder / "catalog.db")
            opened.callback(ours.close)
            for store in (theirs, ours):
                fill(store)
            return theirs, ours

        yield made


# ---------------------------------------------------------------------- filters


def fill_with(things: list[Thing]) -> Any:
    def fill(store: Any) -> None:
        sound = store.spaces.add_imported("toy", 2, ["audio"]).id, "audio"
        heard = {sound: ItemVectors(np.ones((1, 2), np.float16))}
        store.put(
            [
                ItemRecord(
                    source_id=store.sources.add(thing.root),
                    folder=thing.folder,
                    name=thing.name,
                    kind=thing.modality,  # type: ignore[arg-type]
                    stat=(thing.size, thing.mtime_ns),
                    hash=str(number).encode(),
                    media=thing.details,
                    texts=[TextPart("x", origin) for origin in thing.origins],  # type: ignore[arg-type]
                    vectors=heard if thing.heard else {},  # type: ignore[arg-type]
                )
                for number, thing in enumerate(things)
            ]
        )
        store.metadata.set(enumerate((thing.meta for thing in things), 1))
        tags = {tag for thing in things for tag in thing.tags}
        found = {
            tag: {number: 0.5 for number, thing in enumerate(things, 1) if tag in thing.tags}
            for tag in tags
        }
        store.tags.set(found)

    return fill


@pytest.fixture(scope="module")
def world(pair_of: Any) -> Both:
    pair: Both = pair_of(fill_with(THINGS))
    return pair


@quick
@given(wanted=wheres)
@example(wanted={})
@example(wanted={"$not": {"width": {"$gt": 1}}})
@example(wanted={"$or": [{"has": "sound"}, {"path": {"$glob": "?*/[ab]*"}}]})
@example(wanted={"size": {"$gt": 9.5}})
@example(wanted={"size": [10, 10.5, -1e300, 1e300]})
@example(wanted={"rating": {"$gte": 2**53 + 1}})
@example(wanted={"date": {"$lt": "2020-01-01 00:00:00.5"}})
def test_a_filter_passes_the_same_items_as_in_sqlite(world: Both, wanted: dict[str, Any]):
    theirs, ours = world
    filter_ = parse_where(wanted)
    try:
        expected = ours.filters.matching(filter_).tolist()
    except InvalidFilter as error:
        with pytest.raises(InvalidFilter, match=str(error)[:9]):
            theirs.filters.matching(filter_)
        return
    assert theirs.filters.matching(filter_).tolist() == expected
    assert len(theirs.filters.passing(filter_)) == len(expected)


@quick
@given(
    text=HOSTILE,
    op=st.sampled_from(["$eq", "$ne", "$contains", "$glob", "$in"]),
    key=st.sampled_from(["name", "camera", "tag", "folder", "path"]),
)
@example(text='zq" or id >= 0 or name == "', op="$eq", key="camera")
@example(text="zq\\", op="$in", key="name")
def test_what_a_user_types_never_becomes_a_part_of_an_expression(
    world: Both, text: str, op: str, key: str
):
    theirs, ours = world
    filter_ = parse_where({key: {op: [text, "zqx"] if op == "$in" else text}})
    found = theirs.filters.matching(filter_).tolist()
    assert found == ours.filters.matching(filter_).tolist()


@pytest.mark.parametrize("oldest", [False, True])
def test_items_come_by_date_as_in_sqlite(world: Both, oldest: bool):
    theirs, ours = world
    for ids in (None, IdSet.of([3, 5, 9, 44, 70, 999])):
        found = theirs.filters.by_date(ids, oldest=oldest)
        assert found.tolist() == ours.filters.by_date(ids, oldest=oldest).tolist()


def test_facets_are_those_of_sqlite(world: Both):
    theirs, ours = world
    for ids in (None, IdSet.of([3, 5, 9, 44, 70, 999])):
        assert theirs.filters.facets(ids) == ours.filters.facets(ids)


def test_a_filter_that_the_server_can_say_is_only_counted(world: Both):
    passing = world[0].filters.passing(parse_where({"width": {"$gte": 1000}}))
    assert isinstance(passing, LazyIdSet)
    number = len(passing)
    assert not passing.is_fetched
    assert len(passing.ids) == number


# ---------------------------------------------------------------------- words

SAID = ["a", "dog", "runs", "on", "the", "beach", "with", "red", "balloons", "near", "Wien", "sea"]


def fill_with_texts(store: Any) -> None:
    dice = random.Random(3)
    source = store.sources.add("/photos/Trip 2020")
    texts = [" ".join(dice.choices(SAID, k=dice.randint(1, 30))) for _ in range(60)]
    texts += ["zwei Hunde am Strand mit dog", "un chien sur les plages", "psi běží po pláži"]
    texts += ["das Restaurant und der Park", "le restaurant et les parcs", "the restaurant"]
    texts += ["東京の犬 dog", "犬と東京", " ".join(f"w{number}x" for number in range(9_000))]
    records = [
        ItemRecord(
            source,
            f"day {number % 3}",
            f"IMG_{number:04}.jpg",
            "image",
            (10, number * 86_400 * 10**9),
            str(number).encode(),
            media={"camera": "Canon EOS" if number % 4 else None},
            texts=[TextPart(text, "caption"), TextPart("a second dog", "caption")],
            facts={"title": "Red beach", "iso": 800.0} if number % 5 == 0 else {},
        )
        for number, text in enumerate(texts)
    ]
    store.put(records)
    store.metadata.set([(1, {"place": "Wien am Meer", "rating": 5})])
    store.tags.set({"dog": {2: 0.9, 7: 0.4}})
    store.words.refresh()


@pytest.fixture(scope="module")
def texts(pair_of: Any) -> Both:
    pair: Both = pair_of(fill_with_texts)
    return pair


QUERIES = ["dog", "red balloons", '"dog runs"', "beach dog wien", "img 42", "canon", "東京", "犬"]
QUERIES += ["Hund", "plage chien", "pláž", "restaurant park", '"Hunde am Strand"']
QUERIES += ["w17x w8999x", '"second dog" wien', "january 1970", "nothing of this", "the and"]


@pytest.mark.parametrize("most_scored", [bm25.MOST_SCORED, 20])
def test_words_have_the_scores_of_sqlite(
    texts: Both, monkeypatch: pytest.MonkeyPatch, most_scored: int
):
    theirs, ours = texts
    monkeypatch.setattr(bm25, "MOST_SCORED", most_scored)
    assert theirs.words.due() == 0
    for query in QUERIES:
        for k, allowed in ((100, None), (3, None), (5, IdSet.of(range(1, 30)))):
            found = theirs.words.search(query, k, allowed)
            wanted = ours.words.search(query, k, allowed)
            assert [id_ for id_, _ in found] == [id_ for id_, _ in wanted], query
            scores = [score for _, score in wanted]
            assert [score for _, score in found] == pytest.approx(scores, abs=1e-6), query
        ids = list(range(1, 70))
        assert theirs.words.holding(query, ids) == ours.words.holding(query, ids)


# ---------------------------------------------------------------------- neighbours

DIM = 16
SPACE: Any = Space(1, "m", "f", DIM, frozenset(), frozenset({"image"}), frozenset())


def vectors_of(number: int) -> tuple[Any, Any, Any]:
    """Vectors (n, DIM) in clusters, and their hubs for queries of texts and of images."""
    dice = np.random.default_rng(0)
    centres = dice.standard_normal((20, DIM))
    rows = centres[dice.integers(0, 20, number)] + 0.5 * dice.standard_normal((number, DIM))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    hubs = dice.uniform(0.1, 0.4, (2, number)).astype(np.float32)
    return rows, *hubs


@pytest.fixture(scope="module")
def filled(pair_of: Any) -> Both:
    rows, hub_text, hub_image = vectors_of(900)

    def fill(store: Any) -> None:
        space = store.spaces.add_imported("m", DIM, ["image"])
        source = store.sources.add("/photos")
        records = []
        for number in range(600):  # those of even numbers have two vectors
            mine = [number, 600 + number // 2] if number % 2 == 0 else [number]
            hubs: Any = {"text": hub_text[mine], "image": hub_image[mine]}
            vectors: Any = {(space.id, "image"): ItemVectors(rows[mine], hubs=hubs)}
            media = {"width": number % 100}
            stat, hash_ = (number, 1), str(number).encode()
            name = f"{number}.jpg"
            records.append(
                ItemRecord(source, "", name, "image", stat, hash_, media=media, vectors=vectors)
            )
        store.put(records)
        store.metadata.set((number + 1, {"odd": number % 2}) for number in range(600))

    pair: Both = pair_of(fill)
    return pair


def space_of(store: Any) -> Space:
    found: Space = store.spaces.all()[0]
    return found


def faiss_of(catalog: Catalog) -> FaissIndex:
    space = space_of(catalog)
    index = FaissIndex.empty(DIM + 8)
    for new in catalog.vectors.new(space, "image"):
        hubs = augmented(np.zeros((len(new.rows), 0), np.float32), new.hub_text, new.hub_image)
        rows = np.concatenate([new.rows, hubs.astype(np.float16)], axis=1)
        index.add(new.ids, rows, new.vector_ids)
    return index


def queries_of(number: int) -> dict[str, Any]:
    rows = vectors_of(900)[0][::7][:number].astype(np.float32)
    return {
        "text": np.stack([augmented_query(one, "text", 0.5) for one in rows]),
        "image": np.stack([augmented_query(one, "image", 0.0) for one in rows]),
    }


FILTERS: list[dict[str, Any] | None] = [
    None,
    {"width": {"$gte": 50}},
    {"width": 7},
    {"odd": 1},
    {"name": {"$glob": "1*"}},
]


@pytest.mark.parametrize("where", FILTERS)
def test_neighbours_and_scores_are_those_of_faiss(filled: Both, where: dict[str, Any] | None):
    theirs, ours = filled
    index, faiss = theirs.vector_indexes.index(space_of(theirs), "image"), faiss_of(ours)
    assert (len(index), len(index.items())) == (len(faiss), 600)
    filter_ = None if where is None else parse_where(where)
    allowed = [None if filter_ is None else one.filters.passing(filter_) for one in filled]
    for queries in queries_of(2).values():
        for query in queries:
            for k in (1, 10, 300):
                assert index.search(query, k, allowed[0]) == faiss.search(query, k, allowed[1])


@pytest.mark.parametrize("share", [0.05, 1.0])  # others are dropped; ids are listed
def test_a_set_of_many_items_is_searched_as_a_small_one_is(
    filled: Both, share: float, monkeypatch: pytest.MonkeyPatch
):
    theirs, ours = filled
    monkeypatch.setattr("mmsearch.storage.milvus.vector_index.FEW_ROWS", 10)
    monkeypatch.setattr("mmsearch.storage.milvus.vector_index.MIN_SHARE", share)
    index, faiss = theirs.vector_indexes.index(space_of(theirs), "image"), faiss_of(ours)
    allowed = IdSet.of(range(1, 600, 3))
    for queries in queries_of(2).values():
        for query in queries:
            for k in (1, 10, 300):
                assert index.search(query, k, allowed) == faiss.search(query, k, allowed)


def test_scores_by_chance_are_those_of_faiss(filled: Both):
    theirs, ours = filled
    index, faiss = theirs.vector_indexes.index(space_of(theirs), "image"), faiss_of(ours)
    query = queries_of(1)["text"][0]
    assert index.moments(query) == pytest.approx(faiss.moments(query), abs=1e-6)
    assert index.sample(50).tolist() == faiss.sample(50).tolist()


def test_an_approximate_index_is_built_measured_and_described(filled: Both):
    theirs, ours = filled
    indexes, space = theirs.vector_indexes, space_of(theirs)
    serving = [(space, ["image"])]
    try:
        indexes.configure("HNSW", None)
        indexes.rebuild(serving, lambda *_: queries_of(8))
        (about,) = indexes.describe(serving)
        assert (about["kind"], about["rows"], about["facet"]) == ("HNSW", 900, "image")
        assert {"text", "image, 50 % pass", "text, 1 % pass"} < set(about["recall"])
        assert min(about["recall"].values()) >= 0.98
        assert indexes.warnings(serving) == []
        query = queries_of(1)["text"][0]
        assert indexes.index(space, "image").search(query, 5) == faiss_of(ours).search(query, 5)
    finally:
        indexes.configure(EXACT, None)
        indexes.rebuild(serving, lambda *_: queries_of(8))
    assert indexes.describe(serving)[0]["kind"] == EXACT


def test_effort_and_candidates_are_the_least_that_reach_the_recall(
    filled: Both, monkeypatch: pytest.MonkeyPatch
):
    theirs, _ = filled
    indexes, serving = theirs.vector_indexes, [(space_of(theirs), ["image"])]

    def recall(index: MilvusIndex, test: Any, enough: float) -> dict[str, float]:
        found = index.choice.effort >= 256 and index.choice.candidates >= 400
        return {"text": 0.99 if found else 0.5}

    monkeypatch.setattr(MilvusIndex, "recall", recall)
    try:
        indexes.configure("HNSW", None)
        indexes.rebuild(serving, lambda *_: queries_of(8))
        (about,) = indexes.describe(serving)
        assert (about["effort"], about["candidates"]) == (256, 400)
        assert about["recall"] == {"text": 0.99}
    finally:
        indexes.configure(EXACT, None)
        indexes.rebuild(serving, lambda *_: queries_of(8))


def test_where_the_server_makes_no_such_index_every_vector_is_compared(filled: Both):
    kind = "IVF_RABITQ"  # milvus-lite has none
    theirs, ours = filled
    indexes, space = theirs.vector_indexes, space_of(theirs)
    serving = [(space, ["image"])]
    try:
        indexes.configure(kind, None)
        indexes.rebuild(serving, lambda *_: queries_of(8))
        (about,) = indexes.describe(serving)
        assert (about["kind"], about["asked"]) == (EXACT, kind)
        (warning,) = indexes.warnings(serving)
        assert f"{kind} cannot be made" in warning
        query = queries_of(1)["text"][0]
        assert indexes.index(space, "image").search(query, 5) == faiss_of(ours).search(query, 5)
    finally:
        indexes.configure(EXACT, None)


def test_a_kind_of_index_that_milvus_lacks_is_refused(filled: Both):
    with pytest.raises(InvalidOption, match="HNSW"):
        filled[0].vector_indexes.configure("OPQ64", None)


# ---------------------------------------------------------------------- hits


def indexed(store: Any, photos: Path, place: Path, encoder: ToyEncoder) -> OpenIndex:
    place.mkdir()
    index = OpenIndex(place_of(place), store, Runtime())
    index.encoders.serve_with([encoder])
    run = IndexRun(index, ReadOptions(), MediaOptions().resolve(store))
    run.run(add_scopes(store, [str(photos)]))
    assert run.report.warnings == []
    return index


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "photos"
    for name, colour in {"red": "red", "copy": "red", "green": "green", "blue": "blue"}.items():
        paint(folder / f"{name}.png", colour)
    for name in ("one", "two"):
        paint(folder / "trip" / f"{name}.png", "white")
    (folder / "note.txt").write_text("a red note about the green sea")
    (folder / "trip" / "diary.txt").write_text("blue waves\n\nwhite sand, a red sun")
    (folder / "green.txt").write_text("a green square")
    return folder


def test_hits_scores_and_order_are_those_of_the_folder(
    pair_of: Any, photos: Path, tmp_path: Path, toy: ToyEncoder
):
    ways = [
        ("red", {}),
        ("green sea", {"target": "image"}),
        ("blue", {"spans": True}),
        ("note sea", {"lexical": True}),
        ("white sand", {"k": 2}),
        ("red", {"where": {"name": {"$glob": "*.png"}}}),
        ("red", {"where": {"size": {"$gt": 40}, "modality": "image"}}),
        ("diary", {"exclude": "red"} if "exclude" in Settings.__dataclass_fields__ else {}),
    ]
    answers = []
    for number, store in enumerate(pair_of(lambda store: None)):
        index = indexed(store, photos, tmp_path / str(number), toy)
        searcher = Searcher(index)
        found = [searcher.search([query], Settings(**more))[0] for query, more in ways]
        found.append(searcher.similar(str(photos / "red.png"), Settings(k=5)))
        answers.append(
            [
                [(one.path, one.score, one.confidence, one.span, one.caption) for one in hits]
                for hits in found
            ]
        )
    for theirs, ours in zip(*answers, strict=True):
        assert [one[0] for one in theirs] == [one[0] for one in ours]
        assert [one[1] for one in theirs] == pytest.approx([one[1] for one in ours], abs=1e-6)
        assert [one[3:] for one in theirs] == [one[3:] for one in ours]
        confident = [one[2] or 0.0 for one in ours]
        assert [one[2] or 0.0 for one in theirs] == pytest.approx(confident, abs=1e-6)
