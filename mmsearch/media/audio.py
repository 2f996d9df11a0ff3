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
from mmsearch.media.files import av_container, damage_as_unreadable, opened_file
from mmsearch.types import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]
    """(frames, channels), or (frames,) in mono."""

WINDOW = 5.0
"""Seconds of sound that have one vector."""
HOP = 2.5
"""Seconds from the start of one window to that of the next."""
TAIL = 0.1
"""Seconds of new sound that are worth a window; encoders leave less than that at the end."""

RATES = range(1000, 768_001)
"""Samples a second that a recording may have; bats are recorded at 500,000."""
MOST_CHANNELS = 64
BLOCK = 1 << 16
"""Samples, of all channels together, that are decoded at once."""


@dataclass(frozen=True, slots=True)
class SoundInfo:
    """What a file says of its sound."""

    seconds: float
    """0 where the file does not say."""
    channels: int
    sample_rate: int


class _Sound(NamedTuple):
    """A file that is open, and its sound in blocks of any length."""

    info: SoundInfo
    blocks: Iterator[Samples]


def windows(source: str | Path | bytes, rate: int) -> Iterator[tuple[Span, NDArray[np.float32]]]:
    """Each window of a sound: its span, and its samples (5 s · rate,) in [-1, 1].

    Windows start at 0, 2.5, 5, … seconds, until one reaches the end; the same file has the same
    windows to the bit. A last window that is not full repeats its own sound, and its span ends
    where the sound does. However long the sound is, little of it is in memory.

    Args:
        source: A path, or the bytes of a file.
        rate: Samples a second of the windows, whatever the file has.

    Raises:
        UnreadableFile: It cannot be opened, has no sound, or is damaged or truncated. That may
            turn out after some windows.
        MissingExtra: Reading it takes PyAV, which is not installed.
    """
    import numpy as np

    full, hop, tail = round(WINDOW * rate), round(HOP * rate), round(TAIL * rate)
    start = 0.0
    ahead = np.empty(0, np.float32)  # from `start` on
    with _opened(source) as sound:
        for part in _resampled(sound, rate):
            ahead = np.concatenate([ahead, part])
            while len(ahead) > full + tail:
                yield Span(start, start + WINDOW, "second"), ahead[:full].copy()
                ahead = ahead[hop:]
                start += HOP
    if not len(ahead):
        raise UnreadableFile("0 seconds")
    end = start + min(WINDOW, len(ahead) / rate)
    yield Span(start, round(end, 3), "second"), np.resize(ahead[:full], full)


def probe(source: str | Path | bytes) -> SoundInfo:
    """How long a sound is, and how it was recorded, as its file says.

    Raises:
        UnreadableFile: It cannot be opened, or has no sound.
        MissingExtra: Reading it takes PyAV, which is not installed.
    """
    with _opened(source) as sound:
        return sound.info


def _resampled(sound: _Sound, rate: int) -> Iterator[Samples]:
    """Mono at another rate, block by block."""
    import numpy as np
    import soxr

    own = sound.info.sample_rate
    change = soxr.ResampleStream(own, rate, 1, "float32") if own != rate else None
    for block in sound.blocks:
        if not np.isfinite(block).all():
            raise UnreadableFile("damaged")
        mono = block.mean(axis=1)
        yield np.clip(change.resample_chunk(mono) if change else mono, -1, 1)
    if change:
        yield np.clip(change.resample_chunk(np.empty(0, np.float32), last=True), -1, 1)


# ---------------------------------------------------------------------- files

