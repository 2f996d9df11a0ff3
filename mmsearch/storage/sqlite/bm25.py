"""BM25 by SQLite's FTS5: see `mmsearch.storage.lexical.bm25`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from mmsearch.storage.lexical import WEIGHTS, Term
from mmsearch.storage.lexical.bm25 import (
    MOST_PASSED,
    MOST_SCORED,
    MOST_SEEN,
    Groups,
    Matching,
    Word,
    cost_of_every,
    every,
    inverse_frequency,
)
from mmsearch.storage.lexical.languages import PREFIXES
from mmsearch.storage.sql.database import driver_of_connection
from mmsearch.storage.sqlite.writer import JSON_LIST
from mmsearch.storage.transfer import ENGINE
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_COUNTED = 20_000
"""Items that are counted of a word whose count is not stored."""

LANGUAGE_PREFIXES = f"{ENGINE}languages"
"""The setting that holds the prefixes of all languages that texts are or were in; tokens of other
languages are not looked up in FTS5."""

FEW = 1000
"""Up to this many allowed items are passed to SQLite; with more, its results are filtered."""

_BM25 = f"-bm25(words, {', '.join(map(str, WEIGHTS))})"
_TOTALS = f"""
    SELECT (SELECT min(id) FROM items), (SELECT max(id) FROM items),
        (SELECT items FROM common_words WHERE word = ''),
        (SELECT value FROM settings WHERE key = '{LANGUAGE_PREFIXES}')
"""  # noqa: S608 - a constant
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"


class SqliteMatching(Matching):
    """One query on the FTS5 table.

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
        self._found = found
        low, high, self._counted, languages = self._row(_TOTALS)
        self._absent = PREFIXES.difference(languages or "")
        super().__init__(k, allowed, low or 0, high or 0)
        few = allowed is not None and len(allowed) <= FEW
        self._few = json.dumps(allowed.ids.tolist()) if allowed is not None and few else None

    @cached_property
    def items(self) -> int:
        return int(self._counted or self._row("SELECT count(*) FROM items")[0])

    def holding(self, terms: Sequence[Term], ids: Sequence[int]) -> set[int]:
        """Those of some items, in order of id, that hold every term."""
        words = sorted(self.weighed(terms), key=lambda word: (word.items, word.term.match))
        if len(words) < len(terms):
            return set()  # no item at all holds one of them
        # the plus has SQLite intersect the words once; to look up each id takes 0.1 ms
        plus = "+" if cost_of_every(words) <= MOST_SEEN else ""
        where = f"words MATCH ? AND rowid BETWEEN ? AND ? AND {plus}rowid IN {JSON_LIST}"
        statement = f"SELECT rowid FROM words WHERE {where}"  # noqa: S608
        given = (_match(every(words)), ids[0], ids[-1], json.dumps(ids))
        return {item_id for (item_id,) in self._driver.execute(statement, given)}

    def scored(self, groups: Groups, ids: Sequence[int] | None = None) -> dict[int, float]:
        found = self._bm25(_match(groups), ids)
        several = {word.term: word for group in groups for word in group if word.term.others}
        if several:
            found = dict(found)
            for word in several.values():
                self._count_once(word, found, ids)
        return found

    def _bm25(self, match: str, ids: Sequence[int] | None) -> dict[int, float]:
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

    def _count_once(self, word: Word, scores: dict[int, float], ids: Sequence[int] | None) -> None:
        """Score the forms of a word as one word; FTS5 has added up their scores."""
        best: dict[int, float] = {}
        for form in word.term.forms:
            factor = 1.0
            if len(form) == 1:
                number = self.counts(form)[form[0]]
                factor = word.idf / inverse_frequency(self.items, number)
            for item_id, score in self._bm25(Term(form).match, ids).items():
                if item_id in scores:
                    scores[item_id] -= score
                    best[item_id] = max(best.get(item_id, 0.0), score * factor)
        for item_id, score in best.items():
            scores[item_id] += score

    def ids(self, groups: Groups, cost: int = 0) -> NDArray[np.int64]:
        import numpy as np

        share = min(1.0, MOST_PASSED / cost) if cost else 1.0
        high = self._low + math.ceil((self._high - self._low) * share)
        where, given = "words MATCH ? AND rowid BETWEEN ? AND ?", [_match(groups), self._low, high]
        if self._few is not None:
            where += f" AND +rowid IN {JSON_LIST}"
            given.append(self._few)
        statement = f"SELECT rowid FROM words WHERE {where} LIMIT ?"  # noqa: S608
        given.append(MOST_SCORED if cost else MOST_SEEN)
        # as one text: rows would take three times as long
        text = self._row(f"SELECT group_concat(rowid) FROM ({statement})", *given)[0]  # noqa: S608
        return np.fromstring(text or "", dtype=np.int64, sep=",")

    def counts(self, tokens: Iterable[str]) -> dict[str, int]:
        counts = dict.fromkeys(tokens, 0)
        wanted = sorted(token for token in counts if token[0] not in self._absent)
        kept = f"SELECT word, items FROM common_words WHERE word IN {JSON_LIST}"  # noqa: S608
        counts.update(self._driver.execute(kept, (json.dumps(wanted),)))
        for token in wanted:
            if not counts[token]:
                counts[token] = self._row(_COUNT, f'"{token}"', MOST_COUNTED)[0]
        return counts

    def _row(self, statement: str, *given: Any) -> Any:
        if (statement, given) not in self._found:
            self._found[statement, given] = self._driver.execute(statement, given).fetchone()
        return self._found[statement, given]


def _match(groups: Groups) -> str:
    """An FTS5 expression."""
    either = [" OR ".join(word.term.match for word in group) for group in groups]
    return either[0] if len(either) == 1 else " AND ".join(f"({one})" for one in either)
