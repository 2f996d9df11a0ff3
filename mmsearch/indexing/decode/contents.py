"""What is in one file: texts, pictures ready for the encoders, the vectors of long media."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmsearch.media.image import SPARE, load_image
from mmsearch.media.text import passages, read_text
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage.sqlite.records import Place, Rows
from mmsearch.types import Kind, Modality, Span, TextPart

READINGS: dict[str, frozenset[Kind]] = {
    "ocr": frozenset({"image", "document"}),
    "speech": frozenset({"audio", "video"}),
}
"""What can be read from a file when asked for, and from which kinds."""

PIECES = 16
"""Windows, frames or pages of one file that are encoded in one call."""

SMALLEST = 16
"""Side in pixels of a picture that no model looks at."""


@dataclass(frozen=True, slots=True)
class Options:
    """How files are read.

    Attributes:
        max_megapixels: Larger pictures are refused.
        kinds: What files to take in.
        refused: Kinds that were turned off: those of them that are stored leave the index.
        readings: Which of READINGS are wanted.
        whisper: The model that hears speech: a size, a repository or a folder.
    """

    max_megapixels: float = 200.0
    kinds: frozenset[Kind] = frozenset({"image", "text"})
    refused: frozenset[Kind] = frozenset()
    readings: frozenset[str] = frozenset()
    whisper: str | None = None

    def readings_of(self, kind: Kind) -> frozenset[str]:
        """What is to be read from a file of some kind."""
        return frozenset(name for name in self.readings if kind in READINGS[name])


class Stopped(Exception):
    """The run ends; the file in hand is left for the next."""


@dataclass(slots=True)
class Contents:
    """What a file holds, as far as somebody wants it."""

    pictures: dict[int, Any] = field(default_factory=dict)
    """By space, the photo as its encoder wants it."""
    rows: dict[Place, Rows] = field(default_factory=dict)
    """Of sounds, videos and documents: encoded as they were read, so never held whole."""
    texts: list[TextPart] = field(default_factory=list)
    """The file's own: not its captions."""
    details: dict[str, Any] = field(default_factory=dict)
    """Columns of the item."""


