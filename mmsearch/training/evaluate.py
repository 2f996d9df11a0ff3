"""How good a model folder is, measured through the same encoder that searches.

How much a closer look at the best hits is worth, measured through the shipped files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch.encoders import banks
from mmsearch.encoders.mini import MiniEncoder, load_mini
from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.metrics import Interval, bootstrap_interval, ranks_from_scores
from mmsearch.search.rerank_blend import rerank
from mmsearch.training.data import CAPTIONS_A_PHOTO, Split, class_prompts, read_split
from mmsearch.vectors.hubness import hub_weight, hubs

if TYPE_CHECKING:
    from mmsearch.types import Modality, Vectors

    Rows = Sequence[NDArray[np.int8]]

CUTOFFS = (1, 5, 10)
SURE = 0.5
"""The classifier's word is taken for what a photo shows when its probability is above this."""

Recalls = dict[int, Interval]
"""Recall at each cutoff, in per cent, with its interval."""


def photo_vectors(encoder: MiniEncoder, split: Split) -> Vectors:
    """Vectors (photos, dim) of a split."""
    photos = []
    for row in range(len(split.files)):
        with Image.open(split.path(row)) as photo:
            photos.append(encoder.prepare("image", photo.convert("RGB")))
    return encoder.encode("image", photos)


def recalls(
    scores: NDArray[np.float32], positives: Sequence[Collection[int]], groups: Sequence[int]
) -> Recalls:
    """Recall@1/5/10 of queries against items; an interval treats queries of one group as one.

    Args:
        scores: (queries, items).
        positives: For each query the items that answer it.
        groups: For each query what it stems from: the five captions of a photo are not five
            independent draws.
    """
    ranks = ranks_from_scores(scores, positives)
    of_group = np.asarray(groups)
    sizes = np.bincount(of_group)
    found = {}
    for cutoff in CUTOFFS:
        hits = np.bincount(of_group, weights=ranks <= cutoff)[sizes > 0] / sizes[sizes > 0]
        interval = bootstrap_interval(100 * hits)
        found[cutoff] = interval
    return found


def dev_recalls(photos: Vectors, texts: Vectors, split: Split) -> dict[str, Recalls]:
    """Both directions on a split of captioned photos."""
    owners = split.owners
    own: list[list[int]] = [[] for _ in split.files]
    for row, owner in enumerate(owners):
        own[owner].append(row)
    return {
        "text→image": recalls(texts @ photos.T, [[owner] for owner in owners], owners),
        "image→text": recalls(photos @ texts.T, own, range(len(own))),
    }


def class_recalls(
    photos: Vectors, names: Vectors, posteriors: NDArray[np.float32]
) -> dict[str, Recalls]:
    """Class names against photos whose class the frozen ImageNet classifier is sure of.

    The classifier is not part of the model, so this asks how much of what it knows of real
    photos survived in the space, beyond what captions teach.
    """
    top = posteriors.argmax(1)
    sure = np.flatnonzero(posteriors.max(1) > SURE)
    asked = sorted(set(top[sure].tolist()))
    of_class = [[int(row) for row in sure if top[row] == name] for name in asked]
    return {
        "photo→class name": recalls(
            photos[sure] @ names.T, [[int(top[row])] for row in sure], range(len(sure))
        ),
        "class name→photo": recalls(names[asked] @ photos.T, of_class, range(len(asked))),
    }


def picture_recalls(encoder: MiniEncoder, folder: Path) -> dict[str, Recalls]:
    """Captions against pictures of a kind never trained on (a folder with `captions.tsv`)."""
    lines = (folder / "captions.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    split = Split(
        folder / "images", tuple(pair[0] for pair in pairs), tuple((pair[1],) for pair in pairs)
    )
    photos, texts = photo_vectors(encoder, split), encoder.encode("text", split.texts)
    return {"caption→picture": recalls(texts @ photos.T, _alike(split.texts), range(len(pairs)))}


def _alike(texts: Sequence[str]) -> list[list[int]]:
    """For each text the rows that carry the very same one."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(text, []).append(row)
    return [rows[text] for text in texts]


def posteriors_of(split: Split) -> NDArray[np.float32]:
    """The ImageNet classifier's probabilities (photos, 1000)."""
    onnxruntime = import_onnxruntime()

    from mmsearch.training.data import PLAIN, seen
    from mmsearch.training.export import export_image
    from mmsearch.training.towers import Classifier, ImageTrunk

    session = onnxruntime.InferenceSession(export_image(Classifier(ImageTrunk())))
    found = []
    for start in range(0, len(split.files), 20):
        rows = range(start, min(start + 20, len(split.files)))
        pixels = np.stack([seen(split.path(row), PLAIN, 0) for row in rows])
        found.append(session.run(None, {"pixels": pixels})[0])
    return np.concatenate(found)


def evaluate(model: Path, data: Path, pictures: Path | None) -> dict[str, Recalls]:
    """Every figure of a model folder, printed as a table row each as it comes."""
    encoder = load_mini(model)
    split = read_split(data, "dev")
    photos, texts = photo_vectors(encoder, split), encoder.encode("text", split.texts)
    found = dev_recalls(photos, texts, split)
    names = encoder.encode("text", class_prompts(0)[0])
    found |= class_recalls(photos, names, posteriors_of(split))
    if pictures is not None:
        found |= picture_recalls(encoder, pictures)
    for what, at in found.items():
        row = (f"R@{k} {r.mean:.1f} [{r.low:.1f}, {r.high:.1f}]" for k, r in at.items())
        print(f"{what:18}", *row)
    return found


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
    if not encoder.token_modalities:
        return {}
    photos, regions = encoder.encode_with_tokens("image", _opened(encoder, split))
    texts, words = encoder.encode_with_tokens("text", split.texts)
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
