"""What photos, their sidecars and their names tell: read, stored, found, filtered by."""

from __future__ import annotations

import io
import json
import os
import struct
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from mmsearch import Collection
from mmsearch.errors import UnreadableFile
from mmsearch.media import facts, photo_metadata
from mmsearch.media.facts import PhotoFacts
from mmsearch.media.image import load_image

EXIF = 0x8769
NOW = datetime.now().astimezone().replace(tzinfo=None)
TAKEN = datetime.fromisoformat("2019-07-04T12:34:56")
NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "exifEX": "http://cipa.jp/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
}


def xmp(elements: str = "", attributes: str = "") -> bytes:
    """An XMP packet, as programs write it."""
    prefixes = " ".join(f'xmlns:{name}="{address}"' for name, address in NAMESPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {prefixes} {attributes}>{elements}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def bag(*values: str) -> str:
    return f"<rdf:Bag>{''.join(f'<rdf:li>{value}</rdf:li>' for value in values)}</rdf:Bag>"


def alternatives(**texts: str) -> str:
    rows = (
        f'<rdf:li xml:lang="{language.replace("_", "-")}">{text}</rdf:li>'
        for language, text in texts.items()
    )
    return f"<rdf:Alt>{''.join(rows)}</rdf:Alt>"


def tags(main=None, exif=None):
    found = Image.Exif()
    found.update(main or {})
    if exif:
        found.get_ifd(EXIF).update(exif)
        found[EXIF] = found.get_ifd(EXIF)
    return found


def saved(kind="JPEG", **options):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, kind, **options)
    return file.getvalue()


def told(main=None, exif=None):
    """What the EXIF of a photo tells beside time, camera and place."""
    return dict(facts.of_photo(saved(exif=tags(main, exif))).facts)


def iptc_block(*sets: tuple[int, int, bytes]) -> bytes:
    return b"".join(
        b"\x1c" + struct.pack(">BBH", record, number, len(text)) + text
        for record, number, text in sets
    )


def with_iptc(*sets: tuple[int, int, bytes], more: bytes = b"") -> bytes:
    """A JPEG with IPTC in its APP13."""
    block = iptc_block(*sets) + more
    resource = (
        b"8BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block + b"\0" * (len(block) % 2)
    )
    body = b"Photoshop 3.0\0" + resource
    jpeg = saved()
    return jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


# ---------------------------------------------------------------------- which files


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_each_format_tells_what_its_exif_and_xmp_hold(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    packet = xmp(f"<dc:subject>{bag('beach', 'dog')}</dc:subject>")
    exif = tags(
        {0x0110: "EOS 5D", 0x4746: 4},
        {0x9003: "2019:07:04 12:34:56", 0x829D: IFDRational(28, 10), 0x8827: 800},
    )
    options = {"exif": exif, "xmp": packet}
    if kind == "PNG":
        del options["xmp"]
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode())
    elif kind == "TIFF":
        exif[700] = packet
        del options["xmp"]
    elif kind in ("AVIF", "HEIF"):
        options["exif"] = exif.tobytes()
    data = saved(kind, **options)
    expected = {"aperture": 2.8, "iso": 800.0, "rating": 4.0, "keywords": "beach, dog"}
    found = facts.of_photo(data)
    assert (found.taken_at, found.camera, found.facts) == (TAKEN, "EOS 5D", expected)
    _, info = load_image(data, at_least=8)
    assert (info.taken_at, info.camera, info.facts) == (TAKEN, "EOS 5D", expected)


