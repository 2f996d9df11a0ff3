"""BM25 with a bound on the work, whatever engine finds the items of a word.

SQLite reads some 25 million postings a second, returns 10 million ids a second, and computes BM25
of fewer than a million items a second. So where few items hold the words, all of them are scored:
those that hold every word, or any word if too few hold every one. Else each word first adds its idf
to the items that hold it, and only the best of these are scored. The commonest words, which weigh
least and cost most, only add to the items that hold one of the rarest. Other engines do the same,
so that they give the same answers.

A word may have a form in each language, which are treated as one word: an item that holds any form
holds the word, the idf counts all these items, and the best-scoring form in an item is its score.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.storage.lexical.tokens import Term, split_terms
from mmsearch.types import Ranking
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_SCORED = 3000
"""If no more items than this hold the words, BM25 of all of them is computed."""

RESCORED = 200
"""If more do, BM25 is computed of at least so many, those with the highest sums of idf."""

MOST_WORDS = 16
"""Words that are searched for, the rarest of a query."""

MOST_SEEN = 50_000
"""Postings that are added up in full, those of the rarest words first; other words are common."""

MOST_PASSED = 150_000
"""Postings of common words that a query reads."""

SKIPS = 8
"""Intersecting a word in n items with a commoner one takes the time of this many times n postings.
"""

K1, B = 1.2, 0.75
"""Of BM25, as FTS5 has them."""

ScoresOf = Callable[[Sequence[Term]], dict[int, float]]
"""The scores, by id, of the items that hold some terms."""


@dataclass(frozen=True, slots=True)
class Word:
    """A term of the query, in the forms that occur."""

    term: Term
    items: int
    """How many hold it, or, for a phrase, its rarest word; an item is counted once per form."""
    cost: int
    """Postings to read to find them."""
    idf: float
    """As FTS5 defines it: BM25 of an item of average length that holds the word once."""


def ranking(scores: ScoresOf, terms: Sequence[Term], k: int) -> Ranking:
    """The k best items by BM25, ties by id; fewer if fewer hold any of the terms.

    Terms of several words are taken apart only if too few items hold them as they are.

    Args:
        scores: The scores of the items that hold some terms.
        terms: Those of the query.
        k: How many items are wanted.
    """
    found = scores(terms)
    parts = split_terms(terms)
    if len(found) < k and parts != terms:
        found = scores(parts) | found
    return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:k]


def inverse_frequency(items: int, holding: int) -> float:
    """The idf of a term that so many of all items hold, as FTS5 defines it; above 0."""
    idf = math.log(max(items - holding + 0.5, 0.5) / (holding + 0.5))
    return idf if idf > 0 else 1e-6


def term_frequency(often: float, length: int, average: float) -> float:
    """The tf of BM25, which is multiplied by the idf: 0 to K1 + 1.

    Source: Robertson & Zaragoza, "The Probabilistic Relevance Framework" (2009); SQLite's
    documentation of FTS5, "The bm25() function".

    Args:
        often: How often the document holds the term, weighted by WEIGHTS.
        length: Of the document, in tokens.
        average: The mean length of all documents.
    """
    return often * (K1 + 1) / (often + K1 * (1 - B + B * length / average))


Groups = Sequence[Sequence[Word]]
"""Of each group an item must hold one word."""


class Matching(ABC):
    """One query on a word index.

    Args:
        k: How many items are wanted.
        allowed: Only these items; None allows all.
        low: The lowest id of an item, 0 if there is none.
        high: The highest.
    """

    def __init__(self, k: int, allowed: IdSet | None, low: int, high: int) -> None:
        self._k = k
        self._inside: NDArray[np.bool_] | None = None
        if allowed is not None:
            low, high = max(low, allowed.span[0]), min(high, allowed.span[1])
            self._inside = allowed.mask(low, max(low, high))
        self._low, self._high = low, max(low, high)

    @property
    @abstractmethod
    def items(self) -> int:
        """How many items there are."""

    @abstractmethod
    def counts(self, tokens: Iterable[str]) -> dict[str, int]:
        """How many items hold each token."""

    @abstractmethod
    def scored(self, groups: Groups, ids: Sequence[int] | None = None) -> dict[int, float]:
        """BM25, of all words, of the items that match, by id, among some items or all."""

    @abstractmethod
    def ids(self, groups: Groups, cost: int = 0) -> NDArray[np.int64]:
        """The items that match.

        Args:
            groups: What they must hold.
            cost: The postings that it reads, if they are not bounded: then only the first items are
                returned, and beyond MOST_PASSED only that share of the items is looked at.
        """

    def scores(self, terms: Sequence[Term]) -> dict[int, float]:
        """The scores of the items found, by id; more than k items if they cost no more."""
        weighed = sorted(self.weighed(terms), key=lambda word: (word.items, word.term.match))
        words = weighed[:MOST_WORDS]
        if sum(word.items for word in words) > MOST_SCORED:
            return self._added_up(words)
        complete = self._allowed_of(self.scored(every(words))) if len(words) > 1 else {}
        if len(complete) >= self._k or not words:
            return complete
        return self._allowed_of(self.scored([words]))

    def _added_up(self, words: Sequence[Word]) -> dict[int, float]:
        tally, lift = (_Tally(self._low, self._high) for _ in range(2))
        seen = 0
        scored = 0
        for word in words:
            seen += word.cost
            if seen > MOST_SEEN:
                break
            tally.add(self.ids([[word]]), word.idf)
            scored += 1
        if scored:
            self._lift(lift, words[:scored], words[scored:])
        else:
            self._add_common(lift, words)
        best = tally.plus(lift).best(max(self._k, RESCORED), self._inside)
        if not (scored and best):
            return best
        anew = self.scored([words[:scored]], sorted(best))
        return {item_id: score + lift[item_id] for item_id, score in anew.items()}

    def _lift(self, lift: _Tally, scored: Sequence[Word], common: Sequence[Word]) -> None:
        """Add the idf of common words to the items that hold one of the rarest."""
        rare = _rare(scored)
        items = sum(word.items for word in rare)
        passed = 0
        for word in common:
            passed += min(SKIPS * items, items + word.cost)
            if passed > MOST_PASSED:
                return
            lift.add(self.ids([rare, [word]]), word.idf)

    def _add_common(self, lift: _Tally, words: Sequence[Word]) -> None:
        """Add the first items that hold all words, then the first that hold the rarest."""
        import numpy as np

        complete = self.ids(every(words), cost_of_every(words))
        lift.add(complete, sum(word.idf for word in words))
        if len(words) > 1 and len(complete) < self._k:
            rarest = self.ids([words[:1]], words[0].cost)
            lift.add(np.setdiff1d(rarest, complete), words[0].idf)

    def _allowed_of(self, found: dict[int, float]) -> dict[int, float]:
        if (inside := self._inside) is None:
            return found
        low, beyond = self._low, self._low + len(inside)
        return {id_: found[id_] for id_ in found if low <= id_ < beyond and inside[id_ - low]}

    # ------------------------------------------------------------------ how common words are

    def weighed(self, terms: Sequence[Term]) -> list[Word]:
        """The terms that some item holds."""
        counts = self.counts({token for term in terms for form in term.forms for token in form})
        found = (self._weighed(term, counts) for term in terms)
        return [word for word in found if word is not None]

    def _weighed(self, term: Term, counts: Mapping[str, int]) -> Word | None:
        there = []
        items = cost = 0
        for form in term.forms:
            each = [counts[token] for token in form]
            if rarest := min(each):
                there.append(form)
                items += rarest
                cost += sum(each) if len(each) == 1 else min(sum(each), SKIPS * rarest)
        if not there:
            return None
        items = min(items, self.items)
        idf = inverse_frequency(self.items, items)
        return Word(Term(there[0], term.quoted, tuple(there[1:])), items, cost, idf)


class _Tally:
    """A sum for each item of a range of ids."""

    def __init__(self, low: int, high: int) -> None:
        import numpy as np

        self._low = low
        self._sums = np.zeros(high - low + 1, np.float32)

    def __getitem__(self, item_id: int) -> float:
        return float(self._sums[item_id - self._low])

    def add(self, ids: NDArray[np.int64], amount: float) -> None:
        """Add to the sums of some items, each of which is listed once."""
        self._sums[ids - self._low] += amount

    def plus(self, other: _Tally) -> _Tally:
        """The sums of both."""
        self._sums += other._sums
        return self

    def best(self, k: int, inside: NDArray[np.bool_] | None) -> dict[int, float]:
        """The k items with the largest sums, those of the lowest ids where some are equal.

        Args:
            k: How many items.
            inside: Whether each item of the range is allowed; None allows all.
        """
        import numpy as np

        at = np.flatnonzero(self._sums > 0)
        if inside is not None:
            at = at[inside[at]]
        ids, sums = at + self._low, self._sums[at]
        if len(ids) > k:
            least = np.sort(sums)[-k]  # np.partition is slow where most are equal
            above = np.flatnonzero(sums > least)
            level = np.flatnonzero(sums == least)[: k - len(above)]
            chosen = np.concatenate([above, level])
            ids, sums = ids[chosen], sums[chosen]
        return dict(zip(ids.tolist(), sums.tolist(), strict=True))


def every(words: Sequence[Word]) -> Groups:
    """What an item that holds every word matches."""
    return [[word] for word in words]


def cost_of_every(words: Sequence[Word]) -> int:
    """The postings to read for the items that hold every one of some words, the rarest first."""
    return min(sum(word.cost for word in words), SKIPS * words[0].items)


def _rare(words: Sequence[Word]) -> Sequence[Word]:
    """The rarest words that few items hold in all; at least the rarest one."""
    total = 0
    for number, word in enumerate(words):
        total += word.items
        if total > MOST_SCORED:
            return words[: max(number, 1)]
    return words
