"""FAISS files: made from the catalog, stamped with its revision, never the only copy."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from mmsearch.catalog import Catalog, Space
from mmsearch.hubness import EXTRA, with_hubs
from mmsearch.types import Modality
from mmsearch.vectors import FaissIndex

HUB_SLOTS: tuple[Modality, Modality] = ("text", "image")
"""The modalities of queries that a row has a hub for, as `with_hubs` takes them."""


def read_index(folder: Path, stamp: str, space: Space, facet: str) -> FaissIndex | None:
    """A facet's index, read from `folder` if a file of this stamp is there and whole.

    Args:
        folder: Where the files are.
        stamp: Names the state of the catalog; another stamp's file is out of date.
        space: Whose vectors.
        facet: Which of them.
    """
    path = _path(folder, stamp, space, facet)
    if path.exists():
        with suppress(RuntimeError):  # damaged: FAISS says so, and the catalog has it all
            held = FaissIndex.load(path)
            if held.dim == space.dim + EXTRA:  # else of an older mmsearch
                return held
    return None


def build_index(folder: Path, stamp: str, catalog: Catalog, space: Space, facet: str) -> FaissIndex:
    """A facet's index, built from the catalog and kept in `folder`, which is made if need be."""
    path = _path(folder, stamp, space, facet)
    index = FaissIndex.empty(space.dim + EXTRA)
    ids, matrix, _ = catalog.vectors(space, facet)
    by_texts, by_images = (catalog.hubs(space, facet, asked) for asked in HUB_SLOTS)
    index.add(ids.tolist(), with_hubs(matrix, by_texts, by_images))
    # a disk that is full or read-only costs speed next time, not this answer
    with suppress(OSError, RuntimeError):
        folder.mkdir(exist_ok=True)
        index.save(path)
        for old in folder.glob(f"{facet}-{space.id}-*"):
            # a .part that is new may be another process's, which is just writing it
            if old != path and not (old.suffix == ".part" and _is_new(old)):
                old.unlink(missing_ok=True)
    return index


def _path(folder: Path, stamp: str, space: Space, facet: str) -> Path:
    return folder / f"{facet}-{space.id}-{stamp}.faiss"


def _is_new(path: Path) -> bool:
    return time.time() - path.stat().st_mtime < 3600
