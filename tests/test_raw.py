# Cameras write local times without a zone, so these have none.
# ruff: noqa: DTZ001

import io
import struct
import sys
from datetime import datetime
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from raw_photos import PREVIEW_AT, dng
from test_image import difference, photo, refused, saved, tagged

import mmsearch
from mmsearch.errors import MissingExtra, TooLarge, UnreadableFile
from mmsearch.media.exif import tags_of
from mmsearch.media.facts import of_photo
from mmsearch.media.image import load_image
from mmsearch.media.kinds import endings_of
from mmsearch.media.raw import ending_of_raw, merged_exif, open_raw

pytest.importorskip("rawpy")

PHOTO = photo(240, 160)
MARKED = PHOTO.point([255 - level for level in range(256)] * 3)
"""What a preview shows in these tests where it matters that it is used: other colours."""
UPRIGHT = {
    1: lambda picture: picture,
    2: lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
    4: lambda picture: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda picture: picture.transpose(Image.Transpose.TRANSPOSE),
    6: lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
    7: lambda picture: picture.transpose(Image.Transpose.TRANSVERSE),
    8: lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
}
MODEL, ORIENTATION, TAKEN, GPS = 0x0110, 0x0112, 0x9003, 0x8825
IN_ZURICH = {
    1: (2, b"N\0"),
    2: (5, [(47, 1), (30, 1), (0, 1)]),
    3: (2, b"E\0"),
    4: (5, [(8, 1), (15, 1), (0, 1)]),
}


def preview(picture=MARKED, size=(120, 80), **options):
    return saved(picture.resize(size), "JPEG", quality=90, **options)


def alike(one, other):
    """The correlation of two pictures: developing changes their brightness."""
    rows = [np.asarray(each.resize((24, 24)), np.float32).ravel() for each in (one, other)]
    return np.corrcoef(rows)[0, 1]


# ---------------------------------------------------------------------- preview or developed


def test_a_preview_that_is_large_enough_is_the_picture():
    picture, info = load_image(dng(PHOTO, preview()), at_least=40)
    assert difference(picture, MARKED.resize((120, 80))) < 5
    assert (info.width, info.height) == (240, 160)  # of the developed picture


def test_a_preview_that_is_too_small_gives_way_to_the_developed_picture():
    picture, _ = load_image(dng(PHOTO, preview()), at_least=50)
    assert picture.size == (240, 160)
    assert alike(picture, PHOTO) > 0.99


def test_without_a_preview_the_picture_is_developed_at_half_size_if_that_suffices():
    data = dng(PHOTO)
    assert load_image(data, at_least=40)[0].size == (120, 80)
    assert load_image(data, at_least=41)[0].size == (240, 160)
    assert load_image(data)[0].size == (240, 160)


def test_of_the_whole_picture_only_a_preview_of_its_size_is_one():
    assert alike(load_image(dng(PHOTO, preview()))[0], PHOTO) > 0.99
    whole = preview(size=PHOTO.size)
    assert alike(load_image(dng(PHOTO, whole))[0], MARKED) > 0.99


def test_a_developed_picture_is_as_bright_as_what_the_sensor_saw():
    picture, _ = load_image(dng(PHOTO))
    assert difference(picture, PHOTO) < 40


@pytest.mark.parametrize("cut", [20, 300, 1500])
def test_a_damaged_preview_gives_way_to_the_developed_picture(cut, capfd):
    small = preview()
    damaged = small[:cut].ljust(len(small), b"\0")
    whole = dng(PHOTO, small)
    data = whole[:PREVIEW_AT] + damaged + whole[PREVIEW_AT + len(small) :]
    assert alike(load_image(data, at_least=40)[0], PHOTO) > 0.99
    assert capfd.readouterr().err == ""


def test_samples_that_are_missing_do_not_matter_if_the_preview_is_large_enough():
    data = dng(PHOTO, preview())[:-30_000]
    assert alike(load_image(data, at_least=40)[0], MARKED) > 0.99


