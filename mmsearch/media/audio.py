"""Sounds, and the sound of videos, as overlapping windows in mono.

libsndfile decodes what it can (WAV, AIFF, FLAC, Ogg, MP3), FFmpeg the rest; `sound_files` finds the
format of a file and where its sound is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media.file_state import may_pass
from mmsearch.media.open_media import (
    av_container,
    c_stderr_off,
    damage_as_unreadable,
    open_file,
)
from mmsearch.media.sound_files import (
    FilePart,
    find_sound,
    mp3_streams,
    ogg_streams,
    states_length,
    wav_with_sizes,
)
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
OPPOSITE = 0.05
"""If the mix has less than this share of the channels' mean power, the channels cancel out."""


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


def windows(
    source: str | Path | bytes | BinaryIO,
    rate: int,
    *,
    breaks_off: Callable[[], None] | None = None,
) -> Iterator[tuple[Span, NDArray[np.float32]]]:
    """Each window of a sound: its span, and its samples (5 s · rate,) in [-1, 1].

    Windows start at 0, 2.5, 5, … seconds, until one reaches the end; a file always gives the same
    windows, bit for bit. A last window that is too short is filled by repeating its sound, and its
    span ends where the sound does. Only a few seconds of the sound are in memory at a time.

    Args:
        source: A path, the bytes of a file, or a binary file object.
        rate: Sample rate of the windows, in Hz; the sound is resampled to it.
        breaks_off: Called at the end of a sound that is truncated, or damaged after its beginning:
            what can be heard before that is in the windows.

    Raises:
        UnreadableFile: It cannot be opened, has no sound, or nothing of it can be decoded; or the
            disk fails, possibly after the first windows.
        MissingExtra: It needs PyAV, which is not installed.
    """
    import numpy as np

    length, hop, tail = round(WINDOW * rate), round(HOP * rate), round(TAIL * rate)
    start = 0.0
    buffer = np.empty(0, np.float32)  # the sound from `start` on
    try:
        with _opened(source) as sounds:
            for sound in sounds:
                for block in _resampled(sound, rate):
                    buffer = np.concatenate([buffer, block])
                    while len(buffer) > length + tail:
                        yield Span(start, start + WINDOW, "second"), buffer[:length].copy()
                        buffer = buffer[hop:]
                        start += HOP
    except UnreadableFile as error:
        if not len(buffer) or may_pass(error):
            raise
        if breaks_off is not None:
            breaks_off()
    if not len(buffer):
        raise UnreadableFile("0 seconds")
    end = start + min(WINDOW, len(buffer) / rate)
    yield Span(start, round(end, 3), "second"), np.resize(buffer[:length], length)


def blocks(
    source: str | Path | bytes | BinaryIO, *, breaks_off: Callable[[], None] | None = None
) -> Iterator[tuple[int, Samples]]:
    """The sound as it is in its file, block by block: sample rate, samples (frames, channels).

    Args:
        source: A path, the bytes of a file, or a binary file object.
        breaks_off: As of `windows`.

    Raises:
        UnreadableFile, MissingExtra: As `windows`.
    """
    found = False
    try:
        with _opened(source) as sounds:
            for sound in sounds:
                for block in sound.blocks:
                    found = True
                    yield sound.info.sample_rate, block
    except UnreadableFile as error:
        if not found or may_pass(error):
            raise
        if breaks_off is not None:
            breaks_off()
    if not found:
        raise UnreadableFile("0 seconds")


_WITH_COVERS = "mp3,mov,flac,ogg,aiff,wav,asf,matroska"
"""FFmpeg's demuxers of sound files that may have a cover."""


def cover(source: str | Path | bytes | BinaryIO) -> bytes | None:
    """The cover of a sound file, a picture among its tags, as an image file; None without one.

    Raises:
        UnreadableFile: It cannot be opened.
        MissingExtra: PyAV is not installed.
    """
    with open_file(source) as file:
        file.seek(0)
        media = av_container(file, "the cover of a sound", demuxers=_WITH_COVERS)
        with media:
            from av.stream import Disposition

            for stream in media.streams.video:
                if stream.disposition & Disposition.attached_pic:
                    return next((bytes(one) for one in media.demux(stream) if one.size), None)
    return None


