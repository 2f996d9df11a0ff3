"""The full-text index of the items: their tokens in arrays with a GIN index, searched by BM25.

Documents are those of the local index (`storage.lexical`, `storage.sql.documents`), and so are the
scores, which FTS5 computes there: PostgreSQL names the items that hold the words, and returns how
often each holds them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    any_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY

from mmsearch.storage.lexical import WEIGHTS, Document, Term, query_terms
from mmsearch.storage.lexical.bm25 import (
    MOST_PASSED,
    MOST_SCORED,
    MOST_SEEN,
    Groups,
    Matching,
    Word,
    inverse_frequency,
    ranking,
    term_frequency,
)
from mmsearch.storage.postgres.filters import is_in
from mmsearch.storage.postgres.schema import DOCUMENTS, TOKENS, word_counts, words, words_due
from mmsearch.storage.sql.database import is_one_of
from mmsearch.storage.sql.documents import documents, is_outdated, put_tokenizer
from mmsearch.storage.sql.schema import items
from mmsearch.storage.sql.types import INTEGER, TEXT
from mmsearch.storage.store import WordStore
from mmsearch.types import Progress, Ranking
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage.postgres.database import Database

BATCH = 1000
"""Items that are indexed in one transaction; others may write between two of them."""

PAGE = 200
"""Items whose texts are in memory at once."""

_w, _counted = words.c, word_counts.c

_FIELDS = ("texts", "names", "facts")


class Words(WordStore):
    """The full-text index over texts, names and facts of the items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self) -> int:
        with self._database.read() as connection:
            table = items if is_outdated(connection) else words_due
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

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
        return done

    def search(self, query: str, k: int, allowed: IdSet | None = None) -> Ranking:
        terms = query_terms(query)
        if not terms or k < 1 or (allowed is not None and not len(allowed)):
            return []
        with self._database.read() as connection:
            matching = PostgresMatching(connection, k, allowed, self._database.found)
            return ranking(matching.scores, terms, k)

    def holding(self, query: str, ids: Sequence[int]) -> set[int]:
        terms = query_terms(query)
        if not terms or not len(ids):
            return set()
        every = and_(*map(_holds_term, terms))
        return set(
            self._database.scalars(select(_w.item_id).where(every, is_one_of(_w.item_id, ids)))
        )


def _refresh(connection: Connection, limit: int) -> int:
    """Index at most so many items; returns how many they were."""
    if is_outdated(connection):
        connection.execute(delete(words_due))
        connection.execute(insert(words_due).from_select(["item_id"], select(items.c.id)))
        put_tokenizer(connection)
    due = select(words_due.c.item_id).order_by(words_due.c.item_id).limit(limit)
    ids = list(connection.execute(due).scalars())
    for start in range(0, len(ids), PAGE):
        some = ids[start : start + PAGE]
        rows = [_row(id_, document) for id_, document in documents(connection, some)]
        connection.execute(delete(words).where(is_one_of(_w.item_id, some)))
        _insert(connection, rows)
    connection.execute(delete(words_due).where(is_one_of(words_due.c.item_id, ids)))
    return len(ids)


