"""Stems of English words, so that "running dogs" finds "a dog runs".

No package gives the stems of SQLite's own `porter`, which indexes hold: Snowball's differ.

Source: M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980, with its author's
two later changes (bli → ble, logi → log), as SQLite's own `porter` has it.
"""

from __future__ import annotations

import re

_CONSONANTS = "[^aeiou][^aeiouy]*"
_VOWELS = "[aeiouy][aeiou]*"
_ONE = f"(?:{_CONSONANTS})?{_VOWELS}{_CONSONANTS}"
_BEYOND_0 = re.compile(_ONE)  # the paper's m > 0
_JUST_1 = re.compile(f"{_ONE}(?:{_VOWELS})?$")  # m = 1
_BEYOND_1 = re.compile(f"{_ONE}{_VOWELS}{_CONSONANTS}")  # m > 1
_HAS_VOWEL = re.compile(f"(?:{_CONSONANTS})?[aeiouy]")
_DOUBLED = re.compile(r"([^aeioulsz])\1$")
_SHORT = re.compile(f"{_CONSONANTS}[aeiouy][^aeiouwxy]$")

_SECOND = (
    "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e "
    "ousli:ous ization:ize ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous "
    "aliti:al iviti:ive biliti:ble logi:log"
)
_THIRD = "icate:ic ative: alize:al iciti:ic ical:ic ful: ness:"
_FOURTH = "al ance ence er ic able ible ant ement ment ent ou ism ate iti ous ive ize"


def _endings(pairs: str) -> tuple[re.Pattern[str], dict[str, str]]:
    table = dict(pair.split(":") for pair in pairs.split())
    longest = sorted(table, key=len, reverse=True)
    return re.compile(f"({'|'.join(longest)})$"), table


_STEPS = (_endings(_SECOND), _endings(_THIRD))
_LAST = re.compile(f"({'|'.join(sorted(_FOURTH.split(), key=len, reverse=True))}|(?<=[st])ion)$")


def stem(word: str) -> str:
    """A word without its ending; to a search, words of one stem are the same word.

    Args:
        word: Of the letters a to z; shorter than three, it stays as it is.
    """
    if len(word) < 3:
        return word
    if word.startswith("y"):
        word = "Y" + word[1:]  # a consonant there; elsewhere after a consonant it is a vowel
    word = _without_past(_without_plural(word))
    if word.endswith("y") and _HAS_VOWEL.match(word[:-1]):
        word = word[:-1] + "i"
    for endings, table in _STEPS:
        found = endings.search(word)
        if found and _BEYOND_0.match(word[: found.start()]):
            word = word[: found.start()] + table[found[1]]
    found = _LAST.search(word)
    if found and _BEYOND_1.match(word[: found.start()]):
        word = word[: found.start()]
    return _without_last_letter(word).lower()


def _without_plural(word: str) -> str:
    if len(word) > 3 and word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _without_past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _BEYOND_0.match(word[:-3]) else word
    root = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else ""
    if not _HAS_VOWEL.match(root):
        return word
    if root.endswith(("at", "bl", "iz")):
        return root + "e"
    if _DOUBLED.search(root):
        return root[:-1]
    return root + "e" if _JUST_1.match(root) and _SHORT.match(root) else root


def _without_last_letter(word: str) -> str:
    if word.endswith("e"):
        root = word[:-1]
        if _BEYOND_1.match(root) or (_JUST_1.match(root) and not _SHORT.match(root)):
            word = root
    return word[:-1] if word.endswith("ll") and _BEYOND_1.match(word) else word
