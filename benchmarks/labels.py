"""How well zero-shot labels fit: of photos by what their captions name, of sounds by class.

    python benchmarks/labels.py --flickr8k FOLDER --esc10 FOLDER [--model mini]

Flickr8k dev: a photo has a label if at least two of its five captions name it (by the words in
NAMED). Captions name only some of what a photo shows, so precision is an underestimate; the share
of tags that at least one caption confirms is printed too. Scores are compared by average precision
within each label, and over all labels and photos together, which is what matters to a threshold for
all labels. dev is split at random: the curve from scores to confidence is fitted on the first half
and checked on the second; forms and templates were chosen on all of it. ESC-10: `mini` was trained
on these sounds.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from datasets import encode_images, labelled_sounds, split_of

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
    scale_odds,
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


def forms(items: np.ndarray, right: np.ndarray, encoder, modality, labels: list[str]) -> None:
    """Print the average precision of each way of scoring."""
    everyday = encoder.encode("text", [PLAIN[modality].format(word) for word in EVERYDAY[modality]])
    others = items @ everyday.T
    mean, spread = others.mean(axis=1), others.std(axis=1)

    def cosines(templates) -> np.ndarray:
        rows = encoder.encode("text", [t.format(one) for one in labels for t in templates])
        vectors = rows.reshape(len(labels), len(templates), -1).mean(axis=1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors @ items.T

    raw = label_vectors(encoder, modality, labels) @ items.T
    middle = np.median(raw, axis=1, keepdims=True)
    width = np.median(np.abs(raw - middle), axis=1, keepdims=True)
    among = np.exp((raw - raw.max(axis=0)) / 0.08)
    print(f"\n{'average precision, %':<52}{'each label':>10}{'all together':>14}")
    print(f"{'cosine':<52}{both(raw, right)}")
    print(f"{'against the other items (median, MAD)':<52}{both((raw - middle) / width, right)}")
    print(f"{'softmax over the given labels':<52}{both(among / among.sum(axis=0), right)}")
    print(f"{'against everyday words, by the item (used)':<52}{both((raw - mean) / spread, right)}")
    for template in TEMPLATES[modality]:
        shown = both((cosines([template]) - mean) / spread, right)
        print(f"{f'  the same, by {template!r} alone':<52}{shown}")


def photos(folder: Path, encoder) -> None:
    paths = split_of(folder, "dev")
    captions = read_captions(folder / "captions.tsv")
    texts = [captions[path.name] for path in paths]
    items = encode_images(encoder, paths)
    labels = list(NAMED)
    patterns = [re.compile(rf"\b({NAMED[label]})\b", re.IGNORECASE) for label in labels]
    counts = np.array(
        [[sum(bool(each.search(text)) for text in own) for own in texts] for each in patterns]
    )
    print(f"Flickr8k dev: {len(paths)} photos, {len(labels)} labels, {(counts >= 2).sum()} true")
    forms(items, counts >= 2, encoder, "image", labels)
    scores = Labeller(encoder, "image", labels).standardised(items).T
    order = np.random.default_rng(0).permutation(len(paths))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    slope, middle = fitted(scores[:, first].ravel(), counts[:, first].ravel() >= 2)
    print(f"\nfitted on the first half: slope {slope:.2f}, middle {middle:.2f}", end="; ")
    print(f"shipped {SLOPE}, {MIDPOINT}")
    confidence = confidence_of(scores[:, second])
    shifted_too = common(confidence)
    for title, each in (
        ("each item by itself", confidence),
        ("by how common labels are", shifted_too),
    ):
        print(f"\nsecond half, {title}; average precision, %: {both(each, counts[:, second] >= 2)}")
        reliability(each, counts[:, second])
        precision(each, counts[:, second])
    by_label(labels, shifted_too, counts[:, second])


def common(confidence: np.ndarray) -> np.ndarray:
    """Confidences (labels, items) adjusted by how common each label seems, as `tag` does."""
    spread = [np.histogram(row, bins=BINS, range=(0, 1))[0] for row in confidence]
    return np.stack(
        [scale_odds(r, frequency_odds(n)) for r, n in zip(confidence, spread, strict=True)]
    )


def fitted(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Logistic regression by Newton's method."""
    design = np.stack([scores.astype(float), np.ones(len(scores))])
    weights = np.array([1.0, -3.0])
    for _ in range(50):
        predicted = 1 / (1 + np.exp(-weights @ design))
        hessian = (design * predicted * (1 - predicted)) @ design.T
        weights += np.linalg.solve(hessian, design @ (right - predicted))
    return weights[0], -weights[1] / weights[0]


