from __future__ import annotations

import json
import random
from math import inf

import ir_measures
import numpy as np
import pytest
from conftest import SecondToy, ToyEncoder, paint, tone
from ir_measures import AP, RR, Qrel, Rprec, ScoredDoc, Success, nDCG
from PIL import Image

import mmsearch
from mmsearch.errors import InvalidOption, InvalidQuery, MissingExtra, PathNotFound
from mmsearch.evaluation import compare, evaluate, parse_settings, recall_curve
from mmsearch.evaluation.pairs import Pair
from mmsearch.evaluation.report import as_dict, as_table, as_tsv, check_plot, notes, plot
from mmsearch.evaluation.results import Evaluation, Outcome, direction_of
from mmsearch.types import Query

MEANS = {"Recall@1": Success @ 1, "Recall@5": Success @ 5, "Recall@10": Success @ 10}
MEANS |= {"MRR": RR, "nDCG@10": nDCG @ 10, "R-precision": Rprec}


def pairs_file(folder, *rows, name="pairs.tsv"):
    path = folder / name
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def outcome(number, rank, *paths, ndcg=0.0):
    found = float(rank == 1)
    paths = paths or (f"{number}.jpg",)
    return Outcome(("forward", number), f"q{number}", paths, rank, ndcg, found, found)


def evaluation(ranks, depth=1000):
    """An evaluation whose queries stand alone and were found at these ranks."""
    outcomes = [outcome(number, rank) for number, rank in enumerate(ranks)]
    return Evaluation((direction_of("text→image", "forward", outcomes),), "i", {}, depth, 1000)


@pytest.fixture
def library(toy, photos):
    with mmsearch.index(photos) as found:
        yield found


# What is measured


def test_a_query_is_measured_by_the_rank_of_its_file(library, photos):
    rows = [("red", "red.png"), ("green", "red.png")]
    found = evaluate(library, pairs_file(photos, *rows), settings={"target": "image"})
    direction = found["text→image"]
    assert direction.outcomes[0].rank == 1
    assert direction.outcomes[1].rank in (2, 3)
    assert direction.measures["Recall@1"].value == 0.5
    assert direction.measures["Recall@5"].value == 1.0
    assert (found.items, found.missing) == (3, ())


@pytest.mark.parametrize("right", [1, 4])
def test_measures_agree_with_ir_measures_on_the_same_searches(toy, tmp_path, right):
    chance = random.Random(5)
    for number in range(30):
        shade = tuple(chance.randrange(256) for _ in range(3))
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), shade).save(tmp_path / "photos" / f"{number}.png")
    asked = [" ".join(chance.choices(["red", "green", "blue", "white"], k=3)) for _ in range(40)]
    pairs = [
        Pair(
            Query.text(words),
            {f"{n}.png": chance.choice([1, 2, 5]) for n in chance.sample(range(30), right)},
        )
        for words in asked
    ]
    with mmsearch.index(tmp_path / "photos") as library:
        found = evaluate(library, pairs, settings={"target": "image"})
        hits = library.search_many(asked, k=30, target="image")
    qrels = [
        Qrel(str(q), name, int(gain))
        for q, pair in enumerate(pairs)
        for name, gain in pair.relevant.items()
    ]
    run = [
        ScoredDoc(str(q), hit.path.rpartition("/")[2], -float(hit.rank))
        for q, some in enumerate(hits)
        for hit in some
    ]
    wanted = MEANS | {"mAP@R": AP @ right}
    expected = ir_measures.calc_aggregate(list(wanted.values()), qrels, run)
    measures = found["text→image"].measures
    assert measures.keys() == {*wanted, "median rank"}
    for name, measure in wanted.items():
        assert measures[name].value == pytest.approx(expected[measure], abs=1e-9), name


def test_what_lies_deeper_than_the_depth_counts_as_not_found(library, photos):
    pairs = pairs_file(photos, ("red", "red.png"), ("red ", "green.png"))
    found = evaluate(library, pairs, depth=1, settings={"target": "image"})
    assert found["text→image"].outcomes[0].rank == 1  # one query, two right files
    missed = evaluate(library, [Pair(Query.text("red"), {"green.png": 1})], depth=1)
    assert missed["text→image"].outcomes[0].rank == inf
    assert missed["text→image"].measures["MRR"].value == 0.0
    assert missed["text→image"].measures["mAP@R"].value == 0.0
    assert missed["text→image"].measures["median rank"].value == inf