def test_a_tiff_tells_its_iptc_even_if_that_is_declared_as_numbers():
    block = iptc_block((2, 5, b"Rome"), (2, 25, b"sea"))
    block += b"\0" * (-len(block) % 4)
    directory = ImageFileDirectory_v2()
    directory.tagtype[33723] = 7
    directory[33723] = block
    as_bytes = saved("TIFF", tiffinfo=directory)
    entry = struct.pack("<HHI", 33723, 7, len(block))
    as_numbers = as_bytes.replace(entry, struct.pack("<HHI", 33723, 4, len(block) // 4))
    assert as_bytes != as_numbers
    for data in (as_bytes, as_numbers):
        for found in (facts.of_photo(data), load_image(data)[1]):
            assert found.facts == {"title": "Rome", "keywords": "sea"}


def test_a_photo_that_is_damaged_or_none_tells_nothing(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    for source in (b"", b"no picture", saved()[:40], tmp_path / "text.jpg", tmp_path / "none.jpg"):
        assert facts.of_photo(source) == PhotoFacts()


# ---------------------------------------------------------------------- EXIF


def test_exposure_and_lens_are_read_from_exif():
    found = told(
        exif={
            0x829D: IFDRational(56, 10),
            0x829A: IFDRational(1, 3),
            0x8827: 100,
            0x920A: IFDRational(105, 1),
            0xA434: "EF24-105mm f/4L IS USM\0\0",
        }
    )
    expected = {"aperture": 5.6, "exposure": 0.3333, "iso": 100.0, "focal_length": 105.0}
    assert found == expected | {"lens": "EF24-105mm f/4L IS USM"}


@pytest.mark.parametrize(
    ("specification", "lens"),
    [
        ((24, 70, 2.8, 2.8), "24-70mm f/2.8"),
        ((18, 55, 3.5, 5.6), "18-55mm f/3.5-5.6"),
        ((50, 50, 1.8, 1.8), "50mm f/1.8"),
        ((50, 50, 0, 0), "50mm"),
        ((0, 0, 0, 0), None),
        ((70, 24, 2.8, 2.8), None),
    ],
)
@pytest.mark.parametrize("name", [None, "----", "0.0 mm f/0.0", "Unknown"])
def test_a_lens_without_a_name_is_called_by_its_specification(specification, lens, name):
    fractions = tuple(IFDRational(round(10 * one), 10) for one in specification)
    named = {} if name is None else {0xA434: name}
    assert told(exif={0xA432: fractions, **named}).get("lens") == lens


def test_an_iso_beyond_its_tag_is_read_from_the_one_that_states_it():
    assert told(exif={0x8827: 65535, 0x8832: 204_800}) == {"iso": 204_800.0}
    assert told(exif={0x8827: 65535}) == {}


def test_absurd_numbers_count_as_missing():
    absurd = [IFDRational(0, 0), IFDRational(1, 0), IFDRational(0, 1), IFDRational(10**9, 1)]
    for value in absurd:
        assert told(exif={0x829D: value, 0x829A: value, 0x920A: value}) == {}
    assert told({0x4746: 99}, {0x8827: 0}) == {}
    for text in ("nan", "inf", "-1", "1e30", "1/0", "0/0", "9" * 400, "one", ""):
        packet = xmp("", f'exif:FNumber="{text}" exif:FocalLength="{text}" xmp:Rating="{text}"')
        assert facts.of_xmp(packet).facts == {}


def test_windows_tells_title_comment_and_keywords_in_utf_16():
    def wide(text):
        return (text + "\0").encode("utf-16-le")

    found = told({0x9C9B: wide("Höhle"), 0x9C9C: wide("日本"), 0x9C9E: wide("sea; Beach;sea")})
    assert found == {"title": "Höhle", "description": "日本", "keywords": "sea, Beach"}


@pytest.mark.parametrize(
    "by_camera",
    [
        *("OLYMPUS DIGITAL CAMERA", "SONY DSC", "SAMSUNG CAMERA PICTURES", "Exif_JPEG_PICTURE"),
        *("KODAK Digital Still Camera", "My beautiful picture", "cof_soft", "default", "-----"),
        *("DCIM\\100MEDIA\\DJI_0001.JPG", "", "   ", "\0\0", "File written by Adobe Photoshop 4.0"),
    ],
)
def test_what_cameras_write_into_every_photo_is_no_description(by_camera):
    assert told({0x010E: by_camera}) == {}


def test_a_description_may_be_in_utf8_or_latin_1_and_is_one_line():
    for encoding in ("utf-8", "latin-1"):
        text = "Café\r\n by the sea\0\0".encode(encoding)
        assert told({0x010E: text}) == {"description": "Café by the sea"}


@pytest.mark.parametrize(
    ("comment", "description"),
    [
        (b"ASCII\0\0\0a dog", "a dog"),
        (b"\0\0\0\0\0\0\0\0a dog   \0", "a dog"),
        (b"UNICODE\0" + "ein Hündchen".encode("utf-16-be"), "ein Hündchen"),
        (b"UNICODE\0" + "ein Hündchen".encode("utf-16-le"), "ein Hündchen"),
        (b"UNICODE\0" + "猫が好き".encode("utf-16"), "猫が好き"),
        (b"JIS\0\0\0\0\0" + "猫".encode("iso2022_jp"), "猫"),
        (b"a comment without a prefix", "a comment without a prefix"),
        (b"ASCII\0\0\0\x01\x02\x03\x04", None),
        (b"ASCII\0\0\0", None),
        (b"", None),
    ],
)
def test_a_user_comment_is_decoded_by_its_prefix(comment, description):
    assert told(exif={0x9286: comment}).get("description") == description


def test_a_description_that_repeats_the_title_is_left_out():
    assert told({0x010E: "Rome", 0x9C9B: "rome".encode("utf-16-le")}) == {"title": "rome"}


# ---------------------------------------------------------------------- IPTC


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [((), "utf-8"), ((), "latin-1"), (((1, 90, b"\x1b%G"),), "utf-8")],
)
def test_iptc_is_read_in_its_encoding(declared, encoding):
    sets = [(2, 5, "Höhle"), (2, 25, "Bär"), (2, 25, "sea"), (2, 120, "ein Bär")]
    data = with_iptc(*declared, *((one, two, text.encode(encoding)) for one, two, text in sets))
    expected = {"title": "Höhle", "keywords": "Bär, sea", "description": "ein Bär"}
    assert facts.of_photo(data).facts == expected


def test_a_keyword_that_is_cut_within_a_character_loses_only_that():
    data = with_iptc((1, 90, b"\x1b%G"), (2, 25, "Bär".encode()[:2]))
    assert facts.of_photo(data).facts == {"keywords": "B"}


@pytest.mark.parametrize(
    "damage",
    [b"\x1c\x02", b"junk", b"\x1c\x02\x19\xff\xff", b"\x1c\x02\x19\x80\x08" + b"\xff" * 8],
)
def test_damage_in_iptc_leaves_what_stands_before_it(damage):
    data = with_iptc((2, 25, b"sea"), more=damage)
    assert facts.of_photo(data).facts["keywords"].startswith("sea")


# ---------------------------------------------------------------------- XMP


def test_a_sidecar_tells_all_it_has_whether_as_attributes_or_elements(tmp_path):
    path = tmp_path / "a.xmp"
    path.write_bytes(
        xmp(
            "<exif:ISOSpeedRatings><rdf:Seq><rdf:li>400</rdf:li></rdf:Seq></exif:ISOSpeedRatings>"
            f"<dc:title>{alternatives(de='Hund', x_default='Dog &amp; co')}</dc:title>"
            f"<dc:description>{alternatives(x_default='A dog runs')}</dc:description>"
            f"<dc:subject>{bag('dog', 'Berlin')}</dc:subject>"
            f"<lr:hierarchicalSubject>{bag('Places|Berlin', 'Who|Ann')}</lr:hierarchicalSubject>"
            "<exif:FNumber>28/10</exif:FNumber>",
            'xmp:Rating="5" exif:GPSLatitude="52,30.5N" exif:GPSLongitude="13,24,36W" '
            'exif:DateTimeOriginal="2019-07-04T12:34:56.12+02:00" exif:ExposureTime="1/250" '
            'tiff:Make="Canon" tiff:Model="Canon EOS 5D" aux:Lens="50mm" exif:FocalLength="50/1"',
        )
    )
    found = facts.of_xmp(path)
    assert (found.taken_at, found.camera) == (TAKEN, "Canon EOS 5D")
    assert found.latitude == pytest.approx(52.508333)
    assert found.longitude == pytest.approx(-13.41)
    assert found.facts == {
        "title": "Dog & co",
        "description": "A dog runs",
        "keywords": "dog, Berlin, Ann",
        "rating": 5.0,
        "aperture": 2.8,
        "iso": 400.0,
        "exposure": 0.004,
        "focal_length": 50.0,
        "lens": "50mm",
    }


@pytest.mark.parametrize(
    ("written", "time"),
    [
        ("2019-07-04", TAKEN.replace(hour=0, minute=0, second=0)),
        ("2019-07-04T12:34", TAKEN.replace(second=0)),
        ("2019:07:04 12:34:56", TAKEN),
        ("2019-07-04T12:34:56Z", TAKEN),
        ("2019-02-30T12:34:56", None),
        ("2019", None),
        ("soon", None),
    ],
)
def test_times_of_xmp_may_be_cut_short(written, time):
    assert facts.of_xmp(xmp("", f'xmp:CreateDate="{written}"')).taken_at == time


@pytest.mark.parametrize("place", ["0,0N", "91,0N", "52,30.5", "x", "", "52,-1N", "nan,0N"])
def test_a_place_that_is_none_is_left_out(place):
    packet = xmp("", f'exif:GPSLatitude="{place}" exif:GPSLongitude="0,0E"')
    assert facts.of_xmp(packet) == PhotoFacts()


def test_ratings_below_zero_are_of_rejected_photos_and_left_out():
    assert facts.of_xmp(xmp("", 'xmp:Rating="-1"')).facts == {}
    assert facts.of_xmp(xmp("", 'xmp:Rating="0"')).facts == {"rating": 0.0}


def test_what_an_ingredient_of_a_photo_is_called_is_not_told_of_the_photo():
    inside = (
        f"<rdf:Description><dc:title>{alternatives(x_default='Other')}</dc:title></rdf:Description>"
    )
    packet = xmp(f"<xmpMM:Pantry><rdf:Bag><rdf:li>{inside}</rdf:li></rdf:Bag></xmpMM:Pantry>")
    assert facts.of_xmp(packet) == PhotoFacts()


def test_a_packet_may_be_in_utf_16_and_padded():
    packet = xmp(f"<dc:subject>{bag('Bär')}</dc:subject>") + b" " * 2000 + b"\n\0\0"
    assert facts.of_xmp(packet).facts == {"keywords": "Bär"}
    assert facts.of_xmp(packet.decode().encode("utf-16")).facts == {"keywords": "Bär"}


LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 9}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)
HOSTILE = {
    "entities": LAUGHS.encode() + xmp(f"<dc:subject>{bag('&i;')}</dc:subject>"),
    "entities in UTF-16": (LAUGHS + xmp().decode()).encode("utf-16"),
    "an external entity": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    + xmp(f"<dc:subject>{bag('&e;')}</dc:subject>"),
    "an entity that is not declared": xmp(f"<dc:subject>{bag('&e;')}</dc:subject>"),
    "a document type": b"<!DOCTYPE x SYSTEM 'http://127.0.0.1:1/x.dtd'>" + xmp(),
    "nesting": b"<a>" * 300_000,
    "an end that is lacking": xmp()[:-60],
    "no XML": b"\xff\xd8\xff\xe0 \0\1\2",
    "bytes that are no UTF-8": xmp("", 'xmp:Rating="5"').replace(b"5", b"\xff"),
    "too much": b"<a>" + b" " * photo_metadata.LARGEST_XMP + b"</a>",
    "nothing": b"",
}


