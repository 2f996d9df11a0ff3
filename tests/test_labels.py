"""Labels given by words alone, and files described."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ToyEncoder, paint, tone
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.encoders import Encoder
from mmsearch.errors import InvalidOption, PathNotFound, UnknownTarget, UnreadableFile
from mmsearch.search.everyday_words import EVERYDAY
from mmsearch.search.labels import (
    BINS,
    PLAIN,
    TEMPLATES,
    Labeller,
    checked_labels,
    confidence_of,
    frequency_odds,
    label_vectors,
    scale_odds,
)
from mmsearch.search.tagging import tag_labels

SURE = 0.999
"""The toy tells colours well, so its scores are high throughout."""


class Hashing(Encoder):
    """Gives each text a direction of its own."""

    name, fingerprint, dim, image_size, sample_rate = "hashing", "1", 16, 8, 0
    modalities = frozenset({"image", "text"})

    def prepare(self, modality, thing):
        return thing

    def encode(self, modality, batch):
        rows = np.stack(
            [np.random.default_rng(list(text.encode())).standard_normal(self.dim) for text in batch]
        )
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_labels_vector_is_the_mean_of_its_phrases_at_unit_length():
    encoder = Hashing()
    (vector,) = label_vectors(encoder, "image", ["dog"])
    mean = encoder.encode("text", [one.format("dog") for one in TEMPLATES["image"]]).mean(axis=0)
    assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_an_article_is_not_said_twice():
    encoder = Hashing()
    plain, with_article = label_vectors(encoder, "image", ["dog", "A dog"])
    assert plain == pytest.approx(with_article)


def test_a_score_is_the_cosine_standardised_by_those_of_everyday_words():
    encoder = Hashing()
    item = encoder.encode("image", ["x"])
    score = Labeller(encoder, "image", ["dog"]).standardised(item)[0, 0]
    others = item @ encoder.encode("text", [PLAIN["image"].format(w) for w in EVERYDAY["image"]]).T
    cosine = float((item @ label_vectors(encoder, "image", ["dog"]).T)[0, 0])
    assert score == pytest.approx((cosine - others.mean()) / others.std(), abs=1e-4)


def test_each_item_is_scored_on_its_own():
    encoder = Hashing()
    items = encoder.encode("image", ["x", "y", "z"])
    labeller = Labeller(encoder, "image", ["dog", "cat"])
    alone = np.concatenate([labeller.confidence(items[row : row + 1]) for row in range(3)])
    assert labeller.confidence(items) == pytest.approx(alone, abs=1e-5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_confidence_lies_between_0_and_1_and_rises_with_the_score(scores):
    found = confidence_of(sorted(scores))
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (np.diff(found) >= 0).all()


def spread_over(confidences) -> np.ndarray:
    return np.histogram(confidences, bins=BINS, range=(0, 1))[0]


def test_a_label_that_many_items_seem_to_have_is_taken_for_common():
    rare, common = np.full(1000, 0.001), np.full(1000, 0.001)
    common[:300] = 0.6
    assert frequency_odds(spread_over(rare)) < 1 < frequency_odds(spread_over(common))


def test_a_few_items_say_little_of_how_common_a_label_is():
    few, many = spread_over([0.9] * 3), spread_over([0.9] * 3000)
    assert 1 < frequency_odds(few) < 2 < frequency_odds(many)


@given(st.floats(0.01, 0.99), st.floats(0.1, 10))
def test_shifting_multiplies_the_odds(sure, odds):
    after = float(scale_odds(sure, odds))
    assert after / (1 - after) == pytest.approx(odds * sure / (1 - sure), rel=1e-6)


def test_everyday_words_are_many_and_each_stands_once():
    assert EVERYDAY.keys() == {"image", "audio"}
    for words in EVERYDAY.values():
        assert len(words) == len(set(words)) > 100
        assert all(word == word.strip() and word and "|" not in word for word in words)


def test_labels_are_tidied_and_each_counts_once():
    assert checked_labels([" birthday   cake ", "dog", "dog"]) == ["birthday cake", "dog"]


@pytest.mark.parametrize("given", [[], [""], ["dog", " "], ["x" * 101]])
def test_labels_without_sense_are_refused(given):
    with pytest.raises(InvalidOption, match="label"):
        checked_labels(given)


# ---------------------------------------------------------------------- an index's items


@pytest.fixture
def library(toy, photos: Path, tmp_path: Path):
    with mmsearch.index(photos, tmp_path / "i") as made:
        yield made


def tags_of(library) -> dict[str, list[str]]:
    """By file, its tags."""
    return {Path(item.path).name: item.metadata.get("tags", []) for item in library.items}


def counts(library) -> dict[str, int]:
    """How many items have each tag."""
    return dict(Counter(tag for tags in tags_of(library).values() for tag in tags))


def test_a_label_that_most_photos_show_gains_odds_and_one_that_few_show_loses(
    toy, photos: Path, tmp_path: Path
):
    for number in range(40):
        paint(photos / f"red{number}.png", "red", (20 + number, 20))
    with mmsearch.index(photos, tmp_path / "i") as library:
        library.tag(["red", "xyz"])
        odds = {tag.label: tag.odds["image"] for tag in tag_labels(library.index.store)}
    assert odds["xyz"] < 1 < odds["red"]


def test_items_are_given_the_labels_they_show(library):
    assert library.tag(["red", "green"], min_confidence=SURE) == {"red": 1, "green": 1}
    assert tags_of(library) == {"red.png": ["red"], "green.png": ["green"], "blue.png": []}


def test_tags_of_other_names_stay(library):
    library.tag("red", min_confidence=SURE)
    library.tag("blue", min_confidence=SURE)
    assert counts(library) == {"blue": 1, "red": 1}


def test_a_label_given_anew_takes_the_place_of_the_old(library):
    library.tag("red", min_confidence=0.0)
    assert counts(library) == {"red": 3}
    library.tag("red", min_confidence=SURE)
    assert counts(library) == {"red": 1}


def test_new_items_are_given_the_labels_asked_for_before(library, photos):
    library.tag(["red", "blue"], min_confidence=SURE)
    assert library.tag_new() == {}
    paint(photos / "crimson.png", "red", (30, 40))
    library.add()
    assert library.tag_new() == {"red": 2, "blue": 1}
    assert tags_of(library)["crimson.png"] == ["red"]
    assert library.tag_new() == {}


def test_tagging_what_is_new_tells_how_far_it_is(library, photos):
    library.tag("red", min_confidence=SURE)
    paint(photos / "crimson.png", "red", (30, 40))
    library.add(photos)
    told = []
    library.tag_new(progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)


def test_a_file_with_other_content_loses_its_old_tags(library, photos):
    library.tag(["red", "blue"], min_confidence=SURE)
    paint(photos / "red.png", "blue", (50, 50))
    os.utime(photos / "red.png", (1, 1))
    library.add()
    library.tag_new()
    assert tags_of(library)["red.png"] == ["blue"]


def test_a_new_label_leaves_what_has_changed_to_be_given_the_others(library, photos):
    library.tag("red", min_confidence=SURE)
    paint(photos / "crimson.png", "red", (30, 40))
    library.add()
    library.tag("blue", min_confidence=SURE)
    assert library.tag_new() == {"red": 2, "blue": 1}


def test_labels_taken_off_are_not_given_again(library, photos):
    library.tag(["red", "blue"], min_confidence=SURE)
    assert library.untag(["red"]) == 1
    paint(photos / "crimson.png", "red", (30, 40))
    library.add()
    assert library.tag_new() == {"blue": 1}
    assert library.untag() == 1
    assert counts(library) == {}


def test_tags_given_by_hand_stay_whatever_labels_find(library, photos):
    ids = {Path(item.path).stem: item.id for item in library.items}
    assert library.add_tag("  holiday  snaps ", [ids["red"], ids["blue"]]) == 2
    assert library.add_tag("red", [ids["blue"]]) == 1
    assert library.tag("red", min_confidence=SURE) == {"red": 1}
    assert library.tag("green", min_confidence=SURE) == {"green": 1}
    paint(photos / "crimson.png", "red")
    library.add(photos)
    library.tag_new()
    tags = tags_of(library)
    assert sorted(tags["blue.png"]) == ["holiday snaps", "red"]
    assert tags["red.png"] == ["holiday snaps", "red"]
    assert tags["crimson.png"] == ["red"]
    found = library.search("blue", where={"tag": "holiday snaps"})
    assert {Path(hit.path).stem for hit in found} == {"red", "blue"}
    assert library.remove_tag("red", ids.values()) == 2
    assert library.untag(["holiday snaps"]) == 2


def test_tagging_by_hand_leaves_out_items_that_are_gone_and_refuses_nonsense(library):
    assert library.add_tag("x", [10**6]) == 0
    assert library.remove_tag("x", []) == 0
    for tag, ids in (("", [1]), (5, [1]), ("x", ["1"]), ("x", 5)):
        with pytest.raises(InvalidOption):
            library.add_tag(tag, ids)


def test_an_item_is_found_by_its_id(library):
    for item in library.items:
        assert library.item(item.id) == item
    for unknown in (10**6, 0, -1, 2**70):
        with pytest.raises(PathNotFound, match=f"no item of the index has the id {unknown}"):
            library.item(unknown)
    with pytest.raises(InvalidOption):
        library.item("1")


def test_removed_items_take_their_tags_along(library, photos):
    library.tag("red", min_confidence=SURE)
    library.remove(photos / "red.png")
    assert counts(library) == {}


def test_sounds_are_tagged_by_the_stretch_that_fits_best(toy, tmp_path):
    tone(tmp_path / "p" / "both.wav", "low", "high")
    tone(tmp_path / "p" / "low.wav", "low", "low")
    with mmsearch.index(tmp_path / "p", tmp_path / "i", model="ear") as library:
        assert library.tag(["low", "high"], min_confidence=SURE) == {"low": 2, "high": 1}


def test_what_is_to_be_looked_at_can_be_chosen(library):
    with pytest.raises(InvalidOption, match="no vectors of audio"):
        library.tag("red", target="audio")
    with pytest.raises(UnknownTarget, match="image and audio"):
        library.tag("red", target="text")


@pytest.mark.parametrize("sure", [-0.1, 1.1])
def test_a_confidence_lies_between_0_and_1(library, sure):
    with pytest.raises(InvalidOption, match="from 0 to 1"):
        library.tag("red", min_confidence=sure)


def test_tags_of_items_that_are_gone_are_left_out(library):
    library.store.tags.set({"x": {999: 0.9}})
    assert counts(library) == {}


def test_items_that_were_not_looked_at_keep_a_tag(library):
    one, two, three = (item.id for item in library.items)
    library.store.tags.set({"x": {one: 0.9, two: 0.8}})
    library.store.tags.set({"x": {three: 0.7}}, among=[two, three])
    (page,) = library.store.items.complete(None)
    assert {item.id: item.tags for item in page} == {one: {"x": 0.9}, two: {}, three: {"x": 0.7}}


def test_the_surest_tag_of_an_item_stands_first(library):
    one = next(iter(library.items)).id
    library.store.tags.set({"a": {one: 0.5}, "b": {one: 0.9}})
    assert next(iter(library.items)).metadata["tags"] == ["b", "a"]


# ---------------------------------------------------------------------- describing


@pytest.fixture
def captioned(toy, photos: Path, tmp_path: Path):
    """Texts that say colours, two of them the same."""
    for name, words in (("a", "something red"), ("b", "Something  red"), ("c", "blue thing")):
        (photos / f"{name}.txt").write_text(words)
    with mmsearch.index(photos, tmp_path / "i") as made:
        yield made


def test_a_photo_is_described_by_the_texts_nearest_to_it_each_once(captioned, tmp_path):
    picture = paint(tmp_path / "x.png", "red")
    found = captioned.describe(picture, k=5)
    assert [said.text.split()[-1] for said in found.texts] == ["red", "thing"]
    assert found.labels == ()


def test_a_photos_own_captions_are_told_apart(toy, photos, tmp_path):
    (photos / "red.txt").write_text("my red one")
    with mmsearch.index(photos, tmp_path / "i") as library:
        assert library.describe(photos / "red.png").own == ("my red one",)


def test_labels_given_are_ranked_for_a_file(captioned, photos):
    found = captioned.describe(photos / "red.png", labels=["blue", "red"])
    assert [label for label, _ in found.labels] == ["red", "blue"]


def test_labels_of_equal_confidence_stand_in_order_of_their_letters(captioned, photos):
    given = ["zebra", "white", "apple", "mango"]  # the toy takes words that it does not know alike
    found = captioned.describe(photos / "red.png", labels=given, k=4).labels
    assert [label for label, _ in found] == ["white", "apple", "mango", "zebra"]


def test_labels_asked_for_before_are_told_where_they_are_sure(captioned, photos, tmp_path):
    captioned.tag(["red", "blue"], min_confidence=SURE)
    unseen = paint(tmp_path / "x.png", "blue", (60, 60))
    for picture, label in ((photos / "red.png", "red"), (unseen, "blue")):
        assert [name for name, _ in captioned.describe(picture).labels] == [label]


def test_without_any_text_everyday_words_describe_a_file(library, photos):
    found = library.describe(photos / "red.png", k=3)
    assert found.texts == ()
    assert len(found.labels) == 3
    assert {label for label, _ in found.labels} <= set(EVERYDAY["image"])


def test_a_damaged_file_is_said_to_be_so(library, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableFile, match=r"x\.png"):
        library.describe(tmp_path / "x.png")


# ---------------------------------------------------------------------- the commands


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


@pytest.fixture
def indexed(toy: ToyEncoder, photos: Path) -> Path:
    run("index", str(photos))
    return photos


def test_tag_prints_how_many_items_have_each_label(indexed, tmp_path):
    (tmp_path / "more.txt").write_text("green\n\nblue\n")
    more = str(tmp_path / "more.txt")
    result = run("tag", "red", "--file", more, "--min-confidence", str(SURE))
    assert result.stdout == "red\t1\ngreen\t1\nblue\t1\n"


def test_tag_alone_tags_what_is_new(indexed):
    run("tag", "red", "--min-confidence", str(SURE))
    assert "nothing has changed" in run("tag").stderr
    paint(indexed / "crimson.png", "red", (30, 40))
    run("index")
    assert json.loads(run("tag", "--json").stdout) == {"red": 2}


def test_tag_without_labels_applies_a_confidence_to_those_given_before(indexed):
    run("tag", "red", "blue", "--min-confidence", str(SURE))
    assert run("tag", "--min-confidence", "0").stdout == "red\t3\nblue\t3\n"
    paint(indexed / "crimson.png", "red", (30, 40))
    run("index")
    assert json.loads(run("tag", "--json").stdout) == {"red": 4, "blue": 4}


def test_tag_without_labels_applies_a_target_to_those_given_before(indexed):
    tone(indexed / "low.wav", "low")
    run("index", "--model", "toy", "--model", "ear")
    run("tag", "low", "--min-confidence", "0")
    assert run("tag", "--in", "audio").stdout == "low\t1\n"
    assert run("query", "low", "--tag", "low", "-f").stdout == f"{indexed / 'low.wav'}\n"


def test_tag_without_labels_finds_none_to_apply_a_confidence_to(indexed):
    assert run("tag", "--min-confidence", "0").stdout == ""


def test_tag_clear_takes_labels_off(indexed):
    run("tag", "red", "blue", "--min-confidence", str(SURE))
    assert "took off 1" in run("tag", "--clear", "red").stderr
    assert "took off 1" in run("tag", "--clear").stderr


def test_a_file_of_labels_that_is_missing_is_a_usage_error(indexed):
    assert "nowhere.txt" in run("tag", "--file", "nowhere.txt", code=2).stderr


def test_describe_prints_labels_and_their_confidence(indexed):
    rows = run("describe", str(indexed / "red.png"), "--labels", "red,blue").stdout.splitlines()
    assert [row.split("\t")[0::2][:2] for row in rows] == [["label", "red"], ["label", "blue"]]


def test_describe_as_json_has_texts_and_labels(indexed):
    found = json.loads(run("describe", str(indexed / "red.png"), "--json", "-k", "2").stdout)
    assert found["path"] == str(indexed / "red.png")
    assert found["texts"] == found["own"] == []
    assert [set(one) for one in found["labels"]] == [{"label", "confidence"}] * 2
