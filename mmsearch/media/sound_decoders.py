"""Decodes files that hold sound: through libsndfile, else through FFmpeg's libraries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mmsearch.errors import MissingExtra, UnreadableFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]
    """(frames, channels), or (frames,) once it is mono."""

BLOCK = 1 << 16
"""Samples, of all channels together, that are read at once."""


class Sound(NamedTuple):
    """A file that is open, and its sound in blocks of any length."""

    rate: int
    """Samples a second."""
    channels: int
    seconds: float
    """As the file says; 0 where it does not."""
    blocks: Iterator[Samples]


def after_id3(file: BinaryIO) -> int:
    """Where the sound of an MP3 begins: after its tag, whose size is in 4 times 7 bits."""
    head = read_at(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def read_at(file: BinaryIO, place: int, size: int) -> bytes:
    """Bytes of a file from some place on, fewer at its end."""
    file.seek(place)
    return file.read(size)


# ---------------------------------------------------------------------- soundfile

_UNKNOWN_FORMAT, _UNKNOWN_CODING = 1, 4
"""libsndfile's SF_ERR_UNRECOGNISED_FORMAT and SF_ERR_UNSUPPORTED_ENCODING."""
_MP3_FRAME = 1152
"""Samples."""


class _Nameless:
    """A file without its name: soundfile would take what ends in .raw for bare samples.

    Nothing is raised to libsndfile, since what is raised in a callback ends up on the terminal.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # where a damaged header points
            return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except OSError as error:  # of the disk
            self.error = error
            return 0


def by_soundfile(file: BinaryIO, container: str, stack: ExitStack) -> Sound | None:
    """The sound, or nothing if libsndfile does not know how it is coded."""
    import soundfile

    counted = container == "flac" or (container == "mp3" and _has_index(file))
    nameless = _Nameless(file)
    quiet = _silence if container == "mp3" else nullcontext()
    file.seek(0)
    try:
        with quiet:
            sound = stack.enter_context(soundfile.SoundFile(nameless))
    except soundfile.LibsndfileError as error:
        if error.code in (_UNKNOWN_FORMAT, _UNKNOWN_CODING):
            return None
        raise
    frames = sound.frames if sound.frames < 1 << 60 else 0  # a stream does not say
    return Sound(
        sound.samplerate,
        sound.channels,
        frames / max(1, sound.samplerate),
        _soundfile_blocks(sound, nameless, frames if counted else 0, quiet),
    )


def _soundfile_blocks(
    sound: Any, file: _Nameless, expected: int, quiet: AbstractContextManager[None]
) -> Iterator[Samples]:
    import soundfile

    frames, found = BLOCK // sound.channels, 0
    while True:
        try:
            with quiet:
                block = sound.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            cut = "seek" in error.error_string  # it went where the sound should go on
            raise UnreadableFile("truncated" if cut else "damaged") from error
        if not len(block):
            break
        found += len(block)
        yield block
    if file.error:
        raise UnreadableFile((file.error.strerror or "cannot be read").lower())
    if found + 2 * _MP3_FRAME < expected:
        raise UnreadableFile("truncated")


def _has_index(file: BinaryIO) -> bool:
    """Whether an MP3 begins with a frame that says how many there are."""
    head = read_at(file, after_id3(file), 256)
    return b"Xing" in head or b"Info" in head


class _Silence:
    """Keeps off the terminal what libmpg123, inside libsndfile, writes of odd files.

    It can't be told not to. So what C libraries take for stderr leads nowhere while any thread is
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


_silence = _Silence()


@cache
def _c_stderr() -> tuple[Any, int] | None:
    """The variable `stderr` of the C library and a stream that leads nowhere, where there are."""
    import ctypes

    try:
        library = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(library, "stderr")
        library.fopen.restype = ctypes.c_void_p
        nowhere = library.fopen(os.devnull.encode(), b"w")
    except (OSError, TypeError, ValueError, AttributeError):  # not so on every system
        return None
    return (stream, nowhere) if stream.value and nowhere else None


# ---------------------------------------------------------------------- PyAV


def by_av(file: BinaryIO, container: str, stack: ExitStack) -> Sound:
    """The sound track, the first if there are several.

    Raises:
        UnreadableFile: there is none.
        MissingExtra: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtra("this sound file", "av") from error
    file.seek(0)
    nothing_else = {"protocol_whitelist": ""}  # no file or address that this one may name
    media = av.open(
        file, "r", format=container, metadata_errors="ignore", container_options=nothing_else
    )
    stack.callback(media.close)
    if not media.streams.audio:
        raise UnreadableFile("no sound")
    stream = media.streams.audio[0]
    seconds = _seconds(stream) or (media.duration or 0) / 1e6
    return Sound(stream.sample_rate, stream.channels, seconds, _av_blocks(media, stream))


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


_SLACK = 1.0
"""Seconds by which what a file says of its length may exceed what was decoded."""
