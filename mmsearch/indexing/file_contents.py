"""What a file holds: its texts, pictures ready for the encoders, and vectors of long media."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from numbers import Real
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import video_encoder
from mmsearch.errors import InvalidOption, UnreadableFile
from mmsearch.media.companions import RawPairs
from mmsearch.media.documents.reader import DocumentReader, read_passages
from mmsearch.media.image import DECODE_SCALE, load_image
from mmsearch.media.kinds import kind_of
from mmsearch.media.text import passages
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import ItemVectors, VectorField
from mmsearch.types import Kind, Modality, Span, TextPart

if TYPE_CHECKING:
    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.media.image import ImageInfo
    from mmsearch.media.video import VideoInfo

READINGS: dict[str, frozenset[Kind]] = {
    "ocr": frozenset({"image", "document"}),
    "speech": frozenset({"audio", "video"}),
}
"""What can be read from files when wanted, and from which kinds."""

PIECES = 16
"""Windows, frames or pages of one file that are encoded in one call."""

SMALLEST = 16
"""Side in pixels of a picture that no encoder sees."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How files are read.

    Raises:
        InvalidOption: `max_megapixels` is not above 0.

    Attributes:
        max_megapixels: Larger pictures are refused.
        kinds: The kinds of files to index.
        removed_kinds: Kinds that were turned off: stored files of these leave the index.
        readings: The READINGS that are wanted.
        whisper: The model that transcribes speech: a size, a repository or a folder.
        raw_pairs: Whether a RAW photo and the JPEG of its name are one item or both.
    """

    max_megapixels: float = 200.0
    kinds: frozenset[Kind] = frozenset({"image", "text"})
    removed_kinds: frozenset[Kind] = frozenset()
    readings: frozenset[str] = frozenset()
    whisper: str | None = None
    raw_pairs: RawPairs = "one"

    def __post_init__(self) -> None:
        size: Any = self.max_megapixels
        if not isinstance(size, Real) or not float(size) > 0:
            raise InvalidOption(f"max_megapixels is a size above 0, not {size!r}")

    def readings_of(self, kind: Kind) -> frozenset[str]:
        """What to read from a file of some kind."""
        return frozenset(name for name in self.readings if kind in READINGS[name])


class Stopped(Exception):
    """The run ends; the file being read is left for the next."""


@dataclass(slots=True)
class Contents:
    """What a file holds, as far as it is wanted."""

    pictures: dict[int, Any] = field(default_factory=dict)
    """By space, the photo as its encoder wants it."""
    rows: dict[VectorField, ItemVectors] = field(default_factory=dict)
    """Of sounds, videos, documents and animations of several shots: encoded as they are read, so
    never in memory as a whole."""
    texts: list[TextPart] = field(default_factory=list)
    """The file's own: not its captions."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Of the item."""
    facts: dict[str, str | float] | None = None
    """The rest of the file's own metadata; None leaves what is stored."""
    breaks_off: bool = False
    """Whether it is a sound, video or animation that is damaged or truncated after its start."""

    def break_off(self) -> None:
        """Called by the readers of sounds, videos and animations."""
        self.breaks_off = True