def test_of_samples_that_libraw_cannot_unpack_a_small_preview_is_shown():
    unknown = {259: (3, [52546])}  # JPEG XL in DNG
    picture, info = load_image(dng(PHOTO, preview(), sensor=unknown))
    assert alike(picture, MARKED) > 0.99
    assert (info.width, info.height) == (240, 160)
    assert "compressed in a way" in refused(dng(PHOTO, sensor=unknown))


# ---------------------------------------------------------------------- upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("own", [False, True], ids=["without EXIF", "with EXIF"])
def test_developed_or_not_it_is_upright(orientation, own):
    exif = {"exif": tagged(main={ORIENTATION: orientation})} if own else {}
    data = dng(PHOTO, preview(PHOTO, **exif), orientation=orientation)
    for at_least in (40, 50):
        picture, info = load_image(data, at_least=at_least)
        expected = UPRIGHT[orientation](PHOTO)
        assert alike(picture, expected) > 0.99
        assert (info.width, info.height) == expected.size


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("own", [False, True], ids=["without EXIF", "with EXIF"])
def test_a_preview_that_is_upright_already_is_not_turned_again(orientation, own):
    expected = UPRIGHT[orientation](PHOTO)
    exif = {"exif": tagged(main={ORIENTATION: 1})} if own else {}
    small = preview(expected, (80, 120), **exif)
    data = dng(PHOTO, small, orientation=orientation)
    assert alike(load_image(data, at_least=40)[0], expected) > 0.99


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_square_preview_is_turned(orientation):
    square = PHOTO.crop((0, 0, 160, 160))
    data = dng(square, preview(square, (80, 80)), orientation=orientation)
    assert alike(load_image(data, at_least=40)[0], UPRIGHT[orientation](square)) > 0.99


def test_an_orientation_that_there_is_not_is_ignored():
    small = preview(PHOTO, exif=tagged(main={ORIENTATION: 77}))
    data = dng(PHOTO, small, orientation=6)
    assert alike(load_image(data, at_least=40)[0], UPRIGHT[6](PHOTO)) > 0.99


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_preview_says_itself_that_it_is_upright_already(orientation):
    expected = UPRIGHT[orientation](PHOTO)
    data = dng(
        PHOTO, preview(expected, exif=tagged(main={ORIENTATION: 1})), orientation=orientation
    )
    assert alike(load_image(data, at_least=40)[0], expected) > 0.99


@pytest.mark.parametrize("magic", [b"IIRO", b"IIRS", b"IIU\0"])
def test_those_of_olympus_and_panasonic_are_tiffs_but_for_their_first_bytes(magic):
    gps = {1: (2, b"N\0"), 2: (5, [(1, 1)] * 3), 3: (2, b"E\0"), 4: (5, [(1, 1)] * 3)}
    data = dng(PHOTO, preview(PHOTO), orientation=6, gps=gps, magic=magic)
    for at_least in (40, 50):
        picture, info = load_image(data, at_least=at_least)
        assert alike(picture, UPRIGHT[6](PHOTO)) > 0.99
        assert info.camera == "Acme Raw 1"
        assert info.latitude == pytest.approx(1.0169, abs=1e-3)


# ---------------------------------------------------------------------- EXIF and colours


def test_time_camera_and_place_are_those_of_the_raw_file():
    data = dng(
        PHOTO,
        preview(exif=tagged(main={MODEL: "Other"}, exif={TAKEN: "1999:01:01 00:00:00"})),
        exif={TAKEN: (2, b"2021:07:04 12:34:56\0")},
        gps=IN_ZURICH,
    )
    for at_least in (40, 50):
        info = load_image(data, at_least=at_least)[1]
        assert info.taken_at == datetime(2021, 7, 4, 12, 34, 56)
        assert info.camera == "Acme Raw 1"
        assert (info.latitude, info.longitude) == (47.5, 8.25)


