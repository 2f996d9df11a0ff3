"""Any model of open_clip: photos and texts in one space, on ONNX Runtime or torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Runtime, TokenEncoder, clip_names
from mmsearch.encoders.clip_cache import Towers
from mmsearch.encoders.clip_choose import Runners
from mmsearch.encoders.clip_details import Details, find_details
from mmsearch.encoders.clip_pixels import Pixels
from mmsearch.encoders.clip_plan import plan_for
from mmsearch.encoders.clip_weights import fingerprint_of, unavailable
from mmsearch.errors import UnsupportedModality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.types import Modality, Vectors


def load_clip(name: str, how: Runtime = Runtime()) -> ClipEncoder:  # noqa: B008 - frozen
    """An encoder of open_clip's; each tower is read when first used, and nothing is downloaded.

    Args:
        name: clip:ARCH/TAG, clip:ARCH@PATH (a checkpoint, or a folder as open_clip saves it) or
            clip:hf-hub:ORG/NAME.
        how: What to run it on.

    Raises:
        UnknownModel: there is no such architecture or tag.
        ModelUnavailable: the weights are not on this machine, or are not this model's.
        MissingExtra: it was never run here, and open_clip is not installed.
        InvalidOption: it cannot be run this way here.
        ModelDamaged: what was tuned for it to look closer cannot be read.
    """
    source = clip_names.parse(name)
    fingerprint = fingerprint_of(source)
    if fingerprint is None:
        clip_names.check(source)
        raise unavailable(source)
    towers = Towers(fingerprint)
    if towers.facts() is None:
        clip_names.check(source)
    return ClipEncoder(
        source.name, fingerprint, Runners(source, towers, plan_for(how, source.name))
    )


class ClipEncoder(TokenEncoder):
    """Unit vectors of photos and texts that can be compared with each other.

    For the same weights they are open_clip's own. Texts past the model's context length are cut.
    Safe to use from several threads.
    """

    modalities: frozenset[Modality] = frozenset({"image", "text"})

    def __init__(self, name: str, fingerprint: str, runners: Runners) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._runners = runners
        self._pixels = Pixels.read(runners.facts["pixels"])
        self.dim = int(runners.facts["dim"])
        self.image_size = max(self._pixels.height, self._pixels.width)
        self._closer = find_details(fingerprint, runners.facts)
        self.token_modalities: frozenset[Modality] = (
            self.modalities if self._closer else frozenset()
        )
        self.tokens_version = self._closer.version if self._closer else ""
        self.match_weight = self._closer.weight if self._closer else 0.0

    @property
    def notes(self) -> list[str]:
        """What a user may want to know of how it runs, a line each; a check that failed, say."""
        return self._runners.notes

    def prepare(self, modality: Modality, thing: Any) -> Any:
        """One thing made ready for `encode`; safe to call from threads.

        Args:
            modality: "image" or "text".
            thing: A PIL image, upright, or a string.

        Returns:
            Pixels (height, width, 3) uint8, as the model's own preprocessing crops and resizes
            them, or the string.

        Raises:
            UnsupportedModality: there is no tower for it.
        """
        self._check(modality)
        return self._pixels(thing) if modality == "image" else str(thing)

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """Unit rows (len(batch), dim) float32; (0, dim) of an empty batch.

        A model's very first batch may take a minute: its towers are made, and tried on it.

        Args:
            modality: "image" or "text".
            batch: PIL images, strings, or what `prepare` gave, as many as you like.

        Raises:
            UnsupportedModality: there is no tower for it.
            ModelUnavailable: the weights have gone since the encoder was made.
            MissingExtra: torch is needed, and not installed.
            InvalidOption: the runtime that was asked for cannot run this model.
        """
        import numpy as np

        self._check(modality)
        ready = [self.prepare(modality, thing) for thing in batch]
        if not ready:
            return np.empty((0, self.dim), np.float32)
        return self._runners.run(modality, ready)

    def encode_with_tokens(
        self, modality: Modality, batch: Sequence[Any]
    ) -> tuple[Vectors, list[TokenEmbeddings]]:
        """The vectors that `encode` gives, and of each thing its rows for `match`.

        The rows come from a second run, through a tower of their own.

        Args:
            modality: One of `token_modalities`.
            batch: As for `encode`.

        Returns:
            Unit rows (len(batch), dim) float32, and for each thing (rows, 128) int8, at most 32
            rows: the regions of a photo or the words of a text.

        Raises:
            UnsupportedModality: it was not tuned to look closer.
            ModelDamaged: what was tuned is not as it was made.
        """
        closer = self._tuned(modality)
        ready = [self.prepare(modality, thing) for thing in batch]
        return self.encode(modality, ready), closer.rows(modality, ready)

    def match(
        self, modality: Modality, query: TokenEmbeddings, candidates: Sequence[TokenEmbeddings]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate fits the query, by their rows.

        Args:
            modality: That of the query: the candidates of a "text" are photos, and the reverse.
            query: Rows that `encode_with_tokens` gave.
            candidates: The same, of things of the other modality.

        Raises:
            UnsupportedModality: it was not tuned to look closer.
            ModelDamaged: what was tuned is not as it was made.
        """
        return self._tuned(modality).match(modality, query, candidates)

    def _tuned(self, modality: str) -> Details:
        self._check(modality)
        if self._closer is None:
            raise UnsupportedModality(
                f"{self.name} was not tuned to look closer: `python -m mmsearch.training tune` does"
            )
        return self._closer

    def _check(self, modality: str) -> None:
        if modality not in self.modalities:
            known = " and ".join(sorted(self.modalities))
            raise UnsupportedModality(f"{self.name} cannot encode {modality}; it encodes {known}")
