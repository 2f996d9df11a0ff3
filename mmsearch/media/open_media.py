"""Opens media files: as files, and through FFmpeg as containers of sound and pictures."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

from mmsearch.errors import MissingExtra, MMSearchError, TooLarge, UnreadableFile
from mmsearch.media.members import member_at

if TYPE_CHECKING:
    from av.container import InputContainer

MOST_IN_MEMORY = 2**30
"""Bytes of a file that is read as a whole."""


@contextmanager
def open_file(source: str | Path | bytes | BinaryIO) -> Iterator[BinaryIO]:
    """A seekable binary file; of a path or bytes, at its beginning.

    Args:
        source: A path, also of a member of a corpus, the bytes of a file, or a binary file
            object (which stays open).

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
        if (member := member_at(str(source))) is not None:
            from mmsearch.media.corpora import open_member

            with open_member(*member) as file:
                yield file
            return
        # checked before opening: opening a pipe would wait for a writer
        if not stat.S_ISREG(Path(source).stat().st_mode):
            raise UnreadableFile("not a regular file")
        with Path(source).open("rb") as file:
            yield file
    except OSError as error:
        raise UnreadableFile((error.strerror or "cannot be read").lower()) from error


def read_whole(file: BinaryIO, what: str) -> bytes:
    """The content of a file, for a decoder that needs all of it in memory; `what` names it.

    Raises:
        TooLarge: It is larger than MOST_IN_MEMORY.
    """
    if (size := file.seek(0, os.SEEK_END)) > MOST_IN_MEMORY:
        raise TooLarge(f"too large: {what} of {size / 2**30:.1f} GiB (limit 1 GiB)")
    file.seek(0)
    return file.read()


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

    FFmpeg may open no other file: a playlist could make it read any file or URL. It gets a
    file object because it would take a path such as `http:x.mp4` for a URL.

    Args:
        file: At its beginning.
        what: Begins the message of MissingExtra: what needs PyAV.
        demuxer: FFmpeg's name for the format of the file, where it is known.
        demuxers: Otherwise the formats to try, separated by commas.

    Raises:
        MissingExtra: PyAV cannot be imported.
        av.error.FFmpegError: The file has no such format, or is damaged.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtra(what, "av", error) from error
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


class _CStderrOff:
    """Silences libmpg123, inside libsndfile, and LibRaw, which write to stderr about damaged files.

    They have no switch for that. So the C library's `stderr` points to the null device while any
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


c_stderr_off = _CStderrOff()


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
