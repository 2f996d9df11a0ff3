"""The encoders there are, by family: `mini`, `clip:…`, `clap:…`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from mmsearch.errors import InvalidOption
from mmsearch.types import Device, Precision, Runtime, RuntimeName

if TYPE_CHECKING:
    from mmsearch.types import Encoder

DEFAULT = "mini"
"""What `auto` stands for when nothing better is at hand."""


def _mini(name: str, how: Runtime) -> Encoder:
    from mmsearch.encoders.mini import load_mini

    del name, how
    return load_mini()


def _clip(name: str, how: Runtime) -> Encoder:
    from mmsearch.encoders.clip import load_clip

    return load_clip(name, how)


def _clap(name: str, how: Runtime) -> Encoder:
    from mmsearch.encoders.clap import load_clap

    return load_clap(name, how)


REGISTRY: dict[str, Callable[[str, Runtime], Encoder]] = {
    "mini": _mini,
    "clip": _clip,
    "clap": _clap,
}
"""By family, which is what stands before the first colon of a name: gets the whole name."""


def runtime_of(runtime: str = "auto", device: str = "auto", precision: str = "auto") -> Runtime:
    """What an encoder is to run on, checked.

    Raises:
        InvalidOption: one of them is not among what there is.
    """
    asked = {"runtime": runtime, "device": device, "precision": precision}
    for (what, value), allowed in zip(
        asked.items(), map(get_args, (RuntimeName, Device, Precision)), strict=True
    ):
        if value not in allowed:
            raise InvalidOption(f"the {what} is one of {', '.join(allowed)}, not {value!r}")
    return Runtime(**asked)  # type: ignore[arg-type]


def how_for(name: str, how: Runtime) -> Runtime:
    """What one of several models is to run on: only `clip:` models have a choice but of device."""
    return how if name.startswith("clip:") else Runtime(device=how.device)


def choose() -> tuple[str, str | None]:
    """What `auto` stands for in a new index, and what to tell its owner about it, if anything."""
    if DEFAULT != "mini":
        return DEFAULT, None
    from mmsearch.encoders.store import choose as best_at_hand

    choice = best_at_hand()
    return choice.name, choice.advice


def load_encoder(name: str = "auto", how: Runtime | None = None) -> Encoder:
    """An encoder by name; "auto" is the best that is at hand.

    Args:
        name: `mini`, `clip:ARCH/TAG`, `clip:ARCH@/path/to/checkpoint`, `clip:hf-hub:ORG/REPO`,
            `clap:REPO_OR_PATH`.
        how: What it is to run on; left out, it decides.

    Raises:
        UnknownModel: there is none of this name; the message lists those there are.
        ModelUnavailable: its weights are not on this machine and cannot be fetched.
        MissingExtra: it needs packages that are not installed.
        ModelDamaged: its files are missing or damaged.
    """
    wanted = choose()[0] if name == "auto" else name
    family = wanted.partition(":")[0]
    if family not in REGISTRY:
        from mmsearch.encoders.store import unknown

        raise unknown(name)
    return REGISTRY[family](wanted, how or Runtime())
