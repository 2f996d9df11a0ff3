"""What searches are answered from: files made of the catalog, and what has changed since.

A *base* is a folder `cache/FACET-SPACE-CATALOG-REVISION-…` with the vectors of a facet as they were
at one revision. It is written whole or not at all, never changed, and never the only copy. What
came after it is read from the catalog by the ids of the vectors, which rise; what went is told
there too. So a change costs what it weighs, and a base is made anew only when it has become
a small part of the truth.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.storage.sqlite import Catalog, Space, Stamp
from mmsearch.vectors import FaissIndex, Segment, SegmentDamaged
from mmsearch.vectors.hubness import EXTRA_DIMS, augmented
from mmsearch.vectors.segment import SegmentWriter, read_about

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage.sqlite import Came
    from mmsearch.vectors.index_choice import SampleQueries

PART = ".part"

ABANDONED = 3600
"""Seconds after which a base that is still being written is taken for left behind."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What kind of index is asked for: as `mmsearch.vectors.chosen` takes it."""

    kind: str
    recall: float


class Cache:
    """The bases of one index, and the indexes that follow the catalog from there.

    Args:
        folder: Where the bases are; made when there is one to keep.
        catalog: What they are made of.
    """

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self.folder = folder
        self._catalog = catalog

    def read(self, space: Space, facet: str, stamp: Stamp, wanted: Wanted) -> Followed | None:
        """A facet's index from the newest base that serves, brought up to date; None without one.

        Args:
            space: Whose vectors.
            facet: Which of them.
            stamp: How far the catalog is.
            wanted: Of another kind none serves.
        """
        for folder in bases(self.folder, space.id, facet):
            with suppress(SegmentDamaged):  # the catalog has it all
                about = read_about(folder)
                if _serves(about, stamp, wanted, space):
                    found = Followed(FaissIndex(Segment.open(folder)), stamp, **_reached(about))
                    found.follow(self._catalog, space, facet, stamp)
                    return found
        return None

    def about(
        self, space: Space, facet: str, stamp: Stamp, wanted: Wanted
    ) -> dict[str, Any] | None:
        """What is said of the base that serves a facet; None without one."""
        for folder in bases(self.folder, space.id, facet):
            with suppress(SegmentDamaged, FileNotFoundError):  # another process may just delete it
                about = read_about(folder)
                if _serves(about, stamp, wanted, space):
                    size = sum(file.stat().st_size for file in folder.iterdir())
                    shown = {name: about[name] for name in ("rows", "dim", "revision")}
                    return {**about["choice"], **shown, "bytes": size, "asked": wanted.kind}
        return None

    def build(
        self,
        space: Space,
        facet: str,
        wanted: Wanted,
        asked: Callable[[], SampleQueries],
    ) -> Followed:
        """A facet's index, made anew from the catalog, and kept as a base if the disk takes it.

        Args:
            space: Whose vectors.
            facet: Which of them.
            wanted: Which kind.
            asked: Gives queries (m, dim + EXTRA_DIMS) by modality, to measure the recall by.
        """
        with self._catalog.snapshot():
            stamp = self._catalog.changes()
            about = {
                "catalog": stamp.catalog_id,
                "revision": stamp.revision,
                "epoch": stamp.epoch,
                "gone": self._catalog.last_deletion(),
                "kind": wanted.kind,
                "recall": wanted.recall,
            }
            try:
                base = self._kept(space, facet, about, wanted, asked)
            except OSError:  # full or read-only: it costs time next time, not this answer
                base = self._written(None, space, facet, about, wanted, asked)
        return Followed(FaissIndex(base), stamp, **_reached(base.about))

    def drop(self, space: Space) -> None:
        """Delete the bases of a space."""
        for facet in ("image", "text", "audio"):
            for folder in bases(self.folder, space.id, facet):
                _delete(folder)

    def oldest_deletion(self) -> int | None:
        """The deletion up to which every base there is knows of them; None without a base."""
        known = []
        for folder in self.folder.glob("*-*-*-*") if self.folder.is_dir() else ():
            with suppress(SegmentDamaged):
                known.append(int(read_about(folder)["gone"]))
        return min(known, default=None)

    # ------------------------------------------------------------------ parts of the above

    def _kept(
        self, space: Space, facet: str, about: dict[str, Any], wanted: Wanted, asked: Any
    ) -> Segment:
        name = f"{facet}-{space.id}-{about['catalog']}-{about['revision']}-{uuid.uuid4().hex[:6]}"
        part = self.folder / f"{name}{PART}"
        part.mkdir(parents=True)
        try:
            self._written(part, space, facet, about, wanted, asked)
            base = Segment.open(part.rename(self.folder / name))
        except SegmentDamaged as error:
            raise OSError(str(error)) from error
        finally:
            if part.exists():
                _delete(part)
        self._tidy(space, facet, base)
        return base

    def _written(
        self,
        folder: Path | None,
        space: Space,
        facet: str,
        about: dict[str, Any],
        wanted: Wanted,
        asked: Callable[[], SampleQueries],
    ) -> Segment:
        upto = 0
        with SegmentWriter(folder, space.dim + EXTRA_DIMS) as writer:
            for came in self._catalog.came(space, facet):
                writer.add(_rows(came), came.ids, came.vector_ids)
                upto = int(came.vector_ids[-1])
            about = {**about, "upto": upto}
            return writer.finish(about, asked, kind=wanted.kind, recall=wanted.recall)

    def _tidy(self, space: Space, facet: str, kept: Segment) -> None:
        """Delete what a new base takes the place of, also files of earlier releases."""
        for other in self.folder.glob(f"{facet}-{space.id}-*"):
            # a .part that is new may be another process's, which is just writing it
            if other != kept.folder and not (other.suffix == PART and _is_new(other)):
                _delete(other)


