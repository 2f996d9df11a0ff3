"""How well labels given by words alone fit: photos by what their captions name, sounds by class.

    python benchmarks/labels.py --flickr8k FOLDER --esc10 FOLDER [--model mini]

Flickr8k dev: a photo has a label if at least two of its five captions name it (by the words in
NAMED). Captions name only some of what is to be seen, so precision is an under-estimate; the share
of tags that at least one caption bears out stands beside it. Scores are compared by average
precision within each label, and over all labels and photos together, which is what one threshold
for all of them has to live with. dev is split at random: the curve from scores to confidence is
fitted on the first half and checked on the second; forms and templates were chosen on all of it.
ESC-10: `mini` was trained on these sounds.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from PIL import Image

import mmsearch
from mmsearch.media.audio import windows
from mmsearch.media.captions import read_captions
from mmsearch.metrics import bootstrap_interval
from mmsearch.search.everyday_words import EVERYDAY
from mmsearch.search.labels import (
    BINS,
    MIDPOINT,
    MIN_CONFIDENCE,
    PLAIN,
    SLOPE,
    TEMPLATES,
    Labeller,
    confidence_of,
    frequency_odds,
    label_vectors,
    shifted,
)

NAMED = {
    "dog": r"dogs?|pupp(y|ies)",
    "bicycle": r"bicycles?|bikes?|bicyclists?|cyclists?|bikers?",
    "beach": r"beach(es)?|shore",
    "snow": r"snow\w*",
    "child": r"child(ren)?|kids?|boys?|girls?|toddlers?|bab(y|ies)",
    "water": r"water|ocean|lake|sea|river|pool|waves?",
    "horse": r"horses?",
    "car": r"cars?",
    "mountain": r"mountains?|cliffs?|hills?",
    "grass": r"grass\w*",
    "ball": r"balls?|football|soccer|basketball|baseball",
    "man": r"man|men",
    "woman": r"woman|women|lad(y|ies)",
    "swimming pool": r"pool",
    "skateboard": r"skate ?board\w*",
    "surfing": r"surf\w*",
    "soccer": r"soccer",
    "basketball": r"basketball",
    "street": r"streets?|road|sidewalk",
    "motorcycle": r"motorcycles?|motorbikes?|motocross|dirt ?bikes?",
    "climbing": r"climb\w*",
    "crowd": r"crowds?",
    "bird": r"birds?",
    "skiing": r"ski\w*",
    "boat": r"boats?|kayak\w*|canoe\w*",
    "swing": r"swings?|swinging",
    "running": r"run\w*",
    "jumping": r"jump\w*",
    "bench": r"bench(es)?",
    "night": r"night",
    "trampoline": r"trampoline",
    "tennis": r"tennis",
}


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    ranked = right[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


def both(scores: np.ndarray, right: np.ndarray) -> str:
    """Mean over labels, and all together; `scores` and `right` are (labels, items)."""
    each = [average_precision(row, wanted) for row, wanted in zip(scores, right, strict=True)]
    pooled = average_precision(scores.ravel(), right.ravel())
    return f"{100 * np.mean(each):10.1f}{100 * pooled:14.1f}"


def forms(items: np.ndarray, right: np.ndarray, encoder, facet, labels: list[str]) -> None:
    """Prints what each way of scoring is worth."""
    everyday = encoder.encode("text", [PLAIN[facet].format(word) for word in EVERYDAY[facet]])
    others = items @ everyday.T
    mean, spread = others.mean(axis=1), others.std(axis=1)

    def cosines(templates) -> np.ndarray:
        rows = encoder.encode("text", [t.format(one) for one in labels for t in templates])
        vectors = rows.reshape(len(labels), len(templates), -1).mean(axis=1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors @ items.T

    raw = label_vectors(encoder, facet, labels) @ items.T
    middle = np.median(raw, axis=1, keepdims=True)
    width = np.median(np.abs(raw - middle), axis=1, keepdims=True)
    among = np.exp((raw - raw.max(axis=0)) / 0.08)
    print(f"\n{'average precision, %':<52}{'each label':>10}{'all together':>14}")
    print(f"{'cosine':<52}{both(raw, right)}")
    print(f"{'against the other items (median, MAD)':<52}{both((raw - middle) / width, right)}")
    print(f"{'softmax among the labels asked for':<52}{both(among / among.sum(axis=0), right)}")
    print(f"{'against everyday words, by the item (used)':<52}{both((raw - mean) / spread, right)}")
    for template in TEMPLATES[facet]:
        shown = both((cosines([template]) - mean) / spread, right)
        print(f"{f'  the same, by {template!r} alone':<52}{shown}")


def photos(folder: Path, encoder) -> None:
    names = (folder / "dev.txt").read_text(encoding="utf-8").split()
    captions = read_captions(folder / "captions.tsv")
    items = encoder.encode("image", [Image.open(folder / "images" / name) for name in names])
    labels = list(NAMED)
    times = np.array(
        [
            [
                sum(
                    bool(re.search(rf"\b({NAMED[label]})\b", text, re.I)) for text in captions[name]
                )
                for name in names
            ]
            for label in labels
        ]
    )
    print(f"Flickr8k dev: {len(names)} photos, {len(labels)} labels, {(times >= 2).sum()} true")
    forms(items, times >= 2, encoder, "image", labels)
    scores = Labeller(encoder, "image", labels).standardised(items).T
    order = np.random.default_rng(0).permutation(len(names))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    slope, middle = fitted(scores[:, first].ravel(), times[:, first].ravel() >= 2)
    print(f"\nfitted on the first half: slope {slope:.2f}, middle {middle:.2f}", end="; ")
    print(f"shipped {SLOPE}, {MIDPOINT}")
    sure = confidence_of(scores[:, second])
    for title, some in (("each item by itself", sure), ("by how common labels are", common(sure))):
        print(f"\nsecond half, {title}; average precision, %: {both(some, times[:, second] >= 2)}")
        reliability(some, times[:, second])
        precision(some, times[:, second])
    by_label(labels, common(sure), times[:, second])


def common(sure: np.ndarray) -> np.ndarray:
    """Confidences (labels, items) shifted by how common each label seems, as `tag` does."""
    spread = [np.histogram(row, bins=BINS, range=(0, 1))[0] for row in sure]
    return np.stack([shifted(r, frequency_odds(n)) for r, n in zip(sure, spread, strict=True)])


def fitted(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Logistic regression by Newton's method."""
    design = np.stack([scores.astype(float), np.ones(len(scores))])
    weights = np.array([1.0, -3.0])
    for _ in range(50):
        sure = 1 / (1 + np.exp(-weights @ design))
        weights += np.linalg.solve((design * sure * (1 - sure)) @ design.T, design @ (right - sure))
    return weights[0], -weights[1] / weights[0]


