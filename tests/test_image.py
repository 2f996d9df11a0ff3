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
from PIL import Image, ImageCms, TiffImagePlugin

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


def chunk(kind, body, checksum=None):
    """A chunk of a PNG."""
    right = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + (checksum or right)


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


@pytest.mark.parametrize("channels", [1, 3])
def test_so_does_one_of_16_bits(channels):
    pixels = np.full((4, 8, channels), 0x1234, ">u2")
    pixels[:, 4:] = 0x8000
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 8, 4, 16, channels - 1, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    data += chunk(b"tRNS", struct.pack(">H", 0x1234) * channels)
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    loaded, _ = load_image(data)
    assert [loaded.getpixel((x, 0)) for x in (0, 7)] == [(255,) * 3, (128,) * 3]


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


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
@pytest.mark.parametrize("kind", ["JPEG2000", "PPM"])
def test_scans_of_archives_and_files_of_unix_are_read(kind, mode):
    if (kind, mode) in (("JPEG2000", "1"), ("PPM", "RGBA")):
        pytest.skip("no such file")
    picture = photo().convert(mode)
    assert difference(load_image(saved(picture, kind))[0], picture.convert("RGB")) == 0


def test_a_bare_stream_of_jpeg_2000_is_read():
    data = saved(photo(), "JPEG2000", no_jp2=True)
    assert difference(load_image(data)[0], photo()) == 0


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


# ---------------------------------------------------------------------- colours


