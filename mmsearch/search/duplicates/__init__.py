"""Copies of one another among all that an index holds; nothing is ever deleted."""

from mmsearch.search.duplicates.groups import Copy, Group, duplicate_groups
from mmsearch.search.duplicates.threshold import threshold_of

__all__ = ["Copy", "Group", "duplicate_groups", "threshold_of"]
