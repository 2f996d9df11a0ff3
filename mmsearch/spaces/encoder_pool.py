"""The encoders of one index: loaded when needed, checked against what is stored."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mmsearch.encoders import how_for, load_encoder
from mmsearch.errors import (
    IndexUnusable,
    InvalidOption,
    MissingExtra,
    ModelUnavailable,
    UnknownModel,
)
from mmsearch.spaces.targets import Lane
from mmsearch.storage.sqlite import Catalog, Space
from mmsearch.types import Encoder, Modality, Runtime

DETAILS = "details"
"""The setting that says whether regions and words are kept for reranking: "on" or "off"."""

_NOTHING: frozenset[Modality] = frozenset()


def made_with(space: Space) -> str:
    """The setting that says which version of its encoder's looking closer a space's regions and
    words are of, and "partly" while some may be lacking.
    """
    return f"{DETAILS} of {space.id}"


def version_of(encoder: Encoder) -> str:
    """Of how an encoder looks closer: rows of different versions are never compared."""
    return getattr(encoder, "details_version", "") or "1"


def same_details(catalog: Catalog, space: Space, encoder: Encoder) -> bool:
    """Whether a space's regions and words are such as its encoder makes now."""
    held = catalog.setting(made_with(space)) or ""
    return held.partition(" ")[0] == version_of(encoder)


class Roster:
    """Which encoders an index has, and which of them do what.

    Args:
        catalog: Where their spaces are.
        how: What they are to run on.
    """

    def __init__(self, catalog: Catalog, how: Runtime) -> None:
        self.warnings: list[str] = []
        """What became of models that are not to be had, for the report."""
        self._catalog = catalog
        self._how = how
        self._loaded: dict[tuple[str, str], Encoder] = {}
        self._loading = threading.Lock()

    def encoder_of(self, space: Space) -> Encoder:
        """The encoder of a space, loaded when first asked for.

        Raises:
            IndexUnusable: its weights are not those that the vectors were made with.
            ModelUnavailable: its vectors were imported, and it was not to be had then.
        """
        if space.is_given:
            raise ModelUnavailable(
                f"the vectors of {space.name!r} were imported without their model: import them "
                "again with --model NAME once it can be loaded here"
            )
        key = (space.name, space.fingerprint)
        with self._loading:
            if key not in self._loaded:
                encoder = load_encoder(space.name, how_for(space.name, self._how))
                if encoder.fingerprint != space.fingerprint:
                    raise IndexUnusable(
                        f"the index was built with other weights of {space.name!r} than are "
                        "installed: bring those back, or have it encoded anew with `mmsearch "
                        f"index --model {space.name}`"
                    )
                self._loaded[key] = encoder
            return self._loaded[key]

    def want(self, encoders: Sequence[Encoder]) -> None:
        """Have encoders answer for all that they can, of two that can the later one.

        Where one does not answer yet, `Fill` gives it what is stored.
        """
        self._loaded |= {(one.name, one.fingerprint): one for one in encoders}
        if encoders:
            self._catalog.answer_by(encoders)

    def keep_details(self, *, wanted: bool | None) -> None:
        """Say whether regions and words are to be kept for reranking; None: as before.

        What was kept goes at once when it is not wanted any more; what lacks them when they are is
        given them by the next run of indexing.
        """
        held = self._catalog.setting(DETAILS)
        if wanted is False and held != "off":
            self._catalog.set_setting(DETAILS, "off")
            for space in self._catalog.spaces():
                self._forget_details(space)
        elif wanted and held != "on":
            self._catalog.set_setting(DETAILS, "on")

    def _forget_details(self, space: Space) -> None:
        self._catalog.clear_tokens(space)
        if self._catalog.setting(made_with(space)):
            self._catalog.set_setting(made_with(space), "")

    def lanes(self) -> list[Lane]:
        """The spaces that new files are to be encoded in, with their encoders.

        A model that answers for nothing yet and is not to be had is passed over, with a warning.

        Raises:
            IndexUnusable, ModelUnavailable, MissingExtra: a model that answers is not to be had.
        """
        self.warnings = []
        found = []
        spaces = self._catalog.spaces()
        for space in spaces:
            if not space.needs or space.is_given:
                continue
            try:
                encoder = self.encoder_of(space)
            except (IndexUnusable, ModelUnavailable, MissingExtra, UnknownModel) as error:
                self._pass_over(space, spaces, error)
                continue
            if encoder.modalities != space.modalities:  # a newer version of it can do more
                self._catalog.note_modalities(space, encoder.modalities)
            details = self._details(encoder) & space.needs
            if details and not same_details(self._catalog, space, encoder):
                self._forget_details(space)  # another tuning's do not compare with these
                self._catalog.set_setting(made_with(space), f"{version_of(encoder)} partly")
            found.append(Lane(space, encoder, space.needs, details))
        return found

    def _details(self, encoder: Encoder) -> frozenset[Modality]:
        """The facets whose regions or words are to be kept for reranking."""
        kept = self._catalog.setting(DETAILS) != "off"
        return getattr(encoder, "details", _NOTHING) if kept else _NOTHING

    def _pass_over(self, space: Space, spaces: Sequence[Space], error: Exception) -> None:
        follows = any(other.fills & space.keeps for other in spaces if other.id != space.id)
        if space.keeps and not (follows and isinstance(error, IndexUnusable)):
            raise error
        if not space.keeps:
            if isinstance(error, IndexUnusable):
                self._catalog.give_up(space)  # its weights are gone for good
                return
            self.warnings.append(
                f"{space.name!r} cannot be filled just now: {error} (or give it up with `mmsearch "
                f"index --drop-space {space.name}`)"
            )

    def drop(self, name: str) -> list[Space]:
        """Delete the vectors of one of several models; of several weights, those not in use first.

        Raises:
            InvalidOption: the index has none of this name, or no other to answer instead.
        """
        spaces = self._catalog.spaces()
        named = [space for space in spaces if space.name == name]
        if not named:
            known = ", ".join(sorted({space.name for space in spaces})) or "none"
            raise InvalidOption(f"the index has no vectors of {name!r}; it has: {known}")
        going = [space for space in named if not space.needs] or named
        if lost := {facet for space in going for facet in space.keeps}:
            raise InvalidOption(
                f"without {name!r} nothing would answer for {' and '.join(sorted(lost))}: index "
                "with another model first, `mmsearch index --model NAME`"
            )
        for space in going:
            self._catalog.drop_space(space)
        return going
