"""Which encoder makes, and answers from, which vectors, when an index has several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmsearch.encoders import Encoder
from mmsearch.storage import Space
from mmsearch.types import Kind, Modality

SEEN: frozenset[Kind] = frozenset({"image", "video", "document"})
HEARD: frozenset[Kind] = frozenset({"audio", "video"})
KINDS_WITH: dict[Modality, frozenset[Kind]] = {"image": SEEN, "audio": HEARD, "text": frozenset()}
"""The kinds of files that have vectors of a facet; of text, whatever has texts."""

_NOTHING: frozenset[Modality] = frozenset()


@dataclass(frozen=True, slots=True)
class EncodingTarget:
    """A space to be filled, and what with."""

    space: Space
    encoder: Encoder
    modalities: frozenset[Modality]
    token_modalities: frozenset[Modality] = frozenset()
    """The modalities whose token embeddings are kept for reranking."""


def modalities_of(targets: Sequence[EncodingTarget]) -> frozenset[Modality]:
    """What some target takes."""
    return _NOTHING.union(*(target.modalities for target in targets))
