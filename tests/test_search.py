from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ToyEncoder, paint
from exact_index import ExactIndex
from PIL import Image

import mmsearch
from mmsearch.errors import (
    IndexNotFound,
    IndexUnusable,
    InvalidQuery,
    PathNotFound,
    UnknownModel,
    UnknownTarget,
    UnreadableFile,
)
from mmsearch.vectors import FaissIndex


@pytest.fixture
def library(toy: ToyEncoder, photos: Path, tmp_path: Path):
    (photos / "roses.md").write_text("red roses")
    (photos / "sea.txt").write_text("blue sea")
    (photos / "green.txt").write_text("a green hill\na white house\n")
    with mmsearch.index(photos, into=tmp_path / "idx") as made:
        yield made


def found(hits: list[mmsearch.Hit]) -> list[str]:
    return [Path(hit.path).name for hit in hits]


def test_words_are_looked_for_in_everything(library):
    hits = library.search("blue")
    assert {hit.modality for hit in hits} == {"image", "text"}
    assert set(found(hits)[:2]) == {"blue.png", "sea.txt"}


def test_words_find_pictures_alone_when_asked(library):
    assert found(library.search("blue", target="image"))[0] == "blue.png"
    assert {hit.modality for hit in library.search("blue", target="image")} == {"image"}


def test_an_example_finds_what_is_of_its_kind(library, photos):
    hits = library.search(mmsearch.Query.image(photos / "red.png"))
    assert {hit.modality for hit in hits} == {"image"}


def test_words_find_texts_and_captions_when_asked(library):
    assert found(library.search("blue", target="text"))[0] == "sea.txt"
    hit = library.search("white", target="text", k=1)[0]
    assert (Path(hit.path).name, hit.caption) == ("green.png", "a white house")


def test_a_picture_finds_pictures_like_it(library, tmp_path):
    example = paint(tmp_path / "example.png", "green")
    query = mmsearch.Query.image(example)
    assert found(library.search(query, k=1)) == ["green.png"]


def test_a_pil_picture_finds_as_its_file_does(library, photos):
    path = photos / "red.png"
    by_path = library.search(mmsearch.Query.image(path))
    with Image.open(path) as picture:
        by_picture = library.search(mmsearch.Query.image(picture))
    assert by_path == by_picture


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_pil_picture_is_turned_upright_as_its_file_is(library, tmp_path, orientation):
    picture = Image.new("RGB", (80, 80), (220, 20, 20))
    picture.paste((20, 30, 220), (0, 0, 80, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "x.jpg", exif=exif, quality=95)
    by_path = library.search(mmsearch.Query.image(tmp_path / "x.jpg"))
    with Image.open(tmp_path / "x.jpg") as opened:
        hits = library.search(mmsearch.Query.image(opened))
    assert found(hits) == found(by_path)
    # the file is decoded at a reduced size, which is not the same to the last digit
    assert [hit.score for hit in hits] == pytest.approx([h.score for h in by_path], abs=5e-3)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "I;16", "1", "CMYK"])
def test_a_pil_picture_of_any_mode_is_a_query(library, mode):
    assert library.search(mmsearch.Query.image(Image.new(mode, (30, 30))), k=1)


def test_what_is_transparent_is_white(library):
    clear = mmsearch.Query.image(Image.new("RGBA", (30, 30), (0, 0, 0, 0)))
    white = mmsearch.Query.image(Image.new("RGB", (30, 30), "white"))
    assert library.search(clear) == library.search(white)


def test_a_picture_finds_texts(library, photos):
    query = mmsearch.Query.image(photos / "red.png")
    assert found(library.search(query, target="text", k=1)) == ["roses.md"]


