"""Hubs, and what reranking looks at: made at indexing, right after every change."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, ToyEncoder, paint
from PIL import Image
from sqlalchemy import func, select, update

import mmsearch
from mmsearch.encoders import TokenEncoder
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.query_bank import FEWEST_PICTURES
from mmsearch.encoders.registry import REGISTRY
from mmsearch.storage.sql.schema import token_embeddings, vectors


class Looking(ToyEncoder, TokenEncoder):
    """Looks closer, at the mean colour, and likes what is blue, whatever is asked."""

    name = "looking"
    fingerprint = "looking-1"
    token_modalities = frozenset({"image", "text"})
    match_weight = 1.0

    def encode_with_tokens(self, modality, batch):
        found = self.encode(modality, batch)
        return found, [np.round(row[None, :3] * 127).astype(np.int8) for row in found]

    def match(self, modality, query, candidates):
        del modality, query
        return np.array([some[0, 2] / 127 for some in candidates], np.float32)


@pytest.fixture
def looking(toy, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(REGISTRY, "looking", SingleModel("looking", Looking))
    (photos / "blue.txt").write_text("a red note")
    with mmsearch.index(photos, tmp_path / "idx", model="looking") as made:
        yield made


def kept(library) -> dict[int, int]:
    """Rows of details by item."""
    c = token_embeddings.c
    counted = select(c.item_id, func.count()).group_by(c.item_id)
    return dict(map(tuple, library.store.database.rows(counted)))


def names(hits) -> list[str]:
    return [Path(hit.path).name for hit in hits]


def test_every_photo_and_text_has_what_reranking_looks_at(looking):
    assert kept(looking) == {item.id: 1 for item in looking.items}


def test_every_shot_of_an_animation_has_it_too(looking, photos):
    shots = [Image.new("RGB", (40, 30), COLOURS[name]) for name in ("red", "blue")]
    shots[0].save(photos / "a.gif", save_all=True, append_images=shots[1:], duration=2000)
    looking.add()
    [hit] = [hit for hit in looking.search("red", target="image") if hit.path.endswith("a.gif")]
    assert kept(looking)[hit.id] == 2
    assert names(looking.search("red", target="image", rerank="fusion"))[:2] == [
        "blue.png",
        "a.gif",
    ]


def test_reranking_puts_first_what_the_closer_look_likes(looking):
    assert names(looking.search("red", target="image"))[0] == "red.png"
    hits = looking.search("red", target="image", rerank="fusion")
    assert names(hits)[0] == "blue.png"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_reranking_of_nothing_finds_nothing(looking):
    nothing = {"name": "no such file"}
    assert looking.search("red", target="image", rerank="fusion", where=nothing) == []


def test_a_picture_is_compared_closely_with_texts(looking, photos):
    query = mmsearch.Query.image(photos / "red.png")
    assert looking.search(query, target="text", rerank="fusion", k=1)


def test_what_changed_is_looked_at_as_it_is_now(looking, photos):
    before = looking.store.token_embeddings.of(looking.index.serving()[0][0], "image", [1, 2, 3])
    for name, colour in (("red.png", "white"), ("green.png", "blue")):
        paint(photos / name, colour, (33, 44))
    looking.add(photos)
    after = looking.store.token_embeddings.of(looking.index.serving()[0][0], "image", [1, 2, 3])
    assert before.keys() == after.keys()
    changed = [key for key in before if not np.array_equal(before[key], after[key])]
    assert len(changed) == 2


def test_copies_and_renamed_files_keep_what_was_made(looking, photos):
    (photos / "copy.png").write_bytes((photos / "red.png").read_bytes())
    (photos / "green.png").rename(photos / "meadow.png")
    looking.add(photos)
    assert set(kept(looking).values()) == {1}
    assert len(kept(looking)) == len(looking)


def test_removed_files_leave_nothing_behind(looking, photos):
    looking.remove(photos)
    assert kept(looking) == {}


def test_details_can_be_left_out_and_made_later(looking, photos):
    looking.add(photos, details=False)
    assert kept(looking) == {}
    with pytest.raises(mmsearch.MMSearchError, match="--details"):
        looking.search("red", target="image", rerank="fusion")
    looking.add(photos)
    assert kept(looking) == {}
    looking.add(photos, details=True)
    assert len(kept(looking)) == len(looking)
    assert names(looking.search("red", target="image", rerank="fusion"))[0] == "blue.png"


# ---------------------------------------------------------------------- hubs


@pytest.fixture
def many(toy, tmp_path: Path):
    folder = tmp_path / "many"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(FEWEST_PICTURES + 5):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
    with mmsearch.index(folder, tmp_path / "idx") as made:
        yield made


def hubs(library) -> np.ndarray:
    return library.store.hubs.of(library.index.serving()[0][0], "image", "text")


def test_an_index_of_many_pictures_knows_its_hubs(many):
    assert not np.isnan(hubs(many)).any()
    assert hubs(many).std() > 0


def test_a_small_index_has_none_and_scores_plain_cosines(toy, photos, tmp_path):
    with mmsearch.index(photos, tmp_path / "idx") as library:
        assert np.isnan(hubs(library)).all()
        for hit in library.search("red", target="image"):
            assert hit.score == pytest.approx(hit.signals["image"].score, abs=2e-6)


def test_a_score_is_the_cosine_less_a_share_of_the_hub(many):
    space = many.index.serving()[0][0]
    weight = many.index.query_banks.hub_weight(space, "text", "image")
    assert weight > 0
    ids = many.store.vectors.of(space, "image")[0]
    of_item = dict(zip(ids.tolist(), hubs(many).astype(np.float16).tolist(), strict=True))
    for hit in many.search("red green", target="image", k=20):
        expected = hit.signals["image"].score - weight * of_item[hit.id]
        assert hit.score == pytest.approx(expected, abs=1e-5)


def test_without_hubness_scores_are_the_plain_cosines(many):
    for hit in many.search("red green", target="image", hubness=False):
        assert hit.score == pytest.approx(hit.signals["image"].score, abs=2e-6)


def test_hubs_of_new_pictures_are_told_by_the_same_bank(many, tmp_path):
    before = hubs(many)
    paint(tmp_path / "many" / "zz.png", "red")
    many.add(tmp_path / "many")
    after = hubs(many)
    assert np.array_equal(after[: len(before)], before)
    assert not np.isnan(after).any()


def test_an_index_without_hubs_is_given_them_when_it_is_next_asked(many, tmp_path):
    before = many.search("red green", target="image")
    with many.store.database.write() as connection:
        connection.execute(update(vectors).values(hub_text=None, hub_image=None))
    shutil.rmtree(tmp_path / "idx" / "cache")
    with mmsearch.open(tmp_path / "idx") as again:
        assert again.search("red green", target="image") == before
        assert not np.isnan(hubs(again)).any()
