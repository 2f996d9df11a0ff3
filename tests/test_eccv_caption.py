"""Recall@K, R-precision and mAP@R are those of eccv_caption, on its ground truth of MS-COCO.

The ground truth is part of that package: COCO's own 5,000 photos with 25,000 captions, in one and
in five folds; CxC (Crisscrossed Captions) and ECCV Caption, which judge more pairs as relevant.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy

import numpy as np
import pytest

from mmsearch.evaluation.results import CUTOFFS, MEANS, outcome_of, values_of

eccv_caption = pytest.importorskip("eccv_caption")

Truth = Mapping[int, Collection[int]]
"""By query, what is relevant."""
Rankings = Mapping[int, Sequence[int]]

ITS_NAMES = {"Recall@1": "eccv_r1", "R-precision": "eccv_rprecision", "mAP@R": "eccv_map_at_r"}
DEPTH = 100
"""More than any query has relevant items (48)."""


def truths(metrics) -> dict[str, dict[str, Truth]]:
    """The ground truth by name and direction, i2t or t2i."""
    return {"COCO": metrics.coco_gts, "CxC": metrics.cxc_gts, "ECCV": metrics.eccv_gts}


def rankings(truth: Sequence[Truth], gallery: np.ndarray, found: float) -> Rankings:
    """A made ranking of each query: what several truths call relevant, among random items.

    Args:
        truth: Several of the same queries.
        gallery: The items that are searched.
        found: The share of relevant items that come up, most of them early.
    """
    chance = np.random.default_rng(7)
    made = {}
    for query in truth[0]:
        relevant = np.unique([item for one in truth for item in one.get(query, ())])
        up = relevant[chance.random(len(relevant)) < found]
        items = np.concatenate([up, chance.choice(gallery, DEPTH)])
        order = np.concatenate([chance.exponential(10.0, len(up)), np.arange(DEPTH)])
        made[query] = list(dict.fromkeys(items[np.argsort(order)].tolist()))
    return made


@pytest.fixture(scope="module")
def judge():
    return eccv_caption.Metrics()


@pytest.fixture(scope="module", params=[0.0, 0.7], ids=["chance", "noisy oracle"])
def made(judge, request) -> dict[str, Rankings]:
    """Rankings by direction."""
    gallery = {"i2t": judge.coco_ids, "t2i": np.array(list(judge.coco_gts["i2t"]))}
    return {
        way: rankings([truth[way] for truth in truths(judge).values()], items, request.param)
        for way, items in gallery.items()
    }


def ours(truth: Truth, found: Rankings) -> dict[str, float]:
    """What `evaluate` reports for these rankings."""
    outcomes = [
        outcome_of(("forward", query), "", (), found[query], dict.fromkeys(relevant, 1.0))
        for query, relevant in truth.items()
    ]
    return dict(zip(MEANS, values_of(outcomes)[0].mean(axis=0), strict=True))


@pytest.mark.parametrize("name", ["COCO", "CxC", "ECCV"])
def test_the_measures_are_those_of_eccv_caption(judge, made, name):
    truth = truths(judge)[name]
    measured = {way: ours(truth[way], made[way]) for way in made}
    its_recall = {"COCO": "coco_5k_recalls", "CxC": "cxc_recalls", "ECCV": "eccv_recalls"}[name]
    for cutoff in CUTOFFS:
        for way, recall in getattr(judge, its_recall)(made, "all", cutoff).items():
            assert measured[way][f"Recall@{cutoff}"] == pytest.approx(recall, abs=1e-9)
    it = copy(judge)
    it.eccv_gts = truth  # the only ground truth for which it offers the other two
    reported = it.eccv_metrics(made, "all")
    for way in made:
        for measure, its_name in ITS_NAMES.items():
            assert measured[way][measure] == pytest.approx(reported[its_name][way], abs=1e-9)


def test_recall_in_five_folds_is_coco_1k(judge, made):
    photo_of = {caption: photos[0] for caption, photos in judge.coco_gts["t2i"].items()}
    found: dict[str, list[dict[str, float]]] = {"i2t": [], "t2i": []}
    for captions in np.split(judge.coco_ids, 5):
        fold = {"i2t": set(captions.tolist()), "t2i": {photo_of[one] for one in captions.tolist()}}
        for way, other in (("i2t", "t2i"), ("t2i", "i2t")):
            truth = {query: judge.coco_gts[way][query] for query in fold[other]}
            within = {
                query: [item for item in made[way][query] if item in fold[way]] for query in truth
            }
            found[way].append(ours(truth, within))
    for cutoff in CUTOFFS:
        reported = judge.coco_1k_recalls(made, "all", cutoff)
        for way, folds in found.items():
            recall = np.mean([fold[f"Recall@{cutoff}"] for fold in folds])
            assert recall == pytest.approx(reported[way], abs=1e-9)
