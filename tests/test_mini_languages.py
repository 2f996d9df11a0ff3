"""The built-in model's tower for other languages: which texts go through it, and what they find."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mmsearch
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.mini import FOLDER
from mmsearch.encoders.mini.encoder import (
    LANGUAGE_FILES,
    LANGUAGE_TOKENIZER,
    LANGUAGE_TOWER,
    MiniEncoder,
    load_mini,
)
from mmsearch.encoders.mini.languages import LanguageDetector
from mmsearch.encoders.registry import REGISTRY
from mmsearch.encoders.tuned import TunedEncoder
from mmsearch.errors import ModelDamaged
from mmsearch.search.labels import label_vectors
from mmsearch.spaces.encoder_pool import languages_setting

SAME = 1e-4

COCO = Path(os.environ.get("DATA", "")) / "coco" / "images"
"""1,500 photos, for `make test DATA=FOLDER` with the folder that `make mini` reads."""

TRANSLATED = {
    "a dog on a beach": (
        "ein Hund am Strand",
        "un chien sur la plage",
        "pes na pláži",
        "海滩上的狗",
    ),
    "two men playing football": (
        "zwei Männer spielen Fußball",
        "deux hommes jouent au football",
        "dva muži hrají fotbal",
        "两个男人在踢足球",
    ),
    "a little girl on a swing": (
        "ein kleines Mädchen auf einer Schaukel",
        "une petite fille sur une balançoire",
        "malá holčička na houpačce",
        "一个小女孩在荡秋千",
    ),
    "a man riding a bicycle": (
        "ein Mann fährt Fahrrad",
        "un homme à vélo",
        "muž jede na kole",
        "一个男人骑自行车",
    ),
}
OTHERS = [text for texts in TRANSLATED.values() for text in texts]


@pytest.fixture(scope="module")
def mini() -> MiniEncoder:
    return load_mini()


def english_only(tmp_path: Path) -> MiniEncoder:
    """The model without its tower for other languages."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "mini"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in LANGUAGE_FILES:
        del manifest["sha256"][name]
        (folder / name).unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_mini(folder)


@pytest.mark.parametrize(
    "text",
    [
        "a dog on a beach",
        "dog",
        "sunset over the sea",
        "my grandmother's birthday party",
        "golden retriever",
        "beach",
        "red car",
        "cutting board",
        "New York",
        "the Eiffel Tower at night",
        "2019-07-04",
        "",
        "   ",
        "🐕",
        "…!?",
        "\ud800",
    ],
)
def test_english_and_texts_without_a_language_go_through_the_english_tower(
    mini: MiniEncoder, text: str
) -> None:
    assert mini.is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        *OTHERS,
        "Hund",
        "chien",
        "kočka",
        "Anna und Peter",
        "犬",
        "собака на пляже",
        "pes na plazi",
        "الكلب",
        "ein Hund",
    ],
)
def test_other_languages_go_through_their_tower(mini: MiniEncoder, text: str) -> None:
    assert not mini.is_english(text)


IN_DOUBT = ["hotel", "photo of mein Hund", "a red car, ein rotes Auto"]


@pytest.mark.parametrize("text", IN_DOUBT)
def test_a_text_whose_language_is_in_doubt_has_the_mean_vector_of_both_towers(
    mini: MiniEncoder, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not mini.is_english(text)
    (found,) = mini.encode("text", [text])
    towers = []
    for english in (True, False):
        monkeypatch.setattr(LanguageDetector, "is_english", lambda *_, told=english: told)
        towers.append(mini.encode("text", [text])[0])
    mean = (towers[0] + towers[1]) / np.linalg.norm(towers[0] + towers[1])
    np.testing.assert_allclose(found, mean, atol=SAME)


def test_a_mixed_text_is_close_to_its_meaning(mini: MiniEncoder) -> None:
    texts = ["photo of mein Hund", "a photo of my dog", "a photo of my car"]
    mixed, dog, car = mini.encode("text", texts)
    assert mixed @ dog > mixed @ car + 0.1


def test_the_language_of_a_long_text_is_detected_from_its_beginning(mini: MiniEncoder) -> None:
    began = time.perf_counter()
    assert mini.is_english("a dog on a beach " * 100 + "ein Hund am Strand " * 100_000)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("english", TRANSLATED)
def test_a_translation_is_closest_to_its_original(mini: MiniEncoder, english: str) -> None:
    sentences = list(TRANSLATED)
    scores = mini.encode("text", TRANSLATED[english]) @ mini.encode("text", sentences).T
    assert {sentences[place] for place in scores.argmax(axis=1)} == {english}


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        ("chelsea", ("eine Katze", "un chat gris", "kočka", "一只猫")),
        ("coffee", ("eine Tasse Kaffee",)),
    ],
)
def test_other_languages_find_what_a_photo_shows(
    mini: MiniEncoder, photo: str, words: tuple[str, ...]
) -> None:
    data = pytest.importorskip("skimage.data")
    names = ["chelsea", "coffee", "rocket", "astronaut", "camera"]
    pictures = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in names]
    scores = mini.encode("text", words) @ mini.encode("image", pictures).T
    assert {names[place] for place in scores.argmax(axis=1)} == {photo}


@pytest.mark.skipif(not COCO.is_dir(), reason="takes DATA, and half a minute")
def test_translations_find_six_of_the_ten_photos_of_the_english_query(tmp_path: Path) -> None:
    with mmsearch.index(COCO, tmp_path / "idx") as library:

        def first_ten(query: str) -> set[str]:
            return {hit.path for hit in library.search(query, k=10)}

        english = first_ten("a dog on a beach")
        for query in ("海滩上的狗", "ein Hund am Strand", "un chien sur la plage"):
            assert len(english & first_ten(query)) >= 6, query


