"""Opens files that hold sound, once it is known what they are and that they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media.files import opened_file
from mmsearch.media.sound_decoders import after_id3, by_av, by_soundfile, read_at

if TYPE_CHECKING:
    from mmsearch.media.sound_decoders import Sound

RATES = range(1000, 768_001)
"""Samples a second that a recording may have; bats are recorded at 500,000."""
MOST_CHANNELS = 64


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[Sound]:
    """The sound of a file, decoded as its blocks are asked for.

    Whatever a decoder raises comes out as UnreadableFile, also while blocks are read: on damaged
    data they raise nearly everything.

    Raises:
        UnreadableFile: It cannot be opened, has no sound, or is damaged or truncated.
        MissingExtra: Decoding it takes PyAV, which is not installed.
    """
    import numpy as np  # noqa: F401 - a package that is missing is not a damaged file
    import soundfile  # noqa: F401
    import soxr  # noqa: F401

    with opened_file(source) as file:
        container = _container_of(file)
        try:
            _check_whole(file, container)
            with ExitStack() as stack:
                sound = None
                if container in _BY_SOUNDFILE:
                    sound = by_soundfile(file, container, stack)
                sound = sound or by_av(file, container, stack)
                _check_sense(sound)
                yield sound
        except (UnreadableFile, MissingExtra):
            raise
        except MemoryError as error:
            raise UnreadableFile("out of memory") from error
        except Exception as error:
            raise UnreadableFile("damaged") from error


def _check_sense(sound: Sound) -> None:
    if sound.rate not in RATES:
        raise UnreadableFile(f"{sound.rate} samples a second")
    if not 1 <= sound.channels <= MOST_CHANNELS:
        raise UnreadableFile(f"{sound.channels} channels")


# ---------------------------------------------------------------------- what a file is

_BEGINNINGS = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"\x1aE\xdf\xa3": "matroska",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"FLV\x01": "flv",
    b"#!AMR": "amr",
    b"\x00\x00\x01\xba": "mpeg",
}
"""How files begin, and what FFmpeg calls what they are; those with a size in front stand below.

Nothing else is opened: left to guess, FFmpeg takes some texts for lists of files to fetch.
"""
_FORMS = {b"WAVE": "wav", b"AVI ": "avi", b"AIFF": "aiff", b"AIFC": "aiff"}
_BY_SOUNDFILE = {"wav", "aiff", "flac", "ogg", "mp3"}


def _container_of(file: BinaryIO) -> str:
    """What a file is, told from how it begins: endings are often wrong."""
    head = read_at(file, 0, 16)
    if not head:
        raise UnreadableFile("0 bytes")
    if head[:3] == b"ID3":
        head = read_at(file, after_id3(file), 16)
        head = head if head.startswith(b"fLaC") or head[:1] == b"\xff" else b"\xff\xfb\x90"
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM") and head[8:12] in _FORMS:
        return _FORMS[head[8:12]]
    if head[4:8] == b"ftyp":
        return "mp4"
    for beginning, container in _BEGINNINGS.items():
        if head.startswith(beginning):
            return container
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3" if head[1] & 0x06 else "aac"  # the layer, of which AAC has none
    if head[0] == 0x47 and read_at(file, 188, 1) == b"\x47":
        return "mpegts"
    raise UnreadableFile("not a sound")


# ---------------------------------------------------------------------- whether it is whole

_HEADER = 64
"""Bytes: some programs count the header in when they say how long a sound is."""
_STREAMED = 0x7FFF0000
"""From here on a size means that it was not known when the file was begun."""


def _check_whole(file: BinaryIO, container: str) -> None:
    """Refuses files that are shorter than they say; libsndfile would read what there is."""
    size = file.seek(0, os.SEEK_END)
    end = 0
    if container in ("wav", "aiff"):
        end = _end_of_samples(file, size)
    elif container == "ogg":
        end = _end_of_last_page(file, size)
    file.seek(0)
    if end > size + _HEADER:
        raise UnreadableFile("truncated")


def _end_of_samples(file: BinaryIO, size: int) -> int:
    """Where the chunk with the samples says that it ends; 0 if that cannot be told."""
    order = "big" if read_at(file, 0, 4) in (b"FORM", b"RIFX") else "little"
    place = 12
    while place + 8 <= size:
        head = read_at(file, place, 8)
        length = int.from_bytes(head[4:], order)  # type: ignore[arg-type]
        if head[:4] in (b"data", b"SSND"):
            return place + 8 + length if length < _STREAMED else 0
        place += 8 + length + length % 2
    return 0


def _end_of_last_page(file: BinaryIO, size: int) -> int:
    """Where the last page of an Ogg file says that it ends; 0 if there is none.

    A page is 26 bytes, a number of segments, the size of each, and the segments (RFC 3533).
    """
    longest = 27 + 255 + 255 * 255
    skipped = max(0, size - longest)
    end = read_at(file, skipped, longest)
    page = end.rfind(b"OggS")
    if page < 0:
        return 0
    sizes = end[page + 27 : page + 27 + (end[page + 26] if page + 26 < len(end) else 255)]
    if page + 26 >= len(end) or len(sizes) < end[page + 26]:
        return size + longest
    return skipped + page + 27 + len(sizes) + sum(sizes)
