"""mmsearch finds photos and texts, in words or by example, on your own machine.

import mmsearch

library = mmsearch.index("photos/", into="holiday")
for hit in library.search("a dog on a beach"):
    print(hit.score, hit.path)
"""

from mmsearch.collection import Collection
from mmsearch.errors import MMSearchError
from mmsearch.evaluation import evaluate
from mmsearch.opening import index_paths as index
from mmsearch.opening import load_encoder
from mmsearch.opening import open_collection as open  # noqa: A004 - mmsearch.open, as promised
from mmsearch.types import Failure, Hit, Item, Query, Report, Signal, Span

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "Failure",
    "Hit",
    "Item",
    "MMSearchError",
    "Query",
    "Report",
    "Signal",
    "Span",
    "__version__",
    "evaluate",
    "index",
    "load_encoder",
    "open",
]