def test_a_file_without_gain_is_not_right(library):
    found = evaluate(library, [Pair(Query.text("red"), {"red.png": 0, "green.png": 1})])
    assert found["text→image"].outcomes[0].rank > 1


def test_queries_that_share_a_file_are_one_group():
    shared = [outcome(number, 1, f"{number // 5}.jpg") for number in range(20)]
    assert direction_of("text→image", "forward", shared).groups == 4


def test_the_recall_curve_is_recall_at_every_cutoff():
    direction = evaluation([1, 3, 3, inf]).directions[0]
    assert recall_curve(direction, 4).tolist() == [0.25, 0.25, 0.75, 0.75]


def test_progress_ends_at_the_number_of_queries(library, monkeypatch):
    monkeypatch.setattr("mmsearch.evaluation.run.BATCH", 2)
    told = []
    pairs = [Pair(Query.text(f"red {n}"), {"red.png": 1}) for n in range(5)]
    evaluate(library, pairs, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]


# Which files are meant


@pytest.mark.parametrize(
    "way", ["absolute", "beside the pairs", "below a source", "bare", "link", "backslashes"]
)
def test_a_file_is_found_however_it_is_named(library, photos, tmp_path, way):
    folder, name = tmp_path, "deep/blue.png"
    if way == "absolute":
        name = str(photos / "deep" / "blue.png")
    elif way == "beside the pairs":
        folder, name = photos / "deep", "blue.png"
    elif way == "bare":
        name = "blue.png"
    elif way == "backslashes":
        name = "deep\\blue.png"
    elif way == "link":
        folder = tmp_path / "linked"
        folder.symlink_to(photos)
    found = evaluate(library, pairs_file(folder, ("blue", name)))
    assert found["text→image"].outcomes[0].paths == (str(photos / "deep" / "blue.png"),)


@pytest.mark.parametrize("path", ["u/é 5%.jpg", "https://example.org/a?b=1&c/photo.jpg"])
def test_an_imported_item_is_found_by_the_path_that_it_was_imported_with(library, tmp_path, path):
    library.add_vectors(np.eye(8)[:1], [{"path": path}], model="toy")
    found = evaluate(library, pairs_file(tmp_path, ("red", path)))
    assert found["text→image"].outcomes[0].paths == (path,)


def test_a_name_of_two_files_is_not_guessed(toy, photos):
    paint(photos / "other" / "blue.png", "blue")
    with mmsearch.index(photos) as library:
        pairs = [Pair(Query.text("blue"), {"blue.png": 1}), Pair(Query.text("red"), {"red.png": 1})]
        found = evaluate(library, pairs)
        assert found.ambiguous == ("blue.png",)
        assert list(found.left_out) == ["blue"]
        with pytest.raises(InvalidQuery, match=r"several times \('blue.png'\): write their paths"):
            evaluate(library, pairs[:1])


def test_files_that_are_not_in_the_index_are_listed_and_their_queries_left_out(library, photos):
    rows = [("red", "red.png"), ("red", "gone.png"), ("pink", "pink.png")]
    found = evaluate(library, pairs_file(photos, *rows))
    assert found.missing == ("gone.png", "pink.png")
    assert found.left_out == {"pink": "none of their files is in the index"}
    assert len(found["text→image"].outcomes) == 1


def test_when_no_file_is_in_the_index_the_error_says_what_to_do(library, photos):
    with pytest.raises(InvalidQuery, match=r"none of the 1 files .*'red'.*--columns file,query"):
        evaluate(library, pairs_file(photos, ("red.png", "red")))


def test_no_pairs_are_an_error_that_says_how_they_are_written(library, photos):
    with pytest.raises(InvalidQuery, match=r"no pairs .*: write one per line, .* such as"):
        evaluate(library, pairs_file(photos))


