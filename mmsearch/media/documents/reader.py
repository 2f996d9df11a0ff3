"""Documents (Word, PowerPoint, OpenDocument, HTML, EPUB, RTF, mail) as passages with headings.

Documents are untrusted, and their parsers are large. So a child process of low priority parses them
(`process`), within limits of time and memory; it starts with the first document, reads one
after the other, and is replaced when it dies.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.media.kinds import FORMATS, ending_of
from mmsearch.media.members import member_at
from mmsearch.media.open_media import open_file, read_whole
from mmsearch.media.text import MAX_WORDS, count_words, passages, read_text
from mmsearch.types import Span, TextPart, Unit

PACKAGE = "anydoc"
"""The package that reads office formats."""

SECONDS = 60.0
"""For one document."""

MEMORY_MEBIBYTES = 1024
"""Address space of the child, where the system can limit it (not on Windows)."""

BETWEEN = " › "
"""Between the headings of a path."""

_MOST_HEADING_WORDS = 30
"""Of a passage's heading path; outer headings are dropped beyond that."""


@dataclass(frozen=True, slots=True)
class Section:
    """The text between two headings, or on a slide."""

    number: int
    """Of the heading, or the slide, from 1; 0: before the first heading."""
    headings: tuple[str, ...]
    """Its heading path, the outermost first."""
    text: str
    """Paragraphs with blank lines between."""


@dataclass(frozen=True, slots=True)
class Document:
    """The text of a document, by sections."""

    title: str
    """Empty if it has none."""
    unit: Unit
    """"section", or "slide" of a presentation."""
    sections: tuple[Section, ...]
    """At least one."""

    def passages(self) -> Iterator[TextPart]:
        """Its passages in order; each begins with the path of its headings on a line of its own."""
        first = self.sections[0]
        if self.title not in f"{BETWEEN.join(first.headings)}\n{first.text[:1000]}":
            yield TextPart(self.title, "passage", Span(0, 0, self.unit))
        for section in self.sections:
            span = Span(section.number, section.number, self.unit)
            headings = section.headings
            while len(headings) > 1 and count_words(BETWEEN.join(headings)) > _MOST_HEADING_WORDS:
                headings = headings[1:]
            path = BETWEEN.join(headings)
            room = max(MAX_WORDS - count_words(path), MAX_WORDS // 2)
            texts = [part.text for part in passages(section.text, max_words=room)] or [""]
            for text in texts:
                yield TextPart(f"{path}\n{text}".strip(), "passage", span)


def is_document(path: str) -> bool:
    """Whether a file is a document by its ending, as opposed to a plain text."""
    found = FORMATS.get(ending_of(path))
    return found is not None and found.package == PACKAGE


def read_passages(
    source: str | bytes, path: str, reader: DocumentReader | None = None
) -> list[TextPart]:
    """The passages of a text file or document.

    Args:
        source: Its path, or its bytes.
        path: Its ending says whether it is a document.
        reader: For documents; by default one for this call.

    Raises:
        UnreadableFile: It is empty, damaged, too large, or something else.
        MissingExtra: It is a document, and anydoc is not installed.
    """
    if not is_document(path):
        return [
            TextPart(part.text, "passage", Span(part.start, part.end, "line"))
            for part in passages(read_text(source))
        ]
    if reader is not None:
        return list(reader.read(source, path).passages())
    with DocumentReader() as own:
        return list(own.read(source, path).passages())


class DocumentReader:
    """Reads documents in a child process; callable from many threads, one of which reads at a time.

    Args:
        seconds: After which a document is given up.
        mebibytes: Of memory that the child may use.
    """

    def __init__(self, *, seconds: float = SECONDS, mebibytes: int = MEMORY_MEBIBYTES) -> None:
        self._seconds, self._mebibytes = seconds, mebibytes
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, source: str | bytes, path: str) -> Document:
        """The text of a document.

        Args:
            source: Its path, or its bytes.
            path: Its ending says what it is, if its first bytes do not.

        Raises:
            UnreadableFile: It is empty, damaged, encrypted, something else, or too much; or the
                reader was closed meanwhile.
            MissingExtra: anydoc cannot be imported.
        """
        if find_spec(PACKAGE) is None:
            raise MissingExtra(f"reading {ending_of(path)} files", "docs")
        task: dict[str, Any] = {"ending": ending_of(path)}
        data = b""
        if not isinstance(source, bytes) and member_at(source) is not None:
            with open_file(source) as file:
                source = read_whole(file, "a document")
        if isinstance(source, bytes):
            task["size"], data = len(source), source
        else:
            task["path"] = source
        with self._lock:
            reply = self._ask(json.dumps(task).encode() + b"\n", data)
        if "broken" in reply:
            error = ImportError(reply["broken"])
            raise MissingExtra(f"reading {ending_of(path)} files", "docs", error)
        if "error" in reply:
            raise UnreadableFile(reply["error"])
        sections = tuple(Section(n, tuple(path), text) for n, path, text in reply["sections"])
        return Document(reply["title"], reply["unit"], sections)

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._lock:  # a thread that is reading sees the end
            self._end()

    def _ask(self, *task: bytes) -> dict[str, Any]:
        child = self._running()
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            child.kill()

        timer = threading.Timer(self._seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            answer = _exchange(child, *task)
        except BaseException:  # Ctrl-C: else this answer would be taken for that of the next task
            self._end()
            raise
        finally:
            timer.cancel()
        if answer is not None and not timed_out.is_set():
            return answer
        self._end()
        if self._closed:
            raise UnreadableFile("stopped")
        if timed_out.is_set():
            raise UnreadableFile(f"reading it takes more than {self._seconds:g} seconds")
        raise UnreadableFile(
            f"damaged, or reading it takes more than {self._mebibytes} MiB of memory"
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self._end()
        if self._child is None and not self._closed:
            try:
                child = self._child = _start(self._seconds, self._mebibytes)
                if not self._closed and _exchange(child) is None:
                    raise ChildProcessError(errno.ECHILD, "it ended at once")
            except OSError as error:
                self._end()
                if not self._closed:
                    why = f"the process that reads documents cannot be started: {error.strerror}"
                    raise UnreadableFile(why) from error
        if self._child is None or self._closed:
            self._end()
            raise UnreadableFile("stopped")
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):  # closing flushes what could not be written
                pipe and pipe.close()
        child.wait()


def _start(seconds: float, mebibytes: int) -> subprocess.Popen[bytes]:
    """A new child: this Python, with the module path of this process and no other."""
    code = (
        "import sys; sys.path[:] = sys.argv[3:]; "
        "from mmsearch.media.documents.process import main; main()"
    )
    how: dict[str, Any] = {"process_group": 0}  # Ctrl-C in a terminal is for this process alone
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS
        how = {"creationflags": flags}
    limits = f"{seconds:g}", str(mebibytes)
    return subprocess.Popen(  # noqa: S603 - a fixed command
        [sys.executable, "-P", "-c", code, *limits, *map(str, sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **how,
    )


def _exchange(child: subprocess.Popen[bytes], *task: bytes) -> dict[str, Any] | None:
    """The child's answer to a task, or its greeting; None if it died."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        for piece in task:
            child.stdin.write(piece)
        child.stdin.flush()
        answer: dict[str, Any] = json.loads(child.stdout.readline())
    except (OSError, ValueError):  # ValueError: a line that is cut off
        return None
    return answer
