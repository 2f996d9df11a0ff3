"""Raw photos: detecting them, their metadata, and by LibRaw their previews and pixels.

Nearly all are TIFFs whose first picture is small; the samples of the sensor, and often a JPEG of
full size as the camera made it, lie in other directories or behind private tags.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media.open_media import c_stderr_off, read_whole

if TYPE_CHECKING:
    from PIL import Image
    from rawpy import RawPy

_FUJI = b"FUJIFILMCCD"
MAGIC = {
    b"IIRO": ".orf",
    b"IIRS": ".orf",
    b"MMOR": ".orf",
    b"IIU\0": ".rw2",
    _FUJI: ".raf",
}
"""First bytes of raw photos that no other file has → their ending."""
CANON_3 = b"crx "
"""The brand of CR3, a container like MP4."""

# ---------------------------------------------------------------------- which files

_MAKE, _PHOTOMETRIC, _DIRECTORIES, _DNG_VERSION = 271, 262, 330, 50706
_OF_SENSOR = {32803, 34892}
"""Photometric interpretations: a colour filter array; linear samples (DNG 1.7)."""
_MOST_DIRECTORIES = 16
_ENDINGS = {b"NIKON": ".nef", b"SONY": ".arw"}
"""Make of the camera → ending, for TIFFs with raw samples."""


def ending_of_raw(file: BinaryIO) -> str | None:
    """The usual ending of a raw photo; "" if it is of an unknown kind, None if it is not one.

    Args:
        file: Its position is changed.
    """
    file.seek(0)
    head = file.read(16)
    if head[4:8] == b"ftyp" and head[8:12] == CANON_3:
        return ".cr3"
    known = next((ending for magic, ending in MAGIC.items() if head.startswith(magic)), None)
    return known or ending_of_tiff(file)


def ending_of_tiff(file: BinaryIO) -> str | None:
    """As `ending_of_raw`, of a file that begins like a TIFF."""
    file.seek(0)
    head = file.read(10)
    order = ">" if head[:2] == b"MM" else "<"
    if head[8:10] == b"CR" and order == "<":
        return ".cr2"
    with suppress(struct.error):
        main = _directory(file, struct.unpack_from(order + "I", head, 4)[0], order)
        if _DNG_VERSION in main:
            return ".dng"
        others = _numbers(file, main.get(_DIRECTORIES), order)
        tags = [main, *(_directory(file, at, order) for at in others)]
        if any({*_numbers(file, each.get(_PHOTOMETRIC), order)} & _OF_SENSOR for each in tags):
            make = _value(file, main.get(_MAKE), order).upper()
            return next((_ENDINGS[name] for name in _ENDINGS if make.startswith(name)), "")
    return None


_Entry = tuple[int, int, bytes]
"""Type and number of the values of a tag, and the values themselves or where they are."""


def _directory(file: BinaryIO, at: int, order: str) -> dict[int, _Entry]:
    file.seek(at)
    [count] = struct.unpack(order + "H", file.read(2))
    rows = file.read(12 * count)
    entries = (struct.unpack_from(order + "HHI4s", rows, 12 * n) for n in range(len(rows) // 12))
    return {tag: (kind, number, value) for tag, kind, number, value in entries}


def _value(file: BinaryIO, entry: _Entry | None, order: str) -> bytes:
    """The first 64 bytes of a tag's values; b"" if it is missing."""
    if entry is None:
        return b""
    kind, number, value = entry
    size = min(number * {3: 2, 4: 4, 13: 4}.get(kind, 1), 4 * _MOST_DIRECTORIES)
    if size > 4:
        file.seek(*struct.unpack(order + "I", value))
        value = file.read(size)
    return value[:size]


def _numbers(file: BinaryIO, entry: _Entry | None, order: str) -> list[int]:
    data = _value(file, entry, order)
    letter, size = ("H", 2) if entry and entry[0] == 3 else ("I", 4)
    return list(struct.unpack_from(f"{order}{len(data) // size}{letter}", data))


# ---------------------------------------------------------------------- metadata


_EXIF, _GPS, _CHANGED = 0x8769, 0x8825, 0x0132
_CANON_BLOCKS = {b"CMT1": None, b"CMT2": _EXIF, b"CMT4": _GPS}
"""Boxes of CR3, each a TIFF whose only directory is this part of EXIF."""
_FUJI_PREVIEW = 84
"""Where RAF states where its preview begins, a JPEG with EXIF."""
_HEAD = 2**20
"""Bytes at the beginning of a raw photo in which its EXIF is, if it is not quite a TIFF."""
_UNKNOWN_TIMES = "1970:01:01", "1969:12:31"
"""What LibRaw writes into previews if it does not know the time: 0, in any time zone."""


def metadata_of(file: BinaryIO) -> Image.Image:
    """The metadata of a raw photo, held by a Pillow picture without its pixels."""
    from PIL import Image

    picture = Image.new("1", (1, 1))
    file.seek(0)
    head = file.read(12)
    with suppress(Exception):  # broken EXIF is no reason to refuse a photo
        if head[8:] == CANON_3:
            _load_canon_3(picture.getexif(), file.read(_HEAD))
        elif head.startswith(_FUJI):
            file.seek(_FUJI_PREVIEW)
            file.seek(*struct.unpack(">I", file.read(4)))
            picture = Image.open(io.BytesIO(file.read(_HEAD)), formats=["JPEG"])
        elif head[:4] in MAGIC:  # a TIFF but for its first bytes
            start = b"II*\0" if head[:2] == b"II" else b"MM\0*"
            picture.getexif().load_from_fp(io.BytesIO(start + head[4:] + file.read(_HEAD)))
        else:
            file.seek(0)
            picture.getexif().load_from_fp(file)
    return picture


