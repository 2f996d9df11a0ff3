"""Videos: one upright picture for each shot, and what the file's header tells of the whole."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media import exif
from mmsearch.media.colour import numbered_profile, to_srgb
from mmsearch.media.open_media import av_container, open_file
from mmsearch.media.photo_metadata import PhotoFacts
from mmsearch.media.shots import Shot, ShotFinder
from mmsearch.types import Span

if TYPE_CHECKING:
    import numpy as np
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from numpy.typing import NDArray
    from PIL import Image

    from mmsearch.media.shots import Thumbnail

SHORT_GROUP = 1.0
"""Seconds; of a group of pictures (GOP) up to this long, only the key frame is decoded."""
SAMPLE_EVERY = 0.12
"""Seconds between frames that are compared."""
TAIL = 1.5
"""Seconds between the last decoded frame and the end of a video that may still be complete."""
_HD, _UNSTATED = 720, 2
"""Height from which on players assume BT.709; H.273's number for a colour matrix not stated."""
MOST_PIXELS = 2**27
"""Of a frame, four times 8K; the decoder refuses larger ones."""

_DEMUXERS = "mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg"
"""FFmpeg's, for videos. No other is run: it would take pictures and subtitles for videos."""
_MAGIC = ((0, b"\x1aE\xdf\xa3"), (0, b"RIFF"), (0, b"OggS"), (0, b"\0\0\1\xba"), (4, b"ftyp"))
"""(offset, bytes) that containers begin with; if one of them cannot be opened, it is damaged."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture that stands for a span of a video."""

    span: Span
    """Seconds, up to the next frame's."""
    picture: Image.Image
    """Upright RGB, taken a moment after the span begins, clear of a blended cut."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Length, size, time, camera and place of a video."""

    seconds: float
    width: int
    """Pixels as shown: upright, and square."""
    height: int
    taken_at: datetime | None
    """Local time without a zone, as of photos: the camera's if the file states it (Apple's do), or
    else this machine's, since other files state UTC."""
    camera: str | None = None
    latitude: float | None = None
    """Degrees, north positive."""
    longitude: float | None = None
    """Degrees, east positive."""


def require() -> None:
    """Raise MissingExtra unless PyAV is installed, without which no video can be read."""
    if find_spec("av") is None:
        raise MissingExtra("reading videos", "av")


def frames(
    source: str | Path, *, at_least: int, breaks_off: Callable[[], None] | None = None
) -> Iterator[Frame]:
    """One frame for each shot, and at least one every 10 seconds, in order of time.

    The spans are contiguous, begin at 0 and reach the end. A truncated video gives the frames that
    could be read.

    Args:
        source: Path of the file.
        at_least: The side in pixels the caller will scale pictures to. Their shorter side is twice
            this, or that of the video if it is smaller.
        breaks_off: Called at the end of a truncated video.

    Raises:
        UnreadableFile: It cannot be opened, is not a video, or no frame of it can be decoded.
    """
    with _opened(source) as container:
        stream = _video_stream(container)
        finder, time = ShotFinder(), 0.0

        def frame_of(shot: Shot) -> Frame:
            picture = _picture(shot.frame, stream, 2 * at_least)
            return Frame(Span(shot.start, shot.end, "second"), picture)

        for time, frame in _sampled(container, stream):
            if shot := finder.feed(time, _thumbnail(frame), frame):
                yield frame_of(shot)
        if finder.latest is None:
            raise UnreadableFile("damaged")
        end, is_whole = _end(container, stream, time)
        if not is_whole and breaks_off is not None:
            breaks_off()
        for shot in finder.finish(end):
            yield frame_of(shot)


