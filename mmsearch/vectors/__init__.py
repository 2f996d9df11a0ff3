"""Nearest neighbours: exact where that is quick, else by FAISS with exact scores at the end."""

from mmsearch.vectors.exact import ExactIndex
from mmsearch.vectors.index import FaissIndex
from mmsearch.vectors.index_choice import EXACT, Choice, chosen
from mmsearch.vectors.rows import FEW
from mmsearch.vectors.segment import Segment, SegmentDamaged

__all__ = [
    "EXACT",
    "FEW",
    "Choice",
    "ExactIndex",
    "FaissIndex",
    "Segment",
    "SegmentDamaged",
    "chosen",
]
