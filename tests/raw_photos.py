"""Raw photos written by hand: DNGs with a preview in IFD0 and a colour filter array in a SubIFD."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 10: 8}
"""Bytes of a value, by type: BYTE, ASCII, SHORT, LONG, RATIONAL, SRATIONAL."""
_LETTERS = {3: "H", 4: "I", 5: "I", 10: "i"}
_FROM_XYZ = 32406, -15372, -4986, -9689, 18758, 415, 557, -2040, 10570
"""From CIE XYZ to the colours of the sensor, which are those of sRGB; of 10,000."""
PREVIEW_AT = 4096
WHITE = 60_000
Tags = Mapping[int, tuple[int, Any]]
"""By number, the type and value of a tag: bytes, a list of numbers, or of pairs (a fraction)."""


def mosaic(picture: Image.Image) -> bytes:
    """The samples of a sensor behind red, green, green and blue filters (RGGB), 16 bits each."""
    linear = (np.asarray(picture.convert("RGB"), np.float32) / 255) ** 2.2 * WHITE
    samples = linear[:, :, 1].copy()
    samples[0::2, 0::2] = linear[0::2, 0::2, 0]
    samples[1::2, 1::2] = linear[1::2, 1::2, 2]
    return samples.astype("<u2").tobytes()


def dng(
    picture: Image.Image,
    preview: bytes = b"",
    *,
    orientation: int = 1,
    main: Tags = {},  # noqa: B006
    exif: Tags = {},  # noqa: B006
    gps: Tags = {},  # noqa: B006
    sensor: Tags = {},  # noqa: B006
    magic: bytes = b"II*\0",
) -> bytes:
    """A DNG of a picture: its directories, then the preview, then the samples.

    Args:
        picture: What the sensor sees, before it is turned by `orientation`.
        preview: A JPEG.
        orientation: As in EXIF, 1 to 8.
        main: More tags of IFD0.
        exif: Tags of its EXIF.
        gps: Tags of its position.
        sensor: Tags of the SubIFD, which replace its own.
        magic: Its first bytes.
    """
    file = io.BytesIO(magic + bytes(4))
    file.seek(0, io.SEEK_END)

    def put(data: bytes) -> int:
        file.write(bytes(file.tell() % 2))
        at = file.tell()
        file.write(data)
        return at

    def directory(tags: Tags) -> int:
        rows = b""
        for tag, (kind, value) in sorted(tags.items()):
            data = _packed(kind, value)
            place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", put(data))
            rows += struct.pack("<HHI", tag, kind, len(data) // _SIZES[kind]) + place
        return put(struct.pack("<H", len(tags)) + rows + bytes(4))

    width, height = picture.size
    samples, samples_at = mosaic(picture), PREVIEW_AT + len(preview) + len(preview) % 2
    raw: Tags = {
        254: (4, [0]),
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [16]),
        259: (3, [1]),
        262: (3, [32803]),  # a colour filter array
        273: (4, [samples_at]),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [len(samples)]),
        33421: (3, [2, 2]),
        33422: (1, bytes([0, 1, 1, 2])),
        50714: (3, [0]),
        50717: (4, [WHITE]),
    }
    tags: dict[int, tuple[int, Any]] = {
        254: (4, [1]),  # a reduced picture
        271: (2, b"Acme\0"),
        272: (2, b"Raw 1\0"),
        274: (3, [orientation]),
        330: (4, [directory({**raw, **sensor})]),
        50706: (1, bytes([1, 4, 0, 0])),
        50708: (2, b"Acme Raw 1\0"),
        50721: (10, [(number, 10_000) for number in _FROM_XYZ]),
        50728: (5, [(1, 1)] * 3),
        50778: (3, [21]),  # D65
    }
    if preview:
        with Image.open(io.BytesIO(preview)) as opened:
            size = opened.size
        tags |= {
            256: (4, [size[0]]),
            257: (4, [size[1]]),
            258: (3, [8, 8, 8]),
            259: (3, [7]),  # JPEG
            262: (3, [6]),
            273: (4, [PREVIEW_AT]),
            277: (3, [3]),
            278: (4, [size[1]]),
            279: (4, [len(preview)]),
        }
    for pointer, part in ((34665, exif), (34853, gps)):
        if part:
            tags[pointer] = (4, [directory(part)])
    start = directory({**tags, **main})
    assert file.tell() <= PREVIEW_AT
    file.seek(4)
    file.write(struct.pack("<I", start))
    return file.getvalue().ljust(PREVIEW_AT, b"\0") + preview + bytes(len(preview) % 2) + samples


def _packed(kind: int, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    flat = [number for one in value for number in (one if isinstance(one, tuple) else (one,))]
    return struct.pack(f"<{len(flat)}{_LETTERS[kind]}", *flat)
