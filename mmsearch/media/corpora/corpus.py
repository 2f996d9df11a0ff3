"""What all corpora have: members with sizes, contents and details."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mmsearch.errors import UnreadableFile
from mmsearch.media.file_state import CHANGED, ChangedMeanwhile


class Member(NamedTuple):
    """An item in a corpus."""

    name: str
    """Within the corpus; "/" separated."""
    size: int
    """Bytes."""
    sidecar: str = ""
    """The member with its captions."""
    sidecar_size: int = 0
    problem: str = ""
    """Why it cannot be read; "" if it can."""
    retry: bool = False
    """Whether the corpus is not at fault."""


class Details(NamedTuple):
    """What a corpus says of a member."""

    captions: Sequence[str] = ()
    metadata: Mapping[str, str | float] = {}
    problem: tuple[str, str] | None = None
    """The member that says it and cannot be read, and why."""


class Corpus(ABC):
    """A file with many items; callable from many threads.

    Attributes:
        path: Its file.
        status: Of that file when it was read.
        problem: Why not all of its members could be listed; complete after `members`.
    """

    def __init__(self, path: str, status: os.stat_result) -> None:
        self.path = path
        self.status = status
        self.problem = ""

    def __len__(self) -> int:
        """How many members are kept in memory."""
        return 0

    @abstractmethod
    def members(self) -> Iterator[Member]:
        """The items, and what cannot be one though it should; in the order of the file."""

    @abstractmethod
    def count(self, endings: Collection[str]) -> int:
        """About how many members there are, without reading what is in them.

        Args:
            endings: Of members that are files, those with other endings are not counted.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a member; raises FileNotFoundError if there is none of that name."""

    @abstractmethod
    def open(self, name: str, file: BinaryIO | None = None) -> BinaryIO:
        """A member as a file.

        Args:
            name: Of the member.
            file: The corpus, if it is open already; it is closed with the member.
        """

    @abstractmethod
    def details(self, name: str) -> Details:
        """The captions and metadata that the corpus has of a member."""

    def status_of(self, name: str) -> os.stat_result:
        """The size of a member, and the times of the corpus."""
        size, own = self.size(name), self.status
        shown = (*own[:6], size, *own[7:10])
        times = {key: getattr(own, key) for key in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")}
        seconds = {key: getattr(own, key) for key in ("st_atime", "st_mtime", "st_ctime")}
        return os.stat_result(shown, {**times, **seconds})

    def close(self) -> None:  # noqa: B027 - most have nothing open
        """Let go of what it has open."""

    def _file(self, file: BinaryIO | None = None) -> BinaryIO:
        """The file of the corpus, open, if it is still the one that was read."""
        if file is None:
            file = Path(self.path).open("rb")  # noqa: SIM115 - the caller closes it
        if identity(os.fstat(file.fileno())) != identity(self.status):
            file.close()
            raise changed()
        return file


def identity(status: os.stat_result) -> tuple[int, ...]:
    """What differs once a file has been changed or replaced."""
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip


def changed() -> UnreadableFile:
    """The error of a corpus that changed while it was read."""
    return ChangedMeanwhile(CHANGED)


def no_member(name: str) -> FileNotFoundError:
    """The error of a name that no member has."""
    return FileNotFoundError(2, "no such member", name)
