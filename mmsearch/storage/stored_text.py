"""Any text as a server can hold it: what it refuses becomes characters for private use.

Almost all texts stay as they are. One character stays one, and the beginning of a text the
beginning, so that patterns and comparisons mean the same; only characters that have that private
use already, which nobody's do, are escaped by another one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SURROGATES = 0xD800, 0xDFFF
"""The first and the last: Python has them for the bytes of a name that are not UTF-8."""

LAST_PLAIN = 0x10D6FF
"""The last character that always stays as it is."""

_CONTROLS, _ESCAPE = LAST_PLAIN + 1, "\U0010d7ff"

_SHIFT = 0x100000
"""From a surrogate to the character of the last private plane in its place."""

_RESERVED = "\U0010d700-\U0010dfff"

_STORED = re.compile(f"{_ESCAPE}(.)|[{_RESERVED}]", re.DOTALL)


def not_storable(controls: str) -> re.Pattern[str]:
    """What has to be replaced for a server that refuses some control characters.

    Args:
        controls: They, as a regular expression has them in brackets.
    """
    return re.compile(f"[{controls}\ud800-\udfff{_RESERVED}]")


def stored_text(text: str, refused: re.Pattern[str]) -> str:
    """A text with what a server refuses replaced (see `not_storable`)."""
    return refused.sub(_as_stored, text) if refused.search(text) else text


def text_of(stored: str) -> str:
    """The text that `stored_text` was given."""
    return _STORED.sub(_as_given, stored) if _STORED.search(stored) else stored


def texts_of(stored: Sequence[str | None]) -> Sequence[str | None]:
    """The texts that `stored_text` was given, None for None."""
    # one search of all texts, as almost none was changed
    if not _STORED.search("".join(filter(None, stored))):
        return stored
    return [one and text_of(one) for one in stored]


def _as_stored(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < SURROGATES[0]:
        return chr(_CONTROLS + number)
    return _ESCAPE + match[0] if number > LAST_PLAIN else chr(_SHIFT + number)


def _as_given(match: re.Match[str]) -> str:
    if match[1]:
        return match[1]
    number = ord(match[0])
    return chr(number - (_SHIFT if number >= _SHIFT + SURROGATES[0] else _CONTROLS))
