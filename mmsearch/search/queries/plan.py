"""Which parts of a query go to which encoder, to be compared with which vectors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mmsearch.errors import UnsupportedModality
from mmsearch.search.queries.parts import parts_of, told
from mmsearch.search.settings import Combine
from mmsearch.spaces.targets import served
from mmsearch.storage import Space
from mmsearch.types import Modality, Part, Query

Takes = Callable[[Space, Modality], bool]
"""Whether parts of a modality have a vector, or can be given one, in a space."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One ranking to be made for a query.

    Attributes:
        facet: What is searched.
        space: In which encoder's space.
        parts: What is added up to be searched for.
        weight: What the ranking counts among the query's others.
        via: Where the part is encoded, if not in that space: texts near it lead over.
    """

    facet: Modality
    space: Space
    parts: tuple[Part, ...]
    weight: float = 1.0
    via: Space | None = None


@dataclass(frozen=True, slots=True)
class _Models:
    """The spaces that answer, the preferred one first, and what each can be asked."""

    live: Sequence[Space]
    facets: Mapping[int, Collection[Modality]]
    takes: Takes

    def holding(self, facet: Modality) -> list[Space]:
        """The spaces that a facet is searched in."""
        return [space for space in self.live if facet in self.facets[space.id]]

    def bridge(self, part: Part, holding: Sequence[Space]) -> tuple[Space, Space] | None:
        """Where a part can be encoded, and where the texts near it can lead over to."""
        for here in self.holding("text"):
            for there in holding:
                if self.takes(here, part.modality) and "text" in self.facets[there.id]:
                    return here, there
        return None


def _encodes(space: Space, modality: Modality) -> bool:
    return modality in space.modalities


def plan(
    query: str | Query,
    targets: Sequence[Modality],
    combine: Combine,
    spaces: Sequence[Space],
    present: Mapping[int, Collection[Modality]],
    takes: Takes = _encodes,
) -> list[Ask]:
    """The rankings that answer a query: one a facet, or one a facet and part.

    Args:
        query: What is asked.
        targets: The facets to search.
        combine: "early" adds the parts' vectors up; "late" ranks for each part on its own.
        spaces: All there are, the preferred one first.
        present: By space id, the facets it has vectors of.
        takes: Which modalities have vectors in which space; those that its encoder can encode.

    Raises:
        InvalidQuery: nothing is asked for.
        UnsupportedModality: no space can take one of the parts; the message names it.
    """
    parts = parts_of(query)
    if len(parts) == 1:
        parts = (replace(parts[0], weight=1.0),)  # of one, the weight says nothing
    answering = served(spaces)
    facets = {id_: set(held) & set(present.get(id_, ())) for id_, held in answering.items()}
    models = _Models([space for space in spaces if space.id in answering], facets, takes)
    _check_taken(parts, models)
    groups = [parts] if combine == "early" else [(part,) for part in parts]
    asks = []
    for facet in targets:
        holding = models.holding(facet)
        for group in groups if holding else []:
            space, via = _route(facet, group, holding, models)
            weight = group[0].weight if len(group) < len(parts) else 1.0
            asks.append(Ask(facet, space, group, weight, via))
    return asks


def _check_taken(parts: Sequence[Part], models: _Models) -> None:
    for part in parts:
        if models.live and not any(models.takes(space, part.modality) for space in models.live):
            raise UnsupportedModality(
                f"{told(part)} cannot be searched with: {_names(models.live)} cannot encode "
                f"{part.modality}; add a model that can, `mmsearch index --model mini` say"
            )


def _route(
    facet: Modality, parts: Sequence[Part], holding: Sequence[Space], models: _Models
) -> tuple[Space, Space | None]:
    """The space to search in, and the one to encode in if that is another."""
    for space in holding:
        if all(models.takes(space, part.modality) for part in parts):
            return space, None
    if len(parts) == 1 and (bridge := models.bridge(parts[0], holding)):
        return bridge[1], bridge[0]
    foreign = [p for p in parts if not any(models.takes(s, p.modality) for s in holding)]
    for part in foreign:
        if models.bridge(part, holding) is None:
            raise UnsupportedModality(
                f"{told(part)} cannot be compared with what is searched ({facet}): "
                f"{_names(holding)} does not take {part.modality}, and the index holds no captions "
                "or texts that could lead over. Index a model that takes both (mmsearch index "
                "--model mini), or captions (--captions FILE)"
            )
    together = " and ".join({part.modality: told(part) for part in reversed(parts)}.values())
    alone = "; through texts, a part is compared on its own only" if foreign else ""
    raise UnsupportedModality(
        f"{together} cannot be added up to search {facet}: no one model there takes them all"
        f"{alone}. Try --combine late, which ranks for each part"
    )


def _names(spaces: Sequence[Space]) -> str:
    return " and ".join(repr(space.name) for space in spaces)