def test_a_query_without_a_file_of_any_gain_is_left_out_and_says_so(library):
    pairs = [Pair(Query.text(name), {"red.png": gain}) for name, gain in (("a", 0), ("b", -2))]
    found = evaluate(library, [*pairs, Pair(Query.text("red"), {"red.png": 1})])
    assert found.left_out == dict.fromkeys("ab", "none of their files has a gain above 0")
    with pytest.raises(InvalidQuery, match="2: none of their files has a gain above 0"):
        evaluate(library, pairs)


def test_a_file_that_is_named_twice_is_one_relevant_item_of_the_highest_gain(library, photos):
    twice = {"red.png": 3, str(photos / "red.png"): 1, "green.png": 2}
    once = {"red.png": 3, "green.png": 2}
    two, one = (
        evaluate(library, [Pair(Query.text("red"), names)])["text→image"].outcomes[0]
        for names in (twice, once)
    )
    assert sorted(two.paths) == [str(photos / "green.png"), str(photos / "red.png")]
    assert two.ndcg == one.ndcg


def test_an_index_of_one_photo_can_be_evaluated(toy, tmp_path):
    paint(tmp_path / "photos" / "red.png", "red")
    with mmsearch.index(tmp_path / "photos") as library:
        found = evaluate(library, [Pair(Query.text("green"), {"red.png": 1})])
    values = {name: figure.value for name, figure in found["text→image"].measures.items()}
    assert set(values.values()) == {1.0}
    assert as_table(found).startswith("text→image: 1 query, 1 independent; 1 item, searched")


def test_relevant_items_that_a_filter_excludes_count_as_not_found(library):
    pairs = [Pair(Query.text("red"), {"red.png": 1, "green.png": 1})]
    every = {"target": "image"}
    for where, share in ((None, {1 / 2, 1}), ({"name": "green.png"}, {1 / 2})):
        found = evaluate(library, pairs, settings=every | {"where": where})
        assert found["text→image"].measures["R-precision"].value in share


def test_r_counts_all_relevant_items_even_if_fewer_ranks_count(library):
    pairs = [Pair(Query.text("red"), {"red.png": 1, "green.png": 1})]
    found = evaluate(library, pairs, depth=1, settings={"target": "image"})
    measures = found["text→image"].measures
    assert (measures["R-precision"].value, measures["mAP@R"].value) == (1 / 2, 1 / 2)


@pytest.mark.parametrize(
    "words", ["рыжая собака", "赤い花", "كلب أحمر", "🌹", "\u200b", "red " * 9999]
)
def test_words_in_any_script_can_be_evaluated(library, photos, words):
    found = evaluate(library, pairs_file(photos, (words, "red.png")))
    assert found["text→image"].outcomes[0].query == words.strip()


def test_a_caption_of_two_photos_is_one_query_with_two_right_files(toy, photos):
    rows = [("file", "caption"), ("red.png", "a colour"), ("green.png", "a colour")]
    captions = pairs_file(photos, *rows)
    with mmsearch.index(photos, captions=captions) as library:
        found = evaluate(library, captions, direction="both", settings={"target": "text"})
    [forward] = found["text→image"].outcomes
    assert len(forward.paths) == 2
    assert forward.r_precision == 1.0
    assert [len(outcome.paths) for outcome in found["image→text"].outcomes] == [2, 2]


# Queries by example


def test_a_picture_that_asks_does_not_find_itself(library, photos):
    pairs = pairs_file(
        photos, ("image", "file"), ("red.png", "green.png"), ("green.png", "red.png")
    )
    found = evaluate(library, pairs, depth=1)
    assert {one.rank for one in found["image→image"].outcomes} <= {1.0, inf}
    deep = evaluate(library, pairs)["image→image"].outcomes
    assert [one.rank for one in deep] == [
        1 + [hit.path for hit in library.similar(photos / asked)].index(str(photos / right))
        for asked, right in (("red.png", "green.png"), ("green.png", "red.png"))
    ]


def test_a_picture_may_be_right_for_itself(library, photos):
    pairs = pairs_file(photos, ("image", "file"), ("red.png", "red.png"))
    assert evaluate(library, pairs)["image→image"].outcomes[0].rank == 1