def numbers(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(red, green, blue, gamma):
    """An ICC profile (version 2.4) of three primaries, as XYZ of D50, and a gamma."""
    curve = b"curv" + struct.pack(">IIHxx", 0, 1, round(gamma * 256))
    name = b"desc" + struct.pack(">II", 0, 5) + b"test\0" + bytes(78 + 1)
    tags = {b"desc": name, b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    for letter, primary in zip((b"r", b"g", b"b"), (red, green, blue), strict=True):
        tags |= {letter + b"XYZ": b"XYZ \0\0\0\0" + numbers(*primary), letter + b"TRC": curve}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + numbers(0.9642, 1, 0.8249)
    table, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(tag))
        data += tag
    head = b"lcms\2\x40\0\0mntrRGB XYZ " + struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp"
    head += bytes(28) + numbers(0.9642, 1, 0.8249) + bytes(48)
    return struct.pack(">I", 132 + 12 * len(tags) + len(data)) + head[:124] + table + data


SRGB = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
WIDE = {
    "Adobe RGB": profile(
        (0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), 2.2
    ),
    "Display P3": profile(
        (0.5151, 0.2412, -0.0011), (0.292, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841), 2.2
    ),
    "ProPhoto RGB": profile((0.7977, 0.288, 0), (0.1352, 0.7119, 0), (0.0313, 0.0001, 0.8249), 1.8),
    "channels swapped": profile(SRGB[2], SRGB[0], SRGB[1], 2.2),
}


def encoded_in(icc, picture):
    """The same colours in other numbers."""
    wide = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(picture, srgb, wide, outputMode="RGB")


def muted():
    """Colours that every profile can hold."""
    return Image.blend(photo(), Image.new("RGB", (96, 64), (128, 128, 128)), 0.4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("name", WIDE)
def test_colours_are_those_that_the_profile_in_the_file_says(name, kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = saved(encoded_in(WIDE[name], muted()), kind, icc_profile=WIDE[name], quality=97)
    picture, _ = load_image(data)
    assert (picture.mode, picture.info) == ("RGB", {})
    assert difference(picture, muted()) < (2 if kind in ("PNG", "TIFF") else 4)


def test_a_profile_is_heeded_in_a_shrunk_and_turned_picture():
    icc = WIDE["channels swapped"]
    large = encoded_in(icc, muted().resize((960, 640)))
    data = saved(turned(large, 6), "JPEG", icc_profile=icc, exif=tagged(main={ORIENTATION: 6}))
    picture, _ = load_image(data, at_least=32)
    assert difference(picture, muted().resize(picture.size)) < 6


def test_what_is_transparent_stays_so_in_another_colour_space():
    icc = WIDE["channels swapped"]
    picture = encoded_in(icc, Image.new("RGB", (4, 4), (200, 60, 20)))
    picture.putalpha(Image.new("L", (4, 4), 0))
    assert load_image(saved(picture, "PNG", icc_profile=icc))[0].getpixel((0, 0)) == (255,) * 3
    picture.putalpha(Image.new("L", (4, 4), 255))
    found = load_image(saved(picture, "PNG", icc_profile=icc))[0].getpixel((0, 0))
    assert np.abs(np.subtract(found, (200, 60, 20))).max() <= 2


def test_a_palette_has_the_colours_of_its_profile():
    icc = WIDE["channels swapped"]
    palette = encoded_in(icc, Image.new("RGB", (4, 4), (200, 60, 20))).quantize(4)
    found = load_image(saved(palette, "PNG", icc_profile=icc))[0].getpixel((0, 0))
    assert np.abs(np.subtract(found, (200, 60, 20))).max() <= 3


@pytest.mark.parametrize(
    "icc",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        WIDE["Display P3"][:200],
        b"no profile at all",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
    ids=["sRGB", "cut off", "senseless", "of other channels"],
)
def test_a_profile_that_says_nothing_new_leaves_every_pixel_as_it_is(icc):
    assert load_image(saved(photo(), "PNG", icc_profile=icc))[0] == photo()
    assert load_image(saved(photo().convert("L"), "PNG", icc_profile=icc))[0] == photo().convert(
        "L"
    ).convert("RGB")


def bare(icc, picture):
    """The same colours in other numbers, without the profile that says so."""
    picture = encoded_in(icc, picture)
    picture.info = {}
    return picture


def stated(values):
    """PNG's numbers of 32 bits."""
    return struct.pack(f">{len(values)}I", *(round(value * 1e5) for value in values))


CHROMATICITIES = {
    "Adobe RGB": (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06),
    "ProPhoto RGB": (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001),
    "channels swapped": (0.3127, 0.329, 0.15, 0.06, 0.64, 0.33, 0.3, 0.6),
}


@pytest.mark.parametrize("name", CHROMATICITIES)
def test_a_png_may_state_its_colours_by_numbers(name):
    data = saved(bare(WIDE[name], muted()), "PNG")
    gamma = 1 / 1.8 if name == "ProPhoto RGB" else 1 / 2.2
    chunks = chunk(b"gAMA", stated([gamma])) + chunk(b"cHRM", stated(CHROMATICITIES[name]))
    assert difference(load_image(data[:33] + chunks + data[33:])[0], muted()) < 1.5
    assert difference(load_image(data)[0], muted()) > 2.5


@pytest.mark.parametrize("gamma", [1, 1 / 1.8])
def test_so_may_it_state_its_gamma(gamma):
    icc = profile(*SRGB, 1 / gamma)
    data = saved(bare(icc, muted()), "PNG")
    side = chunk(b"gAMA", stated([gamma]))
    assert difference(load_image(data[:33] + side + data[33:])[0], muted()) < 1
    assert difference(load_image(data)[0], muted()) > 10
    icc_and_gamma = saved(encoded_in(WIDE["channels swapped"], muted()), "PNG")
    assert difference(load_image(icc_and_gamma[:33] + side + icc_and_gamma[33:])[0], muted()) < 2


@pytest.mark.parametrize(
    "side",
    [
        chunk(b"gAMA", stated([0.45455])),
        chunk(b"gAMA", stated([0])),
        chunk(b"gAMA", b"\xff" * 4),
        chunk(b"cHRM", bytes(32)),
        chunk(b"cHRM", b"\xff" * 32),
        chunk(b"gAMA", stated([0.45455]))
        + chunk(b"cHRM", stated([0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06])),
        chunk(b"sRGB", b"\0") + chunk(b"gAMA", stated([1])),
        chunk(b"cICP", bytes([1, 13, 0, 1])) + chunk(b"gAMA", stated([1])),
        chunk(b"cICP", bytes([2, 2, 0, 1])),
    ],
)
def test_numbers_that_mean_srgb_or_nothing_leave_every_pixel_as_it_is(side):
    data = saved(photo(), "PNG")
    assert load_image(data[:33] + side + data[33:])[0] == photo()


@pytest.mark.parametrize("kind", ["PNG", "AVIF", "HEIF"])
def test_display_p3_may_be_stated_by_numbers(kind):
    numbers = {}
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
        numbers = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6}
    data = saved(bare(WIDE["Display P3"], muted()), kind, quality=97, **numbers)
    if kind == "PNG":
        data = data[:33] + chunk(b"cICP", bytes([12, 13, 0, 1])) + data[33:]
    elif kind == "AVIF":
        place = data.index(b"colrnclx") + 8
        data = data[:place] + struct.pack(">HH", 12, 13) + data[place + 4 :]
    assert difference(load_image(data)[0], muted()) < 2.2
    assert difference(bare(WIDE["Display P3"], muted()), muted()) > 2.5


@pytest.mark.parametrize(
    ("space", "interoperability", "is_adobe"),
    [(2, None, True), (0xFFFF, "R03", True), (0xFFFF, "R98", False), (1, None, False)],
)
def test_cameras_state_adobe_rgb_in_exif(space, interoperability, is_adobe):
    part = {0xA005: {1: interoperability}} if interoperability else {}
    tags = tagged(exif={0xA001: space, **part})
    data = saved(bare(WIDE["Adobe RGB"], muted()), "JPEG", quality=97, exif=tags)
    assert (difference(load_image(data)[0], muted()) < 2) == is_adobe


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_shown_as_a_person_sees_paper(transfer, name):
    linear = np.array([0.02, 0.1, 0.3, 0.6, 1.0]) * 203  # cd/m²
    if name == "PQ":
        powered = (linear / 10_000) ** 0.1593017578125
        levels = ((0.8359375 + 18.8515625 * powered) / (1 + 18.6875 * powered)) ** 78.84375
    else:
        scene = (linear / 1000) ** (1 / 1.2)
        levels = np.where(
            scene <= 1 / 12,
            np.sqrt(3 * scene),
            0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
        )
    grey = np.repeat((levels * 255).round().astype(np.uint8)[None, :, None], 3, axis=2)
    data = saved(Image.fromarray(grey), "PNG")
    data = data[:33] + chunk(b"cICP", bytes([9, transfer, 0, 1])) + data[33:]
    found = np.asarray(load_image(data)[0])[0]
    paper = linear / 203
    expected = 255 * np.where(paper <= 0.0031308, 12.92 * paper, 1.055 * paper ** (1 / 2.4) - 0.055)
    assert np.abs(found - expected[:, None]).max() < 6  # eight bits are few for HDR


def test_a_picture_in_lab_is_read():
    lab = ImageCms.profileToProfile(
        muted(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert difference(load_image(saved(lab, "TIFF"))[0], muted()) < 3


# ---------------------------------------------------------------------- unusual pixels


def tiff(pixels, photometric, order="<", planar=True, predictor=1, more=()):
    """A TIFF of (channels, height, width) of any type, deflated; a strip a channel, or 20 rows."""
    channels, height, width = pixels.shape
    unsigned = pixels.view(f"u{pixels.itemsize}")
    stored = list(unsigned) if planar else [np.moveaxis(unsigned, 0, 2)]
    if predictor == 2:
        stored = [np.diff(one, axis=1, prepend=np.zeros_like(one[:, :1])) for one in stored]
    elif predictor == 3:  # the bytes of all numbers of a row apart, the highest ones first
        apart = [one.astype(one.dtype.newbyteorder(">")).view(np.uint8) for one in stored]
        apart = [one.reshape(height, -1, pixels.itemsize).swapaxes(1, 2) for one in apart]
        apart = [one.reshape(height, -1, 1 if planar else channels) for one in apart]
        stored = [np.diff(one, axis=1, prepend=np.zeros_like(one[:, :1])) for one in apart]
    rows = height if planar else 20
    pieces = [one[at : at + rows] for one in stored for at in range(0, height, rows)]
    pieces = [zlib.compress(one.astype(one.dtype.newbyteorder(order)).tobytes()) for one in pieces]
    starts = 8 + np.cumsum([0] + [len(one) for one in pieces])
    data = b"".join(pieces) + bytes(starts[-1] % 2)
    tags = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * channels, 259: [8]}
    tags |= {262: [photometric], 273: starts[:-1].tolist(), 277: [channels], 278: [rows]}
    tags |= {279: [len(one) for one in pieces], 284: [2 if planar else 1], 317: [predictor]}
    tags |= {339: ["?uif".index(pixels.dtype.kind)] * channels, **dict(more)}
    end = 8 + len(data) + 2 + 12 * len(tags) + 4
    entries = tail = b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, tail = struct.pack(order + "I", end + len(tail)), tail + packed
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data))
    return head + data + struct.pack(order + "H", len(tags)) + entries + bytes(4) + tail


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [True, False])
def test_a_tiff_of_16_bits_may_store_its_channels_one_after_the_other(order, planar):
    pixels = np.moveaxis(np.asarray(photo()), 2, 0).astype(np.uint16) * 257
    picture, info = load_image(tiff(pixels, 2, order, planar))
    assert (info.width, info.height) == (96, 64)
    assert difference(picture, photo()) == 0


