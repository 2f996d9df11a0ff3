"""Image files that Pillow refuses or misreads, though every viewer shows them, rewritten for it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

# ---------------------------------------------------------------------- PNG

_SIGNATURE = 8
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_KEPT_CHUNKS = {b"eXIf": None, b"iCCP": None, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4}
"""Ancillary chunks that say how the pixels are shown → their size, None if it varies."""
_LARGE = 2**20
"""Bytes that Pillow lets an ancillary chunk unpack to."""


def png_without_faulty_chunks(data: bytes) -> bytes:
    """A PNG of the chunks that make the picture, and the intact ones that say how it is shown.

    Text of more than 1 MiB, a chunk that is too short, or one with a wrong checksum says nothing
    about the pixels, but makes Pillow refuse them. A PNG whose last chunk (IEND) is missing gets
    one: whether all pixels are there, the packed data tells.
    """
    kept = [data[:_SIGNATURE]]
    at, kind = _SIGNATURE, b""
    while at + 8 <= len(data) and kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            kept.append(data[at:])  # Pillow is to see that it is cut off
            return b"".join(kept)
        chunk = data[at : at + 12 + size]
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        if kind == b"IDAT":  # the pixels have a checksum of their own
            chunk = chunk[: 8 + size] + checksum
        intact = (
            chunk.endswith(checksum)
            and _unpacks(kind, body)
            and _KEPT_CHUNKS.get(kind) in (None, size)
        )
        if kind in _PIXEL_CHUNKS or (kind in _KEPT_CHUNKS and intact):
            kept.append(chunk)
        at += 12 + size
    if kind != b"IEND":
        kept.append(b"\0\0\0\0IEND\xaeB`\x82")
    return b"".join(kept)


def _unpacks(kind: bytes, body: bytes) -> bool:
    if kind != b"iCCP":
        return True
    try:
        unpacker = zlib.decompressobj()
        unpacker.decompress(body.partition(b"\0")[2][1:], _LARGE)
    except zlib.error:
        return False
    return unpacker.eof and not unpacker.unconsumed_tail


# ---------------------------------------------------------------------- JPEG

_FILLERS = (b"\0" * 4096, b"\x55\xaa" * 2048, bytes(range(1, 255)) * 16)
"""Three guesses at what is missing of a JPEG."""


def jpeg_ends(data: bytes) -> Iterator[bytes]:
    """The JPEG with several guesses at its missing end; none if its header tells that more is.

    The same picture comes out of all of them if and only if nothing but the end marker is missing.
    """
    if _has_all_scans(data):
        for filler in _FILLERS:
            yield data.removesuffix(b"\xff") + filler + b"\xff\xd9"


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans that begin in a JPEG give each coefficient of each component in full."""
    components, given = 0, set()
    at = 2
    while 0 <= at < len(data) - 4:
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0x00, 0xFF, 0x01, *range(0xD0, 0xD8)):
            at = data.find(b"\xff", at + 1)  # inside a scan
            continue
        if marker == 0xD9:
            break
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + size]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) > 5:
            components = body[5]
        elif marker == 0xDA and body and len(body) >= 2 * body[0] + 4:
            first, last, precision = body[2 * body[0] + 1 : 2 * body[0] + 4]
            if precision & 15 == 0:
                ids = body[1 : 2 * body[0] : 2]
                given |= {(one, place) for one in ids for place in range(first, last + 1)}
        at += 2 + size
    return components > 0 and len(given) >= 64 * components


# ---------------------------------------------------------------------- TIFF

_COPIED = (256, 257, 259, 266, 278, 322, 323)
"""Width, height, compression, fill order, rows a strip, size of tiles."""
_WIDTHS = (256, 322)
_LOSSLESS = {1, 5, 8, 32773, 32946, 34925, 50000}
"""Compressions of bytes: none, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard."""
_UNCOMPRESSED = 1
_PREDICTOR = 317
_NO_PREDICTOR, _DIFFERENCES, _FLOAT_PREDICTOR = 1, 2, 3
_CHANNELS = {0: 1, 1: 1, 2: 3, 5: 4}
"""By photometric interpretation: grey (two ways), RGB, CMYK."""
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_TYPES = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f"}
"""NumPy's letter by sample format."""


