"""Text files, and the passages into which texts are cut for indexing."""

from __future__ import annotations

import codecs
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import UnreadableFile
from mmsearch.media.open_media import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Borders = Callable[[str, int, int], Iterator[int]]
    """(text, start, end) → the positions, in order, at which that span of it may be cut."""

MAX_MEBIBYTES = 64
"""Larger text files are logs and dumps, which nobody searches for a sentence."""

_UNICODE_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LATIN1_TO_CP1252 = {
    byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte)  # five bytes are undefined
    for byte in range(0x80, 0xA0)
}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a text, with the lines that it spans."""

    text: str
    start: int
    """First line, from 1."""
    end: int
    """Last line, included."""


def read_text(source: str | Path | bytes) -> str:
    """The text of a file, whatever its encoding.

    UTF-8, or UTF-16 and UTF-32 with a byte order mark; anything else is read as Windows-1252, in
    which all bytes are valid.

    Args:
        source: A path, or the bytes of the file.

    Raises:
        UnreadableFile: It is empty, binary, too large, or cannot be opened.
    """
    with open_file(source) as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            raise UnreadableFile("0 bytes")
        if size > MAX_MEBIBYTES * 2**20:
            mebibytes = f"{size / 2**20:.0f} MiB of text (limit {MAX_MEBIBYTES})"
            raise UnreadableFile(f"too large: {mebibytes}")
        file.seek(0)
        text = _decoded(file.read())
    if "\0" in text:
        raise UnreadableFile("not a text file")
    if not text.strip().strip("\ufeff"):
        raise UnreadableFile("no text in it")
    return text


def _decoded(data: bytes) -> str:
    encoding = next((name for mark, name in _UNICODE_MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding not in ("utf-8", "utf-8-sig"):
            raise UnreadableFile(f"damaged {encoding.upper()} text") from error
    text = data.decode("latin-1").translate(_LATIN1_TO_CP1252)
    # a tenth of random bytes are control characters; a text contains hardly any
    if len(_CONTROL.findall(text)) * 20 > len(text):
        raise UnreadableFile("not a text file")
    return text


# Scripts written without spaces: Thai, Lao, Burmese, Khmer, Chinese and Japanese, and the
# full-width forms.
_SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
# Two characters of such a script count as a word; in other scripts a run without spaces that is
# longer than any word (an address, base64) counts as several.
_WORD = re.compile(rf"[{_SPACELESS}]{{1,2}}|[^\s{_SPACELESS}]{{1,20}}")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s|\s*(?:=+|-{2,})\s*$")
_SENTENCE_END = re.compile(
    r"[.!?…][\"'”’»)\]]*\s+(?=[^\sa-z])"  # before a small letter, it ends an abbreviation
    r"|[。！？｡][”’」』）]*"
)


def count_words(text: str) -> int:
    """The length of a text in words; see `passages`."""
    return sum(1 for _ in _WORD.finditer(text))


def passages(text: str, *, max_words: int = 90) -> list[Passage]:
    """The text in passages of at most `max_words`, in order, with nothing left out.

    It is cut between paragraphs where possible, or else at the ends of sentences or lines, or else
    between words. Short neighbours share a passage; a heading stays with what follows it.

    Args:
        text: With line ends of any kind; passages have line feeds.
        max_words: At least 1, as counted by `count_words`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = []
    line, position = 1, 0
    for start, end in _cut(text, 0, len(text), max_words, _BORDERS):
        line += text.count("\n", position, start)
        last = line + text.count("\n", start, end)
        found.append(Passage(text[start:end], line, last))
        line, position = last, end
    return found


def _cut(
    text: str, start: int, end: int, max_words: int, borders: tuple[Borders, ...]
) -> Iterator[tuple[int, int]]:
    """Spans between borders, each as long as fits, without white space at their ends."""
    start, end = _trimmed(text, start, end)
    if start == end:
        return
    if not borders or count_words(text[start:end]) <= max_words:
        yield start, end
        return
    coarsest, *finer = borders
    span_start, span_words = start, 0
    piece_start = start
    for piece_end in (*coarsest(text, start, end), end):
        words = count_words(text[piece_start:piece_end])
        if span_words and span_words + words > max_words:
            yield from _cut(text, span_start, piece_start, max_words, tuple(finer))
            span_start, span_words = piece_start, 0
        span_words += words
        piece_start = piece_end
    yield from _cut(text, span_start, end, max_words, tuple(finer))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _paragraphs(text: str, start: int, end: int) -> Iterator[int]:
    for blank in _BLANK_LINES.finditer(text, start, end):
        line_start = text.rfind("\n", start, blank.start()) + 1
        if not _HEADING.match(text, max(line_start, start), blank.start()):
            yield blank.end()


def _ends_of(pattern: re.Pattern[str]) -> Borders:
    return lambda text, start, end: (match.end() for match in pattern.finditer(text, start, end))


_BORDERS: tuple[Borders, ...] = (
    _paragraphs,
    *map(_ends_of, (_SENTENCE_END, re.compile(r"\n"), re.compile(r"\s+"), _WORD)),
)
"""From the coarsest to the finest."""
