"""`python -m mmsearch.training`: build the built-in model, or measure one."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mmsearch.encoders.mini import FOLDER
from mmsearch.training.recipe import Recipe


def main() -> None:
    """Parse, and do the one thing asked for."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training", description=__doc__)
    parser.add_argument("task", nargs="?", choices=["build", "evaluate"], default="build")
    parser.add_argument("--data", type=Path, required=True, help="captions.tsv, images/, splits")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the model's folder")
    parser.add_argument("--cache", type=Path, default=Path(".cache/training"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--pictures", type=Path, help="evaluate: also on these captioned pictures")
    asked = parser.parse_args()
    if asked.threads:
        import torch

        torch.set_num_threads(asked.threads)
    if asked.task == "build":
        from mmsearch.training.build import build

        recipe = dataclasses.replace(Recipe(), seed=asked.seed)
        build(asked.data, asked.out, cache=asked.cache, recipe=recipe)
    from mmsearch.training.evaluate import evaluate

    evaluate(asked.out, asked.data, asked.pictures)


if __name__ == "__main__":
    main()
