"""The vectors of many files' contents at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import token_encoder
from mmsearch.indexing.decode.contents import Contents
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import ItemVectors, VectorField
from mmsearch.types import Modality, TextPart

if TYPE_CHECKING:
    from mmsearch.encoders import TokenEmbeddings
    from mmsearch.types import Vectors


def encode(
    targets: Sequence[EncodingTarget],
    files: Sequence[tuple[Contents | None, Sequence[TextPart] | None]],
    query_banks: QueryBanks | None = None,
) -> list[dict[VectorField, ItemVectors]]:
    """The vectors of each file's contents and texts; photos, and texts, of all encoded together.

    Args:
        targets: What to encode with.
        files: Contents and texts of each; None has nothing to encode.
        query_banks: Give the hubs of vectors whose space has a bank.
    """
    import numpy as np

    found = [dict(contents.rows) if contents else {} for contents, _ in files]
    for target in targets:
        space = target.space.id
        seen = [
            (rows, contents.pictures[space])
            for rows, (contents, _) in zip(found, files, strict=True)
            if contents and space in contents.pictures
        ]
        if seen:
            matrix, tokens = _encoded(target, "image", [picture for _, picture in seen])
            for number, (rows, _) in enumerate(seen):
                rows[space, "image"] = ItemVectors(
                    matrix[number : number + 1].astype(np.float16),
                    token_embeddings=tokens[number : number + 1],
                )
        said = [
            (rows, [part.text for part in texts])
            for rows, (_, texts) in zip(found, files, strict=True)
            if texts and "text" in target.modalities
        ]
        if said:
            matrix, tokens = _encoded(target, "text", [text for _, texts in said for text in texts])
            start = 0
            for rows, texts in said:
                end = start + len(texts)
                rows[space, "text"] = ItemVectors(
                    matrix[start:end].astype(np.float16), token_embeddings=tokens[start:end]
                )
                start = end
    if query_banks is not None:
        for target in targets:
            _tell_hubs(target, query_banks, found)
    return found


def _tell_hubs(
    target: EncodingTarget, query_banks: QueryBanks, found: Sequence[dict[VectorField, ItemVectors]]
) -> None:
    """Put into all rows of a target's space how much of a hub each of them is."""
    import numpy as np

    for facet in target.modalities:
        place = target.space.id, facet
        having = [rows for rows in found if place in rows and len(rows[place].matrix)]
        if not having:
            continue
        matrix = np.concatenate([rows[place].matrix for rows in having]).astype(np.float32)
        hubs = query_banks.hubs_of(target.space, facet, matrix)
        start = 0
        for rows in having if hubs else ():
            end = start + len(rows[place].matrix)
            mine = {asked: column[start:end] for asked, column in hubs.items()}
            rows[place] = replace(rows[place], hubs=mine)
            start = end


def _encoded(
    target: EncodingTarget, modality: Modality, things: Sequence[Any]
) -> tuple[Vectors, Sequence[TokenEmbeddings]]:
    """Vectors, and token embeddings if the target keeps any (else none)."""
    encoder = token_encoder(target.encoder)
    if encoder is not None and modality in target.token_modalities:
        return encoder.encode_with_tokens(modality, things)
    return target.encoder.encode(modality, things), ()