def test_scores_are_the_exact_cosines_of_the_stored_vectors(library, toy):
    ids, rows, _ = library.store.vectors.of(library.index.serving()[0][0], "image")
    oracle = ExactIndex.empty(toy.dim)
    oracle.add(ids.tolist(), rows)
    query = toy.encode("text", ["blue green"])[0]
    hits = library.search("blue green", target="image")
    expected = oracle.search(query, 10)
    assert [hit.id for hit in hits] == [item for item, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([s for _, s in expected], abs=3e-6)


def test_a_hit_tells_its_rank_and_score_in_its_facet(library):
    for hit in library.search("red", target="image"):
        (signal,) = hit.signals.values()
        assert (signal.rank, signal.score, signal.share) == (hit.rank, hit.score, 1.0)


def test_shares_of_a_fused_score_add_up(library):
    hits = library.search("green")
    assert any(len(hit.signals) > 1 for hit in hits)
    for hit in hits:
        assert sum(abs(signal.share) for signal in hit.signals.values()) == pytest.approx(
            1, abs=1e-3
        )


def test_several_targets_can_be_fused_by_reciprocal_rank(library):
    how = {"target": ["image", "text"], "fusion": "rrf", "lexical": False}
    hit = library.search("green", k=1, **how)[0]
    assert Path(hit.path).name == "green.png"
    ranks = [signal.rank for signal in hit.signals.values()]
    assert set(hit.signals) == {"image", "text"}
    assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))


def test_a_fused_ranking_does_not_depend_on_k(toy, tmp_path):
    rng = np.random.default_rng(3)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(150):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
        words = " ".join(rng.choice(["red", "green", "blue", "white"], 3))
        (folder / f"{number}.txt").write_text(words)
    queries = [
        ("red green", {"target": ["image", "text"]}),
        ("red green", {"target": ["image", "text"], "spans": True}),
        (mmsearch.Query.text("red") + mmsearch.Query.text("blue", 2), {"combine": "late"}),
    ]
    with mmsearch.index(folder, tmp_path / "idx") as library:
        for query, options in queries:
            most = library.search(query, k=100, **options)
            for k in (1, 2, 9, 10, 11, 60):
                assert library.search(query, k=k, **options) == most[:k]


def test_fused_stretches_are_the_best_whatever_k_is(toy, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, words in enumerate(["red green", "green blue", "blue red", "white red", "blue"]):
        pages = "\n\n".join(f"{words} {'x ' * (60 + number)}{page}" for page in words.split())
        (folder / f"{number}.txt").write_text(pages)
    query = mmsearch.Query.text("red") + mmsearch.Query.text("blue")
    with mmsearch.index(folder, tmp_path / "idx") as library:
        options = {"target": "text", "combine": "late", "spans": True}
        most = library.search(query, k=50, **options)
        assert len(most) > 5
        for k in range(1, len(most)):
            assert library.search(query, k=k, **options) == most[:k]


def test_one_facet_is_asked_for_no_more_than_is_wanted(library, monkeypatch):
    asked = []
    search = FaissIndex.search

    def counting(index, vector, k, allowed=None):
        asked.append(k)
        return search(index, vector, k, allowed)

    monkeypatch.setattr(FaissIndex, "search", counting)
    library.search("red", k=2, target="image")
    assert asked == [2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": {"text": float("nan")}}, "at least 0"),
        ({"weights": {"smell": 1}}, "audio, image, text, words"),
        ({"weights": 5}, "by modality"),
        ({"like": [10**30]}, "no item"),
        ({"like": ["a"]}, "whole number"),
        ({"like": 3}, "list"),
        ({"lexical": "off"}, "True or False"),
        ({"rerank": "better"}, "none, fusion, diverse"),
        ({"fusion": "sum"}, "wsum, combmnz, rrf"),
        ({"min_confidence": 2}, "0 to 1"),
        ({"spans": True, "rerank": "diverse"}, "whole files"),
    ],
)
def test_a_setting_that_has_no_sense_is_an_error_that_says_what_has(library, settings, said):
    with pytest.raises(mmsearch.MMSearchError, match=said):
        library.search("red", **settings)


def test_an_unknown_setting_is_an_error_that_lists_the_known(library):
    with pytest.raises(TypeError, match="min_confidence"):
        library.search("red", confidence=0.5)