def _insert(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert documents in one statement: the trigger that counts words runs once per statement."""
    driver: Any = connection.connection.driver_connection
    names = ", ".join(column.name for column in words.columns)
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY words ({names}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(["int8", "text", "text", "text", "int8", "text[]", "float8[]"])
        for row in rows:
            copy.write_row(row)


def _row(item_id: int, document: Document) -> tuple[Any, ...]:
    fields = [getattr(document, name) for name in _FIELDS]
    frequencies: Counter[str] = Counter()
    size = 0
    for weight, written in zip(WEIGHTS, fields, strict=True):
        tokens = written.split()
        size += len(tokens)
        for token, number in Counter(tokens).items():
            frequencies[token] += weight * number  # type: ignore[assignment]
    return item_id, *fields, size, list(frequencies), list(frequencies.values())


# ---------------------------------------------------------------------- queries


def _holds(form: Sequence[str]) -> ColumnElement[bool]:
    """Whether a document holds a token, or several that follow one another."""
    tokens = literal(list(dict.fromkeys(form)), ARRAY(TEXT))
    there: ColumnElement[bool] = _w.tokens.contains(tokens)
    if len(form) == 1:
        return there
    phrase = literal(f" {' '.join(form)} ", TEXT)
    space = literal(" ", TEXT)
    fields = (space.concat(_w[name]).concat(space) for name in _FIELDS)
    return and_(there, or_(*(func.strpos(field, phrase) > 0 for field in fields)))


def _holds_term(term: Term) -> ColumnElement[bool]:
    return or_(*map(_holds, term.forms))


def _matches(groups: Groups) -> ColumnElement[bool]:
    return and_(*(or_(*(_holds_term(word.term) for word in group)) for group in groups))


class PostgresMatching(Matching):
    """One query on the word index.

    Args:
        connection: In a transaction.
        k: How many items are wanted.
        allowed: Only these items, which the server compares; None allows all.
        found: What was found before at the same moment.
    """

    def __init__(
        self, connection: Connection, k: int, allowed: IdSet | None, found: dict[Any, Any]
    ) -> None:
        self._connection = connection
        self._found = found
        self._among = true() if allowed is None else is_in(_w.item_id, allowed)
        if _TOTALS not in found:
            found[_TOTALS] = connection.execute(_TOTALS).one()
        self._items, tokens, low, high = found[_TOTALS]
        self._average = max(int(tokens) / max(self._items, 1), 1e-9)
        super().__init__(k, None, low, high)

    @property
    def items(self) -> int:
        return int(self._items)

    def counts(self, tokens: Iterable[str]) -> dict[str, int]:
        counts = dict.fromkeys(tokens, 0)
        listed = literal([*counts], ARRAY(TEXT))
        chosen = select(_counted.token, _counted.number).where(_counted.token == any_(listed))
        for token, number in self._connection.execute(chosen):
            counts[token] = number
        return counts

    def scored(self, groups: Groups, ids: Sequence[int] | None = None) -> dict[int, float]:
        words_ = {word.term: word for group in groups for word in group}.values()
        forms = [form for word in words_ for form in word.term.forms]
        idfs = [[self._idf(word, form) for form in word.term.forms] for word in words_]
        which = _matches(groups) if ids is None else is_one_of(_w.item_id, ids)
        found = {}
        for item_id, size, frequencies in self._frequencies(forms, which):
            each = iter(frequencies)
            found[item_id] = sum(
                max(idf * term_frequency(next(each), size, self._average) for idf in some)
                for some in idfs
            )
        return found

    def ids(self, groups: Groups, cost: int = 0) -> NDArray[np.int64]:
        import numpy as np

        share = min(1.0, MOST_PASSED / cost) if cost else 1.0
        high = self._low + math.ceil((self._high - self._low) * share)
        which = and_(_matches(groups), self._among, _w.item_id.between(self._low, high))
        some = select(_w.item_id).where(which).order_by(_w.item_id)
        some = some.limit(MOST_SCORED if cost else MOST_SEEN)
        listed = self._connection.execute(select(func.array_agg(some.subquery().c.item_id)))
        return np.array(listed.scalar_one() or [], dtype=np.int64)

    def _idf(self, word: Word, form: Sequence[str]) -> float:
        """As in FTS5; that of a phrase is by the number of items that hold all of it."""
        if len(form) == 1:
            return word.idf
        if form not in self._found:
            holding = select(func.count()).select_from(words).where(_holds(form))
            self._found[form] = self._connection.execute(holding).scalar_one()
        return inverse_frequency(self.items, self._found[form])

    def _frequencies(
        self, forms: Sequence[Sequence[str]], which: ColumnElement[bool]
    ) -> Iterator[tuple[int, int, list[float]]]:
        """The ids and lengths of documents, and the weighted frequency of each form in them."""
        chosen = select(_w.item_id, _w.size, *map(_often, forms)).where(which, self._among)
        phrases = [at for at, form in enumerate(forms) if len(form) > 1]
        if phrases:
            chosen = chosen.add_columns(*(_w[name] for name in _FIELDS))
        for item_id, size, *row in self._connection.execute(chosen):
            counts = [often or 0.0 for often in row[: len(forms)]]
            for at in phrases:
                counts[at] = _phrase_frequency(forms[at], row[-len(_FIELDS) :])
            yield item_id, size, counts


def _often(form: Sequence[str]) -> ColumnElement[Any]:
    """The weighted frequency of a token in a document; for a phrase, that of its first token."""
    place = func.array_position(_w.tokens, literal(form[0], TEXT), type_=INTEGER)
    often: ColumnElement[Any] = _w.frequencies[place]
    return often


def _phrase_frequency(form: Sequence[str], fields: Iterable[str]) -> float:
    """The weighted frequency of a phrase in a document."""
    wanted = list(form)
    total = 0.0
    for weight, written in zip(WEIGHTS, fields, strict=True):
        tokens = written.split(" ")
        starts = (at for at, token in enumerate(tokens) if token == wanted[0])
        total += weight * sum(tokens[at : at + len(wanted)] == wanted for at in starts)
    return total


def _count_of(what: str) -> ColumnElement[Any]:
    one = select(_counted.number).where(_counted.token == what)
    return func.coalesce(one.scalar_subquery(), 0)


_TOTALS = select(
    _count_of(DOCUMENTS),
    _count_of(TOKENS),
    *(func.coalesce(select(end(_w.item_id)).scalar_subquery(), 0) for end in (func.min, func.max)),
)
"""The number of documents, the number of tokens in them, and the lowest and the highest id."""
