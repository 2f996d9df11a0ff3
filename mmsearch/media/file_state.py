"""Whether a file has changed: by its size and time, and by a hash of its content."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmsearch.errors import MissingExtra, MMSearchError, TooLarge, UnreadableFile
from mmsearch.media.members import member_at

if TYPE_CHECKING:
    from mmsearch.media.walk import FileStat

WHOLE = 64 * 2**20
"""Bytes; a larger file is decoded from disk and never read into memory as a whole."""

PIECES, PIECE = 32, 64 * 2**10
"""Of a larger file this number of pieces is hashed, of this many bytes each, evenly spread."""

CHANGED = "changed while it was read"

EARLIEST, LATEST = -(2**63), 2**63 - 1
"""Times in ns that a database can hold: 1677-09-21 and 2262-04-11. Broken clocks go beyond."""

CTIME_TELLS = os.name != "nt"
"""Whether st_ctime is when a file last changed in any way; on Windows it is when it was made."""

Stat = tuple[int, int]
"""(size in bytes, mtime in ns) of a file; the time between EARLIEST and LATEST."""


class ChangedMeanwhile(UnreadableFile):
    """A file changed while it was read: the bytes may be half old and half new."""


def stat_of(path: str) -> Stat:
    """A file's present size and time stamp; raises OSError if it is missing."""
    status = status_of(path)
    return status.st_size, storable_time(status.st_mtime_ns)


def status_of(path: str) -> os.stat_result:
    """As `os.stat`; of a member of a corpus, its size and the times of the corpus."""
    if (member := member_at(path)) is not None:
        from mmsearch.media import corpora

        try:
            return corpora.status_of(*member)
        except MMSearchError as error:
            raise OSError(errno.EIO, str(error), path) from error
    return os.stat(path)


def storable_time(nanoseconds: int) -> int:
    """A time, or the nearest one that a database can hold."""
    return min(max(nanoseconds, EARLIEST), LATEST)


def same_stats(stored: tuple[int, int, int | None, int | None, int | None], file: FileStat) -> bool:
    """Whether a scanned file and the text beside it have the size and times that were stored.

    Args:
        stored: size and mtime_ns of the file, then of the text beside it; ctime_ns, None if it is
            not known.
        file: What the scan found.
    """
    if stored[0] != file.size or stored[1] != file.mtime_ns:
        return False
    if stored[4] != file.ctime_ns and stored[4] is not None and CTIME_TELLS:
        return False
    return stored[2:4] == (file.sidecar_size, file.sidecar_mtime_ns)


def touched_since(path: str, ctime_ns: int | None) -> bool:
    """Whether a file of the size and time that were stored may have other content by now.

    Args:
        path: The file.
        ctime_ns: When it had last changed in any way when it was stored; None if not known.
    """
    if ctime_ns is None or not CTIME_TELLS:
        return False
    return storable_time(status_of(path).st_ctime_ns) > ctime_ns


def is_unchanged(path: str, stat: Stat, hash_: bytes, ctime_ns: int | None = None) -> bool:
    """Whether a file is as it was stored: by its size and times, or else by its content.

    Raises:
        OSError: it cannot be read.
    """
    if stat_of(path) == stat and not touched_since(path, ctime_ns):
        return True
    try:
        return bool(hash_) and has_content(path, read_file(path)[1], hash_)
    except ChangedMeanwhile:
        return False


def is_file_unchanged(
    file: BinaryIO,
    stat: Stat,
    hash_: bytes,
    ctime_ns: int | None = None,
    now: os.stat_result | None = None,
) -> bool:
    """The same of an open file, whose position it changes.

    Args:
        file: Open.
        stat: Its size and time stamp when it was stored.
        hash_: Of its content then.
        ctime_ns: When it had last changed in any way; None if not known.
        now: Of a member of a corpus, its status.

    Raises:
        OSError: it cannot be read.
    """
    now = os.fstat(file.fileno()) if now is None else now
    if now.st_size != stat[0]:
        return False
    touched = CTIME_TELLS and ctime_ns is not None and storable_time(now.st_ctime_ns) > ctime_ns
    if storable_time(now.st_mtime_ns) == stat[1] and not touched:
        return True
    file.seek(0)
    if now.st_size > WHOLE:
        return _hash_of_pieces(file, now.st_size) == hash_
    digest = hashlib.blake2b(digest_size=16)
    while block := file.read(2**18):
        digest.update(block)
    return digest.digest() == hash_


def has_content(path: str, now: bytes, hash_: bytes) -> bool:
    """Whether a file has the content of a stored hash.

    Args:
        path: The file.
        now: Its present hash, from `read_file`.
        hash_: The stored hash; mmsearch 0.1.0 hashed all of a large file.
    """
    if now == hash_:
        return True
    if status_of(path).st_size <= WHOLE or member_at(path) is not None:
        return False
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest() == hash_


def read_file(path: str) -> tuple[bytes | str, bytes]:
    """A file's bytes (of a large file, its path) and the hash of its content.

    The hash is the BLAKE2b-128 of the content, or of a large file's size and PIECES pieces.

    Raises:
        ChangedMeanwhile: it changed while it was read, twice in a row.
        OSError: it cannot be read.
    """
    if (member := member_at(path)) is not None:
        return _read_member(path, *member)
    for _ in range(2):
        with Path(path).open("rb") as file:
            before = os.fstat(file.fileno())
            size = before.st_size
            if size > WHOLE:
                result: tuple[bytes | str, bytes] = path, _hash_of_pieces(file, size)
            else:
                content = file.read()
                result = content, hashlib.blake2b(content, digest_size=16).digest()
            after = os.fstat(file.fileno())
        if (size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return result
    raise ChangedMeanwhile(CHANGED)


def _read_member(path: str, corpus: str, name: str) -> tuple[bytes | str, bytes]:
    from mmsearch.media import corpora

    with corpora.open_member(corpus, name) as file:
        size = file.seek(0, os.SEEK_END)
        if size > WHOLE:
            return path, _hash_of_pieces(file, size)
        file.seek(0)
        content = file.read()
    if len(content) != size or not corpora.is_current(corpus):
        raise ChangedMeanwhile(CHANGED)
    return content, hashlib.blake2b(content, digest_size=16).digest()


def _hash_of_pieces(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.blake2b(b"%d" % size, digest_size=16)
    for number in range(PIECES):
        file.seek(number * (size - PIECE) // (PIECES - 1))
        digest.update(file.read(PIECE))
    return digest.digest()


def may_pass(error: UnreadableFile | MissingExtra) -> bool:
    """Whether a retry may succeed though the file stays as it is: its bytes are not at fault."""
    if isinstance(error, (TooLarge, ChangedMeanwhile, MissingExtra)):
        return True
    # a decoder that reads the file itself wraps the disk's errors in its own
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None
