# Cameras write local times without a zone, so these have none.
# ruff: noqa: DTZ001
"""JPEG XL, icons, TGA, JPEG 2000 and PNM: what they show, and that nothing hangs or is guessed."""

import io
import struct
import sys
import warnings
from datetime import datetime
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from test_image import difference, photo, refused, saved, tagged

from mmsearch.errors import MissingExtra, TooLarge
from mmsearch.media.facts import of_photo
from mmsearch.media.image import decoder_of, load_image
from mmsearch.media.kinds import endings_of

PHOTO = photo()
ORIENTATION, TAKEN = 0x0112, 0x9003


def cut_is_refused(data, parts=(0.0, 0.01, 0.1, 0.3, 0.6, 0.9)):
    for part in parts:
        why = refused(data[: int(len(data) * part)])
        assert why in ("truncated", "damaged", "not an image", "0 bytes")


# ---------------------------------------------------------------------- JPEG XL


@pytest.fixture(scope="module")
def jxl():
    """Makes a JPEG XL of a picture."""
    pytest.importorskip("pillow_jxl")

    def make(picture=PHOTO, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return saved(picture, "JXL", **{"lossless": True, **options})

    return make


@pytest.fixture(scope="module")
def of_jpeg(jxl, tmp_path_factory):
    """A JPEG to be turned, and the JPEG XL that it becomes without loss."""
    path = tmp_path_factory.mktemp("jpeg") / "a.jpg"
    exif = tagged(main={ORIENTATION: 6}, exif={TAKEN: "2021:07:04 12:34:56"})
    path.write_bytes(saved(PHOTO, "JPEG", quality=95, exif=exif))
    with Image.open(path) as opened:
        return path.read_bytes(), jxl(opened, lossless_jpeg=True)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("container", [False, True], ids=["bare", "container"])
def test_jpeg_xl_is_read(jxl, mode, container):
    picture = PHOTO.convert(mode)
    if mode.endswith("A"):
        picture.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
    data = jxl(picture, use_container=container)
    assert difference(load_image(data)[0], load_image(saved(picture, "PNG"))[0]) < 1


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_jpeg_xl_of_many_levels_is_read_by_its_profile(jxl, kind):
    # its encoder states a linear profile for these
    grey = np.asarray(PHOTO.convert("L"), np.float64) / 255
    linear = np.where(grey < 0.04045, grey / 12.92, ((grey + 0.055) / 1.055) ** 2.4)
    values = (linear * (65535 if kind is np.uint16 else 1)).astype(kind)
    picture, _ = load_image(jxl(Image.fromarray(values)))
    assert difference(picture, PHOTO.convert("L").convert("RGB")) < 4


def test_a_dark_jpeg_xl_of_16_bits_stays_dark(jxl):
    dark = Image.fromarray(np.full((16, 16), 3000, np.uint16))
    assert load_image(jxl(dark))[0].getpixel((3, 3))[0] < 70  # linear, too


def test_a_jpeg_xl_made_of_a_jpeg_is_turned_once_and_has_its_exif(of_jpeg):
    jpeg, data = of_jpeg
    expected, info = load_image(jpeg)
    assert load_image(data)[1] == info
    assert info.taken_at == datetime(2021, 7, 4, 12, 34, 56)
    assert difference(load_image(data)[0], expected) == 0
    assert load_image(data, at_least=8)[0].size == load_image(jpeg, at_least=8)[0].size


def test_a_jpeg_xl_is_turned_by_its_codestream_alone(of_jpeg):
    jpeg, data = of_jpeg
    at = data.index(b"jbrd") - 4
    pixels = data[:at] + data[at + int.from_bytes(data[at : at + 4], "big") :]
    picture, info = load_image(pixels)
    assert (info.width, info.height) == (64, 96)
    assert difference(picture, load_image(jpeg)[0]) < 2


def test_orientation_in_the_exif_of_a_jpeg_xl_is_not_applied(jxl):
    exif = tagged(main={ORIENTATION: 6}, exif={TAKEN: "2021:07:04 12:34:56"}).tobytes()
    picture, info = load_image(jxl(exif=exif, use_container=True))
    assert info.taken_at == datetime(2021, 7, 4, 12, 34, 56)
    assert difference(picture, PHOTO) == 0


def test_the_facts_of_a_jpeg_xl_are_known_without_its_pixels(jxl):
    exif = tagged(main={ORIENTATION: 6}, exif={TAKEN: "2021:07:04 12:34:56"}).tobytes()
    xmp = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
        xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
        xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>"""
    facts = of_photo(jxl(exif=exif, xmp=xmp, use_container=True))
    assert facts.taken_at == datetime(2021, 7, 4, 12, 34, 56)
    assert facts.facts == {"rating": 4}
    assert of_photo(jxl()).facts == {}


def test_a_truncated_jpeg_xl_is_refused(jxl, of_jpeg, capfd):
    for data in (jxl(), jxl(use_container=True), of_jpeg[1]):
        cut_is_refused(data)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("width", "height"), [(2**30, 2**30), (2**18, 2**18), (20_000, 20_000), (8, 2**30)]
)
@pytest.mark.parametrize("container", [False, True])
def test_a_bomb_in_jpeg_xl_is_refused_by_its_header(width, height, container):
    # not small; 30 bits of height; no ratio; 30 bits of width
    bits = 3 << 1 | (height - 1) << 3 | 3 << 36 | (width - 1) << 38
    stream = b"\xff\x0a" + bits.to_bytes(16, "little") + bytes(50)
    if container:
        box = struct.pack(">I4s", len(stream) + 8, b"jxlc") + stream
        stream = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl " + box
    with pytest.raises(TooLarge):
        load_image(stream)


@pytest.mark.parametrize("width", [1, 8, 96, 256, 300, 9000])
@pytest.mark.parametrize("height", [1, 64, 8])
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(jxl, width, height):
    from mmsearch.media.jpeg_xl import size_of

    for container in (False, True):
        data = jxl(Image.new("L", (width, height)), use_container=container)
        assert size_of(io.BytesIO(data)) == (width, height)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 2**32 - 1])
def test_boxes_of_nonsense_sizes_are_refused(size):
    box = struct.pack(">I4s", size, b"free")
    for boxes in (box, box * 5000, box + b"\xff" * 8):
        assert refused(b"\0\0\0\x0cJXL \r\n\x87\n" + boxes) in ("truncated", "damaged")


def test_without_its_package_jpeg_xl_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setattr(
        "mmsearch.media.kinds.find_spec",
        lambda name: None if name == "pillow_jxl" else find_spec(name),
    )
    with pytest.raises(MissingExtra, match=r"mmsearch\[jxl\]"):
        load_image(b"\xff\x0a" + bytes(50))
    assert ".jxl" not in endings_of({"image"})


# ---------------------------------------------------------------------- icons


def icon(*pictures, kind="png"):
    """An icon of pictures, the stated sizes of which are right up to 256."""
    bodies = []
    for picture in pictures:
        if kind == "png":
            bodies.append(saved(picture, "PNG"))
        else:
            data = bytearray(saved(picture, "DIB"))
            data[8:12] = struct.pack("<i", 2 * picture.height)
            bodies.append(bytes(data) + bytes(picture.height * ((picture.width + 31) // 32 * 4)))
    head, at = struct.pack("<HHH", 0, 1, len(pictures)), 6 + 16 * len(pictures)
    for picture, body in zip(pictures, bodies, strict=True):
        sides = (side % 256 for side in picture.size)
        head += struct.pack("<BBxxHHII", *sides, 1, 24, len(body), at)
        at += len(body)
    return head + b"".join(bodies)


@pytest.mark.parametrize("kind", ["png", "dib"])
def test_of_an_icon_the_largest_picture_is_read(kind):
    sizes = ((32, 32), (128, 128), (48, 48))
    data = icon(*(PHOTO.resize(size) for size in sizes), kind=kind)
    picture, info = load_image(data)
    assert (info.width, info.height) == (128, 128)
    assert difference(picture, PHOTO.resize((128, 128))) == 0


def test_of_pictures_of_one_size_an_icon_shows_that_with_the_most_colours():
    data = bytearray(icon(Image.new("RGB", (32, 32), "black"), PHOTO.resize((32, 32))))
    data[6 + 6] = 4  # bits a pixel
    assert difference(load_image(bytes(data))[0], PHOTO.resize((32, 32))) == 0


def test_an_icon_is_on_white():
    picture = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert load_image(saved(picture, "ICO"))[0].getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["png", "dib"])
def test_a_truncated_icon_is_refused(kind):
    cut_is_refused(icon(PHOTO.resize((64, 64)), kind=kind))


def test_an_icon_without_pictures_or_that_contains_itself_is_refused():
    assert refused(b"\0\0\1\0\0\0") == "damaged"
    entry = struct.pack("<BBxxHHII", 0, 0, 1, 32, 1000, 0)
    assert refused(b"\0\0\1\0\1\0" + entry + bytes(2000)) in ("truncated", "damaged")
    assert refused(b"\0\0\1\0\xff\xff" + entry * 20) in ("truncated", "damaged")


def test_a_bomb_in_an_icon_is_refused_before_it_is_decoded():
    png = bytearray(icon(PHOTO.resize((64, 64))))
    at = png.index(b"IHDR") + 4
    png[at : at + 8] = struct.pack(">II", 30_000, 30_000)
    dib = bytearray(icon(PHOTO.resize((64, 64)), kind="dib"))
    dib[22 + 4 : 22 + 12] = struct.pack("<ii", 30_000, 60_000)
    for data in (png, dib):
        with pytest.raises(TooLarge, match="900 megapixels"):
            load_image(bytes(data))


# ---------------------------------------------------------------------- TGA


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("compression", [None, "tga_rle"])
@pytest.mark.parametrize("orientation", [-1, 1])
def test_a_tga_is_read(mode, compression, orientation):
    picture = PHOTO.convert(mode)
    data = saved(picture, "TGA", compression=compression, orientation=orientation)
    assert decoder_of(io.BytesIO(data)) == "TGA"
    assert difference(load_image(data)[0], picture.convert("RGB")) == 0


def test_alpha_that_is_zero_everywhere_is_unused():
    picture = PHOTO.convert("RGBA")
    picture.putalpha(0)
    assert difference(load_image(saved(picture, "TGA"))[0], PHOTO) == 0


def test_a_truncated_tga_is_refused():
    for compression in (None, "tga_rle"):
        cut_is_refused(saved(PHOTO, "TGA", compression=compression))


def test_a_bomb_in_tga_is_refused():
    data = bytearray(saved(PHOTO, "TGA"))
    data[12:16] = b"\xff" * 4
    with pytest.raises(TooLarge):
        load_image(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        bytes(100),
        b"\0\0\2\0\1\0\x20\x20\0\0\0\0\x30\1\0\0\x16\0" + bytes(300),  # a cursor
        b"\0\0\2" + bytes(9) + b"\0\0\x10\0\x18\0" + bytes(99),  # no width
        b"\0\0\2" + bytes(9) + b"\x10\0\x10\0\x18\xc0" + bytes(99),  # flags that are not used
        b"\0\0\2" + bytes(9) + b"\x10\0\x10\0\x07\0" + bytes(99),  # seven bits a pixel
        b"\0\0\2\1" + bytes(8) + b"\x10\0\x10\0\x18\0" + bytes(99),  # a palette that it has not
        b"\0\1\0\0\0\x0d\0\x80\0\3\0\x50OS/2" + bytes(99),  # a font
        b"\0\0\1\xba" + bytes(99),  # MPEG
        b"hello, this is a text of some length",
    ],
)
def test_what_does_not_begin_like_a_tga_is_none(data):
    assert refused(data) == "not an image"


# ---------------------------------------------------------------------- JPEG 2000 and PNM


@pytest.mark.parametrize("bare", [False, True])
def test_a_truncated_jpeg_2000_is_refused(bare):
    cut_is_refused(saved(PHOTO, "JPEG2000", no_jp2=bare))


@pytest.mark.parametrize("bare", [False, True])
def test_a_bomb_in_jpeg_2000_is_refused_before_it_is_decoded(bare):
    data = bytearray(saved(PHOTO, "JPEG2000", no_jp2=bare))
    at = data.index(b"\xff\x51") + 6
    data[at : at + 8] = struct.pack(">II", 100_000, 100_000)
    if not bare:
        at = data.index(b"ihdr") + 4
        data[at : at + 8] = struct.pack(">II", 100_000, 100_000)
    with pytest.raises(TooLarge):
        load_image(bytes(data))


def test_alpha_and_16_bits_of_jpeg_2000_are_read():
    clear = PHOTO.convert("RGBA")
    clear.putalpha(0)
    white = Image.new("RGB", PHOTO.size, "white")
    assert difference(load_image(saved(clear, "JPEG2000"))[0], white) == 0
    grey = np.asarray(PHOTO.convert("L"))
    many = Image.fromarray(grey.astype(np.uint16) * 257)
    read, _ = load_image(saved(many, "JPEG2000"))
    assert difference(read, PHOTO.convert("L").convert("RGB")) < 1


def test_a_float_map_is_read():
    grey = np.asarray(PHOTO.convert("L"), np.float32) / 255
    read, _ = load_image(saved(Image.fromarray(grey), "PPM"))
    assert difference(read, PHOTO.convert("L").convert("RGB")) < 1


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "F"])
def test_a_truncated_pnm_is_refused(mode):
    cut_is_refused(saved(PHOTO.convert(mode), "PPM"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P6\n99999 99999\n255\n", "too large"),
        (b"P3\n99999 99999\n255\n1 2 3", "too large"),
        (b"P6\n0 0\n255\n", "damaged"),
        (b"P6\n10 10\n0\n" + bytes(300), "damaged"),
        (b"P6\n-3 10\n255\n" + bytes(300), "damaged"),
        (b"P6\n" + b"9" * 5000, "damaged"),
        (b"P6 #" + b"x" * 5000, "damaged"),
        (b"P2\n2 2\n255\n1 2 3", "truncated"),
        (b"P2\n2 2\n255\n1 2 3 9999", "damaged"),
        (b"Pf\n2 2\n0\n" + bytes(16), "damaged"),
    ],
)
def test_a_pnm_of_nonsense_is_refused(data, reason):
    assert refused(data).startswith(reason) or refused(data) in ("truncated", "damaged")