def test_an_example_need_not_be_in_the_index(library, photos, tmp_path):
    paint(tmp_path / "more" / "asks.png", "blue")
    for name in ("more/asks.png", "more\\asks.png"):
        pairs = pairs_file(tmp_path, ("image", "file"), (name, "blue.png"))
        assert evaluate(library, pairs)["image→image"].outcomes[0].rank == 1


def test_an_example_that_is_gone_or_damaged_leaves_out_its_query_alone(library, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    paint(tmp_path / "asks.png", "blue")
    rows = [("gone.png", "red.png"), ("bad.png", "red.png"), ("asks.png", "blue.png")]
    found = evaluate(library, pairs_file(tmp_path, ("image", "file"), *rows))
    assert [one.rank for one in found["image→image"].outcomes] == [1]
    assert found.left_out["gone.png"] == "their example is not there"
    [reason] = [why for name, why in found.left_out.items() if name.endswith("bad.png")]
    assert "cannot be searched with" in reason


def test_a_picture_looks_for_what_its_right_files_are(toy, photos):
    (photos / "sea.txt").write_text("blue sea")
    (photos / "rose.txt").write_text("red rose")
    with mmsearch.index(photos) as library:
        pairs = pairs_file(photos, ("image", "file"), ("red.png", "rose.txt"))
        assert evaluate(library, pairs)["image→text"].outcomes[0].rank == 1


def test_a_picture_in_memory_can_ask(library):
    picture = Image.new("RGB", (9, 9), (20, 30, 220))
    found = evaluate(library, [Pair(Query.image(picture), {"blue.png": 1})])
    assert found["image→image"].outcomes[0].rank == 1


def test_words_and_a_picture_can_ask_together(library, photos):
    rows = [("image", "text", "file"), ("red.png", "green", "green.png")]
    [direction] = evaluate(library, pairs_file(photos, *rows)).directions
    assert direction.name == "text+image→image"
    assert direction.outcomes[0].rank == 1


def test_sounds_can_ask(toy, tmp_path):
    for pitch in ("low", "high"):
        tone(tmp_path / "sounds" / f"{pitch}.wav", pitch)
    tone(tmp_path / "asks.wav", "high")
    with mmsearch.index(tmp_path / "sounds", model="ear") as library:
        pairs = pairs_file(tmp_path, ("audio", "file"), ("asks.wav", "high.wav"))
        assert evaluate(library, pairs)["audio→audio"].outcomes[0].rank == 1


def test_each_pair_of_modalities_is_a_direction_of_its_own(library, photos):
    rows = [("modality", "query", "file"), ("image", "red.png", "green.png")]
    found = evaluate(library, pairs_file(photos, *rows, ("text", "blue", "blue.png")))
    assert [direction.name for direction in found.directions] == ["image→image", "text→image"]


# Backward


def test_backward_each_file_asks_for_the_items_that_hold_its_words(toy, photos):
    captions = pairs_file(photos, ("red.png", "red, all over"), ("green.png", "a green wall"))
    with mmsearch.index(photos, captions=captions) as library:
        pairs = pairs_file(photos, ("file", "caption"), ("red.png", "red, all over"))
        found = evaluate(library, pairs, direction="backward")
        [direction] = found.directions
        assert (direction.name, direction.way) == ("image→text", "backward")
        assert direction.outcomes[0].paths == (str(photos / "red.png"),)
        assert direction.outcomes[0].rank == 1


def test_backward_the_texts_may_be_files_and_the_photos_not_in_the_index(toy, tmp_path, photos):
    (tmp_path / "texts").mkdir()
    for colour in ("red", "green", "blue"):
        (tmp_path / "texts" / f"{colour}.txt").write_text(f"all {colour}")
    with mmsearch.index(tmp_path / "texts") as library:
        pairs = pairs_file(photos, ("file", "caption"), ("green.png", "all green"))
        [direction] = evaluate(library, pairs, direction="backward").directions
        assert direction.outcomes[0].paths == (str(tmp_path / "texts" / "green.txt"),)
        assert direction.outcomes[0].rank == 1


def test_backward_a_photo_without_texts_in_the_index_is_left_out(library, photos):
    pairs = pairs_file(photos, ("red", "red.png"))
    found = evaluate(library, pairs, direction="both")
    assert [direction.name for direction in found.directions] == ["text→image"]
    assert found.left_out == {str(photos / "red.png"): "the index holds none of their queries"}


def test_backward_a_file_that_words_and_a_picture_ask_for_asks_for_each(toy, photos):
    captions = pairs_file(photos, ("red.png", "red, all over"))
    rows = [("text", "red, all over", "red.png"), ("image", "green.png", "red.png")]
    pairs = pairs_file(photos, ("modality", "query", "file"), *rows, name="both.tsv")
    with mmsearch.index(photos, captions=captions) as library:
        found = evaluate(library, pairs, direction="backward")
    assert [direction.name for direction in found.directions] == ["image→text", "image→image"]
    assert sum(direction.queries for direction in compare(found, found).directions) == 2


def test_backward_a_query_of_several_parts_is_left_out(library, photos):
    rows = [("image", "text", "file"), ("red.png", "green", "green.png")]
    with pytest.raises(InvalidQuery, match="1: a query of several parts is not one item"):
        evaluate(library, pairs_file(photos, *rows), direction="backward")


def test_an_unknown_direction_lists_those_there_are(library):
    with pytest.raises(InvalidOption, match="forward, backward, both, not 'up'"):
        evaluate(library, [Pair(Query.text("a"), {"red.png": 1})], direction="up")


# Wrong types


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (5, "pairs are a file, or a list of .*Pair, not 5"),
        (None, "not None"),
        (["a.tsv"], "not 'a.tsv'"),
        ([("a dog", "a.jpg")], r"not \('a dog', 'a.jpg'\)"),
        ({"a dog": "a.jpg"}, "not 'a dog'"),
        (np.zeros(3), "not np.float64"),
        (iter([]), "no pairs"),
    ],
)
def test_what_is_not_pairs_is_a_clear_error(library, pairs, reason):
    with pytest.raises(InvalidQuery, match=reason):
        mmsearch.evaluate(library, pairs)


