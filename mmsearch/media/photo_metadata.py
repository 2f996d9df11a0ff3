"""The metadata in a photo's EXIF, IPTC and XMP: time, camera, place, exposure, keywords, texts.

`exif` has the tags of EXIF; `facts` adds what sidecars and names tell. Files are untrusted: a value
that is damaged, absurd or too long counts as missing, and no photo is refused for its metadata. XMP
with a document type is refused, so no entity is expanded or fetched.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from mmsearch.media import exif

if TYPE_CHECKING:
    from PIL import Image

Facts = Mapping[str, str | float]
"""Those known of `aperture` (f-number), `iso`, `focal_length` (mm), `exposure` (s), `lens`,
`rating` (0–5), `keywords` (joined by ", "), `title` and `description`."""

EDITED = ("rating", "keywords", "title", "description")
"""Facts that people edit later; photo managers write the edits to a sidecar."""


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """When, where and how a photo was taken, and its title, keywords, …, as far as known."""

    taken_at: datetime | None = None
    """Local time, without a zone."""
    camera: str | None = None
    latitude: float | None = None
    """Degrees, north positive."""
    longitude: float | None = None
    """Degrees, east positive."""
    facts: Facts = field(default_factory=dict)

    def completed_by(self, other: PhotoFacts) -> PhotoFacts:
        """These facts, with missing ones from `other`; the place is never a mix of both."""
        place = other if self.latitude is None or self.longitude is None else self
        return PhotoFacts(
            self.taken_at or other.taken_at,
            self.camera or other.camera,
            place.latitude,
            place.longitude,
            {**other.facts, **self.facts},
        )

    def edited_by(self, sidecar: PhotoFacts) -> PhotoFacts:
        """As `completed_by`, but EDITED facts of the sidecar replace these."""
        edits = {key: sidecar.facts[key] for key in EDITED if key in sidecar.facts}
        both = self.completed_by(sidecar)
        return replace(both, facts={**both.facts, **edits})


def of_picture(opened: Image.Image, tags: Mapping[int, Any] | None = None) -> PhotoFacts:
    """The facts in the metadata of an open picture; its pixels are not needed.

    Args:
        opened: As Pillow opened it.
        tags: Its EXIF, if `exif.tags_of` has been called before.
    """
    tags = exif.tags_of(opened) if tags is None else tags
    packet = opened.info.get("xmp") or tags.get(exif.XMP)
    properties: dict[str, list[str]] = {}
    if isinstance(packet, bytes):
        with suppress(ValueError):
            properties = xmp_properties(packet)
    iptc = _iptc(_iptc_block(opened))
    in_xmp = _numbers_of(properties)
    latitude, longitude = exif.position(tags)
    found = {
        "aperture": number(tags.get(exif.APERTURE)),
        "iso": next(filter(_is_iso, (number(tags.get(tag)) for tag in exif.ISO)), None),
        "focal_length": number(tags.get(exif.FOCAL_LENGTH)),
        "exposure": number(tags.get(exif.EXPOSURE)),
        # cameras write a rating of 0 into EXIF; photo managers prefer XMP
        "rating": number(in_xmp.facts.get("rating", tags.get(exif.RATING))),
    }
    texts = words(
        lenses=(
            decoded(tags.get(exif.LENS)),
            _lens(tags.get(exif.LENS_SPECIFICATION)),
            *_lenses(properties),
        ),
        keywords=(
            *_keywords(properties),
            *iptc.get(_KEYWORDS, ()),
            _utf_16(tags.get(exif.XP_KEYWORDS)),
        ),
        titles=(
            *properties.get("dc:title", ())[:1],
            *iptc.get(_TITLE, ()),
            _utf_16(tags.get(exif.XP_TITLE)),
        ),
        descriptions=(
            *properties.get("dc:description", ())[:1],
            *iptc.get(_DESCRIPTION, ()),
            decoded(tags.get(exif.DESCRIPTION)),
            _utf_16(tags.get(exif.XP_COMMENT)),
            _user_comment(tags.get(exif.USER_COMMENT)),
        ),
    )
    own = PhotoFacts(
        exif.taken_at(tags), exif.camera(tags), latitude, longitude, {**numbers(found), **texts}
    )
    return own.completed_by(in_xmp)


# ---------------------------------------------------------------------- what is stored

_RANGES = {
    "aperture": (0.1, 1000.0),
    "iso": (1.0, 1e7),
    "focal_length": (0.1, 1e5),
    "exposure": (1e-7, 86_400.0),
    "rating": (0.0, 5.0),
}
"""The lowest and highest plausible value."""
_LONGEST = {"lens": 200, "title": 500, "description": 5000}
_LONGEST_KEYWORD, _MOST_KEYWORDS = 100, 200
"""Characters of a keyword, and how many keywords are kept."""
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")
"""Control characters, also of the writing direction, and code points without a character."""
_BOILERPLATE = re.compile(
    r"""(?: (?:olympus|minolta|konica\ minolta|samsung|kodak|casio|nikon|pentax|hp|sony|vivitar)?
           \s* digital\ (?:still\ )? camera
      | sony\ dsc | samsung\ camera\ pictures | exif[_ ]jpeg(?:[_ ]picture)? | jpeg\ picture
      | my\ beautiful\ picture | default | untitled | unknown | none | n/a | null | ascii
      | dcim[/\\].* | <.*> | file\ written\ by\ .* | created\ with\ .* | creator:\ gd-jpeg\ .*
      | lead\ technologies\ .* | (?:oppo|oplus)_\d+ | filter:\ .*;.* | \{.*\}
      | (?:cof|sdr|r?hdr|hdrpl|oznor|nor|mde|dav|ptr|edf|vtr|fbt|rbt|srt|btf|qrf)(?:_\w+)? )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""Descriptions that cameras, phones and programs write into every picture."""
_NO_LENS = re.compile(r"(?:[\W_0]|mm|f(?=/)|unknown|none|n/a|no lens|manual lens)*", re.IGNORECASE)


def clean(text: str, limit: int) -> str:
    """A text on one line, without control characters, cut to `limit` characters."""
    if len(text) <= limit and text.isascii() and text.isprintable():
        return " ".join(text.split())
    text = " ".join(_CONTROL.sub(" ", text[: 4 * limit]).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def numbers(found: Mapping[str, float | None]) -> dict[str, float]:
    """The plausible values, rounded to four digits: cameras store fractions."""
    kept = {}
    for key, value in found.items():
        low, high = _RANGES[key]
        if value is not None and low <= value <= high:  # false of NaN
            kept[key] = float(f"{value:.4g}") if key != "iso" else float(round(value))
    return kept


def words(
    *,
    lenses: Iterable[str] = (),
    keywords: Iterable[str] = (),
    titles: Iterable[str] = (),
    descriptions: Iterable[str] = (),
) -> dict[str, str]:
    """The facts that are texts: the first meaningful one of each kind, and all keywords."""
    found = {
        "lens": next((text for text in lenses if not _NO_LENS.fullmatch(clean(text, 200))), ""),
        "title": next(filter(_is_meaningful, titles), ""),
        "description": next(filter(_is_meaningful, descriptions), ""),
    }
    kept = {key: clean(text, _LONGEST[key]) for key, text in found.items() if text}
    # Windows writes the title into the description too
    if kept.get("description", "").casefold() == kept.get("title", "").casefold():
        kept.pop("description", None)
    if names := _distinct(keywords):
        kept["keywords"] = ", ".join(names)
    return kept


def _is_meaningful(text: str) -> bool:
    text = clean(text, 200)
    return any(map(str.isalnum, text)) and not _BOILERPLATE.fullmatch(text)


def _distinct(keywords: Iterable[str]) -> list[str]:
    """Keywords without repetitions (in any case), in order."""
    kept: dict[str, str] = {}
    for several in keywords:
        # some programs write all keywords as one text
        for one in several[: 100 * _LONGEST_KEYWORD].replace(";", ",").split(","):
            if name := clean(one, _LONGEST_KEYWORD):
                kept.setdefault(name.casefold(), name)
            if len(kept) == _MOST_KEYWORDS:
                return list(kept.values())
    return list(kept.values())


# ---------------------------------------------------------------------- values


_LONGEST_NUMBER = 100


def number(value: Any) -> float | None:
    """A finite number, also from "28/10" or the first of several; None if it is none."""
    if isinstance(value, tuple | list):
        value = value[0] if value else None
    with suppress(TypeError, ValueError, ArithmeticError):
        if isinstance(value, str):
            above, _, below = value[:_LONGEST_NUMBER].partition("/")
            value = float(above) / float(below or 1)
        found = float(value)
        return found if math.isfinite(found) else None
    return None


def _is_iso(value: float | None) -> bool:
    return value not in (None, 0.0, 65535.0)  # 65535: too high for this tag


def decoded(value: Any, encoding: str = "utf-8") -> str:
    """A text in UTF-8, or else in Windows-1252; "" if it is not text."""
    if isinstance(value, str):  # Pillow decodes EXIF as Latin-1
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return str(value)
    if not isinstance(value, bytes):
        return ""
    value = value[: 1 << 20]
    try:
        return str(value, encoding)
    except UnicodeDecodeError:
        return str(value, "cp1252", "replace")


def _utf_16(value: Any) -> str:
    """A text of Windows' tags, which are little-endian UTF-16."""
    if isinstance(value, tuple) and all(isinstance(one, int) and 0 <= one < 256 for one in value):
        value = bytes(value)
    return str(value, "utf-16-le", "ignore").split("\0")[0] if isinstance(value, bytes) else ""