def test_what_the_raw_file_does_not_say_its_preview_may():
    exif = tagged(
        exif={TAKEN: "2021:07:04 12:34:56"}, gps={1: "S", 2: (1, 30, 0), 3: "W", 4: (2, 0, 0)}
    )
    info = load_image(dng(PHOTO, preview(exif=exif)), at_least=40)[1]
    assert info.taken_at == datetime(2021, 7, 4, 12, 34, 56)
    assert (info.latitude, info.longitude) == (-1.5, -2)


def test_the_exif_of_canons_container_is_in_boxes():
    def box(kind, content):
        return struct.pack(">I4s", len(content) + 8, kind) + content

    def block(tags):  # a TIFF
        return dng(PHOTO, main=tags)[:PREVIEW_AT]

    blocks = (
        box(b"CMT1", block({}))
        + box(b"CMT2", block({TAKEN: (2, b"2021:07:04 12:34:56\0"), 0x8827: (3, [800])}))
        + box(b"CMT4", block(IN_ZURICH))
    )
    canon = box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", box(b"uuid", bytes(16) + blocks))
    found = of_photo(canon)
    assert found.taken_at == datetime(2021, 7, 4, 12, 34, 56)
    assert (found.latitude, found.longitude, found.camera) == (47.5, 8.25, "Acme Raw 1")
    assert found.facts["iso"] == 800
    for end in range(0, len(canon), 1000):
        of_photo(canon[:end])


def test_the_exif_of_fujis_container_is_in_its_preview():
    jpeg = preview(exif=tagged(exif={TAKEN: "2021:07:04 12:34:56"}, main={MODEL: "X-T9"}))
    fuji = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0") + struct.pack(">II", 200, len(jpeg))
    fuji = fuji.ljust(200, b"\0") + jpeg + bytes(1000)
    found = of_photo(fuji)
    assert (found.taken_at, found.camera) == (datetime(2021, 7, 4, 12, 34, 56), "X-T9")
    for end in range(0, len(fuji), 100):
        of_photo(fuji[:end])


def test_the_place_that_libraw_garbles_is_none():
    # of a raw photo whose own EXIF cannot be read, its preview has what LibRaw knows
    data = dng(PHOTO, preview(), gps=IN_ZURICH)
    with open_raw(io.BytesIO(data)) as opened, Image.open(io.BytesIO(opened.preview())) as small:
        tags = tags_of(small)
    assert tags[GPS][2] == (47, 30, 0)
    assert GPS not in merged_exif({}, tags)
    assert GPS in merged_exif({GPS: {1: "N", 2: (47, 30, 0), 3: "E", 4: (8, 15, 0)}}, tags)


def test_the_facts_of_a_raw_photo_are_known_without_its_pixels():
    exif = {0x8827: (3, [800]), 0x829D: (5, [(28, 10)])}
    assert of_photo(dng(PHOTO, exif=exif)[:PREVIEW_AT]).facts == {"iso": 800, "aperture": 2.8}
    info = load_image(dng(PHOTO, preview(exif=tagged(exif={0x920A: 50.0})), exif=exif))[1]
    assert info.facts == {"iso": 800, "aperture": 2.8, "focal_length": 50}
    olympus = dng(PHOTO, exif=exif, magic=b"IIRO")
    assert of_photo(olympus).camera == "Acme Raw 1"


def test_a_photo_without_a_time_has_none():
    # LibRaw writes 1970 into the preview
    assert load_image(dng(PHOTO, preview()), at_least=40)[1].taken_at is None


@pytest.mark.parametrize("where", ["preview", "raw file"])
def test_adobe_rgb_becomes_srgb(where):
    red = Image.new("RGB", (120, 80), (200, 40, 40))
    plain = load_image(dng(PHOTO, preview(red)), at_least=40)[0].getpixel((50, 50))
    if where == "preview":
        data = dng(PHOTO, preview(red, exif=tagged(exif={0xA001: 2})))
    else:
        data = dng(PHOTO, preview(red), exif={0xA001: (3, [2])})
    converted = load_image(data, at_least=40)[0].getpixel((50, 50))
    assert converted[0] > plain[0] + 15


