"""Files encoded into shards of vectors, for those who search with an engine of their own.

The shards are exports of an index in a hidden folder beside them. With it, an interrupted run is
continued, and a later run encodes only new files and rewrites only shards whose contents have
changed. Shard n holds the items with ids from n · ITEMS_PER_SHARD + 1 on, and no id is used twice.
The index keeps the vectors, as a shard is rewritten whole when one of its files has changed.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.collection.collection import Collection, Paths, existing
from mmsearch.encoders import runtime_of
from mmsearch.errors import InvalidOption, StorageFailed
from mmsearch.home import path_text
from mmsearch.indexing.bulk.export import FORMATS, ROWS_A_GROUP, export, space_to_export
from mmsearch.indexing.bulk.vector_files import ITEMS, MADE_BY, VECTORS, Shard, require_parquet
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.encoders import Runtime
    from mmsearch.storage import Space, Store
    from mmsearch.types import Progress

INDEX_FOLDER = ".mmsearch"
"""The folder, beside the shards, of the index that they are exported from."""

DIGESTS = "shards"
"""The setting with the digest of each shard's contents, by the name of the shard."""

ITEMS_PER_SHARD = 8 * ROWS_A_GROUP
"""The most files in a shard: 128 MB, with one vector of 512 dimensions each."""


OF_NPY = {ITEMS, VECTORS, MADE_BY}
"""The files of a shard that is a folder."""


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

    An interrupted run is continued by the next one. New files are added to the last shard and to
    new ones; other shards are rewritten if one of their files was changed, renamed or deleted. Each
    shard is written whole or not at all.

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
        InvalidOption: there is no such format, or `out` has shards of another, or of another
            program.
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
    foreign = next((one for one in _shards_in(folder) if not _is_ours(one)), None)
    if foreign is not None:
        raise InvalidOption(f"{foreign} is no shard of `mmsearch encode`: name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(f"{folder} cannot be made: {error.strerror}") from error
    how = how or runtime_of()
    place = folder / INDEX_FOLDER
    with Collection(place, model=model, how=how, create=True, restore=True) as library:
        library.index.builds_vector_indexes = False
        report = library.add(roots, on=on, backups=0, details=False, progress=progress)
        return Shards(report, list(_written(library.store, folder, format)))


def _written(store: Store, folder: Path, form: str) -> Iterator[Path]:
    """The shards, after writing those that are missing or whose contents have changed."""
    space = space_to_export(store, None)
    digests: dict[str, str] = json.loads(store.settings.get(DIGESTS) or "{}")
    unused = set(_shards_in(folder))
    for number, (ids, digest) in sorted(_contents(store, space).items()):
        place = folder / (f"shard-{number:05}" + (".parquet" if form == "parquet" else ""))
        if not _is_whole(place) or digests.get(place.name) != digest:
            export(store, str(place), form, ids=ids, space=space, overwrite=True)
            digests[place.name] = digest
            store.settings.set(DIGESTS, json.dumps(digests))
        unused.discard(place)
        yield place
    for place in unused:  # all of its files are gone
        with suppress(OSError):
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def _contents(store: Store, space: Space | None) -> dict[int, tuple[Sequence[int], str]]:
    """For each shard by number, the ids of its items and a digest of its contents.

    The digest is of the model, and of the paths, sizes, times and content hashes of files and their
    sidecars: if these have not changed, neither have the vectors.
    """
    model = "" if space is None else f"{space.name} {space.fingerprint}"
    found: dict[int, tuple[array[int], Any]] = {}
    for source_id, root in sorted(store.sources.all()):
        for folder in sorted(store.files.folders(source_id, "")):
            for _, file in sorted(store.files.known(source_id, folder).items()):
                number = (file.id - 1) // ITEMS_PER_SHARD
                if number not in found:
                    found[number] = array("q"), blake2b(model.encode(), digest_size=16)
                ids, digest = found[number]
                ids.append(file.id)
                state = root, folder, file._replace(ctime_ns=None)  # a chmod changes that, too
                digest.update(repr(state).encode())
    contents: dict[int, tuple[Sequence[int], str]] = {}
    for number, (ids, digest) in found.items():
        listed = sorted(ids)
        vectors = 0 if space is None else store.vectors.count(space, ids=listed)
        digest.update(str(vectors).encode())  # some may have been missing
        contents[number] = listed, digest.hexdigest()
    return contents


def _shards_in(folder: Path) -> Iterator[Path]:
    yield from folder.glob("shard-[0-9][0-9][0-9][0-9][0-9].parquet")
    yield from folder.glob("shard-[0-9][0-9][0-9][0-9][0-9]")


def _is_whole(shard: Path) -> bool:
    if shard.suffix == ".parquet":
        return shard.is_file()
    return all((shard / name).is_file() for name in OF_NPY)


def _is_ours(shard: Path) -> bool:
    """Whether `encode` has written a shard, if only a part of it; it may be overwritten, then."""
    if shard.is_dir():
        names = {one.name for one in shard.iterdir() if one.suffix != ".part"}
        return names <= OF_NPY
    return Shard(shard, 0).made_by() is not None
