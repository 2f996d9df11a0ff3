"""PDFs page by page: the text and a picture of each."""

from __future__ import annotations

import math
import re
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media.open_media import open_file

if TYPE_CHECKING:
    from PIL import Image

MOST_SQUARES = 8
"""Bound on the pixels of a page's picture, in squares of its shorter side: enough for a page eight
times as long as it is wide."""
LONGEST_SIDE = 16_000
"""Pixels; Pillow and encoders cannot use longer strips."""

_LOCK = threading.RLock()
"""Guards every call into PDFium, which is not thread-safe even for different documents. Reentrant,
since an abandoned document may be garbage-collected while a page is rendered."""


@dataclass(frozen=True, slots=True)
class Page:
    """The text and the picture of a page."""

    number: int
    """From 1."""
    text: str
    """With line breaks where the file has them; empty for a scan."""
    picture: Image.Image
    """Upright RGB on white."""


def require() -> None:
    """Raise MissingExtra unless pypdfium2 is installed, without which no PDF can be read."""
    if find_spec("pypdfium2") is None:
        raise MissingExtra("reading PDFs", "pdf")


def pages(source: str | Path | bytes, *, at_least: int) -> Iterator[Page]:
    """The pages in order, one at a time in memory; damaged ones are left out.

    Args:
        source: A path, or the bytes of the file.
        at_least: The side in pixels the caller will scale pictures to. A page's shorter side is
            twice this, or less where `MOST_SQUARES` limits a very long or wide page.

    Raises:
        UnreadableFile: It cannot be opened, is not a PDF, needs a password, or no page can be read.
    """
    with _opened(source) as document:
        with _LOCK:
            length = len(document)
        if length < 1:
            raise UnreadableFile("no pages")
        found = False
        for index in range(length):
            page = _page(document, index, 2 * at_least)
            if page is not None:
                found = True
                yield page
        if not found:
            raise UnreadableFile("damaged")


def page(source: str | Path | bytes | BinaryIO, number: int, *, at_least: int) -> Page | None:
    """One page, counted from 1; None beyond the last.

    Args:
        source: A path, the bytes of the file, or a binary file object.
        number: Of the page.
        at_least: As of `pages`.

    Raises:
        UnreadableFile: As `pages`; or this page is damaged.
    """
    with _opened(source) as document:
        with _LOCK:
            length = len(document)
        if not 1 <= number <= length:
            return None
        if (found := _page(document, number - 1, 2 * at_least)) is None:
            raise UnreadableFile("damaged")
        return found


# ---------------------------------------------------------------------- documents


@contextmanager
def _opened(source: str | Path | bytes | BinaryIO) -> Iterator[Any]:
    require()
    try:
        import pypdfium2
        import pypdfium2.raw as pdfium
    except ImportError as error:
        raise MissingExtra("reading PDFs", "pdf", error) from error

    with open_file(source) as file:
        head = file.read(1024)  # a few other bytes may come before the magic number
        if not head:
            raise UnreadableFile("0 bytes")
        if b"%PDF-" not in head:
            raise UnreadableFile("not a PDF")
        file.seek(0)
        try:
            with _LOCK:
                document = pypdfium2.PdfDocument(file)
                if document.get_formtype() == pdfium.FORMTYPE_ACRO_FORM:
                    document.init_forms()  # draws the values in the form as well
        except pypdfium2.PdfiumError as error:
            locked = error.err_code == pdfium.FPDF_ERR_PASSWORD
            raise UnreadableFile("password needed" if locked else "damaged") from error
        try:
            yield document
        finally:
            with _LOCK:
                document.close()


# ---------------------------------------------------------------------- pages


def _page(document: Any, index: int, shorter: int) -> Page | None:
    from pypdfium2 import PdfiumError

    with _LOCK:
        try:
            page = document[index]
        except PdfiumError:
            return None
        try:
            scale = _scale(page.get_size(), shorter)
            bitmap = page.render(scale=scale)
            picture = bitmap.to_pil().convert("RGB")  # a copy: the bitmap is closed
            bitmap.close()
            text_page = page.get_textpage()
            try:
                text = str(text_page.get_text_range())
            finally:
                text_page.close()
        except (PdfiumError, MemoryError):
            return None
        finally:
            page.close()
    return Page(index + 1, _cleaned(text), picture)


def _scale(size: tuple[float, float], shorter: int) -> float:
    """Pixels per point (1/72 inch) for a page of a size in points."""
    short, long = max(1e-3, min(size)), max(1e-3, *size)
    most = shorter * math.sqrt(MOST_SQUARES / (short * long))
    return min(shorter / short, most, LONGEST_SIDE / long)


# ---------------------------------------------------------------------- text

_BREAK = re.compile(r"[\x02\ufffe]\s*|[-\u2010\u00ad]\n")
"""A hyphen at the end of a line, or the character by which PDFium marks it."""
_LIGATURES = re.compile(r"[\ufb00-\ufb06]")
_UNPRINTABLE = re.compile(r"[\x00\x01\x03-\x09\x0b-\x1f\x7f-\x9f\ue000-\uf8ff\ufff0-\ufffd\uffff]")
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff\ud800-\udfff]")


def _cleaned(text: str) -> str:
    """The text with hyphenated words joined, ligatures expanded, invisible characters removed."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _LIGATURES.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    lines = (" ".join(_UNPRINTABLE.sub(" ", line).split()) for line in text.split("\n"))
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return _INVISIBLE.sub("", _BREAK.sub(_hyphen_or_nothing, text))


def _hyphen_or_nothing(found: re.Match[str]) -> str:
    """What replaces a hyphen at a line's end: nothing in `exam-ple`, "-" in `Anglo-Saxon`."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    if found[0] == "\u00ad\n" or (before.isalpha() and after.islower()):
        return ""
    marked = found[0][0] in "\x02\ufffe"
    return "-" if marked or (before.isalpha() and after.isalpha()) else found[0]
