"""`python -m mmsearch.training`: build the built-in model, or measure one.

`build` trains everything, `listen` only the audio head of a model that is there.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mmsearch.encoders.mini import FOLDER
from mmsearch.training.recipe import Recipe


def main() -> None:
    """Parse, and do the one thing asked for."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training", description=__doc__)
    tasks = ["build", "listen", "evaluate"]
    parser.add_argument("task", nargs="?", choices=tasks, default="build")
    parser.add_argument("--data", type=Path, required=True, help="captions.tsv, images/, splits")
    parser.add_argument("--sounds", type=Path, help="ESC-10: labels.tsv, audio/")
    parser.add_argument("--stamps", type=Path, help="tuxpaint: labels.tsv, audio/, images/")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the model's folder")
    parser.add_argument("--cache", type=Path, default=Path(".cache/training"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--pictures", type=Path, help="evaluate: also on these captioned pictures")
    asked = parser.parse_args()
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
    if asked.task == "build":
        from mmsearch.training.build import build

        build(asked.data, asked.out, cache=asked.cache, recipe=recipe)
    if asked.task in ("build", "listen") and asked.sounds:
        from mmsearch.training.build import build_hearing

        build_hearing(asked.sounds, asked.stamps, asked.out, cache=asked.cache, recipe=recipe)
    if asked.task != "listen":
        from mmsearch.training.evaluate import evaluate

        evaluate(asked.out, asked.data, asked.pictures)
    if asked.sounds:
        from mmsearch.training.sound_figures import evaluate_hearing

        evaluate_hearing(
            asked.out, asked.data, asked.sounds, asked.stamps, cache=asked.cache, recipe=recipe
        )


if __name__ == "__main__":
    main()