@pytest.mark.parametrize("packet", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_packet_is_an_unreadable_sidecar_and_harmless_in_a_photo(packet, tmp_path):
    start = time.perf_counter()
    path = tmp_path / "a.xmp"
    path.write_bytes(packet)
    for source in (packet, path):
        with pytest.raises(UnreadableFile):
            facts.of_xmp(source)
    exif = tags({0x4746: 4})
    data = saved("WEBP", exif=exif, xmp=packet)
    picture, info = load_image(data)
    assert (picture.size, info.facts) == ((16, 16), {"rating": 4.0})
    assert time.perf_counter() - start < 5


# ---------------------------------------------------------------------- what is stored


def test_keywords_of_all_sources_are_kept_once_whatever_their_case():
    data = saved(
        xmp=xmp(f"<dc:subject>{bag('Beach', 'dog,cat')}</dc:subject>"),
        exif=tags({0x9C9E: "beach;SEA".encode("utf-16-le")}),
    )
    assert facts.of_photo(data).facts == {"keywords": "Beach, dog, cat, SEA"}


def test_texts_are_cut_to_a_bounded_length():
    long = "word " * 20_000
    many = bag(*map(str, range(1000)), long)
    found = facts.of_xmp(
        xmp(
            f"<dc:title>{alternatives(x_default=long)}</dc:title><dc:subject>{many}</dc:subject>"
            f"<dc:description>{alternatives(x_default='x' + long)}</dc:description>",
            f'aux:Lens="{long}"',
        )
    ).facts
    assert [len(found[key]) for key in ("title", "description", "lens")] == [500, 5000, 200]
    assert found["keywords"].split(", ") == list(map(str, range(200)))


def test_a_value_of_millions_of_characters_costs_no_time():
    start = time.perf_counter()
    million = "1," * 1_000_000
    attributes = f'tiff:Model="{million}" exif:FNumber="{million}" exif:GPSLatitude="{million}N"'
    found = facts.of_xmp(xmp("", f'{attributes} exif:GPSLongitude="1,1E"'))
    assert len(found.camera) == 100
    assert (found.latitude, found.facts) == (None, {})
    assert time.perf_counter() - start < 2


def test_controls_and_halves_of_characters_are_not_stored():
    assert photo_metadata.clean("a\0b\u202ec\ud800\ufeff\n d", 99) == "a b c d"


def test_facts_are_completed_and_a_place_is_never_of_two_sources():
    own = PhotoFacts(camera="Canon", latitude=1.0, facts={"iso": 100.0})
    other = PhotoFacts(TAKEN, "Nikon", 2.0, 3.0, {"iso": 200.0, "title": "Rome"})
    both = own.completed_by(other)
    assert both == PhotoFacts(TAKEN, "Canon", 2.0, 3.0, {"iso": 100.0, "title": "Rome"})
    assert both.completed_by(PhotoFacts()) == PhotoFacts().completed_by(both) == both


def test_a_sidecar_replaces_what_people_edit_and_nothing_else():
    own = PhotoFacts(camera="Canon", facts={"iso": 100.0, "rating": 1.0, "title": "Rome"})
    sidecar = PhotoFacts(TAKEN, "Nikon", facts={"iso": 200.0, "rating": 5.0})
    expected = {"iso": 100.0, "rating": 5.0, "title": "Rome"}
    assert own.edited_by(sidecar) == PhotoFacts(TAKEN, "Canon", facts=expected)


# ---------------------------------------------------------------------- Takeout


def takeout(**changed):
    plain = {"title": "a.jpg", "photoTakenTime": {"timestamp": "1562236496", "formatted": "…"}}
    return json.dumps(plain | changed).encode()


@pytest.fixture
def in_vienna():
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Vienna"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def test_takeout_tells_local_time_place_description_and_people(in_vienna):
    place = {"latitude": 48.2, "longitude": 16.4, "altitude": 0.0}
    nowhere = {"latitude": 0.0, "longitude": 0.0}
    people = [{"name": "Ann"}, {"name": "Bob"}, {}, "x"]
    data = takeout(geoData=nowhere, geoDataExif=place, description="A\nday", people=people)
    expected = {"description": "A day", "keywords": "Ann, Bob"}
    assert facts.of_takeout(data) == PhotoFacts(TAKEN, None, 48.2, 16.4, expected)


@pytest.mark.parametrize(
    ("title", "name", "told"),
    [
        ("IMG_1.HEIC", "IMG_1.HEIC.json", None),
        ("IMG_1", "IMG_1.json", None),
        ("Our wedding", "IMG_1.jpg.json", "Our wedding"),
        (5, "a.jpg.json", None),
    ],
)
def test_the_title_that_takeout_gives_is_one_unless_it_is_the_files_name(
    title, name, told, tmp_path
):
    (tmp_path / name).write_bytes(takeout(title=title))
    assert facts.of_takeout(tmp_path / name).facts.get("title") == told


@pytest.mark.parametrize(
    ("timestamp", "year"),
    [("-1000000000", 1938), (1562236496, 2019), ("0", None), ("99999999999", None)]
    + [(stamp, None) for stamp in ("1e30", "x", "", None, True, [], "-99999999999", "9" * 5000)],
)
def test_a_time_of_takeout_is_one_at_which_photos_were_taken(timestamp, year):
    found = facts.of_takeout(takeout(photoTakenTime={"timestamp": timestamp})).taken_at
    assert (found and found.year) == year


OTHERS = [b"[]", b"{}", b"null", b'{"photoTakenTime": 5}', b'{"title": "a.jpg"}']
NOT_JSON = [b"", b"[" * 100_000, b"\xff\xfe", b'{"a": 1' + b"0" * 5000 + b"}"]


@pytest.mark.parametrize("data", OTHERS)
def test_json_of_other_programs_tells_nothing(data):
    assert facts.of_takeout(data) == PhotoFacts()


@pytest.mark.parametrize("data", [*NOT_JSON, b'"' + b" " * (1 << 20) + b'"'], ids=range(5))
def test_what_is_no_json_or_too_large_is_unreadable(data):
    with pytest.raises(UnreadableFile):
        facts.of_takeout(data)


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("IMG-20190704-WA0003.jpg", "2019-07-04 00:00:00"),
        ("VID-20190704-WA0003.mp4", "2019-07-04 00:00:00"),
        ("IMG_20190704_123456.jpg", "2019-07-04 12:34:56"),
        ("IMG20190704123456.jpg", "2019-07-04 12:34:56"),
        ("PXL_20210102_123456789.jpg", "2021-01-02 12:34:56"),
        ("PXL_20210102_123456789.RAW-01.MP.COVER.jpg", "2021-01-02 12:34:56"),
        ("20190704_123456(0).jpg", "2019-07-04 12:34:56"),
        ("20190704.jpg", "2019-07-04 00:00:00"),
        ("20190704 at the sea.jpg", "2019-07-04 00:00:00"),
        ("WP_20140704_12_34_56_Pro.jpg", "2014-07-04 12:34:56"),
        ("微信图片_20190704123456.jpg", "2019-07-04 12:34:56"),
        ("Screenshot_20190704-123456_Chrome.jpg", "2019-07-04 12:34:56"),
        ("Screenshot_2019-07-04-12-34-56-123_com.app.png", "2019-07-04 12:34:56"),
        ("Screenshot 2020-05-06 at 10.11.12.png", "2020-05-06 10:11:12"),
        ("Screenshot 2020-05-06 at 1.11.12\u202fPM.png", "2020-05-06 13:11:12"),
        ("Screen Shot 2020-05-06 at 12.11.12 AM (2).png", "2020-05-06 00:11:12"),
        ("Bildschirmfoto 2019-07-04 um 12.34.56.png", "2019-07-04 12:34:56"),
        ("Capture d’écran 2019-07-04 à 12.34.56.png", "2019-07-04 12:34:56"),
        ("Screenshot from 2019-07-04 12-34-56.png", "2019-07-04 12:34:56"),
        ("2019-07-04 12.34.56.jpg", "2019-07-04 12:34:56"),
        ("2019-07-04T12_34_56.jpg", "2019-07-04 12:34:56"),
        ("signal-2021-03-04-123456.jpg", "2021-03-04 12:34:56"),
        ("signal-2021-03-04-12-34-56-123.jpg", "2021-03-04 12:34:56"),
        ("WhatsApp Image 2019-07-04 at 12.34.56.jpeg", "2019-07-04 12:34:56"),
        ("photo_2019-07-04_12-34-56.jpg", "2019-07-04 12:34:56"),
        ("Photo on 2019-07-04 at 12.34.jpg", "2019-07-04 12:34:00"),
        ("2019-07-04.jpg", "2019-07-04 00:00:00"),
        ("2019-07-04-99-99-99.jpg", "2019-07-04 00:00:00"),
    ],
)
def test_a_name_with_a_date_tells_it(name, time):
    assert str(facts.of_name(name).taken_at) == time


