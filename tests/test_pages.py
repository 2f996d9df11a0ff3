"""Pages of hits, how many there are, where they become weak, and hits by date."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from PIL import Image

import mmsearch
from mmsearch import Query
from mmsearch.errors import InvalidOption, InvalidQuery
from mmsearch.search.ranking import DEPTH
from mmsearch.spaces.calibration import weak_from


def modified(path: Path, year: int, month: int = 1) -> None:
    moment = datetime(year, month, 1, 12, tzinfo=UTC).timestamp()
    os.utime(path, (moment, moment))


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory):
    """Pictures of noise with and without captions, more than rankings go down at first."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(3)
    for number in range(DEPTH + 60):
        path = folder / "photos" / f"{number // 100}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (3, 3, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(path)
        modified(path, 2000 + number % 20, 1 + number % 12)
        if number % 3 == 0:
            path.with_suffix(".txt").write_text(f"noise number {number}, some of it red")
    with mmsearch.index(folder / "photos", folder / "idx", model="mini") as made:
        yield made


@pytest.fixture
def library(toy, tmp_path: Path):
    folder = tmp_path / "photos"
    for name, colour in {"a": "red", "b": "green", "c": "blue", "d": "white"}.items():
        paint(folder / f"{name}.png", colour)
    with mmsearch.index(folder, tmp_path / "idx") as made:
        yield made


def ids_of(hits) -> list[int]:
    return [hit.id for hit in hits]


SEARCHES = {
    "fused": {},
    "one ranking": {"target": "image", "lexical": False},
    "spans": {"spans": True},
    "diverse": {"rerank": "diverse", "duplicates": "show"},
    "collapsed": {"duplicates": "collapse"},
    "confident": {"min_confidence": 0.2},
    "newest": {"sort": "newest"},
    "filtered": {"where": {"path": {"$glob": "1/*"}}},
}


@pytest.mark.parametrize("settings", SEARCHES.values(), ids=SEARCHES)
def test_pages_fit_together_without_gaps_and_repetitions(noise, settings):
    pages = []
    while page := noise.search("red noise", k=55, offset=55 * len(pages), **settings):
        pages.append(page)
    hits = [hit for page in pages for hit in page]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert len({(hit.id, hit.span) for hit in hits}) == len(hits)
    assert all(len(page) == 55 for page in pages[:-1])
    again = noise.search("red noise", k=55, offset=110, **settings)
    assert again == (pages[2] if len(pages) > 2 else [])
    if settings in ({}, SEARCHES["one ranking"], SEARCHES["spans"]):
        assert {hit.id for hit in hits} == {item.id for item in noise.items}


def test_the_first_hits_of_a_page_are_those_of_a_search(noise):
    for settings in ({}, {"target": "image"}, {"spans": True}):
        hits = noise.search("red", k=40, **settings)
        later = noise.search("red", k=10, offset=20, **settings)
        assert ids_of(later) == ids_of(hits[20:30])
        assert [hit.rank for hit in later] == list(range(21, 31))


def test_a_page_has_the_hits_of_the_search_and_how_many_there_are(noise):
    page = noise.search_page("red", k=7, offset=3)
    assert page.hits == noise.search("red", k=7, offset=3)
    assert page.total == len(noise)
    filtered = noise.search_page("red", k=7, where={"path": {"$glob": "1/*"}})
    assert filtered.total == 100
    captions = noise.search_page("red", k=7, target="text", lexical=False)
    assert captions.total == DEPTH // 3 + 20


@pytest.mark.parametrize("offset", [0, 5, 200, 340])
def test_where_hits_become_weak_is_the_same_on_every_page(noise, offset):
    hits = noise.search("red", k=1000, target="image")
    expected = sum((hit.confidence or 0) >= 0.5 for hit in hits)
    assert 0 < expected < len(hits)
    page = noise.search_page("red", k=10, offset=offset, target="image")
    assert page.weak_from == expected


def test_nothing_is_a_good_match_where_hits_are_weak_from_the_first_on(noise):
    page = noise.search_page("quarterly tax report", lexical=False)
    assert (page.weak_from == 0) is mmsearch.no_good_match(page.hits)


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [
        ([], 0),
        ([None, None], None),
        ([0.9, 0.5, 0.4], 2),
        ([0.4, 0.9, 0.3], 2),
        ([0.1], 0),
        ([0.9, None], 1),
        ([0.9], 1),
    ],
)
def test_hits_are_weak_from_after_the_last_good_one(confidences, expected):
    assert weak_from(confidences) == expected


def test_sorted_by_date_come_the_good_matches(noise):
    good = noise.search_page("red", k=1000, target="image")
    newest = noise.search_page("red", k=1000, target="image", sort="newest")
    oldest = noise.search_page("red", k=1000, target="image", sort="oldest")
    dates = [hit.metadata["modified"] for hit in newest.hits]
    assert dates == sorted(dates, reverse=True)
    assert [hit.metadata["modified"] for hit in oldest.hits] == sorted(dates)
    assert sorted(ids_of(newest.hits)) == sorted(ids_of(good.hits[: good.weak_from]))
    assert (newest.weak_from, newest.total) == (None, good.total)
    by_id = {hit.id: hit for hit in good.hits}
    assert all(hit.score == by_id[hit.id].score for hit in newest.hits)