def test_english_texts_have_the_same_vectors_as_without_the_tower(
    mini: MiniEncoder, tmp_path: Path
) -> None:
    without = english_only(tmp_path)
    texts = [*TRANSLATED, "dog", "", "a red car"]
    np.testing.assert_array_equal(mini.encode("text", texts), without.encode("text", texts))


def test_a_model_without_the_tower_treats_every_text_as_english(tmp_path: Path) -> None:
    without = english_only(tmp_path)
    assert without.fingerprint == load_mini().fingerprint
    assert all(map(without.is_english, OTHERS))
    assert np.isfinite(without.encode("text", OTHERS)).all()


def test_a_text_has_the_same_vector_whatever_languages_are_in_the_batch(mini: MiniEncoder) -> None:
    batch = [*TRANSLATED, *OTHERS, *IN_DOUBT, "", "犬"]
    alone = np.concatenate([mini.encode("text", [text]) for text in batch])
    np.testing.assert_allclose(mini.encode("text", batch), alone, atol=SAME)


def test_a_text_without_accents_has_a_similar_vector(mini: MiniEncoder) -> None:
    with_accents, without = mini.encode("text", ["pes na pláži", "pes na plazi"])
    assert with_accents @ without > 0.7


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_text_of_any_script_has_a_unit_vector(text: str) -> None:
    vectors = MINI.encode("text", [text])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=SAME)


MINI = load_mini()


def test_other_languages_have_no_embeddings_of_words(mini: MiniEncoder) -> None:
    texts = ["a dog", "ein Hund am Strand", "hotel"]
    vectors, tokens = mini.encode_with_tokens("text", texts)
    np.testing.assert_array_equal(vectors, mini.encode("text", texts))
    assert [one.shape[1] for one in tokens] == [128, 128, 128]
    assert [len(one) > 0 for one in tokens] == [True, False, True]


def test_a_query_without_embeddings_has_no_matches(mini: MiniEncoder) -> None:
    _, (query,) = mini.encode_with_tokens("text", ["ein Hund am Strand"])
    photos = [Image.new("RGB", (64, 64), colour) for colour in ("red", "white")]
    _, candidates = mini.encode_with_tokens("image", photos)
    assert np.isnan(mini.match("text", query, candidates)).all()


def test_a_candidate_without_embeddings_has_no_match(mini: MiniEncoder) -> None:
    _, (query,) = mini.encode_with_tokens("image", [Image.new("RGB", (64, 64), "red")])
    _, candidates = mini.encode_with_tokens("text", ["red", "ein Hund am Strand", "snow"])
    match = mini.match("image", query, candidates)
    assert np.isnan(match).tolist() == [False, True, False]


def test_the_tower_stays_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in LANGUAGE_FILES) <= 12_000_000


def test_an_english_text_does_not_load_the_tower(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "mini"))
    for name in (LANGUAGE_TOWER, LANGUAGE_TOKENIZER):
        (folder / name).unlink()
    assert np.isfinite(load_mini(folder).encode("text", ["a dog on a beach"])).all()


@pytest.mark.parametrize("tuned", [False, True])
def test_a_label_in_another_language_is_encoded_without_a_prompt(
    mini: MiniEncoder, tuned: bool
) -> None:
    encoder = TunedEncoder(mini, {}) if tuned else mini
    label, english = label_vectors(encoder, "image", ["Hund", "the dog"])
    np.testing.assert_allclose(label, mini.encode("text", ["Hund"])[0], atol=SAME)
    assert label @ english > label @ mini.encode("text", ["a photo of a car"])[0]


def text_vectors(library: mmsearch.Collection) -> dict[str, np.ndarray]:
    """The vectors of the notes in an index, by name."""
    (space,) = library.store.spaces.all()
    ids, vectors, _ = library.store.vectors.of(space, "text")
    items = library.store.items.get(ids.tolist())
    return {
        Path(items[id_].path).stem: vector
        for id_, vector in zip(ids.tolist(), vectors, strict=True)
    }


def test_texts_of_an_older_index_are_encoded_again_once(
    mini: MiniEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = {"english": "a dog on a beach", "german": "ein Hund am Strand", "chinese": "海滩上的狗"}
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, text in notes.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    without = english_only(tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(REGISTRY, "mini", SingleModel("mini", lambda: without))
        with mmsearch.index(folder, tmp_path / "idx") as library:
            english_before = text_vectors(library)["english"]
            library.store.settings.set(languages_setting(library.store.spaces.all()[0]), "")
    with mmsearch.index(folder, tmp_path / "idx") as library:
        assert library.report.filled == 2
        found = text_vectors(library)
        np.testing.assert_array_equal(found["english"], english_before)
        for name in ("german", "chinese"):
            np.testing.assert_allclose(
                found[name], mini.encode("text", [notes[name]])[0], atol=2e-3
            )
    with mmsearch.index(folder, tmp_path / "idx") as library:
        assert library.report.filled == 0


def test_texts_of_a_new_index_are_encoded_once(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("ein Hund am Strand", encoding="utf-8")
    for _ in range(2):
        with mmsearch.index(tmp_path / "note.txt", tmp_path / "idx") as library:
            assert library.report.filled == 0


@pytest.mark.parametrize("file", sorted(LANGUAGE_FILES))
def test_a_damaged_file_of_the_tower_is_named(tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "mini"))
    (folder / file).write_bytes(b"damaged")
    with pytest.raises(ModelDamaged, match=file):
        load_mini(folder).encode("text", ["ein Hund am Strand"])
