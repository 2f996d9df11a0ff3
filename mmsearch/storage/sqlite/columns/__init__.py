"""Filters over very many items: the values of all items under a key, as arrays.

column      the values of one key, built from the catalog and kept in a file
predicates  which items fulfil a condition, by columns
generation  the columns of one state of the catalog; which items pass a filter
lru         the last few answers
"""

from mmsearch.storage.sqlite.columns.column import ENDING, read_column
from mmsearch.storage.sqlite.columns.generation import GenerationColumns, Outdated
from mmsearch.storage.sqlite.columns.lru import Lru

__all__ = ["ENDING", "GenerationColumns", "Lru", "Outdated", "read_column"]
