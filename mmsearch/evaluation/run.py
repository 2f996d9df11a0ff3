"""Asks an index what is to be judged, and measures what comes back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidOption, InvalidQuery, PathNotFound, UnreadableFile
from mmsearch.evaluation.figures import NDCG_CUTOFF, Evaluation, Outcome, direction_of
from mmsearch.evaluation.judge import Docket, Judged, Way, judge
from mmsearch.media.pairs import Pair, read_pairs
from mmsearch.metrics import first_rank, ndcg

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.evaluation.judge import Ways
    from mmsearch.types import Progress

DEPTH = 1_000

AT_ONCE = 64
"""Queries asked in one call; between calls progress is told, and Ctrl-C is heard."""


def evaluate(
    collection: Collection,
    pairs: str | os.PathLike[str] | Sequence[Pair],
    *,
    direction: Ways = "forward",
    depth: int = DEPTH,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """How well an index answers queries whose right answers are known.

    Args:
        collection: The index.
        pairs: Queries and files, or a file of them; see `mmsearch.media.pairs.read_pairs`.
        direction: "forward" asks for the files; "backward" asks, with each file, for the items
            that hold the words of its queries (or are its example); "both" does both.
        depth: Ranks to look through; what lies deeper counts as not found.
        settings: Of the search, as `Collection.search` takes them by keyword. Without a target,
            words are searched for as `search` does, and an example among things like those that
            are right.
        progress: Called with (queries done, queries in all).

    Raises:
        InvalidQuery: nothing can be asked: no file is in the index, say; the message says what
            to do.
        InvalidOption: a setting or an argument has no sense.
        PathNotFound, InvalidCaptions: the file of pairs is not there, or cannot be parsed.
        KeyboardInterrupt: as it came.
    """
    if depth < 1:
        raise InvalidOption(f"the depth is a number of ranks, at least 1, not {depth}")
    if isinstance(pairs, (str, os.PathLike)):
        pairs = read_pairs(pairs)
    settings = dict(settings or {})
    docket = judge(collection, pairs, direction)
    groups: dict[tuple[Way, str, str], list[Judged]] = {}
    for judged in docket.judged:
        groups.setdefault((judged.key[0], judged.asked, judged.wanted), []).append(judged)
    run = _Run(collection, depth, settings, docket, progress)
    directions = []
    for (way, asked, wanted), group in groups.items():
        if outcomes := run.outcomes(group):
            directions.append(direction_of(f"{asked}→{wanted}", way, outcomes))
    if not directions:
        raise InvalidQuery(next(iter(docket.left_out.values())))
    return Evaluation(
        directions=tuple(directions),
        index=str(collection.folder),
        settings=settings,
        depth=depth,
        items=docket.size,
        verbatim=run.verbatim,
        missing=tuple(docket.missing),
        ambiguous=tuple(docket.ambiguous),
        left_out=docket.left_out,
    )


class _Run:
    """Asks queries, and says what became of each.

    Args:
        collection: What is asked.
        depth: How many hits count.
        settings: Of the search.
        docket: Takes the queries whose example cannot be read, with the reason.
        progress: Is told of the queries done.
    """

    def __init__(
        self,
        collection: Collection,
        depth: int,
        settings: Mapping[str, Any],
        docket: Docket,
        progress: Progress | None,
    ) -> None:
        self.verbatim = 0
        """Queries answered whose words a right item holds as they are."""
        self._collection = collection
        self._depth = depth
        self._settings = settings
        self._docket = docket
        self._progress = progress
        self._done = 0

    def outcomes(self, group: Sequence[Judged]) -> list[Outcome]:
        """What became of queries that are searched for in the same way."""
        found: list[Outcome] = []
        for start in range(0, len(group), AT_ONCE):
            some = group[start : start + AT_ONCE]
            found += self._answers(some)
            self._done += len(some)
            if self._progress is not None:
                self._progress(self._done, len(self._docket.judged))
        return found

    def _answers(self, some: Sequence[Judged]) -> list[Outcome]:
        """What became of a few queries; those whose example cannot be read are left out."""
        own = max(len(judged.own) for judged in some)
        settings = {
            "target": some[0].target,
            **self._settings,
            "k": min(self._depth, self._docket.size) + own,
        }
        try:
            found = self._collection.rank_many([judged.query for judged in some], **settings)
        except (UnreadableFile, PathNotFound) as error:
            if len(some) > 1:
                return [one for judged in some for one in self._answers([judged])]
            self._docket.left_out[some[0].shown] = str(error)
            return []
        self.verbatim += sum(judged.verbatim for judged in some)
        return [
            _outcome(judged, [item_id for item_id, _ in ranking], self._depth)
            for judged, ranking in zip(some, found, strict=True)
        ]


def _outcome(judged: Judged, found: Sequence[int], depth: int) -> Outcome:
    # stretches of an item, if they are hits of their own, count once
    ranking = [item for item in dict.fromkeys(found) if item not in judged.own][:depth]
    return Outcome(
        key=judged.key,
        query=judged.shown,
        paths=judged.paths,
        rank=first_rank(ranking, judged.relevant),
        ndcg=ndcg(ranking, judged.relevant, NDCG_CUTOFF),
    )
