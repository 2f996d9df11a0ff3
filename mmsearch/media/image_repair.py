"""Image files with harmless faults, rewritten so that Pillow reads them as every viewer does."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

# ---------------------------------------------------------------------- PNG

_SIGNATURE = 8
_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_USEFUL = {b"eXIf", b"iCCP"}
_LARGE = 2**20
"""Bytes that Pillow lets a side chunk unpack to."""


def png_without_side_chunks(data: bytes) -> bytes:
    """A PNG of the chunks that make the picture, and of side chunks its EXIF and profile if intact.

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
        intact = chunk.endswith(checksum) and _unpacks(kind, body)
        if kind in _NEEDED or (kind in _USEFUL and intact):
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

_PADS = (b"\0" * 4096, b"\x55\xaa" * 2048, bytes(range(1, 255)) * 16)
"""Three guesses at what is missing of a JPEG."""


def jpeg_ends(data: bytes) -> Iterator[bytes]:
    """The JPEG with several guesses at its missing end; none if its header tells that more is.

    The same picture comes out of all of them if and only if nothing but the end marker is missing.
    """
    if _has_all_scans(data):
        for pad in _PADS:
            yield data.removesuffix(b"\xff") + pad + b"\xff\xd9"


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

_COPIED = (256, 257, 259, 266, 278, 317, 322, 323)
"""Width, height, compression, fill order, rows a strip, predictor, size of tiles."""


def planes_of_tiff(file: BinaryIO, opened: Image.Image) -> list[bytes] | None:
    """A grey TIFF a channel, of a TIFF of 16 bits whose channels lie one after the other.

    None for any other: Pillow reads those itself, but takes these for channels of 8 bits.
    """
    tags: Any = getattr(opened, "tag_v2", {})
    samples = tags.get(277, 1)
    channels = {2: 3, 5: 4}.get(tags.get(262), 0)
    if tags.get(284) != 2 or set(tags.get(258, ())) != {16} or not 0 < channels <= samples:
        return None
    places, sizes = (324, 325) if 324 in tags else (273, 279)
    pieces = len(tags[places]) // samples
    order = ">" if tags.prefix == b"MM" else "<"
    planes = []
    for channel in range(channels + (samples > channels and _is_alpha(tags))):
        offsets, data = [], b""
        for piece in range(channel * pieces, (channel + 1) * pieces):
            file.seek(tags[places][piece])
            offsets.append(8 + len(data))
            data += file.read(tags[sizes][piece])
        entries = {tag: [int(tags[tag])] for tag in _COPIED if tag in tags}
        entries |= {258: [16], 262: [1], 277: [1], 284: [1], places: offsets}
        entries[sizes] = list(tags[sizes][channel * pieces : (channel + 1) * pieces])
        planes.append(_tiff(order, data, entries))
    return planes


def _is_alpha(tags: Any) -> bool:
    extra = tags.get(338, (0,))
    return bool((extra if isinstance(extra, tuple) else (extra,))[0] in (1, 2))


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
