"""Models by name: loading one, which of them `auto` is, listing and fetching them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.encoders import Runtime
from mmsearch.encoders.clap import Clap
from mmsearch.encoders.clip import Clip, advice
from mmsearch.encoders.mini import MINI
from mmsearch.encoders.model_settings import store, stored, unusable
from mmsearch.encoders.st import SentenceTransformers
from mmsearch.errors import ModelUnavailable, UnknownModel

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder
    from mmsearch.encoders.family import Family, KnownModel, ModelRow
    from mmsearch.types import Progress

REGISTRY: dict[str, Family] = {
    "mini": MINI,
    "clip": Clip(),
    "clap": Clap(),
    "st": SentenceTransformers(),
}
"""The families, by what stands before the first colon of a name."""

KEY = "model"
"""What the default model is called in settings.json."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What `--model auto` stands for."""

    name: str
    advice: str | None
    """One line on a better model, if there is one to be had."""


def load_encoder(name: str = "auto", how: Runtime | None = None, *, strict: bool = True) -> Encoder:
    """An encoder by name; "auto" is the best that is here.

    Args:
        name: `mini`, `clip:ARCH/TAG`, `clip:ARCH@/path/to/checkpoint`, `clip:hf-hub:ORG/REPO`,
            `clap:REPO_OR_PATH`.
        how: What it is to run on.
        strict: Refuse a runtime or precision that the model does not have; else it is ignored, as
            where `how` is meant for several models.

    Raises:
        UnknownModel: there is none of this name; the message lists those there are.
        ModelUnavailable: its weights are not on this machine.
        MissingExtra: it needs packages that are not installed.
        InvalidOption: it cannot run this way here.
        ModelDamaged: its files are missing or damaged.
    """
    if name == "auto":
        name = choose().name
    family, how = family_of(name), how or Runtime()
    if not (strict or family.has_runtimes):
        how = Runtime(device=how.device)
    return family.load(name, how)


def family_of(name: str) -> Family:
    """The family that a model's name belongs to.

    Raises:
        UnknownModel: it belongs to none.
    """
    if not isinstance(name, str):
        raise UnknownModel(f"a model is named by a string, not {name!r}")
    family = REGISTRY.get(name.partition(":")[0])
    if family is None:
        raise unknown(name)
    return family


def recommended() -> list[KnownModel]:
    """The recommended models of all families."""
    return [model for family in REGISTRY.values() for model in family.recommended()]


def check_name(name: str) -> None:
    """Return if this can be a model's name.

    Raises:
        UnknownModel: it cannot; the message names similar ones.
    """
    if not family_of(name).accepts(name):
        raise unknown(name)


def unknown(name: str) -> UnknownModel:
    """The error for a name that no model has, with similar names, or the forms of names."""
    from mmsearch.encoders.family import similar_names
    from mmsearch.encoders.tuned import base_name

    if base := base_name(name):
        return UnknownModel(
            f"{name!r} is {base!r} as it was tuned for one index, and is known there alone; the "
            f"model to name is {base!r}"
        )
    near = similar_names(name, ["mini", *(model.name for model in recommended())])
    if near:
        return UnknownModel(f"no model is called {name!r}; did you mean {' or '.join(near)}?")
    *forms, last = (form for family in REGISTRY.values() for form in family.forms)
    return UnknownModel(
        f"no model is called {name!r}; there are {', '.join(forms)} and {last}, "
        "and `mmsearch models` lists good ones"
    )


# ---------------------------------------------------------------------- auto


def choose() -> Choice:
    """What `auto` stands for: the default that was set, else the best that is here, else `mini`.

    Takes milliseconds and imports none of the packages that models need.

    Raises:
        InvalidOption: the settings cannot be read.
    """
    if chosen := default():
        return Choice(chosen, None)
    for family in REGISTRY.values():
        if best := family.best_here():
            return Choice(best, None)
    return Choice("mini", advice())


def default() -> str | None:
    """The model that was set as the default, if one was.

    Raises:
        InvalidOption: the settings cannot be read; the message says what to do.
    """
    chosen = stored().get(KEY)
    if chosen is None or (isinstance(chosen, str) and chosen.partition(":")[0] in REGISTRY):
        return chosen
    raise unusable(f"its {KEY!r} is {chosen!r}")


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
        name = family_of(name).absolute(name)
        if not is_here(name):
            raise ModelUnavailable(
                f"{name} is not on this machine; fetch it with: mmsearch models pull {name}"
            )
    store(KEY, None if name == "auto" else name)


# ---------------------------------------------------------------------- listing and fetching


def is_here(name: str) -> bool:
    """Whether a model can be used without a network; a name of no family's cannot.

    Raises:
        UnknownModel: it names a clip model, but not which.
    """
    family = REGISTRY.get(name.partition(":")[0])
    return family is not None and family.is_here(name)


def listing() -> list[ModelRow]:
    """Every model that can be used: built in, on this machine, or recommended for download.

    Raises:
        InvalidOption: the settings cannot be read.
    """
    from mmsearch.encoders import hub

    chosen = choose().name
    rows = [row for family in REGISTRY.values() for row in family.rows()]
    listed = {model.repository for model in recommended()}
    for repository, folder in hub.repositories():
        if repository not in listed:
            found = (family.recognise(repository, folder) for family in REGISTRY.values())
            rows += [row for row in found if row is not None][:1]
    if chosen not in {row.name for row in rows}:
        from mmsearch.encoders.family import ModelRow

        rows.append(ModelRow(chosen, "here", None, None, "set as the default"))
    return [replace(row, is_default=row.name == chosen) for row in rows]


def pull(name: str, progress: Progress | None = None) -> Path:
    """Where a model lies on this machine, after downloading what of it was missing.

    What an interrupted run downloaded is not downloaded again.

    Args:
        name: What `--model` takes.
        progress: Called with the bytes downloaded so far and the bytes in all, where known.

    Raises:
        UnknownModel: no model has this name; the message names similar ones.
        ModelUnavailable: the hub is out of reach, or the download broke off.
        MissingExtra: the packages that fetch it are not installed.
    """
    check_name(name)
    return family_of(name).pull(name, progress)
