# Cameras write local times without a zone, so these have none.
# ruff: noqa: DTZ001

import io
import os
import struct
import threading
import warnings
import zipfile
import zlib
from contextlib import suppress
from datetime import datetime

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from mmsearch.errors import TooLarge, UnreadableFile
from mmsearch.media.image import load_image

ORIENTATION, EXIF, GPS = 0x0112, 0x8769, 0x8825


def photo(width=96, height=64):
    """A picture with areas, edges and texture, and no symmetry."""
    random = np.random.default_rng(7)
    pixels = np.zeros((height, width, 3), np.float32)
    layers = (
        (3, 3, Image.Resampling.BICUBIC, 0.5),
        (5, 3, Image.Resampling.NEAREST, 0.3),
        (max(8, width // 3), 1, Image.Resampling.BICUBIC, 0.2),
    )
    for cells, channels, method, weight in layers:
        grid = random.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
        layer = Image.fromarray(np.broadcast_to(grid, (cells, cells, 3)).copy())
        pixels += weight * np.asarray(layer.resize((width, height), method), np.float32)
    return Image.fromarray(pixels.astype(np.uint8))


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def difference(one, other):
    """Mean absolute difference of two pictures' channels, of 255."""
    assert one.size == other.size
    return np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean()


def refused(source, **options):
    """The reason for which a file is not read."""
    with pytest.raises(UnreadableFile) as caught:
        load_image(source, **options)
    return str(caught.value)


def tagged(**parts):
    """EXIF of `main`, `exif` and `gps` tags."""
    tags = Image.Exif()
    tags.update(parts.get("main", {}))
    for name, part in (("exif", EXIF), ("gps", GPS)):
        if name in parts:
            tags.get_ifd(part).update(parts[name])
            tags[part] = tags.get_ifd(part)
    return tags


def info_of(**parts):
    return load_image(saved(photo(16, 8), "JPEG", exif=tagged(**parts)))[1]


# ---------------------------------------------------------------------- upright

# What must be done to an upright picture so that the tag turns it upright again.
UNTURNED = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


def turned(upright, orientation):
    for step in UNTURNED[orientation]:
        upright = upright.transpose(step)
    return upright


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_photo_comes_out_upright(orientation, kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    upright = photo()
    exif = tagged(main={ORIENTATION: orientation}).tobytes()  # as bytes, a HEIC is turned by it
    data = saved(turned(upright, orientation), kind, exif=exif, quality=95)
    picture, info = load_image(data)
    assert (info.width, info.height) == picture.size == upright.size
    assert picture.mode == "RGB"
    assert difference(picture, upright) < 3


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_is_not_turned_again_by_whoever_reads_it_next(orientation):
    picture, _ = load_image(saved(photo(), "JPEG", exif=tagged(main={ORIENTATION: orientation})))
    assert dict(picture.getexif()) == {}
    assert picture.info == {}


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_a_senseless_orientation_is_ignored(orientation):
    picture, _ = load_image(saved(photo(), "JPEG", exif=tagged(main={ORIENTATION: orientation})))
    assert picture.size == (96, 64)


# ---------------------------------------------------------------------- shrunk decoding


@pytest.fixture(scope="module")
def twelve_megapixels():
    return photo(4000, 3000)


def at_260(picture):
    return picture.resize((260, 260), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("scale", "size"), [(1.4, (500, 375)), (2.0, (1000, 750))])
def test_a_draft_of_a_large_photo_is_smaller_and_scales_to_the_same_picture(
    twelve_megapixels, scale, size
):
    data = saved(twelve_megapixels, "JPEG", quality=90)
    whole, _ = load_image(data)
    draft, info = load_image(data, at_least=260, decode_scale=scale)
    assert (info.width, info.height) == whole.size == (4000, 3000)
    assert draft.size == size  # decoded at an eighth, or at a quarter
    assert difference(at_260(draft), at_260(whole)) <= 1.5


def test_so_is_a_large_photo_of_another_kind(twelve_megapixels):
    data = saved(twelve_megapixels, "BMP")
    shrunk, info = load_image(data, at_least=260)
    assert (info.width, info.height) == (4000, 3000)
    assert shrunk.size == (800, 600)
    assert difference(at_260(shrunk), at_260(twelve_megapixels)) <= 1.5


@pytest.mark.parametrize("size", [(90, 700), (700, 90), (1000, 1000), (81, 79), (4001, 163)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_no_side_becomes_shorter_than_1_4_times_what_is_asked(size, kind):
    data = saved(photo(*size), kind, exif=tagged(main={ORIENTATION: 6}))
    picture, info = load_image(data, at_least=40)
    assert min(picture.size) >= min(56, *size)
    assert (info.width, info.height) == (size[1], size[0])


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"])
def test_pictures_of_every_mode_can_be_shrunk(mode):
    grey = np.repeat(np.linspace(0, 65535, 400)[None, :], 300, axis=0)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16))
    elif mode in ("I", "F"):
        picture = Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32))
    else:
        picture = Image.fromarray((grey / 257).astype(np.uint8)).convert(mode)
    shrunk, _ = load_image(
        saved(picture, "TIFF" if mode not in ("P", "LA") else "PNG"), at_least=20
    )
    assert (shrunk.mode, shrunk.size) == ("RGB", (58, 43))
    row = np.asarray(shrunk.convert("L"), np.float32).mean(axis=0)
    assert np.abs(row - np.linspace(0, 255, 58)).max() < 25


# ---------------------------------------------------------------------- modes and kinds


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_becomes_white(mode):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    options = {}
    if mode == "P":
        picture = Image.new("P", (8, 8), 1)
        picture.putpalette([0, 0, 0, 255, 0, 0])
        picture.paste(0, (0, 0, 4, 8))
        options = {"transparency": 1}
    elif mode == "LA":
        picture = picture.convert("LA")
    loaded, _ = load_image(saved(picture, "PNG", **options))
    assert loaded.getpixel((0, 0)) == (0, 0, 0)
    assert loaded.getpixel((7, 7)) == (255, 255, 255)


def test_half_transparency_is_blended():
    loaded, _ = load_image(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert loaded.getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_colour_of_a_png_without_alpha_becomes_white():
    loaded, _ = load_image(
        saved(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    )
    assert loaded.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    loaded, _ = load_image(saved(deep, kind))
    assert np.asarray(loaded)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "dtype", "grey"),
    [
        ([0, 100, 255], np.int32, [0, 100, 255]),
        ([0, 32896, 65535], np.int32, [0, 128, 255]),
        ([-100, 0, 400], np.int32, [0, 51, 255]),
        ([0, 0.5, 1], np.float32, [0, 128, 255]),
        ([0, 100, 255], np.float32, [0, 100, 255]),
        ([1e6, 2e6, 6e6], np.float32, [0, 51, 255]),
        ([np.nan, np.inf, 1], np.float32, [0, 0, 255]),
        ([-5, -5, -5], np.int32, [0, 0, 0]),
    ],
)
def test_other_deep_greys_are_scaled_by_what_they_hold(values, dtype, grey):
    loaded, _ = load_image(saved(Image.fromarray(np.array([values], dtype=dtype)), "TIFF"))
    assert np.asarray(loaded)[0, :, 0].tolist() == grey


def test_a_cmyk_jpeg_has_its_colours():
    loaded, _ = load_image(saved(Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK"), "JPEG"))
    assert difference(loaded, Image.new("RGB", (16, 16), (255, 0, 0))) < 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    loaded, _ = load_image(data)
    assert difference(loaded, frames[0]) < 3


def test_a_photo_with_a_second_picture_behind_it_gives_the_first():
    data = saved(photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (96, 64))])
    assert difference(load_image(data)[0], photo()) < 8


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_heic_photo_is_read_with_its_exif(brand):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    exif = tagged(main={0x0110: "Phone 5"}, exif={0x9003: "2024:05:06 07:08:09"})
    data = saved(photo(), "HEIF", quality=90, exif=exif)
    loaded, info = load_image(data[:8] + brand + data[12:])
    assert difference(loaded, photo()) < 5
    assert (info.camera, info.taken_at) == ("Phone 5", datetime(2024, 5, 6, 7, 8, 9))


@pytest.mark.parametrize("brand", [b"avif", b"mif1"])
def test_an_avif_photo_is_read(brand):
    data = saved(photo(), "AVIF", quality=90)
    assert difference(load_image(data[:8] + brand + data[12:])[0], photo()) < 5


def test_a_wrong_ending_does_not_matter(tmp_path):
    (tmp_path / "a.jpg").write_bytes(saved(photo(), "PNG"))
    assert difference(load_image(tmp_path / "a.jpg")[0], photo()) == 0


def test_paths_bytes_and_open_files_give_the_same(tmp_path):
    data = saved(photo(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (path, str(path), data, file):
            assert difference(load_image(source)[0], photo()) == 0
        assert not file.closed


@pytest.mark.parametrize("name", [b"new\nline.png", "🐕.png".encode(), b"caf\xe9.png", b" .png"])
def test_odd_file_names_are_no_trouble(tmp_path, name):
    path = os.path.join(tmp_path, os.fsdecode(name))
    with open(path, "wb") as file:
        file.write(saved(photo(), "PNG"))
    assert load_image(path)[0].size == (96, 64)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("at_least", [None, 8])
def test_a_truncated_jpeg_is_refused_with_its_reason(progressive, at_least):
    data = saved(photo(), "JPEG", progressive=progressive)
    assert refused(data[: len(data) * 2 // 3], at_least=at_least) == "truncated"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_a_truncated_picture_of_any_kind_is_refused(kind, part):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = saved(photo(), kind)
    assert refused(data[: int(len(data) * part)]) in ("truncated", "damaged")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"hello", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not an image"),
        (b"\xff\xd8\xff", "damaged"),
    ],
)
def test_what_is_no_picture_is_refused(data, reason):
    assert refused(data) == reason


def test_an_archive_called_jpg_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.jpg", "w") as archive:
        archive.writestr("a.txt", "x")
    assert refused(tmp_path / "a.jpg") == "not an image"


def bomb(width, height):
    """A one-bit PNG of this size, nearly all of it missing."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((20_000, 15_000), "too large: 300 megapixels (limit 200; raise --max-megapixels)"),
        ((20_000, 10_001), "too large: 200.1 megapixels (limit 200; raise --max-megapixels)"),
        ((60_000, 60_000), "too large: over 400 megapixels (limit 200; raise --max-megapixels)"),
    ],
)
def test_a_picture_over_the_limit_is_refused_before_it_is_decoded(monkeypatch, size, reason):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(TooLarge) as caught:
        load_image(bomb(*size))
    assert str(caught.value) == reason


def test_the_limit_can_be_set():
    data = saved(Image.new("L", (1000, 1001)), "PNG")
    assert refused(data, max_megapixels=1).startswith("too large: 1.1 megapixels (limit 1;")
    assert load_image(data, max_megapixels=1.001)[0].size == (1000, 1001)


@pytest.mark.parametrize("theirs", [None, 10**9])
def test_a_higher_limit_of_pillow_is_left_alone(monkeypatch, theirs):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", theirs)
    load_image(saved(photo(), "PNG"))
    assert theirs == Image.MAX_IMAGE_PIXELS


def test_a_file_that_cannot_be_opened_is_refused_with_its_reason(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "no such file" in refused(tmp_path / "missing.jpg")
    assert refused(tmp_path) == "not a regular file"
    assert refused(tmp_path / "pipe.jpg") == "not a regular file"
    assert refused("a\0b.jpg") == "no such file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(saved(photo(), "JPEG"))
    (tmp_path / "a.jpg").chmod(0)
    assert refused(tmp_path / "a.jpg") == "permission denied"


def test_an_error_of_the_disk_keeps_its_reason():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    assert refused(Failing(b"x")) == "input/output error"


SMALL = [
    saved(
        photo(24, 16), "JPEG", exif=tagged(main={ORIENTATION: 6}, gps={1: "N", 2: (1.0, 2.0, 3.0)})
    ),
    *(saved(photo(24, 16), kind) for kind in ("PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")),
    saved(photo(24, 16).quantize(4), "PNG", transparency=1),
    saved(photo(24, 16), "TIFF", compression="tiff_lzw"),
    saved(photo(24, 16), "JPEG", progressive=True),
]


@pytest.mark.parametrize("data", SMALL)
def test_a_file_cut_anywhere_is_refused_or_whole_never_half_grey(data):
    whole, _ = load_image(data)
    for kept in range(0, len(data), 3):
        with suppress(UnreadableFile):
            assert difference(load_image(data[:kept])[0], whole) == 0


@given(
    data=st.sampled_from(SMALL),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
    at_least=st.sampled_from([None, 2]),
)
@example(data=SMALL[0], flips=[], kept=1, at_least=None)
def test_damage_never_raises_anything_but_unreadable_file(data, flips, kept, at_least):
    damaged = bytearray(data)
    for place, byte in flips:
        damaged[int(place * len(data))] = byte
    try:
        picture, info = load_image(bytes(damaged[: int(kept * len(data))]), at_least=at_least)
    except UnreadableFile:
        return
    assert picture.mode == "RGB"
    assert info.width >= picture.width


# ---------------------------------------------------------------------- EXIF


def test_time_camera_and_place_are_read():
    info = info_of(
        main={0x010F: "Canon\0", 0x0110: "EOS 5D ", 0x0132: "2021:01:01 00:00:00"},
        exif={0x9003: "2020:02:29 13:14:15"},
        gps={1: "S", 2: (33.0, 51.0, 30.0), 3: "E", 4: (151.0, 12.0, 36.0)},
    )
    assert info.taken_at == datetime(2020, 2, 29, 13, 14, 15)
    assert info.camera == "Canon EOS 5D"
    assert info.latitude == pytest.approx(-33.858333)
    assert info.longitude == pytest.approx(151.21)


def test_a_photo_without_exif_tells_its_size_alone():
    info = load_image(saved(photo(), "PNG"))[1]
    assert (info.width, info.height) == (96, 64)
    assert (info.taken_at, info.camera, info.latitude, info.longitude) == (None,) * 4


@pytest.mark.parametrize(
    ("main", "exif", "taken"),
    [
        ("2021:01:02 03:04:05", {}, datetime(2021, 1, 2, 3, 4, 5)),
        ("2021:01:02 03:04:05", {0x9004: "2020:01:01 00:00:01"}, datetime(2020, 1, 1, 0, 0, 1)),
        ("2021-01-02T03:04:05", {}, datetime(2021, 1, 2, 3, 4, 5)),
        ("2021:01:02 03:04:05", {0x9003: "0000:00:00 00:00:00"}, datetime(2021, 1, 2, 3, 4, 5)),
        ("2021:13:41 25:61:61", {}, None),
        ("    :  :     :  :  ", {}, None),
        ("yesterday", {}, None),
    ],
)
def test_the_time_is_the_first_that_makes_sense(main, exif, taken):
    assert info_of(main={0x0132: main}, exif=exif).taken_at == taken


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("SONY\0\0", "", "SONY"),
        (" ", "DSC-1\n", "DSC-1"),
        ("\0\0", "\0", None),
    ],
)
def test_the_camera_does_not_repeat_its_maker(make, model, camera):
    assert info_of(main={0x010F: make, 0x0110: model}).camera == camera


def rational(numerator, denominator):
    return TiffImagePlugin.IFDRational(numerator, denominator)


GOOD = {1: "N", 2: (10.0, 30.0, 0.0), 3: "W", 4: (20.0, 0.0, 36.0)}


@pytest.mark.parametrize(
    ("tags", "position"),
    [
        ({}, (10.5, -20.01)),
        ({2: (rational(10, 1), rational(1800, 60), rational(0, 1))}, (10.5, -20.01)),
        ({1: "n"}, (10.5, -20.01)),
        ({2: (rational(10, 1), rational(30, 1), rational(0, 0))}, None),
        ({2: (91.0, 0.0, 0.0)}, None),
        ({4: (180.0, 0.0, 1.0)}, None),
        ({1: "X"}, None),
        ({1: ""}, None),
        ({3: "N"}, None),
        ({2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)}, None),
    ],
)
def test_a_senseless_position_is_no_position(tags, position):
    info = info_of(gps=GOOD | tags)
    found = (info.latitude, info.longitude)
    assert found == (pytest.approx(position) if position else (None, None))


def test_half_a_position_is_none():
    info = info_of(gps={1: "N", 2: (10.0, 0.0, 0.0)})
    assert (info.latitude, info.longitude) == (None, None)


def test_broken_exif_costs_the_exif_not_the_photo():
    good = tagged(main={ORIENTATION: 6, 0x010F: "Canon"}, gps=GOOD).tobytes()
    for place in range(6, len(good), 3):
        broken = good[:place] + b"\xff\xfe\xfd" + good[place + 3 :]
        picture, _ = load_image(saved(photo(), "JPEG", exif=broken))
        assert set(picture.size) == {96, 64}


def test_odd_exif_neither_warns_nor_fails_when_warnings_are_errors():
    odd = tagged(main={0x010F: "Canon " * 10}).tobytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        info = load_image(saved(photo(), "JPEG", exif=odd[:-30]))[1]
    assert caught == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(saved(photo(), "JPEG", exif=odd[:-30]))[1] == info


def test_many_threads_may_decode_at_once():
    data = saved(photo(), "JPEG", exif=tagged(main={ORIENTATION: 8}).tobytes()[:-2])
    expected = np.asarray(load_image(data)[0])
    same = []

    def decode():
        for _ in range(20):
            same.append(bool((np.asarray(load_image(data)[0]) == expected).all()))  # noqa: PERF401

    threads = [threading.Thread(target=decode) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 160
