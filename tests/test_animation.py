"""Animated pictures: a vector for each shot; damaged, odd and huge ones; what is no animation."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, paint
from PIL import Image, features

import mmsearch
from mmsearch import Query, Span
from mmsearch.errors import UnreadableFile
from mmsearch.media import animation
from mmsearch.media.image import load_image

ENDINGS = {"GIF": ".gif", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif"}
THREE = (("red", 2.0), ("blue", 2.0), ("green", 3.0))


@pytest.fixture(params=ENDINGS)
def form(request):
    if request.param == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    return request.param


def animated(form, *parts, fps=5, size=(64, 48), **options):
    """The bytes of an animation of coloured scenes, (colour, seconds) each."""
    pictures = []
    for colour, seconds in parts:
        for number in range(round(seconds * fps)):
            picture = Image.new("RGB", size, COLOURS.get(colour, colour))
            picture.putpixel((number % size[0], 0), (number, 0, 0))  # else frames are merged
            pictures.append(picture)
    return saved(form, pictures, duration=round(1000 / fps), **options)


def saved(form, pictures, **options):
    out = io.BytesIO()
    if form == "WEBP":
        options = {"lossless": True, **options}
    pictures[0].save(out, form, save_all=True, append_images=pictures[1:], **options)
    return out.getvalue()


def gif(*frames, screen=(40, 30)):
    """A GIF of (place, size, colour 0–3, hundredths of a second, disposal); 3 is transparent."""
    palette = b"".join(bytes(COLOURS[name]) for name in ("red", "green", "blue", "white"))
    data = b"GIF89a" + struct.pack("<HH", *screen) + b"\x81\0\0" + palette
    for place, size, colour, hundredths, disposal in frames:
        data += b"!\xf9\4" + struct.pack("<BHBB", disposal << 2 | 1, hundredths, 3, 0)
        data += b"," + struct.pack("<HHHHB", *place, *size, 0)
        data += b"\2" + _in_blocks(_unpacked_lzw(size[0] * size[1], colour))
    return data + b";"


def _unpacked_lzw(pixels, colour):
    """Codes of 3 bits, cleared before they would grow: LZW that packs nothing."""
    codes = [code for at in range(pixels) for code in ([4, colour], [colour])[at % 2]] + [5]
    bits = sum(code << 3 * at for at, code in enumerate(codes))
    return bits.to_bytes(3 * len(codes) // 8 + 1, "little")


def _in_blocks(data):
    pieces = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def shots(data, **options):
    """(colour, start, end) of each frame that was found."""
    found = animation.frames(data, **{"at_least": 8, **options})
    return [(colour_of(frame.picture), frame.span.start, frame.span.end) for frame in found]


def colour_of(picture):
    """The name of the colour in the middle of a picture; else its levels."""
    levels = picture.getpixel((picture.width // 2, picture.height // 2))
    near = (name for name, rgb in COLOURS.items() if np.abs(np.subtract(levels, rgb)).max() < 6)
    return next(near, levels)


def index_of(tmp_path, **files):
    """An index of some files, given by name with "_" for the dot before the ending."""
    folder = tmp_path / "pictures"
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_bytes(data)
    return mmsearch.index(folder, tmp_path / "idx")


# ---------------------------------------------------------------------- shots


def test_an_animation_has_a_frame_for_each_shot(form):
    assert shots(animated(form, *THREE)) == [
        ("red", 0.0, 2.0),
        ("blue", 2.0, 4.0),
        ("green", 4.0, 7.0),
    ]


def test_a_still_picture_has_none(form, tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (40, 30), COLOURS["red"]).save(out, form)
    assert shots(out.getvalue()) == []
    assert animation.frame_at(out.getvalue(), 1.0, at_least=8) is None


def test_the_picture_of_a_moment(form):
    data = animated(form, *THREE)
    found = [
        colour_of(animation.frame_at(data, at, at_least=8)) for at in (0, 1.9, 2.0, 4.1, 6.9, 9e9)
    ]
    assert found == ["red", "red", "blue", "green", "green", "green"]


def test_a_long_frame_after_a_short_one_is_seen():
    pictures = [Image.new("RGB", (40, 30), COLOURS[name]) for name in ("red", "green", "blue")]
    data = saved("GIF", pictures, duration=[2000, 40, 3000])
    assert [shot[0] for shot in shots(data)] == ["red", "blue"]


@pytest.mark.parametrize("duration", [0, 10])
def test_frames_without_a_duration_last_a_tenth_of_a_second_as_in_browsers(duration):
    pictures = [Image.new("RGB", (40, 30), COLOURS["red"])] * 10
    pictures += [Image.new("RGB", (40, 30), COLOURS["blue"])] * 10
    for at, picture in enumerate(pictures):
        pictures[at] = picture.copy()
        pictures[at].putpixel((at, 0), (0, 0, 0))
    data = saved("GIF", pictures, duration=duration)
    assert shots(data) == [("red", 0.0, 1.0), ("blue", 1.0, 2.0)]


def test_a_picture_for_programs_without_animations_is_no_frame():
    pictures = [Image.new("RGB", (40, 30), COLOURS[name]) for name in ("white", "red", "blue")]
    data = saved("PNG", pictures, default_image=True, duration=2000)
    assert shots(data) == [("red", 0.0, 2.0), ("blue", 2.0, 4.0)]
    assert colour_of(load_image(data)[0]) == "white"


def test_frames_are_upright_and_in_srgb_on_white():
    from mmsearch.media.colour import numbered_profile

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    pictures = []
    for colour in ((200, 100, 100, 255), (0, 0, 255, 0)):
        picture = Image.new("RGBA", (60, 40), colour)
        pictures.append(picture)
    data = saved("PNG", pictures, duration=2000, exif=exif, icc_profile=numbered_profile(12, 13))
    first, second = animation.frames(data, at_least=40)
    assert first.picture.size == second.picture.size == (40, 60)
    assert np.abs(np.subtract(first.picture.getpixel((20, 30)), (215, 94, 98))).max() < 6
    assert second.picture.getpixel((20, 30)) == (255, 255, 255)


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_every_disposal_of_gif_is_followed(disposal):
    whole, part = ((0, 0), (40, 30)), ((10, 5), (20, 20))
    data = gif((*whole, 0, 200, 1), (*part, 2, 200, disposal), ((0, 0), (2, 2), 2, 200, 1))
    found = [colour_of(animation.frame_at(data, at, at_least=8)) for at in (1, 3, 5)]
    last = {0: "blue", 1: "blue", 2: "white", 3: "red"}[disposal]  # on white, where it is clear
    assert found == ["red", "blue", last]


@pytest.mark.parametrize("disposal", [0, 1, 2])
@pytest.mark.parametrize("blend", [0, 1])
def test_every_disposal_and_blending_of_png_is_followed(disposal, blend):
    pictures = [Image.new("RGBA", (40, 30), (*COLOURS[c], 255)) for c in ("red", "blue", "green")]
    data = saved("PNG", pictures, duration=2000, disposal=disposal, blend=blend)
    assert [shot[0] for shot in shots(data)] == ["red", "blue", "green"]


def test_a_frame_that_extends_the_picture_is_shown():
    data = gif(((0, 0), (40, 30), 0, 200, 1), ((0, 0), (60, 50), 2, 200, 1))
    assert [shot[0] for shot in shots(data)] == ["red", "blue"]


# ---------------------------------------------------------------------- the index


def test_each_shot_has_a_vector_and_a_hit_names_its_moment(toy, form, tmp_path):
    name = f"a_{ENDINGS[form][1:]}"
    with index_of(tmp_path, **{name: animated(form, *THREE)}) as library:
        assert library.status()["vectors"]["image"] == 3
        [hit] = library.search("blue", k=1)
        assert (hit.modality, hit.span) == ("image", Span(2, 4, "second"))
        assert hit.metadata["seconds"] == 7
        assert hit.metadata["width"] == 64
        spans = [one.span for one in library.search("blue", spans=True)]
        assert sorted(span.start for span in spans) == [0, 2, 4]


def test_an_animation_of_one_shot_has_one_vector_and_no_moment(toy, form, tmp_path):
    name = f"a_{ENDINGS[form][1:]}"
    data = animated(form, ("red", 2.0))
    with index_of(tmp_path, **{name: data}) as library:
        assert library.status()["vectors"]["image"] == 1
        [hit] = library.search("red", k=1)
        assert (hit.span, hit.metadata["seconds"]) == (None, 2)


def test_still_pictures_among_animations_have_no_moment(toy, tmp_path):
    still = io.BytesIO()
    Image.new("RGB", (64, 48), COLOURS["blue"]).save(still, "GIF")
    with index_of(tmp_path, a_gif=animated("GIF", *THREE), b_gif=still.getvalue()) as library:
        found = {Path(hit.path).name: hit for hit in library.search("blue", k=2)}
        assert found["a.gif"].span == Span(2, 4, "second")
        assert found["b.gif"].span is None
        assert "seconds" not in found["b.gif"].metadata


def test_an_animation_is_an_example_by_all_its_shots(toy, tmp_path):
    data = animated("GIF", ("red", 2.0), ("blue", 2.0))
    with index_of(tmp_path, a_gif=data, b_png=animated("PNG", *THREE)) as library:
        paint(tmp_path / "pictures" / "c.png", "red")
        library.add()
        [item] = [item for item in library.items if item.path.endswith("a.gif")]
        other = tmp_path / "other.gif"
        other.write_bytes(data)
        stored = {h.path: h.score for h in library.search(Query.item(item.id), target="image")}
        for query in (Query.image(other), Query.image(data)):
            read = {h.path: h.score for h in library.search(query, target="image")}
            assert read == pytest.approx(stored, abs=1e-3)
        assert Path(library.similar(other, k=1)[0].path).name == "a.gif"
        assert library.similar(item.path, k=2)


def test_an_animation_that_became_a_still_has_no_length_any_more(toy, tmp_path):
    with index_of(tmp_path, a_gif=animated("GIF", *THREE)) as library:
        Image.new("RGB", (40, 30), COLOURS["red"]).save(tmp_path / "pictures" / "a.gif")
        assert library.add().updated == 1
        [item] = library.items
        assert "seconds" not in item.metadata
        assert library.status()["vectors"]["image"] == 1


def test_a_second_model_is_given_the_shots_too(toy, tmp_path):
    index_of(tmp_path, a_gif=animated("GIF", *THREE)).close()
    with mmsearch.index(tmp_path / "pictures", tmp_path / "idx", model="second") as library:
        [hit] = library.search("green", k=1)
        assert hit.span == Span(4, 7, "second")


def test_an_index_from_before_is_not_read_again(toy, tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(animation, "frames", lambda *_, **__: iter(()))
        index_of(tmp_path, a_gif=animated("GIF", *THREE)).close()
    with mmsearch.open(tmp_path / "idx") as library:
        assert library.add().unchanged == 1
        [hit] = library.search("red", k=1)
        assert (hit.span, hit.metadata.get("seconds")) == (None, None)


# ---------------------------------------------------------------------- hostile files


def test_what_is_truncated_gives_the_frames_that_can_be_read(form):
    data = animated(form, *THREE)
    whole = [shot[0] for shot in shots(data)]
    for share in np.linspace(0.02, 0.98, 25):
        cut = data[: int(share * len(data))]
        found = [shot[0] for shot in shots(cut)]
        assert found == whole[: len(found)]
        try:
            load_image(cut)
        except UnreadableFile:
            assert form in ("AVIF", "WEBP") or share < 0.2


def test_whatever_bytes_are_wrong_no_other_error_is_raised(form):
    data = bytearray(animated(form, ("red", 1.0), ("blue", 1.0)))
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), 4):
            damaged[at] = random.integers(256)
        list(animation.frames(bytes(damaged), at_least=8))
        with suppress(UnreadableFile):
            animation.frame_at(bytes(damaged), 1.0, at_least=8)


def test_an_animation_that_is_truncated_in_a_frame_is_indexed_so_far_and_it_is_said(toy, tmp_path):
    data = animated("GIF", ("red", 2.0), ("blue", 2.0))
    at = data.rindex(b"!\xf9") + 25  # in the pixels of the last frame
    with index_of(tmp_path, a_gif=data[:at]) as library:
        [hit] = library.search("blue", k=1)
        assert hit.span.start == 2
        [warning] = library.report.warnings
        assert warning.startswith("truncated or damaged, and indexed as far as they can be read")


def test_an_endless_animation_is_cut(tmp_path):
    frames = [((0, 0), (2, 2), number % 2, 2, 1) for number in range(2)]
    data = gif(*frames, screen=(2, 2))
    start = data.index(b"!\xf9")
    many = data[:start] + data[start:-1] * 50_000 + b";"
    ends = [end for _, _, end in shots(many)]
    assert ends[-1] == pytest.approx(animation.MOST_FRAMES * 0.02)


def test_an_animation_of_too_many_pixels_is_cut(monkeypatch):
    monkeypatch.setattr(animation, "MOST_PIXELS", 12 * 64 * 48)
    assert shots(animated("GIF", *THREE))[-1][2] == pytest.approx(2.4)


def test_an_animation_of_days_is_cut():
    frames = [((0, 0), (2, 2), number % 2, 65535, 1) for number in range(200)]
    assert shots(gif(*frames, screen=(2, 2)))[-1][2] < animation.MOST_SECONDS + 656


def test_a_frame_that_extends_the_picture_to_a_bomb_is_left_out():
    data = gif(((0, 0), (40, 30), 0, 200, 1), ((0, 0), (40, 30), 2, 200, 1))
    at = data.rindex(b",\0\0\0\0")
    bomb = data[: at + 5] + struct.pack("<HH", 65535, 65535) + data[at + 9 :]
    assert [shot[0] for shot in shots(bomb)] == ["red"]
    assert colour_of(load_image(bomb)[0]) == "red"


def test_a_png_that_states_frames_that_it_does_not_have_gives_those_it_has():
    data = animated("PNG", ("red", 2.0), ("blue", 2.0))
    at = data.index(b"acTL")
    stated = data[at : at + 4] + struct.pack(">I", 2**31) + data[at + 8 : at + 12]
    data = data[:at] + stated + struct.pack(">I", zlib.crc32(stated)) + data[at + 16 :]
    broken = []
    found = shots(data, breaks_off=lambda: broken.append(True))
    assert [shot[0] for shot in found] == ["red", "blue"]
    assert broken


# ---------------------------------------------------------------------- no animations


def test_pages_sizes_and_bursts_are_no_animations(toy, tmp_path):
    pictures = [Image.new("RGB", (64, 64), COLOURS[name]) for name in ("red", "blue", "green")]
    files = {"pages_tif": saved("TIFF", pictures), "burst_mpo": saved("MPO", pictures)}
    out = io.BytesIO()
    pictures[0].save(out, "ICO", append_images=pictures[1:], sizes=[(64, 64), (32, 32)])
    assert shots(out.getvalue()) == []
    heif = pytest.importorskip("pillow_heif")
    burst = heif.from_pillow(pictures[0])
    for picture in pictures[1:]:
        burst.add_from_pillow(picture)
    out = io.BytesIO()
    burst.save(out, quality=95)
    files["burst_heic"] = out.getvalue()
    with index_of(tmp_path, **files) as library:
        assert library.status()["vectors"]["image"] == 3
        for hit in library.search("red", k=3):
            assert hit.span is None
            assert "seconds" not in hit.metadata


FILM = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\x10\0mdat" + bytes(range(256)) * 16
"""Enough of an MP4 to be taken for one."""

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:{}="1" '
    'GCamera:MicroVideoOffset="{}"/></rdf:RDF></x:xmpmeta>'
)


def motion_photos():
    """Photos with a film, as Google, Samsung and Google in HEIC write them, by name."""
    photo = Image.new("RGB", (64, 48), COLOURS["red"])
    for name in ("MicroVideo", "MotionPhoto"):
        out = io.BytesIO()
        photo.save(out, "JPEG", quality=95, xmp=XMP.format(name, len(FILM)).encode())
        yield f"{name}_jpg", out.getvalue() + FILM
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=95)
    yield (
        "samsung_jpg",
        out.getvalue()
        + b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data"
        + FILM
        + (
            b"SEFH\x6a\0\0\0\1\0\0\0\0\0\x30\x0a"
            + struct.pack("<II", len(FILM) + 24, len(FILM) + 24)
        )
        + b"\x18\0\0\0SEFT",
    )
    heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    heif.from_pillow(photo).save(out, quality=95)
    yield "google_heic", out.getvalue() + struct.pack(">I", 8 + len(FILM)) + b"mpvd" + FILM


def test_of_a_motion_photo_the_still_is_the_item(toy, tmp_path):
    files = dict(motion_photos())
    with index_of(tmp_path, **files) as library:
        assert library.failures == []
        assert library.report.warnings == []
        assert library.status()["items"] == {"image": len(files)}
        assert library.status()["vectors"]["image"] == len(files)
        for hit in library.search("red", k=9):
            assert (hit.span, hit.modality) == (None, "image")
            assert (hit.metadata["width"], hit.metadata["height"]) == (64, 48)


def test_a_motion_photo_of_an_unknown_ending_is_called_a_photo(toy, tmp_path):
    [(_, data), *_] = motion_photos()
    with index_of(tmp_path, PXL_MP=data) as library:
        [warning] = library.report.warnings
        assert ".jpg'" in warning
