"""Brings an index up to date: what its settings are, a scan of the disk, a new model's vectors."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmsearch.catalog import Catalog
from mmsearch.contents import Options
from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.errors import InvalidOption
from mmsearch.fill import Fill
from mmsearch.ingest import Ingest
from mmsearch.lanes import Lane, modalities_of
from mmsearch.scan import Scope
from mmsearch.types import Kind, Progress, Report

if TYPE_CHECKING:
    from mmsearch.media.captions import CaptionBook

SETTING = "reads"
"""The catalog's setting that holds what was turned on, with a space between."""

WHISPER = "whisper"
"""The setting that holds the model that hears speech, if one was named."""


@dataclass(frozen=True, slots=True)
class Reads:
    """What is taken in beyond photos, texts and sounds; None leaves it as it was last time."""

    video: bool | None = None
    pdf: bool | None = None
    ocr: bool | None = None
    transcribe: bool | None = None
    whisper: str | None = None

    def settle(self, catalog: Catalog) -> tuple[frozenset[str], str | None]:
        """What is on from now on, of "video", "pdf", "ocr", "transcribe", and what hears speech.

        Raises:
            MissingExtra: something was turned on whose packages are not installed.
            ModelUnavailable: there is no model to transcribe with.
        """
        held = frozenset((catalog.setting(SETTING) or "").split())
        asked = {name: getattr(self, name) for name in _REQUIRED}
        chosen = frozenset(
            name for name, on in asked.items() if (name in held if on is None else on)
        )
        whisper = self.whisper or catalog.setting(WHISPER)
        if self.whisper is not None and os.path.isdir(self.whisper):
            whisper = os.path.abspath(self.whisper)
        for name in sorted(chosen):
            _REQUIRED[name](whisper)
        if chosen != held:
            catalog.set_setting(SETTING, " ".join(sorted(chosen)))
        if self.whisper is not None and whisper is not None:
            catalog.set_setting(WHISPER, whisper)
        return chosen, whisper

    def refused(self) -> frozenset[Kind]:
        """Kinds that were turned off just now: those of them that are stored go."""
        off: set[Kind] = set()
        if self.video is False:
            off.add("video")
        if self.pdf is False:
            off.add("document")
        return frozenset(off)


def _require_video(_: str | None) -> None:
    from mmsearch.media import video

    video.require()


def _require_pdf(_: str | None) -> None:
    from mmsearch.media import pdf

    pdf.require()


def _require_ocr(_: str | None) -> None:
    from mmsearch.media import ocr

    ocr.require()
    import_onnxruntime()  # before rapidocr does, whose import leaves the telemetry on


def _require_speech(whisper: str | None) -> None:
    from mmsearch.media import speech

    speech.require()
    speech.model_folder(whisper)
    import_onnxruntime()  # as above


_REQUIRED: dict[str, Callable[[str | None], None]] = {
    "video": _require_video,
    "pdf": _require_pdf,
    "ocr": _require_ocr,
    "transcribe": _require_speech,
}


def options_for(
    options: Options, lanes: Sequence[Lane], reads: frozenset[str], *, captions: bool
) -> Options:
    """The kinds of files and the readings that encoders and settings ask for."""
    seen = modalities_of(lanes)
    kinds: set[Kind] = {"text"}
    if "image" in seen or "ocr" in reads or captions:
        kinds.add("image")
    if "audio" in seen or "transcribe" in reads:
        kinds.add("audio")
    if "video" in reads:
        kinds.add("video")
    if "pdf" in reads:
        kinds.add("document")
    readings = {"ocr": "ocr", "transcribe": "speech"}
    return replace(
        options,
        kinds=frozenset(kinds),
        readings=frozenset(readings[name] for name in reads if name in readings),
    )


class Update:
    """One run; `report` is true at every moment, also after an interruption.

    Args:
        catalog: Where things are stored.
        lanes: The encoders, and their spaces.
        options: How files are found and read.
        book: Captions from a file, if any.
        progress: Told of every file.
    """

    def __init__(
        self,
        catalog: Catalog,
        lanes: Sequence[Lane],
        options: Options,
        *,
        book: CaptionBook | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._catalog = catalog
        self._lanes = lanes
        self._options = options
        self._progress = progress
        self._ingest = Ingest(catalog, lanes, options=options, book=book, progress=progress)
        self.report: Report = self._ingest.report

    def run(self, scopes: Sequence[Scope]) -> None:
        """Scan, then give a new model's space what it lacks."""
        began = time.monotonic()
        try:
            self._ingest.run(scopes)
            self._tell_of_others(self._ingest.others)
            for lane in self._lanes:
                if not lane.space.complete:
                    self._fill(lane)
        except KeyboardInterrupt:
            self.report.interrupted = True
            raise
        finally:
            self.report.seconds = time.monotonic() - began
            for lane in self._lanes:
                self.report.warnings += getattr(lane.encoder, "notes", [])

    def _fill(self, lane: Lane) -> None:
        name = lane.space.name

        def tell(done: int, total: int | None) -> None:
            self.report.filled = done
            if self._progress is not None:
                self._progress(done, total)

        fill = Fill(self._catalog, lane, self._options, tell)
        fill.run()
        if fill.holes:
            self.report.warnings.append(
                f"{fill.holes} stored files could not be read again for {name!r}: they are found "
                "by their texts alone"
            )
        if fill.away:
            self.report.warnings.append(
                f"{fill.away} stored files are not there just now, so the old model goes on "
                f"answering: run `mmsearch index` when they are back, or `mmsearch remove` them"
            )

    def _tell_of_others(self, others: Counter[Kind]) -> None:
        for kind, number in sorted(others.items()):
            self.report.warnings.append(f"passed over {number} {_OTHERS[kind]}")


_OTHERS: dict[Kind, str] = {
    "image": "photos, which none of this index's models sees: add one with --model mini",
    "text": "texts",
    "audio": "sounds: those that end in .m4a and the like need `pip install 'mmsearch[av]'`, the "
    "others a model that hears, --model mini say",
    "video": "videos: --video takes them in",
    "document": "PDFs: --pdf takes them in",
}


def check_megapixels(most: float) -> float:
    """The limit, if it is one.

    Raises:
        InvalidOption: it is not above 0.
    """
    if not most > 0:
        raise InvalidOption(f"max_megapixels is a size above 0, not {most}")
    return most
