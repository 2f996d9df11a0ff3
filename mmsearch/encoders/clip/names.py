"""What a `clip:` name stands for: an architecture, and the place of its weights."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from mmsearch.errors import MissingExtra, UnknownModel

PREFIX = "clip:"
HUB = "hf-hub:"
FOLDER = "local-dir:"


@dataclass(frozen=True, slots=True)
class Source:
    """A `clip:` name, parsed. A tag, a path or a repository tells where the weights are."""

    arch: str
    """One of open_clip's architectures; empty where it is in the config beside the weights."""
    tag: str | None = None
    """open_clip's name for a set of weights of this architecture."""
    path: Path | None = None
    """A checkpoint, or a folder that holds one; absolute."""
    repository: str | None = None
    """ORG/NAME on the Hugging Face hub."""

    @property
    def name(self) -> str:
        """The name, with an absolute path."""
        if self.repository is not None:
            return f"{PREFIX}{HUB}{self.repository}"
        if self.path is not None:
            return f"{PREFIX}{self.arch}@{self.path}"
        return f"{PREFIX}{self.arch}/{self.tag}"


def parse(name: str) -> Source:
    """The source that a name stands for; whether it exists is not checked.

    Args:
        name: clip:ARCH/TAG, clip:ARCH@PATH or clip:hf-hub:ORG/NAME.

    Raises:
        UnknownModel: it has none of these forms; the message shows them.
    """
    rest = name.removeprefix(PREFIX)
    if rest.startswith(HUB):
        repository = rest.removeprefix(HUB)
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise UnknownModel(f"{name!r} names no repository; write clip:hf-hub:ORGANISATION/NAME")
        return Source("", repository=repository)
    if rest.startswith(FOLDER):
        rest = f"@{rest.removeprefix(FOLDER)}"
    arch, at, path = rest.partition("@")
    if at:
        if not path:
            raise UnknownModel(f"{name!r} names no file; write clip:ARCH@/path/to/checkpoint")
        return Source(arch, path=Path(os.path.expanduser(path)).absolute())
    arch, _, tag = rest.rpartition("/")
    if not arch or not tag:
        raise UnknownModel(_which_weights(rest.strip("/")))
    return Source(arch.replace("/", "-"), tag=tag)


def check(source: Source) -> None:
    """Return if open_clip knows the architecture and the tag.

    Raises:
        UnknownModel: it does not; the message lists what it knows.
        MissingExtra: open_clip is not installed.
    """
    if source.repository is not None or (source.path is not None and source.path.is_dir()):
        return
    if source.arch not in architectures():
        raise UnknownModel(_which_weights(source.arch))
    if source.tag is not None and not places(source):
        raise UnknownModel(f"{source.arch} has no weights called {source.tag!r}. {_tags(source)}")


def architectures() -> dict[str, Path]:
    """open_clip's architectures and the files that describe them, added ones included."""
    folders = [_open_clip() / "model_configs"]
    running = sys.modules.get("open_clip.factory")
    if running is not None:
        folders = list(running._MODEL_CONFIG_PATHS)  # noqa: SLF001 - there is no public list of files
    found = {}
    for folder in folders:
        for file in sorted(folder.glob("*.json")) if folder.is_dir() else [folder]:
            found[file.stem] = file
    return found


def tags(arch: str) -> list[str]:
    """open_clip's names of weights for an architecture."""
    return sorted(_table().get(arch, {}))


def places(source: Source) -> dict[str, str]:
    """Where a tag's weights are: "hf_hub" (ORG/NAME/FILE), "url" or both; {} if unknown."""
    if source.tag is None:
        return {}
    return _table().get(source.arch, {}).get(source.tag.lower().replace("-", "_"), {})


def _which_weights(arch: str) -> str:
    try:
        known = architectures()
    except MissingExtra:
        known = {}
    if arch in known:
        return f"which weights of {arch}? {_tags(Source(arch))}"
    near = get_close_matches(arch, known, 5, 0.5)
    hint = f" Do you mean {', '.join(near)}?" if near else ""
    return (
        f"open_clip has no model called {arch!r}.{hint} "
        "Write clip:ARCH/TAG, clip:ARCH@/path/to/checkpoint or clip:hf-hub:ORGANISATION/NAME"
    )


def _tags(source: Source) -> str:
    known = tags(source.arch)
    file = f"a file: clip:{source.arch}@/path/to/checkpoint"
    if not known:
        return f"open_clip offers none; name {file}"
    return f"Write clip:{source.arch}/TAG with one of {', '.join(known)}; or name {file}"


def _open_clip() -> Path:
    """The folder of open_clip's source: importing it would take seconds."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise MissingExtra("A clip model", "clip")
    return Path(spec.origin).parent


@cache
def _table() -> dict[str, dict[str, dict[str, str]]]:
    """Architecture → tag → places, read from open_clip's source without running it."""
    tree = ast.parse((_open_clip() / "pretrained.py").read_text(encoding="utf-8"))
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    table = {}
    for arch, value in _entries(assigned.get("_PRETRAINED")):
        listed = assigned.get(value.id) if isinstance(value, ast.Name) else value
        table[arch] = {tag: _words(call) for tag, call in _entries(listed)}
    for arch, listed_tags in list(table.items()):
        quick = {tag: where for tag, where in listed_tags.items() if "quick_gelu" in where}
        if quick:
            table[f"{arch}-quickgelu"] = table.get(f"{arch}-quickgelu", {}) | quick
    return table


def _entries(node: ast.expr | None) -> list[tuple[str, ast.expr]]:
    """The pairs of a `{...}` or a `dict(...)`."""
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return [(str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant)]
    if isinstance(node, ast.Call):
        return [(word.arg, word.value) for word in node.keywords if word.arg is not None]
    return []


def _words(call: ast.expr) -> dict[str, str]:
    """The string arguments of a call like `_pcfg(url, hf_hub=...)`, and `quick_gelu=True`."""
    found: dict[str, Any] = {
        key: value.value for key, value in _entries(call) if isinstance(value, ast.Constant)
    }
    if isinstance(call, ast.Call):
        given = [one.value for one in call.args if isinstance(one, ast.Constant)]
        found = dict(zip(("url", "hf_hub"), given, strict=False)) | found
    kept = {key: found[key] for key in ("url", "hf_hub") if found.get(key)}
    return kept | ({"quick_gelu": "yes"} if found.get("quick_gelu") is True else {})
