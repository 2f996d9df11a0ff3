"""How much tuning on captions improves a space, on photos that it was not tuned on.

    python benchmarks/tune.py --data COCO
    python benchmarks/tune.py --data COCO --choose

COCO has `captions.tsv` (file, caption) and `images/`. A third of the photos is held out. An index
of the others is tuned on their captions, with default settings; then the held-out photos are added,
and both directions are searched among them, with and without the tuning.

`--choose` compares other hyperparameters by cross-validation on the training photos alone; it never
uses the held-out ones.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import mmsearch
from mmsearch.evaluation import Evaluation, compare, evaluate
from mmsearch.evaluation.comparison import mean_change
from mmsearch.evaluation.pairs import Pair
from mmsearch.evaluation.report import as_table
from mmsearch.media.captions import read_captions
from mmsearch.training import tune, undo_tuning
from mmsearch.training.heads import HeadRecipe
from mmsearch.training.report import points
from mmsearch.training.space_tuning import spaces_to_tune
from mmsearch.types import Query

Captions = dict[str, list[str]]

CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"rank": 16},
    {"rank": 256},
    {"batch": 128},
    {"batch": 1_024},
    {"rate": 5e-4},
    {"rate": 2e-3},
    {"dropout": 0.2},
    {"dropout": 0.6},
    {"decay": 0.0},
    {"decay": 1.0},
    {"negatives": 0},
    {"negatives": 8},
)
"""The changes to the recipe that `--choose` compares."""


def folder_of(names: list[str], data: Path, captions: Captions, folder: Path) -> Path:
    """A folder of links to photos, with their captions beside it."""
    folder.mkdir()
    for name in names:
        os.symlink(data / "images" / name, folder / name)
    lines = [f"{name}\t{text}" for name in names for text in captions[name]]
    folder.with_suffix(".tsv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def evaluated(library: mmsearch.Collection, folder: Path, captions: Captions) -> Evaluation:
    """Both directions among the photos of a folder and their captions."""
    pairs: dict[str, dict[str, float]] = {}
    for photo in sorted(folder.iterdir()):
        for text in captions[photo.name]:
            pairs.setdefault(text, {})[str(photo)] = 1.0
    queries = [Pair(Query.text(text), relevant) for text, relevant in pairs.items()]
    among = {"where": {"path": {"$glob": f"{folder}/*"}}, "lexical": False}
    forward = evaluate(library, queries, settings={**among, "target": "image"})
    backward = evaluate(library, queries, direction="backward", settings=among)
    return replace(forward, directions=(*forward.directions, *backward.directions))


def choose(library: mmsearch.Collection) -> None:
    """Print the gain with each set of hyperparameters, by cross-validation; nothing is stored."""
    for changed in CHOICES:
        (tuning,) = spaces_to_tune(library, None, replace(HeadRecipe(), **changed))
        comparison, trained = tuning.run()
        means = [mean_change(comparison, measure).value for measure in ("MRR", "Recall@1")]
        figures = "MRR {:+.2f}, Recall@1 {:+.2f} points".format(*(100 * one for one in means))
        print(
            f"{changed}: {figures}, epoch {trained.epoch}, strength {trained.strength}", flush=True
        )


def main() -> None:
    """Print the report, and both directions on the held-out photos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="captions.tsv, images/")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seed", type=int, default=0, help="of the split, default %(default)s")
    parser.add_argument("--choose", action="store_true", help="compare hyperparameters instead")
    given = parser.parse_args()
    data = given.data.absolute()
    captions = read_captions(data / "captions.tsv")
    names = np.random.default_rng(given.seed).permutation(sorted(captions)).tolist()
    held_out = len(names) // 3
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch).resolve()
        others = folder_of(names[held_out:], data, captions, top / "others")
        with mmsearch.index(
            others, into=top / "index", model=given.model, captions=others.with_suffix(".tsv")
        ) as library:
            if given.choose:
                choose(library)
                return
            for report in tune(library):
                print(report.table())
            unseen = folder_of(names[:held_out], data, captions, top / "unseen")
            library.add(unseen, captions=unseen.with_suffix(".tsv"))
            after = evaluated(library, unseen, captions)
            undo_tuning(library)
            before = evaluated(library, unseen, captions)
    print(f"{held_out} other photos, A: {given.model}, B: tuned on {len(names) - held_out}\n")
    comparison = compare(before, after)
    print(as_table(comparison))
    for measure in ("Recall@1", "MRR"):
        print(f"{measure}, mean of both: {points(mean_change(comparison, measure))}")


if __name__ == "__main__":
    main()
