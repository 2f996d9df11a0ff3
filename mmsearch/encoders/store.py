"""Which models there are on this machine, which of them `auto` is, and where more come from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mmsearch.encoders import hub, settings
from mmsearch.encoders.known import BY_NAME, RECOMMENDED, SMALL, KnownModel, Recall
from mmsearch.errors import InvalidOption, ModelUnavailable, UnknownModel
from mmsearch.home import cache_folder

State = Literal["built in", "here", "downloadable"]

FAMILIES = ("mini", "clip", "clap")
CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""As open_clip's repositories have them."""
KEY = "model"
"""What the default is called in the settings."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What `--model auto` stands for."""

    name: str
    advice: str | None
    """One line on what would be better, where something would."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of `mmsearch models`."""

    name: str
    state: State
    megabytes: int | None
    """Of the weights, 10^6 bytes."""
    licence: str | None
    about: str
    recall: Mapping[str, Recall] = field(default_factory=dict)
    is_default: bool = False
    """Whether `auto` stands for it just now."""


def choose() -> Choice:
    """What `auto` stands for: the default that was set, else the best that is here, else `mini`.

    Takes milliseconds and imports none of the packages that models need.

    Raises:
        InvalidOption: the settings cannot be read.
    """
    if chosen := default():
        return Choice(chosen, None)
    for model in RECOMMENDED:
        if model.family == "clip" and _works_here(model):
            return Choice(model.name, None)
    return Choice("mini", _advice())


def default() -> str | None:
    """The model that was set as the default, if one was.

    Raises:
        InvalidOption: the settings cannot be read; the message says what to do.
    """
    chosen = settings.read().get(KEY)
    if chosen is None or (isinstance(chosen, str) and chosen.partition(":")[0] in FAMILIES):
        return chosen
    raise settings.damaged(f"its {KEY!r} is {chosen!r}")


def set_default(name: str) -> None:
    """Let `auto` stand for this model from now on; "auto" takes that back.

    Settings that cannot be read are written anew.

    Raises:
        UnknownModel: no model has this name.
        ModelUnavailable: its weights are not on this machine.
        InvalidOption: the settings cannot be written.
    """
    if name != "auto":
        check_name(name)
        name = _lasting(name)
        if not is_here(name):
            raise ModelUnavailable(
                f"{name} is not on this machine; fetch it with: mmsearch models pull {name}"
            )
    try:
        kept = settings.read()
    except InvalidOption:
        kept = {}
    kept.pop(KEY, None)
    settings.write(kept if name == "auto" else {**kept, KEY: name})


def listing() -> list[ModelRow]:
    """Every model that can be used: built in, on this machine, or recommended and to be fetched.

    Raises:
        InvalidOption: the settings cannot be read.
    """
    chosen = choose().name
    rows = [_mini(), *(_row(model) for model in RECOMMENDED)]
    listed = {row.name for row in rows}
    rows += [row for row in _others() if row.name not in listed]
    listed |= {row.name for row in rows}
    if chosen not in listed:
        rows.append(ModelRow(chosen, "here", None, None, "set as the default"))
    return [
        ModelRow(r.name, r.state, r.megabytes, r.licence, r.about, r.recall, r.name == chosen)
        for r in rows
    ]


def is_here(name: str) -> bool:
    """Whether a model's files are on this machine; a name of no family's is not.

    Raises:
        UnknownModel: it names a clip model, but not which.
    """
    if name in BY_NAME:
        return _is_fetched(BY_NAME[name]) or _was_exported(BY_NAME[name])
    family, _, what = name.partition(":")
    if family == "clip":
        from mmsearch.encoders import clip_weights

        return clip_weights.is_here(name)
    if family == "clap":
        from mmsearch.encoders import clap_weights

        folder = clap_weights.folder_of(what)
        return folder is not None and clap_weights.missing_from(folder) is None
    return name == "mini"


def check_name(name: str) -> None:
    """Return if this can be a model's name.

    Raises:
        UnknownModel: it cannot; the message has names that are like it.
    """
    family, colon, what = name.partition(":")
    if family not in FAMILIES or (family == "mini") == bool(colon) or bool(colon) != bool(what):
        raise unknown(name)


