"""Reads a text file, and cuts long texts into passages that can be found one by one."""

from __future__ import annotations

import codecs
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import UnreadableFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Borders = Callable[[str, int, int], Iterator[int]]
    """Where a span of a text may be cut: positions inside it, in order."""

MAX_MEBIBYTES = 64
"""Larger text files are logs and dumps; nobody looks for a sentence in them here."""

_UNICODE_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNDEFINED_IN_CP1252 = {0x81, 0x8D, 0x8F, 0x90, 0x9D}
_LATIN1_TO_CP1252 = {
    byte: bytes([byte]).decode("cp1252")
    for byte in range(0x80, 0xA0)
    if byte not in _UNDEFINED_IN_CP1252
}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a text, and the lines it stands on."""

    text: str
    start: int
    """First line, from 1."""
    end: int
    """Last line, inclusive."""


def read_text(source: str | Path | bytes) -> str:
    """What a text file says, whatever its encoding.

    UTF-8, or UTF-16 and UTF-32 with a byte order mark; anything else is read as Windows-1252,
    which no bytes can contradict.

    Args:
        source: A path, or the bytes of the file.

    Raises:
        UnreadableFile: It is empty, binary, too large, or cannot be opened.
    """
    data = source if isinstance(source, bytes) else _bytes_of(source)
    if not data:
        raise UnreadableFile("0 bytes")
    if len(data) > MAX_MEBIBYTES * 2**20:
        raise UnreadableFile(_too_large(len(data)))
    text = _decoded(data)
    if "\0" in text:
        raise UnreadableFile("not a text file")
    if not text.strip().strip("\ufeff"):
        raise UnreadableFile("no text in it")
    return text


def _bytes_of(path: str | Path) -> bytes:
    try:
        status = Path(path).stat()
        # asked first: opening a pipe would wait for someone to write to it
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableFile("not a regular file")
        if status.st_size > MAX_MEBIBYTES * 2**20:
            raise UnreadableFile(_too_large(status.st_size))
        return Path(path).read_bytes()
    except ValueError as error:  # a NUL in the path
        raise UnreadableFile("no such file") from error
    except OSError as error:
        raise UnreadableFile((error.strerror or str(error)).lower()) from error


def _too_large(size: int) -> str:
    return f"too large: {size / 2**20:.0f} MiB of text (limit {MAX_MEBIBYTES})"


def _decoded(data: bytes) -> str:
    encoding = next((name for mark, name in _UNICODE_MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding not in ("utf-8", "utf-8-sig"):
            raise UnreadableFile(f"damaged {encoding.upper()} text") from error
    text = data.decode("latin-1").translate(_LATIN1_TO_CP1252)
    # A tenth of random bytes are control characters; of a text's, hardly any.
    if len(_CONTROL.findall(text)) * 20 > len(text):
        raise UnreadableFile("not a text file")
    return text


# Scripts written without spaces: Thai, Lao, Burmese, Khmer, Chinese and Japanese, and the
# full-width forms.
_SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
# Two characters of such a script make about a word; elsewhere a run without spaces that is longer
# than any plain word (an address, base64) counts as several.
_WORD = re.compile(rf"[{_SPACELESS}]{{1,2}}|[^\s{_SPACELESS}]{{1,20}}")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s|\s*(?:=+|-{2,})\s*$")
_SENTENCE_END = re.compile(
    r"[.!?…][\"'”’»)\]]*\s+(?=[^\sa-z])"  # a small letter follows an abbreviation
    r"|[。！？｡][”’」』）]*"
)


def count_words(text: str) -> int:
    """The length of a text in words, as `passages` bounds it."""
    return sum(1 for _ in _WORD.finditer(text))


def passages(text: str, *, max_words: int = 90) -> list[Passage]:
    """The text cut into passages of at most `max_words`, in order, nothing lost.

    Cut between paragraphs where that is possible, else at sentence ends, else at line ends, else
    between words. Short neighbours share a passage; a heading stays with what follows it.

    Args:
        text: With line ends of any kind; passages have line feeds.
        max_words: At least 1, counted by `count_words`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = []
    line, seen = 1, 0
    for start, end in _cut(text, 0, len(text), max_words, _BORDERS):
        line += text.count("\n", seen, start)
        last = line + text.count("\n", start, end)
        found.append(Passage(text[start:end], line, last))
        line, seen = last, end
    return found


def _cut(
    text: str, start: int, end: int, max_words: int, borders: tuple[Borders, ...]
) -> Iterator[tuple[int, int]]:
    """Spans without white space at their ends: pieces between borders, packed while they fit."""
    start, end = _trimmed(text, start, end)
    if start == end:
        return
    if not borders or count_words(text[start:end]) <= max_words:
        yield start, end
        return
    here, *finer = borders
    packed_from, packed_words = start, 0
    piece_from = start
    for piece_to in (*here(text, start, end), end):
        words = count_words(text[piece_from:piece_to])
        if packed_words and packed_words + words > max_words:
            yield from _cut(text, packed_from, piece_from, max_words, tuple(finer))
            packed_from, packed_words = piece_from, 0
        packed_words += words
        piece_from = piece_to
    yield from _cut(text, packed_from, end, max_words, tuple(finer))


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


def _sentences(text: str, start: int, end: int) -> Iterator[int]:
    return (match.end() for match in _SENTENCE_END.finditer(text, start, end))


def _lines(text: str, start: int, end: int) -> Iterator[int]:
    return (match.end() for match in re.compile("\n").finditer(text, start, end))


def _spaces(text: str, start: int, end: int) -> Iterator[int]:
    return (match.end() for match in re.compile(r"\s+").finditer(text, start, end))


def _words(text: str, start: int, end: int) -> Iterator[int]:
    return (match.end() for match in _WORD.finditer(text, start, end))


_BORDERS: tuple[Borders, ...] = (_paragraphs, _sentences, _lines, _spaces, _words)