@pytest.mark.parametrize(
    "name",
    [
        *("IMG_0123.jpg", "DSC20190704.jpg", "IMG_20190230_123456.jpg", "120190704.jpg"),
        *("1562236496000.jpg", "FB_IMG_1562236496000.jpg", "pexels-photo-20101112.jpeg"),
        *("20190704_3f2a1b4c5d_o.jpg", "20190704_996199.jpg", "a20190704.jpg", "v2019-07-04.jpg"),
        *("2019-07-04abc.jpg", "scan 1998-02-29.jpg", "19891231_101010.jpg", "20990101.jpg"),
        *("2019-13-01.jpg", "2019-7-4.jpg", "1920x1080.jpg", "2019.jpg", "", "."),
    ],
)
def test_a_number_that_merely_looks_like_a_date_tells_nothing(name):
    assert facts.of_name(name) == PhotoFacts()


def test_a_date_beyond_tomorrow_is_none():
    today = datetime.now().astimezone()
    for days, is_one in ((0, True), (-400, True), (3, False)):
        name = f"{today + timedelta(days=days):%Y-%m-%d}.jpg"
        assert (facts.of_name(name).taken_at is not None) == is_one


@given(st.text("0123456789", min_size=1, max_size=30), st.sampled_from(["", "IMG_", "a ", "-"]))
def test_digits_are_a_date_only_if_they_spell_one(digits, before):
    found = facts.of_name(f"{before}{digits}.jpg").taken_at
    if found is not None:
        assert digits.startswith(f"{found:%Y%m%d}")
        assert digits[8:14] in ("", f"{found:%H%M%S}")
        assert found.year >= 1990
        assert found < NOW + timedelta(days=2)


