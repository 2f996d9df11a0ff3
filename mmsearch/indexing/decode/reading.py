"""Reads a file whole, or tells what a large one holds by some pieces of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from mmsearch.errors import TooLarge, UnreadableFile
from mmsearch.storage.sqlite.records import Stat

WHOLE = 64 * 2**20
"""Bytes; a larger file is decoded from disk, so it is never held whole."""

PIECES, PIECE = 32, 64 * 2**10
"""What is hashed of such a file: so many pieces of so many bytes, the first and the last of all."""

CHANGED = "changed while it was read"


class ChangedMeanwhile(UnreadableFile):
    """A file is being written: what was read of it may be half of this and half of that."""


def read_file(path: str) -> tuple[bytes | str, bytes]:
    """A file's bytes (its path, when it is large) and the hash of its content.

    That is the BLAKE2b-128 of all, or of the size and PIECES pieces of a large file.

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


def is_content(path: str, hash_: bytes) -> bool:
    """Whether a large file has the content of a stored hash that was made by mmsearch 0.1.0.

    Of all of it, that is; a file that is held whole has one hash alone, which `read_file` gives.
    """
    if os.path.getsize(path) <= WHOLE:
        return False
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest() == hash_


def stat_of(path: str) -> Stat:
    """What a file's size and time stamp are now."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


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
    # of a file that is decoded from disk, the disk's faults come as the decoder's
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None