def reliability(confidence: np.ndarray, counts: np.ndarray) -> None:
    print("confidence              pairs       mean named twice named once")
    for low in np.arange(0, 1, 0.1):
        within = (confidence >= low) & (confidence < low + 0.1)
        times = counts[within]
        shares = (confidence[within].mean(), (times >= 2).mean(), (times >= 1).mean())
        cells = "".join(f"{share:11.2f}" for share in shares)
        print(f"{low:.1f} to {low + 0.1:.1f}{within.sum():19,}{cells}")


def precision(confidence: np.ndarray, counts: np.ndarray) -> None:
    print("from       tags  precision [interval]   named once   recall")
    relevant = counts >= 2
    for threshold in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        tagged = confidence >= threshold
        right = bootstrap_interval(relevant[tagged].astype(float))
        shown = f"{100 * right.mean:.0f} % [{100 * right.low:.0f}, {100 * right.high:.0f}]"
        once = 100 * (counts[tagged] >= 1).mean()
        recall = 100 * (tagged & relevant).sum() / relevant.sum()
        print(f"{threshold:4.1f}{tagged.sum():11}{shown:>22}{once:11.0f} %{recall:8.0f} %")


def by_label(labels: list[str], confidence: np.ndarray, counts: np.ndarray) -> None:
    print(f"\nat {MIN_CONFIDENCE}:".ljust(20) + "tags   precision   named once   recall   AP")
    for label, row, named in zip(labels, confidence, counts, strict=True):
        tagged, right = row >= MIN_CONFIDENCE, named >= 2
        if not right.any():
            continue
        precise = [
            f"{100 * (named[tagged] >= n).mean():.0f} %" if tagged.any() else "" for n in (2, 1)
        ]
        recall = f"{100 * (tagged & right).sum() / right.sum():.0f} %"
        print(
            f"  {label:<16}{tagged.sum():5}{precise[0]:>12}{precise[1]:>13}{recall:>9}"
            f"{100 * average_precision(row, right):7.0f}"
        )


def sounds(folder: Path, encoder) -> None:
    labelled = labelled_sounds(folder)
    first_windows = [next(iter(windows(path, encoder.sample_rate)))[1] for path, _ in labelled]
    waves = [encoder.prepare("audio", wave) for wave in first_windows]
    items = encoder.encode("audio", waves)
    classes = sorted({label for _, label in labelled})
    right = np.array([[label == each for _, label in labelled] for each in classes])
    labels = [each.lower() for each in classes]
    print(f"\nESC-10: {len(items)} sounds, {len(classes)} labels")
    forms(items, right, encoder, "audio", labels)
    confidence = common(Labeller(encoder, "audio", labels).confidence(items).T)
    for threshold in (0.5, MIN_CONFIDENCE, 0.8):
        tagged = confidence >= threshold
        print(
            f"at {threshold}: {tagged.sum()} tags, precision {100 * right[tagged].mean():.0f} %, "
            f"recall {100 * (tagged & right).sum() / right.sum():.0f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flickr8k", type=Path)
    parser.add_argument("--esc10", type=Path)
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    encoder = mmsearch.load_encoder(options.model)
    if options.flickr8k:
        photos(options.flickr8k, encoder)
    if options.esc10:
        sounds(options.esc10, encoder)


if __name__ == "__main__":
    main()
