"""Sounds, and the sound of videos, as overlapping windows in mono.

libsndfile decodes what it knows (WAV, AIFF, FLAC, Ogg, MP3), FFmpeg the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mmsearch.errors import UnreadableFile
from mmsearch.media.open_media import av_container, damage_as_unreadable, open_file
from mmsearch.types import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]
    """(frames, channels), or (frames,) in mono."""

WINDOW = 5.0
"""Seconds of sound that one vector stands for."""
HOP = 2.5
"""Seconds from the start of one window to that of the next."""
TAIL = 0.1
"""Seconds; a last window with less new sound than this is left out. Encoders of sound files (MP3,
AAC) pad the end by less."""

RATES = range(1000, 768_001)
"""Sample rates that are accepted, in Hz; bats are recorded at 500,000."""
MOST_CHANNELS = 64
BLOCK = 1 << 16
"""Samples decoded at a time, over all channels."""


@dataclass(frozen=True, slots=True)
class SoundInfo:
    """Length and format of a sound, as its file states them."""

    seconds: float
    """0 if the file does not state it."""
    channels: int
    sample_rate: int


class _Sound(NamedTuple):
    """The sound of an open file, decoded in blocks of any length."""

    info: SoundInfo
    blocks: Iterator[Samples]


def windows(source: str | Path | bytes, rate: int) -> Iterator[tuple[Span, NDArray[np.float32]]]:
    """Each window of a sound: its span, and its samples (5 s · rate,) in [-1, 1].

    Windows start at 0, 2.5, 5, … seconds, until one reaches the end; a file always gives the same
    windows, bit for bit. A last window that is too short is filled by repeating its sound, and its
    span ends where the sound does. Only a few seconds of the sound are in memory at a time.

    Args:
        source: A path, or the bytes of a file.
        rate: Sample rate of the windows, in Hz; the sound is resampled to it.

    Raises:
        UnreadableFile: It cannot be opened, has no sound, or is damaged or truncated; possibly
            raised after the first windows.
        MissingExtra: It needs PyAV, which is not installed.
    """
    import numpy as np

    length, hop, tail = round(WINDOW * rate), round(HOP * rate), round(TAIL * rate)
    start = 0.0
    buffer = np.empty(0, np.float32)  # the sound from `start` on
    with _opened(source) as sound:
        for block in _resampled(sound, rate):
            buffer = np.concatenate([buffer, block])
            while len(buffer) > length + tail:
                yield Span(start, start + WINDOW, "second"), buffer[:length].copy()
                buffer = buffer[hop:]
                start += HOP
    if not len(buffer):
        raise UnreadableFile("0 seconds")
    end = start + min(WINDOW, len(buffer) / rate)
    yield Span(start, round(end, 3), "second"), np.resize(buffer[:length], length)


def probe(source: str | Path | bytes) -> SoundInfo:
    """The length and format of a sound, from its header.

    Raises:
        UnreadableFile: It cannot be opened, or has no sound.
        MissingExtra: It needs PyAV, which is not installed.
    """
    with _opened(source) as sound:
        return sound.info


def _resampled(sound: _Sound, rate: int) -> Iterator[Samples]:
    """The sound in mono, resampled, block by block."""
    import numpy as np
    import soxr

    file_rate = sound.info.sample_rate
    resampler = soxr.ResampleStream(file_rate, rate, 1, "float32") if file_rate != rate else None
    for block in sound.blocks:
        if not np.isfinite(block).all():
            raise UnreadableFile("damaged")
        mono = block.mean(axis=1)
        yield np.clip(resampler.resample_chunk(mono) if resampler else mono, -1, 1)
    if resampler:
        yield np.clip(resampler.resample_chunk(np.empty(0, np.float32), last=True), -1, 1)


# ---------------------------------------------------------------------- files

_MAGIC = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"\x1aE\xdf\xa3": "matroska",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"FLV\x01": "flv",
    b"#!AMR": "amr",
    b"\x00\x00\x01\xba": "mpeg",
}
"""First bytes of a file → its container, by FFmpeg's name; `_container_of` knows more.

