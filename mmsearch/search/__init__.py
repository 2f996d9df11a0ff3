"""From queries to hits: encode → one ranking a facet → fuse → rerank → look the items up."""

from mmsearch.search.example import stored_item
from mmsearch.search.rank import Holdings, IndexOf
from mmsearch.search.searcher import Searcher
from mmsearch.search.settings import SearchSettings, Settings, Target, settings_of, targets_of

__all__ = [
    "Holdings",
    "IndexOf",
    "SearchSettings",
    "Searcher",
    "Settings",
    "Target",
    "settings_of",
    "stored_item",
    "targets_of",
]
