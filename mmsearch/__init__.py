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
    from mmsearch.evaluation import Evaluation

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
    "evaluate",
    "index",
    "load_encoder",
    "no_good_match",
    "open",
]


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
