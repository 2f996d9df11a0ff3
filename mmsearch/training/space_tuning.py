"""The steps of `tune`: collect pairs, train heads, cross-validate them, and switch them on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoders.tuned import Heads, TunedEncoder
from mmsearch.errors import InvalidOption
from mmsearch.evaluation.comparison import Comparison, compare, mean_change
from mmsearch.evaluation.results import Evaluation, Outcome, direction_of, outcome_of
from mmsearch.training.examples import Examples, examples_of, judged_queries
from mmsearch.training.heads import HeadRecipe, HeadTraining, PairSet, Pool
from mmsearch.training.report import DECISIVE, TuneReport, is_better
from mmsearch.training.switching import check_not_tuned, run_index, switch_on

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.encoders import Encoder
    from mmsearch.encoders.query_bank import QueryBank
    from mmsearch.evaluation.pairs import Pair
    from mmsearch.evaluation.qrels import Qrels
    from mmsearch.storage import Space
    from mmsearch.types import Modality, Progress

FOLDS = 5
"""Each fold of the pairs is evaluated with heads trained on the others."""

FEWEST = 100
"""Independent groups of pairs; with fewer, a gain could not be told from chance."""

MOST_HELD_OUT = 1_000
"""Groups of pairs that are held out in a fold; the rest of it is always trained on."""

MOST_RANKED = 1_000
"""Ranks that are evaluated; a relevant item further down counts as not found."""

POOL = 20_000
"""Approximate number of stored vectors of a modality from which hard negatives are mined."""

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the update, one of which is kept."""

EPOCHS_PER_EVALUATION = 5
"""Epochs between evaluations on held-out pairs: the best of too many would be best by chance."""

ANCHORS = 512
"""Stored vectors of a modality without pairs, to which cosines should not change."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Trained heads.

    Attributes:
        heads: By modality.
        epoch: The number of epochs that they were trained for.
        strength: The share of the update that they keep.
    """

    heads: Heads
    epoch: int
    strength: float


