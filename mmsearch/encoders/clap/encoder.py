"""The encoder of CLAP models: transformers' own vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Encoder, check_modality
from mmsearch.encoders.clap.checkpoint import ClapFiles, find
from mmsearch.encoders.onnx import padded_batches
from mmsearch.errors import InvalidOption, MissingExtra, ModelDamaged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import Runtime
    from mmsearch.types import Modality, Vectors

WINDOWS_PER_BATCH = 8
TEXTS_PER_BATCH = 32
_quiet = threading.RLock()
"""Held while transformers' own messages are off, which is a setting of the whole process."""


def load_clap(name: str, how: Runtime) -> ClapEncoder:
    """The encoder `clap:REPOSITORY_OR_FOLDER`; torch is imported when it first encodes.

    Raises:
        InvalidOption: CLAP cannot run like that.
        MissingExtra: transformers or torch are not installed.
        ModelUnavailable: the model's files are not on this machine.
        UnknownModel: it is not a CLAP model.
        ModelDamaged: its files cannot be read.
    """
    if how.runtime == "onnx" or how.precision not in {"auto", "fp32"}:
        raise InvalidOption(
            f"{name} runs on torch in fp32 only; leave out --runtime and --precision"
        )
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingExtra(f"the model {name!r}", "audio")
    return ClapEncoder(find(name), how.device)


_CURE = "delete that folder and fetch or copy the model again"


def _loaded_once(load: Callable[[ClapEncoder], Any]) -> property:
    """A property of an encoder, loaded by the first thread that uses it."""
    name = load.__name__

    def loaded(self: ClapEncoder) -> Any:
        with self._loading:
            if name not in self._loaded:
                try:
                    with _silence():
                        self._loaded[name] = load(self)
                except (InvalidOption, ModelDamaged):
                    raise
                except Exception as error:  # transformers and torch raise all kinds
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise ModelDamaged(
                        f"{self._files.folder} cannot be loaded ({reason}); {_CURE}"
                    ) from error
            return self._loaded[name]

    return property(loaded)


