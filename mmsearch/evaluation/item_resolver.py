"""Which items of an index a pair's files are."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection as Several
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from mmsearch.types import Item, Kind, Modality

if TYPE_CHECKING:
    from mmsearch.collection import Collection

FACETS: Mapping[Kind, Modality] = {
    "image": "image",
    "video": "image",
    "audio": "audio",
    "text": "text",
    "document": "text",
}
"""What a file of each kind is looked for as."""

SHOWN = 3
"""Of many names, how many a message gives."""


class SeveralItems(Exception):
    """A bare name is that of several files."""


@dataclass(frozen=True, slots=True)
class Place:
    """An item, as far as an evaluation needs it."""

    id: int
    path: str
    facet: Modality


class Shelf:
    """The items of a collection that some names or texts could mean; read once.

    Args:
        collection: Where they are.
        names: Paths or bare names of files.
        texts: Texts whose items are wanted.
    """

    def __init__(
        self, collection: Collection, names: Iterable[str], texts: Several[str] = ()
    ) -> None:
        self.size = 0
        """How many items there are in all."""
        self._roots = [root for source in collection.status()["sources"] for root in _both(source)]
        wanted = {os.path.basename(_normal(name)) for name in names}
        self._named: dict[str, list[Place]] = {name: [] for name in wanted}
        self._holders: dict[str, set[int]] = {plain(text): set() for text in texts}
        self._places: dict[int, Place] = {}
        for item in collection.items:
            self.size += 1
            self._take(item)
        self._by_path = {
            _normal(place.path): place for several in self._named.values() for place in several
        }

    def _take(self, item: Item) -> None:
        place = Place(item.id, item.path, FACETS[item.modality])
        several = self._named.get(os.path.basename(_normal(item.path)))
        if several is not None:
            several.append(place)
        for part in item.texts:
            holders = self._holders.get(plain(part.text))
            if holders is not None:
                holders.add(item.id)
                self._places[item.id] = place

    def find(self, name: str, folder: str) -> Place | None:
        """The item of a file, or None if there is none.

        A name is a path: absolute, or from a folder, or from one that is indexed. One without a
        folder is also the name of a file anywhere.

        Raises:
            SeveralItems: it is the name of several.
        """
        for root in (*_both(folder), *self._roots):
            found = self._by_path.get(_normal(os.path.join(root, name)))
            if found is not None:
                return found
        several = self._named[_normal(name)] if os.path.basename(name) == name else []
        if len(several) > 1:
            raise SeveralItems(name)
        return several[0] if several else None

    def holders(self, text: str) -> list[Place]:
        """The items that hold a text, word for word; it is one of those the shelf was made for."""
        return [self._places[item_id] for item_id in sorted(self._holders[plain(text)])]


@cache
def _both(folder: str) -> tuple[str, ...]:
    """A folder as it is written and with its links resolved: an item's path may be either."""
    return tuple(dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder))))


def plain(text: str) -> str:
    """A text as it is compared with others: white space makes no difference."""
    return " ".join(text.split())


def few(names: Iterable[str]) -> str:
    """The first of several names, for a message."""
    first = list(islice(names, SHOWN + 1))
    return ", ".join(map(repr, first[:SHOWN])) + (", …" if len(first) > SHOWN else "")


def _normal(path: str) -> str:
    # macOS hands out names decomposed (e + ´), editors write them composed (é).
    return unicodedata.normalize("NFC", os.path.normpath(path))