def test_pairs_may_be_an_iterator_and_a_file_may_be_named_in_bytes(library, photos):
    pairs = (Pair(Query.text(name), {"red.png": 1}) for name in ("red", "blue"))
    assert len(evaluate(library, pairs)["text→image"].outcomes) == 2
    named = pairs_file(photos, ("red", "red.png"))
    assert evaluate(library, bytes(named))["text→image"].outcomes[0].rank == 1


def test_a_file_that_cannot_exist_is_a_clear_error(library):
    with pytest.raises(PathNotFound, match="NUL"):
        evaluate(library, "a\0b.tsv")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"settings": 5}, r"such as \{'lexical': False\}, not 5"),
        ({"settings": "lexical=off"}, "not 'lexical=off'; parse_settings reads them"),
        ({"settings": {"colour": "red"}}, "no setting 'colour'; there is: target, "),
        ({"settings": {1: 2}}, "no setting 1"),
        ({"settings": {"k": 3}}, "no setting k: .* its depth"),
        ({"settings": {"offset": 3}}, "no setting offset: .* its depth"),
        ({"settings": {"sort": "newest"}}, "no setting sort: .* its depth"),
        ({"settings": {"lexical": "off"}}, "lexical is True or False, not 'off'"),
        ({"progress": 5}, "progress is a function of two numbers, not 5"),
        ({"depth": "3"}, "depth is a whole number, at least 1, not '3'"),
        ({"direction": ["both"]}, r"not \['both'\]"),
    ],
)
def test_what_is_not_an_option_is_a_clear_error(library, options, reason):
    with pytest.raises(InvalidOption, match=reason):
        mmsearch.evaluate(library, [Pair(Query.text("red"), {"red.png": 1})], **options)


@pytest.mark.parametrize("collection", [None, 5, "holiday"])
def test_what_is_not_an_index_is_a_clear_error(collection):
    with pytest.raises(InvalidOption, match="an evaluation is of an index"):
        mmsearch.evaluate(collection, [Pair(Query.text("red"), {"red.png": 1})])


def test_only_evaluations_can_be_compared():
    for pair in ((evaluation([1]), None), ("a", evaluation([1]))):
        with pytest.raises(InvalidOption, match="two evaluations"):
            compare(*pair)
    with pytest.raises(InvalidOption, match="written as text"):
        parse_settings({"lexical": False})