_BEGINNINGS = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"\x1aE\xdf\xa3": "matroska",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"FLV\x01": "flv",
    b"#!AMR": "amr",
    b"\x00\x00\x01\xba": "mpeg",
}
"""How files begin, and FFmpeg's demuxer for them; those with a size in front stand below.

Nothing else is opened: left to guess, FFmpeg takes some texts for lists of files to fetch.
"""
_FORMS = {b"WAVE": "wav", b"AVI ": "avi", b"AIFF": "aiff", b"AIFC": "aiff"}
_BY_SOUNDFILE = {"wav", "aiff", "flac", "ogg", "mp3"}


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[_Sound]:
    """The sound of a file, decoded block by block; raises UnreadableFile then too."""
    import soundfile  # noqa: F401 - a library that cannot be loaded is not a damaged file

    with opened_file(source) as file, damage_as_unreadable(), ExitStack() as stack:
        container = _container_of(file)
        sound = None
        if container == "ogg":
            _check_last_page(file)
        if container in _BY_SOUNDFILE:
            sound = _by_soundfile(file, container, stack)
        sound = sound or _by_av(file, container, stack)
        _check(sound.info)
        yield sound


def _check(info: SoundInfo) -> None:
    if info.sample_rate not in RATES:
        raise UnreadableFile(f"{info.sample_rate} samples a second")
    if not 1 <= info.channels <= MOST_CHANNELS:
        raise UnreadableFile(f"{info.channels} channels")


def _container_of(file: BinaryIO) -> str:
    """The format of a file, told by how it begins: endings are often wrong."""
    head = _read_at(file, 0, 16)
    if not head:
        raise UnreadableFile("0 bytes")
    if head[:3] == b"ID3":
        head = _read_at(file, _after_id3(file), 16)
        head = head if head.startswith(b"fLaC") or head[:1] == b"\xff" else b"\xff\xfb\x90"
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM") and head[8:12] in _FORMS:
        return _FORMS[head[8:12]]
    if head[4:8] == b"ftyp":
        return "mp4"
    for beginning, container in _BEGINNINGS.items():
        if head.startswith(beginning):
            return container
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3" if head[1] & 0x06 else "aac"  # the layer, which AAC does not have
    if head[0] == 0x47 and _read_at(file, 188, 1) == b"\x47":
        return "mpegts"
    raise UnreadableFile("not a sound")


