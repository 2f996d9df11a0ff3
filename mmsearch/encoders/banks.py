"""Banks of typical queries: what a model's vectors are held against to tell hubs among them.

The built-in model ships with one. For another the texts are `typical_texts()`, encoded when first
needed, and the pictures are a sample of the index's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from mmsearch.encoders import sentences
from mmsearch.errors import ModelDamaged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Modality, Vectors

    Pairs = Mapping[tuple[Modality, Modality], NDArray[np.float32]]
    """By what is asked with and the facet that is searched."""

VERSION = f"sentences-{sentences.VERSION}"
"""Of what `typical_texts` gives: vectors kept of another version are to be made again."""

MOST_PICTURES = 2_000
"""Of an index's own pictures, how many are sampled for its bank."""
FEWEST_PICTURES = 200
"""An index of fewer has no bank of pictures: too few to tell a hub by."""

SHIPPED: Mapping[str, Path] = {
    "mini": Path(__file__).parent.parent / "models" / "mini" / "bank.npz"
}
"""Where the bank of an encoder lies, by its name."""


@dataclass(frozen=True)
class Bank:
    """Typical queries of an encoder's space, which are typical items as well."""

    rows: Mapping[Modality, Vectors]
    """(m, dim) unit rows."""
    hubs: Pairs = field(default_factory=dict)
    """(m,) of each row of a facet, as `mmsearch.vectors.hubness` takes them off its scores."""
    references: Pairs = field(default_factory=dict)
    """(3,) level, growth and spread of a `Reference` (mmsearch.spaces.calibration)."""


def typical_texts() -> list[str]:
    """2,000 sentences such as people search with, for models that bring no bank."""
    return list(sentences.typical_texts())


def shipped(name: str, fingerprint: str) -> dict[Modality, Vectors] | None:
    """The typical queries that came with an encoder, unit rows (m, dim) of each modality.

    Args:
        name: The encoder's.
        fingerprint: Of its weights: a bank that other weights made is not taken.

    Returns:
        None if none came with it.

    Raises:
        ModelDamaged: the file is there, and cannot be read.
    """
    bank = shipped_bank(name, fingerprint)
    return None if bank is None else dict(bank.rows)


def shipped_bank(name: str, fingerprint: str) -> Bank | None:
    """The same with what was measured on them; read once, and not to be changed."""
    path = SHIPPED.get(name)
    return None if path is None or not path.exists() else _loaded(path, fingerprint)


def save_bank(path: Path, fingerprint: str, bank: Bank) -> None:
    """Write a bank to a file, `.npz`, as `pack_bank` makes it."""
    path.write_bytes(pack_bank(fingerprint, bank))


def load_bank(path: Path, fingerprint: str) -> Bank | None:
    """What `save_bank` wrote, unit rows again; None if other weights made it.

    Raises:
        ModelDamaged: it cannot be read.
    """
    try:
        return unpack_bank(path.read_bytes(), fingerprint)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelDamaged(
            f"the bank of typical queries is damaged: {path} cannot be read. "
            "Reinstall it: pip install --force-reinstall --no-deps mmsearch"
        ) from error


def pack_bank(fingerprint: str, bank: Bank) -> bytes:
    """A bank as bytes, its rows in 8 bits: a cosine moves by about 0.001, and so do the hubs.

    Args:
        fingerprint: Of the weights that made the rows.
        bank: What to keep.
    """
    import numpy as np

    arrays: dict[str, Any] = {"fingerprint": np.array(fingerprint)}
    for modality, rows in bank.rows.items():
        widest = np.abs(rows).max(axis=1, keepdims=True)
        arrays[modality] = np.round(rows * (127 / widest)).astype(np.int8)
    for pair, hubs in bank.hubs.items():
        arrays[" ".join(("hubs", *pair))] = hubs.astype(np.float16)
    for pair, numbers in bank.references.items():
        arrays[" ".join(("reference", *pair))] = numbers.astype(np.float32)
    packed = BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def unpack_bank(packed: bytes, fingerprint: str) -> Bank | None:
    """What `pack_bank` was given, unit rows again; None if other weights made it."""
    import numpy as np

    with np.load(BytesIO(packed), allow_pickle=False) as held:
        if str(held["fingerprint"]) != fingerprint:
            return None
        arrays = {key: held[key] for key in held.files if key != "fingerprint"}
    return _bank({key: array.astype(np.float32) for key, array in arrays.items()})


def _bank(arrays: Mapping[str, NDArray[np.float32]]) -> Bank:
    import numpy as np

    known: tuple[Modality, ...] = ("text", "image", "audio")
    pairs = [(asked, facet) for asked in known for facet in known]

    def of_pairs(what: str) -> Pairs:
        named = {pair: " ".join((what, *pair)) for pair in pairs}
        return {pair: arrays[key] for pair, key in named.items() if key in arrays}

    whole = {key: arrays[key] for key in known if key in arrays}
    rows = {
        key: array / np.linalg.norm(array, axis=1, keepdims=True) for key, array in whole.items()
    }
    return Bank(rows, of_pairs("hubs"), of_pairs("reference"))


_loaded = lru_cache(maxsize=4)(load_bank)
