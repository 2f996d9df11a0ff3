"""Opening the files of items, only if they are unchanged since they were indexed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from mmsearch.errors import MMSearchError, PathNotFound, TooLarge, UnreadableFile
from mmsearch.media.file_state import is_file_unchanged
from mmsearch.media.members import member_at

if TYPE_CHECKING:
    from mmsearch.storage.records import StoredFile
    from mmsearch.storage.store import Store
    from mmsearch.types import Item

_REINDEX = "bring the index up to date (mmsearch index)"
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)  # a link put there meanwhile is not followed
    | getattr(os, "O_NONBLOCK", 0)  # nor is a pipe put there waited for
    | getattr(os, "O_BINARY", 0)
)
_WALKS = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")
"""Whether a file can be opened folder by folder; not on Windows."""


@dataclass(frozen=True, slots=True)
class ItemFile:
    """The open file of an item; a context manager that closes it."""

    file: BinaryIO
    """At its beginning."""
    path: str
    """As it was indexed."""
    stored: StoredFile
    """What is stored of it."""
    status: os.stat_result
    """Of the open file."""

    def key(self, *what: object) -> str:
        """The cache key of a file derived from it, the same for all items of the same content."""
        stored = self.stored
        content = stored.hash or (os.fsencode(self.path), stored.stat)  # imported: may have none
        described = repr((content, stored.kind, *what))
        return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def open_item(store: Store, item_id: int) -> ItemFile:
    """The file of an item, open.

    The open file is checked, not its path: a file that replaces it meanwhile is not read.

    Raises:
        PathNotFound: there is no such item, it was imported without a file, the file is gone or
            has changed since it was indexed, or a link leads out of the indexed folder.
    """
    found = store.files.of(item_id)
    if found is None or found[2].imported:
        raise PathNotFound(f"item {item_id} is not in the index, or was imported without its file")
    source, path, stored = found
    member = member_at(path)
    on_disk = path if member is None else member[0]
    root, real = os.path.realpath(source), os.path.realpath(on_disk)
    if not _lies_in(root, real):
        raise PathNotFound(
            f"{path!r} is a link that leads out of the indexed folder {source!r}: index the folder "
            "that it leads to"
        )
    try:
        descriptor = _open_below(root, os.path.relpath(real, root))
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or "it cannot be opened"
        raise PathNotFound(f"{path!r} cannot be read: {why.lower()}; {_REINDEX}") from error
    file: BinaryIO = os.fdopen(descriptor, "rb")
    try:
        status = os.fstat(file.fileno())
        unchanged = stat.S_ISREG(status.st_mode)
        if unchanged and member is not None:
            file, status = _member(on_disk, member[1], file)
        unchanged = unchanged and is_file_unchanged(
            file, stored.stat, stored.hash, stored.ctime_ns, status
        )
        file.seek(0)
    except (OSError, MMSearchError):
        unchanged = False
    if not unchanged:
        file.close()
        raise PathNotFound(f"{path!r} has changed since it was indexed: {_REINDEX}")
    return ItemFile(file, path, stored, status)


def _member(path: str, name: str, file: BinaryIO) -> tuple[BinaryIO, os.stat_result]:
    """A member of a corpus that is open, and its status; the corpus is closed with it."""
    from mmsearch.media.corpora import open_corpus

    corpus = open_corpus(path)
    status = corpus.status_of(name)
    return corpus.open(name, file), status


@contextmanager
def errors_with_path(path: str) -> Iterator[None]:
    """Add the file's path to the errors that readers of media raise."""
    try:
        yield
    except TooLarge as error:
        raise TooLarge(f"{path!r} is too large to be shown: save it") from error
    except UnreadableFile as error:
        raise UnreadableFile(f"{path!r} cannot be shown: {error}") from error


def is_available(store: Store, item_id: int) -> bool:
    """Whether `open_item` opens an item."""
    with suppress(MMSearchError), open_item(store, item_id):
        return True
    return False


def duplicates_of(store: Store, item: Item) -> list[dict[str, Any]]:
    """The id and path of the other items of the same content, byte for byte."""
    hash_ = store.items.hashes([item.id]).get(item.id)
    copies = store.files.duplicates_of(hash_, item.modality) if hash_ else []
    return [{"id": id_, "path": path} for id_, *_, path in copies if id_ != item.id]


def _lies_in(folder: str, path: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _open_below(root: str, below: str) -> int:
    """A descriptor of a regular file below a folder, with no link followed on the way."""
    if not _WALKS:
        return _open_regular(os.path.join(root, below), None)
    *folders, name = below.split(os.sep)
    at = os.open(root, _FLAGS | os.O_DIRECTORY)
    try:
        for folder in folders:
            below_it = os.open(folder, _FLAGS | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below_it
        return _open_regular(name, at)
    finally:
        os.close(at)


def _open_regular(name: str, folder: int | None) -> int:
    # looked at first: opening a device may have effects
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise OSError(0, "it is no longer a file")
    return os.open(name, _FLAGS, dir_fd=folder)
