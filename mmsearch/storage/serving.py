"""Which space serves which modality: the rules, whatever the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mmsearch.storage.records import NO_MODALITIES, TEXT, Modalities, Space
from mmsearch.types import Modality

SpacesById = dict[int, Space]
"""All spaces of an index, by id."""


def in_order(spaces: Iterable[Space]) -> list[Space]:
    """Those that serve images first, then sounds, then the others; of each, the newest first."""
    return sorted(
        spaces,
        key=lambda s: ("image" not in s.serves, "audio" not in s.serves, not s.serves, -s.id),
    )


def assigned(spaces: SpacesById, space_of: Mapping[Modality, int]) -> SpacesById:
    """The spaces once some are to serve modalities, which they do after a backfill.

    Args:
        spaces: As they are.
        space_of: The id of the space that is to serve "image" or "audio"; with it, that serves
            texts that it can encode.
    """
    found = dict(spaces)
    for modality, chosen in space_of.items():
        for space in list(found.values()):
            backfills = space.backfills - {modality}
            if space.id == chosen and modality not in space.serves:
                backfills |= {modality} | ((TEXT & space.modalities) - space.serves)
            elif not backfills - TEXT:  # texts are encoded along with media only
                backfills = NO_MODALITIES
            found[space.id] = replace(space, backfills=backfills)
    return found


def switched(spaces: SpacesById, space_id: int) -> SpacesById:
    """The spaces once one serves what it was backfilled for, and no other does."""
    found, space = dict(spaces), spaces[space_id]
    media = space.backfills - TEXT
    for other in spaces.values():
        if other.id != space_id and other.serves & media:
            left = other.serves - media
            found[other.id] = replace(other, serves=left if left - TEXT else NO_MODALITIES)
    found[space_id] = replace(space, serves=space.encodes_for, backfills=NO_MODALITIES)
    return found


def joined(modalities: Iterable[Modality]) -> str:
    """Modalities as a store keeps them: sorted, with a space between."""
    return " ".join(sorted(modalities))


def split(stored: str) -> Modalities:
    """The modalities that `joined` was given."""
    return frozenset(stored.split())  # type: ignore[arg-type]