def test_without_confidence_all_that_is_ranked_is_sorted_by_date(library):
    assert all(hit.confidence is None for hit in library.search("red"))
    for name, year in {"a": 2003, "b": 2001, "c": 2004, "d": 2002}.items():
        modified(next(Path(i.path) for i in library.items if Path(i.path).stem == name), year)
    library.add()
    newest = library.search("red", k=3, sort="newest")
    assert [Path(hit.path).stem for hit in newest] == ["c", "a", "d"]
    assert library.search_page("red").weak_from is None


# ---------------------------------------------------------------------- without a query


def test_without_a_query_everything_comes_the_newest_first(noise):
    pages = [noise.search_page(None, k=100, offset=at) for at in range(0, 500, 100)]
    hits = [hit for page in pages for hit in page.hits]
    assert sorted(ids_of(hits)) == [item.id for item in noise.items]
    dates = [hit.metadata["modified"] for hit in hits]
    assert dates == sorted(dates, reverse=True)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert {page.total for page in pages} == {len(noise)}
    first = hits[0]
    assert (first.score, first.confidence, first.signals, first.span) == (0.0, None, {}, None)
    assert pages[0].weak_from is None
    oldest = noise.search_page(None, k=5, sort="oldest").hits
    assert [hit.metadata["modified"] for hit in oldest] == dates[::-1][:5]


def test_without_a_query_a_filter_chooses(noise):
    page = noise.search_page(None, k=5, where={"path": {"$glob": "2/*"}, "has": "caption"})
    assert page.total == 33
    assert all(hit.caption for hit in page.hits)
    assert noise.search_page(None, where={"name": "none"}) == mmsearch.SearchPage([], 0, None)


def test_an_offset_behind_the_last_hit_finds_nothing(noise):
    assert noise.search("red", offset=10**9) == []
    assert noise.search_page(None, offset=10**9).hits == []


@pytest.mark.parametrize("offset", [-1, 1.5, "2", None])
def test_an_offset_that_is_no_position_is_refused(noise, offset):
    if offset is None:
        assert noise.search("red", offset=None) == noise.search("red")
        return
    with pytest.raises(InvalidOption, match="offset is a whole number, at least 0"):
        noise.search("red", offset=offset)


# ---------------------------------------------------------------------- items as queries


def named(library, name: str) -> int:
    return next(item.id for item in library.items if Path(item.path).stem == name)


def test_a_stored_item_is_searched_with_as_its_picture_is(library):
    red = next(item for item in library.items if Path(item.path).stem == "a")
    by_item = library.search(Query.item(red.id))
    by_file = library.search(Query.image(red.path))
    assert ids_of(by_item) == ids_of(by_file)
    assert [hit.score for hit in by_item] == pytest.approx([h.score for h in by_file], abs=1e-3)
    encoded = dict(library.encoder.encoded)
    library.search(Query.item(red.id))
    assert library.encoder.encoded == encoded
    os.unlink(red.path)
    assert library.search(Query.item(red.id)) == by_item


@pytest.mark.parametrize("combine", ["early", "late"])
def test_stored_items_have_weights_and_can_be_unwanted(library, combine):
    red, blue = named(library, "a"), named(library, "c")
    path = next(item.path for item in library.items if item.id == red)
    for weight in (2, 0.4, -0.7):
        by_item = Query.text("blue") + Query.item(red, weight)
        by_file = Query.text("blue") + Query.image(path, weight)
        expected = library.search(by_file, combine=combine, target="image")
        assert ids_of(library.search(by_item, combine=combine, target="image")) == ids_of(expected)
    twice = library.search(Query.item(red) + Query.item(red) + Query.item(blue), combine=combine)
    assert twice == library.search(Query.item(red, 2) + Query.item(blue), combine=combine)


def test_a_stored_item_can_be_compared_with_texts(noise):
    captioned = noise.search_page(None, where={"has": "caption"}, k=1).hits[0].id
    plain = noise.search_page(None, where={"$not": {"has": "caption"}}, k=1).hits[0].id
    assert noise.search(Query.item(captioned), target="text")[0].id == captioned
    assert noise.search(Query.item(plain), target="text")
    assert noise.search(Query.item(plain) + Query.text("red"), target=["image", "text"])


@pytest.mark.parametrize("unknown", [10**6, 0, -3])
def test_an_unknown_item_is_refused(library, unknown):
    for query in (Query.item(unknown), Query.text("red") - Query.item(unknown)):
        with pytest.raises(InvalidQuery, match=f"no item of the index has the id {unknown}"):
            library.search(query)
    with pytest.raises(InvalidOption, match="an id is a whole number"):
        library.search(Query.item("2"))  # type: ignore[arg-type]


def test_only_unwanted_items_are_refused(library):
    with pytest.raises(InvalidQuery, match="negative"):
        library.search(-Query.item(named(library, "a")))


def test_the_total_of_words_alone_is_more_than_a_page(tmp_path):
    rows = {"path": [f"{n}.jpg" for n in range(120)], "caption": ["a tin drum"] * 120}
    with mmsearch.Collection(tmp_path / "idx", create=True) as library:
        library.add_vectors(np.eye(120, 128, dtype=np.float32), rows)
        page = library.search_page("drum", k=50)
        last = library.search_page("drum", k=50, offset=100)
    assert page.total == last.total == 120
    assert len(last.hits) == 20
