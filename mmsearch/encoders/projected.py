"""Encoders whose vectors go through a map of each modality.

They are the base of tuned models and of models with previous weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import (
    MultilingualEncoder,
    TokenEncoder,
    VideoEncoder,
    multilingual_encoder,
    token_encoder,
    video_encoder,
)
from mmsearch.errors import UnsupportedModality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import Encoder, TokenEmbeddings
    from mmsearch.types import Modality, Vectors

    Projection = Callable[[Vectors], Vectors]
    """From unit rows (n, dim) to unit rows (n, dim)."""

Projections = Mapping["Modality", "Projection"]
"""By modality; vectors of a modality without one are left unchanged."""


def projected(projections: Projections, modality: Modality, rows: Vectors) -> Vectors:
    """Unit rows (n, dim) of a modality, through its projection if there is one."""
    projection = projections.get(modality)
    return rows if projection is None or not len(rows) else projection(rows)


def unit_rows(rows: NDArray[np.floating]) -> Vectors:
    """Rows (n, dim) at unit length, in float32."""
    import numpy as np

    unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit.astype(np.float32, copy=False)


class ProjectedEncoder(TokenEncoder, VideoEncoder, MultilingualEncoder):
    """A model whose vectors are projected; its token embeddings are unchanged.

    Args:
        base: The model.
        projections: Of its vectors.
        name: Of the projected model.
        fingerprint: Of the projected model.
    """

    def __init__(
        self, base: Encoder, projections: Projections, *, name: str, fingerprint: str
    ) -> None:
        self.base = base
        self.projections = projections
        self.name = name
        self.fingerprint = fingerprint
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
        """The projected vectors (n, dim) of the model's own (n, dim)."""
        return projected(self.projections, modality, rows)

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
        """The vector (1, dim) of a video, projected as those of pictures are."""
        return self.project("image", self._video_encoder().encode_video(frames, rate))

    def _token_encoder(self) -> TokenEncoder:
        if self._tokens is None:
            raise UnsupportedModality(f"{self.base.name!r} makes no token embeddings")
        return self._tokens

    def _video_encoder(self) -> VideoEncoder:
        if self._video is None:
            raise UnsupportedModality(f"{self.base.name!r} does not take whole videos")
        return self._video
