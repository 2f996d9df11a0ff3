"""What a model's previous weights made, approximated with the current ones.

    x → normalise(x · matrix + bias)

Weights are not shipped twice. When they change, the package ships one linear map per modality, from
the vectors of the current weights to those of the previous ones. An index whose vectors are of the
previous weights is searched through the maps until an indexing run has encoded it anew.
`python -m mmsearch.training previous` fits them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from mmsearch.encoders.mini import FOLDER
from mmsearch.encoders.projected import ProjectedEncoder, projected, unit_rows
from mmsearch.encoders.query_bank import (
    MODALITIES,
    QueryBank,
    npz_arrays,
    pack_bank,
    shipped_bank,
    unpack_bank,
)
from mmsearch.errors import ModelDamaged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import Encoder
    from mmsearch.types import Modality, Vectors

PREVIOUS = "previous.npz"

SHIPPED: Mapping[str, Path] = {"mini": FOLDER / PREVIOUS}
"""By model, the file of its previous weights, if it has any."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """Maps a modality's vectors from the current weights to the previous ones."""

    matrix: NDArray[np.float32]
    """(dim, dim)"""
    bias: NDArray[np.float32]
    """(dim,)"""

    def __call__(self, rows: Vectors) -> Vectors:
        """Unit rows (n, dim) of unit rows (n, dim)."""
        return unit_rows(rows @ self.matrix + self.bias)


@dataclass(frozen=True, eq=False)
class PreviousWeights:
    """What is known of a model's previous weights.

    Attributes:
        fingerprint: Of these.
        current: The fingerprint of the weights whose vectors are mapped.
        languages_version: See `MultilingualEncoder`; of the previous weights.
        maps: By modality.
        bank: The hubs and references of the model's query bank once its rows are mapped.
    """

    fingerprint: str
    current: str
    languages_version: str
    maps: Mapping[Modality, LinearMap]
    bank: QueryBank

    def pack(self) -> bytes:
        """An `.npz`, matrices in 8 bits with a scale for each column."""
        import numpy as np

        arrays: dict[str, Any] = {
            "fingerprint": np.array(self.fingerprint),
            "current": np.array(self.current),
            "languages": np.array(self.languages_version),
            "bank": np.frombuffer(pack_bank(self.fingerprint, self.bank), np.uint8),
        }
        for modality, one in self.maps.items():
            scale = np.maximum(np.abs(one.matrix).max(axis=0), 1e-12) / 127
            arrays[f"matrix {modality}"] = np.round(one.matrix / scale).astype(np.int8)
            arrays[f"scale {modality}"] = scale.astype(np.float32)
            arrays[f"bias {modality}"] = one.bias.astype(np.float32)
        packed = BytesIO()
        np.savez(packed, **arrays)
        return packed.getvalue()

    @classmethod
    def unpack(cls, packed: bytes) -> PreviousWeights:
        """What was packed.

        Raises:
            ValueError: its query bank is of other weights.
        """
        arrays = npz_arrays(packed)
        fingerprint = str(arrays["fingerprint"])
        bank = unpack_bank(arrays["bank"].tobytes(), fingerprint)
        if bank is None:
            raise ValueError("the query bank is of other weights")
        maps = {
            modality: LinearMap(
                arrays[f"matrix {modality}"] * arrays[f"scale {modality}"],
                arrays[f"bias {modality}"],
            )
            for modality in MODALITIES
            if f"matrix {modality}" in arrays
        }
        languages = str(arrays["languages"])
        return cls(fingerprint, str(arrays["current"]), languages, maps, bank)


class PreviousEncoder(ProjectedEncoder):
    """A model as if it had its previous weights.

    It makes no token embeddings: those of other weights cannot be compared with the stored ones.

    Args:
        current: The model with its current weights.
        weights: The previous ones.
    """

    def __init__(self, current: Encoder, weights: PreviousWeights) -> None:
        super().__init__(current, weights.maps, name=current.name, fingerprint=weights.fingerprint)
        self.token_modalities = frozenset()
        self.languages_version = weights.languages_version


@cache
def previous_weights(name: str) -> PreviousWeights | None:
    """The previous weights of a model; None if there were none.

    Raises:
        ModelDamaged: their file cannot be read.
    """
    path = SHIPPED.get(name)
    if path is None or not path.exists():
        return None
    try:
        return PreviousWeights.unpack(path.read_bytes())
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelDamaged(
            f"{path}, for indexes of earlier versions, is damaged. Reinstall it: pip install "
            "--force-reinstall --no-deps mmsearch"
        ) from error


def with_previous(current: Encoder) -> Iterator[Encoder]:
    """The model with its current weights, then as it was with its previous ones, if any."""
    yield current
    weights = previous_weights(current.name)
    if weights is not None and weights.current == current.fingerprint:
        yield PreviousEncoder(current, weights)


@cache
def previous_bank(name: str, fingerprint: str) -> QueryBank | None:
    """The query bank of a model's previous weights: the current one, its rows mapped.

    None if these are not the previous weights, or the model has no bank.
    """
    weights = previous_weights(name)
    if weights is None or weights.fingerprint != fingerprint:
        return None
    bank = shipped_bank(name, weights.current)
    if bank is None:
        return None
    rows = {key: projected(weights.maps, key, own) for key, own in bank.rows.items()}
    return replace(weights.bank, rows=rows)
