"""The child process that parses documents, within limits of time and memory.

It gets tasks on stdin, each a line of JSON: {"ending": ".docx", "path": "…"}, or with "size"
instead of "path", and that many bytes after the line. It writes a line of JSON when it is ready,
and one for each task:

    {}                                                  ready
    {"title": "…", "unit": "section", "sections": [[1, ["Results"], "…"], …]}
    {"error": "…"}                                      why the file cannot be used

It ends when stdin does, and so with its parent, even if that is killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from mmsearch.errors import UnreadableFile
from mmsearch.media.documents import html_page, mail, office
from mmsearch.media.documents.blocks import Block
from mmsearch.media.open_media import damage_as_unreadable, open_file
from mmsearch.media.text import MAX_MEBIBYTES

NICENESS = 10
"""Of this process: the user's programs have priority."""

GRACE = 5
"""Seconds beyond the limit after which SIGALRM ends this process, in case the parent was killed."""

_UNUSABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_MOST_HEADING = 20
"""Words of a heading; longer ones are paragraphs set in large type."""


def main() -> None:
    """Answer tasks until stdin ends."""
    seconds, mebibytes = float(sys.argv[1]), int(sys.argv[2])
    _limit(mebibytes)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that no library writes between the answers
    answer = b"{}"
    while True:
        try:
            output.write(answer + b"\n")
            output.flush()
        except OSError:  # the parent is gone
            break
        if not (line := sys.stdin.buffer.readline()):
            break
        task = json.loads(line)
        source = sys.stdin.buffer.read(task["size"]) if "size" in task else task["path"]
        if sys.platform != "win32":
            signal.alarm(int(seconds) + GRACE)
        answer = json.dumps(_answer(source, task["ending"]), ensure_ascii=False).encode()
        if sys.platform != "win32":
            signal.alarm(0)
    os._exit(0)


def _limit(mebibytes: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    os.nice(NICENESS)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
    limit = mebibytes * 2**20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with suppress(ValueError, OSError):  # macOS may refuse
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


def _answer(source: str | bytes, ending: str) -> dict[str, Any]:
    try:
        with damage_as_unreadable(), open_file(source) as file:
            return read_document(file, ending)
    except UnreadableFile as error:
        if isinstance(error.__cause__, ImportError):
            return {"broken": str(error.__cause__)}
        return {"error": str(error)}
    except BaseException:  # a panic in Rust is not an Exception
        return {"error": "damaged"}


def read_document(file: BinaryIO, ending: str) -> dict[str, Any]:
    """The answer for a document.

    Args:
        file: At its beginning.
        ending: Of its name; it tells what files are whose first bytes do not.

    Raises:
        UnreadableFile: It is too large, without text, or something else.
        Exception: Whatever a parser raises on damage.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    if not size:
        raise UnreadableFile("0 bytes")
    if not head.startswith(b"PK") and size > MAX_MEBIBYTES * 2**20:  # pictures in those are skipped
        raise UnreadableFile(f"too large: {size / 2**20:.0f} MiB (limit {MAX_MEBIBYTES})")
    unit = "section"
    if head.startswith(office.SIGNATURES):
        title, blocks, is_presentation = office.read(file)
        unit = "slide" if is_presentation else "section"
    elif head.startswith(b"%PDF-"):
        raise UnreadableFile("a PDF: rename it to .pdf")
    elif ending in (".html", ".htm"):
        title, blocks = html_page.read(file.read())
    elif ending == ".eml":
        title, blocks = mail.read(file.read())
    else:
        raise UnreadableFile(f"not a {ending} file")
    cleaned = [Block(block.level, _cleaned(block.text), block.slide) for block in blocks]
    found = _slides(cleaned) if unit == "slide" else _sections(cleaned)
    length = sum(len(text) for _, _, text in found)
    if length > MAX_MEBIBYTES * 2**20:
        raise UnreadableFile(f"too large: {length / 2**20:.0f} MiB of text (limit {MAX_MEBIBYTES})")
    if not any(text or path for _, path, text in found):
        raise UnreadableFile("no text in it")
    return {"title": " ".join(_cleaned(title).split()), "unit": unit, "sections": found}


Found = list[tuple[int, Sequence[str], str]]
"""(number, heading path, text) of each section."""


def _sections(blocks: Iterable[Block]) -> Found:
    """A section for each heading, unless it has subsections and no text of its own."""
    path: list[tuple[int, str]] = []
    found: list[tuple[list[tuple[int, str]], list[str]]] = [([], [])]
    for block in blocks:
        words = block.text.split()
        if block.level and 0 < len(words) <= _MOST_HEADING:
            path = [*(one for one in path if one[0] < block.level), (block.level, " ".join(words))]
            found.append((path, []))
        elif words:
            found[-1][1].append(block.text)
    return [
        (number, [heading for _, heading in headings], "\n\n".join(texts))
        for number, (headings, texts) in enumerate(found)
        if texts or (number and not _has_subsection(headings, found[number + 1 : number + 2]))
    ]


def _has_subsection(
    headings: list[tuple[int, str]], following: list[tuple[list[tuple[int, str]], list[str]]]
) -> bool:
    return any(next_[: len(headings)] == headings for next_, _ in following)


def _slides(blocks: Iterable[Block]) -> Found:
    """A section for each slide, named "Slide 3: Title" after its first heading."""
    slides: dict[int, list[Block]] = {}
    number = 1
    for block in blocks:
        number = block.slide or number
        if block.text.strip():
            slides.setdefault(number, []).append(block)
    found: Found = []
    for number, parts in slides.items():
        heading = next((part for part in parts if part.level), None)
        words = heading.text.split() if heading else []
        if not 0 < len(words) <= _MOST_HEADING:
            heading, words = None, []
        name = f"Slide {number}: {' '.join(words)}" if words else f"Slide {number}"
        text = "\n\n".join(part.text for part in parts if part is not heading)
        found.append((number, [name], text))
    return found


def _cleaned(text: str) -> str:
    return _UNUSABLE.sub(" ", text).strip()
