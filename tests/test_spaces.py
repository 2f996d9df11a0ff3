"""Several models in one index: filled side by side, switched when complete, dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import PITCHES, Ear, SecondToy, ToyEncoder, paint, tone

import mmsearch
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY, set_default
from mmsearch.errors import InvalidOption, ModelUnavailable, UnsupportedModality
from mmsearch.storage import ItemVectors


@pytest.fixture
def library(toy, photos: Path, tmp_path: Path):
    (photos / "red.txt").write_text("red rose")
    with mmsearch.index(photos, into=tmp_path / "idx") as made:
        yield made


def models(library) -> dict[str, tuple[bool, tuple[str, ...]]]:
    return {m["name"]: (not m["fills"], tuple(m["answers"])) for m in library.status()["models"]}


def best(library, words: str, **options) -> str:
    return Path(library.search(words, **options)[0].path).name


def test_a_second_model_is_given_all_that_is_stored_and_then_answers(library):
    with mmsearch.index(library.folder.parent / "photos", library.folder, model="second") as both:
        assert models(both) == {"second": (True, ("image", "text")), "toy": (True, ())}
        assert both.report.filled == 4  # three photos and one caption
        assert best(both, "blue") == "blue.png"
        assert best(both, "rose red", target="text") == "red.png"
        assert both.encoder.name == "second"


def test_the_old_model_answers_until_the_new_one_is_complete(library, monkeypatch):
    class Failing(SecondToy):
        def encode(self, modality, batch):
            if modality == "image":
                raise KeyboardInterrupt
            return super().encode(modality, batch)

    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", Failing))
    with pytest.raises(KeyboardInterrupt):
        mmsearch.index(library.folder.parent / "photos", library.folder, model="second")
    assert models(library) == {"second": (False, ()), "toy": (True, ("image", "text"))}
    assert library.encoder.name == "toy"
    assert best(library, "blue") == "blue.png"


def test_a_filling_that_was_interrupted_goes_on_at_the_next_run(library, monkeypatch):
    calls = []

    class Interrupted(SecondToy):
        def encode(self, modality, batch):
            calls.append(modality)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return super().encode(modality, batch)

    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", Interrupted))
    with pytest.raises(KeyboardInterrupt):
        mmsearch.index(library.folder.parent / "photos", library.folder, model="second")
    encoder = SecondToy()
    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", lambda: encoder))
    with mmsearch.open(library.folder) as again:
        again.add()  # no model is named: the index knows what it lacks
        assert models(again)["second"] == (True, ("image", "text"))
        assert encoder.encoded == {"image": 3, "text": 0}  # the caption was stored before
        assert best(again, "blue") == "blue.png"


def test_what_is_new_while_a_model_is_filled_is_encoded_in_both(library, monkeypatch, photos):
    class Failing(SecondToy):
        def encode(self, modality, batch):
            if modality == "text":
                raise KeyboardInterrupt
            return super().encode(modality, batch)

    paint(photos / "white.png", "white")
    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", Failing))
    with pytest.raises(KeyboardInterrupt):
        mmsearch.index(photos, library.folder, model="second")
    assert best(library, "white") == "white.png"


def test_a_photo_that_changes_after_the_switch_is_not_found_by_its_old_vectors(library, photos):
    with mmsearch.index(photos, library.folder, model="second") as both:
        paint(photos / "red.png", "white")
        both.add(photos)
        (old,) = (space for space in both.store.spaces.all() if space.name == "toy")
        ids, _, _ = both.store.vectors.of(old, "image")
        assert len(ids) == 2  # of the photos that are as they were


def test_going_back_to_the_first_model_encodes_only_what_changed_meanwhile(library, photos, toy):
    with mmsearch.index(photos, library.folder, model="second"):
        paint(photos / "red.png", "white")
        mmsearch.index(photos, library.folder).close()
    before = toy.encoded["image"]
    with mmsearch.index(photos, library.folder, model="toy") as back:
        assert back.encoder.name == "toy"
        assert toy.encoded["image"] - before == 1
        assert best(back, "white") == "red.png"


def test_an_existing_index_uses_its_own_model_whatever_auto_is(library, photos):
    set_default("second")
    with mmsearch.index(photos, library.folder) as same:
        assert list(models(same)) == ["toy"]


def test_a_dropped_model_is_gone_and_the_other_answers(library, photos):
    with mmsearch.index(photos, library.folder, model="second") as both:
        both.drop_space("toy")
        assert list(models(both)) == ["second"]
        assert best(both, "blue") == "blue.png"


def test_the_only_model_that_can_answer_is_not_dropped(library, photos):
    with mmsearch.index(photos, library.folder, model="ear") as both:
        with pytest.raises(InvalidOption, match="image"):
            both.drop_space("toy")
        with pytest.raises(InvalidOption, match="it has: ear, toy"):
            both.drop_space("mini")
        assert best(both, "blue") == "blue.png"


def test_files_that_are_away_keep_the_old_model_answering(library, photos, tmp_path):
    away = photos.rename(tmp_path / "elsewhere")
    with mmsearch.open(library.folder) as open_:
        open_.index.encoders.requested = [SecondToy()]
        open_.add()
        assert models(open_)["second"] == (False, ())
        assert "not there just now" in " ".join(open_.report.warnings)
        away.rename(photos)
        open_.add()
        assert models(open_)["second"] == (True, ("image", "text"))


def test_a_photo_that_was_damaged_since_does_not_hold_the_switch_up(library, photos):
    stat = (photos / "red.png").stat()
    (photos / "red.png").write_bytes(b"x" * stat.st_size)
    import os

    os.utime(photos / "red.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with mmsearch.index(photos, library.folder, model="second") as both:
        assert models(both)["second"] == (True, ("image", "text"))
        assert "could not be read again" in " ".join(both.report.warnings)
        assert best(both, "rose red", target="text") == "red.png"


# ---------------------------------------------------------------------- seeing beside hearing


@pytest.fixture
def mixed(toy, photos: Path, tmp_path: Path):
    (photos / "red.txt").write_text("red high")
    (photos / "blue.txt").write_text("a note")
    for pitch in PITCHES:
        tone(photos / f"{pitch}.wav", pitch)
    (photos / "low.txt").write_text("low blue")
    into = tmp_path / "mixed"
    with mmsearch.index(photos, into, model=["toy", "ear"]) as made:
        yield made


def test_two_models_share_an_index_each_for_what_it_can(mixed):
    assert models(mixed) == {"ear": (True, ("audio", "text")), "toy": (True, ("image", "text"))}
    assert mixed.status()["vectors"]["audio"] == 3
    assert best(mixed, "blue") == "blue.png"
    assert best(mixed, "high", target="audio") == "high.wav"


def test_text_goes_to_both_spaces_and_the_rankings_are_fused_by_id(mixed):
    hits = mixed.search("high red", target=["image", "audio"], k=2, fusion="rrf")
    assert {Path(hit.path).name for hit in hits} == {"red.png", "high.wav"}
    assert {name for hit in hits for name in hit.signals} == {"image", "audio"}
    assert hits[0].score == pytest.approx(1 / 61)


def test_a_sound_finds_pictures_through_texts_that_both_models_read(mixed, photos):
    hits = mixed.search(mmsearch.Query.audio(photos / "high.wav"), target="image")
    assert Path(hits[0].path).name == "red.png"


def test_a_picture_finds_sounds_through_texts_that_both_models_read(mixed, photos):
    hits = mixed.search(mmsearch.Query.image(photos / "deep" / "blue.png"), target="audio")
    assert Path(hits[0].path).name == "low.wav"


def test_without_texts_to_lead_over_it_is_said_what_is_missing(toy, photos, tmp_path):
    sound = tone(photos / "high.wav", "high")
    with (
        mmsearch.index(photos, tmp_path / "bare", model=["toy", "ear"]) as bare,
        pytest.raises(UnsupportedModality, match=r"high\.wav.*no captions or texts"),
    ):
        bare.search(mmsearch.Query.audio(sound), target="image")


def test_a_mixed_query_that_no_space_takes_whole_names_the_part(mixed, photos):
    query = mmsearch.Query.text("red") + mmsearch.Query.audio(photos / "high.wav")
    with pytest.raises(UnsupportedModality, match=r"high\.wav"):
        mixed.search(query, target="image")
    late = mixed.search(query, target="image", combine="late")
    assert Path(late[0].path).name == "red.png"


# ---------------------------------------------------------------------- what goes wrong


class Whole(ToyEncoder):
    """Sees and hears."""

    name = "whole"
    fingerprint = "whole-1"
    modalities = frozenset({"image", "text", "audio"})
    sample_rate = Ear.sample_rate

    def encode(self, modality, batch):
        if modality != "audio":
            return super().encode(modality, batch)
        return np.pad(Ear().encode("audio", batch), ((0, 0), (4, 0)))


@pytest.fixture
def whole(toy, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY, "whole", SingleModel("whole", Whole))
    tone(photos / "low.wav", "low")
    with mmsearch.index(photos, tmp_path / "whole", model="whole") as made:
        yield made


def test_a_model_that_was_left_behind_does_not_take_over(library, photos):
    with mmsearch.index(photos, library.folder, model="second") as both:
        paint(photos / "white.png", "white")
        both.add()
        with pytest.raises(InvalidOption, match="nothing would answer"):
            both.drop_space("second")
    with mmsearch.index(photos, library.folder, model="toy") as back:
        back.drop_space("second")
        assert best(back, "white") == "white.png"


def test_naming_the_same_models_again_changes_nothing(library, photos):
    for _ in range(3):
        with mmsearch.index(photos, library.folder, model=["toy", "second"]) as both:
            both.add(photos)
            assert both.encoder.name == "second"
    assert both.report.filled == 0


def test_naming_the_model_that_answers_gives_up_the_one_that_is_being_filled(
    library, photos, monkeypatch
):
    class Failing(SecondToy):
        def encode(self, modality, batch):
            raise KeyboardInterrupt

    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", Failing))
    with pytest.raises(KeyboardInterrupt):
        mmsearch.index(photos, library.folder, model="second")
    with mmsearch.index(photos, library.folder, model="toy") as back:
        assert models(back)["second"] == (True, ())


def test_a_hole_is_filled_when_the_file_can_be_read_again(library, photos):
    paint(photos / "big.png", "white", size=(900, 900))
    library.add(photos)
    with mmsearch.index(photos, library.folder, model="second", max_megapixels=0.5) as both:
        assert "could not be read again" in " ".join(both.report.warnings)
        both.add(max_megapixels=300)
        assert best(both, "white") == "big.png"


def test_a_hole_that_stays_leaves_the_caches_as_they_are(library, photos):
    paint(photos / "big.png", "white", size=(900, 900))
    library.add(photos)
    with mmsearch.index(photos, library.folder, model="second", max_megapixels=0.5) as both:
        before = both.store.state()
        both.add(max_megapixels=0.5)
        assert both.store.state() == before


def test_a_video_or_pdf_without_a_facet_is_not_read_at_every_run(whole, photos, monkeypatch):
    pytest.importorskip("av")
    from test_media import film

    film(photos / "silent.mp4", ("red", 3))
    whole.add(photos, video=True)
    with mmsearch.index(photos, whole.folder, model=["second", "ear"]) as library:
        library.add()
        assert library.report.filled == 0


def test_a_caption_that_changes_while_it_is_encoded_is_encoded_again(library, photos):
    (space,) = library.store.spaces.all()
    (item,) = (item for item in library.items if item.texts)
    hashes = {k.id: k.hash for k in library.store.files.known(1, "").values()}
    rows = {
        (item.id, hashes[item.id]): {(space.id, "text"): ItemVectors(np.zeros((1, 8), np.float16))}
    }
    library.store.vectors.backfill(rows, {item.id: ["another text"]})
    assert best(library, "rose red", target="text") == "red.png"


def test_a_facet_goes_on_answering_while_another_of_the_same_model_is_filled(
    whole, photos, monkeypatch
):
    with mmsearch.index(photos, whole.folder, model="second") as both:
        assert models(both)["whole"] == (True, ("audio", "text"))
        paint(photos / "white.png", "white")
        both.add()

    class Failing(Whole):
        def encode(self, modality, batch):
            raise KeyboardInterrupt

    monkeypatch.setitem(REGISTRY, "whole", SingleModel("whole", Failing))
    with pytest.raises(KeyboardInterrupt):
        mmsearch.index(photos, whole.folder, model="whole")
    assert len(whole.search(mmsearch.Query.text("low"), target="audio")) == 1


def test_other_weights_of_an_unfinished_model_take_its_place(library, photos, monkeypatch):
    class Failing(SecondToy):
        def encode(self, modality, batch):
            raise KeyboardInterrupt

    class Newer(SecondToy):
        fingerprint = "second-2"

    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", Failing))
    with pytest.raises(KeyboardInterrupt):
        mmsearch.index(photos, library.folder, model="second")
    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", Newer))
    with mmsearch.index(photos, library.folder, model="second") as newer:
        assert newer.status()["fingerprint"] == "second-2"
        assert best(newer, "blue") == "blue.png"


def test_weights_that_are_not_used_any_more_are_dropped_first(library, photos, monkeypatch):
    class Newer(ToyEncoder):
        fingerprint = "toy-2"

    monkeypatch.setitem(REGISTRY, "toy", SingleModel("toy", Newer))
    with mmsearch.index(photos, library.folder, model="toy") as newer:
        newer.drop_space("toy")
        assert [m["fingerprint"] for m in newer.status()["models"]] == ["toy-2"]
        assert best(newer, "blue") == "blue.png"


def test_an_unfinished_model_that_is_gone_does_not_stop_indexing(library, photos, monkeypatch):
    class Failing(SecondToy):
        def encode(self, modality, batch):
            raise KeyboardInterrupt

    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", Failing))
    with pytest.raises(KeyboardInterrupt):
        mmsearch.index(photos, library.folder, model="second")

    def gone():
        raise ModelUnavailable("the weights of second are not on this machine")

    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", gone))
    paint(photos / "white.png", "white")
    with mmsearch.open(library.folder) as again:
        again.add()
        assert "--drop-space second" in " ".join(again.report.warnings)
        assert best(again, "white") == "white.png"
        again.drop_space("second")
        assert list(models(again)) == ["toy"]


def test_a_dropped_model_does_not_come_back_and_leaves_no_file(library, photos):
    with mmsearch.index(photos, library.folder, model="second") as both:
        both.search("red")
        old = next(space.id for space in both.store.spaces.all() if space.name == "toy")
        both.drop_space("toy")
        assert not list(both.folder.glob(f"cache/*-{old}-*"))
        both.add()
        assert list(models(both)) == ["second"]


def test_an_open_index_answers_with_what_others_have_changed_since(library, photos):
    assert best(library, "blue") == "blue.png"
    with mmsearch.index(photos, library.folder, model="second"):
        pass
    first = library.search("blue")[0]
    assert (Path(first.path).name, library.encoder.name) == ("blue.png", "second")
    ((_, facets),) = library.index.serving()
    assert facets == ["image", "text"]
    with mmsearch.open(library.folder) as other:
        other.remove(photos / "red.png")  # the one with a caption
    ((_, facets),) = library.index.serving()
    assert facets == ["image"]
    assert "red.png" not in {Path(hit.path).name for hit in library.search("red", k=9)}
