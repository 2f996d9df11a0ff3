"""Whether confidence separates queries whose photo is in the index from those whose photo is not.

    python benchmarks/confidence.py --data FLICKR8K [--model mini]

Every dev caption is a query twice, once with its photo in the index and once without. AUROC is the
chance that the best score of a query with its photo is above that of a query without (of any
query, not of the same). Intervals: 95 %, bootstrap over photos. 50 is no better than tossing a
coin; when most captions do not find their photo first, the best score is the same with it and
without, and nothing can be far above 50.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import options, photos_of

import mmsearch
from mmsearch.encoders.query_bank import QueryBank, shipped_bank, typical_texts
from mmsearch.spaces.calibration import NO_GOOD_MATCH, Background, Reference, expected
from mmsearch.vectors.hubness import WEIGHTS_WITHOUT, augmented, augmented_query, hub_weight, hubs

RESAMPLES = 1_000

FOUND = """a dog|a dog running|a dog in the snow|a dog in water|a dog on the beach|two dogs playing
a person climbing|rock climbing|a climber|a child|children playing|a boy|a girl|a baby|a man|a woman
a crowd of people|people on a street|a swimming pool|a child in a swimming pool|swimming|surfing
a surfer on a wave|skateboarding|a skateboarder|snowboarding|skiing|a bicycle|a cyclist|a motorcycle
motocross|a race|football players|soccer|basketball|baseball|tennis|a football player|a beach|snow
the ocean|a lake|a mountain|grass|a field|a forest|a playground|a slide|a swing|jumping|running
a man on a bench|a horse|a fountain|a car|a boat|a red shirt|a street at night|a ball|a frisbee"""
"""Flickr8k has several photos of each."""

ABSURD = """a submarine|quarterly tax report|zxqv|a nuclear reactor|a jellyfish|a bowl of ramen
an MRI scan of a brain|a bar chart of sales|the periodic table|a circuit board|sushi on a plate
a washing machine|an espresso machine|a polar bear on ice|a giraffe|a penguin|a rattlesnake
an octopus|a microscope|a satellite in orbit|the surface of mars|a wind turbine|an oil rig|an x-ray
the eiffel tower|a blueprint of a house|a screenshot of a spreadsheet|a tax form|a chess board
handwritten equations|open heart surgery|a bouquet of roses|a cactus|a peacock|asdf jkl qwer
lorem ipsum dolor sit amet|the quick inflation of prices|constitutional law|quantum mechanics
invoice number 4711|def main(): return 0|select * from users|42|stock market crash|a passport
a crocodile|a lobster|a plate of spaghetti|a container ship|stained glass window|a tornado"""
"""Flickr8k has no photo of these, as far as its captions say."""


def lines(block: str) -> list[str]:
    return block.replace("\n", "|").split("|")


@dataclass
class Space:
    """The rows that a query is compared with, and what its scores are calibrated by."""

    rows: np.ndarray
    """(n, dim + 8), augmented by hubs."""
    weight: float
    bank: np.ndarray | None
    reference: Reference

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """(queries, n)."""
        return (
            np.stack([augmented_query(query, "text", self.weight) for query in queries])
            @ self.rows.T
        )

    def confidence(self, query: np.ndarray, scores: np.ndarray) -> float:
        """Of the best of a query's scores."""
        augmented_one = augmented_query(query, "text", self.weight)
        of_bank = None if self.bank is None else self.bank @ augmented_one
        background = Background.of(scores, len(scores), bank=of_bank, reference=self.reference)
        return background.confidence(float(scores.max())) or 0.0


def with_bank(images: np.ndarray, bank: QueryBank) -> Space:
    items = augmented(bank.rows["image"], bank.hubs["text", "image"])
    numbers = bank.references["text", "image"].tolist()
    rows = augmented(images, hubs(images, bank.rows["text"]))
    return Space(rows, hub_weight("text", "image"), items, Reference(*numbers))


