"""Image files that viewers show but Pillow refuses or misreads, rewritten so that it reads them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from enum import IntEnum
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
"""Bytes; Pillow refuses ancillary chunks that are larger when unpacked."""


def png_without_faulty_chunks(data: bytes) -> bytes:
    """The PNG with only the chunks of its pixels, and the intact ones that say how to show them.

    An ancillary chunk of text over 1 MiB, of a wrong size or with a wrong checksum does not concern
    the pixels, but Pillow refuses the file. If the last chunk (IEND) is missing, it is added; the
    compressed data shows whether all pixels are there.
    """
    kept = [data[:_SIGNATURE]]
    at, kind = _SIGNATURE, b""
    while at + 8 <= len(data) and kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            kept.append(data[at:])  # so that Pillow reports that it is truncated
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
"""Three different ends for a truncated JPEG."""


def jpeg_ends(data: bytes) -> Iterator[bytes]:
    """The JPEG with several ends in place of a missing one; none if whole scans are missing.

    They decode to the same picture if and only if nothing but the end marker is missing.
    """
    if _has_all_scans(data):
        for filler in _FILLERS:
            yield data.removesuffix(b"\xff") + filler + b"\xff\xd9"


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans that begin in a JPEG cover all coefficients of all components, all bits."""
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


# ---------------------------------------------------------------------- ICO


def largest_icon(file: BinaryIO) -> tuple[bytes, tuple[int, int]]:
    """An icon file with only the largest picture of one, and the size stated in that picture.

    Of several that are equally large, Pillow would take the one with the fewest colours.

    Raises:
        ValueError: It is truncated.
        struct.error: It is truncated.
    """
    file.seek(0)
    [count] = struct.unpack("<4xH", file.read(6))
    icons = []
    for place in range(count):
        entry = file.read(16)
        width, height, bits, size, at = struct.unpack("<BB4xHII", entry)
        # 0 stands for 256
        icons.append(((width or 256) * (height or 256), bits, -place, entry, size, at))
    *_, entry, size, at = max(icons)
    file.seek(at)
    data = file.read(size)
    if len(data) < size:
        raise ValueError("truncated")
    if data.startswith(b"\x89PNG"):
        stated = struct.unpack_from(">II", data, 16)
    else:
        width, height = struct.unpack_from("<ii", data, 4)
        stated = abs(width), abs(height) // 2  # the mask lies below the colours
    one = struct.pack("<HHH", 0, 1, 1) + entry[:12] + struct.pack("<I", 6 + 16) + data
    return one, stated


# ---------------------------------------------------------------------- TIFF


class Tag(IntEnum):
    """The tags of TIFF that are read here (TIFF 6.0; ICC.1, annex B)."""

    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    CHANNELS = 277
    ROWS_PER_STRIP = 278
    STRIP_SIZES = 279
    PLANES = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_SIZES = 325
    EXTRA_CHANNELS = 338
    SAMPLE_FORMAT = 339
    PROFILE = 34675


_WIDTHS = (Tag.WIDTH, Tag.TILE_WIDTH)
_COPIED = (
    *(*_WIDTHS, Tag.HEIGHT, Tag.TILE_HEIGHT, Tag.ROWS_PER_STRIP),
    *(Tag.COMPRESSION, Tag.FILL_ORDER),
)
_LOSSLESS = {1, 5, 8, 32773, 32946, 34925, 50000}
"""Compressions of bytes: none, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard."""
_UNCOMPRESSED = 1
_TOGETHER, _APART = 1, 2
"""Values of PLANES: all channels of a pixel together, or each channel in a plane of its own."""
_NO_PREDICTOR, _DIFFERENCES, _FLOAT_PREDICTOR = 1, 2, 3
_CHANNELS = {0: 1, 1: 1, 2: 3, 5: 4}
"""By photometric interpretation: grey (white is 0, or black is), RGB, CMYK."""
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_TYPES = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f"}
"""NumPy's letter by sample format."""


def tiff_directory(file: BinaryIO) -> Any:
    """The tags of the first picture of a TIFF; None if Pillow cannot read all of them."""
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
    """Whether Pillow reads the samples of a TIFF correctly.

    It does if they have up to 8 bits, or 16 in colour with all channels of a pixel together.
    """
    if max(_numbers(tags, Tag.BITS, 1)) <= 8:
        return _numbers(tags, Tag.SAMPLE_FORMAT, 1)[0] != _SIGNED
    return (
        {*_numbers(tags, Tag.BITS, 1)} == {16}
        and {*_numbers(tags, Tag.SAMPLE_FORMAT, 1)} == {_UNSIGNED}
        and tags.get(Tag.PHOTOMETRIC) in (2, 5)
        and tags.get(Tag.PLANES, _TOGETHER) == _TOGETHER
    )


