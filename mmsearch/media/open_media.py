"""Opens media files: as files, and through FFmpeg as containers of sound and pictures."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmsearch.errors import MissingExtra, MMSearchError, UnreadableFile

if TYPE_CHECKING:
    from av.container import InputContainer


@contextmanager
def open_file(source: str | Path | bytes | BinaryIO) -> Iterator[BinaryIO]:
    """A seekable binary file; of a path or bytes, at its beginning.

    Args:
        source: A path, the bytes of a file, or a binary file object (which stays open).

    Raises:
        UnreadableFile: It is missing, cannot be read, or is not a regular file (a pipe, say).
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    if not isinstance(source, str | Path):
        yield source if source.seekable() else io.BytesIO(source.read())
        return
    if "\0" in str(source):
        raise UnreadableFile("no such file")
    try:
        # checked before opening: opening a pipe would wait for a writer
        if not stat.S_ISREG(Path(source).stat().st_mode):
            raise UnreadableFile("not a regular file")
        with Path(source).open("rb") as file:
            yield file
    except OSError as error:
        raise UnreadableFile((error.strerror or "cannot be read").lower()) from error


@contextmanager
def damage_as_unreadable() -> Iterator[None]:
    """Turn whatever a decoder raises into UnreadableFile.

    On damaged data decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error,
    ValueError, KeyError, MemoryError, …
    """
    try:
        yield
    except MMSearchError:
        raise
    except MemoryError as error:
        raise UnreadableFile("out of memory") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableFile(error.strerror.lower()) from error
        truncated = "truncated" in str(error).lower()
        raise UnreadableFile("truncated" if truncated else "damaged") from error


def av_container(
    file: BinaryIO, what: str, *, demuxer: str | None = None, demuxers: str = ""
) -> InputContainer:
    """The container of sound or pictures in a file; the caller closes it.

    FFmpeg may open no other file: a playlist could make it read any file or address. It gets a
    file object because it would take a path such as `http:x.mp4` for an address.

    Args:
        file: At its beginning.
        what: Begins the message of MissingExtra: what needs PyAV.
        demuxer: FFmpeg's name for the format of the file, where it is known.
        demuxers: Otherwise the formats to try, separated by commas.

    Raises:
        MissingExtra: PyAV is not installed.
        av.error.FFmpegError: The file has no such format, or is damaged.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtra(what, "av") from error
    options = {"protocol_whitelist": ""}
    if demuxers:
        options["format_whitelist"] = demuxers
    container: InputContainer = av.open(
        file,
        "r",
        format=demuxer,
        metadata_errors="replace",
        container_options=options,
        buffer_size=2**18,
    )
    return container
