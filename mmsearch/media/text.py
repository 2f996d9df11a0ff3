"""Text files, and the passages into which texts are cut for indexing."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections import Counter
from contextlib import suppress
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

MAX_WORDS = 90
"""Of a passage; about what text encoders take in."""

UNICODE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LATIN = ("cp1252", "cp1250", "iso8859-2", "cp1254", "cp1257", "mac_roman", "cp850", "cp437")
_LEGACY = (
    *_LATIN[:5],
    *("cp1251", "koi8-r", "koi8-u", "cp866", "iso8859-5", "cp1253", "cp1255", "cp1256", "cp874"),
    *("gb18030", "big5hkscs", "cp932", "shift_jis_2004", "euc-jp", "euc_jis_2004", "cp949"),
)
"""Encodings of texts, by Python's names. Those of DOS and old Macs are included for Latin scripts
only: in others they are so rare that most guesses of them would be wrong."""
_MULTIBYTE = frozenset(
    {"gb18030", "gbk", "gb2312", "big5hkscs", "big5", "cp932", "shift_jis_2004", "shift_jis"}
    | {"euc_jp", "euc_jis_2004", "cp949", "euc_kr", "johab"}
)
_SAMPLE = 20_000
"""Bytes, of lines that are not ASCII, from which the encoding is guessed."""
_ENOUGH = 6
"""Bytes above 127; fewer do not distinguish languages written in Latin letters."""
_CLEARLY = 1.5
"""How many times as likely as Windows-1252 another encoding of Latin letters has to be."""
_FOREIGN = re.compile("[\u0370-\u1fff\u3040-\uffef]+")
"""Letters of scripts other than Latin."""
_ASCII_LETTER, _HIGH = re.compile(rb"[A-Za-z]"), re.compile(rb"[\x80-\xff]")
_WESTERN = re.compile("[\u00a0-\u017f\u2010-\u20ac]")
_LATIN1_TO_CP1252 = {
    byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte)  # five bytes are undefined
    for byte in range(0x80, 0xA0)
}
_IMPLAUSIBLE = re.compile(
    r"[\x80-\x9f\u2500-\u259f\ue000-\uf8ff\ufffd]"  # control characters, lines of tables
    r"|[а-џ][А-Я]|[α-ώ][Α-Ω]"  # a capital after a small letter
    r"|[A-Za-z][А-џΑ-ώ]|[А-џΑ-ώ][A-Za-z]"  # two scripts in a word
)
"""What a text does not contain if it is read in the right encoding and undamaged."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_NO_CHARACTERS = frozenset({"Cc", "Cs", "Co", "Cn"})
"""Unicode categories: control characters, surrogates, private use, unassigned."""
_CONTROL_BYTE = re.compile(_CONTROL.pattern.encode())
_ASCII_RUN = re.compile(rb"[\x20-/1-~]{24}")
"""What UTF-16 and UTF-32 do not contain: in Chinese by chance, 2 of 10^8 places begin one. Without
the digit 0, which each Japanese syllable begins with."""


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

    UTF-8, UTF-16 or UTF-32, in which bytes that are damaged or cut off become U+FFFD. Anything else
    is read in the encoding that chardet finds most likely (GB 18030, Big5, Shift-JIS, EUC-KR,
    KOI8-R, Windows-1251, …), or Windows-1252, in which all bytes are valid.

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
        text = _without_zeros(text)
    if not text.strip().strip("\ufeff"):
        raise UnreadableFile("no text in it")
    return text


def _without_zeros(text: str) -> str:
    """The text without zeros: an end that was never written, or a few damaged characters."""
    _check_zeros(text)
    return text.rstrip("\0").replace("\0", " ")


def _check_zeros(text: str) -> None:
    """Check that what holds zeros is a text otherwise.

    What has other control characters, too, is binary, however much text is in it: a module of
    Python in bytes has four to twenty of them in a thousand characters, if most of it is help.

    Raises:
        UnreadableFile: It is binary.
    """
    if "\0" not in text:
        return
    text = text.rstrip("\0")
    zeros = text.count("\0")
    others = len(_CONTROL.findall(text)) - zeros
    if zeros * 20 > len(text) or others * 1000 > len(text):
        raise UnreadableFile("not a text file")


def _decoded(data: bytes) -> str:
    while data.startswith(codecs.BOM_UTF8):
        data = data.removeprefix(codecs.BOM_UTF8)
    for mark, encoding in UNICODE_MARKS:
        if data.startswith(mark):
            return _mended(data[len(mark) :], encoding)
    if text := _iso_2022(data) or _unicode_without_mark(data):
        return text
    with suppress(UnicodeDecodeError):
        return data.decode()
    mended = data.decode(errors="replace")
    return mended if is_utf8(mended) else decode_legacy(data)[0]


def _mended(data: bytes, encoding: str) -> str:
    """A text in which a few characters may be damaged, or the last one cut off."""
    text = data.decode(encoding, "replace")
    if text.count("\ufffd") * 20 > len(text) + 20:
        raise UnreadableFile(f"damaged {encoding[:6].upper().rstrip('-')} text")
    return text