class Reader:
    """Reads files of all kinds for some encoders; callable from many threads at once."""

    def __init__(self, targets: Sequence[EncodingTarget], options: ReadOptions) -> None:
        self._targets = targets
        self._options = options
        self._stop = threading.Event()
        self._documents = DocumentReader()
        encoders = [target.encoder for target in self._of("image")]
        self._side = max((encoder.image_size for encoder in encoders), default=SMALLEST)
        self._decode_scale = max(
            (encoder.decode_scale for encoder in encoders), default=DECODE_SCALE
        )
        self._readable_side = self._side
        if "ocr" in options.readings:
            from mmsearch.media.ocr import AT_LEAST

            self._readable_side, self._decode_scale = max(self._side, AT_LEAST), DECODE_SCALE

    def stop(self) -> None:
        """Have every thread give up the long file it is reading."""
        self._stop.set()
        self.close()

    def close(self) -> None:
        """End the process that reads documents, if there is one."""
        self._documents.close()

    def read(self, kind: Kind, source: str | bytes, path: str) -> Contents:
        """All of a file.

        Args:
            kind: What it is.
            source: Its bytes, or its path when it is large.
            path: Where it is.

        Raises:
            UnreadableFile: It cannot be used.
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
        if "speech" in readings:
            found.texts += self._speech(path, found.break_off)
        found.columns["readings"] = " ".join(sorted(readings))
        return found

    def read_texts(self, kind: Kind, source: str | bytes, path: str) -> list[TextPart]:
        """Only the texts of a file; of a sound or video, what is said in it."""
        if kind in ("audio", "video"):
            return self._speech(path)
        reader = Reader([], self._options)
        reader._stop, reader._documents = self._stop, self._documents
        return reader.read(kind, source, path).texts

    def _of(self, modality: Modality) -> list[EncodingTarget]:
        return [target for target in self._targets if modality in target.modalities]

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    # ------------------------------------------------------------------ by kind

    def _image(self, found: Contents, source: str | bytes, path: str) -> None:
        del path
        picture, info = load_image(
            source,
            at_least=self._readable_side,
            max_megapixels=self._options.max_megapixels,
            decode_scale=self._decode_scale,
        )
        # None clears the length of a file that was an animation before
        found.columns |= _columns(info) | {"seconds": None}
        found.facts = dict(info.facts)
        targets = self._of("image")
        if not self._animation(found, source, targets):
            for target in targets:
                found.pictures[target.space.id] = target.encoder.prepare("image", picture)
        if "ocr" in self._options.readings:
            found.texts += _ocr(picture)

    def _animation(
        self, found: Contents, source: str | bytes, targets: Sequence[EncodingTarget]
    ) -> bool:
        """Encode the shots of an animation; False if it has fewer than two, or is a still."""
        from mmsearch.media import animation

        if not targets:
            return False
        frames = animation.frames(
            source,
            at_least=self._side,
            max_megapixels=self._options.max_megapixels,
            breaks_off=found.break_off,
        )
        if not (first := list(islice(frames, 2))):
            return False
        found.columns["seconds"] = first[-1].span.end
        if len(first) == 1:
            return False

        def pictures() -> Iterator[tuple[Span, Any]]:
            for frame in chain(first, frames):
                found.columns["seconds"] = frame.span.end
                yield frame.span, frame.picture

        found.rows |= self._encoded(targets, "image", pictures(), tokens=True)
        return True

    def _text(self, found: Contents, source: str | bytes, path: str) -> None:
        try:
            found.texts += read_passages(source, path, self._documents)
        except UnreadableFile:
            self._check()  # stopping the run also ends the reading of documents
            raise

    def _audio(self, found: Contents, source: str | bytes, path: str) -> None:
        from mmsearch.media.audio import probe, windows

        del path
        found.columns["seconds"] = round(probe(source).seconds, 3)
        for target in self._of("audio"):
            sound = windows(source, target.encoder.sample_rate, breaks_off=found.break_off)
            found.rows |= self._encoded([target], "audio", sound)
            if found.breaks_off:  # the header states the length of the whole
                ends = [span.end for span in found.rows[target.space.id, "audio"].spans if span]
                found.columns["seconds"] = max(ends)

    def _video(self, found: Contents, source: str | bytes, path: str) -> None:
        from mmsearch.media import video
        from mmsearch.media.audio import windows

        found.columns |= _columns(video.info(path))
        if targets := self._of("image"):
            frames = video.frames(path, at_least=self._side, breaks_off=found.break_off)
            pictures = ((frame.span, frame.picture) for frame in frames)
            found.rows |= self._encoded(targets, "image", pictures)
        for target in targets:
            self._add_whole_video(found, target, path)
        targets = self._of("audio")
        has_sound = bool(targets) and video.has_sound(path)
        for target in targets:
            rate = target.encoder.sample_rate
            sound = windows(source, rate, breaks_off=found.break_off) if has_sound else ()
            found.rows |= self._encoded([target], "audio", sound)

    def _add_whole_video(self, found: Contents, target: EncodingTarget, path: str) -> None:
        """Add a vector of the whole video to those of its shots, if the encoder takes videos."""
        import numpy as np

        from mmsearch.media import video

        encoder, shots = video_encoder(target.encoder), found.rows[target.space.id, "image"]
        *_, last = shots.spans
        if encoder is None or last is None:
            return
        self._check()
        rate, side = encoder.frame_rate(last.end), encoder.image_size
        frames = video.frames_at_rate(path, rate, seconds=last.end, side=side)
        whole = encoder.encode_video(frames, rate).astype(np.float16)
        found.rows[target.space.id, "image"] = ItemVectors(
            np.concatenate([shots.matrix, whole]), [*shots.spans, None]
        )

    def _document(self, found: Contents, source: str | bytes, path: str) -> None:
        from mmsearch.media import pdf

        del path
        found.columns["pages"] = 0

        def pages() -> Iterator[tuple[Span, Any]]:
            for page in pdf.pages(source, at_least=self._readable_side):
                self._check()
                found.columns["pages"] += 1
                span = Span(page.number, page.number, "page")
                texts = [TextPart(part.text, "page", span) for part in passages(page.text)]
                if not texts and "ocr" in self._options.readings:
                    texts = _ocr(page.picture, span)
                found.texts += texts
                yield span, page.picture

        found.rows |= self._encoded(self._of("image"), "image", pages())

    def _speech(self, path: str, breaks_off: Callable[[], None] | None = None) -> list[TextPart]:
        from mmsearch.media import speech, video

        if kind_of(path) == "video" and not video.has_sound(path):
            return []
        found = []
        for part in speech.segments(path, self._options.whisper, breaks_off=breaks_off):
            self._check()
            found.append(part)
        return found

    # ------------------------------------------------------------------ vectors

    def _encoded(
        self,
        targets: Sequence[EncodingTarget],
        modality: Modality,
        pieces: Iterable[tuple[Span, Any]],
        *,
        tokens: bool = False,
    ) -> dict[VectorField, ItemVectors]:
        """The vectors of a stream of pieces, PIECES of which are in memory at a time.

        With `tokens`, the token embeddings that targets keep are among them.
        """
        import numpy as np

        matrices = [[np.zeros((0, target.space.dim), np.float16)] for target in targets]
        token_embeddings: list[list[TokenEmbeddings]] = [[] for _ in targets]
        spans: list[Span] = []
        stream = iter(pieces)
        while some := list(islice(stream, PIECES)):
            self._check()
            spans += [span for span, _ in some]
            for target, found, embeddings in zip(targets, matrices, token_embeddings, strict=True):
                ready = [target.encoder.prepare(modality, piece) for _, piece in some]
                if tokens:
                    matrix, more = target.encode(modality, ready)
                    embeddings.extend(more)
                else:
                    matrix = target.encoder.encode(modality, ready)
                found.append(matrix.astype(np.float16))
        return {
            (target.space.id, modality): ItemVectors(np.concatenate(found), spans, embeddings)
            for target, found, embeddings in zip(targets, matrices, token_embeddings, strict=True)
        }


def _columns(info: ImageInfo | VideoInfo) -> dict[str, Any]:
    """The columns of an item, which are called as the fields are."""
    columns = {name: value for name, value in asdict(info).items() if name != "facts"}
    if info.taken_at is not None:
        columns["taken_at"] = info.taken_at.isoformat()
    if "seconds" in columns:
        columns["seconds"] = round(columns["seconds"], 3)
    return columns


def _ocr(picture: Any, span: Span | None = None) -> list[TextPart]:
    from mmsearch.media.ocr import read_words

    return [TextPart(part.text, "ocr", span) for part in passages("\n".join(read_words(picture)))]
