"""What a file was and whether it still is: its size and time, and a hash of its content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmsearch.errors import TooLarge, UnreadableFile

if TYPE_CHECKING:
    from mmsearch.media.walk import FileStat

WHOLE = 64 * 2**20
"""Bytes; a larger file is decoded from disk, so that it is never held whole."""

PIECES, PIECE = 32, 64 * 2**10
"""What is hashed of such a file: so many pieces of so many bytes, the first and the last included.
"""

CHANGED = "changed while it was read"

Stat = tuple[int, int]
"""(size in bytes, mtime in ns) of a file."""


class ChangedMeanwhile(UnreadableFile):
    """A file is being written: what was read may be half old and half new."""


def stat_of(path: str) -> Stat:
    """A file's size and time stamp now.

    Raises:
        OSError: there is no such file.
    """
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def same_stats(stored: tuple[int, int, int | None, int | None], file: FileStat) -> bool:
    """Whether a scanned file and the text beside it have the size and time that were stored.

    Args:
        stored: size and mtime_ns of the file, then of the text beside it.
        file: What the scan found.
    """
    if stored[0] != file.size or stored[1] != file.mtime_ns:
        return False
    return stored[2] is None if file.sidecar is None else stored[2:] == file.sidecar


def is_unchanged(path: str, stat: Stat, hash_: bytes) -> bool:
    """Whether a file is as it was stored: by its size and time, else by its content.

    Raises:
        OSError: it cannot be read.
    """
    if stat_of(path) == stat:
        return True
    try:
        return bool(hash_) and has_content(path, read_file(path)[1], hash_)
    except ChangedMeanwhile:
        return False


def has_content(path: str, now: bytes, hash_: bytes) -> bool:
    """Whether a file has the content of a stored hash.

    Args:
        path: The file.
        now: Its hash, as `read_file` gives it.
        hash_: What was stored; mmsearch 0.1.0 hashed the whole of large files, too.
    """
    if now == hash_:
        return True
    if os.path.getsize(path) <= WHOLE:
        return False
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest() == hash_


def read_file(path: str) -> tuple[bytes | str, bytes]:
    """A file's bytes (its path, when it is large) and the hash of its content.

    That is the BLAKE2b-128 of all of it, or of the size and PIECES pieces of a large file.

    Raises:
        ChangedMeanwhile: it changed twice while it was read.
        OSError: it cannot be read.
    """
    for _ in range(2):
        with Path(path).open("rb") as file:
            before = os.fstat(file.fileno())
            size = before.st_size
            if size > WHOLE:
                found: tuple[bytes | str, bytes] = path, _hash_of_pieces(file, size)
            else:
                content = file.read()
                found = content, hashlib.blake2b(content, digest_size=16).digest()
            after = os.fstat(file.fileno())
        if (size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return found
    raise ChangedMeanwhile(CHANGED)


def _hash_of_pieces(file: BinaryIO, size: int) -> bytes:
    found = hashlib.blake2b(b"%d" % size, digest_size=16)
    for number in range(PIECES):
        file.seek(number * (size - PIECE) // (PIECES - 1))
        found.update(file.read(PIECE))
    return found.digest()


def may_pass(error: UnreadableFile) -> bool:
    """Whether the file may be usable another time, as it is: its bytes are not at fault."""
    if isinstance(error, (TooLarge, ChangedMeanwhile)):
        return True
    # the disk's faults reach a decoder that reads the file itself, and come as the decoder's
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None
