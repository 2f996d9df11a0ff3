"""Which encoder makes which vectors, and which spaces serve, if an index has several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Encoder, token_encoder
from mmsearch.storage import Space
from mmsearch.types import Kind, Modality

if TYPE_CHECKING:
    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.types import Vectors

KINDS_WITH: dict[Modality, frozenset[Kind]] = {
    "image": frozenset({"image", "video", "document"}),
    "audio": frozenset({"audio", "video"}),
    "text": frozenset(),
}
"""By modality, the kinds of files that always have vectors of it. Any item may have texts."""


@dataclass(frozen=True, slots=True)
class EncodingTarget:
    """A space, its encoder, and the modalities that new files are encoded for."""

    space: Space
    encoder: Encoder
    modalities: frozenset[Modality]
    token_modalities: frozenset[Modality] = frozenset()
    """The modalities whose token embeddings are kept for reranking."""

    def encode(
        self, modality: Modality, prepared: Sequence[Any]
    ) -> tuple[Vectors, Sequence[TokenEmbeddings]]:
        """Unit vectors (n, dim), and their token embeddings if these are kept."""
        encoder = token_encoder(self.encoder)
        if encoder is not None and modality in self.token_modalities:
            return encoder.encode_with_tokens(modality, prepared)
        return self.encoder.encode(modality, prepared), ()


def modalities_of(targets: Sequence[EncodingTarget]) -> frozenset[Modality]:
    """The modalities that any target encodes."""
    return frozenset[Modality]().union(*(target.modalities for target in targets))
