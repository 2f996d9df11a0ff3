"""Encodes the contents of many files at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mmsearch.indexing.file_contents import Contents
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import ItemVectors, VectorField
from mmsearch.types import Modality, TextPart

FileVectors = dict[VectorField, ItemVectors]
"""The vectors of one file."""

FileParts = tuple[Contents | None, Sequence[TextPart] | None]
"""The contents and texts of one file; None has nothing to encode."""


def encode(
    targets: Sequence[EncodingTarget],
    files: Sequence[FileParts],
    query_banks: QueryBanks,
) -> list[FileVectors]:
    """The vectors of each file, with their hubs if the space has a query bank.

    The pictures, and the texts, of all files are encoded together.
    """
    found = [dict(contents.rows) if contents else {} for contents, _ in files]
    for target in targets:
        space = target.space.id
        pictures = [
            (vectors, [contents.pictures[space]])
            for vectors, (contents, _) in zip(found, files, strict=True)
            if contents and space in contents.pictures
        ]
        _encode_all(target, "image", pictures)
        texts = [
            (vectors, [part.text for part in parts])
            for vectors, (_, parts) in zip(found, files, strict=True)
            if parts and "text" in target.modalities
        ]
        _encode_all(target, "text", texts)
        _add_hubs(target, query_banks, found)
    return found


def _encode_all(
    target: EncodingTarget,
    modality: Modality,
    inputs: Sequence[tuple[FileVectors, Sequence[Any]]],
) -> None:
    """Encode the inputs of all files in one call, and give each file its vectors."""
    import numpy as np

    if not inputs:
        return
    things = [one for _, several in inputs for one in several]
    matrix, tokens = target.encode(modality, things)
    start = 0
    for vectors, several in inputs:
        end = start + len(several)
        vectors[target.space.id, modality] = ItemVectors(
            matrix[start:end].astype(np.float16), token_embeddings=tokens[start:end]
        )
        start = end


def _add_hubs(
    target: EncodingTarget, query_banks: QueryBanks, files: Iterable[FileVectors]
) -> None:
    """Add the hubs of the vectors in a target's space."""
    import numpy as np

    for modality in target.modalities:
        field = target.space.id, modality
        filled = [vectors for vectors in files if field in vectors and len(vectors[field].matrix)]
        if not filled:
            continue
        matrix = np.concatenate([vectors[field].matrix for vectors in filled]).astype(np.float32)
        hubs = query_banks.hubs_of(target.space, modality, matrix)
        start = 0
        for vectors in filled if hubs else ():
            end = start + len(vectors[field].matrix)
            own = {query_modality: column[start:end] for query_modality, column in hubs.items()}
            vectors[field] = replace(vectors[field], hubs=own)
            start = end
