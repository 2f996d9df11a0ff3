"""Nearest neighbours: exact where that is quick, else by FAISS with exact scores at the end."""

from mmsearch.vectors.base import Base, BaseDamaged
from mmsearch.vectors.exact import ExactIndex
from mmsearch.vectors.index import FaissIndex
from mmsearch.vectors.kinds import EXACT, Choice, chosen
from mmsearch.vectors.part import FEW

__all__ = ["EXACT", "FEW", "Base", "BaseDamaged", "Choice", "ExactIndex", "FaissIndex", "chosen"]