def reliability(sure: np.ndarray, times: np.ndarray) -> None:
    print("confidence              pairs       mean named twice named once")
    for low in np.arange(0, 1, 0.1):
        some = (sure >= low) & (sure < low + 0.1)
        shares = (sure[some].mean(), (times[some] >= 2).mean(), (times[some] >= 1).mean())
        cells = "".join(f"{share:11.2f}" for share in shares)
        print(f"{low:.1f} to {low + 0.1:.1f}{some.sum():19,}{cells}")


def precision(sure: np.ndarray, times: np.ndarray) -> None:
    print("from       tags  precision [interval]   named once   recall")
    for least in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        given = sure >= least
        right = bootstrap_interval((times[given] >= 2).astype(float))
        shown = f"{100 * right.mean:.0f} % [{100 * right.low:.0f}, {100 * right.high:.0f}]"
        once, recall = (times[given] >= 1).mean(), (given & (times >= 2)).sum() / (times >= 2).sum()
        print(f"{least:4.1f}{given.sum():11}{shown:>22}{100 * once:11.0f} %{100 * recall:8.0f} %")


def by_label(labels: list[str], sure: np.ndarray, times: np.ndarray) -> None:
    print(f"\nat {MIN_CONFIDENCE}:".ljust(20) + "tags   precision   named once   recall   AP")
    for label, row, named in zip(labels, sure, times, strict=True):
        given, right = row >= MIN_CONFIDENCE, named >= 2
        if not right.any():
            continue
        precise = [
            f"{100 * (named[given] >= n).mean():.0f} %" if given.any() else "" for n in (2, 1)
        ]
        recall = f"{100 * (given & right).sum() / right.sum():.0f} %"
        print(
            f"  {label:<16}{given.sum():5}{precise[0]:>12}{precise[1]:>13}{recall:>9}"
            f"{100 * average_precision(row, right):7.0f}"
        )


def sounds(folder: Path, encoder) -> None:
    lines = (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()
    named = [line.split("\t")[:2] for line in lines if "\t" in line]
    named = [(name, label) for name, label in named if (folder / "audio" / name).is_file()]
    heard = [
        encoder.prepare(
            "audio", next(iter(windows(folder / "audio" / name, encoder.sample_rate)))[1]
        )
        for name, _ in named
    ]
    items = encoder.encode("audio", heard)
    kinds = sorted({label for _, label in named})
    right = np.array([[label == kind for _, label in named] for kind in kinds])
    labels = [kind.lower() for kind in kinds]
    print(f"\nESC-10: {len(items)} sounds, {len(kinds)} labels")
    forms(items, right, encoder, "audio", labels)
    sure = common(Labeller(encoder, "audio", labels).confidence(items).T)
    for least in (0.5, MIN_CONFIDENCE, 0.8):
        given = sure >= least
        print(
            f"at {least}: {given.sum()} tags, precision {100 * right[given].mean():.0f} %, "
            f"recall {100 * (given & right).sum() / right.sum():.0f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flickr8k", type=Path)
    parser.add_argument("--esc10", type=Path)
    parser.add_argument("--model", default="mini")
    asked = parser.parse_args()
    encoder = mmsearch.load_encoder(asked.model)
    if asked.flickr8k:
        photos(asked.flickr8k, encoder)
    if asked.esc10:
        sounds(asked.esc10, encoder)


if __name__ == "__main__":
    main()
