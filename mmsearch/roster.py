"""The encoders of one index: loaded when needed, checked against what is stored."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mmsearch.catalog import Catalog, Space
from mmsearch.encoders import how_for, load_encoder
from mmsearch.errors import IndexUnusable, InvalidOption
from mmsearch.lanes import Lane, needed, served
from mmsearch.types import Encoder, Runtime


class Roster:
    """Which encoders an index has, and which of them do what.

    Args:
        catalog: Where their spaces are.
        how: What they are to run on.
    """

    def __init__(self, catalog: Catalog, how: Runtime) -> None:
        self._catalog = catalog
        self._how = how
        self._loaded: dict[int, Encoder] = {}
        self._loading = threading.Lock()

    def encoder_of(self, space: Space) -> Encoder:
        """The encoder of a space, loaded when first asked for.

        Raises:
            IndexUnusable: its weights are not those that the vectors were made with.
        """
        with self._loading:
            if space.id not in self._loaded:
                encoder = load_encoder(space.name, how_for(space.name, self._how))
                if encoder.fingerprint != space.fingerprint:
                    raise IndexUnusable(
                        f"the index was built with other weights of {space.name!r} than are "
                        "installed: bring those back, or have it encoded anew with `mmsearch "
                        f"index --model {space.name}`"
                    )
                self._loaded[space.id] = encoder
            return self._loaded[space.id]

    def want(self, encoders: Sequence[Encoder]) -> None:
        """Have encoders answer for all that they can; what is stored is encoded by `Fill`."""
        for encoder in encoders:
            key = (encoder.name, encoder.fingerprint)
            spaces = self._catalog.spaces()
            there = next((s for s in spaces if (s.name, s.fingerprint) == key), None)
            if there is None or not _has_its_place(there, spaces):
                there = self._catalog.add_space(encoder)
            self._loaded[there.id] = encoder

    def lanes(self) -> list[Lane]:
        """The spaces that new files are to be encoded in, with their encoders."""
        spaces = self._catalog.spaces()
        replaced = {space.name for space in spaces if not space.complete}
        for space in spaces:
            if space.id not in needed(spaces):
                continue
            try:
                encoder = self.encoder_of(space)
            except IndexUnusable:
                if space.complete and space.name in replaced:
                    continue  # its vectors are just being made anew with the weights there are
                raise
            if encoder.modalities != space.modalities:  # a newer version of it can do more
                self._catalog.note_modalities(space, encoder.modalities)
        spaces = self._catalog.spaces()
        return [
            Lane(space, self._loaded[space.id], modalities)
            for space in spaces
            if (modalities := needed(spaces).get(space.id)) and space.id in self._loaded
        ]

    def drop(self, name: str) -> None:
        """Delete the vectors of one of several models.

        Raises:
            InvalidOption: the index has none of this name, or no other to answer instead.
        """
        spaces = self._catalog.spaces()
        going = [space for space in spaces if space.name == name]
        if not going:
            known = ", ".join(sorted({space.name for space in spaces})) or "none"
            raise InvalidOption(f"the index has no vectors of {name!r}; it has: {known}")
        kept = [space for space in spaces if space.name != name]
        before = {facet for facets in served(spaces).values() for facet in facets}
        after = {facet for facets in served(kept).values() for facet in facets}
        if lost := before - after:
            raise InvalidOption(
                f"without {name!r} nothing would answer for {' and '.join(sorted(lost))}: index "
                "with another model first, `mmsearch index --model NAME`"
            )
        for space in going:
            self._catalog.drop_space(space)


def _has_its_place(space: Space, spaces: Sequence[Space]) -> bool:
    """Whether a space is being filled, or answers for all that its encoder can."""
    media = space.modalities - {"text"}
    return not space.complete or media <= served(spaces).get(space.id, frozenset())
