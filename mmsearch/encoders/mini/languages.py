"""Which text tower encodes a text: the English one, the one for other languages, or both."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

BUCKETS = 2**15
"""The number of buckets to which n-grams are hashed; each bucket has a weight."""

NGRAMS = (2, 3, 4)
"""The lengths of n-grams, which include the boundaries of a word; the whole word is one more."""

MOST_CHARACTERS = 400
"""Only this many characters of a text are read."""

ENGLISH_BELOW, OTHER_FROM = -1.0, 2.0
"""Scores between the two are in doubt. So are sentences that mix languages, words that several
languages share ("hotel"), and words that the detector has never seen. `python
benchmarks/languages.py` prints how many texts are in doubt, and how well single words find photos
through each tower and through both."""

_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]")


def is_latin(text: str) -> bool:
    """Whether at least half of a text's letters are Latin; True if it has no letters."""
    letters = "".join(_WORD.findall(text[:MOST_CHARACTERS]))
    return 2 * len(_LATIN.findall(letters)) >= len(letters)


def buckets_of(text: str) -> list[int]:
    """The buckets of all n-grams of a text's words, in lower case."""
    plain = unicodedata.normalize("NFKC", text[:MOST_CHARACTERS]).lower()
    return [
        crc32(piece.encode("utf-8", "surrogatepass")) % BUCKETS
        for word in _WORD.findall(plain)
        for piece in _pieces(f"^{word}$")
    ]


def _pieces(word: str) -> Iterator[str]:
    yield word
    for length in NGRAMS:
        yield from (word[at : at + length] for at in range(len(word) - length + 1))


def score(weights: NDArray[np.float32], buckets: list[int]) -> float:
    """How little a text is like English: the sum of its n-grams' weights, over √(their number)."""
    return float(weights[buckets].sum() / len(buckets) ** 0.5)


class LanguageDetector:
    """Distinguishes English texts from those in other languages, by script, else by n-grams.

    Args:
        weights: (BUCKETS,) positive for other languages.
    """

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self._weights = weights

    def is_english(self, text: str) -> bool | None:
        """Whether a text is in English; None if that is in doubt, True for one without words."""
        buckets = buckets_of(text)
        if not buckets:
            return True
        found = score(self._weights, buckets)
        if not is_latin(text) or found >= OTHER_FROM:
            return False
        return True if found < ENGLISH_BELOW else None
