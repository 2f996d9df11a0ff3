"""`clip:…`, any model of open_clip: photos and texts, on ONNX Runtime or torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.encoders.family import Family, KnownModel, ModelRow
from mmsearch.errors import MissingExtra, NoHomeFolder
from mmsearch.home import cache_folder

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder, Runtime
    from mmsearch.types import Progress

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""As open_clip's repositories name them."""

SMALL = "clip:ViT-B-32/laion2b_s34b_b79k"
"""The first to try: small, quick on any processor, free to use, in one repository."""


class Clip(Family):
    """`clip:ARCH/TAG`, `clip:ARCH@PATH` and `clip:hf-hub:ORG/NAME`."""

    forms = ("clip:ARCH/TAG", "clip:ARCH@FILE", "clip:hf-hub:ORG/NAME")
    has_runtimes = True
    companion = "mini"

    def load(self, name: str, how: Runtime) -> Encoder:
        """The encoder; each tower is read at its first use."""
        from mmsearch.encoders.clip.encoder import load_clip

        return load_clip(name, how)

    def is_here(self, name: str) -> bool:
        """Whether its weights are, or the graphs that were made of them if open_clip is not.

        Raises:
            UnknownModel: the name does not say which weights.
        """
        from mmsearch.encoders.clip import weights

        model = self._known(name)
        if model is not None:
            return _is_whole(model) or _has_graphs(model)
        return weights.is_here(name)

    def pull(self, name: str, progress: Progress | None) -> Path:
        """The checkpoint's path, in the caches that open_clip uses."""
        from mmsearch.encoders import hub
        from mmsearch.encoders.clip import names, weights

        is_here, model = self.is_here(name), self._known(name)
        if is_here and model is not None and (path := _checkpoint(model)):
            return path
        if find_spec("open_clip") is None:
            raise MissingExtra(f"the model {name!r}", "clip")
        source = names.parse(name)
        if not is_here and source.path is None:
            names.check(source)
            hub.check_reachable(name, weights.address_of(source))
        return weights.fetch(source, progress)

    def absolute(self, name: str) -> str:
        """With the whole path of a checkpoint."""
        from mmsearch.encoders.clip import names

        return names.parse(name).name

    def recognise(self, repository: str, folder: Path) -> ModelRow | None:
        """Weights and a configuration as open_clip saves them."""
        from mmsearch.encoders import hub

        weights = hub.first_of(folder, *WEIGHTS)
        if weights is None or hub.first_of(folder, "open_clip_config.json") is None:
            return None
        name, megabytes = f"clip:hf-hub:{repository}", round(weights.stat().st_size / 1e6)
        return ModelRow(name, "here", megabytes, None, "in the Hugging Face cache")

    def best_here(self) -> str | None:
        """The first recommended one that is here, as are the packages that run it."""
        missing = {name for name in ("torch", "open_clip", "transformers") if not find_spec(name)}
        for model in self.recommended():
            needed = {"torch", "open_clip"} | ({"transformers"} if model.reads else set())
            if _has_graphs(model) if needed & missing else _is_whole(model):
                return model.name
        return None

    def _known(self, name: str) -> KnownModel | None:
        return next((model for model in self.recommended() if model.name == name), None)


def advice() -> str:
    """What to tell somebody whose index uses `mini` only because nothing better is here."""
    pull = f"mmsearch models pull {SMALL}"
    if find_spec("open_clip") is None or find_spec("torch") is None:
        pull = f"pip install 'mmsearch[clip]', then {pull}"
    return f"the small built-in model is used; a larger one finds far more: {pull}"


def _is_whole(model: KnownModel) -> bool:
    """Whether a model's weights, and the tokenizer that it reads, are in the hub's cache."""
    from mmsearch.encoders import hub

    if _checkpoint(model) is None:
        return False
    reads = model.reads
    return reads is None or hub.first_of(hub.snapshot(reads), "tokenizer.json") is not None


def _checkpoint(model: KnownModel) -> Path | None:
    from mmsearch.encoders import hub

    return hub.first_of(hub.snapshot(model.repository), *WEIGHTS)


def _has_graphs(model: KnownModel) -> bool:
    """Whether both towers are ready for ONNX Runtime and replace an open_clip that is missing."""
    try:
        towers = cache_folder() / "towers"
    except NoHomeFolder:
        return False
    if find_spec("open_clip") is not None or not towers.is_dir():
        return False
    from mmsearch.encoders.clip import weights

    folder = weights.cached_towers(model.name)
    return folder is not None and all(
        any(folder.glob(f"{tower}-*/graph.onnx")) for tower in ("image", "text")
    )