def _after_id3(file: BinaryIO) -> int:
    """Where the sound of an MP3 begins: after its tag, whose size is in 4 times 7 bits."""
    head = _read_at(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


# ---------------------------------------------------------------------- libsndfile

_UNKNOWN_FORMAT, _UNKNOWN_CODING = 1, 4
"""libsndfile's SF_ERR_UNRECOGNISED_FORMAT and SF_ERR_UNSUPPORTED_ENCODING."""
_MP3_FRAME = 1152
"""Samples."""
_SHORT_CHUNK = re.compile(r"(?:data|SSND) : (\d+) \(should be (\d+)\)")
"""A line of libsndfile's log: the samples take another number of bytes than their chunk says."""
_SPARE = 64
"""Bytes that may be missing: some programs count the header in when they say a length."""
_STREAMED = 0x7FFF0000
"""Sizes from here on mean that the length was unknown when the file was begun."""


def _by_soundfile(file: BinaryIO, container: str, stack: ExitStack) -> _Sound | None:
    """The sound, or None if libsndfile does not know how it is coded."""
    import soundfile

    counted = container == "flac" or (container == "mp3" and _has_index(file))
    nameless = _Nameless(file)
    file.seek(0)
    try:
        with _c_stderr_off:
            sound = stack.enter_context(soundfile.SoundFile(nameless))
    except soundfile.LibsndfileError as error:
        if error.code in (_UNKNOWN_FORMAT, _UNKNOWN_CODING):
            return None
        raise
    _check_chunk(sound.extra_info)
    frames = sound.frames if sound.frames < 1 << 60 else 0  # a stream does not say
    info = SoundInfo(frames / max(1, sound.samplerate), sound.channels, sound.samplerate)
    return _Sound(info, _soundfile_blocks(sound, nameless, frames if counted else 0))


def _check_chunk(log: str) -> None:
    """Refuse a WAV or AIFF that is shorter than it says: libsndfile reads it, but logs that."""
    for said, there in _SHORT_CHUNK.findall(log):
        if int(there) + _SPARE < int(said) < _STREAMED:
            raise UnreadableFile("truncated")


def _check_last_page(file: BinaryIO) -> None:
    """Refuse an Ogg file whose last page breaks off: libsndfile reads it silently.

    A page is 26 bytes, a number of segments, the size of each, and the segments (RFC 3533).
    """
    longest = 27 + 255 + 255 * 255
    end = _read_at(file, max(0, file.seek(0, os.SEEK_END) - longest), longest)
    start = end.rfind(b"OggS")
    if start < 0:
        return
    page = end[start:]
    segments = page[26] if len(page) > 26 else 255
    sizes = page[27 : 27 + segments]
    if len(sizes) < segments or 27 + segments + sum(sizes) > len(page) + _SPARE:
        raise UnreadableFile("truncated")


def _has_index(file: BinaryIO) -> bool:
    """Whether an MP3 begins with a frame that says how many there are."""
    head = _read_at(file, _after_id3(file), 256)
    return b"Xing" in head or b"Info" in head


def _soundfile_blocks(sound: Any, file: _Nameless, expected: int) -> Iterator[Samples]:
    """The sound; of a file that says its length, as many samples as `expected`."""
    import soundfile

    frames, found = BLOCK // sound.channels, 0
    while True:
        try:
            with _c_stderr_off:
                block = sound.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            cut = "seek" in error.error_string  # it went where the sound should go on
            raise UnreadableFile("truncated" if cut else "damaged") from error
        if not len(block):
            break
        found += len(block)
        yield block
    if file.error:
        raise UnreadableFile((file.error.strerror or "cannot be read").lower()) from file.error
    if found + 2 * _MP3_FRAME < expected:
        raise UnreadableFile("truncated")


class _Nameless:
    """A file without its name: soundfile would take what ends in .raw for bare samples.

    Exceptions must not reach libsndfile: raised in a callback, they end up on the terminal.
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
    """Keeps off the terminal what libmpg123, inside libsndfile, writes about odd files.

    It has no switch for that. So the C library's `stderr` leads nowhere while any thread is
    inside; Python's own and the file descriptor, which other threads write to, stay as they are.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._theirs: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1 and (found := _c_stderr()):
                stream, nowhere = found
                self._theirs, stream.value = stream.value, nowhere

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and (found := _c_stderr()):
                found[0].value = self._theirs


_c_stderr_off = _CStderrOff()


@cache
def _c_stderr() -> tuple[Any, int] | None:
    """The C library's variable `stderr`, and a stream that leads nowhere; None without them."""
    import ctypes

    try:
        library = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(library, "stderr")
        library.fopen.restype = ctypes.c_void_p
        nowhere = library.fopen(os.devnull.encode(), b"w")
    except (OSError, TypeError, ValueError, AttributeError):  # not so on every system
        return None
    return (stream, nowhere) if stream.value and nowhere else None


# ---------------------------------------------------------------------- FFmpeg

_SLACK = 1.0
"""Seconds by which the length that a file says may exceed what was decoded."""


def _by_av(file: BinaryIO, container: str, stack: ExitStack) -> _Sound:
    """The sound track, the first if there are several."""
    file.seek(0)
    media = av_container(file, "this sound file", demuxer=container)
    stack.callback(media.close)
    if not media.streams.audio:
        raise UnreadableFile("no sound")
    stream = media.streams.audio[0]
    seconds = _seconds(stream) or (media.duration or 0) / 1e6
    info = SoundInfo(seconds, stream.channels, stream.sample_rate)
    return _Sound(info, _av_blocks(media, stream))


def _av_blocks(media: Any, stream: Any) -> Iterator[Samples]:
    import av
    import numpy as np

    plain = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.sample_rate)
    found = 0
    for frame in media.decode(stream):
        for same in plain.resample(frame):
            found += same.samples
            yield np.asarray(same.to_ndarray().T, np.float32)
    if found / stream.sample_rate + _SLACK < _seconds(stream):
        raise UnreadableFile("truncated")


def _seconds(stream: Any) -> float:
    return float(stream.duration * stream.time_base) if stream.duration else 0.0
