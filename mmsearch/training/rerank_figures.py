"""How much a closer look at the best hits is worth, measured through the shipped files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch.encoders import banks
from mmsearch.encoders.mini import MiniEncoder, load_mini
from mmsearch.metrics import Interval, bootstrap_interval, ranks_from_scores
from mmsearch.search.rerank_blend import rerank
from mmsearch.training.data import CAPTIONS_A_PHOTO, Split, read_split
from mmsearch.vectors.hubness import hub_weight, hubs

if TYPE_CHECKING:
    from mmsearch.types import Modality, Vectors

    Rows = Sequence[NDArray[np.int8]]

CUTOFFS = (1, 5, 10)
LOOKED_AT = 100
"""Candidates of the first stage that are looked at again."""

STAGES = ("cosine", "less hubs", "reranked")


def evaluate_rerank(model: Path, data: Path) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Ranks of the first right answer on the dev split at each stage, and a table of recalls.

    Returns:
        For each direction and stage, (queries,).
    """
    encoder, split = load_mini(model), read_split(data, "dev")
    if not encoder.details:
        return {}
    photos, regions = encoder.encode_detailed("image", _opened(encoder, split))
    texts, words = encoder.encode_detailed("text", split.texts)
    own = np.arange(len(texts)).reshape(-1, CAPTIONS_A_PHOTO)
    found = {
        "text→image": _ranks(
            encoder, "text", (texts, words), (photos, regions), [[one] for one in split.owners]
        ),
        "image→text": _ranks(encoder, "image", (photos, regions), (texts, words), own.tolist()),
    }
    groups = {"text→image": np.asarray(split.owners), "image→text": np.arange(len(photos))}
    for direction, stages in found.items():
        _show(direction, stages, groups[direction])
    return found


def _opened(encoder: MiniEncoder, split: Split) -> list[NDArray[np.uint8]]:
    photos = []
    for row in range(len(split.files)):
        with Image.open(split.path(row)) as photo:
            photos.append(encoder.prepare("image", photo.convert("RGB")))
    return photos


def _ranks(
    encoder: MiniEncoder,
    asked: Modality,
    queries: tuple[Vectors, Rows],
    items: tuple[Vectors, Rows],
    right: Sequence[Sequence[int]],
) -> dict[str, NDArray[np.int64]]:
    """Ranks of the first right answer of each query, at each stage."""
    facet: Modality = "image" if asked == "text" else "text"
    cosines = queries[0] @ items[0].T
    bank = banks.shipped(encoder.name, encoder.fingerprint) or {}
    corrected = cosines
    if asked in bank:
        corrected = cosines - hub_weight(asked, facet) * hubs(items[0], bank[asked])
    closer = corrected.copy()
    for row, scores in enumerate(corrected):
        best = np.argsort(-scores, kind="stable")[:LOOKED_AT]
        match = encoder.match(asked, queries[1][row], [items[1][one] for one in best])
        closer[row] -= 100.0  # below all that were looked at
        closer[row, best] = rerank(scores[best], match, encoder.match_weight)
    tables = (cosines, corrected, closer)
    return {
        stage: ranks_from_scores(table, right) for stage, table in zip(STAGES, tables, strict=True)
    }


def _show(direction: str, stages: dict[str, NDArray[np.int64]], groups: NDArray[np.int64]) -> None:
    """One row a stage, and what the last adds, with 95 % bootstrap intervals over photos."""
    hits = {
        stage: np.stack([_by_photo(ranks <= k, groups) for k in CUTOFFS])
        for stage, ranks in stages.items()
    }
    hits["gain"] = hits["reranked"] - hits["less hubs"]
    for stage, of_photos in hits.items():
        row = (
            f"R@{k} {_told(bootstrap_interval(one))}"
            for k, one in zip(CUTOFFS, of_photos, strict=True)
        )
        print(f"{direction} {stage:10}", *row)


def _by_photo(hit: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """The captions of a photo are not independent: their mean, in per cent."""
    means: NDArray[np.float64] = 100 * np.bincount(groups, weights=hit) / np.bincount(groups)
    return means


def _told(interval: Interval) -> str:
    return f"{interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]"