def tiff_directory(file: BinaryIO) -> Any:
    """The tags of the first picture of a TIFF, or None if some of them are missing."""
    from PIL import TiffImagePlugin

    header = file.read(8)
    is_big = header[2] == 43
    tags = TiffImagePlugin.ImageFileDirectory_v2(header + file.read(8 * is_big))
    file.seek(tags.next)
    order = ">" if tags.prefix == b"MM" else "<"
    [count] = struct.unpack(order + "HQ"[is_big], file.read(8 if is_big else 2))
    file.seek(tags.next)
    tags.load(file)
    return tags if len(tags) == count else None


def pillow_reads(tags: Any) -> bool:
    """Whether Pillow reads the samples of a TIFF as they are meant.

    It does if they have up to 8 bits, or 16 if they are those of pixels in colour and together.
    """
    if max(_numbers(tags, 258, 1)) <= 8:
        return _numbers(tags, 339, 1)[0] != _SIGNED
    return (
        {*_numbers(tags, 258, 1)} == {16}
        and {*_numbers(tags, 339, 1)} == {_UNSIGNED}
        and tags.get(262) in (2, 5)
        and tags.get(284, 1) == 1
    )


def tiff_samples(file: BinaryIO, tags: Any) -> tuple[NDArray[Any], bool] | None:
    """The samples of a TIFF, (height, width, channels), and whether the last channel is alpha.

    Pillow unpacks bytes of any packing, but refuses most types of samples, and misreads some. So it
    is given a grey TIFF of the same bytes, one a pixel.

    Args:
        file: The TIFF.
        tags: Its first directory, as Pillow reads it.

    Returns:
        None for what this cannot read: JPEG in TIFF, other colour spaces, samples of 12 bits.
    """
    import numpy as np

    bits, kinds = ({*_numbers(tags, tag, 1)} for tag in (258, 339))
    samples, channels = int(tags.get(277, 1)), _CHANNELS.get(tags.get(262, -1), 0)
    if len(bits) > 1 or len(kinds) > 1 or tags.get(259, 1) not in _LOSSLESS:
        return None
    [size], [kind] = bits, kinds
    predictor = tags.get(_PREDICTOR, _NO_PREDICTOR)
    known = kind in _TYPES and size in ((16, 32, 64) if kind == _FLOAT else (8, 16, 32, 64))
    if predictor == _FLOAT_PREDICTOR:
        known &= kind == _FLOAT
    if not known or not 0 < channels <= samples or not 0 < predictor <= _FLOAT_PREDICTOR:
        return None
    order = ">" if tags.prefix == b"MM" else "<"
    dtype = np.dtype(f"{order}{_TYPES[kind]}{size // 8}")
    planes = samples if tags.get(284, 1) == 2 else 1
    together = samples // planes
    has_alpha = samples > channels and _numbers(tags, 338, 0)[0] in (1, 2)
    wanted = channels + has_alpha
    found = []
    for plane in range(min(planes, wanted)):
        rows = _unpacked(file, tags, plane, planes, together * dtype.itemsize)
        tile = int(tags.get(322, tags[256]))
        if predictor == _FLOAT_PREDICTOR:
            rows, dtype = _floats_together(rows, tile * together, together, dtype.itemsize)
        pixels = rows.view(dtype).reshape(len(rows), -1, together).astype(dtype.newbyteorder("="))
        if predictor == _DIFFERENCES:
            pixels = _without_differences(pixels, tile)
        found.append(pixels[:, :, :wanted])
    return np.concatenate(found, axis=2), has_alpha


def _numbers(tags: Any, tag: int, default: int) -> tuple[int, ...]:
    found = tags.get(tag, default)
    return found if isinstance(found, tuple) else (found,)