class SpaceTuning:
    """The tuning of one space.

    Args:
        collection: The index.
        space: The space, which serves.
        encoder: That of the space.
        qrels: What the report says of missing and ambiguous files is taken from here.
        examples: The pairs, a set for each pair of modalities.
        recipe: The hyperparameters.
    """

    def __init__(
        self,
        collection: Collection,
        space: Space,
        encoder: Encoder,
        qrels: Qrels,
        examples: Sequence[Examples],
        recipe: HeadRecipe,
    ) -> None:
        self.space = space
        self._collection = collection
        self.encoder = encoder
        self._qrels = qrels
        self._examples = examples
        self._recipe = recipe
        self._bank = collection.index.query_banks.bank(space)
        groups = np.unique(np.concatenate([one.item_groups for one in examples]))
        self.groups: NDArray[np.int64] = np.random.default_rng(recipe.seed).permutation(groups)
        paired = {name for one in examples for name in one.modalities}
        self._pools = {name: self._pool(name) for name in sorted(paired)}
        vectors = collection.store.vectors
        self._anchors = {
            name: rows
            for name in sorted(space.serves - paired)
            if len(rows := vectors.sample(space, name, ANCHORS))
        }

    @property
    def pairs(self) -> int:
        """The number of queries."""
        return sum(len(one.relevant) for one in self._examples)

    def run(self, tick: Callable[[int], None] = lambda _done: None) -> tuple[Comparison, Trained]:
        """The gain on held-out pairs, by cross-validation, and heads trained on all pairs.

        Args:
            tick: Called with the number of epochs done, of `epochs` in all.
        """
        folds = [fold[:MOST_HELD_OUT] for fold in np.array_split(self.groups, FOLDS)]
        held_out = [self._subset(fold) for fold in folds]
        heads_of_folds, best = self._cross_validate(folds, held_out, tick)
        before: dict[str, list[Outcome]] = {}
        after: dict[str, list[Outcome]] = {}
        for examples, heads in zip(held_out, heads_of_folds, strict=True):
            self._add_outcomes(examples, {}, before)
            self._add_outcomes(examples, heads, after)
        training = self._training(self.groups)
        for epoch in range(best.epoch):
            training.epoch()
            tick(FOLDS * self._recipe.epochs + epoch + 1)
        tick(self.epochs)
        trained = replace(best, heads=training.heads(best.strength))
        return compare(self._evaluation(before), self._evaluation(after)), trained

    @property
    def epochs(self) -> int:
        """The most epochs of all trainings together."""
        return (FOLDS + 1) * self._recipe.epochs

    def _subset(self, groups: NDArray[np.int64]) -> list[Examples]:
        """The examples of some groups."""
        return [own for one in self._examples if len((own := one.subset(groups)).relevant)]

    def _training(self, groups: NDArray[np.int64]) -> HeadTraining:
        """A training on the pairs of some groups."""
        return HeadTraining(self._pair_sets(groups), self._anchors, self._recipe)

    def _cross_validate(
        self,
        folds: Sequence[NDArray[np.int64]],
        held_out: Sequence[Sequence[Examples]],
        tick: Callable[[int], None],
    ) -> tuple[list[Heads], Trained]:
        """For each fold, heads trained on the others; and the best epoch and strength overall.

        All are trained in parallel until their mean MRR stops rising. The epoch and strength of a
        fold's heads are those at which the heads of the *other* folds do best, each on its own
        fold, so that the fold itself chooses nothing.
        """
        trainings = [self._training(np.setdiff1d(self.groups, fold)) for fold in folds]
        other_folds = ~np.eye(FOLDS, dtype=bool)
        chosen: list[Heads] = [{}] * FOLDS
        best = Trained({}, 0, 0.0)

        def mrr_of_folds(heads: Sequence[Heads]) -> NDArray[np.float64]:
            pairs = zip(held_out, heads, strict=True)
            return np.array([_mean_reciprocal_rank(*one, self._bank) for one in pairs])

        mrr = mrr_of_folds(chosen)
        best_mrr, best_of_others = mrr.mean(), [mrr[others].mean() for others in other_folds]
        for epoch in range(1, self._recipe.epochs + 1):
            for fold, training in enumerate(trainings):
                training.epoch()
                tick((epoch - 1) * FOLDS + fold + 1)
            for strength in STRENGTHS if epoch % EPOCHS_PER_EVALUATION == 0 else ():
                heads = [training.heads(strength) for training in trainings]
                mrr = mrr_of_folds(heads)
                if mrr.mean() > best_mrr:
                    best_mrr, best = mrr.mean(), Trained({}, epoch, strength)
                for fold, others in enumerate(other_folds):
                    if (mean := mrr[others].mean()) > best_of_others[fold]:
                        best_of_others[fold], chosen[fold] = mean, heads[fold]
            if epoch - best.epoch >= self._recipe.patience:
                break
        return chosen, best

    def _add_outcomes(
        self, examples: Sequence[Examples], heads: Heads, outcomes: dict[str, list[Outcome]]
    ) -> None:
        """Add the outcomes of searches in both directions among some examples."""
        for one in examples:
            query, item = one.modalities
            forward, backward = one.scores(heads, self._bank)
            outcomes.setdefault(f"{query}→{item}", []).extend(
                outcome_of(
                    ("forward", f"{query}→{item} {label}"),
                    label,
                    [one.paths[at] for at in relevant],
                    _ranking(scores),
                    dict.fromkeys(relevant, 1.0),
                )
                for label, relevant, scores in zip(one.labels, one.relevant, forward, strict=True)
            )
            outcomes.setdefault(f"{item}→{query}", []).extend(
                outcome_of(
                    ("backward", f"{item}→{query} {path}"),
                    path,
                    [path, *(one.paths[at] for at in _items_of(one, queries))],
                    _ranking(scores),
                    dict.fromkeys(queries, 1.0),
                )
                for path, queries, scores in zip(
                    one.paths, one.queries_of_items(), backward, strict=True
                )
            )

    def _evaluation(self, outcomes: dict[str, list[Outcome]]) -> Evaluation:
        directions = [direction_of(name, own[0].key[0], own) for name, own in outcomes.items()]
        return Evaluation(
            tuple(directions),
            self._collection.place.address,
            {},
            depth=MOST_RANKED,
            items=self._qrels.size,
            missing=tuple(self._qrels.missing),
            ambiguous=tuple(self._qrels.ambiguous),
            left_out=self._qrels.left_out,
        )

    # ------------------------------------------------------------------ training data

    def _pool(self, modality: Modality) -> Pool:
        """About POOL stored vectors of a modality, or all if there are fewer."""
        vectors = self._collection.store.vectors
        step = max(1, vectors.count(self.space, modality) // POOL)
        owners, rows = [np.zeros(0, np.int64)], [np.zeros((0, self.space.dim), np.float32)]
        for ids, page in vectors.pages(self.space, modality):
            owners.append(ids[::step])
            rows.append(page[::step])
        group_of = {
            id_: group
            for one in self._examples
            for id_, group in zip(one.ids.tolist(), one.item_groups.tolist(), strict=True)
        }
        ids = np.concatenate(owners).tolist()
        groups = np.array([group_of.get(id_, -1) for id_ in ids], np.int64)
        return Pool(np.concatenate(rows), groups)

    def _pair_sets(self, groups: NDArray[np.int64]) -> list[PairSet]:
        """The pairs of some groups; negatives are mined without the items of the other groups."""
        left_out = np.setdiff1d(self.groups, groups)
        pools = {}
        for modality, pool in self._pools.items():
            kept = ~np.isin(pool.groups, left_out)
            pools[modality] = Pool(pool.rows[kept], pool.groups[kept])
        found = []
        for one in self._subset(groups):
            rows, queries = _positive_pairs(one)
            vectors = [one.queries[queries]]
            if not np.array_equal(one.queries, one.documents):
                vectors.append(one.documents[queries])
            pair_set = PairSet.mined(
                one.modalities,
                (np.concatenate(vectors), np.tile(one.rows[rows], (len(vectors), 1))),
                np.tile(one.query_groups[queries], len(vectors)),
                (pools[one.modalities[0]], pools[one.modalities[1]]),
                self._recipe.negatives,
            )
            found.append(pair_set)
        return found


def _mean_reciprocal_rank(
    examples: Sequence[Examples], heads: Heads, bank: QueryBank | None
) -> float:
    """The mean MRR of all directions."""
    found = []
    for one in examples:
        relevance = one.relevance()
        for scores, mask in zip(one.scores(heads, bank), (relevance, relevance.T), strict=True):
            best = np.where(mask, scores, -np.inf).max(axis=1, keepdims=True)
            found.append((1 / (1 + (scores > best).sum(axis=1))).mean())
    return float(np.mean(found))


def _positive_pairs(one: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row and the query of each positive pair; of an item's rows, the closest to the query."""
    starts = np.searchsorted(one.owners, np.arange(len(one.ids) + 1))
    rows, queries = [], []
    for query, items in enumerate(one.relevant):
        for item in items:
            own = slice(starts[item], starts[item + 1])
            rows.append(starts[item] + int((one.rows[own] @ one.queries[query]).argmax()))
            queries.append(query)
    return np.array(rows, np.int64), np.array(queries, np.int64)


def _items_of(one: Examples, queries: Sequence[int]) -> list[int]:
    """The items that are relevant to any of some queries."""
    return sorted({item for query in queries for item in one.relevant[query]})


def _ranking(scores: NDArray[np.float32]) -> list[int]:
    """The best MOST_RANKED candidates, by descending score."""
    found: list[int] = np.argsort(-scores, kind="stable")[:MOST_RANKED].tolist()
    return found


def tune(
    collection: Collection,
    pairs: Sequence[Pair] | None,
    recipe: HeadRecipe,
    progress: Progress | None,
) -> list[TuneReport]:
    """As `mmsearch.training.tune`."""
    with collection.writing("tuning"):
        check_not_tuned(collection)
        # an older index may have texts, or everything, to encode again
        run_index(collection, progress, update_models=True)
        tunings = spaces_to_tune(collection, pairs, recipe, progress)
        total = sum(one.epochs for one in tunings)
        found = []
        for number, tuning in enumerate(tunings):
            first = sum(one.epochs for one in tunings[:number])
            found.append(_tune_space(collection, tuning, progress, first, total))
        return found


def spaces_to_tune(
    collection: Collection,
    pairs: Sequence[Pair] | None,
    recipe: HeadRecipe,
    progress: Progress | None = None,
) -> list[SpaceTuning]:
    """The tunings of all spaces that serve and have enough pairs.

    Raises:
        InvalidOption: no space has.
    """
    qrels = judged_queries(collection, pairs)
    found, most = [], 0
    for space, _ in collection.index.serving():
        if space.is_imported:
            continue
        encoder = collection.index.encoder(space)
        examples = examples_of(collection, space, encoder, qrels.queries, progress)
        if not examples:
            continue
        tuning = SpaceTuning(collection, space, encoder, qrels, examples, recipe)
        most = max(most, len(tuning.groups))
        if len(tuning.groups) >= FEWEST:
            found.append(tuning)
    if not found and qrels.queries and not most:
        raise InvalidOption(
            "nothing can be learnt from these pairs: the query and the file of a pair must be of "
            "different kinds, such as words and a photo, which one model of this index encodes"
        )
    if not found:
        have = "the index has captions of" if pairs is None else "there are pairs of"
        raise InvalidOption(
            f"{have} {most} files, counting files that share one as one; at least {FEWEST} are "
            "needed to tell a gain from chance, and a thousand are better. Give a file of queries "
            "and files, as `mmsearch eval` reads it, or index with --captions"
        )
    return found


def _tune_space(
    collection: Collection,
    tuning: SpaceTuning,
    progress: Progress | None,
    first: int,
    total: int,
) -> TuneReport:
    """Tune a space, switch the result on if it is better, and report."""
    began = time.monotonic()

    def tick(epochs: int) -> None:
        if progress is not None:
            progress(first + epochs, total)

    comparison, trained = tuning.run(tick)
    mean = mean_change(comparison, DECISIVE)
    better = is_better(comparison, mean)
    warnings: Sequence[str] = ()
    if better:
        encoder = TunedEncoder(tuning.encoder, trained.heads)
        warnings = switch_on(collection, tuning.space, encoder, progress).warnings
    return TuneReport(
        tuning.encoder.name,
        tuning.pairs,
        len(tuning.groups),
        comparison,
        mean,
        trained.epoch,
        trained.strength,
        better,
        warnings,
        time.monotonic() - began,
    )
