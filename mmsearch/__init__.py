"""mmsearch finds photos and texts, in words or by example, on your own machine.

import mmsearch

library = mmsearch.index("photos/", into="holiday")
for hit in library.search("a dog on a beach"):
    print(hit.score, hit.path)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmsearch.collection import Collection
from mmsearch.collection.opening import index_paths as index
from mmsearch.collection.opening import load_encoder
from mmsearch.collection.opening import open_collection as open  # noqa: A004 - mmsearch.open, as promised
from mmsearch.errors import MMSearchError
from mmsearch.spaces.calibration import no_good_match
from mmsearch.types import Facets, Failure, Hit, Item, Query, Report, SearchPage, Signal, Span

if TYPE_CHECKING:
    from mmsearch.collection.copy import Copied
    from mmsearch.collection.encode import Shards
    from mmsearch.evaluation import Evaluation
    from mmsearch.storage.place import IndexLike
    from mmsearch.types import Progress

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "Facets",
    "Failure",
    "Hit",
    "Item",
    "MMSearchError",
    "Query",
    "Report",
    "SearchPage",
    "Signal",
    "Span",
    "__version__",
    "copy",
    "encode",
    "evaluate",
    "index",
    "load_encoder",
    "no_good_match",
    "open",
]


def copy(
    source: IndexLike,
    destination: IndexLike,
    *,
    progress: Progress | None = None,
) -> Copied:
    """Copy an index to a new place, wherever both are; nothing is encoded again.

    A copy that was interrupted goes on where it was; until it is done, the destination cannot be
    opened.

    Args:
        source: The name, folder or address of an index, which others may use meanwhile.
        destination: That of another one, which is new or empty.
        progress: Called with (rows done, rows in all), then with items whose words are done.

    Raises:
        IndexNotFound: there is no index at `source`.
        IndexUnusable: one of them cannot be opened, or was not copied to the end itself.
        InvalidOption: the destination holds something else.
        IndexBusy: another process is writing to the destination, or copying to it.
        StorageFailed: the disk is full, say; what was copied before stays.
    """
    from mmsearch.collection.copy import copy as copied  # SQLAlchemy takes long to import

    return copied(source, destination, progress=progress)


def encode(paths: Any, out: Any, **options: Any) -> Shards:
    """Encode files into shards of vectors, for other engines; there need be no index.

    Args:
        paths: Folders (searched to any depth) and files.
        out: The folder of the shards; a later run adds new files, and rewrites shards whose files
            have changed.
        options: As `mmsearch.collection.encode.encode` takes them: format ("parquet" or "npy"),
            model, on, progress.

    Raises:
        PathNotFound: one of `paths` does not exist.
        InvalidOption: an option has no sense.
        StorageFailed: the shards cannot be written.
        MissingExtra, UnknownModel, ModelUnavailable: as `index`.
    """
    from mmsearch.collection.encode import encode as encoded

    return encoded(paths, out, **options)


def evaluate(collection: Collection, pairs: Any, **options: Any) -> Evaluation:
    """How well an index answers queries whose right answers are known.

    Args:
        collection: The index.
        pairs: Queries and files, or a file of them (`mmsearch.evaluation.pairs.read_pairs`).
        options: As `mmsearch.evaluation.evaluate` takes them: direction, depth, settings, progress.

    Raises:
        InvalidQuery: no query can be evaluated: none of the files is in the index, say.
        InvalidOption: a setting or an argument has no sense.
        PathNotFound, InvalidCaptions: the file of pairs is not there, or cannot be parsed.
    """
    from mmsearch.evaluation import evaluate as measured  # takes a while to import

    return measured(collection, pairs, **options)
