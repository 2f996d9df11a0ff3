"""What was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "wrong", "repaired", "note"]
"""A note is nothing wrong: something to know, or to do."""

SHOWN = 5
"""Examples that are given of something."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look at an index found.

    Attributes:
        check: What was looked at.
        state: How it is.
        number: Of how many things; of "ok", how many were looked at.
        what: In words.
        next: What to do, if anything is left to be done.
        examples: Some of them.
    """

    check: str
    state: State
    number: int
    what: str
    next: str = ""
    examples: Sequence[str] = field(default=())


def ok(check: str, number: int, what: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, "ok", number, what)
