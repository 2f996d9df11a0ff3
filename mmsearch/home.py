"""The folders of named indexes and of cached files, and paths as text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmsearch.errors import NoHomeFolder, PathNotFound

MARKER = ".mmsearch"
"""A file of this name in ./indexes makes that the folder of all named indexes."""


def path_text(path: str | bytes | os.PathLike[Any]) -> str:
    """A path as text, as `os.fsdecode` makes it.

    Raises:
        PathNotFound: no file can have such a name.
    """
    text = os.fsdecode(path)
    if not is_possible(text):
        raise PathNotFound(f"no file can be called {text!r}: it holds a NUL or half a character")
    return text


def is_possible(path: str) -> bool:
    """Whether a file can have this path; names that are not UTF-8 hold surrogate escapes."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def home() -> Path:
    """The folder of all named indexes.

    `$MMSEARCH_HOME` if set; else `./indexes` if it holds the marker file; else the platform's
    folder for the user's data.

    Raises:
        NoHomeFolder: it would be that, and the user has none.
    """
    if chosen := os.environ.get("MMSEARCH_HOME"):
        return absolute(chosen)
    local = Path("indexes")
    if (local / MARKER).is_file():
        return local.absolute()
    from platformdirs import user_data_path

    with _home_needed("MMSEARCH_HOME, or name a folder of the index, `-i DIR`"):
        return user_data_path("mmsearch", appauthor=False)


def cache_folder() -> Path:
    """The folder of what can be made or downloaded again: `$MMSEARCH_CACHE` or the platform's.

    Raises:
        NoHomeFolder: it would be the platform's, and the user has none.
    """
    if chosen := os.environ.get("MMSEARCH_CACHE"):
        return absolute(chosen)
    from platformdirs import user_cache_path

    with _home_needed("MMSEARCH_CACHE"):
        return user_cache_path("mmsearch", appauthor=False)


@contextmanager
def _home_needed(instead: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # neither HOME nor an entry in the user database
        raise NoHomeFolder(f"this user has no home folder: set HOME or {instead}") from error


def expanded(path: str, instead: str) -> str:
    """The path with "~" at its start replaced by the user's home folder.

    Args:
        path: Any path.
        instead: What the error suggests besides setting HOME.

    Raises:
        NoHomeFolder: it begins with "~", and the user has no home folder.
    """
    found = os.path.expanduser(path)
    if found.startswith("~") and found.replace(os.sep, "/").partition("/")[0] == "~":
        raise NoHomeFolder(f"this user has no home folder: set HOME or {instead}")
    return found


def absolute(folder: str) -> Path:
    """A folder that the user named as an absolute path, with "~" expanded.

    Raises:
        NoHomeFolder: it begins with "~", and the user has no home folder.
    """
    return Path(os.path.abspath(expanded(folder, f"give another path than {folder}")))
