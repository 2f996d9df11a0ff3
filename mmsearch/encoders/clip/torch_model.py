"""A `clip:` model on open_clip and torch: the reference for graphs, and what runs on a GPU."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.clip import names
from mmsearch.encoders.clip.preprocessing import Pixels, TokenRecipe, clip_pieces
from mmsearch.encoders.clip.weights import CONFIG, find, in_url_cache, unavailable
from mmsearch.errors import MissingExtra, ModelUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders.clip.names import Source
    from mmsearch.types import Modality, Vectors

BATCH_SIZE = 32
"""Photos or texts in a batch."""
NEEDED = ("torch", "torchvision", "open_clip")

_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class Device:
    """A device, and the precision in which torch runs there."""

    name: str = "cpu"
    precision: str = "fp32"

    def autocast(self) -> AbstractContextManager[Any]:
        """A context that computes in bf16, if that is the precision; weights stay float32."""
        import torch

        if self.precision != "bf16":
            return nullcontext()
        context: AbstractContextManager[Any] = torch.autocast(self.name, dtype=torch.bfloat16)
        return context

    def moved(self, batch: NDArray[Any]) -> Any:
        """A batch on the device; from pinned memory, so that copying overlaps with computing."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about read-only arrays: nothing writes to them
            here = torch.from_numpy(batch)
        if self.name == "cuda":
            return here.pin_memory().to(self.name, non_blocking=True)
        return here.to(self.name)


