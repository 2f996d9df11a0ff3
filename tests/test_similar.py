"""Files that are themselves the query."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import PITCHES, paint, tone
from test_media import film, pdf

import mmsearch
from mmsearch.errors import UnreadableFile, UnsupportedModality


def names(hits: list[mmsearch.Hit]) -> list[str]:
    return [Path(hit.path).name for hit in hits]


@pytest.fixture
def mixed(toy, photos: Path, tmp_path: Path):
    """Seen by one model, heard by another; two captions lead over."""
    (photos / "red.txt").write_text("red high")
    for pitch in PITCHES:
        tone(photos / f"{pitch}.wav", pitch)
    (photos / "low.txt").write_text("low blue")
    with mmsearch.index(photos, tmp_path / "mixed", model=["toy", "ear"]) as made:
        yield made


def test_a_photo_is_compared_with_sounds_through_texts_when_two_models_share_them(mixed, photos):
    assert names(mixed.similar(photos / "deep" / "blue.png", target="audio"))[0] == "low.wav"


def test_a_sound_is_compared_with_photos_through_texts_when_two_models_share_them(mixed, photos):
    # its own caption is nearer to "red high" than to anything of its own
    found = mixed.similar(photos / "high.wav", target="image")
    assert names(found)[0] == "red.png"
    query = mmsearch.Query.audio(photos / "high.wav")
    assert names(found) == names(mixed.search(query, target="image"))


def test_a_file_that_is_not_indexed_is_led_over_too(mixed, tmp_path):
    picture = paint(tmp_path / "x.png", "blue")
    assert names(mixed.similar(picture, target="audio"))[0] == "low.wav"
    sound = tone(tmp_path / "x.wav", "high")
    assert names(mixed.similar(sound, target="image"))[0] == "red.png"


def test_a_sound_that_no_model_hears_is_said_to_be_so(toy, photos, tmp_path):
    sound = tone(tmp_path / "x.wav", "high")
    with (
        mmsearch.index(photos, tmp_path / "i") as library,
        pytest.raises(UnsupportedModality, match=r"x\.wav.*cannot encode audio"),
    ):
        library.similar(sound)


def test_a_photo_with_a_caption_is_compared_with_texts_by_its_caption(toy, tmp_path):
    paint(tmp_path / "p" / "red.png", "red")
    (tmp_path / "p" / "red.txt").write_text("blue")  # says other than can be seen
    (tmp_path / "p" / "sea.md").write_text("blue")
    (tmp_path / "p" / "rose.md").write_text("red")
    with mmsearch.index(tmp_path / "p", tmp_path / "i") as library:
        assert names(library.similar(tmp_path / "p" / "red.png", target="text"))[0] == "sea.md"


def test_a_damaged_text_is_named(toy, photos, tmp_path):
    (tmp_path / "empty.txt").touch()
    with (
        mmsearch.index(photos, tmp_path / "i") as library,
        pytest.raises(UnreadableFile, match=r"empty\.txt.*0 bytes"),
    ):
        library.similar(tmp_path / "empty.txt")


# ---------------------------------------------------------------------- videos and documents


@pytest.fixture
def films(toy, tmp_path: Path) -> Path:
    """Two that look alike and two that sound alike."""
    film(tmp_path / "v" / "a.mp4", ("red", 3), sound="high")
    film(tmp_path / "v" / "looks.mp4", ("red", 3), sound="low")
    film(tmp_path / "v" / "sounds.mp4", ("blue", 3), sound="high")
    return tmp_path / "v"


def test_a_video_is_compared_with_pictures_by_its_frames_and_with_sounds_by_its_sound(
    films, tmp_path
):
    with mmsearch.index(films, tmp_path / "i", model=["toy", "ear"], video=True) as library:
        assert names(library.similar(films / "a.mp4"))[0] == "looks.mp4"
        assert names(library.similar(films / "a.mp4", target="audio"))[0] == "sounds.mp4"
        both = library.similar(films / "a.mp4", target=["image", "audio"], fusion="rrf")
        assert both[0].score == both[1].score == pytest.approx(1 / 61 + 1 / 62)


def test_a_video_that_was_only_heard_is_compared_by_its_sound(films, tmp_path):
    with mmsearch.index(films, tmp_path / "i", model="ear", video=True) as library:
        assert names(library.similar(films / "a.mp4"))[0] == "sounds.mp4"


def test_a_video_that_cannot_be_compared_says_what_is_missing(toy, tmp_path):
    film(tmp_path / "v" / "silent.mp4", ("red", 3))
    tone(tmp_path / "v" / "low.wav", "low")
    models = ["toy", "ear"]
    with (
        mmsearch.index(tmp_path / "v", tmp_path / "i", model=models, video=True) as library,
        pytest.raises(UnsupportedModality, match=r"silent\.mp4.*no captions or texts"),
    ):
        library.similar(tmp_path / "v" / "silent.mp4", target="audio")


def test_a_silent_video_finds_sounds_through_texts(toy, tmp_path):
    film(tmp_path / "v" / "silent.mp4", ("red", 3))
    for pitch in ("low", "high"):
        tone(tmp_path / "v" / f"{pitch}.wav", pitch)
    (tmp_path / "v" / "note.txt").write_text("red high")
    models = ["toy", "ear"]
    with mmsearch.index(tmp_path / "v", tmp_path / "i", model=models, video=True) as library:
        found = library.similar(tmp_path / "v" / "silent.mp4", target="audio")
        assert names(found)[0] == "high.wav"


def test_a_document_is_compared_with_pages_by_its_looks_and_with_texts_by_its_words(toy, tmp_path):
    pdf(tmp_path / "d" / "a.pdf", "red blue blue blue")
    pdf(tmp_path / "d" / "looks.pdf", "red green green")
    (tmp_path / "d" / "says.txt").write_text("red blue blue blue")
    with mmsearch.index(tmp_path / "d", tmp_path / "i", pdf=True) as library:
        assert names(library.similar(tmp_path / "d" / "a.pdf"))[0] == "looks.pdf"
        assert names(library.similar(tmp_path / "d" / "a.pdf", target="text"))[0] == "says.txt"


def test_a_video_or_document_that_is_not_indexed_is_refused(toy, photos, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"x")
    (tmp_path / "x.pdf").write_bytes(b"x")
    with mmsearch.index(photos, tmp_path / "i") as library:
        for name in ("x.mp4", "x.pdf"):
            with pytest.raises(UnreadableFile, match="not indexed"):
                library.similar(tmp_path / name)