def _user_comment(value: Any) -> str:
    """The text of a UserComment, whose first eight bytes name its encoding (Exif 2.32)."""
    if isinstance(value, str):
        value = value.encode("latin-1", "ignore")
    if not isinstance(value, bytes):
        return ""
    name, text = value[:8].rstrip(b" \0"), value[8 : 1 << 16]
    if name == b"UNICODE":
        found = str(text[: len(text) & ~1], _utf_16_order(text), "replace")
    elif name == b"JIS":
        found = str(text, "iso2022_jp", "replace")
    elif name in (b"ASCII", b""):
        found = decoded(text.rstrip(b" \0"))
    else:
        found = decoded(value.rstrip(b" \0"))  # by programs that omit the prefix
    found = found.split("\0")[0]
    controls = len(re.findall("[\0-\x08\x0e-\x1f\x7f-\x9f\ufffd]", found))
    return "" if controls else found  # some cameras keep data of their own there


def _utf_16_order(text: bytes) -> str:
    """The byte order: a text has few different upper bytes; many files state the wrong order."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    big, little = len({*text[::2]}), len({*text[1::2]})
    return "utf-16-be" if big < little else "utf-16-le"


def _lens(specification: Any) -> str:
    """A LensSpecification (focal lengths, and the f-number at each) as "24-70mm f/2.8-4"."""
    if not isinstance(specification, tuple) or len(specification) != 4:
        return ""
    shortest, longest, *apertures = (number(one) or 0.0 for one in specification)
    if not 0 < shortest <= longest <= _RANGES["focal_length"][1]:
        return ""
    name = f"{shortest:g}mm" if shortest == longest else f"{shortest:g}-{longest:g}mm"
    low, high = _RANGES["aperture"]
    known = [f"{one:.3g}" for one in dict.fromkeys(apertures) if low <= one <= high]
    return f"{name} f/{'-'.join(known)}" if known else name


# ---------------------------------------------------------------------- IPTC

_TITLE, _KEYWORDS, _DESCRIPTION = 5, 25, 120
"""Data sets of record 2 of IPTC-IIM 4.2."""
_CHARACTER_SET, _UTF_8 = (1, 90), b"\x1b%G"
_IPTC_RESOURCE, _IPTC_TAG = 0x0404, 0x83BB
"""The number of the image resource in APP13 of a JPEG (Photoshop's format); the tag of a TIFF."""
_LARGEST_IPTC = 1 << 20


def _iptc_block(opened: Image.Image) -> bytes:
    """The IPTC of a JPEG or TIFF."""
    resources = opened.info.get("photoshop")
    block = resources.get(_IPTC_RESOURCE) if isinstance(resources, Mapping) else None
    if opened.format == "TIFF":
        # undecoded: Photoshop declares it as 32-bit numbers, and Pillow returns only the first
        block = getattr(getattr(opened, "tag_v2", None), "_tagdata", {}).get(_IPTC_TAG)
    return block[:_LARGEST_IPTC] if isinstance(block, bytes) else b""


def _iptc(block: bytes) -> dict[int, list[str]]:
    """The texts in record 2, by data set.

    Not by Pillow's parser, which loses all of them if one is damaged.
    """
    texts: dict[int, list[bytes]] = {}
    encoding = b""
    at = 0
    while block[at : at + 1] == b"\x1c" and at + 5 <= len(block):
        record, data_set, size = struct.unpack_from(">BBH", block, at + 1)
        at += 5
        if size & 0x8000:  # an extended data set: the length of the length
            digits = size & 0x7FFF
            size = int.from_bytes(block[at : at + digits][:8], "big")
            at += digits
        text = block[at : at + size]
        at += size
        if (record, data_set) == _CHARACTER_SET:
            encoding = text
        elif record == 2 and data_set in (_TITLE, _KEYWORDS, _DESCRIPTION):
            texts.setdefault(data_set, []).append(text)
    if encoding == _UTF_8:  # long texts may be cut inside a character
        return {one: [str(text, "utf-8", "ignore") for text in texts[one]] for one in texts}
    return {one: [decoded(text) for text in texts[one]] for one in texts}


# ---------------------------------------------------------------------- XMP

LARGEST_XMP = 8 << 20
"""Bytes of a packet; editors that keep their history in it write megabytes."""
_DEEPEST = 100
_MANY_VALUES, _LONGEST_VALUE = 1000, 10_000
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_PREFIXES = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://cipa.jp/exif/1.0/": "exifEX",
    "http://ns.adobe.com/exif/1.0/aux/": "aux",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/lightroom/1.0/": "lr",
}
_LENS_NAMES = ("exifEX:LensModel", "aux:Lens")
_TIMES = ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def xmp_properties(packet: bytes) -> dict[str, list[str]]:
    """The properties of known namespaces ("dc:subject") in an XMP packet, and their values.

    Of alternatives in several languages, the default one comes first.

    Raises:
        ValueError: It is too large, or not well-formed XML, or has a document type.
    """
    if len(packet) > LARGEST_XMP:
        raise ValueError("too large")
    wide = packet[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = str(packet, "utf-16" if wide else "utf-8-sig").strip(" \t\r\n\0")
    if "<!DOCTYPE" in text:  # only a document type can declare entities
        raise ValueError("has a document type")
    reader = _XmpReader()
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(text.encode("utf-8"), True)  # noqa: FBT003
    except expat.ExpatError as error:
        raise ValueError("damaged") from error
    return reader.properties


class _XmpReader:
    """Collects the properties of the described file, not those of its ingredients or history."""

    def __init__(self) -> None:
        self.properties: dict[str, list[str]] = {}
        self._path: list[str] = []
        self._property = ""
        self._depth = 0
        self._is_default = self._has_items = False
        self._texts: list[str] = []

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if len(self._path) > _DEEPEST:
            raise ValueError("nested too deeply")
        above = self._path[-2:]
        self._path.append(name)
        if name == _RDF + "Description" and above[-1:] == [_RDF + "RDF"]:
            for key, value in attributes.items():
                if known := _known(key):
                    self._add(known, value)
        elif above == [_RDF + "RDF", _RDF + "Description"]:
            self._property, self._depth = _known(name), len(self._path)
            self._texts, self._has_items = [], False
        elif self._property and name == _RDF + "li":
            self._texts, self._has_items = [], True
            self._is_default = attributes.get(_LANGUAGE) == "x-default"

    def text(self, text: str) -> None:
        if self._property:
            self._texts.append(text)

    def end(self, name: str) -> None:
        if self._property:
            is_whole = len(self._path) == self._depth
            if name == _RDF + "li" or (is_whole and not self._has_items):
                self._add(self._property, "".join(self._texts), first=self._is_default)
                self._texts, self._is_default = [], False
            if is_whole:
                self._property = ""
        self._path.pop()

    def _add(self, name: str, value: str, *, first: bool = False) -> None:
        values = self.properties.setdefault(name, [])
        if value.strip() and len(values) < _MANY_VALUES:
            values.insert(0 if first else len(values), value.strip()[:_LONGEST_VALUE])


def _known(name: str) -> str:
    namespace, _, local = name.rpartition(" ")
    return f"{_PREFIXES[namespace]}:{local}" if namespace in _PREFIXES else ""


def of_properties(properties: Mapping[str, list[str]]) -> PhotoFacts:
    """The facts in the properties of XMP."""
    found = _numbers_of(properties)
    texts = words(
        lenses=_lenses(properties),
        keywords=_keywords(properties),
        titles=properties.get("dc:title", ())[:1],
        descriptions=properties.get("dc:description", ())[:1],
    )
    return replace(found, facts={**found.facts, **texts})


def _numbers_of(properties: Mapping[str, list[str]]) -> PhotoFacts:
    """As `of_properties`, without the texts."""
    if not properties:
        return PhotoFacts()

    def first(*names: str) -> str:
        return next((properties[name][0] for name in names if properties.get(name)), "")

    latitude, longitude = _coordinate(first("exif:GPSLatitude"), "NS", 90), None
    if latitude is not None:
        longitude = _coordinate(first("exif:GPSLongitude"), "EW", 180)
    if longitude is None or latitude == longitude == 0:
        latitude = longitude = None
    times = (_time(value) for name in _TIMES for value in properties.get(name, ())[:1])
    found = {
        "aperture": number(first("exif:FNumber")),
        "iso": number(first("exifEX:PhotographicSensitivity", "exif:ISOSpeedRatings")),
        "focal_length": number(first("exif:FocalLength")),
        "exposure": number(first("exif:ExposureTime")),
        "rating": number(first("xmp:Rating")),
    }
    camera = exif.camera_name(*(clean(first(name), 100) for name in ("tiff:Make", "tiff:Model")))
    return PhotoFacts(next(filter(None, times), None), camera, latitude, longitude, numbers(found))


def _lenses(properties: Mapping[str, list[str]]) -> list[str]:
    return [one for name in _LENS_NAMES for one in properties.get(name, ())[:1]]


def _keywords(properties: Mapping[str, list[str]]) -> list[str]:
    """Keywords, and the leaves of hierarchical ones: "Berlin" of "Places|Germany|Berlin"."""
    paths = properties.get("lr:hierarchicalSubject", ())
    return [*properties.get("dc:subject", ()), *(path.rpartition("|")[2] for path in paths)]


def _time(text: str) -> datetime | None:
    """The local time of an ISO 8601 date, or of one as in EXIF; its zone is dropped."""
    found = exif.time_of(text)
    if found is None and _DAY.match(text):
        with suppress(ValueError):
            found = datetime.fromisoformat(text.strip()).replace(tzinfo=None)
    return found


def _coordinate(text: str, signs: str, limit: float) -> float | None:
    """Degrees of "52,30.5N" or "52,30,30N"."""
    parts = tuple(number(part) for part in text[:-1].split(",")[:4])
    return None if None in parts else exif.degrees(parts, text[-1:], signs, limit)
