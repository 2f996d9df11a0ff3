"""The encoder of the built-in model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmsearch.encoders import TokenEncoder, check_modality
from mmsearch.encoders.mini import FOLDER
from mmsearch.encoders.mini.languages import LanguageDetector
from mmsearch.encoders.mini.mel import RATE, mel_picture
from mmsearch.encoders.model_files import MANIFEST, ModelFiles, short_hash
from mmsearch.encoders.onnx import in_threads, padded_batches, session
from mmsearch.encoders.token_embeddings import (
    REGIONS,
    RERANK,
    TOKEN_DIM,
    WORDS,
    Matcher,
    quantised,
)
from mmsearch.errors import UnsupportedModality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.types import Modality, Vectors

TEXTS_PER_BATCH = 32
PADDING = 0
"""The token id that the text graph ignores."""

AUDIO = "audio.onnx"
"""Extends the image tower's graph to hear; a model may lack it."""
HEARD = "heard"
"""The output that it adds."""
TOKEN_GRAPHS = {REGIONS, WORDS, RERANK}
"""For reranking; a model has all of these or none."""
TOKENIZER = "tokenizer.json"
LANGUAGE_TOWER, LANGUAGE_TOKENIZER, DETECTOR = "languages.onnx", "languages.json", "languages.f16"
"""The text tower for languages other than English, its tokenizer, and the weights of the language
detector; a model has all of these or none."""
LANGUAGE_FILES = {LANGUAGE_TOWER, LANGUAGE_TOKENIZER, DETECTOR}
EXTENSIONS = {AUDIO, *TOKEN_GRAPHS, *LANGUAGE_FILES}
"""Files that change no vector of an image or an English text, so that an index made without them
stays valid."""


class Graph(NamedTuple):
    """What computes something of one modality."""

    files: tuple[str, ...]
    """ONNX files are protocol buffers: two of them, end to end, are read as one graph."""
    outputs: list[str]
    weights: tuple[str, ...] = ()
    """Files that ONNX Runtime finds beside the graph."""


GRAPHS: dict[Modality, Graph] = {
    "image": Graph(("image.onnx",), ["vectors"]),
    "audio": Graph(("image.onnx", AUDIO), [HEARD]),
    "text": Graph(("text.onnx",), ["vectors"], ("text.bin",)),
}
LANGUAGE_GRAPH = Graph((LANGUAGE_TOWER,), ["vectors"])
GRAPHS_WITH_TOKENS: dict[Modality, Graph] = {
    "image": Graph(("image.onnx", REGIONS), ["vectors", "regions"]),
    "text": Graph(("text.onnx", WORDS), ["vectors", "tokens"], ("text.bin",)),
}


def load_mini(folder: Path = FOLDER) -> MiniEncoder:
    """The built-in encoder; each tower is read at its first use.

    Raises:
        ModelDamaged: the folder's manifest is missing or unreadable.
    """
    files = ModelFiles(
        folder,
        what="the built-in model",
        cure="Reinstall it: pip install --force-reinstall --no-deps mmsearch",
    )
    try:
        return MiniEncoder(files)
    except (KeyError, TypeError, ValueError) as error:
        raise files.damaged(MANIFEST, "cannot be read") from error