# ---------------------------------------------------------------------- which files


def test_the_ending_does_not_decide(tmp_path):
    (tmp_path / "a.cr2").write_bytes(saved(PHOTO, "JPEG"))
    (tmp_path / "a.jpg").write_bytes(dng(PHOTO, preview()))
    assert load_image(tmp_path / "a.cr2")[0].size == (240, 160)
    assert load_image(tmp_path / "a.jpg", at_least=40)[0].size == (120, 80)


@pytest.mark.parametrize(
    ("make", "ending"), [(b"NIKON CORPORATION\0", ".nef"), (b"SONY\0", ".arw"), (b"PENTAX\0", "")]
)
def test_a_tiff_with_samples_of_a_sensor_is_a_raw_photo(make, ending):
    data = dng(PHOTO, preview(), main={271: (2, make)}).replace(
        struct.pack("<HHI", 50706, 1, 4), struct.pack("<HHI", 50705, 1, 4)
    )
    assert ending_of_raw(io.BytesIO(data)) == ending


def test_an_ordinary_tiff_is_not_a_raw_photo():
    for mode in ("RGB", "L", "I;16", "CMYK"):
        data = saved(Image.new(mode, (9, 9)), "TIFF")
        assert ending_of_raw(io.BytesIO(data)) is None
    assert ending_of_raw(io.BytesIO(dng(PHOTO))) == ".dng"


def test_directories_that_lead_nowhere_or_in_circles_are_no_raw_photo():
    for at in (0, 8, 2**32 - 1):
        rows = struct.pack("<HHII", 330, 4, 1, at) + struct.pack("<HHII", 330, 4, 2**32 - 1, 8)
        data = b"II*\0" + struct.pack("<IH", 8, 2) + rows + bytes(4)
        assert ending_of_raw(io.BytesIO(data)) is None


# ---------------------------------------------------------------------- hostile


