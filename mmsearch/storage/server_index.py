"""What the vector indexes in PostgreSQL and Milvus share: a local sample of their vectors."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.storage.store import VectorIndex
from mmsearch.vectors.index_choice import SAMPLED
from mmsearch.vectors.sample import ChanceSample

if TYPE_CHECKING:
    from mmsearch.types import Vectors


class ServerIndex(VectorIndex):
    """A vector index on a server, with a local sample of its vectors for the scores of chance
    matches.

    Args:
        moment: The state of the store that the sample is of.
        sample_file: The file that caches the sample; None: it is drawn anew by each process.
    """

    def __init__(self, moment: str, sample_file: Path | None) -> None:
        self._moment, self._sample_file = moment, sample_file

    @cached_property
    def _chance_sample(self) -> ChanceSample:
        return ChanceSample.read_or_draw(
            self._sample_file, self._moment, lambda: self.sample(SAMPLED)
        )

    def mean(self) -> Vectors:
        return self._chance_sample.mean

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        return self._chance_sample.moments(vector)

    def warm_up(self) -> None:
        _ = self._chance_sample
