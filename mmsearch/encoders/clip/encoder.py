"""The encoder of `clip:` models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Runtime, TokenEncoder, check_modality
from mmsearch.encoders.clip import names
from mmsearch.encoders.clip.preprocessing import Pixels
from mmsearch.encoders.clip.runtimes import Runners, plan_for
from mmsearch.encoders.clip.token_towers import TokenTowers, find_token_towers
from mmsearch.encoders.clip.towers import TowerCache
from mmsearch.encoders.clip.weights import fingerprint_of, unavailable
from mmsearch.errors import UnsupportedModality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.types import Modality, Vectors

KEPT = "vectors.npy"
_NOTHING: frozenset[Modality] = frozenset()


def load_clip(name: str, how: Runtime = Runtime()) -> ClipEncoder:  # noqa: B008 - frozen
    """An encoder of open_clip's; each tower is read at its first use, and nothing is downloaded.

    Args:
        name: clip:ARCH/TAG, clip:ARCH@PATH (a checkpoint, or a folder as open_clip saves it) or
            clip:hf-hub:ORG/NAME.
        how: What to run it on.

    Raises:
        UnknownModel: there is no such architecture or tag.
        ModelUnavailable: the weights are not on this machine, or are not this model's.
        MissingExtra: it was never run here, and open_clip is not installed.
        InvalidOption: it cannot be run this way here.
        ModelDamaged: its tuned reranker cannot be read.
    """
    source = names.parse(name)
    fingerprint = fingerprint_of(source)
    if fingerprint is None:
        names.check(source)
        raise unavailable(source)
    towers = TowerCache(fingerprint)
    if towers.facts() is None:
        names.check(source)
    runners = Runners(source, towers, plan_for(how, source.name), once=how.once)
    return ClipEncoder(source.name, fingerprint, runners, towers)


class ClipEncoder(TokenEncoder):
    """Unit vectors of photos and texts that can be compared with each other.

    For the same weights they are open_clip's own. Texts past the model's context length are cut.
    """

    modalities: frozenset[Modality] = frozenset({"image", "text"})

    def __init__(self, name: str, fingerprint: str, runners: Runners, towers: TowerCache) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._runners = runners
        self._towers = towers
        self._pixels = Pixels.read(runners.facts["pixels"])
        self.dim = int(runners.facts["dim"])
        self.image_size = max(self._pixels.height, self._pixels.width)
        self._token_towers = find_token_towers(fingerprint, runners.facts)
        self.token_modalities = self.modalities if self._token_towers else _NOTHING
        self.tokens_version = self._token_towers.version if self._token_towers else ""
        self.match_weight = self._token_towers.match_weight if self._token_towers else 0.0

    @property
    def notes(self) -> list[str]:
        """How it runs, a line each, where that is not as planned: a check that failed, say."""
        return self._runners.notes

    def prepare(self, modality: Modality, thing: Any) -> Any:
        """Pixels (height, width, 3) uint8 of a photo, resized and cropped as the model's own
        preprocessing does, or the string.
        """
        check_modality(self, modality)
        return self._pixels(thing) if modality == "image" else str(thing)

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """Unit rows (len(batch), dim) float32.

        A model's very first batch may take a minute: its towers are made, and checked on it.

        Raises:
            ModelUnavailable: the weights were removed after the encoder was loaded.
            MissingExtra: torch is needed, and not installed.
            InvalidOption: the wanted runtime cannot run this model.
        """
        import numpy as np

        check_modality(self, modality)
        ready = [self.prepare(modality, thing) for thing in batch]
        if not ready:
            return np.empty((0, self.dim), np.float32)
        return self._runners.run(modality, ready)

    def encode_kept(self, name: str, texts: Sequence[str]) -> Vectors:
        """Unit rows (len(texts), dim), made once on this machine and kept beside the towers."""
        import numpy as np

        with suppress(OSError, ValueError, EOFError):  # not there yet, or cut short
            kept: Vectors = np.load(self._towers.folder / name / KEPT, allow_pickle=False)
            if kept.shape == (len(texts), self.dim):
                return kept
        encoded = self.encode("text", texts)
        with suppress(OSError), self._towers.making(name) as folder:
            np.save(folder / KEPT, encoded)
        return encoded

    def encode_with_tokens(
        self, modality: Modality, batch: Sequence[Any]
    ) -> tuple[Vectors, list[TokenEmbeddings]]:
        """Unit rows (len(batch), dim) float32, and of each thing (rows, 128) int8, at most 32 rows,
        from a second run through a tower of their own.
        """
        towers = self._tuned(modality)
        ready = [self.prepare(modality, thing) for thing in batch]
        return self.encode(modality, ready), towers.embeddings(modality, ready)

    def match(
        self, modality: Modality, query: TokenEmbeddings, candidates: Sequence[TokenEmbeddings]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate matches the query."""
        return self._tuned(modality).match(modality, query, candidates)

    def _tuned(self, modality: str) -> TokenTowers:
        check_modality(self, modality)
        if self._token_towers is None:
            raise UnsupportedModality(
                f"{self.name} was not tuned to rerank: `mmsearch tune --reranker` does it"
            )
        return self._token_towers
