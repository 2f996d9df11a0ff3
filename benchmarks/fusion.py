"""Which fusion, and with which weights: recall on an index of captioned photos, and on a mixed one.

    python benchmarks/fusion.py --data FLICKR8K [--model mini]

Each dev photo keeps its first caption; captions 2 to 5 are its queries (every fourth of them is
used, unless --every says otherwise). Three rankings are fused: by picture, by caption, by words
(BM25). In the mixed index half of the photos have no caption: there the recall of photos with and
without one is also printed apart, and how many of the first ten hits have one. Fusion and weights
were chosen on these figures. Differences are to the default, with 95 % bootstrap intervals over
photos.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from datasets import Photos, by_group, options, photos_of

import mmsearch
from mmsearch.encoders.query_bank import shipped_bank
from mmsearch.metrics import bootstrap_interval
from mmsearch.search.fusion import DEFAULT, FUSIONS, WEIGHTS
from mmsearch.spaces.calibration import Background
from mmsearch.vectors.hubness import hub_weight, hubs

Ranking = list[tuple[int, float]]

STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at with and is are to by for from his her its their it he she they as "
        "while there that this up down out over into",
    )
)


DEPTH = 100


@dataclass
class Query:
    """One caption and its scores with all photos, by ranking."""

    owner: int
    words: int
    image: np.ndarray
    text: np.ndarray
    bm25: np.ndarray


def queries_of(dev: Photos, bank: dict[str, np.ndarray]) -> list[Query]:
    first = dev.first()
    stored = dev.texts[first]
    image_penalty = hub_weight("text", "image") * hubs(dev.images, bank["text"])
    caption_penalty = hub_weight("text", "text") * hubs(stored, bank["text"])
    words = Words([dev.captions[row] for row in first])
    queries = []
    for row in np.setdiff1d(np.arange(len(dev.texts)), first).tolist():
        vector, terms = dev.texts[row], terms_of(dev.captions[row])
        image, text = dev.images @ vector - image_penalty, stored @ vector - caption_penalty
        queries.append(Query(int(dev.owner[row]), len(terms), image, text, words.scores(terms)))
    return queries


def terms_of(text: str) -> set[str]:
    """Roughly stemmed words."""
    words = set(re.findall(r"[a-z0-9]+", text.lower())) - STOP
    return {re.sub(r"(?<=...)(ing|es|s|ed)$", "", word) for word in words}


class Words:
    """BM25 over captions (k1 1.2, b 0.75)."""

    def __init__(self, captions: list[str]) -> None:
        counters = [Counter(terms_of(caption)) for caption in captions]
        lengths = np.array([sum(counts.values()) for counts in counters])
        self._size = len(counters)
        self._postings: dict[str, list[tuple[int, float]]] = {}
        norms = 1.2 * (0.25 + 0.75 * lengths / lengths.mean())
        for row, counts in enumerate(counters):
            for word, times in counts.items():
                part = times * 2.2 / (times + norms[row])
                self._postings.setdefault(word, []).append((row, part))

    def scores(self, terms: set[str]) -> np.ndarray:
        """(captions,); 0 for captions without any of the words."""
        scores = np.zeros(self._size)
        for word in terms & self._postings.keys():
            postings = self._postings[word]
            idf = math.log(1 + (self._size - len(postings) + 0.5) / (len(postings) + 0.5))
            for row, part in postings:
                scores[row] += idf * part
        return scores


@dataclass
class RankedQuery:
    """A query of one index: standardised rankings of all candidates."""

    owner: int
    words: int
    rankings: dict[str, Ranking]
    absent: dict[str, float | None]

    def fused(self, method: str, weights: dict[str, float]) -> list[int]:
        """Rows of photos, best first."""
        counts = {name: weights[name] for name in self.rankings if weights[name]}
        if "words" in counts:
            counts["words"] /= max(self.words, 1)
        rankings = [self.rankings[name] for name in counts]
        absent = [self.absent[name] for name in counts]
        return [row for row, _ in FUSIONS[method](rankings, list(counts.values()), absent)]


def rank(query: Query, captioned: np.ndarray) -> RankedQuery:
    """Candidates are the best DEPTH of each ranking; each scores all candidates that it has."""
    rows = np.flatnonzero(captioned)
    matching = rows[query.bm25[rows] > 0]
    scored = {
        "image": (query.image, np.arange(len(captioned))),
        "text": (query.text, rows),
        "words": (query.bm25, matching),
    }
    backgrounds = {
        name: Background.of(scores[among], len(among))
        for name, (scores, among) in scored.items()
        if name != "words"
    }
    backgrounds["words"] = Background.of_words(query.bm25[matching].tolist(), len(captioned))
    candidates = {
        row for scores, among in scored.values() for row in best_of(scores, among)[:DEPTH].tolist()
    }
    rankings = {}
    for name, (scores, among) in scored.items():
        ordered = best_of(scores, np.intersect1d(among, sorted(candidates)))
        rankings[name] = [
            (row, backgrounds[name].standardised(scores[row])) for row in ordered.tolist()
        ]
    absent = {"image": None, "text": None, "words": backgrounds["words"].standardised(0.0)}
    return RankedQuery(query.owner, query.words, rankings, absent)


def best_of(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return rows[np.argsort(-scores[rows], kind="stable")]


def measured(
    queries: list[RankedQuery], captioned: np.ndarray, method: str, weights: dict[str, float]
) -> tuple[np.ndarray, float]:
    """R@1, R@5, R@10 of each photo in per cent (photos, 3), and captioned among the first ten."""
    values, share = [], 0
    for query in queries:
        order = query.fused(method, weights)
        rank_ = order.index(query.owner) + 1 if query.owner in order else math.inf
        values.append([100.0 * (rank_ <= k) for k in (1, 5, 10)])
        share += int(captioned[order[:10]].sum())
    owners = np.array([query.owner for query in queries])
    return by_group(np.array(values), owners), share / (10 * len(queries))


def tables(every: list[Query], captioned: np.ndarray) -> None:
    queries = [rank(query, captioned) for query in every]
    chosen = dict(WEIGHTS)
    without = chosen | {"words": 0.0}
    runs = [
        ("picture alone", "wsum", {"image": 1.0, "text": 0.0, "words": 0.0}),
        ("wsum, picture and caption", "wsum", without),
        *((f"wsum, caption {w}", "wsum", without | {"text": w}) for w in (0.5, 1.5)),
        *((f"wsum, words {w}", "wsum", chosen | {"words": w}) for w in (0.25, 0.5, 1.0, 2.0)),
        ("rrf, picture and caption", "rrf", without),
        ("rrf, words 0.5", "rrf", chosen),
        ("combmnz, picture and caption", "combmnz", without),
        ("combmnz, words 0.5", "combmnz", chosen),
    ]
    before, _ = measured(queries, captioned, DEFAULT, chosen)
    for title, method, weights in runs:
        values, share = measured(queries, captioned, method, weights)
        line = f"  {title:<30}" + " ".join(f"{mean:5.1f}" for mean in values.mean(axis=0))
        if not captioned.all():
            for part in (captioned, ~captioned):
                line += "  |" + " ".join(f"{mean:5.1f}" for mean in values[part].mean(axis=0))
            line += f"  | {share:.2f} "
        for column in (0, 2):
            gain = bootstrap_interval(values[:, column] - before[:, column])
            line += f"  {gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        print(line, flush=True)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=4, help="take every n-th query")
    given = parser.parse_args()
    dev = photos_of(given, "dev")
    bank = shipped_bank(given.model, mmsearch.load_encoder(given.model).fingerprint)
    if bank is None:
        raise SystemExit(f"{given.model} ships no bank")
    queries = queries_of(dev, dict(bank.rows))[:: given.every]
    print(f"{len(dev.images)} photos, {len(queries)} queries, default {DEFAULT}, {dict(WEIGHTS)}")
    print("every photo has a caption: R@1 R@5 R@10, and differences of R@1 and R@10")
    tables(queries, np.ones(len(dev.images), bool))
    captioned = np.zeros(len(dev.images), bool)
    captioned[np.random.default_rng(0).permutation(len(captioned))[: len(captioned) // 2]] = True
    print("half have one: R@k | of those with | of those without | captioned among the first ten")
    tables(queries, captioned)


if __name__ == "__main__":
    main()