def probe(source: str | Path | bytes | BinaryIO) -> SoundInfo:
    """The length and format of a sound, from its header.

    Raises:
        UnreadableFile: It cannot be opened, or has no sound.
        MissingExtra: It needs PyAV, which is not installed.
    """
    with _opened(source) as (first, *others):
        seconds = first.info.seconds + sum(sound.info.seconds for sound in others)
        return SoundInfo(seconds, first.info.channels, first.info.sample_rate)


def _resampled(sound: _Sound, rate: int) -> Iterator[Samples]:
    """The sound in mono, resampled, block by block."""
    import numpy as np
    import soxr

    file_rate = sound.info.sample_rate
    resampler = soxr.ResampleStream(file_rate, rate, 1, "float32") if file_rate != rate else None
    for block in sound.blocks:
        if not (finite := np.isfinite(block)).all():
            if not finite.any():
                raise UnreadableFile("damaged")
            block = np.where(finite, block, np.float32(0))  # as players do  # noqa: PLW2901
        mono = _mono(block)
        yield np.clip(resampler.resample_chunk(mono) if resampler else mono, -1, 1)
    if resampler:
        yield np.clip(resampler.resample_chunk(np.empty(0, np.float32), last=True), -1, 1)


def _mono(block: Samples) -> Samples:
    """The mean of the channels; the first loud one if they have opposite phase (a bad cable)."""
    import numpy as np

    mean: Samples = block.mean(axis=1)
    channels = block.shape[1]
    if channels == 1 or np.vdot(mean, mean) >= OPPOSITE * np.vdot(block, block) / channels:
        return mean
    power = np.square(block).sum(axis=0)
    first: Samples = block[:, (power >= power.max() / 2).argmax()]  # the same in each block
    return first


# ---------------------------------------------------------------------- files

_LIBSNDFILE_CONTAINERS = {"wav", "w64", "aiff", "caf", "au", "flac", "ogg", "mp3"}


@contextmanager
def _opened(source: str | Path | bytes | BinaryIO) -> Iterator[list[_Sound]]:
    """The sound of a file, in several parts if files were joined to one.

    Whatever decoding its blocks raises becomes UnreadableFile.
    """
    import soundfile  # noqa: F401 - a library that cannot be loaded is not a damaged file

    with open_file(source) as file, damage_as_unreadable(), ExitStack() as stack:
        sounds = _open_parts(file, stack)
        for sound in sounds:
            if sound.info.sample_rate not in RATES:
                raise UnreadableFile(f"{sound.info.sample_rate} samples a second")
            if not 1 <= sound.info.channels <= MOST_CHANNELS:
                raise UnreadableFile(f"{sound.info.channels} channels")
        yield sounds


def _open_parts(file: BinaryIO, stack: ExitStack) -> list[_Sound]:
    container, sound = find_sound(file)
    if container not in _LIBSNDFILE_CONTAINERS:
        return [_open_with_ffmpeg(sound, container, stack)]
    parts, truncated = [sound], False
    if container == "ogg":
        parts, truncated = ogg_streams(sound)
    elif container == "mp3":
        parts = mp3_streams(sound)
    elif container == "wav":
        parts = [wav_with_sizes(sound)]
    return [
        _open_part(part, container, stack, truncated=truncated and part is parts[-1])
        for part in parts
    ]