def test_only_what_passes_a_filter_is_found(library):
    hits = library.search("red", where={"modality": "image", "name": {"$contains": "e"}})
    assert set(found(hits)) == {"red.png", "green.png", "blue.png"}
    assert found(library.search("red", where={"name": "blue.png"})) == ["blue.png"]


def test_a_file_is_found_by_its_name_among_all_that_is_like_the_words(toy, tmp_path):
    folder = tmp_path / "names"
    for number in range(100):
        colour = ["red", "green", "blue", "white"][number % 4]
        paint(folder / f"holiday {number}.png", colour)
    paint(folder / "xylophone_lesson.png", "white")
    with mmsearch.index(folder, tmp_path / "idx") as library:
        assert found(library.search("xylophone lesson", k=1)) == ["xylophone_lesson.png"]
        hit = library.search("xylophone lesson", k=1)[0]
        assert hit.confidence >= 0.5


def test_words_are_not_looked_up_where_texts_are_not_searched(library):
    assert all("words" not in h.signals for h in library.search("red", target="image"))
    assert all("words" not in h.signals for h in library.search("red", lexical=False))
    assert "words" in library.search("red", target="image", lexical=True)[0].signals


def test_a_liked_hit_draws_the_query_near(library):
    by_name = {Path(hit.path).name: hit.id for hit in library.search("white", target="image")}
    for colour in ("green", "blue"):
        hits = library.search("white", target="image", like=[by_name[f"{colour}.png"]], k=1)
        assert found(hits) == [f"{colour}.png"]


def test_copies_stand_behind_the_first_of_them(library, photos):
    for number in range(3):
        (photos / f"copy{number}.png").write_bytes((photos / "red.png").read_bytes())
    library.add(photos)
    hits = library.search("red", target="image", duplicates="collapse")
    assert found(hits)[0] == "red.png"
    assert len(hits[0].metadata["duplicates"]) == 3
    assert len(hits) == 3
    shown = library.search("red", target="image", rerank="diverse", duplicates="show")
    assert len(shown) == 6


def test_every_search_ranks_more_candidates_where_copies_leave_too_few_hits(library, photos):
    for number in range(120):
        (photos / f"copy{number}.png").write_bytes((photos / "red.png").read_bytes())
    library.add(photos)
    settings = {"k": 3, "target": "image", "duplicates": "collapse"}
    by_vector = library.search_vectors(library.encoder.encode("text", ["red"]), **settings)[0]
    by_example = library.similar(photos / "red.png", **settings)
    for hits in (library.search("red", **settings), by_vector, by_example):
        assert len(hits) == 3
        assert len(hits[0].metadata["duplicates"]) >= 119
    (ranked,) = library.rank_many(["red"], **settings)
    assert ranked == [(hit.id, hit.score) for hit in library.search("red", **settings)]


@pytest.mark.parametrize("rerank", ["none", "diverse"])
def test_the_best_hits_are_the_same_however_many_are_asked_for(library, photos, rerank):
    for number in range(30):
        paint(photos / f"x{number}.png", ["red", "green", "blue"][number % 3], (8 + number, 9))
    library.add(photos)
    most = [hit.id for hit in library.search("red green", k=30, rerank=rerank)]
    for k in (1, 5, 20):
        assert [hit.id for hit in library.search("red green", k=k, rerank=rerank)] == most[:k]


def test_ranks_alone_are_those_of_the_hits(library):
    queries = ["red", "green hill"]
    ranked = library.rank_many(queries, k=4)
    hits = library.search_many(queries, k=4)
    assert ranked == [[(hit.id, hit.score) for hit in some] for some in hits]


def test_reranking_by_an_untuned_model_is_not_offered(library):
    with pytest.raises(mmsearch.MMSearchError, match="tuned"):
        library.search("red", rerank="fusion")


def test_a_query_of_bytes_that_are_no_text_finds_what_it_can(library):
    assert library.search("\udcff red")


