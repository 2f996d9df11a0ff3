"""Token embeddings as bytes, as every store keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def pack(embeddings: NDArray[np.int8]) -> bytes:
    """Token embeddings (n, d) as bytes: d in two, then the numbers."""
    width: int = embeddings.shape[1]
    return width.to_bytes(2, "little") + bytes(embeddings.tobytes())


def unpack(blob: bytes) -> NDArray[np.int8]:
    """The token embeddings (n, d) that `pack` was given."""
    import numpy as np

    return np.frombuffer(blob, np.int8, offset=2).reshape(-1, int.from_bytes(blob[:2], "little"))