def frames_at_rate(
    source: str | Path, rate: float, *, seconds: float, side: int
) -> NDArray[np.uint8]:
    """Frames (n, height, width, 3) at regular intervals from the first on; upright, in sRGB.

    Args:
        source: Path of the file.
        rate: Frames per second. At least one frame is returned, and if the video has fewer than
            that, frames are repeated.
        seconds: The length of the video, as the last span of `frames` gives it.
        side: Frames are scaled down until their shorter side has this many pixels.

    Raises:
        UnreadableFile: It cannot be opened, is not a video, or no frame of it can be decoded.
    """
    import numpy as np

    count = max(1, int(seconds * rate + 1e-6))
    chosen: list[NDArray[np.uint8]] = []
    with _opened(source) as container:
        stream = _video_stream(container)

        def choose(frame: VideoFrame) -> None:
            picture = _picture(frame, stream, side)
            size = chosen[0].shape[1::-1] if chosen else picture.size
            chosen.append(np.asarray(picture if picture.size == size else picture.resize(size)))

        shown = None
        for time, frame in _sampled(container, stream):
            while shown is not None and len(chosen) < count and len(chosen) / rate < time:
                choose(shown)
            if len(chosen) == count:
                break
            shown = frame
        if shown is None:
            raise UnreadableFile("damaged")
        while len(chosen) < count:
            choose(shown)
    return np.stack(chosen)


MOST_FRAMES = 300
"""Frames decoded at most to reach a moment: those of the longest usual group of pictures."""
EARLY = 0.1, 10.0
"""Where the picture of a video is taken that no moment was named of: at this share of its length,
at most at so many seconds. The first frame is often black."""


def frame_at(
    source: str | Path | BinaryIO, seconds: float | None = None, *, at_least: int
) -> Image.Image:
    """The picture at a moment, upright in RGB; past the end, the last one that can be decoded.

    Args:
        source: A path, or a binary file object at its beginning.
        seconds: The moment; None takes one early in the video.
        at_least: As of `frames`.

    Raises:
        UnreadableFile: It cannot be opened, is not a video, or no frame of it can be decoded.
    """
    with _opened(source) as container:
        stream = _video_stream(container)
        length = (container.duration or 0) / 1e6
        if seconds is None:
            seconds = min(EARLY[0] * length, EARLY[1])
        seconds = min(seconds, length) if length else seconds
        for start in (seconds, seconds / 2, 0.0):  # what a header names may be missing
            if (found := _nearest_frame(container, stream, start)) is not None:
                return _picture(found, stream, 2 * at_least)
        raise UnreadableFile("damaged")


def has_sound(source: str | Path | BinaryIO) -> bool:
    """Whether a video has a sound track that can be decoded.

    Raises:
        UnreadableFile: It cannot be opened, or is not a video.
    """
    with _opened(source) as container:
        return any(stream.codec_context is not None for stream in container.streams.audio)


def info(source: str | Path) -> VideoInfo:
    """The length, size, time, camera and place of a video, from its header and first frame.

    Raises:
        UnreadableFile: It cannot be opened, is not a video, or no frame of it can be decoded.
    """
    with _opened(source) as container:
        stream = _video_stream(container)
        sampled = _sampled(container, stream)
        time, frame = next(sampled, (0.0, None))
        if frame is None:
            raise UnreadableFile("damaged")
        width, height = _square_size(frame, stream)
        size = (height, width) if frame.rotation % 180 == 90 else (width, height)
        if not container.duration:  # browsers don't write it: decode the video to its end
            for time, _ in sampled:  # noqa: B007 - the last value is used below
                pass
        seconds = container.duration / 1e6 if container.duration else time + _frame_time(stream)
        tags = {**stream.metadata, **container.metadata}
        return VideoInfo(seconds, *size, _taken_at(tags), _camera(tags), *_position(tags))


def seconds(source: str | Path) -> float:
    """The length that the header of a video states; 0 if it states none.

    Raises:
        UnreadableFile: It cannot be opened, or is not a video.
    """
    with _opened(source) as container:
        return (container.duration or 0) / 1e6


def facts(source: str | Path) -> PhotoFacts:
    """Time, camera and place of a video, from its header; empty if it is damaged."""
    with suppress(UnreadableFile), _opened(source) as container:
        tags = {**_video_stream(container).metadata, **container.metadata}
        return PhotoFacts(_taken_at(tags), _camera(tags), *_position(tags))
    return PhotoFacts()


# ---------------------------------------------------------------------- decoding


@contextmanager
def _opened(source: str | Path | BinaryIO) -> Iterator[InputContainer]:
    """A file's container; FFmpeg's errors become UnreadableFile."""
    require()
    import av

    with open_file(source) as file:
        head = file.read(16)
        if not head:
            raise UnreadableFile("0 bytes")
        file.seek(0)
        try:
            container = av_container(file, "video", demuxers=_DEMUXERS)
        except av.error.FFmpegError as error:
            known = any(head[at : at + len(magic)] == magic for at, magic in _MAGIC)
            raise UnreadableFile("damaged" if known else "not a video") from error
        with container:
            try:
                yield container
            except av.error.FFmpegError as error:
                raise UnreadableFile("damaged") from error
            except MemoryError as error:
                raise UnreadableFile("out of memory") from error


