"""Where a CLAP model's files lie, and the hash that tells its vectors from other models'."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsearch.encoders import hub
from mmsearch.encoders.model_files import sha256_of
from mmsearch.errors import ModelDamaged, ModelUnavailable, UnknownModel

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""As transformers names them; the first that is there is read."""
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
VOCABULARY = ("tokenizer.json", "vocab.json")
SMALL = re.compile(
    r"config\.json|p\w+_config\.json|tokenizer.*\.json|vocab\.json|merges\.txt"
    r"|special_tokens_map\.json|added_tokens\.json"
)
"""The files beside the weights."""


@dataclass(frozen=True, slots=True)
class ClapFiles:
    """A CLAP model on this machine."""

    name: str
    """What `--model` takes, with the whole path of a folder."""
    folder: Path
    weights: Path
    config: dict[str, Any]
    preprocessing: dict[str, Any]

    def fingerprint(self) -> str:
        """Hash of everything that a vector depends on: weights, configuration, vocabulary."""
        together = hashlib.sha256(sha256_of(self.weights).encode())
        for name in ("config.json", *PREPROCESSING, *VOCABULARY, "merges.txt"):
            with suppress(FileNotFoundError):
                together.update(f"\n{name}\n".encode() + (self.folder / name).read_bytes())
        return together.hexdigest()[:16]


def find(name: str) -> ClapFiles:
    """The files of `clap:REPOSITORY_OR_FOLDER`; nothing is downloaded.

    Raises:
        ModelUnavailable: they are not on this machine, or not all of them.
        UnknownModel: it is another kind of model, or not the name of one.
        ModelDamaged: one of the small files cannot be read.
    """
    what = name.partition(":")[2]
    folder = folder_of(what)
    if folder is None:
        raise _unavailable(name, what)
    is_own = os.path.isdir(os.path.expanduser(what))
    missing = missing_from(folder)
    if missing and is_own:
        raise ModelUnavailable(f"{folder} is no whole CLAP model: it has no {missing}")
    if missing:
        raise _unavailable(name, what)
    weights = hub.first_of(folder, *WEIGHTS)
    preprocessing = hub.first_of(folder, *PREPROCESSING)
    assert weights is not None
    assert preprocessing is not None
    config = _read(folder / "config.json")
    if config.get("model_type") != "clap":
        raise UnknownModel(f"{folder} holds no CLAP model but {config.get('model_type')!r}")
    found = _read(preprocessing)
    return ClapFiles(
        name=f"clap:{folder}" if is_own else name,
        folder=folder,
        weights=weights,
        config=config,
        preprocessing=found.get("feature_extractor", found),  # nested in processor_config.json
    )


def folder_of(what: str) -> Path | None:
    """The folder that a name says after its colon, or a repository's in the hub's cache."""
    own = Path(os.path.expanduser(what))
    if what and own.is_dir():
        return Path(os.path.abspath(own))
    return hub.snapshot(what) if hub.REPOSITORY.fullmatch(what) else None


def missing_from(folder: Path) -> str | None:
    """The first file that a CLAP model needs and this folder lacks."""
    for names in (("config.json",), WEIGHTS, PREPROCESSING, VOCABULARY):
        if hub.first_of(folder, *names) is None:
            return " or ".join(names)
    return None


def wanted(names: Sequence[str]) -> list[str]:
    """Which of a repository's files are needed: the small ones, then one form of the weights."""
    weights = next((name for name in WEIGHTS if name in names), None)
    return [name for name in names if SMALL.fullmatch(name)] + ([weights] if weights else [])


def _unavailable(name: str, what: str) -> ModelUnavailable | UnknownModel:
    if hub.REPOSITORY.fullmatch(what):
        return ModelUnavailable(
            f"{name} is not on this machine; fetch it with: mmsearch models pull {name}"
        )
    if what:
        return ModelUnavailable(f"there is no folder {what!r}, and no repository has that name")
    return UnknownModel("say which CLAP model: clap:laion/clap-htsat-unfused, or clap:FOLDER")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelDamaged(f"{path} cannot be read; fetch or copy the model again") from error
    if not isinstance(found, dict):
        raise ModelDamaged(f"{path} is not a JSON object; fetch or copy the model again")
    return found
