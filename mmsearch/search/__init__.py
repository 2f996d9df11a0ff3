"""From queries to hits: encode → one ranking a facet → fuse → look the items up."""

from mmsearch.search.hits import best_hits
from mmsearch.search.rank import IndexOf, Search, Target, encode_asks, search_of, targets_of

__all__ = [
    "IndexOf",
    "Search",
    "Target",
    "best_hits",
    "encode_asks",
    "search_of",
    "targets_of",
]
