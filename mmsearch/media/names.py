"""Which file of an index a name in a user's list means."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path


class NameBook:
    """Names as a user wrote them in a list, found by where a file is.

    A name is a path: absolute, or from the folder of the list, or from the folder that is indexed.
    One without a folder is the name of a file in any folder.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Take in names.

        Args:
            folder: Where the list lies.
            names: As they are written.
        """
        self._folder = os.path.realpath(folder)
        self._absolute: dict[str, str] = {}
        self._named: dict[str, str] = {}
        for name in names:
            self._named.setdefault(_normal(name), name)
            # both, since a file's path may come with its links resolved or not
            for place in (os.path.abspath(folder), self._folder):
                self._absolute.setdefault(_normal(os.path.join(place, name)), name)

    def at(self, absolute_path: str, relative_path: str) -> str | None:
        """The name that means a file at this path; relative to the folder that is indexed."""
        return self._absolute.get(_normal(absolute_path)) or self._named.get(_normal(relative_path))

    def anywhere(self, bare: str) -> str | None:
        """The name that is a file's alone, unless it means a file beside the list."""
        name = self._named.get(_normal(bare))
        if name is None or os.path.lexists(os.path.join(self._folder, name)):
            return None
        return name


def _normal(path: str) -> str:
    # macOS hands out names decomposed (e + ´), editors write them composed (é).
    return unicodedata.normalize("NFC", os.path.normpath(path))