# Comparing


def test_more_found_by_b_is_told_with_a_paired_interval():
    a, b = evaluation([5] * 40 + [1] * 60), evaluation([1] * 20 + [5] * 20 + [1] * 60)
    recall = compare(a, b).directions[0].measures["Recall@1"]
    assert (recall.a, recall.b) == (0.6, 0.8)
    assert recall.change.value == pytest.approx(0.2)
    assert 0 < recall.change.low < 0.2 < recall.change.high
    assert recall.verdict == "B is better"
    back = compare(b, a).directions[0].measures["Recall@1"]
    assert back.verdict == "A is better"
    assert back.change.low == pytest.approx(-recall.change.high)


def test_pairing_shows_what_two_intervals_apart_would_hide():
    a = evaluation([1] * 100 + [9] * 100)
    b = evaluation([1] * 100 + [1] * 8 + [9] * 92)
    alone = [one.directions[0].measures["Recall@1"] for one in (a, b)]
    assert alone[0].high > alone[1].low
    assert compare(a, b).directions[0].measures["Recall@1"].verdict == "B is better"


def test_the_same_evaluation_twice_shows_no_difference():
    a = evaluation([1, 7, 3, inf] * 10)
    for difference in compare(a, a).directions[0].measures.values():
        assert difference.verdict == "no difference shown"
        assert (difference.change.value, difference.change.low, difference.change.high) == (0, 0, 0)


def test_of_ranks_less_is_better():
    a, b = evaluation([9] * 30), evaluation([2] * 30)
    median = compare(a, b).directions[0].measures["median rank"]
    assert (median.change.value, median.verdict) == (-7, "B is better")
    assert compare(b, a).directions[0].measures["median rank"].verdict == "A is better"


def test_a_median_that_was_not_found_is_worse_than_any_that_was():
    a, b = evaluation([inf] * 30), evaluation([2] * 30)
    median = compare(a, b).directions[0].measures["median rank"]
    assert (median.change.value, median.verdict) == (-inf, "B is better")


def test_five_queries_never_show_a_difference():
    a, b = evaluation([9] * 5), evaluation([1] * 5)
    assert compare(a, b).directions[0].measures["MRR"].verdict == "no difference shown"


def test_many_queries_of_five_files_never_show_a_difference():
    def of(rank):
        outcomes = [outcome(number, rank, f"{number % 5}.jpg") for number in range(100)]
        return Evaluation((direction_of("text→image", "forward", outcomes),), "i", {}, 9, 9)

    assert compare(of(9), of(1)).directions[0].measures["MRR"].verdict == "no difference shown"


def test_chance_alone_looks_like_a_difference_in_one_of_twenty():
    chance = np.random.default_rng(8)
    real = 0
    for _ in range(60):
        a, b = (evaluation(chance.integers(1, 20, 40).astype(float)) for _ in range(2))
        real += compare(a, b).directions[0].measures["MRR"].verdict != "no difference shown"
    assert real <= 9  # 3 are expected; more than 9 come once in a thousand


def test_only_queries_that_both_answered_are_compared():
    a, b = evaluation([1, 1, 1]), evaluation([1, 2])
    assert compare(a, b).directions[0].queries == 2


def test_what_shares_no_query_or_depth_cannot_be_compared():
    a = evaluation([1])
    other = Evaluation(
        (direction_of("text→image", "forward", [outcome(7, 1)]),), "i", {}, 1000, 1000
    )
    with pytest.raises(InvalidQuery, match="no query in common"):
        compare(a, other)
    with pytest.raises(InvalidOption, match="depths 1000 and 10"):
        compare(a, evaluation([1], depth=10))


def test_two_indexes_can_be_compared(toy, photos, tmp_path):
    pairs = [Pair(Query.text("red"), {str(photos / "red.png"): 1})]
    found = []
    for model in ("toy", "second"):
        with mmsearch.index(photos, into=tmp_path / model, model=model) as library:
            found.append(evaluate(library, pairs))
    assert ToyEncoder.name != SecondToy.name
    assert compare(*found).directions[0].queries == 1


# Settings