def unknown(name: str) -> UnknownModel:
    """The error for a name that no model has, with the recommended ones that are most like it."""
    from difflib import get_close_matches

    names = {known.casefold(): known for known in ("mini", *BY_NAME)}
    asked = name.casefold()
    near = get_close_matches(asked, names, n=3, cutoff=0.7)
    near = near or [known for known in names if asked in known][:3]
    if near:
        return UnknownModel(
            f"no model is called {name!r}; did you mean {' or '.join(names[n] for n in near)}?"
        )
    return UnknownModel(
        f"no model is called {name!r}; there are mini, clip:ARCH/TAG, clip:ARCH@FILE, "
        "clip:hf-hub:ORG/NAME and clap:ORG/NAME, and `mmsearch models` lists good ones"
    )


def _lasting(name: str) -> str:
    """The name as it means the same from every folder."""
    family, _, what = name.partition(":")
    if family == "clip":
        from mmsearch.encoders import clip_names

        return clip_names.parse(name).name
    if family == "clap" and Path(what).expanduser().is_dir():
        return f"clap:{os.path.abspath(os.path.expanduser(what))}"
    return name


# ---------------------------------------------------------------------- what is here


def _is_fetched(model: KnownModel) -> bool:
    if model.family == "clap":
        from mmsearch.encoders import clap_weights

        folder = hub.snapshot(model.repository)
        return folder is not None and clap_weights.missing_from(folder) is None
    if clip_weights_of(model) is None:
        return False
    return model.reads is None or _has_tokenizer(model.reads)


def clip_weights_of(model: KnownModel) -> Path | None:
    """A recommended clip model's checkpoint, where it is on this machine."""
    return hub.first_of(hub.snapshot(model.repository), *CLIP_WEIGHTS)


def _has_tokenizer(repository: str) -> bool:
    """Whether a repository's tokenizer is on this machine."""
    return hub.first_of(hub.snapshot(repository), "tokenizer.json") is not None


def _works_here(model: KnownModel) -> bool:
    """Whether a clip model is here and so is what runs it."""
    needed = ["torch", "open_clip"] + (["transformers"] if model.reads else [])
    if all(find_spec(package) is not None for package in needed):
        return _is_fetched(model)
    return _was_exported(model)


def _was_exported(model: KnownModel) -> bool:
    """Whether both towers lie ready for ONNX Runtime and stand in for a missing open_clip."""
    if model.family != "clip" or find_spec("open_clip") is not None:
        return False
    if not (cache_folder() / "towers").is_dir():
        return False
    from mmsearch.encoders import clip_weights

    folder = clip_weights.cached_towers(model.name)
    return folder is not None and all(
        any(folder.glob(f"{tower}-*/graph.onnx")) for tower in ("image", "text")
    )


def _advice() -> str:
    pull = f"mmsearch models pull {SMALL}"
    if find_spec("open_clip") is None or find_spec("torch") is None:
        pull = f"pip install 'mmsearch[clip]', then {pull}"
    return f"the small built-in model is used; a larger one finds far more: {pull}"


def _mini() -> ModelRow:
    from mmsearch.encoders.mini import FOLDER

    size = sum(path.stat().st_size for path in FOLDER.iterdir()) if FOLDER.is_dir() else 0
    about = "small and quick; needs nothing else"
    return ModelRow("mini", "built in", round(size / 1e6), "apache-2.0", about)


def _row(model: KnownModel) -> ModelRow:
    state: State = "here" if is_here(model.name) else "downloadable"
    return ModelRow(model.name, state, model.megabytes, model.licence, model.about, model.recall)


def _others() -> list[ModelRow]:
    """What else is in the hub's cache and plainly a model of one of our families."""
    from mmsearch.encoders import clap_weights

    known = {model.repository for model in RECOMMENDED}
    rows = []
    for repository, folder in hub.repositories():
        if repository in known:
            continue
        weights = hub.first_of(folder, *CLIP_WEIGHTS)
        name = f"clip:hf-hub:{repository}"
        if weights is None or hub.first_of(folder, "open_clip_config.json") is None:
            if clap_weights.missing_from(folder) or not _says_clap(folder / "config.json"):
                continue
            weights = hub.first_of(folder, *clap_weights.WEIGHTS)
            name = f"clap:{repository}"
        assert weights is not None
        size = round(weights.stat().st_size / 1e6)
        rows.append(ModelRow(name, "here", size, None, "in the Hugging Face cache"))
    return rows


def _says_clap(config: Path) -> bool:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "clap"