@given(st.datetimes(datetime.fromisoformat("1990-01-01"), NOW))
def test_every_time_is_read_from_the_names_that_phones_write(moment):
    moment = moment.replace(microsecond=0)
    for pattern in (
        *("IMG_%Y%m%d_%H%M%S.jpg", "PXL_%Y%m%d_%H%M%S123.jpg", "%Y-%m-%d %H.%M.%S.jpg"),
        *("Screenshot %Y-%m-%d at %I.%M.%S %p.png", "signal-%Y-%m-%d-%H%M%S.jpg"),
    ):
        assert facts.of_name(f"{moment:{pattern}}").taken_at == moment


@given(st.text(max_size=60))
def test_any_name_tells_a_time_or_none(name):
    assert facts.of_name(name).facts == {}


# ---------------------------------------------------------------------- anything

PACKET = xmp(
    f"<dc:title>{alternatives(de='Hund', x_default='Dog')}</dc:title>"
    f"<dc:subject>{bag('dog', 'Berlin')}</dc:subject>",
    'xmp:Rating="5" exif:GPSLatitude="52,30.5N" exif:GPSLongitude="13,24,36W"',
)
PHOTO = saved(
    xmp=PACKET,
    exif=tags({0x010E: "a dog", 0x4746: 4}, {0x829D: IFDRational(28, 10), 0x9286: b"UNICODE\0x\0"}),
)


