"""The full-text index: an item's words in a row, found by Milvus and scored in Python.

A row has the distinct words of an item, by which the server finds it, and all its words in order,
by which phrases are checked and BM25 is computed as FTS5 computes it. What does not fit into the
fields of one row goes on in further ones; each word is in one of them only, so that rows that hold
it count items.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmsearch.storage.lexical import (
    TOKENIZER,
    WEIGHTS,
    Document,
    Term,
    item_document,
    query_terms,
)
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
from mmsearch.storage.lexical.languages import PREFIXES
from mmsearch.storage.milvus.client import Client, Row
from mmsearch.storage.milvus.database import Database
from mmsearch.storage.milvus.files import Sources
from mmsearch.storage.milvus.layout import LONGEST, Field, Layout, quoted
from mmsearch.storage.milvus.rows import read_texts, sorted_ids, texts_by_key
from mmsearch.storage.store import WordStore
from mmsearch.storage.stored_text import text_of
from mmsearch.types import Progress, Ranking
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS = "words"
"""The table, and the document that says up to which write it follows the items."""

LAYOUT = Layout(
    {
        "id": Field("int", key=True),  # the item's; of further rows, see `_row_id`
        "item_id": Field("int", indexed=True),
        "rows": Field("int"),  # of this item
        "length": Field("int"),  # its words
        "terms": Field("texts", indexed=True),
        "words": Field("text"),  # of its texts, names and facts, with a "/" between
        "dummy": Field("dummy"),
    }
)

MOST_TERMS = 4_000
"""Distinct words in a row: an array of Milvus holds 4,096."""

BATCH = 1_000
"""Items that are indexed at a time."""

FEW = 10_000
"""Of so many items the words are counted again by a search after some were deleted; of more, the
average that the last refresh left stands."""

BETWEEN = "/"
"""Stands between the fields of a document: no word is that."""

FURTHER = 1 << 52
"""Rows of this id and above are further ones."""

_FIELDS = ("id", "item_id", "rows", "length", "words")


@dataclass(frozen=True, slots=True)
class Followed:
    """How far the index follows the items.

    Attributes:
        upto: The last write that it follows.
        items: How many it has.
        words: How many words they have in all.
        tokenizer: The version of the tokens.
    """

    upto: int = 0
    items: int = 0
    words: int = 0
    tokenizer: int = 1

    @classmethod
    def of(cls, database: Database) -> Followed:
        """As it is stored; of older tokens, it follows no write."""
        written = database.document(WORDS)
        found = cls(**json.loads(written)) if written else cls()
        return replace(found, upto=0) if found.tokenizer < TOKENIZER else found


class Words(WordStore):
    """The full-text index over texts, names and facts of the items.

    Args:
        database: The index's.
        sources: Of its items.
    """

    def __init__(self, database: Database, sources: Sources) -> None:
        self._database = database
        self._sources = sources
        self._found: dict[Any, Any] = {}
        self._moment: Any = None

    # ------------------------------------------------------------------ bringing it up to date

    def due(self) -> int:
        client, items = self._database.client, self._database.collection("items")
        return client.count(items, f"words_due > {self._followed.upto}")

    @property
    def _followed(self) -> Followed:
        return Followed.of(self._database)

    def refresh(self, at_most: int | None = None, progress: Progress | None = None) -> int:
        due = self._due_items(at_most)
        done = 0
        for start in range(0, len(due), BATCH):
            some = due[start : start + BATCH]
            is_whole = start + BATCH >= len(due) or due[start + BATCH][0] > some[-1][0]
            with self._database.write() as write:
                before = self._followed
                change = self._put([item_id for _, item_id in some])
                upto = some[-1][0] if is_whole else before.upto
                counts = before.items + change[0], before.words + change[1]
                if is_whole and counts[0] != self._count():  # items were deleted meanwhile
                    counts = _counted(write.client, self._database.collection(WORDS))
                now = Followed(upto, *counts, TOKENIZER)
                write.put_document(WORDS, json.dumps(asdict(now)))
            done += len(some)
            if progress is not None:
                progress(done, len(due))
        return done

    def _count(self) -> int:
        name = self._database.collection(WORDS)
        return self._database.client.count(name, f"id < {FURTHER}")

    def _due_items(self, at_most: int | None) -> list[tuple[int, int]]:
        """(write, item id) of the items that have changed, in order; whole writes only."""
        client, items = self._database.client, self._database.collection("items")
        rows = client.query(items, f"words_due > {self._followed.upto}", ["id", "words_due"])
        found = sorted((row["words_due"], row["id"]) for row in rows)
        if at_most is None or at_most >= len(found):
            return found
        # what is left out of a write would never be due again
        last = found[at_most][0]
        whole = [one for one in found[:at_most] if one[0] < last]
        return whole or [one for one in found if one[0] == last]

    def _put(self, ids: Sequence[int]) -> tuple[int, int]:
        """Index items; returns how many more items, and words of them, there are."""
        client, name = self._database.client, self._database.collection(WORDS)
        client.create(name, LAYOUT)
        known = client.among(name, "item_id", ids, ["id", "length"], f"id < {FURTHER}")
        client.delete_among(name, "item_id", ids)
        rows = [row for id_, one in self._documents(ids) for row in _rows(id_, one)]
        client.upsert(name, rows)
        new = [row for row in rows if row["id"] < FURTHER]
        words = sum(row["length"] for row in new) - sum(row["length"] for row in known)
        return len(new) - len(known), words

    def _documents(self, ids: Sequence[int]) -> Iterator[tuple[int, Document]]:
        client, items = self._database.client, self._database.collection("items")
        fields = ["id", "source_id", "folder", "name", "camera", "taken_at", "mtime_ns"]
        fields += ["meta", "own", "tags", "texts", "parts", "parts_write"]
        sources, rows = self._sources.roots(), client.among(items, "id", ids, fields)
        texts = read_texts(self._database, rows)
        for row in rows:
            own, meta = texts_by_key(row["own"]), texts_by_key(row["meta"])
            document = item_document(
                [text for _, text, *_ in texts[row["id"]]],
                [(key, meta[key], key in own) for key in sorted(meta)],
                sorted(map(text_of, row["tags"])),
                root=sources.get(row["source_id"], ""),
                folder=text_of(row["folder"]),
                name=text_of(row["name"]),
                camera=None if row["camera"] is None else text_of(row["camera"]),
                taken_at=row["taken_at"],
                mtime_ns=row["mtime_ns"],
            )
            yield row["id"], document

    # ------------------------------------------------------------------ searching

    def search(self, query: str, k: int, allowed: IdSet | None = None) -> Ranking:
        terms = query_terms(query)
        if not terms or k < 1 or (allowed is not None and not len(allowed)):
            return []
        matching = self._matching(k, allowed)
        return ranking(matching.scores, terms, k)

    def holding(self, query: str, ids: Sequence[int]) -> set[int]:
        terms = query_terms(query)
        if not terms or not len(ids):
            return set()
        found = self._matching(len(ids), None).documents_of(ids)
        return {id_ for id_, one in found.items() if all(one.holds(term) for term in terms)}

    def _matching(self, k: int, allowed: IdSet | None) -> MilvusMatching:
        moment = self._database.moment()
        if moment != self._moment:
            self._found, self._moment = {}, moment
        return MilvusMatching(self._database, k, allowed, self._found)


class MilvusMatching(Matching):
    """One query on the rows of words.

    Args:
        database: The index's.
        k: How many items are wanted.
        allowed: Only these items; None allows all.
        found: What was found before at the same moment.
    """

    def __init__(
        self, database: Database, k: int, allowed: IdSet | None, found: dict[Any, Any]
    ) -> None:
        self._client = database.client
        self._name = database.collection(WORDS)
        self._found = found
        followed = Followed.of(database)
        number, words = followed.items, followed.words
        if number != self.items and self.items <= FEW:  # items were deleted since
            number, words = _counted(self._client, self._name)
        self._average = max(words, 1) / max(number, 1)
        super().__init__(k, allowed, 0, int(database.head()["numbers"].get("items", 0)))

    @property
    def items(self) -> int:
        if "items" not in self._found:
            self._found["items"] = self._client.count(self._name, f"id < {FURTHER}")
        return int(self._found["items"])

    def counts(self, tokens: Iterable[str]) -> dict[str, int]:
        counts = {}
        for token in tokens:
            # most indexes have texts of few languages, and each count is a request
            is_absent = token[0] in PREFIXES and not self._count(token[0])
            counts[token] = 0 if is_absent else self._count(token)
        return counts

    def _count(self, token: str) -> int:
        if token not in self._found:
            self._found[token] = self._client.count(self._name, _holds(token))
        return int(self._found[token])

    def scored(self, groups: Groups, ids: Sequence[int] | None = None) -> dict[int, float]:
        found = self._matching_documents(groups, ids)
        words = {word.term: word for group in groups for word in group}.values()
        idfs = [[(form, self._idf(word, form)) for form in word.term.forms] for word in words]
        return {
            id_: sum(
                max(idf * one.weight(form, self._average) for form, idf in forms) for forms in idfs
            )
            for id_, one in found.items()
        }

    def ids(self, groups: Groups, cost: int = 0) -> NDArray[np.int64]:
        share = min(1.0, MOST_PASSED / cost) if cost else 1.0
        high = self._low + math.ceil((self._high - self._low) * share)
        inside = f"item_id >= {self._low} and item_id <= {high}"
        most = MOST_SCORED if cost else MOST_SEEN
        words = [word for group in groups for word in group]
        if any(len(form) > 1 for word in words for form in word.term.forms):
            found = self._matching_documents(groups, None)
            return sorted_ids({"id": id_} for id_ in found if self._low <= id_ <= high)[:most]
        rows = self._client.query(
            self._name, f"({_expression(groups)}) and {inside}", ["id", "item_id"]
        )
        import numpy as np

        return np.unique(sorted_ids(rows, "item_id"))[:most]

    # ------------------------------------------------------------------ documents

    def _idf(self, word: Word, form: Sequence[str]) -> float:
        """As FTS5 has it, of a phrase by the number of items that hold it whole."""
        if len(form) == 1:
            return word.idf
        if form not in self._found:
            held = " and ".join(map(_holds, dict.fromkeys(form)))
            documents = self._documents(f"({held}) or (rows > 1 and {_any(form)})")
            self._found[form] = sum(one.frequency(form) > 0 for one in documents.values())
        return inverse_frequency(self.items, self._found[form])

    def _matching_documents(
        self, groups: Groups, ids: Sequence[int] | None
    ) -> dict[int, _StoredDocument]:
        documents = (
            self.documents_of(ids) if ids is not None else self._documents(_expression(groups))
        )
        return {
            id_: one
            for id_, one in documents.items()
            if all(any(one.holds(word.term) for word in group) for group in groups)
        }

    def documents_of(self, ids: Sequence[int]) -> dict[int, _StoredDocument]:
        """The documents of some items by id."""
        return _read(self._client.among(self._name, "item_id", ids, _FIELDS))

    def _documents(self, expression: str) -> dict[int, _StoredDocument]:
        if expression not in self._found:
            rows = self._client.query(self._name, expression, _FIELDS)
            several = {row["item_id"] for row in rows if row["rows"] > 1}
            rows = [row for row in rows if row["rows"] == 1]
            rows += self._client.among(self._name, "item_id", sorted(several), _FIELDS)
            self._found[expression] = _read(rows)
        found: dict[int, _StoredDocument] = self._found[expression]
        return found


class _StoredDocument:
    """The words of an item.

    Args:
        length: How many they are.
        words: As a row has them.
    """

    def __init__(self, length: int, words: str) -> None:
        self._length = length
        self._words = words

    @cached_property
    def _fields(self) -> list[str]:
        fields: list[list[str]] = [[]]
        for word in self._words.split(" "):
            if word == BETWEEN:
                fields.append([])
            else:
                fields[-1].append(word)
        return [f" {' '.join(some)} " for some in fields]

    def holds(self, term: Term) -> bool:
        """Whether a term is in one of the fields."""
        return any(map(term.within, self._fields))

    def frequency(self, form: Sequence[str]) -> float:
        """How often a form of a term is there, by the weights of the fields."""
        return sum(
            weight * _times(form, part) for weight, part in zip(WEIGHTS, self._fields, strict=True)
        )

    def weight(self, form: Sequence[str], average: float) -> float:
        """BM25 of a form whose idf is 1, given how many words documents have on average."""
        return term_frequency(self.frequency(form), self._length, average)


def _counted(client: Client, name: str) -> tuple[int, int]:
    """How many items there are, and how many words they have in all."""
    lengths = [
        row["length"]
        for page in client.pages(name, f"id < {FURTHER}", ["id", "length"])
        for row in page
    ]
    return len(lengths), sum(lengths)


def _times(tokens: Sequence[str], part: str) -> int:
    wanted = f" {' '.join(tokens)} "
    if wanted not in part:
        return 0
    words = part.split()
    first, number = tokens[0], len(tokens)
    return sum(
        word == first and tuple(words[at : at + number]) == tuple(tokens)
        for at, word in enumerate(words)
    )


def _rows(item_id: int, document: Document) -> list[Row]:
    """The rows of an item."""
    fields = [part.split(" ") if part else [] for part in
              (document.texts, document.names, document.facts)]  # fmt: skip
    words = [*fields[0], BETWEEN, *fields[1], BETWEEN, *fields[2]]
    distinct = set(words) - {BETWEEN}
    terms = sorted(distinct.union(word[0] for word in distinct if word[0] in PREFIXES))
    texts = list(_portions(words, LONGEST))
    lists = [terms[at : at + MOST_TERMS] for at in range(0, len(terms), MOST_TERMS)]
    number = max(len(texts), len(lists), 1)
    return [
        {
            "id": _row_id(item_id, part),
            "item_id": item_id,
            "rows": number,
            "length": len(words) - 2,
            "terms": lists[part] if part < len(lists) else [],
            "words": texts[part] if part < len(texts) else "",
            "dummy": [0.0, 0.0],
        }
        for part in range(number)
    ]


def _row_id(item_id: int, part: int) -> int:
    return item_id if not part else FURTHER * part + item_id


def _portions(words: Iterable[str], most: int) -> Iterator[str]:
    """Words with spaces between, in portions of so many bytes."""
    some: list[str] = []
    size = 0
    for word in words:
        size += len(word.encode()) + 1
        if size > most:
            yield " ".join(some)
            some, size = [], len(word.encode()) + 1
        some.append(word)
    yield " ".join(some)


def _read(rows: Iterable[Row]) -> dict[int, _StoredDocument]:
    parts: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        parts[row["item_id"]].append(row)
    found = {}
    for id_, some in parts.items():
        words = " ".join(row["words"] for row in sorted(some, key=lambda row: row["id"]))
        found[id_] = _StoredDocument(some[0]["length"], words)
    return found


def _holds(token: str) -> str:
    return f"array_contains(terms, {quoted(token)})"


def _any(tokens: Iterable[str]) -> str:
    listed = ",".join(map(quoted, dict.fromkeys(tokens)))
    return f"array_contains_any(terms, [{listed}])"


def _expression(groups: Groups) -> str:
    """What the rows of matching items fulfil; further rows of an item may hold other words."""
    found = []
    for group in groups:
        forms = [form for word in group for form in word.term.forms]
        single = [form[0] for form in forms if len(form) == 1]
        ways = [_any(single)] if single else []
        ways += [" and ".join(map(_holds, dict.fromkeys(form))) for form in forms if len(form) > 1]
        found.append(" or ".join(f"({way})" for way in ways))
    every = " and ".join(f"({one})" for one in found)
    forms = [form for group in groups for word in group for form in word.term.forms]
    tokens = [token for form in forms for token in form]
    is_certain = len(groups) == 1 and all(len(form) == 1 for form in forms)
    return every if is_certain else f"({every}) or (rows > 1 and {_any(tokens)})"
