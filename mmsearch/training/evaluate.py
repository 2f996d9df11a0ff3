"""How good a model folder is, measured through the same encoder that searches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch.encoders.mini import MiniEncoder, load_mini
from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.metrics import Interval, bootstrap_interval, ranks_from_scores
from mmsearch.training.data import Split, class_prompts, read_split

if TYPE_CHECKING:
    from mmsearch.types import Vectors

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

    from mmsearch.training.export import export_image
    from mmsearch.training.heads import Classifier
    from mmsearch.training.trunks import ImageTrunk
    from mmsearch.training.views import PLAIN, seen

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
