"""What the HTTP API and the MCP tools share: indexes, limits, workers, thumbnails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmsearch.media import thumbnails
from mmsearch.server.derived_files import DerivedFiles, FileCache, folder_of
from mmsearch.server.indexes import ServedIndexes
from mmsearch.server.limits import Limits, Workers


@dataclass(frozen=True)
class Services:
    """The shared parts of one process."""

    indexes: ServedIndexes
    limits: Limits
    searches: Workers
    thumbnails: DerivedFiles

    @classmethod
    def of(
        cls,
        indexes: ServedIndexes,
        limits: Limits | None = None,
        observe: Callable[[str, float], None] = lambda _kind, _seconds: None,
    ) -> Services:
        """The services for some indexes.

        Args:
            indexes: To search.
            limits: Of requests.
            observe: As `Workers` calls it.
        """
        limits = limits or Limits()

        def workers(kind: str, running: int) -> Workers:
            return Workers(
                kind,
                running=running,
                waiting=limits.waiting,
                seconds=limits.seconds,
                observe=observe,
            )

        cache = FileCache(folder_of("thumbnails"), most_bytes=thumbnails.MOST_BYTES)
        makers = (workers("thumbnail", limits.thumbnails) for _ in range(2))
        derived = DerivedFiles(cache, *makers)
        return cls(indexes, limits, workers("search", limits.searches), derived)

    def close(self) -> None:
        """Start nothing more, and close the indexes."""
        self.searches.close()
        self.thumbnails.close()
        self.indexes.close()