def check(found: PhotoFacts) -> None:
    """What is read can be stored."""
    for key, value in found.facts.items():
        if isinstance(value, str):
            assert value.encode()
            assert not set(value) & set("\0\n\r")
        else:
            assert 0 <= value < 1e8, key
    assert (found.latitude is None) == (found.longitude is None)


@st.composite
def mutated(draw, whole):
    """A file with some bytes changed, taken out or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    return bytes(data)


@given(st.binary(max_size=200) | mutated(PACKET))
def test_any_bytes_are_a_sidecar_or_unreadable(data):
    for read in (facts.of_xmp, facts.of_takeout):
        with suppress(UnreadableFile):
            check(read(data))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
place = st.fixed_dictionaries({"latitude": json_values, "longitude": json_values}) | json_values


@settings(max_examples=50)
@given(
    st.fixed_dictionaries(
        {"photoTakenTime": st.fixed_dictionaries({"timestamp": json_values})},
        optional={"geoData": place, "geoDataExif": place, "title": json_values}
        | {"description": json_values, "people": json_values},
    )
)
def test_any_values_of_takeout_are_read_or_missing(values):
    check(facts.of_takeout(json.dumps(values).encode()))


@given(mutated(PHOTO))
@example(PHOTO)
def test_a_photo_with_damaged_metadata_tells_some_or_nothing(data):
    check(facts.of_photo(data))


@given(st.binary(max_size=80))
def test_any_iptc_and_any_user_comment_can_be_stored(data):
    check(facts.of_photo(with_iptc((2, 25, data), more=data)))
    assert isinstance(photo_metadata._user_comment(data), str)


# ---------------------------------------------------------------------- an index of them


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Three photos: one with a title and keywords, one of one keyword, one that tells nothing."""
    folder = tmp_path_factory.mktemp("facts")
    photos = folder / "photos"
    photos.mkdir()
    title = f"<dc:title>{alternatives(x_default='Sunday in Ostia')}</dc:title>"
    many = xmp(f"{title}<dc:subject>{bag('beach', 'dog')}</dc:subject>", 'xmp:Rating="4"')
    exposure = {0x829A: IFDRational(1, 30), 0x920A: IFDRational(50, 1)}
    exposure |= {0x8827: 1600, 0x829D: IFDRational(56, 10), 0xA434: "Summicron 50"}
    exif = tags(exif=exposure)
    (photos / "a.jpg").write_bytes(saved(xmp=many, exif=exif))
    one = xmp(f"<dc:subject>{bag('beachball')}</dc:subject>")
    (photos / "b.jpg").write_bytes(saved(xmp=one, exif=tags(exif={0x8827: 200})))
    Image.new("RGB", (20, 20), "red").save(photos / "c.png")
    with Collection(folder / "index", create=True, model="mini") as made:
        made.add(photos)
        yield made


