"""Which kinds of files an index takes in, and what is read from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import get_args

from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.errors import InvalidOption, MissingExtra, ModelUnavailable
from mmsearch.indexing.file_contents import ReadOptions
from mmsearch.media.companions import RawPairs
from mmsearch.spaces.targets import EncodingTarget, modalities_of
from mmsearch.storage import Store
from mmsearch.types import Kind

WHISPER = "whisper"
"""The setting that holds the model that transcribes speech, if one was named."""

RAW_PAIRS = "raw pairs"
"""The setting that is "both" if RAW photos beside JPEGs are items."""

KINDS: dict[str, Kind] = {"video": "video", "pdf": "document"}
"""The kinds of files that an option turns on."""

READINGS = {"ocr": "ocr", "transcribe": "speech"}
"""What an option has read from files."""


@dataclass(frozen=True, slots=True)
class MediaOptions:
    """What is taken in besides photos, texts and sounds; None leaves it as it was last time.

    Attributes:
        video: Videos.
        pdf: PDFs.
        ocr: The writing in pictures.
        transcribe: Speech.
        whisper: The model that transcribes it: a size, a repository or a folder.
        raw_pairs: Whether a RAW photo and the JPEG of its name are "one" item (the default), or
            "both" are items.
    """

    video: bool | None = None
    pdf: bool | None = None
    ocr: bool | None = None
    transcribe: bool | None = None
    whisper: str | None = None
    raw_pairs: str | None = None

    def resolve(self, store: Store) -> ResolvedMedia:
        """What is on and off from now on; it is remembered in the store.

        Raises:
            InvalidOption: `raw_pairs` is neither "one" nor "both".
            MissingExtra: something was turned on whose packages are not installed.
            ModelUnavailable: transcribing was turned on, and there is no model for it.
        """
        if self.raw_pairs not in (None, *get_args(RawPairs)):
            raise InvalidOption(f"--raw-pairs is one or both, not {self.raw_pairs!r}")
        given: dict[str, bool | None] = asdict(self)
        del given["whisper"], given["raw_pairs"]
        whisper = self.whisper or store.settings.get(WHISPER)
        if self.whisper is not None and os.path.isdir(self.whisper):
            whisper = os.path.abspath(self.whisper)
        states = {name: store.settings.get(f"reads {name}") for name in given}
        states |= {
            n: "on" if wanted else "off" for n, wanted in given.items() if wanted is not None
        }
        enabled, warnings = set(), []
        for name in sorted(name for name, state in states.items() if state == "on"):
            try:
                _require(name, whisper)
                enabled.add(name)
            except (MissingExtra, ModelUnavailable) as error:
                if given[name]:
                    raise
                warnings.append(f"{error}; until then, what --{name} takes in stays as it is")
        for name, state in states.items():
            if state is not None and given[name] is not None:
                store.settings.set(f"reads {name}", state)
        # a model that cannot be used now does not replace one that could
        usable = "transcribe" in enabled or states["transcribe"] != "on"
        if self.whisper is not None and whisper is not None and usable:
            store.settings.set(WHISPER, whisper)
        if self.raw_pairs is not None:
            store.settings.set(RAW_PAIRS, self.raw_pairs)
        pairs: RawPairs = "both" if store.settings.get(RAW_PAIRS) == "both" else "one"
        off = [kind for name, kind in KINDS.items() if states[name] == "off"]
        return ResolvedMedia(frozenset(enabled), frozenset(off), whisper, warnings, pairs)


@dataclass(frozen=True, slots=True)
class ResolvedMedia:
    """What an index takes in.

    Attributes:
        enabled: Of "video", "pdf", "ocr", "transcribe".
        removed_kinds: Kinds that were turned off: stored files of these leave the index.
        whisper: The model that transcribes speech.
        warnings: What is on, but cannot be done here just now.
        raw_pairs: As in `MediaOptions`.
    """

    enabled: frozenset[str]
    removed_kinds: frozenset[Kind]
    whisper: str | None
    warnings: list[str]
    raw_pairs: RawPairs = "one"

    def read_options(
        self, options: ReadOptions, targets: Sequence[EncodingTarget], *, captions: bool
    ) -> ReadOptions:
        """The same with the kinds of files to index, and what is to be read from them.

        Args:
            options: How files are read.
            targets: The encoders that files are read for.
            captions: Whether there is a captions file: then photos are items without an encoder.
        """
        encoded = modalities_of(targets)
        kinds: set[Kind] = {"text", *(KINDS[name] for name in self.enabled & KINDS.keys())}
        if "image" in encoded or "ocr" in self.enabled or captions:
            kinds.add("image")
        if "audio" in encoded or "transcribe" in self.enabled:
            kinds.add("audio")
        return replace(
            options,
            kinds=frozenset(kinds),
            readings=frozenset(READINGS[name] for name in self.enabled & READINGS.keys()),
            removed_kinds=self.removed_kinds,
            whisper=self.whisper,
            raw_pairs=self.raw_pairs,
        )


def _require(name: str, whisper: str | None) -> None:
    """Raise MissingExtra or ModelUnavailable if what an option needs is not there."""
    if name == "video":
        from mmsearch.media import video

        video.require()
    elif name == "pdf":
        from mmsearch.media import pdf

        pdf.require()
    elif name == "ocr":
        from mmsearch.media import ocr

        ocr.require()
        import_onnxruntime()  # before rapidocr does, whose import leaves the telemetry on
    else:
        from mmsearch.media import speech

        speech.require()
        speech.model_folder(whisper)
        import_onnxruntime()  # before faster_whisper does
