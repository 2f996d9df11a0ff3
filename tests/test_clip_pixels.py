"""Photos for `clip:` models: the very pixels that open_clip's own preprocessing makes."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmsearch.encoders.clip.preprocessing import Pixels

SIZES = st.integers(1, 400)


def preprocessing(resize_mode: str, interpolation: str, size: tuple[int, int], fill: int) -> dict:
    return {
        "size": size,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "interpolation": interpolation,
        "resize_mode": resize_mode,
        "fill_color": fill,
    }


@settings(max_examples=300)
@given(
    photo=st.tuples(SIZES, SIZES, st.integers(0, 2**32 - 1)),
    mode=st.sampled_from(["RGB", "RGB", "RGB", "L", "RGBA", "CMYK", "P", "1"]),
    size=st.tuples(st.integers(8, 90), st.integers(8, 90))
    | st.integers(8, 90).map(lambda n: (n, n)),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.sampled_from([0, 128]),
)
def test_pixels_are_those_of_open_clip(photo, mode, size, resize_mode, interpolation, fill):
    transform = pytest.importorskip("open_clip.transform")
    wide, high, seed = photo
    if resize_mode == "longest" and max(photo[:2]) > 8 * min(photo[:2]):
        return  # open_clip may make a side of no pixels, and fail
    noise = np.random.default_rng(seed).integers(0, 256, (high, wide, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    config = preprocessing(resize_mode, interpolation, size, fill)
    wanted = transform.image_transform_v2(transform.PreprocessCfg(**config), is_train=False)(
        picture
    )
    found = Pixels.of(config)(picture)
    assert found.dtype == np.uint8
    assert np.array_equal(found, (wanted.numpy() * 255).round().transpose(1, 2, 0))


def test_a_very_long_photo_keeps_a_pixel_of_its_width():
    pixels = Pixels.of(preprocessing("longest", "bicubic", (8, 8), 0))
    assert pixels(Image.new("RGB", (1, 400), "white")).max() == 255


def test_what_is_prepared_already_stays_as_it_is():
    pixels = Pixels.of(preprocessing("shortest", "bicubic", (20, 30), 0))
    ready = pixels(Image.new("RGB", (99, 50), "red"))
    assert ready.shape == (20, 30, 3)
    assert pixels(ready) is ready


def test_a_recipe_that_was_written_down_reads_the_same():
    pixels = Pixels.of(preprocessing("longest", "bilinear", (20, 30), 7) | {"mean": 0.5})
    assert pixels.mean == (0.5, 0.5, 0.5)
    assert Pixels.read(json.loads(json.dumps(asdict(pixels)))) == pixels
