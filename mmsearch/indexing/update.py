"""Brings an index up to date: what its settings are, a scan of the disk, a new model's vectors."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.errors import InvalidOption, MissingExtra, ModelUnavailable
from mmsearch.indexing.backfill import Fill
from mmsearch.indexing.decode.contents import Options
from mmsearch.indexing.run import Ingest
from mmsearch.indexing.scan import Scope
from mmsearch.indexing.user_metadata import MetadataFile, apply_metadata
from mmsearch.spaces.encoder_pool import token_setting, tokens_version
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import EncodingTarget, modalities_of
from mmsearch.storage import Store
from mmsearch.types import Kind, Progress, Report

if TYPE_CHECKING:
    from mmsearch.media.captions import CaptionFile

INCOMPLETE = "holes"
"""The setting that says that some item lacks a vector that it should have."""

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

    def settle(self, store: Store) -> Settled:
        """What is on and off from now on; kept in the store.

        Raises:
            MissingExtra: something was turned on whose packages are not installed.
            ModelUnavailable: it was turned on to transcribe, and there is no model to do it.
        """
        asked = {name: getattr(self, name) for name in _REQUIRED}
        held = {
            name: store.settings.get(f"reads {name}") for name in asked
        }  # "on", "off" or nothing
        now = {
            name: held[name] if asked[name] is None else "on" if asked[name] else "off"
            for name in asked
        }
        whisper = self.whisper or store.settings.get(WHISPER)
        if self.whisper is not None and os.path.isdir(self.whisper):
            whisper = os.path.abspath(self.whisper)
        able, warnings = set(), []
        for name in sorted(name for name, state in now.items() if state == "on"):
            try:
                _REQUIRED[name](whisper)
                able.add(name)
            except (MissingExtra, ModelUnavailable) as error:
                if asked[name]:
                    raise
                warnings.append(f"{error}; until then, what --{name} takes in stays as it is")
        for name, state in now.items():
            if state is not None and state != held[name]:
                store.settings.set(f"reads {name}", state)
        if self.whisper is not None and whisper is not None and "transcribe" in able:
            store.settings.set(WHISPER, whisper)
        off = frozenset(_KINDS[name] for name in _KINDS if now[name] == "off")
        return Settled(frozenset(able), off, whisper, warnings)


@dataclass(frozen=True, slots=True)
class Settled:
    """What an index takes in.

    Attributes:
        on: Of "video", "pdf", "ocr", "transcribe".
        refused: Kinds that were turned off: those of them that are stored go.
        whisper: What hears speech.
        warnings: What is on, but cannot be done here just now.
    """

    on: frozenset[str]
    refused: frozenset[Kind]
    whisper: str | None
    warnings: list[str]


_KINDS: dict[str, Kind] = {"video": "video", "pdf": "document"}


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
    options: Options, targets: Sequence[EncodingTarget], settled: Settled, *, captions: bool
) -> Options:
    """The kinds of files and the readings that encoders and settings ask for."""
    reads = settled.on
    seen = modalities_of(targets)
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
        refused=settled.refused,
        whisper=settled.whisper,
    )


class Update:
    """One run; `report` is true at every moment, also after an interruption.

    Args:
        store: Where things are stored.
        targets_now: Gives the encoders, and their spaces: asked again when the scan is done, as
            another process may have brought in a model meanwhile.
        options: How files are found and read for them.
        book: Captions from a file, if any.
        metadata: What the user knows of files, if anything.
        query_banks: The query banks of the spaces.
        progress: Told of every file.
    """

    def __init__(
        self,
        store: Store,
        targets_now: Callable[[], list[EncodingTarget]],
        options: Callable[[Sequence[EncodingTarget]], Options],
        *,
        book: CaptionFile | None = None,
        metadata: MetadataFile | None = None,
        query_banks: QueryBanks | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._query_banks = query_banks or QueryBanks(store)
        self._lanes_now = targets_now
        self._lanes = targets = targets_now()
        self._options = options(targets)
        self._progress = progress
        self._ingest = Ingest(
            store,
            targets,
            options=self._options,
            book=book,
            query_banks=self._query_banks,
            progress=progress,
        )
        self.report: Report = self._ingest.report

    def run(self, scopes: Sequence[Scope]) -> None:
        """Scan, then give every space what it lacks: a new model's, or what became a hole."""
        began = time.monotonic()
        try:
            self._ingest.run(scopes)
            self._tell_of_others(self._ingest.others)
            tokens = self._tokens_due()
            if tokens or self._store.settings.get(INCOMPLETE) or len(self._store.spaces.all()) > 1:
                self._fill_all(tokens=tokens)
            self._derive()
        except KeyboardInterrupt:
            self.report.interrupted = True
            raise
        finally:
            self.report.seconds = time.monotonic() - began
            for target in self._lanes:
                self.report.warnings += target.encoder.notes

    def _derive(self) -> None:
        """Bring up what follows from what is stored: metadata, hubs, the words to look up."""
        if self._metadata is not None:
            applied = apply_metadata(self._store, self._metadata)
            if applied.unmatched:
                first = ", ".join(applied.examples)
                self.report.warnings.append(
                    f"the metadata file names {applied.unmatched} files that were not found, or "
                    f"not one alone: {first}"
                )
        encoders = {target.space.id: target.encoder for target in self._lanes_now()}
        self._query_banks.update(lambda space: encoders[space.id])
        self._store.words.refresh()

    def _tokens_due(self) -> bool:
        """Whether some item may lack the token embeddings that it should have."""
        kept = self._store.settings.get
        return any(
            target.token_modalities
            and kept(token_setting(target.space)) != tokens_version(target.encoder)
            for target in self._lanes
        )

    def _fill_all(self, *, tokens: bool) -> None:
        targets = self._lanes_now()
        holes = [self._fill(target, tokens=tokens) for target in targets]
        lacking = "yes" if any(holes) else ""
        if lacking != (self._store.settings.get(INCOMPLETE) or ""):
            self._store.settings.set(INCOMPLETE, lacking)
        for target in targets if tokens else ():
            if target.token_modalities:
                self._store.settings.set(
                    token_setting(target.space), tokens_version(target.encoder)
                )

    def _fill(self, target: EncodingTarget, *, tokens: bool) -> bool:
        """Whether something is lacking still."""
        before = self.report.filled
        fill = Fill(
            self._store,
            target,
            self._options,
            self._progress,
            tokens=tokens,
            query_banks=self._query_banks,
        )
        try:
            fill.run()
        finally:
            self.report.filled = before + fill.filled
        name = target.space.name
        if fill.holes:
            self.report.warnings.append(
                f"{fill.holes} stored files could not be read again for {name!r}: they are found "
                "by their texts alone"
            )
        if fill.away:
            answers = ", so the old model goes on answering" if target.space.backfills else ""
            self.report.warnings.append(
                f"{fill.away} stored files are not there just now{answers}: run `mmsearch index` "
                "when they are back, or `mmsearch remove` them"
            )
        return bool(fill.holes or fill.away)

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
