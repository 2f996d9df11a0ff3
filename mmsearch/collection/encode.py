"""Files encoded into shards of vectors, for those who search with an engine of their own.

The shards are exports of an index in a hidden folder beside them. It makes a run that was
interrupted go on where it was, and a later one encode only what is new.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.collection.collection import Collection, Paths, existing
from mmsearch.encoders import runtime_of
from mmsearch.errors import InvalidOption, StorageFailed
from mmsearch.home import path_text
from mmsearch.indexing.bulk.export import FORMATS, ROWS_A_GROUP, export, space_to_export
from mmsearch.indexing.bulk.vector_files import require_parquet
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.encoders import Runtime
    from mmsearch.types import Progress

KEPT = ".mmsearch"
"""The folder, beside the shards, of the index that they are written from."""

DUE = "shards due"
"""The setting that is "yes" while shards may lack what the index holds."""

ITEMS_A_SHARD = 8 * ROWS_A_GROUP
"""Files whose vectors are in a shard: 128 MB, of 512 numbers each and one vector a file."""


@dataclass(frozen=True, slots=True)
class Shards:
    """What was encoded.

    Attributes:
        report: Of the files, as an indexing run reports it.
        files: All shards, those of earlier runs included; for "npy" folders.
    """

    report: Report
    files: list[Path]


def encode(
    paths: Paths,
    out: str | os.PathLike[str],
    *,
    format: str = "parquet",  # noqa: A002 - what everybody calls it
    model: str | Sequence[str] = "auto",
    on: str | None = None,
    how: Runtime | None = None,
    progress: Progress | None = None,
) -> Shards:
    """Encode files into shards, which `mmsearch import` and others can read.

    A run that is interrupted is continued by the next; one that finds nothing new writes nothing
    but shards that are missing. Each shard is written whole or not at all.

    Args:
        paths: Folders (searched to any depth) and files.
        out: The folder of the shards, made if need be.
        format: "parquet": files `shard-00000.parquet`, a row a vector; "npy": folders of
            `vectors.npy` (float16) and `items.jsonl`, with a line a vector.
        model: The name of the encoder, or several.
        on: Where files are encoded, as for `Collection.add`.
        how: What the encoder runs on.
        progress: Called with (files done, files in all or None).

    Raises:
        PathNotFound: one of `paths` does not exist.
        InvalidOption: there is no such format, or `out` has shards of another.
        MissingExtra: "parquet" needs a package that is not installed.
        StorageFailed: the shards cannot be written; those that are there stay.
        MMSearchError: as `Collection` and `Collection.add`.
    """
    roots = existing(paths)
    folder = Path(os.path.abspath(path_text(out)))
    if format not in FORMATS:
        raise InvalidOption(f"the format is one of {', '.join(FORMATS)}, not {format!r}")
    if format == "parquet":
        require_parquet()
    other = next((one for one in _shards_in(folder) if one.is_dir() == (format == "parquet")), None)
    if other is not None:
        raise InvalidOption(f"{other} is a shard of the other format: name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(f"{folder} cannot be made: {error.strerror}") from error
    how = how or runtime_of()
    with Collection(folder / KEPT, model=model, how=how, create=True, restore=True) as kept:
        settings = kept.store.settings
        was_due = settings.get(DUE) == "yes"
        settings.set(DUE, "yes")  # until all are written, whatever interrupts this
        report = kept.add(roots, on=on, backups=0, progress=progress)
        done = report.added, report.updated, report.renamed, report.removed, report.filled
        files = list(_written(kept, folder, format, anew=was_due or any(done)))
        settings.set(DUE, "no")
        return Shards(report, files)


def _written(kept: Collection, folder: Path, form: str, *, anew: bool) -> Iterator[Path]:
    """The shards, written where they are missing, or all of them anew."""
    store = kept.store
    space = space_to_export(store, None)
    waiting, last = iter(store.items.listed()), -1
    there = set(_shards_in(folder))
    for number in count():
        ids = [item.id for _, item in zip(range(ITEMS_A_SHARD), waiting, strict=False)]
        if not ids:
            break
        last = number
        place = folder / (f"shard-{number:05}" + (".parquet" if form == "parquet" else ""))
        if anew or place not in there:
            export(store, str(place), form, ids=ids, space=space, overwrite=True)
        yield place
    for place in there:
        if int(place.name[6:11]) > last:  # what it held is in others, or gone
            with suppress(OSError):
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def _shards_in(folder: Path) -> Iterator[Path]:
    yield from folder.glob("shard-[0-9][0-9][0-9][0-9][0-9].parquet")
    yield from folder.glob("shard-[0-9][0-9][0-9][0-9][0-9]")
