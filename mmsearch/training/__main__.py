"""`python -m mmsearch.training`: build the built-in model, or measure one.

`build` trains everything, `listen` only the audio head of a model that is there, `banks` makes only
what is typical of it, `rerank` only what looks closer at its best hits. `tune` makes what looks
closer for a `clip:` model, from photos and captions of your own.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mmsearch.encoders.mini import FOLDER
from mmsearch.errors import MMSearchError
from mmsearch.training.recipe import Recipe


def main() -> None:
    """Parse, and do the one thing asked for."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training", description=__doc__)
    tasks = ["build", "listen", "banks", "rerank", "evaluate", "tune"]
    parser.add_argument("task", nargs="?", choices=tasks, default="build")
    parser.add_argument("--data", type=Path, help="captions.tsv, images/, splits")
    parser.add_argument("--sounds", type=Path, help="ESC-10: labels.tsv, audio/")
    parser.add_argument("--stamps", type=Path, help="tuxpaint: labels.tsv, audio/, images/")
    parser.add_argument("--out", type=Path, help="the model's folder")
    parser.add_argument("--cache", type=Path, default=Path(".cache/training"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--pictures", type=Path, help="evaluate: also on these captioned pictures")
    parser.add_argument("--model", help="tune: a clip: model")
    parser.add_argument("--photos", type=Path, help="tune: a folder of photos")
    parser.add_argument("--captions", type=Path, help="tune: a file that names them")
    asked = parser.parse_args()
    if asked.task == "tune" and not (asked.model and asked.photos and asked.captions):
        parser.error("tune needs --model, --photos and --captions")
    if asked.task != "tune" and asked.data is None:
        parser.error("--data is needed")
    if (asked.sounds is None) != (asked.stamps is None):
        parser.error("--sounds and --stamps go together")
    if asked.task == "listen" and asked.sounds is None:
        parser.error("listen needs --sounds and --stamps")
    _run(asked)


def _run(asked: argparse.Namespace) -> None:
    if asked.threads:
        import torch

        torch.set_num_threads(asked.threads)
    recipe = dataclasses.replace(Recipe(), seed=asked.seed)
    if asked.task == "tune":
        _tune(asked, recipe)
        return
    asked.out = asked.out or FOLDER
    if asked.task == "build":
        from mmsearch.training.build import build

        build(asked.data, asked.out, cache=asked.cache, recipe=recipe)
    if asked.task in ("build", "listen") and asked.sounds:
        from mmsearch.training.build import build_hearing

        build_hearing(asked.sounds, asked.stamps, asked.out, cache=asked.cache, recipe=recipe)
    if asked.task in ("build", "banks"):
        from mmsearch.training.build import make_bank

        make_bank(asked.data, asked.out, seed=asked.seed)
    if asked.task in ("build", "rerank"):
        from mmsearch.training.build import build_rerank

        build_rerank(asked.data, asked.out, cache=asked.cache, recipe=recipe)
    if asked.task in ("build", "evaluate"):
        from mmsearch.training.evaluate import evaluate

        evaluate(asked.out, asked.data, asked.pictures)
    if asked.task not in ("listen", "banks"):
        from mmsearch.training.evaluate import evaluate_rerank

        evaluate_rerank(asked.out, asked.data)
    if asked.sounds:
        from mmsearch.training.evaluate_audio import evaluate_hearing

        evaluate_hearing(
            asked.out, asked.data, asked.sounds, asked.stamps, cache=asked.cache, recipe=recipe
        )


def _tune(asked: argparse.Namespace, recipe: Recipe) -> None:
    from mmsearch.training.tune import tune

    try:
        tune(asked.model, asked.photos, asked.captions, asked.out, recipe=recipe)
    except MMSearchError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