def _load_canon_3(tags: Image.Exif, head: bytes) -> None:
    from PIL import Image

    for name, part in _CANON_BLOCKS.items():
        if (at := head.find(name)) < 4:
            continue
        block = head[at + 4 : at - 4 + int.from_bytes(head[at - 4 : at], "big")]
        if part is None:
            tags.load(block)
        else:
            found = Image.Exif()
            found.load(block)
            tags.get_ifd(part).update(found)


def merged_exif(own: Mapping[int, Any], of_preview: Mapping[int, Any]) -> dict[int, Any]:
    """The EXIF of a raw photo, completed by that of its preview.

    To previews without EXIF LibRaw adds camera, time and exposure, and a position in which the
    letters for north and east are random bytes: that is dropped.
    """
    tags = {**of_preview, **{tag: value for tag, value in own.items() if value}}
    place = tags.get(_GPS, {})
    if place.get(1) not in ("N", "S") or place.get(3) not in ("E", "W"):
        tags.pop(_GPS, None)
    if str(tags.get(_CHANGED)).startswith(_UNKNOWN_TIMES):
        del tags[_CHANGED]
    return tags


# ---------------------------------------------------------------------- LibRaw

_ORIENTATIONS = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}
"""LibRaw's `flip` → EXIF orientation."""


class RawPhoto:
    """An open raw photo.

    Attributes:
        size: Width and height of the developed picture, upright.
        samples: Width and height of all that the sensor recorded.
    """

    def __init__(self, opened: RawPy, content: bytes) -> None:
        self._opened = opened
        self._content = content
        sizes = opened.sizes
        self.samples = sizes.raw_width, sizes.raw_height
        self._flip = sizes.flip
        self.size = (sizes.height, sizes.width) if sizes.flip & 4 else (sizes.width, sizes.height)

    def preview(self) -> bytes | Image.Image | None:
        """The largest embedded picture, as a JPEG or decoded, not turned; None if it is missing.

        Call it before `developed`, after which LibRaw cannot read the file any more.
        """
        import rawpy
        from PIL import Image

        try:
            with c_stderr_off:
                found = self._opened.extract_thumb()
        except (rawpy.LibRawError, rawpy.NotSupportedError):
            return None
        if not isinstance(found.data, bytes):
            return Image.fromarray(found.data) if found.data.tobytes() in self._content else None
        # for the missing end of a truncated file, LibRaw returns uninitialised memory
        first = 2 + int.from_bytes(found.data[4:6], "big")
        if found.data[2 + first :] not in self._content:
            return None
        return _without_added_exif(found.data)

    def orientation_of(self, width: int, height: int, own: Any) -> int:
        """The EXIF orientation of its preview.

        Some previews are stored as the sensor lies, others are turned already; some have EXIF,
        to others LibRaw adds it. So the orientation is chosen that fits the developed picture.

        Args:
            width: Of the preview, as it is stored.
            height: As above.
            own: The orientation in the EXIF of the preview.
        """
        candidates = [own, _ORIENTATIONS.get(self._flip), 1]
        valid: list[int] = [each for each in candidates if each in _ORIENTATIONS.values()]
        for each in valid:
            sides = (height, width) if each >= 5 else (width, height)
            both_wide_or_high = (sides[0] - sides[1]) * (self.size[0] - self.size[1]) >= 0
            if both_wide_or_high:
                return each
        return valid[0]

    def developed(self, *, half: bool) -> Image.Image | None:
        """The picture developed from the samples of the sensor, upright, in sRGB.

        Args:
            half: Whether at half the size, in a tenth of the time.

        Returns:
            None if LibRaw does not know how the samples are compressed.
        """
        import rawpy
        from PIL import Image

        gamma = 2.4, 12.92  # sRGB's
        try:
            with c_stderr_off:
                pixels = self._opened.postprocess(half_size=half, use_camera_wb=True, gamma=gamma)
        except rawpy.LibRawNonFatalError:
            return None
        return Image.fromarray(pixels)


def _without_added_exif(jpeg: bytes) -> bytes:
    """A preview without the EXIF that LibRaw added, if it has its own.

    LibRaw adds EXIF to every preview that does not begin with it, also if its own follows JFIF.
    """
    own = jpeg[2:]
    at = start = 0
    while own[at : at + 1] == b"\xff" and 0xE0 <= own[at + 1] <= 0xEF:
        if own[at + 4 : at + 8] == b"Exif" and start:
            return jpeg[:2] + own[start:]
        at += 2 + int.from_bytes(own[at + 2 : at + 4], "big")
        start = start or at
    return jpeg


@contextmanager
def open_raw(file: BinaryIO) -> Iterator[RawPhoto]:
    """A raw photo, open; only its metadata is read.

    Raises:
        MissingExtra: rawpy cannot be imported.
        TooLarge: The file is.
        UnreadableFile: It is damaged, or not a raw photo that LibRaw knows.
    """
    try:
        import rawpy
    except ImportError as error:
        raise MissingExtra("reading raw photos", "raw", error) from error
    content = read_whole(file, "a raw photo")  # one of 200 megapixels has some 400 MB
    try:
        with c_stderr_off:
            opened = rawpy.imread(io.BytesIO(content))  # which it reads without copying it
        with opened:
            yield RawPhoto(opened, content)
    except rawpy.LibRawIOError as error:
        raise UnreadableFile("truncated") from error
    except rawpy.LibRawFileUnsupportedError as error:
        raise UnreadableFile("damaged, or not a raw photo that LibRaw can read") from error
    except rawpy.LibRawUnsufficientMemoryError as error:
        raise UnreadableFile("out of memory") from error
