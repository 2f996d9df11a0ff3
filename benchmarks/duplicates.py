"""How well copies are recognised, and how the time to find them grows with the index.

    python benchmarks/duplicates.py --flickr8k FOLDER [--model mini] [--rows 10000 100000 ...]

Copies: of 100 of the dev photos, four altered copies each (saved at JPEG quality 40, at half the
size, without 3 % of the edges, 10 % brighter) are planted among all photos. Recall is the share of
copies whose cosine to their original reaches the threshold; precision the share of all pairs found
that are of one photo. Flickr8k's photos of 224 pixels are smaller than the input of most models, so
half the size loses more than it does for a camera's photos; and Flickr8k has series of one scene,
which count as wrong here. `measured` is what `duplicate_threshold` would
measure for a model that it does not know.

Growth: rows are mixtures of real vectors of photos and captions, a twentieth of them near copies of
others (cosine 0.93 to 1). Recall there is against comparing all with all. Times are the
processor's; compare them within a run only.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from datasets import encode_images, opened, split_of

import mmsearch
from mmsearch.media.captions import read_captions
from mmsearch.search import duplicate_threshold as threshold
from mmsearch.search import near_pairs as pair_search
from mmsearch.search.near_pairs import leader_groups, near_pairs

PLANTED = 100
THRESHOLDS = (0.85, 0.88, 0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.98)
KINDS = ("JPEG quality 40", "half the size", "3 % cropped", "10 % brighter")


def copies(folder: Path, encoder) -> np.ndarray:
    """Print how well copies are recognised; returns the vectors of all photos."""
    dev = split_of(folder, "dev")
    rows = encode_images(encoder, [*dev, *split_of(folder, "train")])
    picked = np.linspace(0, len(dev) - 1, PLANTED).astype(int)
    altered = [copy for row in picked for copy in threshold.altered(opened(dev[row]))]
    planted = encode_images(encoder, altered)
    own = (planted * np.repeat(rows[picked], 4, axis=0)).sum(axis=1).reshape(-1, 4)
    print("cosine of a copy to its photo: lowest, 5 %, 10 %, half")
    for kind, column in zip(KINDS, own.T, strict=True):
        print(
            f"  {kind:<18}" + "".join(f"{q:8.3f}" for q in np.quantile(column, (0, 0.05, 0.1, 0.5)))
        )
    for title, photos in (("1,000", rows[: len(dev)]), (f"{len(rows):,}", rows)):
        matrix = np.concatenate([photos, planted])
        table(f"among {title} photos", matrix, picked, own, len(photos))
    return rows


def table(title: str, matrix: np.ndarray, picked, own, first_copy: int) -> None:
    source = np.arange(len(matrix))
    source[first_copy:] = np.repeat(picked, 4)
    scores = matrix[:first_copy] @ matrix[:first_copy].T
    np.fill_diagonal(scores, -1)
    nearest = scores.max(axis=1)
    hard, half = np.quantile(own, (threshold.HARD, threshold.MEDIAN))
    different = np.quantile(
        nearest[:: max(1, first_copy // threshold.QUERIES)], threshold.DIFFERENT
    )
    print(f"\n{title}: measured {min(max(hard, different), half):.3f}", end=" ")
    print(f"(copies 5 % {hard:.3f}, half {half:.3f}; others' nearest 99 % {different:.3f})")
    print("threshold   recall  precision  photos similar to another")
    for least in THRESHOLDS:
        pairs = near_pairs(matrix, least)
        right = source[pairs.later] == source[pairs.earlier]
        precision = 100 * right.mean() if len(right) else 100.0
        recall = 100 * (own >= least).mean()
        print(
            f"{least:9.2f}{recall:8.1f} %{precision:9.1f} %{100 * (nearest >= least).mean():9.2f} %"
        )


def corpus(rows: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count, dim) float16: mixtures of real rows, and near copies of some of them."""
    rng = np.random.default_rng(seed)
    mixtures = np.empty((count, rows.shape[1]), np.float16)
    originals = count - count // 20
    for start in range(0, originals, 20_000):
        end = min(start + 20_000, originals)
        one, other = rows[rng.integers(len(rows), size=(2, end - start))]
        share = rng.uniform(0, 0.5, (end - start, 1)).astype(np.float32)
        mixed = one * (1 - share) + other * share
        mixed += rng.standard_normal(mixed.shape).astype(np.float32) * 0.01
        mixtures[start:end] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    for start in range(originals, count, 20_000):
        end = min(start + 20_000, count)
        source = mixtures[rng.integers(originals, size=end - start)].astype(np.float32)
        apart = rng.standard_normal(source.shape).astype(np.float32)
        apart -= (apart * source).sum(axis=1, keepdims=True) * source
        apart /= np.linalg.norm(apart, axis=1, keepdims=True)
        cosine = rng.uniform(0.93, 1, (end - start, 1)).astype(np.float32)
        mixtures[start:end] = cosine * source + np.sqrt(1 - cosine**2) * apart
    return mixtures


def growth(rows: np.ndarray, counts: list[int]) -> None:
    print(f"\ngrowth, {platform.machine()}, {os.cpu_count()} cores; threshold 0.93")
    print(f"{'rows':>10}{'CPU s':>10}{'pairs':>10}{'groups':>10}{'recall':>10}{'peak MiB':>10}")
    for count in counts:
        matrix = corpus(rows, count)
        began = time.process_time()
        pairs = near_pairs(matrix, 0.93)
        groups = leader_groups(pairs)
        seconds = time.process_time() - began
        recall = recall_of(matrix, pairs) if count <= 50_000 else None
        shown = "" if recall is None else f"{100 * recall:.2f} %"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{count:>10,}{seconds:>10.1f}{len(pairs.later):>10,}{len(groups):>10,}{shown:>10}{peak:>10,}"
        )


def recall_of(matrix: np.ndarray, pairs: pair_search.Pairs) -> float:
    """The share of the pairs found by comparing all with all."""
    with patch.object(pair_search, "EXACT", len(matrix)):
        true = near_pairs(matrix, 0.93)
    found, expected = (each.later * len(matrix) + each.earlier for each in (pairs, true))
    return float(np.isin(expected, found).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flickr8k", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 40_000, 100_000])
    options = parser.parse_args()
    encoder = mmsearch.load_encoder(options.model)
    rows = copies(options.flickr8k, encoder)
    captions = read_captions(options.flickr8k / "captions.tsv")
    texts = [several[0] for several in captions.values()]
    growth(np.concatenate([rows, encoder.encode("text", texts)]), options.rows)


if __name__ == "__main__":
    main()
