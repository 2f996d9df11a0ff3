"""The format of a sound file, by its bytes, and where in the file the sound is.

Files contain more than sound: tags before and after it, the header of a server's response, zeros
of a broken download, another file joined to the first. Sizes in their headers may never have been
filled in. So decoders are given parts of files, which they read to the end.
"""

from __future__ import annotations

import io
import os
import struct
from typing import Any, BinaryIO

from mmsearch.errors import UnreadableFile

_MAGIC = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"caff": "caf",
    b".snd": "au",
    b"riff\x2e\x91\xcf\x11": "w64",
    b"\x1aE\xdf\xa3": "matroska",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"FLV\x01": "flv",
    b"#!AMR": "amr",
    b"wvpk": "wv",
    b"TTA1": "tta",
    b"\x00\x00\x01\xba": "mpeg",
}
"""First bytes of a file → its container, by FFmpeg's name; `container_of` tells the rest.

Nothing else is opened: when FFmpeg guesses, it takes some texts for lists of files to fetch.
"""
_IFF_TYPES = {b"WAVE": "wav", b"AVI ": "avi", b"AIFF": "aiff", b"AIFC": "aiff"}
_AC3_LATEST = 10
"""The latest version of the bit stream that is AC-3; later ones are E-AC-3."""


class FilePart(io.RawIOBase):
    """A part of a file as a file of its own, without a name.

    It has no name because soundfile would take one in .raw for bare samples. The methods, callbacks
    of libsndfile, raise nothing: exceptions in them would be printed to the terminal.
    """

    def __init__(
        self, file: BinaryIO, start: int = 0, end: int | None = None, *, head: bytes = b""
    ) -> None:
        """The part is `head`, then the bytes of the file from `start` to `end`."""
        super().__init__()
        self._file = file
        self._start = start
        self._head = head
        self.size = len(head) + (file.seek(0, os.SEEK_END) if end is None else end) - start
        self._at = 0
        self.error: OSError | None = None

    def part(self, start: int, end: int | None = None, *, head: bytes = b"") -> FilePart:
        """A part of this part, which must have no head."""
        end = self.size if end is None else end
        return FilePart(self._file, self._start + start, self._start + end, head=head)

    def bytes_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from a position on; raises the OSError of a disk that fails."""
        self.seek(position)
        found = self.read(size) or b""
        if self.error:
            raise self.error
        return found

    @property
    def at_end(self) -> bool:
        """Whether all of it has been read."""
        return self._at >= self.size

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position in the part."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position in the part; a damaged header may point anywhere."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if 0 <= base + offset < 1 << 62:
            self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read up to as many bytes as the buffer has; 0 at the end, or if the disk fails."""
        view = memoryview(buffer).cast("B")[: max(0, self.size - self._at)]
        head = self._head[self._at : self._at + len(view)]
        view[: len(head)] = head
        read = len(head)
        if read < len(view):
            try:
                self._file.seek(self._start + self._at + read - len(self._head))
                read += self._file.readinto(view[read:])  # type: ignore[attr-defined]
            except OSError as error:  # of the disk
                self.error = error
                return 0
        self._at += read
        return read


def find_sound(file: BinaryIO) -> tuple[str, FilePart]:
    """FFmpeg's name for the format of a file, and the part of the file that is in this format.

    The first bytes decide the format, since endings are often wrong. ID3 tags are left out.

    Raises:
        UnreadableFile: It is empty, or has no known format.
    """
    whole = FilePart(file)
    if not whole.size:
        raise UnreadableFile("0 bytes")
    start, end = after_id3(whole), _before_id3v1(whole)
    sound = whole.part(start)
    container, first = container_of(sound), 0
    if container is None:
        container, first = _first_frame(sound)
    return container, whole.part(start + first, end if container in ("mp3", "flac") else None)