class MiniEncoder(TokenEncoder):
    """Unit vectors (n, 512) of photos, sounds and texts that can be compared with each other.

    The same input has the same vector, whatever else is in the batch (to 1e-4). Texts are cut at
    128 tokens. Those in languages other than English go through a second text tower, and those
    whose language is in doubt through both. Photos are squeezed to a square, so that nothing at
    their edges is lost; the image tower sees a sound as a picture, five seconds wide.
    """

    name = "mini"

    def __init__(self, files: ModelFiles) -> None:
        self._files, self._matcher = files, Matcher(files)
        names = set(files.sha256)
        self.dim = int(files.manifest["dim"])
        self.image_size = int(files.manifest["image_size"])
        # 12 megapixels are decoded at an eighth, in 16 ms of a core instead of 25; cosines to the
        # vector of the whole photo stay above 0.999 (23 photos of scikit-image and scikit-learn)
        self.decode_scale = 1.4
        self.modalities: frozenset[Modality] = frozenset({"image", "text"})
        if AUDIO in names:
            self.modalities |= {"audio"}
            self.sample_rate = RATE
        self.token_modalities: frozenset[Modality] = frozenset(
            ("image", "text") if names >= TOKEN_GRAPHS else ()
        )
        self.match_weight = float(files.manifest.get("match_weight", 0.0))
        self.tokens_version = short_hash(
            "".join(files.sha256.get(name, "") for name in sorted(TOKEN_GRAPHS))
        )
        self.languages_version = short_hash(
            "".join(files.sha256.get(name, "") for name in sorted(LANGUAGE_FILES))
        )
        self.fingerprint = short_hash(
            "".join(f"{name}:{files.sha256[name]}\n" for name in sorted(names - EXTENSIONS))
        )

    def prepare(self, modality: Modality, thing: Any) -> Any:
        """Pixels (image_size, image_size, 3) uint8 of a photo, a sound's picture (image_size,
        image_size) uint8, or the string.
        """
        check_modality(self, modality)
        if modality == "audio":
            return self._sound_picture(thing)
        return self._pixels(thing) if modality == "image" else str(thing)

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """Unit rows (len(batch), 512) float32."""
        import numpy as np

        check_modality(self, modality)
        vectors = np.empty((len(batch), self.dim), np.float32)
        for rows, (found,) in self._runs(modality, batch, GRAPHS[modality]):
            vectors[rows] = found
        return vectors

    def encode_with_tokens(
        self, modality: Modality, batch: Sequence[Any]
    ) -> tuple[Vectors, list[TokenEmbeddings]]:
        """Unit rows (len(batch), 512) float32, and of each thing (rows, 128) int8 from the same
        run, at most 32 rows; none for texts in languages other than English.
        """
        import numpy as np

        self._check_tokens(modality)
        vectors = np.empty((len(batch), self.dim), np.float32)
        tokens = [np.empty((0, 0), np.int8)] * len(batch)
        for rows, (found, parts) in self._runs(modality, batch, GRAPHS_WITH_TOKENS[modality]):
            vectors[rows] = found
            for row, part in zip(rows, parts, strict=True):
                tokens[row] = quantised(part)
        return vectors, tokens

    def match(
        self, modality: Modality, query: TokenEmbeddings, candidates: Sequence[TokenEmbeddings]
    ) -> NDArray[np.float32]:
        """(n,) how well each candidate matches the query."""
        self._check_tokens(modality)
        return self._matcher.match(modality, query, candidates)

    def is_english(self, text: str) -> bool:
        """Whether only the English tower encodes a text; always True if there is no other."""
        return self._language_is_english(text) is True

    # ------------------------------------------------------------------ running

    def _runs(
        self, modality: Modality, batch: Sequence[Any], graph: Graph
    ) -> Iterator[tuple[list[int], list[NDArray[Any]]]]:
        """Rows of the batch, and each output of the graph for them."""
        if not len(batch):
            return
        if modality == "text":
            yield from self._text_runs(batch, graph)
            return
        loaded, outputs = self._session(graph), graph.outputs
        pixels = self._pixels if modality == "image" else self._sound_pixels

        def run(thing: Any) -> list[NDArray[Any]]:
            found: list[NDArray[Any]] = loaded.run(outputs, {"pixels": pixels(thing)[None]})
            return found

        yield from (([row], found) for row, found in enumerate(in_threads(run, batch)))

    def _text_runs(
        self, texts: Sequence[str], graph: Graph
    ) -> Iterator[tuple[list[int], list[NDArray[Any]]]]:
        """The same for texts, each through the tower of its language.

        A text whose language is in doubt goes through both and gets the mean of the two vectors.
        """
        import numpy as np

        by_language: dict[bool | None, list[int]] = {True: [], False: [], None: []}
        for row, text in enumerate(texts):
            by_language[self._language_is_english(text)].append(row)
        yield from self._tower_runs(texts, by_language[True], TOKENIZER, graph)
        others = LANGUAGE_TOKENIZER, LANGUAGE_GRAPH
        no_tokens = np.zeros((TEXTS_PER_BATCH, 0, TOKEN_DIM), np.float32)
        for rows, found in self._tower_runs(texts, by_language[False], *others):
            yield rows, [*found, no_tokens[: len(rows)]][: len(graph.outputs)]
        for row in by_language[None]:
            ((_, (english, *tokens)),) = self._tower_runs(texts, [row], TOKENIZER, graph)
            ((_, (other,)),) = self._tower_runs(texts, [row], *others)
            mean = english + other
            yield [row], [mean / np.linalg.norm(mean), *tokens]

    def _tower_runs(
        self, texts: Sequence[str], places: Sequence[int], tokenizer: str, graph: Graph
    ) -> Iterator[tuple[list[int], list[NDArray[Any]]]]:
        """The same for the texts at some places, through one tower."""
        if not places:
            return
        loaded = self._session(graph)
        found = self._tokenizer(tokenizer).encode_batch([texts[place] for place in places])
        for rows, ids in padded_batches([one.ids for one in found], TEXTS_PER_BATCH, PADDING):
            yield [places[row] for row in rows], loaded.run(graph.outputs, {"ids": ids})

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

    def _sound_pixels(self, sound: Any) -> NDArray[np.uint8]:
        """The sound's picture as a photo (image_size, image_size, 3) in grey."""
        import numpy as np

        return np.repeat(self._sound_picture(sound)[:, :, None], 3, axis=2)

    def _session(self, graph: Graph) -> InferenceSession:
        files = self._files

        def load() -> InferenceSession:
            for name in graph.weights:
                files.checked(name)
            content = files.joined(*graph.files)
            if graph.weights:
                return session(content, optimise=False, weights_folder=files.folder)
            return session(content, optimise=True, threads=1)

        return files.once("+".join(graph.files), load)

    def _language_is_english(self, text: str) -> bool | None:
        """`LanguageDetector.is_english`; always True in a model with a single text tower."""
        if not self._files.sha256.keys() >= LANGUAGE_FILES:
            return True

        def load() -> LanguageDetector:
            import numpy as np

            weights = np.fromfile(self._files.checked(DETECTOR), "<f2")
            return LanguageDetector(weights.astype(np.float32))

        return self._files.once(DETECTOR, load).is_english(text)

    def _tokenizer(self, name: str) -> Tokenizer:
        def load() -> Tokenizer:
            from tokenizers import Tokenizer

            return Tokenizer.from_file(str(self._files.checked(name)))

        return self._files.once(name, load)

    def _check_tokens(self, modality: str) -> None:
        if modality not in self.token_modalities:
            raise UnsupportedModality(f"'mini' has no token embeddings of {modality}")
