"""What a query asks for: which parts go to which encoder, and how their vectors add up."""

from mmsearch.search.queries.encode import checked_vectors, combined, encode_parts, ready
from mmsearch.search.queries.parts import parts_of, words_of
from mmsearch.search.queries.plan import Ask, Takes, plan

__all__ = [
    "Ask",
    "Takes",
    "checked_vectors",
    "combined",
    "encode_parts",
    "parts_of",
    "plan",
    "ready",
    "words_of",
]