def test_settings_are_read_by_name():
    assert parse_settings("combine=late,target=image+text") == {
        "combine": "late",
        "target": ["image", "text"],
    }
    assert parse_settings("default") == {}
    assert parse_settings("target=any") == {"target": None}


@pytest.mark.parametrize("written", ["", "fusion", "colour=red", "fusion=rrf,,lexical=off"])
def test_an_unknown_setting_lists_those_there_are(written):
    with pytest.raises(InvalidOption, match=r"there is: default, .*lexical=on\|off"):
        parse_settings(written)


@pytest.mark.parametrize(
    "written", ["lexical=perhaps", "min_confidence=high", "fusion=magic", "weights=image"]
)
def test_a_wrong_value_is_refused_before_anything_is_searched(written):
    with pytest.raises(InvalidOption):
        parse_settings(written)


# What is told


def test_queries_that_are_captions_word_for_word_are_pointed_out(toy, photos):
    captions = pairs_file(photos, ("red.png", "red, all over"))
    with mmsearch.index(photos, captions=captions) as library:
        pairs = [Pair(Query.text("red, all over"), {"red.png": 1})]
        found = evaluate(library, pairs)
        assert found.verbatim == 1
        assert any("word for word" in note for note in notes(found))
        pixels = evaluate(library, pairs, settings={"target": ["image"]})
        assert not any("word for word" in note for note in notes(pixels))


def test_few_independent_queries_are_pointed_out():
    assert any("3 independent queries" in note for note in notes(evaluation([1, 2, 3])))
    assert not list(notes(evaluation([1] * 30)))
    assert list(notes(evaluation([1]))) == ["text→image: 1 independent query says little"]


def test_that_no_query_found_anything_is_pointed_out_with_what_was_searched(library):
    pairs = [Pair(Query.text(f"red {number}"), {"red.png": 1}) for number in range(3)]
    first, _ = notes(evaluate(library, pairs, settings={"target": "audio"}))
    assert first == "text→image: no query found a relevant item (searched in audio)"
    assert not any("found" in note for note in notes(evaluate(library, pairs)))


def test_a_table_gives_shares_in_per_cent_and_ranks_as_they_are():
    table = as_table(evaluation([1, 1, 1, 5]))
    assert table.startswith("text→image: 4 queries, 4 independent; 1000 items")
    lines = {line.split("  ")[0]: line for line in table.splitlines()}
    assert "75.0 %" in lines["Recall@1"]
    assert lines["median rank"].split()[2] == "1"


def test_a_comparison_is_told_in_points_with_its_verdict():
    table = as_table(compare(evaluation([5] * 40), evaluation([1] * 40)))
    [line] = [line for line in table.splitlines() if line.startswith("Recall@1 ")]
    assert " ".join(line.split()[1:]) == "0.0 % 100.0 % +100.0 +100.0 … +100.0 B is better"


def test_tsv_has_a_measure_a_line():
    rows = [line.split("\t") for line in as_tsv(evaluation([1, 2])).splitlines()]
    assert rows[0][:3] == ["text→image", "Recall@1", "0.5"]
    assert {len(row) for row in rows} == {5}


def test_json_has_no_infinities(library):
    a, b = evaluation([inf] * 8), evaluation([1] * 8)
    written = json.dumps(as_dict(compare(a, b), per_query=True), allow_nan=False)
    found = json.loads(written)
    assert found["a"]["directions"][0]["measures"]["median rank"]["value"] is None
    [first, *_] = found["a"]["directions"][0]["per_query"]
    assert first["rank"] is None
    assert (first["r-precision"], first["ap@r"]) == (0, 0)
    assert found["differences"][0]["measures"]["Recall@1"]["verdict"] == "B is better"


# The plot


def test_a_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    plot({"A": evaluation([1, 3]), "B": evaluation([2, 2])}, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 300
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_a_plot_that_could_not_be_written_is_refused_at_once(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(InvalidOption, match=r"'out\.doc'.*\.png"):
        check_plot(tmp_path / "out.doc")
    with pytest.raises(PathNotFound, match="no folder"):
        check_plot(tmp_path / "nowhere" / "out.png")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"mmsearch\[plot\]"):
        check_plot("out.png")
