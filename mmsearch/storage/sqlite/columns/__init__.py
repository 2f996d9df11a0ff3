"""Filters over very many items: the values of all items under a key, as arrays.

column      the values of one key, built from the catalog and kept in a file
predicates  which items fulfil a condition, by columns
generation  the columns of one state of the catalog; which items pass a filter
"""

from mmsearch.storage.sqlite.columns.column import ENDING, Unfit, read_column
from mmsearch.storage.sqlite.columns.generation import GenerationColumns, remember

__all__ = ["ENDING", "GenerationColumns", "Unfit", "read_column", "remember"]