def _open_part(part: FilePart, container: str, stack: ExitStack, *, truncated: bool) -> _Sound:
    """The sound of a part, decoded by libsndfile, or else by FFmpeg, which has more codecs."""
    import soundfile

    try:
        return _open_with_libsndfile(part, container, stack, truncated=truncated)
    except soundfile.LibsndfileError as refused:
        try:
            return _open_with_ffmpeg(part, container, stack)
        except MissingExtra:
            if refused.code in (_UNKNOWN_FORMAT, _UNKNOWN_CODING):
                raise
            raise refused from None
        except Exception:  # of a damaged file, libsndfile's error says no less
            raise refused from None


# ---------------------------------------------------------------------- libsndfile

_UNKNOWN_FORMAT, _UNKNOWN_CODING = 1, 4
"""libsndfile's SF_ERR_UNRECOGNISED_FORMAT and SF_ERR_UNSUPPORTED_ENCODING."""
_MP3_FRAME = 1152
"""Samples."""
_SHORT_CHUNK = re.compile(r"(?:data|SSND|Data Size|Riff size|riff) *: (\d+) \(should be (\d+)\)")
"""A line of libsndfile's log where a header states more than there is; of all that it reads."""
_TOLERANCE = 64
"""Bytes that may be missing: some programs include the header in the size they state."""
_UNKNOWN_LENGTH = 0x7FFF0000
"""Sizes from here on mean that the length was unknown when writing began."""

_NOT_STATED = 1 << 60
"""From this number of frames on, likewise; libsndfile then reports an error at a FLAC's end."""


def _open_with_libsndfile(
    part: FilePart, container: str, stack: ExitStack, *, truncated: bool
) -> _Sound:
    """Raises LibsndfileError if libsndfile does not know the codec, or finds the header damaged."""
    import soundfile

    length_is_stated = container == "flac" or (container == "mp3" and states_length(part))
    part.seek(0)
    with c_stderr_off:
        sound = stack.enter_context(soundfile.SoundFile(part))
    # libsndfile reads a file that is shorter than its header states, and only logs it
    for stated, actual in _SHORT_CHUNK.findall(sound.extra_info):
        truncated |= int(actual) + _TOLERANCE < int(stated) < _UNKNOWN_LENGTH
    frames = sound.frames if sound.frames < _NOT_STATED else 0
    info = SoundInfo(frames / max(1, sound.samplerate), sound.channels, sound.samplerate)
    expected = frames if length_is_stated else 0
    return _Sound(info, _libsndfile_blocks(sound, part, expected, truncated=truncated))


def _libsndfile_blocks(
    sound: Any, file: FilePart, expected: int, *, truncated: bool
) -> Iterator[Samples]:
    """The samples, then UnreadableFile if there should be more.

    There should be if the file is known to be truncated, or has fewer than the expected number of
    samples per channel (0 if unknown).
    """
    import numpy as np
    import soundfile

    decoded = 0
    failed: soundfile.LibsndfileError | None = None
    while failed is None:
        block = np.full((BLOCK // sound.channels, sound.channels), np.nan, np.float32)
        try:
            with c_stderr_off:
                block = sound.read(out=block)
        except soundfile.LibsndfileError as error:
            failed = error  # what it had decoded before is no longer NaN
            block = block[: int(np.isnan(block[:, 0]).argmax())]
        if not len(block):
            break
        decoded += len(block)
        yield block
    if file.error:
        raise UnreadableFile((file.error.strerror or "cannot be read").lower()) from file.error
    if failed is not None and not (sound.frames >= _NOT_STATED and file.at_end):
        cut = "seek" in failed.error_string  # to where the sound should continue
        raise UnreadableFile("truncated" if cut else "damaged") from failed
    if truncated or decoded + 2 * _MP3_FRAME < expected:
        raise UnreadableFile("truncated")


# ---------------------------------------------------------------------- FFmpeg

_LENGTH_TOLERANCE = 1.0
"""Seconds that may be missing from the length that the file states."""


def _open_with_ffmpeg(file: FilePart, container: str, stack: ExitStack) -> _Sound:
    """The first sound track."""
    file.seek(0)
    media = av_container(cast("BinaryIO", file), "this sound file", demuxer=container)
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
