"""Where the weights of a `clip:` model lie on this machine, told without torch or a network."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mmsearch.encoders import clip_names
from mmsearch.encoders.clip_cache import Towers, read_json, towers_folder, write_json
from mmsearch.encoders.clip_names import Source
from mmsearch.errors import MissingExtra, ModelUnavailable

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
Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) from time to time."""


def is_here(name: str) -> bool:
    """Whether a model can be used without a network: takes milliseconds, imports nothing heavy."""
    source = clip_names.parse(name)
    try:
        return find(source) is not None
    except MissingExtra:
        return cached_towers(name) is not None


def cached_towers(name: str) -> Path | None:
    """The folder of what was made of a model for ONNX Runtime, if anything was."""
    fingerprint = fingerprint_of(clip_names.parse(name))
    towers = Towers(fingerprint) if fingerprint else None
    return towers.folder if towers is not None and towers.facts() is not None else None


def find(source: Source) -> Path | None:
    """The checkpoint of a model, if it is on this machine.

    Raises:
        MissingExtra: open_clip, which knows where a tag's weights are kept, is not installed.
    """
    if source.path is not None:
        return _checkpoint_at(source.path)
    if source.repository is not None:
        config = _in_hub_cache(source.repository, CONFIG)
        return _weights_in_hub_cache(f"{source.repository}/") if config else None
    where = clip_names.places(source.arch, source.tag or "") or {}
    return _weights_in_hub_cache(where.get("hf_hub", "")) or in_url_cache(where.get("url", ""))


def fingerprint_of(source: Source) -> str | None:
    """The hash of a model's weights and of what they are weights of; None if it is not known here.

    The weights are read once: their hash is kept beside their size and time of change. Once made,
    towers are known by name even where open_clip or the weights have gone since.
    """
    record = towers_folder() / "names" / f"{_short_hash(source.name)}.json"
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


def unavailable(source: Source) -> ModelUnavailable:
    """The error for weights that are not on this machine, with what to do."""
    if source.path is None:
        return ModelUnavailable(
            f"the weights of {source.name} are not on this machine. "
            f"Fetch them: mmsearch models pull {source.name}"
        )
    if not source.path.exists():
        return ModelUnavailable(f"there is no file {source.path}")
    return ModelUnavailable(
        f"{source.path} holds no weights: a folder needs {CONFIG} and, say, {CHECKPOINTS[0]}"
    )


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Download what a model needs into the caches that open_clip uses; the checkpoint's path.

    Args:
        name: A `clip:` name; of a path nothing is downloaded.
        progress: Told (bytes done, bytes in all) from time to time.

    Raises:
        UnknownModel: there is no such model.
        MissingExtra: open_clip is not installed.
        ModelUnavailable: it could not be downloaded; the message says why.
    """
    from mmsearch.encoders.clip_fetch import fetch_source

    return fetch_source(clip_names.parse(name), progress)


# ---------------------------------------------------------------------- files


def _checkpoint_at(path: Path) -> Path | None:
    if path.is_file():
        return path
    found = next((path / name for name in CHECKPOINTS if (path / name).is_file()), None)
    if found is None and path.is_dir():
        others = sorted(
            one for kind in ("safetensors", "bin", "pth") for one in path.glob(f"*.{kind}")
        )
        others.sort(key=lambda one: one.suffix != ".safetensors")
        found = next(iter(others), None)
    return found


def _in_hub_cache(repository: str, file: str) -> Path | None:
    """A file of a repository in the hub's cache, whose layout its own client imports slowly for."""
    if "HF_HUB_CACHE" in os.environ:
        root = Path(os.environ["HF_HUB_CACHE"])
    elif "HUGGINGFACE_HUB_CACHE" in os.environ:
        root = Path(os.environ["HUGGINGFACE_HUB_CACHE"])
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        root = Path(os.environ.get("HF_HOME") or f"{caches}/huggingface") / "hub"
    folder = root.expanduser() / f"models--{repository.replace('/', '--')}"
    with suppress(OSError):
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        found = folder / "snapshots" / revision / file
        return found if found.is_file() else None
    return None


def _weights_in_hub_cache(place: str) -> Path | None:
    """The checkpoint of ORG/NAME/FILE, or of ORG/NAME/ with one of the usual names."""
    repository, _, file = place.rpartition("/")
    found = [_in_hub_cache(repository, name) for name in candidates(file)]
    return next(filter(None, found), None)


def candidates(file: str) -> list[str]:
    """The files of a repository that open_clip asks for, in its order."""
    usual = "open_clip_pytorch_model.bin"
    file = file or usual
    names = ["open_clip_model.safetensors"] if file == usual else []
    if file.endswith((".bin", ".pth")):
        names.append(f"{file[:-4]}.safetensors")
    return [*names, file]


def in_url_cache(url: str) -> Path | None:
    """A checkpoint that open_clip has downloaded by its address."""
    if not url:
        return None
    found = Path("~/.cache/clip").expanduser() / url.rpartition("/")[2]
    return found if found.is_file() else None


# ---------------------------------------------------------------------- fingerprints


def _fingerprint(source: Source, weights: Path) -> str:
    """Sixteen hexadecimal digits that do not depend on where the files lie."""
    described = f"{source.arch}/{source.tag or ''}"
    config = weights.parent / CONFIG
    if source.repository is not None or (source.path is not None and source.path.is_dir()):
        described = _canonical(config) or described
    return _short_hash(f"{_hash_of(weights)}\n{described}")


def _canonical(config: Path) -> str | None:
    with suppress(OSError, ValueError):
        return json.dumps(json.loads(config.read_text(encoding="utf-8")), sort_keys=True)
    return None


def _hash_of(weights: Path) -> str:
    """The SHA-256 of a file, read again only when its size or time of change is another."""
    real = weights.resolve()
    stat = real.stat()
    stamp = {"path": str(real), "size": stat.st_size, "modified": stat.st_mtime_ns}
    record = towers_folder() / "hashes" / f"{_short_hash(str(real))}.json"
    known = read_json(record)
    if known is not None and {key: known.get(key) for key in stamp} == stamp:
        return str(known["sha256"])
    with real.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(record, stamp | {"sha256": sha256})
    return sha256


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
