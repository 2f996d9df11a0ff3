"""Searches an index with judged queries, and measures the rankings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.collection import Collection
from mmsearch.errors import InvalidOption, InvalidQuery, PathNotFound, UnreadableFile
from mmsearch.evaluation.pairs import Pair, read_pairs
from mmsearch.evaluation.qrels import JudgedQuery, Qrels, Way, Ways, build_qrels
from mmsearch.evaluation.results import Evaluation, Outcome, direction_of, outcome_of
from mmsearch.filters.values import shown
from mmsearch.search.setting_formats import one_or_several, whole
from mmsearch.search.settings import declared, settings_of

if TYPE_CHECKING:
    from mmsearch.types import Progress

DEPTH = 1_000

BATCH = 64
"""Queries per search; between batches progress is reported and Ctrl-C is noticed."""


OF_PAGES = ("k", "offset", "sort")
"""Settings that choose what is shown of a ranking."""


def evaluate(
    collection: Collection,
    pairs: str | os.PathLike[str] | Sequence[Pair],
    *,
    direction: Ways = "forward",
    depth: int = DEPTH,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """How well an index answers queries whose relevant items are known.

    Args:
        collection: The index.
        pairs: Queries and files, or a file of them; see `mmsearch.evaluation.pairs.read_pairs`.
        direction: "forward" searches for the files of each query; "backward" searches with each
            file for the items that hold the words of its queries, or are their examples; "both".
        depth: How many ranks count; a relevant item below them counts as not found.
        settings: Of the search, the keywords of `Collection.search`. Without a target, a query in
            words searches what `search` does, and an example items like those relevant to it.
        progress: Called with (queries done, queries in all).

    Raises:
        InvalidQuery: nothing can be searched for, say because no file is in the index, or `pairs`
            has none; the message says what to do.
        InvalidOption, InvalidFilter: a setting or an argument is invalid.
        PathNotFound, InvalidCaptions: the file of pairs does not exist, or cannot be parsed.
        KeyboardInterrupt: passed on.
    """
    if not isinstance(collection, Collection):
        raise InvalidOption(
            "an evaluation is of an index, such as mmsearch.open('holiday'), "
            f"not {shown(collection)}"
        )
    if progress is not None and not callable(progress):
        raise InvalidOption(f"progress is a function of two numbers, not {shown(progress)}")
    depth = whole("depth", depth, least=1)
    settings = _checked(settings)
    pairs = pairs_of(pairs)
    qrels = build_qrels(collection, pairs, direction)
    groups: dict[tuple[Way, str, str], list[JudgedQuery]] = {}
    for judged in qrels.queries:
        key = (judged.key[0], judged.query_modality, judged.item_modality)
        groups.setdefault(key, []).append(judged)
    directions = []
    done = verbatim = 0
    for (way, query_modality, item_modality), group in groups.items():
        outcomes = []
        for start in range(0, len(group), BATCH):
            batch = group[start : start + BATCH]
            for judged, ranking in _rankings(collection, batch, qrels, depth, settings):
                outcomes.append(_outcome(judged, ranking, depth))
                verbatim += judged.verbatim
            done += len(batch)
            if progress is not None:
                progress(done, len(qrels.queries))
        if outcomes:
            directions.append(direction_of(f"{query_modality}→{item_modality}", way, outcomes))
    if not directions:
        raise InvalidQuery(next(iter(qrels.left_out.values())))
    return Evaluation(
        directions=tuple(directions),
        index=collection.place.address,
        settings=settings,
        depth=depth,
        items=qrels.size,
        verbatim=verbatim,
        missing=tuple(qrels.missing),
        ambiguous=tuple(qrels.ambiguous),
        left_out=qrels.left_out,
    )


def pairs_of(given: Any) -> list[Pair]:
    """The pairs of a file, or the given ones.

    Raises:
        PathNotFound, InvalidCaptions, InvalidQuery: as `evaluate`.
    """
    if isinstance(given, (str, bytes, os.PathLike)):
        return read_pairs(os.fsdecode(given))
    pairs = one_or_several(given)
    for pair in pairs:
        if not isinstance(pair, Pair):
            raise InvalidQuery(
                f"pairs are a file, or a list of mmsearch.evaluation.pairs.Pair, not {shown(pair)}"
            )
    return pairs


def _checked(given: Any) -> dict[str, Any]:
    """Settings of a search by name, each of which is known and has a valid value."""
    try:
        settings = dict(given or {})
    except (TypeError, ValueError) as error:
        raise InvalidOption(
            f"settings are values by name, such as {{'lexical': False}}, not {shown(given)}; "
            "parse_settings reads them from text"
        ) from error
    for name in settings:
        if name in OF_PAGES:
            raise InvalidOption(
                f"an evaluation has no setting {name}: it reads the ranking down to its depth"
            )
        if name not in declared():
            known = ", ".join(name for name in declared() if name not in OF_PAGES)
            raise InvalidOption(f"there is no setting {shown(name)}; there is: {known}")
    settings_of(settings)
    return settings


def _rankings(
    collection: Collection,
    batch: Sequence[JudgedQuery],
    qrels: Qrels,
    depth: int,
    settings: Mapping[str, Any],
) -> Iterator[tuple[JudgedQuery, list[int]]]:
    """The items that each query of a batch finds; one with an unreadable example is left out."""
    most_examples = max(len(judged.example_ids) for judged in batch)
    k = min(depth, qrels.size) + most_examples
    queries = [judged.query for judged in batch]
    try:
        rankings = collection.rank_many(queries, **{"target": batch[0].target, **settings, "k": k})
    except (UnreadableFile, PathNotFound) as error:
        if len(batch) == 1:
            qrels.left_out[batch[0].label] = str(error)
            return
        for judged in batch:
            yield from _rankings(collection, [judged], qrels, depth, settings)
        return
    for judged, ranking in zip(batch, rankings, strict=True):
        yield judged, [item_id for item_id, _ in ranking]


def _outcome(judged: JudgedQuery, found: Sequence[int], depth: int) -> Outcome:
    # an item counts once, even if several of its spans are hits
    ranking = [item for item in dict.fromkeys(found) if item not in judged.example_ids][:depth]
    return outcome_of(judged.key, judged.label, judged.paths, ranking, judged.relevant)