def test_so_may_one_in_cmyk():
    pixels = np.moveaxis(np.asarray(photo().convert("CMYK")), 2, 0).astype(np.uint16) * 257
    assert difference(load_image(tiff(pixels, 5))[0], photo()) == 0


def test_a_deep_grey_whose_least_value_is_white_is_no_negative():
    ramp = np.array([[[0, 257, 32896, 65535]]], np.uint16)
    assert np.asarray(load_image(tiff(ramp, 0, planar=False))[0])[0, :, 0].tolist() == [
        255,
        254,
        127,
        0,
    ]
    assert np.asarray(load_image(tiff(ramp, 1, planar=False))[0])[0, :, 0].tolist() == [
        0,
        1,
        128,
        255,
    ]


TYPES = {
    "i1": lambda grey: (grey * 255).round() - 128,
    "u2": lambda grey: (grey * 65535).round(),
    "u4": lambda grey: (grey * 65535).round(),
    "i2": lambda grey: (grey * 65535).round() - 32768,
    "f2": lambda grey: grey,
    "f4": lambda grey: grey,
    "f8": lambda grey: grey * 255,
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("kind", TYPES)
def test_a_tiff_in_colour_may_have_samples_of_any_type(kind, planar, order):
    pixels = TYPES[kind](np.moveaxis(np.asarray(photo(41, 27)), 2, 0) / 255).astype(kind)
    picture, info = load_image(tiff(pixels, 2, order, planar))
    assert (info.width, info.height) == (41, 27)
    assert difference(picture, photo(41, 27)) < 0.6


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "u4", "i2"])
def test_so_may_one_that_stores_differences(kind, order):
    pixels = TYPES[kind](np.moveaxis(np.asarray(photo()), 2, 0) / 255).astype(kind)
    assert difference(load_image(tiff(pixels, 2, order, False, 2))[0], photo()) < 0.6


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_so_may_floats_of_photo_editors(kind, planar, order):
    pixels = TYPES[kind](np.moveaxis(np.asarray(photo()), 2, 0) / 255).astype(kind)
    assert difference(load_image(tiff(pixels, 2, order, planar, 3))[0], photo()) < 0.6


