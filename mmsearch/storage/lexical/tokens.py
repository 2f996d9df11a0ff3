"""Tokens: what texts, file names, dates and queries are compared by in a search by words.

A token is a stem in lower case, without accents. Stems depend on the language. That of a text is
detected from its words; tokens of languages other than English begin with a prefix. A query may be
a single word of any language, so a term has a form in each.
Emoji are words; invisible characters, such as soft hyphens, are left out.
Scripts that put no spaces between words give a token for each character and each pair of them.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import groupby

from mmsearch.storage.lexical.languages import ENGLISH, OTHERS, Language, language_of
from mmsearch.types import Item

TOKENIZER = 2
"""The version of the tokens. Items with older ones are indexed again, some at each search."""

LONGEST_TOKEN = 64
"""Characters; longer ones are keys or hashes, for which the beginning is enough."""

LONGEST_QUERY = 4000
"""Characters of a query that are looked at."""

LONGEST_PHRASE = 16
"""Tokens of a phrase that must follow one another; more would distinguish nothing."""

MOST_TERMS = 32
"""Terms of a query that are searched for: the first ones."""

FIRST_EMOJI = 0x2300
"""Symbols from this one on are a word each: ⌚, ☀, 🐕. Those before are signs, like © and →."""

BORDER = "¶"
"""Stands between two texts, so that no phrase is found across them; no query can contain it."""

SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19df"  # Tai Le
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\uac00-\ud7af"  # Hangul: has spaces, but what stands between them is more than a word
    "\U0001f1e6-\U0001f1ff"  # regional indicators, two of which are a flag
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""The scripts that are cut into characters and pairs, as part of a regular expression."""