class ClapEncoder(Encoder):
    """Unit vectors of sounds and texts that can be compared with each other.

    The same input has the same vector, whatever else is in the batch (to 1e-5): a sound longer
    than the model takes (10 s, for those published) is cut at its end, not at random. Texts are
    cut at the limits of the tokenizer and the text tower.
    """

    modalities: frozenset[Modality] = frozenset({"audio", "text"})

    def __init__(self, files: ClapFiles, device: str) -> None:
        self._files = files
        self._wanted_device = device
        self._loading = threading.RLock()
        self._loaded: dict[str, Any] = {}
        self._reading = threading.Lock()
        self.name = files.name
        self.fingerprint = files.fingerprint()
        self.dim = int(files.config.get("projection_dim", 512))
        self.sample_rate = int(files.preprocessing.get("sampling_rate", 48_000))

    def prepare(self, modality: Modality, thing: Any) -> Any:
        """The log-mel picture (frames, mels) float32 of a sound, or the string."""
        check_modality(self, modality)
        return self._picture(thing) if modality == "audio" else str(thing)

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """Unit rows (len(batch), dim) float32.

        Raises:
            InvalidOption: the wanted device is not there.
        """
        import numpy as np

        check_modality(self, modality)
        vectors = np.empty((len(batch), self.dim), np.float32)
        runs = self._sound_runs(batch) if modality == "audio" else self._text_runs(batch)
        for rows, found in runs:
            vectors[rows] = found
        return vectors

    def _sound_runs(self, windows: Sequence[Any]) -> Iterator[tuple[Any, Vectors]]:
        import numpy as np

        for start in range(0, len(windows), WINDOWS_PER_BATCH):
            part = windows[start : start + WINDOWS_PER_BATCH]
            pictures = np.stack([one if np.ndim(one) == 2 else self._picture(one) for one in part])
            yield slice(start, start + len(part)), self._hear(pictures)

    def _hear(self, pictures: NDArray[np.float32]) -> Vectors:
        """Vectors (n, dim) of log-mel pictures (n, frames, mels)."""
        import torch

        model, device = self._model
        # a model that fuses parts of a long sound takes four pictures, and of a short one the
        # same four times; that it is short is what is_longer says
        views = 4 if self._extractor.truncation == "fusion" else 1
        features = torch.from_numpy(pictures).to(device)[:, None].expand(-1, views, -1, -1)
        longer = torch.zeros(len(pictures), 1, dtype=torch.bool, device=device)
        with torch.inference_mode():
            return _unit(model.get_audio_features(input_features=features, is_longer=longer))

    def _text_runs(self, texts: Sequence[str]) -> Iterator[tuple[Any, Vectors]]:
        import torch

        if not texts:
            return
        tokens = self._tokens([str(text) for text in texts])
        model, device = self._model
        padding = model.config.text_config.pad_token_id or 0
        for rows, padded in padded_batches(tokens, TEXTS_PER_BATCH, padding):
            ids = torch.from_numpy(padded).to(device)
            lengths = torch.tensor([len(tokens[row]) for row in rows], device=device)
            mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
            with torch.inference_mode():
                yield rows, _unit(model.get_text_features(ids, mask))

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        tokenizer, limit = self._tokenizer
        with self._reading:  # each call sets its truncation
            found: list[list[int]] = tokenizer(texts, truncation=True, max_length=limit)[
                "input_ids"
            ]
        return found

    def _picture(self, samples: Any) -> NDArray[np.float32]:
        """The log-mel picture (frames, mels) that the model's own preprocessing makes."""
        import numpy as np

        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not len(samples):
            raise InvalidOption(f"a sound is one row of samples, not an array {samples.shape}")
        extractor = self._extractor
        whole = samples[: extractor.nb_max_samples]
        found = extractor(whole, sampling_rate=self.sample_rate, return_tensors="np")
        picture: NDArray[np.float32] = found["input_features"][0, 0].astype(np.float32)
        return picture

    # ------------------------------------------------------------------ loaded when first used

    @_loaded_once
    def _extractor(self) -> Any:
        from transformers import ClapFeatureExtractor

        return ClapFeatureExtractor.from_dict(self._files.preprocessing)

    @_loaded_once
    def _tokenizer(self) -> tuple[Any, int]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._files.folder, local_files_only=True)
        text = self._model[0].config.text_config
        # RoBERTa counts positions from behind the padding's id
        places = text.max_position_embeddings - (text.pad_token_id or 0) - 1
        return tokenizer, min(tokenizer.model_max_length, places)

    @_loaded_once
    def _model(self) -> tuple[Any, str]:
        import torch
        from transformers import ClapModel

        device = _device(self._wanted_device, self.name)
        model, found = ClapModel.from_pretrained(
            self._files.folder,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
        # transformers fills weights that a file lacks with random numbers
        missing = set(found["missing_keys"]) & {key for key, _ in model.named_parameters()}
        if missing or found["mismatched_keys"]:
            raise ModelDamaged(
                f"{self._files.weights} does not hold all weights of the model "
                f"({min(missing, default='of another shape')}, for one); {_CURE}"
            )
        return model.eval().to(device), device


def _unit(features: Any) -> Vectors:
    """Rows of unit length on the CPU; transformers 5 wraps them, and 4 did not."""
    import torch

    rows = features if isinstance(features, torch.Tensor) else features.pooler_output
    vectors: Vectors = torch.nn.functional.normalize(rows.float(), dim=-1).cpu().numpy()
    return vectors


def _device(wanted: str, name: str) -> str:
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(device for device, usable in available.items() if usable)
    if not available[wanted]:
        raise InvalidOption(f"{name} cannot run on {wanted}: torch finds none here")
    return wanted


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers from printing progress bars and warnings."""
    import warnings

    from transformers.utils import logging

    with _quiet:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
