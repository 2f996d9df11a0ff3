"""The encoders of one index: loaded when needed, checked against what is stored."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from mmsearch.encoders import Encoder, Runtime, TokenEncoder, token_encoder
from mmsearch.encoders.previous import PreviousEncoder, previous_weights, with_previous
from mmsearch.encoders.query_bank import unpack_heads
from mmsearch.encoders.registry import load_encoder
from mmsearch.encoders.tuned import TunedEncoder, base_name
from mmsearch.errors import (
    IndexUnusable,
    InvalidOption,
    MissingExtra,
    ModelDamaged,
    ModelUnavailable,
    UnknownModel,
)
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import Space, Store
from mmsearch.storage.records import ALL_MODALITIES, NO_MODALITIES, TEXT, Modalities
from mmsearch.types import Modality

progress_log = logging.getLogger("mmsearch.progress")
"""Its messages about long work are shown by the commands."""

KEEP_TOKENS = "details"
"""The setting that says whether token embeddings are kept for reranking: "on" or "off"."""

NOT_LOADED = (IndexUnusable, ModelUnavailable, MissingExtra, UnknownModel)
"""Why the encoder of a space cannot be loaded."""


def token_setting(space: Space) -> str:
    """The setting that holds the version of a space's token embeddings.

    "partly" follows the version while some items may lack them.
    """
    return f"{KEEP_TOKENS} of {space.id}"


def languages_setting(space: Space) -> str:
    """The setting that holds the `languages_version` with which a space's texts were encoded."""
    return f"languages of {space.id}"


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
                self._loaded[key] = self._load(space)
            return self._loaded[key]

    def _load(self, space: Space) -> Encoder:
        """The encoder of a space; that of a tuned space with its stored heads.

        One that is loaded already is used again, also if the two differ in heads or maps alone.

        Raises:
            IndexUnusable: none has the weights of the space.
        """
        name = base_name(space.name) or space.name
        for encoder in self._versions(name):
            found = encoder if name == space.name else self._with_heads(encoder, space)
            if found.fingerprint == space.fingerprint:
                return found
        raise IndexUnusable(
            f"the index was built with other weights of {space.name!r} than are installed: bring "
            f"those back, or have it encoded anew with `mmsearch index --model {name}`"
        )

    def _versions(self, name: str) -> Iterator[Encoder]:
        """An encoder as it is loaded already, then as it is installed by now; each of them also as
        it was with its previous weights.
        """
        known = [
            loaded
            for loaded in self._loaded.values()
            if loaded.name == name and not isinstance(loaded, PreviousEncoder)
        ]
        for loaded in known:
            yield from with_previous(loaded)
        installed = load_encoder(name, self._how, strict=False)
        installed = self._loaded.setdefault((installed.name, installed.fingerprint), installed)
        if installed not in known:
            yield from with_previous(installed)

    def version_of(self, name: str, fingerprint: str | None) -> Encoder | None:
        """A model with its current or its previous weights, whichever have a fingerprint.

        None if neither have it. Without a fingerprint, the current ones.

        Raises:
            UnknownModel, ModelUnavailable, MissingExtra: it cannot be loaded here.
        """
        with self._loading:
            found = self._versions(name)
            return next((one for one in found if fingerprint in (None, one.fingerprint)), None)

    def _with_heads(self, base: Encoder, space: Space) -> TunedEncoder:
        """A model with the stored heads of a tuned space."""
        packed = self._store.query_banks.get(space)
        return TunedEncoder(base, {} if packed is None else unpack_heads(packed, space.fingerprint))

    def tuned(self, base: Encoder) -> Space | None:
        """The serving space of a tuned version of an encoder; None if there is none."""
        for space in self._store.spaces.all():
            named = space.serves and base_name(space.name) == base.name
            if named and self._with_heads(base, space).fingerprint == space.fingerprint:
                return space
        return None

    def share(self, other: EncoderPool) -> None:
        """Have two indexes share the encoders that they load, so that each is in memory once."""
        other._loaded |= self._loaded
        self._loaded, self._loading = other._loaded, other._loading

    def serve_requested(self) -> None:
        """Have the requested encoders serve the modalities they can encode; see `serve_with`.

        A tuning that was killed is not continued.
        """
        encoders, self.requested = self.requested, []
        wanted = {one.fingerprint for one in encoders}
        for space in self._store.spaces.all():
            unfinished = base_name(space.name) and space.backfills and not space.serves
            if unfinished and space.fingerprint not in wanted:
                self._store.spaces.cancel_backfill(space)
        self.serve_with(encoders)

    def serve_with(self, encoders: Sequence[Encoder]) -> None:
        """Have encoders serve every modality they can; where two can, the later one.

        A backfill encodes the stored items; after that, the encoder serves. Where a tuned version
        of an encoder serves, it keeps serving instead. A tuned encoder takes over only what its
        base serves.
        """
        self._loaded |= {(one.name, one.fingerprint): one for one in encoders}
        wanted = [encoder for encoder in encoders if self.tuned(encoder) is None]
        if wanted:
            tuned = (one.base for one in wanted if isinstance(one, TunedEncoder))
            only = next(map(self._served_by, tuned), ALL_MODALITIES)
            self._store.spaces.serve_with(wanted, only)

    def serve_updated(self) -> list[str]:
        """Have models whose weights were updated serve what they served before, see `serve_with`.

        What another model is about to serve is left to that one, and a tuned version stays above
        the previous weights. Returns warnings about these.
        """
        notices = []
        for space in self._store.spaces.all():
            encoder = self._usable(space)
            if isinstance(encoder, PreviousEncoder):
                updated = encoder.base
                own = {updated.fingerprint, space.fingerprint}
                others = (s.backfills for s in self._store.spaces.all() if s.fingerprint not in own)
                wanted = space.encodes_for.difference(*others)
                if wanted - TEXT:
                    before = self._backfills()
                    self._store.spaces.serve_with([updated], wanted)
                    if self._backfills() != before:
                        progress_log.info(
                            "%r has new weights: re-encoding the stored items; searches use the "
                            "old vectors until this is done",
                            space.name,
                        )
            elif isinstance(encoder, TunedEncoder) and isinstance(encoder.base, PreviousEncoder):
                name = encoder.base.name
                notices.append(
                    f"{name!r} was updated, and {space.name!r} still uses its previous weights: "
                    f"`mmsearch index --model {name}` takes the new ones, and `mmsearch tune` "
                    "tunes them anew"
                )
        return notices

    def is_previous(self, space: Space) -> bool:
        """Whether a space is of its model's previous weights; False if the model is damaged."""
        try:
            weights = previous_weights(space.name)
            if weights is None or weights.fingerprint != space.fingerprint:
                return False
            return isinstance(self.encoder_of(space), PreviousEncoder)
        except (*NOT_LOADED, ModelDamaged):
            return False

    def _backfills(self) -> dict[int, Modalities]:
        return {one.id: one.backfills for one in self._store.spaces.all() if one.backfills}

    def _usable(self, space: Space) -> Encoder | None:
        """The encoder of a space that serves or is backfilled; None if it cannot be loaded."""
        if not space.encodes_for or space.is_imported:
            return None
        try:
            return self.encoder_of(space)
        except NOT_LOADED:
            return None

    def _served_by(self, encoder: Encoder) -> Modalities:
        """What the space of an encoder serves."""
        key = encoder.name, encoder.fingerprint
        spaces = self._store.spaces.all()
        return next((s.serves for s in spaces if (s.name, s.fingerprint) == key), NO_MODALITIES)

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
            except NOT_LOADED as error:
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
            cure = (
                "index with another model first, `mmsearch index --model NAME`"
                if base_name(name) is None
                else "take the tuning back instead, `mmsearch tune --undo`"
            )
            raise InvalidOption(
                f"without {name!r} nothing would answer for {' and '.join(sorted(lost))}: {cure}"
            )
        for space in dropped:
            self._store.spaces.drop(space)
        self.requested = [encoder for encoder in self.requested if encoder.name != name]
        return dropped
