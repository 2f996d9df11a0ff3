"""What a sound file is, by its first bytes, and where in it the sound lies."""

from __future__ import annotations

import io
import os
import struct
from typing import Any, BinaryIO, cast

from mmsearch.errors import UnreadableFile

_MAGIC = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"\x1aE\xdf\xa3": "matroska",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"FLV\x01": "flv",
    b"#!AMR": "amr",
    b"\x00\x00\x01\xba": "mpeg",
}
"""First bytes of a file → its container, by FFmpeg's name; `container_of` knows more.

Nothing else is opened: left to guess, FFmpeg takes some texts for lists of files to fetch.
"""
_IFF_TYPES = {b"WAVE": "wav", b"AVI ": "avi", b"AIFF": "aiff", b"AIFC": "aiff"}


def container_of(file: BinaryIO) -> str:
    """FFmpeg's name for the format of a file, from its first bytes: endings are often wrong."""
    head = _read_at(file, 0, 16)
    if head[:3] == b"ID3":
        head = _read_at(file, after_id3(file), 16)
        head = head if head.startswith(b"fLaC") or head[:1] == b"\xff" else b"\xff\xfb\x90"
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM") and head[8:12] in _IFF_TYPES:
        return _IFF_TYPES[head[8:12]]
    if head[4:8] == b"ftyp":
        return "mp4"
    for magic, container in _MAGIC.items():
        if head.startswith(magic):
            return container
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3" if head[1] & 0x06 else "aac"  # the layer, which AAC does not have
    for first, packet in ((0, 188), (4, 192)):  # cameras write a time before each packet
        if _read_at(file, first, 1) == _read_at(file, first + packet, 1) == b"\x47":
            return "mpegts"
    raise UnreadableFile("not a sound")


