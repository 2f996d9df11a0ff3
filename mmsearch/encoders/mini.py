"""The built-in model: photos, sounds and English text in one space, on ONNX Runtime alone."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmsearch.encoders.mel import RATE, mel_picture
from mmsearch.encoders.onnx import session
from mmsearch.errors import ModelDamaged, UnsupportedModality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    from mmsearch.types import Modality, Vectors

Loaded = TypeVar("Loaded")

FOLDER = Path(__file__).parent.parent / "models" / "mini"

TEXTS_A_RUN = 32
PADDING = 0
"""The token id the text graph takes for nothing."""

AUDIO = "audio.onnx"
"""What the image tower's graph lacks to hear; a model may be without it."""
HEARD = "heard"
"""The output that it adds."""


def load_mini(folder: Path = FOLDER) -> MiniEncoder:
    """The built-in encoder; each tower is read when first used.

    Raises:
        ModelDamaged: the folder's manifest is missing or unreadable.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return MiniEncoder(folder, manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / "manifest.json", "cannot be read") from error


class MiniEncoder:
    """Unit vectors (n, 512) of photos, sounds and texts that can be compared with each other.

    The same input has the same vector, whatever else is in the batch (to 1e-4). Safe to use from
    several threads. Texts are cut at 128 tokens; photos are squeezed to a square, so that nothing
    at their edges is lost; of a sound the image tower sees a picture, five seconds wide.
    """

    name = "mini"

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self._folder = folder
        self._sha256: dict[str, str] = dict(manifest["sha256"])
        self._loading = threading.Lock()
        self.dim = int(manifest["dim"])
        self.image_size = int(manifest["image_size"])
        hears = AUDIO in self._sha256
        self.modalities: frozenset[Modality] = frozenset(
            ("image", "text", "audio") if hears else ("image", "text")
        )
        self.sample_rate = RATE if hears else 0
        # hearing changes no other vector, so what was indexed without it stays as it is
        files = sorted(self._sha256.keys() - {AUDIO})
        hashes = "".join(f"{name}:{self._sha256[name]}\n" for name in files)
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
        runs = {"image": self._photo_runs, "text": self._text_runs, "audio": self._sound_runs}
        parts = runs[modality](batch)
        for rows, found in parts:
            vectors[rows] = found
        return vectors

    def _photo_runs(self, photos: Sequence[Any]) -> Iterator[tuple[Any, Vectors]]:
        session = self._image

        def run(photo: Any) -> Vectors:
            vectors: Vectors = session.run(["vectors"], {"pixels": self._pixels(photo)[None]})[0]
            return vectors

        return self._each(run, photos)

    def _sound_runs(self, sounds: Sequence[Any]) -> Iterator[tuple[Any, Vectors]]:
        import numpy as np

        session = self._audio

        def run(sound: Any) -> Vectors:
            grey = self._sound_picture(sound)[None, :, :, None]
            vectors: Vectors = session.run([HEARD], {"pixels": np.repeat(grey, 3, axis=3)})[0]
            return vectors

        return self._each(run, sounds)

    def _each(
        self, run: Callable[[Any], Vectors], things: Sequence[Any]
    ) -> Iterator[tuple[Any, Vectors]]:
        """One a thread: what one needs fits the core's cache, and batches do not."""
        if len(things) == 1:
            yield 0, run(things[0])
        else:
            yield from enumerate(self._threads.map(run, things))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")

    def _text_runs(self, texts: Sequence[str]) -> Iterator[tuple[Any, Vectors]]:
        """Texts of like length run together, so that little is padding."""
        import numpy as np

        if not texts:
            return
        session, tokenizer = self._text
        tokens = [found.ids for found in tokenizer.encode_batch(list(texts))]
        by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        for start in range(0, len(tokens), TEXTS_A_RUN):
            rows = by_length[start : start + TEXTS_A_RUN]
            ids = np.full((len(rows), len(tokens[rows[-1]])), PADDING, np.int64)
            for line, row in zip(ids, rows, strict=True):
                line[: len(tokens[row])] = tokens[row]
            yield rows, session.run(None, {"ids": ids})[0]

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
            return session(self._checked("image.onnx"), optimise=True, threads=1)

        return self._once("_image", load)

    @cached_property
    def _audio(self) -> InferenceSession:
        """The image tower's graph and what it lacks to hear, which are read as one graph."""

        def load() -> InferenceSession:
            both = [self._checked("image.onnx"), self._checked(AUDIO)]
            graph = b"".join(path.read_bytes() for path in both)
            return session(graph, optimise=True, threads=1)

        return self._once("_audio", load)

    @cached_property
    def _text(self) -> tuple[InferenceSession, Tokenizer]:
        return self._once("_text", self._load_text)

    def _load_text(self) -> tuple[InferenceSession, Tokenizer]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._checked("tokenizer.json")))
        self._checked("text.bin")  # the graph's weights; ONNX Runtime finds them beside it
        return session(self._checked("text.onnx"), optimise=False), tokenizer

    def _once(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        """What `load` gives, unless another thread has loaded it meanwhile."""
        with self._loading:
            if name not in self.__dict__:
                self.__dict__[name] = load()
            loaded: Loaded = self.__dict__[name]
            return loaded

    def _checked(self, name: str) -> Path:
        """Where one of the model's files lies, once it is known to be what was shipped."""
        path = self._folder / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _damaged(path, "cannot be read") from error
        if found != self._sha256[name]:
            raise _damaged(path, "is not the file that was shipped (its SHA-256 differs)")
        return path

    def _check(self, modality: str) -> None:
        if modality not in self.modalities:
            known = " and ".join(sorted(self.modalities))
            raise UnsupportedModality(f"'mini' cannot encode {modality}; it encodes {known}")


def _damaged(path: Path, what: str) -> ModelDamaged:
    return ModelDamaged(
        f"the built-in model is damaged: {path} {what}. "
        "Reinstall it: pip install --force-reinstall --no-deps mmsearch"
    )
