"""What a filter can say, and how it is written.

model    a filter as data: a tree of conditions
keys     what can be asked of an item: one declaration a key
values   dates, sizes, places and texts, parsed
check    the limits of a filter, and its keys as a store spells them
parse    mappings, written conditions and command-line options as filters
match    how values are compared: patterns, times, distances
"""

from mmsearch.filters.keys import KEYS, Key
from mmsearch.filters.model import (
    META,
    AnyOf,
    Circle,
    Condition,
    Filter,
    MetadataValue,
    Not,
    Period,
)
from mmsearch.filters.parse import Where, from_options, parse_condition, parse_where

__all__ = [
    "KEYS",
    "META",
    "AnyOf",
    "Circle",
    "Condition",
    "Filter",
    "Key",
    "MetadataValue",
    "Not",
    "Period",
    "Where",
    "from_options",
    "parse_condition",
    "parse_where",
]
