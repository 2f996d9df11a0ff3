"""Addresses of the members of corpora: `shard.tar::0001.jpg` (see `corpora`, which reads them)."""

from __future__ import annotations

import os
import re

SEPARATOR = "::"
"""Between a corpus and a member of it."""

TAR = ".tar"
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_TABLES = (".parquet", ".jsonl", ".ndjson")
_ADDRESS = re.compile(r"(.*?\.(?:tar|parquet|jsonl|ndjson))::(.+)", re.IGNORECASE | re.DOTALL)


def is_corpus(path: str) -> bool:
    """Whether a file is a corpus, by its name; also one that is refused as it is compressed."""
    return path.lower().endswith((TAR, *_TABLES, *_COMPRESSED_TARS))


def split_address(path: str) -> tuple[str, str] | None:
    """The path of the corpus and the name of the member; None if it has not this form."""
    if SEPARATOR not in path:  # nearly always
        return None
    found = _ADDRESS.fullmatch(path)
    return None if found is None else (found[1], found[2])


def member_at(path: str) -> tuple[str, str] | None:
    """As `split_address`, but None of a path at which there is a file."""
    found = split_address(path)
    return None if found is None or os.path.lexists(path) else found


def folder_and_name(path: str) -> tuple[str, str]:
    """As `os.path.split`; of an address, the folder of the corpus, and the rest."""
    if (address := split_address(path)) is None:
        return os.path.split(path)
    folder, name = os.path.split(address[0])
    return folder, name + path[len(address[0]) :]


def exists(path: str) -> bool:
    """Whether there is a file, or a member of a corpus."""
    if (address := member_at(path)) is None:
        return os.path.exists(path)
    from mmsearch.media.corpora import has_member

    return has_member(*address)


def lexists(path: str) -> bool:
    """As `exists`, and true of a broken link."""
    if os.path.lexists(path):
        return True
    if (address := split_address(path)) is None:
        return False
    from mmsearch.media.corpora import has_member

    return has_member(*address)
