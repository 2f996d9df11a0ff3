"""The `Encoder` protocol: what the engine needs of a model that encodes media as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

from mmsearch.errors import InvalidOption, UnsupportedModality
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from mmsearch.types import Vectors

    Decoded = Image | str | NDArray[np.float32]
    """An upright RGB photo, a text, or a window of mono sound: samples (5 s · sample_rate,) in
    [-1, 1]."""
    Prepared = NDArray[np.generic] | str
    """The preprocessed input of an encoder, such as pixels, a text or a spectrogram."""
    TokenEmbeddings = NDArray[np.int8]
    """(tokens, width) int8: a text's words or a picture's regions, a row each; 127 stands for 1."""


class Encoder(Protocol):
    """Encodes media as unit vectors of one space. Thread-safe.

    Classes that inherit from it get the defaults given here.
    """

    name: str
    """What `--model` takes, e.g. "mini"."""
    fingerprint: str
    """Hash of the weights: vectors of different fingerprints are never compared."""
    dim: int
    modalities: frozenset[Modality]
    image_size: int = 0
    """Side in pixels of the picture the image tower sees; 0 without an image tower."""
    decode_scale: float = 2.0
    """A JPEG may be decoded at a reduced size, which is several times as fast, but each side stays
    at least this many times `image_size`: at 2, cosines to the vector of the whole photo stay above
    0.999 for any model."""
    sample_rate: int = 0
    """Samples a second of the sound that `prepare` takes; 0 without an audio tower."""

    @property
    def notes(self) -> Sequence[str]:
        """What may surprise the user about how it runs here, a line each."""
        return ()

    def prepare(self, modality: Modality, thing: Decoded) -> Prepared:
        """One photo, text or sound, preprocessed for `encode`: resized, for example.

        Args:
            modality: One of `modalities`.
            thing: Of that modality.

        Raises:
            UnsupportedModality: it has no tower for the modality.
        """
        ...

    def encode(self, modality: Modality, batch: Sequence[Decoded | Prepared]) -> Vectors:
        """Vectors (len(batch), dim) of things that `prepare` takes, or of what it returned.

        Raises:
            UnsupportedModality: it has no tower for the modality.
            ModelDamaged: a file of the tower is missing, or not the one that was made.
        """
        ...

    def encode_query(self, modality: Modality, batch: Sequence[Decoded | Prepared]) -> Vectors:
        """The same, of queries: some models are given another prompt for what is searched with
        than for what is searched.
        """
        return self.encode(modality, batch)


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An encoder that reranks too: it compares a text's words with a picture's regions."""

    token_modalities: frozenset[Modality]
    """What it makes token embeddings of; empty where it was not trained to."""
    tokens_version: str = "1"
    """Token embeddings of different versions are never compared."""
    match_weight: float
    """The weight of a match relative to a cosine of the vectors."""

    def encode_with_tokens(
        self, modality: Modality, batch: Sequence[Decoded | Prepared]
    ) -> tuple[Vectors, list[TokenEmbeddings]]:
        """The vectors that `encode` returns, and the token embeddings of each thing.

        Args:
            modality: One of `token_modalities`.
            batch: As for `encode`.

        Raises:
            UnsupportedModality: it makes no token embeddings of the modality.
            ModelDamaged: a file is missing, or not the one that was made.
        """
        ...

    def match(
        self, modality: Modality, query: TokenEmbeddings, candidates: Sequence[TokenEmbeddings]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate matches the query, comparable within one query; NaN where
        either has no embeddings.

        Args:
            modality: Of the query: the candidates of a "text" are pictures, and the reverse.
            query: As `encode_with_tokens` returns it.
            candidates: The same, of things of the other modality.
        """
        ...


@runtime_checkable
class MultilingualEncoder(Encoder, Protocol):
    """An encoder that may gain languages in a later version.

    When `languages_version` changes, so may the vectors of texts that are not in English, and no
    others.
    """

    languages_version: str
    """Empty if no later version can add languages."""

    def is_english(self, text: str) -> bool:
        """Whether a text is encoded as English only; True for a text without words."""
        ...


@runtime_checkable
class KeepingEncoder(Encoder, Protocol):
    """An encoder that keeps vectors on this machine, for texts that each index of it needs."""

    def encode_kept(self, name: str, texts: Sequence[str]) -> Vectors:
        """Unit vectors (len(texts), dim), encoded at the first call and read from a file later.

        Args:
            name: Of the file; other texts have another name.
            texts: What to encode.
        """
        ...


@runtime_checkable
class VideoEncoder(Encoder, Protocol):
    """An encoder of pictures that also takes whole videos: what happens in them, and in what order.

    The vectors of videos are in the same space as those of pictures.
    """

    takes_videos: bool

    def frame_rate(self, seconds: float) -> float:
        """The frames per second that it takes from a video of this many seconds."""
        ...

    def encode_video(self, frames: NDArray[np.uint8], rate: float) -> Vectors:
        """The vector (1, dim) of a video.

        Args:
            frames: (n, height, width, 3), upright, in chronological order.
            rate: Frames per second.
        """
        ...


def video_encoder(encoder: Encoder) -> VideoEncoder | None:
    """The encoder as one that takes whole videos; None if it does not."""
    return encoder if isinstance(encoder, VideoEncoder) and encoder.takes_videos else None


def token_encoder(encoder: Encoder) -> TokenEncoder | None:
    """The encoder as one that makes token embeddings; None if it makes none."""
    if isinstance(encoder, TokenEncoder) and encoder.token_modalities:
        return encoder
    return None


def multilingual_encoder(encoder: Encoder) -> MultilingualEncoder | None:
    """The encoder as one that may gain languages; None if it may not."""
    if isinstance(encoder, MultilingualEncoder) and encoder.languages_version:
        return encoder
    return None


def check_modality(encoder: Encoder, modality: str) -> None:
    """Return if an encoder has a tower for a modality.

    Raises:
        UnsupportedModality: it has none; the message says what it encodes.
    """
    if modality not in encoder.modalities:
        known = " and ".join(sorted(encoder.modalities))
        raise UnsupportedModality(f"{encoder.name!r} cannot encode {modality}; it encodes {known}")


RuntimeName = Literal["auto", "torch", "onnx"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "int8"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What an encoder runs on; "auto" leaves the choice to it."""

    runtime: RuntimeName = "auto"
    device: Device = "auto"
    precision: Precision = "auto"
    once: bool = False
    """Whether the process encodes one batch and ends: weights that the first run can read as they
    lie in their file are not rearranged for later ones."""


def runtime_of(
    runtime: str = "auto", device: str = "auto", precision: str = "auto", *, once: bool = False
) -> Runtime:
    """The runtime of these names.

    Raises:
        InvalidOption: one of the names is unknown.
    """
    given = {"runtime": runtime, "device": device, "precision": precision}
    for (what, name), kind in zip(given.items(), (RuntimeName, Device, Precision), strict=True):
        if name not in get_args(kind):
            raise InvalidOption(f"the {what} is one of {', '.join(get_args(kind))}, not {name!r}")
    return Runtime(**given, once=once)  # type: ignore[arg-type]