@pytest.mark.parametrize("kind", [*TYPES, "u8"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_so_may_a_grey_one(kind, photometric, order):
    ramp = np.linspace(0, 1, 256)[None, None, :].repeat(3, axis=1)
    values = (ramp * 65535).round() if kind == "u8" else TYPES[kind](ramp)
    found = np.asarray(load_image(tiff(values.astype(kind), photometric, order, False))[0])
    expected = np.arange(256) if photometric else np.arange(255, -1, -1)
    assert np.abs(found[0, :, 0].astype(int) - expected).max() <= 1


def test_a_tiff_of_rare_samples_has_its_alpha_its_profile_and_its_exif():
    grey = np.full((27, 41), 40000, np.uint16)
    alpha = np.repeat(np.uint16([[0] * 20 + [65535] * 21]), 27, axis=0)
    data = tiff(np.stack([grey, alpha]), 1, planar=False, more={338: [2], ORIENTATION: [6]})
    picture, info = load_image(data)
    assert (info.width, info.height) == picture.size == (27, 41)
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((0, 40)) == (156, 156, 156)


def test_a_grey_tiff_may_state_wrong_sizes_of_strips():
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]] * 5, np.uint16))
    data = saved(deep, "TIFF")
    size = struct.pack("<HHII", 279, 4, 1, 40)
    assert size in data
    for wrong in (0, 12, 400_000):
        loaded, _ = load_image(data.replace(size, struct.pack("<HHII", 279, 4, 1, wrong)))
        assert np.asarray(loaded)[4, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_tiff_of_rare_samples_is_refused(kept):
    data = tiff(np.random.default_rng(0).random((3, 64, 96), np.float32), 2, planar=False)
    assert refused(data[: int(kept * len(data))]) in ("truncated", "damaged")


def test_12_bits_of_16_are_as_bright_as_they_were_seen():
    ramp = np.linspace(0, 4095, 256).round().astype(np.uint16)[None, None, :].repeat(3, axis=1)
    for pixels, photometric in ((ramp, 1), (ramp.repeat(3, axis=0), 2)):
        found = np.asarray(load_image(tiff(pixels, photometric))[0])
        assert np.abs(found[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    dark = saved(Image.fromarray(ramp[0]), "PNG")  # which says what white is
    assert np.asarray(load_image(dark)[0]).max() == 15


def bmp(alpha):
    """A BMP of 32 bits a pixel with a mask for alpha (BITMAPV4HEADER)."""
    pixels = np.asarray(photo().transpose(Image.Transpose.FLIP_TOP_BOTTOM))[:, :, ::-1]
    pixels = np.concatenate([pixels, np.full((64, 96, 1), alpha, np.uint8)], axis=2).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 96, 64, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    head += b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(pixels), 0, 0, 122) + head + pixels


def test_a_bmp_whose_alpha_was_never_filled_in_is_opaque():
    assert difference(load_image(bmp(255))[0], photo()) == 0
    assert difference(load_image(bmp(0))[0], photo()) == 0


# ---------------------------------------------------------------------- faults that cost no pixel


SIDE_CHUNKS = {
    "a wrong checksum": chunk(b"tEXt", b"Comment\0hello", b"oops"),
    "large text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))),
    "large metadata": chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * (2 << 20))
    ),
    "a large profile": chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(2 << 20))),
    "a damaged profile": chunk(b"iCCP", b"name\0\0oops"),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "a short size": chunk(b"pHYs", b"\0\0"),
    "short colours": chunk(b"cHRM", b"\0" * 7),
    "an empty rendering intent": chunk(b"sRGB", b""),
    "an unknown one": chunk(b"abCd", b"?", b"oops"),
}