def after_id3(file: BinaryIO | FilePart) -> int:
    """Where the sound of an MP3 begins: after its tag, whose size is stored in 4 × 7 bits."""
    head = _read_at(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _read_at(file: BinaryIO | FilePart, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size) or b""


class FilePart(io.RawIOBase):
    """A part of a file as a file of its own, without a name.

    soundfile would take a name in .raw for bare samples. The methods, libsndfile's callbacks, raise
    nothing: exceptions there end up on the terminal.
    """

    def __init__(
        self, file: BinaryIO, start: int = 0, end: int | None = None, *, head: bytes = b""
    ) -> None:
        """The bytes from `start` to `end`; `head` replaces the first of them."""
        super().__init__()
        self._file = file
        self._start = start
        self._size = (file.seek(0, os.SEEK_END) if end is None else end) - start
        self._head = head
        self._at = 0
        self.error: OSError | None = None

    @property
    def at_end(self) -> bool:
        """Whether all of it has been read."""
        return self._at >= self._size

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
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if 0 <= base + offset < 1 << 62:
            self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read up to as many bytes as the buffer has; 0 at the end, or if the disk fails."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        head = self._head[self._at : self._at + len(view)]
        view[: len(head)] = head
        try:
            self._file.seek(self._start + self._at + len(head))
            read: int = self._file.readinto(view[len(head) :])  # type: ignore[attr-defined]
        except OSError as error:  # of the disk
            self.error = error
            return 0
        self._at += len(head) + read
        return len(head) + read


# ---------------------------------------------------------------------- MPEG audio

_SEARCHED = 1 << 20
"""Bytes in which the first frame is looked for."""
_FRAMES = 3
"""That follow each other where a sound begins; less happens by chance."""
_LEAST = 4096
"""Bytes; what is left after an MP3 is a tag rather than another MP3 if it has less."""
_BITRATES = {  # kbit/s by (first version?, layer) and index; ISO 11172-3, 13818-3
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_FRAME_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Hz by the bits of the version."""


def first_frame(file: BinaryIO, after: int = 0) -> tuple[str, int]:
    """The container, MP3 or AAC, and the place in the file where its frames begin.

    Recordings of web radio begin inside a frame, or with the answer of the server ("ICY 200 OK"),
    broken downloads with zeros, files of editors with padding.

    Raises:
        UnreadableFile: There are none.
    """
    data = _read_at(file, after, _SEARCHED)
    at = data.find(b"\xff")
    while at >= 0:
        place, frames = at, 0
        while frames < _FRAMES and (length := _frame_length(data[place : place + 6])):
            if data[place + 1] != data[at + 1] or (data[place + 2] ^ data[at + 2]) & 0x0C:
                break
            place, frames = place + length, frames + 1
        if frames == _FRAMES:
            return ("mp3" if data[at + 1] & 0x06 else "aac"), after + at
        at = data.find(b"\xff", at + 1)
    raise UnreadableFile("not a sound")


def _frame_length(head: bytes) -> int:
    """Bytes of the frame of MPEG audio or AAC (ADTS) that begins so; 0 if none does."""
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
    padding, hertz = head[2] >> 1 & 1, _FRAME_RATES[version][rate]
    if layer == 1:
        return 4 * (12 * bits // hertz + padding)
    return (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding


def xing_header(file: BinaryIO | FilePart) -> int | None:
    """The bytes of sound that the first frame of an MP3 states, 0 if unknown; None: no such frame.

    libmpg123 stops there, even if another MP3 was joined to it.
    """
    head = _read_at(file, after_id3(file), 256)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0 or len(head) < at + 16:
        return None
    flags, frames_or_bytes, size = struct.unpack_from(">III", head, at + 4)
    return int({2: frames_or_bytes, 3: size}.get(flags & 3, 0))


def mp3_streams(file: BinaryIO) -> list[tuple[int, int]]:
    """Where each of the MP3s that were joined to one begins and ends, as far as they state it."""
    size = file.seek(0, os.SEEK_END)
    starts, at = [0], 0
    while True:
        part = FilePart(file, at, size)
        length = xing_header(part)
        at += after_id3(part) + (length or 0)
        if not length or at + _LEAST > size:
            return _between(starts, size)
        try:
            container, at = first_frame(file, at)
        except UnreadableFile:
            return _between(starts, size)
        if container != "mp3":
            return _between(starts, size)
        starts.append(at)


# ---------------------------------------------------------------------- Ogg

_TOLERANCE = 64
"""Bytes that may be missing at the end."""


def ogg_streams(file: BinaryIO) -> tuple[list[tuple[int, int]], bool]:
    """Where each stream of a chain begins and ends, and whether the last page is cut off.

    Streams follow each other in recordings of web radio, and where files were joined (RFC 3533, 4).
    A page is 26 bytes, a number of segments, the size of each, and the segments; libsndfile reads
    the first stream only, and one that is cut off without complaint.
    """
    size = file.seek(0, os.SEEK_END)
    starts, begun, at = [0], False, 0
    while at < size:
        head = _read_at(file, at, 27 + 255)
        if len(head) < 27 or not head.startswith(b"OggS"):
            if head.startswith(b"OggS"):
                return _between(starts, size), True
            found = _read_at(file, at, 1 << 18).find(b"OggS", 1)  # the next page after damage
            if found < 0:
                break
            at += found
            continue
        begins = bool(head[5] & 2)
        if begins and begun:
            starts.append(at)
        begun = not begins
        at += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return _between(starts, size), at > size + _TOLERANCE


def _between(starts: list[int], end: int) -> list[tuple[int, int]]:
    return list(zip(starts, [*starts[1:], end], strict=True))


# ---------------------------------------------------------------------- WAV


def wav_with_sizes(file: BinaryIO) -> BinaryIO:
    """A WAV whose recorder never wrote the size of its samples, with that size in its header."""
    head = bytearray(_read_at(file, 0, 1 << 16))
    order = ">" if head.startswith(b"RIFX") else "<"
    size, at = file.seek(0, os.SEEK_END), 12
    while at + 8 <= len(head):
        name, length = struct.unpack_from(order + "4sI", head, at)
        if name == b"data":
            if length or _is_chunks(bytes(head[at + 8 :]), size - at - 8, order):
                break
            struct.pack_into(order + "I", head, at + 4, min(size - at - 8, 0xFFFFFFFF))
            struct.pack_into(order + "I", head, 4, min(size - 8, 0xFFFFFFFF))
            return cast("BinaryIO", FilePart(file, head=bytes(head[: at + 8])))
        at += 8 + length + length % 2
    return file


def _is_chunks(data: bytes, size: int, order: str) -> bool:
    """Whether what follows are further chunks up to the end of the file, and no samples."""
    at = 0
    while at + 8 <= len(data):
        name, length = struct.unpack_from(order + "4sI", data, at)
        if not name.isascii():
            return False
        at += 8 + length + length % 2
    return size - 1 <= at <= size + 1
