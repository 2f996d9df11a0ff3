"""Query banks: typical queries of a model, to find the hubs among its vectors and calibrate scores.

The built-in model ships with one. For another model the texts are `typical_texts()`, encoded when
first needed, and the pictures are a sample of the index's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from mmsearch.encoders.mini import FOLDER
from mmsearch.encoders.tuned import Heads, head_arrays, heads_of
from mmsearch.errors import ModelDamaged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Modality, Vectors

    Pairs = Mapping[tuple[Modality, Modality], NDArray[np.float32]]
    """By the modality of the query and the one that is searched."""

VERSION = "sentences-1"
"""Of `typical_texts`: stored banks of another version are made anew. Raise it with any change."""

MOST_PICTURES = 2_000
"""Pictures of an index that are sampled for its bank."""
FEWEST_PICTURES = 200
"""An index of fewer has no bank of pictures: too few to tell a hub by."""

SHIPPED: Mapping[str, Path] = {"mini": FOLDER / "bank.npz"}
"""The banks that come with encoders, by their names."""

_LOADING = Lock()
"""NumPy parses the headers of arrays by `ast`, which several threads may not do at the same time
(Python 3.11, https://github.com/python/cpython/issues/106905)."""

MODALITIES: tuple[Modality, ...] = ("text", "image", "audio")


@dataclass(frozen=True)
class QueryBank:
    """Typical queries in an encoder's space, which are typical items as well."""

    rows: Mapping[Modality, Vectors]
    """(m, dim) unit rows."""
    hubs: Pairs = field(default_factory=dict)
    """(m,) how much of a hub each row of the searched modality is (mmsearch.vectors.hubness)."""
    references: Pairs = field(default_factory=dict)
    """(3,) level, growth and spread of a `Reference` (mmsearch.spaces.calibration)."""
    shipped: bool = False
    """Whether it came with the model, so that none of an index's own images is among its rows."""


@cache
def shipped_bank(name: str, fingerprint: str) -> QueryBank | None:
    """The bank that is shipped with an encoder; None if there is none, or other weights made it.

    Raises:
        ModelDamaged: the file exists, and cannot be read.
    """
    path = SHIPPED.get(name)
    return load_bank(path, fingerprint) if path is not None and path.exists() else None


def load_bank(path: Path, fingerprint: str) -> QueryBank | None:
    """A bank from a file that holds what `pack_bank` made; None if other weights made it.

    Raises:
        ModelDamaged: it cannot be read.
    """
    try:
        bank = unpack_bank(path.read_bytes(), fingerprint)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelDamaged(
            f"the bank of typical queries is damaged: {path} cannot be read. "
            "Reinstall it: pip install --force-reinstall --no-deps mmsearch"
        ) from error
    return None if bank is None else replace(bank, shipped=True)


def pack_bank(fingerprint: str, bank: QueryBank, heads: Heads = MappingProxyType({})) -> bytes:
    """A bank as an `.npz`, its rows in 8 bits: a cosine moves by about 0.001, and so do the hubs.

    Args:
        fingerprint: Of the weights that made the rows.
        bank: What to pack.
        heads: Those of a tuned model; they are stored with its bank.
    """
    import numpy as np

    arrays: dict[str, Any] = {"fingerprint": np.array(fingerprint), **head_arrays(heads)}
    if bank.shipped:
        arrays["shipped"] = np.array(True)  # noqa: FBT003 - a value
    for modality, rows in bank.rows.items():
        largest = np.abs(rows).max(axis=1, keepdims=True)
        arrays[modality] = np.round(rows * (127 / largest)).astype(np.int8)
    for pair, hubs in bank.hubs.items():
        arrays[" ".join(("hubs", *pair))] = hubs.astype(np.float16)
    for pair, numbers in bank.references.items():
        arrays[" ".join(("reference", *pair))] = numbers.astype(np.float32)
    packed = BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def unpack_bank(packed: bytes, fingerprint: str) -> QueryBank | None:
    """What was packed, its rows of unit length again; None if other weights made it."""
    import numpy as np

    arrays = _arrays(packed, fingerprint)
    if arrays is None:
        return None

    def of_pairs(what: str) -> Pairs:
        keys = {(one, other): f"{what} {one} {other}" for one in MODALITIES for other in MODALITIES}
        return {pair: arrays[key] for pair, key in keys.items() if key in arrays}

    rows = {key: arrays[key] for key in MODALITIES if key in arrays}
    units = {key: row / np.linalg.norm(row, axis=1, keepdims=True) for key, row in rows.items()}
    return QueryBank(units, of_pairs("hubs"), of_pairs("reference"), "shipped" in arrays)


def unpack_heads(packed: bytes, fingerprint: str) -> Heads:
    """The heads that were packed with a tuned model's bank; none if other weights made it."""
    return heads_of(_arrays(packed, fingerprint) or {})


def _arrays(packed: bytes, fingerprint: str) -> dict[str, NDArray[np.float32]] | None:
    """The packed numbers by name; None if other weights made them."""
    import numpy as np

    arrays = npz_arrays(packed)
    if str(arrays["fingerprint"]) != fingerprint:
        return None
    return {key: array.astype(np.float32) for key, array in arrays.items() if key != "fingerprint"}


def npz_arrays(packed: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` by name."""
    import numpy as np

    with _LOADING, np.load(BytesIO(packed), allow_pickle=False) as file:
        return dict(file)


# ---------------------------------------------------------------------- typical texts

SENTENCES = 2_000


def typical_texts() -> list[str]:
    """SENTENCES different queries, put together from word lists; the same on each machine.

    What they say matters little; that they are spread over what pictures show does. Each pattern
    comes equally often, until the short ones run out of new sentences.
    """
    words, patterns = word_lists()
    found: dict[str, None] = {}
    round_number = 0
    while len(found) < SENTENCES:
        for pattern in patterns:
            found.setdefault(_filled(pattern, words, round_number))
        round_number += 1
    return list(found)[:SENTENCES]


def word_lists() -> tuple[dict[str, list[str]], list[str]]:
    """Words by the names of slots, and the patterns that have these slots, in braces."""
    text = Path(__file__).with_name("typical_texts.txt").read_text(encoding="utf-8")
    listed, _, patterns = text.partition("[words]\n")[2].partition("\n[patterns]\n")
    lists = (line.partition(": ") for line in listed.replace("\n    ", "").splitlines())
    return {slot: words.split("|") for slot, _, words in lists}, patterns.splitlines()


def _filled(pattern: str, words: Mapping[str, Sequence[str]], round_number: int) -> str:
    """The pattern with words that its slots and the round choose, as if at random."""

    def word(slot: re.Match[str]) -> str:
        choice = words[slot[1]]
        drawn = hashlib.blake2b(f"{pattern}|{slot.start()}|{round_number}".encode(), digest_size=8)
        return choice[int.from_bytes(drawn.digest(), "big") % len(choice)]

    text = re.sub(r"\{(\w+)\}", word, pattern)
    return re.sub(r"\b(a) (?=[aeio])", r"\1n ", text)