def names(hits):
    return sorted(os.path.basename(hit.path) for hit in hits)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("iso > 800", ["a.jpg"]),
        ("iso < 1000", ["b.jpg"]),
        ("aperture = 5.6", ["a.jpg"]),
        ("aperture = f/5.6", ["a.jpg"]),
        ("Aperture < f4", []),
        ("exposure = 1/30", ["a.jpg"]),
        ("exposure < 1/20s", ["a.jpg"]),
        ("exposure < 1/50", []),
        ("meta.focal_length in 35mm,50 mm", ["a.jpg"]),
        ("lens ~ summicron", ["a.jpg"]),
        ("rating >= 4", ["a.jpg"]),
        ("title ~ ostia", ["a.jpg"]),
        ("keywords = beach", ["a.jpg"]),
        ("keywords = dog", ["a.jpg"]),
        ("Keywords = beachball", ["b.jpg"]),
        ("keywords in dog,beachball", ["a.jpg", "b.jpg"]),
        ("keywords != beach", ["b.jpg", "c.png"]),
        ("keywords = b*", []),
        ("keywords ~ beach", ["a.jpg", "b.jpg"]),
        ("!keywords", ["c.png"]),
    ],
)
def test_photos_are_filtered_by_what_they_tell(library, condition, found):
    from mmsearch.filters import parse_condition

    where = parse_condition(condition)
    assert names(library.search("a photo", where=where)) == found
    assert names(library.listed(where=where)) == found  # asks the catalog, not the columns


