"""The built-in model: photos, sounds and English text in one space, on ONNX Runtime alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmsearch.encoders import TokenEncoder
from mmsearch.encoders.mel import RATE, mel_picture
from mmsearch.encoders.mini_files import ModelFiles, damaged
from mmsearch.encoders.mini_match import DETAILS, REGIONS, RERANK, WORDS, Matcher, quantised
from mmsearch.encoders.onnx import session
from mmsearch.errors import UnsupportedModality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.types import Modality, Vectors

Runs: TypeAlias = "Iterator[tuple[list[int], list[NDArray[Any]]]]"
"""Rows of a batch, and each output of the graph for them."""

FOLDER = Path(__file__).parent.parent / "models" / "mini"

TEXTS_A_RUN = 32
PADDING = 0
"""The token id the text graph takes for nothing."""

AUDIO = "audio.onnx"
"""What the image tower's graph lacks to hear; a model may be without it."""
HEARD = "heard"
"""The output that it adds."""

APPENDICES = {AUDIO, *DETAILS}
"""What changes no image and no text vector, so that what was indexed without it stays as it is."""


def load_mini(folder: Path = FOLDER) -> MiniEncoder:
    """The built-in encoder; each tower is read when first used.

    Raises:
        ModelDamaged: the folder's manifest is missing or unreadable.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return MiniEncoder(folder, manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder / "manifest.json", "cannot be read") from error


class MiniEncoder(TokenEncoder):
    """Unit vectors (n, 512) of photos, sounds and texts that can be compared with each other.

    The same input has the same vector, whatever else is in the batch (to 1e-4). Safe to use from
    several threads. Texts are cut at 128 tokens; photos are squeezed to a square, so that nothing
    at their edges is lost; of a sound the image tower sees a picture, five seconds wide.
    """

    name = "mini"

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self._files = ModelFiles(folder, dict(manifest["sha256"]))
        self.dim = int(manifest["dim"])
        self.image_size = int(manifest["image_size"])
        # 12 megapixels are decoded at an eighth, in 16 ms of a core instead of 25; cosines to the
        # vector of the whole photo stay above 0.999 (23 photos of scikit-image and scikit-learn)
        self.decode_scale = 1.4
        hears = AUDIO in self._files.names
        self.modalities: frozenset[Modality] = frozenset(
            ("image", "text", "audio") if hears else ("image", "text")
        )
        self.sample_rate = RATE if hears else 0
        self.token_modalities: frozenset[Modality] = frozenset(
            ("image", "text") if self._files.names >= DETAILS else ()
        )
        self.match_weight = float(manifest.get("match_weight", 0.0))
        rows = "".join(self._files.sha256.get(name, "") for name in sorted(DETAILS))
        self.tokens_version = hashlib.sha256(rows.encode()).hexdigest()[:16]
        """Of what makes the rows for `match`: those of other files do not compare with them."""
        files = sorted(self._files.names - APPENDICES)
        hashes = "".join(f"{name}:{self._files.sha256[name]}\n" for name in files)
        self.fingerprint = hashlib.sha256(hashes.encode()).hexdigest()[:16]

    def prepare(self, modality: Modality, thing: Any) -> Any:
        """One thing made ready for `encode`; safe to call from threads.

        Args:
            modality: One of `modalities`.
            thing: An upright PIL image, a string, or a window of mono sound: float32 samples
                (5 s · sample_rate,) in [-1, 1].

        Returns:
            Pixels (image_size, image_size, 3) uint8, the string, or the picture of the sound
            (image_size, image_size) uint8.

        Raises:
            UnsupportedModality: `mini` has no tower for it.
        """
        self._check(modality)
        if modality == "audio":
            return self._sound_picture(thing)
        return self._pixels(thing) if modality == "image" else str(thing)

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """Unit rows (len(batch), 512) float32; (0, 512) of an empty batch.

        Args:
            modality: One of `modalities`.
            batch: Things that `prepare` takes, or what it gave, as many as you like.

        Raises:
            UnsupportedModality: `mini` has no tower for it.
            ModelDamaged: a file of the tower is missing or not the one that was shipped.
        """
        import numpy as np

        self._check(modality)
        vectors = np.empty((len(batch), self.dim), np.float32)
        runs = {
            "image": lambda: self._photo_runs(batch, self._image, ["vectors"]),
            "text": lambda: self._text_runs(batch, self._text, ["vectors"]),
            "audio": lambda: self._sound_runs(batch),
        }
        for rows, (found,) in runs[modality]() if len(batch) else ():
            vectors[rows] = found
        return vectors

    def encode_with_tokens(
        self, modality: Modality, batch: Sequence[Any]
    ) -> tuple[Vectors, list[TokenEmbeddings]]:
        """The vectors that `encode` gives, and of each thing its rows for `match`, from one run.

        Args:
            modality: One of `token_modalities`.
            batch: As for `encode`.

        Returns:
            Unit rows (len(batch), 512) float32, and for each thing (rows, 128) int8, at most 32
            rows: the regions of a photo or the words of a text.

        Raises:
            UnsupportedModality: `mini` knows no parts of it.
            ModelDamaged: a file is missing or not the one that was shipped.
        """
        import numpy as np

        self._check_details(modality)
        runs = {
            "image": lambda: self._photo_runs(batch, self._looking, ["vectors", "regions"]),
            "text": lambda: self._text_runs(batch, self._reading, ["vectors", "tokens"]),
        }
        vectors = np.empty((len(batch), self.dim), np.float32)
        details = [np.empty((0, 0), np.int8)] * len(batch)
        for rows, (found, parts) in runs[modality]() if len(batch) else ():
            vectors[rows] = found
            for row, part in zip(rows, parts, strict=True):
                details[row] = quantised(part)
        return vectors, details

    def match(
        self, modality: Modality, query: TokenEmbeddings, candidates: Sequence[TokenEmbeddings]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate fits the query, by their rows.

        Comparable within one query; `mmsearch.search.rerank` blends it with the first scores.

        Args:
            modality: That of the query: the candidates of a "text" are photos, and the reverse.
            query: Rows that `encode_with_tokens` gave.
            candidates: The same, of things of the other modality.

        Raises:
            UnsupportedModality: `mini` knows no parts of it.
            ModelDamaged: a file is missing or not the one that was shipped.
        """
        self._check_details(modality)
        return self._matcher.scores(modality, query, candidates)

    def _photo_runs(
        self, photos: Sequence[Any], session: InferenceSession, outputs: list[str]
    ) -> Runs:
        def run(photo: Any) -> list[NDArray[Any]]:
            found: list[NDArray[Any]] = session.run(outputs, {"pixels": self._pixels(photo)[None]})
            return found

        return self._each(run, photos)

    def _sound_runs(self, sounds: Sequence[Any]) -> Runs:
        import numpy as np

        session = self._audio

        def run(sound: Any) -> list[NDArray[Any]]:
            grey = self._sound_picture(sound)[None, :, :, None]
            found: list[NDArray[Any]] = session.run([HEARD], {"pixels": np.repeat(grey, 3, axis=3)})
            return found

        return self._each(run, sounds)

    def _each(self, run: Callable[[Any], list[NDArray[Any]]], things: Sequence[Any]) -> Runs:
        """One a thread: what one needs fits the core's cache, and batches do not."""
        found = map(run, things) if len(things) == 1 else self._threads.map(run, things)
        yield from (([row], outputs) for row, outputs in enumerate(found))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")

    def _text_runs(
        self, texts: Sequence[str], tower: tuple[InferenceSession, Tokenizer], outputs: list[str]
    ) -> Runs:
        """Texts of like length run together, so that little is padding."""
        import numpy as np

        session, tokenizer = tower
        tokens = [found.ids for found in tokenizer.encode_batch(list(texts))]
        by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        for start in range(0, len(tokens), TEXTS_A_RUN):
            rows = by_length[start : start + TEXTS_A_RUN]
            ids = np.full((len(rows), len(tokens[rows[-1]])), PADDING, np.int64)
            for line, row in zip(ids, rows, strict=True):
                line[: len(tokens[row])] = tokens[row]
            yield rows, session.run(outputs, {"ids": ids})

    def _pixels(self, photo: Any) -> NDArray[np.uint8]:
        import numpy as np
        from PIL import Image

        square = (self.image_size, self.image_size)
        if isinstance(photo, np.ndarray):
            if photo.shape == (*square, 3):
                return photo
            photo = Image.fromarray(photo)
        upright = photo if photo.mode == "RGB" else photo.convert("RGB")
        small = upright.resize(square, Image.Resampling.BICUBIC, reducing_gap=2.0)
        return np.asarray(small)

    def _sound_picture(self, sound: Any) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = sound
        return picture if picture.ndim == 2 else mel_picture(sound, self.image_size)

    @cached_property
    def _image(self) -> InferenceSession:
        def load() -> InferenceSession:
            return session(self._files.checked("image.onnx"), optimise=True, threads=1)

        return self._files.once("_image", load)

    @cached_property
    def _audio(self) -> InferenceSession:
        return self._files.once("_audio", lambda: self._with_appendix(AUDIO))

    @cached_property
    def _looking(self) -> InferenceSession:
        return self._files.once("_looking", lambda: self._with_appendix(REGIONS))

    def _with_appendix(self, name: str) -> InferenceSession:
        """The image tower's graph and what it lacks, which are read as one graph."""
        return session(self._files.joined("image.onnx", name), optimise=True, threads=1)

    @cached_property
    def _text(self) -> tuple[InferenceSession, Tokenizer]:
        def load() -> tuple[InferenceSession, Tokenizer]:
            self._files.checked(
                "text.bin"
            )  # the graph's weights; ONNX Runtime finds them beside it
            return session(self._files.checked("text.onnx"), optimise=False), self._tokenizer()

        return self._files.once("_text", load)

    @cached_property
    def _reading(self) -> tuple[InferenceSession, Tokenizer]:
        """The text tower's graph and what it lacks to tell the words."""

        def load() -> tuple[InferenceSession, Tokenizer]:
            self._files.checked("text.bin")
            graph = self._files.joined("text.onnx", WORDS)
            return session(graph, optimise=False, beside=self._files.folder), self._tokenizer()

        return self._files.once("_reading", load)

    @cached_property
    def _matcher(self) -> Matcher:
        return self._files.once("_matcher", lambda: Matcher(self._files.checked(RERANK)))

    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._files.checked("tokenizer.json")))

    def _check(self, modality: str) -> None:
        if modality not in self.modalities:
            known = " and ".join(sorted(self.modalities))
            raise UnsupportedModality(f"'mini' cannot encode {modality}; it encodes {known}")

    def _check_details(self, modality: str) -> None:
        if modality not in self.token_modalities:
            raise UnsupportedModality(f"'mini' cannot tell the parts of {modality}")
