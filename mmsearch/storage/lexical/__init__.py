"""Words: how texts, names and dates become tokens, and what a query asks of them."""

from mmsearch.storage.lexical.terms import Term, asked, broken_up, words_part
from mmsearch.storage.lexical.tokens import Document, date_words, name_tokens, tokens

__all__ = [
    "Document",
    "Term",
    "asked",
    "broken_up",
    "date_words",
    "name_tokens",
    "tokens",
    "words_part",
]
