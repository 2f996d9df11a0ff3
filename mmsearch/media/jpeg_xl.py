"""JPEG XL: the size of a picture, read before it is decoded; its metadata; its pixels."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mmsearch.errors import MissingExtra
from mmsearch.media.open_media import read_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
CODESTREAM = b"\xff\x0a"

_MOST_BOXES = 1000
"""Boxes of a container that are read, at most."""
_MOST_METADATA = 2**24
"""Bytes."""
_HEADER = 16
"""Bytes at the beginning of a codestream in which its size is stated."""


class Decoded(NamedTuple):
    """The picture in a JPEG XL file."""

    samples: NDArray[Any]
    """(height, width, 1 to 4 channels), upright, alpha last: uint8, uint16, or float32."""
    profile: bytes | None
    """An ICC profile."""


def size_of(file: BinaryIO) -> tuple[int, int]:
    """Width and height in pixels, before orientation is applied.

    Raises:
        ValueError: It is damaged or truncated.
    """
    bits = _Bits(_start_of_codestream(file))
    # ISO/IEC 18181-1, SizeHeader
    is_small = bits.read(1)
    height = _side(bits, is_small=is_small)
    ratio = _RATIOS[bits.read(3)]
    if ratio is None:
        return _side(bits, is_small=is_small), height
    return height * ratio[0] // ratio[1], height


_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_WIDTHS = (9, 13, 18, 30)


def _side(bits: _Bits, *, is_small: int) -> int:
    if is_small:
        return 8 * (bits.read(5) + 1)
    return bits.read(_WIDTHS[bits.read(2)]) + 1


class _Bits:
    """Numbers from bytes, the lowest bits first."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def read(self, count: int) -> int:
        found = self._left & ((1 << count) - 1)
        self._left >>= count
        return found


def _start_of_codestream(file: BinaryIO) -> bytes:
    file.seek(0)
    if file.read(len(CODESTREAM)) == CODESTREAM:
        return file.read(_HEADER)
    found = b""
    for kind, start, end in _boxes(file):
        if kind in (b"jxlc", b"jxlp") and len(found) < _HEADER:
            file.seek(start := start + 4 * (kind == b"jxlp"))  # the number of the part
            found += file.read(max(0, min(_HEADER, end - start)))
    if not found.startswith(CODESTREAM):
        raise ValueError("truncated")
    return found.removeprefix(CODESTREAM)


def metadata_of(file: BinaryIO) -> dict[Any, bytes]:
    """The "exif" and "xmp" in the boxes of a file, unless they are compressed (Brotli)."""
    found: dict[Any, bytes] = {}
    for kind, start, end in _boxes(file):
        if kind in (b"Exif", b"xml ") and end - start < _MOST_METADATA:
            file.seek(start)
            data = file.read(end - start)
            if kind == b"Exif" and data[:2] not in (b"II", b"MM"):
                data = data[4 + int.from_bytes(data[:4], "big") :]  # the distance to the EXIF
            found["exif" if kind == b"Exif" else "xmp"] = data
    return found


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of a container: type, and start and end of the contents."""
    at, length = 0, file.seek(0, os.SEEK_END)
    for _ in range(_MOST_BOXES):
        if at + 8 > length:
            break
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        start = at + 8
        if size == 1:  # a 64-bit number follows
            size, start = int.from_bytes(file.read(8), "big"), at + 16
        end = at + size if size else length
        if end < start:
            break
        yield kind, start, min(end, length)
        at = end


def decode(file: BinaryIO) -> Decoded | bytes:
    """The picture in a file; or, if it is a recompressed JPEG, that JPEG bit for bit.

    Raises:
        MissingExtra: pillow-jxl-plugin cannot be imported.
        TooLarge: The file is.
        RuntimeError: It is damaged or truncated.
    """
    import numpy as np

    try:
        from pillow_jxl import Decoder
    except ImportError as error:
        raise MissingExtra("reading JPEG XL", "jxl", error) from error
    content = read_whole(file, "a JPEG XL")
    # without threads of its own: several files are decoded at a time
    is_jpeg, info, data, profile, _ = Decoder(num_threads=0)(content)
    if is_jpeg:
        return bytes(data)
    channels = info.num_channels + info.has_alpha_channel
    kind = {1: "u1", 2: "u2", 4: "f4"}[len(data) // (info.width * info.height * channels)]
    samples = np.frombuffer(data, np.dtype(kind)).reshape(info.height, info.width, channels)
    return Decoded(samples, profile or None)
