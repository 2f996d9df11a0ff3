"""The text of HTML pages, by headings and paragraphs. No link is followed, no script is run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from html.parser import HTMLParser

from mmsearch.media.documents.blocks import Block
from mmsearch.media.text import UNICODE_MARKS, read_text

_CODE = "script style template noscript svg math iframe object audio video canvas"
_CONTROLS = "nav footer button select textarea dialog"
_DROPPED = frozenset(f"{_CODE} {_CONTROLS}".split())
"""Elements without text of the page, or with that of controls."""
_LINES = frozenset({"br", "li", "tr", "dt", "dd", "caption"})
"""Elements that begin a line."""
_BLOCKS = "p div section article main header aside blockquote pre ul ol dl table figure figcaption"
_MORE = "hr address details summary form fieldset center body h1 h2 h3 h4 h5 h6"
_PARAGRAPHS = frozenset(f"{_BLOCKS} {_MORE}".split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_HEAD = 4096
"""Bytes in which the declared encoding is looked for; browsers use 1024."""
_DECLARED = re.compile(rb"""(?:charset|<\?xml[^>]*encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I)
_SUPERSETS = {
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "us-ascii": "cp1252",
    "ascii": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "big5": "big5hkscs",
}
"""Declared encoding → the superset that browsers decode it as (encoding.spec.whatwg.org)."""


def read(source: str | bytes) -> tuple[str, Sequence[Block]]:
    """The title of a page, "" if it has none, and its blocks.

    Raises:
        UnreadableFile: It is binary, or has no text.
    """
    page = _Page()
    page.feed(source if isinstance(source, str) else decode(source))
    page.close()
    page.end_block()
    return " ".join("".join(page.title).split()), page.blocks


def decode(source: bytes) -> str:
    """The text of a page, decoded by its byte order mark, its declared encoding, or a guess."""
    marked = source.startswith((b"\xef\xbb\xbf", *(mark for mark, _ in UNICODE_MARKS)))
    declared = _DECLARED.search(source[:_HEAD])
    if declared and not marked:
        name = declared[1].decode("ascii").lower()
        with suppress(LookupError, UnicodeError):
            if name.startswith("utf-16"):  # it could not have been read as ASCII
                name = "utf-8"
            text = source.decode(_SUPERSETS.get(name, name))
            if "\0" not in text:
                return text
    return read_text(source)


class _Page(HTMLParser):
    """Collects the blocks of a page.

    Attributes:
        title: In pieces.
        blocks: Those that have ended.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.blocks: list[Block] = []
        self._pieces: list[str] = []
        self._level = 0
        self._open: list[str] = []
        """The open element that is dropped, the title or a <pre>, and those open in it."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._is_dropped():
            if tag in _DROPPED | _PARAGRAPHS:
                self._open.append(tag)
        elif tag in _DROPPED or tag == "title":
            self._open.append(tag)
            self._pieces.append(" ")
        elif tag in _PARAGRAPHS:
            self.end_block()
            self._level = _HEADINGS.get(tag, 0)
            if tag == "pre":
                self._open.append(tag)
        elif tag in _LINES:
            self._pieces.append("\n")
        elif tag in ("td", "th"):
            self._pieces.append(" ")
        elif tag == "img" and (alt := dict(attrs).get("alt")):
            self._pieces.append(f" {alt} ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _DROPPED and tag != "title":
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:  # elements in it that were not closed end with it
            while self._open.pop() != tag:
                pass
        elif tag in _PARAGRAPHS and tag != "p":  # what contains them ends
            self._open.clear()
        if tag in _PARAGRAPHS and not self._is_dropped():
            self.end_block()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "title":
            self.title.append(data)
        elif not self._is_dropped():
            in_pre = bool(self._open) and self._open[-1] == "pre"
            self._pieces.append(data if in_pre else re.sub(r"\s+", " ", data))

    def parse_html_declaration(self, i: int) -> int:
        try:
            return super().parse_html_declaration(i)
        except AssertionError:  # of what HTML does not know; browsers take it for a comment
            return self.parse_bogus_comment(i)

    def end_block(self) -> None:
        """End the present heading or paragraph."""
        lines = (line.strip() for line in "".join(self._pieces).splitlines())
        if text := "\n".join(re.sub(r"[^\S\n]+", " ", line) for line in lines if line):
            self.blocks.append(Block(self._level, text))
        self._pieces, self._level = [], 0

    def _is_dropped(self) -> bool:
        return any(tag != "pre" for tag in self._open)
