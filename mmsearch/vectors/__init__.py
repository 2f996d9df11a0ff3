"""Nearest neighbours: all rows are compared where that is quick, else candidates from FAISS."""

from mmsearch.vectors.id_set import IdSet
from mmsearch.vectors.index import FaissIndex
from mmsearch.vectors.index_choice import (
    AUTO,
    EXACT,
    NAMED,
    RECALL,
    IndexChoice,
    choose_index,
)
from mmsearch.vectors.segment import Segment, SegmentDamaged, write_segment

__all__ = [
    "AUTO",
    "EXACT",
    "NAMED",
    "RECALL",
    "FaissIndex",
    "IdSet",
    "IndexChoice",
    "Segment",
    "SegmentDamaged",
    "choose_index",
    "write_segment",
]