Nothing else is opened: left to guess, FFmpeg takes some texts for lists of files to fetch.
"""
_IFF_TYPES = {b"WAVE": "wav", b"AVI ": "avi", b"AIFF": "aiff", b"AIFC": "aiff"}
_LIBSNDFILE_CONTAINERS = {"wav", "aiff", "flac", "ogg", "mp3"}


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[_Sound]:
    """The sound of a file; whatever decoding its blocks raises becomes UnreadableFile."""
    import soundfile  # noqa: F401 - a library that cannot be loaded is not a damaged file

    with open_file(source) as file, damage_as_unreadable(), ExitStack() as stack:
        container = _container_of(file)
        sound = None
        if container == "ogg":
            _check_last_ogg_page(file)
        if container in _LIBSNDFILE_CONTAINERS:
            sound = _open_with_libsndfile(file, container, stack)
        sound = sound or _open_with_ffmpeg(file, container, stack)
        if sound.info.sample_rate not in RATES:
            raise UnreadableFile(f"{sound.info.sample_rate} samples a second")
        if not 1 <= sound.info.channels <= MOST_CHANNELS:
            raise UnreadableFile(f"{sound.info.channels} channels")
        yield sound


def _container_of(file: BinaryIO) -> str:
    """FFmpeg's name for the format of a file, from its first bytes: endings are often wrong."""
    head = _read_at(file, 0, 16)
    if not head:
        raise UnreadableFile("0 bytes")
    if head[:3] == b"ID3":
        head = _read_at(file, _after_id3(file), 16)
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
    if head[0] == 0x47 and _read_at(file, 188, 1) == b"\x47":
        return "mpegts"
    raise UnreadableFile("not a sound")


