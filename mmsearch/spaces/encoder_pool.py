"""The encoders of one index: loaded when needed, checked against what is stored."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mmsearch.encoders import Encoder, Runtime, TokenEncoder, token_encoder
from mmsearch.encoders.registry import load_encoder
from mmsearch.errors import (
    IndexUnusable,
    InvalidOption,
    MissingExtra,
    ModelUnavailable,
    UnknownModel,
)
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import Space, Store
from mmsearch.types import Modality

KEEP_TOKENS = "details"
"""The setting that says whether token embeddings are kept for reranking: "on" or "off"."""


def token_setting(space: Space) -> str:
    """The setting that holds the version of a space's token embeddings.

    "partly" follows the version while some items may lack them.
    """
    return f"{KEEP_TOKENS} of {space.id}"


def tokens_version(encoder: Encoder) -> str:
    """The version of the token embeddings that an encoder makes."""
    able = token_encoder(encoder)
    return able.tokens_version if able else "1"


def tokens_are_current(store: Store, space: Space, encoder: TokenEncoder) -> bool:
    """Whether a space's stored token embeddings are of the version its encoder makes now."""
    stored = store.settings.get(token_setting(space)) or ""
    return stored.partition(" ")[0] == encoder.tokens_version


class EncoderPool:
    """The encoders of an index, and the modalities each of them encodes."""

    def __init__(self, store: Store, how: Runtime) -> None:
        self.requested: list[Encoder] = []
        """Encoders named when the index was opened: the next indexing run has them serve."""
        self.warnings: list[str] = []
        """Warnings about models that cannot be loaded, for the report."""
        self._store = store
        self._how = how
        self._loaded: dict[tuple[str, str], Encoder] = {}
        self._loading = threading.Lock()

    def encoder_of(self, space: Space) -> Encoder:
        """The encoder of a space, loaded at the first call.

        Raises:
            IndexUnusable: its weights are not those that the vectors were made with.
            ModelUnavailable: its vectors were imported on a machine without the model.
        """
        if space.is_imported:
            raise ModelUnavailable(
                f"the vectors of {space.name!r} were imported without their model: import them "
                "again with --model NAME once it can be loaded here"
            )
        key = (space.name, space.fingerprint)
        if (found := self._loaded.get(key)) is not None:
            return found  # without waiting for another model that is being loaded
        with self._loading:
            if key not in self._loaded:
                encoder = load_encoder(space.name, self._how, strict=False)
                if encoder.fingerprint != space.fingerprint:
                    raise IndexUnusable(
                        f"the index was built with other weights of {space.name!r} than are "
                        "installed: bring those back, or have it encoded anew with `mmsearch "
                        f"index --model {space.name}`"
                    )
                self._loaded[key] = encoder
            return self._loaded[key]

    def share(self, other: EncoderPool) -> None:
        """Have two indexes share the encoders that they load, so that each is in memory once."""
        other._loaded |= self._loaded
        self._loaded, self._loading = other._loaded, other._loading

    def serve_requested(self) -> None:
        """Have the requested encoders serve the modalities they can encode; see `serve_with`."""
        encoders, self.requested = self.requested, []
        self.serve_with(encoders)

    def serve_with(self, encoders: Sequence[Encoder]) -> None:
        """Have encoders serve every modality they can; where two can, the later one.

        Stored items are given vectors by a backfill, after which the encoder serves.
        """
        self._loaded |= {(one.name, one.fingerprint): one for one in encoders}
        if encoders:
            self._store.spaces.serve_with(encoders)

    def keep_tokens(self, *, wanted: bool | None) -> None:
        """Set whether token embeddings are kept for reranking; None leaves it as it was.

        Stored ones are deleted at once when they are no longer wanted; missing ones are made by
        the next indexing run.
        """
        current = self._store.settings.get(KEEP_TOKENS)
        if wanted is False and current != "off":
            self._store.settings.set(KEEP_TOKENS, "off")
            for space in self._store.spaces.all():
                self._delete_tokens(space)
        elif wanted and current != "on":
            self._store.settings.set(KEEP_TOKENS, "on")

    def _delete_tokens(self, space: Space) -> None:
        self._store.token_embeddings.clear(space)
        if self._store.settings.get(token_setting(space)):
            self._store.settings.set(token_setting(space), "")

    def targets(self) -> list[EncodingTarget]:
        """The spaces that new files are to be encoded in, with their encoders.

        A model that serves nothing yet and cannot be loaded is left out, with a warning.

        Raises:
            IndexUnusable, ModelUnavailable, MissingExtra: a model that serves cannot be loaded.
        """
        self.warnings = []
        found = []
        spaces = self._store.spaces.all()
        for space in spaces:
            if not space.encodes_for or space.is_imported:
                continue
            try:
                encoder = self.encoder_of(space)
            except (IndexUnusable, ModelUnavailable, MissingExtra, UnknownModel) as error:
                self._leave_out(space, spaces, error)
                continue
            if encoder.modalities != space.modalities:  # a newer version encodes more
                self._store.spaces.set_modalities(space, encoder.modalities)
            found.append(
                EncodingTarget(
                    space, encoder, space.encodes_for, self._token_modalities(space, encoder)
                )
            )
        return found

    def _token_modalities(self, space: Space, encoder: Encoder) -> frozenset[Modality]:
        """The modalities whose token embeddings are to be kept; those of older versions go."""
        able = token_encoder(encoder)
        if able is None or self._store.settings.get(KEEP_TOKENS) == "off":
            return frozenset()
        kept = able.token_modalities & space.encodes_for
        if kept and not tokens_are_current(self._store, space, able):
            self._delete_tokens(space)
            self._store.settings.set(token_setting(space), f"{able.tokens_version} partly")
        return kept

    def _leave_out(self, space: Space, spaces: Sequence[Space], error: Exception) -> None:
        replaced = any(other.backfills & space.serves for other in spaces if other.id != space.id)
        if space.serves and not (replaced and isinstance(error, IndexUnusable)):
            raise error
        if not space.serves:
            if isinstance(error, IndexUnusable):
                self._store.spaces.cancel_backfill(space)  # no encoder has its weights any more
                return
            self.warnings.append(
                f"{space.name!r} cannot be filled just now: {error} (or give it up with `mmsearch "
                f"index --drop-space {space.name}`)"
            )

    def drop(self, name: str) -> list[Space]:
        """Delete the vectors of one of several models; of several weights, those not in use first.

        Raises:
            InvalidOption: the index has no model of this name, or no other that could serve
                instead.
        """
        spaces = self._store.spaces.all()
        named = [space for space in spaces if space.name == name]
        if not named:
            known = ", ".join(sorted({space.name for space in spaces})) or "none"
            raise InvalidOption(f"the index has no vectors of {name!r}; it has: {known}")
        dropped = [space for space in named if not space.encodes_for] or named
        if lost := {modality for space in dropped for modality in space.serves}:
            raise InvalidOption(
                f"without {name!r} nothing would answer for {' and '.join(sorted(lost))}: index "
                "with another model first, `mmsearch index --model NAME`"
            )
        for space in dropped:
            self._store.spaces.drop(space)
        self.requested = [encoder for encoder in self.requested if encoder.name != name]
        return dropped
