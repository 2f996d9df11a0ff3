"""The encoders there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmsearch.errors import UnknownModel

if TYPE_CHECKING:
    from mmsearch.types import Encoder

DEFAULT = "mini"
"""What `auto` stands for."""


def _mini() -> Encoder:
    from mmsearch.encoders.mini import load_mini

    return load_mini()


REGISTRY: dict[str, Callable[[], Encoder]] = {"mini": _mini}


def load_encoder(name: str = "auto") -> Encoder:
    """An encoder by name; "auto" is the built-in model.

    Raises:
        UnknownModel: there is none of this name; the message lists those there are.
        ModelDamaged: its files are missing or damaged.
    """
    wanted = DEFAULT if name == "auto" else name
    if wanted not in REGISTRY:
        known = ", ".join(sorted({"auto", *REGISTRY}))
        raise UnknownModel(f"no model is called {name!r}; there is: {known}")
    return REGISTRY[wanted]()
