"""Filters over very many items: what items hold, kept beside the catalog as arrays.

column   one key of all items: a code an item, and what the codes stand for
files    columns as memory-mapped files
making   columns, read from the catalog
wording  which of a column's texts are as wanted
paths    which items are at a path, told of their folders and of their names
telling  which items fulfil a condition
era      the columns of one era: made when needed, right until it ends
recent   the last few answers
answers  which items pass a filter, as quickly as may be, and as the catalog itself would say
"""

from mmsearch.storage.columns.filter_cache import Columns

__all__ = ["Columns"]
