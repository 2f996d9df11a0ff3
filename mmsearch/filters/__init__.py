"""What a filter may say, and how it is written.

model    a filter: conditions that must all hold
keys     what can be asked of an item, and what each key takes
values   dates, sizes, places and texts, read from what is written
parse    mappings, conditions in words and options, as filters
match    patterns, letters and distances: what SQLite is lent to answer with
"""

from mmsearch.filters.keys import KEYS
from mmsearch.filters.model import META, AnyOf, Condition, Filter, Near, Not, Period, Said
from mmsearch.filters.parse import Where, from_options, parse_condition, parse_where

__all__ = [
    "KEYS",
    "META",
    "AnyOf",
    "Condition",
    "Filter",
    "Near",
    "Not",
    "Period",
    "Said",
    "Where",
    "from_options",
    "parse_condition",
    "parse_where",
]