@dataclass
class Followed:
    """An index that follows the catalog.

    Attributes:
        index: What is searched.
        stamp: How far the catalog was when it was last looked at.
        upto: The last vector it has.
        gone: The last deletion it knows of.
    """

    index: FaissIndex
    stamp: Stamp
    upto: int
    gone: int

    def follows(self, stamp: Stamp) -> bool:
        """Whether what has changed since can be told one by one."""
        here = self.stamp
        return (here.catalog_id, here.epoch) == (stamp.catalog_id, stamp.epoch) and (
            self.gone >= stamp.forgotten
        )

    def copy(self) -> Followed:
        """The same again, to be changed while others search this one."""
        return replace(self, index=self.index.copy())

    def follow(self, catalog: Catalog, space: Space, facet: str, stamp: Stamp) -> None:
        """Take in what came and went up to a stamp, or what was seen since that was told."""
        with catalog.snapshot():
            revision = catalog.changes().revision
            for came in catalog.came(space, facet, self.upto):
                self.index.add(came.ids, _rows(came), came.vector_ids)
                self.upto = int(came.vector_ids[-1])
            went, self.gone = catalog.went(space, facet, self.gone)
        if len(went):
            self.index.delete(went)
        self.stamp = replace(stamp, revision=revision)


def bases(folder: Path, space_id: int, facet: str) -> Iterator[Path]:
    """The bases of a facet, the newest revision first."""
    found = [
        path
        for path in folder.glob(f"{facet}-{space_id}-*-*-*")
        if path.suffix != PART and path.is_dir()
    ]
    yield from sorted(found, key=_revision, reverse=True)


def _revision(folder: Path) -> int:
    part = folder.name.rsplit("-", 2)[1]
    return int(part) if part.isdigit() else 0


def _serves(about: dict[str, Any], stamp: Stamp, wanted: Wanted, space: Space) -> bool:
    return (
        about.get("catalog") == stamp.catalog_id
        and about.get("epoch") == stamp.epoch
        and about.get("gone", -1) >= stamp.forgotten
        and about.get("revision", stamp.revision + 1) <= stamp.revision
        and (about.get("kind"), about.get("recall")) == (wanted.kind, wanted.recall)
        and about.get("dim") == space.dim + EXTRA_DIMS
    )


def _reached(about: dict[str, Any]) -> dict[str, int]:
    return {"upto": int(about["upto"]), "gone": int(about["gone"])}


def _rows(came: Came) -> NDArray[np.float16]:
    """Vectors with their hubs; one that has none yet has the mean of those it came with."""
    import numpy as np

    number, dim = came.rows.shape
    wide = np.empty((number, dim + EXTRA_DIMS), np.float16)
    wide[:, :dim] = came.rows
    wide[:, dim:] = augmented(wide[:, :0].astype(np.float32), came.hub_text, came.hub_image)
    return wide


def _delete(path: Path) -> None:
    """Delete a base or a file; what another process has open may have to stay."""
    if path.is_dir():
        if path.suffix != PART:  # who is killed in the middle of it leaves no half of a base
            with suppress(OSError):
                path = path.rename(f"{path}{PART}")
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _is_new(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime < ABANDONED
    return False
