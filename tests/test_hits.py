"""What a hit says of itself: its score, its signals, its confidence, and what of it matched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmsearch
from mmsearch import Hit, Query
from mmsearch.search.ranking import DEPTH
from mmsearch.search.searcher import Searcher
from mmsearch.search.settings import Settings
from mmsearch.storage import ItemRecord, ItemVectors
from mmsearch.types import TextPart

MODALITIES = ("image", "text")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mmsearch.Collection]:
    """130 photos, each other one with a caption, and five texts; enough for a confidence."""
    from conftest import ToyEncoder

    from mmsearch.encoders.family import SingleModel
    from mmsearch.encoders.registry import REGISTRY

    folder = tmp_path_factory.mktemp("gallery")
    dice = np.random.default_rng(3)
    (folder / "photos").mkdir()
    for number in range(130):
        colour = tuple(dice.integers(0, 256, 3).tolist())
        Image.new("RGB", (8, 8), colour).save(folder / "photos" / f"{number}.png")
        if number % 2:
            words = " ".join(dice.choice(["red", "green", "blue", "white", "dark"], 3))
            (folder / "photos" / f"{number}.txt").write_text(words)
    for number in range(5):
        (folder / "photos" / f"note{number}.md").write_text("blue " * number + "red")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "toy", SingleModel("toy", ToyEncoder))
        patch.setenv("MMSEARCH_HOME", str(folder / "home"))
        with mmsearch.index(folder / "photos", folder / "idx", model="toy") as library:
            yield library


def term(hit: Hit, modality: str, fusion: str, weights: Mapping[str, float]) -> float:
    """What a ranking contributes to the score of a hit."""
    signal = hit.signals[modality]
    if fusion == "rrf":
        return weights[modality] / (60 + signal.rank) if signal.rank else 0.0
    assert signal.standardised is not None
    above = signal.standardised
    return weights[modality] * (max(above, 0.0) if fusion == "combmnz" else above)


@pytest.mark.parametrize("weights", [{"image": 1.0, "text": 1.0}, {"image": 0.25, "text": 2.0}])
@pytest.mark.parametrize("fusion", ["wsum", "combmnz", "rrf"])
def test_a_fused_score_follows_from_the_signals(gallery, fusion: str, weights: dict[str, float]):
    hits = gallery.search(
        "red green", k=200, target=MODALITIES, lexical=False, fusion=fusion, weights=weights
    )
    assert {len(hit.signals) for hit in hits} == {1, 2}
    for hit in hits:
        terms = [term(hit, modality, fusion, weights) for modality in hit.signals]
        score = sum(terms)
        if fusion == "wsum":
            score /= sum(weights[modality] for modality in hit.signals)
        if fusion == "combmnz":
            score *= sum(one > 0 for one in terms)
        assert hit.score == pytest.approx(score, abs=1e-6)
        total = sum(map(abs, terms))
        shares = [one / total if total else 0.0 for one in terms]
        found = [signal.share for signal in hit.signals.values()]
        assert found == pytest.approx(shares, abs=1e-4)


def test_the_signal_of_a_ranking_is_that_of_a_search_in_it_alone(gallery):
    fused = {hit.id: hit for hit in gallery.search("red green", k=200, target=MODALITIES)}
    for modality in MODALITIES:
        alone = gallery.search("red green", k=200, target=modality, lexical=False)
        assert alone
        for hit in alone:
            (signal,) = hit.signals.values()
            assert (signal.rank, signal.share) == (hit.rank, 1.0)
            assert replace(fused[hit.id].signals[modality], share=1.0) == signal


def test_the_confidence_of_a_hit_is_its_highest_in_a_modality_less_for_each_to_choose_from(gallery):
    """Among two modalities the best of two scores by chance has to be exceeded (Šidák)."""
    alone: dict[int, list[float]] = {}
    for modality in MODALITIES:
        for hit in gallery.search("red green", k=200, target=modality, lexical=False):
            alone.setdefault(hit.id, []).append(hit.confidence)
    hits = gallery.search("red green", k=200, target=MODALITIES, lexical=False)
    certain = [max(alone[hit.id]) for hit in hits]
    uncertain = [pair for pair in zip(hits, certain, strict=True) if 1e-9 < pair[1] < 0.99]
    assert len(uncertain) > 5
    for hit, confidence in uncertain:
        assert hit.confidence == pytest.approx(confidence**2)


def test_parts_that_are_ranked_on_their_own_have_a_signal_each(gallery):
    query = Query.text("red", 3) + Query.text("green", 2) + Query.text("blue")
    hits = gallery.search(query, k=200, target="image", combine="late")
    for hit in hits:
        assert list(hit.signals) == ["image", "image 2", "image 3"]
        terms = [signal.rank and 1 / (60 + signal.rank) for signal in hit.signals.values()]
        weighted = [weight * term for weight, term in zip((3, 2, 1), terms, strict=True)]
        assert hit.score == pytest.approx(sum(weighted))


def test_a_hit_as_plain_values_is_its_fields(gallery, notes):
    for hit in gallery.search("red", k=3) + notes.search("dog", spans=True):
        assert hit.as_dict() == asdict(hit)


def test_words_that_all_that_passes_a_filter_has_tell_nothing(toy, tmp_path: Path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text("xylophone" if number < 3 else f"blue {number}")
    with mmsearch.index(folder, tmp_path / "idx") as library:
        signals = {}
        for where in (None, {"name": {"$in": ["00.txt", "01.txt", "02.txt"]}}):
            hits = library.search("xylophone", k=3, where=where)
            assert [Path(hit.path).name for hit in hits] == ["00.txt", "01.txt", "02.txt"]
            signals[where is None] = [hit.signals["words"].standardised for hit in hits]
    assert signals[False] == [0.0] * 3
    assert min(signals[True]) > 3


def test_what_was_removed_since_a_search_was_planned_is_not_found(toy, photos, tmp_path: Path):
    with mmsearch.index(photos, tmp_path / "idx") as library:
        searcher = Searcher(library.index)
        library.remove(photos)
        assert searcher.search(["red"], Settings()) == [[]]


def test_beyond_its_depth_a_ranking_adds_nothing_by_rank(tmp_path: Path):
    number = DEPTH + 50
    dice = np.random.default_rng(0)
    images = dice.normal(size=(number, 8)).astype(np.float32)
    with mmsearch.Collection(tmp_path / "idx", create=True) as library:
        paths = [f"/x/{place}.jpg" for place in range(number)]
        captions = [f"photo {place}" for place in range(number)]
        library.add_vectors(images, {"path": paths}, captions=captions, text_vectors=-images)
        query = dice.normal(size=(1, 8))
        settings = {"k": 20, "target": MODALITIES, "fusion": "rrf"}
        (hits,) = library.search_vectors(query, **settings)
    assert any(signal.rank is None for hit in hits for signal in hit.signals.values())
    for hit in hits:
        terms = [term(hit, modality, "rrf", {"image": 1, "text": 1}) for modality in hit.signals]
        assert len(terms) == 2
        assert hit.score == pytest.approx(sum(terms))


def test_reranking_leaves_as_many_hits_as_are_asked_for(gallery):
    hits = gallery.search("red green", k=120, target="image", rerank="diverse", duplicates="show")
    assert len(hits) == 120


# ---------------------------------------------------------------------- what of an item matched


@pytest.fixture
def notes(toy, tmp_path: Path) -> Iterator[mmsearch.Collection]:
    """Three texts of three passages each."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for number, words in enumerate(["red green blue", "green blue white", "white red blue"]):
        passages = [f"{word} {'x ' * (80 + number)}" for word in words.split()]
        (folder / f"{number}.txt").write_text("\n\n".join(passages))
    with mmsearch.index(folder, tmp_path / "idx") as library:
        yield library