def without_bank(images: np.ndarray, sentences: np.ndarray) -> Space:
    """For a model without a shipped bank: sentences, and a sample of the index."""
    weight = WEIGHTS_WITHOUT["text", "image"]
    rows = augmented(images, hubs(images, sentences))
    queries = np.stack([augmented_query(query, "text", weight) for query in sentences[:500]])
    sample = rows[:: max(1, len(rows) // 2_000)]
    return Space(rows, weight, None, Reference.of(queries @ sample.T))


def best(scores: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best score of each query with its own item, and without."""
    without = scores.copy()
    without[np.arange(len(own)), own] = -np.inf
    return scores.max(axis=1), without.max(axis=1)


def statistics(
    queries: np.ndarray, own: np.ndarray, images: np.ndarray, space: Space, any_model: Space
) -> dict[str, np.ndarray]:
    """By name, (2, queries): with the photo, and without it."""
    cosines, scores = queries @ images.T, space.scores(queries)
    rows = np.stack([augmented_query(query, "text", space.weight) for query in queries])
    by_chance = np.array([expected(row) for row in rows @ space.bank.T])
    corrected = np.stack(best(scores, own))
    others = np.ones(scores.shape, bool)
    others[np.arange(len(own)), own] = False
    without = scores[others].reshape(len(scores), -1)
    outstanding = [in_background(each) for each in (scores, without)]
    return {
        "cosine": np.stack(best(cosines, own)),
        "cosine - hub/2": corrected,
        "confidence": corrected - by_chance,
        "standardised": np.stack([deviations for deviations, _ in outstanding]),
        "tail above the 90th": np.stack([tails for _, tails in outstanding]),
        "confidence, any model": np.stack(best(any_model.scores(queries), own)),
    }


def in_background(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the best score stands out: in deviations, and in the scale of the upper tail.

    The tail is exponential above the 90th percentile, fitted without the best score itself.
    """
    top, center, spread = scores.max(axis=1), scores.mean(axis=1), scores.std(axis=1)
    tenth = np.quantile(scores, 0.9, axis=1)
    excess = np.maximum(scores - tenth[:, None], 0)
    mean = (excess.sum(axis=1) - excess.max(axis=1)) / ((excess > 0).sum(axis=1) - 1)
    return (top - center) / spread, (top - tenth) / mean


def auroc(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC in per cent of each row of weights (resamples, queries); ties count half."""
    with_photo, without = values.round(6)
    levels, where = np.unique(np.concatenate([with_photo, without]), return_inverse=True)
    areas = np.empty(len(weights))
    for row, weight in enumerate(weights):
        above = np.bincount(where[: len(weight)], weight, len(levels))
        below = np.bincount(where[len(weight) :], weight, len(levels))
        wins = (above * (np.cumsum(below) - below / 2)).sum()
        areas[row] = 100 * wins / (above.sum() * below.sum())
    return areas


def resamples(owner: np.ndarray) -> np.ndarray:
    """How often each query is drawn when photos are, one row a resample; all once in the first."""
    photos = np.unique(owner, return_inverse=True)[1]
    drawn = np.random.default_rng(0).multinomial(
        photos.max() + 1, np.full(photos.max() + 1, 1 / (photos.max() + 1)), RESAMPLES
    )
    return np.concatenate([np.ones((1, len(photos))), drawn[:, photos]])


def show(title: str, values_of: dict[str, np.ndarray], owner: np.ndarray) -> None:
    weights = resamples(owner)
    areas = {name: auroc(values, weights) for name, values in values_of.items()}
    print(f"{title}, {len(owner)} queries: AUROC, and its difference to the cosine's")
    for name, area in areas.items():
        gain = area - areas["cosine"]
        shown = "".join(
            f"{values[0]:8.2f} [{low:.2f}, {high:.2f}]"
            for values, (low, high) in (
                (one, np.quantile(one[1:], [0.025, 0.975])) for one in (area, gain)
            )
        )
        print(f"  {name:<24}{shown}", flush=True)


def reliability(
    title: str, queries: np.ndarray, own: np.ndarray, space: Space, others: dict[str, np.ndarray]
) -> None:
    """Print which queries pass a threshold, and how many of those have their photo first."""
    right, with_photo, without = [], [], []
    for query, owner, scores in zip(queries, own, space.scores(queries), strict=True):
        right.append(scores.argmax() == owner)
        with_photo.append(space.confidence(query, scores))
        without.append(space.confidence(query, np.delete(scores, owner)))
    groups = {"with its photo": np.array(with_photo), "without its photo": np.array(without)}
    for name, vectors in others.items():
        pairs = zip(vectors, space.scores(vectors), strict=True)
        groups[name] = np.array([space.confidence(query, scores) for query, scores in pairs])
    print(f"{title}: % at or above a confidence; of those with their photo, % with it at rank 1")
    print(f"  {'':<24}" + "".join(f"{level:>8}" for level in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)))
    for name, values in groups.items():
        cells = [100 * (values >= level).mean() for level in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)]
        print(f"  {name:<24}" + "".join(f"{cell:8.1f}" for cell in cells))
    hit = np.array(right)
    cells = [
        100 * hit[groups["with its photo"] >= one].mean() for one in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
    ]
    print(f"  {'right':<24}" + "".join(f"{cell:8.1f}" for cell in cells), flush=True)


def main() -> None:
    given = options(__doc__.splitlines()[0]).parse_args()
    dev, train = photos_of(given, "dev"), photos_of(given, "train")
    encoder = mmsearch.load_encoder(given.model)
    bank = shipped_bank(given.model, encoder.fingerprint)
    if bank is None:
        raise SystemExit(f"{given.model} ships no bank")
    sentences = encoder.encode("text", typical_texts())
    parts = []
    for start in range(0, len(dev.images), 200):
        chosen = (dev.owner >= start) & (dev.owner < start + 200)
        images = dev.images[start : start + 200]
        spaces = with_bank(images, bank), without_bank(images, sentences)
        parts.append(statistics(dev.texts[chosen], dev.owner[chosen] - start, images, *spaces))
    order = np.argsort(dev.owner // 200, kind="stable")
    small = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
    show("200 photos", small, dev.owner[order])
    space = with_bank(dev.images, bank)
    any_model = without_bank(dev.images, sentences)
    show("1,000 photos", statistics(dev.texts, dev.owner, dev.images, space, any_model), dev.owner)
    every = np.concatenate([dev.images, train.images])
    large = with_bank(every, bank)
    values = statistics(dev.texts, dev.owner, every, large, without_bank(every, sentences))
    show(f"{len(every):,} photos", values, dev.owner)
    print(f"a hit below {NO_GOOD_MATCH} is no good match")
    others = {
        "short words, many match": encoder.encode("text", lines(FOUND)),
        "absurd": encoder.encode("text", lines(ABSURD)),
    }
    first = dev.texts[dev.first()]
    owners = np.arange(len(first))
    tiny = with_bank(dev.images[:20], bank)
    reliability("20 photos", first[:20], owners[:20], tiny, others)
    fewer = with_bank(dev.images[:200], bank)
    reliability("200 photos", first[:200], owners[:200], fewer, others)
    reliability("1,000 photos", first, owners, space, others)
    reliability(f"{len(every):,} photos", first, owners, large, others)
    reliability("1,000 photos, any model", first, owners, any_model, others)


if __name__ == "__main__":
    main()
