import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from mmsearch.errors import MissingExtra, ModelDamaged
from mmsearch.media import ocr

pytest.importorskip("rapidocr")


def sign(*lines, size=40, paper="white", ink="black", width=1000):
    """A picture with lines of text."""
    picture = Image.new("RGB", (width, (len(lines) + 1) * 2 * size), paper)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        place = (size, (2 * number + 1) * size)
        draw.text(place, line, font=ImageFont.load_default(size=size), fill=ink)
    return picture


# ---------------------------------------------------------------------- reading


def test_lines_come_in_reading_order():
    lines = ["Lighthouse of the northern harbour", "open daily", "9 to 17 except Monday"]
    assert ocr.read_words(sign(*lines)) == lines


def test_what_stands_side_by_side_is_read_from_left_to_right():
    picture = sign("left", "below")
    ImageDraw.Draw(picture).text(
        (600, 46), "right", font=ImageFont.load_default(size=40), fill="black"
    )
    assert ocr.read_words(picture) == ["left", "right", "below"]


def test_light_writing_on_dark_ground_is_read():
    assert ocr.read_words(sign("GARDEN PARTY", paper=(20, 40, 60), ink="yellow")) == [
        "GARDEN PARTY"
    ]


def test_a_page_of_small_type_is_read_at_the_size_that_is_asked_for():
    """A4 with 10 points, as `load_image(at_least=AT_LEAST)` may give it at the least."""
    text = "the quick brown fox jumps over lazy dogs while gardeners harvest ripe tomatoes"
    words = text.split()
    lines = [" ".join(words[n % 12 :] + words[: n % 12]) for n in range(0, 40, 3)]
    page = sign(*lines, size=42, width=2480).resize((2 * ocr.AT_LEAST, 500), Image.Resampling.BOX)
    read = " ".join(ocr.read_words(page)).split()
    assert len([word for word in read if word in words]) >= 0.97 * len(" ".join(lines).split())


def test_a_long_screenshot_is_read_to_its_end():
    lines = [f"message number {n}" for n in range(60)]
    assert ocr.read_words(sign(*lines, size=36)) == lines


def test_a_single_line_cut_close_is_read():
    close = sign("migration of birds").crop((36, 36, 460, 92))
    assert ocr.read_words(close) == ["migration of birds"]


@pytest.mark.parametrize("name", ["astronaut", "cat", "coffee", "coins", "moon", "brick", "retina"])
def test_a_photo_without_writing_gives_nothing(name):
    data = pytest.importorskip("skimage.data")
    assert ocr.read_words(Image.fromarray(getattr(data, name)()).convert("RGB")) == []


def test_so_do_a_temple_and_a_flower():
    datasets = pytest.importorskip("sklearn.datasets")
    for pixels in datasets.load_sample_images().images:
        assert ocr.read_words(Image.fromarray(pixels)) == []


@settings(max_examples=12)
@given(st.integers(1, 300), st.integers(1, 300))
@example(1, 1)
@example(20_000, 9)
@example(9, 20_000)
@example(3000, 20)
@example(20, 3000)
@example(40_000, 3)
def test_pictures_of_any_shape_can_be_given(width, height):
    assert ocr.read_words(Image.new("RGB", (width, height), "white")) == []


@given(st.integers(1, 60_000), st.integers(1, 60_000))
def test_what_is_read_stays_within_bounds(width, height):
    class Picture:
        size = (width, height)

        def resize(self, size, **_):
            self.size = size
            return self

    sized = ocr._sized(Picture()).size
    assert sized[0] * sized[1] <= 1.1 * ocr.MOST_PIXELS or min(sized) == 1
    assert max(sized) <= ocr.LONGEST_SIDE
    assert min(sized) <= 2 * ocr.AT_LEAST


# ---------------------------------------------------------------------- engine


def test_many_threads_read_what_one_would():
    pictures = [sign(f"picture number {n}", "harbour") for n in range(5)]
    alone = [ocr.read_words(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ocr.read_words, pictures)) == alone


def test_reading_makes_no_noise_and_leaves_nothing_at_home(tmp_path):
    place = tmp_path / "sign.png"
    sign("hello there").save(place)
    code = (
        "from PIL import Image; from mmsearch.media import ocr\n"
        "ocr.read_words(Image.new('RGB', (90, 90)))\n"
        f"assert ocr.read_words(Image.open({str(place)!r})) == ['hello there']\n"
        "import os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    )
    home = tmp_path / "home"
    home.mkdir()
    names = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA")
    surroundings = {**os.environ, **dict.fromkeys(names, str(home))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=surroundings
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert list(home.rglob("*")) == []


def test_a_missing_package_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"--ocr needs .*mmsearch\[ocr\]"):
        ocr.require()


def test_missing_weights_are_told_rather_than_fetched(monkeypatch):
    monkeypatch.setattr(metadata, "files", lambda _: [])
    with pytest.raises(ModelDamaged, match="reinstall"):
        ocr._weights("det")
