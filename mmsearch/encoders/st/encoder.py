"""The encoder of `st:` models: the vectors of sentence-transformers' own."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.encoders import VideoEncoder, check_modality
from mmsearch.encoders.st import checkpoint
from mmsearch.encoders.trusted import is_trusted
from mmsearch.errors import InvalidOption, MissingExtra, ModelDamaged, ModelUnavailable
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import Runtime
    from mmsearch.types import Vectors

AT_ONCE = 32
LARGE_PICTURE = 448
"""Pixels; the side at which photos are decoded for models that take pictures of any size."""
LARGEST_SIDE = 1024
"""Pixels; a larger "edge" in a processor's settings is an area, as in Qwen's."""
MOST_FRAMES = 64
"""The most frames of a video, whatever the model asks for: they take 70 MB."""

_PADDED_TEXTS = {"siglip", "siglip2"}
"""Models that were trained on texts of their full length, padding included."""

_DEVICES = {"auto": None, "cpu": "cpu", "cuda": "cuda", "mps": "mps"}


def load_model(name: str, how: Runtime) -> SentenceTransformerEncoder:
    """The encoder of a name; nothing is downloaded.

    Raises:
        InvalidOption: it cannot run like that, or has fewer dimensions than the name asks for.
        MissingExtra: sentence-transformers is not installed, or a package for its modalities.
        ModelUnavailable: its files are not on this machine, or it runs code that is not trusted.
        UnknownModel: it is not the name of a model, or encodes nothing that is searched here.
        ModelDamaged: its files cannot be read.
    """
    source = checkpoint.parse(name)
    if how.runtime == "onnx" or how.precision != "auto":
        raise InvalidOption(
            f"{name} runs on torch, as its files say; leave out --runtime and --precision"
        )
    if find_spec("sentence_transformers") is None:
        raise MissingExtra(f"the model {name!r}", "st")
    folder = source.folder
    missing = "files" if folder is None else checkpoint.missing_from(folder)
    if folder is None or missing:
        if source.repository is None:
            raise ModelUnavailable(f"{folder} is no whole model: it has no {missing}")
        raise ModelUnavailable(
            f"{name} is not on this machine; fetch it with: mmsearch models pull {name}"
        )
    fingerprint = checkpoint.fingerprint(folder, source.dim)
    runs_code = checkpoint.runs_code(folder)
    if runs_code and not is_trusted(source.name, fingerprint):
        raise ModelUnavailable(
            f"{name} brings Python code, which would run on this machine; if you trust it: "
            f"mmsearch models pull {name} --trust-remote-code"
        )
    model = _loaded(str(folder), source, how, runs_code=runs_code)
    return SentenceTransformerEncoder(source, fingerprint, model)


def _loaded(folder: str, source: checkpoint.Source, how: Runtime, *, runs_code: bool) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = SentenceTransformer(
            folder,
            device=_DEVICES[how.device],
            local_files_only=True,
            trust_remote_code=runs_code,
            truncate_dim=source.dim,
        )
    except ImportError as error:
        raise MissingExtra(f"the model {source.name!r} ({error})", "st") from error
    except Exception as error:  # the libraries raise all kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelDamaged(
            f"{folder} cannot be loaded ({reason}); delete that folder and fetch or copy the "
            "model again"
        ) from error
    if any(one.dtype == torch.float16 for one in model.parameters()):
        model = model.float()  # many a model overflows in half precision
    for module in model.modules():
        if getattr(getattr(module, "config", None), "model_type", None) in _PADDED_TEXTS:
            with suppress(AttributeError):
                module.processing_kwargs["text"] = {"padding": "max_length"}
    return model.eval()


class SentenceTransformerEncoder(VideoEncoder):
    """Unit vectors of texts, pictures, sounds and videos, as far as the model takes them.

    They equal the model's own (to 1e-5) with its prompts for queries and for documents. A text is
    never mistaken for the path or URL of a picture.
    """

    def __init__(self, source: checkpoint.Source, fingerprint: str, model: Any) -> None:
        self._model = model
        self._encoding = threading.Lock()  # tokenizers hold their truncation between calls
        self.name = source.name
        self.fingerprint = fingerprint
        self.modalities: frozenset[Modality] = frozenset(
            modality for modality in get_args(Modality) if model.supports(modality)
        )
        if not self.modalities:
            raise InvalidOption(f"{self.name} encodes neither texts nor pictures nor sounds")
        self.dim = int(model.get_embedding_dimension() or 0)
        if "text" in self.modalities:  # what the library says may be wrong
            self.dim = len(self.encode("text", ["a"])[0])
        if source.dim is not None and source.dim > self.dim:
            raise InvalidOption(f"{self.name}: its vectors have only {self.dim} dimensions")
        self.image_size = _image_size(model) if "image" in self.modalities else 0
        self.takes_videos = "image" in self.modalities and model.supports("video")
        self.sample_rate = _sample_rate(model) if "audio" in self.modalities else 0

    def prepare(self, modality: Modality, thing: Any) -> Any:
        """A picture as pixels (height, width, 3) uint8; a text or a sound as it is."""
        import numpy as np

        check_modality(self, modality)
        if modality == "text":
            return str(thing)
        return np.asarray(thing, np.uint8 if modality == "image" else np.float32)

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """Unit rows (len(batch), dim) float32, by the model's prompt for documents."""
        return self._encoded(modality, batch, self._model.encode_document)

    def encode_query(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """The same by the model's prompt for queries."""
        return self._encoded(modality, batch, self._model.encode_query)

    def frame_rate(self, seconds: float) -> float:
        """The frames per second that the model's processor would sample from such a video."""
        processor = next(iter(_parts(self._model, "video_processor")), None)
        number, rate, least, most = (
            getattr(processor, name, None)
            for name in ("num_frames", "fps", "min_frames", "max_frames")
        )
        wanted = number or max(seconds * (rate or 1.0), least or 1.0)
        return float(min(wanted, most or MOST_FRAMES, MOST_FRAMES) / seconds)

    def encode_video(self, frames: NDArray[np.uint8], rate: float) -> Vectors:
        """The unit row (1, dim) float32 of a video, by the model's prompt for documents.

        Args:
            frames: (n, height, width, 3); the model sees all of them.
            rate: Frames per second, for models that are told the time of each frame.
        """
        number = len(frames)
        facts = {
            "total_num_frames": number,
            "fps": rate,
            "duration": number / rate,
            "frames_indices": list(range(number)),
        }
        video = {"video": {"array": frames, "video_metadata": facts}}
        all_frames = {"video": {"do_sample_frames": False}}
        return self._rows([video], self._model.encode_document, processing_kwargs=all_frames)

    def _encoded(self, modality: Modality, batch: Sequence[Any], encode: Any) -> Vectors:
        import numpy as np

        check_modality(self, modality)
        if not len(batch):
            return np.zeros((0, self.dim), np.float32)
        return self._rows([self._input(modality, thing) for thing in batch], encode)

    def _rows(self, given: Sequence[dict[str, Any]], encode: Any, **options: Any) -> Vectors:
        import numpy as np

        with self._encoding:
            rows = encode(
                given,
                batch_size=AT_ONCE,
                show_progress_bar=False,
                convert_to_tensor=True,
                **options,
            )
        vectors: Vectors = rows.float().cpu().numpy()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        return vectors

    def _input(self, modality: Modality, thing: Any) -> dict[str, Any]:
        """What the library is given: it says which modality a thing is of, lest it guess."""
        if modality == "text":
            return {"text": str(thing)}
        if modality == "audio":
            return {"audio": {"array": thing, "sampling_rate": self.sample_rate}}
        from PIL import Image

        return {"image": thing if isinstance(thing, Image.Image) else Image.fromarray(thing)}


# ---------------------------------------------------------------------- what a model says of itself


def _parts(model: Any, name: str) -> list[Any]:
    """Those of its processors that are of some kind, "feature_extractor" say."""
    processors = (getattr(module, "processor", None) for module in model.modules())
    return [part for one in processors if (part := getattr(one, name, None)) is not None]


def _sample_rate(model: Any) -> int:
    for part in _parts(model, "feature_extractor"):
        if rate := getattr(part, "sampling_rate", None):
            return int(rate)
    raise InvalidOption("the model does not say at which sample rate it takes sounds")


def _image_size(model: Any) -> int:
    """The side of the pictures it sees, in pixels."""
    for part in _parts(model, "image_processor"):
        for size in (getattr(part, "crop_size", None), getattr(part, "size", None)):
            sides = [
                side
                for name in ("shortest_edge", "height", "width")
                if isinstance(side := _get(size, name), int) and 0 < side <= LARGEST_SIDE
            ]
            if sides:
                return max(sides)
    return LARGE_PICTURE


def _get(size: Any, name: str) -> Any:
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)