@pytest.mark.parametrize("side", SIDE_CHUNKS.values(), ids=SIDE_CHUNKS)
@pytest.mark.parametrize("place", [33, -12])
def test_a_side_chunk_of_a_png_never_costs_the_picture(side, place):
    exif = tagged(main={ORIENTATION: 6, 0x0110: "Phone 5"})
    data = saved(turned(photo(), 6), "PNG", exif=exif)
    picture, info = load_image(data[:place] + side + data[place:])
    assert difference(picture, photo()) == 0
    assert info.camera == "Phone 5"


def test_the_colours_that_a_png_states_outlive_a_fault_elsewhere():
    data = saved(bare(WIDE["Adobe RGB"], muted()), "PNG")
    colours = chunk(b"gAMA", stated([1 / 2.2])) + chunk(
        b"cHRM", stated(CHROMATICITIES["Adobe RGB"])
    )
    fault = chunk(b"tEXt", b"Comment\0hello", b"oops")
    assert difference(load_image(data[:33] + colours + fault + data[33:])[0], muted()) < 1.5


@pytest.mark.parametrize("lost", [4, 12, 16])
def test_a_png_without_its_end_is_whole(lost):
    assert load_image(saved(photo(), "PNG")[:-lost])[0] == photo()


def test_a_png_that_lacks_one_of_several_pieces_is_refused():
    data = saved(photo(), "PNG")
    packed = data[41:-16]
    first = chunk(b"IDAT", packed[: len(packed) // 2])
    assert refused(data[:33] + first) == "truncated"
    assert refused(data[:33] + first + chunk(b"tEXt", b"a", b"oops")) == "truncated"
    rest = chunk(b"IDAT", packed[len(packed) // 2 :])
    assert load_image(data[:33] + first + rest)[0] == photo()


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("at_least", [None, 16])
@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
def test_a_jpeg_that_lacks_nothing_but_its_end_marker_is_whole(lost, at_least, how):
    data = saved(photo(200, 140), "JPEG", **how)
    whole, _ = load_image(data, at_least=at_least)
    assert load_image(data[:-lost], at_least=at_least)[0] == whole


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
def test_a_jpeg_that_lacks_pixels_is_refused(how):
    data = saved(photo(200, 140), "JPEG", **how)
    for lost in (*range(4, 40), 100, 500, 1000):
        assert refused(data[:-lost]) == "truncated"


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("at_least", [None, 8])
def test_a_truncated_jpeg_is_refused_with_its_reason(progressive, at_least):
    data = saved(photo(), "JPEG", progressive=progressive)
    assert refused(data[: len(data) * 2 // 3], at_least=at_least) == "truncated"


@pytest.mark.parametrize(
    "kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM"]
)
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