class TorchModel:
    """A model of open_clip: its towers, preprocessing and tokenizer; safe to use from threads."""

    def __init__(self, source: Source) -> None:
        """Load the weights; nothing is downloaded.

        Raises:
            MissingExtra: torch or open_clip is not installed.
            ModelUnavailable: the weights are not here, or are of another architecture.
        """
        check_installed(source.name)
        with _loading, _no_network(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.model, self.tokenizer = _loaded(source)
        self.notes = [str(one.message) for one in caught if "QuickGELU" in str(one.message)]
        self.pixels = Pixels.of(self.model.visual.preprocess_cfg)

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token ids (n, context length), by open_clip's own tokenizer."""
        encodable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        ids: NDArray[np.int64] = self.tokenizer(encodable).numpy()
        return ids

    def dim(self) -> int:
        """Numbers in a vector."""
        import numpy as np

        return int(self.run("text", np.stack(list(self.tokens(["a"])))).shape[1])

    def run(self, modality: Modality, batch: NDArray[Any], how: Device = Device()) -> Vectors:
        """Unit vectors (n, dim) of pixels (n, height, width, 3) uint8 or token ids (n, tokens)."""
        import torch

        with torch.no_grad(), how.autocast():  # inference_mode makes autocast far slower
            vectors = self._tower(modality, how.moved(batch))
            found: Vectors = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
            return found

    def _tower(self, modality: Modality, batch: Any) -> Any:
        if modality == "image":
            return self.model.encode_image(normalised(batch, self.pixels), normalize=True)
        return self.model.encode_text(batch, normalize=True)

    def recipe(self) -> tuple[TokenRecipe, Any]:
        """How texts become tokens, and the `tokenizers.Tokenizer` that does most of it.

        Raises:
            ValueError: a recipe cannot describe it.
        """
        own = self.tokenizer
        cleaning = own.clean_fn.__name__.removeprefix("_clean_") if hasattr(own, "clean_fn") else ""
        length = int(own.context_length)
        if hasattr(own, "bpe_ranks"):
            marks = (own.sot_token_id, own.eot_token_id)
            recipe = TokenRecipe("clip", cleaning, length, trims(self.model), marks=marks)
            return recipe, clip_pieces(own.encoder, list(own.bpe_ranks))
        inner = own.tokenizer
        if not getattr(inner, "is_fast", False):
            raise ValueError(f"{type(inner).__name__} is written in Python only")
        own(["a"])  # sets how its backend cuts and pads
        backend = inner.backend_tokenizer
        if getattr(own, "tokenizer_mode", "") == "clips":
            backend.no_truncation()
            backend.no_padding()
            ends = (inner.bos_token_id, inner.eos_token_id)
            marks_and_class = (*ends, inner.pad_token_id, inner.cls_token_id)
            return TokenRecipe("clips", cleaning, length, marks=marks_and_class), backend
        blanked = inner.sep_token_id if getattr(own, "strip_sep_token", False) else None
        return TokenRecipe("padded", cleaning or "canonicalize", length, blanked=blanked), backend


def normalised(pixels: Any, how: Pixels) -> Any:
    """Photos (n, height, width, 3) uint8 as a tower takes them: (n, 3, height, width) float32."""
    import torch

    mean = torch.tensor(how.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(how.std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def trims(model: Any) -> bool:
    """Whether padding changes nothing: a causal mask, and the vector read at the last token."""
    text = getattr(model, "text", model)
    causal = getattr(text, "attn_mask", None) is not None
    pooled = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    own = type(text).__name__ in ("CLIP", "TextTransformer")
    return own and causal and pooled == "argmax" and getattr(text, "cls_emb", None) is None


def check_installed(name: str) -> None:
    """Return if torch and open_clip are installed.

    Raises:
        MissingExtra: they are not.
    """
    if any(importlib.util.find_spec(package) is None for package in NEEDED):
        raise MissingExtra(f"Running {name} for the first time", "clip")


def best_device() -> str:
    """cuda, mps or cpu; torch is imported only if there is a sign of a GPU."""
    signs = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    apple = os.uname().sysname == "Darwin" if hasattr(os, "uname") else False
    windows = Path(os.environ.get("SYSTEMROOT", "/none"), "System32", "nvcuda.dll").exists()
    if not (apple or windows or any(Path(sign).exists() for sign in signs)):
        return "cpu"
    if any(importlib.util.find_spec(package) is None for package in NEEDED):
        return "cpu"
    return next((name for name in ("cuda", "mps") if has_device(name)), "cpu")


def has_device(name: str) -> bool:
    """Whether torch can compute there."""
    import torch

    if name == "mps":
        return bool(torch.backends.mps.is_available())
    return name == "cpu" or bool(torch.cuda.is_available())


# ---------------------------------------------------------------------- loading


def _loaded(source: Source) -> tuple[Any, Any]:
    """open_clip's model in eval mode, and its tokenizer."""
    import open_clip

    weights = find(source)
    if weights is None:
        raise unavailable(source)
    try:
        model = _create(source, weights)
        tokenizer = open_clip.get_tokenizer(_address(source))
    except MissingExtra:
        raise
    except ImportError as error:
        raise MissingExtra(f"{source.name} ({error})", "clip") from error
    except Exception as error:  # torch, safetensors, the hub's client: all kinds
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise ModelUnavailable(f"{weights} cannot be loaded as {source.name}: {reason}") from error
    return model.eval(), tokenizer


def _address(source: Source) -> str:
    """The name by which open_clip creates it."""
    if source.repository is not None:
        return f"{names.HUB}{source.repository}"
    if source.path is not None and (source.path / CONFIG).is_file():
        return f"{names.FOLDER}{source.path}"
    return source.arch


def _create(source: Source, weights: Path) -> Any:
    import open_clip

    address = _address(source)
    if address != source.arch:
        return open_clip.create_model(address, require_pretrained=True)
    if source.path is None and weights != in_url_cache(names.places(source).get("url", "")):
        return open_clip.create_model(address, source.tag, require_pretrained=True)
    preprocessing = {}
    if source.tag is not None:  # downloaded from its url, whereas open_clip prefers the hub
        config = open_clip.pretrained.get_pretrained_cfg(source.arch, source.tag)
        keys = ("mean", "std", "interpolation", "resize_mode")
        preprocessing = {key: config[key] for key in keys if config.get(key)}
    with _as_state(weights) as state:
        return open_clip.create_model(
            address, str(state), require_pretrained=True, force_preprocess_cfg=preprocessing
        )


@contextmanager
def _as_state(weights: Path) -> Iterator[Path]:
    """The checkpoint as a file of tensors: OpenAI's are TorchScript archives."""
    import torch

    if weights.suffix == ".safetensors" or not _is_script(weights):
        yield weights
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.jit.load(str(weights), map_location="cpu").state_dict()
    kept = {
        key: value
        for key, value in state.items()
        if key not in ("input_resolution", "context_length", "vocab_size")
    }
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "state.pt"
        torch.save(kept, plain)
        yield plain


def _is_script(weights: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(weights):
        return False
    with zipfile.ZipFile(weights) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


@contextmanager
def _no_network() -> Iterator[None]:
    """Let the hub's client use its cache alone."""
    from huggingface_hub import constants

    constant, level = constants.HF_HUB_OFFLINE, logging.root.level
    variable = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
    logging.root.setLevel(logging.CRITICAL)  # open_clip logs what is raised here
    try:
        yield
    finally:
        logging.root.setLevel(level)
        constants.HF_HUB_OFFLINE = constant
        del os.environ["HF_HUB_OFFLINE"]
        if variable is not None:
            os.environ["HF_HUB_OFFLINE"] = variable