@pytest.mark.parametrize("at_least", [None, 40])
@pytest.mark.parametrize("with_preview", [False, True])
def test_a_truncated_raw_photo_is_refused_or_has_its_whole_preview(at_least, with_preview, capfd):
    small = preview() if with_preview else b""
    data = dng(PHOTO, small)
    ends = (10, 100, 500, 1000, PREVIEW_AT, PREVIEW_AT + len(small) // 2, len(data) - 9)
    for end in ends:
        if at_least and end > PREVIEW_AT + len(small) > PREVIEW_AT:
            assert alike(load_image(data[:end], at_least=at_least)[0], MARKED) > 0.99
        else:
            assert refused(data[:end], at_least=at_least) in ("truncated", "damaged")
    assert capfd.readouterr().err == ""


def test_a_truncated_preview_is_not_completed_by_what_was_in_memory():
    small = preview()
    data = dng(PHOTO, small)
    for part in range(50):
        load_image(data, at_least=40)  # leaves the preview in memory that is used again
        refused(data[: PREVIEW_AT + len(small) * part // 50], at_least=40)


@pytest.mark.parametrize(
    "sensor",
    [
        {256: (4, [0])},
        {256: (4, [2**31]), 257: (4, [2**31])},
        {256: (4, [60_000]), 257: (4, [60_000])},
        {258: (3, [77])},
        {273: (4, [2**32 - 1])},
        {279: (4, [2**32 - 1]), 273: (4, [2**32 - 1])},
        {277: (3, [60_000])},
        {33421: (3, [0, 0])},
    ],
    ids=str,
)
def test_nonsense_about_the_samples_is_refused(sensor):
    try:
        load_image(dng(PHOTO, sensor=sensor))
    except UnreadableFile:
        return
    assert 258 in sensor or 277 in sensor or 33421 in sensor  # which LibRaw may do without


def test_a_bomb_is_refused_before_it_is_developed():
    data = dng(PHOTO, preview(), sensor={256: (4, [20_000]), 257: (4, [20_000])})
    with pytest.raises(TooLarge, match="400 megapixels"):
        load_image(data)
    with pytest.raises(TooLarge):
        load_image(dng(PHOTO), max_megapixels=0.03)


def test_a_preview_that_is_a_bomb_gives_way_to_the_developed_picture():
    small = preview()
    at = small.index(b"\xff\xc0") + 5
    bomb = small[:at] + struct.pack(">HH", 65000, 65000) + small[at + 4 :]
    data = dng(PHOTO, small).replace(small, bomb)
    assert alike(load_image(data, at_least=40)[0], PHOTO) > 0.99


@pytest.mark.parametrize(
    "nested", [{273: (4, [0])}, {330: (4, [8])}, {330: (4, [0, 8, 2**32 - 1])}]
)
def test_a_raw_photo_within_itself_ends(nested):
    try:
        picture, _ = load_image(dng(PHOTO, preview(), main=nested))
    except UnreadableFile:
        assert 330 in nested
    else:
        assert alike(picture, PHOTO) > 0.99


def test_a_huge_file_is_not_read_into_memory(tmp_path):
    with (tmp_path / "a.dng").open("wb") as file:
        file.write(dng(PHOTO))
        file.truncate(2**31)
    with pytest.raises(TooLarge, match=r"2\.0 GiB"):
        load_image(tmp_path / "a.dng")


@pytest.mark.parametrize(
    "head",
    [
        b"FUJIFILMCCD-RAW ",
        b"IIRO",
        b"MMOR",
        b"IIU\0",
        b"\0\0\0\x18ftypcrx ",
        b"II*\0\x10\0\0\0CR\2\0",
    ],
)
def test_what_only_begins_like_a_raw_photo_is_refused(head):
    for rest in (b"", bytes(5000), bytes(range(256)) * 20, dng(PHOTO)):
        assert refused(head + rest) in (
            "truncated",
            "damaged",
            "damaged, or not a raw photo that LibRaw can read",
        )


# ---------------------------------------------------------------------- without the package


@pytest.fixture
def without_rawpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    for module in ("media.kinds", "indexing.passed_over"):
        monkeypatch.setattr(
            f"mmsearch.{module}.find_spec",
            lambda name: None if name == "rawpy" else find_spec(name),
        )


@pytest.mark.usefixtures("without_rawpy")
def test_without_the_package_raw_photos_are_counted_with_the_cure(toy, tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("a.nef", "b.DNG", "c.tif"):
        (tmp_path / "p" / name).write_bytes(dng(PHOTO))
    with mmsearch.index(tmp_path / "p", into=tmp_path / "i") as library:
        (warning,) = library.report.warnings
        assert warning == (
            "passed over 2 RAW photos (to include RAW photos: `pip install 'mmsearch[raw]'`, then "
            "`mmsearch index`)"
        )
        (failure,) = library.report.failures
        assert failure.path.endswith("c.tif")
        assert "mmsearch[raw]" in failure.reason
    assert ".nef" not in endings_of({"image"})


def test_with_the_package_they_are_indexed_and_searched_with(toy, tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    for name, colour in (("a.nef", "red"), ("b.dng", "green")):
        picture = Image.new("RGB", (96, 64), colour)
        (tmp_path / "p" / name).write_bytes(dng(PHOTO, preview(picture)))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rawpy", None)
        mmsearch.index(tmp_path / "p", into=tmp_path / "i").close()
    with mmsearch.index(tmp_path / "p", into=tmp_path / "i") as library:  # tried again
        assert len(library) == 2
        assert not library.report.failures
        (hit, _) = library.search(mmsearch.Query.image(str(tmp_path / "p" / "a.nef")))
        assert hit.path.endswith("a.nef")
        assert hit.metadata["width"] == 240
        (hit,) = library.similar(str(tmp_path / "p" / "b.dng"))
        assert hit.path.endswith("a.nef")


@pytest.mark.usefixtures("without_rawpy")
def test_without_the_package_a_raw_photo_cannot_be_searched_with():
    with pytest.raises(MissingExtra, match=r"mmsearch\[raw\]"):
        load_image(dng(PHOTO))
