"""Nearest neighbours: exact where that is quick, else by FAISS with exact scores at the end."""

from mmsearch.vectors.exact import ExactIndex
from mmsearch.vectors.index import FaissIndex
from mmsearch.vectors.kinds import EXACT, Choice, chosen
from mmsearch.vectors.rows import FEW
from mmsearch.vectors.segment import Base, BaseDamaged

__all__ = ["EXACT", "FEW", "Base", "BaseDamaged", "Choice", "ExactIndex", "FaissIndex", "chosen"]
