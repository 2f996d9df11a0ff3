"""Paths of the members of corpora, `shard.tar::0001.jpg` (see `corpora`, which reads them)."""

from __future__ import annotations

import os
import re

SEPARATOR = "::"
"""Stands between the path of a corpus and the name of its member."""

TAR = ".tar"
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_TABLES = (".parquet", ".jsonl", ".ndjson")
_MEMBER = re.compile(r"(.*?\.(?:tar|parquet|jsonl|ndjson))::(.+)", re.IGNORECASE | re.DOTALL)


def is_corpus(path: str) -> bool:
    """Whether a file is a corpus, by its name; also a compressed tar, which is refused later."""
    return path.lower().endswith((TAR, *_TABLES, *_COMPRESSED_TARS))


def split_member(path: str) -> tuple[str, str] | None:
    """The path of the corpus and the name of the member; None for a path of another form."""
    if SEPARATOR not in path:  # nearly always
        return None
    found = _MEMBER.fullmatch(path)
    return None if found is None else (found[1], found[2])


def member_at(path: str) -> tuple[str, str] | None:
    """As `split_member`; None as well if there is a file at the path."""
    found = split_member(path)
    return None if found is None or os.path.lexists(path) else found


def folder_and_name(path: str) -> tuple[str, str]:
    """As `os.path.split`; for a member, the folder of the corpus and the rest."""
    if (member := split_member(path)) is None:
        return os.path.split(path)
    folder, name = os.path.split(member[0])
    return folder, name + path[len(member[0]) :]


def exists(path: str) -> bool:
    """Whether there is a file, or a member of a corpus."""
    if (member := member_at(path)) is None:
        return os.path.exists(path)
    from mmsearch.media.corpora import has_member

    return has_member(*member)


def lexists(path: str) -> bool:
    """As `exists`, but True for a broken link as well."""
    if os.path.lexists(path):
        return True
    if (member := split_member(path)) is None:
        return False
    from mmsearch.media.corpora import has_member

    return has_member(*member)