def _unpacked(
    file: BinaryIO, tags: Any, plane: int, planes: int, bytes_per_pixel: int
) -> NDArray[np.uint8]:
    """The bytes, a row a row, of one of the planes that lie one after the other in a TIFF."""
    import numpy as np
    from PIL import Image

    places, sizes = (324, 325) if 324 in tags else (273, 279)
    starts, lengths = _numbers(tags, places, 0), _numbers(tags, sizes, 0)
    pieces = range(plane * len(starts) // planes, (plane + 1) * len(starts) // planes)
    if tags.get(259, 1) == _UNCOMPRESSED:  # stated sizes may be wrong
        width, rows = int(tags.get(322, tags[256])), int(tags.get(323, tags.get(278, tags[257])))
        left = (
            int(tags[257]) - rows * at if 324 not in tags else rows for at in range(len(pieces))
        )
        lengths = (0,) * pieces.start + tuple(
            width * bytes_per_pixel * min(rows, some) for some in left
        )
    if sum(lengths) > 2 * file.seek(0, os.SEEK_END):
        raise ValueError("truncated")
    offsets, data = [], bytearray()
    for piece in pieces:
        file.seek(starts[piece])
        offsets.append(8 + len(data))
        packed = file.read(lengths[piece])
        if len(packed) < lengths[piece]:
            raise ValueError("truncated")
        data += packed
    entries = {tag: [int(tags[tag])] for tag in _COPIED if tag in tags}
    for tag in _WIDTHS:
        if tag in entries:
            entries[tag] = [entries[tag][0] * bytes_per_pixel]
    entries |= {258: [8], 262: [1], 277: [1], 284: [1], places: offsets}
    entries[sizes] = [lengths[piece] for piece in pieces]
    grey = _tiff("<", bytes(data), entries)
    with Image.open(io.BytesIO(grey), formats=["TIFF"]) as opened:
        return np.asarray(opened)


def _without_differences(samples: NDArray[Any], tile: int) -> NDArray[Any]:
    """Samples of which each but the first of a row of a tile is stored as a difference."""
    import numpy as np

    unsigned = samples.view(f"u{samples.itemsize}")
    sums = [
        np.cumsum(unsigned[:, start : start + tile], axis=1, dtype=unsigned.dtype)
        for start in range(0, samples.shape[1], tile)
    ]
    return np.concatenate(sums, axis=1).view(samples.dtype)


def _floats_together(
    rows: NDArray[np.uint8], tile: int, stride: int, itemsize: int
) -> tuple[NDArray[np.uint8], np.dtype[Any]]:
    """Rows of numbers whose bytes lie apart in each row of a tile, and are stored as differences.

    The highest bytes of all numbers come first (Adobe Photoshop TIFF Technical Note 3).

    Args:
        rows: Their bytes.
        tile: The width of a tile, in numbers.
        stride: Bytes from one to that of which it is the difference.
        itemsize: Bytes a number.
    """
    import numpy as np

    found = []
    for start in range(0, rows.shape[1], tile * itemsize):
        piece = rows[:, start : start + tile * itemsize]
        sums = np.cumsum(piece.reshape(len(rows), -1, stride), axis=1, dtype=np.uint8)
        apart = sums.reshape(len(rows), itemsize, -1)
        found.append(apart.transpose(0, 2, 1).reshape(len(rows), -1))
    return np.ascontiguousarray(np.concatenate(found, axis=1)), np.dtype(f">f{itemsize}")


def _tiff(order: str, data: bytes, entries: dict[int, list[int]]) -> bytes:
    """A TIFF of one picture, all of whose tags are unsigned integers of 32 bits."""
    data += b"\0" * (len(data) % 2)
    directory = 8 + len(data)
    values_at = directory + 2 + 12 * len(entries) + 4
    rows = values = b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            values += packed
            packed = struct.pack(order + "I", values_at + len(values) - len(packed))
        rows += struct.pack(order + "HHI", tag, 4, len(numbers)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory)
    count = struct.pack(order + "H", len(entries))
    return head + data + count + rows + b"\0\0\0\0" + values