def _unicode_without_mark(data: bytes) -> str | None:
    """The text in UTF-32 or UTF-16 if the bytes are that, else None: many are zeros or below 32.

    In the right byte order, zeros are mostly the highest bytes of characters. In the wrong one, or
    in another encoding, the characters are of many more blocks of Unicode.
    """
    if not _CONTROL_BYTE.search(data) or _ASCII_RUN.search(data):
        return None
    is_utf8 = _is_valid_utf8(data)
    written = data.rstrip(b"\0") if is_utf8 else data
    control = len(_CONTROL_BYTE.findall(written))
    if not control or (is_utf8 and control * 20 <= len(data)):
        return None
    for size, encodings in ((4, ("utf-32-le", "utf-32-be")), (2, ("utf-16-le", "utf-16-be"))):
        found = []
        for encoding in encodings:
            text = data[: len(data) // size * size].decode(encoding, "replace")
            invalid = sum(n for one, n in Counter(text).items() if not _is_text_character(one))
            first, last = data[::size].count(0), data[size - 1 :: size].count(0)
            lowest, highest = (first, last) if encoding.endswith("le") else (last, first)
            if invalid * 20 <= len(text) and lowest * 20 <= highest:
                found.append((len({ord(one) >> 8 for one in text}), text))
        blocks, text = min(found, default=(0, ""))
        if text and (b"\0" in written or blocks * 3 <= len(text)):
            return text
    return None


def _is_valid_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text_character(one: str) -> bool:
    if one in "\t\n\r\f":
        return True
    return one != "\ufffd" and unicodedata.category(one) not in _NO_CHARACTERS


def _iso_2022(data: bytes) -> str | None:
    """The text of Japanese, Chinese and Korean mail, in 7 bits; None for any other."""
    if b"\x1b$" in data:
        is_korean = b"\x1b$)C" in data
        for encoding in ("iso2022_kr",) if is_korean else ("iso2022_jp_2", "iso2022_jp_3"):
            with suppress(UnicodeDecodeError):
                return data.decode(encoding)
    return None


def is_utf8(mended: str) -> bool:
    """Whether a text decoded as UTF-8 is that, with a few bad bytes or a character cut off.

    In a text of another encoding, some bytes happen to be valid UTF-8, but fewer.

    Args:
        mended: With U+FFFD for each error.
    """
    bad = mended.count("\ufffd")
    valid = sum(character > "\x7f" for character in mended) - bad
    if mended.endswith("\ufffd"):
        bad -= 1
    western = len(_WESTERN.findall(mended))
    return valid > 0 and valid >= (1 if western == valid else 4) * bad


def decode_legacy(data: bytes) -> tuple[str, str]:
    """A text in its most likely encoding, Windows-1252 in doubt; and the encoding's name.

    Raises:
        UnreadableFile: It is not a text.
    """
    western = data.decode("latin-1").translate(_LATIN1_TO_CP1252)
    # a tenth of random bytes are control characters; a text contains hardly any
    if len(_CONTROL.findall(western)) * 20 > len(western):
        raise UnreadableFile("not a text file")
    _check_zeros(western)  # read in an encoding of several bytes, a zero may be half a character
    sample = _sample(data)
    encoding = _most_likely(sample)
    if not (sample.isascii() or _spells_words(sample, encoding)):
        encoding = _latin_encoding(sample)
    text = western if encoding == "cp1252" else data.decode(encoding, "replace")
    return text, encoding


def _most_likely(sample: bytes) -> str:
    """The most likely encoding, preferably one in which the sample is a plausible text."""
    from chardet import detect_all

    found = detect_all(sample, ignore_threshold=True, include_encodings=_LEGACY, compat_names=False)
    encodings = [_codec(one["encoding"]) for one in found]
    possible = (one for one in encodings if not _IMPLAUSIBLE.search(sample.decode(one, "replace")))
    return next(possible, encodings[0] if encodings else "cp1252")


def _sample(data: bytes) -> bytes:
    """The first lines that are not ASCII: from these, the encoding is guessed."""
    size, lines = 0, []
    for line in data.splitlines(keepends=True):
        if size < _SAMPLE and not (line.isascii() and b"\x1b" not in line):
            lines.append(line)
            size += len(line)
    return b"".join(lines)[:_SAMPLE]


def _codec(encoding: str | None) -> str:
    return codecs.lookup(encoding or "cp1252").name


def _spells_words(sample: bytes, encoding: str) -> bool:
    """Whether the sample has words in a script other than Latin.

    It has none if it is a Latin text whose accented letters are decoded as letters of the other
    script, "Cafй", or as half of a Chinese character, "M軩LER".
    """
    many = encoding in _MULTIBYTE  # often of languages that put no spaces around Latin words
    text = sample.decode(encoding, "replace")
    words = lone = 0
    for run in _FOREIGN.finditer(text):
        beside = text[max(0, run.start() - 1) : run.start()] + text[run.end() : run.end() + 1]
        touches = any(character.isalpha() for character in beside)
        if len(run[0]) >= (2 if many else 3) and (many or not touches):
            words += len(run[0])
        elif touches:
            lone += len(run[0])
    return words > lone


def _latin_encoding(sample: bytes) -> str:
    """The encoding of a text in Latin letters."""
    from chardet import detect_all

    words = b" ".join(filter(_ASCII_LETTER.search, sample.split()))  # symbols alone say nothing
    if len(_HIGH.findall(words)) < _ENOUGH:
        return "cp1252"
    defined = words.translate(None, b"\x81\x8d\x8f\x90\x9d")  # in Windows-1252
    found = detect_all(defined, ignore_threshold=True, include_encodings=_LATIN, compat_names=False)
    likely = {_codec(one["encoding"]): one["confidence"] for one in found}
    best = max(likely, key=likely.__getitem__, default="cp1252")
    return best if likely.get(best, 0) > _CLEARLY * likely.get("cp1252", 0) else "cp1252"


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


def passages(text: str, *, max_words: int = MAX_WORDS) -> list[Passage]:
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
