"""Animated GIF, PNG, WebP and AVIF pictures: one picture for each shot, as of a video."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from mmsearch.errors import UnreadableFile
from mmsearch.media.colour import head_of
from mmsearch.media.image import decoder_of, open_picture, upright
from mmsearch.media.open_media import open_file
from mmsearch.media.shots import Shot, ShotFinder
from mmsearch.media.video import SAMPLE_EVERY, Frame
from mmsearch.types import Span

if TYPE_CHECKING:
    from PIL import Image

    from mmsearch.media.shots import Thumbnail

MOST_FRAMES = 5_000
MOST_PIXELS = 400_000_000
"""Of all frames together: 430 frames in 720p."""
MOST_SECONDS = 86_400.0
"""An animation is cut where it exceeds one of these three limits: a frame can only be decoded after
all those before it."""
_TOO_SHORT, _USUAL = 0.010, 0.100
"""Seconds: browsers show a frame of at most the first as long as the second."""
_ROUNDING = 0.05
"""Seconds that are added to a moment given in tenths, which may have been rounded down."""
_WEBP_HAS_FRAMES = 2
"""A flag of WebP's chunk VP8X."""
_BRANDS = 256
"""Bytes at the beginning of an AVIF, in which its brands are."""


class _Moment(NamedTuple):
    """A decoded frame, and when it is shown."""

    start: float
    """Seconds."""
    end: float
    opened: Image.Image
    """The animation, at this frame."""
    head: bytes
    """Of the file; see `upright`."""


def frames(
    source: str | Path | bytes | BinaryIO,
    *,
    at_least: int,
    max_megapixels: float = 200.0,
    breaks_off: Callable[[], None] | None = None,
) -> Iterator[Frame]:
    """One frame for each shot of an animation, in order of time; none of a still picture.

    The spans are contiguous and begin at 0. A truncated animation yields the frames that can be
    read, one that exceeds MOST_FRAMES, MOST_PIXELS or MOST_SECONDS those up to that limit. Icons
    with several sizes, TIFFs with several pages and motion photos are stills.

    Args:
        source: A path, the bytes of a file, or a binary file object (which stays open).
        at_least: As of `load_image`.
        max_megapixels: A larger animation yields nothing.
        breaks_off: Called at the end of a truncated animation.
    """
    finder, last, end = ShotFinder(), -math.inf, 0.0
    for moment in _moments(source, max_megapixels, breaks_off):
        end = moment.end
        if end <= last + SAMPLE_EVERY:  # it is over before the next sample is due
            continue
        try:
            picture = upright(moment.opened, at_least=at_least, head=moment.head)
        except UnreadableFile:
            break
        last = moment.start
        if shot := finder.feed(last, _thumbnail(picture), picture):
            yield _frame(shot)
    for shot in finder.finish(end) if finder.latest else ():
        yield _frame(shot)


def frame_at(
    source: str | Path | bytes | BinaryIO,
    seconds: float,
    *,
    at_least: int,
    max_megapixels: float = 200.0,
) -> Image.Image | None:
    """The picture that an animation shows at a moment, upright in RGB; None for a still picture.

    Args:
        source: As of `frames`.
        seconds: The moment; after the end, the last frame is returned.
        at_least: As of `load_image`.
        max_megapixels: As of `frames`.

    Raises:
        UnreadableFile: The frame is damaged.
    """
    last = None
    for start, end, opened, head in _moments(source, max_megapixels):
        if end > seconds + _ROUNDING:
            return upright(opened, at_least=at_least, head=head)
        last = start
    if last is None:
        return None
    return frame_at(source, last - _ROUNDING, at_least=at_least, max_megapixels=max_megapixels)


def _moments(
    source: str | Path | bytes | BinaryIO,
    max_megapixels: float,
    breaks_off: Callable[[], None] | None = None,
) -> Iterator[_Moment]:
    """The decoded frames of an animation; each is valid until the next one is requested."""
    with suppress(UnreadableFile), open_file(source) as file:
        decoder, head = decoder_of(file), head_of(file)
        if not _may_be_animated(decoder, head):
            return
        with open_picture(file) as opened:
            if not getattr(opened, "is_animated", False):
                return
            # a PNG's default image need not be one of the frames
            first = int(getattr(opened, "default_image", False))
            start, left = 0.0, MOST_PIXELS
            for number in range(first, first + MOST_FRAMES):
                try:
                    opened.seek(number)
                    pixels = opened.width * opened.height  # a frame of a GIF can extend it
                    left -= pixels
                    if left < 0 or start >= MOST_SECONDS or pixels > max_megapixels * 1e6:
                        return
                    opened.load()
                except Exception as error:  # on damaged data decoders raise nearly anything
                    # a GIF does not state how many frames it has
                    is_end = decoder == "GIF" or number >= getattr(opened, "n_frames", 0)
                    if breaks_off is not None and not (is_end and isinstance(error, EOFError)):
                        breaks_off()
                    return
                duration = float(opened.info.get("duration") or 0) / 1000
                end = start + (duration if duration > _TOO_SHORT else _USUAL)
                yield _Moment(start, end, opened, head)
                start = end


def _may_be_animated(decoder: str, head: bytes) -> bool:
    """Whether to open a file with Pillow, which would read a still WebP or AVIF as a whole."""
    if decoder == "WEBP":
        return head[12:16] == b"VP8X" and bool(head[20] & _WEBP_HAS_FRAMES)
    if decoder == "AVIF":
        return b"avis" in head[:_BRANDS]
    return decoder in ("GIF", "PNG")


def _thumbnail(picture: Image.Image) -> Thumbnail:
    import numpy as np
    from PIL import Image

    small = picture.resize((32, 18), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


def _frame(shot: Shot) -> Frame:
    return Frame(Span(round(shot.start, 3), round(shot.end, 3), "second"), shot.frame)
