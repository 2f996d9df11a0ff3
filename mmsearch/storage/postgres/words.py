"""The full-text index of the items: their tokens in arrays with a GIN index, searched by BM25.

Documents are those of the local index (`storage.lexical`, `storage.sql.documents`), and so are the
scores, which FTS5 computes there: PostgreSQL names the items that hold the words, and returns how
often each holds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from mmsearch.storage.lexical import WEIGHTS, Document, Term, query_terms
from mmsearch.storage.lexical.bm25 import (
    MOST_SCORED,
    MOST_WORDS,
    RESCORED,
    inverse_frequency,
    ranking,
    term_frequency,
)
from mmsearch.storage.postgres.filters import is_in
from mmsearch.storage.postgres.schema import words, words_due
from mmsearch.storage.sql.database import is_one_of
from mmsearch.storage.sql.documents import documents
from mmsearch.storage.sql.types import INTEGER, TEXT
from mmsearch.storage.store import SettingStore, WordStore
from mmsearch.storage.transfer import ENGINE
from mmsearch.types import Progress, Ranking
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    from mmsearch.storage.postgres.database import Database

BATCH = 1000
"""Items that are indexed in one transaction; others may write between two of them."""

PAGE = 200
"""Items whose texts are in memory at once."""

MOST_COUNTED = 20_000
"""Items that are counted of a word: the idf of a commoner one is that of this number."""

SUMMED_FROM = 10_000
"""With more items than this, how long all documents are is as of the last refresh."""

TOTALS = f"{ENGINE}words in all"
"""The setting that holds how many documents there are, and how many tokens in them."""

_w = words.c

_FIELDS = ("texts", "names", "facts")


class Words(WordStore):
    """The full-text index over texts, names and facts of the items."""

    def __init__(self, database: Database, settings: SettingStore) -> None:
        self._database = database
        self._settings = settings

    def due(self) -> int:
        return int(self._database.scalars(select(func.count()).select_from(words_due))[0])

    def refresh(self, at_most: int | None = None, progress: Progress | None = None) -> int:
        due = self.due()
        due = due if at_most is None else min(due, at_most)
        done = 0
        while done < due:
            with self._database.write() as connection:
                some = _refresh(connection, min(BATCH, due - done))
            done += some
            if progress is not None:
                progress(done, due)
            if not some:
                break  # another process has done them
        if done:
            with self._database.read() as connection:
                rows, tokens = _summed(connection)
            self._settings.set(TOTALS, f"{rows} {tokens}")
        return done

    def search(self, query: str, k: int, allowed: IdSet | None = None) -> Ranking:
        terms = query_terms(query)
        if not terms or k < 1 or (allowed is not None and not len(allowed)):
            return []
        with self._database.read() as connection:
            matching = _Matching(connection, self._totals(connection), k, allowed)
            return ranking(matching.scores, terms, k)

    def holding(self, query: str, ids: Sequence[int]) -> set[int]:
        terms = query_terms(query)
        if not terms or not len(ids):
            return set()
        every = and_(*map(_holds, terms))
        return set(
            self._database.scalars(select(_w.item_id).where(every, is_one_of(_w.item_id, ids)))
        )

    def _totals(self, connection: Connection) -> tuple[int, int]:
        """How many documents there are, and how many tokens they have."""
        found = self._database.found
        if TOTALS not in found:
            rows, tokens = map(int, (self._settings.get(TOTALS) or "0 0").split())
            found[TOTALS] = (rows, tokens) if rows > SUMMED_FROM else _summed(connection)
        totals: tuple[int, int] = found[TOTALS]
        return totals


def _summed(connection: Connection) -> tuple[int, int]:
    rows, tokens = connection.execute(
        select(func.count(), func.coalesce(func.sum(_w.size), 0)).select_from(words)
    ).one()
    return int(rows), int(tokens)


def _refresh(connection: Connection, limit: int) -> int:
    """Index at most so many items; returns how many they were."""
    due = select(words_due.c.item_id).order_by(words_due.c.item_id).limit(limit)
    ids = list(connection.execute(due).scalars())
    for start in range(0, len(ids), PAGE):
        some = ids[start : start + PAGE]
        rows = [_row(id_, document) for id_, document in documents(connection, some)]
        connection.execute(delete(words).where(is_one_of(_w.item_id, some)))
        if rows:
            connection.execute(insert(words), rows)
    connection.execute(delete(words_due).where(is_one_of(words_due.c.item_id, ids)))
    return len(ids)


def _row(item_id: int, document: Document) -> dict[str, Any]:
    fields = {name: getattr(document, name) for name in _FIELDS}
    frequencies: Counter[str] = Counter()
    size = 0
    for weight, written in zip(WEIGHTS, fields.values(), strict=True):
        tokens = written.split()
        size += len(tokens)
        for token, number in Counter(tokens).items():
            frequencies[token] += weight * number  # type: ignore[assignment]
    row = {"item_id": item_id, **fields, "size": size, "tokens": list(frequencies)}
    return {**row, "frequencies": list(frequencies.values())}


# ---------------------------------------------------------------------- queries


def _holds(term: Term) -> ColumnElement[bool]:
    """Whether a document holds a term: a token, or several that follow one another."""
    tokens = literal(list(dict.fromkeys(term.tokens)), ARRAY(TEXT))
    there: ColumnElement[bool] = _w.tokens.contains(tokens)
    if len(term.tokens) == 1:
        return there
    phrase = literal(f" {' '.join(term.tokens)} ", TEXT)
    space = literal(" ", TEXT)
    fields = (space.concat(_w[name]).concat(space) for name in _FIELDS)
    return and_(there, or_(*(func.strpos(field, phrase) > 0 for field in fields)))


@dataclass(frozen=True, slots=True)
class _Word:
    """A term of the query."""

    term: Term
    items: int
    """How many documents hold it."""
    idf: float
    """As FTS5 defines it."""


class _Matching:
    """One query on the word index.

    Args:
        connection: In a transaction.
        totals: How many documents there are, and tokens in them.
        k: How many items are wanted.
        allowed: Only these items; None allows all.
    """

    def __init__(
        self, connection: Connection, totals: tuple[int, int], k: int, allowed: IdSet | None
    ) -> None:
        self._connection = connection
        self._rows, tokens = totals
        self._length = max(tokens / max(self._rows, 1), 1e-9)
        self._k = k
        self._allowed = allowed

    def scores(self, terms: Sequence[Term]) -> dict[int, float]:
        """The scores of the items found, by id; more than k items if they cost no more."""
        weighed = sorted(self._weighed(terms), key=lambda word: (word.items, word.term.match))
        words_ = weighed[:MOST_WORDS]
        if not words_:
            return {}
        holds = [_holds(word.term) for word in words_]
        if sum(word.items for word in words_) > MOST_SCORED:
            return self._best(words_, holds)
        every = self._scored(words_, and_(*holds)) if len(words_) > 1 else {}
        return every if len(every) >= self._k else self._scored(words_, or_(*holds))

    def _best(
        self, words_: Sequence[_Word], holds: Sequence[ColumnElement[bool]]
    ) -> dict[int, float]:
        """The items with the highest sums of idf, of those that hold every word or the rarest."""
        found = self._frequencies(words_, and_(*holds)) if len(words_) > 1 else {}
        if len(found) < self._k:
            rare = _rare(words_)
            found |= self._frequencies(words_, or_(*holds[:rare]))
        sums = {
            item_id: sum(word.idf for word, often in zip(words_, counts, strict=True) if often)
            for item_id, (_, counts) in found.items()
        }
        best = sorted(sums, key=lambda item_id: (-sums[item_id], item_id))
        best = best[: max(self._k, RESCORED)]
        return self._bm25(words_, {item_id: found[item_id] for item_id in best})

    def _scored(self, words_: Sequence[_Word], which: ColumnElement[bool]) -> dict[int, float]:
        return self._bm25(words_, self._frequencies(words_, which))

    def _bm25(
        self, words_: Sequence[_Word], found: Mapping[int, tuple[int, Sequence[float]]]
    ) -> dict[int, float]:
        """BM25 of documents, by id."""
        return {
            item_id: sum(
                word.idf * term_frequency(often, size, self._length)
                for word, often in zip(words_, counts, strict=True)
                if often
            )
            for item_id, (size, counts) in found.items()
        }

    def _frequencies(
        self, words_: Sequence[_Word], which: ColumnElement[bool]
    ) -> dict[int, tuple[int, list[float]]]:
        """By id, the length of documents and how often each holds the words, weighted."""
        chosen = select(_w.item_id, _w.size, *(_often(word.term) for word in words_)).where(which)
        phrases = any(len(word.term.tokens) > 1 for word in words_)
        if phrases:
            chosen = chosen.add_columns(*(_w[name] for name in _FIELDS))
        if self._allowed is not None:
            chosen = chosen.where(is_in(_w.item_id, self._allowed))
        found = {}
        for row in self._connection.execute(chosen.order_by(_w.item_id).limit(MOST_SCORED)):
            counts = [often or 0.0 for often in row[2 : 2 + len(words_)]]
            if phrases:
                for at, word in enumerate(words_):
                    if len(word.term.tokens) > 1:
                        counts[at] = _phrase_frequency(word.term, row[-len(_FIELDS) :])
            found[row.item_id] = row.size, counts
        return found

    def _weighed(self, terms: Sequence[Term]) -> list[_Word]:
        """The terms that some item holds."""
        counts = self._connection.execute(select(*map(_count, terms))).one()
        weighed = []
        for term, number in zip(terms, counts, strict=True):
            if number:
                weighed.append(_Word(term, number, inverse_frequency(self._rows, number)))
        return weighed


def _count(term: Term) -> ColumnElement[int]:
    """How many documents hold a term."""
    some: Select[Any] = select(_w.item_id).where(_holds(term)).limit(MOST_COUNTED)
    return select(func.count()).select_from(some.subquery()).scalar_subquery()


def _often(term: Term) -> ColumnElement[Any]:
    """How often a document holds a token, weighted; of a phrase, how often its first one."""
    place = func.array_position(_w.tokens, literal(term.tokens[0], TEXT), type_=INTEGER)
    often: ColumnElement[Any] = _w.frequencies[place]
    return often


def _phrase_frequency(term: Term, fields: Iterable[str]) -> float:
    """How often documents hold a phrase, weighted."""
    wanted = list(term.tokens)
    total = 0.0
    for weight, written in zip(WEIGHTS, fields, strict=True):
        tokens = written.split(" ")
        starts = (at for at, token in enumerate(tokens) if token == wanted[0])
        total += weight * sum(tokens[at : at + len(wanted)] == wanted for at in starts)
    return total


def _rare(words_: Sequence[_Word]) -> int:
    """How many of the rarest words few items hold in all; at least the rarest one."""
    total = 0
    for number, word in enumerate(words_):
        total += word.items
        if total > MOST_SCORED:
            return max(number, 1)
    return len(words_)
