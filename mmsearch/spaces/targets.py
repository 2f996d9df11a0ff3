"""Encoding targets: which encoder makes which vectors, if an index has several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmsearch.encoders import Encoder
from mmsearch.storage import Space
from mmsearch.types import Kind, Modality

SEEN: frozenset[Kind] = frozenset({"image", "video", "document"})
HEARD: frozenset[Kind] = frozenset({"audio", "video"})
KINDS_WITH: dict[Modality, frozenset[Kind]] = {"image": SEEN, "audio": HEARD, "text": frozenset()}
"""By modality, the kinds of files that always have vectors of it. Any item may have texts."""

_NOTHING: frozenset[Modality] = frozenset()


@dataclass(frozen=True, slots=True)
class EncodingTarget:
    """A space, its encoder, and the modalities that new files are encoded for."""

    space: Space
    encoder: Encoder
    modalities: frozenset[Modality]
    token_modalities: frozenset[Modality] = frozenset()
    """The modalities whose token embeddings are kept for reranking."""


def modalities_of(targets: Sequence[EncodingTarget]) -> frozenset[Modality]:
    """What some target takes."""
    return _NOTHING.union(*(target.modalities for target in targets))