def test_no_score_is_minus_zero(library):
    hits = library.search(mmsearch.Query.text("red") - mmsearch.Query.text("blue"))
    assert all(str(hit.score) != "-0.0" for hit in hits)


def test_ranks_count_from_one_and_scores_fall(library):
    hits = library.search("red", target="text")
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_equal_photos_stand_in_order_of_id(library, photos):
    for number in range(30):
        (photos / f"copy{number}.png").write_bytes((photos / "red.png").read_bytes())
    library.add(photos)
    ids = [hit.id for hit in library.search("red", k=12, target="image")]
    assert ids == sorted(ids)


def test_k_beyond_the_collection_gives_all_of_it(library):
    assert len(library.search("red", k=10_000, target="image")) == 3


def test_an_empty_collection_finds_nothing(toy, tmp_path):
    (tmp_path / "none").mkdir()
    with mmsearch.index(tmp_path / "none", into=tmp_path / "idx") as library:
        assert library.search("red") == []
        assert library.search("red", target="text") == []


def test_a_target_that_nothing_has_finds_nothing(library):
    assert library.search("red", target="audio") == []


@pytest.mark.parametrize("target", ["images", "", ["image", "smell"], 3, [], ()])
def test_an_unknown_target_is_an_error_that_lists_the_known(library, target):
    with pytest.raises(UnknownTarget, match="image, text, audio"):
        library.search("red", target=target)


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_text_is_an_error(library, text):
    with pytest.raises(InvalidQuery, match="empty"):
        library.search(text)


def test_a_text_that_is_not_utf8_is_still_a_query(library):
    assert library.search("caf\udce9 red", k=1)


@pytest.mark.parametrize("query", [5, None, b"red", mmsearch.Query.image(5), Path("red")])
def test_what_is_no_query_is_an_error(library, query):
    with pytest.raises(InvalidQuery):
        library.search(query)


def test_search_many_takes_any_iterable_but_not_one_string(library):
    assert len(library.search_many(iter(["red", "blue"]))) == 2
    with pytest.raises(InvalidQuery, match="list"):
        library.search_many("red")


@pytest.mark.parametrize("k", ["5", 2.5, None])
def test_k_that_is_no_whole_number_is_an_error(library, k):
    with pytest.raises(InvalidQuery, match="whole number"):
        library.search("red", k=k)


def test_k_may_be_a_numpy_number(library):
    assert len(library.search("red", k=np.int64(2))) == 2


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_an_error(library, k):
    with pytest.raises(InvalidQuery, match="at least 1"):
        library.search("red", k=k)


def test_an_example_that_is_missing_or_bad_is_an_error(library, tmp_path):
    with pytest.raises(PathNotFound):
        library.search(mmsearch.Query.image(tmp_path / "nowhere.jpg"))
    (tmp_path / "bad.jpg").write_bytes(b"PK\3\4")
    with pytest.raises(UnreadableFile):
        library.search(mmsearch.Query.image(tmp_path / "bad.jpg"))


def test_search_many_finds_what_single_searches_find(library, photos):
    queries = ["red", mmsearch.Query.image(photos / "red.png"), "green"]
    assert library.search_many(queries, k=2) == [library.search(q, k=2) for q in queries]
    assert library.search_many([]) == []


@pytest.mark.parametrize("wrong", [np.zeros(8), np.zeros((1, 7)), [[np.nan] * 8]])
def test_vectors_that_are_not_the_models_are_refused(library, wrong):
    with pytest.raises(InvalidQuery, match="query vectors"):
        library.search_vectors(wrong)


def test_similar_leaves_the_file_itself_out(library, photos):
    (photos / "red2.png").write_bytes((photos / "red.png").read_bytes())
    library.add(photos)
    assert found(library.similar(photos / "red.png", k=1)) == ["red2.png"]
    hits = library.similar(photos / "red.png")
    assert "red.png" not in found(hits)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert [hit.signals["image"].rank for hit in hits] == [1, 2, 3]