def _video_stream(container: InputContainer) -> VideoStream:
    from av.stream import Disposition

    for stream in container.streams.video:
        cover = stream.disposition & Disposition.attached_pic
        if not cover and stream.codec_context is not None:
            stream.thread_type = "AUTO"
            stream.codec_context.skip_frame = "NONREF"
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            return stream
    raise UnreadableFile("no video in it")


def _sampled(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
    """Frames in order, with their times in seconds from the start of the file."""
    zero = (container.start_time or 0) / 1e6
    step = _frame_time(stream)
    last = None
    for packet in _worth_decoding(container, stream):
        for frame in _decoded(packet):
            time = None if frame.time is None else frame.time - zero
            if last is None:
                time = max(time or 0.0, 0.0)
            elif time is None or time < last - 1:  # no times, or they begin again
                time = last + step
            elif time < last + SAMPLE_EVERY:
                continue
            if not frame.is_corrupt:
                last = time
                yield time, frame


def _worth_decoding(
    container: InputContainer, stream: VideoStream
) -> Iterator[Packet[VideoStream]]:
    """The packets to decode: of short groups of pictures, as phones write them, only the key frame.

    The packets of a group are buffered until its length is known.
    """
    group: list[Packet[VideoStream]] = []
    for packet in container.demux(stream):
        if packet.is_keyframe and packet.size:
            yield from group[:1]  # it is short: a long one is empty by now
            group = [packet]
        elif group:
            group.append(packet)
            if _is_long(group):
                yield from group
                group = []
        else:
            yield packet
    yield from group


def _is_long(group: list[Packet[VideoStream]]) -> bool:
    first, last = group[0], group[-1]
    if first.dts is None or last.dts is None or last.time_base is None:
        return len(group) > 30  # about a second
    return float((last.dts - first.dts) * last.time_base) > SHORT_GROUP


def _decoded(packet: Packet[VideoStream]) -> list[VideoFrame]:
    import av

    try:
        return list(packet.decode())
    except av.error.FFmpegError:
        return []  # later packets may be intact


def _frame_time(stream: VideoStream) -> float:
    """Mean duration of a frame, in seconds."""
    rate = stream.average_rate or stream.guessed_rate
    return min(1.0, float(1 / rate)) if rate else 0.04


def _end(container: InputContainer, stream: VideoStream, last_frame: float) -> tuple[float, bool]:
    """Where a video ends, in seconds, whose last decoded frame is at `last_frame`; is it whole?

    That is the end that the file states, sound included; but a truncated file states what is
    missing as well, so it ends with its frames.
    """
    end = last_frame + _frame_time(stream)
    stated = (container.duration or 0) / 1e6
    of_stream = float(stream.duration * (stream.time_base or 0)) if stream.duration else stated
    is_whole = end > of_stream - TAIL
    return (max(end, stated) if is_whole else end), is_whole


def _nearest_frame(
    container: InputContainer, stream: VideoStream, seconds: float
) -> VideoFrame | None:
    """The first frame from a moment on, else the last before it; None if none can be decoded."""
    import av

    zero = container.start_time or 0
    with suppress(av.error.FFmpegError):  # a file without an index is read from where it is
        container.seek(zero + round(seconds * 1e6))
    last, decoded, step = None, 0, _frame_time(stream)
    for packet in container.demux(stream):
        for frame in _decoded(packet):
            decoded += 1
            if not frame.is_corrupt:
                last = frame
                late = frame.time is None or frame.time - zero / 1e6 >= seconds - step / 2
                if late:
                    return last
        if decoded >= MOST_FRAMES:
            break
    return last


# ---------------------------------------------------------------------- pictures


def _thumbnail(frame: VideoFrame) -> Thumbnail:
    import numpy as np

    small = frame.reformat(width=32, height=18, format="rgb24", interpolation="AREA")
    return np.asarray(small.to_ndarray(), np.float32) / np.float32(255)


def _picture(frame: VideoFrame, stream: VideoStream, shorter: int) -> Image.Image:
    """The frame upright in RGB, its shorter side at most `shorter` pixels."""
    from PIL import Image

    width, height = _square_size(frame, stream)
    scale = min(1.0, shorter / min(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    is_unstated = frame.colorspace == _UNSTATED and frame.height >= _HD
    shrunk = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        interpolation="AREA",
        src_colorspace="ITU709" if is_unstated else None,
    )
    profile = numbered_profile(int(frame.color_primaries), int(frame.color_trc))
    picture = to_srgb(Image.fromarray(shrunk.to_ndarray()), profile)
    turn = _TURNS.get(_orientation(frame))
    return picture.transpose(Image.Transpose[turn]) if turn else picture


_TURNS = {
    (-1, 0, 0, 1): "FLIP_LEFT_RIGHT",
    (1, 0, 0, -1): "FLIP_TOP_BOTTOM",
    (-1, 0, 0, -1): "ROTATE_180",
    (0, 1, -1, 0): "ROTATE_270",
    (0, -1, 1, 0): "ROTATE_90",
    (0, 1, 1, 0): "TRANSPOSE",
    (0, -1, -1, 0): "TRANSVERSE",
}
"""Signs of a display matrix → the Pillow transposition that it stands for."""


def _orientation(frame: VideoFrame) -> tuple[int, int, int, int]:
    """The signs of a, b, c, d in the display matrix of a frame; 0 for those near 0."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    small = max(map(abs, (a, b, c, d))) / 2
    first, second, third, fourth = ((n > small) - (n < -small) for n in (a, b, c, d))
    return first, second, third, fourth


def _square_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height before rotation, in square pixels (those of a DVD are not)."""
    aspect = stream.sample_aspect_ratio or 1
    return (max(1, round(frame.width * aspect)), frame.height) if aspect > 0 else (1, 1)


def _taken_at(tags: dict[str, str]) -> datetime | None:
    for name in ("com.apple.quicktime.creationdate", "creation_time"):
        try:
            time = datetime.fromisoformat(tags.get(name, ""))
        except ValueError:
            continue
        if name == "creation_time":
            time = time.astimezone()
        if time.year > 1980:  # a camera whose clock was never set has the epoch
            return time.replace(tzinfo=None)
    return None


_PLACE_TAGS = ("com.apple.quicktime.location.iso6709", "location", "location-eng")
"""Apple's key; what FFmpeg calls ©xyz, and loci with its language."""
_ISO_6709 = re.compile(r"\s*([+-])(\d+(?:\.\d+)?)([+-])(\d+(?:\.\d+)?)(?=[+-/\s]|CRS|$)")
_MAKES = ("com.apple.quicktime.make", "com.android.manufacturer", "make", "manufacturer")
_MODELS = ("com.apple.quicktime.model", "com.android.model", "model")


def _position(tags: dict[str, str]) -> tuple[float, float] | tuple[None, None]:
    """(latitude, longitude) in degrees, of the first place that makes sense."""
    lower = {name.lower(): value for name, value in tags.items()}
    names = [*_PLACE_TAGS, *(name for name in lower if name.startswith("location-"))]
    for name in names:
        if found := _ISO_6709.match(lower.get(name, "")):
            south, latitude, west, longitude = found.groups()
            place = _degrees(latitude, 2, south), _degrees(longitude, 3, west)
            if abs(place[0]) <= 90 and abs(place[1]) <= 180 and any(place):
                return place
    return None, None


def _degrees(written: str, digits: int, sign: str) -> float:
    """Decimal degrees of DD.D, DDMM.M or DDMMSS.S; `digits` is the length of DD (ISO 6709, H.3)."""
    whole = written.partition(".")[0]
    if len(whole) <= digits:
        degrees = float(written)
    elif len(whole) <= digits + 2:
        degrees = float(written[:digits]) + float(written[digits:]) / 60
    else:
        minutes = float(written[digits : digits + 2]) + float(written[digits + 2 :]) / 60
        degrees = float(written[:digits]) + minutes / 60
    return -degrees if sign == "-" else degrees


def _camera(tags: dict[str, str]) -> str | None:
    """Make and model, as of photos."""
    lower = {name.lower(): value for name, value in tags.items()}
    make, model = (
        next((lower[name] for name in names if name in lower), "") for names in (_MAKES, _MODELS)
    )
    return exif.camera_name(make, model)
