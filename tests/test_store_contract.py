"""What every store promises, held to by those in SQLite, memory, PostgreSQL and Milvus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import milvus_server
import numpy as np
import pytest
from conftest import ToyEncoder, paint
from memory_store import MemoryStore
from postgres_server import postgres_store

import mmsearch
from mmsearch.encoders import Runtime
from mmsearch.filters import parse_where
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.indexing.index_run import IndexRun
from mmsearch.indexing.media_options import MediaOptions
from mmsearch.indexing.scopes import add_scopes
from mmsearch.search.duplicates import duplicate_groups
from mmsearch.search.searcher import Searcher
from mmsearch.search.settings import Settings
from mmsearch.search.tagging import tag_items
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import (
    DuplicateGone,
    FailureRecord,
    IndexRoot,
    ItemBatch,
    ItemRecord,
    ItemVectors,
    Store,
)
from mmsearch.storage.lexical import TOKENIZER
from mmsearch.storage.lexical.languages import ENGLISH
from mmsearch.storage.place import place_of
from mmsearch.storage.sqlite import Catalog
from mmsearch.types import Report, Span, TextPart
from mmsearch.vectors.id_set import IdSet

ENCODER: Any = SimpleNamespace(
    name="toy", fingerprint="1", dim=4, modalities=frozenset({"image", "text"})
)
ROOT = "/photos"


@pytest.fixture(params=["sqlite", "memory", "postgres", "milvus"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with ExitStack() as stack:
        made: Any
        match request.param:
            case "sqlite":
                made = stack.enter_context(closing(Catalog(tmp_path / "catalog.db")))
            case "memory":
                made = stack.enter_context(closing(MemoryStore()))
            case "postgres":
                made = stack.enter_context(postgres_store())
            case "milvus":
                server = request.getfixturevalue("milvus")
                made = stack.enter_context(milvus_server.store(server, tmp_path))
        yield made


def vectors(*directions: int, **more: Any) -> ItemVectors:
    return ItemVectors(np.eye(4, dtype=np.float16)[list(directions)], **more)


def record(store: Store, name: str, *, folder: str = "", **changed: Any) -> ItemRecord:
    source = store.sources.add(ROOT)
    plain = ItemRecord(source, folder, name, "image", (10, 1_000), name.encode())
    return replace(plain, **changed)


def put(store: Store, *records: ItemRecord) -> list[int]:
    """Store files; returns their ids."""
    store.put(records)
    found = [store.files.at(*one.path_key) for one in records]
    return [one.id for one in found if one is not None]


def served(store: Store) -> Any:
    """A space that serves pictures and texts."""
    store.spaces.serve_with([ENCODER])
    return store.spaces.all()[0]


# ---------------------------------------------------------------------- items


def test_an_item_comes_back_as_it_was_stored(store: Store):
    texts = [TextPart("a dog", "caption"), TextPart("barks", "speech", Span(0, 5, "second"))]
    media = {"width": 40, "height": 30, "taken_at": "2020-05-01T10:00:00", "camera": "Canon"}
    (id_,) = put(store, record(store, "a.jpg", folder="x", texts=texts, media=media))
    item = store.items.get([id_])[id_]
    assert (item.path, item.modality, item.texts) == ("/photos/x/a.jpg", "image", tuple(texts))
    assert item.metadata["size"] == 10
    assert {key: item.metadata[key] for key in media} == media
    assert [one.id for one in store.items.all()] == [id_]
    assert (len(store), store.items.counts()) == (1, {"image": 1})


def test_storing_a_file_again_replaces_it_and_keeps_its_id(store: Store):
    space = served(store)
    field = space.id, "image"
    (id_,) = put(store, record(store, "a.jpg", vectors={field: vectors(0)}))
    again = record(store, "a.jpg", id=id_, hash=b"new", stat=(20, 2_000))
    assert put(store, replace(again, vectors={field: vectors(1)})) == [id_]
    assert store.items.get([id_])[id_].metadata["size"] == 20
    assert store.vectors.of(space, "image")[1].tolist() == [[0, 1, 0, 0]]


def test_new_files_that_were_stored_meanwhile_are_told_with_their_content(store: Store):
    (there,) = put(store, record(store, "a.jpg"))
    copied = record(store, "b.jpg", hash=b"a.jpg")
    put(store, replace(copied, duplicate_of=there))
    changed = record(store, "a.jpg", hash=b"new")
    told = store.put([changed, record(store, "c.jpg"), replace(copied, duplicate_of=None)])
    assert told == {changed.path_key: b"a.jpg", copied.path_key: b"a.jpg"}
    assert store.put([replace(changed, id=there)]) == {}
    assert len(store) == 3


def test_a_duplicate_reuses_texts_and_vectors(store: Store):
    space = served(store)
    field = space.id, "image"
    original = record(store, "a.jpg", texts=[TextPart("a dog", "caption")])
    (id_,) = put(store, replace(original, vectors={field: vectors(2)}))
    copy = record(store, "b.jpg", hash=b"a.jpg", duplicate_of=id_)
    (other,) = put(store, copy)
    assert store.vectors.of(space, "image", [other])[1].tolist() == [[0, 0, 1, 0]]
    assert [part.text for part in store.items.get([other])[other].texts] == ["a dog"]
    assert store.items.same_content() == [[id_, other]]
    assert [found[0] for found in store.files.duplicates_of(b"a.jpg", "image")] == [id_, other]


def test_a_duplicate_of_other_content_is_refused_and_nothing_is_stored(store: Store):
    (id_,) = put(store, record(store, "a.jpg"))
    lost = record(store, "b.jpg", hash=b"other", duplicate_of=id_)
    with pytest.raises(DuplicateGone):
        store.put([record(store, "c.jpg"), lost])
    assert [item.path for item in store.items.all()] == ["/photos/a.jpg"]


def test_a_moved_file_keeps_its_id(store: Store):
    (id_,) = put(store, record(store, "a.jpg"))
    moved = record(store, "b.jpg", hash=b"a.jpg", id=id_, duplicate_of=id_)
    assert put(store, moved) == [id_]
    assert [item.path for item in store.items.all()] == ["/photos/b.jpg"]


def test_vectors_that_go_with_texts_or_with_an_item_in_the_way_are_a_new_revision(store: Store):
    space = served(store)
    fields = {(space.id, modality): vectors(0) for modality in ("image", "text")}
    said = record(store, "a.jpg", texts=[TextPart("a dog", "caption")], vectors=fields)
    id_, _ = put(store, said, record(store, "b.jpg", vectors={(space.id, "image"): vectors(1)}))
    again = record(store, "a.jpg", id=id_, duplicate_of=id_)
    seen = [store.state().revision]
    for changed, texts, pictures in (
        (replace(again, stat=(20, 2_000)), 1, 2),
        (replace(again, texts=()), 0, 2),
        (replace(again, name="b.jpg"), 0, 1),
    ):
        store.put([changed])
        owners = [store.vectors.of(space, one)[0].tolist() for one in ("text", "image")]
        assert list(map(len, owners)) == [texts, pictures]
        seen.append(store.state().revision)
    assert seen[0] == seen[1] < seen[2] < seen[3]


def test_removed_items_are_gone_with_everything_they_had(store: Store):
    space = served(store)
    field = space.id, "image"
    files = [
        record(store, "a.jpg", vectors={field: vectors(0)}),
        record(store, "b.jpg", folder="x", vectors={field: vectors(1)}),
        record(store, "c.jpg", folder="x/y", vectors={field: vectors(2)}),
    ]
    first, *_ = put(store, *files)
    source = store.sources.all()[0][0]
    assert store.items.remove_below(source, "x") == 2
    assert store.vectors.of(space, "image")[0].tolist() == [first]
    store.items.remove([first])
    assert len(store) == store.vectors.count(space) == 0


def test_lists_and_qualities_are_in_order_of_id(store: Store):
    media = {"width": 4, "height": 3, "taken_at": "2020"}
    ids = put(store, record(store, "a.jpg", media=media), record(store, "b.jpg"))
    listed = list(store.items.listed())
    assert [(one.id, one.path, one.date[:4]) for one in listed] == [
        (ids[0], "/photos/a.jpg", "2020"),
        (ids[1], "/photos/b.jpg", "1970"),
    ]
    assert [one.id for one in store.items.listed(limit=1)] == ids[:1]
    assert store.items.quality()[ids[0]].pixels == 12
    assert store.items.hashes(ids) == {ids[0]: b"a.jpg", ids[1]: b"b.jpg"}


def test_a_complete_item_has_its_texts_metadata_tags_and_vectors(store: Store):
    space = served(store)
    texts = [TextPart("a dog", "caption")]
    made = record(store, "a.jpg", texts=texts, vectors={(space.id, "image"): vectors(3)})
    (id_,) = put(store, made)
    store.metadata.set([(id_, {"stars": 5})])
    store.tags.set({"dog": {id_: 0.75}})
    ((one,),) = store.items.complete(space)
    assert (one.id, one.kind, one.columns["size"]) == (id_, "image", 10)
    assert (one.metadata, one.tags) == ({"stars": "5"}, {"dog": 0.75})
    assert [text[:2] for text in one.texts] == [("caption", "a dog")]
    ((modality, position, *_, blob),) = one.vectors
    assert (modality, position) == ("image", 0)
    assert np.frombuffer(blob, "<f2").tolist() == [0, 0, 0, 1]


# ---------------------------------------------------------------------- files and sources


def test_known_files_can_be_those_whose_names_begin_alike(store: Store) -> None:
    names = ["s.tar", "s.tar::a.jpg", "s.tar::b/c.jpg", "s.tar:;", "t.tar::a.jpg", "s.tar::é"]
    put(store, *(record(store, name) for name in names))
    source = store.sources.all()[0][0]
    found = store.files.known(source, "", "s.tar::")
    assert set(found) == {"s.tar::a.jpg", "s.tar::b/c.jpg", "s.tar::é"}
    assert found["s.tar::a.jpg"] == store.files.known(source, "")["s.tar::a.jpg"]
    assert store.files.at(source, "", "s.tar::b/c.jpg") is not None
    assert store.files.known(source, "x", "s.tar::") == {}


def test_a_scan_finds_what_is_stored_of_a_folder(store: Store):
    made = record(store, "a.jpg", sidecar=(3, 4), sidecar_name="a.txt", media={"readings": "ocr"})
    (id_,) = put(store, made)
    source = store.sources.all()[0][0]
    known = store.files.known(source, "")["a.jpg"]
    assert (known.id, known.size, known.mtime_ns, known.hash) == (id_, 10, 1_000, b"a.jpg")
    assert (known.sidecar_size, known.sidecar_mtime_ns) == (3, 4)
    assert known.readings == store.files.readings(id_) == {"ocr"}
    assert store.files.folders(source, "") == {""}
    assert list(store.files.all()) == [(id_, ROOT, "", "a.jpg")]


def test_a_source_takes_in_those_inside_it(store: Store):
    inner = store.sources.add("/photos/x", 7)
    store.put([ItemRecord(inner, "deep", "a.jpg", "image", (1, 1), b"a")])
    outer = store.sources.add(ROOT, 8)
    assert store.sources.all() == [(outer, ROOT)]
    assert [item.path for item in store.items.all()] == ["/photos/x/deep/a.jpg"]
    assert store.sources.of("/photos/x/deep") == (outer, ROOT, "x/deep")
    assert store.sources.of("/elsewhere") is None
    store.sources.set_device(outer, 9)
    assert store.sources.device(outer) == 9


def test_a_source_that_is_taken_in_leaves_its_device_to_its_folders(store: Store):
    inner = store.sources.add("/photos/x", 7)
    store.put([ItemRecord(inner, "deep", "a.jpg", "image", (1, 1), b"a")])
    store.sources.set_folder_devices(inner, {"usb": 5})
    outer = store.sources.add(ROOT, 8)
    assert store.sources.folder_devices(outer) == {"x/deep": 7, "x/usb": 5}
    (found,) = store.files.duplicates_of(b"a", "image")
    assert found[1:] == (ROOT, "x/deep", 7, "/photos/x/deep/a.jpg")
    store.sources.set_folder_devices(outer, {"x/deep": None, "x/usb": 6})
    assert store.sources.folder_devices(outer) == {"x/usb": 6}
    assert store.files.duplicates_of(b"a", "image")[0][2:4] == ("", 8)


def test_change_times_are_stored_with_a_file_or_afterwards(store: Store):
    made = [replace(record(store, "a.jpg"), ctime_ns=5), record(store, "b.jpg")]
    _, second = put(store, *made)
    source = store.sources.all()[0][0]
    before = store.state()
    store.files.set_change_times([(second, 6)])
    known = store.files.known(source, "")
    assert (known["a.jpg"].ctime_ns, known["b.jpg"].ctime_ns) == (5, 6)
    found = store.files.at(source, "", "a.jpg")
    assert found.ctime_ns == 5
    assert store.files.of(found.id) == (ROOT, f"{ROOT}/a.jpg", found)
    assert store.files.of(found.id + 1000) is None
    assert store.state() == before


def test_a_root_replaces_those_inside_it(store: Store):
    store.index_roots.add([IndexRoot("/a/b", folder=True, exclude=("*.png",))])
    store.index_roots.add([IndexRoot("/a", folder=True, include_hidden=True)])
    assert store.index_roots.all() == [IndexRoot("/a", folder=True, include_hidden=True)]
    store.index_roots.remove("/a")
    assert store.index_roots.all() == []


def test_a_failure_is_kept_until_its_file_is_stored(store: Store):
    source = store.sources.add(ROOT)
    bad = FailureRecord(source, "x", "a.jpg", "0 bytes", (0, 1), retry=False, ctime_ns=2)
    store.put([], [bad, replace(bad, name="b.jpg", retry=True)])
    assert store.failures.known(source, "x") == {"a.jpg": ((0, 1), 2), "b.jpg": None}
    assert [(one.path, one.reason) for one in store.failures.all()] == [
        ("/photos/x/a.jpg", "0 bytes"),
        ("/photos/x/b.jpg", "0 bytes"),
    ]
    put(store, record(store, "a.jpg", folder="x"))
    store.failures.remove(source, "x", ["b.jpg"])
    assert (len(store.failures), store.failures.folders(source)) == (0, set())


# ---------------------------------------------------------------------- spaces and vectors


def test_a_new_encoder_serves_at_once_in_an_empty_store_and_later_in_another(store: Store):
    assert served(store).serves == {"image", "text"}
    put(store, record(store, "a.jpg"))
    other = SimpleNamespace(**{**vars(ENCODER), "name": "other"})
    store.spaces.serve_with([other])
    first, second = store.spaces.all()
    assert (first.name, second.name) == ("toy", "other")
    assert second.backfills == {"image", "text"}
    store.spaces.switch_to(second)
    assert [(one.name, one.serves) for one in store.spaces.all()] == [
        ("other", {"image", "text"}),
        ("toy", set()),
    ]


def test_an_encoder_serves_only_the_modalities_that_it_is_to(store: Store):
    served(store)
    put(store, record(store, "a.jpg"))
    hearing = {"name": "other", "modalities": frozenset({"image", "audio", "text"})}
    store.spaces.serve_with([SimpleNamespace(**{**vars(ENCODER), **hearing})], ENCODER.modalities)
    other = next(one for one in store.spaces.all() if one.name == "other")
    assert other.backfills == {"image", "text"}


def test_dropping_a_space_deletes_its_vectors(store: Store):
    space = served(store)
    put(store, record(store, "a.jpg", vectors={(space.id, "image"): vectors(0)}))
    before = store.state().revision
    store.spaces.drop(space)
    assert (store.spaces.all(), store.vectors.counts()) == ([], {})
    assert store.state().revision > before


def test_vectors_come_in_order_of_item_and_position(store: Store):
    space = served(store)
    spans = [Span(0, 5, "second"), Span(5, 9, "second")]
    field = space.id, "image"
    ids = put(
        store,
        record(store, "a.mp4", kind="video", vectors={field: vectors(1, 0, spans=spans)}),
        record(store, "b.jpg", vectors={field: vectors(2)}),
    )
    owners, matrix, positions = store.vectors.of(space, "image")
    assert owners.tolist() == [ids[0], ids[0], ids[1]]
    assert positions.tolist() == [0, 1, 0]
    assert matrix.argmax(axis=1).tolist() == [1, 0, 2]
    assert store.vectors.spans(space, "image", ids[:1]) == {
        (ids[0], 0): spans[0],
        (ids[0], 1): spans[1],
    }
    assert store.vectors.counts() == {space.id: {"image": 3}}
    assert store.vectors.count(space, "image", ids[1:]) == 1
    assert store.vectors.modalities(space) == ["image"]
    assert sum(len(page) for page, _ in store.vectors.pages(space, "image")) == 3
    assert len(store.vectors.sample(space, "image", 2)) == 2


def test_items_without_a_vector_are_missing_one_unless_they_have_nothing_to_encode(store: Store):
    space = served(store)
    field = space.id, "image"
    ids = put(
        store,
        record(store, "a.jpg", vectors={field: vectors(0)}),
        record(store, "b.jpg"),
        record(store, "c.jpg", vectors={field: vectors()}),
    )
    assert store.vectors.missing(space, "image", ["image"]) == [(ids[1], "/photos/b.jpg", b"b.jpg")]
    assert store.vectors.any_missing(space, "image", ["image"])
    stale = {(ids[1], b"changed"): {field: vectors(3)}}
    store.vectors.backfill(stale)
    assert store.vectors.missing(space, "image", ["image"]) != []
    store.vectors.backfill({(ids[1], b"b.jpg"): {field: vectors(3)}})
    assert store.vectors.missing(space, "image", ["image"]) == []


def test_followers_see_what_was_added_and_what_was_deleted(store: Store):
    space = served(store)
    field = space.id, "image"
    ids = put(
        store,
        record(store, "a.jpg", vectors={field: vectors(0)}),
        record(store, "b.jpg", vectors={field: vectors(1)}),
    )
    (new,) = store.vectors.new(space, "image")
    assert new.ids.tolist() == ids
    seen, change = int(new.vector_ids[-1]), store.changes.last()
    assert list(store.vectors.new(space, "image", seen)) == []
    store.items.remove(ids[:1])
    put(store, record(store, "c.jpg", vectors={field: vectors(2)}))
    (later,) = store.vectors.new(space, "image", seen)
    assert later.rows.argmax(axis=1).tolist() == [2]
    deleted, last = store.changes.deleted_vectors(space, "image", change)
    assert deleted.tolist() == new.vector_ids[:1].tolist()
    assert deleted.dtype == new.vector_ids.dtype == np.int64
    assert store.changes.deleted_vectors(space, "image", last)[0].tolist() == []
    store.changes.forget(last)
    assert store.state().forgotten == last


def test_hubs_are_missing_until_they_are_set(store: Store):
    space = served(store)
    ids = put(store, record(store, "a.jpg", vectors={(space.id, "image"): vectors(0)}))
    before = store.state().epoch
    missing, matrix = store.hubs.missing(space, "image", "text", 10)
    assert (len(missing), matrix.shape) == (1, (1, 4))
    store.hubs.set("text", missing, np.array([0.25], np.float32))
    assert store.hubs.of(space, "image", "text", ids).tolist() == [0.25]
    assert np.isnan(store.hubs.of(space, "image", "image", ids)).all()
    assert store.hubs.missing(space, "image", "text", 10)[0] == []
    assert store.state().epoch != before


def test_token_embeddings_come_back_by_item_and_position(store: Store):
    space = served(store)
    tokens = np.arange(6, dtype=np.int8).reshape(3, 2)
    made = vectors(0, token_embeddings=[tokens])
    (id_,) = put(store, record(store, "a.jpg", vectors={(space.id, "image"): made}))
    found = store.token_embeddings.of(space, "image", [id_])
    assert found[id_, 0].tolist() == tokens.tolist()
    store.token_embeddings.clear(space)
    assert store.token_embeddings.of(space, "image", [id_]) == {}


def test_settings_and_query_banks_are_kept_by_key(store: Store):
    space = served(store)
    assert (store.settings.get("x"), store.query_banks.get(space)) == (None, None)
    store.settings.set("x", "1")
    store.settings.set("x", "2")
    store.query_banks.set(space, "1", b"bank")
    assert (store.settings.get("x"), store.query_banks.get(space)) == ("2", b"bank")


# ---------------------------------------------------------------------- what users say of items


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ({"width": {"$gte": 100}}, "ac"),
        ({"width": {"$in": [40, 200]}}, "bc"),
        ({"camera": {"$contains": "canon"}}, "ab"),
        ({"camera": None}, "c"),
        ({"taken": "2020"}, "a"),
        ({"taken": {"$lt": "2021"}}, "a"),
        ({"name": {"$glob": "[ab].*"}}, "ab"),
        ({"path": {"$glob": "/photos/x/*"}}, "c"),
        ({"tag": "dog"}, "bc"),
        ({"stars": {"$gt": 3}}, "b"),
        ({"stars": {"$exists": True}, "$not": {"stars": 5}}, "a"),
        ({"$or": [{"stars": 5}, {"width": 200}]}, "bc"),
        ({}, "abc"),
    ],
)
def test_filters_are_predicate_trees(store: Store, where: dict[str, Any], names: str):
    ids = put(
        store,
        record(
            store,
            "a.jpg",
            media={"width": 100, "camera": "Canon EOS", "taken_at": "2020-05-01T10:00:00"},
        ),
        record(
            store,
            "b.jpg",
            media={"width": 40, "camera": "CANON", "taken_at": "2021-01-01T00:00:00"},
        ),
        record(store, "c.jpg", folder="x", media={"width": 200}),
    )
    store.metadata.set([(ids[0], {"stars": 2}), (ids[1], {"stars": 5, "note": None})])
    store.tags.set({"dog": {ids[1]: 0.9, ids[2]: 0.8}})
    wanted = [id_ for id_, name in zip(ids, "abc", strict=True) if name in names]
    filter_ = parse_where(where)
    assert store.filters.matching(filter_).tolist() == wanted
    assert store.filters.passing(filter_).ids.tolist() == wanted


def test_metadata_and_tags_are_replaced_whole(store: Store):
    ids = put(store, record(store, "a.jpg"), record(store, "b.jpg"))
    store.metadata.set([(ids[0], {"stars": 5, "place": "Rome", "good": True})])
    assert store.items.get(ids)[ids[0]].metadata["meta"] == {
        "good": "true",
        "place": "Rome",
        "stars": "5",
    }
    store.metadata.set([(ids[0], {"stars": 4})])
    assert [item.metadata.get("meta") for item in store.items.all()] == [{"stars": "4"}, None]
    store.tags.set({"dog": {ids[0]: 0.5, ids[1]: 0.9}, "cat": {ids[0]: 0.7}})
    store.tags.set({"dog": {ids[1]: 0.6}}, among=[ids[0]])
    (page,) = store.items.complete(None)
    assert [item.tags for item in page] == [{"cat": 0.7}, {"dog": 0.6}]
    assert store.tags.clear(["cat"]) == 1
    assert [item.metadata.get("tags") for item in store.items.all()] == [None, ["dog"]]


def meta(store: Store) -> list[dict[str, str]]:
    return [dict(item.metadata.get("meta", {})) for item in store.items.all()]


def test_what_a_file_tells_of_itself_is_metadata_until_the_file_tells_otherwise(store: Store):
    told = {"iso": 800.0, "aperture": 2.8, "title": "Rome"}
    (id_,) = put(store, record(store, "a.jpg", facts=told))
    assert meta(store) == [{"aperture": "2.8", "iso": "800", "title": "Rome"}]
    assert store.filters.matching(parse_where({"iso": {"$gt": 100}})).tolist() == [id_]
    put(store, record(store, "a.jpg", id=id_, duplicate_of=id_))
    assert meta(store) == [{"aperture": "2.8", "iso": "800", "title": "Rome"}]
    put(store, record(store, "a.jpg", id=id_, hash=b"new", facts={"title": "Paris"}))
    assert meta(store) == [{"title": "Paris"}]
    put(store, record(store, "a.jpg", id=id_, hash=b"newer", facts={}))
    assert meta(store) == [{}]


def test_the_users_metadata_count_before_the_files_which_come_forth_again(store: Store):
    (id_,) = put(store, record(store, "a.jpg", facts={"rating": 2.0, "iso": 100.0}))
    store.metadata.set([(id_, {"rating": 5, "place": "Rome"})])
    assert meta(store) == [{"iso": "100", "place": "Rome", "rating": "5"}]
    assert store.filters.matching(parse_where({"rating": 2})).tolist() == []
    ((complete,),) = store.items.complete(None)
    assert complete.metadata == {"place": "Rome", "rating": "5"}
    assert complete.facts == {"iso": "100", "rating": "2"}
    put(store, record(store, "a.jpg", id=id_, duplicate_of=id_, facts={"rating": 3.0}))
    assert meta(store) == [{"place": "Rome", "rating": "5"}]
    store.metadata.set([(id_, {"Rating": 4})])  # whatever its case
    assert meta(store) == [{"rating": "4"}]
    store.metadata.set([(id_, {"place": "Rome"})])
    assert meta(store) == [{"place": "Rome", "rating": "3"}]
    store.metadata.set([(id_, {"rating": 1})])
    put(store, record(store, "a.jpg", id=id_, duplicate_of=id_, facts={}))
    store.metadata.set([(id_, {})])
    assert meta(store) == [{}]


def test_a_duplicate_tells_what_its_content_tells_and_not_what_the_user_says(store: Store):
    (id_,) = put(store, record(store, "a.jpg", facts={"rating": 2.0, "iso": 100.0}))
    store.metadata.set([(id_, {"rating": 5})])
    copy = record(store, "b.jpg", hash=b"a.jpg", duplicate_of=id_)
    own = record(store, "c.jpg", hash=b"a.jpg", duplicate_of=id_, facts={"rating": 1.0})
    put(store, copy, own)
    assert meta(store)[1:] == [{"iso": "100", "rating": "2"}, {"rating": "1"}]


def test_a_moved_file_keeps_what_it_tells(store: Store):
    (id_,) = put(store, record(store, "a.jpg", facts={"iso": 100.0}))
    moved = record(store, "b.jpg", folder="x", id=id_, hash=b"a.jpg", duplicate_of=id_)
    assert put(store, moved) == [id_]
    assert meta(store) == [{"iso": "100"}]


def test_a_batch_replaces_what_users_say_and_what_files_tell_each_by_itself(store: Store):
    source = store.sources.imported()

    def loaded(**columns: Any) -> list[dict[str, str]]:
        with store.loader.loading(1) as put_batch:
            put_batch(ItemBatch([source], ["/x"], ["a.jpg"], **columns), None)
        return meta(store)

    told = [[0, 0], ["iso", "title"], ["100", "file"], [100.0, None]]
    assert loaded(facts=told) == [{"iso": "100", "title": "file"}]
    said = [[0], ["title"], ["user"], [None]]
    assert loaded(metadata=said) == [{"iso": "100", "title": "user"}]
    assert loaded(facts=[[0], ["title"], ["new"], [None]]) == [{"title": "user"}]
    assert loaded(metadata=[[], [], [], []]) == [{"title": "new"}]
    assert loaded(facts=told, metadata=said) == [{"iso": "100", "title": "user"}]


def test_titles_and_keywords_are_words_and_exposures_are_not(store: Store):
    told = {"title": "A day at sea", "keywords": "beach, dog", "rating": 5.0, "iso": 800.0}
    ids = put(store, record(store, "a.jpg", facts=told), record(store, "b.jpg"))
    store.words.refresh()
    for query in ("beach", "sea", "dogs"):
        assert [id_ for id_, _ in store.words.search(query, 9)] == ids[:1]
    assert store.words.search("5 800", 9) == []
    store.metadata.set([(ids[0], {"rating": 7})])
    store.words.refresh()
    assert [id_ for id_, _ in store.words.search("7", 9)] == ids[:1]


def test_what_is_said_of_an_item_may_change_often_before_its_words_are_brought_up_to_date(
    store: Store,
):
    (id_,) = put(store, record(store, "a.jpg", facts={"title": "Rome"}))
    store.words.refresh()
    for number in range(3):
        store.metadata.set([(id_, {"title": f"Paris {number}"})])
        store.tags.set({"dog": {id_: 0.5 + number / 10}})
        store.tags.add("dog", [id_])
        again = record(store, "a.jpg", id=id_, duplicate_of=id_, facts={"title": f"Oslo {number}"})
        put(store, again)
    store.words.refresh()
    assert [found for found, _ in store.words.search("paris dog", 9)] == [id_]
    assert store.words.search("rome oslo", 9) == []


def test_a_tag_given_by_hand_stays_until_it_is_taken_off(store: Store):
    one, two = put(store, record(store, "a.jpg"), record(store, "b.jpg"))
    store.tags.set({"dog": {one: 0.5, two: 0.9}})
    assert store.tags.add("dog", [one, 999]) == 1
    store.tags.set({"dog": {one: 0.2}, "cat": {one: 0.3}})
    (page,) = store.items.complete(None)
    assert [item.tags for item in page] == [{"cat": 0.3, "dog": 1.0}, {}]
    assert store.tags.remove("dog", [one, two, 999]) == 1
    assert store.tags.remove("dog", [one]) == 0
    assert [item.metadata.get("tags") for item in store.items.all()] == [["cat"], None]


def test_items_come_by_date_and_those_without_one_last(store: Store):
    taken = {"taken_at": "2020-05-01T10:00:00"}
    day = 86_400 * 10**9
    ids = put(
        store,
        record(store, "a.jpg", stat=(10, day)),
        record(store, "b.jpg", media=taken),
        record(store, "c.jpg", stat=(10, 0)),
        record(store, "d.jpg", stat=(10, 20_000 * day)),  # 2024
        record(store, "e.jpg", media=taken),
    )
    a, b, c, d, e = ids
    assert store.filters.by_date().tolist() == [d, b, e, a, c]
    assert store.filters.by_date(oldest=True).tolist() == [a, b, e, d, c]
    assert store.filters.by_date(IdSet.of([a, c, e, 999])).tolist() == [e, a, c]
    assert store.filters.by_date(IdSet.of([])).tolist() == []


def test_facets_count_the_values_of_all_items_or_of_some(store: Store):
    photo = {"taken_at": "2020-05-01T10:00:00", "camera": "Canon"}
    a, b, c, _ = put(
        store,
        record(store, "a.jpg", media=photo),
        record(store, "b.jpg", folder="x/y", media=photo | {"taken_at": "2019-12-31T23:59:59"}),
        record(store, "c.jpg", folder="x/y", stat=(10, 0)),
        record(store, "d.txt", kind="text", stat=(10, 20_000 * 86_400 * 10**9)),
    )
    store.tags.set({"dog": {a: 0.5, b: 0.9}, "cat": {c: 0.7}})

    def shown(facets: Any) -> dict[str, Any]:
        return {
            name: value if name == "counted" else [(one.value, one.count) for one in value]
            for name, value in ((name, getattr(facets, name)) for name in facets.__slots__)
        }

    assert shown(store.filters.facets()) == {
        "kind": [("image", 3), ("text", 1)],
        "year": [("2019", 1), ("2020", 1), ("2024", 1)],
        "month": [("2019-12", 1), ("2020-05", 1), ("2024-10", 1)],
        "folder": [("/photos", 2), ("/photos/x/y", 2)],
        "camera": [("Canon", 2)],
        "tag": [("dog", 2), ("cat", 1)],
        "counted": 4,
    }
    some = shown(store.filters.facets(IdSet.of([b, c, 999])))
    assert (some["folder"], some["tag"]) == ([("/photos/x/y", 2)], [("cat", 1), ("dog", 1)])
    assert (some["month"], some["counted"]) == ([("2019-12", 1)], 2)
    for folder, number in shown(store.filters.facets())["folder"]:
        assert len(store.filters.matching(parse_where({"folder": folder}))) == number
    assert store.filters.facets(IdSet.of([])).counted == 0


def test_words_find_texts_names_and_metadata(store: Store):
    ids = put(
        store,
        record(store, "a.jpg", texts=[TextPart("Two dogs run", "caption")]),
        record(store, "dog_beach.jpg"),
        record(store, "c.jpg"),
    )
    store.metadata.set([(ids[2], {"place": "Beach of Rome"})])
    store.words.refresh()
    assert store.words.due() == 0
    assert {id_ for id_, _ in store.words.search("dog", 10)} == set(ids[:2])
    assert store.words.search("dog beach", 10)[0][0] == ids[1]
    assert {id_ for id_, _ in store.words.search("beach", 10)} == set(ids[1:])
    assert store.words.search("beach", 10, IdSet.of(ids[:1])) == []
    assert store.words.holding("dog beach", ids) == {ids[1]}


def test_words_find_the_forms_that_they_have_in_a_texts_language(store: Store):
    said = ["Zwei Hunde in den Häusern am Strand", "Des chiens sur les plages", "Psi na plážích"]
    said += ["Two dogs run on the beaches", "海滩上的狗", "Der Strand und das Haus"]
    parts = [[TextPart(one, "caption")] for one in said]
    ids = put(store, *(record(store, f"{n}.jpg", texts=some) for n, some in enumerate(parts)))
    store.words.refresh()
    queries = {"Haus Hund": [0, 5], "plage": [1], "chien": [1], "pláž": [2], "plaz": [2], "狗": [4]}
    queries |= {"dog beach": [3], "HAUSES": [0, 5], "Strande": [0, 5], '"Strand am Haus"': []}
    for query, places in queries.items():
        found = {id_ for id_, _ in store.words.search(query, 10)}
        assert found == {ids[place] for place in places}, query
    assert store.words.holding("Haus Hund", ids) == {ids[0]}
    assert store.words.holding('"Hund in den Häusern"', ids) == {ids[0]}


def test_a_word_in_texts_of_several_languages_counts_once(store: Store):
    english, german = "the restaurant of the hotel", "das Restaurant und der Garten"
    texts = [[english, german], [english], [german]]
    parts = [[TextPart(one, "caption") for one in some] for some in texts]
    ids = put(store, *(record(store, f"{n}.jpg", texts=some) for n, some in enumerate(parts)))
    put(store, *(record(store, f"other{n}.jpg") for n in range(9)))
    store.words.refresh()
    scores = dict(store.words.search("restaurant", 20))
    assert set(scores) == set(ids)
    assert scores[ids[0]] <= min(scores[ids[1]], scores[ids[2]])  # as it is longer


def test_words_of_an_older_tokenizer_answer_while_they_are_indexed_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    if isinstance(store, MemoryStore):
        return  # it has no index of words
    said = [TextPart("zwei Hunde auf der Wiese", "caption")]
    with monkeypatch.context() as older:
        module = import_module("mmsearch.storage.lexical.tokens")
        older.setattr(module, "language_of", lambda *_: ENGLISH)
        for name in ("sql.documents", "milvus.words"):
            older.setattr(f"mmsearch.storage.{name}.TOKENIZER", TOKENIZER - 1)
        ids = [id_ for n in range(3) for id_ in put(store, record(store, f"{n}.jpg", texts=said))]
        store.words.refresh()

    def found(query: str) -> set[int]:
        return {id_ for id_, _ in store.words.search(query, 9)}

    assert (store.words.due(), found("Hunde"), found("Hunden")) == (3, {*ids}, set())
    assert store.words.refresh(at_most=2) == 2
    assert (store.words.due(), found("Hunde"), found("Hunden")) == (1, {*ids}, {*ids[:2]})
    assert store.words.refresh() == 1
    assert (store.words.due(), found("Hunde"), found("Hunden")) == (0, {*ids}, {*ids})
    assert store.words.refresh() == 0


# ---------------------------------------------------------------------- batches and moments


def test_a_batch_is_stored_whole_and_replaces_what_was_there(store: Store):
    space = store.spaces.add_imported("theirs", 4, ["image"])
    source = store.sources.imported()

    def batch(*directions: int) -> ItemBatch:
        blobs = [row.tobytes() for row in np.eye(4, dtype="<f2")[list(directions)]]
        rows = [list(range(len(blobs))), 0, None, None, None, blobs, None, None]
        names = [f"{number}.jpg" for number in range(len(blobs))]
        texts = [[0], [0], "caption", ["a dog"], None, None, None]
        sources, folders = [source] * len(names), ["/x"] * len(names)
        return ItemBatch(sources, folders, names, texts=texts, vectors={"image": rows})

    with store.loader.loading(2) as put_batch:
        assert put_batch(batch(0, 1), space) == (2, 0)
        assert put_batch(batch(2), space) == (0, 1)
    found = store.files.imported("/x/0.jpg")
    assert found is not None
    assert found.imported
    assert store.files.of(found.id) == ("", "/x/0.jpg", found)
    assert store.vectors.of(space, "image")[1].argmax(axis=1).tolist() == [2, 1]
    assert store.items.get([found.id])[found.id].texts[0].text == "a dog"
    assert store.vectors.missing_of_imported(space, "text", ["image"]) == 2
    assert [list(store.loader.next_numbers(2)) for _ in range(2)] == [[0, 1], [2, 3]]
    assert store.items.remove_imported("/x") == 2


def test_the_members_of_a_corpus_are_known_by_the_beginning_of_their_names(store: Store):
    names = [
        "a.tar::1.jpg",
        "a.tar::\udcff.jpg",
        "a.tar::\u00e9_%.jpg",
        "a.tar",
        "a.tar:x",
        "a_tar::1.jpg",
    ]
    store.put([replace(record(store, "x"), name=name) for name in names])
    source = store.sources.all()[0][0]
    assert set(store.files.known(source, "", "a.tar::")) == set(names[:3])
    assert set(store.files.known(source, "", "a.tar::\udcff")) == {names[1]}
    assert set(store.files.known(source, "", "a.tar::\u00e9_%.jpg")) == {names[2]}
    assert set(store.files.known(source, "")) == set(names)


def test_within_a_snapshot_nothing_changes_and_nothing_can_be_written(store: Store):
    put(store, record(store, "a.jpg"))
    with store.snapshot():
        assert store.in_snapshot
        with pytest.raises(RuntimeError):
            store.put([record(store, "b.jpg")])
        assert len(store) == 1
    assert not store.in_snapshot


def test_the_moment_differs_after_each_change(store: Store):
    before = store.moment()
    assert store.moment() == before
    put(store, record(store, "a.jpg"))
    after = store.moment()
    assert after != before
    store.settings.set("x", "1")
    assert store.moment() != after


# ---------------------------------------------------------------------- the engine on any store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    for name, colour in {"red": "red", "copy": "red", "green": "green", "blue": "blue"}.items():
        paint(photos / f"{name}.png", colour)
    (photos / "note.txt").write_text("a red note about the green sea")
    (photos / "broken.png").write_bytes(b"no picture")
    return photos


def opened(store: Store, folder: Path, encoder: ToyEncoder) -> OpenIndex:
    """An index of a folder, whatever store it has."""
    return indexed(store, folder, encoder)[0]


def indexed(store: Store, folder: Path, encoder: ToyEncoder) -> tuple[OpenIndex, Report]:
    """An index of a folder, and what the run counted."""
    place = folder.parent / "index"
    place.mkdir(exist_ok=True)
    index = OpenIndex(place_of(place), store, Runtime())
    index.encoders.serve_with([encoder])
    run = IndexRun(index, ReadOptions(), MediaOptions().resolve(store))
    run.run(add_scopes(store, [str(folder)]))
    assert run.report.warnings == []
    return index, run.report


def found(index: OpenIndex, query: str, **settings: Any) -> list[str]:
    (hits,) = Searcher(index).search([query], Settings(**settings))
    return [os.path.basename(hit.path) for hit in hits]


def test_a_folder_is_indexed_searched_tagged_and_compared(
    store: Store, folder: Path, toy: ToyEncoder
):
    index = opened(store, folder, toy)
    assert len(store) == 5
    assert [os.path.basename(one.path) for one in store.failures.all()] == ["broken.png"]
    assert set(found(index, "red", k=2, target="image")) == {"red.png", "copy.png"}
    assert found(index, "sea", k=1) == ["note.txt"]
    assert found(index, "green", where={"name": {"$glob": "b*"}}, target="image") == ["blue.png"]
    hits = Searcher(index).similar(str(folder / "red.png"), Settings(k=1))
    assert os.path.basename(hits[0].path) == "copy.png"
    counts = tag_items(index, ["red", "green"], min_confidence=0.0)
    assert set(counts) == {"red", "green"}
    (group,) = duplicate_groups(index, same=True)
    assert {os.path.basename(one.item.path) for one in group.copies} < {"red.png", "copy.png"}
    (folder / "blue.png").unlink()
    run = IndexRun(index, ReadOptions(), MediaOptions().resolve(store))
    run.run(add_scopes(store, [str(folder)]))
    assert (run.report.removed, run.report.unchanged) == (1, 4)


def test_a_store_with_an_engine_of_its_own_needs_no_files(folder: Path, toy: ToyEncoder):
    opened(MemoryStore(), folder, toy)
    assert [one.name for one in (folder.parent / "index").iterdir()] in ([], ["writer.lock"])


def test_both_stores_give_the_same_hits_with_the_same_scores(
    folder: Path, toy: ToyEncoder, tmp_path: Path
):
    answers = []
    for made in (Catalog(tmp_path / "catalog.db"), MemoryStore()):
        index = opened(made, folder, toy)
        searches = [("red", {}), ("green sea", {"target": "image"}), ("blue", {"spans": True})]
        answers.append(
            [
                [(hit.path, round(hit.score, 5), hit.span, hit.caption) for hit in hits]
                for query, more in searches
                for hits in Searcher(index).search([query], Settings(lexical=False, **more))
            ]
        )
        made.close()
    in_files, in_memory = answers  # one from moments of a sample, one from all scores
    assert in_files == [
        [(path, pytest.approx(score, abs=1e-5), *rest) for path, score, *rest in hits]
        for hits in in_memory
    ]


def test_an_index_is_evaluated_whatever_its_store(
    store: Store, folder: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
):
    index = opened(store, folder, toy)
    pairs = folder.parent / "pairs.tsv"
    pairs.write_text("query\tfile\ngreen\tphotos/green.png\n")
    with (
        mmsearch.Collection(folder.parent / "other", create=True, model="toy") as collection,
        monkeypatch.context() as patch,  # undone before the collection closes what is its own
    ):
        patch.setattr(collection, "index", index)
        figures = mmsearch.evaluate(collection, pairs)
    assert (figures.items, figures.missing) == (5, ())
    (direction,) = figures.directions
    assert [outcome.rank for outcome in direction.outcomes] == [1]
