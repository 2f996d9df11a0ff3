"""Where the files of a sentence-transformers model lie, and the hash that tells its vectors from
those of other models.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmsearch.encoders import hub
from mmsearch.encoders.model_files import read_json, sha256_of
from mmsearch.errors import UnknownModel

MODULES = "modules.json"
_CONFIGS = (MODULES, "config.json")
_OTHER_FORMATS = {"onnx", "openvino"}
_SMALL = {".json", ".txt", ".model", ".jinja"}
_CODE = ".py"
_REVISION = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*")
_DIM = re.compile(r"[1-9]\d{0,4}")
_OWN_MODULES = "sentence_transformers."


@dataclass(frozen=True, slots=True)
class Source:
    """What a name says.

    Attributes:
        folder: Of the model's files; None if none of them is on this machine.
        repository: On the hub; None for a folder of the user's.
        revision: Of the repository.
        dim: How many numbers of a vector are kept; None keeps all.
    """

    folder: Path | None
    repository: str | None
    revision: str = "main"
    dim: int | None = None

    @property
    def name(self) -> str:
        """What `--model` takes, the same from every folder."""
        at = "" if self.revision == "main" else f"@{self.revision}"
        cut = "" if self.dim is None else f"#{self.dim}"
        return f"st:{self.repository or self.folder}{at}{cut}"


def parse(name: str) -> Source:
    """What a name says: st:ORG/NAME, st:ORG/NAME@REVISION or st:FOLDER, each with #DIM or not.

    Raises:
        UnknownModel: it is not such a name.
    """
    what, _, cut = name.partition(":")[2].partition("#")
    if cut and not _DIM.fullmatch(cut):
        raise UnknownModel(f"{cut!r} in {name!r} is no number of dimensions, such as #256")
    dim = int(cut) if cut else None
    own = os.path.expanduser(what)
    if what and os.path.isdir(own):
        return Source(Path(os.path.abspath(own)), None, dim=dim)
    repository, _, revision = what.partition("@")
    revision = revision or "main"
    if not hub.REPOSITORY.fullmatch(repository) or not _REVISION.fullmatch(revision):
        raise UnknownModel(
            f"{name!r} names no model: say st:ORG/NAME, st:ORG/NAME@REVISION or st:FOLDER"
        )
    return Source(hub.snapshot(repository, revision), repository, revision, dim)


def missing_from(folder: Path) -> str | None:
    """What a model needs and this folder lacks."""
    if hub.first_of(folder, *_CONFIGS) is None:
        return " or ".join(_CONFIGS)
    return None if weights_in(folder) else "weights"


def weights_in(folder: Path) -> list[Path]:
    """The files of the weights."""
    return [path for path in _files(folder) if path.suffix not in {*_SMALL, _CODE}]


def wanted(names: Sequence[str]) -> list[str]:
    """Which of a repository's files are needed: of the weights one form alone."""
    safe = any(name.endswith(".safetensors") for name in names)
    weights = ".safetensors" if safe else ".bin"
    return [
        name
        for name in names
        if PurePosixPath(name).suffix in {*_SMALL, _CODE, weights}
        and not _OTHER_FORMATS & set(PurePosixPath(name).parts)
        and PurePosixPath(name).name != "training_args.bin"
    ]


VECTORS = 1
"""Part of the fingerprint: to be raised when the encoder gives the same model other vectors."""


def fingerprint(folder: Path, dim: int | None) -> str:
    """Hash of everything that a vector depends on: the files, and how many numbers are kept."""
    together = hashlib.sha256(f"{VECTORS} {dim}".encode())
    for path in _files(folder):
        together.update(f"\n{path.relative_to(folder).as_posix()} {sha256_of(path)}".encode())
    return together.hexdigest()[:16]


def runs_code(folder: Path) -> bool:
    """Whether a model brings Python code of its own."""
    for path in _files(folder):
        if path.suffix != ".json":
            continue
        config = read_json(path) or {}
        if "auto_map" in config:
            return True
        types = [str(one) for one in (config.get("types") or {}).values()]
        if path.name == "router_config.json" and not _are_known(types):
            return True
    modules = folder / MODULES
    types = re.findall(r'"type"\s*:\s*"([^"]*)"', modules.read_text()) if modules.is_file() else []
    return not _are_known(types)


def _are_known(types: Sequence[str]) -> bool:
    return all(one.startswith(_OWN_MODULES) for one in types)


def _files(folder: Path) -> list[Path]:
    """The files that are read, in order; links into the hub's cache may be broken."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    chosen = set(wanted(names))
    return [path for path, name in zip(paths, names, strict=True) if name in chosen]