def test_similar_uses_the_stored_vector(library, photos, toy):
    toy.encoded.update(image=0)
    library.similar(photos / "red.png")
    assert toy.encoded["image"] == 0


def test_similar_leaves_a_file_out_that_was_touched_since_it_was_indexed(library, photos, toy):
    os.utime(photos / "red.png", (1, 1))
    toy.encoded.update(image=0)
    assert "red.png" not in found(library.similar(photos / "red.png"))
    assert toy.encoded["image"] == 0  # its content is the same, and so is its vector


def test_similar_leaves_a_file_out_that_has_changed_and_looks_for_what_it_is_now(library, photos):
    paint(photos / "red.png", "blue", (50, 30))
    hits = library.similar(photos / "red.png")
    assert found(hits)[0] == "blue.png"
    assert "red.png" not in found(hits)


def test_similar_takes_a_file_that_is_not_indexed(library, tmp_path):
    assert found(library.similar(paint(tmp_path / "x.png", "blue"), k=1)) == ["blue.png"]
    (tmp_path / "x.txt").write_text("green grass")
    assert found(library.similar(tmp_path / "x.txt", k=1)) == ["green.png"]


def test_similar_knows_a_file_behind_a_linked_folder(library, photos, tmp_path):
    paint(tmp_path / "outside" / "crimson.png", "red", (50, 30))
    (photos / "linked").symlink_to(tmp_path / "outside")
    library.add(photos)
    assert "crimson.png" not in found(library.similar(photos / "linked" / "crimson.png"))
    library.add(photos / "linked")
    assert len(library.search("red", k=50, target="image")) == 4


def test_similar_to_what_is_no_photo_or_text_is_an_error(library, tmp_path):
    (tmp_path / "x.exe").write_bytes(b"MZ")
    with pytest.raises(UnreadableFile, match="not a kind of file"):
        library.similar(tmp_path / "x.exe")
    with pytest.raises(PathNotFound):
        library.similar(tmp_path / "nowhere.png")


# ---------------------------------------------------------------------- the index folder


def test_an_index_that_is_opened_again_finds_the_same(library, tmp_path):
    before = library.search("red")
    with mmsearch.open(tmp_path / "idx") as again:
        assert again.search("red") == before


@pytest.mark.parametrize("file", ["about.json", "rows.f16", "ids.i64", "vectors.i64"])
@pytest.mark.parametrize("content", [b"rubbish", b""])
def test_a_damaged_cache_is_made_again(library, tmp_path, file, content):
    before = library.search("red")
    for cache in (tmp_path / "idx" / "cache").iterdir():
        (cache / file).write_bytes(content)
    with mmsearch.open(tmp_path / "idx") as again:
        assert again.search("red") == before


def test_a_missing_cache_is_made_again(library, tmp_path):
    before = library.search("red")
    folder = tmp_path / "idx" / "cache"
    shutil.rmtree(folder)
    with mmsearch.open(tmp_path / "idx") as again:
        assert again.search("red") == before
    assert len(list(folder.iterdir())) == 2


def test_a_cache_of_an_earlier_release_is_taken_away(library, tmp_path):
    folder = tmp_path / "idx" / "cache"
    shutil.rmtree(folder)
    folder.mkdir()
    old = folder / "image-1-abcdefabcdef-3.faiss"
    old.write_bytes(b"an index of old")
    with mmsearch.open(tmp_path / "idx") as again:
        assert found(again.search("red", k=1, target="image")) == ["red.png"]
    assert not old.exists()


def test_a_cache_folder_that_cannot_be_written_only_costs_time(library, tmp_path):
    folder = tmp_path / "idx" / "cache"
    shutil.rmtree(folder)
    folder.write_bytes(b"a file in the way")
    with mmsearch.open(tmp_path / "idx") as again:
        assert found(again.search("red", k=1, target="image")) == ["red.png"]


