"""Where the time of a run goes: which stage is busy how long, and which one holds up the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from mmsearch.types import Report


@dataclass(slots=True)
class Timed(Report):
    """A report that is told where the time goes."""

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Count a stage busy for some more seconds."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Counts a stage busy while it lasts."""
        began = perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, perf_counter() - began)
