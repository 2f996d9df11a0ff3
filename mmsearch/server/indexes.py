"""The indexes that are served, and warming them up."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmsearch.collection import Collection
from mmsearch.errors import IndexNotFound, IndexUnusable, MMSearchError, StorageFailed
from mmsearch.server.problems import RETRY_AFTER, Problem
from mmsearch.storage.backups import CATALOG
from mmsearch.storage.place import IndexLike, IndexPlace, place_of

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder, Runtime
    from mmsearch.types import Modality

logger = logging.getLogger("mmsearch.server")


EMPTY_STATUS: dict[str, Any] = {
    "model": None,
    "fingerprint": None,
    "dim": None,
    "models": [],
    "sources": [],
    "items": {},
    "vectors": {},
    "indexes": [],
    "failures": 0,
    "passed_over": [],
    "bytes": 0,
}
"""The status of an index before its first indexing run."""


class ServedIndexes:
    """Collections by name, each opened when it is first asked for.

    Methods may be called from any thread.

    Args:
        indexes: The indexes by name; the first is the default. They need not exist yet.
        how: What encoders run on.

    Attributes:
        ready: Whether the models are loaded; `warm_up` loads them.
    """

    def __init__(self, indexes: Mapping[str, IndexLike], how: Runtime) -> None:
        self.places = {name: place_of(index) for name, index in indexes.items()}
        self.default = next(iter(self.places))
        self.ready = False
        self.how = how
        self._open: dict[str, Collection] = {}
        self._opening = {name: threading.Lock() for name in self.places}
        self._checking = threading.Lock()
        self._closed = False

    def get(self, name: str | None = None) -> Collection:
        """An index, open. If its store was replaced since it was opened, it is opened again.

        Raises:
            IndexNotFound: no index of this name is served, or nothing has been indexed yet.
            IndexUnusable: it is damaged, or was made by a newer version.
        """
        name = self.default if name is None else name
        place = self.place(name)
        if (found := self._current(name)) is not None:
            return found
        with self._opening[name]:  # one lock an index, so that the other indexes answer meanwhile
            if (found := self._current(name)) is not None:
                return found
            if (before := self._open.pop(name, None)) is not None:
                before.close()
            if self._closed:
                raise IndexUnusable("the server is shutting down: ask again when it is back")
            found = Collection(place, how=self.how)
            if other := next(iter(list(self._open.values())), None):
                found.index.encoders.share(other.index.encoders)
            self._open[name] = found
            return found

    def _current(self, name: str) -> Collection | None:
        """An open index, unless its store was replaced since.

        Raises:
            StorageFailed: it cannot be read now.
        """
        found = self._open.get(name)
        if found is not None:
            try:
                found.store.check_open()
            except StorageFailed:  # its server is down; the index is used again when that is back
                raise
            except IndexUnusable:
                return None
        return found

    def place(self, name: str | None = None) -> IndexPlace:
        """Where an index lives, which need not exist yet.

        Raises:
            IndexNotFound: no index of this name is served.
        """
        name = self.default if name is None else name
        if name not in self.places:
            names = ", ".join(map(repr, self.places))
            raise IndexNotFound(f"no index {name!r} is served here; there are: {names}")
        return self.places[name]

    def exists(self, name: str | None = None) -> bool:
        """Whether anything has been indexed yet.

        Raises:
            IndexNotFound: no index of this name is served.
            IndexUnusable: its server cannot tell.
        """
        place = self.place(name)
        if place.is_folder:
            return os.path.exists(place.folder / CATALOG)
        try:
            self.get(name)
        except IndexNotFound:
            return False
        return True

    def sizes(self) -> dict[str, int]:
        """The number of items of each index; an index that cannot be read is left out."""
        found = {}
        for name in self.places:
            try:
                found[name] = len(self.get(name)) if self.exists(name) else 0
            except MMSearchError:  # a search in it says why
                continue
        return found

    def status(self, name: str | None = None) -> dict[str, Any]:
        """As `Collection.status`; of an index that does not exist yet, that of an empty one.

        Raises:
            IndexNotFound, IndexUnusable: as `get`.
        """
        if self.exists(name):
            return self.get(name).status()
        return {"index": self.place(name).address, **EMPTY_STATUS}

    def check_ready(self) -> None:
        """Check that the models are loaded.

        Raises:
            Problem: 503, they are being loaded.
        """
        if not self.ready:
            raise Problem(503, "the models are being loaded: ask again in a moment", retry_after=1)

    def check_reachable(self, within: float) -> None:
        """Check that the servers that hold indexes answer; one check at a time.

        Args:
            within: Seconds to wait for another check. A check itself may take longer.

        Raises:
            Problem: 503, one does not. It names no address, since no token is needed to ask.
        """
        # with an end, or each probe of a server that hangs would cost a thread
        if not self._checking.acquire(timeout=within):
            raise unreachable()
        try:
            for name, place in self.places.items():
                try:
                    if not place.is_folder:
                        self.exists(name)
                except MMSearchError as error:
                    logger.warning("index %r cannot be read: %s", name, error)
                    raise unreachable(f" of the index {name!r}") from error
        finally:
            self._checking.release()

    def warm_up(self) -> None:
        """Load the models and vector indexes, so that the first query is as quick as the next.

        What cannot be loaded is logged: it is tried again, and reported, by each search.
        """
        for name in self.places:
            try:
                if self.exists(name):
                    _warm_up(self.get(name))
            except Exception as error:
                if self._closed:  # the error comes from that
                    return
                if not isinstance(error, (MMSearchError, OSError)):
                    raise
                logger.warning("index %r cannot be searched: %s", name, error)
        self.ready = True

    def close(self) -> None:
        """Close all indexes; none is opened again."""
        self._closed = True
        while self._open:
            self._open.popitem()[1].close()


def unreachable(what: str = "") -> Problem:
    """The problem for a server of indexes that does not answer."""
    detail = f"the server{what} does not answer: look whether it runs, and ask again"
    return Problem(503, detail, retry_after=RETRY_AFTER)


def _warm_up(collection: Collection) -> None:
    for space, stored in collection.index.serving():
        if not space.is_imported:
            encoder = collection.index.encoder(space)
            for modality in encoder.modalities:
                encoder.encode(modality, [_sample(encoder, modality)])
        for modality in stored:
            collection.index.vector_index(space, modality)
    if len(collection):
        collection.search("warm up", k=1)


def _sample(encoder: Encoder, modality: Modality) -> Any:
    """An input for one encoding."""
    if modality == "text":
        return "warm up"
    if modality == "image":
        from PIL import Image

        return Image.new("RGB", (encoder.image_size, encoder.image_size), "grey")
    import numpy as np

    return np.zeros(5 * encoder.sample_rate, np.float32)