def test_with_spans_each_passage_is_a_hit(notes):
    hits = notes.search("red", target="text", spans=True, k=20, lexical=False)
    assert [hit.rank for hit in hits] == list(range(1, 10))
    assert len({(hit.path, hit.span) for hit in hits}) == 9
    for hit in hits:
        lines = Path(hit.path).read_text().splitlines()
        assert hit.caption.split() == lines[int(hit.span.start) - 1].split()
        (signal,) = hit.signals.values()
        assert (signal.rank, signal.share) == (hit.rank, 1.0)
    assert {hit.caption.split()[0] for hit in hits[:2]} == {"red"}


@pytest.mark.parametrize("settings", [{}, {"target": "text"}, {"lexical": False}])
@pytest.mark.parametrize("word", ["red", "blue", "white"])
def test_a_hit_shows_the_passage_that_matched(notes, word: str, settings: dict):
    spans = notes.search(word, target="text", spans=True, k=20, lexical=False)
    best: dict[int, Hit] = {}
    for hit in spans:
        best.setdefault(hit.id, hit)
    for hit in notes.search(word, **settings):
        assert (hit.span, hit.caption) == (best[hit.id].span, best[hit.id].caption)


def test_words_that_only_one_passage_holds_are_shown_in_it(notes, tmp_path):
    path = tmp_path / "notes" / "1.txt"
    path.write_text(path.read_text() + "\n\nxylophone lesson " + "y " * 150)
    notes.add()
    for settings in ({}, {"spans": True}):
        hit = notes.search("xylophone lesson", k=1, **settings)[0]
        assert (hit.path, hit.caption[:16]) == (str(path), "xylophone lesson")
        assert hit.span.start > 1


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ([TextPart("EXIT", "ocr"), TextPart("a door", "caption")], "a door"),
        ([TextPart("EXIT", "ocr")], "EXIT"),
        ([], None),
    ],
)
def test_a_photo_found_by_its_looks_shows_a_caption_rather_than_what_was_read(
    toy, photos: Path, tmp_path: Path, texts: list[TextPart], shown: str | None
):
    with mmsearch.index(photos, tmp_path / "idx") as library:
        store, path = library.index.store, photos / "red.png"
        source, _, folder = store.sources.of(str(photos))
        record = ItemRecord(source, folder, path.name, "image", (1, 1), b"x", texts=texts)
        vectors = ItemVectors(toy.encode("text", ["red"]).astype(np.float16))
        space = library.index.serving()[0][0]
        store.put([replace(record, vectors={(space.id, "image"): vectors})])
        (hit,) = library.search("red", target="image", k=1)
        assert (hit.path, hit.caption, hit.span) == (str(path), shown, None)