def _after_id3(file: BinaryIO) -> int:
    """Where the sound of an MP3 begins: after its tag, whose size is stored in 4 × 7 bits."""
    head = _read_at(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


# ---------------------------------------------------------------------- libsndfile

_UNKNOWN_FORMAT, _UNKNOWN_CODING = 1, 4
"""libsndfile's SF_ERR_UNRECOGNISED_FORMAT and SF_ERR_UNSUPPORTED_ENCODING."""
_MP3_FRAME = 1152
"""Samples."""
_SHORT_CHUNK = re.compile(r"(?:data|SSND) : (\d+) \(should be (\d+)\)")
"""A line of libsndfile's log: a chunk's header states another size than its samples have."""
_TOLERANCE = 64
"""Bytes that may be missing: some programs include the header in the size they state."""
_UNKNOWN_LENGTH = 0x7FFF0000
"""Sizes from here on mean that the length was unknown when writing began."""


def _open_with_libsndfile(file: BinaryIO, container: str, stack: ExitStack) -> _Sound | None:
    """The sound, or None if libsndfile does not know its codec."""
    import soundfile

    states_length = container == "flac" or (container == "mp3" and _has_xing_header(file))
    unnamed = _UnnamedFile(file)
    file.seek(0)
    try:
        with _c_stderr_off:
            sound = stack.enter_context(soundfile.SoundFile(unnamed))
    except soundfile.LibsndfileError as error:
        if error.code in (_UNKNOWN_FORMAT, _UNKNOWN_CODING):
            return None
        raise
    # libsndfile reads a WAV or AIFF that is shorter than its header states, and only logs it
    for stated, actual in _SHORT_CHUNK.findall(sound.extra_info):
        if int(actual) + _TOLERANCE < int(stated) < _UNKNOWN_LENGTH:
            raise UnreadableFile("truncated")
    frames = sound.frames if sound.frames < 1 << 60 else 0  # unknown in a stream
    info = SoundInfo(frames / max(1, sound.samplerate), sound.channels, sound.samplerate)
    return _Sound(info, _libsndfile_blocks(sound, unnamed, frames if states_length else 0))


def _check_last_ogg_page(file: BinaryIO) -> None:
    """Refuse an Ogg file whose last page is cut off: libsndfile reads it without complaint.

    A page is 26 bytes, a number of segments, the size of each, and the segments (RFC 3533).
    """
    largest_page = 27 + 255 + 255 * 255
    end = _read_at(file, max(0, file.seek(0, os.SEEK_END) - largest_page), largest_page)
    start = end.rfind(b"OggS")
    if start < 0:
        return
    page = end[start:]
    segments = page[26] if len(page) > 26 else 255
    sizes = page[27 : 27 + segments]
    if len(sizes) < segments or 27 + segments + sum(sizes) > len(page) + _TOLERANCE:
        raise UnreadableFile("truncated")


def _has_xing_header(file: BinaryIO) -> bool:
    """Whether an MP3 begins with a frame that states how many follow."""
    head = _read_at(file, _after_id3(file), 256)
    return b"Xing" in head or b"Info" in head


def _libsndfile_blocks(sound: Any, file: _UnnamedFile, expected: int) -> Iterator[Samples]:
    """The samples; UnreadableFile if there are fewer than the `expected` number, 0 if unknown."""
    import soundfile

    frames_per_block, decoded = BLOCK // sound.channels, 0
    while True:
        try:
            with _c_stderr_off:
                block = sound.read(frames_per_block, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            truncated = "seek" in error.error_string  # to where the sound should continue
            raise UnreadableFile("truncated" if truncated else "damaged") from error
        if not len(block):
            break
        decoded += len(block)
        yield block
    if file.error:
        raise UnreadableFile((file.error.strerror or "cannot be read").lower()) from file.error
    if decoded + 2 * _MP3_FRAME < expected:
        raise UnreadableFile("truncated")


class _UnnamedFile:
    """A file without its name: soundfile would take a name in .raw for bare samples.

    Its methods, libsndfile's callbacks, raise nothing: exceptions there end up on the terminal.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # a damaged header may point anywhere
            return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except OSError as error:  # of the disk
            self.error = error
            return 0


class _CStderrOff:
    """Silences libmpg123, inside libsndfile, which writes to stderr about unusual files.

    It has no switch for that. So the C library's `stderr` points to the null device while any
    thread is inside; Python's own and the file descriptor, which other threads use, stay as they
    are.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._threads_inside = 0
        self._original: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._threads_inside += 1
            if self._threads_inside == 1 and (found := _c_stderr()):
                stderr, null_stream = found
                self._original, stderr.value = stderr.value, null_stream

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads_inside -= 1
            if self._threads_inside == 0 and (found := _c_stderr()):
                found[0].value = self._original


_c_stderr_off = _CStderrOff()


@cache
def _c_stderr() -> tuple[Any, int] | None:
    """The C library's variable `stderr` and a stream to the null device, where it has them."""
    import ctypes

    try:
        library = ctypes.CDLL(None)
        stderr = ctypes.c_void_p.in_dll(library, "stderr")
        library.fopen.restype = ctypes.c_void_p
        null_stream = library.fopen(os.devnull.encode(), b"w")
    except (OSError, TypeError, ValueError, AttributeError):  # differs between systems
        return None
    return (stderr, null_stream) if stderr.value and null_stream else None


# ---------------------------------------------------------------------- FFmpeg

_LENGTH_TOLERANCE = 1.0
"""Seconds that may be missing from the length that the file states."""


def _open_with_ffmpeg(file: BinaryIO, container: str, stack: ExitStack) -> _Sound:
    """The first sound track."""
    file.seek(0)
    media = av_container(file, "this sound file", demuxer=container)
    stack.callback(media.close)
    if not media.streams.audio:
        raise UnreadableFile("no sound")
    stream = media.streams.audio[0]
    seconds = _stated_seconds(stream) or (media.duration or 0) / 1e6
    info = SoundInfo(seconds, stream.channels, stream.sample_rate)
    return _Sound(info, _ffmpeg_blocks(media, stream))


def _ffmpeg_blocks(media: Any, stream: Any) -> Iterator[Samples]:
    import av
    import numpy as np

    to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.sample_rate)
    decoded = 0
    for frame in media.decode(stream):
        for converted in to_float.resample(frame):
            decoded += converted.samples
            yield np.asarray(converted.to_ndarray().T, np.float32)
    if decoded / stream.sample_rate + _LENGTH_TOLERANCE < _stated_seconds(stream):
        raise UnreadableFile("truncated")


def _stated_seconds(stream: Any) -> float:
    return float(stream.duration * stream.time_base) if stream.duration else 0.0
