"""Turns texts, file names and dates into the tokens that a search compares.

A token is a word in lower case, without accents and, in plain letters, without its English ending;
or, of scripts that put no spaces between words, each character and each two that stand together.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from mmsearch.storage.lexical.porter import stem

LONGEST_TOKEN = 64
"""Characters; what is longer is a key or a hash, and is known by its beginning."""

BORDER = "¶"
"""Stands between two texts, so that no phrase is found across them; no query can hold it."""

SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19df"  # Tai Le
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\uac00-\ud7af"  # Hangul: has spaces, but what stands between them is more than a word
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""The scripts that are cut into characters and pairs, as a part of a regular expression."""

_POINTS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"  # accents
_POINTS += "\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed"  # Hebrew, Arabic
_POINT = re.compile(f"[{_POINTS}]")
_STROKES = {"ø": "o", "đ": "d", "ł": "l", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe"}
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_RUN = re.compile(f"[{SPACELESS}]+|[^ {SPACELESS}]+")
_SPACELESS = re.compile(f"[{SPACELESS}]")
_DIGITS = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")  # IMG|2034
_CASES = re.compile(
    "(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])"  # dog|Beach
    "|(?<=[A-Z])(?=[A-Z][a-z])"  # HTML|Page
)
_MONTHS = "january february march april may june july august september october november december"
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday"
MONTHS, WEEKDAYS = tuple(_MONTHS.split()), tuple(_WEEKDAYS.split())


@dataclass(frozen=True, slots=True)
class Document:
    """The tokens of an item, with spaces between, by how much they say of it."""

    texts: str
    """Captions, passages, what was read or heard."""
    names: str
    """Of its file and folders."""
    facts: str
    """Camera, date, the user's metadata, tags."""

    @classmethod
    def of(cls, texts: Iterable[str], names: Iterable[str], facts: Iterable[str]) -> Document:
        """The document of an item's texts, names and facts."""
        return cls(
            _joined(map(tokens, texts)),
            _joined(map(name_tokens, names)),
            _joined(map(tokens, facts)),
        )


def runs(text: str) -> list[str]:
    """A text's words, and what stands together in scripts without spaces, in plain letters."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _RUN.findall(_plain(text))


def tokens(text: str) -> list[str]:
    """The tokens of a text, in order; of characters with no spaces, first pairs, then each one."""
    if text.isascii():  # as nearly always
        return list(map(token_of, runs(text)))
    found: list[str] = []
    for run in runs(text):
        if is_spaceless(run):
            found += pairs(run)
            found += run
        else:
            found.append(token_of(run))
    return found


def is_spaceless(run: str) -> bool:
    """Whether a run is of a script without spaces."""
    return not run.isascii() and _SPACELESS.match(run) is not None


def pairs(run: str) -> list[str]:
    """Each two characters of a run that stand together: one after the other they are the run."""
    return [run[at : at + 2] for at in range(len(run) - 1)]


@lru_cache(maxsize=1 << 16)
def token_of(word: str) -> str:
    """What a word is compared as."""
    if word.isascii():
        if word.isdigit():
            word = word.lstrip("0") or "0"  # IMG_0042 is found by 42
        elif word.isalpha() and len(word) <= LONGEST_TOKEN:
            word = stem(word)
    return word[:LONGEST_TOKEN]


@lru_cache(maxsize=1 << 12)  # items that follow one another mostly lie in the same folders
def name_tokens(name: str) -> tuple[str, ...]:
    """The tokens of a file's or folder's name: cut at signs, digits and case, and less cut."""
    base, ending = os.path.splitext(name)
    cut = _DIGITS.sub(" ", base)
    parts = _CASES.sub(" ", cut)
    found = tokens(parts) + tokens(ending)
    # "iPhone12" is asked for as "iphone" and "iphone12"
    less_cut = {token for one in {cut, base} - {parts} for token in tokens(one)}
    return (*found, *sorted(less_cut.difference(found)))


def date_words(written: str) -> str:
    """A date in words, "sunday 14 july jul 2019"; nothing for what is no date.

    Args:
        written: ISO 8601; what follows the day is left aside.
    """
    try:
        day = date.fromisoformat(written[:10])
    except ValueError:
        return ""
    month = MONTHS[day.month - 1]
    return f"{WEEKDAYS[day.weekday()]} {day.day} {month} {month[:3]} {day.year}"


# ---------------------------------------------------------------------- parts of the above


class _Letters(dict[int, str]):
    """What becomes of each character, found out when it is first seen."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _POINT.match(character):
            kept = ""
        elif unicodedata.category(character)[0] in "LNM":
            kept = _STROKES.get(character, character)
        else:
            kept = " "
        self[code] = kept
        return kept


_LETTERS = _Letters()


def _plain(text: str) -> str:
    """A text in letters, digits and spaces only, without case and accents."""
    # twice: what is folded can fall apart anew, and what fell apart can have case
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.casefold()).casefold())
    return unicodedata.normalize("NFC", apart.translate(_LETTERS))


def _joined(parts: Iterable[Sequence[str]]) -> str:
    return f" {BORDER} ".join(" ".join(part) for part in parts if part)