def tiff_samples(file: BinaryIO, tags: Any) -> tuple[NDArray[Any], bool] | None:
    """The samples of a TIFF, (height, width, channels), and whether the last channel is alpha.

    Pillow decompresses bytes, but refuses most types of samples, and misreads some. So it is given
    a grey TIFF of the same compressed bytes, in which each byte is a pixel.

    Args:
        file: The TIFF.
        tags: Its first directory, as Pillow reads it.

    Returns:
        None for what is not supported: JPEG in TIFF, other colour spaces, samples of 12 bits.
    """
    import numpy as np

    bits, kinds = ({*_numbers(tags, tag, 1)} for tag in (Tag.BITS, Tag.SAMPLE_FORMAT))
    samples = int(tags.get(Tag.CHANNELS, 1))
    channels = _CHANNELS.get(tags.get(Tag.PHOTOMETRIC, -1), 0)
    compression = tags.get(Tag.COMPRESSION, _UNCOMPRESSED)
    if len(bits) > 1 or len(kinds) > 1 or compression not in _LOSSLESS:
        return None
    [size], [kind] = bits, kinds
    predictor = tags.get(Tag.PREDICTOR, _NO_PREDICTOR)
    known = kind in _TYPES and size in ((16, 32, 64) if kind == _FLOAT else (8, 16, 32, 64))
    if predictor == _FLOAT_PREDICTOR:
        known &= kind == _FLOAT
    if not known or not 0 < channels <= samples or not 0 < predictor <= _FLOAT_PREDICTOR:
        return None
    order = ">" if tags.prefix == b"MM" else "<"
    dtype = np.dtype(f"{order}{_TYPES[kind]}{size // 8}")
    planes = samples if tags.get(Tag.PLANES, _TOGETHER) == _APART else 1
    together = samples // planes
    has_alpha = samples > channels and _numbers(tags, Tag.EXTRA_CHANNELS, 0)[0] in (1, 2)
    wanted = channels + has_alpha
    found = []
    for plane in range(min(planes, wanted)):
        rows = _unpacked(file, tags, plane, planes, together * dtype.itemsize)
        tile = int(tags.get(Tag.TILE_WIDTH, tags[Tag.WIDTH]))
        if predictor == _FLOAT_PREDICTOR:
            rows, dtype = _without_float_predictor(rows, tile * together, together, dtype.itemsize)
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
    """The decompressed bytes of one plane of a TIFF (height, bytes per row)."""
    import numpy as np
    from PIL import Image

    in_tiles = Tag.TILE_OFFSETS in tags
    places = Tag.TILE_OFFSETS if in_tiles else Tag.STRIP_OFFSETS
    sizes = Tag.TILE_SIZES if in_tiles else Tag.STRIP_SIZES
    starts, lengths = _numbers(tags, places, 0), _numbers(tags, sizes, 0)
    pieces = range(plane * len(starts) // planes, (plane + 1) * len(starts) // planes)
    if tags.get(Tag.COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED:  # stated sizes may be wrong
        width, height = int(tags.get(Tag.TILE_WIDTH, tags[Tag.WIDTH])), int(tags[Tag.HEIGHT])
        rows = int(tags.get(Tag.TILE_HEIGHT, tags.get(Tag.ROWS_PER_STRIP, height)))
        left = (rows if in_tiles else height - rows * at for at in range(len(pieces)))
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
    entries: dict[int, list[int]] = {tag: [int(tags[tag])] for tag in _COPIED if tag in tags}
    for tag in _WIDTHS:
        if tag in entries:
            entries[tag] = [entries[tag][0] * bytes_per_pixel]
    entries |= {Tag.BITS: [8], Tag.PHOTOMETRIC: [1], Tag.CHANNELS: [1], Tag.PLANES: [_TOGETHER]}
    entries |= {places: offsets, sizes: [lengths[piece] for piece in pieces]}
    grey = _tiff(bytes(data), entries)
    with Image.open(io.BytesIO(grey), formats=["TIFF"]) as opened:
        return np.asarray(opened)


def _without_differences(samples: NDArray[Any], tile: int) -> NDArray[Any]:
    """The samples, each of which is stored as the difference from the one before it in its tile."""
    import numpy as np

    unsigned = samples.view(f"u{samples.itemsize}")
    sums = [
        np.cumsum(unsigned[:, start : start + tile], axis=1, dtype=unsigned.dtype)
        for start in range(0, samples.shape[1], tile)
    ]
    return np.concatenate(sums, axis=1).view(samples.dtype)


def _without_float_predictor(
    rows: NDArray[np.uint8], tile: int, stride: int, itemsize: int
) -> tuple[NDArray[np.uint8], np.dtype[Any]]:
    """Rows of floats, and their type, from what the floating-point predictor made of them.

    It puts the highest bytes of all numbers in a row of a tile first, then the next ones, and
    stores differences of bytes (Adobe Photoshop TIFF Technical Note 3).

    Args:
        rows: The stored bytes (height, bytes per row).
        tile: The width of a tile, in numbers.
        stride: Bytes between the two whose difference is stored.
        itemsize: Bytes per number.
    """
    import numpy as np

    found = []
    for start in range(0, rows.shape[1], tile * itemsize):
        piece = rows[:, start : start + tile * itemsize]
        sums = np.cumsum(piece.reshape(len(rows), -1, stride), axis=1, dtype=np.uint8)
        apart = sums.reshape(len(rows), itemsize, -1)
        found.append(apart.transpose(0, 2, 1).reshape(len(rows), -1))
    return np.ascontiguousarray(np.concatenate(found, axis=1)), np.dtype(f">f{itemsize}")


def _tiff(data: bytes, entries: dict[int, list[int]]) -> bytes:
    """A little-endian TIFF of one picture, all of whose tags are unsigned 32-bit integers."""
    data += b"\0" * (len(data) % 2)
    directory = 8 + len(data)
    values_at = directory + 2 + 12 * len(entries) + 4
    rows = values = b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            values += packed
            packed = struct.pack("<I", values_at + len(values) - len(packed))
        rows += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    head = struct.pack("<2sHI", b"II", 42, directory)
    count = struct.pack("<H", len(entries))
    return head + data + count + rows + b"\0\0\0\0" + values
