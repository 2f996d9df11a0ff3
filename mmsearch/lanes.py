"""Which encoder makes, and answers from, which vectors, when an index has several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmsearch.catalog import Space
from mmsearch.types import Encoder, Kind, Modality

SEEN: frozenset[Kind] = frozenset({"image", "video", "document"})
HEARD: frozenset[Kind] = frozenset({"audio", "video"})
KINDS_WITH: dict[Modality, frozenset[Kind]] = {"image": SEEN, "audio": HEARD, "text": frozenset()}
"""The kinds of files that have vectors of a facet; of text, whatever has texts."""

_NOTHING: frozenset[Modality] = frozenset()


@dataclass(frozen=True, slots=True)
class Lane:
    """A space to be filled, and what with."""

    space: Space
    encoder: Encoder
    modalities: frozenset[Modality]


def served(spaces: Sequence[Space]) -> dict[int, frozenset[Modality]]:
    """By id of a complete space, the facets that it answers for; nothing for those left behind.

    Pictures are found in the preferred complete space that sees, sounds in that which hears; each
    holds the texts too, so that they can be compared with either.

    Args:
        spaces: The preferred one first.
    """
    found: dict[int, frozenset[Modality]] = {}
    media: tuple[Modality, ...] = ("image", "audio")
    for medium in media:
        for space in spaces:
            if space.complete and medium in space.modalities:
                both: frozenset[Modality] = frozenset({medium, "text"})
                found[space.id] = found.get(space.id, _NOTHING) | (both & space.modalities)
                break
    return found


def needed(spaces: Sequence[Space]) -> dict[int, frozenset[Modality]]:
    """By id, what new files have to be encoded for: what is served, and what is being filled."""
    filling = {space.id: space.modalities for space in spaces if not space.complete}
    return {**served(spaces), **filling}


def modalities_of(lanes: Sequence[Lane]) -> frozenset[Modality]:
    """What some lane takes."""
    return _NOTHING.union(*(lane.modalities for lane in lanes))
