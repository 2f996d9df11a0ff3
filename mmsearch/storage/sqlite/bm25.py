"""BM25 with a bound on the work.

SQLite reads some 25 million postings a second, returns 10 million ids a second, and computes BM25
of fewer than a million items a second. So where few items hold the words, all of them are scored:
those that hold every word, or any word if too few hold every one. Else each word first adds its idf
to the items that hold it, and only the best of these are scored. The commonest words, which weigh
least and cost most, only add to the items that hold one of the rarest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from mmsearch.storage.lexical import Term
from mmsearch.storage.sqlite.database import JSON_LIST, driver_of_connection
from mmsearch.storage.sqlite.schema import WEIGHTS
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

MOST_COUNTED = 20_000
"""Items that are counted of a word whose count is not stored."""

FEW = 1000
"""Up to this many allowed items are passed to SQLite; with more, its results are filtered."""

SKIPS = 8
"""Intersecting a word in n items with a commoner one takes the time of this many times n postings.
"""

_BM25 = f"-bm25(words, {', '.join(map(str, WEIGHTS))})"
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"


@dataclass(frozen=True, slots=True)
class _Word:
    """A term of the query."""

    match: str
    items: int
    """How many hold it, or, of a phrase, its rarest word."""
    cost: int
    """Postings to read to find them."""
    idf: float
    """As FTS5 defines it: BM25 of an item of average length that holds the word once."""


class Matching:
    """One query on the word index.

    Args:
        connection: In a transaction.
        k: How many items are wanted.
        allowed: Only these items; None allows all.
        found: What statements found before, at the same moment: a query is matched three times.
    """

    def __init__(
        self, connection: Connection, k: int, allowed: IdSet | None, found: dict[Any, Any]
    ) -> None:
        # the driver's own connection: SQLAlchemy takes as long as a rare word does
        self._driver = driver_of_connection(connection)
        self._k = k
        self._found = found
        low, high = (self._row(f"SELECT {end}(id) FROM items")[0] or 0 for end in ("min", "max"))  # noqa: S608
        self._inside: NDArray[np.bool_] | None = None
        self._few: str | None = None
        if allowed is not None:
            low, high = max(low, allowed.span[0]), min(high, allowed.span[1])
            self._inside = allowed.mask(low, max(low, high))
            if len(allowed) <= FEW:
                self._few = json.dumps(allowed.ids.tolist())
        self._low, self._high = low, max(low, high)
        self._items = self._counts([""]).get("") or self._row("SELECT count(*) FROM items")[0]

    def scores(self, terms: Sequence[Term]) -> dict[int, float]:
        """The scores of the items found, by id; more than k items if they cost no more."""
        weighed = sorted(self._weighed(terms), key=lambda word: (word.items, word.match))
        words = weighed[:MOST_WORDS]
        if sum(word.items for word in words) > MOST_SCORED:
            return self._added_up(words)
        every = self._allowed_of(self._scored(_every(words))) if len(words) > 1 else {}
        if len(every) >= self._k or not words:
            return every
        return self._allowed_of(self._scored(_any(words)))

    def holding(self, terms: Sequence[Term], ids: Sequence[int]) -> set[int]:
        """Those of some items, in order of id, that hold every term."""
        words = sorted(self._weighed(terms), key=lambda word: (word.items, word.match))
        if len(words) < len(terms):
            return set()  # no item at all holds one of them
        # the plus has SQLite intersect the words once; to look up each id takes 0.1 ms
        plus = "+" if _cost_of_every(words) <= MOST_SEEN else ""
        where = f"words MATCH ? AND rowid BETWEEN ? AND ? AND {plus}rowid IN {JSON_LIST}"
        statement = f"SELECT rowid FROM words WHERE {where}"  # noqa: S608
        given = (_every(words), ids[0], ids[-1], json.dumps(ids))
        return {item_id for (item_id,) in self._driver.execute(statement, given)}

    def _added_up(self, words: Sequence[_Word]) -> dict[int, float]:
        tally, lift = (_Tally(self._low, self._high) for _ in range(2))
        seen = 0
        scored = 0
        for word in words:
            seen += word.cost
            if seen > MOST_SEEN:
                break
            tally.add(self._ids(word.match), word.idf)
            scored += 1
        if scored:
            self._lift(lift, words[:scored], words[scored:])
        else:
            self._add_common(lift, words)
        best = tally.plus(lift).best(max(self._k, RESCORED), self._inside)
        if not (scored and best):
            return best
        anew = self._scored(_any(words[:scored]), sorted(best))
        return {item_id: score + lift[item_id] for item_id, score in anew.items()}

    def _lift(self, lift: _Tally, scored: Sequence[_Word], common: Sequence[_Word]) -> None:
        """Add the idf of common words to the items that hold one of the rarest."""
        rare = _rare(scored)
        items = sum(word.items for word in rare)
        passed = 0
        for word in common:
            passed += min(SKIPS * items, items + word.cost)
            if passed > MOST_PASSED:
                return
            lift.add(self._ids(f"({_any(rare)}) AND {word.match}"), word.idf)

    def _add_common(self, lift: _Tally, words: Sequence[_Word]) -> None:
        """Add the first items that hold all words, then the first that hold the rarest."""
        import numpy as np

        every = self._ids(_every(words), _cost_of_every(words))
        lift.add(every, sum(word.idf for word in words))
        if len(words) > 1 and len(every) < self._k:
            rarest = self._ids(words[0].match, words[0].cost)
            lift.add(np.setdiff1d(rarest, every), words[0].idf)

    # ------------------------------------------------------------------ queries

    def _scored(self, match: str, ids: Sequence[int] | None = None) -> dict[int, float]:
        """BM25 of the items that match, by id, among some items or all."""
        statement = f"SELECT rowid, {_BM25} FROM words WHERE words MATCH ?"  # noqa: S608
        if ids is None:
            if (statement, match) not in self._found:
                self._found[statement, match] = dict(self._driver.execute(statement, (match,)))
            scored: dict[int, float] = self._found[statement, match]
            return scored
        # the plus keeps SQLite from looking up each id on its own
        where = " AND rowid BETWEEN ? AND ? AND +rowid IN " + JSON_LIST
        given = (match, ids[0], ids[-1], json.dumps(ids))
        return dict(self._driver.execute(statement + where, given))

    def _allowed_of(self, found: dict[int, float]) -> dict[int, float]:
        if (inside := self._inside) is None:
            return found
        low, beyond = self._low, self._low + len(inside)
        return {id_: found[id_] for id_ in found if low <= id_ < beyond and inside[id_ - low]}

    def _ids(self, match: str, cost: int = 0) -> NDArray[np.int64]:
        """The items that match.

        Args:
            match: An FTS5 expression.
            cost: The postings that it reads, if they are not bounded: then only the first items are
                returned, and beyond MOST_PASSED only that share of the items is looked at.
        """
        import numpy as np

        share = min(1.0, MOST_PASSED / cost) if cost else 1.0
        high = self._low + math.ceil((self._high - self._low) * share)
        where, given = "words MATCH ? AND rowid BETWEEN ? AND ?", [match, self._low, high]
        if self._few is not None:
            where += f" AND +rowid IN {JSON_LIST}"
            given.append(self._few)
        statement = f"SELECT rowid FROM words WHERE {where} LIMIT ?"  # noqa: S608
        given.append(MOST_SCORED if cost else MOST_SEEN)
        # as one text: rows would take three times as long
        text = self._row(f"SELECT group_concat(rowid) FROM ({statement})", *given)[0]  # noqa: S608
        return np.fromstring(text or "", dtype=np.int64, sep=",")

    # ------------------------------------------------------------------ how common words are

    def _weighed(self, terms: Sequence[Term]) -> list[_Word]:
        """The terms that some item holds."""
        counts = self._counts({token for term in terms for token in term.tokens})
        words = []
        for term in terms:
            each = [counts[token] for token in term.tokens]
            if rarest := min(each):
                cost = sum(each) if len(each) == 1 else min(sum(each), SKIPS * rarest)
                idf = math.log(max(self._items - rarest + 0.5, 0.5) / (rarest + 0.5))
                words.append(_Word(term.match, rarest, cost, max(idf, 1e-6)))
        return words

    def _counts(self, tokens: Iterable[str]) -> dict[str, int]:
        wanted = sorted(tokens)
        kept = f"SELECT word, items FROM common_words WHERE word IN {JSON_LIST}"  # noqa: S608
        counts = dict(self._driver.execute(kept, (json.dumps(wanted),)))
        for token in wanted:
            if token and token not in counts:
                counts[token] = self._row(_COUNT, f'"{token}"', MOST_COUNTED)[0]
        return counts

    def _row(self, statement: str, *given: Any) -> Any:
        if (statement, given) not in self._found:
            self._found[statement, given] = self._driver.execute(statement, given).fetchone()
        return self._found[statement, given]


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


def _any(words: Sequence[_Word]) -> str:
    return " OR ".join(word.match for word in words)


def _every(words: Sequence[_Word]) -> str:
    return " AND ".join(word.match for word in words)


def _cost_of_every(words: Sequence[_Word]) -> int:
    """The postings to read for the items that hold every one of some words, the rarest first."""
    return min(sum(word.cost for word in words), SKIPS * words[0].items)


def _rare(words: Sequence[_Word]) -> Sequence[_Word]:
    """The rarest words that few items hold in all; at least the rarest one."""
    total = 0
    for number, word in enumerate(words):
        total += word.items
        if total > MOST_SCORED:
            return words[: max(number, 1)]
    return words
