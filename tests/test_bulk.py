"""Vectors that were made elsewhere: taken in, searched, replaced, refused."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COLOURS, ToyEncoder, paint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmsearch.collection import Collection
from mmsearch.errors import (
    InvalidMetadata,
    InvalidOption,
    MMSearchError,
    ModelUnavailable,
    UnsupportedModality,
)
from mmsearch.filters.values import number_in
from mmsearch.indexing.bulk.rows import Losses, metadata_columns
from mmsearch.indexing.bulk.sources import chunks_of, in_batches, unit_rows
from mmsearch.storage.records import split_path
from mmsearch.storage.sqlite.loader import Checkpoints

DIM = 8


def unit(rows: int, seed: int = 0, dim: int = DIM) -> Any:
    matrix = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def stored(library: Collection, facet: str = "image") -> Any:
    """The vectors of a facet in order of id."""
    (space,) = library.store.spaces.all()
    return library.store.vectors.of(space, facet)[1]


@pytest.fixture
def library(tmp_path: Path, toy: ToyEncoder) -> Collection:
    return Collection(tmp_path / "index", create=True)


# ---------------------------------------------------------------------- what comes in is found


def test_a_collection_is_opened_by_a_path_written_as_text(tmp_path: Path):
    with Collection(str(tmp_path / "index"), create=True) as library:
        library.add_vectors(unit(2))
        assert len(library) == 2


def test_an_imported_vector_is_its_own_nearest_neighbour(library: Collection):
    library.add_vectors(unit(50), [{"path": f"{n}.jpg"} for n in range(50)])
    hits = library.search_vectors(unit(50)[7:8], k=3)
    assert hits[0][0].path == "7.jpg"
    assert hits[0][0].modality == "image"


def test_rows_are_brought_to_unit_length(library: Collection):
    library.add_vectors(unit(3) * np.array([[1e-30], [1.0], [1e30]], np.float32))
    assert np.linalg.norm(stored(library), axis=1) == pytest.approx(1, abs=1e-3)
    assert np.abs(stored(library) - unit(3)).max() < 1e-3


def test_half_precision_rows_stay_as_they_are_to_the_bit(library: Collection):
    halves = unit(40).astype(np.float16)
    library.add_vectors(halves)
    assert np.array_equal(stored(library), halves.astype(np.float32))


def test_chunks_of_vectors_are_as_good_as_one_array(library: Collection):
    rows = ({"path": str(n)} for n in range(30))
    report = library.add_vectors((unit(30)[start : start + 7] for start in range(0, 30, 7)), rows)
    assert report.added == 30
    assert [item.path for item in library.items][29] == "29"
    assert np.abs(stored(library) - unit(30)).max() < 1e-3


def test_more_rows_than_fit_in_a_batch_are_all_stored_in_order(library: Collection, monkeypatch):
    monkeypatch.setattr("mmsearch.indexing.bulk.sources.ROWS_AT_ONCE", 10)
    monkeypatch.setattr("mmsearch.storage.sqlite.writer.MOST_PARAMETERS", 25)
    seen: list[tuple[int, int | None]] = []
    vectors = (unit(95)[start : start + 10] for start in range(0, 95, 10))
    library.add_vectors(
        vectors, {"path": [str(n) for n in range(95)]}, progress=lambda *told: seen.append(told)
    )
    assert [item.path for item in library.items] == [str(n) for n in range(95)]
    assert [done for done, _ in seen][:10] == [*range(10, 91, 10), 95]


def test_captions_are_found_by_their_words(library: Collection):
    library.add_vectors(unit(2), {"url": ["a", "b"], "caption": ["a tin drum", "a flute"]})
    assert library.store.words.search("drum", 5)[0][0] == 1
    assert next(iter(library.items)).texts[0].origin == "caption"


def test_other_columns_become_metadata_to_filter_by(library: Collection):
    rows = [{"path": f"{n}.jpg", "stars": n, "place": "Rome", "gone": None} for n in range(9)]
    library.add_vectors(unit(9), rows)
    hits = library.search_vectors(unit(1, 5), k=9, where={"stars": {"$gte": 7}, "place": "Rome"})
    assert sorted(hit.path for hit in hits[0]) == ["7.jpg", "8.jpg"]
    assert next(iter(library.items)).metadata["meta"] == {"stars": "0", "place": "Rome"}


def test_what_filters_know_of_every_item_is_told_by_columns_of_that_name(library: Collection):
    library.add_vectors(
        unit(1), [{"path": "a", "width": 640, "taken": "2020-03-01T10:00:00", "size": "large"}]
    )
    (item,) = library.items
    assert item.metadata["width"] == 640
    assert item.metadata["taken_at"] == "2020-03-01T10:00:00"
    assert item.metadata["meta"] == {"size": "large"}  # no number of bytes: the user's own


def test_the_facet_says_what_the_items_are(library: Collection):
    library.add_vectors(unit(2), {"path": ["a", "b"], "text": ["one", "two"]}, facet="text")
    assert {item.modality for item in library.items} == {"text"}
    assert library.search_vectors(unit(2)[1:], k=1)[0][0].caption == "two"


def test_vectors_of_captions_are_searched_beside_those_of_pictures(library: Collection):
    library.add_vectors(
        unit(4), {"path": list("abcd"), "caption": list("wxyz")}, text_vectors=unit(4, 1)
    )
    assert library.status()["vectors"] == {"image": 4, "text": 4}
    hit = library.search_vectors(unit(4, 1)[2:3], k=1, target="text")[0][0]
    assert (hit.path, hit.caption) == ("c", "y")


def test_items_without_a_name_are_numbered_and_never_replace_one_another(library: Collection):
    library.add_vectors(unit(3))
    library.add_vectors(unit(2, 1))
    assert [item.path for item in library.items] == ["0", "1", "2", "3", "4"]


def test_of_a_path_that_comes_twice_the_last_row_counts(library: Collection):
    report = library.add_vectors(unit(3), {"path": ["a", "b", "a"], "n": [1, 2, 3]})
    assert (report.added, len(library)) == (2, 2)
    assert library.search_vectors(unit(3)[2:], k=1)[0][0].path == "a"


# ---------------------------------------------------------------------- again, and by whom


def test_the_same_paths_again_are_updates_that_replace(library: Collection):
    rows = {"path": ["a", "b"], "caption": ["old", "same"], "n": [1, 2]}
    library.add_vectors(unit(2), rows, text_vectors=unit(2, 1))
    report = library.add_vectors(
        unit(2, 2), {"path": ["a", "c"], "caption": ["new", "c"], "m": [3, 4]}
    )
    assert (report.added, report.updated) == (1, 1)
    first, second, _ = library.items
    assert [part.text for part in first.texts] == ["new"]
    assert first.metadata["meta"] == {"m": "3"}
    assert second.metadata["meta"] == {"n": "2"}
    assert library.status()["vectors"] == {"image": 3, "text": 1}  # the old caption's went
    assert library.search_vectors(unit(2, 2)[:1], k=1)[0][0].path == "a"


def test_the_same_import_again_changes_nothing(library: Collection):
    rows = {"path": ["a", "b"], "caption": ["x", "y"], "n": [1, 2]}
    library.add_vectors(unit(2), rows, text_vectors=unit(2, 1))
    before = [(item.path, item.texts, item.metadata) for item in library.items]
    report = library.add_vectors(unit(2), rows)
    assert (report.added, report.updated) == (0, 2)
    assert [(item.path, item.texts, item.metadata) for item in library.items] == before
    assert library.status()["vectors"] == {"image": 2, "text": 2}


def test_pictures_first_and_texts_later_are_one_item(library: Collection):
    library.add_vectors(unit(2), {"path": ["a", "b"]})
    library.add_vectors(unit(2, 1), {"path": ["a", "b"]}, facet="text")
    assert library.status()["items"] == {"image": 2}
    assert library.status()["vectors"] == {"image": 2, "text": 2}


def test_vectors_of_texts_outlast_the_texts_that_come_after_them(library: Collection):
    library.add_vectors(unit(2), {"path": ["a", "b"]}, facet="text")
    library.add_vectors(unit(2, 1), {"path": ["a", "b"], "caption": ["x", "y"]})
    assert library.status()["vectors"] == {"image": 2, "text": 2}
    assert library.search_vectors(unit(2)[1:], k=1, target="text")[0][0].caption == "y"


def test_an_encoder_that_is_at_hand_answers_words(library: Collection, toy: ToyEncoder):
    colours = list(COLOURS)
    vectors = toy.encode("text", colours)
    report = library.add_vectors(vectors, {"path": colours}, model="toy")
    assert not report.warnings
    assert library.search("green", target="image", k=1)[0].path == "green"


def test_an_encoder_that_came_later_adopts_its_vectors(
    library: Collection, toy: ToyEncoder, monkeypatch
):
    from mmsearch.encoders.family import SingleModel
    from mmsearch.encoders.registry import REGISTRY

    monkeypatch.delitem(REGISTRY, "toy")
    colours = list(COLOURS)
    report = library.add_vectors(toy.encode("text", colours), {"path": colours}, model="toy")
    assert "no model is called 'toy'" in report.warnings[0]
    monkeypatch.setitem(REGISTRY, "toy", SingleModel("toy", lambda: toy))
    library.add_vectors(toy.encode("text", ["red"]), {"path": ["red"]}, model="toy")
    assert len(library.store.spaces.all()) == 1
    assert library.search("blue", target="image", k=1)[0].path == "blue"


def test_captions_without_vectors_are_encoded_by_the_next_run(
    library: Collection, toy: ToyEncoder, photos: Path
):
    library.add_vectors(
        toy.encode("text", ["red", "blue"]),
        {"path": ["r", "b"], "caption": ["red", "blue"]},
        model="toy",
    )
    assert library.status()["vectors"] == {"image": 2}
    report = library.add(photos)
    assert (report.filled, report.warnings) == (2, [])
    assert library.status()["vectors"] == {"image": 5, "text": 2}


def test_vectors_of_a_second_model_answer_once_it_has_everything(photos: Path, tmp_path: Path, toy):
    library = Collection(tmp_path / "index", create=True)
    library.add(photos)
    paths = [str(path) for path in sorted(photos.rglob("*.png"))]
    first = library.add_vectors(unit(2), {"path": paths[:2]}, model="second", root=photos)
    assert "'second' answers once it has everything" in first.warnings[0]
    assert library.status()["model"] == "toy"
    library.add_vectors(unit(1, 3), {"path": paths[2:]}, model="second", root=photos)
    assert library.status()["model"] == "second"
    assert len(library) == 3


def test_hubs_of_imported_vectors_are_as_those_of_encoded_ones(tmp_path: Path):
    from mmsearch import load_encoder
    from mmsearch.encoders.query_bank import shipped_bank

    mini = load_encoder("mini")
    bank = shipped_bank("mini", mini.fingerprint)
    if bank is None:
        pytest.skip("mini came without its bank")
    from mmsearch.vectors.hubness import hubs

    library = Collection(tmp_path / "index", create=True, model="mini")
    vectors = unit(5, dim=mini.dim)
    library.add_vectors(vectors, model="mini")
    space = library.store.spaces.all()[0]
    kept = library.store.vectors.of(space, "image")[1]
    found = library.store.hubs.of(space, "image", "text")
    assert found == pytest.approx(hubs(kept, bank.rows["text"]), abs=1e-5)
    library.close()


# ---------------------------------------------------------------------- files that are there


def test_a_file_below_the_root_is_found_unchanged_by_the_next_run(
    library: Collection, toy: ToyEncoder, photos: Path
):
    names = ["red.png", "green.png", "deep/blue.png", "gone.png"]
    vectors = toy.encode("text", ["red", "green", "blue", "white"])
    library.add_vectors(vectors, {"path": names}, model="toy", root=photos)
    encoded = toy.encoded["image"]
    report = library.add(photos)
    assert (report.unchanged, report.added, report.updated) == (3, 0, 0)
    assert toy.encoded["image"] == encoded
    assert str(photos / "deep" / "blue.png") in {item.path for item in library.items}
    assert "gone.png" in {item.path for item in library.items}


def test_a_file_that_has_changed_since_is_read_again(
    library: Collection, toy: ToyEncoder, photos: Path
):
    library.add_vectors(
        toy.encode("text", ["red"]), {"path": ["red.png"]}, model="toy", root=photos
    )
    paint(photos / "red.png", "blue", size=(50, 50))
    report = library.add(photos)
    assert (report.updated, report.added) == (1, 2)


# ---------------------------------------------------------------------- beside files


def test_a_run_of_indexing_leaves_what_was_imported_alone(library: Collection, photos: Path):
    library.add_vectors(unit(3), {"path": ["/a/b.jpg", "https://x.org/c.jpg", "d"]})
    for paths in (None, photos, None):
        report = library.add(paths)
        assert not report.removed
        assert not [warning for warning in report.warnings if "passed over" not in warning]
    assert [item.path for item in library.items] == ["/a/b.jpg", "https://x.org/c.jpg", "d"]
    assert library.status()["sources"] == [str(photos)]


def test_a_new_model_does_not_take_over_while_imported_items_lack_it(
    library: Collection, photos: Path
):
    library.add_vectors(unit(2), {"path": ["a", "b"]}, model="toy")
    with Collection(library.folder, model="second") as other:
        report = other.add(photos)
        assert "so the old model goes on answering" in "".join(report.warnings)
        assert other.status()["model"] == "toy"


def test_an_imported_path_or_url_can_be_removed(library: Collection):
    paths = ["https://x.org/1.jpg", "https://x.org/2.jpg", "/p/3.jpg", "4"]
    library.add_vectors(unit(4), {"path": paths})
    assert library.remove("https://x.org/1.jpg") == 1
    assert library.remove("https://x.org") == 1
    assert library.remove("/p") == 1
    assert [item.path for item in library.items] == ["4"]


def test_what_is_like_an_imported_item_is_told_by_its_path(library: Collection):
    vectors = unit(3)
    vectors[2] = vectors[0] + 0.1 * vectors[1]
    library.add_vectors(vectors, {"path": ["u://a", "u://b", "u://c"]})
    assert library.similar("u://a", k=1)[0].path == "u://c"


def test_words_are_looked_up_though_there_is_no_model_to_encode_them(library: Collection):
    library.add_vectors(unit(2), {"path": ["a", "b"], "caption": ["a drum", "a flute"]})
    assert [hit.path for hit in library.search("flute")] == ["b"]


def test_a_search_by_meaning_without_the_model_says_what_is_missing(library: Collection):
    library.add_vectors(unit(2), {"path": ["a", "b"], "caption": ["a drum", "a flute"]})
    with pytest.raises(UnsupportedModality, match="'vectors' cannot encode text"):
        library.search("flute", lexical=False)


def test_imported_items_are_no_copies_for_want_of_a_hash(library: Collection):
    library.add_vectors(unit(5), {"path": list("abcde")})
    assert library.duplicates(same=True) == []
    hits = library.search_vectors(unit(5)[:1], k=5, duplicates="collapse")
    assert len(hits[0]) == 5


@pytest.mark.parametrize("pattern", ["/abs/*", "/abs", "*.gif", "https://x.org/*"])
def test_imported_paths_are_matched_as_they_are(library: Collection, pattern: str):
    library.add_vectors(unit(3), {"path": ["/abs/a.gif", "b.jpg", "https://x.org/c.jpg"]})
    wanted = "https://x.org/c.jpg" if pattern.startswith("https") else "/abs/a.gif"
    found = library.listed(where={"path": {"$glob": pattern}})
    assert [item.path for item in found] == [wanted]


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("row", "why"), [(np.zeros(DIM), "is all zeros"), (np.full(DIM, np.nan), "holds NaN")]
)
def test_a_row_without_a_direction_is_named(library: Collection, row: Any, why: str):
    vectors = unit(9)
    vectors[4] = vectors[6] = row
    with pytest.raises(InvalidOption, match=rf"row 4 .*{why}.* like 1 more"):
        library.add_vectors(vectors)
    assert len(library) == 0


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_rows_that_float32_cannot_hold_are_brought_to_unit_length(library: Collection, factor: Any):
    library.add_vectors(unit(3).astype(np.float64) * factor)
    assert np.abs(stored(library) - unit(3)).max() < 1e-3


@pytest.mark.parametrize(
    "column", ["abc", b"abc", 5, None, {"a": 1}, {"a", "b", "c"}, np.array("abc")]
)
def test_a_column_that_is_no_list_is_refused(library: Collection, column: Any):
    with pytest.raises(InvalidMetadata, match="column 'path'"):
        library.add_vectors(unit(3), {"path": column})


def test_a_column_may_be_any_iterable(library: Collection):
    library.add_vectors(unit(3), {"path": iter("abc"), "stars": (n for n in range(3))})
    assert [item.path for item in library.items] == ["a", "b", "c"]
    assert [item.metadata["meta"] for item in library.items] == [{"stars": str(n)} for n in "012"]


def test_captions_take_the_place_of_those_in_the_metadata(library: Collection):
    rows = [{"path": path, "caption": "old"} for path in "abc"]
    library.add_vectors(unit(3), rows, captions=["a rose", ["red", "green"], None])
    found = {item.path: [text.text for text in item.texts] for item in library.items}
    assert found == {"a": ["a rose"], "b": ["red", "green"], "c": []}


@pytest.mark.parametrize("captions", ["abc", b"abc", 5, {"a": 1}])
def test_captions_are_a_list(library: Collection, captions: Any):
    with pytest.raises(InvalidOption, match="captions are a list"):
        library.add_vectors(unit(3), captions=captions)


@pytest.mark.parametrize("path", ["\ud800", "a\0b"])
def test_what_no_file_can_be_called_is_no_path(library: Collection, path: str):
    with pytest.raises(InvalidMetadata, match="is no path"):
        library.add_vectors(unit(1), [{"path": path}])


def test_an_array_in_a_cell_is_stored_as_a_list_is(library: Collection):
    rows = [{"tags": np.array(["a", "b"]), "caption": np.array(["red", "blue"]), "n": np.zeros(0)}]
    library.add_vectors(unit(1), rows)
    (item,) = library.items
    assert item.metadata["meta"] == {"tags": "a, b", "n": ""}
    assert [text.text for text in item.texts] == ["red", "blue"]


def test_what_is_not_stored_as_it_was_given_is_in_the_warnings(library: Collection):
    rows = [{"thumb": b"x", "note": "\ud800", "caption": "\ud800"}, {"thumb": bytearray(b"y")}]
    warnings = library.add_vectors(unit(2), rows).warnings
    assert any("'thumb': bytes are not stored (2 of them)" in one for one in warnings)
    for key in ("note", "caption"):
        assert any(f"{key!r}: damaged characters" in one for one in warnings)


@pytest.mark.parametrize("model", [5, b"toy", "\ud800"])
def test_a_model_is_named_by_a_text(library: Collection, model: Any):
    with pytest.raises(InvalidOption, match="given by its name"):
        library.add_vectors(unit(1), model=model)


class Odd:
    """Raises an error whatever is done with it."""

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("odd")

    __eq__ = __ne__ = __int__ = __float__ = __str__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


circle: list[Any] = []
circle.append(circle)

ODD: list[Any] = [
    *(np.array([1, 2]), np.zeros(0), np.array(5), np.zeros((2, 2)), np.float32(0.5)),
    *(np.datetime64("NaT"), np.ma.masked, np.void(b"ab"), b"raw", bytearray(b"x")),
    *("\ud800", "a\udcffb", "x\0y", object(), Odd(), circle, {1, 2}, {(1, 2): 3}, {b"k": 1}),
    *(10**5000, -(10**400), float("nan"), float("inf"), 1j, Decimal("sNaN"), Path("a"), ...),
    *(date.min, datetime.now(UTC), range(3), iter([1]), int, ValueError("x")),
]
odd_values = st.integers(0, len(ODD) - 1).map(lambda n: ODD[n])  # some have no repr
cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | odd_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
known_keys = st.sampled_from(
    ["path", "caption", "texts", "tags", "metadata", "vector_place", "modality", "taken", "width"]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.lists(
        st.dictionaries(known_keys | st.text(max_size=3), cells, max_size=3), min_size=2, max_size=2
    )
    | st.dictionaries(known_keys, st.lists(cells, min_size=2, max_size=2) | cells, max_size=3)
    | cells
)
def test_metadata_of_any_kind_are_stored_or_refused(library: Collection, metadata: Any):
    with suppress(MMSearchError):
        library.add_vectors(unit(2), metadata)
    assert len(list(library.items)) == len(library)


@pytest.mark.parametrize("place", ODD[:13], ids=lambda place: type(place).__name__)
def test_a_place_that_is_no_mapping_is_refused_or_stored(library: Collection, place: Any):
    with suppress(MMSearchError):
        library.add_vectors(unit(2), [{"vector_place": place}, {"vector_place": place}])
    assert len(list(library.items)) == len(library)


def test_rows_before_a_bad_part_stay(library: Collection):
    bad = unit(4)
    bad[1] = 0
    with pytest.raises(InvalidOption, match="row 11 "):
        library.add_vectors(iter([unit(10), bad]))
    assert len(library) == 10


def test_other_dimensions_than_the_models_are_refused_with_both(library: Collection):
    with pytest.raises(InvalidOption, match=r"have 9 dimensions, those of 'toy' 8"):
        library.add_vectors(unit(2, dim=9), model="toy")


def test_other_dimensions_than_those_stored_are_refused(library: Collection):
    library.add_vectors(unit(2))
    with pytest.raises(InvalidOption, match=r"have 9 dimensions, those of 'vectors' 8"):
        library.add_vectors(unit(2, dim=9))
    with pytest.raises(InvalidOption, match="row 5 of the vectors has 9 dimensions"):
        library.add_vectors(iter([unit(5), unit(1, dim=9)]))


def test_vectors_of_nobody_knows_what_do_not_mix_with_a_models(library: Collection, photos: Path):
    library.add(photos)
    with pytest.raises(InvalidOption, match="--model toy"):
        library.add_vectors(unit(2))
    with pytest.raises(InvalidOption, match="-i NAME"):
        library.add_vectors(unit(2), model="unheard-of")


def test_lengths_that_disagree_are_told_before_anything_is_stored(library: Collection):
    with pytest.raises(InvalidOption, match="3 vectors, and 2 rows of metadata"):
        library.add_vectors(unit(3), [{"path": "a"}, {"path": "b"}])
    with pytest.raises(InvalidOption, match="3 vectors, and 2 rows of captions"):
        library.add_vectors(unit(3), captions=["a", "b"])
    assert len(library) == 0


@pytest.mark.parametrize("vectors", [[1.0, 2.0], np.zeros(3), np.array([["a"]]), "words"])
def test_what_is_no_array_of_rows_is_refused(library: Collection, vectors: Any):
    with pytest.raises(InvalidOption, match="vectors are numbers in an array"):
        library.add_vectors(vectors)


def test_an_interruption_keeps_what_was_stored(library: Collection):
    def vectors():
        yield unit(10)
        yield unit(10, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.add_vectors(vectors(), ({"path": str(n)} for n in range(99)))
    assert library.report
    assert library.report.interrupted
    assert library.report.added == len(library) == 20
    again = library.add_vectors(unit(30), ({"path": str(n)} for n in range(30)))
    assert (again.added, again.updated) == (10, 20)


def test_what_needs_the_model_says_that_it_is_not_here(library: Collection):
    library.add_vectors(unit(3), {"path": list("abc")})
    with pytest.raises(ModelUnavailable, match="imported without their model"):
        _ = library.encoder


# ---------------------------------------------------------------------- laws


@given(st.text())
def test_a_path_is_split_so_that_joining_gives_it_back(path: str):
    import os

    assert os.path.join("", *split_path(path)) == path


@given(
    arrays.arrays(
        np.float32, (5, 4), elements=st.floats(-(2.0**120), 2.0**120, width=32).filter(bool)
    )
)
def test_unit_rows_point_where_the_rows_pointed(rows: Any):
    found = unit_rows(rows, 4).astype(np.float64)
    wide = rows.astype(np.float64)
    wide /= np.abs(wide).max(axis=1, keepdims=True)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    assert np.abs(found - wide).max() < 2e-3
    assert np.array_equal(unit_rows(unit_rows(rows, 4), 4), unit_rows(rows, 4))


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), max_size=8))
def test_metadata_are_kept_as_a_metadata_file_would_have_them(values: list[Any]):
    items, keys, texts, numbers = metadata_columns({"k": dict(enumerate(values))}, Losses())
    assert items == [item for item, value in enumerate(values) if value is not None]
    assert set(keys) <= {"k"}
    assert numbers == [number_in(text) for text in texts]


@given(
    st.lists(st.fixed_dictionaries({}, optional={"a": st.integers(), "b": st.text()})),
    st.lists(st.integers(1, 5)),
)
def test_rows_of_metadata_come_in_whatever_portions_are_asked_for(rows: Any, portions: Any):
    wanted: list[Any] = []
    for size in portions:
        start = sum(map(len, wanted))
        if start + size <= len(rows):
            wanted.append(rows[start : start + size])
    taken = chunks_of([unit(len(some)) for some in wanted], in_batches(chain.from_iterable(wanted)))
    for chunk, some in zip(taken, wanted, strict=True):
        assert len(chunk.rows) == len(some)
        for key in "ab":
            values = chunk.rows.columns.get(key, [None] * len(some))
            assert values == [row.get(key) for row in some]


def test_what_is_removed_after_an_import_takes_all_that_belongs_to_it_along(library: Collection):
    library.add_vectors(unit(4), [{"path": f"{n}.jpg", "caption": "x", "a": 1} for n in range(4)])
    library.remove("2.jpg")
    with library.store.database.read() as connection:
        ask = connection.exec_driver_sql
        assert ask("PRAGMA foreign_key_check").all() == []
        for table in ("texts", "metadata", "vectors"):
            assert ask(f"SELECT count(*) FROM {table}").scalar_one() == 3


def test_indexes_that_a_killed_import_has_left_out_are_made_by_the_next_run(
    toy, photos, tmp_path, monkeypatch
):
    from mmsearch.storage.sqlite import loader

    monkeypatch.setattr(loader, "MANY_ROWS", 2)
    rows = np.eye(8, dtype=np.float32)[:4]
    said = [{"path": f"/x/{n}.jpg", "colour": "red"} for n in range(4)]

    def names(library) -> set[str]:
        with library.store.database.read() as connection:
            found = connection.exec_driver_sql("SELECT name FROM sqlite_master")
            return {row[0] for row in found}

    wanted = {"metadata_by_value", "tags_by_tag"}
    during = []
    with Collection(tmp_path / "idx", model="toy", create=True) as library:
        library.add_vectors(
            rows, said, model="toy", progress=lambda *_: during.append(wanted & names(library))
        )
        assert during[0] == set()
        assert wanted <= names(library)
        with library.store.database.write() as connection:
            connection.exec_driver_sql("DROP INDEX metadata_by_value")
        library.add(photos)
        assert wanted <= names(library)


def test_the_log_of_an_import_does_not_grow_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("mmsearch.storage.sqlite.loader.MOST_PAGES", 64)
    committed = Checkpoints.committed

    def on_a_fast_disk(self):
        if self._moving is not None:
            self._moving.result()
        committed(self)

    monkeypatch.setattr(Checkpoints, "committed", on_a_fast_disk)
    rows = np.random.default_rng(0).standard_normal((10_000, 256)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    catalog, log = (tmp_path / "idx" / name for name in ("catalog.db", "catalog.db-wal"))
    sizes = []
    with Collection(tmp_path / "idx", create=True) as library:
        library.add_vectors(
            np.array_split(rows, 40),
            {"path": [f"{row}.jpg" for row in range(len(rows))]},
            progress=lambda *_: sizes.append(log.stat().st_size),
        )
    assert max(sizes[:40]) < catalog.stat().st_size / 2


def test_a_log_that_cannot_be_moved_meanwhile_stops_no_import(tmp_path, monkeypatch):
    def damaged(path):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("mmsearch.storage.sqlite.loader.driver_of", damaged)
    with Collection(tmp_path / "idx", create=True) as library:
        library.add_vectors(np.eye(8, dtype=np.float32))
        assert len(library) == 8


def test_a_search_that_goes_on_during_an_import_stops_neither(tmp_path, monkeypatch):
    monkeypatch.setattr("mmsearch.storage.sqlite.loader.MOST_PAGES", 4)
    rows = np.eye(200, dtype=np.float32)
    with Collection(tmp_path / "idx", create=True) as library:
        library.add_vectors(rows[:10])
        with Collection(tmp_path / "idx") as reader, reader.store.snapshot():
            assert len(reader) == 10
            library.add_vectors(np.array_split(rows[10:], 10))
            assert len(reader) == 10
        assert len(library) == 200
