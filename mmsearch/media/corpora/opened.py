"""Corpora that are open, so that their members are found at once."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from mmsearch.errors import MMSearchError, UnreadableFile
from mmsearch.media.corpora.corpus import Corpus, changed, identity
from mmsearch.media.corpora.jsonl import Jsonl
from mmsearch.media.corpora.parquet import Parquet
from mmsearch.media.corpora.tar import Tar
from mmsearch.media.kinds import ending_of
from mmsearch.media.members import TAR

MOST_CORPORA, MOST_MEMBERS = 256, 2_000_000
"""That are kept open in a process, in all; one corpus may have more members."""

_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files, and the program that unpacks them."""


def has_member(path: str, name: str) -> bool:
    """Whether a corpus has a member of a name."""
    try:
        open_corpus(path).size(name)
    except (OSError, MMSearchError):
        return False
    return True


@contextmanager
def open_member(path: str, name: str) -> Iterator[BinaryIO]:
    """A member of a corpus, a seekable file at its beginning.

    Raises:
        OSError: the corpus cannot be read, or has no such member.
        UnreadableFile: the corpus, or the member, is damaged, or changed meanwhile.
    """
    corpus = open_corpus(path)
    with corpus.open(name) as file:
        yield file


def status_of(path: str, name: str) -> os.stat_result:
    """The size of a member, and the times of its corpus; raises as `open_member`."""
    corpus = open_corpus(path)
    return corpus.status_of(name)


def is_current(path: str) -> bool:
    """Whether a corpus is the file whose members were read last."""
    status = os.stat(path)
    with _opened_lock:
        known = _opened.get(path)
    return known is not None and identity(known.status) == identity(status)


_opened: OrderedDict[str, Corpus] = OrderedDict()
_opened_lock = Lock()
_building: dict[str, Lock] = {}


def open_corpus(path: str) -> Corpus:
    """A corpus, whose members are found at once if it was opened before and has not changed.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UnreadableFile: it is compressed, damaged, or has no columns that are known.
        MissingExtra: it is a parquet file, and pyarrow is not installed.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFile("not a regular file")
    with _opened_lock:
        building = _building.setdefault(path, Lock())
    with building:
        with _opened_lock:
            known = _opened.get(path)
            if known is not None and identity(known.status) == identity(status):
                _opened.move_to_end(path)
                return known
        try:
            made = _made(path, status)
        finally:
            with _opened_lock:
                _building.pop(path, None)
        if identity(os.stat(path)) != identity(status):
            raise changed()
        with _opened_lock:
            _keep(path, made)
    return made


def _keep(path: str, corpus: Corpus) -> None:
    _opened[path] = corpus
    _opened.move_to_end(path)
    members = sum(map(len, _opened.values()))
    while len(_opened) > 1 and (len(_opened) > MOST_CORPORA or members > MOST_MEMBERS):
        _, oldest = _opened.popitem(last=False)
        members -= len(oldest)
        oldest.close()


def _made(path: str, status: os.stat_result) -> Corpus:
    ending = ending_of(path)
    if ending == ".parquet":
        return Parquet(path, status)
    with Path(path).open("rb") as file:
        head = file.read(6)
    for magic, program in _PACKED.items():
        if head.startswith(magic):
            raise UnreadableFile(
                f"compressed by {program}: members can be read only from a plain file, so unpack "
                f"it first (`{program} -dk {os.path.basename(path)}`)"
            )
    return Tar(path, status) if ending == TAR else Jsonl(path, status)
