"""Queries of several parts, with weights."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import paint, tone
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import mmsearch
from mmsearch import Query
from mmsearch.errors import (
    InvalidOption,
    InvalidQuery,
    PathNotFound,
    TooLarge,
    UnreadableFile,
    UnsupportedModality,
)
from mmsearch.search.fusion import rrf
from mmsearch.search.planning import parts_of
from mmsearch.search.query_vectors import checked_vectors, unit_sum
from mmsearch.types import Part


@pytest.fixture
def library(toy, tmp_path: Path):
    folder = tmp_path / "photos"
    for name, colour in {"a": "red", "b": "green", "c": "blue", "d": "white"}.items():
        paint(folder / f"{name}.png", colour)
    with mmsearch.index(folder, tmp_path / "idx") as made:
        yield made


def found(library, query, **options):
    return [(hit.id, hit.score) for hit in library.search(query, **options)]


def names(library, query, **options):
    return [Path(hit.path).stem for hit in library.search(query, **options)]


@pytest.mark.parametrize(
    ("written", "weight", "content"),
    [
        ("2:golden retriever", 2, "golden retriever"),
        ("-0.5:fruit", -0.5, "fruit"),
        ("+3:red", 3, "red"),
        ("a plain one", 1, "a plain one"),
        ("at 10:30", 1, "at 10:30"),
        ("2:", 1, "2:"),
        ("1:3:10 to Yuma", 1, "3:10 to Yuma"),
        ("C:/photos/dog.jpg", 1, "C:/photos/dog.jpg"),
    ],
)
def test_a_weight_stands_before_a_part(written, weight, content):
    assert Part.parse("text", written) == Part("text", content, weight)


def test_parts_are_added_and_taken_away():
    query = Query.text("dog", 2) + Query.image("pool.jpg") - Query.text("fruit")
    assert query.parts == (
        Part("text", "dog", 2),
        Part("image", "pool.jpg", 1),
        Part("text", "fruit", -1),
    )


def test_a_mixed_query_is_the_sum_of_its_parts_of_unit_length(library):
    one, other = (library.encoder.encode("text", [word])[0] for word in ("red", "blue"))
    wanted = 2 * one + other
    wanted /= np.linalg.norm(wanted)
    hits = library.search(Query.text("red", 2) + Query.text("blue"), k=4, target="image")
    space = library.index.serving()[0][0]
    ids, rows, _ = library.store.vectors.of(space, "image")
    scores = dict(zip(ids.tolist(), (rows @ wanted).tolist(), strict=True))
    assert {hit.id: pytest.approx(hit.score, abs=1e-5) for hit in hits} == scores


@pytest.mark.parametrize("combine", ["early", "late"])
def test_the_order_of_the_parts_makes_no_difference(library, combine):
    parts = [Query.text("red", 2), Query.text("blue"), -Query.text("white", 0.3)]
    one = parts[0] + parts[1] + parts[2]
    other = parts[2] + parts[0] + parts[1]
    assert found(library, one, combine=combine) == found(library, other, combine=combine)


@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("combine", ["early", "late"])
def test_hits_are_the_same_to_the_last_signal_in_whatever_order_parts_come(library, combine, spans):
    parts = [
        Query.text("red"),
        Query.text("blue"),
        Query.image(Image.new("RGB", (20, 20), "red")),
        Query.image(Image.new("RGB", (20, 20), "green")),
        -Query.text("white", 0.3),
    ]
    one = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    other = parts[4] + parts[3] + parts[2] + parts[1] + parts[0]
    options = {"combine": combine, "spans": spans, "target": ["image", "text"], "k": 4}
    assert library.search(one, **options) == library.search(other, **options)


@pytest.mark.parametrize("combine", ["early", "late"])
def test_two_equal_parts_are_one_of_double_weight(library, tmp_path, combine):
    picture = paint(tmp_path / "q.png", "red")
    twice = Query.image(picture) + Query.text("blue") + Query.image(str(picture))
    double = Query.image(picture, 2) + Query.text("blue")
    assert library.search(twice, combine=combine) == library.search(double, combine=combine)
    red = Query.text("red")
    assert library.search(red + red, combine=combine) == library.search("red")


@pytest.mark.parametrize("combine", ["early", "late"])
def test_parts_of_which_nothing_is_left_are_as_if_not_there(library, combine):
    query = Query.text("red", 0.1) + Query.text("red", 0.2) - Query.text("red", 0.3)
    query += Query.text("blue")
    assert library.search(query, combine=combine) == library.search("blue")


@pytest.mark.parametrize("combine", ["early", "late"])
def test_a_part_of_weight_0_is_as_if_not_there(library, combine):
    with_it = Query.text("red") + Query.image("/nowhere.png", 0)
    assert found(library, with_it, combine=combine) == found(library, "red")


@pytest.mark.parametrize("nothing", [0, 0.0, -0.0])
@pytest.mark.parametrize("content", ["", "   ", None, 5])
def test_what_a_part_of_weight_0_holds_is_not_looked_at(library, content, nothing):
    query = Query.text("red") + Query.text(content, nothing)
    assert library.search(query) == library.search("red")


def test_one_part_is_the_plain_query_in_several_facets_too(library):
    options = {"combine": "late", "target": ["image", "text"]}
    assert library.search(Query.text("red", 7), **options) == library.search("red", **options)


@pytest.mark.parametrize("weight", [0.2, 1, 7])
@pytest.mark.parametrize("combine", ["early", "late"])
def test_one_part_is_the_plain_query_whatever_its_weight(library, combine, weight):
    assert found(library, Query.text("red", weight), combine=combine) == found(library, "red")


def test_what_is_not_wanted_is_pushed_away(library):
    assert names(library, "white")[0] == "d"
    assert names(library, Query.text("white") - Query.text("red", 0.9))[-1] == "a"


def test_words_and_a_picture_go_together(library, tmp_path):
    picture = paint(tmp_path / "q.png", "red")
    query = Query.text("blue") + Query.image(picture)
    assert names(library, query)[-1] == "b"
    assert set(names(library, query, k=3, combine="late")) == {"a", "c", "d"}


def test_a_picture_may_be_the_bytes_of_a_file(library, tmp_path):
    file = paint(tmp_path / "green.png", "green")
    words = Query.text("red", 0.5)
    for combine in ("early", "late"):
        by_path = found(library, Query.image(file) + words, combine=combine)
        by_bytes = found(library, Query.image(file.read_bytes()) + words, combine=combine)
        assert by_bytes == by_path
    same = Query.image(file.read_bytes(), 2) - Query.image(file.read_bytes()) + words
    assert found(library, same) == found(library, Query.image(file) + words)


def test_a_sound_may_be_the_bytes_of_a_file(mixed, tmp_path):
    file = tone(tmp_path / "query.wav", "low")
    assert found(mixed, Query.audio(file.read_bytes())) == found(mixed, Query.audio(file))


@pytest.mark.parametrize(
    ("query", "kind"), [(Query.image(b"no picture"), "picture"), (Query.audio(b""), "sound")]
)
def test_bytes_of_no_use_are_refused(mixed, query, kind):
    with pytest.raises(UnreadableFile, match=f"^the {kind} cannot be searched with: "):
        mixed.search(query)


def test_a_picture_of_too_many_pixels_is_refused_as_too_large(library):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\2\0\0\0"
    with pytest.raises(TooLarge, match="too large: over 400 megapixels"):
        library.search(Query.image(header + zlib.crc32(header[12:]).to_bytes(4, "big")))


def test_late_parts_are_ranked_on_their_own_and_fused_by_weight(library):
    how = {"combine": "late", "target": "image"}
    hits = library.search(Query.text("red", 2) + Query.text("blue"), k=4, **how)
    by_name = {Path(hit.path).stem: hit for hit in hits}
    places = {name: hit.signals for name, hit in by_name.items()}
    for name, hit in by_name.items():
        first, second = places[name]["image"].rank, places[name]["image 2"].rank
        assert hit.score == pytest.approx(2 / (60 + first) + 1 / (60 + second))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), None, "2", 1j, 10**400])
def test_a_weight_that_is_no_number_is_refused(library, weight):
    with pytest.raises(InvalidQuery, match="weight"):
        library.search(Query.text("red", weight))


@pytest.mark.parametrize("weight", [True, np.float32(1), np.int64(1)])
def test_a_weight_may_be_any_kind_of_number(library, weight):
    query = Query.text("red", weight) + Query.text("blue")
    assert library.search(query) == library.search(Query.text("red") + Query.text("blue"))


@pytest.mark.parametrize("combine", ["early", "late"])
def test_parts_that_cancel_each_other_out_are_refused(library, combine):
    with pytest.raises(InvalidQuery, match="cancel"):
        library.search(Query.text("red") - Query.text("red"), combine=combine)


@pytest.mark.parametrize("weight", [1e308, 1e-9, 1e-300, 5e-324])
@pytest.mark.parametrize("combine", ["early", "late"])
def test_only_how_weights_compare_makes_a_difference(library, weight, combine):
    scaled = Query.text("red", weight) + Query.text("blue", weight)
    plain = Query.text("red") + Query.text("blue")
    hits = library.search(scaled, combine=combine)
    assert [hit.id for hit in hits] == [hit.id for hit in library.search(plain, combine=combine)]
    assert all(np.isfinite(hit.score) for hit in hits)
    if combine == "early":
        assert hits == library.search(plain)


def test_equal_parts_of_the_largest_weights_have_a_finite_sum():
    query = Query.text("red", 1.7e308) + Query.text("red", 1.7e308) + Query.text("blue", 1.7e308)
    assert [part.weight for part in parts_of(query)] == [2, 1]


def test_late_scores_are_not_cut_off_at_1(library):
    how = {"combine": "late", "target": "image"}
    hits = library.search(Query.text("red", 300) + Query.text("blue", 100), k=4, **how)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 3


@pytest.mark.parametrize("modality", ["video", "", None, "Text"])
def test_a_part_of_no_known_modality_is_refused(library, modality):
    with pytest.raises(InvalidQuery, match="image, text, audio"):
        library.search(Query((Part(modality, "a.mp4"),)))


# ---------------------------------------------------------------------- two models


@pytest.fixture
def mixed(toy, photos, tmp_path: Path):
    (photos / "red.txt").write_text("red high")
    tone(photos / "high.wav", "high")
    with mmsearch.index(photos, tmp_path / "mixed", model=["toy", "ear"]) as made:
        yield made


def test_parts_that_no_one_model_takes_are_refused_with_what_to_try(mixed, photos):
    query = Query.image(photos / "red.png") + Query.audio(photos / "high.wav")
    with pytest.raises(UnsupportedModality, match=r"high\.wav.*no one model.*--combine late"):
        mixed.search(query, target="text")
    assert mixed.search(query, target="text", combine="late")


def test_a_part_that_could_be_led_over_on_its_own_is_refused_among_others(mixed, photos):
    query = Query.image(photos / "red.png") + Query.audio(photos / "high.wav") + Query.text("red")
    with pytest.raises(UnsupportedModality, match=r"on its own only.*--combine late"):
        mixed.search(query, target="image")
    assert mixed.search(query, target="image", combine="late")


@pytest.mark.parametrize("other", ["text", None, 5])
def test_only_queries_are_added_to_queries(other):
    with pytest.raises(TypeError):
        Query.text("red") + other
    with pytest.raises(TypeError):
        Query.text("red") - other


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize("combine", ["early", "late"])
def test_a_target_may_be_an_iterator(library, combine):
    for search in (library.search_many, library.rank_many):
        found = search(["red", "blue"], target=iter(["image"]), combine=combine)
        assert found == search(["red", "blue"], target=["image"], combine=combine)


def test_a_ranking_has_at_most_k_items_also_with_spans(library):
    ranked = library.rank_many(["red", "blue"], k=2, spans=True)
    assert ranked == library.rank_many(["red", "blue"], k=2)
    hits = library.search_many(["red", "blue"], k=2)
    assert [[id_ for id_, _ in ranking] for ranking in ranked] == [
        [h.id for h in hs] for hs in hits
    ]


@pytest.mark.parametrize("k", [0, -1, "2", None, 1.5, 2**70], ids=str)
def test_a_number_of_hits_is_a_whole_number(library, k):
    file = next(iter(library.items)).path
    with pytest.raises(InvalidQuery, match="k is a whole number, at least 1, not"):
        library.search("red", k=k)
    with pytest.raises(InvalidOption, match="k is a whole number, at least 1, not"):
        library.describe(file, k=k)


@pytest.mark.parametrize("limit", [-1, "3", 1.5], ids=str)
def test_a_limit_is_a_whole_number(library, limit):
    with pytest.raises(InvalidOption, match="limit is a whole number, at least 0, not"):
        library.listed(limit=limit)


@pytest.mark.parametrize("share", ["x", 10**400, [], np.nan, -0.1], ids=range(5))
def test_a_threshold_or_confidence_is_a_share(library, share):
    with pytest.raises(InvalidOption, match="a number from 0 to 1"):
        library.duplicates(threshold=share)
    with pytest.raises(InvalidOption, match="min_confidence is a number from 0 to 1"):
        library.tag(["red"], min_confidence=share)


def test_one_label_may_be_given_as_a_text(library):
    file = next(iter(library.items)).path
    alone = library.describe(file, labels="red")
    assert [label for label, _ in alone.labels] == ["red"]
    assert alone == library.describe(file, labels=iter(["red"]))


@pytest.mark.parametrize("labels", [[None], 5, [b"red"]])
def test_labels_are_texts(library, labels):
    file = next(iter(library.items)).path
    for call in (library.tag, library.untag, lambda given: library.describe(file, labels=given)):
        with pytest.raises(InvalidOption, match="a label is text"):
            call(labels)


@pytest.mark.parametrize("queries", ["red", b"red", 5, Query.text("red")])
def test_several_queries_are_a_list(library, queries):
    with pytest.raises(InvalidQuery, match="a list of queries"):
        library.search_many(queries)


def test_rankings_that_all_weigh_nothing_are_refused(library):
    nothing = {"image": 0, "text": 0, "words": 0}
    with pytest.raises(InvalidOption, match="all have weight 0"):
        library.search("red", weights=nothing, target=["image", "text"])
    assert library.search("red", weights=nothing, target="image", lexical=False)
    assert library.search("red", weights={"words": 0}, target=["image", "text"])


def test_a_path_may_be_bytes(library):
    path = next(iter(library.items)).path
    assert library.similar(os.fsencode(path)) == library.similar(path)
    assert library.describe(os.fsencode(path)) == library.describe(path)


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_a_path_that_no_file_can_have_is_not_found(library, path):
    for call in (library.similar, library.describe, library.remove):
        with pytest.raises(PathNotFound):
            call(path)


def test_one_path_is_not_taken_for_a_list_of_its_letters(library, tmp_path):
    library.ask_for(str(tmp_path))
    assert str(tmp_path) in library.asked_folders()
    assert "/" not in library.asked_folders()


# ---------------------------------------------------------------------- vectors


@pytest.mark.parametrize(
    "wrong",
    [np.zeros(8), np.zeros((2, 7)), np.zeros((1, 2, 8)), [["a"] * 8], [[1], [1, 2]], None, 5],
)
def test_query_vectors_of_another_shape_are_refused(wrong):
    with pytest.raises(InvalidQuery):
        checked_vectors(wrong, 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_query_vectors_that_are_not_finite_are_refused(bad):
    with pytest.raises(InvalidQuery, match="infinity"):
        checked_vectors([[0.0, bad]], 2)


@pytest.mark.parametrize("factor", [9, 1e-3, 1e300, 1e-300])
def test_query_vectors_are_brought_to_unit_length(factor):
    found = checked_vectors(np.array([[0.6, 0.8], [-1, 0]]) * factor, 2)
    assert np.allclose(found, [[0.6, 0.8], [-1, 0]], atol=1e-7)


@given(arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32, allow_subnormal=False)))
def test_unit_query_vectors_stay_as_they_are_to_the_bit(rows):
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if lengths.all():
        unit = (rows / lengths).astype(np.float32)
        assert np.array_equal(checked_vectors(unit, 4), unit)


def test_query_vectors_without_a_direction_are_refused():
    with pytest.raises(InvalidQuery, match="row 1 of the query vectors is all zeros"):
        checked_vectors([[1, 0], [0, 0]], 2)


@pytest.mark.parametrize("kind", [complex, bool, str])
def test_query_vectors_are_real_numbers(kind):
    with pytest.raises(InvalidQuery, match="real numbers"):
        checked_vectors(np.ones((1, 2), kind), 2)


def test_query_vectors_may_be_lists_and_none_at_all():
    assert checked_vectors([[0.6, 0.8]], 2).dtype == np.float32
    assert checked_vectors([], 2).shape == (0, 2)


rows = arrays(np.float32, (4, 6), elements=st.floats(-1, 1, width=32))


@given(
    vectors=rows,
    weights=st.lists(st.floats(0.1, 3), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_adding_up_does_not_care_about_the_order(vectors, weights, order):
    shuffled = list(order)
    try:
        one = unit_sum(vectors, weights)
    except InvalidQuery:
        return
    other = unit_sum(vectors[shuffled], [weights[i] for i in shuffled])
    assert one.tolist() == other.tolist()


ranking = st.lists(st.integers(0, 9), unique=True, max_size=10).map(
    lambda ids: [(item_id, 0.0) for item_id in ids]
)


@given(rankings=st.lists(st.tuples(ranking, st.floats(-2, 2)), max_size=5), seed=st.randoms())
def test_weighted_fusion_does_not_care_about_the_order(rankings, seed):
    shuffled = rankings.copy()
    seed.shuffle(shuffled)
    fused = [
        rrf([one for one, _ in some], [weight for _, weight in some])
        for some in (rankings, shuffled)
    ]
    assert fused[0] == fused[1]


@given(
    vectors=rows,
    weights=st.lists(st.integers(-5, 5).map(float), min_size=4, max_size=4),
    power=st.integers(-900, 900),
)
def test_a_common_factor_makes_no_difference(vectors, weights, power):
    try:
        one = unit_sum(vectors, weights)
    except InvalidQuery:
        return
    assert unit_sum(vectors, [weight * 2.0**power for weight in weights]).tolist() == one.tolist()


def test_fusion_takes_away_what_a_negative_ranking_holds():
    fused = rrf([[(1, 0), (2, 0)], [(2, 0), (3, 0)]], [1, -0.5])
    assert fused == [(1, 1 / 61), (2, 1 / 62 - 0.5 / 61)]
