"""Whether one liked hit makes a search better: average precision before and after, with intervals.

    python benchmarks/feedback.py --flickr8k FOLDER --esc10 FOLDER [--model mini]

Flickr8k (captions.tsv, images/, dev.txt): each caption is a query. Relevant are its photo and the
photos whose own captions use the same words: of the 19 nearest by TF-IDF cosine of all five
captions together, those of at least 0.25. So no vector has a say in what is relevant. dev is split
at random into two collections of 500 photos; weights may be chosen on the first, the second says
how good they are. ESC-10 (audio/, labels.tsv): a label, or a sound, is the query and the sounds of
its class are relevant. `mini` was trained on these sounds, so its figures there say that feedback
does no harm, not how well it hears.

What is liked is the best hit that is relevant (and is not the query itself); it is taken out of
both rankings, before and after: the residual collection. What is not liked is the best hit that is
not relevant, taken out of both likewise.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

import mmsearch
from mmsearch.media.audio import windows
from mmsearch.media.captions import read_captions
from mmsearch.metrics import bootstrap_interval
from mmsearch.search.feedback import ALPHA, BETA, GAMMA, rocchio

BETAS = (0.1, 0.25, 0.4, 0.5, 0.75, 1.0, 2.0)
NEAR, LEAST = 19, 0.25
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
    found: dict[object, list[list[float]]] = {}
    asked = zip(data.queries, data.groups, data.relevant, data.own, strict=True)
    for query, group, relevant, own in asked:
        order = np.argsort(-(data.rows @ query), kind="stable")
        order = order[order != own]
        right = relevant[order]
        if right.sum() < 2:
            continue
        liked, unliked = order[np.argmax(right)], order[np.argmin(right)]
        row = []
        for variant in [{}, *variants]:
            told = dict(variant)
            down, centred = told.pop("down", False), told.pop("centred", True)
            vector = query
            if variant:
                vector = rocchio(
                    query,
                    data.rows[[liked]],
                    data.rows[[unliked]] if down else data.rows[:0],
                    mean=mean if centred else None,
                    **told,
                )
            after = np.argsort(-(data.rows @ vector), kind="stable")
            after = after[~np.isin(after, [own, liked, unliked])]
            row.append(average_precision(relevant[after]))
        found.setdefault(group, []).append(row)
    return np.array([np.mean(rows, axis=0) for rows in found.values()])


def table(title: str, data: Collection, variants: list[dict]) -> None:
    values = 100 * measured(data, variants)
    print(f"\n{title}: {len(values)} groups of queries, average precision in %")
    print(f"{'before':<34}{values[:, 0].mean():6.1f}")
    for number, variant in enumerate(variants, start=1):
        gain = bootstrap_interval(values[:, number] - values[:, 0])
        name = ", ".join(f"{key}={value}" for key, value in variant.items())
        shown = f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        print(f"{name:<34}{values[:, number].mean():6.1f}  {shown}")


def by_words(captions: list[list[str]]) -> np.ndarray:
    """TF-IDF cosines (n, n) of photos by the words of their captions."""
    bags = [
        Counter(w for w in re.findall("[a-z]+", " ".join(c).lower()) if not COMMON.match(w))
        for c in captions
    ]
    places = {word: place for place, word in enumerate(sorted({w for bag in bags for w in bag}))}
    matrix = np.zeros((len(bags), len(places)))
    for row, bag in zip(matrix, bags, strict=True):
        for word, count in bag.items():
            row[places[word]] = 1 + np.log(count)
    matrix *= np.log(len(bags) / (matrix > 0).sum(axis=0))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-9)
    return matrix @ matrix.T


def flickr8k(folder: Path, encoder) -> tuple[Collection, Collection]:
    names = (folder / "dev.txt").read_text(encoding="utf-8").split()
    captions = read_captions(folder / "captions.tsv")
    parts = np.random.default_rng(0).permutation(len(names))
    return tuple(  # type: ignore[return-value]
        photos_of([names[i] for i in sorted(part)], captions, folder / "images", encoder)
        for part in np.array_split(parts, 2)
    )


def photos_of(names, captions, folder: Path, encoder) -> Collection:
    rows = encoder.encode("image", [Image.open(folder / name) for name in names])
    texts = [captions[name] for name in names]
    alike = by_words(texts)
    relevant = np.eye(len(names), dtype=bool)
    for row in range(len(names)):
        nearest = [other for other in np.argsort(-alike[row]) if other != row][:NEAR]
        relevant[row, [other for other in nearest if alike[row, other] >= LEAST]] = True
    owners = [row for row, several in enumerate(texts) for _ in several]
    queries = encoder.encode("text", [text for several in texts for text in several])
    return Collection(rows, queries, owners, [relevant[owner] for owner in owners])


def esc10(folder: Path, encoder) -> tuple[Collection, Collection]:
    lines = (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()
    named = [line.split("\t")[:2] for line in lines if "\t" in line]
    named = [(name, label) for name, label in named if (folder / "audio" / name).is_file()]
    rows = np.stack([_heard(folder / "audio" / name, encoder) for name, _ in named])
    labels = np.array([label for _, label in named])
    kinds = sorted(set(labels))
    asked = encoder.encode("text", [f"the sound of {kind.lower()}" for kind in kinds])
    words = Collection(rows, asked, kinds, [labels == kind for kind in kinds])
    alike = [labels == label for label in labels]
    return words, Collection(rows, rows, range(len(rows)), alike, list(range(len(rows))))


def _heard(path: Path, encoder) -> np.ndarray:
    waves = [encoder.prepare("audio", wave) for _, wave in windows(path, encoder.sample_rate)]
    mean = encoder.encode("audio", waves).mean(axis=0)
    return mean / np.linalg.norm(mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flickr8k", type=Path)
    parser.add_argument("--esc10", type=Path)
    parser.add_argument("--model", default="mini")
    asked = parser.parse_args()
    encoder = mmsearch.load_encoder(asked.model)
    print(f"{asked.model}; shipped weights α {ALPHA}, β {BETA}, γ {GAMMA}, centred")
    shipped = [{"beta": BETA}, {"beta": BETA, "down": True}]
    if asked.flickr8k:
        first, second = flickr8k(asked.flickr8k, encoder)
        tried = [{"beta": b, "centred": c} for c in (False, True) for b in BETAS]
        tried += [{"beta": BETA, "gamma": g, "down": True} for g in (0.0, 0.1, 0.25)]
        table("Flickr8k dev, first half, caption → photos (to choose by)", first, tried)
        table("Flickr8k dev, second half, caption → photos", second, shipped)
    if asked.esc10:
        words, sounds = esc10(asked.esc10, encoder)
        table("ESC-10, label → sounds", words, shipped)
        table("ESC-10, sound → sounds", sounds, shipped)


if __name__ == "__main__":
    main()
