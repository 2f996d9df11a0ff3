"""Opens a video file through PyAV: a local one, of a known kind, its damage told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media.files import opened_file

if TYPE_CHECKING:
    from av.container import InputContainer

_FORMATS = "mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg"
"""Names of FFmpeg's demuxers. No other is run: a playlist named .mp4 would have it open whatever
files and addresses it names, and pictures and subtitles be taken for videos."""

_MAGIC = ((0, b"\x1aE\xdf\xa3"), (0, b"RIFF"), (0, b"OggS"), (0, b"\0\0\1\xba"), (4, b"ftyp"))
"""Where and how containers begin of which it can be told that they are damaged."""


@contextmanager
def opened(source: str | Path) -> Iterator[InputContainer]:
    """A file's container, closed at the end; what FFmpeg raises meanwhile becomes UnreadableFile.

    Args:
        source: Path of the file.

    Raises:
        UnreadableFile: It cannot be opened, is no video, or is damaged.
        MissingExtra: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtra("video", "av") from error
    with _regular(source) as file:
        head = file.read(16)
        file.seek(0)
        known = any(head[at : at + len(magic)] == magic for at, magic in _MAGIC)
        # through a file object: a path such as `http:x.mp4` would be taken for an address
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": ""}
        try:
            container = av.open(
                file, "r", metadata_errors="replace", container_options=options, buffer_size=2**18
            )
        except av.error.FFmpegError as error:
            raise UnreadableFile("damaged" if known else "not a video") from error
        with container:
            try:
                yield container
            except av.error.FFmpegError as error:
                raise UnreadableFile("damaged") from error
            except MemoryError as error:
                raise UnreadableFile("out of memory") from error


@contextmanager
def _regular(source: str | Path) -> Iterator[BinaryIO]:
    with opened_file(source) as file:
        if not os.fstat(file.fileno()).st_size:
            raise UnreadableFile("0 bytes")
        yield file