def test_a_text_of_the_users_own_may_look_like_an_exposure(tmp_path, toy):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "own.csv").write_text("file,exposure\na.png,1/30\n")
    with Collection(tmp_path / "index", create=True, model="toy") as library:
        library.add(tmp_path, metadata=tmp_path / "own.csv")
        assert names(library.search("red", where={"exposure": "1/30"})) == ["a.png"]
        assert names(library.listed(where={"exposure": "1/30"})) == ["a.png"]


def test_a_photo_is_found_by_its_keywords_and_its_title_and_shows_them(library):
    told = {
        "aperture": "5.6",
        "exposure": "0.03333",
        "focal_length": "50",
        "iso": "1600",
        "keywords": "beach, dog",
        "lens": "Summicron 50",
    }
    told |= {"rating": "4", "title": "Sunday in Ostia"}
    for query in ("beach", "ostia"):
        hit = library.search(query, k=3)[0]
        assert (os.path.basename(hit.path), "words" in hit.signals) == ("a.jpg", True)
        assert hit.metadata["meta"] == library.item(hit.id).metadata["meta"] == told


def test_a_photo_that_is_indexed_again_or_copied_keeps_what_it_tells(tmp_path, library):
    original = library.item(library.search("ostia", k=1)[0].id)
    data = Path(original.path).read_bytes()
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(data)
    with Collection(tmp_path / "index", create=True, model="mini") as made:
        made.add(photos)
        (photos / "copy.jpg").write_bytes(data)
        os.utime(photos / "a.jpg", (1, 1))
        made.add(photos)
        told = [made.item(id_).metadata.get("meta") for id_ in (1, 2)]
    assert told == [original.metadata["meta"]] * 2
