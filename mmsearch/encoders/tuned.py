"""A model with residual heads above its vectors, tuned on a user's own pairs: `tuned:NAME`.

    x → normalise(x + (x · down) · up + bias)

There is a head for each modality, so stored vectors can be projected, and nothing is encoded again.
The heads belong to one index, which keeps them in the query bank of the tuned model's space
(`mmsearch.encoders.query_bank`); `mmsearch.training.tune` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.model_files import short_hash
from mmsearch.encoders.projected import ProjectedEncoder, unit_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import Encoder
    from mmsearch.types import Modality, Vectors

PREFIX = "tuned:"
"""What the names of tuned models begin with."""

Heads = Mapping["Modality", "Head"]
"""By modality; vectors of a modality without a head are left unchanged."""


@dataclass(frozen=True, eq=False)
class Head:
    """A residual map of a space's vectors of one modality."""

    down: NDArray[np.float32]
    """(dim, rank)"""
    up: NDArray[np.float32]
    """(rank, dim)"""
    bias: NDArray[np.float32]
    """(dim,)"""

    def __call__(self, rows: Vectors) -> Vectors:
        """Unit rows (n, dim) of unit rows (n, dim)."""
        return unit_rows(rows + (rows @ self.down) @ self.up + self.bias)


def tuned_name(name: str) -> str:
    """The name of a model once it is tuned."""
    return PREFIX + name


def base_name(name: str) -> str | None:
    """The name of the base of a tuned model; None if the name is not that of a tuned model."""
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def head_arrays(heads: Heads) -> dict[str, NDArray[np.float32]]:
    """The weights by name, as they are stored in the file of a query bank."""
    return {
        " ".join(("head", modality, field.name)): getattr(head, field.name)
        for modality, head in sorted(heads.items())
        for field in fields(Head)
    }


def heads_of(arrays: Mapping[str, NDArray[np.float32]]) -> Heads:
    """The heads whose weights `head_arrays` returned; other arrays are ignored."""
    found: dict[Any, dict[str, NDArray[np.float32]]] = {}
    for key, array in arrays.items():
        if key.startswith("head "):
            _, modality, name = key.split(" ")
            found.setdefault(modality, {})[name] = array
    return {modality: Head(**weights) for modality, weights in found.items()}


class TunedEncoder(ProjectedEncoder):
    """A model whose vectors are projected by heads; its token embeddings are unchanged."""

    projections: Heads

    def __init__(self, base: Encoder, heads: Heads) -> None:
        weights = "".join(
            f"{name} {array.shape} {array.astype('<f4').tobytes().hex()}\n"
            for name, array in head_arrays(heads).items()
        )
        fingerprint = short_hash(f"{base.fingerprint}\n{weights}")
        super().__init__(base, heads, name=tuned_name(base.name), fingerprint=fingerprint)
