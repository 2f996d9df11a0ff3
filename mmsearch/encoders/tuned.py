"""A model with residual heads above its vectors, tuned on a user's own pairs: `tuned:NAME`.

    x → normalise(x + (x · down) · up + bias)

There is a head for each modality, so stored vectors can be projected, and nothing is encoded again.
The heads belong to one index, which keeps them in the query bank of the tuned model's space
(`mmsearch.encoders.query_bank`); `mmsearch.training.tune` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import (
    MultilingualEncoder,
    TokenEncoder,
    VideoEncoder,
    multilingual_encoder,
    token_encoder,
    video_encoder,
)
from mmsearch.encoders.model_files import short_hash
from mmsearch.errors import UnsupportedModality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import Encoder, TokenEmbeddings
    from mmsearch.types import Modality, Vectors

PREFIX = "tuned:"
"""What the names of tuned models begin with."""

Heads = Mapping["Modality", "Head"]
"""By modality; vectors of a modality without a head are left unchanged."""


@dataclass(frozen=True, eq=False)
class Head:
    """A residual map of a space's vectors of one modality."""

    down: NDArray[np.float32]
    """(dim, rank)"""
    up: NDArray[np.float32]
    """(rank, dim)"""
    bias: NDArray[np.float32]
    """(dim,)"""

    def __call__(self, rows: Vectors) -> Vectors:
        """Unit rows (n, dim) of unit rows (n, dim)."""
        import numpy as np

        moved = rows + (rows @ self.down) @ self.up + self.bias
        unit: Vectors = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
        return unit.astype(np.float32, copy=False)


def projected(heads: Heads, modality: Modality, rows: Vectors) -> Vectors:
    """Unit rows (n, dim) of a modality, through its head if there is one."""
    head = heads.get(modality)
    return rows if head is None or not len(rows) else head(rows)


def tuned_name(name: str) -> str:
    """The name of a model once it is tuned."""
    return PREFIX + name


def base_name(name: str) -> str | None:
    """The name of the base of a tuned model; None if the name is not that of a tuned model."""
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def head_arrays(heads: Heads) -> dict[str, NDArray[np.float32]]:
    """The weights by name, as they are stored in the file of a query bank."""
    return {
        " ".join(("head", modality, field.name)): getattr(head, field.name)
        for modality, head in sorted(heads.items())
        for field in fields(Head)
    }


def heads_of(arrays: Mapping[str, NDArray[np.float32]]) -> Heads:
    """The heads whose weights `head_arrays` returned; other arrays are ignored."""
    found: dict[Any, dict[str, NDArray[np.float32]]] = {}
    for key, array in arrays.items():
        if key.startswith("head "):
            _, modality, name = key.split(" ")
            found.setdefault(modality, {})[name] = array
    return {modality: Head(**weights) for modality, weights in found.items()}


class TunedEncoder(TokenEncoder, VideoEncoder, MultilingualEncoder):
    """A model whose vectors are projected by heads; its token embeddings are unchanged."""

    def __init__(self, base: Encoder, heads: Heads) -> None:
        self.base = base
        self.heads = heads
        self.name = tuned_name(base.name)
        weights = "".join(
            f"{name} {array.shape} {array.astype('<f4').tobytes().hex()}\n"
            for name, array in head_arrays(heads).items()
        )
        self.fingerprint = short_hash(f"{base.fingerprint}\n{weights}")
        self.dim = base.dim
        self.modalities = base.modalities
        self.image_size = base.image_size
        self.decode_scale = base.decode_scale
        self.sample_rate = base.sample_rate
        tokens = token_encoder(base)
        self._tokens = tokens
        self.token_modalities = tokens.token_modalities if tokens else frozenset()
        self.tokens_version = tokens.tokens_version if tokens else "1"
        self.match_weight = tokens.match_weight if tokens else 0.0
        self._video = video_encoder(base)
        self.takes_videos = self._video is not None
        self._multilingual = multilingual_encoder(base)
        self.languages_version = self._multilingual.languages_version if self._multilingual else ""

    @property
    def notes(self) -> Sequence[str]:
        """Those of the base."""
        return self.base.notes

    def project(self, modality: Modality, rows: Vectors) -> Vectors:
        """The tuned vectors (n, dim) of the model's own (n, dim)."""
        return projected(self.heads, modality, rows)

    def prepare(self, modality: Modality, thing: Any) -> Any:
        """As the base does."""
        return self.base.prepare(modality, thing)

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """Unit rows (len(batch), dim) float32."""
        return self.project(modality, self.base.encode(modality, batch))

    def encode_query(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """The same, of queries."""
        return self.project(modality, self.base.encode_query(modality, batch))

    def encode_with_tokens(
        self, modality: Modality, batch: Sequence[Any]
    ) -> tuple[Vectors, list[TokenEmbeddings]]:
        """The vectors that `encode` returns, and the model's token embeddings."""
        vectors, tokens = self._token_encoder().encode_with_tokens(modality, batch)
        return self.project(modality, vectors), tokens

    def match(
        self, modality: Modality, query: TokenEmbeddings, candidates: Sequence[TokenEmbeddings]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate matches the query."""
        return self._token_encoder().match(modality, query, candidates)

    def is_english(self, text: str) -> bool:
        """Whether the base encodes a text as English only; True if it gains no languages."""
        return self._multilingual is None or self._multilingual.is_english(text)

    def frame_rate(self, seconds: float) -> float:
        """The frames per second that the base takes from a video of this many seconds."""
        return self._video_encoder().frame_rate(seconds)

    def encode_video(self, frames: NDArray[np.uint8], rate: float) -> Vectors:
        """The vector (1, dim) of a video, projected by the head of pictures."""
        return self.project("image", self._video_encoder().encode_video(frames, rate))

    def _token_encoder(self) -> TokenEncoder:
        if self._tokens is None:
            raise UnsupportedModality(f"{self.base.name!r} makes no token embeddings")
        return self._tokens

    def _video_encoder(self) -> VideoEncoder:
        if self._video is None:
            raise UnsupportedModality(f"{self.base.name!r} does not take whole videos")
        return self._video