def test_an_open_collection_sees_what_another_adds(library, photos, tmp_path):
    library.search("white")
    paint(photos / "white.png", "white")
    with mmsearch.open(tmp_path / "idx") as other:
        other.add(photos)
    assert found(library.search("white", k=1)) == ["white.png"]


def test_a_collection_opened_empty_sees_what_another_process_adds(toy, photos, tmp_path):
    with mmsearch.Collection(tmp_path / "new", model="toy", create=True) as early:
        assert early.search("red") == []
        mmsearch.index(photos, into=tmp_path / "new").close()
        assert found(early.search("red", k=1)) == ["red.png"]


def test_a_closed_collection_says_so(library):
    library.close()
    with pytest.raises(mmsearch.MMSearchError, match="closed"):
        library.search("red")


def test_threads_may_search_at_once(library):
    expected = library.search("red")
    with ThreadPoolExecutor(8) as pool:
        assert all(hits == expected for hits in pool.map(library.search, ["red"] * 40))


def test_an_index_on_a_disk_that_cannot_be_written_is_searched(library, tmp_path, monkeypatch):
    library.close()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "idx").iterdir()}
    with mmsearch.open(tmp_path / "idx") as again:
        assert found(again.search("red", k=1, target="image")) == ["red.png"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "idx").iterdir()} == before


def test_removed_items_are_found_no_more(library, photos):
    assert library.remove(photos / "deep") == 1
    assert "blue.png" not in found(library.search("blue"))
    assert library.remove(photos / "red.png") == 1
    assert found(library.search("red", target="image")) == ["green.png"]


def test_removing_what_is_not_there_is_an_error(library, photos, tmp_path):
    for path in (photos / "nowhere.png", tmp_path / "elsewhere"):
        with pytest.raises(PathNotFound, match="holds nothing"):
            library.remove(path)


def test_a_file_deleted_from_disk_can_still_be_removed(library, photos):
    (photos / "red.png").unlink()
    assert library.remove(photos / "red.png") == 1


def test_removing_above_the_sources_takes_them_all(library, photos):
    assert library.remove(photos.parent) == 5
    assert library.status()["sources"] == []


def test_items_are_a_view_of_what_is_stored(library):
    assert len(library.items) == len(library) == 5
    assert sorted(Path(item.path).name for item in library.items)[0] == "blue.png"


def test_no_index_is_an_error_that_says_how_to_make_one(toy, tmp_path):
    with pytest.raises(IndexNotFound, match="mmsearch index"):
        mmsearch.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_other_weights_of_the_same_name_are_refused(library, tmp_path, toy):
    toy.fingerprint = "toy-2"
    with mmsearch.open(tmp_path / "idx") as again, pytest.raises(IndexUnusable, match="weights"):
        again.search("red")


def test_an_unknown_model_is_an_error_that_lists_the_known(toy, photos, tmp_path):
    with pytest.raises(UnknownModel, match="mini"):
        mmsearch.index(photos, into=tmp_path / "new", model="nonsense")
    with pytest.raises(UnknownModel, match="mini"):
        mmsearch.load_encoder("nonsense")


def test_status_says_what_is_held(library, photos, tmp_path):
    status = library.status()
    assert status["items"] == {"image": 3, "text": 2}
    assert status["vectors"] == {"image": 3, "text": 4}
    assert status["sources"] == [str(photos)]
    assert (status["model"], status["dim"]) == ("toy", 8)
    assert status["bytes"] > 0


def test_stored_vectors_have_unit_length(library):
    for facet in ("image", "text"):
        _, rows, _ = library.store.vectors.of(library.index.serving()[0][0], facet)
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)


def test_the_caption_shown_is_the_one_that_matched(toy, photos, tmp_path):
    (photos / "red.txt").write_text("holidays, number 12\nred\n")
    with mmsearch.index(photos, tmp_path / "captions") as library:
        for where in (None, "text"):
            hit = library.search("red", target=where, k=1)[0]
            assert (Path(hit.path).name, hit.caption) == ("red.png", "red")
