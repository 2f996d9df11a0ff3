"""Speech in sounds and videos, with its times, transcribed by Whisper."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from mmsearch.errors import MissingExtra, ModelUnavailable
from mmsearch.home import expanded
from mmsearch.media.audio import HOP, windows
from mmsearch.types import Span, TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]
    """(n,) mono at 16 kHz, in [-1, 1]."""

RATE = 16_000
"""The sample rate that Whisper takes, in Hz."""
STRETCH = 300
"""Seconds transcribed at once: an hour would take 230 MB, several times over."""
MARGIN = 30
"""Seconds; a stretch is cut at the quietest moment in this span at its end."""
MAX_PASSAGE = 30.0
"""Seconds; the text of a longer passage would exceed what a text encoder reads."""
ENOUGH = 15.0
"""Seconds after which a passage ends at the end of a sentence."""
PAUSE = 2.0
"""Seconds of silence that end a passage."""

_MODEL_FILES = ("config.json", "model.bin", "tokenizer.json")
"""Without the tokenizer, faster-whisper would download one."""
_load_lock = Lock()

_CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
"""Any of them says where Hugging Face's cache is; otherwise it is in the user's home folder."""


def require() -> None:
    """Raise MissingExtra unless faster-whisper is installed."""
    if find_spec("faster_whisper") is None:
        raise MissingExtra("--transcribe", "speech")


def segments(
    source: str | Path, model: str | None = None, *, breaks_off: Callable[[], None] | None = None
) -> Iterator[TextPart]:
    """The speech in a sound, in passages of a few sentences with their times.

    Args:
        source: Path of a sound or video file.
        model: As for `model_folder`.
        breaks_off: As for `windows`.

    Raises:
        ModelUnavailable: As `model_folder`.
        UnreadableFile: The file cannot be opened, has no sound, or is damaged.
    """
    require()
    whisper = _loaded(model_folder(model))
    for start, samples in _stretches(windows(source, RATE, breaks_off=breaks_off)):
        yield from _passages(_transcribed(whisper, start, samples))


def model_folder(model: str | None = None) -> Path:
    """The folder of a Whisper model on this machine; nothing is ever downloaded.

    Args:
        model: A folder with a model for CTranslate2; or a size ("base", "large-v3") or a repository
            ("Systran/faster-whisper-base") in the Hugging Face cache. None stands for
            `$MMSEARCH_WHISPER` or, if that is not set, "base".

    Raises:
        ModelUnavailable: It is missing or incomplete.
        NoHomeFolder: It would be in the user's home folder, and the user has none.
    """
    name = model or os.environ.get("MMSEARCH_WHISPER") or "base"
    folder = Path(expanded(name, "name the folder of a model, --whisper DIR"))
    # an unrelated folder may happen to be called `base`
    if not folder.is_dir() or (folder.name == name and not (folder / "model.bin").is_file()):
        folder = _huggingface_folder(name)
    missing = [file for file in _MODEL_FILES if not (folder / file).is_file()]
    if missing:
        raise ModelUnavailable(f"no Whisper model in {folder}: {', '.join(missing)} missing")
    return folder


def _huggingface_folder(name: str) -> Path:
    require()
    from faster_whisper.utils import _MODELS, download_model
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository = _MODELS.get(name, name)
    if name.startswith((".", "~")) or os.path.isabs(name) or repository.count("/") != 1:
        sizes = ", ".join(sorted(_MODELS))
        raise ModelUnavailable(f"no Whisper model {name!r}: no such folder, nor one of {sizes}")
    if not any(map(os.environ.get, _CACHES)):
        expanded("~", "HF_HOME, or name the folder of a model, --whisper DIR")
    try:
        return Path(download_model(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelUnavailable(
            f"the Whisper model {name!r} is not on this machine: `hf download {repository}` "
            "fetches it, or give the folder of one with --whisper"
        ) from error


def _loaded(folder: Path) -> Any:
    with _load_lock:
        return _model(str(folder.absolute()))


@cache
def _model(folder: str) -> Any:
    for name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # by version
        os.environ.setdefault(name, "1")  # before ONNX Runtime, which finds speech, is imported
    from faster_whisper import WhisperModel

    try:
        return WhisperModel(folder, device="cpu", compute_type="int8", local_files_only=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelUnavailable(f"no Whisper model for CTranslate2 in {folder}: {error}") from error


# ---------------------------------------------------------------------- sound


def _stretches(sound: Iterable[tuple[Span, Samples]]) -> Iterator[tuple[float, Samples]]:
    """(start in seconds, samples) of long stretches, cut where it is quiet."""
    import numpy as np

    start, buffer, length = 0.0, [], 0
    for samples in _without_overlap(sound):
        buffer.append(samples)
        length += len(samples)
        if length >= STRETCH * RATE:
            joined = np.concatenate(buffer)
            end = _quietest(joined)
            yield start, joined[:end]
            start += end / RATE
            buffer, length = [joined[end:]], len(joined) - end
    if length:
        yield start, np.concatenate(buffer)


def _without_overlap(sound: Iterable[tuple[Span, Samples]]) -> Iterator[Samples]:
    """The samples of overlapping windows, none of them twice."""
    last: tuple[Span, Samples] | None = None
    for window in sound:
        if last:
            yield last[1][: round(HOP * RATE)]
        last = window
    if last:
        span, samples = last
        yield samples[: round((span.end - span.start) * RATE)]


def _quietest(samples: Samples) -> int:
    """The position of the middle of the quietest half second near the end."""
    import numpy as np

    half_second = RATE // 2
    margin = samples[-MARGIN * RATE :]
    pieces = margin[: len(margin) // half_second * half_second].reshape(-1, half_second)
    quietest = int(np.square(pieces).mean(axis=1).argmin())
    start = max(half_second, len(samples) - MARGIN * RATE)
    return start + quietest * half_second + half_second // 2


# ---------------------------------------------------------------------- words


def _transcribed(whisper: Any, start: float, samples: Samples) -> Iterator[TextPart]:
    """Whisper's segments (clauses or sentences) of a stretch that starts at `start` seconds."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    detection = VadOptions(min_speech_duration_ms=250)
    if not get_speech_timestamps(samples, detection):
        return  # Whisper would guess which language the silence is in
    found, _ = whisper.transcribe(
        samples,
        vad_filter=True,
        vad_parameters=detection,
        temperature=0.0,  # no sampling, so that a file always has the same transcript
        condition_on_previous_text=False,  # an error does not lead to others
    )
    for segment in found:
        text = " ".join(segment.text.split())
        is_repetitive = segment.compression_ratio > 2.4  # "you you you"; bounds are Whisper's own
        if text and not is_repetitive and segment.avg_logprob > -1.0:
            begin, end = round(start + segment.start, 2), round(start + segment.end, 2)
            yield TextPart(text, "speech", Span(begin, end, "second"))


def _passages(parts: Iterable[TextPart]) -> Iterator[TextPart]:
    """Segments joined into passages long enough to be worth finding."""
    passage: TextPart | None = None
    for part in parts:
        if passage is None:
            passage = part
        elif _continues(part, passage):
            span = Span(_span(passage).start, _span(part).end, "second")
            passage = TextPart(f"{passage.text} {part.text}", passage.origin, span)
        else:
            yield passage
            passage = part
    if passage is not None:
        yield passage


def _continues(part: TextPart, passage: TextPart) -> bool:
    """Whether a segment belongs to the passage before it."""
    so_far, more = _span(passage), _span(part)
    sentence_ended = passage.text.endswith((".", "!", "?", "…", "。", "！", "？"))
    return (
        more.start - so_far.end < PAUSE
        and more.end - so_far.start <= MAX_PASSAGE
        and not (sentence_ended and so_far.end - so_far.start >= ENOUGH)
    )


def _span(part: TextPart) -> Span:
    assert part.span is not None
    return part.span
