"""Whether one liked hit makes a search better: average precision before and after, with intervals.

    python benchmarks/feedback.py --flickr8k FOLDER --esc10 FOLDER [--model mini]

Flickr8k (captions.tsv, images/, dev.txt): each caption is a query. Relevant are its photo and the
photos whose own captions use the same words: of the 19 nearest by TF-IDF cosine of all five
captions together, those of at least 0.25. So relevance does not depend on any vector. dev is split
at random into two collections of 500 photos; weights may be chosen on the first, the second says
how good they are. ESC-10 (audio/, labels.tsv): a label, or a sound, is the query and the sounds of
its class are relevant. `mini` was trained on these sounds, so its figures there say that feedback
does no harm, not how good it is with sounds.

The liked hit is the best relevant one (other than the query itself); it is removed from both
rankings, before and after: the residual collection. The disliked hit is the best one that is not
relevant, and is removed from both likewise.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

import numpy as np
from datasets import encode_images, labelled_sounds, split_of

import mmsearch
from mmsearch.media.audio import windows
from mmsearch.media.captions import read_captions
from mmsearch.metrics import bootstrap_interval
from mmsearch.search.feedback import ALPHA, BETA, GAMMA, rocchio

BETAS = (0.1, 0.25, 0.4, 0.5, 0.75, 1.0, 2.0)
NEAREST, MIN_COSINE = 19, 0.25
COMMON = re.compile(
    r"(an?|the|of|in|on|at|with|and|is|are|to|his|her|their|its?|by|for|from|while|that|as|there|"
    r"this|into|out|up|down|two)$"
)


class Collection:
    """Vectors (n, dim), and for each query: its vector, its group, what is relevant, its row."""

    def __init__(self, rows, queries, groups, relevant, own=None):
        self.rows, self.queries, self.groups, self.relevant = rows, queries, groups, relevant
        self.own = [-1] * len(queries) if own is None else own


def average_precision(right: np.ndarray) -> float:
    """Of a ranking's hits, True where relevant."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].mean()) if right.any() else 0.0


def measured(data: Collection, variants: list[dict]) -> np.ndarray:
    """Average precision (groups, 1 + variants): before, then after each; means over a group."""
    mean = data.rows.mean(axis=0)
    by_group: dict[object, list[list[float]]] = {}
    queries = zip(data.queries, data.groups, data.relevant, data.own, strict=True)
    for query, group, relevant, own in queries:
        order = np.argsort(-(data.rows @ query), kind="stable")
        order = order[order != own]
        hits = relevant[order]
        if hits.sum() < 2:
            continue
        liked, unliked = order[np.argmax(hits)], order[np.argmin(hits)]
        row = []
        for variant in [{}, *variants]:
            weights = dict(variant)
            disliked, centred = weights.pop("disliked", False), weights.pop("centred", True)
            vector = query
            if variant:
                vector = rocchio(
                    query,
                    data.rows[[liked]],
                    data.rows[[unliked]] if disliked else data.rows[:0],
                    mean=mean if centred else None,
                    **weights,
                )
            after = np.argsort(-(data.rows @ vector), kind="stable")
            after = after[~np.isin(after, [own, liked, unliked])]
            row.append(average_precision(relevant[after]))
        by_group.setdefault(group, []).append(row)
    return np.array([np.mean(rows, axis=0) for rows in by_group.values()])


def table(title: str, data: Collection, variants: list[dict]) -> None:
    values = 100 * measured(data, variants)
    print(f"\n{title}: {len(values)} groups of queries, average precision in %")
    print(f"{'before':<36}{values[:, 0].mean():6.1f}")
    for number, variant in enumerate(variants, start=1):
        gain = bootstrap_interval(values[:, number] - values[:, 0])
        name = ", ".join(f"{key}={value}" for key, value in variant.items())
        shown = f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        print(f"{name:<36}{values[:, number].mean():6.1f}  {shown}")


def by_words(captions: list[list[str]]) -> np.ndarray:
    """TF-IDF cosines (n, n) of photos by the words of their captions."""
    bags = [
        Counter(w for w in re.findall("[a-z]+", " ".join(c).lower()) if not COMMON.match(w))
        for c in captions
    ]
    columns = {word: column for column, word in enumerate(sorted({w for bag in bags for w in bag}))}
    matrix = np.zeros((len(bags), len(columns)))
    for row, bag in zip(matrix, bags, strict=True):
        for word, count in bag.items():
            row[columns[word]] = 1 + np.log(count)
    matrix *= np.log(len(bags) / (matrix > 0).sum(axis=0))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-9)
    return matrix @ matrix.T


def flickr8k(folder: Path, encoder) -> tuple[Collection, Collection]:
    photos = split_of(folder, "dev")
    captions = read_captions(folder / "captions.tsv")
    parts = np.random.default_rng(0).permutation(len(photos))
    return tuple(  # type: ignore[return-value]
        captioned([photos[i] for i in sorted(part)], captions, encoder)
        for part in np.array_split(parts, 2)
    )


def captioned(photos: list[Path], captions, encoder) -> Collection:
    rows = encode_images(encoder, photos)
    texts = [captions[photo.name] for photo in photos]
    cosines = by_words(texts)
    relevant = np.eye(len(photos), dtype=bool)
    for row in range(len(photos)):
        nearest = [other for other in np.argsort(-cosines[row]) if other != row][:NEAREST]
        relevant[row, [other for other in nearest if cosines[row, other] >= MIN_COSINE]] = True
    owners = [row for row, several in enumerate(texts) for _ in several]
    queries = encoder.encode("text", [text for several in texts for text in several])
    return Collection(rows, queries, owners, [relevant[owner] for owner in owners])


def esc10(folder: Path, encoder) -> tuple[Collection, Collection]:
    sounds = labelled_sounds(folder)
    rows = np.stack([vector_of(path, encoder) for path, _ in sounds])
    labels = np.array([label for _, label in sounds])
    kinds = sorted(set(labels))
    queries = encoder.encode("text", [f"the sound of {kind.lower()}" for kind in kinds])
    words = Collection(rows, queries, kinds, [labels == kind for kind in kinds])
    same_class = [labels == label for label in labels]
    return words, Collection(rows, rows, range(len(rows)), same_class, list(range(len(rows))))


def vector_of(path: Path, encoder) -> np.ndarray:
    waves = [encoder.prepare("audio", wave) for _, wave in windows(path, encoder.sample_rate)]
    mean = encoder.encode("audio", waves).mean(axis=0)
    return mean / np.linalg.norm(mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flickr8k", type=Path)
    parser.add_argument("--esc10", type=Path)
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    encoder = mmsearch.load_encoder(options.model)
    print(f"{options.model}; shipped weights α {ALPHA}, β {BETA}, γ {GAMMA}, centred")
    shipped = [{"beta": BETA}, {"beta": BETA, "disliked": True}]
    if options.flickr8k:
        first, second = flickr8k(options.flickr8k, encoder)
        variants = [{"beta": b, "centred": c} for c in (False, True) for b in BETAS]
        variants += [{"beta": BETA, "gamma": g, "disliked": True} for g in (0.0, 0.1, 0.25)]
        table("Flickr8k dev, first half, caption → photos (to choose by)", first, variants)
        table("Flickr8k dev, second half, caption → photos", second, shipped)
    if options.esc10:
        words, sounds = esc10(options.esc10, encoder)
        table("ESC-10, label → sounds", words, shipped)
        table("ESC-10, sound → sounds", sounds, shipped)


if __name__ == "__main__":
    main()