_ACCENTS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_ACCENTS += "\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed"  # Hebrew, Arabic
_ACCENTS += "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # variation selectors: ❤ as a picture or a sign
_ACCENT = re.compile(f"[{_ACCENTS}]")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")
_STROKES = {"ø": "o", "đ": "d", "ł": "l", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe"}
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# compiled by the first text that is not ASCII, as that takes 5 ms
_RUN = f"[{SPACELESS}]+|[^ {SPACELESS}]+"
_SPACELESS = f"[{SPACELESS}]"
_DIGITS = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")  # IMG|2034
_CASES = re.compile(
    "(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])"  # dog|Beach
    "|(?<=[A-Z])(?=[A-Z][a-z])"  # HTML|Page
)
_QUOTED = re.compile('["“”„«»]([^"“”„«»]*)["“”„«»]')
_ISO_DATE = re.compile(r"(?<!\d)(\d{4})-(\d\d)(?:-(\d\d))?(?!\d)")
_MONTHS = "january february march april may june july august september october november december"
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday"
MONTHS, WEEKDAYS = tuple(_MONTHS.split()), tuple(_WEEKDAYS.split())

# ---------------------------------------------------------------------- documents


@dataclass(frozen=True, slots=True)
class Document:
    """The tokens of an item, separated by spaces, in fields of different weight."""

    texts: str
    """Of captions, passages, words read or heard, titles, keywords and descriptions."""
    names: str
    """Of its file and folders."""
    facts: str
    """Of the camera, the date, other metadata, tags."""

    @classmethod
    def of(cls, texts: Iterable[str], names: Iterable[str], facts: Iterable[str]) -> Document:
        """The document of an item's texts, names and facts."""
        return cls(
            _joined(map(tokens, texts)),
            _joined(map(name_tokens, names)),
            _joined(map(tokens, facts)),
        )


def tokens(text: str) -> list[str]:
    """The tokens of a text, in order; of a script without spaces, first pairs, then characters."""
    runs = runs_of(text)
    language = language_of(runs, text)
    if language is ENGLISH and text.isascii():  # as nearly always
        return list(map(_token, runs))
    written_runs = _accented_runs(text, runs) if language.uses_accents else runs
    found: list[str] = []
    for run, written in zip(runs, written_runs, strict=True):
        if _is_spaceless(run):
            found += _pairs(run)
            found += run
        else:
            found.append(_token(run, written, language))
    return found


@lru_cache(maxsize=1 << 12)  # items that follow one another mostly lie in the same folders
def name_tokens(name: str) -> tuple[str, ...]:
    """The tokens of a file's or folder's name, cut at signs, digits and case, and less finely."""
    base, ending = os.path.splitext(name)
    cut = _DIGITS.sub(" ", base)
    parts = _CASES.sub(" ", cut)
    found = tokens(parts) + tokens(ending)
    # people look for "iPhone12" as "iphone" and as "iphone12"
    less_cut = {token for one in {cut, base} - {parts} for token in tokens(one)}
    return (*found, *sorted(less_cut.difference(found)))


def date_words(written: str) -> str:
    """A date in words, "sunday 14 july jul 2019"; "" for what is no date.

    Args:
        written: ISO 8601; what follows the day is ignored.
    """
    try:
        day = date.fromisoformat(written[:10])
    except ValueError:
        return ""
    month = MONTHS[day.month - 1]
    return f"{WEEKDAYS[day.weekday()]} {day.day} {month} {month[:3]} {day.year}"


# ---------------------------------------------------------------------- queries


@dataclass(frozen=True, slots=True)
class Term:
    """What to search for: a token, or several that must follow one another."""

    tokens: tuple[str, ...]
    """Its form in English."""
    quoted: bool = False
    """Whether the user wants exactly this, so that it is never split."""
    others: tuple[tuple[str, ...], ...] = ()
    """Its forms in other languages, where they differ."""

    @property
    def forms(self) -> tuple[tuple[str, ...], ...]:
        """The distinct forms; a document contains the term if it contains any of them."""
        return (self.tokens, *self.others)

    def within(self, documents: str) -> bool:
        """Whether tokens, with a space before and after each, hold the term."""
        return any(f" {' '.join(form)} " in documents for form in self.forms)

    @property
    def match(self) -> str:
        """The term in the language of FTS5; tokens contain no signs of it."""
        return " OR ".join(f'"{" ".join(form)}"' for form in self.forms)


def query_terms(query: str) -> list[Term]:
    """The distinct terms of a query: words, "quoted phrases", runs of characters.

    Stop words are left out except in quotes, so a query may have no terms. Any text is taken: only
    quotes have a meaning in it.
    """
    return list(_query_terms(query[:LONGEST_QUERY]))


@lru_cache(maxsize=64)  # each hit's texts are compared with them
def _query_terms(query: str) -> tuple[Term, ...]:
    found: dict[tuple[str, ...], Term] = {}
    for part, quoted in _parts(query):
        for term in _phrase_terms(part) if quoted else _word_terms(part):
            found.setdefault(term.tokens, term)
    return tuple(found.values())[:MOST_TERMS]


def split_terms(terms: Iterable[Term]) -> list[Term]:
    """The distinct terms when runs of characters are split into pairs, each found by itself."""
    found: dict[tuple[str, ...], Term] = {}
    for term in terms:
        is_run = len(term.tokens) > 1 and not term.quoted
        parts = [Term((token,)) for token in term.tokens] if is_run else [term]
        for part in parts:
            found.setdefault(part.tokens, part)
    return list(found.values())[:MOST_TERMS]


def best_text(item: Item, query: str) -> int | None:
    """The index of the item's text that contains most terms of a query; None if none has any."""
    terms = split_terms(query_terms(query))
    counts = [_contained(terms, tokens(part.text)) for part in item.texts] if terms else []
    most = max(counts, default=0)
    return counts.index(most) if most else None


def _parts(query: str) -> Iterator[tuple[str, bool]]:
    """(part of the query, whether it was quoted)."""
    at = 0
    for quote in _QUOTED.finditer(query):
        yield query[at : quote.start()], False
        yield quote[1], True
        at = quote.end()
    yield query[at:], False


def _word_terms(text: str) -> Iterator[Term]:
    text = _ISO_DATE.sub(_date_in_words, text)
    runs = runs_of(text)
    stop_words = language_of(runs, text).stop_words
    for run, accented in zip(runs, _accented_runs(text, runs), strict=True):
        if _is_spaceless(run):
            yield Term(_run_tokens(run))
        elif run not in stop_words:
            yield _term((run,), (accented,))


def _phrase_terms(text: str) -> Iterator[Term]:
    runs = runs_of(text)
    pairs = zip(runs, _accented_runs(text, runs), strict=True)
    for spaceless, some in groupby(pairs, lambda pair: _is_spaceless(pair[0])):
        words, accented = zip(*some, strict=True)
        if spaceless:
            yield from (Term(_run_tokens(run), quoted=True) for run in words)
        elif len(words) > 1 or words[0] not in ENGLISH.stop_words:
            yield _term(words[:LONGEST_PHRASE], accented, quoted=True)


def _term(words: tuple[str, ...], accented: tuple[str, ...], *, quoted: bool = False) -> Term:
    """The term for words that follow one another, with its forms in all languages."""
    english = tuple(map(_token, words))
    forms = {english: None}  # in order, each once
    for language in OTHERS:
        # with accents, and as people write it who leave them out
        both = language.uses_accents and accented != words
        for written in (accented, words) if both else (words,):
            pairs = zip(words, written, strict=False)
            forms[tuple(_token(word, one, language) for word, one in pairs)] = None
    return Term(english, quoted, tuple(forms)[1:])


def _run_tokens(run: str) -> tuple[str, ...]:
    return tuple(_pairs(run)[:LONGEST_PHRASE]) or (run,)


def _date_in_words(found: re.Match[str]) -> str:
    year, month, day = found.groups()
    if not 1 <= int(month) <= 12:
        return found[0]
    return f"{day or ''} {MONTHS[int(month) - 1]} {year}"


def _contained(terms: Sequence[Term], text: list[str]) -> int:
    """How many of the terms the tokens of a text contain."""
    joined = f" {' '.join(text)} "
    return sum(term.within(joined) for term in terms)


# ---------------------------------------------------------------------- characters


def runs_of(text: str) -> list[str]:
    """A text's words, and its runs of characters of scripts without spaces, in plain letters."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return re.findall(_RUN, _plain(text))


def _is_spaceless(run: str) -> bool:
    return not run.isascii() and re.match(_SPACELESS, run) is not None


def _pairs(run: str) -> list[str]:
    """Each two neighbouring characters of a run: in this order they are the run."""
    return [run[at : at + 2] for at in range(len(run) - 1)]


def _accented_runs(text: str, runs: list[str]) -> list[str]:
    """A text's runs with their accents, on which French and Czech stems depend."""
    if text.isascii():
        return runs
    accented = re.findall(_RUN, _plain(text, _ACCENTED_LETTERS))
    return accented if len(accented) == len(runs) else runs  # an accent that stands alone


@lru_cache(maxsize=1 << 16)
def _token(word: str, accented: str | None = None, language: Language = ENGLISH) -> str:
    if word.isascii():
        if word.isdigit():
            word = word.lstrip("0") or "0"  # IMG_0042 is found by 42
        elif word.isalpha() and len(word) <= LONGEST_TOKEN:
            if language is ENGLISH:
                return language.stem(word)
            stem = language.stem(accented or word)
            return language.prefix + (stem if stem.isascii() else _plain(stem))
    return word[:LONGEST_TOKEN]


class _Letters(dict[int, str]):
    """A table for `str.translate`, filled as characters are met.

    Args:
        accents: The accents to keep.
    """

    def __init__(self, accents: str = "") -> None:
        super().__init__((ord(accent), accent) for accent in accents)

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if _ACCENT.match(character) or category == "Cf":  # soft hyphens, joiners, direction marks
            kept = ""
        elif category[0] in "LNM" or _FLAG.match(character):
            kept = _STROKES.get(character, character)
        elif category == "So" and code >= FIRST_EMOJI:
            kept = f" {character} "
        else:
            kept = " "
        self[code] = kept
        return kept


_LETTERS = _Letters()
_ACCENTED_LETTERS = _Letters("\u0300\u0301\u0302\u0308\u030a\u030c\u0327")  # French, Czech


def _plain(text: str, letters: _Letters = _LETTERS) -> str:
    """A text in letters, digits and spaces only, without case and accents."""
    # twice: what is folded can decompose again, and what decomposed can have case
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.casefold()).casefold())
    return unicodedata.normalize("NFC", apart.translate(letters))


def _joined(parts: Iterable[Sequence[str]]) -> str:
    return f" {BORDER} ".join(" ".join(part) for part in parts if part)
