"""Words: how texts, names and dates become tokens, and which of them a query looks for."""

from mmsearch.storage.lexical.documents import WEIGHTS, item_document
from mmsearch.storage.lexical.tokens import (
    TOKENIZER,
    Document,
    Term,
    best_text,
    date_words,
    name_tokens,
    query_terms,
    split_terms,
    tokens,
)

__all__ = [
    "TOKENIZER",
    "WEIGHTS",
    "Document",
    "Term",
    "best_text",
    "date_words",
    "item_document",
    "name_tokens",
    "query_terms",
    "split_terms",
    "tokens",
]
