"""The blocks of a document, as its parsers (`office`, `html_page`, `mail`) return them."""

from __future__ import annotations

from typing import NamedTuple


class Block(NamedTuple):
    """A heading or paragraph of a document, a list or a table."""

    level: int
    """Of a heading, 1 for the outermost; 0 for anything else."""
    text: str
    """Items of lists and rows of tables are lines."""
    slide: int = 0
    """The slide that begins with it, from 1; 0 otherwise."""
