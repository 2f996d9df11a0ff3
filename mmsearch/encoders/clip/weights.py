"""Finds the weights of a `clip:` model on this machine, and downloads them.

Finding them takes neither torch nor a network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmsearch.encoders import hub
from mmsearch.encoders.clip import names
from mmsearch.encoders.clip.names import Source
from mmsearch.encoders.clip.towers import TowerCache, towers_folder
from mmsearch.encoders.model_files import read_json, sha256_of, short_hash, write_json
from mmsearch.errors import MissingExtra, MMSearchError, ModelUnavailable
from mmsearch.home import expanded
from mmsearch.types import Progress

CONFIG = "open_clip_config.json"
CHECKPOINTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""What a folder's checkpoint may be called; the order is open_clip's."""


def is_here(name: str) -> bool:
    """Whether a model can be used without a network: takes milliseconds, imports nothing heavy."""
    try:
        return find(names.parse(name)) is not None
    except MissingExtra:
        return cached_towers(name) is not None


def cached_towers(name: str) -> Path | None:
    """The folder of what was made of a model for ONNX Runtime, if anything was."""
    fingerprint = fingerprint_of(names.parse(name))
    towers = TowerCache(fingerprint) if fingerprint else None
    return towers.folder if towers is not None and towers.facts() is not None else None


def find(source: Source) -> Path | None:
    """The checkpoint of a model, if it is on this machine.

    Raises:
        MissingExtra: open_clip, which knows where a tag's weights are kept, is not installed.
    """
    if source.path is not None:
        return _checkpoint_at(source.path)
    if source.repository is not None:
        folder = hub.snapshot(source.repository)
        return hub.first_of(folder, *_candidates("")) if hub.first_of(folder, CONFIG) else None
    where = names.places(source)
    repository, _, file = where.get("hf_hub", "").rpartition("/")
    found = hub.first_of(hub.snapshot(repository), *_candidates(file)) if repository else None
    return found or in_url_cache(where.get("url", ""))


def in_url_cache(url: str) -> Path | None:
    """A checkpoint that open_clip has downloaded by its address."""
    if not url:
        return None
    found = Path(os.path.expanduser("~/.cache/clip")) / url.rpartition("/")[2]
    return found if found.is_file() else None


def unavailable(source: Source) -> ModelUnavailable:
    """The error for weights that are not on this machine, with what to do."""
    if source.path is None:
        return ModelUnavailable(
            f"the weights of {source.name} are not on this machine. "
            f"Fetch them: mmsearch models pull {source.name}"
        )
    if not source.path.exists():
        return ModelUnavailable(f"there is no file or folder {str(source.path)!r}")
    return ModelUnavailable(
        f"{source.path} holds no weights: a folder needs {CONFIG} and, say, {CHECKPOINTS[0]}"
    )


def _checkpoint_at(path: Path) -> Path | None:
    if path.is_file():
        return path
    others = [file for kind in ("safetensors", "bin", "pth") for file in path.glob(f"*.{kind}")]
    others.sort(key=lambda file: (file.suffix != ".safetensors", file))
    return hub.first_of(path, *CHECKPOINTS, *(file.name for file in others))


def _candidates(file: str) -> list[str]:
    """The files of a repository that open_clip looks for, in its order."""
    usual = "open_clip_pytorch_model.bin"
    file = file or usual
    candidates = ["open_clip_model.safetensors"] if file == usual else []
    if file.endswith((".bin", ".pth")):
        candidates.append(f"{file[:-4]}.safetensors")
    return [*candidates, file]


# ---------------------------------------------------------------------- fingerprints


def fingerprint_of(source: Source) -> str | None:
    """The hash of a model's weights and of their architecture; None if it is not known here.

    The weights are read once: their hash is kept with their size and time of change. What was made
    of a model is found by its name even after open_clip or the weights were removed.
    """
    record = towers_folder() / "names" / f"{short_hash(source.name)}.json"
    try:
        weights = find(source)
    except MissingExtra:
        weights = None
    if weights is None:
        found = read_json(record)
        return str(found["fingerprint"]) if found else None
    fingerprint = _fingerprint(source, weights)
    known = {"name": source.name, "fingerprint": fingerprint}
    if read_json(record) != known:
        write_json(record, known)
    return fingerprint


def _fingerprint(source: Source, weights: Path) -> str:
    """Sixteen hexadecimal digits that do not depend on where the files lie."""
    described = f"{source.arch}/{source.tag or ''}"
    if source.repository is not None or (source.path is not None and source.path.is_dir()):
        with suppress(OSError, ValueError):
            config = json.loads((weights.parent / CONFIG).read_text(encoding="utf-8"))
            described = json.dumps(config, sort_keys=True)
    return short_hash(f"{sha256_of(weights)}\n{described}")


# ---------------------------------------------------------------------- downloading


def fetch(source: Source, progress: Progress | None = None) -> Path:
    """The checkpoint, after downloading what the model needs into the caches that open_clip uses.

    Args:
        source: The model; of a path nothing is downloaded.
        progress: Called with the bytes downloaded so far and the bytes in all.

    Raises:
        MissingExtra: open_clip is not installed.
        ModelUnavailable: it could not be downloaded; the message says why.
    """
    found = find(source)
    if source.path is not None:
        if found is None:
            raise unavailable(source)
        return found
    try:
        if found is None:
            _download(source, progress)
        _fetch_tokenizer(source)
    except MMSearchError:
        raise
    except Exception as error:  # open_clip and the clients that it uses raise dozens of kinds
        raise ModelUnavailable(f"{source.name} could not be downloaded: {error}") from error
    found = find(source)
    if found is None:
        raise ModelUnavailable(f"{source.name} was downloaded, but its weights cannot be found")
    return found


def address_of(source: Source) -> str | None:
    """The site that a model is downloaded from; None for the hub."""
    where = names.places(source)
    return None if where.get("hf_hub") else where.get("url")


def _download(source: Source, progress: Progress | None) -> None:
    where = names.places(source)
    repository, _, file = where.get("hf_hub", "").rpartition("/")
    repository = source.repository or repository
    if not repository:
        from open_clip.pretrained import download_pretrained_from_url

        expanded("~", "give the path of a checkpoint, clip:ARCH@PATH")  # where open_clip stores it
        download_pretrained_from_url(where["url"])
        return

    def wanted(files: Sequence[str]) -> list[str]:
        weights = [name for name in _candidates(file) if name in files][:1]
        return [CONFIG, *weights] if source.repository and CONFIG in files else weights

    hub.fetch(repository, wanted, progress, extra="clip")


def _fetch_tokenizer(source: Source) -> None:
    """Let open_clip load what a text tower from transformers needs, so that it is kept."""
    from open_clip import get_tokenizer
    from open_clip.factory import get_model_config

    name = f"{names.HUB}{source.repository}" if source.repository else source.arch
    text = (get_model_config(name) or {}).get("text_cfg", {})
    if text.get("hf_tokenizer_name"):
        get_tokenizer(name)
    if text.get("hf_model_name"):
        from transformers import AutoConfig

        AutoConfig.from_pretrained(text["hf_model_name"])
