"""Resolves the files and texts that pairs name to items of an index."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mmsearch.types import Kind, Modality

if TYPE_CHECKING:
    from mmsearch.collection import Collection

MODALITIES: Mapping[Kind, Modality] = {
    "image": "image",
    "video": "image",
    "audio": "audio",
    "text": "text",
    "document": "text",
}
"""The modality by which an item of each kind is looked for."""


@dataclass(frozen=True, slots=True)
class ItemRef:
    """An item, as far as an evaluation needs it."""

    id: int
    path: str
    modality: Modality


class ItemResolver:
    """The items of a collection that some file names or texts may refer to, read in one pass.

    Attributes:
        size: How many items the collection holds.
    """

    def __init__(self, collection: Collection, names: Iterable[str], texts: Iterable[str]) -> None:
        """Read the items.

        Args:
            collection: Where they are.
            names: Every name that `find` will be called with.
            texts: Every text that `with_text` will be called with.
        """
        self.size = 0
        self._roots = [root for source in collection.status()["sources"] for root in _both(source)]
        self._by_path: dict[str, ItemRef] = {}
        self._by_name: dict[str, list[ItemRef]] = {_base(name): [] for name in names}
        self._by_text: dict[str, list[ItemRef]] = {_words(text): [] for text in texts}
        for item in collection.items:
            self.size += 1
            ref = ItemRef(item.id, item.path, MODALITIES[item.modality])
            if (namesakes := self._by_name.get(_base(item.path))) is not None:
                namesakes.append(ref)
                self._by_path[_normal(item.path)] = ref
            for words in {_words(part.text) for part in item.texts} & self._by_text.keys():
                self._by_text[words].append(ref)

    def find(self, name: str, folder: str) -> list[ItemRef]:
        """The items that a name may refer to: none, one, or the several files of that bare name.

        Args:
            name: A path: absolute, or relative to `folder` or to an indexed folder. A name
                without a folder may also be that of a file anywhere in the index.
            folder: The folder of the file that `name` was read from.
        """
        for root in (*_both(folder), *self._roots):
            if found := self._by_path.get(_normal(os.path.join(root, name))):
                return [found]
        return self._by_name[_normal(name)] if os.path.basename(name) == name else []

    def with_text(self, text: str) -> list[ItemRef]:
        """The items that hold a text word for word, by id; white space makes no difference."""
        return sorted(self._by_text[_words(text)], key=lambda ref: ref.id)


@cache
def _both(folder: str) -> tuple[str, ...]:
    """A folder as written, and with its links resolved: the path of an item may be either."""
    return tuple(dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder))))


def _base(path: str) -> str:
    return os.path.basename(_normal(path))


def _normal(path: str) -> str:
    # macOS returns names decomposed (e + ´), editors write them composed (é).
    return unicodedata.normalize("NFC", os.path.normpath(path))


def _words(text: str) -> str:
    return " ".join(text.split())
