"""What the words of a query ask for, as a full-text index is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mmsearch.storage.lexical.tokens import MONTHS, is_spaceless, pairs, runs, token_of, tokens
from mmsearch.types import Item

LONGEST_QUERY = 4000
"""Characters of a query that are looked at."""

LONGEST_PHRASE = 16
"""Tokens of a phrase that must follow one another; more would tell nothing more."""

MOST_TERMS = 32
"""Terms of a query that are searched for: its first ones."""

_STOP_WORDS = (
    "a about after again all also am an and any are as at be because been before being both but "
    "by could d did do does doing don during each either etc few for from further had has "
    "have having he her here hers him his how i if in is it its just ll m many me more most much "
    "my no nor not of on once only or other our ours own re s same she should so some such t than "
    "that the their theirs them then there these they this those to too until upon us ve very was "
    "we were what when where which while who whom whose why will with within without would you "
    "your yours"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that say how others belong together; they are no term of their own."""

_QUOTED = re.compile('["“”„«»]([^"“”„«»]*)["“”„«»]')
_ISO_DATE = re.compile(r"(?<!\d)(\d{4})-(\d\d)(?:-(\d\d))?(?!\d)")


@dataclass(frozen=True, slots=True)
class Term:
    """A token, or several that must follow one another."""

    tokens: tuple[str, ...]
    quoted: bool = False
    """The user wants just this, so it is never broken up."""

    @property
    def match(self) -> str:
        """It in the language of FTS5; tokens hold letters and digits only, so no sign of it."""
        return f'"{" ".join(self.tokens)}"'


def asked(query: str) -> list[Term]:
    """What a query asks for, each once: words, "quoted phrases", runs of characters.

    Stop words are left out but in quotes; with nothing else there is nothing to find. Any text is
    taken: no sign in it has a meaning but the quotes.
    """
    found: dict[tuple[str, ...], Term] = {}
    for part, quoted in _parts(query[:LONGEST_QUERY]):
        for term in _phrases(part) if quoted else _words(part):
            found.setdefault(term.tokens, term)
    return list(found.values())[:MOST_TERMS]


def broken_up(terms: Iterable[Term]) -> list[Term]:
    """Terms, long runs of characters as the pairs they are made of: parts of them may do."""
    found: dict[tuple[str, ...], Term] = {}
    for term in terms:
        parts = [term] if term.quoted else [Term((token,)) for token in term.tokens]
        for part in parts:
            found.setdefault(part.tokens, part)
    return list(found.values())[:MOST_TERMS]


def words_part(item: Item, query: str) -> int | None:
    """Which of an item's texts holds most of a query's words; None if none holds any."""
    terms = broken_up(asked(query))
    counts = [_held(terms, tokens(part.text)) for part in item.texts] if terms else []
    most = max(counts, default=0)
    return counts.index(most) if most else None


# ---------------------------------------------------------------------- parts of the above


def _parts(query: str) -> Iterator[tuple[str, bool]]:
    """(stretch of the query, whether it was quoted)."""
    at = 0
    for quote in _QUOTED.finditer(query):
        yield query[at : quote.start()], False
        yield quote[1], True
        at = quote.end()
    yield query[at:], False


def _words(text: str) -> Iterator[Term]:
    for run in runs(_ISO_DATE.sub(_date_in_words, text)):
        if run not in STOP_WORDS:
            yield Term(_tokens_of(run))


def _phrases(text: str) -> Iterator[Term]:
    for spaceless, some in groupby(runs(text), is_spaceless):
        words = list(some)
        if spaceless:
            yield from (Term(_tokens_of(run), quoted=True) for run in words)
        elif len(words) > 1 or words[0] not in STOP_WORDS:
            yield Term(tuple(map(token_of, words[:LONGEST_PHRASE])), quoted=True)


def _tokens_of(run: str) -> tuple[str, ...]:
    if not is_spaceless(run):
        return (token_of(run),)
    return tuple(pairs(run)[:LONGEST_PHRASE]) or (run,)


def _date_in_words(found: re.Match[str]) -> str:
    year, month, day = found.groups()
    if not 1 <= int(month) <= 12:
        return found[0]
    return f"{day or ''} {MONTHS[int(month) - 1]} {year}"


def _held(terms: Sequence[Term], there: list[str]) -> int:
    """How many of the terms are among the tokens of a text."""
    joined = f" {' '.join(there)} "
    return sum(f" {' '.join(term.tokens)} " in joined for term in terms)