def after_id3(file: FilePart) -> int:
    """Where the ID3 tags at the beginning end; there may be several, with sizes of 4 × 7 bits."""
    end = 0
    while (head := file.bytes_at(end, 10)).startswith(b"ID3") and len(head) == 10:
        has_footer = bool(head[5] & 0x10)
        sizes = zip(head[6:], (21, 14, 7, 0), strict=True)
        end += 10 + 10 * has_footer + sum(byte << shift for byte, shift in sizes)
    return end


def _before_id3v1(file: FilePart) -> int:
    """Where the ID3v1 tag begins, the last 128 bytes; without one, the end of the file."""
    start = max(0, file.size - 128)
    return start if file.bytes_at(start, 3) == b"TAG" else file.size


def container_of(file: FilePart) -> str | None:
    """FFmpeg's name for the format of a file, by its first bytes; None if unknown."""
    head = file.bytes_at(0, 16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM") and head[8:12] in _IFF_TYPES:
        return _IFF_TYPES[head[8:12]]
    if head[4:8] == b"ftyp":
        return "mp4"
    if magic := next(filter(head.startswith, _MAGIC), None):
        return _MAGIC[magic]
    if head.startswith(b"\x0bw") and len(head) > 5:
        return "ac3" if head[5] >> 3 <= _AC3_LATEST else "eac3"
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3" if head[1] & 0x06 else "aac"  # the layer, which AAC does not have
    return "mpegts" if is_transport_stream(file, packets=2) else None


def is_transport_stream(file: FilePart, packets: int) -> bool:
    """Whether a file begins with so many packets of an MPEG transport stream."""
    layouts = ((0, 188), (4, 192))  # (place of the first, size): cameras write times between them
    return any(
        all(file.bytes_at(first + size * number, 1) == b"\x47" for number in range(packets))
        for first, size in layouts
    )


# ---------------------------------------------------------------------- MPEG audio

_BLOCK = 1 << 18
"""Bytes that are read at a time when only the headers of frames and pages are parsed."""
_SEARCH_WINDOW = 1 << 20
"""Bytes, after any zeros, in which the first frame is looked for."""
_FRAMES_IN_A_ROW = 3
"""Consecutive frames that show where the sound begins; fewer occur by chance."""
_SHORTEST_MP3 = 4096
"""Bytes; fewer than this after an MP3 are a tag, not another MP3."""
_BITRATES = {  # kbit/s by (first version?, layer) and index; ISO 11172-3, 13818-3
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Hz by the bits of the version."""


def _first_frame(file: FilePart, after: int = 0) -> tuple[str, int]:
    """The container, MP3 or AAC, and the place in the file where its frames begin.

    Recordings of web radio begin inside a frame or with the server's response ("ICY 200 OK"),
    broken downloads with zeros, edited files with padding.

    Raises:
        UnreadableFile: There are no frames.
    """
    while (data := file.bytes_at(after, _SEARCH_WINDOW)) and not data.strip(b"\0"):
        after += len(data)
    at = data.find(b"\xff")
    while at >= 0:
        place, frames = at, 0
        while frames < _FRAMES_IN_A_ROW and (length := _frame_length(data[place : place + 6])):
            if not _continues(data[at : at + 3], data[place : place + 3]):
                break
            place, frames = place + length, frames + 1
        if frames == _FRAMES_IN_A_ROW:
            return ("mp3" if data[at + 1] & 0x06 else "aac"), after + at
        at = data.find(b"\xff", at + 1)
    raise UnreadableFile("not a sound")


def _continues(first: bytes, head: bytes) -> bool:
    """Whether a frame has the version, layer and sample rate of the first one."""
    return head[:2] == first[:2] and len(head) > 2 and not (head[2] ^ first[2]) & 0x0C


def _frame_length(head: bytes) -> int:
    """The size in bytes of the MPEG audio or AAC (ADTS) frame with this header; 0 if it is none."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    layer = 4 - (head[1] >> 1 & 3)
    if layer == 4:
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        return length if head[1] & 0xF0 == 0xF0 and length > 7 else 0
    version, index, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or rate == 3 or not 0 < index < 15:
        return 0
    bits = 1000 * _BITRATES[version == 3, layer][index]
    padding, hertz = head[2] >> 1 & 1, _SAMPLE_RATES[version][rate]
    if layer == 1:
        return 4 * (12 * bits // hertz + padding)
    return (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding


def states_length(mp3: FilePart) -> bool:
    """Whether the first frame of an MP3 says how many follow (its Xing header)."""
    return _xing_bytes(mp3) is not None


def _xing_bytes(mp3: FilePart) -> int | None:
    """The number of bytes that the Xing header of an MP3 states, 0 if unknown; None without one.

    libmpg123 stops after these, even if another MP3 was joined to it.
    """
    head = mp3.bytes_at(0, 256)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0 or len(head) < at + 16:
        return None
    flags, frames_or_bytes, size = struct.unpack_from(">III", head, at + 4)
    return int({2: frames_or_bytes, 3: size}.get(flags & 3, 0))


def mp3_streams(sound: FilePart) -> list[FilePart]:
    """The MP3s that were joined to one, and the pieces of an MP3 that has gaps.

    libmpg123 estimates the length of an MP3 without a Xing header from its first bit rate, and
    stops there. So if the bit rate varies, the part begins with such a header.
    """
    streams = []
    at: int | None = 0
    while at is not None:
        length, head = _xing_bytes(sound.part(at)), b""
        if length is None:
            length, head = _length_without_xing(sound.part(at))
        following = _next_mp3(sound, at + length) if length else None
        streams.append(sound.part(at, following, head=head))
        at = following
    return streams


def _next_mp3(sound: FilePart, after: int) -> int | None:
    if after + _SHORTEST_MP3 > sound.size:
        return None
    try:
        container, at = _first_frame(sound, after)
    except UnreadableFile:
        return None
    return at if container == "mp3" else None


def _length_without_xing(mp3: FilePart) -> tuple[int, bytes]:
    """The size of the frames of an MP3, and a Xing header for it if their bit rate varies."""
    first = mp3.bytes_at(0, 4)
    at = frames = 0
    lengths: dict[bytes, int] = {}  # by the first bytes of a frame
    while len(block := mp3.bytes_at(at, _BLOCK)) > 4:
        place = 0
        while len(head := block[place : place + 3]) == 3:
            if (length := lengths.get(head)) is None:
                length = _frame_length(head + bytes(3)) if _continues(first, head) else 0
                lengths[head] = length
            if not length:
                break
            place, frames = place + length, frames + 1
        at += place
        if place < len(block) - 2:
            break
    size = min(at, mp3.size)
    rates = {head[2] >> 4 for head, length in lengths.items() if length}
    return size, _xing_frame(first, frames, size) if len(rates) > 1 else b""


def _xing_frame(first: bytes, frames: int, size: int) -> bytes:
    """A silent frame in the format of the first one, with the number and size of all frames."""
    head = bytes([0xFF, first[1] | 1, first[2] & 0x0C | 0xE0, first[3]])  # long; no checksum
    is_mono, is_version_1 = first[3] >> 6 == 3, first[1] >> 3 & 3 == 3
    side = {(True, True): 17, (True, False): 9, (False, True): 32, (False, False): 17}
    silent = _frame_length(head + bytes(2)) * b"\0"
    stated = b"Xing" + struct.pack(">III", 3, frames, len(silent) + size)
    frame = head + bytes(side[is_mono, is_version_1]) + stated
    return frame + silent[len(frame) :]


# ---------------------------------------------------------------------- Ogg

_PAGE_HEADER = 27 + 255
_BEGINS, _ENDS = 2, 4
"""Flags of a page that is the first, or the last, of its stream."""
_TOLERANCE = 64
"""Bytes that may be missing at the end."""


def ogg_streams(sound: FilePart) -> tuple[list[FilePart], bool]:
    """The chained streams of an Ogg file, and whether one is damaged or the end is missing.

    Recordings of web radio and joined files are chains of streams (RFC 3533, section 4). A page is
    26 bytes, the number of its segments, their sizes, and the segments. libsndfile reads only the
    first stream, up to the first damage, and reports no error.
    """
    starts, at, block, block_at = [0], 0, b"", 0
    damaged = in_headers = in_stream = False
    while at < sound.size:
        place = at - block_at
        if place + _PAGE_HEADER > len(block):
            block, block_at, place = sound.bytes_at(at, _BLOCK), at, 0
        if not block.startswith(b"OggS", place):
            found = sound.bytes_at(at, _BLOCK).find(b"OggS")  # the next page
            if found < 0:
                break  # a tag
            damaged |= in_stream
            at += found
            continue
        if place + 27 > len(block):
            return _between(sound, starts), True
        flags, segments = block[place + 5], block[place + 26]
        if flags & _BEGINS and not in_headers and at:
            starts.append(at)
        in_headers = bool(flags & _BEGINS)
        in_stream = not flags & _ENDS
        at += 27 + segments + sum(block[place + 27 : place + 27 + segments])
    return _between(sound, starts), damaged or at > sound.size + _TOLERANCE


def _between(sound: FilePart, starts: list[int]) -> list[FilePart]:
    ends = [*starts[1:], sound.size]
    return [sound.part(start, end) for start, end in zip(starts, ends, strict=True)]


# ---------------------------------------------------------------------- WAV

_LARGEST_HEADER = 1 << 24
"""Bytes before the samples: usually hundreds, or millions if there is a picture."""
_UNKNOWN_SIZE = 1 << 62
"""A 64-bit size from here on means that the size was unknown when writing began."""


def wav_with_sizes(sound: FilePart) -> FilePart:
    """The WAV or RF64, with the size of its samples in the header if it was never filled in.

    That is so if the header states no size, or less than half of what is there, and no other chunks
    follow the samples.
    """
    order = ">" if sound.bytes_at(0, 4) == b"RIFX" else "<"
    at, long_sizes_at, name = 12, 0, b""
    while name != b"data":
        header = sound.bytes_at(at, 8)
        if len(header) < 8 or at > _LARGEST_HEADER:
            return sound
        name, stated = struct.unpack(order + "4sI", header)
        if name == b"ds64":
            long_sizes_at = at + 8
        at += 8 + (stated + stated % 2 if name != b"data" else 0)
    size = sound.size - at
    if long_sizes_at and stated in (0, 0xFFFFFFFF):
        [stated] = struct.unpack("<Q", sound.bytes_at(long_sizes_at + 8, 8))
        stated = 0 if stated >= _UNKNOWN_SIZE else stated
    if 2 * stated >= size or _is_chunks(sound, at + stated + stated % 2, order):
        return sound
    head = bytearray(sound.bytes_at(0, at))
    if long_sizes_at:
        struct.pack_into("<QQ", head, long_sizes_at, sound.size - 8, size)
        sizes = 0xFFFFFFFF, 0xFFFFFFFF
    else:
        sizes = min(sound.size - 8, 0xFFFFFFFF), min(size, 0xFFFFFFFF)
    struct.pack_into(order + "I", head, 4, sizes[0])
    struct.pack_into(order + "I", head, at - 4, sizes[1])
    return sound.part(at, head=bytes(head))


def _is_chunks(sound: FilePart, at: int, order: str) -> bool:
    """Whether all that follows, up to the end of the file, is chunks, not samples."""
    while at + 8 <= sound.size:
        name, length = struct.unpack(order + "4sI", sound.bytes_at(at, 8))
        if not name.isascii():
            return False
        at += 8 + length + length % 2
    return sound.size - 1 <= at <= sound.size + 1