class Reader:
    """Reads files of all kinds; callable from many threads at once.

    Args:
        targets: The encoders to read for.
        options: How.
    """

    def __init__(self, targets: Sequence[EncodingTarget], options: Options) -> None:
        self._lanes = targets
        self._options = options
        self._stop = threading.Event()
        sides = [target.encoder.image_size for target in self._of("image")]
        self._at_least = max(sides, default=SMALLEST)
        spares = [target.encoder.decode_scale for target in self._of("image")]
        self._spare = max([SPARE] if self._readable() else spares, default=SPARE)

    def stop(self) -> None:
        """Have every thread give up the long file it is reading."""
        self._stop.set()

    def read(self, kind: Kind, source: str | bytes, path: str) -> Contents:
        """All of a file.

        Args:
            kind: What it is.
            source: Its bytes, or its path when it is large.
            path: Where it is.

        Raises:
            UnreadableFile: it cannot be used.
            Stopped: `stop` was called.
        """
        readings = self._options.readings_of(kind)
        found = Contents()
        {
            "image": self._image,
            "text": self._text,
            "audio": self._audio,
            "video": self._video,
            "document": self._document,
        }[kind](found, source, path)
        if kind in ("audio", "video") and "speech" in readings:
            found.texts += self._speech(path)
        found.details["readings"] = " ".join(sorted(readings))
        return found

    def words(self, kind: Kind, source: str | bytes, path: str) -> list[TextPart]:
        """The texts of a file alone; for a sound and a video, that is what is said in it."""
        if kind in ("audio", "video"):
            return self._speech(path)
        reader = Reader([], self._options)
        reader._stop = self._stop
        return reader.read(kind, source, path).texts

    def _of(self, modality: Modality) -> list[EncodingTarget]:
        return [target for target in self._lanes if modality in target.modalities]

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    # ------------------------------------------------------------------ by kind

    def _image(self, found: Contents, source: str | bytes, path: str) -> None:
        del path
        picture, info = load_image(
            source,
            at_least=max(self._at_least, self._readable()),
            max_megapixels=self._options.max_megapixels,
            spare=self._spare,
        )
        for target in self._of("image"):
            found.pictures[target.space.id] = target.encoder.prepare("image", picture)
        taken = info.taken_at.isoformat() if info.taken_at else None
        found.details = {
            "width": info.width,
            "height": info.height,
            "taken_at": taken,
            "camera": info.camera,
            "latitude": info.latitude,
            "longitude": info.longitude,
        }
        if "ocr" in self._options.readings:
            found.texts += self._written(picture)

    def _text(self, found: Contents, source: str | bytes, path: str) -> None:
        del path
        found.texts = [
            TextPart(part.text, "passage", Span(part.start, part.end, "line"))
            for part in passages(read_text(source))
        ]

    def _audio(self, found: Contents, source: str | bytes, path: str) -> None:
        from mmsearch.media.audio import probe, windows

        del path
        found.details["seconds"] = round(probe(source).seconds, 3)
        for target in self._of("audio"):
            heard = windows(source, target.encoder.sample_rate)
            found.rows |= self._encoded([target], "audio", heard)

    def _video(self, found: Contents, source: str | bytes, path: str) -> None:
        from mmsearch.media import video

        info = video.info(path)
        taken = info.taken_at.isoformat() if info.taken_at else None
        found.details = {
            "seconds": round(info.seconds, 3),
            "width": info.width,
            "height": info.height,
            "taken_at": taken,
        }
        if targets := self._of("image"):
            frames = video.frames(path, at_least=self._at_least)
            pairs = ((frame.span, frame.picture) for frame in frames)
            found.rows |= self._encoded(targets, "image", pairs)
        if self._of("audio") and video.has_sound(path):
            details = found.details
            self._audio(found, source, path)
            found.details |= details
        elif self._of("audio"):
            found.rows |= self._encoded(self._of("audio"), "audio", [])

    def _document(self, found: Contents, source: str | bytes, path: str) -> None:
        from mmsearch.media import pdf

        del path
        numbers = 0

        def pages() -> Iterator[tuple[Span, Any]]:
            nonlocal numbers
            for page in pdf.pages(source, at_least=max(self._at_least, self._readable())):
                numbers += 1
                self._check()
                span = Span(page.number, page.number, "page")
                said = [TextPart(part.text, "page", span) for part in passages(page.text)]
                if not said and "ocr" in self._options.readings:
                    said = self._written(page.picture, span)
                found.texts += said
                yield span, page.picture

        if targets := self._of("image"):
            found.rows |= self._encoded(targets, "image", pages())
        else:
            for _ in pages():
                pass
        found.details["pages"] = numbers

    # ------------------------------------------------------------------ words

    def _readable(self) -> int:
        if "ocr" not in self._options.readings:
            return 0
        from mmsearch.media.ocr import AT_LEAST

        return AT_LEAST

    def _written(self, picture: Any, span: Span | None = None) -> list[TextPart]:
        from mmsearch.media.ocr import read_words

        lines = "\n".join(read_words(picture))
        return [TextPart(part.text, "ocr", span) for part in passages(lines)] if lines else []

    def _speech(self, path: str) -> list[TextPart]:
        from mmsearch.media import speech, video
        from mmsearch.media.kinds import kind_of

        if kind_of(path) == "video" and not video.has_sound(path):
            return []
        found = []
        for part in speech.segments(path, self._options.whisper):
            self._check()
            found.append(part)
        return found

    # ------------------------------------------------------------------ vectors

    def _encoded(
        self, targets: Sequence[EncodingTarget], facet: Modality, pieces: Iterable[tuple[Span, Any]]
    ) -> dict[Place, Rows]:
        """The vectors of a stream of pieces, of which a few are held at a time."""
        import numpy as np

        matrices = [[np.zeros((0, target.space.dim), np.float16)] for target in targets]
        spans: list[Span] = []
        for some in _batches(pieces):
            self._check()
            spans += [span for span, _ in some]
            for target, found in zip(targets, matrices, strict=True):
                ready = [target.encoder.prepare(facet, piece) for _, piece in some]
                found.append(target.encoder.encode(facet, ready).astype(np.float16))
        return {
            (target.space.id, facet): Rows(np.concatenate(found), spans)
            for target, found in zip(targets, matrices, strict=True)
        }


def _batches(pieces: Iterable[tuple[Span, Any]]) -> Iterator[list[tuple[Span, Any]]]:
    some: list[tuple[Span, Any]] = []
    for piece in pieces:
        some.append(piece)
        if len(some) == PIECES:
            yield some
            some = []
    if some:
        yield some
